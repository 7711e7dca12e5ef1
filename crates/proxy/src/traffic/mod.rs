//! Traffic policies at work: whether a request is let through, to where, how often, and what is said if not.
//!
//! `states` makes of a [`crate::policy::Policy`] what a rule's requests share; `send` is the path of a request that has
//! one. Each decision is a state machine of its own, with time as an argument: `breaker`, `retry`; `replay` keeps
//! what may have to be sent again.
//!
//! Invariants: a request of a rule without a policy meets nothing of this, not even a lock; state outlives snapshots while its
//! settings stay; every refusal has a reason that its caller is told.

mod breaker;
mod counts;
mod replay;
mod retry;
mod send;
mod states;
mod window;

use std::sync::Arc;

pub use counts::{PolicyEvent, PolicySeries};
pub(crate) use replay::Reader;
pub(crate) use retry::is_safe;
pub(crate) use send::send;
pub(crate) use states::States;

use crate::policy::{Policy, Retries, TryTimeouts};
use breaker::Breaker;
use counts::Counts;
use retry::Budget;

/// What the requests of one rule to one backend share.
pub(crate) struct Traffic {
    timeouts: TryTimeouts,
    retries: Option<(Retries, Arc<Budget>)>,
    breaker: Option<Arc<Breaker>>,
    counts: Arc<Counts>,
}

impl Traffic {
    /// Makes of a policy what is needed to follow it.
    pub(crate) fn compile(
        policy: &Policy,
        rule: &Arc<str>,
        backend: &Arc<str>,
        states: &States,
    ) -> Result<Self, String> {
        check(policy)?;
        let breaker = policy.breaker.as_ref().map(|b| states.breakers.get(&b.scope, backend, &b.settings));
        let retries = policy.retries.as_ref().map(|retries| {
            let budget = states.budgets.get(&retries.scope, backend, &retries.settings.budget);
            (retries.settings.clone(), budget)
        });
        Ok(Self { timeouts: policy.timeouts, retries, breaker, counts: states.counts(rule, backend) })
    }
}

/// What no policy may say.
fn check(policy: &Policy) -> Result<(), String> {
    let zero = |what: &str| Err(format!("the policy's {what} is zero"));
    if policy.retries.as_ref().is_some_and(|retries| retries.settings.budget.interval.is_zero()) {
        return zero("interval of the retry budget");
    }
    if policy.breaker.as_ref().is_some_and(|breaker| breaker.settings.window.is_zero()) {
        return zero("window of the circuit breaker");
    }
    if policy.breaker.as_ref().is_some_and(|breaker| breaker.settings.failure_percent == 0) {
        return zero("failure rate of the circuit breaker");
    }
    Ok(())
}
