//! What a request may cost its backend, and what is done when the backend is not well, as plain data.
//!
//! A [`Policy`] stands beside each backend of a rule ([`crate::snapshot::Weighted`]). Its parts keep state: calls counted, a
//! circuit open. That state belongs to the part's scope and outlives snapshots for as long as the part's settings stay the same.
//!
//! Invariants: no IO and no shared state here; equality is by value. This module must not know where policies come from.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

/// What holds for a rule's requests to one backend. Where a part is missing, nothing of the kind is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Limits of time; a rule's own ([`crate::snapshot::Timeouts`]) win over these.
    pub timeouts: TryTimeouts,
    /// When a request is sent again.
    pub retries: Option<Scoped<Retries>>,
    /// When calls are refused because most have failed.
    pub breaker: Option<Scoped<Breaker>>,
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
