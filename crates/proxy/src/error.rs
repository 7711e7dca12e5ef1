//! What can go wrong when a snapshot is applied, a listener is bound, or the proxy runs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::snapshot::BackendId;

/// Why a snapshot was refused. Nothing of it serves; the last good one goes on serving.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// Two listeners have one id.
    #[error("the snapshot names listener {id} twice; give each listener an id of its own")]
    DuplicateListener {
        /// The id.
        id: Arc<str>,
    },
    /// Two listeners want one address.
    #[error("listeners {first} and {second} both want {address}; merge their hosts into one listener")]
    DuplicateAddress {
        /// The address.
        address: SocketAddr,
        /// One listener.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// A host occurs twice in one listener.
    #[error("listener {listener} has the host {host} twice; merge the rules of both in order of precedence")]
    DuplicateHost {
        /// The listener.
        listener: Arc<str>,
        /// The host, as written in a manifest.
        host: String,
    },
    /// A name that leads nowhere.
    #[error("{owner} sends to backend {backend}, which the snapshot does not have")]
    UnknownBackend {
        /// The rule or listener.
        owner: Arc<str>,
        /// The missing backend.
        backend: BackendId,
    },
    /// A rule that cannot be served.
    #[error("rule {rule}: {reason}")]
    BadRule {
        /// The rule.
        rule: Arc<str>,
        /// What is wrong with which part.
        reason: String,
    },
    /// A place that is named but not there.
    #[error("{owner} is guarded by {place}, which the snapshot does not have")]
    UnknownPlace {
        /// The rule, listener or backend.
        owner: Arc<str>,
        /// The missing place.
        place: Arc<str>,
    },
    /// A policy that is named but not there.
    #[error("the place {place} has the policy {policy}, which the snapshot does not have")]
    UnknownPolicy {
        /// The place.
        place: Arc<str>,
        /// The missing policy.
        policy: Arc<str>,
    },
    /// A policy that cannot be judged by.
    #[error("policy {policy}: {reason}")]
    BadPolicy {
        /// The policy.
        policy: Arc<str>,
        /// What is wrong with which part.
        reason: String,
    },
    /// A certificate that cannot be served.
    #[error("listener {listener}: certificate {index} cannot be used: {reason}")]
    BadCertificate {
        /// The listener.
        listener: Arc<str>,
        /// Which of its certificates, from 0.
        index: usize,
        /// Why.
        reason: String,
    },
    /// The proxy has ended or is ending.
    #[error("the proxy is no longer running, so the snapshot was not applied")]
    Closed,
}

/// Why a listener could not be bound. It is tried again when the next snapshot is applied.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot listen on {address} for {listener}: {source}; free the address or choose another")]
pub struct BindError {
    /// The listener.
    pub listener: Arc<str>,
    /// The address that was tried last.
    pub address: SocketAddr,
    /// What the system said.
    pub source: Arc<io::Error>,
}

/// Why the proxy ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Not all connections ended in the time given for draining.
    #[error("{open} connections were still open {limit:?} after the proxy was told to stop; they were closed")]
    NotDrained {
        /// How many.
        open: usize,
        /// The time they had.
        limit: std::time::Duration,
    },
}
