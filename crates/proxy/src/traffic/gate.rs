//! How many requests there are at once: a bulkhead with a bounded queue.
//!
//! Invariants: no more than the limit hold a place, no more than the queue wait for one, none longer than they may; who came
//! first is let through first; a place is free again as soon as its request has ended, however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::Concurrency;

/// A gate that many requests go through.
pub(crate) struct Gate {
    settings: Concurrency,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place, held while its request is under way.
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

/// Why a request was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// As many wait as may.
    Full,
    /// It has waited for as long as it may.
    Late,
}

/// One that waits, as long as this is there.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) fn new(settings: Concurrency) -> Self {
        let limit = settings.limit.clamp(1, Semaphore::MAX_PERMITS);
        Self { settings, places: Arc::new(Semaphore::new(limit)), waiting: AtomicUsize::new(0) }
    }

    pub(super) fn settings(&self) -> &Concurrency {
        &self.settings
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place if one is free.
    pub(super) fn try_enter(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(Arc::new)
    }

    /// Waits for a place, for `left` at most where that is less than the queue allows.
    pub(super) async fn enter(&self, left: Option<Duration>) -> Result<Place, Shut> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.settings.queue {
            return Err(Shut::Full);
        }
        let limit = left.map_or(self.settings.max_wait, |left| left.min(self.settings.max_wait));
        match tokio::time::timeout(limit, Arc::clone(&self.places).acquire_owned()).await {
            // The semaphore is never closed.
            Ok(permit) => permit.map(Arc::new).map_err(|_| Shut::Full),
            Err(_) => Err(Shut::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_and_queue_are_bounded() {
        let gate = Arc::new(Gate::new(Concurrency { limit: 2, queue: 1, max_wait: Duration::from_secs(60) }));
        let (first, second) = (gate.try_enter().expect("free"), gate.try_enter().expect("free"));
        assert!(gate.try_enter().is_none());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(None).await.map(drop) }
        });
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.enter(None).await.err(), Some(Shut::Full));
        assert_eq!(gate.waiting(), 1);
        drop(first);
        assert_eq!(waiting.await.expect("no panic"), Ok(()));
        assert_eq!(gate.waiting(), 0);
        let third = gate.try_enter().expect("the one that waited has gone");
        assert_eq!(gate.enter(Some(Duration::from_millis(1))).await.err(), Some(Shut::Late));
        assert_eq!(gate.waiting(), 0);
        drop((second, third));
    }
}
