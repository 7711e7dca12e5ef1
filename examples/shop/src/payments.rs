//! Charges, once a key. The provider's key comes from a Secret.

use crate::db::Store;
use crate::server::{Call, Reply, Service};
use crate::{Failure, required};
use hyper::{Method, StatusCode};
use serde_json::json;

/// More than this in one charge is declined, so that the refusal can be seen.
const DECLINED_ABOVE_CENTS: i64 = 1_000_000;

pub(crate) struct Payments {
    store: Store,
}

impl Payments {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        required("PROVIDER_KEY")?;
        Ok(Self { store: Store::open("payments")? })
    }
}

impl Service for Payments {
    async fn answer(&self, call: Call) -> Result<Reply, Failure> {
        if (&call.method, call.path.as_str()) != (&Method::POST, "/charges") {
            return Ok(Reply::not_found(&call));
        }
        let (Some(key), Some(user), Some(cents)) =
            (call.body["key"].as_str(), call.body["user"].as_str(), call.body["cents"].as_i64())
        else {
            return Ok(Reply::refuse(StatusCode::BAD_REQUEST, "key, user and cents are needed"));
        };
        if cents > DECLINED_ABOVE_CENTS {
            return Ok(Reply::refuse(StatusCode::PAYMENT_REQUIRED, "the card was declined"));
        }
        self.store.with(|c| {
            c.execute("INSERT INTO charges VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING", (key, user, cents))?;
            Ok(Reply::ok(&json!({ "charged": cents })))
        })
    }

    fn ready(&self) -> Result<(), String> {
        self.store.ready()
    }
}
