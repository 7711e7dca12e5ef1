//! What a request shows for itself: tokens and keys, looked at as one policy says.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::decide::{Reason, Trouble};
use super::jwt::{self, Claims, Expected, Flaw, KeySet, Unverified};
use super::policy::{self, ApiKeys, TokenFrom};
use super::remote::RemoteSet;
use crate::route::{Candidate, query_values};

/// What a request has shown to one policy.
#[derive(Default)]
pub(super) struct Evidence {
    /// Tokens that are believed, by the place of their issuer.
    pub(super) tokens: Vec<(usize, Claims)>,
    /// The client whose key it has.
    pub(super) client: Option<Arc<str>>,
}

/// The issuers of a policy, with their keys.
pub(super) struct Issuers {
    pub(super) all: Vec<(policy::Issuer, Verifier)>,
}

/// What verifies the tokens of an issuer.
pub(super) enum Verifier {
    Here(KeySet),
    There(Arc<RemoteSet>),
}

/// What the backend gets to see, and what not.
#[derive(Default)]
pub(crate) struct Changes {
    pub(super) remove: Vec<HeaderName>,
    pub(super) set: Vec<(HeaderName, HeaderValue)>,
    pub(super) drop_query: Vec<Arc<str>>,
}

impl Issuers {
    /// The tokens of a request that are believed. One that is not is trouble.
    pub(super) fn examine(
        &self,
        request: &Candidate<'_>,
        now: Duration,
        waited: &[Arc<RemoteSet>],
    ) -> Result<Vec<(usize, Claims)>, Trouble> {
        let mut believed = Vec::new();
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for (issuer, _) in &self.all {
            for token in places(issuer).map(|from| find(request, &from)) {
                let Some(token) = token? else { continue };
                if seen.contains(&token) {
                    continue;
                }
                believed.push(self.verify(&token, request, now, waited)?);
                seen.push(token);
            }
        }
        Ok(believed)
    }

    fn verify(
        &self,
        token: &str,
        request: &Candidate<'_>,
        now: Duration,
        waited: &[Arc<RemoteSet>],
    ) -> Result<(usize, Claims), Trouble> {
        let unverified = Unverified::read(token)?;
        let at_home = |issuer: &policy::Issuer| {
            places(issuer).any(|from| find(request, &from).ok().flatten().is_some_and(|found| found == token))
        };
        let named = unverified.issuer().map(str::to_owned);
        let position =
            self.all.iter().position(|(issuer, _)| Some(&*issuer.name) == named.as_deref() && at_home(issuer));
        let position = position.ok_or(Flaw::Issuer)?;
        let (issuer, verifier) = &self.all[position];
        let expected = Expected {
            issuer: Some(&issuer.name),
            subjects: issuer.subjects.as_deref(),
            audiences: &issuer.audiences,
            leeway: issuer.leeway,
            now,
        };
        match verifier {
            Verifier::Here(keys) => Ok((position, unverified.verify(keys, &expected)?)),
            Verifier::There(set) => {
                let may_wait = || !waited.iter().any(|waited| Arc::ptr_eq(waited, set)) && set.may_change();
                let wait = || Trouble::Wait(Arc::clone(set));
                let Some(keys) = set.keys() else {
                    return Err(if may_wait() { wait() } else { Reason::KeysUnavailable.into() });
                };
                match unverified.verify(&keys, &expected) {
                    Err(Flaw::UnknownKey) if may_wait() => Err(wait()),
                    verified => Ok((position, verified?)),
                }
            }
        }
    }

    /// What the backend gets to see of tokens.
    pub(super) fn change(&self, evidence: &Evidence, changes: &mut Changes) {
        for (position, (issuer, _)) in self.all.iter().enumerate() {
            for (claim, header) in &issuer.told {
                changes.remove.push(header.clone());
                let shown = evidence.tokens.iter().filter(|(of, _)| *of == position);
                let values = shown.filter_map(|(_, claims)| jwt::header_value(jwt::lookup(claims, claim)?));
                changes.set.extend(values.take(1).map(|value| (header.clone(), value)));
            }
            if !issuer.forward {
                for from in places(issuer) {
                    match from {
                        TokenFrom::Header(name, _) => changes.remove.push(name),
                        TokenFrom::Query(name) => changes.drop_query.push(name),
                    }
                }
            }
        }
    }

    /// The headers that clients cannot send.
    pub(super) fn reserved(&self) -> impl Iterator<Item = &HeaderName> {
        self.all.iter().flat_map(|(issuer, _)| issuer.told.iter().map(|(_, header)| header))
    }
}

fn places(issuer: &policy::Issuer) -> impl Iterator<Item = TokenFrom> {
    let bearer = issuer.from.is_empty().then(|| TokenFrom::Header(AUTHORIZATION, "Bearer ".into()));
    issuer.from.iter().cloned().chain(bearer)
}

/// The token at a place. Several are trouble: the backend might look at another one than is looked at here.
fn find<'a>(request: &Candidate<'a>, from: &TokenFrom) -> Result<Option<Cow<'a, str>>, Flaw> {
    match from {
        TokenFrom::Header(name, prefix) => {
            let values = request.headers.map().get_all(name).iter().filter_map(|value| value.to_str().ok());
            let mut tokens = values.filter_map(|value| {
                let (start, token) = value.split_at_checked(prefix.len())?;
                start.eq_ignore_ascii_case(prefix).then(|| token.trim())
            });
            let first = tokens.next();
            if tokens.next().is_some() {
                return Err(Flaw::Malformed("there is more than one"));
            }
            Ok(first.filter(|token| !token.is_empty()).map(Cow::Borrowed))
        }
        TokenFrom::Query(name) => {
            let mut values = query_values(request.query.unwrap_or_default(), name);
            let first = values.next();
            if values.next().is_some() {
                return Err(Flaw::Malformed("there is more than one"));
            }
            Ok(first)
        }
    }
}

/// The client whose key a request has; none where it has none. A key of nobody's, or several, are trouble.
pub(super) fn client(keys: &ApiKeys, request: &Candidate<'_>) -> Result<Option<Arc<str>>, Trouble> {
    let by_header = keys.header.iter().flat_map(|name| request.headers.map().get_all(name).iter());
    let by_header = by_header.map(|value| Cow::Borrowed(value.as_bytes()));
    let by_query = keys.query.iter().flat_map(|name| query_values(request.query.unwrap_or_default(), name));
    let by_query = by_query.map(|value| Cow::Owned(value.into_owned().into_bytes()));
    let mut shown = by_header.chain(by_query);
    let Some(key) = shown.next() else { return Ok(None) };
    if shown.next().is_some() {
        return Err(Reason::KeyInvalid.into());
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, &key);
    let mut found = None;
    // All are looked at, each to its end: time tells nothing.
    for (client, known) in &keys.keys {
        let apart = known.iter().zip(digest.as_ref()).fold(0, |apart, (known, shown)| apart | (known ^ shown));
        if apart == 0 {
            found = Some(Arc::clone(client));
        }
    }
    found.map(Some).ok_or_else(|| Reason::KeyInvalid.into())
}

/// What the backend gets to see of keys.
pub(super) fn change_keys(keys: &ApiKeys, evidence: &Evidence, changes: &mut Changes) {
    if !keys.forward {
        changes.remove.extend(keys.header.clone());
        changes.drop_query.extend(keys.query.clone());
    }
    if let Some(told) = &keys.told {
        changes.remove.push(told.clone());
        let name = evidence.client.as_deref().and_then(|client| HeaderValue::from_str(client).ok());
        changes.set.extend(name.map(|name| (told.clone(), name)));
    }
}
