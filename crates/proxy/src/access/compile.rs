//! Policies made ready to be judged: expressions compiled, patterns read.

use std::sync::Arc;

use http::{HeaderName, Method};

use super::decide::{Facts, Reason};
use super::evidence::{Evidence, Issuers, Verifier};
use super::external::Asker;
use super::jwt::{KeySet, lookup};
use super::place::Sets;
use super::policy::{self, AccessRule, ApiKeys, Effect, Keys, TokenMatch};
use crate::identity::Identity;
use crate::route::{PathCondition, ValueCondition, whole};

/// A policy, ready to be judged.
pub(crate) struct Policy {
    pub(super) id: policy::PolicyId,
    pub(super) broken: Option<Arc<str>>,
    pub(super) issuers: Option<Issuers>,
    pub(super) keys: Option<ApiKeys>,
    pub(super) external: Option<Asker>,
    pub(super) allow: Vec<Rule>,
    pub(super) deny: Vec<Rule>,
    /// Whether what no rule allows is to be refused.
    pub(super) allows_some_only: bool,
}

pub(super) struct Rule {
    pub(super) name: Arc<str>,
    from: Vec<Source>,
    methods: Vec<Method>,
    paths: Vec<PathCondition>,
    headers: Vec<(HeaderName, ValueCondition)>,
    token: Option<TokenMatch>,
    clients: Option<Vec<Arc<str>>>,
}

enum Source {
    Exact(Arc<str>),
    /// What stands before and after the only place where there may be something else, and whether that may have several segments.
    Between(Box<str>, Box<str>, bool),
    Pattern(regex::Regex),
    Gateway(Arc<str>),
}

impl Policy {
    /// Compiles, or says what cannot be.
    pub(super) fn compile(id: &policy::PolicyId, from: &policy::Policy, sets: &mut Sets) -> Result<Self, String> {
        let of = |effect| {
            let rules = from.rules.iter().filter(move |rule| rule.effect == effect);
            rules.map(Rule::compile).collect::<Result<Vec<_>, _>>()
        };
        let (allow, deny) = (of(Effect::Allow)?, of(Effect::Deny)?);
        let allows_some_only = !allow.is_empty() || deny.is_empty();
        let issuers = from.jwt.as_ref().map(|jwt| issuers(jwt, sets)).transpose()?;
        let (broken, keys) = (from.broken.clone(), from.keys.clone());
        let external = from.external.as_ref().map(|says| sets.asker(says)).transpose()?;
        Ok(Self { id: id.clone(), broken, issuers, keys, external, allow, deny, allows_some_only })
    }

    /// Whether it looks at what a request shows for itself, or asks others about it. Such a policy may also change what the backend gets.
    pub(super) fn looks_further(&self) -> bool {
        self.issuers.is_some() || self.keys.is_some() || self.external.is_some()
    }
}

impl Rule {
    fn compile(from: &AccessRule) -> Result<Self, String> {
        let named = |error: String| format!("rule {}: {error}", from.name);
        let compiled = || {
            Ok(Self {
                name: from.name.clone(),
                from: from.from.iter().map(Source::compile).collect::<Result<_, String>>()?,
                methods: from.methods.clone(),
                token: from.token.clone(),
                clients: from.clients.clone(),
                paths: from.paths.iter().map(PathCondition::compile).collect::<Result<_, String>>()?,
                headers: from
                    .headers
                    .iter()
                    .map(|header| Ok((header.name.clone(), ValueCondition::compile(&header.value)?)))
                    .collect::<Result<_, String>>()?,
            })
        };
        compiled().map_err(named)
    }

    /// Whether the rule allows this.
    pub(super) fn allows(&self, policy: &Policy, facts: &Facts<'_>, evidence: &Evidence) -> bool {
        self.allows_beside_evidence(facts) && self.is_shown(policy, evidence)
    }

    /// What is missing that the rule would allow this with.
    pub(super) fn wants(&self, facts: &Facts<'_>, evidence: &Evidence) -> Option<Reason> {
        if !self.allows_beside_evidence(facts) {
            return None;
        }
        let token = self.token.is_some() && evidence.tokens.is_empty();
        let key = self.clients.is_some() && evidence.client.is_none();
        if token { Some(Reason::TokenMissing) } else { key.then_some(Reason::KeyMissing) }
    }

    /// Whether the token and the key are there that the rule asks for.
    fn is_shown(&self, policy: &Policy, evidence: &Evidence) -> bool {
        let issuer = |position: &usize| policy.issuers.as_ref().map(|issuers| &issuers.all[*position].0.name);
        let token = self.token.as_ref().is_none_or(|wanted| {
            evidence.tokens.iter().any(|(position, claims)| {
                wanted.issuer.as_ref().is_none_or(|wanted| issuer(position) == Some(wanted))
                    && wanted
                        .claims
                        .iter()
                        .all(|(name, condition)| lookup(claims, name).is_some_and(|value| condition.holds(value)))
            })
        });
        let client = evidence.client.as_ref();
        let known =
            |clients: &Vec<Arc<str>>| client.is_some_and(|client| clients.is_empty() || clients.contains(client));
        token && self.clients.as_ref().is_none_or(known)
    }

    fn allows_beside_evidence(&self, facts: &Facts<'_>) -> bool {
        let from = self.from.is_empty() || self.from.iter().any(|source| source.is_next(facts));
        from && match &facts.request {
            Some(request) => {
                self.holds_beside_path(request)
                    && (self.paths.is_empty()
                        || (self.paths.iter().any(|path| path.holds(request.candidate.path))
                            && self.paths.iter().any(|path| path.holds(&request.plain_path))))
            }
            // What is no HTTP has no method, path or header that could be allowed.
            None => {
                let told = self.token.is_none() && self.clients.is_none();
                told && self.methods.is_empty() && self.paths.is_empty() && self.headers.is_empty()
            }
        }
    }

    /// Whether the rule denies this.
    pub(super) fn denies(&self, policy: &Policy, facts: &Facts<'_>, evidence: &Evidence) -> bool {
        let from = self.from.is_empty() || self.from.iter().any(|source| source.is_any(facts));
        from && match &facts.request {
            Some(request) => {
                let path = |path: &PathCondition| path.holds(request.candidate.path) || path.holds(&request.plain_path);
                self.holds_beside_path(request)
                    && (self.paths.is_empty() || self.paths.iter().any(path))
                    && self.is_shown(policy, evidence)
            }
            // What cannot be told is taken for what is denied.
            None => true,
        }
    }

    fn holds_beside_path(&self, request: &super::decide::Asked<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.candidate.method))
            && self.headers.iter().all(|(name, value)| value.holds_for_header(name, &request.candidate))
    }
}

impl Source {
    fn compile(from: &policy::Source) -> Result<Self, String> {
        Ok(match from {
            policy::Source::Gateway(name) => Self::Gateway(name.clone()),
            policy::Source::Id(id) if !id.contains('*') => Self::Exact(id.clone()),
            policy::Source::Id(pattern) => Self::pattern(pattern)?,
        })
    }

    fn pattern(pattern: &str) -> Result<Self, String> {
        let any = if pattern.contains("**") { "**" } else { "*" };
        Ok(match pattern.split_once(any) {
            // Most are of this form, and told without an expression.
            Some((before, after)) if !before.contains('*') && !after.contains('*') => {
                Self::Between(before.into(), after.into(), any == "**")
            }
            _ => Self::Pattern(expression(pattern)?),
        })
    }

    fn names(&self, identity: &Identity) -> bool {
        match self {
            Self::Exact(id) => **id == *identity.id,
            Self::Between(before, after, segments) => {
                let rest = identity.id.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**after));
                rest.is_some_and(|between| *segments || !between.contains('/'))
            }
            Self::Pattern(expression) => expression.is_match(&identity.id),
            Self::Gateway(_) => false,
        }
    }

    /// Whether it is the one that this place is called by: behind Gateways the Gateway, else the workload.
    fn is_next(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Gateway(name) => facts.through.contains(name),
            _ => facts.through.is_empty() && facts.identity.is_some_and(|identity| self.names(identity)),
        }
    }

    /// Whether it is anyone on the way.
    fn is_any(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Gateway(name) => facts.through.contains(name),
            _ => facts.identity.is_some_and(|identity| self.names(identity)),
        }
    }
}

fn issuers(jwt: &policy::Jwt, sets: &mut Sets) -> Result<Issuers, String> {
    let all = jwt.issuers.iter().map(|issuer| {
        let verifier = match &issuer.keys {
            Keys::Here(text) => {
                let bad = |error| format!("issuer {}: its keys cannot be used: {error}", issuer.name);
                Verifier::Here(KeySet::parse(text.as_bytes()).map_err(bad)?)
            }
            Keys::There(from) => Verifier::There(sets.get(from)),
        };
        Ok((issuer.clone(), verifier))
    });
    Ok(Issuers { all: all.collect::<Result<_, String>>()? })
}

fn expression(pattern: &str) -> Result<regex::Regex, String> {
    let anything: Vec<String> =
        pattern.split("**").map(|part| part.split('*').map(regex::escape).collect::<Vec<_>>().join("[^/]*")).collect();
    whole(&anything.join(".*"))
}
