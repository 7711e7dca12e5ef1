//! Reads the whole log into memory and checks it while it does: checksums, gaps, and that each row superseded what it says.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, Row, types::ValueRef};

use super::open::refused;
use crate::{Entry, Event, OpenError, Settings, ring::Ring, state::State};

/// What the file holds.
pub(super) struct Loaded {
    /// What goes into memory.
    pub(super) state: State,
    /// Up to where the file is compacted.
    pub(super) floor: u64,
}

/// A row of the log.
struct Record {
    revision: u64,
    key: Arc<str>,
    created: u64,
    previous: Option<u64>,
    value: Option<Bytes>,
}

/// Reads the log.
pub(super) fn load(connection: &Connection, settings: &Settings) -> Result<Loaded, OpenError> {
    let path = &settings.path;
    let sqlite = |error: rusqlite::Error| refused(path, &error);
    let floor: i64 = connection
        .query_row("SELECT value FROM meta WHERE name = 'floor'", [], |row| {
            row.get(0)
        })
        .map_err(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => corrupt(path, "its floor is missing"),
            error => refused(path, &error),
        })?;
    let floor = floor.cast_unsigned();
    let mut statement = connection
        .prepare("SELECT revision, key, created, previous, value, checksum FROM log ORDER BY revision")
        .map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    let mut live = BTreeMap::new();
    let mut next = rows.next().map_err(sqlite)?;
    // The compacted part: what is left there is live, or superseded later.
    while let Some(row) = next {
        let record = record(row, path)?;
        if record.revision > floor {
            break;
        }
        base(&mut live, record, path)?;
        next = rows.next().map_err(sqlite)?;
    }
    let mut state = State::new(
        live,
        Ring::new(floor, settings.history, settings.history_bytes),
    );
    // `next` on SQLite's cursor forgets the row it was on, so the first row after the floor is read anew.
    drop(rows);
    drop(statement);
    history(connection, &mut state, floor, path)?;
    Ok(Loaded { state, floor })
}

/// Takes in a row from before the floor.
fn base(
    live: &mut BTreeMap<Arc<str>, Entry>,
    record: Record,
    path: &Path,
) -> Result<(), OpenError> {
    let Some(value) = record.value else {
        let reason = format!("revision {} deletes, but is compacted", record.revision);
        return Err(corrupt(path, &reason));
    };
    let entry = Entry {
        key: Arc::clone(&record.key),
        value,
        revision: record.revision,
        created: record.created,
    };
    match live.insert(record.key, entry) {
        None => Ok(()),
        Some(twice) => {
            let reason = format!(
                "key `{}` is twice in the compacted part, at revisions {} and {}",
                twice.key, twice.revision, record.revision
            );
            Err(corrupt(path, &reason))
        }
    }
}

/// Takes in the rows after the floor, as events.
fn history(
    connection: &Connection,
    state: &mut State,
    floor: u64,
    path: &Path,
) -> Result<(), OpenError> {
    let sqlite = |error: rusqlite::Error| refused(path, &error);
    let mut statement = connection
        .prepare(
            "SELECT revision, key, created, previous, value, checksum FROM log \
             WHERE revision > ?1 ORDER BY revision",
        )
        .map_err(sqlite)?;
    let mut rows = statement.query([floor.cast_signed()]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let record = record(row, path)?;
        let expected = state.revision() + 1;
        if record.revision != expected {
            let reason = format!("revision {expected} is missing");
            return Err(corrupt(path, &reason));
        }
        let previous = state.get(&record.key).cloned();
        if previous.as_ref().map(|entry| entry.revision) != record.previous {
            let reason = format!(
                "revision {expected} of key `{}` supersedes {:?}, which is not what is there",
                record.key, record.previous
            );
            return Err(corrupt(path, &reason));
        }
        let key = previous
            .as_ref()
            .map_or(record.key, |entry| Arc::clone(&entry.key));
        state.apply(Event {
            revision: record.revision,
            key,
            value: record.value,
            previous,
        });
    }
    Ok(())
}

/// Reads and checks one row.
fn record(row: &Row<'_>, path: &Path) -> Result<Record, OpenError> {
    let read = || -> Result<(Record, i64), rusqlite::Error> {
        let value = match row.get_ref(4)? {
            ValueRef::Null => None,
            value => Some(Bytes::copy_from_slice(value.as_bytes()?)),
        };
        let record = Record {
            revision: row.get::<_, i64>(0)?.cast_unsigned(),
            key: row.get_ref(1)?.as_str()?.into(),
            created: row.get::<_, i64>(2)?.cast_unsigned(),
            previous: row.get::<_, Option<i64>>(3)?.map(i64::cast_unsigned),
            value,
        };
        Ok((record, row.get(5)?))
    };
    let (record, stored) = read().map_err(|error| corrupt(path, &error.to_string()))?;
    let computed = checksum(
        record.revision,
        &record.key,
        record.created,
        record.previous,
        record.value.as_deref(),
    );
    if computed != stored {
        let reason = format!(
            "the checksum of revision {} (key `{}`) is wrong",
            record.revision, record.key
        );
        return Err(corrupt(path, &reason));
    }
    Ok(record)
}

fn corrupt(path: &Path, reason: &str) -> OpenError {
    OpenError::Corrupt {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// FNV-1a over all that a row holds. It finds flipped bits, not forgery.
pub(super) fn checksum(
    revision: u64,
    key: &str,
    created: u64,
    previous: Option<u64>,
    value: Option<&[u8]>,
) -> i64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    add(&revision.to_le_bytes());
    add(&created.to_le_bytes());
    add(&previous.unwrap_or(0).to_le_bytes());
    add(&(key.len() as u64).to_le_bytes());
    add(key.as_bytes());
    add(&[u8::from(value.is_some())]);
    add(value.unwrap_or_default());
    hash.cast_signed()
}
