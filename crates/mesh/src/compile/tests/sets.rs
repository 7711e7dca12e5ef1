//! ListenerSets: who may bring listeners to a Gateway, and whose come first.

use super::{compiled, edge, text};

fn gateway(allowed: &str) -> String {
    format!(
        "{{kind: Gateway, metadata: {{name: shared}}, spec: {{gatewayClassName: coracle, {allowed}\
         listeners: [{{name: own, port: 80, protocol: HTTP, hostname: a.example}}]}}}}\n---\n"
    )
}

fn set(name: &str, namespace: &str, listeners: &str) -> String {
    format!(
        "{{kind: ListenerSet, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{parentRef: {{name: shared, namespace: shop}}, listeners: [{listeners}]}}}}\n---\n"
    )
}

const TEAM: &str = "{kind: Namespace, metadata: {name: team, labels: {kind: team}}}\n---\n";
const B: &str = "{name: b, port: 80, protocol: HTTP, hostname: b.example}";

#[test]
fn a_gateway_says_whose_sets_it_takes() {
    let selector = "allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {kind: team}}}}, ";
    for (allowed, namespace, taken) in [
        ("", "shop", false),
        ("allowedListeners: {namespaces: {from: None}}, ", "shop", false),
        ("allowedListeners: {namespaces: {from: Same}}, ", "shop", true),
        ("allowedListeners: {namespaces: {from: Same}}, ", "team", false),
        ("allowedListeners: {namespaces: {from: All}}, ", "team", true),
        (selector, "team", true),
        (selector, "shop", false),
    ] {
        let compiled = compiled(&(gateway(allowed) + TEAM + &set("s", namespace, B)));
        let served = if taken { "gateway/80" } else { "!Invalid" };
        assert_eq!(
            text::gateway(&compiled, "s"),
            [
                if taken { "Accepted" } else { "!Accepted=NotAllowed" }.to_owned(),
                format!("b [HTTPRoute,GRPCRoute] 0 routes {served}: Accepted !Conflicted=NoConflicts ResolvedRefs"),
            ],
            "{allowed} {namespace}"
        );
        let plan = compiled.gateways.iter().find(|gateway| gateway.name == "shared").expect("ours");
        assert_eq!(plan.sets, i32::from(taken));
    }
}

#[test]
fn listeners_of_a_gateway_and_of_older_sets_come_first() {
    let all = "allowedListeners: {namespaces: {from: All}}, ";
    let compiled = compiled(
        &(gateway(all)
            + &set("first", "shop", &format!("{B}, {{name: a, port: 80, protocol: HTTP, hostname: a.example}}"))
            + &set(
                "second",
                "team",
                &format!(
                    "{B}, {{name: tls, port: 80, protocol: TLS, tls: {{mode: Passthrough}}}}, {{name: raw, port: 80, protocol: TCP}}, \
                     {{name: dns, port: 80, protocol: UDP}}"
                ),
            )),
    );
    let conflicts = |name: &str| {
        let lines = text::gateway(&compiled, name);
        lines.iter().map(|line| line.rsplit(": ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let fine = "Accepted !Conflicted=NoConflicts ResolvedRefs";
    let taken = "!Accepted=HostnameConflict Conflicted=HostnameConflict ResolvedRefs";
    assert_eq!(conflicts("shared"), ["Accepted", fine]);
    assert_eq!(conflicts("first"), ["Accepted=ListenersNotValid", fine, taken]);
    assert_eq!(
        conflicts("second"),
        [
            "!Accepted=ListenersNotValid",
            taken,
            "!Accepted=ProtocolConflict Conflicted=ProtocolConflict ResolvedRefs",
            "!Accepted=ProtocolConflict Conflicted=ProtocolConflict ResolvedRefs",
            "!Accepted=UnsupportedProtocol !Conflicted=NoConflicts ResolvedRefs",
        ]
    );
}

#[test]
fn a_set_is_accepted_for_listeners_that_can_serve() {
    let all = "allowedListeners: {namespaces: {from: All}}, ";
    let https = "{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}";
    for (listeners, accepted) in [
        (https.to_owned(), "!Accepted=ListenersNotValid"),
        (format!("{B}, {https}"), "Accepted=ListenersNotValid"),
        (B.to_owned(), "Accepted"),
    ] {
        let compiled = compiled(&(gateway(all) + &set("s", "shop", &listeners)));
        assert_eq!(text::gateway(&compiled, "s")[0], accepted, "{listeners}");
    }
}

#[test]
fn routes_attach_to_a_set_or_to_its_gateway() {
    let route = |name: &str, kind: &str, parent: &str| {
        format!(
            "{{kind: HTTPRoute, metadata: {{name: {name}}}, spec: {{parentRefs: [{{kind: {kind}, name: {parent}}}], rules: [{{backendRefs: [{{name: one, port: 80}}]}}]}}}}\n---\n"
        )
    };
    let yaml = |allowed: &str| {
        edge("")
            + &gateway(allowed)
            + &set("s", "shop", B)
            + &route("to-set", "ListenerSet", "s")
            + &route("to-gateway", "Gateway", "shared")
            + &route("to-nothing", "ListenerSet", "shared")
    };
    let open = compiled(&yaml("allowedListeners: {namespaces: {from: Same}}, "));
    assert_eq!(
        text::listener(&open, "gateway/80"),
        ["a.example", "  / -> shop/one:80*1 (shop/to-gateway/0)", "b.example", "  / -> shop/one:80*1 (shop/to-set/0)"]
    );
    assert_eq!(text::route(&open, "to-set"), ["s: Accepted ResolvedRefs"]);
    assert!(text::route(&open, "to-nothing").is_empty());
    let closed = compiled(&yaml(""));
    assert_eq!(text::route(&closed, "to-set"), ["s: !Accepted=NoMatchingParent ResolvedRefs"]);
}
