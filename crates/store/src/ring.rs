//! The bounded history of events, newest last. Revisions are without gaps, so that an event is found by subtraction.
//!
//! Invariant: the event at position `i` has revision `floor + 1 + i`. `floor` is the oldest revision after which can be
//! watched and at which can be listed.

use std::{collections::VecDeque, sync::Arc};

use crate::Event;

/// What one event costs besides its bytes, roughly.
const OVERHEAD: usize = 160;

/// The history.
#[derive(Debug)]
pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    floor: u64,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl Ring {
    /// An empty history that begins after `floor`.
    pub(crate) fn new(floor: u64, max_events: usize, max_bytes: usize) -> Self {
        Ring { events: VecDeque::new(), floor, bytes: 0, max_events, max_bytes }
    }

    /// The oldest revision after which all events are here.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The revision of the newest event (the floor, when there is none).
    pub(crate) fn newest(&self) -> u64 {
        self.floor + self.events.len() as u64
    }

    /// Adds the next event, and drops the oldest ones over the bounds. The newest is never dropped.
    pub(crate) fn push(&mut self, event: Arc<Event>) {
        debug_assert_eq!(event.revision, self.newest() + 1);
        self.bytes += weight(&event);
        self.events.push_back(event);
        while self.events.len() > 1 && (self.events.len() > self.max_events || self.bytes > self.max_bytes) {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= weight(&oldest);
                self.floor = oldest.revision;
            }
        }
    }

    /// The events with a revision greater than this one, in order. The caller has checked it against the floor.
    pub(crate) fn after(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        let skip = revision.saturating_sub(self.floor).min(self.events.len() as u64);
        self.events.range(skip as usize..)
    }
}

/// The bytes that the history alone keeps in memory: the new value is either live or the previous one of a later event.
fn weight(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |entry| entry.value.len());
    OVERHEAD + event.key.len() + previous
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Entry;

    fn event(revision: u64, previous: usize) -> Arc<Event> {
        let key: Arc<str> = "k".into();
        Arc::new(Event {
            revision,
            key: Arc::clone(&key),
            value: None,
            previous: Some(Entry { key, value: Bytes::from(vec![0; previous]), revision: 1, created: 1 }),
        })
    }

    #[test]
    fn drops_the_oldest_by_number() {
        let mut ring = Ring::new(1, 3, usize::MAX);
        for revision in 2..=6 {
            ring.push(event(revision, 0));
        }
        assert_eq!((ring.floor(), ring.newest()), (3, 6));
        let seen: Vec<_> = ring.after(4).map(|event| event.revision).collect();
        assert_eq!(seen, [5, 6]);
        assert_eq!(ring.after(6).count(), 0);
        assert_eq!(ring.after(60).count(), 0);
    }

    #[test]
    fn drops_the_oldest_by_bytes_but_keeps_the_newest() {
        let mut ring = Ring::new(1, 100, 1000);
        ring.push(event(2, 300));
        ring.push(event(3, 300));
        assert_eq!(ring.floor(), 1);
        ring.push(event(4, 300));
        assert_eq!(ring.floor(), 2);
        ring.push(event(5, 5000));
        assert_eq!((ring.floor(), ring.newest()), (4, 5));
        ring.push(event(6, 0));
        assert_eq!((ring.floor(), ring.newest()), (5, 6));
    }
}
