//! Listeners of Gateways: which serve, on which sockets, and whose routes they take.

use base64::Engine as _;

use proxy::snapshot::ListenerProtocol;

use super::{Compiled, compile, compiled, edge, settings, text, world};
use crate::compile::Served;

/// A Gateway with these listeners.
fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "kind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: coracle, listeners: [{listeners}]}}\n---\n"
    )
}

fn route(name: &str, namespace: &str, parent: &str) -> String {
    format!(
        "{{kind: HTTPRoute, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{parentRefs: [{parent}], rules: [{{}}]}}}}\n---\n"
    )
}

fn sockets(yaml: &str, port: Option<u16>) -> Vec<String> {
    let mut settings = settings();
    settings.first_gateway_port = port;
    let compiled = compile(&world(yaml), &settings);
    compiled.snapshot.listeners.iter().map(text::socket).collect()
}

#[test]
fn sockets_are_shared_by_port_and_the_first_can_be_moved() {
    let two = gateway("a", "{name: web, port: 80, protocol: HTTP}, {name: alt, port: 8081, protocol: HTTP}")
        + &gateway("b", "{name: web, port: 80, protocol: HTTP, hostname: x.example}");
    for (port, expected) in [
        (None, vec!["gateway/80 127.0.0.1:80 or 127.0.0.1:8080 http", "gateway/8081 127.0.0.1:8081 http"]),
        (Some(0), vec!["gateway/80 127.0.0.1:0 http", "gateway/8081 127.0.0.1:8081 http"]),
        (Some(3000), vec!["gateway/80 127.0.0.1:3000 http", "gateway/8081 127.0.0.1:8081 http"]),
        (Some(8081), vec!["gateway/80 127.0.0.1:8081 http"]),
    ] {
        assert_eq!(sockets(&two, port), expected, "{port:?}");
    }
}

#[test]
fn a_fallback_is_not_a_port_that_another_listener_wants() {
    let both = gateway("a", "{name: web, port: 80, protocol: HTTP}, {name: alt, port: 8080, protocol: HTTP}");
    assert_eq!(sockets(&both, None), ["gateway/80 127.0.0.1:80 http", "gateway/8080 127.0.0.1:8080 http"]);
}

#[test]
fn a_listener_says_what_is_wrong_with_it() {
    for (listener, expected) in [
        (
            "{name: l, port: 80, protocol: HTTP}",
            "l [HTTPRoute,GRPCRoute] 0 routes gateway/80: Accepted !Conflicted=NoConflicts ResolvedRefs",
        ),
        (
            "{name: l, port: 80, protocol: TCP}",
            "l [] 0 routes !Invalid: !Accepted=UnsupportedProtocol !Conflicted=NoConflicts ResolvedRefs",
        ),
        (
            "{name: l, port: 0, protocol: HTTP}",
            "l [HTTPRoute,GRPCRoute] 0 routes !Invalid: !Accepted=PortUnavailable !Conflicted=NoConflicts ResolvedRefs",
        ),
        (
            "{name: l, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}}",
            "l [HTTPRoute] 0 routes gateway/80: Accepted !Conflicted=NoConflicts !ResolvedRefs=InvalidRouteKinds",
        ),
        (
            "{name: l, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute, group: other.example}]}}",
            "l [] 0 routes gateway/80: Accepted !Conflicted=NoConflicts !ResolvedRefs=InvalidRouteKinds",
        ),
        (
            "{name: l, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}",
            "l [HTTPRoute,GRPCRoute] 0 routes !Invalid: !Accepted=Invalid !Conflicted=NoConflicts ResolvedRefs",
        ),
        (
            "{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}",
            "l [HTTPRoute,GRPCRoute] 0 routes !Invalid: Accepted !Conflicted=NoConflicts !ResolvedRefs=InvalidCertificateRef",
        ),
        (
            "{name: l, port: 443, protocol: HTTPS}",
            "l [HTTPRoute,GRPCRoute] 0 routes !Invalid: !Accepted=Invalid !Conflicted=NoConflicts ResolvedRefs",
        ),
    ] {
        assert_eq!(text::gateway(&compiled(&gateway("g", listener)), "g")[1], expected, "{listener}");
    }
}

#[test]
fn listeners_that_cannot_be_told_apart_all_stand_back() {
    let lines = text::gateway(
        &compiled(&gateway(
            "g",
            "{name: a, port: 80, protocol: HTTP, hostname: x.example}, {name: b, port: 80, protocol: HTTP, hostname: X.example}, \
             {name: c, port: 80, protocol: HTTP}, {name: d, port: 90, protocol: HTTP}, {name: e, port: 90, protocol: HTTPS}",
        )),
        "g",
    );
    let kept = [
        "Accepted=ListenersNotValid",
        "c [HTTPRoute,GRPCRoute] 0 routes gateway/80: Accepted !Conflicted=NoConflicts ResolvedRefs",
    ];
    assert_eq!([&lines[0], &lines[3]], kept);
    for line in &lines[1..3] {
        assert!(
            line.ends_with("!HostnameConflict: !Accepted=HostnameConflict Conflicted=HostnameConflict ResolvedRefs"),
            "{line}"
        );
    }
    for line in &lines[4..] {
        assert!(
            line.ends_with("!ProtocolConflict: !Accepted=ProtocolConflict Conflicted=ProtocolConflict ResolvedRefs"),
            "{line}"
        );
    }
}

#[test]
fn the_older_gateway_keeps_a_port_that_another_wants_differently() {
    let yaml = gateway("z", "{name: l, port: 80, protocol: HTTP}")
        + &gateway("a", "{name: l, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}")
        + &secret("cert", "shop");
    let compiled = compiled(&yaml);
    assert_eq!(text::gateway(&compiled, "z")[0], "Accepted");
    assert_eq!(
        text::gateway(&compiled, "a"),
        [
            "!Accepted=ListenersNotValid",
            "l [] 0 routes !ProtocolConflict: !Accepted=ProtocolConflict Conflicted=ProtocolConflict ResolvedRefs"
        ]
    );
}

/// Three Gateways that want port 443: by HTTPS, handed on as TLS, and by HTTPS again.
fn three_for_one_port() -> String {
    let https = "{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}";
    gateway("first", https)
        + &gateway(
            "second",
            "{name: l, port: 443, protocol: TLS, tls: {mode: Passthrough}}, {name: m, port: 80, protocol: HTTP}",
        )
        + &gateway("third", https)
        + &secret("cert", "shop")
}

#[test]
fn a_gateway_that_cannot_share_gets_an_address_of_its_own() {
    let own_addresses = vec![[127, 112, 0, 1].into(), [127, 112, 0, 2].into()];
    let with =
        |yaml: &str| compile(&world(yaml), &crate::Settings { own_addresses: own_addresses.clone(), ..settings() });
    let compiled = with(&three_for_one_port());
    let sockets: Vec<_> = compiled.snapshot.listeners.iter().map(|listener| listener.bind.to_string()).collect();
    assert_eq!(sockets.len(), 3, "{sockets:?}");
    assert!(
        sockets[0] == "127.0.0.1:443" && sockets[1].starts_with("127.112.0.") && sockets[2].starts_with("127.112.0.")
    );
    assert!(sockets[1].ends_with(":443") && sockets[2].ends_with(":80"), "{sockets:?}");
    let served = text::gateway(&compiled, "second");
    assert!(served[0] == "Accepted" && served[1].contains(&format!("gateway/{}", sockets[1])), "{served:?}");
    assert!(text::gateway(&compiled, "third")[1].contains("gateway/443"));
    // It stays where it is when another one comes before it.
    let before = "{kind: Gateway, metadata: {name: zeroth, creationTimestamp: '2025-01-01T00:00:00Z'}, spec: {gatewayClassName: coracle, \
                  listeners: [{name: l, port: 80, protocol: HTTP}]}}\n---\n";
    let after = with(&(before.to_owned() + &three_for_one_port()));
    assert_eq!(text::gateway(&after, "second")[1], served[1]);
}

#[test]
fn a_gateway_is_served_on_the_addresses_that_it_asks_for_and_no_others() {
    let yaml = gateway("g", "{name: l, port: 80, protocol: HTTP}").replace(
        "gatewayClassName",
        "addresses: [{value: 127.0.0.7}, {value: '::1', type: IPAddress}, {value: 127.0.0.7}], gatewayClassName",
    ) + &gateway("shared", "{name: l, port: 80, protocol: HTTP}")
        + &route("r", "shop", "{name: g}");
    let compiled = compiled(&yaml);
    let sockets: Vec<_> = compiled.snapshot.listeners.iter().map(text::socket).collect();
    assert_eq!(
        sockets,
        [
            "gateway/127.0.0.7:80 127.0.0.7:80 or 127.0.0.7:8080 http",
            "gateway/[::1]:80 [::1]:80 or [::1]:8080 http",
            "gateway/80 127.0.0.1:80 or 127.0.0.1:8080 http",
        ]
    );
    assert!(text::gateway(&compiled, "g")[1].contains("1 routes gateway/127.0.0.7:80 and gateway/[::1]:80"));
    let rules = |at: usize| compiled.snapshot.listeners[at].hosts.iter().map(|host| host.rules.len()).sum::<usize>();
    assert_eq!([rules(0), rules(1), rules(2)], [1, 1, 0]);
}

#[test]
fn a_gateway_as_a_whole_may_ask_for_too_much() {
    let with = |spec: &str| {
        compiled(&format!(
            "{{kind: Gateway, metadata: {{name: g}}, spec: {{gatewayClassName: coracle, listeners: [{{name: l, port: 80, protocol: HTTP}}], {spec}}}}}"
        ))
    };
    for (spec, accepted, serves) in [
        ("addresses: [{value: 127.0.0.1}]", "Accepted", true),
        ("addresses: [{type: IPAddress}]", "Accepted", true),
        ("addresses: [{value: 10.0.0.1}]", "Accepted", true),
        ("addresses: [{value: 0.0.0.0}]", "Accepted", false),
        ("addresses: [{value: nonsense}]", "Accepted", false),
        ("addresses: [{type: Hostname, value: x.example}]", "!Accepted=UnsupportedAddress", false),
        ("infrastructure: {parametersRef: {group: a.b, kind: C, name: d}}", "!Accepted=InvalidParameters", false),
    ] {
        let compiled = with(spec);
        assert_eq!(text::gateway(&compiled, "g")[0], accepted, "{spec}");
        assert_eq!(!compiled.snapshot.listeners.is_empty(), serves, "{spec}");
    }
}

#[test]
fn gateways_of_others_are_left_alone() {
    let yaml = "{kind: GatewayClass, metadata: {name: theirs}, spec: {controllerName: example.com/x}}\n---\n\
                {kind: GatewayClass, metadata: {name: ours-too}, spec: {controllerName: coracle.dev/gateway}}\n---\n\
                {kind: Gateway, metadata: {name: a}, spec: {gatewayClassName: theirs, listeners: [{name: l, port: 80, protocol: HTTP}]}}\n---\n\
                {kind: Gateway, metadata: {name: b}, spec: {gatewayClassName: ours-too, listeners: [{name: l, port: 81, protocol: HTTP}]}}\n---\n\
                {kind: Gateway, metadata: {name: c}, spec: {gatewayClassName: none, listeners: [{name: l, port: 82, protocol: HTTP}]}}\n---\n"
        .to_owned()
        + &route("r", "shop", "{name: a}, {name: b}, {name: c}, {name: d}");
    let compiled = compiled(&yaml);
    assert_eq!(compiled.snapshot.listeners.iter().map(|listener| &*listener.id).collect::<Vec<_>>(), ["gateway/81"]);
    assert_eq!(text::gateway(&compiled, "a"), ["not ours"]);
    assert_eq!(text::route(&compiled, "r"), ["b: Accepted ResolvedRefs"]);
    assert_eq!(compiled.classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>(), ["coracle", "ours-too"]);
}

#[test]
fn listeners_take_routes_from_the_namespaces_they_allow() {
    let listeners = "{name: same, port: 80, protocol: HTTP}, \
                     {name: all, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}, \
                     {name: some, port: 82, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}, \
                     matchExpressions: [{key: env, operator: NotIn, values: [test]}]}}}}";
    let namespaces = "{kind: Namespace, metadata: {name: red, labels: {team: a}}}\n---\n\
                      {kind: Namespace, metadata: {name: blue, labels: {team: a, env: test}}}\n---\n\
                      {kind: Namespace, metadata: {name: shop}}\n---\n";
    let attached = |namespace: &str, section: &str| {
        let parent = format!("{{name: g, namespace: shop, sectionName: {section}}}");
        let yaml = gateway("g", listeners) + namespaces + &route("r", namespace, &parent);
        text::route(&compiled(&yaml), "r").join("")
    };
    for (namespace, section, taken) in [
        ("shop", "same", true),
        ("red", "same", false),
        ("red", "all", true),
        ("nowhere", "all", true),
        ("red", "some", true),
        ("blue", "some", false),
        ("shop", "some", false),
        ("nowhere", "some", false),
    ] {
        let expected = if taken { "Accepted" } else { "!Accepted=NotAllowedByListeners" };
        assert_eq!(attached(namespace, section), format!("g: {expected} ResolvedRefs"), "{namespace} {section}");
    }
}

#[test]
fn parents_are_found_by_section_and_port_and_counted() {
    let listeners = "{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}";
    let yaml = gateway("g", listeners)
        + &route("both", "shop", "{name: g}")
        + &route("second", "shop", "{name: g, sectionName: b}")
        + &route("by-port", "shop", "{name: g, port: 81}")
        + &route("neither", "shop", "{name: g, sectionName: a, port: 81}")
        + &route("absent", "shop", "{name: g, sectionName: c}");
    let compiled = compiled(&yaml);
    let lines = text::gateway(&compiled, "g");
    assert!(
        lines[1].starts_with("a [HTTPRoute,GRPCRoute] 1 routes")
            && lines[2].starts_with("b [HTTPRoute,GRPCRoute] 3 routes"),
        "{lines:?}"
    );
    for name in ["neither", "absent"] {
        assert_eq!(text::route(&compiled, name), ["g: !Accepted=NoMatchingParent ResolvedRefs"], "{name}");
    }
    assert!(text::route_message(&compiled, "absent", "Accepted").contains("Gateway shop/g has no listener named c"));
}

#[test]
fn routes_attach_to_listeners_that_cannot_serve() {
    let yaml = gateway("g", "{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}")
        + &route("r", "shop", "{name: g}");
    let compiled = compiled(&yaml);
    assert!(text::gateway(&compiled, "g")[1].contains("1 routes !Invalid"));
    assert_eq!(text::route(&compiled, "r"), ["g: Accepted ResolvedRefs"]);
    assert!(compiled.snapshot.listeners.is_empty());
}

fn secret(name: &str, namespace: &str) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let chain = encode("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n");
    let key = encode("-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n");
    format!(
        "{{kind: Secret, metadata: {{name: {name}, namespace: {namespace}, resourceVersion: '7'}}, type: kubernetes.io/tls, \
         data: {{tls.crt: {chain}, tls.key: {key}}}}}\n---\n"
    )
}

#[test]
fn certificates_are_found_and_shared() {
    let tls = |names: &str| format!("tls: {{certificateRefs: [{names}]}}");
    let yaml = gateway(
        "g",
        &format!(
            "{{name: a, port: 443, protocol: HTTPS, hostname: a.example, {}}}, {{name: b, port: 443, protocol: HTTPS, hostname: '*.b.example', {}}}, \
             {{name: c, port: 443, protocol: HTTPS, {}}}",
            tls("{name: one}"),
            tls("{name: one}"),
            tls("{name: two, namespace: vault}")
        ),
    ) + &secret("one", "shop")
        + &secret("two", "vault");
    let grant = "{kind: ReferenceGrant, metadata: {name: g, namespace: vault}, spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: '', kind: Secret}]}}";
    let compiled = compiled(&(yaml.clone() + grant));
    assert_eq!(
        text::socket(&compiled.snapshot.listeners[0]),
        "gateway/443 127.0.0.1:443 or 127.0.0.1:8443 https(*,a.example+*.b.example)"
    );
    let names: Vec<&str> = compiled.certificates["gateway/443"].iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["two", "one"], "in the order of the snapshot's certificates");

    let without = super::compiled(&yaml);
    assert!(text::gateway(&without, "g")[3].ends_with("!ResolvedRefs=RefNotPermitted"));
    assert_eq!(
        text::socket(&without.snapshot.listeners[0]),
        "gateway/443 127.0.0.1:443 or 127.0.0.1:8443 https(a.example+*.b.example)"
    );
}

#[test]
fn a_certificate_that_the_proxy_refused_is_left_out() {
    let yaml = gateway("g", "{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: one}]}}")
        + &secret("one", "shop");
    let mut world = world(&yaml);
    assert_eq!(compile(&world, &settings()).snapshot.listeners.len(), 1);
    world.rejected.certificate(("shop".to_owned(), "one".to_owned(), "7".to_owned()), "key does not fit".to_owned());
    let compiled = compile(&world, &settings());
    assert!(compiled.snapshot.listeners.is_empty());
    assert!(text::gateway(&compiled, "g")[1].ends_with("!ResolvedRefs=InvalidCertificateRef"));
}

#[test]
fn a_certificate_that_is_served_goes_on_where_its_secret_becomes_unfit() {
    let listener = "{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: one}]}}";
    let good = gateway("g", listener) + &secret("one", "shop");
    let before = compiled(&good);
    let served = Served::of(&before.snapshot.listeners, &before.certificates);
    let chain = |compiled: &Compiled| match &compiled.snapshot.listeners.first()?.protocol {
        ListenerProtocol::Https { certificates, .. } => Some(certificates[0].chain.clone()),
        _ => None,
    };
    let unfit = good.replace("'7'", "'8'").replace("tls.key: ", "tls.key: AAAA");
    let with = |yaml: &str| {
        let mut world = world(yaml);
        world.rejected.served = served.clone();
        world
    };
    // What cannot be read, and what the proxy refuses.
    let mut refused = with(&good.replace("'7'", "'8'"));
    refused.rejected.certificate(("shop".to_owned(), "one".to_owned(), "8".to_owned()), "no match".to_owned());
    for world in [with(&unfit), refused] {
        let compiled = compile(&world, &settings());
        assert_eq!(chain(&compiled), chain(&before));
        assert_eq!(compiled.certificates, before.certificates, "it is that of the version before");
        assert!(text::gateway(&compiled, "g")[1].ends_with("!ResolvedRefs=InvalidCertificateRef"));
    }
    // Not where it was never good, is gone, or was refused itself.
    assert!(compiled(&unfit).snapshot.listeners.is_empty());
    assert!(compile(&with(&gateway("g", listener)), &settings()).snapshot.listeners.is_empty());
    let mut both = with(&unfit);
    both.rejected.certificate(("shop".to_owned(), "one".to_owned(), "7".to_owned()), "expired".to_owned());
    assert!(compile(&both, &settings()).snapshot.listeners.is_empty());
    // Nor in the place of a better one.
    let renewed = compile(&with(&good.replace("'7'", "'9'")), &settings());
    assert_eq!(renewed.certificates["gateway/443"], [("shop".to_owned(), "one".to_owned(), "9".to_owned())]);
    assert_eq!(format!("{served:?}"), r#"{("shop", "one", "7")}"#, "no keys where somebody may print it");
}

#[test]
fn of_several_certificates_the_good_ones_are_served() {
    let listener =
        "{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: bad}, {name: one}, {name: none}]}}";
    let bad = secret("bad", "shop").replace("tls.crt: ", "tls.crt: AAAA");
    let compiled = compiled(&(gateway("g", listener) + &bad + &secret("one", "shop")));
    let names: Vec<&str> = compiled.certificates["gateway/443"].iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["one"]);
    assert!(text::gateway(&compiled, "g")[1].ends_with("!ResolvedRefs=InvalidCertificateRef"));
}

#[test]
fn routes_of_two_gateways_share_a_socket() {
    let yaml = edge(
        &(gateway("second", "{name: l, port: 8080, protocol: HTTP}")
            + "{kind: HTTPRoute, metadata: {name: a}, spec: {parentRefs: [{name: edge}], rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: one, port: 80}]}]}}\n---\n"
            + "{kind: HTTPRoute, metadata: {name: b}, spec: {parentRefs: [{name: second}], rules: [{matches: [{path: {value: /long}}], backendRefs: [{name: two, port: 80}]}]}}"),
    );
    let compiled = compiled(&yaml);
    assert_eq!(
        text::listener(&compiled, "gateway/8080"),
        ["*", "  /long -> shop/two:80*1 (shop/b/0)", "  /a -> shop/one:80*1 (shop/a/0)"]
    );
}
