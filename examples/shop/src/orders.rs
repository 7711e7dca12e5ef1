//! Orders: check the user, reserve the goods, charge, and remember; undo the reservation where the charge fails.
//!
//! An `idempotency-key` header makes a repeated request the same order: it is the key of the reservation and the charge.

use crate::client::Peer;
use crate::db::Store;
use crate::server::{Call, Reply, Service};
use crate::{Failure, log};
use hyper::{Method, StatusCode};
use rusqlite::OptionalExtension;
use serde_json::{Value, json};

pub(crate) struct Orders {
    store: Store,
    users: Peer,
    inventory: Peer,
    payments: Peer,
}

impl Orders {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        Ok(Self {
            store: Store::open("orders")?,
            users: Peer::from_env("USERS_URL")?,
            inventory: Peer::from_env("INVENTORY_URL")?,
            payments: Peer::from_env("PAYMENTS_URL")?,
        })
    }

    fn list(&self, user: Option<&str>) -> Result<Reply, Failure> {
        let orders = self.store.with(|c| {
            let mut query = c.prepare_cached(
                "SELECT id, user, sku, quantity, status FROM orders WHERE ?1 IS NULL OR user = ?1 ORDER BY id DESC LIMIT 50",
            )?;
            let rows = query.query_map([user], |row| {
                Ok(json!({
                    "id": row.get::<_, i64>(0)?, "user": row.get::<_, String>(1)?, "sku": row.get::<_, String>(2)?,
                    "quantity": row.get::<_, i64>(3)?, "status": row.get::<_, String>(4)?,
                }))
            })?;
            Ok(rows.collect::<rusqlite::Result<Vec<Value>>>()?)
        })?;
        Ok(Reply::ok(&json!({ "orders": orders })))
    }

    async fn place(&self, call: &Call) -> Result<Reply, Failure> {
        let (Some(user), Some(sku), Some(quantity)) =
            (call.body["user"].as_str(), call.body["sku"].as_str(), call.body["quantity"].as_i64())
        else {
            return Ok(Reply::refuse(StatusCode::BAD_REQUEST, "user, sku and quantity are needed"));
        };
        let key = call.idempotency_key.clone().unwrap_or_else(|| call.request_id.clone());
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Ok(Reply::refuse(
                StatusCode::BAD_REQUEST,
                "an idempotency-key of letters, digits, - _ . is needed",
            ));
        }
        if let Some(id) = self.find(&key)? {
            return Ok(Reply::ok(&json!({ "id": id, "status": "confirmed", "repeated": true })));
        }
        let (status, answer) = self.users.call(call, Method::GET, &format!("/users/{user}"), &Value::Null).await?;
        if status != StatusCode::OK {
            return Ok(Reply::json(status, &answer));
        }
        let wish = json!({ "key": key, "sku": sku, "quantity": quantity });
        let (status, reserved) = self.inventory.call(call, Method::POST, "/reservations", &wish).await?;
        if status != StatusCode::OK {
            return Ok(Reply::json(status, &reserved));
        }
        let charge = json!({ "key": key, "user": user, "cents": reserved["cents"] });
        match self.payments.call(call, Method::POST, "/charges", &charge).await {
            Ok((StatusCode::OK, _)) => {}
            outcome => return self.undo(call, &key, outcome).await,
        }
        let id = self.store.with(|c| {
            c.execute(
                "INSERT INTO orders (key, user, sku, quantity, status) VALUES (?1, ?2, ?3, ?4, 'confirmed')
                 ON CONFLICT DO NOTHING",
                (&key, user, sku, quantity),
            )?;
            Ok(c.query_row("SELECT id FROM orders WHERE key = ?1", [&key], |row| row.get::<_, i64>(0))?)
        })?;
        log::info("order confirmed", &[("order", id.into()), ("request_id", call.request_id.as_str().into())]);
        Ok(Reply::json(StatusCode::CREATED, &json!({ "id": id, "status": "confirmed" })))
    }

    fn find(&self, key: &str) -> Result<Option<i64>, Failure> {
        self.store
            .with(|c| Ok(c.query_row("SELECT id FROM orders WHERE key = ?1", [key], |row| row.get(0)).optional()?))
    }

    /// The charge failed: gives the goods back, then says what the payment service said.
    async fn undo(
        &self,
        call: &Call,
        key: &str,
        outcome: Result<(StatusCode, Value), Failure>,
    ) -> Result<Reply, Failure> {
        let path = format!("/reservations/{key}");
        self.inventory.call(call, Method::DELETE, &path, &Value::Null).await?;
        match outcome {
            Ok((status, answer)) => Ok(Reply::json(status, &answer)),
            Err(error) => Err(error),
        }
    }
}

impl Service for Orders {
    async fn answer(&self, call: Call) -> Result<Reply, Failure> {
        match (&call.method, call.path.as_str()) {
            (&Method::GET, "/orders") => self.list(call.parameter("user")),
            (&Method::POST, "/orders") => self.place(&call).await,
            _ => Ok(Reply::not_found(&call)),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.store.ready()
    }
}
