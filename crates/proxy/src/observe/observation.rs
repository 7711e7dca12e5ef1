//! One request under observation.
//!
//! Invariants: a request is counted once, as answered or as given up by its client, a gRPC call by the status that it ends with; its record is made at its very end, from
//! what was noted on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, request};
use hyper::body::Body as _;

use super::trace::{self, Place};
use super::{CLIENT_GONE, Exchange, Missed};
use crate::answer::{Fault, is_call};
use crate::deadline;
use crate::headers;
use crate::incoming::Incoming;
use crate::request::Caller;
use crate::stats::{Counter, Edge};
use crate::upstream::RequestBody;

/// gRPC's statuses for a call that its client gave up, for one that ended without any, and for one that was not over in time.
const CANCELLED: u16 = 1;
const UNKNOWN: u16 = 2;
const DEADLINE_EXCEEDED: u16 = 4;

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    // Most have none, and looking at the few names is cheaper than looking it up.
    let (_, first) = headers.iter().find(|(name, _)| name.as_str() == "grpc-status")?;
    first.to_str().ok()?.parse().ok()
}

/// The status of HTTP that means the same as one of gRPC, as `google.rpc.Code` has it.
fn as_http(code: u16) -> StatusCode {
    match code {
        0 => StatusCode::OK,
        CANCELLED => StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The status that an answer counts by: a gRPC call's is what it ends with.
pub(crate) fn counts_by(status: StatusCode, headers: &HeaderMap, trailers: Option<&HeaderMap>) -> StatusCode {
    if status != StatusCode::OK || !is_call(headers) {
        return status;
    }
    as_http(grpc_status(headers).or_else(|| grpc_status(trailers?)).unwrap_or(UNKNOWN))
}

/// What a request said, kept for its record.
struct Asked {
    place: Place,
    method: Method,
    whom: Whom,
    version: Version,
}

/// The target of a request, and its `Host`.
pub(crate) enum Whom {
    Read(Uri, Option<HeaderValue>),
    /// As bytes, one after the other, and how many of them are the target. Few of them are ever looked at again.
    Written(Box<[u8]>, usize),
}

impl Whom {
    pub(crate) fn written(target: &str, host: &[u8]) -> Self {
        Self::Written([target.as_bytes(), host].concat().into(), target.len())
    }

    fn read(self) -> (Uri, Option<HeaderValue>) {
        match self {
            Self::Read(uri, host) => (uri, host),
            Self::Written(bytes, target) => {
                let (target, host) = bytes.split_at(target);
                (Uri::try_from(target).unwrap_or_default(), HeaderValue::from_bytes(host).ok())
            }
        }
    }
}

/// The bytes of a request's body.
enum Sent {
    /// As many as it announced.
    Announced(u64),
    /// As many as have passed.
    Passed(Arc<AtomicU64>),
}

/// The head of an answer.
struct Head {
    status: StatusCode,
    grpc_status: Option<u16>,
    after: Duration,
}

/// What is noted about a request on its way.
pub(crate) struct Observation {
    caller: Arc<Caller>,
    /// The request's id.
    pub(crate) id: HeaderValue,
    /// When its head had been read.
    pub(crate) started: Instant,
    /// None where nobody takes records.
    asked: Option<Asked>,
    counter: Option<Arc<Counter>>,
    edge: Option<Arc<Edge>>,
    sent: Sent,
    upstream: Option<SocketAddr>,
    first_attempt: Option<Duration>,
    attempts: u32,
    missed: Vec<Missed>,
    reason: Option<&'static str>,
    head: Option<Head>,
    pub(crate) response_bytes: u64,
    /// Whether it is a gRPC call that has not been counted yet.
    uncounted: bool,
}

/// How many failed attempts a record names.
pub(crate) const MISSED: usize = 16;

impl Observation {
    pub(crate) fn begin(caller: &Arc<Caller>, parts: &request::Parts) -> Self {
        let started = Instant::now();
        let id = headers::request_id(&parts.headers);
        let shared = &caller.shared;
        let asked = shared.observer.is_some().then(|| {
            let place = trace::place(trace::said(&parts.headers), &id, &shared.sampler, started);
            let whom = Whom::Read(parts.uri.clone(), parts.headers.get(header::HOST).cloned());
            Asked { place, method: parts.method.clone(), whom, version: parts.version }
        });
        Self::new(caller, started, id, asked)
    }

    /// The same for a request without a body of which only these things are known: by `whom`, what a record says. `parent` is what it says of its trace.
    pub(crate) fn of_plain(
        caller: &Arc<Caller>,
        (method, whom): (&Method, impl FnOnce() -> (Whom, Version)),
        id: HeaderValue,
        parent: Option<&[u8]>,
        started: Instant,
    ) -> Self {
        let shared = &caller.shared;
        let asked = shared.observer.is_some().then(|| {
            let (whom, version) = whom();
            let place = trace::place(parent, &id, &shared.sampler, started);
            Asked { place, method: method.clone(), whom, version }
        });
        Self::new(caller, started, id, asked)
    }

    fn new(caller: &Arc<Caller>, started: Instant, id: HeaderValue, asked: Option<Asked>) -> Self {
        Self {
            caller: Arc::clone(caller),
            id,
            started,
            asked,
            counter: None,
            edge: None,
            sent: Sent::Announced(0),
            upstream: None,
            first_attempt: None,
            attempts: 0,
            missed: Vec::new(),
            reason: None,
            head: None,
            response_bytes: 0,
            uncounted: false,
        }
    }

    /// Says where the request counts, as soon as that is known; the last word holds.
    pub(crate) fn counts_as(&mut self, counter: &Arc<Counter>) {
        if !self.counter.as_ref().is_some_and(|before| Arc::ptr_eq(before, counter)) {
            self.edge = Some(counter.edge(self.caller.identity.as_deref()));
            self.counter = Some(Arc::clone(counter));
        }
    }

    /// Says that the proxy answers by itself, and why.
    pub(crate) fn fails(&mut self, fault: &Fault) {
        self.reason = Some(fault.reason);
    }

    /// Leaves the record to somebody else, who gets the request's id and place; the request is counted all the same.
    pub(crate) fn leaves_record(&mut self) -> Option<(HeaderValue, Place)> {
        self.asked.take().map(|asked| (self.id.clone(), asked.place))
    }

    /// Takes over what somebody else has tried for it in vain.
    pub(crate) fn takes(&mut self, upstream: Option<SocketAddr>, attempts: u32, missed: Vec<Missed>) {
        (self.upstream, self.attempts, self.missed) = (upstream, attempts, missed);
    }

    /// Says that the request is sent to an endpoint.
    pub(crate) fn attempts(&mut self, address: SocketAddr, now: Instant) {
        self.upstream = Some(address);
        self.attempts += 1;
        if self.asked.is_some() && self.first_attempt.is_none() {
            self.first_attempt = Some(now.saturating_duration_since(self.started));
        }
    }

    /// Says that the last attempt brought no answer.
    pub(crate) fn missed(&mut self, reason: &str) {
        if let Some(address) = self.upstream.filter(|_| self.asked.is_some() && self.missed.len() < MISSED) {
            self.missed.push(Missed { address, after: self.started.elapsed(), reason: reason.to_owned() });
        }
    }

    /// Tells the next hop which trace this is.
    pub(crate) fn carry(&self, headers: &mut HeaderMap) {
        if let Some(asked) = &self.asked {
            trace::carry(&asked.place, headers);
        }
    }

    /// The same in writing, and whether this is where the trace begins; none where nobody takes records.
    pub(crate) fn carried(&self) -> Option<([u8; trace::LENGTH], bool)> {
        self.asked.as_ref().map(|asked| (trace::written(&asked.place), asked.place.parent.is_none()))
    }

    /// The request's body, whose bytes are counted.
    pub(crate) fn body(&mut self, body: Incoming) -> RequestBody {
        if body.is_end_stream() {
            return RequestBody::Empty;
        }
        if let Some(size) = body.size_hint().exact() {
            self.sent = Sent::Announced(size);
            return RequestBody::Stream(body);
        }
        let passed = Arc::new(AtomicU64::new(0));
        self.sent = Sent::Passed(Arc::clone(&passed));
        RequestBody::Counted(body, passed)
    }

    /// Counts the answer, whose body is still to come.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        let after = self.started.elapsed();
        let grpc_status = grpc_status(headers);
        let call = status == StatusCode::OK && is_call(headers);
        self.head = Some(Head { status, grpc_status, after });
        match grpc_status.filter(|_| call) {
            Some(code) => self.count(as_http(code), after),
            None if call => self.uncounted = true,
            None => self.count(status, after),
        }
    }

    /// Counts an answer that came just now, and is none to a call of gRPC.
    pub(crate) fn answered_plainly(&mut self, status: StatusCode, now: Instant) {
        let after = now.saturating_duration_since(self.started);
        self.head = Some(Head { status, grpc_status: None, after });
        self.count(status, after);
    }

    /// Takes note of how a gRPC call ended.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(head) = &mut self.head {
            head.grpc_status = head.grpc_status.or_else(|| grpc_status(trailers));
        }
    }

    fn count(&self, status: StatusCode, after: Duration) {
        if let Some(edge) = &self.edge {
            edge.answered(status, after);
        }
    }

    /// Counts a gRPC call that has come to its end, or was broken off without a status.
    fn count_call(&mut self) {
        let Some(head) = self.head.as_mut().filter(|_| std::mem::take(&mut self.uncounted)) else { return };
        if self.reason == Some(deadline::REASON) {
            // Cut off where it could not be told so, it ended with that all the same.
            head.grpc_status.get_or_insert(DEADLINE_EXCEEDED);
        }
        let broken = if self.reason == Some("client_gone") { CANCELLED } else { UNKNOWN };
        let (status, after) = (as_http(head.grpc_status.unwrap_or(broken)), head.after);
        self.count(status, after);
    }

    /// Says why the answer broke off.
    pub(super) fn broke(&mut self, reason: &'static str) {
        self.reason.get_or_insert(reason);
    }

    fn finish(&mut self) {
        if self.head.is_none() {
            // The future that was to bring an answer is gone: nobody waits for it any more.
            let gone = StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST);
            self.broke("client_gone");
            self.answered(gone, &HeaderMap::new());
        }
        self.count_call();
        let request_bytes = match &self.sent {
            Sent::Announced(bytes) => *bytes,
            Sent::Passed(bytes) => bytes.load(Ordering::Relaxed),
        };
        if let Some(edge) = &self.edge {
            edge.carried(request_bytes, self.response_bytes);
        }
        self.record(request_bytes);
    }

    fn record(&mut self, request_bytes: u64) {
        let (Some(observer), Some(asked), Some(head)) =
            (&self.caller.shared.observer, self.asked.take(), self.head.take())
        else {
            return;
        };
        let call = head.grpc_status.is_some_and(|code| as_http(code).is_server_error());
        let failed = head.status.is_server_error() || call || self.reason.is_some();
        if !(asked.place.sampled || failed || self.caller.shared.settings.recording.all) {
            return;
        }
        let total = self.started.elapsed();
        let (uri, host) = asked.whom.read();
        let name = |part: fn(&Counter) -> &Arc<str>| self.counter.as_deref().map(part).cloned().unwrap_or_default();
        observer.observe(Box::new(Exchange {
            id: self.id.clone(),
            place: asked.place,
            listener: name(|counter| &counter.listener),
            rule: name(|counter| &counter.rule),
            backend: name(|counter| &counter.backend),
            caller: self.caller.identity.clone(),
            client: self.caller.address.clone(),
            scheme: self.caller.scheme,
            method: asked.method,
            uri,
            host,
            version: asked.version,
            status: head.status,
            grpc_status: head.grpc_status,
            reason: self.reason,
            upstream: self.upstream,
            attempts: self.attempts,
            missed: std::mem::take(&mut self.missed),
            began: SystemTime::now() - total,
            head: head.after,
            upstream_time: self.first_attempt.map(|first| head.after.saturating_sub(first)),
            total,
            request_bytes,
            response_bytes: self.response_bytes,
        }));
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.finish();
    }
}
