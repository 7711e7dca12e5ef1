//! Who the customers are.

use crate::Failure;
use crate::db::Store;
use crate::server::{Call, Reply, Service};
use hyper::{Method, StatusCode};
use rusqlite::OptionalExtension;
use serde_json::{Value, json};

pub(crate) struct Users {
    store: Store,
}

impl Users {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        Ok(Self { store: Store::open("users")? })
    }
}

impl Service for Users {
    async fn answer(&self, call: Call) -> Result<Reply, Failure> {
        match (&call.method, call.path.strip_prefix("/users")) {
            (&Method::GET, Some("")) => {
                let users = self.store.with(|c| {
                    let mut query = c.prepare_cached("SELECT id, name FROM users ORDER BY id LIMIT 100")?;
                    let rows = query.query_map([], |row| {
                        Ok(json!({ "id": row.get::<_, String>(0)?, "name": row.get::<_, String>(1)? }))
                    })?;
                    Ok(rows.collect::<rusqlite::Result<Vec<Value>>>()?)
                })?;
                Ok(Reply::ok(&json!({ "users": users })))
            }
            (&Method::GET, Some(path)) => {
                let id = path.trim_start_matches('/').to_owned();
                let name: Option<String> = self.store.with(|c| {
                    Ok(c.query_row("SELECT name FROM users WHERE id = ?1", [&id], |row| row.get(0)).optional()?)
                })?;
                Ok(match name {
                    Some(name) => Reply::ok(&json!({ "id": id, "name": name })),
                    None => Reply::refuse(StatusCode::NOT_FOUND, &format!("no user is called {id:?}")),
                })
            }
            _ => Ok(Reply::not_found(&call)),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.store.ready()
    }
}
