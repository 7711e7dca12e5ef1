//! What policies remember, kept from one snapshot to the next.
//!
//! Invariants: the same scope, backend and settings give the same state for as long as any snapshot has them; what no snapshot
//! has any more is forgotten; the number of counters is bounded, what is beyond is counted together.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::breaker::Breaker;
use super::counts::{Counts, PolicySeries};
use super::gate::Gate;
use super::pick::{self, Balancer};
use super::rate::Limiter;
use super::retry::Budget;
use super::shed::Shedder;
use crate::policy;

/// Scope and backend; the backend is empty for what all backends of a scope share.
type Key = (Arc<str>, Arc<str>);

/// All states there are.
pub(crate) struct States {
    pub(super) breakers: Kept<Breaker>,
    pub(super) budgets: Kept<Budget>,
    pub(super) gates: Kept<Gate>,
    pub(super) limiters: Kept<Limiter>,
    pub(super) shedders: Kept<Shedder>,
    pub(super) balancers: Kept<Balancer>,
    counts: Mutex<HashMap<Key, Arc<Counts>>>,
    most_counts: usize,
}

/// Something that remembers, under settings.
pub(super) trait State {
    type Settings: PartialEq + Clone;
    fn new(settings: Self::Settings) -> Self;
    fn settings(&self) -> &Self::Settings;
}

macro_rules! remembers {
    ($($state:ty: $settings:ty),+ $(,)?) => {$(
        impl State for $state {
            type Settings = $settings;
            fn new(settings: $settings) -> Self {
                <$state>::new(settings)
            }
            fn settings(&self) -> &$settings {
                <$state>::settings(self)
            }
        }
    )+};
}

remembers!(
    Breaker: policy::Breaker,
    Budget: policy::Budget,
    Gate: policy::Concurrency,
    Limiter: policy::RateLimit,
    Shedder: policy::Shedding,
    Balancer: pick::Settings,
);

/// States of one sort. Where settings change, the old state stays beside the new one until nobody uses it.
pub(super) struct Kept<S>(Mutex<HashMap<Key, Vec<Arc<S>>>>);

impl<S> Default for Kept<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: State> Kept<S> {
    pub(super) fn get(&self, scope: &Arc<str>, backend: &Arc<str>, settings: &S::Settings) -> Arc<S> {
        let mut all = self.0.lock();
        let states = all.entry((scope.clone(), backend.clone())).or_default();
        if let Some(state) = states.iter().find(|state| state.settings() == settings) {
            return Arc::clone(state);
        }
        let state = Arc::new(S::new(settings.clone()));
        states.push(Arc::clone(&state));
        state
    }

    fn sweep(&self) {
        self.0.lock().retain(|_, states| {
            states.retain(|state| Arc::strong_count(state) > 1);
            !states.is_empty()
        });
    }
}

impl States {
    pub(crate) fn new(most_counts: usize) -> Self {
        Self {
            breakers: Kept::default(),
            budgets: Kept::default(),
            gates: Kept::default(),
            limiters: Kept::default(),
            shedders: Kept::default(),
            balancers: Kept::default(),
            counts: Mutex::default(),
            most_counts,
        }
    }

    /// The counters of a rule's policy for a backend.
    pub(super) fn counts(&self, rule: &Arc<str>, backend: &Arc<str>) -> Arc<Counts> {
        let mut all = self.counts.lock();
        let key = (rule.clone(), backend.clone());
        if let Some(counts) = all.get(&key) {
            return Arc::clone(counts);
        }
        let key = if all.len() < self.most_counts { key } else { ("*".into(), "*".into()) };
        Arc::clone(all.entry(key).or_default())
    }

    /// Forgets what no snapshot uses any more.
    pub(crate) fn sweep(&self) {
        self.breakers.sweep();
        self.budgets.sweep();
        self.gates.sweep();
        self.limiters.sweep();
        self.shedders.sweep();
        self.balancers.sweep();
    }

    pub(crate) fn read(&self) -> Vec<PolicySeries> {
        let mut all: Vec<PolicySeries> = self
            .counts
            .lock()
            .iter()
            .map(|((rule, backend), counts)| counts.read(rule, backend))
            .filter(|series| !series.is_empty())
            .collect();
        all.sort_by(|a, b| (&a.rule, &a.backend).cmp(&(&b.rule, &b.backend)));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn state_lives_as_long_as_its_settings() {
        let states = States::new(1);
        let (scope, backend): (Arc<str>, Arc<str>) = ("s".into(), "b".into());
        let settings = |percent| policy::Budget { percent, interval: Duration::from_secs(1), min_per_second: 1 };
        let first = states.budgets.get(&scope, &backend, &settings(10));
        states.sweep();
        assert!(Arc::ptr_eq(&first, &states.budgets.get(&scope, &backend, &settings(10))));
        let other = states.budgets.get(&scope, &backend, &settings(20));
        assert!(!Arc::ptr_eq(&first, &other));
        assert!(!Arc::ptr_eq(&first, &states.budgets.get(&scope, &scope, &settings(10))));
        drop((first, other));
        states.sweep();
        assert!(states.budgets.0.lock().is_empty());
    }

    #[test]
    fn counters_are_bounded() {
        let states = States::new(1);
        let name = |s: &str| -> Arc<str> { s.into() };
        let first = states.counts(&name("r"), &name("b"));
        let second = states.counts(&name("r"), &name("c"));
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &states.counts(&name("x"), &name("c"))));
        assert!(Arc::ptr_eq(&first, &states.counts(&name("r"), &name("b"))));
    }
}
