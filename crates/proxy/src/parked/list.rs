//! Who is parked, until when, and when to look for those whose time is up.
//!
//! Invariants: pure, but for what is given to it; one that is due is found at the first look after that; looking through all is
//! done no more often than [`GAP`] says, however many come and go; a list that is empty has no memory. It must not know what it keeps, nor what
//! time it is.

use std::time::{Duration, Instant};

use slab::Slab;

/// The least time between two looks through the whole list, which is as late as one can be found.
pub(super) const GAP: Duration = Duration::from_millis(250);

/// Those who are parked.
pub(super) struct List<T> {
    places: Slab<Place<T>>,
    /// Nobody is due before this.
    earliest: Option<Instant>,
    looked: Option<Instant>,
}

/// What one takes in the list.
pub(super) struct Place<T> {
    kept: T,
    due: Instant,
}

impl<T> List<T> {
    pub(super) fn new() -> Self {
        Self { places: Slab::new(), earliest: None, looked: None }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Takes one in who is due then. Says at which place.
    pub(super) fn add(&mut self, kept: T, due: Instant) -> usize {
        self.earliest = Some(self.earliest.map_or(due, |earliest| earliest.min(due)));
        self.places.insert(Place { kept, due })
    }

    /// Lets the one at a place go. None where there is nobody.
    pub(super) fn take(&mut self, place: usize) -> Option<T> {
        let taken = self.places.try_remove(place)?.kept;
        if self.places.is_empty() {
            (self.places, self.earliest) = (Slab::new(), None);
        }
        Some(taken)
    }

    /// When to look next. None while nobody is there.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let at_least = self.looked.map(|looked| looked + GAP);
        self.earliest.map(|earliest| at_least.map_or(earliest, |at_least| earliest.max(at_least)))
    }

    /// The places of those who are due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<usize> {
        let rest = self.places.iter().map(|(_, place)| place.due).filter(|due| *due > now);
        (self.earliest, self.looked) = (rest.min(), Some(now));
        self.places.iter().filter(|(_, place)| place.due <= now).map(|(key, _)| key).collect()
    }

    /// The places of those who are chosen.
    pub(super) fn chosen(&self, choose: impl Fn(&T) -> bool) -> Vec<usize> {
        self.places.iter().filter(|(_, place)| choose(&place.kept)).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of those with these names, each due so many milliseconds after the start.
    fn list(start: Instant, all: &[(&'static str, u64)]) -> List<&'static str> {
        let mut list = List::new();
        for (name, due) in all {
            list.add(*name, start + Duration::from_millis(*due));
        }
        list
    }

    /// Lets go of those at these places.
    fn taken(list: &mut List<&'static str>, places: Vec<usize>) -> Vec<&'static str> {
        places.into_iter().filter_map(|place| list.take(place)).collect()
    }

    #[test]
    fn those_who_are_due_are_found_and_the_next_look_is_for_those_after_them() {
        let start = Instant::now();
        let gap = u64::try_from(GAP.as_millis()).expect("small");
        // Who is there, when is looked, who is found, and when the next look is.
        type Row = (&'static [(&'static str, u64)], u64, &'static [&'static str], Option<u64>);
        let rows: [Row; 7] = [
            (&[], 100, &[], None),
            (&[("a", 1000)], 999, &[], Some(999 + gap)),
            (&[("a", 1000)], 1000, &["a"], None),
            (&[("a", 5000)], 1000, &[], Some(5000)),
            (&[("late", 9000), ("a", 1000), ("b", 3000)], 1000, &["a"], Some(3000)),
            (&[("a", 1000), ("b", 1001), ("c", 999)], 1000, &["a", "c"], Some(1000 + gap)),
            (&[("a", 1), ("b", 2)], 60_000, &["a", "b"], None),
        ];
        for (all, now, expected, next) in rows {
            let mut list = list(start, all);
            let first = all.iter().map(|(_, due)| *due).min();
            let at = |millis: Option<u64>| millis.map(|millis| start + Duration::from_millis(millis));
            assert_eq!(list.next_look(), at(first), "{all:?}: nobody has looked yet");
            let due = list.due(start + Duration::from_millis(now));
            assert_eq!(taken(&mut list, due), expected, "{all:?} at {now}");
            assert_eq!(list.next_look(), at(next), "{all:?} after {now}");
            assert_eq!(list.len(), all.len() - expected.len());
        }
    }

    #[test]
    fn whoever_comes_later_and_is_due_earlier_is_looked_for_in_time() {
        let start = Instant::now();
        let mut list = list(start, &[("a", 60_000)]);
        list.add("b", start + Duration::from_millis(10));
        assert_eq!(list.next_look(), Some(start + Duration::from_millis(10)));
        // Where nobody is left, nothing is looked for, and nothing kept.
        let all = list.chosen(|_| true);
        assert_eq!(taken(&mut list, all), ["a", "b"]);
        assert_eq!((list.next_look(), list.len(), list.places.capacity()), (None, 0, 0));
    }

    #[test]
    fn places_are_used_again_and_each_is_let_go_once() {
        let start = Instant::now();
        let mut list = list(start, &[("a", 1), ("b", 2)]);
        assert_eq!((list.take(0), list.take(0), list.take(7)), (Some("a"), None, None));
        assert_eq!(list.add("c", start), 0);
        assert_eq!(list.chosen(|name| *name == "c"), [0]);
        assert!(list.chosen(|name| *name == "a").is_empty());
    }
}
