//! One request on its way through places, and connections that carry something else.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri, request};

use super::compile::Policy;
use super::decide::{Asked, Facts, Reason, Trouble, Verdict, decide};
use super::evidence::{self, Changes, Evidence};
use super::external;
use super::place::LivePlace;
use super::refusal::{self, Audit, Occasion};
use super::remote::RemoteSet;
use crate::answer::Fault;
use crate::balance::Backend;
use crate::explain::Refusal;
use crate::filter;
use crate::headers::REQUEST_ID;
use crate::identity::{Client, Identity};
use crate::request::Caller;
use crate::route::{Candidate, Choice, Guard, Rule, query_without};

/// What a request has been let in by so far, so that it is asked by each place once.
#[derive(Default)]
pub(crate) struct Visit {
    passed: Vec<Arc<LivePlace>>,
    /// Key sets that were waited for; what they don't have then, they don't have.
    waited: Vec<Arc<RemoteSet>>,
    /// What services that decide have answered, by policy.
    answers: Vec<(Arc<Policy>, external::Answer)>,
    changes: Changes,
    /// The rule whose backend was drawn, and which: a second look draws no other.
    drawn: Option<(Arc<Rule>, usize)>,
}

/// Why a request does not pass, or not yet.
pub(crate) enum Stop {
    Refused(Fault),
    /// It can be told after this.
    Wait(Wait),
}

/// Something to be waited for.
pub(crate) struct Wait(For);

enum For {
    Keys(Arc<RemoteSet>),
    Answer(Arc<Policy>),
}

impl Visit {
    /// Passes the places of a rule.
    pub(crate) fn meet(
        &mut self,
        caller: &Caller,
        rule: &Rule,
        parts: &request::Parts,
        id: &HeaderValue,
    ) -> Result<(), Stop> {
        let candidate = Candidate::new(&parts.method, &parts.uri, &parts.headers);
        // The Gateways of a rule are met here themselves: they are not between the caller and this place.
        rule.guard.places.iter().try_for_each(|place| self.pass(caller, place, &[], &candidate, id))
    }

    /// Passes the place of a backend that a rule sends to.
    pub(crate) fn reach(
        &mut self,
        caller: &Caller,
        rule: &Rule,
        choice: &Choice,
        place: &Arc<LivePlace>,
        parts: &request::Parts,
        id: &HeaderValue,
    ) -> Result<(), Stop> {
        let through = &rule.guard.through;
        if rule.filters.is_empty() && choice.filters.is_empty() {
            let candidate = Candidate::new(&parts.method, &parts.uri, &parts.headers);
            return self.pass(caller, place, through, &candidate, id);
        }
        // It is judged as the backend will get it.
        let (mut uri, mut headers) = (parts.uri.clone(), parts.headers.clone());
        filter::change_request(&rule.filters, rule.prefix.as_ref(), &mut uri, &mut headers);
        filter::change_request(&choice.filters, rule.prefix.as_ref(), &mut uri, &mut headers);
        self.pass(caller, place, through, &Candidate::new(&parts.method, &uri, &headers), id)
    }

    /// The backend that was drawn for a rule before.
    pub(crate) fn drawn(&self, rule: &Arc<Rule>) -> Option<usize> {
        self.drawn.as_ref().filter(|(before, _)| Arc::ptr_eq(before, rule)).map(|(_, place)| *place)
    }

    /// Waits for what a place has to wait for, to be judged by it again.
    pub(crate) async fn wait(
        &mut self,
        (caller, parts, id): (&Caller, &request::Parts, &HeaderValue),
        rule: Option<(Arc<Rule>, usize)>,
        Wait(what): Wait,
    ) {
        self.drawn = rule.or_else(|| self.drawn.take());
        match what {
            For::Keys(set) => {
                set.renewed().await;
                self.waited.push(set);
            }
            For::Answer(policy) => {
                // It was its asker that made it wait.
                let Some(asker) = &policy.external else { return };
                let answer = external::ask(caller, &policy, asker, parts, id).await;
                self.answers.push((policy, answer));
            }
        }
    }

    /// What the backend gets to see.
    pub(crate) fn into_changes(self) -> Option<Box<Changes>> {
        let changes = self.changes;
        let none = changes.remove.is_empty() && changes.set.is_empty() && changes.drop_query.is_empty();
        (!none).then(|| Box::new(changes))
    }

    fn pass(
        &mut self,
        caller: &Caller,
        place: &Arc<LivePlace>,
        through: &[Arc<str>],
        candidate: &Candidate<'_>,
        id: &HeaderValue,
    ) -> Result<(), Stop> {
        if self.passed.iter().any(|passed| Arc::ptr_eq(passed, place)) {
            return Ok(());
        }
        let policies = place.policies();
        if !policies.is_empty() {
            let headers = self.as_seen(&policies, candidate.headers.map());
            let candidate = Candidate { headers: (&*headers).into(), ..*candidate };
            let identity = caller.identity.as_deref();
            let facts = Facts { identity, through, request: Some(Asked::new(candidate)) };
            self.judge(&policies, &facts, &candidate).map_err(|stop| match stop {
                Halt::Wait(set) => Stop::Wait(Wait(For::Keys(set))),
                Halt::Ask(policy) => Stop::Wait(Wait(For::Answer(policy))),
                Halt::Refused(verdict) => {
                    let occasion = Occasion {
                        place: &place.id,
                        identity,
                        peer: caller.address.to_str().unwrap_or_default(),
                        method: candidate.method.as_str(),
                        path: candidate.path,
                        request_id: id.to_str().unwrap_or_default(),
                    };
                    caller.shared.audit.note(&verdict, &occasion);
                    Stop::Refused(refusal::fault(&verdict))
                }
            })?;
        }
        self.passed.push(Arc::clone(place));
        Ok(())
    }

    /// The headers as a place sees them: with those that places before it have set, and without those that only policies set.
    fn as_seen<'h>(&self, policies: &[Arc<Policy>], headers: &'h HeaderMap) -> Cow<'h, HeaderMap> {
        let issuers = policies.iter().filter_map(|policy| policy.issuers.as_ref());
        let keys = policies.iter().filter_map(|policy| policy.keys.as_ref());
        let external = policies.iter().filter_map(|policy| policy.external.as_ref());
        let reserved = issuers.flat_map(evidence::Issuers::reserved).chain(keys.filter_map(|keys| keys.told.as_ref()));
        let reserved = reserved.chain(external.flat_map(|asker| &asker.says.to_backend));
        let mut seen = Cow::Borrowed(headers);
        if !self.changes.set.is_empty() {
            let seen = seen.to_mut();
            // A token that goes no further than the place that took it is still there for the next one.
            for (name, value) in &self.changes.set {
                seen.insert(name.clone(), value.clone());
            }
        }
        for name in reserved.filter(|name| headers.contains_key(*name)) {
            seen.to_mut().remove(name);
        }
        seen
    }

    fn judge(&mut self, policies: &[Arc<Policy>], facts: &Facts<'_>, candidate: &Candidate<'_>) -> Result<(), Halt> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let shown = policies.iter().map(|policy| Ok((&**policy, self.examine(policy, candidate, now)?)));
        let shown = shown.collect::<Result<Vec<_>, Halt>>()?;
        decide(&shown, facts).map_err(Halt::Refused)?;
        let mut answered = Changes::default();
        for policy in policies {
            let Some(asker) = &policy.external else { continue };
            let answer = self.answers.iter().find(|(of, _)| Arc::ptr_eq(of, policy)).map(|(_, answer)| answer);
            let answer = answer.ok_or_else(|| Halt::Ask(Arc::clone(policy)))?;
            let set = answer.as_ref().map_err(|verdict| Halt::Refused(verdict.clone()))?;
            answered.remove.extend(asker.says.to_backend.iter().cloned());
            answered.set.extend(set.iter().cloned());
        }
        self.changes.remove.append(&mut answered.remove);
        self.changes.set.append(&mut answered.set);
        for (policy, evidence) in &shown {
            if let Some(issuers) = &policy.issuers {
                issuers.change(evidence, &mut self.changes);
            }
            if let Some(keys) = &policy.keys {
                evidence::change_keys(keys, evidence, &mut self.changes);
            }
        }
        Ok(())
    }

    /// What a request shows to a policy.
    fn examine(&self, policy: &Policy, candidate: &Candidate<'_>, now: Duration) -> Result<Evidence, Halt> {
        if policy.broken.is_some() {
            return Ok(Evidence::default());
        }
        let examined = || {
            let tokens = match &policy.issuers {
                Some(issuers) => issuers.examine(candidate, now, &self.waited)?,
                None => Vec::new(),
            };
            let client = match &policy.keys {
                Some(keys) => evidence::client(keys, candidate)?,
                None => None,
            };
            Ok(Evidence { tokens, client })
        };
        examined().map_err(|trouble| match trouble {
            Trouble::Wait(set) => Halt::Wait(set),
            Trouble::Refused(reason, flaw) => Halt::Refused(Verdict { flaw, ..Verdict::new(reason, policy, None) }),
        })
    }
}

/// Why judging did not come to a good end.
enum Halt {
    Refused(Verdict),
    Wait(Arc<RemoteSet>),
    Ask(Arc<Policy>),
}

impl Changes {
    /// Makes them, on what the backend gets.
    pub(crate) fn apply(&self, uri: &mut Uri, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(query) = uri.query()
            && !self.drop_query.is_empty()
        {
            let kept = query_without(query, &self.drop_query);
            let target = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{kept}", uri.path()) };
            // It is a part of what was valid, and so is valid.
            if let Ok(target) = PathAndQuery::try_from(target) {
                *uri = Uri::from(target);
            }
        }
    }
}

/// Whether a copy of a request may go to a backend too. Its parts are as the backend will get them. Such a copy waits for
/// nothing: where that would be needed, there is none.
pub(crate) fn admits_copy(caller: &Caller, rule: &Rule, backend: &Backend, parts: &request::Parts) -> bool {
    let Some(place) = backend.place() else { return true };
    let candidate = Candidate::new(&parts.method, &parts.uri, &parts.headers);
    let id = parts.headers.get(REQUEST_ID).cloned().unwrap_or(HeaderValue::from_static("-"));
    Visit::default().pass(caller, &place, &rule.guard.through, &candidate, &id).is_ok()
}

/// Why a place would not let a request pass that is only thought of. Nothing is noted.
pub(crate) fn judge(
    place: &Arc<LivePlace>,
    identity: Option<&Identity>,
    through: &[Arc<str>],
    candidate: &Candidate<'_>,
) -> Option<Refusal> {
    let policies = place.policies();
    let headers = Visit::default().as_seen(&policies, candidate.headers.map());
    let candidate = Candidate { headers: (&*headers).into(), ..*candidate };
    let facts = Facts { identity, through, request: Some(Asked::new(candidate)) };
    let verdict = match Visit::default().judge(&policies, &facts, &candidate) {
        // Nobody is asked either about what is only thought of.
        Ok(()) | Err(Halt::Ask(_)) => return None,
        Err(Halt::Refused(verdict)) => verdict,
        // Nothing is waited for here.
        Err(Halt::Wait(_)) => Verdict::new(Reason::KeysUnavailable, policies.first()?, None),
    };
    let (place, reason) = (Arc::clone(&place.id), verdict.reason.word());
    Some(Refusal { place, policy: verdict.policy, rule: verdict.rule, reason })
}

/// Whether a place lets a request in for what is known of it already, and without a change to it. To any other it may say no or not; who asks it
/// as all others are asked ([`Visit`]) learns that, and has it noted.
pub(crate) fn lets_in(
    place: &LivePlace,
    identity: Option<&Identity>,
    through: &[Arc<str>],
    candidate: &Candidate<'_>,
) -> bool {
    let policies = place.policies();
    if policies.is_empty() {
        return true;
    }
    if policies.iter().any(|policy| policy.looks_further()) {
        return false;
    }
    let facts = Facts { identity, through, request: Some(Asked::new(*candidate)) };
    let decided = match &policies[..] {
        [only] => decide(&[(&**only, Evidence::default())], &facts),
        many => decide(&many.iter().map(|policy| (&**policy, Evidence::default())).collect::<Vec<_>>(), &facts),
    };
    decided.is_ok()
}

/// A connection that carries no HTTP has been let in.
pub(crate) struct Admitted(());

/// Whether a connection that carries no HTTP may go on to a backend, past the guard of its server name where it has one.
pub(crate) fn admits(audit: &Audit, client: &Client, guard: Option<&Guard>, backend: &Backend) -> Option<Admitted> {
    let identity = client.identity.as_deref();
    let through = guard.map(|guard| &*guard.through).unwrap_or_default();
    let own = backend.place();
    let first = guard.into_iter().flat_map(|guard| &guard.places).map(|place| (place, &[][..]));
    let mut places = first.chain(own.as_ref().map(|place| (place, through)));
    let all = places.all(|(place, through)| {
        let Err(verdict) = unread(place, identity, through) else { return true };
        let peer = client.peer.ip().to_canonical().to_string();
        let place = &*place.id;
        audit.note(&verdict, &Occasion { place, identity, peer: &peer, method: "", path: "", request_id: "" });
        false
    });
    all.then_some(Admitted(()))
}

/// The same of a connection that is only thought of: why a place would close it. Nothing is noted.
pub(crate) fn judge_connection(
    place: &Arc<LivePlace>,
    identity: Option<&Identity>,
    through: &[Arc<str>],
) -> Option<Refusal> {
    let verdict = unread(place, identity, through).err()?;
    let (place, reason) = (Arc::clone(&place.id), verdict.reason.word());
    Some(Refusal { place, policy: verdict.policy, rule: verdict.rule, reason })
}

/// What a place says of a connection in which no request can be read.
fn unread(place: &LivePlace, identity: Option<&Identity>, through: &[Arc<str>]) -> Result<(), Verdict> {
    let policies = place.policies();
    let nothing: Vec<_> = policies.iter().map(|policy| (&**policy, Evidence::default())).collect();
    decide(&nothing, &Facts { identity, through, request: None })
}
