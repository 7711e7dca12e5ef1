//! A day of random faults, in virtual time: callers come all day, and what they call fails, hangs and recovers as chance has it.
//! The same seeds give the same days.
//!
//! It holds breaker and budget to what they promise whatever happens: who is broken is left in peace, who recovers is found, and
//! retries stay a share of what callers ask.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::breaker::{Breaker, Call, Transition};
use super::retry::Budget;
use crate::policy;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long calls take that are answered.
const ANSWER: Duration = Duration::from_millis(30);

/// What the callee does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// One call in a thousand fails.
    Well,
    /// All calls fail, at once.
    Failing,
    /// No call is answered.
    Hanging,
    /// Every other call fails.
    Half,
}

/// What happens next in the world.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Turn,
    Arrival,
    End(usize),
}

struct Day {
    rng: Rng,
    start: Instant,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    mood: Mood,
    since: Instant,
    breaker: Arc<Breaker>,
    breaker_settings: policy::Breaker,
    budget: Budget,
    budget_settings: policy::Budget,
    /// Calls under way: whether they fail, and whether they are retries.
    calls: Vec<Option<(Call, bool, bool)>>,
    /// Calls let through since the circuit opened in this mood; none while it has not.
    leaked: Option<u32>,
    /// When a call succeeded last.
    success: Instant,
    requests: u64,
    retries: u64,
    refused: u64,
    opened: u32,
}

impl Day {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        let breaker_settings = policy::Breaker {
            failure_percent: 50,
            minimum_calls: 10,
            window: Duration::from_secs(30),
            consecutive: None,
            call_timeout: Duration::from_secs(3),
            open: Duration::from_secs(15),
            probes: 3,
        };
        let budget_settings = policy::Budget { percent: 20, min_per_second: 0, interval: Duration::from_secs(10) };
        let mut day = Self {
            rng: Rng::with_seed(seed),
            start,
            now: start,
            events: BinaryHeap::new(),
            mood: Mood::Well,
            since: start,
            breaker: Arc::new(Breaker::new(breaker_settings)),
            breaker_settings,
            budget: Budget::new(budget_settings),
            budget_settings,
            calls: Vec::new(),
            leaked: None,
            success: start,
            requests: 0,
            retries: 0,
            refused: 0,
            opened: 0,
        };
        day.later(Duration::from_secs(600), Event::Turn);
        day.later(Duration::ZERO, Event::Arrival);
        day
    }

    fn later(&mut self, wait: Duration, event: Event) {
        self.events.push(Reverse((self.now + wait, event)));
    }

    fn run(mut self) -> Self {
        while let Some(Reverse((at, event))) = self.events.pop() {
            if at > self.start + DAY {
                break;
            }
            self.now = at;
            match event {
                Event::Turn => self.turn(),
                Event::Arrival => self.arrive(),
                Event::End(call) => self.end(call),
            }
        }
        self
    }

    /// The mood changes. What the one before allowed is looked at.
    fn turn(&mut self) {
        let lasted = self.now - self.since;
        if let (Some(leaked), Mood::Failing | Mood::Hanging) = (self.leaked, self.mood) {
            // In every time that the circuit is open, and once before, as many as there are probes.
            let rounds = lasted.as_secs() / self.breaker_settings.open.as_secs() + 2;
            let most = u64::from(self.breaker_settings.probes) * rounds;
            assert!(
                u64::from(leaked) <= most,
                "{leaked} calls reached who is {:?} for {lasted:?}; {most} may",
                self.mood
            );
        }
        if self.mood == Mood::Well && lasted > Duration::from_secs(60) {
            let silence = self.now - self.success;
            assert!(silence < Duration::from_secs(5), "well for {lasted:?}, but nobody was answered for {silence:?}");
        }
        self.mood = match self.mood {
            Mood::Well => [Mood::Failing, Mood::Hanging, Mood::Half][self.rng.usize(..3)],
            _ => Mood::Well,
        };
        (self.since, self.leaked) = (self.now, None);
        let lasts = Duration::from_secs(self.rng.u64(20..1_200));
        self.later(lasts, Event::Turn);
    }

    fn arrive(&mut self) {
        self.requests += 1;
        self.budget.request(self.now);
        self.call(false);
        let wait = Duration::from_millis(self.rng.u64(10..300));
        self.later(wait, Event::Arrival);
    }

    fn call(&mut self, retry: bool) {
        let Ok(call) = self.breaker.call(self.now) else {
            self.refused += 1;
            return;
        };
        if let Some(leaked) = &mut self.leaked {
            *leaked += 1;
        }
        let (takes, failed) = match self.mood {
            Mood::Well => (ANSWER, self.rng.u32(..1_000) == 0),
            Mood::Failing => (ANSWER / 10, true),
            Mood::Hanging => (self.breaker_settings.call_timeout, true),
            Mood::Half => (ANSWER, self.rng.bool()),
        };
        let place = self.calls.iter().position(Option::is_none).unwrap_or(self.calls.len());
        if place == self.calls.len() {
            self.calls.push(None);
        }
        self.calls[place] = Some((call, failed, retry));
        self.later(takes, Event::End(place));
    }

    fn end(&mut self, place: usize) {
        let Some((call, failed, retry)) = self.calls[place].take() else { return };
        if self.rng.u32(..50) == 0 {
            // The caller went away before.
            drop(call);
            return;
        }
        match call.end(failed, self.now) {
            Some(Transition::Opened) => {
                self.opened += 1;
                self.leaked.get_or_insert(0);
            }
            Some(Transition::Closed) => self.leaked = None,
            None => {}
        }
        if !failed {
            self.success = self.now;
        } else if !retry && self.budget.spend(self.now) {
            self.retries += 1;
            self.call(true);
        }
    }
}

#[test]
fn whatever_fails_is_left_in_peace_and_found_again() {
    for seed in 0..4 {
        let day = Day::new(seed).run();
        assert!(day.requests > 400_000, "seed {seed}: a day has more than {} requests", day.requests);
        assert!(day.opened > 20, "seed {seed}: the circuit opened {} times, so nothing was tried", day.opened);
        assert!(day.refused > 1_000, "seed {seed}: {} calls failed fast", day.refused);
        let share = u64::from(day.budget_settings.percent);
        assert!(day.retries > 1_000, "seed {seed}: {} retries show nothing", day.retries);
        assert!(
            day.retries * 100 <= day.requests * share,
            "seed {seed}: {} retries of {} requests, where {share} % may be",
            day.retries,
            day.requests
        );
        let under_way = day.calls.iter().flatten().count();
        assert!(under_way < 500, "seed {seed}: {under_way} calls under way at the end of the day");
    }
}
