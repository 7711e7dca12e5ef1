//! The listener by which programs go out: an HTTP proxy at the address of the Service `egress` in `kube-system`, and who may go
//! where, by an annotation of namespaces.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service, ServicePort};
use kube::Resource;
use proxy::snapshot::{Action, Admits, EgressLimit, EgressWay, Forwarded, HostMatch, Listener, ListenerProtocol};
use resources::names::{EGRESS_ALLOW_ANNOTATION, EGRESS_PORT, EGRESS_SERVICE, SYSTEM_NAMESPACE};

use super::backends::Backends;
use super::index::key;
use super::outside;
use super::services::{Made, ServicePortPlan, callers_of, straight};
use super::speech::transport;
use super::traffic::Traffic;
use crate::identity::TrustDomain;
use crate::world::World;

/// Whether a Service is the way out; with a selector, somebody runs a proxy of their own behind it.
pub(super) fn is_own(service: &Service) -> bool {
    let selects = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|s| !s.is_empty());
    key(&service.metadata) == (SYSTEM_NAMESPACE, EGRESS_SERVICE) && !selects
}

/// Adds the listener, where there is the Service.
pub(super) fn add<'w>(
    world: &'w World,
    served: &mut Made,
    domain: &TrustDomain,
    (backends, traffic): (&mut Backends<'w>, &Traffic),
) {
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
            ways: world.services.iter().flat_map(|service| ways(service, domain, backends, traffic)).collect(),
        },
        forwarded: Forwarded::Append,
        admits: Admits::Anybody,
        peer_name: None,
        shows: None,
        for_callers: Vec::new(),
        hosts: Vec::new(),
    });
}

/// How the Pods of a namespace go to what a Service of theirs stands for: by its ports that have a policy.
fn ways<'w>(
    service: &'w Service,
    domain: &TrustDomain,
    backends: &mut Backends<'w>,
    traffic: &Traffic,
) -> Vec<EgressWay> {
    let Some(host) = outside::external(service).filter(|host| !outside::is_inside(host)) else { return Vec::new() };
    let host: Arc<str> = host.trim_end_matches('.').to_ascii_lowercase().into();
    let callers = callers_of(key(&service.metadata).0, domain);
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let way = |port: &'w ServicePort| {
        let number = u16::try_from(port.port).ok().filter(|_| transport(port) == "TCP")?;
        let backend = backends.of_port(service, port);
        let rule = straight(&backend, traffic, None);
        let Action::Forward { backends } = &rule.action else { return None };
        let governed = backends.iter().any(|to| to.policy.is_some());
        governed.then(|| EgressWay { callers: Arc::clone(&callers), host: Arc::clone(&host), port: number, rule })
    };
    ports.filter_map(way).collect()
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
---
kind: Service
metadata: {name: stripe}
spec: {type: ExternalName, externalName: API.stripe.com, ports: [{name: https, port: 443}, {name: http, port: 80}]}
---
kind: TrafficPolicy
metadata: {name: stripe}
spec: {targetRefs: [{group: '', kind: Service, name: stripe, sectionName: https}], circuitBreaker: {}}
",
        );
        let compiled = crate::compile::compile(&world, &crate::Settings::default());
        let [listener] = compiled.snapshot.listeners.as_slice() else { panic!("{:?}", compiled.snapshot.listeners) };
        assert_eq!(listener.bind.to_string(), "127.96.0.11:3128");
        let ListenerProtocol::Egress { limits, ways } = &listener.protocol else { panic!("{listener:?}") };
        let limits: Vec<(&str, usize)> = limits.iter().map(|limit| (&*limit.callers, limit.hosts.len())).collect();
        assert_eq!(limits, [("spiffe://cluster.local/ns/shop/", 2), ("spiffe://cluster.local/ns/shut/", 0)]);
        assert_eq!(compiled.services.len(), 1);
        // A port without a policy is as any other destination.
        let ways: Vec<String> =
            ways.iter().map(|way| format!("{} {}:{} {}", way.callers, way.host, way.port, way.rule.id)).collect();
        assert_eq!(ways, ["spiffe://cluster.local/ns/shop/ api.stripe.com:443 shop/stripe:443"]);
    }
}
