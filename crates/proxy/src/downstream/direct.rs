//! Requests that are passed on as they came: by rules that change nothing, to endpoints of HTTP/1.1. Their headers, and those of most of
//! their answers, are written from where they land to where they go (`asking.rs`); of clients of HTTP/1.1, neither is ever made a map.
//!
//! Invariants: what is not of that kind is left to `request.rs` before anything of it was sent, counted or noted, and so is what a policy does not let
//! in; both ways say, count and repeat the same. A request of this kind has no body and may be repeated (see `head.rs`). What the client speaks is
//! its own affair ([`Passable`], [`Form`]).

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, Response, StatusCode, Version};

use super::asking::{Asking, Came, Form};
use super::head::Says;
use super::onward::{self, Told};
use crate::access::{LivePlace, lets_in};
use crate::answer::{Fault, Kind};
use crate::endpoint::Ticket;
use crate::headers;
use crate::observe::{Observation, Seen, Whom};
use crate::patience::Patience;
use crate::request::{self, Caller};
use crate::route::{Action, Candidate, Headers, Later, Rule};
use crate::snapshot::Forwarded;

/// A request on its way.
pub(crate) struct Passing {
    method: Method,
    /// Its head, as endpoints get it.
    head: onward::Head,
    /// Whether its client is outside, where it is told the id.
    outside: bool,
    rule: Arc<Rule>,
    /// The place of the backend in the rule, and the first endpoint that is offered the request, if there is any.
    place: usize,
    ticket: Option<Ticket>,
    seen: Observation,
    /// The form of an answer of the proxy's own.
    kind: Kind,
}

/// An answer on its way back.
pub(crate) enum Passed<M> {
    /// It is to be given as it was made. Then how much of its body is still to come, and from where.
    Made(M, Option<(u64, Seen)>),
    /// Any other.
    Other(Response<Seen>),
}

/// A request without a body that may be passed on as it came.
pub(crate) trait Passable {
    fn method(&self) -> &Method;

    /// The path, and the query.
    fn target(&self) -> &str;

    fn host(&self) -> &[u8];

    fn says(&self) -> &Says<'_>;

    /// About how many bytes its head has.
    fn size(&self) -> usize;

    /// Writes those of its headers that go on, which are told by their names and values.
    fn pass(&self, goes: impl FnMut(&[u8], &[u8]) -> bool, into: &mut Vec<u8>);

    /// Its headers as a map, which may be made when they are first asked for; None where they would not be one.
    fn headers(&self) -> Option<&HeaderMap>;

    /// What its record says of it.
    fn whom(&self) -> (Whom, Version);
}

/// The headers of a request for rules that look at them.
struct Mapped<'a, P> {
    asked: &'a P,
    none: HeaderMap,
    /// Whether somebody has looked, and they were no map.
    unreadable: Cell<bool>,
}

impl<P: Passable> Later for Mapped<'_, P> {
    fn map(&self) -> &HeaderMap {
        self.asked.headers().unwrap_or_else(|| {
            self.unreadable.set(true);
            &self.none
        })
    }
}

/// Begins to pass a request on. None where there is more to do about it.
pub(crate) fn begin(caller: &Arc<Caller>, asked: &impl Passable) -> Option<Box<Passing>> {
    let says = asked.says();
    let kind = Kind::said(says.content_type, says.accept);
    if kind == Kind::Grpc || caller.leaving.is_some() {
        return None;
    }
    let host = request::host_of(std::str::from_utf8(asked.host()).ok()?).ok()?;
    let (path, query) = match asked.target().split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (asked.target(), None),
    };
    let table = caller.slot.table.load();
    if caller.server_name.as_ref().is_some_and(|name| table.misdirects(name, &host)) {
        return None;
    }
    let mapped = Mapped { asked, none: HeaderMap::new(), unreadable: Cell::new(false) };
    let candidate = Candidate { method: asked.method(), path, query, headers: Headers::Later(&mapped) };
    let identity = caller.identity.as_deref();
    let rule = table.find(&host, &candidate, identity).filter(|rule| rule.direct)?;
    let Action::Forward { choices, total } = &rule.action else { return None };
    let may_reach = |place: &LivePlace| lets_in(place, identity, &rule.guard.through, &candidate);
    // The Gateways of a rule are met here themselves. All backends are looked at, as a draw that is thrown away would favour the others.
    let may_pass = rule.guard.places.iter().all(|place| lets_in(place, identity, &[], &candidate))
        && choices.iter().all(|choice| choice.backend.takes(may_reach));
    if !may_pass || mapped.unreadable.get() || onward::is_rare(asked, table.forwarded) {
        return None;
    }
    let place = request::draw(choices, *total);
    let choice = &choices[place];
    let key = choice.traffic.as_ref().and_then(|traffic| traffic.key(caller, &HeaderMap::new()));
    let now = Instant::now();
    let ticket = choice.pick_at(&[], key, || now);
    // A snapshot may have been swapped in meanwhile; the request is then looked at again.
    if ticket.is_none() && !Arc::ptr_eq(&table, &caller.slot.table.load()) {
        return None;
    }
    let id = match says.id {
        Some(said) if headers::is_id(said) => http::HeaderValue::from_bytes(said).ok()?,
        _ => headers::new_id(),
    };
    let trace = says.trace.filter(|_| !says.traces);
    let mut seen = Observation::of_plain(caller, (asked.method(), || asked.whom()), id, trace, now);
    let carried = seen.carried();
    let told = Told {
        address: &caller.address,
        scheme: caller.scheme,
        believed: table.forwarded,
        vouched: caller.told.as_ref(),
        id: &seen.id,
        trace: carried.as_ref().map(|(place, begins)| (&place[..], *begins)),
    };
    let head = onward::write(asked, &told);
    seen.counts_as(&choice.counter);
    let (method, rule) = (asked.method().clone(), Arc::clone(rule));
    let outside = table.forwarded == Forwarded::Replace;
    Some(Box::new(Passing { method, head, outside, rule, place, ticket, seen, kind }))
}

impl Passing {
    /// Whether it wants the head of an answer and nothing else.
    pub(crate) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether it meets a policy.
    pub(crate) fn meets_policy(&self) -> bool {
        matches!(&self.rule.action, Action::Forward { choices, .. } if choices[self.place].traffic.is_some())
    }
}

/// Passes it on, and brings back the answer.
pub(crate) async fn pass<F: Form>(
    caller: &Caller,
    mut passing: Box<Passing>,
    patience: &mut Patience,
    form: F,
) -> Passed<F::Made> {
    let asked = {
        let Some((mut asking, seen)) = passing.asking(caller, patience, &form) else {
            return passing.passed(Err(nowhere()));
        };
        asking.within(seen).await
    };
    passing.passed(asked)
}

/// The same where it meets a policy. What waits for that is larger.
pub(crate) async fn pass_by_policy<F: Form>(
    caller: &Caller,
    mut passing: Box<Passing>,
    patience: &mut Patience,
    form: F,
) -> Passed<F::Made> {
    let asked = {
        let Some((mut asking, seen)) = passing.asking(caller, patience, &form) else {
            return passing.passed(Err(nowhere()));
        };
        asking.by_policy(seen).await
    };
    passing.passed(asked)
}

/// Only rules that forward come this far.
fn nowhere() -> Fault {
    Fault::new(StatusCode::SERVICE_UNAVAILABLE, "no_endpoint", "There is no endpoint.")
}

impl Passing {
    fn asking<'a, F>(
        &'a mut self,
        caller: &'a Caller,
        patience: &'a mut Patience,
        form: &'a F,
    ) -> Option<(Asking<'a, F>, &'a mut Observation)> {
        let Self { method, head, outside, rule, place, ticket, seen, .. } = self;
        let Action::Forward { choices, .. } = &rule.action else { return None };
        let choice = &choices[*place];
        Some((
            Asking { caller, choice, rule, method, head, outside: *outside, form, patience, ticket: ticket.take() },
            seen,
        ))
    }

    /// What is given back.
    fn passed<M>(mut self: Box<Self>, asked: Result<Came<M>, Fault>) -> Passed<M> {
        let asked = match asked {
            Ok(Came::Made(made, body)) => {
                made.noted(&mut self.seen);
                let (status, left) = (made.status, made.left);
                // Most bodies have come with the head, and then nothing of this is moved any more.
                let rest = body.map(|body| {
                    let Self { method, seen, .. } = *self;
                    (left, Seen::new(body, Box::new(seen), &method, status))
                });
                return Passed::Made(made.out, rest);
            }
            Ok(Came::Other(response)) => Ok(response),
            Err(fault) => Err(fault),
        };
        let Self { method, outside, rule, place, mut seen, kind, .. } = *self;
        let mut response = match asked {
            Ok(response) => response,
            Err(fault) => {
                tracing::debug!(rule = &*rule.id, reason = fault.reason, "{}", fault.detail);
                seen.fails(&fault);
                let traffic = match &rule.action {
                    Action::Forward { choices, .. } => choices[place].traffic.as_ref(),
                    Action::Respond { .. } | Action::Redirect { .. } => None,
                };
                let instead = traffic.and_then(|traffic| traffic.fall_back(&fault, kind));
                instead.unwrap_or_else(|| fault.answer(kind, &seen.id))
            }
        };
        if outside {
            headers::name(response.headers_mut(), &seen.id);
        }
        let (head, body) = response.into_parts();
        seen.answered(head.status, &head.headers);
        let body = Seen::new(body, Box::new(seen), &method, head.status);
        Passed::Other(Response::from_parts(head, body))
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::Lines;
    use super::*;

    /// The largest piece of memory of which an allocator keeps a few at hand for each thread.
    const AT_HAND: usize = 1032;

    fn waiting<'a, F>(_: impl Fn(&'a Caller, Box<Passing>, &'a mut Patience, Lines<'a>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_waits_for_an_answer_is_small() {
        let (pass, by_policy) = (waiting(pass), waiting(pass_by_policy));
        assert!(pass <= AT_HAND && by_policy <= 2 * AT_HAND, "{pass} {by_policy}");
    }
}
