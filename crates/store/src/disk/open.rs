//! Opens the database file: makes it, sets it up, and refuses what is not ours.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::{OpenError, Settings};

/// `Cora`, in the header of the file.
const APPLICATION: i64 = 0x436f_7261;
/// The format this version reads and writes.
const FORMAT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE log (
        revision INTEGER PRIMARY KEY,
        key      TEXT    NOT NULL,
        created  INTEGER NOT NULL,
        previous INTEGER,
        value    BLOB,
        checksum INTEGER NOT NULL
    );
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta (name, value) VALUES ('floor', 1);
";

/// Opens or makes the file.
pub(super) fn connect(settings: &Settings) -> Result<Connection, OpenError> {
    let path = &settings.path;
    make(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(|error| refused(path, &error))?;
    prepare(&connection).map_err(|error| refused(path, &error))?;
    if identify(&connection, path)? {
        create(&mut connection).map_err(|error| refused(path, &error))?;
    }
    durable(&connection).map_err(|error| refused(path, &error))?;
    Ok(connection)
}

/// Makes an empty file that only its owner may read (there will be secrets in it), unless there is one.
fn make(path: &Path) -> Result<(), OpenError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| OpenError::Unreachable { action, path, source }
    };
    if path.exists() {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    private(&mut options);
    options.open(path).map_err(failed("making", path))?;
    let directory = directory(path);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("syncing", directory))
}

/// The directory of a file; the current one for a bare name.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Files that are made so are for their owner alone.
pub(crate) fn private(options: &mut OpenOptions) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    #[cfg(not(unix))]
    let _ = options;
}

/// What has to be said before the file is first read.
fn prepare(connection: &Connection) -> Result<(), rusqlite::Error> {
    // Exclusive: no other connection can come between, and the index of the write-ahead log needs no shared memory file.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -4096)
}

/// Whether the file is new; refuses what is not ours.
fn identify(connection: &Connection, path: &Path) -> Result<bool, OpenError> {
    let pragma = |name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(|error| refused(path, &error))
    };
    let application = pragma("application_id")?;
    let format = pragma("user_version")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| refused(path, &error))?;
    if application == 0 && tables == 0 {
        return Ok(true);
    }
    if application != APPLICATION {
        return Err(OpenError::Foreign { path: path.to_owned(), found: application });
    }
    if format != FORMAT {
        return Err(OpenError::Format { path: path.to_owned(), found: format, supported: FORMAT });
    }
    Ok(false)
}

/// Makes the tables of a new file, all or none.
fn create(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    durable(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

/// A commit is synced before it returns. The write-ahead log is written back by us, in its time.
fn durable(connection: &Connection) -> Result<(), rusqlite::Error> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        tracing::warn!(mode, "the file system cannot keep a write-ahead log; commits are durable but slow");
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 32 << 20, |_| Ok(()))
}

/// Says why SQLite refused to open.
pub(super) fn refused(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Corrupt { path, reason: error.to_string() }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked { path, holder: None },
        Some(ErrorCode::DiskFull) => OpenError::Full { path },
        _ => OpenError::Io { path, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kill does not show whether commits are synced, for the system keeps what was written; so it is checked here.
    #[test]
    fn commits_are_synced_and_the_file_is_ours_alone() {
        let directory = tempfile::TempDir::new().unwrap();
        let settings = Settings::new(directory.path().join("store.db"));
        for opened in ["made", "opened again"] {
            let connection = connect(&settings).unwrap();
            let pragma = |name: &str| {
                connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
            };
            assert_eq!(pragma("synchronous"), 2.into(), "{opened}");
            assert_eq!(pragma("journal_mode"), "wal".to_owned().into(), "{opened}");
            assert_eq!(pragma("locking_mode"), "exclusive".to_owned().into(), "{opened}");
            assert_eq!(pragma("wal_autocheckpoint"), 0.into(), "{opened}");
        }
    }
}
