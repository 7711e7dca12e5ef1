//! The way in for the rest of the program: where Gateways answer, and on which port a Service really listens.
//!
//! A handle is cheap to clone and only reads what the mesh has published.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::dns::Zone;

/// One listener of a Gateway, and where it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayListener {
    /// The Gateway's namespace.
    pub namespace: String,
    /// The Gateway's name.
    pub gateway: String,
    /// The listener's name.
    pub listener: String,
    /// `HTTP` or `HTTPS`.
    pub protocol: String,
    /// The host names served; every one where there is none.
    pub hostname: Option<String>,
    /// The address it is bound to, or why it does not serve.
    pub address: Result<SocketAddr, String>,
}

/// Whether a listener of the proxy, by its id, belongs to a Gateway rather than to a Service.
#[must_use]
pub fn is_gateway(listener: &str) -> bool {
    listener.starts_with(GATEWAY_PREFIX)
}

/// The Service, as `NAMESPACE/NAME`, that a request meant: that of the listener it came in by, by the listener's id, or that of the
/// backend it went to where it came in by a Gateway. None where it went nowhere.
#[must_use]
pub fn destination<'a>(listener: &'a str, backend: &'a str) -> Option<&'a str> {
    let service = listener.strip_prefix(SERVICE_PREFIX).unwrap_or(backend);
    service.split_once(':').map(|(name, _port)| name)
}

/// Whether a listener of the proxy, by its id, is the way out.
#[must_use]
pub fn is_egress(listener: &str) -> bool {
    listener.starts_with(EGRESS_PREFIX)
}

/// How the id of the way out begins.
pub(crate) const EGRESS_PREFIX: &str = "egress/";
/// How the ids of Services' listeners begin.
pub(crate) const SERVICE_PREFIX: &str = "service/";
/// How the ids of Gateways' listeners begin.
pub(crate) const GATEWAY_PREFIX: &str = "gateway/";

impl GatewayListener {
    /// The URL under which it answers, where it does.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let address = self.address.as_ref().ok()?;
        let scheme = if self.protocol == "HTTPS" { "https" } else { "http" };
        Some(format!("{scheme}://{address}"))
    }
}

/// What the mesh has made of the objects it watches, as of the last snapshot that the proxy took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Every listener of every Gateway of our class, oldest Gateway first.
    pub gateways: Vec<GatewayListener>,
    /// The port that is bound for each Service port: (cluster address, declared port) to the actual one.
    pub services: BTreeMap<(IpAddr, u16), u16>,
    /// True once the first complete picture of the cluster has been applied.
    pub ready: bool,
}

/// Reads what the mesh has published.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) published: watch::Receiver<Arc<Published>>,
    pub(crate) zone: watch::Receiver<Arc<Zone>>,
    pub(crate) endpoints: watch::Receiver<u64>,
    pub(crate) nameserver: Arc<OnceLock<SocketAddr>>,
}

impl Handle {
    /// The listeners of all Gateways, with the address each really has.
    #[must_use]
    pub fn gateway_addresses(&self) -> Vec<GatewayListener> {
        self.published.borrow().gateways.clone()
    }

    /// Follows all that is published; changes whenever an address does.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }

    /// Resolves once the proxy serves by an EndpointSlice of this resourceVersion, or by what came after it; also when the mesh has
    /// ended, and nothing more will be.
    pub async fn serves_endpoints_of(&self, resource_version: u64) {
        let _ = self.endpoints.clone().wait_for(|served| *served >= resource_version).await;
    }

    /// Where the DNS server listens, once it is bound. A program finds it only on port 53.
    #[must_use]
    pub fn nameserver(&self) -> Option<SocketAddr> {
        self.nameserver.get().copied()
    }

    /// The port on which `cluster_ip` really answers for the declared `port`. It differs where the declared one could not be
    /// bound. None while the Service is not (yet) served.
    #[must_use]
    pub fn service_port(&self, cluster_ip: IpAddr, port: u16) -> Option<u16> {
        self.published.borrow().services.get(&(cluster_ip, port)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_means_the_service_it_came_in_by_or_went_to() {
        for (listener, backend, expected) in [
            ("service/shop/orders:80", "shop/orders-v2:80", Some("shop/orders")),
            ("service/shop/orders:80/ipv6", "", Some("shop/orders")),
            ("gateway/127.0.0.1:8080", "shop/web:80", Some("shop/web")),
            ("gateway/127.0.0.1:8080", "", None),
            ("gateway/127.0.0.1:8080", "unresolved", None),
        ] {
            assert_eq!(destination(listener, backend), expected, "{listener} {backend}");
        }
    }
}
