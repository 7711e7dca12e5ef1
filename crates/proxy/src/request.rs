//! The path of one request: identify, match, change, pick an endpoint, send, stream back.
//!
//! Invariants: every request gets an answer or its connection's end, and is counted once; nothing is sent to an endpoint before
//! the endpoint has counted it; what was read of a body is never sent twice.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use http::header::{HOST, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;

use crate::access::{Changes, Stop, Visit, Wait};
use crate::answer::{Fault, Kind, is_call, is_grpc};
use crate::body::Body;
use crate::cors;
use crate::deadline;
use crate::endpoint::Ticket;
use crate::filter;
use crate::forward::{self, Outgoing};
use crate::headers;
use crate::identity::{Identity, Speaker};
use crate::incoming::Incoming;
use crate::listen::{Held, Slot};
use crate::mirror;
use crate::network::Ground;
use crate::observe::{Observation, Seen};
use crate::route::{Action, Candidate, Choice, Rule, Table};
use crate::service::Shared;
use crate::snapshot::Forwarded;
use crate::stats::Counter;
use crate::traffic;
use crate::upstream::Dial;
use crate::whereabouts;

/// The other end of a client's connection.
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) address: HeaderValue,
    pub(crate) scheme: &'static str,
    /// Who it is, where somebody vouched for it.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The host that its connection was opened for, where that was said.
    pub(crate) server_name: Option<Arc<str>>,
    /// How backends are told who it is.
    pub(crate) told: Option<HeaderValue>,
    /// What its connection takes of what there is only so much of.
    pub(crate) held: Arc<Held>,
    /// The network that it came over, where what it asks for leaves by the way out.
    pub(crate) leaving: Option<Ground>,
    /// Requests under way on this connection.
    pub(crate) active: AtomicUsize,
    /// Requests ever begun on this connection.
    pub(crate) begun: AtomicU64,
}

impl Caller {
    /// In whose name the proxy speaks to others for this client.
    pub(crate) fn speaker(&self) -> Speaker<'_> {
        speaker(self.identity.as_ref(), &self.slot.table.load())
    }

    /// Why what it asks for must not be sent to an address; none where it may. What comes from the other network by the way out
    /// reaches nothing but the outside.
    pub(crate) fn kept_from(&self, address: IpAddr) -> Option<&'static str> {
        self.leaving.filter(|ground| *ground == Ground::Network)?;
        whereabouts::whose(address, self.shared.network.as_ref()).not_outside()
    }

    /// How connections to endpoints are made for this client.
    pub(crate) fn dial(&self) -> Dial<'_> {
        self.shared.dial(self.speaker())
    }
}

/// In whose name the proxy speaks for a client of a listener.
pub(crate) fn speaker<'a>(identity: Option<&'a Arc<Identity>>, table: &Table) -> Speaker<'a> {
    match identity {
        Some(identity) => Speaker::Workload(&identity.id),
        None if table.forwarded == Forwarded::Replace => Speaker::Gateway,
        None => Speaker::Proxy,
    }
}

/// Counts a request of a connection while its answer is being made.
pub(crate) struct Active<'a>(&'a Caller);

impl<'a> Active<'a> {
    pub(crate) fn begin(caller: &'a Caller) -> Self {
        caller.active.fetch_add(1, Ordering::Relaxed);
        Self(caller)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request meets.
struct Met {
    rule: Arc<Rule>,
    /// The place of the chosen backend in the rule and the endpoint in it; none where the proxy answers by itself.
    chosen: Option<Chosen>,
    /// What policies let the backend see.
    changes: Option<Box<Changes>>,
}

/// The place of a backend in its rule and an endpoint of it. A backend with a policy may come without: the policy has the word first.
type Chosen = (usize, Option<Ticket>);

/// Why a request gets no further.
struct Unmet {
    fault: Fault,
    /// The rule that it met, if any.
    rule: Option<Arc<Rule>>,
    counter: Option<Arc<Counter>>,
}

/// An answer and what it is counted as.
struct Ending {
    response: Response<Body>,
    counter: Arc<Counter>,
}

/// Answers a request, for those who want no failure.
pub(crate) async fn serve(caller: Arc<Caller>, request: Request<Incoming>) -> Result<Response<Seen>, Infallible> {
    let (parts, body) = request.into_parts();
    Ok(answered(&caller, parts, body).await)
}

/// Answers one request, whoever has read it.
pub(crate) async fn answered(caller: &Arc<Caller>, parts: request::Parts, incoming: Incoming) -> Response<Seen> {
    caller.begun.fetch_add(1, Ordering::Relaxed);
    let _active = Active::begin(caller);
    let mut seen = Box::new(Observation::begin(caller, &parts));
    let method = parts.method.clone();
    let ending = answer(caller, parts, incoming, &mut seen).await;
    seen.counts_as(&ending.counter);
    let (head, body) = ending.response.into_parts();
    seen.answered(head.status, &head.headers);
    let body = Seen::new(body, seen, &method, head.status);
    Response::from_parts(head, body)
}

async fn answer(caller: &Arc<Caller>, parts: request::Parts, body: Incoming, seen: &mut Observation) -> Ending {
    let unmatched = || caller.slot.table.load().unmatched.clone();
    let host = match identify(&parts) {
        Ok(host) => host,
        Err(fault) => return failed(&fault, Kind::of(&parts.headers), unmatched(), seen),
    };
    let met = match admit(caller, &host, &parts, &seen.id).await {
        Ok(met) => met,
        Err(Unmet { fault, rule, counter }) => {
            let kind = Kind::of(&parts.headers);
            let mut ending = failed(&fault, kind, counter.unwrap_or_else(unmatched), seen);
            // A script may read why, where it might have read the answer.
            let cors = rule.as_ref().and_then(|rule| rule.cors.as_ref());
            if let Some(cors::Met::Actual(headers)) = cors.map(|cors| cors.meet(&parts.method, &parts.headers)) {
                cors::share(headers, ending.response.headers_mut());
            }
            return ending;
        }
    };
    drop(host);
    let rule = met.rule;
    let shared_with = match &rule.cors {
        Some(cors) => match cors.meet(&parts.method, &parts.headers) {
            cors::Met::Preflight(headers) => return preflight(caller, &rule, headers, seen),
            cors::Met::Actual(headers) => Some(headers),
        },
        None => None,
    };
    let mut ending = act(caller, &rule, (met.chosen, met.changes), parts, body, seen).await;
    if let Some(headers) = shared_with {
        cors::share(headers, ending.response.headers_mut());
    }
    ending
}

/// The proxy's own answer to what it cannot serve.
fn failed(fault: &Fault, kind: Kind, counter: Arc<Counter>, seen: &mut Observation) -> Ending {
    seen.fails(fault);
    Ending { response: fault.answer(kind, &seen.id), counter }
}

/// The answer to a browser that asks before it sends.
fn preflight(caller: &Caller, rule: &Rule, headers: HeaderMap, seen: &Observation) -> Ending {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = headers;
    named(caller, &mut response, seen);
    filter::change_response(&rule.filters, response.headers_mut());
    Ending { response, counter: Arc::clone(rule.counter()) }
}

/// Answers a request by a rule that somebody else has found for it.
pub(crate) async fn by_rule(
    caller: &Arc<Caller>,
    rule: &Rule,
    parts: request::Parts,
    body: Incoming,
    seen: &mut Observation,
) -> Response<Body> {
    let chosen = match &rule.action {
        Action::Forward { choices, .. } => {
            let key = choices[0].traffic.as_ref().and_then(|traffic| traffic.key(caller, &parts.headers));
            Some((0, choices[0].pick(&[], key)))
        }
        Action::Respond { .. } | Action::Redirect { .. } => None,
    };
    act(caller, rule, (chosen, None), parts, body, seen).await.response
}

/// Does what the rule says.
async fn act(
    caller: &Arc<Caller>,
    rule: &Rule,
    (chosen, changes): (Option<Chosen>, Option<Box<Changes>>),
    parts: request::Parts,
    body: Incoming,
    seen: &mut Observation,
) -> Ending {
    let kind = Kind::of(&parts.headers);
    match (&rule.action, chosen) {
        (Action::Forward { choices, .. }, Some((place, ticket))) => {
            let choice = &choices[place];
            // Before anything is sent, so that it counts even if the client does not wait for the answer.
            seen.counts_as(&choice.counter);
            let limit = if kind == Kind::Grpc { deadline::of(&parts.headers) } else { None };
            let until = limit.and_then(|limit| seen.started.checked_add(limit));
            let version = parts.version;
            let sent = forward(caller, rule, (choice, changes.as_deref()), (ticket, until), parts, body, seen).await;
            let mut response = sent.map(|response| due(response, until, version)).unwrap_or_else(|fault| {
                tracing::debug!(
                    rule = &*rule.id,
                    backend = &*choice.backend.id,
                    reason = fault.reason,
                    "{}",
                    fault.detail
                );
                seen.fails(&fault);
                let instead = choice.traffic.as_ref().and_then(|traffic| traffic.fall_back(&fault, kind));
                instead.unwrap_or_else(|| fault.answer(kind, &seen.id))
            });
            named(caller, &mut response, seen);
            filter::change_response(&rule.filters, response.headers_mut());
            filter::change_response(&choice.filters, response.headers_mut());
            Ending { response, counter: Arc::clone(&choice.counter) }
        }
        (Action::Respond { status, body, counter }, _) => {
            let mut response = Response::new(Body::shared(body));
            *response.status_mut() = *status;
            named(caller, &mut response, seen);
            filter::change_response(&rule.filters, response.headers_mut());
            Ending { response, counter: Arc::clone(counter) }
        }
        (Action::Redirect { redirect, counter }, _) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = redirect.status;
            *response.headers_mut() = filter::redirect(redirect, rule.prefix.as_ref(), &asked(caller, &parts));
            named(caller, &mut response, seen);
            filter::change_response(&rule.filters, response.headers_mut());
            Ending { response, counter: Arc::clone(counter) }
        }
        (Action::Forward { choices, .. }, None) => {
            // `meet` never says so; if it did, this is the answer that promises nothing.
            let fault = Fault::new(StatusCode::SERVICE_UNAVAILABLE, "no_endpoint", "There is no endpoint.");
            failed(&fault, kind, Arc::clone(&choices[0].counter), seen)
        }
    }
}

/// Tells clients outside by which id their request is found, before filters have the last word. Within, whoever asks knows the id that it was given.
fn named(caller: &Caller, response: &mut Response<Body>, seen: &Observation) {
    if caller.slot.table.load().forwarded == Forwarded::Replace {
        headers::name(response.headers_mut(), &seen.id);
    }
}

/// An answer that ends at its caller's deadline, where that is known.
fn due(response: Response<Body>, until: Option<Instant>, version: Version) -> Response<Body> {
    let Some(until) = until.filter(|_| !response.body().is_end_stream()) else { return response };
    // Trailers reach everybody over HTTP/2 alone, and none may follow less than was announced.
    let says =
        version == Version::HTTP_2 && is_call(response.headers()) && response.body().size_hint().exact().is_none();
    response.map(|body| body.until(until, says))
}

/// Sends a request to a backend, if its policy lets it, and no longer than its caller waits for the head of the answer.
async fn forward(
    caller: &Arc<Caller>,
    rule: &Rule,
    (choice, changes): (&Choice, Option<&Changes>),
    (ticket, until): (Option<Ticket>, Option<Instant>),
    parts: request::Parts,
    body: Incoming,
    seen: &mut Observation,
) -> Result<Response<Body>, Fault> {
    let Some(traffic) = &choice.traffic else {
        let ticket = ticket.ok_or_else(|| choice.no_endpoint())?;
        let outgoing = outgoing(caller, rule, (choice, changes), parts, body, seen);
        return deadline::before(until, pin!(forward::send(caller, rule, choice, ticket, outgoing, seen))).await;
    };
    let mut entered = {
        let admitted = pin!(traffic.admit(caller, rule, choice, ticket, &parts.headers, seen.started));
        deadline::before(until, admitted).await?
    };
    // From here on the policy has to know how it ends.
    entered.until = until;
    let outgoing = outgoing(caller, rule, (choice, changes), parts, body, seen);
    let mut offer = traffic::Offer::new(caller, choice, traffic, outgoing);
    traffic::send(caller, rule, choice, traffic, entered, &mut offer, seen).await
}

/// The host a request is for, in lower case and without a port; or why it cannot be served.
fn identify(parts: &request::Parts) -> Result<Cow<'_, str>, Fault> {
    if parts.method == Method::CONNECT {
        return Err(Fault::new(
            StatusCode::NOT_IMPLEMENTED,
            "connect",
            "This is no forward proxy; CONNECT is not served.",
        ));
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(Fault::bad_request("host", "The request names more than one host."));
    }
    let authority = match (parts.uri.authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.to_str().map_err(|_| Fault::bad_request("host", "The host is no host name."))?,
        (None, None) if parts.version < Version::HTTP_11 => "",
        (None, None) => return Err(Fault::bad_request("host", "The request names no host.")),
    };
    host_of(authority)
}

/// The host that an authority names, in lower case and without a port.
pub(crate) fn host_of(authority: &str) -> Result<Cow<'_, str>, Fault> {
    let odd =
        |b: u8| !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%' | b'~'));
    if authority.bytes().any(odd) {
        return Err(Fault::bad_request("host", "The host is no host name."));
    }
    let host = filter::split_port(authority).0.trim_end_matches('.');
    Ok(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// Finds out where a request goes, waiting for what its policies have to wait for.
async fn admit(caller: &Caller, host: &str, parts: &request::Parts, id: &HeaderValue) -> Result<Met, Unmet> {
    let mut visit = Visit::default();
    loop {
        match meet(caller, host, parts, id, &mut visit)? {
            Ok(met) => return Ok(Met { changes: visit.into_changes(), ..met }),
            Err((drawn, wait)) => visit.wait((caller, parts, id), drawn, wait).await,
        }
    }
}

/// What a request has to wait for, and the backend that was drawn for it by then.
type Waiting = (Option<(Arc<Rule>, usize)>, Wait);

/// Finds the rule, has its policies judge, draws a backend, and picks an endpoint of it.
fn meet(
    caller: &Caller,
    host: &str,
    parts: &request::Parts,
    id: &HeaderValue,
    visit: &mut Visit,
) -> Result<Result<Met, Waiting>, Unmet> {
    // A snapshot may be swapped in between; the request is then looked at again, as nothing of it has been sent.
    let mut looks = 0;
    let candidate = Candidate::new(&parts.method, &parts.uri, &parts.headers);
    loop {
        looks += 1;
        let table = caller.slot.table.load();
        if caller.server_name.as_ref().is_some_and(|name| table.misdirects(name, host)) {
            let detail = "This connection was opened for another host, which is served apart; open one for this host.";
            let fault = Fault::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail);
            return Err(Unmet { fault, rule: None, counter: None });
        }
        let Some(rule) = table.find(host, &candidate, caller.identity.as_deref()) else {
            let fault = Fault::new(StatusCode::NOT_FOUND, "no_route", "No route matches this host and path.");
            return Err(Unmet { fault, rule: None, counter: None });
        };
        let rule = Arc::clone(rule);
        // A preflight brings no credentials, and is answered here.
        if rule.cors.is_some() && cors::is_preflight(&parts.method, &parts.headers) {
            return Ok(Ok(Met { rule, chosen: None, changes: None }));
        }
        if !rule.guard.places.is_empty()
            && let Err(stop) = visit.meet(caller, &rule, parts, id)
        {
            return match stop {
                Stop::Wait(wait) => Ok(Err((None, wait))),
                Stop::Refused(fault) => {
                    let counter = Some(Arc::clone(rule.counter()));
                    Err(Unmet { fault, rule: Some(rule), counter })
                }
            };
        }
        let Action::Forward { choices, total } = &rule.action else {
            return Ok(Ok(Met { rule, chosen: None, changes: None }));
        };
        let place = visit.drawn(&rule).unwrap_or_else(|| draw(choices, *total));
        let choice = &choices[place];
        if let Some(at) = choice.backend.place()
            && let Err(stop) = visit.reach(caller, &rule, choice, &at, parts, id)
        {
            let rule = Arc::clone(&rule);
            return match stop {
                Stop::Wait(wait) => Ok(Err((Some((rule, place)), wait))),
                Stop::Refused(fault) => {
                    Err(Unmet { fault, counter: Some(Arc::clone(&choice.counter)), rule: Some(rule) })
                }
            };
        }
        let key = choice.traffic.as_ref().and_then(|traffic| traffic.key(caller, &parts.headers));
        let ticket = choice.pick(&[], key);
        if ticket.is_some() {
            return Ok(Ok(Met { rule, chosen: Some((place, ticket)), changes: None }));
        }
        if looks > 3 || Arc::ptr_eq(&table, &caller.slot.table.load()) {
            if choice.traffic.is_some() {
                return Ok(Ok(Met { rule, chosen: Some((place, None)), changes: None }));
            }
            let (fault, counter) = (choice.no_endpoint(), Some(Arc::clone(&choice.counter)));
            return Err(Unmet { fault, rule: Some(Arc::clone(&rule)), counter });
        }
    }
}

pub(crate) fn draw(choices: &[Choice], total: u64) -> usize {
    if choices.len() == 1 {
        return 0;
    }
    let drawn = fastrand::u64(..total.max(1));
    choices.partition_point(|choice| choice.until <= drawn).min(choices.len() - 1)
}

fn asked<'a>(caller: &Caller, parts: &'a request::Parts) -> filter::Asked<'a> {
    let header = || parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(http::uri::Authority::as_str).or_else(header).unwrap_or_default();
    filter::Asked { scheme: caller.scheme, authority, path: parts.uri.path(), query: parts.uri.query() }
}

/// Says who calls and what else policies vouch for, whatever filters have made of it.
fn vouch(caller: &Caller, changes: Option<&Changes>, parts: &mut request::Parts) {
    headers::vouch(&mut parts.headers, caller.told.as_ref());
    if let Some(changes) = changes {
        changes.apply(&mut parts.uri, &mut parts.headers);
    }
}

/// Makes of a request what the next hop gets.
fn outgoing(
    caller: &Arc<Caller>,
    rule: &Rule,
    (choice, changes): (&Choice, Option<&Changes>),
    mut parts: request::Parts,
    body: Incoming,
    seen: &mut Observation,
) -> Outgoing {
    let upgrade = if parts.version == Version::HTTP_11 { headers::upgrade(&parts.headers) } else { None };
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    parts.extensions.clear();
    if let Some(authority) = parts.uri.authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            parts.headers.insert(HOST, host);
        }
        // Only the path goes to the next hop.
        parts.uri = parts.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    let from = headers::From {
        address: &caller.address,
        scheme: caller.scheme,
        host: parts.headers.get(HOST).cloned(),
        id: &seen.id,
        believed: caller.slot.table.load().forwarded,
    };
    headers::prepare(&mut parts);
    // Whose request it was, and which, is nobody's business out there.
    if caller.leaving.is_none() {
        headers::tell(&mut parts.headers, &from);
        seen.carry(&mut parts.headers);
    }
    filter::change_request(&rule.filters, rule.prefix.as_ref(), &mut parts.uri, &mut parts.headers);
    vouch(caller, changes, &mut parts);
    parts.version = Version::HTTP_11;
    let grpc = is_grpc(&parts.headers);
    let (body, watch) = body.watched();
    let mut body = seen.body(body);
    if !rule.mirrors.is_empty() && upgrade.is_none() {
        body = mirror::copy(caller, rule, &parts, body, grpc);
    }
    if !choice.filters.is_empty() {
        filter::change_request(&choice.filters, rule.prefix.as_ref(), &mut parts.uri, &mut parts.headers);
        vouch(caller, changes, &mut parts);
    }
    Outgoing { request: Box::new(Request::from_parts(parts, body)), upgrade: upgrade.zip(on_upgrade), grpc, watch }
}
