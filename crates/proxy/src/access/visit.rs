//! One request on its way through places, and connections that carry something else.

use std::sync::Arc;

use http::header::HeaderValue;
use http::request;

use super::decide::{Asked, Facts, decide};
use super::place::LivePlace;
use super::refusal::{self, Audit, Occasion};
use crate::answer::Fault;
use crate::balance::Backend;
use crate::explain::Refusal;
use crate::filter;
use crate::headers::REQUEST_ID;
use crate::identity::{Client, Identity};
use crate::request::Caller;
use crate::route::{Candidate, Choice, Guard, Rule};

/// What a request has been let in by so far, so that it is asked by each place once.
#[derive(Default)]
pub(crate) struct Visit {
    passed: Vec<Arc<LivePlace>>,
}

impl Visit {
    /// Passes the places of a rule.
    pub(crate) fn meet(
        &mut self,
        caller: &Caller,
        rule: &Rule,
        candidate: &Candidate<'_>,
        id: &HeaderValue,
    ) -> Result<(), Fault> {
        // The Gateways of a rule are met here themselves: they are not between the caller and this place.
        rule.guard.places.iter().try_for_each(|place| self.pass(caller, place, &[], candidate, id))
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
    ) -> Result<(), Fault> {
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

    fn pass(
        &mut self,
        caller: &Caller,
        place: &Arc<LivePlace>,
        through: &[Arc<str>],
        candidate: &Candidate<'_>,
        id: &HeaderValue,
    ) -> Result<(), Fault> {
        if self.passed.iter().any(|passed| Arc::ptr_eq(passed, place)) {
            return Ok(());
        }
        let policies = place.policies();
        if !policies.is_empty() {
            let identity = caller.identity.as_deref();
            let facts = Facts { identity, through, request: Some(Asked::new(*candidate)) };
            decide(&policies, &facts).map_err(|verdict| {
                let occasion = Occasion {
                    place: &place.id,
                    identity,
                    peer: caller.address.to_str().unwrap_or_default(),
                    method: candidate.method.as_str(),
                    path: candidate.path,
                    request_id: id.to_str().unwrap_or_default(),
                };
                caller.shared.audit.note(&verdict, &occasion);
                refusal::fault(&verdict)
            })?;
        }
        self.passed.push(Arc::clone(place));
        Ok(())
    }
}

/// Whether a copy of a request may go to a backend too. Its parts are as the backend will get them.
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
    let facts = Facts { identity, through, request: Some(Asked::new(*candidate)) };
    let verdict = decide(&place.policies(), &facts).err()?;
    let (place, reason) = (Arc::clone(&place.id), verdict.reason.word());
    Some(Refusal { place, policy: verdict.policy, rule: verdict.rule, reason })
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
        let policies = place.policies();
        let judged = decide(&policies, &Facts { identity, through, request: None });
        let Err(verdict) = judged else { return true };
        let peer = client.peer.ip().to_canonical().to_string();
        let place = &*place.id;
        audit.note(&verdict, &Occasion { place, identity, peer: &peer, method: "", path: "", request_id: "" });
        false
    });
    all.then_some(Admitted(()))
}
