//! Load shedding: requests are turned away before they cost anything, those that matter least first.
//!
//! Ten times a second it is seen whether answers took too long or too many wait. If so, the share that is turned away grows, else it
//! shrinks by half as much: what comes is brought to what can be done in good time.
//!
//! Invariants: what matters most is never turned away altogether; without requests the share goes back to nothing. Time and
//! chance are arguments.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::Mutex;

use crate::policy::Shedding;

/// How often it is looked whether there is too much to do.
const BEAT: Duration = Duration::from_millis(100);
/// The level at which all is turned away that may be.
const TOP: u32 = 1_000;
const UP: u32 = 100;
const DOWN: u32 = 50;

/// How much a request matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    Low,
    Normal,
    High,
}

impl Priority {
    /// By the urgency in a `Priority` header (RFC 9218, 4.1): 0 and 1 are high, 5 and above are low, 3 is what it is without one.
    fn of(headers: &HeaderMap, settings: &Shedding) -> Self {
        let text = headers.get(&settings.header).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let urgency = text.split(',').find_map(|part| part.trim().strip_prefix("u="));
        match urgency.and_then(|digits| digits.split(';').next()?.trim().parse::<u8>().ok()) {
            Some(0 | 1) => Self::High,
            Some(5..=7) => Self::Low,
            _ => Self::Normal,
        }
    }

    /// The probability of being turned away at a level, out of a thousand.
    fn share(self, level: u32) -> u32 {
        let third = |from: u32| (level.saturating_sub(from) * 3).min(TOP);
        match self {
            Self::Low => third(0),
            Self::Normal => third(TOP / 3),
            // A tenth of what matters most is let through, so that it is seen when things are better.
            Self::High => third(TOP * 2 / 3).min(TOP * 9 / 10),
        }
    }
}

/// Shedding that many requests share.
pub(crate) struct Shedder {
    settings: Shedding,
    pulse: Mutex<Pulse>,
}

/// The state machine.
#[derive(Debug)]
struct Pulse {
    level: u32,
    /// When the current beat began.
    since: Instant,
    /// What its answers took, in microseconds, and how many there were.
    took: u64,
    answers: u32,
    /// The most that waited.
    waiting: usize,
}

impl Pulse {
    fn new(now: Instant) -> Self {
        Self { level: 0, since: now, took: 0, answers: 0, waiting: 0 }
    }

    /// Judges the beat if it is over.
    fn beat(&mut self, settings: &Shedding, now: Instant) {
        let beats = now.saturating_duration_since(self.since).as_millis() / BEAT.as_millis();
        if beats == 0 {
            return;
        }
        let slow = self.answers > 0 && u128::from(self.took / u64::from(self.answers)) > settings.latency.as_micros();
        let long = settings.waiting.is_some_and(|most| self.waiting > most);
        if slow || long {
            self.level = (self.level + UP).min(TOP);
        } else {
            self.level = self.level.saturating_sub(DOWN);
        }
        // Beats in which nothing happened.
        let idle = u32::try_from(beats - 1).unwrap_or(u32::MAX);
        self.level = self.level.saturating_sub(DOWN.saturating_mul(idle));
        *self = Self { level: self.level, ..Self::new(now) };
    }

    /// Whether a request of this priority is turned away; `chance` is out of a thousand.
    fn refuses(&mut self, priority: Priority, waiting: usize, chance: u32, settings: &Shedding, now: Instant) -> bool {
        self.waiting = self.waiting.max(waiting);
        self.beat(settings, now);
        chance < priority.share(self.level)
    }

    fn answered(&mut self, took: Duration, settings: &Shedding, now: Instant) {
        self.took += u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 1_000_000).min(3_600_000_000);
        self.answers += 1;
        self.beat(settings, now);
    }
}

/// A request under way; when it is dropped there is an answer, or nobody waits for one any more.
pub(super) struct Timed {
    shedder: Arc<Shedder>,
    started: Instant,
}

impl Drop for Timed {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.started);
        self.shedder.pulse.lock().answered(took, &self.shedder.settings, now);
    }
}

impl Shedder {
    pub(super) fn new(settings: Shedding) -> Self {
        Self { pulse: Mutex::new(Pulse::new(Instant::now())), settings }
    }

    pub(super) fn settings(&self) -> &Shedding {
        &self.settings
    }

    /// Takes a request in, or turns it away.
    pub(super) fn enter(self: &Arc<Self>, headers: &HeaderMap, waiting: usize, now: Instant) -> Option<Timed> {
        let priority = Priority::of(headers, &self.settings);
        let chance = fastrand::u32(..TOP);
        let refused = self.pulse.lock().refuses(priority, waiting, chance, &self.settings, now);
        (!refused).then(|| Timed { shedder: Arc::clone(self), started: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{HeaderName, HeaderValue};

    fn settings() -> Shedding {
        let header = HeaderName::from_static("priority");
        Shedding { latency: Duration::from_millis(200), waiting: Some(10), header }
    }

    #[test]
    fn priorities_are_read_as_the_standard_has_them() {
        for (value, priority) in [
            (None, Priority::Normal),
            (Some("u=0"), Priority::High),
            (Some("i, u=1"), Priority::High),
            (Some("u=3, i"), Priority::Normal),
            (Some("u=7;x=y"), Priority::Low),
            (Some("u=5,i=?0"), Priority::Low),
            (Some("u=9"), Priority::Normal),
            (Some("low"), Priority::Normal),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|value| (settings().header, HeaderValue::from_static(value))));
            assert_eq!(Priority::of(&headers, &settings()), priority, "{value:?}");
        }
    }

    #[test]
    fn what_matters_least_goes_first() {
        use Priority::{High, Low, Normal};
        for (level, low, normal, high) in [
            (0, 0, 0, 0),
            (100, 300, 0, 0),
            (333, 999, 0, 0),
            (500, 1_000, 501, 0),
            (800, 1_000, 1_000, 402),
            (1_000, 1_000, 1_000, 900),
        ] {
            assert_eq!([Low, Normal, High].map(|priority| priority.share(level)), [low, normal, high], "{level}");
        }
    }

    #[test]
    fn the_level_follows_latency_and_queue() {
        let start = Instant::now();
        let at = |beat: u32| start + BEAT * beat;
        let mut pulse = Pulse::new(start);
        let slow = Duration::from_millis(900);
        // (beat, what an answer took, how many wait, the level after it)
        for (beat, took, waiting, level) in [
            (1, Some(Duration::from_millis(10)), 0, 0),
            (2, Some(slow), 0, 100),
            (3, Some(slow), 0, 200),
            (4, Some(Duration::from_millis(10)), 0, 150),
            (5, None, 11, 250),
            (6, None, 10, 200),
            (8, None, 0, 100),
            (50, None, 0, 0),
        ] {
            if let Some(took) = took {
                pulse.took += u64::try_from(took.as_micros()).expect("short");
                pulse.answers += 1;
            }
            pulse.refuses(Priority::Normal, waiting, 0, &settings(), at(beat));
            assert_eq!(pulse.level, level, "beat {beat}");
        }
    }

    #[test]
    fn a_flood_is_brought_down_to_what_can_be_done() {
        // Virtual time: 1,000 requests a second come to a server that does 400; answers take as long as its queue.
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        let (mut backlog, mut let_in, mut took_longest) = (0.0_f64, 0, 0.0_f64);
        let mut random = fastrand::Rng::with_seed(7);
        for tick in 0..30_000_u32 {
            let now = start + Duration::from_millis(u64::from(tick));
            backlog = (backlog - 0.4).max(0.0);
            if !pulse.refuses(Priority::Normal, 0, random.u32(..TOP), &settings(), now) {
                backlog += 1.0;
                let took = backlog / 400.0;
                pulse.answered(Duration::from_secs_f64(took), &settings(), now);
                if tick >= 10_000 {
                    let_in += 1;
                    took_longest = took_longest.max(took);
                }
            }
        }
        assert!(took_longest < 1.0, "answers take {took_longest} s");
        assert!((6_000..9_000).contains(&let_in), "{let_in} in 20 s of a server that can do 8,000");
    }
}
