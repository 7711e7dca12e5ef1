//! What clients of HTTPS listeners must show, and TLS that ends at a listener for TLSRoutes.

use base64::Engine as _;
use proxy::snapshot::ListenerProtocol;

use super::{Compiled, compile, compiled, settings, text, world};

/// An authority in a ConfigMap.
fn authority(name: &str, namespace: &str) -> String {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let pem = made.cert.pem().replace('\n', "\\n");
    format!(
        "{{kind: ConfigMap, metadata: {{name: {name}, namespace: {namespace}}}, data: {{ca.crt: \"{pem}\"}}}}\n---\n"
    )
}

fn secret(name: &str) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let chain = encode("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n");
    let key = encode("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n");
    format!(
        "{{kind: Secret, metadata: {{name: {name}}}, type: kubernetes.io/tls, data: {{tls.crt: {chain}, tls.key: {key}}}}}\n---\n"
    )
}

fn https(name: &str, port: u16) -> String {
    format!("{{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}")
}

fn gateway(name: &str, frontend: &str, listeners: &[String]) -> String {
    let listeners = listeners.join(", ");
    format!(
        "{{kind: Gateway, metadata: {{name: {name}}}, spec: {{gatewayClassName: coracle, tls: {{frontend: {frontend}}}, listeners: [{listeners}]}}}}\n---\n"
    )
}

fn validation(reference: &str, mode: &str) -> String {
    format!("{{validation: {{caCertificateRefs: [{reference}]{mode}}}}}")
}

const OWN: &str = "{group: '', kind: ConfigMap, name: ours}";

/// Whether clients are asked for a certificate, by listener; only of what is served.
fn asked(compiled: &Compiled) -> Vec<(u16, bool)> {
    let listeners = compiled.snapshot.listeners.iter().filter_map(|listener| match &listener.protocol {
        ListenerProtocol::Https { clients, .. } => Some((listener.bind.port(), clients.is_some())),
        _ => None,
    });
    listeners.collect()
}

#[test]
fn clients_must_show_a_certificate_of_the_authorities_that_a_gateway_names() {
    let frontend = format!("{{default: {}, perPort: [{{port: 8443, tls: {{}}}}]}}", validation(OWN, ""));
    let yaml =
        gateway("g", &frontend, &[https("a", 443), https("b", 8443), "{name: c, port: 80, protocol: HTTP}".to_owned()])
            + &secret("cert")
            + &authority("ours", "shop");
    let compiled = compiled(&yaml);
    assert_eq!(asked(&compiled), [(443, true), (8443, false)]);
    assert!(
        text::gateway(&compiled, "g")
            .iter()
            .all(|line| !line.contains('!') || line.contains("!Conflicted=NoConflicts"))
    );
}

#[test]
fn a_reference_that_cannot_be_followed_closes_the_ports_that_it_is_for_and_no_others() {
    for (reference, resolved) in [
        ("{group: '', kind: ConfigMap, name: none}", "InvalidCACertificateRef"),
        ("{group: '', kind: Service, name: ours}", "InvalidCACertificateKind"),
        ("{group: '', kind: ConfigMap, name: theirs, namespace: other}", "RefNotPermitted"),
    ] {
        let frontend = format!(
            "{{default: {}, perPort: [{{port: 8443, tls: {}}}]}}",
            validation(OWN, ""),
            validation(reference, "")
        );
        let yaml = gateway("g", &frontend, &[https("a", 443), https("b", 8443)])
            + &secret("cert")
            + &authority("ours", "shop")
            + &authority("theirs", "other");
        let compiled = compiled(&yaml);
        assert_eq!(asked(&compiled), [(443, true)], "{reference}");
        let expected =
            format!("!Invalid: !Accepted=NoValidCACertificate !Conflicted=NoConflicts !ResolvedRefs={resolved}");
        assert!(text::gateway(&compiled, "g")[2].ends_with(&expected), "{:?}", text::gateway(&compiled, "g"));
    }
    let granted = "{kind: ReferenceGrant, metadata: {name: r, namespace: other}, spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, \
                   namespace: shop}], to: [{group: '', kind: ConfigMap}]}}\n---\n";
    let frontend =
        format!("{{default: {}}}", validation("{group: '', kind: ConfigMap, name: theirs, namespace: other}", ""));
    let yaml = gateway("g", &frontend, &[https("a", 443)]) + &secret("cert") + &authority("theirs", "other") + granted;
    assert_eq!(asked(&compiled(&yaml)), [(443, true)]);
}

#[test]
fn a_fallback_is_served_and_said() {
    let frontend = format!("{{default: {}}}", validation(OWN, ", mode: AllowInsecureFallback"));
    let yaml = gateway("g", &frontend, &[https("a", 443)]) + &secret("cert") + &authority("ours", "shop");
    let compiled = compiled(&yaml);
    assert_eq!(asked(&compiled), [(443, true)]);
    let said = &compiled.gateways[0].besides;
    assert_eq!(
        said.iter().map(|verdict| (verdict.kind, verdict.holds, verdict.reason)).collect::<Vec<_>>(),
        [("InsecureFrontendValidationMode", true, "ConfigurationChanged")]
    );
}

#[test]
fn gateways_with_other_clients_do_not_share_a_port() {
    let frontend = format!("{{default: {}}}", validation(OWN, ""));
    let shared = gateway("open", "{default: {}}", &[https("a", 443)])
        + &gateway("shut", &frontend, &[https("a", 443)])
        + &secret("cert")
        + &authority("ours", "shop");
    let own = crate::Settings { own_addresses: vec![[127, 112, 0, 1].into()], ..settings() };
    let compiled = compile(&world(&shared), &own);
    let at: Vec<_> = compiled.snapshot.listeners.iter().map(|listener| listener.bind.to_string()).collect();
    assert_eq!(
        (asked(&compiled), at),
        (vec![(443, false), (443, true)], vec!["127.0.0.1:443".into(), "127.112.0.1:443".into()])
    );
    // One that lets nobody in is not at an address where its port is another's.
    let nobody = format!("{{default: {}}}", validation("{group: '', kind: ConfigMap, name: none}", ""));
    let yaml = gateway("open", "{default: {}}", &[https("a", 443)])
        + &gateway("shut", &nobody, &[https("a", 443), "{name: web, port: 80, protocol: HTTP}".to_owned()])
        + &secret("cert");
    let compiled = compile(&world(&yaml), &own);
    let at: Vec<_> = compiled.snapshot.listeners.iter().map(|listener| listener.bind.to_string()).collect();
    assert_eq!(at, ["127.0.0.1:443", "127.112.0.1:80"]);
    // With no address left, whoever came first is served, and nobody is served with less than it asks for.
    let compiled = super::compiled(&shared);
    assert_eq!(asked(&compiled), [(443, false)]);
    assert!(text::gateway(&compiled, "shut")[1].contains("!ProtocolConflict"));
}

#[test]
fn hosts_of_one_port_are_told_apart() {
    let named = https("b", 443).replace("name: b", "name: b, hostname: '*.b.example'");
    let apart = |listeners: &[String]| match &compiled(&(gateway("g", "{default: {}}", listeners) + &secret("cert")))
        .snapshot
        .listeners[0]
        .protocol
    {
        ListenerProtocol::Https { apart, .. } => apart.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!([apart(&[https("a", 443)]), apart(&[https("a", 443), named])], [0, 2]);
}

#[test]
fn a_tls_listener_may_end_tls_for_its_routes() {
    let listener = "{name: l, port: 8443, protocol: TLS, hostname: a.example, tls: {mode: Terminate, certificateRefs: [{name: cert}]}}";
    let route = "{kind: TLSRoute, metadata: {name: r}, spec: {parentRefs: [{name: g}], hostnames: [a.example], rules: [{backendRefs: [{name: s, port: 80}]}]}}\n---\n\
                 {kind: Service, metadata: {name: s}, spec: {clusterIP: 127.96.0.9, ports: [{port: 80}]}}\n---\n";
    let yaml = gateway("g", "{default: {}}", &[listener.to_owned()]) + &secret("cert") + route;
    let compiled = compiled(&yaml);
    let line = "l [TLSRoute] 1 routes gateway/8443: Accepted !Conflicted=NoConflicts ResolvedRefs";
    assert_eq!(text::gateway(&compiled, "g")[1], line);
    let ListenerProtocol::Tls { certificates, names } = &compiled.snapshot.listeners[0].protocol else {
        panic!("{:?}", compiled.snapshot.listeners[0])
    };
    assert_eq!((certificates.len(), names[0].backends.len()), (1, 1));
    let without = gateway("g", "{default: {}}", &[listener.replace("cert}", "none}")]) + route;
    assert!(text::gateway(&super::compiled(&without), "g")[1].contains("!ResolvedRefs=InvalidCertificateRef"));
}
