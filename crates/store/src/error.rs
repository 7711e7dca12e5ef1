//! What can go wrong, one enum per operation family. Each message says what was attempted, on which key or file, why it
//! failed, and the way out.

use std::{io, path::PathBuf};

use crate::Entry;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting makes no sense.
    #[error("cannot open the store at {}: setting `{setting}` {reason}", path.display())]
    Settings {
        /// The database file.
        path: PathBuf,
        /// The name of the setting.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory, the lock file or the database file cannot be made or reached.
    #[error("cannot open the store: {action} {} failed: {source}; check that the directory exists, is writable by this user and has free space", path.display())]
    Unreachable {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process, or another store in this process, has it open.
    #[error("cannot open the store at {}: it is in use{}; stop that one, or choose another data directory", path.display(), holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Locked {
        /// The database file.
        path: PathBuf,
        /// The process that holds it, as far as it is known.
        holder: Option<u32>,
    },
    /// The file is damaged, or is no database at all.
    #[error("cannot open the store at {}: the file is damaged: {reason}; nothing was changed. Restore a backup of it, or copy it together with its -wal file and run `sqlite3 <copy> .recover`, or move both files away to start empty", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file is a SQLite database that something else made.
    #[error("cannot open the store at {}: the file is a SQLite database of another program (application id {found:#010x}); nothing was changed. Choose another data directory or move the file away", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// The application id in the file.
        found: i64,
    },
    /// The file was written by a version whose format this one does not know.
    #[error("cannot open the store at {}: its format is {found}, this version reads {supported}; nothing was changed. Use the version that wrote it, or a newer one", path.display())]
    Format {
        /// The database file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The format this version reads and writes.
        supported: i64,
    },
    /// There is no space to open it (the first transaction could not be written).
    #[error("cannot open the store at {}: no space left on its file system or under the store's own size limit; free space and start again", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// SQLite or the file system refused.
    #[error("cannot open the store at {}: {reason}; check the file's permissions and the health of its disk", path.display())]
    Io {
        /// The database file.
        path: PathBuf,
        /// What the file system or SQLite said.
        reason: String,
    },
}

/// Why a write did not happen.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The precondition did not hold; nothing was written.
    #[error("cannot write `{key}`: {}; read it again and repeat the change on what it holds now", match current { Some(entry) => format!("it is at revision {}", entry.revision), None => "it does not exist".to_owned() })]
    Conflict {
        /// The key.
        key: String,
        /// What the key holds; `None` when it does not exist.
        current: Option<Entry>,
    },
    /// The write is larger than a write may be.
    #[error(
        "cannot write `{key}`: {size} bytes are more than the {limit} that one write may have; make the object smaller"
    )]
    TooLarge {
        /// The key.
        key: String,
        /// The size of the write.
        size: usize,
        /// The largest size.
        limit: usize,
    },
    /// There is no space; nothing was written. Reads go on, and writes work again as soon as there is space.
    #[error("cannot write `{key}`: no space left for the store at {}, on its file system or under its own size limit; nothing was changed and reads go on. Free space there (or raise the limit) and repeat the write", path.display())]
    Full {
        /// The key.
        key: String,
        /// The database file.
        path: PathBuf,
    },
    /// The disk or the file system refused; nothing was published. Should the machine stop before the next successful write, a
    /// write that failed in the very last sync may be found done after the restart.
    #[error("cannot write `{key}` to the store at {}: {reason}; reads go on. Check the disk, then repeat the write", path.display())]
    Io {
        /// The key.
        key: String,
        /// The database file.
        path: PathBuf,
        /// What the file system or SQLite said.
        reason: String,
    },
    /// The store is closed, or its writer has ended; whether the write happened is known only if it never got into the queue.
    #[error("cannot write `{key}`: the store is closed; repeat the write after the restart")]
    Closed {
        /// The key.
        key: String,
    },
}

/// The revision asked for is older than the history that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the revision asked for is older than the kept history, which begins at revision {oldest}; list again and go on from there"
)]
pub struct Compacted {
    /// The oldest revision at which can be listed, and after which can be watched.
    pub oldest: u64,
}

/// Why a listing at a revision is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The revision is older than the kept history.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The revision is not there yet.
    #[error("the revision asked for is in the future; the store is at revision {current}; ask again later")]
    Future {
        /// The last committed revision.
        current: u64,
    },
}

/// Why the store did not end well. What was acknowledged is safe in any case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The writer thread panicked; writes were refused from then on.
    #[error("the writer of the store at {} has panicked: {reason}; what it acknowledged is on the disk. Restart, and report this", path.display())]
    Panicked {
        /// The database file.
        path: PathBuf,
        /// What the panic said.
        reason: String,
    },
}
