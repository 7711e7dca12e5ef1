//! BackendTLSPolicies: what is spoken to backends, and what is said about policies.

use proxy::secured::{SubjectName, Trust};

use super::{compiled, edge, text};
use crate::compile::{Compiled, PolicyKind};

/// A ConfigMap with a new authority.
fn authority(name: &str) -> String {
    let pem = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate").cert.pem();
    let indented: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("kind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n{indented}---\n")
}

const ROUTE: &str = "{kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: one, port: 80}]}]}}\n---\n";

fn policy(name: &str, target: &str, validation: &str) -> String {
    format!(
        "{{kind: BackendTLSPolicy, metadata: {{name: {name}}}, spec: {{targetRefs: [{{group: '', kind: Service, {target}}}], validation: {{hostname: one.test, {validation}}}}}}}\n---\n"
    )
}

const BY_CA: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]";

/// What is said about a policy: a line for each ancestor.
fn said(compiled: &Compiled, name: &str) -> Vec<String> {
    let plans = compiled.policies.iter().filter(|plan| plan.kind == PolicyKind::BackendTls);
    let plan = plans.into_iter().find(|plan| plan.name == name).expect("every policy has a plan");
    let line = |ancestor: &crate::compile::AncestorPlan| {
        format!("{} {}: {}", ancestor.kind, ancestor.name, text::verdicts(&ancestor.verdicts))
    };
    plan.ancestors.iter().map(line).collect()
}

/// How a backend is spoken to: `plain`, `closed`, or the server name and whom it trusts.
fn spoken(compiled: &Compiled, backend: &str) -> String {
    let backend = &compiled.snapshot.backends[backend];
    match backend.endpoints.first() {
        None => format!("closed {}", backend.when_empty),
        Some(endpoint) => match &endpoint.tls {
            None => "plain".to_owned(),
            Some(tls) if tls.trust == Trust::System => format!("{} by the system {:?}", tls.name, tls.names),
            Some(tls) => format!("{} by {:?} {:?}", tls.name, tls.trust, tls.names),
        },
    }
}

#[test]
fn a_policy_is_followed_or_says_why_and_then_nothing_is_sent() {
    let empty = "kind: ConfigMap\nmetadata: {name: bad}\ndata: {ca.crt: \"-----BEGIN CERTIFICATE-----\\nno\"}\n---\n";
    for (target, validation, expected, words) in [
        ("name: one", BY_CA, "one.test by Authorities(1 authorities) []", "Accepted ResolvedRefs"),
        ("name: one", "wellKnownCACertificates: System", "one.test by the system []", "Accepted ResolvedRefs"),
        ("name: one, sectionName: http", BY_CA, "one.test by Authorities(1 authorities) []", "Accepted ResolvedRefs"),
        ("name: one, sectionName: other", BY_CA, "plain", "!Accepted=TargetNotFound ResolvedRefs"),
        (
            "name: one",
            "wellKnownCACertificates: Own",
            "closed 500 Internal Server Error",
            "!Accepted=Invalid ResolvedRefs",
        ),
        (
            "name: one",
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]",
            "closed 500 Internal Server Error",
            "!Accepted=NoValidCACertificate !ResolvedRefs=InvalidCACertificateRef",
        ),
        (
            "name: one",
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: bad}]",
            "closed 500 Internal Server Error",
            "!Accepted=NoValidCACertificate !ResolvedRefs=InvalidCACertificateRef",
        ),
        (
            "name: one",
            "caCertificateRefs: [{group: example.com, kind: Bundle, name: ca}]",
            "closed 500 Internal Server Error",
            "!Accepted=NoValidCACertificate !ResolvedRefs=InvalidKind",
        ),
        (
            "name: one",
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: none}, {group: '', kind: ConfigMap, name: ca}]",
            "one.test by Authorities(1 authorities) []",
            "Accepted !ResolvedRefs=InvalidCACertificateRef",
        ),
    ] {
        let yaml = format!("{}{empty}{ROUTE}{}", authority("ca"), policy("p", target, validation));
        let compiled = compiled(&edge(&yaml));
        assert_eq!(spoken(&compiled, "shop/one:80"), expected, "{target} {validation}");
        assert_eq!(said(&compiled, "p"), [format!("Gateway edge: {words}")], "{target} {validation}");
        assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs"], "{target} {validation}");
        assert_eq!(spoken(&compiled, "shop/two:80"), "plain");
    }
}

#[test]
fn names_of_certificates_are_read() {
    let names = "subjectAltNames: [{type: Hostname, hostname: A.test}, {type: URI, uri: 'spiffe://t/x'}]";
    let yaml = format!("{}{ROUTE}{}", authority("ca"), policy("p", "name: one", &format!("{BY_CA}, {names}")));
    let compiled = compiled(&edge(&yaml));
    let tls = compiled.snapshot.backends["shop/one:80"].endpoints[0].tls.clone().expect("TLS");
    assert_eq!(tls.names, [SubjectName::Host("a.test".into()), SubjectName::Uri("spiffe://t/x".into())]);
}

#[test]
fn the_older_of_two_is_followed_and_a_port_comes_before_its_service() {
    let system = "wellKnownCACertificates: System";
    let yaml =
        [authority("ca"), ROUTE.to_owned(), policy("z-old", "name: one", BY_CA), policy("a-new", "name: one", system)]
            .concat();
    let compiled_two = compiled(&edge(&yaml));
    assert_eq!(spoken(&compiled_two, "shop/one:80"), "one.test by Authorities(1 authorities) []");
    assert_eq!(said(&compiled_two, "z-old"), ["Gateway edge: Accepted ResolvedRefs"]);
    assert_eq!(said(&compiled_two, "a-new"), ["Gateway edge: !Accepted=Conflicted ResolvedRefs"]);

    let compiled_port = compiled(&edge(&(yaml + &policy("port", "name: one, sectionName: http", system))));
    assert_eq!(spoken(&compiled_port, "shop/one:80"), "one.test by the system []");
    assert_eq!(said(&compiled_port, "port"), ["Gateway edge: Accepted ResolvedRefs"]);
    assert_eq!(said(&compiled_port, "z-old"), ["Gateway edge: Accepted ResolvedRefs"]);
}

#[test]
fn without_a_gateway_the_service_is_told() {
    let compiled = compiled(&edge(&format!("{}{}", authority("ca"), policy("p", "name: two", BY_CA))));
    assert_eq!(said(&compiled, "p"), ["Service two: Accepted ResolvedRefs"]);
    assert_eq!(spoken(&compiled, "shop/two:80"), "one.test by Authorities(1 authorities) []", "for Services' calls");
}

#[test]
fn a_port_of_https_is_a_backend_once_a_policy_says_whom_to_trust() {
    let service = "
kind: Service
metadata: {name: sec}
spec: {clusterIP: 127.96.0.9, ports: [{port: 443, name: https}]}
---
kind: EndpointSlice
metadata: {name: sec-a, labels: {kubernetes.io/service-name: sec}}
addressType: IPv4
ports: [{name: https, port: 4443}]
endpoints: [{addresses: [127.0.0.1]}]
---
{kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: sec, port: 443}]}]}}
---
";
    let without = compiled(&edge(service));
    assert_eq!(text::route(&without, "r"), ["edge: Accepted !ResolvedRefs=UnsupportedProtocol"]);
    let with = compiled(&edge(&format!("{service}{}{}", authority("ca"), policy("p", "name: sec", BY_CA))));
    assert_eq!(text::route(&with, "r"), ["edge: Accepted ResolvedRefs"]);
    assert_eq!(spoken(&with, "shop/sec:443"), "one.test by Authorities(1 authorities) []");
    let listener = |compiled: &Compiled| {
        let found = compiled.snapshot.listeners.iter().find(|listener| &*listener.id == "service/shop/sec:443");
        text::socket(found.expect("its listener"))
    };
    // TLS of a caller's own passes as it is, in both cases.
    assert!(listener(&without).ends_with("tcp(shop/sec:443)"), "{}", listener(&without));
    assert!(listener(&with).ends_with("sniff(shop/sec:443)"), "{}", listener(&with));
}

#[test]
fn a_gateway_shows_its_own_certificate() {
    let made = rcgen::generate_simple_self_signed(["edge.test".to_owned()]).expect("a certificate");
    let encode = |text: String| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let secret = format!(
        "---\nkind: Secret\nmetadata: {{name: own}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: {}, tls.key: {}}}\n---\n",
        encode(made.cert.pem()),
        encode(made.signing_key.serialize_pem())
    );
    let gateway = |to: &str| {
        format!(
            "kind: Gateway\nmetadata: {{name: edge}}\nspec:\n  gatewayClassName: coracle\n  tls: {{backend: {{clientCertificateRef: {{{to}}}}}}}\n  listeners: [{{name: http, port: 8080, protocol: HTTP}}]\n"
        )
    };
    for (to, shown, said) in [
        ("name: own", true, "ResolvedRefs"),
        ("name: none", false, "!ResolvedRefs=InvalidClientCertificateRef"),
        ("name: own, namespace: other", false, "!ResolvedRefs=RefNotPermitted"),
    ] {
        let compiled = compiled(&edge(&format!("{ROUTE}{}{secret}", gateway(to))));
        let listener = compiled.snapshot.listeners.iter().find(|l| &*l.id == "gateway/8080").expect("a listener");
        assert_eq!(listener.hosts[0].rules[0].client.is_some(), shown, "{to}");
        assert_eq!(text::verdicts(std::slice::from_ref(&compiled.gateways[0].resolved)), said, "{to}");
        let own = compiled.snapshot.listeners.iter().find(|l| &*l.id == "service/shop/one:80").expect("a listener");
        assert_eq!(own.hosts[0].rules[0].client, None, "between services it is nobody's");
    }
}
