//! When a probe is tried and what its results mean, as a pure function of time since the container's start.
//!
//! Until a startup or readiness probe succeeds for the first time it is tried every few tens of milliseconds, ever more slowly.
//! A failure of such an early attempt counts only where Kubernetes would have tried too, once a period.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::Kind;

/// The shortest time between two early attempts that cost a connection.
const CHEAP: Duration = Duration::from_millis(20);
/// The same, for those that cost a process.
const DEAR: Duration = Duration::from_millis(50);
/// The longest time between two early attempts.
const SLOWEST: Duration = Duration::from_millis(500);

/// The course of one probe of one run of a container.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    period: Duration,
    successes: u32,
    failures: u32,
    shortest: Duration,
    longest: Duration,
    initial: Duration,
    /// Not succeeded yet, and early attempts are of use.
    early: bool,
    next: Duration,
    /// The next failure at or after this time counts.
    counts: Duration,
    good: u32,
    bad: u32,
}

impl Schedule {
    pub(crate) fn new(probe: &Probe, kind: Kind) -> Self {
        let number = |value: Option<i32>, default: u32| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default);
        let seconds = |value, default| Duration::from_secs(number(value, default).into());
        let period = seconds(probe.period_seconds.filter(|p| *p > 0), 10);
        let initial = seconds(probe.initial_delay_seconds, 0);
        let dear = probe.exec.is_some();
        // A container is taken to be alive until it is known not to be: nothing is gained by asking early.
        let early = kind != Kind::Liveness;
        Schedule {
            period,
            successes: number(probe.success_threshold, 1).max(1),
            failures: number(probe.failure_threshold, 3).max(1),
            shortest: if dear { DEAR } else { CHEAP },
            longest: period.min(if dear { SLOWEST * 4 } else { SLOWEST }),
            initial,
            early,
            next: initial,
            counts: if early { initial + period } else { initial },
            good: 0,
            bad: 0,
        }
    }

    /// When the next attempt is due.
    pub(crate) fn next(&self) -> Duration {
        self.next
    }

    /// Takes the result of the attempt that ended at `at`. Returns whether it counts, and the verdict where a threshold
    /// is reached.
    pub(crate) fn observe(&mut self, at: Duration, good: bool) -> (bool, Option<bool>) {
        let due = at >= self.counts;
        if due {
            let behind = (at - self.counts).as_nanos() / self.period.as_nanos();
            self.counts += self.period * u32::try_from(behind + 1).unwrap_or(u32::MAX);
        }
        let counted = good || due || !self.early;
        if good {
            (self.good, self.bad, self.early) = (self.good.saturating_add(1), 0, false);
        } else if counted {
            (self.good, self.bad) = (0, self.bad.saturating_add(1));
        }
        self.next = if self.early {
            at + (at.saturating_sub(self.initial) / 8).clamp(self.shortest, self.longest.max(self.shortest))
        } else {
            // On the beat, so that what an attempt takes does not add up; never at once.
            (self.next + self.period).max(at + self.shortest)
        };
        let verdict = match good {
            true => (self.good >= self.successes).then_some(true),
            false => (counted && self.bad >= self.failures).then_some(false),
        };
        (counted, verdict)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schedule(probe: serde_json::Value, kind: Kind) -> Schedule {
        Schedule::new(&serde_json::from_value(probe).expect("a probe"), kind)
    }

    /// Tries until the verdict is `wanted`, and says when it came and how many attempts that took.
    fn until(schedule: &mut Schedule, good: impl Fn(Duration) -> bool, wanted: bool) -> (Duration, u32) {
        for attempts in 1..100_000 {
            let at = schedule.next();
            if schedule.observe(at, good(at)).1 == Some(wanted) {
                return (at, attempts);
            }
        }
        panic!("no verdict");
    }

    #[test]
    fn a_fast_start_is_seen_within_milliseconds() {
        let started = Duration::from_millis(90);
        let (at, _) =
            until(&mut schedule(json!({"tcpSocket": {"port": 1}}), Kind::Readiness), |at| at >= started, true);
        assert!(at < started + Duration::from_millis(25), "{at:?}");
    }

    #[test]
    fn early_failures_count_once_a_period() {
        let mut startup =
            schedule(json!({"httpGet": {"port": 1}, "periodSeconds": 10, "failureThreshold": 30}), Kind::Startup);
        let (at, attempts) = until(&mut startup, |_| false, false);
        assert!(at >= Duration::from_secs(300) && at < Duration::from_secs(301), "{at:?}");
        assert!(attempts < 900, "{attempts} attempts");
    }

    #[test]
    fn a_hang_is_noticed_after_three_periods() {
        let mut liveness = schedule(json!({"httpGet": {"port": 1}}), Kind::Liveness);
        let (at, attempts) = until(&mut liveness, |at| at < Duration::from_secs(15), false);
        assert_eq!((at, attempts), (Duration::from_secs(40), 5));
    }

    #[test]
    fn the_initial_delay_is_kept_and_thresholds_need_a_row() {
        let mut readiness = schedule(
            json!({"exec": {}, "initialDelaySeconds": 5, "successThreshold": 2, "periodSeconds": 3}),
            Kind::Readiness,
        );
        assert_eq!(readiness.next(), Duration::from_secs(5));
        assert_eq!(readiness.observe(Duration::from_secs(5), true).1, None);
        assert_eq!(readiness.next(), Duration::from_secs(8));
        assert_eq!(readiness.observe(Duration::from_secs(8), false), (true, None));
        assert_eq!(readiness.observe(Duration::from_secs(11), true).1, None);
        assert_eq!(readiness.observe(Duration::from_secs(14), true).1, Some(true));
    }
}
