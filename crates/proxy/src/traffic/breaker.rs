//! The circuit breaker: closed, open, half open.
//!
//! Invariants: a call that began before the circuit changed says nothing about it afterwards; at most as many calls as there
//! are probes pass a half-open circuit; a call whose caller went away gives its place back and counts as nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::window::Window;
use crate::policy::Breaker as Settings;

/// A breaker that many calls share.
pub(crate) struct Breaker {
    settings: Settings,
    circuit: Mutex<Circuit>,
}

/// What a call's end did to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Opened,
    Closed,
}

/// A call that was let through. Dropped without an end, it counts as nothing.
pub(crate) struct Call {
    breaker: Arc<Breaker>,
    /// Zero once it has ended.
    generation: u64,
    /// Whether others are kept off until it has ended.
    probe: bool,
}

impl Breaker {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { circuit: Mutex::new(Circuit::new(&settings, Instant::now())), settings }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the next call would meet, in a word.
    pub(crate) fn word(&self, now: Instant) -> &'static str {
        match self.circuit.lock().state {
            State::Closed { .. } => "closed",
            State::Open { until } if now < until => "open",
            State::Open { .. } | State::HalfOpen { .. } => "half open",
        }
    }

    /// Lets a call through, or says how long it will not do so.
    pub(crate) fn call(self: &Arc<Self>, now: Instant) -> Result<Call, Duration> {
        let mut circuit = self.circuit.lock();
        let generation = circuit.enter(&self.settings, now)?;
        let probe = matches!(circuit.state, State::HalfOpen { .. });
        drop(circuit);
        Ok(Call { breaker: Arc::clone(self), generation, probe })
    }
}

impl Call {
    pub(crate) fn is_probe(&self) -> bool {
        self.probe
    }

    pub(crate) fn end(mut self, failed: bool, now: Instant) -> Option<Transition> {
        let generation = std::mem::take(&mut self.generation);
        self.breaker.circuit.lock().end(generation, failed, &self.breaker.settings, now)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.generation != 0 {
            self.breaker.circuit.lock().give_back(self.generation);
        }
    }
}

/// The state machine. Time is an argument.
#[derive(Debug)]
struct Circuit {
    state: State,
    /// Counts changes, from one.
    generation: u64,
}

#[derive(Debug)]
enum State {
    /// Successes and failures of late, and failures in a row.
    Closed {
        calls: Window,
        row: u32,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        running: u32,
        succeeded: u32,
    },
}

impl Circuit {
    fn new(settings: &Settings, now: Instant) -> Self {
        Self { state: State::Closed { calls: Window::new(settings.window, now), row: 0 }, generation: 1 }
    }

    fn become_(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }

    fn enter(&mut self, settings: &Settings, now: Instant) -> Result<u64, Duration> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(until - now);
            }
            self.become_(State::HalfOpen { running: 0, succeeded: 0 });
        }
        if let State::HalfOpen { running, succeeded } = &mut self.state {
            if *running + *succeeded >= settings.probes.max(1) {
                // How the probes end is known within the time of one call.
                return Err(settings.call_timeout);
            }
            *running += 1;
        }
        Ok(self.generation)
    }

    fn end(&mut self, generation: u64, failed: bool, settings: &Settings, now: Instant) -> Option<Transition> {
        if generation != self.generation {
            return None;
        }
        match &mut self.state {
            State::Closed { calls, row } => {
                calls.add(usize::from(failed), now);
                *row = if failed { *row + 1 } else { 0 };
                if !failed || !trips(settings, calls.sums(now), *row) {
                    return None;
                }
            }
            State::HalfOpen { running, succeeded } => {
                *running = running.saturating_sub(1);
                if !failed {
                    *succeeded += 1;
                    if *succeeded < settings.probes.max(1) {
                        return None;
                    }
                    self.become_(State::Closed { calls: Window::new(settings.window, now), row: 0 });
                    return Some(Transition::Closed);
                }
            }
            State::Open { .. } => return None,
        }
        self.become_(State::Open { until: now + settings.open });
        Some(Transition::Opened)
    }

    fn give_back(&mut self, generation: u64) {
        if let State::HalfOpen { running, .. } = &mut self.state
            && generation == self.generation
        {
            *running = running.saturating_sub(1);
        }
    }
}

fn trips(settings: &Settings, [good, bad]: [u64; 2], row: u32) -> bool {
    let all = good + bad;
    let rate = all >= u64::from(settings.minimum_calls) && bad * 100 >= all * u64::from(settings.failure_percent);
    rate || settings.consecutive.is_some_and(|most| row >= most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of a billing service that fails half of its calls.
    fn settings() -> Settings {
        Settings {
            failure_percent: 50,
            minimum_calls: 10,
            window: Duration::from_secs(30),
            consecutive: None,
            call_timeout: Duration::from_secs(3),
            open: Duration::from_secs(15),
            probes: 3,
        }
    }

    /// A step: the second at which it happens and what.
    enum Step {
        /// A call that succeeds or fails at once, and what that does.
        Good(Option<Transition>),
        Bad(Option<Transition>),
        /// A call that is refused, with the seconds left.
        Refused(u64),
        /// A call that begins and is awaited by nobody yet.
        Begin,
        /// The oldest call that has begun ends.
        EndGood(Option<Transition>),
        EndBad(Option<Transition>),
        GiveUp,
    }
    use Step::{Bad, Begin, EndBad, EndGood, GiveUp, Good, Refused};
    use Transition::{Closed, Opened};

    fn play(settings: &Settings, steps: impl IntoIterator<Item = (u64, Step)>) {
        let start = Instant::now();
        let mut circuit = Circuit::new(settings, start);
        let mut begun = std::collections::VecDeque::new();
        for (position, (second, step)) in steps.into_iter().enumerate() {
            let now = start + Duration::from_secs(second);
            let at = format!("step {position}, second {second}");
            let mut whole = |failed, expected| {
                let generation = circuit.enter(settings, now).unwrap_or_else(|_| panic!("refused: {at}"));
                assert_eq!(circuit.end(generation, failed, settings, now), expected, "{at}");
            };
            match step {
                Good(expected) => whole(false, expected),
                Bad(expected) => whole(true, expected),
                Refused(left) => assert_eq!(circuit.enter(settings, now), Err(Duration::from_secs(left)), "{at}"),
                Begin => begun.push_back(circuit.enter(settings, now).unwrap_or_else(|_| panic!("refused: {at}"))),
                EndGood(expected) => {
                    let generation = begun.pop_front().expect("a call has begun");
                    assert_eq!(circuit.end(generation, false, settings, now), expected, "{at}");
                }
                EndBad(expected) => {
                    let generation = begun.pop_front().expect("a call has begun");
                    assert_eq!(circuit.end(generation, true, settings, now), expected, "{at}");
                }
                GiveUp => circuit.give_back(begun.pop_front().expect("a call has begun")),
            }
        }
    }

    #[test]
    fn half_of_ten_calls_open_it_and_it_closes_on_recovery() {
        let mut steps: Vec<(u64, Step)> = Vec::new();
        // Nine calls say nothing, however bad.
        steps.extend((0..5).map(|_| (0, Good(None))));
        steps.extend((0..4).map(|_| (1, Bad(None))));
        steps.push((2, Bad(Some(Opened))));
        steps.extend([(2, Refused(15)), (10, Refused(7)), (16, Refused(1))]);
        // Half open: one bad probe opens it again.
        steps.extend([(17, Good(None)), (17, Bad(Some(Opened))), (17, Refused(15)), (31, Refused(1))]);
        // Recovered.
        steps.extend([(32, Good(None)), (32, Good(None)), (32, Good(Some(Closed)))]);
        // All is forgotten.
        steps.extend((0..9).map(|_| (33, Bad(None))));
        play(&settings(), steps);
    }

    #[test]
    fn failures_pass_out_of_the_window() {
        let mut steps: Vec<(u64, Step)> = (0..9).map(|_| (0, Bad(None))).collect();
        steps.extend((0..9).map(|_| (40, Bad(None))));
        steps.push((41, Bad(Some(Opened))));
        play(&settings(), steps);
    }

    #[test]
    fn most_calls_being_good_keeps_it_closed() {
        let steps = (0..1_000).map(|n| (n / 20, if n % 9 < 5 { Good(None) } else { Bad(None) }));
        play(&settings(), steps);
    }

    #[test]
    fn only_probes_pass_a_half_open_circuit() {
        let mut steps: Vec<(u64, Step)> = (0..9).map(|_| (0, Bad(None))).collect();
        // This one began while all was well and says nothing later.
        steps.extend([(0, Begin), (0, Bad(Some(Opened)))]);
        steps.extend([(20, Begin), (20, Begin), (20, Begin), (20, Refused(3)), (20, EndBad(None))]);
        // A caller goes away: its place is free again.
        steps.extend([(21, GiveUp), (21, Begin), (21, Refused(3))]);
        steps.extend([(22, EndGood(None)), (22, EndGood(None)), (22, EndGood(Some(Closed)))]);
        play(&settings(), steps);
    }

    #[test]
    fn failures_in_a_row() {
        let settings = Settings { consecutive: Some(3), ..settings() };
        let steps = [(0, Bad(None)), (0, Bad(None)), (0, Good(None)), (1, Bad(None)), (1, Bad(None))];
        play(&settings, steps.into_iter().chain([(1, Bad(Some(Opened)))]));
    }

    #[test]
    fn a_dropped_call_gives_its_place_back() {
        let settings = Settings { consecutive: Some(1), probes: 1, open: Duration::ZERO, ..settings() };
        let breaker = Arc::new(Breaker::new(settings));
        let now = Instant::now();
        assert_eq!(breaker.call(now).expect("closed").end(true, now), Some(Opened));
        let probe = breaker.call(now).expect("half open");
        assert!(probe.is_probe());
        assert!(breaker.call(now).is_err());
        drop(probe);
        assert_eq!(breaker.call(now).expect("a place is free").end(false, now), Some(Closed));
        assert!(!breaker.call(now).expect("closed").is_probe());
    }

    /// A call in a simulation.
    struct Flight {
        began: u64,
        ends: u64,
        failed: bool,
        generation: u64,
    }

    /// A payment provider answers nothing for twenty minutes; 50 requests a second come, in virtual time.
    #[test]
    fn twenty_minutes_of_a_degraded_provider_exhaust_nothing() {
        const PER_TRY: u64 = 2_000;
        const MINUTE: u64 = 60_000;
        let settings = Settings { call_timeout: Duration::from_millis(PER_TRY), ..settings() };
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut circuit = Circuit::new(&settings, start);
        let (mut flights, mut most, mut reached) = (Vec::<Flight>::new(), 0, 0);
        // What callers wait for, by the minute, and what they were told in the last one.
        let mut waits = vec![Vec::new(); 25];
        let mut good_at_last = 0;
        for now in (0..25 * MINUTE).step_by(20) {
            let (ended, under_way): (Vec<_>, Vec<_>) = flights.into_iter().partition(|flight| flight.ends <= now);
            flights = under_way;
            for flight in ended {
                circuit.end(flight.generation, flight.failed, &settings, at(flight.ends));
                waits[(flight.ends / MINUTE) as usize].push(flight.ends - flight.began);
                good_at_last += u32::from(!flight.failed && flight.ends >= 24 * MINUTE);
            }
            let degraded = (2 * MINUTE..22 * MINUTE).contains(&now);
            match circuit.enter(&settings, at(now)) {
                Ok(generation) => {
                    let ends = now + if degraded { PER_TRY } else { 30 };
                    flights.push(Flight { began: now, ends, failed: degraded, generation });
                    reached += u64::from(degraded);
                }
                Err(_) => waits[(now / MINUTE) as usize].push(0),
            }
            most = most.max(flights.len());
        }
        for (minute, waits) in waits.iter_mut().enumerate() {
            waits.sort_unstable();
            let p99 = waits[waits.len() * 99 / 100];
            assert!(p99 < 3_000, "minute {minute}: {p99} ms");
        }
        // Those until failures were half of the window's calls, after fifteen seconds; then three probes at a time.
        assert!(most <= 110, "{most} calls at once");
        assert!(reached < 1_100, "{reached} of 60,000 calls reached the provider while it was degraded");
        assert!(good_at_last > 2_900, "{good_at_last} good answers in the last minute");
    }
}
