//! The listener by which programs go out: an HTTP proxy at the address of the Service `egress` in `kube-system`, and who may go
//! where, by an annotation of namespaces.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::Resource;
use proxy::snapshot::{Admits, EgressLimit, Forwarded, HostMatch, Listener, ListenerProtocol};
use resources::names::{EGRESS_ALLOW_ANNOTATION, EGRESS_PORT, EGRESS_SERVICE, SYSTEM_NAMESPACE};

use super::index::key;
use super::services::{Made, ServicePortPlan, callers_of};
use crate::identity::TrustDomain;
use crate::world::World;

/// Whether a Service is the way out; with a selector, somebody runs a proxy of their own behind it.
pub(super) fn is_own(service: &Service) -> bool {
    let selects = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|s| !s.is_empty());
    key(&service.metadata) == (SYSTEM_NAMESPACE, EGRESS_SERVICE) && !selects
}

/// Adds the listener, where there is the Service.
pub(super) fn add(world: &World, served: &mut Made, domain: &TrustDomain) {
    let Some(service) = world.services.iter().find(|service| is_own(service)) else { return };
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    let Some(address) = address.and_then(|address| address.parse::<IpAddr>().ok()) else { return };
    let id: Arc<str> = format!("egress/{SYSTEM_NAMESPACE}/{EGRESS_SERVICE}").into();
    served.ports.push(ServicePortPlan {
        service: service.object_ref(&()),
        address,
        port: EGRESS_PORT,
        listener: Arc::clone(&id),
    });
    served.listeners.push(Listener {
        id,
        bind: SocketAddr::new(address, EGRESS_PORT),
        fallback: None,
        protocol: ListenerProtocol::Egress {
            limits: world.namespaces.iter().filter_map(|ns| limit(ns, domain)).collect(),
        },
        forwarded: Forwarded::Append,
        admits: Admits::Anybody,
        peer_name: None,
        shows: None,
        for_callers: Vec::new(),
        hosts: Vec::new(),
    });
}

/// Where the Pods of a namespace may go; none where it says nothing.
fn limit(namespace: &Namespace, domain: &TrustDomain) -> Option<EgressLimit> {
    let list = namespace.metadata.annotations.as_ref()?.get(EGRESS_ALLOW_ANNOTATION)?;
    let hosts = list.split([',', ' ', '\n']).map(str::trim).filter(|host| !host.is_empty());
    Some(EgressLimit {
        callers: callers_of(key(&namespace.metadata).1, domain),
        hosts: hosts.map(HostMatch::parse).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::tests::world;

    #[test]
    fn the_way_out_is_a_listener_with_a_list_for_each_namespace_that_has_one() {
        let world = world(
            "
kind: Namespace
metadata: {name: free}
---
kind: Namespace
metadata: {name: shop, annotations: {mesh.coracle.dev/egress-allow: 'api.example.com, *.bank.com'}}
---
kind: Namespace
metadata: {name: shut, annotations: {mesh.coracle.dev/egress-allow: ''}}
---
kind: Service
metadata: {name: egress, namespace: kube-system}
spec: {clusterIP: 127.96.0.11, ports: [{name: http-proxy, port: 3128}]}
",
        );
        let compiled = crate::compile::compile(&world, &crate::Settings::default());
        let [listener] = compiled.snapshot.listeners.as_slice() else { panic!("{:?}", compiled.snapshot.listeners) };
        assert_eq!(listener.bind.to_string(), "127.96.0.11:3128");
        let ListenerProtocol::Egress { limits } = &listener.protocol else { panic!("{listener:?}") };
        let limits: Vec<(&str, usize)> = limits.iter().map(|limit| (&*limit.callers, limit.hosts.len())).collect();
        assert_eq!(limits, [("spiffe://cluster.local/ns/shop/", 2), ("spiffe://cluster.local/ns/shut/", 0)]);
        assert_eq!(compiled.services.len(), 1);
    }
}
