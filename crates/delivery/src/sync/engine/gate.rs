//! Whether a revision that was applied is good: a pure reading of its objects' health over time.
//!
//! Good is what is healthy; where no probe asks the programs, what is so for a moment. Bad is what is degraded for a while, or not healthy within its time, or waits for what will not
//! come by itself (an image that cannot be had). Everything else is not decided yet.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::health::Status;

/// How long a revision must have been degraded, or stuck for good, until it counts as bad. Programs that start together may
/// fail twice while they wait for each other: [`super::cause`] does not call that stuck, and this does not have to wait for it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a revision must be healthy where no probe asks whether its programs work: they are ready as soon as they are started, and
/// one that ends at once was never well.
pub const SETTLE: Duration = Duration::from_secs(1);

/// What is known of an applied revision.
#[derive(Debug, Clone)]
pub struct Watched {
    /// When it was applied.
    pub since: Timestamp,
    /// Since when its worst object is degraded or stuck for good, without a pause.
    pub bad_since: Option<Timestamp>,
    /// Since when all of it is healthy, without a pause.
    pub well_since: Option<Timestamp>,
    /// How long it has to be healthy.
    pub settle: Duration,
    /// How long it may take until it is healthy.
    pub deadline: Duration,
}

/// What is said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is healthy.
    Good,
    /// It is not healthy and will not be.
    Bad(&'static str),
    /// Not decided; nothing changes before that time but by what happens.
    Open(Timestamp),
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}

impl Watched {
    /// Of a revision that was applied now.
    #[must_use]
    pub fn new(since: Timestamp, deadline: Duration) -> Self {
        Self { since, bad_since: None, well_since: None, settle: Duration::ZERO, deadline }
    }

    /// Takes in how it is now: the worst health of its objects, and whether one waits for what will not come.
    pub fn see(&mut self, worst: Status, stuck: bool, now: Timestamp) {
        let bad = worst == Status::Degraded || stuck;
        self.bad_since = if bad { Some(self.bad_since.unwrap_or(now)) } else { None };
        let well = matches!(worst, Status::Healthy | Status::Suspended);
        self.well_since = if well { Some(self.well_since.unwrap_or(now)) } else { None };
    }

    /// What is said about it now.
    #[must_use]
    pub fn verdict(&self, worst: Status, now: Timestamp) -> Verdict {
        if matches!(worst, Status::Healthy | Status::Suspended) {
            let settled = later(self.well_since.unwrap_or(now), self.settle);
            return if settled <= now { Verdict::Good } else { Verdict::Open(settled) };
        }
        let end = later(self.since, self.deadline);
        let patience = self.bad_since.map(|since| later(since, PATIENCE));
        if patience.is_some_and(|at| at <= now) {
            return Verdict::Bad("it is degraded");
        }
        if end <= now {
            return Verdict::Bad("it did not become healthy in its time");
        }
        Verdict::Open(patience.map_or(end, |at| at.min(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    #[test]
    fn a_revision_is_judged_by_its_health_over_time() {
        use Status::{Degraded, Healthy, Missing, Progressing, Suspended};
        // What is seen at which second, and what is said then.
        for (seen, wanted) in [
            (&[(1, Healthy, false)][..], Verdict::Good),
            (&[(1, Suspended, false)], Verdict::Good),
            (&[(1, Progressing, false)], Verdict::Open(at(60))),
            (&[(59, Missing, false)], Verdict::Open(at(60))),
            (&[(60, Progressing, false)], Verdict::Bad("it did not become healthy in its time")),
            (&[(5, Degraded, false)], Verdict::Open(at(15))),
            (&[(5, Degraded, false), (15, Degraded, false)], Verdict::Bad("it is degraded")),
            // It came back in between.
            (&[(5, Degraded, false), (9, Progressing, false), (15, Degraded, false)], Verdict::Open(at(25))),
            (&[(5, Progressing, true), (15, Progressing, true)], Verdict::Bad("it is degraded")),
            (&[(5, Degraded, false), (15, Healthy, false)], Verdict::Good),
        ] {
            let mut watched = watched(Duration::ZERO);
            let mut said = None;
            for (second, worst, stuck) in seen {
                watched.see(*worst, *stuck, at(*second));
                said = Some(watched.verdict(*worst, at(*second)));
            }
            assert_eq!(said, Some(wanted), "{seen:?}");
        }
    }

    fn watched(settle: Duration) -> Watched {
        Watched { settle, ..Watched::new(at(0), Duration::from_secs(60)) }
    }

    #[test]
    fn programs_that_no_probe_asks_have_to_go_on() {
        use Status::{Healthy, Progressing};
        let mut watched = watched(SETTLE);
        for (second, worst, wanted) in [
            (1, Healthy, Verdict::Open(at(2))),
            // It ended, and was started again.
            (1, Progressing, Verdict::Open(at(60))),
            (3, Healthy, Verdict::Open(at(4))),
            (4, Healthy, Verdict::Good),
        ] {
            watched.see(worst, false, at(second));
            assert_eq!(watched.verdict(worst, at(second)), wanted, "{second}");
        }
    }
}
