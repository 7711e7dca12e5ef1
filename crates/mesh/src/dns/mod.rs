//! Cluster DNS: the names of Services, as Kubernetes' DNS-based service discovery says (version 1.1.0), answered from memory.
//!
//! [`Zone`] is made of the same picture of the cluster as routes are, and replaced whole; `server` answers from whichever is
//! current, with a time to live of zero, so that nobody goes on using what has changed; `upstream` asks the host's own resolvers for all
//! other names.
//!
//! Invariants: an answer is made from one zone; a name below the cluster's domain is never asked of others; everything that waits
//! has a limit.

mod install;
mod server;
mod upstream;
mod wire;
mod zone;

pub use install::install;
pub use server::{BindError, Dns, bind};
pub use zone::{Data, Found, Zone};

/// The Service by which the DNS server is found, as on other clusters.
pub(crate) const NAMESPACE: &str = resources::names::SYSTEM_NAMESPACE;
/// Its name.
pub(crate) const NAME: &str = "kube-dns";

/// Whether a Service is the DNS server's own: no other socket may listen on its address.
pub(crate) fn is_own(service: &k8s_openapi::api::core::v1::Service) -> bool {
    let named = crate::compile::key(&service.metadata) == (NAMESPACE, NAME);
    // With a selector, somebody runs a DNS server of their own behind it.
    let selects = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|s| !s.is_empty());
    named && !selects
}

#[cfg(test)]
mod tests;
