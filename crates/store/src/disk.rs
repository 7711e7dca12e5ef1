//! The file: one SQLite database in WAL mode, synced on each commit, held by one connection.
//!
//! The format is one table, the log: a row for each revision, and no other copy of anything. A row holds its key, its value (NULL
//! for a deletion), the revision at which the key was created, the revision it superseded, and a checksum. The live
//! entries are the newest row of each key. An event that leaves the history takes the row it superseded along (and
//! itself, if it is a deletion): compaction is deletes by primary key, as small as one wants, and needs no index.
//!
//! Invariants: `floor` (in `meta`) is the revision up to which the log is compacted; rows after it are without gaps. The floor and
//! the deletes that belong to it are in one transaction. Must not know the queue or the watches.

mod load;
mod open;

pub(crate) use open::{directory, private};

use std::path::PathBuf;

use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};

use crate::{Event, Settings, state::State};

/// The write-ahead log is written back when nothing waits and it has this many pages,
const CHECKPOINT_IDLE: u64 = 512;
/// and in any case when it has this many (16 MiB).
const CHECKPOINT_BUSY: u64 = 4096;
const PAGE: u64 = 4096;
/// SQLite's own limit on the number of pages.
const MOST_PAGES: u64 = 4_294_967_294;
/// Rows that are in the way are folded into a busy writer's commits from this many trim steps on.
const TRIM_BUSY: u64 = 4;

/// Why the file could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DiskError {
    /// No space.
    Full,
    /// Anything else.
    Io(String),
}

impl From<rusqlite::Error> for DiskError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => DiskError::Full,
            _ => DiskError::Io(error.to_string()),
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Disk {
    connection: Connection,
    path: PathBuf,
    /// Up to where the file is compacted; trails the floor of the history in memory.
    floor: u64,
    /// An upper estimate of the pages in the write-ahead log since it was last written back.
    wal_pages: u64,
    /// From how many pages on an idle writer writes it back; more after a failure, so that not every write tries again.
    checkpoint_at: u64,
    trim_step: u64,
    /// Set after a failure, so that an idle writer does not try again and again; a successful commit clears it.
    resting: bool,
}

impl Disk {
    /// Opens or makes the file and reads all of it.
    pub(crate) fn open(settings: &Settings) -> Result<(Disk, State), crate::OpenError> {
        let connection = open::connect(settings)?;
        let loaded = load::load(&connection, settings)?;
        let mut disk = Disk {
            connection,
            path: settings.path.clone(),
            floor: loaded.floor,
            wal_pages: 0,
            checkpoint_at: CHECKPOINT_IDLE,
            trim_step: settings.trim_step as u64,
            resting: false,
        };
        disk.limit(settings.max_bytes).map_err(|error| open::refused(&settings.path, &error))?;
        Ok((disk, loaded.state))
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Bounds the size of the file from now on.
    pub(crate) fn limit(&mut self, max_bytes: Option<u64>) -> Result<(), rusqlite::Error> {
        let pages = max_bytes.map_or(MOST_PAGES, |bytes| (bytes / PAGE).clamp(1, MOST_PAGES));
        self.connection.pragma_update_and_check(None, "max_page_count", pages.cast_signed(), |_| Ok(()))?;
        self.resting = false;
        Ok(())
    }

    /// Commits events durably; on an error none of them. `history_floor` is where the history in memory begins.
    pub(crate) fn commit(&mut self, events: &[Event], history_floor: u64) -> Result<(), DiskError> {
        let behind = history_floor.saturating_sub(self.floor);
        let floor = if behind >= TRIM_BUSY * self.trim_step {
            self.floor + self.trim_step.max(events.len() as u64 * 2).min(behind)
        } else {
            self.floor
        };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut pages = 2;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO log (revision, key, created, previous, value, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for event in events {
                let previous = event.previous.as_ref().map(|entry| entry.revision);
                insert.execute(params![
                    event.revision.cast_signed(),
                    &*event.key,
                    event.created().cast_signed(),
                    previous.map(u64::cast_signed),
                    event.value.as_deref(),
                    load::checksum(event.revision, &event.key, event.created(), previous, event.value.as_deref()),
                ])?;
                let size = event.key.len() + event.value.as_ref().map_or(0, |value| value.len());
                pages += size as u64 / PAGE + 2;
            }
        }
        if floor > self.floor {
            pages += trim(&transaction, self.floor, floor)?;
        }
        transaction.commit()?;
        self.floor = floor;
        self.wal_pages += pages;
        self.resting = false;
        Ok(())
    }

    /// Whether there is something to tidy up while nothing waits.
    pub(crate) fn untidy(&self, history_floor: u64) -> bool {
        !self.resting
            && (history_floor.saturating_sub(self.floor) >= self.trim_step || self.wal_pages >= self.checkpoint_at)
    }

    /// Whether the write-ahead log has to be written back even while writes wait.
    pub(crate) fn overdue(&self) -> bool {
        self.wal_pages >= self.checkpoint_at.max(CHECKPOINT_BUSY)
    }

    /// Does one small piece of the tidying up. Failures are told in the log and tried again after the next commit.
    pub(crate) fn tidy(&mut self, history_floor: u64) {
        let behind = history_floor.saturating_sub(self.floor);
        if behind >= self.trim_step && !self.overdue() {
            if let Err(error) = self.trim(self.floor + self.trim_step) {
                tracing::warn!(store = %self.path.display(), ?error, "cannot compact the log; trying again after the next write");
                self.resting = true;
            }
            return;
        }
        self.checkpoint();
    }

    /// Compacts up to a revision, in a transaction of its own.
    fn trim(&mut self, floor: u64) -> Result<(), DiskError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let pages = trim(&transaction, self.floor, floor)?;
        transaction.commit()?;
        self.floor = floor;
        self.wal_pages += pages;
        Ok(())
    }

    /// Writes the write-ahead log back into the database.
    fn checkpoint(&mut self) {
        let result = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
        match result {
            Ok((pages, done)) if pages == done => {
                self.wal_pages = 0;
                self.checkpoint_at = CHECKPOINT_IDLE;
            }
            Ok((pages, done)) => self.postpone(&format!("{done} of {pages} pages were written")),
            Err(error) => self.postpone(&error.to_string()),
        }
    }

    fn postpone(&mut self, reason: &str) {
        tracing::warn!(store = %self.path.display(), reason, "cannot write the write-ahead log back into the database; it grows until that works");
        self.checkpoint_at = self.wal_pages + CHECKPOINT_IDLE;
        self.resting = true;
    }

    /// Writes everything back and closes the file.
    pub(crate) fn close(self) {
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(store = %self.path.display(), %error, "the store's file did not close cleanly; the next start recovers it");
        }
    }
}

/// Compacts the events of (from, to]. Gives an upper estimate of the pages it changed.
fn trim(connection: &Connection, from: u64, to: u64) -> Result<u64, rusqlite::Error> {
    let range = params![from.cast_signed(), to.cast_signed()];
    // The superseded rows go first: a deletion must still be there to say which row it superseded.
    let superseded = connection
        .prepare_cached(
            "DELETE FROM log WHERE revision IN \
             (SELECT previous FROM log WHERE revision > ?1 AND revision <= ?2 AND previous IS NOT NULL)",
        )?
        .execute(range)?;
    let deletions = connection
        .prepare_cached("DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND value IS NULL")?
        .execute(range)?;
    connection.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'floor'")?.execute([to.cast_signed()])?;
    Ok((superseded + deletions) as u64 * 2 + 2)
}
