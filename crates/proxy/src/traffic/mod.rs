//! Traffic policies at work: whether a request is let through, to where, how often, and what is said if not.
//!
//! `states` makes of a [`crate::policy::Policy`] what a rule's requests share; `admit` is what a request that has one meets
//! before it is sent, `send` its way from there, `offer` what is sent of most requests. Each decision is a state machine of its own, with time as an argument: `rate`,
//! `shed`, `gate`, `breaker`, `retry`, `pick` over `maglev` and `outlier`; `replay` keeps what may have to be sent again.
//!
//! Invariants: a request of a rule without a policy meets nothing of this, not even a lock; state outlives snapshots while its
//! settings stay; every refusal has a reason that its caller is told.

mod admit;
mod breaker;
mod connect;
mod counts;
mod gate;
mod maglev;
mod offer;
mod outlier;
mod pick;
mod rate;
mod replay;
mod retry;
mod send;
mod shed;
#[cfg(test)]
mod simulation;
mod states;
mod window;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::COOKIE;

pub(crate) use connect::connect;
pub use counts::{PolicyEvent, PolicySeries};
pub(crate) use gate::Place;
pub(crate) use offer::Offer;
pub(crate) use replay::Reader;
pub(crate) use retry::Outcome;
pub(crate) use retry::is_safe;
pub(crate) use send::{Times, Tries, outcome, send};
pub(crate) use states::States;

use crate::balance::Backend;
use crate::endpoint::Ticket;
use crate::policy::{Algorithm, Balancing, Fallback, HashOn, Injection, Policy, RateKey, Retries, TryTimeouts};
use crate::request::Caller;
use breaker::Breaker;
use counts::Counts;
use gate::Gate;
use pick::Balancer;
use rate::Limiter;
use retry::Budget;
use shed::Shedder;

/// What the requests of one rule to one backend share.
pub(crate) struct Traffic {
    timeouts: TryTimeouts,
    retries: Option<(Retries, Arc<Budget>)>,
    breaker: Option<Arc<Breaker>>,
    gate: Option<Arc<Gate>>,
    limiters: Vec<Arc<Limiter>>,
    shedder: Option<Arc<Shedder>>,
    balancer: Option<Arc<Balancer>>,
    injections: Option<Vec<Injection>>,
    fallback: Option<Fallback>,
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
        // What limits a scope as a whole is shared by its backends.
        let whole: Arc<str> = Arc::default();
        let gate = policy.concurrency.as_ref().map(|part| states.gates.get(&part.scope, &whole, &part.settings));
        let shedder = policy.shedding.as_ref().map(|part| states.shedders.get(&part.scope, &whole, &part.settings));
        let limits = policy.limits.iter().flat_map(|part| part.settings.iter().map(|limit| (&part.scope, limit)));
        let limiters =
            limits.map(|(scope, limit)| states.limiters.get(scope, &format!("limit/{}", limit.name).into(), limit));
        Ok(Self {
            timeouts: policy.timeouts,
            retries,
            breaker,
            gate,
            limiters: limiters.collect(),
            shedder,
            balancer: balancer(policy, backend, states),
            injections: policy.injections.as_ref().map(|part| part.settings.clone()),
            fallback: policy.fallback.as_ref().map(|part| part.settings.clone()),
            counts: states.counts(rule, backend),
        })
    }

    /// The state of the circuit in a word, where there is one.
    pub(crate) fn circuit(&self, now: Instant) -> Option<&'static str> {
        self.breaker.as_ref().map(|breaker| breaker.word(now))
    }

    /// Whether something of it asks for a request's headers.
    pub(crate) fn asks_headers(&self) -> bool {
        let Self { limiters, shedder, balancer, injections, .. } = self;
        let by_header = |limiter: &Arc<Limiter>| matches!(limiter.settings().key, RateKey::Header(_));
        let hashes = balancer.as_ref().is_some_and(|balancer| {
            let on = &balancer.settings().balancing.algorithm;
            matches!(on, Algorithm::ConsistentHash(HashOn::Header(_) | HashOn::Cookie(_)))
        });
        shedder.is_some() || injections.is_some() || hashes || limiters.iter().any(by_header)
    }

    /// Chooses an endpoint.
    pub(crate) fn pick(
        &self,
        backend: &Backend,
        tried: &[SocketAddr],
        key: Option<u64>,
        now: impl FnOnce() -> Instant,
    ) -> Option<Ticket> {
        match &self.balancer {
            Some(balancer) => balancer.pick(backend, tried, key, now()),
            None => backend.pick(tried),
        }
    }

    /// What of a request decides to which endpoint it goes, where something does.
    pub(crate) fn key(&self, caller: &Caller, headers: &HeaderMap) -> Option<u64> {
        let Algorithm::ConsistentHash(on) = &self.balancer.as_ref()?.settings().balancing.algorithm else {
            return None;
        };
        let value = match on {
            HashOn::Header(name) => headers.get(name)?.as_bytes(),
            HashOn::Cookie(name) => cookie(headers, name)?.as_bytes(),
            HashOn::ClientAddress => caller.address.as_bytes(),
        };
        Some(maglev::hash(value))
    }
}

/// The value of a cookie (RFC 6265, 4.2).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let fields = headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
    let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(is, _)| *is == name).map(|(_, value)| value)
}

fn balancer(policy: &Policy, backend: &Arc<str>, states: &States) -> Option<Arc<Balancer>> {
    let scopes = [policy.balancing.as_ref().map(|part| &part.scope), policy.outliers.as_ref().map(|part| &part.scope)];
    let scopes: Vec<&str> = scopes.into_iter().flatten().map(|scope| &**scope).collect();
    if scopes.is_empty() {
        return None;
    }
    let default = || Balancing { algorithm: Algorithm::default(), slow_start: None };
    let settings = pick::Settings {
        balancing: policy.balancing.as_ref().map_or_else(default, |part| part.settings.clone()),
        outliers: policy.outliers.as_ref().map(|part| part.settings),
    };
    Some(states.balancers.get(&scopes.join(" ").into(), backend, &settings))
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
    if policy.limits.iter().flat_map(|part| &part.settings).any(|limit| limit.requests == 0 || limit.per.is_zero()) {
        return zero("rate limit");
    }
    Ok(())
}
