//! The storefront's backend: one address for the page, made of what the services behind it say.

use crate::Failure;
use crate::client::Peer;
use crate::server::{Call, Reply, Service};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

pub(crate) struct Bff {
    greeting: String,
    users: Peer,
    inventory: Peer,
    orders: Peer,
}

impl Bff {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        Ok(Self {
            greeting: crate::required("GREETING")?,
            users: Peer::from_env("USERS_URL")?,
            inventory: Peer::from_env("INVENTORY_URL")?,
            orders: Peer::from_env("ORDERS_URL")?,
        })
    }

    /// Everything the page shows, asked for at once.
    async fn home(&self, call: &Call) -> Result<Reply, Failure> {
        let (users, items, orders) = tokio::join!(
            self.users.call(call, Method::GET, "/users", &Value::Null),
            self.inventory.call(call, Method::GET, "/items", &Value::Null),
            self.orders.call(call, Method::GET, "/orders", &Value::Null),
        );
        Ok(Reply::ok(&json!({
            "greeting": self.greeting,
            "users": part(users, "users"),
            "items": part(items, "items"),
            "orders": part(orders, "orders"),
        })))
    }
}

/// A part of the page; null where its service does not answer, so that the rest of the page still shows.
fn part(answer: Result<(StatusCode, Value), Failure>, name: &str) -> Value {
    match answer {
        Ok((StatusCode::OK, mut body)) => body[name].take(),
        Ok((status, _)) => {
            crate::log::error("a part is missing", &[("part", name.into()), ("status", status.as_u16().into())]);
            Value::Null
        }
        Err(error) => {
            crate::log::error("a part is missing", &[("part", name.into()), ("error", error.to_string().into())]);
            Value::Null
        }
    }
}

impl Service for Bff {
    async fn answer(&self, call: Call) -> Result<Reply, Failure> {
        match (&call.method, call.path.as_str()) {
            (&Method::GET, "/api/home") => self.home(&call).await,
            (&Method::GET, "/api/orders") => {
                let path = format!("/orders?{}", call.query);
                let (status, body) = self.orders.call(&call, Method::GET, &path, &Value::Null).await?;
                Ok(Reply::json(status, &body))
            }
            (&Method::POST, "/api/orders") => {
                let (status, body) = self.orders.call(&call, Method::POST, "/orders", &call.body).await?;
                Ok(Reply::json(status, &body))
            }
            _ => Ok(Reply::not_found(&call)),
        }
    }
}
