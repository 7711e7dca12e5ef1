//! Requests that are passed on as they came: by rules that change nothing, to endpoints of HTTP/1.1. Their headers, and those of most of
//! their answers, are never made a map; they are copied from where they land to where they go (`asking.rs`).
//!
//! Invariants: what is not of that kind is left to `request.rs` before anything of it was sent, counted or noted, and so is what a policy does not let
//! in; both ways say, count and repeat the same. A request of this kind has no body and may be repeated (see `head.rs`).

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};

use super::answer::{Framing, To};
use super::asking::{Asking, Came};
use super::head::Plain;
use super::onward::{self, Told};
use super::outlet::Outlet;
use crate::access::{LivePlace, lets_in};
use crate::answer::{Fault, Kind};
use crate::endpoint::Ticket;
use crate::headers;
use crate::observe::{Observation, Seen};
use crate::patience::Patience;
use crate::request::{self, Caller};
use crate::route::{Action, Candidate, Headers, Rule};
use crate::snapshot::Forwarded;

/// A request on its way.
pub(super) struct Passing {
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
    /// Whether the connection ends with the answer.
    last: bool,
}

impl Passing {
    /// What its answer needs to know of it.
    pub(super) fn to(&self) -> To {
        To { head: self.method == Method::HEAD, last: self.last }
    }
}

/// An answer on its way back.
pub(super) enum Passed {
    /// It is to be written as it is. Then what follows, and whether the connection ends with it.
    Made(Outlet, Option<(Framing, Seen)>, bool),
    /// Any other.
    Other(Response<Seen>),
}

/// Bytes of a target that mean the same to everybody.
const fn plain_targets() -> [bool; 256] {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            )
            || matches!(byte, b':' | b'@' | b'%' | b'/' | b'?');
        byte += 1;
    }
    table
}

const PLAIN_TARGET: [bool; 256] = plain_targets();

/// Begins to pass a request on. None where there is more to do about it.
pub(super) fn begin(caller: &Arc<Caller>, plain: &Plain<'_, '_>, all: impl Fn() -> Bytes) -> Option<Box<Passing>> {
    let kind = Kind::said(plain.says.content_type, plain.says.accept);
    let odd = !plain.target.bytes().fold(true, |plain, byte| plain & PLAIN_TARGET[usize::from(byte)]);
    if odd || kind == Kind::Grpc || caller.leaving.is_some() {
        return None;
    }
    let host = request::host_of(std::str::from_utf8(plain.host).ok()?).ok()?;
    let (path, query) = match plain.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (plain.target, None),
    };
    let table = caller.slot.table.load();
    if caller.server_name.as_ref().is_some_and(|name| table.misdirects(name, &host)) {
        return None;
    }
    let (known, unreadable) = (OnceCell::new(), Cell::new(false));
    let make = || {
        let headers = plain.headers(&all());
        unreadable.set(headers.is_none());
        headers.unwrap_or_default()
    };
    let candidate = Candidate { method: &plain.method, path, query, headers: Headers::Later(&known, &make) };
    let identity = caller.identity.as_deref();
    let rule = table.find(&host, &candidate, identity).filter(|rule| rule.direct)?;
    let Action::Forward { choices, total } = &rule.action else { return None };
    let may_reach = |place: &LivePlace| lets_in(place, identity, &rule.guard.through, &candidate);
    // The Gateways of a rule are met here themselves. All backends are looked at, as a draw that is thrown away would favour the others.
    let may_pass = rule.guard.places.iter().all(|place| lets_in(place, identity, &[], &candidate))
        && choices.iter().all(|choice| choice.backend.takes(may_reach));
    if !may_pass || unreadable.get() || onward::is_rare(plain, table.forwarded) {
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
    let id = match plain.says.id {
        Some(said) if headers::is_id(said) => http::HeaderValue::from_bytes(said).ok()?,
        _ => headers::new_id(),
    };
    let trace = plain.says.trace.filter(|_| !plain.says.traces);
    let mut seen = Observation::of_plain(caller, (&plain.method, plain.target, plain.host), id, trace, now);
    let carried = seen.carried();
    let told = Told {
        address: &caller.address,
        scheme: caller.scheme,
        believed: table.forwarded,
        vouched: caller.told.as_ref(),
        id: &seen.id,
        trace: carried.as_ref().map(|(place, begins)| (&place[..], *begins)),
    };
    let head = onward::write(plain, &told);
    seen.counts_as(&choice.counter);
    let (method, rule, last) = (plain.method.clone(), Arc::clone(rule), plain.last);
    let outside = table.forwarded == Forwarded::Replace;
    Some(Box::new(Passing { method, head, outside, rule, place, ticket, seen, kind, last }))
}

impl Passing {
    /// Whether it meets a policy.
    pub(super) fn meets_policy(&self) -> bool {
        matches!(&self.rule.action, Action::Forward { choices, .. } if choices[self.place].traffic.is_some())
    }
}

/// Passes it on, and brings back the answer.
pub(super) async fn pass(caller: &Caller, mut passing: Box<Passing>, patience: &mut Patience) -> Passed {
    let asked = {
        let Some((mut asking, seen)) = passing.asking(caller, patience) else { return passing.passed(Err(nowhere())) };
        asking.within(seen).await
    };
    passing.passed(asked)
}

/// The same where it meets a policy. What waits for that is larger.
pub(super) async fn pass_by_policy(caller: &Caller, mut passing: Box<Passing>, patience: &mut Patience) -> Passed {
    let asked = {
        let Some((mut asking, seen)) = passing.asking(caller, patience) else { return passing.passed(Err(nowhere())) };
        asking.by_policy(seen).await
    };
    passing.passed(asked)
}

/// Only rules that forward come this far.
fn nowhere() -> Fault {
    Fault::new(StatusCode::SERVICE_UNAVAILABLE, "no_endpoint", "There is no endpoint.")
}

impl Passing {
    fn asking<'a>(
        &'a mut self,
        caller: &'a Caller,
        patience: &'a mut Patience,
    ) -> Option<(Asking<'a>, &'a mut Observation)> {
        let Self { method, head, outside, rule, place, ticket, seen, last, .. } = self;
        let name = outside.then(|| &head.bytes[head.id.clone()]);
        let head = &head.bytes;
        let Action::Forward { choices, .. } = &rule.action else { return None };
        let choice = &choices[*place];
        Some((Asking { caller, choice, rule, method, head, name, last: *last, patience, ticket: ticket.take() }, seen))
    }

    /// What is given back.
    fn passed(mut self: Box<Self>, asked: Result<Came, Fault>) -> Passed {
        let asked = match asked {
            Ok(Came::Made(made, body)) => {
                made.noted(&mut self.seen);
                let (status, left) = (made.status, made.left);
                // Most bodies have come with the head, and then nothing of this is moved any more.
                let rest = body.map(|body| {
                    let Self { method, seen, .. } = *self;
                    (Framing::Length(left), Seen::new(body, Box::new(seen), &method, status))
                });
                return Passed::Made(made.out, rest, made.last);
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
    use super::*;

    /// The largest piece of memory of which an allocator keeps a few at hand for each thread.
    const AT_HAND: usize = 1032;

    fn waiting<'a, F>(_: impl Fn(&'a Caller, Box<Passing>, &'a mut Patience) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_waits_for_an_answer_is_small() {
        let (pass, by_policy) = (waiting(pass), waiting(pass_by_policy));
        assert!(pass <= AT_HAND && by_policy <= 2 * AT_HAND, "{pass} {by_policy}");
    }
}
