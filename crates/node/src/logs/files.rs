//! The files of one container's logs: `N.log` for the Nth run, rotated into `N.log.SEQ` with rising numbers.
//!
//! A segment's number never changes: the file that is written has the number behind the highest rotated one, and keeps it when it
//! is rotated. So a reader's place stays valid whatever the writer does.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

/// A file of a log is rotated when it has grown to this.
pub(super) const FILE_LIMIT: u64 = 10 << 20;
/// So many files of one run are kept, the one that is written included.
pub(super) const FILES_KEPT: u64 = 5;

/// What is there of a container's logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    /// Runs that have a log.
    pub instances: BTreeSet<u32>,
    /// Rotated segments, by run.
    pub rotated: BTreeSet<(u32, u64)>,
}

impl Present {
    pub(super) fn look(directory: &Path) -> Present {
        let mut present = Present::default();
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((instance, rest)) = name.to_str().and_then(|n| n.split_once(".log")) else { continue };
            let Ok(instance) = instance.parse() else { continue };
            if rest.is_empty() {
                present.instances.insert(instance);
            } else if let Some(Ok(segment)) = rest.strip_prefix('.').map(str::parse) {
                present.instances.insert(instance);
                present.rotated.insert((instance, segment));
            }
        }
        present
    }

    /// All segments of a run, the one that is written last.
    pub(super) fn segments(&self, instance: u32) -> Vec<u64> {
        let mut segments: Vec<u64> = self.rotated.iter().filter(|(i, _)| *i == instance).map(|(_, s)| *s).collect();
        segments.push(segments.last().map_or(0, |last| last + 1));
        segments
    }
}

pub(super) fn current(directory: &Path, instance: u32) -> PathBuf {
    directory.join(format!("{instance}.log"))
}

pub(super) fn rotated(directory: &Path, instance: u32, segment: u64) -> PathBuf {
    directory.join(format!("{instance}.log.{segment}"))
}

/// Writes one run's log.
pub(super) struct Writer {
    directory: PathBuf,
    instance: u32,
    segment: u64,
    file: File,
    length: u64,
    limit: u64,
}

impl Writer {
    /// Begins the log of a run; logs of runs before the previous one go.
    pub(super) async fn open(directory: &Path, instance: u32, limit: u64) -> io::Result<Writer> {
        std::fs::create_dir_all(directory)?;
        let present = Present::look(directory);
        for old in present.instances.iter().filter(|i| **i + 1 < instance) {
            for (_, segment) in present.rotated.iter().filter(|(i, _)| i == old) {
                let _ = std::fs::remove_file(rotated(directory, *old, *segment));
            }
            let _ = std::fs::remove_file(current(directory, *old));
        }
        let segment = present.segments(instance).last().copied().unwrap_or_default();
        let file = OpenOptions::new().create(true).append(true).open(current(directory, instance)).await?;
        let length = file.metadata().await?.len();
        Ok(Writer { directory: directory.to_owned(), instance, segment, file, length, limit })
    }

    /// Appends whole records, into a new file when this one is full.
    pub(super) async fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.length >= self.limit {
            self.rotate().await?;
        }
        self.file.write_all(records).await?;
        self.file.flush().await?;
        self.length += records.len() as u64;
        Ok(())
    }

    async fn rotate(&mut self) -> io::Result<()> {
        let from = current(&self.directory, self.instance);
        std::fs::rename(&from, rotated(&self.directory, self.instance, self.segment))?;
        self.file = OpenOptions::new().create(true).append(true).open(&from).await?;
        self.length = 0;
        self.segment += 1;
        if let Some(old) = self.segment.checked_sub(FILES_KEPT) {
            let _ = std::fs::remove_file(rotated(&self.directory, self.instance, old));
        }
        Ok(())
    }
}
