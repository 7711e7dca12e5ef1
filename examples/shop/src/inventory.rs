//! What there is to buy, and what of it is reserved.

use crate::Failure;
use crate::db::Store;
use crate::server::{Call, Reply, Service};
use hyper::{Method, StatusCode};
use rusqlite::OptionalExtension;
use serde_json::{Value, json};

pub(crate) struct Inventory {
    store: Store,
}

impl Inventory {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        Ok(Self { store: Store::open("inventory")? })
    }

    fn items(&self) -> Result<Reply, Failure> {
        let items = self.store.with(|c| {
            let mut query = c.prepare_cached("SELECT sku, title, cents, stock FROM items ORDER BY sku LIMIT 100")?;
            let rows = query.query_map([], |row| {
                Ok(json!({
                    "sku": row.get::<_, String>(0)?, "title": row.get::<_, String>(1)?,
                    "cents": row.get::<_, i64>(2)?, "stock": row.get::<_, i64>(3)?,
                }))
            })?;
            Ok(rows.collect::<rusqlite::Result<Vec<Value>>>()?)
        })?;
        Ok(Reply::ok(&json!({ "items": items })))
    }

    /// Takes stock aside under a key; the same key again changes nothing.
    fn reserve(&self, call: &Call) -> Result<Reply, Failure> {
        let (Some(key), Some(sku), Some(quantity)) =
            (call.body["key"].as_str(), call.body["sku"].as_str(), call.body["quantity"].as_i64().filter(|q| *q > 0))
        else {
            return Ok(Reply::refuse(StatusCode::BAD_REQUEST, "key, sku and a positive quantity are needed"));
        };
        self.store.with(|c| {
            let transaction = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let cents: Option<i64> =
                transaction.query_row("SELECT cents FROM items WHERE sku = ?1", [sku], |row| row.get(0)).optional()?;
            let Some(cents) = cents else {
                return Ok(Reply::refuse(StatusCode::NOT_FOUND, &format!("there is no item {sku:?}")));
            };
            let fresh = transaction
                .execute("INSERT INTO reservations VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING", (key, sku, quantity))?;
            if fresh == 1 {
                let taken = transaction
                    .execute("UPDATE items SET stock = stock - ?2 WHERE sku = ?1 AND stock >= ?2", (sku, quantity))?;
                if taken == 0 {
                    return Ok(Reply::refuse(StatusCode::CONFLICT, &format!("{sku} is sold out")));
                }
            }
            transaction.commit()?;
            Ok(Reply::ok(&json!({ "cents": cents * quantity })))
        })
    }

    /// Gives a reservation back; a key that is not there changes nothing.
    fn release(&self, key: &str) -> Result<Reply, Failure> {
        self.store.with(|c| {
            let transaction = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            transaction.execute(
                "UPDATE items SET stock = stock + r.quantity FROM reservations r WHERE r.key = ?1 AND items.sku = r.sku",
                [key],
            )?;
            transaction.execute("DELETE FROM reservations WHERE key = ?1", [key])?;
            transaction.commit()?;
            Ok(Reply::ok(&json!({ "released": key })))
        })
    }
}

impl Service for Inventory {
    async fn answer(&self, call: Call) -> Result<Reply, Failure> {
        match (&call.method, call.path.as_str()) {
            (&Method::GET, "/items") => self.items(),
            (&Method::POST, "/reservations") => self.reserve(&call),
            (&Method::DELETE, path) if path.starts_with("/reservations/") => {
                self.release(path.trim_start_matches("/reservations/"))
            }
            _ => Ok(Reply::not_found(&call)),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.store.ready()
    }
}
