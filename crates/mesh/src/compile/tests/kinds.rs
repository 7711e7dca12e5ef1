//! GRPCRoutes and TLSRoutes: what is theirs alone.

use super::{compiled, edge, text};

fn grpc(name: &str, spec: &str) -> String {
    format!("{{kind: GRPCRoute, metadata: {{name: {name}}}, spec: {{parentRefs: [{{name: edge}}], {spec}}}}}\n---\n")
}

fn http(name: &str, spec: &str) -> String {
    format!("{{kind: HTTPRoute, metadata: {{name: {name}}}, spec: {{parentRefs: [{{name: edge}}], {spec}}}}}\n---\n")
}

#[test]
fn calls_to_a_service_come_before_those_to_a_method() {
    let rule = |matches: &str| format!("{{matches: [{matches}], backendRefs: [{{name: one, port: 80}}]}}");
    let rules = [
        "{}",
        "{method: {method: M}}",
        "{method: {service: s.S}}",
        "{method: {service: s.S}, headers: [{name: a, value: b}]}",
        "{method: {service: s.Longer}}",
        "{method: {service: s.S, method: M}}",
    ];
    let rules = rules.map(rule).join(", ");
    let compiled = compiled(&edge(&grpc("r", &format!("hostnames: [a.example], rules: [{rules}]"))));
    let to = "-> shop/one:80*1 (grpc:shop/r";
    assert_eq!(
        text::listener(&compiled, "gateway/8080")[2..],
        [
            format!("  =/s.S/M {to}/5)"),
            format!("  /s.Longer {to}/4)"),
            format!("  /s.S [a=b] {to}/3)"),
            format!("  /s.S {to}/2)"),
            format!("  ~/[^/]+/M {to}/1)"),
            format!("  / {to}/0)"),
        ]
    );
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs"]);
    assert_eq!(compiled.generation("grpc:shop/r/5"), Some(1));
    assert_eq!(compiled.generation("shop/r/5"), None);
}

#[test]
fn filters_weights_and_references_are_those_of_all_routes() {
    let compiled = compiled(&edge(&grpc(
        "r",
        "rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}, {type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}}}], \
         backendRefs: [{name: one, port: 80, weight: 3}, {name: gone, port: 80}]}]",
    )));
    assert_eq!(
        text::listener(&compiled, "gateway/8080"),
        ["*", "  / {request a=b} {mirror shop/two:80 1/1} -> shop/one:80*3 + unresolved*1 (grpc:shop/r/0)"]
    );
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted !ResolvedRefs=BackendNotFound"]);
}

#[test]
fn of_two_kinds_with_one_hostname_the_older_route_stays() {
    let any = "rules: [{backendRefs: [{name: one, port: 80}]}]";
    let host = |host: &str| format!("hostnames: [{host}], {any}");
    let accepted = "edge: Accepted ResolvedRefs";
    let refused = "edge: !Accepted=HostnameConflict ResolvedRefs";
    for (yaml, http_said, grpc_said) in [
        (http("h", any) + &grpc("g", any), accepted, refused),
        (grpc("g", any) + &http("h", any), refused, accepted),
        (http("h", &host("a.example")) + &grpc("g", &host("b.example")), accepted, accepted),
        (http("h", &host("'*.example'")) + &grpc("g", &host("b.example")), accepted, refused),
        (grpc("g", &host("b.example")) + &http("h", &host("'*.example'")), refused, accepted),
    ] {
        let compiled = compiled(&edge(&yaml));
        assert_eq!(text::route(&compiled, "h"), [http_said], "{yaml}");
        assert_eq!(text::route(&compiled, "g"), [grpc_said], "{yaml}");
    }
}

#[test]
fn a_listener_may_take_one_kind_alone() {
    let gateway = "kind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: coracle, listeners: [{name: l, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}]}\n---\n";
    let any = "rules: [{backendRefs: [{name: one, port: 80}]}]";
    let compiled = compiled(&(edge("") + gateway + &http("h", any) + &grpc("g", any)));
    assert_eq!(text::route(&compiled, "h"), ["edge: !Accepted=NotAllowedByListeners ResolvedRefs"]);
    assert_eq!(text::route(&compiled, "g"), ["edge: Accepted ResolvedRefs"]);
}

#[test]
fn a_service_takes_calls_and_no_tls() {
    let parent = "parentRefs: [{group: '', kind: Service, name: one, port: 80}]";
    let compiled = compiled(&edge(&format!(
        "{{kind: GRPCRoute, metadata: {{name: g}}, spec: {{{parent}, rules: [{{matches: [{{method: {{service: S}}}}], backendRefs: [{{name: two, port: 80}}]}}]}}}}\n---\n\
         {{kind: TLSRoute, metadata: {{name: t}}, spec: {{{parent}, hostnames: [a.example], rules: [{{backendRefs: [{{name: two, port: 80}}]}}]}}}}"
    )));
    assert_eq!(text::listener(&compiled, "service/shop/one:80"), ["*", "  /S -> shop/two:80*1 (grpc:shop/g/0)"]);
    assert_eq!(text::route(&compiled, "g"), ["one: Accepted ResolvedRefs"]);
    assert_eq!(text::route(&compiled, "t"), ["one: !Accepted=NoMatchingParent ResolvedRefs"]);
}

const PASSTHROUGH: &str = "kind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: coracle, listeners: [{name: tls, port: 8443, protocol: TLS, hostname: '*.example', tls: {mode: Passthrough}}]}\n---\n";

fn tls(name: &str, hostnames: &str, backends: &str) -> String {
    format!(
        "{{kind: TLSRoute, metadata: {{name: {name}}}, spec: {{parentRefs: [{{name: edge}}], hostnames: [{hostnames}], rules: [{{backendRefs: [{backends}]}}]}}}}\n---\n"
    )
}

#[test]
fn tls_is_handed_on_by_server_name() {
    let secure = "{kind: Service, metadata: {name: secure}, spec: {clusterIP: 127.96.0.9, ports: [{port: 443, name: https}]}}\n---\n";
    let yaml = edge("")
        + PASSTHROUGH
        + secure
        + &tls("a", "a.example", "{name: secure, port: 443, weight: 2}, {name: one, port: 80}")
        + &tls("b", "a.example, b.example", "{name: two, port: 80}")
        + &tls("c", "other.test", "{name: two, port: 80}")
        + &tls("d", "d.example", "{name: gone, port: 80}");
    let compiled = compiled(&yaml);
    let socket = text::socket(&compiled.snapshot.listeners[0]);
    assert_eq!(
        socket,
        "gateway/8443 127.0.0.1:8443 tls(a.example:shop/secure:443*2+shop/one:80*1 b.example:shop/two:80*1 d.example:unresolved*1 *.example:)"
    );
    assert_eq!(
        text::gateway(&compiled, "edge")[1],
        "tls [TLSRoute] 3 routes gateway/8443: Accepted !Conflicted=NoConflicts ResolvedRefs"
    );
    assert_eq!(text::route(&compiled, "a"), ["edge: Accepted ResolvedRefs"]);
    assert_eq!(text::route(&compiled, "b"), ["edge: Accepted ResolvedRefs"]);
    assert_eq!(text::route(&compiled, "c"), ["edge: !Accepted=NoMatchingListenerHostname ResolvedRefs"]);
    assert_eq!(text::route(&compiled, "d"), ["edge: Accepted !ResolvedRefs=BackendNotFound"]);
}

#[test]
fn tls_listeners_take_tls_routes_alone_and_need_a_certificate_to_end_tls() {
    let any = "rules: [{backendRefs: [{name: one, port: 80}]}]";
    let both = compiled(&(edge("") + PASSTHROUGH + &http("h", any)));
    assert_eq!(text::route(&both, "h"), ["edge: !Accepted=NotAllowedByListeners ResolvedRefs"]);
    let plain = compiled(&edge(&tls("t", "a.example", "{name: one, port: 80}")));
    assert_eq!(text::route(&plain, "t"), ["edge: !Accepted=NotAllowedByListeners ResolvedRefs"]);
    let ends = compiled(&PASSTHROUGH.replace("Passthrough", "Terminate"));
    assert!(text::gateway(&ends, "edge")[1].contains("!Accepted=Invalid"), "{:?}", text::gateway(&ends, "edge"));
}
