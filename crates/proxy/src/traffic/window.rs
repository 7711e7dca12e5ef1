//! Counts of two things over the last while.
//!
//! Invariants: memory is fixed; what is older than the window never counts, and what is younger is missed by a tenth of
//! the window at most; time is an argument.

use std::time::{Duration, Instant};

const SLOTS: usize = 10;

/// Two counts over a sliding window.
#[derive(Debug)]
pub(super) struct Window {
    origin: Instant,
    /// In nanoseconds; not zero.
    slot: u64,
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Which slot since `origin` this is, plus one; zero is none.
    number: u64,
    counts: [u32; 2],
}

impl Window {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self { origin: now, slot: (nanos(length) / SLOTS as u64).max(1), slots: [Slot::default(); SLOTS] }
    }

    fn number(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.origin)) / self.slot + 1
    }

    /// Counts one of the first (0) or the second (1) thing.
    pub(super) fn add(&mut self, which: usize, now: Instant) {
        let number = self.number(now);
        let slot = &mut self.slots[(number % SLOTS as u64) as usize];
        if slot.number != number {
            *slot = Slot { number, counts: [0; 2] };
        }
        slot.counts[which] = slot.counts[which].saturating_add(1);
    }

    /// Both counts as of now.
    pub(super) fn sums(&self, now: Instant) -> [u64; 2] {
        let number = self.number(now);
        let recent = self.slots.iter().filter(|slot| slot.number > 0 && slot.number + SLOTS as u64 > number);
        recent.fold([0; 2], |sums, slot| [sums[0] + u64::from(slot.counts[0]), sums[1] + u64::from(slot.counts[1])])
    }
}

/// Up to 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_does_not_count() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut window = Window::new(Duration::from_secs(10), start);
        for (second, which, sums) in [
            (0, 0, [1, 0]),
            (0, 1, [1, 1]),
            (5, 1, [1, 2]),
            (9, 0, [2, 2]),
            // The first second has passed out of the window.
            (10, 0, [2, 1]),
            (14, 0, [3, 1]),
            (15, 0, [4, 0]),
            (1_000, 1, [0, 1]),
        ] {
            window.add(which, at(second));
            assert_eq!(window.sums(at(second)), sums, "at {second}");
        }
        assert_eq!(window.sums(at(2_000)), [0, 0]);
    }
}
