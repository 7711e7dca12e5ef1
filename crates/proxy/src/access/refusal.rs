//! What becomes of a refusal: the answer, a line in the log, a counter.
//!
//! Invariants: a client is told that and why it is refused, not by whose rule; the log has a bound of lines a second, and says
//! how many it has left out; counters are bounded, further ones are counted together.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use parking_lot::Mutex;

use super::decide::{Reason, Verdict};
use super::policy::PolicyId;
use crate::answer::Fault;
use crate::identity::Identity;
use crate::told::Told;

/// How many counters there are at most.
const COUNTERS: usize = 2_000;

/// How often one policy has refused for one reason; or one listener at its door, where no policy is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusals {
    /// The policy's id, or the listener's; `*` where there are too many.
    pub policy: PolicyId,
    /// The reason, such as `access_denied`.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
}

/// Writes refusals down and counts them.
pub(crate) struct Audit {
    told: Told,
    counts: Mutex<HashMap<(PolicyId, &'static str), u64>>,
}

/// Where and for whom something was refused.
pub(super) struct Occasion<'a> {
    pub(super) place: &'a str,
    pub(super) identity: Option<&'a Identity>,
    pub(super) peer: &'a str,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) request_id: &'a str,
}

impl Audit {
    pub(crate) fn new() -> Self {
        Self { told: Told::new(), counts: Mutex::default() }
    }

    /// Counts a refusal, and writes it down.
    pub(super) fn note(&self, verdict: &Verdict, on: &Occasion<'_>) {
        self.count(&verdict.policy, verdict.reason.word());
        let Some(left_out) = self.told.one() else { return };
        let caller = on.identity.map_or("unknown", |identity| &*identity.id);
        let rule = verdict.rule.as_deref().unwrap_or_default();
        let flaw = verdict.flaw.as_deref().unwrap_or_default();
        let (policy, reason) = (&*verdict.policy, verdict.reason.word());
        let Occasion { place, peer, method, path, request_id, .. } = on;
        match verdict.reason {
            Reason::Broken | Reason::KeysUnavailable | Reason::ExternalUnavailable => tracing::warn!(
                target: "proxy::access",
                policy, rule, reason, flaw, caller, peer, place, method, path, request_id, left_out, "refused"
            ),
            _ => tracing::info!(
                target: "proxy::access",
                policy, rule, reason, flaw, caller, peer, place, method, path, request_id, left_out, "refused"
            ),
        }
    }

    /// Counts a refusal by a policy, or by a listener that lets in nobody but those it can know.
    pub(crate) fn count(&self, by: &PolicyId, reason: &'static str) {
        let mut counts = self.counts.lock();
        let key = (Arc::clone(by), reason);
        let known = counts.contains_key(&key) || counts.len() < COUNTERS;
        *counts.entry(if known { key } else { ("*".into(), reason) }).or_default() += 1;
    }

    pub(crate) fn read(&self) -> Vec<Refusals> {
        let one = |((policy, reason), count): (&(PolicyId, &'static str), &u64)| Refusals {
            policy: policy.clone(),
            reason,
            count: *count,
        };
        let mut all: Vec<Refusals> = self.counts.lock().iter().map(one).collect();
        all.sort();
        all
    }
}

/// What the client is told.
pub(super) fn fault(verdict: &Verdict) -> Fault {
    let reason = verdict.reason.word();
    let unauthorized = |detail: String, challenge: String| {
        let fault = Fault::new(StatusCode::UNAUTHORIZED, reason, detail);
        // It is made of words of our own; what a client wrote is escaped by then.
        HeaderValue::try_from(challenge)
            .map_or_else(|_| fault.clone(), |value| fault.clone().with(WWW_AUTHENTICATE, value))
    };
    match verdict.reason {
        Reason::TokenMissing => unauthorized("A bearer token is needed.".into(), "Bearer".into()),
        Reason::TokenInvalid => {
            let flaw = verdict.flaw.as_deref().unwrap_or("the token is not accepted");
            let quoted = flaw.replace(['"', '\\'], "'");
            let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{quoted}\"");
            unauthorized(format!("The request is refused: {flaw}."), challenge)
        }
        Reason::KeyMissing => unauthorized("An API key is needed.".into(), "ApiKey".into()),
        Reason::KeyInvalid => unauthorized("The API key is not one that is accepted.".into(), "ApiKey".into()),
        Reason::ExternalUnauthorized => {
            let fault = Fault::new(StatusCode::UNAUTHORIZED, reason, "The request is not authorized.");
            match &verdict.challenge {
                Some(challenge) => fault.with(WWW_AUTHENTICATE, challenge.clone()),
                None => fault,
            }
        }
        Reason::ExternalDenied => Fault::new(StatusCode::FORBIDDEN, reason, "The request is not allowed."),
        Reason::ExternalUnavailable => Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            reason,
            "The service that decides about requests gave no answer; try again.",
        ),
        Reason::KeysUnavailable => Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            reason,
            "The keys that verify tokens could not be fetched yet; try again.",
        ),
        Reason::Denied => Fault::new(StatusCode::FORBIDDEN, reason, "A rule of this service denies the request."),
        Reason::NotAllowed => {
            Fault::new(StatusCode::FORBIDDEN, reason, "No rule of this service allows the request for this caller.")
        }
        Reason::Broken => Fault::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            reason,
            "A policy of this service cannot be followed, so nothing is let in; its status says why.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_bounded() {
        let audit = Audit::new();
        for n in 0..COUNTERS + 5 {
            audit.count(&n.to_string().into(), Reason::Denied.word());
        }
        let read = audit.read();
        assert_eq!(read.len(), COUNTERS + 1);
        assert_eq!(read[0], Refusals { policy: "*".into(), reason: "access_denied", count: 5 });
    }
}
