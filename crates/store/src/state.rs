//! What is in memory: the live entries, the history and the revision, always in agreement. Readers take it behind one
//! lock; the writer thread alone changes it.
//!
//! Must not know the disk.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{Compacted, Entry, Event, ListError, Listing, ring::Ring};

/// The state and the signal that it has changed.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The state.
    pub(crate) state: RwLock<State>,
    /// The last published revision; wakes the watches.
    pub(crate) published: watch::Sender<u64>,
}

impl Shared {
    /// Shares a state.
    pub(crate) fn new(state: State) -> Self {
        let published = watch::Sender::new(state.revision());
        Shared { state: RwLock::new(state), published }
    }

    /// Makes committed events visible, all at once, and wakes the watches.
    pub(crate) fn publish(&self, events: Vec<Event>) {
        let revision = {
            let mut state = self.state.write();
            for event in events {
                state.apply(event);
            }
            state.revision()
        };
        self.published.send_replace(revision);
    }
}

/// The live entries and the history.
#[derive(Debug)]
pub(crate) struct State {
    live: BTreeMap<Arc<str>, Entry>,
    ring: Ring,
}

impl State {
    /// No entries, and an empty history.
    pub(crate) fn new(ring: Ring) -> Self {
        State { live: BTreeMap::new(), ring }
    }

    /// Takes in an entry from before the history; gives the one that was there for its key, which should not be.
    pub(crate) fn seed(&mut self, entry: Entry) -> Option<Entry> {
        self.live.insert(Arc::clone(&entry.key), entry)
    }

    /// The revision of the last event.
    pub(crate) fn revision(&self) -> u64 {
        self.ring.newest()
    }

    /// The history.
    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The live entry of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.live.get(key)
    }

    /// Takes the next event in.
    pub(crate) fn apply(&mut self, event: Event) {
        match event.entry() {
            Some(entry) => {
                self.live.insert(Arc::clone(&event.key), entry);
            }
            None => {
                self.live.remove(&event.key);
            }
        }
        self.ring.push(Arc::new(event));
    }

    /// See [`crate::Store::list`].
    pub(crate) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<u64>,
    ) -> Result<Listing, ListError> {
        let current = self.revision();
        let revision = at.unwrap_or(current);
        if revision > current {
            return Err(ListError::Future { current });
        }
        let oldest = self.ring.floor();
        if revision < oldest {
            return Err(Compacted { oldest }.into());
        }
        let listing = if revision == current {
            page(self.range(prefix, after), limit, revision)
        } else {
            let undone = self.undo(prefix, after, revision);
            page(Merged::new(self.range(prefix, after), &undone), limit, revision)
        };
        Ok(listing)
    }

    /// The live entries of a prefix, after a key.
    fn range<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = &'a Entry> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.live
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(move |entry| entry.key.starts_with(prefix))
    }

    /// What the keys that changed after `revision` held at it: the first change after it knows.
    fn undo<'a>(&'a self, prefix: &str, after: Option<&str>, revision: u64) -> BTreeMap<&'a str, Option<&'a Entry>> {
        let mut undone = BTreeMap::new();
        for event in self.ring.after(revision) {
            let key: &str = &event.key;
            if key.starts_with(prefix) && after.is_none_or(|after| key > after) {
                undone.entry(key).or_insert(event.previous.as_ref());
            }
        }
        undone
    }
}

/// Cuts a page out of entries in order.
fn page<'a>(mut entries: impl Iterator<Item = &'a Entry>, limit: usize, revision: u64) -> Listing {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let page: Vec<Entry> = entries.by_ref().take(limit).cloned().collect();
    let remaining = entries.count() as u64;
    Listing { entries: page, revision, more: remaining > 0, remaining }
}

/// The live entries with those that changed since replaced by what they were, in order of keys.
struct Merged<'a, L: Iterator<Item = &'a Entry>, U: Iterator<Item = (&'a str, Option<&'a Entry>)>> {
    live: std::iter::Peekable<L>,
    undone: std::iter::Peekable<U>,
}

impl<'a, L: Iterator<Item = &'a Entry>> Merged<'a, L, std::vec::IntoIter<(&'a str, Option<&'a Entry>)>> {
    fn new(live: L, undone: &BTreeMap<&'a str, Option<&'a Entry>>) -> Self {
        let undone: Vec<_> = undone.iter().map(|(key, entry)| (*key, *entry)).collect();
        Merged { live: live.peekable(), undone: undone.into_iter().peekable() }
    }
}

impl<'a, L, U> Iterator for Merged<'a, L, U>
where
    L: Iterator<Item = &'a Entry>,
    U: Iterator<Item = (&'a str, Option<&'a Entry>)>,
{
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        loop {
            let Some((key, _)) = self.undone.peek() else {
                return self.live.next();
            };
            if let Some(entry) = self.live.next_if(|entry| &*entry.key < *key) {
                return Some(entry);
            }
            let (key, before) = self.undone.next()?;
            self.live.next_if(|entry| &*entry.key == key);
            if before.is_some() {
                return before;
            }
        }
    }
}
