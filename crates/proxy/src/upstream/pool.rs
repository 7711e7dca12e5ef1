//! The connections that are kept for one endpoint. Each thread that serves clients has its own, as a connection is heard of by
//! the thread that made it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::question::Question;
use super::{Http1, Http2Sender};
use crate::workers;

#[derive(Default)]
struct Kept {
    /// The last one put away is the first one taken, so that what is not needed ages.
    #[expect(clippy::vec_box, reason = "a connection is large, and moves between here and its requests")]
    http1: Vec<Box<Http1>>,
    closed: bool,
}

/// The kept connections of all threads.
pub(crate) struct Pools(Box<[Arc<Pool>]>);

impl Pools {
    pub(crate) fn new(threads: usize) -> Self {
        Self((0..threads.max(1)).map(|_| Arc::default()).collect())
    }

    pub(crate) fn threads(&self) -> usize {
        self.0.len()
    }

    /// Those of this thread.
    pub(crate) fn here(&self) -> Arc<Pool> {
        Arc::clone(&self.0[workers::here() % self.0.len()])
    }

    pub(crate) fn close(&self) {
        self.0.iter().for_each(|pool| pool.close());
    }

    pub(crate) fn open(&self) {
        self.0.iter().for_each(|pool| pool.open());
    }

    pub(crate) fn sweep(&self, now: Instant) {
        self.0.iter().for_each(|pool| pool.sweep(now));
    }

    /// Whether anything is kept, or somebody is about to keep something.
    pub(crate) fn in_use(&self) -> bool {
        self.0.iter().any(|pool| Arc::strong_count(pool) > 1 || !pool.is_empty())
    }
}

/// Kept connections.
#[derive(Default)]
pub(crate) struct Pool {
    kept: Mutex<Kept>,
    /// Held while a connection is made, so that a burst of requests makes one.
    pub(crate) http2: tokio::sync::Mutex<Option<Http2Sender>>,
    /// When the endpoint last showed that it speaks no HTTP/2.
    http1_alone: Mutex<Option<Instant>>,
    /// Whether it speaks HTTP/1.1.
    pub(crate) http1: Question,
}

/// How long what an endpoint has shown of itself is believed, where either way would do.
pub(crate) const BELIEVED: Duration = Duration::from_secs(30);
/// How long it is where only HTTP/2 would: a program may be about to be replaced, and nobody is to be refused for long on account of the old one.
pub(crate) const BELIEVED_OF_CALLS: Duration = Duration::from_secs(1);

impl Pool {
    /// Takes a connection that has not been unused for longer than `freshness` and that is still open.
    pub(crate) fn take(&self, freshness: Duration, now: Instant) -> Option<Box<Http1>> {
        loop {
            let mut connection = self.kept.lock().http1.pop()?;
            let unused = now.saturating_duration_since(connection.since);
            if unused > freshness || unused > connection.keep {
                // All others are older still; the sweep closes them.
                return None;
            }
            if connection.ready() {
                return Some(connection);
            }
        }
    }

    /// The endpoint has shown that it speaks HTTP/1.1 alone.
    pub(crate) fn speaks_http1_alone(&self) {
        *self.http1_alone.lock() = Some(Instant::now());
    }

    /// Whether it has so lately.
    pub(crate) fn is_known_for_http1(&self, lately: Duration) -> bool {
        self.http1_alone.lock().is_some_and(|shown| shown.elapsed() < lately)
    }

    /// Keeps a connection, unless there are enough or the endpoint is gone.
    pub(crate) fn put(&self, mut connection: Box<Http1>, limit: usize, now: Instant) {
        connection.since = now;
        let mut kept = self.kept.lock();
        if !kept.closed && kept.http1.len() < limit {
            kept.http1.push(connection);
        }
    }

    /// Closes what is kept, and keeps nothing more.
    pub(crate) fn close(&self) {
        let connections = {
            let mut kept = self.kept.lock();
            kept.closed = true;
            std::mem::take(&mut kept.http1)
        };
        drop(connections);
        // Somebody who is connecting right now holds the lock; what they make is used by them and then replaced or dropped.
        if let Ok(mut shared) = self.http2.try_lock() {
            *shared = None;
        }
    }

    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        // Whoever holds the lock is about to keep something.
        let shared = self.http2.try_lock().is_ok_and(|shared| shared.as_ref().is_none_or(|sender| !sender.is_ready()));
        shared && self.kept.lock().http1.is_empty()
    }

    pub(crate) fn open(&self) {
        self.kept.lock().closed = false;
    }

    /// Closes what has been unused for too long, or was closed by the other side.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut expired = Vec::new();
        let mut kept = self.kept.lock();
        let mut i = 0;
        while i < kept.http1.len() {
            let connection = &mut kept.http1[i];
            if now.saturating_duration_since(connection.since) > connection.keep || !connection.ready() {
                expired.push(kept.http1.remove(i));
            } else {
                i += 1;
            }
        }
        drop(kept);
        drop(expired);
    }
}
