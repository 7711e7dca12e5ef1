//! Who is at the other end of a connection.
//!
//! Invariants: an identity is what somebody vouched for (whoever made the client's socket, or a certificate), never what a
//! request says of itself; where nobody vouches there is none. This module must not know what the names in it stand for.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::observe::Observer;

/// The workload at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// A SPIFFE ID, such as `spiffe://cluster.local/ns/shop/sa/orders` (SPIFFE-ID, section 2).
    pub id: Arc<str>,
    /// What counters and logs call it, such as `shop/orders`. Several identities may share one.
    pub workload: Arc<str>,
}

/// What [`Callers::identify`] brings.
pub type Identifying = Pin<Box<dyn Future<Output = Option<Arc<Identity>>> + Send>>;

/// Tells who made a connection, by its two addresses. The proxy owns this trait; whoever runs workloads implements it.
pub trait Callers: Send + Sync {
    /// The workload whose socket `peer` is, as seen from the accepted socket at `local`; none where it is nobody's that is
    /// known. It must answer within milliseconds: the connection waits.
    fn identify(&self, peer: SocketAddr, local: SocketAddr) -> Identifying;
}

/// What the proxy needs of others.
#[derive(Clone, Default)]
pub struct Dependencies {
    /// Tells who callers are, asked on listeners between services alone; without it, only certificates do.
    pub callers: Option<Arc<dyn Callers>>,
    /// Takes records of requests; without it, they are counted only, and traces pass through untouched.
    pub observer: Option<Arc<dyn Observer>>,
}

/// A client's connection, as far as it is known when it is accepted.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    pub(crate) scheme: &'static str,
    pub(crate) identity: Option<Arc<Identity>>,
}
