//! When one endpoint is left alone because it fails, and for how long.
//!
//! Invariants: an endpoint that comes back is judged by what it does from then on; each time that it is left alone again lasts
//! longer, and as long as it behaves that is forgotten. Time is an argument.

use std::time::{Duration, Instant};

use super::window::Window;
use crate::policy::Outliers;

/// What is known about one endpoint.
#[derive(Debug)]
pub(super) struct Record {
    requests: Window,
    /// Failures in a row.
    row: u32,
    /// How often it has been left alone, less what is forgotten.
    times: u32,
    /// Until when it was last left alone.
    until: Option<Instant>,
}

impl Record {
    pub(super) fn new(settings: &Outliers, now: Instant) -> Self {
        Self { requests: Window::new(settings.window, now), row: 0, times: 0, until: None }
    }

    /// Takes note of how a request ended, and says whether the endpoint should be left alone for it.
    pub(super) fn note(&mut self, failed: bool, settings: &Outliers, now: Instant) -> bool {
        if self.until.is_some_and(|until| now < until) {
            // It began before.
            return false;
        }
        self.requests.add(usize::from(failed), now);
        self.row = if failed { self.row + 1 } else { 0 };
        if !failed {
            return false;
        }
        let [good, bad] = self.requests.sums(now);
        let all = good + bad;
        let often = settings.failure_percent.is_some_and(|percent| {
            all >= u64::from(settings.minimum_requests) && bad * 100 >= all * u64::from(percent)
        });
        often || settings.consecutive.is_some_and(|most| self.row >= most)
    }

    /// Leaves the endpoint alone; returns until when.
    pub(super) fn eject(&mut self, settings: &Outliers, now: Instant) -> Instant {
        let well = self.until.map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        let forgotten = well.as_nanos() / settings.base.as_nanos().max(1);
        self.times = self.times.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX)).saturating_add(1);
        let until = now + settings.base.saturating_mul(self.times).min(settings.max);
        *self = Self { times: self.times, until: Some(until), ..Self::new(settings, now) };
        until
    }
}

/// Whether one more of `all` endpoints may be left alone, beside those that are.
pub(super) fn may_eject(ejected: usize, all: usize, max_percent: u32) -> bool {
    let share = all * max_percent as usize / 100;
    ejected < share.max(usize::from(all > 1 && max_percent > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Outliers {
        Outliers {
            consecutive: Some(3),
            failure_percent: Some(50),
            minimum_requests: 10,
            window: Duration::from_secs(10),
            base: Duration::from_secs(30),
            max: Duration::from_secs(100),
            max_percent: 50,
        }
    }

    /// Notes ends from a string of `.` (good) and `x` (bad); true where the last of them says to leave it alone.
    fn noted(record: &mut Record, ends: &str, now: Instant) -> bool {
        ends.chars().map(|end| record.note(end == 'x', &settings(), now)).last().unwrap_or(false)
    }

    #[test]
    fn failures_in_a_row_or_in_sum() {
        for (ends, expected) in [
            ("xx", false),
            ("xxx", true),
            ("xx.xx", false),
            (".x.x.x.x", false),
            (".x.x.x.x.x", true),
            ("..x..x..x..x..x", false),
        ] {
            let now = Instant::now();
            assert_eq!(noted(&mut Record::new(&settings(), now), ends, now), expected, "{ends}");
        }
    }

    #[test]
    fn each_time_lasts_longer_and_good_conduct_is_rewarded() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut record = Record::new(&settings(), start);
        for (now, until) in [(0, 30), (30, 90), (90, 180), (180, 280), (300, 400), (520, 580), (1_000, 1_030)] {
            assert!(noted(&mut record, "xxx", at(now)), "at {now}");
            assert_eq!(record.eject(&settings(), at(now)), at(until), "at {now}");
            assert!(!noted(&mut record, "xxxxx", at(until - 1)), "what began before says nothing");
        }
    }

    #[test]
    fn some_are_always_left() {
        for (ejected, all, percent, may) in [
            (0, 1, 50, false),
            (0, 1, 100, true),
            (0, 2, 10, true),
            (1, 2, 50, false),
            (0, 3, 50, true),
            (1, 3, 50, false),
            (4, 10, 50, true),
            (5, 10, 50, false),
            (0, 10, 0, false),
        ] {
            assert_eq!(may_eject(ejected, all, percent), may, "{ejected} of {all}, {percent} %");
        }
    }
}
