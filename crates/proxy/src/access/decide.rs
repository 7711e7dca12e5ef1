//! The decision itself: policies and facts to a verdict. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderValue;

use super::compile::Policy;
use super::evidence::Evidence;
use super::jwt::Flaw;
use super::policy::PolicyId;
use super::remote::RemoteSet;
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
    /// A rule would allow it with a token.
    TokenMissing,
    /// A token is not believed.
    TokenInvalid,
    /// A rule would allow it with a key.
    KeyMissing,
    /// A key is nobody's.
    KeyInvalid,
    /// What verifies tokens could not be had yet.
    KeysUnavailable,
    /// The service that decides does not know the caller.
    ExternalUnauthorized,
    /// The service that decides says no.
    ExternalDenied,
    /// The service that decides says nothing.
    ExternalUnavailable,
}

impl Reason {
    /// As it stands in answers, logs and counters.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Denied => "access_denied",
            Self::NotAllowed => "access_not_allowed",
            Self::Broken => "policy_invalid",
            Self::TokenMissing => "token_missing",
            Self::TokenInvalid => "token_invalid",
            Self::KeyMissing => "api_key_missing",
            Self::KeyInvalid => "api_key_invalid",
            Self::KeysUnavailable => "token_keys_unavailable",
            Self::ExternalUnauthorized => "external_unauthorized",
            Self::ExternalDenied => "external_denied",
            Self::ExternalUnavailable => "external_unavailable",
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
    /// What is wrong with what was shown.
    pub(crate) flaw: Option<String>,
    /// How the client can make itself known, in the words of a service that was asked.
    pub(crate) challenge: Option<HeaderValue>,
}

/// Why what a request shows is of no use.
pub(super) enum Trouble {
    /// It is refused.
    Refused(Reason, Option<String>),
    /// It can be told once these keys have been fetched anew.
    Wait(Arc<RemoteSet>),
}

impl From<Flaw> for Trouble {
    fn from(flaw: Flaw) -> Self {
        Self::Refused(Reason::TokenInvalid, Some(flaw.to_string()))
    }
}

impl From<Reason> for Trouble {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason, None)
    }
}

impl Verdict {
    pub(super) fn new(reason: Reason, policy: &Policy, rule: Option<Arc<str>>) -> Self {
        Self { reason, policy: policy.id.clone(), rule, flaw: None, challenge: None }
    }
}

/// Judges the policies of one place together, each by what it was shown.
pub(super) fn decide(policies: &[(&Policy, Evidence)], facts: &Facts<'_>) -> Result<(), Verdict> {
    let refused = |reason, policy: &Policy, rule| Err(Verdict::new(reason, policy, rule));
    if let Some((policy, _)) = policies.iter().find(|(policy, _)| policy.broken.is_some()) {
        return refused(Reason::Broken, policy, None);
    }
    // There is nothing that could be asked about bytes.
    let unasked = policies.iter().find(|(policy, _)| facts.request.is_none() && policy.external.is_some());
    if let Some((policy, _)) = unasked {
        return refused(Reason::NotAllowed, policy, None);
    }
    for (policy, evidence) in policies {
        if let Some(rule) = policy.deny.iter().find(|rule| rule.denies(policy, facts, evidence)) {
            return refused(Reason::Denied, policy, Some(rule.name.clone()));
        }
    }
    let Some((first, _)) = policies.iter().find(|(policy, _)| policy.allows_some_only) else { return Ok(()) };
    let rules =
        || policies.iter().flat_map(|(policy, shown)| policy.allow.iter().map(move |rule| (policy, shown, rule)));
    if rules().any(|(policy, shown, rule)| rule.allows(policy, facts, shown)) {
        return Ok(());
    }
    // Who only has to make themselves known is told so.
    if let Some((policy, reason)) = rules().find_map(|(policy, shown, rule)| Some((policy, rule.wants(facts, shown)?)))
    {
        return refused(reason, policy, None);
    }
    // The one that is about this place alone is named, where there is one: it is where a rule would be added.
    let named = policies.iter().rfind(|(policy, _)| !policy.allow.is_empty()).map_or(*first, |(policy, _)| *policy);
    refused(Reason::NotAllowed, named, None)
}
