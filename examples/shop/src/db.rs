//! The stores: one SQLite file a service, in the directory `DATA_DIR` on a volume.
//!
//! Tables are made by the migration Job alone; a service is not ready before its tables have the version it needs. A
//! write is on the disk before it is answered, and several replicas may share a file.

use crate::{Failure, log, required};
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// Statements that bring a store from version N to N + 1, in order.
struct Migrations {
    store: &'static str,
    steps: &'static [&'static str],
}

const STORES: &[Migrations] = &[
    Migrations {
        store: "users",
        steps: &["CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT NOT NULL);
             INSERT INTO users VALUES ('ada', 'Ada'), ('grace', 'Grace'), ('linus', 'Linus');"],
    },
    Migrations {
        store: "orders",
        steps: &["CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, user TEXT NOT NULL,
             sku TEXT NOT NULL, quantity INTEGER NOT NULL, status TEXT NOT NULL);
             CREATE INDEX orders_by_user ON orders (user);"],
    },
    Migrations {
        store: "inventory",
        steps: &[
            "CREATE TABLE items (sku TEXT PRIMARY KEY, title TEXT NOT NULL, cents INTEGER NOT NULL, stock INTEGER NOT NULL);
             INSERT INTO items VALUES ('paddle', 'Ash paddle', 4900, 100000), ('hide', 'Tarred hide', 12900, 100000),
                 ('lath', 'Willow lath', 350, 1000000);",
            "CREATE TABLE reservations (key TEXT PRIMARY KEY, sku TEXT NOT NULL, quantity INTEGER NOT NULL);",
        ],
    },
    Migrations {
        store: "payments",
        steps: &["CREATE TABLE charges (key TEXT PRIMARY KEY, user TEXT NOT NULL, cents INTEGER NOT NULL);"],
    },
];

/// A service's store.
pub(crate) struct Store {
    connection: Mutex<Connection>,
    wanted: usize,
}

impl Store {
    /// Opens the store called `name`; it need not be migrated yet.
    pub(crate) fn open(name: &str) -> Result<Self, Failure> {
        let wanted = STORES.iter().find(|m| m.store == name).map_or(0, |m| m.steps.len());
        Ok(Self { connection: Mutex::new(connect(name)?), wanted })
    }

    /// Runs `work` with the connection. SQLite answers in microseconds here, so it may run on the async thread.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut connection = self.connection.lock().map_err(|_| "an earlier request panicked in the store")?;
        work(&mut connection)
    }

    /// Whether the tables are what this version of the service needs.
    pub(crate) fn ready(&self) -> Result<(), String> {
        let version = self.with(|c| Ok(version(c)?)).map_err(|error| error.to_string())?;
        if version < self.wanted {
            return Err(format!(
                "the store is at version {version}, {} is needed: has the migration run?",
                self.wanted
            ));
        }
        Ok(())
    }
}

/// Brings every store to the newest version; safe to run again and beside another run.
pub(crate) fn migrate_all() -> Result<(), Failure> {
    for migrations in STORES {
        let mut connection = connect(migrations.store)?;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let from = version(&transaction)?;
        for step in migrations.steps.iter().skip(from) {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", migrations.steps.len().max(from) as i64)?;
        transaction.commit()?;
        log::info(
            "migrated",
            &[("store", migrations.store.into()), ("from", from.into()), ("to", migrations.steps.len().into())],
        );
    }
    Ok(())
}

fn connect(name: &str) -> Result<Connection, Failure> {
    let directory = PathBuf::from(required("DATA_DIR")?);
    let path = directory.join(format!("{name}.db"));
    let connection =
        Connection::open(&path).map_err(|error| format!("cannot open the store {}: {error}", path.display()))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).map(|v| v.max(0) as usize)
}
