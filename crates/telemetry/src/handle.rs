//! The way in for the rest of the program: give records, find recent ones, read how many were lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, mpsc, watch};

use crate::config::{QUEUE, SETTLE};
use crate::recent::Recent;
use crate::record::Record;

/// How many records went where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken in.
    pub records: u64,
    /// Dropped because too many waited.
    pub dropped: u64,
    /// Lines of the access log that could not be written.
    pub lines_lost: u64,
    /// Spans that a collector has taken.
    pub exported: u64,
    /// Spans that no collector took in time.
    pub export_dropped: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) lines_lost: AtomicU64,
    pub(crate) exported: Arc<AtomicU64>,
    pub(crate) export_dropped: Arc<AtomicU64>,
}

/// Talks to a running [`crate::Telemetry`]. Cheap to clone.
pub struct Handle<T> {
    pub(crate) queue: mpsc::Sender<T>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) counters: Arc<Counters>,
    /// Says that what waits is to be looked at now.
    pub(crate) now: Arc<Notify>,
    /// How many have been passed on.
    pub(crate) passed: watch::Receiver<u64>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        let Self { queue, recent, counters, now, passed } = self;
        let (recent, counters, now) = (Arc::clone(recent), Arc::clone(counters), Arc::clone(now));
        Self { queue: queue.clone(), recent, counters, now, passed: passed.clone() }
    }
}

impl<T> Handle<T> {
    /// Gives a record. It never waits: where too many do already, this one is dropped and counted. Nor does it wake anybody most of the
    /// time: those that come within a tenth of a second are looked at together.
    pub fn give(&self, record: T) {
        let counter = if self.queue.try_send(record).is_ok() { &self.counters.records } else { &self.counters.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        if self.queue.capacity() < QUEUE / 2 {
            self.now.notify_one();
        }
    }

    /// Waits until what has been given so far can be found, with a limit.
    pub async fn settle(&self) {
        let given = self.counters.records.load(Ordering::Relaxed);
        let mut passed = self.passed.clone();
        self.now.notify_one();
        // Late, or ended: then what there is has to do.
        let _ = tokio::time::timeout(SETTLE, passed.wait_for(|passed| *passed >= given)).await;
    }

    /// The recent records of the trace or request with this id, oldest first.
    #[must_use]
    pub fn find(&self, id: &str) -> Vec<Record> {
        self.recent.find(id)
    }

    /// So many of the last records at most, newest first.
    #[must_use]
    pub fn last(&self, most: usize) -> Vec<Record> {
        self.recent.last(most)
    }

    /// How many records went where.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            records: read(&self.counters.records),
            dropped: read(&self.counters.dropped),
            lines_lost: read(&self.counters.lines_lost),
            exported: read(&self.counters.exported),
            export_dropped: read(&self.counters.export_dropped),
        }
    }
}
