//! Who is at the other end of a connection.
//!
//! Invariants: an identity is what somebody vouched for (whoever made the client's socket, or a certificate), never what a
//! request says of itself; where nobody vouches there is none. This module must not know what the names in it stand for.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::listen::Held;
use crate::network::{Ground, Network};
use crate::observe::Observer;
use crate::rejection::Rejection;

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

/// Tells who made a connection, by its two addresses and the network it came over. The proxy owns this trait; whoever runs workloads implements it.
pub trait Callers: Send + Sync {
    /// The workload whose socket `peer` is, as seen from the accepted socket at `local`; none where it is nobody's that is
    /// known. It must answer within milliseconds: the connection waits.
    fn identify(&self, ground: Ground, peer: SocketAddr, local: SocketAddr) -> Identifying;

    /// Whether the program at an address of the network beside the machine's own may use the way out. Those of the machine's own are
    /// not asked about: they can leave by themselves. It must not wait.
    fn may_leave(&self, _peer: IpAddr) -> bool {
        false
    }
}

/// In whose name the proxy speaks to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker<'a> {
    /// A workload, by its SPIFFE ID.
    Workload(&'a str),
    /// Whoever came in from outside.
    Gateway,
    /// Nobody that is known.
    Proxy,
}

/// Why the other end's certificate is not believed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{said}")]
pub struct Distrust {
    /// For counters.
    pub reason: Rejection,
    /// For people: also whose certificate it is said to be.
    pub said: String,
}

/// Certificates for connections between proxies and with workloads, and whom to trust. The proxy owns this trait; whoever issues certificates
/// implements it. It is asked at every handshake, so that what is new counts at once; it must not wait for anybody.
pub trait Credentials: Send + Sync {
    /// The certificate that speaks for `speaker`; the proxy's own where there is none. None where there is no certificate at all.
    fn certificate(&self, speaker: Speaker<'_>) -> Option<Arc<CertifiedKey>>;

    /// Who a client is by its chain, leaf first; none where it is a proxy that speaks for somebody unknown. That it has the
    /// leaf's key is checked elsewhere.
    ///
    /// # Errors
    ///
    /// Why it is not believed.
    fn client(&self, chain: &[CertificateDer<'_>]) -> Result<Option<Arc<Identity>>, Distrust>;

    /// Whether a server with this chain is the proxy of an instance that is trusted.
    ///
    /// # Errors
    ///
    /// Why not.
    fn server(&self, chain: &[CertificateDer<'_>]) -> Result<(), Distrust>;

    /// Whether a server with this chain is the workload `id`.
    ///
    /// # Errors
    ///
    /// Why not.
    fn workload(&self, chain: &[CertificateDer<'_>], id: &str) -> Result<(), Distrust>;

    /// Whom a certificate names, whether or not it is believed: for logs, and for nothing else.
    fn named(&self, certificate: &CertificateDer<'_>) -> Option<String>;
}

/// What the proxy needs of others.
#[derive(Clone, Default)]
pub struct Dependencies {
    /// Certificates for connections between proxies; without it, there are none.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// Tells who callers are, asked on listeners between services alone; without it, only certificates do.
    pub callers: Option<Arc<dyn Callers>>,
    /// Another network in which there are callers and endpoints.
    pub network: Option<Arc<dyn Network>>,
    /// Takes records of requests; without it, they are counted only, and traces pass through untouched.
    pub observer: Option<Arc<dyn Observer>>,
}

/// A client's connection, as far as it is known when it is accepted.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) ground: Ground,
    pub(crate) peer: SocketAddr,
    pub(crate) scheme: &'static str,
    pub(crate) identity: Option<Arc<Identity>>,
    /// The host that TLS was opened for, in lower case, where it ends here.
    pub(crate) server_name: Option<Arc<str>>,
    /// What the connection takes of what there is only so much of.
    pub(crate) held: Arc<Held>,
}
