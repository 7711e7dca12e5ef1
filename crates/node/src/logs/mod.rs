//! Containers' logs: captured line by line into bounded files, read back in parts, followed by notification.
//!
//! Invariants: a program never waits for a slow reader of its log; what is on disk and in memory is bounded; a follower sees
//! every line once and in order, across rotation and restarts, unless it falls behind by all files that are kept.
//!
//! It must not know Pods' specs: which container is meant has been settled by the one who calls.

mod capture;
mod files;
mod read;
mod record;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use crate::handle::LogLine;

pub(crate) use capture::{Capture, Source};

/// How many lines may wait for a slow reader of all logs.
const LINES_KEPT: usize = 4096;

/// How far a container's log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Which run of the container is written, counted by restarts.
    instance: u32,
    /// Bytes written in this run, rotation notwithstanding.
    written: u64,
    /// The container has ended for good.
    over: bool,
}

/// A container whose log is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub pod: String,
    pub container: String,
    /// Where its logs are.
    pub directory: PathBuf,
    /// Why it does not run, when it waits.
    pub waiting: Option<String>,
}

/// The logs of all containers of this node.
pub(crate) struct Logs {
    lines: broadcast::Sender<LogLine>,
    open: Mutex<HashMap<PathBuf, Arc<watch::Sender<Progress>>>>,
}

impl Logs {
    pub(crate) fn new() -> Self {
        Logs { lines: broadcast::Sender::new(LINES_KEPT), open: Mutex::default() }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<LogLine> {
        self.lines.subscribe()
    }

    /// The progress of one container, made when it is not there.
    fn progress(&self, directory: &Path) -> Arc<watch::Sender<Progress>> {
        let mut open = self.open.lock();
        let made = || Arc::new(watch::Sender::new(Progress::default()));
        Arc::clone(open.entry(directory.to_owned()).or_insert_with(made))
    }

    fn known(&self, directory: &Path) -> Option<watch::Receiver<Progress>> {
        self.open.lock().get(directory).map(|progress| progress.subscribe())
    }

    /// The container has ended for good: those who follow end at its last line.
    pub(crate) fn close(&self, directory: &Path) {
        if let Some(progress) = self.open.lock().get(directory) {
            progress.send_if_modified(|p| !std::mem::replace(&mut p.over, true));
        }
    }

    /// The Pod is gone, and with it all logs below its directory.
    pub(crate) fn forget(&self, pod_directory: &Path) {
        self.open.lock().retain(|directory, progress| {
            let gone = directory.starts_with(pod_directory);
            if gone {
                progress.send_modify(|p| p.over = true);
            }
            !gone
        });
    }
}

#[cfg(test)]
mod tests;
