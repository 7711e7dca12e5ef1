//! Events go an hour after their last change, and the oldest earlier when there are too many.
//!
//! Invariants: the task holds one small entry an Event; it sleeps until the next one is due and never scans. An Event
//! that changed meanwhile is not deleted: the deletion names the revision it is meant for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use store::{Op, Precondition, Store, WatchItem};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catalog;

/// Which Events there are and when they are due. Pure.
#[derive(Default)]
struct Ledger {
    by_key: HashMap<Arc<str>, (Instant, u64)>,
    by_time: BTreeSet<(Instant, Arc<str>)>,
}

impl Ledger {
    fn put(&mut self, key: Arc<str>, due: Instant, revision: u64) {
        self.remove(&key);
        self.by_key.insert(key.clone(), (due, revision));
        self.by_time.insert((due, key));
    }

    fn remove(&mut self, key: &Arc<str>) {
        if let Some((due, _)) = self.by_key.remove(key) {
            self.by_time.remove(&(due, key.clone()));
        }
    }

    /// When the next one is to go; at once when there are more than `limit`.
    fn next(&self, now: Instant, limit: usize) -> Option<Instant> {
        let (due, _) = self.by_time.first()?;
        Some(if self.by_key.len() > limit { now } else { *due })
    }

    /// Takes out the one that is to go now.
    fn take(&mut self, now: Instant, limit: usize) -> Option<(Arc<str>, u64)> {
        let (due, key) = self.by_time.first()?;
        if *due > now && self.by_key.len() <= limit {
            return None;
        }
        let key = key.clone();
        let (_, revision) = *self.by_key.get(&key)?;
        self.remove(&key);
        Some((key, revision))
    }
}

/// Runs until shutdown.
pub(crate) async fn run(store: Arc<dyn Store>, ttl: Duration, limit: usize, shutdown: CancellationToken) {
    let prefix = catalog::prefix("", "events");
    loop {
        let mut ledger = Ledger::default();
        let Ok(listing) = store.list(&prefix, None, 0, None) else { return };
        // When they were written is not known to the store; after a restart they live for a whole term again at most.
        let due = Instant::now() + ttl;
        for entry in listing.entries {
            ledger.put(entry.key, due, entry.revision);
        }
        // Falling behind the history means to begin again.
        let Ok(mut changes) = store.watch(&prefix, listing.revision) else { continue };
        loop {
            let now = Instant::now();
            let next = ledger.next(now, limit);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                item = changes.next() => match item {
                    Ok(WatchItem::Event(event)) => match &event.value {
                        Some(_) => ledger.put(event.key.clone(), now + ttl, event.revision),
                        None => ledger.remove(&event.key),
                    },
                    Ok(_) => {}
                    Err(_) => break,
                },
                () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() => {
                    while let Some((key, revision)) = ledger.take(Instant::now(), limit) {
                        let op = Op::Delete { key: key.to_string(), when: Precondition::Revision(revision) };
                        match store.write(op).await {
                            Ok(_) | Err(store::WriteError::Conflict { .. }) => {}
                            Err(store::WriteError::Closed { .. }) => return,
                            Err(error) => {
                                tracing::warn!(%error, "an old Event could not be deleted");
                                ledger.put(key, Instant::now() + Duration::from_secs(60), revision);
                                break;
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_late_changes_keep() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ledger = Ledger::default();
        for (key, due) in [("a", 10), ("b", 20), ("c", 30)] {
            ledger.put(key.into(), at(due), due);
        }
        assert_eq!(ledger.take(at(9), 5), None);
        assert_eq!(ledger.next(at(0), 5), Some(at(10)));
        ledger.put("a".into(), at(40), 41);
        assert_eq!(ledger.take(at(20), 5), Some(("b".into(), 20)));
        assert_eq!(ledger.next(at(0), 1), Some(at(0)), "too many");
        assert_eq!(ledger.take(at(0), 1), Some(("c".into(), 30)));
        assert_eq!(ledger.take(at(40), 5), Some(("a".into(), 41)));
        assert_eq!(ledger.next(at(50), 5), None);
    }
}
