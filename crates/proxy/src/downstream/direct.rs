//! Requests that are passed on as they came: by rules that do nothing else, to endpoints of HTTP/1.1. Their headers, and those of most of
//! their answers, are never made a map; they are copied from where they land to where they go.
//!
//! Invariants: what is not of that kind is left to `request.rs` before anything of it was sent; both ways say, count and repeat the
//! same. A request of this kind has no body and may be repeated (see `head.rs`).

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use super::answer::{self, Framing, To};
use super::head::Plain;
use super::onward::{self, Told};
use super::outlet::Outlet;
use crate::answer::{Fault, Kind};
use crate::body::{self, Body, Lease};
use crate::endpoint::Ticket;
use crate::forward::{self, Miss};
use crate::headers;
use crate::observe::{Observation, Seen};
use crate::patience::Patience;
use crate::request::{self, Caller};
use crate::route::{Action, Candidate, Choice, Headers, Rule};
use crate::upstream::{self, Answer, AskError, Http1};

/// A request on its way.
pub(super) struct Passing {
    method: Method,
    /// Its head, as endpoints get it.
    head: Vec<u8>,
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
pub(super) fn begin(caller: &Arc<Caller>, plain: &Plain<'_, '_>, all: impl Fn() -> Bytes) -> Option<Passing> {
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
    let (place, make) = (OnceCell::new(), || plain.headers(&all()).unwrap_or_default());
    let candidate = Candidate { method: &plain.method, path, query, headers: Headers::Later(&place, &make) };
    let rule = table.find(&host, &candidate, caller.identity.as_deref()).filter(|rule| rule.direct)?;
    let Action::Forward { choices, total } = &rule.action else { return None };
    // Of all of them, as a draw that is thrown away would favour the others.
    if !choices.iter().all(|choice| choice.backend.takes_all()) || onward::is_rare(plain, table.forwarded) {
        return None;
    }
    let place = request::draw(choices, *total);
    let choice = &choices[place];
    let ticket = choice.pick(&[], None);
    // A snapshot may have been swapped in meanwhile; the request is then looked at again.
    if ticket.is_none() && !Arc::ptr_eq(&table, &caller.slot.table.load()) {
        return None;
    }
    let id = match plain.says.id {
        Some(said) if headers::is_id(said) => http::HeaderValue::from_bytes(said).ok()?,
        _ => headers::new_id(),
    };
    let trace = plain.says.trace.filter(|_| !plain.says.traces);
    let mut seen = Observation::of_plain(caller, (&plain.method, plain.target, plain.host), id, trace);
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
    Some(Passing { method, head, rule, place, ticket, seen, kind, last })
}

/// Passes it on, and brings back the answer.
pub(super) async fn pass(caller: &Caller, mut passing: Box<Passing>, patience: &mut Patience) -> Passed {
    let Passing { method, head, rule, place, ticket, seen, last, .. } = &mut *passing;
    let asked = match &rule.action {
        Action::Forward { choices, .. } => {
            let asking = Asking { caller, choice: &choices[*place], rule, method, head, last: *last };
            asking.within(ticket.take(), seen, patience).await
        }
        // Only rules that forward come this far.
        Action::Respond { .. } | Action::Redirect { .. } => {
            Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "no_endpoint", "There is no endpoint."))
        }
    };
    let Passing { method, rule, mut seen, kind, .. } = *passing;
    let response = match asked {
        Ok(Came::Made(made, body)) => return made.with(body, seen, &method),
        Ok(Came::Other(response)) => response,
        Err(fault) => {
            tracing::debug!(rule = &*rule.id, reason = fault.reason, "{}", fault.detail);
            seen.fails(&fault);
            fault.answer(kind, &seen.id)
        }
    };
    let (head, body) = response.into_parts();
    seen.answered(head.status, &head.headers);
    let body = Seen::new(body, Box::new(seen), &method, head.status);
    Passed::Other(Response::from_parts(head, body))
}

/// What came of offering a request.
enum Came {
    Made(Made, Option<Body>),
    Other(Response<Body>),
}

/// What was made of a plain answer where it had landed.
struct Made {
    out: Outlet,
    status: StatusCode,
    /// How much of the body is in there, and how much is to come.
    here: u64,
    left: u64,
    last: bool,
    /// When it had come.
    at: Instant,
}

impl Made {
    /// Takes an answer, and as much of its body as has come with it.
    fn of(plain: &upstream::Plain<'_, '_>, body: &[u8], last: bool) -> Self {
        let (mut out, here) = (Outlet::new(), body.len() as u64);
        answer::write_plain(plain, last, out.head());
        out.head().extend_from_slice(body);
        Self { out, status: plain.status, here, left: plain.length - here, last, at: Instant::now() }
    }

    fn with(self, body: Option<Body>, mut seen: Observation, method: &Method) -> Passed {
        seen.answered_plainly(self.status, self.at);
        seen.response_bytes = self.here;
        let rest = body.map(|body| (Framing::Length(self.left), Seen::new(body, Box::new(seen), method, self.status)));
        Passed::Made(self.out, rest, self.last)
    }
}

/// A request as it is offered to endpoints.
struct Asking<'a> {
    caller: &'a Caller,
    rule: &'a Rule,
    choice: &'a Choice,
    method: &'a Method,
    head: &'a [u8],
    last: bool,
}

impl Asking<'_> {
    /// Offers it to endpoints in the time that the rule allows.
    async fn within(
        &self,
        ticket: Option<Ticket>,
        seen: &mut Observation,
        patience: &mut Patience,
    ) -> Result<Came, Fault> {
        let ticket = ticket.ok_or_else(|| self.choice.no_endpoint())?;
        let Some(limit) = self.rule.timeouts.request else { return self.offer(ticket, seen, patience).await };
        let left = limit.saturating_sub(seen.started.elapsed());
        // In a box, as few rules have a limit.
        let offered = Box::pin(tokio::time::timeout(left, self.offer(ticket, seen, patience)));
        offered.await.map_err(|_| forward::late())?
    }

    /// Offers it to one endpoint after the other, until one has got something of it.
    async fn offer(&self, mut ticket: Ticket, seen: &mut Observation, patience: &mut Patience) -> Result<Came, Fault> {
        let settings = &self.caller.shared.settings;
        let limit = self.rule.timeouts.backend_request.or(settings.response_timeout);
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut from = seen.started;
        loop {
            let address = ticket.endpoint.address;
            seen.attempts(address);
            let asked = patience.with(limit, from, pin!(self.ask(ticket, from))).await;
            let reason = match asked.unwrap_or_else(|| Err(Miss::Broken(forward::late()))) {
                Ok(came) => return Ok(came),
                Err(Miss::Broken(fault)) => {
                    seen.missed(fault.reason);
                    return Err(fault);
                }
                Err(Miss::Untouched((), reason)) => reason,
            };
            tracing::debug!(%address, reason, "an endpoint could not be reached");
            seen.missed(&reason);
            tried.push(address);
            let next = if tried.len() < settings.attempts as usize { self.choice.pick(&tried, None) } else { None };
            ticket = next.ok_or_else(|| forward::unreachable(self.choice))?;
            from = Instant::now();
        }
    }

    /// Asks one endpoint: over a connection that was kept, and once more over a new one where that had been closed.
    async fn ask(&self, ticket: Ticket, now: Instant) -> Result<Came, Miss<()>> {
        let (caller, settings) = (self.caller, &self.caller.shared.settings);
        let pool = ticket.endpoint.pool(caller.speaker(), ticket.client.as_deref());
        let mut kept = pool.take(Duration::MAX, now);
        loop {
            let (connection, is_new, sent) = match kept.take() {
                Some(connection) => (connection, false, now),
                None => match caller.dial().to(&ticket.endpoint, Some(b"http/1.1"), ticket.client.as_deref()).await {
                    Ok(stream) => (Http1::new(stream, settings.pool_idle), true, Instant::now()),
                    Err(error) => return Err(Miss::Untouched((), error.to_string())),
                },
            };
            let asked = connection.ask_plainly(self.method, self.head, |plain, body| {
                // Asked here, as the listener may have begun to drain while the answer was made, on any thread.
                Some(Made::of(plain, body, self.last || caller.slot.life.changed()))
            });
            match asked.await {
                Ok(Answer::Taken(made, keeps, mut reading)) => {
                    ticket.endpoint.observe(made.at.saturating_duration_since(sent));
                    if let Some(seconds) = keeps {
                        reading.keep_for(forward::kept_for(seconds));
                    }
                    let lease = Lease { ticket, pool, pool_size: settings.pool_size };
                    if reading.ended() {
                        lease.release_at(reading.back(), made.at);
                        return Ok(Came::Made(made, None));
                    }
                    let body = Body::Read(Box::new(body::Read { reading, lease: Some(lease) }));
                    return Ok(Came::Made(made, Some(body)));
                }
                Ok(Answer::Read(parts, reading)) => {
                    let read = forward::received_of(parts, reading, (ticket, pool), settings.pool_size, sent);
                    return read.map(Came::Other).map_err(Miss::Broken);
                }
                Err(AskError::Lost(_)) if !is_new => {}
                Err(AskError::Lost(error) | AskError::Cut(error)) => {
                    return Err(Miss::broken("upstream_closed", &error));
                }
                Err(error) => return Err(Miss::broken("upstream_protocol", &error)),
            }
        }
    }
}
