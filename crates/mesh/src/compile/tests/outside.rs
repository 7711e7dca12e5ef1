//! Backends of names: ExternalName, and slices of names.

use super::{compiled, edge, text};
use crate::compile::Compiled;

fn route(to: &str) -> String {
    format!(
        "{{kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{to}]}}]}}}}\n---\n"
    )
}

const STRIPE: &str = "{kind: Service, metadata: {name: stripe}, spec: {type: ExternalName, externalName: API.Stripe.com., ports: [{port: 8080, name: http}]}}\n---\n";

fn names(compiled: &Compiled, backend: &str) -> Vec<String> {
    let names = compiled.snapshot.backends[backend].names.iter();
    let tls = |name: &proxy::snapshot::NamedEndpoint| if name.tls.is_some() { " tls" } else { "" };
    names
        .map(|name| format!("{}:{}{}{}", name.host, name.port, if name.local { " local" } else { "" }, tls(name)))
        .collect()
}

#[test]
fn a_name_outside_is_a_backend_that_is_asked_by_its_name() {
    let compiled = compiled(&edge(&(STRIPE.to_owned() + &route("{name: stripe, port: 8080}"))));
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs"]);
    assert_eq!(names(&compiled, "shop/stripe:8080"), ["api.stripe.com:8080"]);
    let rules = text::listener(&compiled, "gateway/8080");
    assert_eq!(rules, ["*", "  / -> shop/stripe:8080*1 {rewrite host=api.stripe.com:8080} (shop/r/0)"], "{rules:?}");
    // It has no address of its own.
    assert!(!compiled.snapshot.listeners.iter().any(|listener| listener.id.contains("stripe")));
}

#[test]
fn what_is_no_name_outside_says_so() {
    for (service, said) in [
        ("externalName: users.shop.svc.cluster.local, ports: [{port: 80}]", "a name of the cluster"),
        ("externalName: example.com", "has no port 80 (it has none)"),
        ("externalName: example.com, ports: [{port: 443, name: https}]", "has no port 80"),
    ] {
        let service =
            format!("{{kind: Service, metadata: {{name: out}}, spec: {{type: ExternalName, {service}}}}}\n---\n");
        let compiled = compiled(&edge(&(service + &route("{name: out, port: 80}"))));
        let message = text::route_message(&compiled, "r", "ResolvedRefs");
        assert!(message.contains(said), "{message}");
        assert!(compiled.snapshot.backends.values().all(|backend| backend.names.is_empty()));
    }
}

#[test]
fn a_slice_of_names_gives_a_service_with_an_address() {
    let yaml = "
kind: Namespace
metadata: {name: shop, annotations: {mesh.coracle.dev/egress-local: 'true'}}
---
kind: Service
metadata: {name: legacy}
spec: {clusterIP: 127.96.0.7, ports: [{port: 80, name: http}]}
---
kind: EndpointSlice
metadata: {name: legacy-a, labels: {kubernetes.io/service-name: legacy}}
addressType: FQDN
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [legacy.example.com]}, {addresses: [gone.example.com], conditions: {ready: false}}, {addresses: [one.shop.svc.cluster.local]}]
---
{kind: BackendTLSPolicy, metadata: {name: p}, spec: {targetRefs: [{group: '', kind: Service, name: legacy}], validation: {hostname: legacy.example.com, wellKnownCACertificates: System}}}
";
    let compiled = compiled(&edge(yaml));
    assert_eq!(names(&compiled, "shop/legacy:80"), ["legacy.example.com:8080 local tls"]);
    assert_eq!(
        text::listener(&compiled, "service/shop/legacy:80"),
        ["*", "  / -> shop/legacy:80*1 {rewrite host=legacy.example.com:8080} (shop/legacy:80)"]
    );
}

/// An ExternalName has no address by which callers inside could meet its policy; a Service with a slice of names has one, and they do.
#[test]
fn callers_inside_meet_the_policy_of_a_service_with_a_slice_of_names() {
    let yaml = "
kind: Service
metadata: {name: pay}
spec: {clusterIP: 127.96.0.8, ports: [{port: 80, name: http}]}
---
kind: EndpointSlice
metadata: {name: pay-a, labels: {kubernetes.io/service-name: pay}}
addressType: FQDN
ports: [{name: http, port: 443}]
endpoints: [{addresses: [api.pay.example]}]
---
{kind: TrafficPolicy, metadata: {name: pay}, spec: {targetRefs: [{group: '', kind: Service, name: pay}], circuitBreaker: {}}}
---
kind: Service
metadata: {name: stripe}
spec: {type: ExternalName, externalName: api.stripe.com, ports: [{port: 80, name: http}]}
---
{kind: TrafficPolicy, metadata: {name: stripe}, spec: {targetRefs: [{group: '', kind: Service, name: stripe}], circuitBreaker: {}}}
";
    let compiled = compiled(&edge(yaml));
    let listeners = &compiled.snapshot.listeners;
    let pay = listeners.iter().find(|listener| &*listener.id == "service/shop/pay:80").expect("it has an address");
    let governed = |rule: &proxy::snapshot::Rule| match &rule.action {
        proxy::snapshot::Action::Forward { backends } => backends.iter().all(|to| to.policy.is_some()),
        proxy::snapshot::Action::Respond { .. } => false,
    };
    assert!(pay.hosts.iter().flat_map(|host| &host.rules).all(governed), "{pay:?}");
    assert_eq!(names(&compiled, "shop/pay:80"), ["api.pay.example:443"]);
    assert!(!listeners.iter().any(|listener| listener.id.contains("stripe")), "{listeners:?}");
}
