//! What a request may cost its backend, and what is done when the backend is not well, as plain data.
//!
//! A [`Policy`] stands beside each backend of a rule ([`crate::snapshot::Weighted`]). Its parts keep state: calls counted, a
//! circuit open. That state belongs to the part's scope and outlives snapshots for as long as the part's settings stay the same.
//!
//! Invariants: no IO and no shared state here; equality is by value. This module must not know where policies come from.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

/// What holds for a rule's requests to one backend. Where a part is missing, nothing of the kind is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Limits of time; a rule's own ([`crate::snapshot::Timeouts`]) win over these.
    pub timeouts: TryTimeouts,
    /// When a request is sent again.
    pub retries: Option<Scoped<Retries>>,
    /// When calls are refused because most have failed.
    pub breaker: Option<Scoped<Breaker>>,
    /// How many requests there may be at once.
    pub concurrency: Option<Scoped<Concurrency>>,
    /// How many requests there may be in a time; each limit holds.
    pub limits: Option<Scoped<Vec<RateLimit>>>,
    /// When requests are turned away early because there is too much to do.
    pub shedding: Option<Scoped<Shedding>>,
    /// How an endpoint is chosen.
    pub balancing: Option<Scoped<Balancing>>,
    /// When an endpoint is left alone because it fails.
    pub outliers: Option<Scoped<Outliers>>,
    /// What is done to requests to see how others bear it.
    pub injections: Option<Scoped<Vec<Injection>>>,
    /// What is answered instead of a refusal.
    pub fallback: Option<Scoped<Fallback>>,
}

/// Settings, and whom they are shared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scoped<T> {
    /// Rules whose scope is the same share state. Parts that tell about a backend (budget, breaker, endpoints) have one for
    /// each backend all the same.
    pub scope: Arc<str>,
    /// What is wanted.
    pub settings: T,
}

/// Limits of time on requests; expiry answers 504.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TryTimeouts {
    /// From the request's head to the head of the answer, with all tries and waits.
    pub request: Option<Duration>,
    /// The same for one try.
    pub per_try: Option<Duration>,
}

/// When a request is sent again.
///
/// Only what is safe is repeated: idempotent methods (RFC 9110, 9.2.2), and requests with an `Idempotency-Key`, if their
/// body is within [`Retries::max_body`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How many times at most, beside the first try.
    pub attempts: u32,
    /// After what.
    pub on: Vec<RetryOn>,
    /// The wait before the first retry; it doubles with each.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
    /// What share of all requests retries may be.
    pub budget: Budget,
    /// How many bytes of a request's body are kept so that it can be sent again.
    pub max_body: usize,
}

/// How many retries there may be beside the requests of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Percent of the requests of the last [`Budget::interval`].
    pub percent: u32,
    /// How far back requests count.
    pub interval: Duration,
    /// Retries a second that are always possible, so that a rare request can be repeated as well.
    pub min_per_second: u32,
}

/// What a request is sent again after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// An answer of 500 and above, or none.
    ServerError,
    /// An answer of 502, 503 or 504, or none.
    GatewayError,
    /// No connection could be made.
    ConnectFailure,
    /// The connection ended, or what came was no answer.
    Reset,
    /// No answer in the time for one try.
    Timeout,
    /// An answer with this status.
    Status(StatusCode),
    /// An answer with this gRPC status in its head.
    Grpc(u8),
}

/// When calls are refused because most have failed: closed until too many fail, then open, then half open until it is known to be well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// The percentage of failures at which it opens.
    pub failure_percent: u32,
    /// How many calls there must have been in [`Breaker::window`] before that percentage means anything.
    pub minimum_calls: u32,
    /// How far back calls count.
    pub window: Duration,
    /// So many failures in a row open it as well, however few calls there were.
    pub consecutive: Option<u32>,
    /// A call without an answer for this long has failed, where no other limit of time on a try is set.
    pub call_timeout: Duration,
    /// How long it stays open.
    pub open: Duration,
    /// How many calls are let through after that to see; when all of them succeed it closes, when one fails it opens again.
    pub probes: u32,
}

/// How many requests there may be at once; a bulkhead. A request counts until the body of its answer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// How many are let through.
    pub limit: usize,
    /// How many more may wait.
    pub queue: usize,
    /// How long each of those waits at most.
    pub max_wait: Duration,
}

/// How many requests there may be in a time, for each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// What the answer's headers call it.
    pub name: Arc<str>,
    /// So many requests...
    pub requests: u32,
    /// ... in so long a time; neither is zero.
    pub per: Duration,
    /// How many may come at once after a quiet while.
    pub burst: u32,
    /// Whose requests are counted together.
    pub key: RateKey,
}

/// Whose requests a rate limit counts together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// Everyone's.
    All,
    /// Those of one workload; of all callers without an identity.
    Identity,
    /// Those of one address at the other end of the connection.
    ClientAddress,
    /// Those with the same value of a header; all without it.
    Header(HeaderName),
}

/// When requests are turned away early: those with the lowest priority (RFC 9218) first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shedding {
    /// Answers shall not take longer than this on average.
    pub latency: Duration,
    /// No more requests than this shall wait for their turn ([`Concurrency::queue`]).
    pub waiting: Option<usize>,
    /// The header with the priority.
    pub header: HeaderName,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// By what.
    pub algorithm: Algorithm,
    /// Over how long a time an endpoint that is new comes to its full share.
    pub slow_start: Option<Duration>,
}

/// By what an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The better of two drawn by lot, by latency and requests under way.
    #[default]
    PeakEwma,
    /// The better of two drawn by lot, by requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// The same one for the same key, by Maglev's table; by [`Algorithm::PeakEwma`] for requests without a key.
    ConsistentHash(HashOn),
}

/// What makes requests go to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(Arc<str>),
    /// The address at the other end of the connection.
    ClientAddress,
}

/// When an endpoint is left alone because it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// So many failures in a row.
    pub consecutive: Option<u32>,
    /// So many percent of failures...
    pub failure_percent: Option<u32>,
    /// ... of so many requests or more...
    pub minimum_requests: u32,
    /// ... in so long a time.
    pub window: Duration,
    /// For how long the first time; so much more each time after that.
    pub base: Duration,
    /// For how long at most.
    pub max: Duration,
    /// How many percent of the endpoints at most; one of several may always be.
    pub max_percent: u32,
}

/// What is done to some requests to see how others bear it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// How many percent of the requests that match.
    pub percent: u32,
    /// Headers with their values that a request must have.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// They wait so long.
    pub delay: Option<Duration>,
    /// And are answered so, with this gRPC status where they are gRPC.
    pub abort: Option<(StatusCode, u8)>,
}

/// What is answered instead of a refusal. Calls of gRPC get the refusal all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Instead of what.
    pub on: Vec<FallbackOn>,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Arc<str>,
}

/// Why there is no answer from the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackOn {
    /// It has no endpoint that is ready.
    NoEndpoint,
    /// Its circuit is open.
    CircuitOpen,
    /// It could not be reached, or broke off.
    Unreachable,
    /// It did not answer in time.
    Timeout,
    /// There were too many requests at once, or too much to do.
    Overloaded,
    /// A rate limit was spent.
    RateLimited,
}
