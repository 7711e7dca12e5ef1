//! What is told about requests: one [`Exchange`] for each that is recorded, to an [`Observer`] that the rest of the program brings.
//!
//! Every request is counted (`stats.rs`). A request is recorded if its trace is sampled, if it failed, or if all are
//! asked for. [`Observation`] goes with a request on its way and is finished exactly once: with the end of the answer's body, or
//! with the client's going away.
//!
//! Invariants: the path of a request never waits for an observer; what a client says of itself is told as that and
//! nothing more. This module must not know where records go.

mod body;
mod observation;
mod trace;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, StatusCode, Uri, Version};

use crate::identity::Identity;

pub(crate) use body::Seen;
pub(crate) use observation::{MISSED, Observation, Whom, counts_by};
pub use trace::Place;
pub(crate) use trace::{Sampler, place};

/// Where records go. The proxy owns this trait; whoever keeps logs and traces implements it.
pub trait Observer: Send + Sync {
    /// Takes a record. It must return at once: it is called on the path of requests.
    fn observe(&self, exchange: Box<Exchange>);
}

/// Which requests are recorded, where there is an [`Observer`]. Those that fail always are.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Every request, whatever its trace says.
    pub all: bool,
    /// The share of new traces that is sampled, 0 to 1. A trace that comes with a request is as its caller has decided.
    pub ratio: f64,
    /// How many new traces are sampled in a second at most.
    pub per_second: u32,
}

impl Default for Recording {
    fn default() -> Self {
        Self { all: false, ratio: 1.0, per_second: 100 }
    }
}

/// The status of a request whose client went away before there was an answer. It is nowhere standard, and widely used.
pub const CLIENT_GONE: u16 = 499;

/// A request and what became of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The request's id, as every hop has it.
    pub id: HeaderValue,
    /// Its place in its trace.
    pub place: Place,
    /// The listener's id.
    pub listener: Arc<str>,
    /// The rule's id; empty where none matched.
    pub rule: Arc<str>,
    /// The backend; empty where the proxy answered by itself.
    pub backend: Arc<str>,
    /// Who called, where somebody vouched for it.
    pub caller: Option<Arc<Identity>>,
    /// The address at the other end of the connection.
    pub client: HeaderValue,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The method.
    pub method: Method,
    /// The target as it came.
    pub uri: Uri,
    /// The `Host` header as it came.
    pub host: Option<HeaderValue>,
    /// What the client spoke.
    pub version: Version,
    /// The status that the client got; [`CLIENT_GONE`] where it did not wait.
    pub status: StatusCode,
    /// The status within gRPC, where the head of the answer had one.
    pub grpc_status: Option<u16>,
    /// Why the proxy answered by itself, or why the answer broke off: a word for machines.
    pub reason: Option<&'static str>,
    /// The endpoint whose answer it is, or that was tried last.
    pub upstream: Option<SocketAddr>,
    /// How many endpoints it was sent to, also in vain.
    pub attempts: u32,
    /// The attempts that failed, in order: endpoint, after how long, why.
    pub missed: Vec<Missed>,
    /// When the request's head had been read.
    pub began: SystemTime,
    /// How long until there was the head of an answer.
    pub head: Duration,
    /// How long of that was spent waiting for endpoints; none where there was no attempt.
    pub upstream_time: Option<Duration>,
    /// How long until the answer's body had ended.
    pub total: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
}

/// An attempt that brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Where it was sent to.
    pub address: SocketAddr,
    /// How long after the request's beginning that was known.
    pub after: Duration,
    /// Why.
    pub reason: String,
}
