//! Table tests of the compiler: small manifests in, what the proxy serves and what is said about it out.

mod access;
mod admission;
mod backend_tls;
mod frontend;
mod gateways;
mod hosts;
mod kinds;
mod outside;
mod precedence;
mod references;
mod services;
mod sets;
mod soundness;
mod text;
mod traffic;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use kube::Resource;
use resources::gateway::httproutes::HttpRoute;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Compiled, compile, key};
use crate::config::Settings;
use crate::world::World;

/// A picture of a cluster with our class and the objects of a YAML stream. What is not given is filled in: namespace `shop`,
/// generation 1, and a creation time in the order of the documents.
pub(crate) fn world(yaml: &str) -> World {
    let mut world = World { bundle_version: Some("v1.5.1".to_owned()), ..World::default() };
    world.classes.push(Arc::new(crate::class::gateway_class()));
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("the fixture is YAML");
    for (position, mut document) in documents.into_iter().enumerate() {
        let kind = document["kind"].as_str().expect("every object has a kind").to_owned();
        let metadata = document["metadata"].as_object_mut().expect("every object has metadata");
        if !["Namespace", "GatewayClass"].contains(&kind.as_str()) {
            metadata.entry("namespace").or_insert_with(|| json!("shop"));
        }
        metadata.entry("generation").or_insert_with(|| json!(1));
        let created = format!("2026-01-01T00:{:02}:{:02}Z", position / 60, position % 60);
        metadata.entry("creationTimestamp").or_insert_with(|| json!(created));
        match kind.as_str() {
            "GatewayClass" => push(&mut world.classes, document),
            "Gateway" => push(&mut world.gateways, document),
            "HTTPRoute" => push(&mut world.routes, document),
            "ListenerSet" => push(&mut world.sets, document),
            "GRPCRoute" => push(&mut world.grpc_routes, carried(document, crate::carrier::grpc)),
            "TLSRoute" => push(&mut world.tls_routes, carried(document, crate::carrier::tls)),
            "ReferenceGrant" => push(&mut world.grants, document),
            "Service" => push(&mut world.services, document),
            "EndpointSlice" => push(&mut world.slices, document),
            "Namespace" => push(&mut world.namespaces, document),
            "Resiliency" => push(&mut world.resiliencies, document),
            "TrafficPolicy" => push(&mut world.traffic, document),
            "BackendTLSPolicy" => push(&mut world.backend_tls, document),
            "AccessPolicy" => push(&mut world.access, document),
            "Secret" if document["type"] == "Opaque" => push(&mut world.opaque, document),
            "ConfigMap" => push(&mut world.config_maps, document),
            "Secret" => push(&mut world.secrets, document),
            "Pod" => push(&mut world.pods, document),
            "PeerAuthentication" => push(&mut world.peer_authentications, document),
            other => panic!("no test has a {other}"),
        }
    }
    world
}

/// A route in the form in which it is kept.
fn carried<K: DeserializeOwned>(document: Value, carry: fn(&K) -> Result<HttpRoute, serde_json::Error>) -> Value {
    let route: K = serde_json::from_value(document).expect("the fixture is of its kind");
    serde_json::to_value(carry(&route).expect("it can be kept")).expect("a route is JSON")
}

/// A later object of the same name replaces an earlier one, as in a cluster.
fn push<K: Resource + DeserializeOwned>(objects: &mut Vec<Arc<K>>, document: Value) {
    let object: Arc<K> = Arc::new(serde_json::from_value(document).expect("the fixture is of its kind"));
    objects.retain(|other| key(other.meta()) != key(object.meta()));
    objects.push(object);
    objects.sort_by(|one, other| key(one.meta()).cmp(&key(other.meta())));
}

pub(super) fn compiled(yaml: &str) -> Compiled {
    compile(&world(yaml), &settings())
}

pub(super) fn settings() -> Settings {
    Settings { gateway_address: IpAddr::V4(Ipv4Addr::LOCALHOST), ..Settings::default() }
}

/// A Gateway `edge` with one HTTP listener for every host, open to its own namespace, and the Services `one` and `two` with
/// an endpoint each.
pub(super) const EDGE: &str = r"
kind: Gateway
apiVersion: gateway.networking.k8s.io/v1
metadata: {name: edge}
spec:
  gatewayClassName: coracle
  listeners: [{name: http, port: 8080, protocol: HTTP}]
---
kind: Service
apiVersion: v1
metadata: {name: one, uid: u1}
spec: {clusterIP: 127.96.0.1, clusterIPs: [127.96.0.1], ports: [{port: 80, name: http}]}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: one-a, labels: {kubernetes.io/service-name: one}}
addressType: IPv4
ports: [{name: http, port: 4001}]
endpoints: [{addresses: [127.0.0.1], conditions: {ready: true}}]
---
kind: Service
apiVersion: v1
metadata: {name: two, uid: u2}
spec: {clusterIP: 127.96.0.2, clusterIPs: [127.96.0.2], ports: [{port: 80, name: http}]}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: two-a, labels: {kubernetes.io/service-name: two}}
addressType: IPv4
ports: [{name: http, port: 4002}]
endpoints: [{addresses: [127.0.0.1]}]
---
";

/// Our Gateway and Services, and further documents.
pub(super) fn edge(yaml: &str) -> String {
    format!("{EDGE}{yaml}")
}

#[test]
fn an_empty_cluster_serves_nothing() {
    let compiled = compile(&World::default(), &settings());
    assert_eq!(compiled.snapshot, proxy::Snapshot::default());
    assert!(compiled.gateways.is_empty() && compiled.classes.is_empty() && compiled.notices.is_empty());
}

#[test]
fn the_same_picture_compiles_to_the_same() {
    let yaml = edge(
        "{kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: one, port: 80}]}]}}",
    );
    let world = world(&yaml);
    let (first, second) = (compile(&world, &settings()), compile(&world, &settings()));
    assert_eq!(first.snapshot, second.snapshot);
    assert_eq!(first.routes, second.routes);
}
