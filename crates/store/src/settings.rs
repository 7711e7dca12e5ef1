//! How a store is opened: where it is and its bounds. Checked once, when it is opened.

use std::path::PathBuf;

use crate::OpenError;

const MIB: usize = 1 << 20;

/// Where the store is, and its bounds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database file. Its directory is made if need be. Beside it lie a `-wal` file (while open, or after a crash) and a `.lock` file.
    pub path: PathBuf,
    /// How many events are kept for watches and older listings.
    pub history: usize,
    /// How many bytes of superseded values the kept events may hold in memory; events beyond it are dropped, oldest first.
    pub history_bytes: usize,
    /// How many dropped events may be left in the file before they are taken out of it (in steps of this size).
    pub trim_step: usize,
    /// How many bytes of writes may wait for the writer; more wait for room.
    pub queue_bytes: usize,
    /// The largest write, key and value together.
    pub write_bytes: usize,
    /// The most writes in one commit.
    pub batch: usize,
    /// The largest size of the database file; `None` leaves it to the file system. It must hold the live entries and the history.
    pub max_bytes: Option<u64>,
}

impl Settings {
    /// The defaults, for a store in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Settings {
            path: path.into(),
            history: 8192,
            history_bytes: 16 * MIB,
            trim_step: 256,
            queue_bytes: 64 * MIB,
            write_bytes: 8 * MIB,
            batch: 256,
            max_bytes: None,
        }
    }

    /// Refuses settings with which the store could not work.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |setting, reason: String| Err(OpenError::Settings { path: self.path.clone(), setting, reason });
        for (setting, value) in [
            ("history", self.history),
            ("history_bytes", self.history_bytes),
            ("trim_step", self.trim_step),
            ("batch", self.batch),
            ("write_bytes", self.write_bytes),
        ] {
            if value == 0 {
                return refuse(setting, "must be greater than 0".to_owned());
            }
        }
        if self.queue_bytes < self.write_bytes {
            return refuse("queue_bytes", format!("must be at least `write_bytes` ({})", self.write_bytes));
        }
        if self.path.file_name().is_none() {
            return refuse("path", "must name a file".to_owned());
        }
        Ok(())
    }
}
