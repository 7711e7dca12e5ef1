//! Listeners of Services, their endpoints, and routes whose parent is a Service.

use super::{compiled, edge, text};

fn sockets(yaml: &str) -> Vec<String> {
    compiled(yaml).snapshot.listeners.iter().map(text::socket).collect()
}

#[test]
fn every_port_on_a_cluster_address_is_listened_on() {
    let service = |spec: &str| format!("{{kind: Service, metadata: {{name: s}}, spec: {{{spec}}}}}");
    for (spec, expected) in [
        (
            "clusterIP: 127.96.0.1, ports: [{port: 8080}]",
            vec!["service/shop/s:8080 127.96.0.1:8080 sniff(shop/s:8080)"],
        ),
        (
            "clusterIP: 127.96.0.1, ports: [{port: 80, name: http}, {port: 81, name: tcp-x}]",
            vec![
                "service/shop/s:80 127.96.0.1:80 or 127.96.0.1:8080 http",
                "service/shop/s:81 127.96.0.1:81 or 127.96.0.1:8081 tcp(shop/s:81)",
            ],
        ),
        (
            "clusterIP: 127.96.0.1, clusterIPs: [127.96.0.1, 'fd00::1'], ports: [{port: 8080, appProtocol: kubernetes.io/h2c}]",
            vec!["service/shop/s:8080 127.96.0.1:8080 http", "service/shop/s:8080/ipv6 [fd00::1]:8080 http"],
        ),
        ("clusterIP: None, ports: [{port: 80}]", vec![]),
        ("type: ExternalName, externalName: example.com, ports: [{port: 80}]", vec![]),
        ("ports: [{port: 80}]", vec![]),
        ("clusterIP: 127.96.0.1", vec![]),
    ] {
        assert_eq!(sockets(&service(spec)), expected, "{spec}");
    }
}

#[test]
fn a_port_that_is_not_tcp_is_told_of() {
    let compiled = compiled(
        "{kind: Service, metadata: {name: dns, uid: u}, spec: {clusterIP: 127.96.0.1, ports: [{port: 53, name: udp, protocol: UDP}, {port: 53, name: tcp}]}}",
    );
    let sockets: Vec<String> = compiled.snapshot.listeners.iter().map(text::socket).collect();
    assert_eq!(sockets, ["service/shop/dns:53 127.96.0.1:53 or 127.96.0.1:8053 tcp(shop/dns:53)"]);
    assert_eq!(compiled.notices.len(), 1);
    let notice = &compiled.notices[0];
    assert_eq!((notice.reason, notice.about.name.as_deref()), ("UnsupportedProtocol", Some("dns")));
    assert!(notice.note.contains("port 53 is UDP"), "{}", notice.note);
}

#[test]
fn an_address_belongs_to_one_service() {
    let compiled = compiled(
        "{kind: Service, metadata: {name: a}, spec: {clusterIP: 127.96.0.1, ports: [{port: 8080}]}}\n---\n\
         {kind: Service, metadata: {name: b}, spec: {clusterIP: 127.96.0.1, ports: [{port: 8080}]}}",
    );
    assert_eq!(compiled.snapshot.listeners.len(), 1);
    assert_eq!(compiled.notices[0].reason, "AddressTaken");
}

/// The endpoints of port `http` of Service `s` with these slices.
fn endpoints(slices: &str) -> Vec<String> {
    let compiled = compiled(&format!(
        "{{kind: Service, metadata: {{name: s}}, spec: {{clusterIP: 127.96.0.1, ports: [{{port: 80, name: http}}, {{port: 81, name: more}}]}}}}\n{slices}"
    ));
    let backend = &compiled.snapshot.backends["shop/s:80"];
    backend.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn slice(name: &str, namespace: &str, service: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\n{{kind: EndpointSlice, metadata: {{name: {name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}, \
         addressType: IPv4, ports: [{ports}], endpoints: [{endpoints}]}}\n"
    )
}

#[test]
fn only_ready_endpoints_are_backends() {
    for (conditions, ready) in [
        ("", true),
        (", conditions: {}", true),
        (", conditions: {ready: true}", true),
        (", conditions: {ready: false}", false),
        (", conditions: {ready: true, serving: true, terminating: true}", false),
        (", conditions: {ready: false, serving: true, terminating: true}", false),
        (", conditions: {ready: true, terminating: false}", true),
    ] {
        let slices =
            slice("a", "shop", "s", "{name: http, port: 4000}", &format!("{{addresses: [127.0.0.1]{conditions}}}"));
        let expected: &[&str] = if ready { &["127.0.0.1:4000"] } else { &[] };
        assert_eq!(endpoints(&slices), expected, "{conditions}");
    }
}

#[test]
fn slices_add_up_and_ports_meet_by_name() {
    let one = "{addresses: [127.0.0.1]}";
    let slices = slice("a", "shop", "s", "{name: http, port: 4001}, {name: more, port: 4002}", one)
        + &slice("b", "shop", "s", "{name: http, port: 4000}", "{addresses: [127.0.0.1]}, {addresses: [10.0.0.1]}")
        + &slice("c", "shop", "s", "{name: http, port: 4001}", one)
        + &slice("d", "shop", "s", "{name: http, port: 4003, protocol: UDP}, {port: 4004}", one)
        + &slice("e", "shop", "t", "{name: http, port: 4005}", one)
        + &slice("f", "other", "s", "{name: http, port: 4006}", one)
        + &slice("g", "shop", "s", "{name: http}", one)
        + &slice("h", "shop", "s", "{name: http, port: 4007}", "{addresses: [host.example]}");
    assert_eq!(endpoints(&slices), ["10.0.0.1:4000", "127.0.0.1:4000", "127.0.0.1:4001"]);
}

#[test]
fn a_service_without_endpoints_answers_503() {
    let compiled = compiled(&edge(""));
    assert_eq!(compiled.snapshot.backends["shop/one:80"].when_empty, 503);
    assert_eq!(text::listener(&compiled, "service/shop/one:80"), ["*", "  / -> shop/one:80*1 (shop/one:80)"]);
}

#[test]
fn a_headless_service_is_a_backend_though_nothing_listens_for_it() {
    let compiled = compiled(&edge(
        "{kind: Service, metadata: {name: h}, spec: {clusterIP: None, ports: [{port: 80}]}}\n---\n\
         {kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: h, port: 80}]}]}}",
    ));
    assert_eq!(text::listener(&compiled, "gateway/8080"), ["*", "  / -> shop/h:80*1 (shop/r/0)"]);
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs"]);
}

#[test]
fn a_route_on_a_service_replaces_what_its_port_does() {
    let compiled = compiled(&edge(
        r"
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{group: '', kind: Service, name: one, port: 80}]
  hostnames: [ignored.example]
  rules:
  - {matches: [{path: {value: /new}}], backendRefs: [{name: two, port: 80}]}
  - {backendRefs: [{name: one, port: 80, weight: 9}, {name: two, port: 80, weight: 1}]}
",
    ));
    assert_eq!(text::route(&compiled, "canary"), ["one: Accepted ResolvedRefs"]);
    assert_eq!(
        text::listener(&compiled, "service/shop/one:80"),
        ["*", "  /new -> shop/two:80*1 (shop/canary/0)", "  / -> shop/one:80*9 + shop/two:80*1 (shop/canary/1)"]
    );
    assert_eq!(text::listener(&compiled, "service/shop/two:80"), ["*", "  / -> shop/two:80*1 (shop/two:80)"]);
}

/// Gateway API's consumer routes: for the callers of the route's namespace alone, and for them instead of all others.
#[test]
fn a_route_on_a_service_of_another_namespace_is_for_its_own_callers() {
    let compiled = compiled(&edge(
        r"
kind: HTTPRoute
metadata: {name: producer}
spec:
  parentRefs: [{group: '', kind: Service, name: one}]
  rules: [{matches: [{path: {value: /v1}}], backendRefs: [{name: one, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: consumer, namespace: web}
spec:
  parentRefs: [{group: '', kind: Service, name: one, namespace: shop, port: 80}]
  rules:
  - {matches: [{path: {value: /v2}}], backendRefs: [{name: one, namespace: shop, port: 80}]}
  - {matches: [{path: {value: /two}}], backendRefs: [{name: two, namespace: shop, port: 80}]}
---
kind: GRPCRoute
metadata: {name: calls, namespace: web}
spec:
  parentRefs: [{group: '', kind: Service, name: one, namespace: shop, port: 80}]
  rules: [{matches: [{method: {service: a.B}}], backendRefs: [{name: one, namespace: shop, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: both, namespace: web}
spec:
  parentRefs: [{group: '', kind: Service, name: two, namespace: shop}, {name: edge, namespace: shop}]
  rules: [{backendRefs: [{name: two, namespace: shop, port: 80}]}]
",
    ));
    let own = |id: &str| {
        let found = compiled.snapshot.listeners.iter().find(|listener| &*listener.id == id);
        let own = found.expect("a listener").for_callers.iter();
        own.map(|own| (own.callers.to_string(), own.rules.iter().map(text::rule).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    assert_eq!(text::listener(&compiled, "service/shop/one:80"), ["*", "  /v1 -> shop/one:80*1 (shop/producer/0)"]);
    // Its own parent needs no grant; what it could not call without one does, and so does what a Gateway would reach by it.
    assert_eq!(
        own("service/shop/one:80"),
        [(
            "spiffe://cluster.local/ns/web/".to_owned(),
            [
                "/two -> unresolved*1 (web/consumer/1)",
                "/a.B -> shop/one:80*1 (grpc:web/calls/0)",
                "/v2 -> shop/one:80*1 (web/consumer/0)",
            ]
            .map(str::to_owned)
            .to_vec()
        )]
    );
    assert_eq!(text::listener(&compiled, "service/shop/two:80"), ["*", "  / -> shop/two:80*1 (shop/two:80)"]);
    assert_eq!(own("service/shop/two:80")[0].1, ["/ -> unresolved*1 (web/both/0)"]);
    assert_eq!(text::route(&compiled, "consumer"), ["one: Accepted !ResolvedRefs=RefNotPermitted"]);
}

#[test]
fn a_route_on_a_service_that_cannot_be_is_told_so() {
    for (parent, said) in [
        ("{group: '', kind: Service, name: three}", "does not exist"),
        ("{group: '', kind: Service, name: one, port: 81}", "no TCP port on port 81"),
        ("{group: '', kind: Service, name: one, sectionName: grpc}", "no TCP port named grpc"),
        ("{group: '', kind: Service, name: one, namespace: other}", "does not exist"),
    ] {
        let yaml =
            format!("{{kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{parent}], rules: [{{}}]}}}}");
        let compiled = compiled(&edge(&yaml));
        assert!(text::route(&compiled, "r")[0].contains("!Accepted=NoMatchingParent"), "{parent}");
        let message = text::route_message(&compiled, "r", "Accepted");
        assert!(message.contains(said), "{parent}: {message}");
        assert_eq!(text::listener(&compiled, "service/shop/one:80"), ["*", "  / -> shop/one:80*1 (shop/one:80)"]);
    }
}
