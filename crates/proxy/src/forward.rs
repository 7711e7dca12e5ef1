//! Sends a request to an endpoint, and to another one where that is certainly safe.
//!
//! Invariants: a request is repeated only if nothing of it was sent, or if repeating it changes nothing (no body, an idempotent
//! method, on a connection that had been kept and was closed before any answer); every wait has a limit.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri, Version, response, uri};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::sync::MutexGuard;

use crate::answer::{Fault, is_call, is_grpc};
use crate::body::{self, Body, Driven, Lease};
use crate::endpoint::Ticket;
use crate::headers;
use crate::incoming::Watch;
use crate::observe::Observation;
use crate::request::{Caller, speaker};
use crate::route::{Choice, Rule};
use crate::service::Shared;
use crate::snapshot::BackendProtocol;
use crate::tunnel;
use crate::turn::{Over, Turn};
use crate::upstream::{
    self, Answer, AskError, Asker, BELIEVED, BELIEVED_OF_CALLS, CallError, Http1, Http2Sender, NotHttp2, Pool, Reading,
    RequestBody, SendError, Upload,
};

/// Requests that must not be repeated use only connections that were in use this short a time ago, as the other side may be
/// about to close an older one.
const FRESH: Duration = Duration::from_secs(2);

/// The reason of what fails for want of the client's own part.
pub(crate) const BY_CLIENT: &str = "request_body";

/// The reason of what fails as its endpoint does not speak what the request needs, though it may be well otherwise.
pub(crate) const NOT_HTTP2: &str = "not_http2";

/// A request as the next hop gets it.
pub(crate) struct Outgoing {
    /// In a box, as it passes through many hands, each of which would have a place of its own for it.
    pub(crate) request: Box<Request<RequestBody>>,
    pub(crate) upgrade: Upgrade,
    pub(crate) grpc: bool,
    /// Tells whether it is the client who is waited for; none where nothing is to come from it, or nobody asks.
    pub(crate) watch: Option<Arc<Watch>>,
}

/// The protocol asked for, and the client's connection when it has changed.
pub(crate) type Upgrade = Option<(HeaderValue, OnUpgrade)>;

/// Why an attempt brought no answer.
pub(crate) enum Miss<R = Box<Request<RequestBody>>> {
    /// The endpoint got nothing of it, for this reason.
    Untouched(R, Unasked, String),
    /// It may have.
    Broken(Fault),
}

/// Why an endpoint got nothing of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unasked {
    Unreached,
    /// It speaks HTTP/1.1 alone, and the request needs HTTP/2.
    NotHttp2,
    /// What it said first could not be read.
    Unreadable,
}

impl Unasked {
    /// What is to be said of several endpoints.
    pub(crate) fn and(self, before: Option<Self>) -> Self {
        before.filter(|before| *before != self).map_or(self, |_| Self::Unreached)
    }

    /// What is said when no endpoint was asked, all of them for this reason.
    pub(crate) fn fault(self, choice: &Choice) -> Fault {
        match self {
            Self::Unreached => unreachable(choice),
            Self::NotHttp2 => not_http2(),
            Self::Unreadable => broken("upstream_protocol", &"what it began with is no HTTP/2"),
        }
    }
}

impl<R> Miss<R> {
    pub(crate) fn unreached(request: R, error: &dyn std::fmt::Display) -> Self {
        Self::Untouched(request, Unasked::Unreached, error.to_string())
    }

    pub(crate) fn broken(reason: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Broken(broken(reason, error))
    }

    /// The request's own body broke off: the endpoint is not to blame.
    fn by_client(error: &dyn std::fmt::Display) -> Self {
        tracing::debug!(%error, "a request broke off");
        Self::Broken(Fault::bad_request(BY_CLIENT, "The request's body broke off, or could not be read."))
    }
}

fn broken(reason: &'static str, error: &dyn std::fmt::Display) -> Fault {
    tracing::debug!(reason, %error, "no answer from an endpoint");
    let detail = match reason {
        "upstream_closed" => "The backend closed the connection before it answered.",
        _ => "The backend's answer could not be read.",
    };
    Fault::new(StatusCode::BAD_GATEWAY, reason, detail)
}

/// Sends a request and brings back the head of the answer, with a body that streams.
pub(crate) async fn send(
    caller: &Arc<Caller>,
    rule: &Rule,
    choice: &Choice,
    ticket: Ticket,
    outgoing: Outgoing,
    seen: &mut Observation,
) -> Result<Response<Body>, Fault> {
    match rule.timeouts.request {
        None => attempts(caller, rule, choice, ticket, outgoing, seen).await,
        Some(limit) => {
            let left = limit.saturating_sub(seen.started.elapsed());
            within(Some(left), pin!(attempts(caller, rule, choice, ticket, outgoing, seen))).await?
        }
    }
}

/// Whether a request goes over HTTP/2.
pub(crate) fn over_http2_is_right(choice: &Choice, upgrades: bool, grpc: bool) -> bool {
    match choice.backend.protocol() {
        BackendProtocol::Http1 => false,
        BackendProtocol::H2c => !upgrades,
        BackendProtocol::Auto => grpc,
    }
}

/// Offers a request to one endpoint.
pub(crate) async fn attempt(
    caller: &Arc<Caller>,
    ticket: Ticket,
    mut request: Box<Request<RequestBody>>,
    upgrade: &mut Upgrade,
    http2: bool,
    limit: Option<Duration>,
) -> Result<Response<Body>, Miss> {
    // One that was about to go over HTTP/2 has it in its target.
    if !request.headers().contains_key(HOST)
        && request.uri().authority().is_none()
        && let Ok(host) = HeaderValue::try_from(ticket.endpoint.address.to_string())
    {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(why) = caller.kept_from(ticket.endpoint.address.ip()) {
        return Err(Miss::unreached(request, &why));
    }
    // Pinned where they are: what is waited for is large, and each move of it costs.
    let outcome = if upgrade.is_some() {
        within(limit, pin!(over_upgrade(caller, ticket, request, upgrade))).await
    } else if http2 {
        within(limit, pin!(over_http2(caller, ticket, request))).await
    } else {
        within(limit, pin!(over_http1(caller, ticket, request))).await
    };
    outcome.unwrap_or_else(|late| Err(Miss::Broken(late)))
}

/// What is said when no endpoint could be reached.
pub(crate) fn unreachable(choice: &Choice) -> Fault {
    let detail = format!("No endpoint of the backend {} could be reached.", choice.backend.id);
    Fault::new(StatusCode::BAD_GATEWAY, "connect_failed", detail)
}

pub(crate) async fn within<T>(limit: Option<Duration>, work: Pin<&mut impl Future<Output = T>>) -> Result<T, Fault> {
    let Some(limit) = limit else { return Ok(work.await) };
    tokio::time::timeout(limit, work).await.map_err(|_| late())
}

/// What is said when there is no answer in time.
pub(crate) fn late() -> Fault {
    Fault::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "The backend did not answer in the time that the route allows.")
}

async fn attempts(
    caller: &Arc<Caller>,
    rule: &Rule,
    choice: &Choice,
    mut ticket: Ticket,
    outgoing: Outgoing,
    seen: &mut Observation,
) -> Result<Response<Body>, Fault> {
    let Outgoing { mut request, mut upgrade, grpc, watch } = outgoing;
    let settings = &caller.shared.settings;
    let http2 = over_http2_is_right(choice, upgrade.is_some(), grpc);
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut missed = None;
    loop {
        let address = ticket.endpoint.address;
        seen.attempts(address, Instant::now());
        let limits = (rule.timeouts.backend_request, watch.as_deref());
        let offered = pin!(timely(caller, (ticket, request), (&mut upgrade, http2, grpc), limits));
        match offered.await {
            Ok(response) => return Ok(response),
            Err(Miss::Broken(fault)) => {
                seen.missed(fault.reason);
                return Err(fault);
            }
            Err(Miss::Untouched(unsent, why, reason)) => {
                tracing::debug!(%address, reason, "an endpoint could not be asked");
                seen.missed(&reason);
                request = unsent;
                tried.push(address);
                let why = missed.insert(why.and(missed));
                let next = if tried.len() < settings.attempts as usize { choice.pick(&tried, None) } else { None };
                ticket = next.ok_or_else(|| why.fault(choice))?;
            }
        }
    }
}

/// Offers a request to one endpoint in the time that it may take: what the rule says, or else as long as usual, which counts from the last that
/// was taken of the request's body.
async fn timely(
    caller: &Arc<Caller>,
    (ticket, request): (Ticket, Box<Request<RequestBody>>),
    (upgrade, http2, grpc): (&mut Upgrade, bool, bool),
    (said, watch): (Option<Duration>, Option<&Watch>),
) -> Result<Response<Body>, Miss> {
    let usual = caller.shared.settings.response_timeout;
    let (Some(watch), None, Some(limit)) = (watch, said, usual) else {
        return attempt(caller, ticket, request, upgrade, http2, said.or(usual)).await;
    };
    let sent = pin!(attempt(caller, ticket, request, upgrade, http2, None));
    Turn::usual(limit, grpc && http2).wait(watch, sent).await.unwrap_or_else(|over| Err(Miss::Broken(over_time(over))))
}

/// What is said when a request's time is over.
pub(crate) fn over_time(over: Over) -> Fault {
    match over {
        Over::Late => late(),
        Over::Silent => {
            let detail = "The request's body did not come in the time that it may take.";
            Fault::new(StatusCode::REQUEST_TIMEOUT, BY_CLIENT, detail)
        }
    }
}

fn idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

/// An answer over HTTP/1, of which the head has come.
enum Offered {
    Read(response::Parts, Reading),
    Driven(Response<Incoming>, Upload),
}

/// Why there is none.
enum Unanswered {
    /// Nothing was sent.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke. The request is here where it may be sent again.
    Lost(Option<Box<Request<RequestBody>>>, Miss),
    Failed(Miss),
}

/// Sends a request over a connection.
async fn offer(connection: Box<Http1>, request: Box<Request<RequestBody>>) -> Result<Offered, Unanswered> {
    if matches!(request.body(), RequestBody::Empty) {
        return match connection.ask(&request.method().clone(), &Http1::written(&request)).await {
            Ok(Answer::Read(parts, reading)) => Ok(Offered::Read(parts, reading)),
            Ok(Answer::Taken(never, ..)) => match never {},
            Err(AskError::Lost(error)) => {
                let again = idempotent(request.method()).then_some(request);
                Err(Unanswered::Lost(again, Miss::broken("upstream_closed", &error)))
            }
            Err(AskError::Cut(error)) => Err(Unanswered::Failed(Miss::broken("upstream_closed", &error))),
            Err(error) => Err(Unanswered::Failed(Miss::broken("upstream_protocol", &error))),
        };
    }
    let Ok(mut upload) = Upload::begin(connection).await else { return Err(Unanswered::Unsent(request)) };
    match upload.send(*request).await {
        Ok(response) => Ok(Offered::Driven(response, upload)),
        Err(SendError::Unsent(unsent)) => Err(Unanswered::Unsent(unsent)),
        Err(SendError::Lost(error)) => Err(Unanswered::Lost(None, Miss::broken("upstream_closed", &error))),
        Err(SendError::Client(error)) => Err(Unanswered::Failed(Miss::by_client(&error))),
        Err(SendError::Failed(error)) => Err(Unanswered::Failed(Miss::broken("upstream_protocol", &error))),
    }
}

pub(crate) async fn over_http1(
    caller: &Caller,
    ticket: Ticket,
    mut request: Box<Request<RequestBody>>,
) -> Result<Response<Body>, Miss> {
    let settings = &caller.shared.settings;
    let freshness = if replay_possible(&request) { Duration::MAX } else { FRESH };
    let pool = ticket.endpoint.pool(caller.speaker(), ticket.client.as_deref());
    loop {
        let sent = Instant::now();
        let Some(connection) = pool.take(freshness, sent) else { break };
        match offer(connection, request).await {
            Ok(answer) => return received(answer, (ticket, pool), settings.pool_size, sent),
            Err(Unanswered::Unsent(unsent)) => request = unsent,
            Err(Unanswered::Lost(Some(again), _)) => {
                request = again;
                break;
            }
            Err(Unanswered::Lost(None, miss) | Unanswered::Failed(miss)) => return Err(miss),
        }
    }
    let sent = Instant::now();
    let connection = match caller.dial().to(&ticket.endpoint, Some(b"http/1.1"), ticket.client.as_deref()).await {
        Ok(stream) => Http1::new(stream, settings.pool_idle),
        Err(error) => return Err(Miss::unreached(request, &error)),
    };
    match offer(connection, request).await {
        Ok(answer) => received(answer, (ticket, pool), settings.pool_size, sent),
        Err(Unanswered::Unsent(unsent)) => Err(Miss::unreached(unsent, &"closed as soon as it was opened")),
        Err(Unanswered::Lost(_, miss) | Unanswered::Failed(miss)) => Err(miss),
    }
}

fn replay_possible(request: &Request<RequestBody>) -> bool {
    matches!(request.body(), RequestBody::Empty) && idempotent(request.method())
}

/// Makes of an endpoint's answer the client's.
fn received(
    answer: Offered,
    (ticket, pool): (Ticket, Arc<Pool>),
    pool_size: usize,
    sent: Instant,
) -> Result<Response<Body>, Miss> {
    match answer {
        Offered::Read(parts, reading) => {
            received_of(parts, reading, (ticket, pool), pool_size, sent).map_err(Miss::Broken)
        }
        Offered::Driven(response, mut connection) => {
            ticket.endpoint.observe(sent.elapsed());
            let lease = Lease { ticket, pool, pool_size };
            let (mut parts, body) = response.into_parts();
            if let Some(keep) = prepared(&mut parts).map_err(Miss::Broken)? {
                connection.keep = connection.keep.min(keep);
            }
            let body = if body.is_end_stream() {
                lease.release(connection.back());
                Body::empty()
            } else {
                Body::Driven(Box::new(Driven { body, connection, lease: Some(lease) }))
            };
            Ok(Response::from_parts(parts, body))
        }
    }
}

/// The same of an answer to a request without a body.
pub(crate) fn received_of(
    mut parts: response::Parts,
    mut reading: Reading,
    (ticket, pool): (Ticket, Arc<Pool>),
    pool_size: usize,
    sent: Instant,
) -> Result<Response<Body>, Fault> {
    ticket.endpoint.observe(sent.elapsed());
    let lease = Lease { ticket, pool, pool_size };
    if let Some(keep) = prepared(&mut parts)? {
        reading.keep_for(keep);
    }
    let body = match reading.whole() {
        Some(bytes) => {
            lease.release(reading.back());
            Body::text(bytes)
        }
        None => Body::Read(Box::new(body::Read { reading, lease: Some(lease) })),
    };
    Ok(Response::from_parts(parts, body))
}

/// Makes an answer's head the client's; says for how long the connection may be kept, where the endpoint has said so.
fn prepared(parts: &mut response::Parts) -> Result<Option<Duration>, Fault> {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(broken("upstream_protocol", &"it changed the protocol without being asked"));
    }
    let keep = headers::keep_alive(&parts.headers).map(kept_for);
    headers::strip(&mut parts.headers);
    parts.version = Version::HTTP_11;
    Ok(keep)
}

/// For how long a connection is kept of which the endpoint says that it keeps it so many seconds: one less, so that it does not close what is about to be used.
pub(crate) fn kept_for(seconds: u64) -> Duration {
    Duration::from_secs(seconds.saturating_sub(1))
}

/// The shared HTTP/2 connection of an endpoint; made where there is none, unless the endpoint has just shown that there is none to be had: those who
/// waited for one who found that out need not do so one after the other.
async fn http2_sender(caller: &Caller, ticket: &Ticket, pool: &Pool) -> std::io::Result<Http2Sender> {
    let shared = pool.http2.lock().await;
    if let Some(sender) = shared.as_ref().filter(|sender| sender.is_ready()) {
        return Ok(sender.clone());
    }
    // In a box, as few requests need a new one.
    Box::pin(http2_connected(caller, ticket, pool, shared)).await
}

async fn http2_connected(
    caller: &Caller,
    ticket: &Ticket,
    pool: &Pool,
    mut shared: MutexGuard<'_, Option<Http2Sender>>,
) -> std::io::Result<Http2Sender> {
    if pool.is_known_for_http1(BELIEVED_OF_CALLS) {
        return Err(NotHttp2::Http1.into());
    }
    let mut made = http2_connection(caller, ticket).await;
    if is_silent(&made) && speaks_http1(caller, ticket, pool).await {
        // It may have been about to end then, and be another by now.
        made = http2_connection(caller, ticket).await;
        if is_silent(&made) {
            made = Err(NotHttp2::Http1.into());
        }
    }
    let sender = made.inspect_err(|error| {
        if NotHttp2::of(error) == Some(NotHttp2::Http1) {
            pool.speaks_http1_alone();
        }
    })?;
    if !ticket.endpoint.is_retired() {
        *shared = Some(sender.clone());
    }
    Ok(sender)
}

async fn http2_connection(caller: &Caller, ticket: &Ticket) -> std::io::Result<Http2Sender> {
    let Shared { upstreams, stop, settings, .. } = &*caller.shared;
    let stream = caller.dial().to(&ticket.endpoint, Some(b"h2"), ticket.client.as_deref()).await?;
    upstream::connect_http2(stream, ticket.endpoint.address, settings.greeting, upstreams, stop.clone()).await
}

/// Whether the endpoint has gone without a word, which one that speaks HTTP/1.1 alone may do, and one that is about to end.
fn is_silent(made: &std::io::Result<Http2Sender>) -> bool {
    matches!(made, Err(error) if NotHttp2::of(error) == Some(NotHttp2::Silent))
}

/// Whether an endpoint answers in HTTP/1.1. Other proxies are not asked: they speak HTTP/2, and go without a word where they know nobody.
async fn speaks_http1(caller: &Caller, ticket: &Ticket, pool: &Pool) -> bool {
    ticket.endpoint.peer.is_none() && pool.http1.answer(|asker| ask_for_http1(caller, ticket, asker)).await
}

/// Asks by a task of its own, which goes on where the call that has made it ask is given up.
fn ask_for_http1(caller: &Caller, ticket: &Ticket, asker: Asker) {
    let (shared, identity, table) =
        (Arc::clone(&caller.shared), caller.identity.clone(), caller.slot.table.load_full());
    let (endpoint, client) = (Arc::clone(&ticket.endpoint), ticket.client.clone());
    caller.shared.upstreams.spawn(async move {
        let limit = shared.settings.connect_timeout;
        let asked = async {
            let dial = shared.dial(speaker(identity.as_ref(), &table));
            match dial.to(&endpoint, Some(b"http/1.1"), client.as_deref()).await {
                Ok(stream) => upstream::answers_http1(stream, endpoint.address, limit).await,
                Err(_) => false,
            }
        };
        tokio::select! {
            speaks = asked => asker.tell(speaks),
            () = shared.stop.cancelled() => {}
        }
    });
}

pub(crate) async fn over_http2(
    caller: &Caller,
    ticket: Ticket,
    mut request: Box<Request<RequestBody>>,
) -> Result<Response<Body>, Miss> {
    let pool = ticket.endpoint.pool(caller.speaker(), ticket.client.as_deref());
    if pool.is_known_for_http1(BELIEVED) && goes_either_way(&request) {
        return Box::pin(over_http1(caller, ticket, request)).await;
    }
    // Twice: a kept connection may turn out to be closing, which gives the request back.
    for _ in 0..2 {
        let sender = match http2_sender(caller, &ticket, &pool).await {
            Ok(sender) => sender,
            Err(error) => {
                let why = match NotHttp2::of(&error) {
                    Some(NotHttp2::Http1) if goes_either_way(&request) => {
                        return Box::pin(over_http1(caller, ticket, request)).await;
                    }
                    Some(NotHttp2::Http1) => Unasked::NotHttp2,
                    Some(NotHttp2::Other) => Unasked::Unreadable,
                    Some(NotHttp2::Silent) | None => Unasked::Unreached,
                };
                return Err(Miss::Untouched(request, why, error.to_string()));
            }
        };
        let sent = Instant::now();
        match sender.ask(to_http2(request, ticket.endpoint.scheme())).await {
            Ok(response) => {
                ticket.endpoint.observe(sent.elapsed());
                let (mut parts, body) = response.into_parts();
                headers::strip(&mut parts.headers);
                parts.version = Version::HTTP_11;
                return Ok(Response::from_parts(parts, Body::Called(Box::new(body::Called { body, ticket }))));
            }
            Err(CallError::Unsent(unsent)) => request = unsent,
            // The stream was reset from here: the request's own body broke off.
            Err(CallError::Failed(error)) if error.is_reset() && !error.is_remote() && !error.is_library() => {
                return Err(Miss::by_client(&error));
            }
            Err(CallError::Failed(error)) => return Err(Miss::broken("upstream_closed", &error)),
        }
    }
    Err(Miss::unreached(request, &"closed again as soon as it was opened"))
}

/// Whether a request that was not made one of HTTP/2 yet goes over HTTP/1.1 as well. Calls need HTTP/2, for their trailers; what only looks like one,
/// as gRPC-Web does, goes either way.
fn goes_either_way(request: &Request<RequestBody>) -> bool {
    request.version() != Version::HTTP_2 && is_grpc(request.headers()) && !is_call(request.headers())
}

/// What is said where HTTP/2 is needed and HTTP/1.1 spoken. It is nothing that goes by itself, and so nothing to try again.
fn not_http2() -> Fault {
    let detail = "The backend speaks HTTP/1.1 on this port, and gRPC needs HTTP/2: send calls to a port on which its program speaks that, \
                  and have the Service's port say so (appProtocol: kubernetes.io/h2c).";
    Fault::new(StatusCode::BAD_GATEWAY, NOT_HTTP2, detail).in_grpc(13)
}

/// HTTP/2 names scheme and host in the target.
fn to_http2(mut request: Box<Request<RequestBody>>, scheme: uri::Scheme) -> Box<Request<RequestBody>> {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST);
    if let Some(host) = host
        && let Ok(authority) = uri::Authority::try_from(host.as_bytes())
    {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
        parts.path_and_query.get_or_insert_with(|| uri::PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static("http://invalid/"));
    }
    request
}

/// Asks an endpoint to change the protocol, and joins both connections if it does.
async fn over_upgrade(
    caller: &Arc<Caller>,
    ticket: Ticket,
    mut request: Box<Request<RequestBody>>,
    upgrade: &mut Upgrade,
) -> Result<Response<Body>, Miss> {
    if let Some((protocol, _)) = upgrade {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, protocol.clone());
    }
    let mut sender = match tunnel::dial_http(caller, &ticket).await {
        Ok(sender) => sender,
        Err(error) => return Err(Miss::unreached(request, &error)),
    };
    let mut response = sender.send_request(*request).await.map_err(|error| match error.is_user() {
        true => Miss::by_client(&error),
        false => Miss::broken("upstream_closed", &error),
    })?;
    let protocol = headers::upgrade(response.headers());
    let server = hyper::upgrade::on(&mut response);
    let (mut parts, body) = response.into_parts();
    headers::strip(&mut parts.headers);
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Response::from_parts(parts, Body::Streamed(body, ticket)));
    }
    let Some((asked, client)) = upgrade.take() else {
        return Err(Miss::broken("upstream_protocol", &"it changed the protocol twice"));
    };
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, protocol.unwrap_or(asked));
    tunnel::join(caller, client, server, ticket);
    Ok(Response::from_parts(parts, Body::empty()))
}
