//! Who waits for a search for a listener, and which listeners were found to be nobody's.
//!
//! Invariants: one search runs at a time; among those that wait for theirs each Pod has one, so that who asks for many ports of one keeps
//! nobody from another for longer than one search; a listener that was found to be nobody's is not searched for again for a moment.
//! What is remembered is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many searches run at once.
const LISTENERS: usize = 1;
/// How long it is remembered that a listener is nobody's, and of how many.
const REMEMBERED: Duration = Duration::from_secs(5);
const MOST: usize = 1024;

/// A Pod's place among those that wait, and its turn.
pub(super) type Turn = (OwnedSemaphorePermit, OwnedSemaphorePermit);

pub(super) struct Listeners {
    turns: Arc<Semaphore>,
    /// By the uids of Pods, as long as somebody waits.
    places: Mutex<HashMap<String, Weak<Semaphore>>>,
    /// By their inodes, until when.
    nobodys: Mutex<HashMap<u64, Instant>>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(LISTENERS)), places: Mutex::default(), nobodys: Mutex::default() }
    }
}

impl Listeners {
    /// Waits for the turn of whoever asks about a Pod.
    pub(super) async fn turn(&self, uid: &str) -> Option<Turn> {
        let place = self.place(uid).acquire_owned().await.ok()?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        Some((place, turn))
    }

    fn place(&self, uid: &str) -> Arc<Semaphore> {
        let mut places = self.places.lock();
        if let Some(place) = places.get(uid).and_then(Weak::upgrade) {
            return place;
        }
        places.retain(|_, place| place.strong_count() > 0);
        let place = Arc::new(Semaphore::new(1));
        places.insert(uid.to_owned(), Arc::downgrade(&place));
        place
    }

    /// Whether a listener was found to be nobody's a moment ago.
    pub(super) fn is_nobodys(&self, inode: u64, now: Instant) -> bool {
        self.nobodys.lock().get(&inode).is_some_and(|until| *until > now)
    }

    /// Remembers that a listener is nobody's.
    pub(super) fn remember(&self, inode: u64, now: Instant) {
        let mut nobodys = self.nobodys.lock();
        nobodys.retain(|_, until| *until > now);
        if nobodys.len() < MOST {
            nobodys.insert(inode, now + REMEMBERED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_for_much_of_one_pod_waits_once() {
        let listeners = Listeners::default();
        let first = listeners.turn("a").await.expect("open");
        let mut many: Vec<_> = (0..3).map(|_| Box::pin(listeners.turn("a"))).collect();
        for one in &mut many {
            assert!(futures::poll!(one).is_pending());
        }
        let mut other = Box::pin(listeners.turn("b"));
        assert!(futures::poll!(&mut other).is_pending());
        drop(first);
        for one in &mut many {
            // The first of them gets its place, behind the other Pod.
            assert!(futures::poll!(one).is_pending());
        }
        let other = other.await.expect("open");
        drop(other);
        for one in many {
            drop(one.await.expect("open"));
        }
        assert_eq!(listeners.places.lock().values().filter(|place| place.strong_count() > 0).count(), 0);
    }

    #[test]
    fn what_is_nobodys_is_remembered_within_bounds() {
        let (listeners, now) = (Listeners::default(), Instant::now());
        for inode in 0..2 * MOST as u64 {
            listeners.remember(inode, now);
        }
        assert!(listeners.is_nobodys(0, now) && !listeners.is_nobodys(2 * MOST as u64, now));
        assert!(!listeners.is_nobodys(0, now + REMEMBERED), "for a moment");
        assert!(listeners.nobodys.lock().len() <= MOST);
    }
}
