//! The decision itself: policies and facts to a verdict. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use super::compile::Policy;
use super::policy::PolicyId;
use super::written;
use crate::identity::Identity;
use crate::route::Candidate;

/// What is known about a request, or about a connection that carries something else.
pub(crate) struct Facts<'a> {
    /// Who calls, where somebody vouched for it.
    pub(super) identity: Option<&'a Identity>,
    /// The Gateways between the caller and this place.
    pub(super) through: &'a [Arc<str>],
    /// None for bytes that are no HTTP.
    pub(super) request: Option<Asked<'a>>,
}

/// What is asked for.
pub(super) struct Asked<'a> {
    pub(super) candidate: Candidate<'a>,
    /// The path without escapes and dots.
    pub(super) plain_path: Cow<'a, str>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(candidate: Candidate<'a>) -> Self {
        let plain_path = written::plain(candidate.path);
        Self { candidate, plain_path }
    }
}

/// Why something is refused, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// A rule denies it.
    Denied,
    /// No rule allows it.
    NotAllowed,
    /// A policy cannot be followed.
    Broken,
}

impl Reason {
    /// As it stands in answers, logs and counters.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Denied => "access_denied",
            Self::NotAllowed => "access_not_allowed",
            Self::Broken => "policy_invalid",
        }
    }
}

/// A refusal, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: Reason,
    pub(crate) policy: PolicyId,
    /// The rule that denies.
    pub(crate) rule: Option<Arc<str>>,
}

/// Judges the policies of one place together.
pub(super) fn decide(policies: &[Arc<Policy>], facts: &Facts<'_>) -> Result<(), Verdict> {
    let refused = |reason, policy: &Policy, rule| Err(Verdict { reason, policy: policy.id.clone(), rule });
    if let Some(policy) = policies.iter().find(|policy| policy.broken.is_some()) {
        return refused(Reason::Broken, policy, None);
    }
    for policy in policies {
        if let Some(rule) = policy.deny.iter().find(|rule| rule.denies(facts)) {
            return refused(Reason::Denied, policy, Some(rule.name.clone()));
        }
    }
    let Some(first) = policies.iter().find(|policy| policy.allows_some_only) else { return Ok(()) };
    let mut allowing = policies.iter().flat_map(|policy| &policy.allow);
    if allowing.any(|rule| rule.allows(facts)) {
        return Ok(());
    }
    // The one that is about this place alone is named, where there is one: it is where a rule would be added.
    let named = policies.iter().rfind(|policy| !policy.allow.is_empty()).unwrap_or(first);
    refused(Reason::NotAllowed, named, None)
}
