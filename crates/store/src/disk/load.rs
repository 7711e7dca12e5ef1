//! Reads the whole log into memory and checks it while it does: checksums, gaps, and that each row superseded what it says.

use std::{path::Path, sync::Arc};

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
        .query_row("SELECT value FROM meta WHERE name = 'floor'", [], |row| row.get(0))
        .map_err(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => corrupt(path, "its floor is missing"),
            error => refused(path, &error),
        })?;
    let floor = floor.cast_unsigned();
    let mut statement = connection
        .prepare("SELECT revision, key, created, previous, value, checksum FROM log ORDER BY revision")
        .map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    let ring = Ring::new(floor, settings.history, settings.history_bytes);
    let mut state = State::new(ring);
    while let Some(row) = rows.next().map_err(sqlite)? {
        let record = record(row, path)?;
        if record.revision <= floor {
            base(&mut state, record, path)?;
        } else {
            event(&mut state, record, path)?;
        }
    }
    Ok(Loaded { state, floor })
}

/// Takes in a row of the compacted part: what is left there is live, or superseded after it.
fn base(state: &mut State, record: Record, path: &Path) -> Result<(), OpenError> {
    let Some(value) = record.value else {
        let reason = format!("revision {} deletes, but is compacted", record.revision);
        return Err(corrupt(path, &reason));
    };
    let twice = state.seed(Entry { key: record.key, value, revision: record.revision, created: record.created });
    match twice {
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

/// Takes in a row after the floor, as an event.
fn event(state: &mut State, record: Record, path: &Path) -> Result<(), OpenError> {
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
    let key = previous.as_ref().map_or(record.key, |entry| Arc::clone(&entry.key));
    state.apply(Event { revision: record.revision, key, value: record.value, previous });
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
    let computed = checksum(record.revision, &record.key, record.created, record.previous, record.value.as_deref());
    if computed != stored {
        let reason = format!("the checksum of revision {} (key `{}`) is wrong", record.revision, record.key);
        return Err(corrupt(path, &reason));
    }
    Ok(record)
}

fn corrupt(path: &Path, reason: &str) -> OpenError {
    OpenError::Corrupt { path: path.to_owned(), reason: reason.to_owned() }
}

/// FNV-1a over all that a row holds. It finds flipped bits, not forgery.
pub(super) fn checksum(revision: u64, key: &str, created: u64, previous: Option<u64>, value: Option<&[u8]>) -> i64 {
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
