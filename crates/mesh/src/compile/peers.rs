//! Other instances: what they may ask for here, and which endpoints are theirs.
//!
//! A Service port has one name for them, `PORT.SERVICE.NAMESPACE.svc.DOMAIN`, the same on both sides. An EndpointSlice with the
//! annotation `mesh.coracle.dev/peer: "true"` holds addresses of other instances' mesh listeners instead of Pods'.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use proxy::snapshot::{Admits, Forwarded, Listener, ListenerProtocol};
use resources::names::{DOMAIN, PEER_ANNOTATION};

/// The id of the listener for other instances.
const LISTENER: &str = "mesh";

/// The name by which other instances ask for a Service's port.
pub(super) fn name(namespace: &str, service: &str, port: u16) -> Arc<str> {
    format!("{port}.{service}.{namespace}.svc.{DOMAIN}").into()
}

/// Whether a slice's addresses are other instances'.
pub(super) fn is_peer(slice: &EndpointSlice) -> bool {
    let annotations = slice.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(PEER_ANNOTATION)).is_some_and(|value| value == "true")
}

/// The listener for other instances.
pub(super) fn listener(bind: SocketAddr) -> Listener {
    Listener {
        id: LISTENER.into(),
        bind,
        fallback: None,
        protocol: ListenerProtocol::Mesh,
        forwarded: Forwarded::Append,
        admits: Admits::Anybody,
        peer_name: None,
        shows: None,
        for_callers: Vec::new(),
        hosts: Vec::new(),
    }
}
