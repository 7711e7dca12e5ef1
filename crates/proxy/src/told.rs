//! How many refusals are written down: a bound of lines a second, and how many were left out.
//!
//! Invariant: whoever is refused, however often, writes no more than that into the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How many lines a second there are.
const LINES: u64 = 100;

/// Says which refusals get a line.
pub(crate) struct Told {
    began: Instant,
    /// The second since `began` that is written in now, and how many lines it has.
    second: AtomicU64,
    lines: AtomicU64,
    left_out: AtomicU64,
}

impl Told {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), second: AtomicU64::new(0), lines: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Whether one more is written down now, and how many were left out before it.
    pub(crate) fn one(&self) -> Option<u64> {
        self.at(self.began.elapsed().as_secs())
    }

    fn at(&self, now: u64) -> Option<u64> {
        if self.second.swap(now, Ordering::Relaxed) != now {
            // Those who race here may write a few lines more.
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_a_bound_and_the_next_says_what_was_left_out() {
        let told = Told::new();
        let lines = (0..LINES + 7).filter(|_| told.at(1).is_some()).count();
        assert_eq!(lines as u64, LINES);
        assert_eq!(told.at(2), Some(7));
        assert_eq!(told.at(2), Some(0));
    }
}
