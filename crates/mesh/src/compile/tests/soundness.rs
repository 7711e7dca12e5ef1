//! Whatever the objects say, the snapshot is one that the proxy can take whole.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proxy::Snapshot;
use proxy::snapshot::{Action, ListenerProtocol};

use super::{compile, settings, world};

/// What the proxy checks of a snapshot, apart from expressions and certificates.
fn sound(snapshot: &Snapshot) -> Result<(), String> {
    let mut ids = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let known = |backend: &str| match snapshot.backends.contains_key(backend) {
        true => Ok(()),
        false => Err(format!("no backend {backend}")),
    };
    for listener in &snapshot.listeners {
        if !ids.insert(&listener.id) || (listener.bind.port() != 0 && !addresses.insert(listener.bind)) {
            return Err(format!("{} at {} is there twice", listener.id, listener.bind));
        }
        match &listener.protocol {
            ListenerProtocol::Tcp { backend } | ListenerProtocol::Sniff { tcp: backend } => known(backend)?,
            ListenerProtocol::Tls { names, .. } => {
                names.iter().flat_map(|name| &name.backends).try_for_each(|weighted| known(&weighted.backend))?;
            }
            ListenerProtocol::Http
            | ListenerProtocol::Https { .. }
            | ListenerProtocol::Mesh
            | ListenerProtocol::Egress { .. } => {}
        }
        let mut hosts = BTreeSet::new();
        for host in &listener.hosts {
            if !hosts.insert(&host.host) {
                return Err(format!("{} has {:?} twice", listener.id, host.host));
            }
            for rule in &host.rules {
                if let Action::Forward { backends } = &rule.action {
                    backends.iter().try_for_each(|weighted| known(&weighted.backend))?;
                }
            }
        }
    }
    Ok(())
}

fn hostname() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["''", "a.example", "A.example", "'*.example'", "'*.a.example'", "b.a.example", "example"])
}

fn gateway() -> impl Strategy<Value = String> {
    let listener =
        (prop::sample::select(vec![80, 8080, 443]), prop::sample::select(vec!["HTTP", "HTTPS", "TCP"]), hostname());
    (prop::collection::vec(listener, 0..5), 0..3).prop_map(|(listeners, name)| {
        let listeners = listeners.into_iter().enumerate().map(|(position, (port, protocol, hostname))| {
            format!("{{name: l{position}, port: {port}, protocol: {protocol}, hostname: {hostname}, allowedRoutes: {{namespaces: {{from: All}}}}}}")
        });
        let listeners: Vec<String> = listeners.collect();
        format!(
            "{{kind: Gateway, metadata: {{name: g{name}}}, spec: {{gatewayClassName: coracle, listeners: [{}]}}}}\n---\n",
            listeners.join(", ")
        )
    })
}

fn route() -> impl Strategy<Value = String> {
    let parent = prop::sample::select(vec![
        "{name: g0}",
        "{name: g1}",
        "{name: g2, sectionName: l0}",
        "{name: g0, port: 80}",
        "{group: '', kind: Service, name: s0}",
        "{group: '', kind: Service, name: s1, port: 80}",
    ]);
    let backend = prop::sample::select(vec![
        "{name: s0, port: 80}",
        "{name: s1, port: 80}",
        "{name: s9, port: 80}",
        "{name: s0, port: 1, weight: 0}",
    ]);
    let path = prop::sample::select(vec!["/", "/a", "/a/", "bad"]);
    let rule = (path, prop::collection::vec(backend, 0..3)).prop_map(|(path, backends)| {
        format!("{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{}]}}", backends.join(", "))
    });
    (prop::collection::vec(parent, 0..3), prop::collection::vec(hostname(), 0..3), prop::collection::vec(rule, 0..3), 0..9).prop_map(
        |(parents, hostnames, rules, name)| {
            format!(
                "{{kind: HTTPRoute, metadata: {{name: r{name}}}, spec: {{parentRefs: [{}], hostnames: [{}], rules: [{}]}}}}\n---\n",
                parents.join(", "),
                hostnames.join(", "),
                rules.join(", ")
            )
        },
    )
}

fn service() -> impl Strategy<Value = String> {
    let ports = prop::sample::select(vec![
        "{port: 80}",
        "{port: 80, name: http}, {port: 80, name: u, protocol: UDP}",
        "{port: 81, name: tcp}",
    ]);
    (0..3, prop::sample::select(vec!["127.96.0.1", "127.96.0.2", "None", "''"]), ports).prop_map(|(name, address, ports)| {
        format!("{{kind: Service, metadata: {{name: s{name}}}, spec: {{clusterIP: {address}, ports: [{ports}]}}}}\n---\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_snapshot_can_be_taken(
        gateways in prop::collection::vec(gateway(), 0..4),
        routes in prop::collection::vec(route(), 0..6),
        services in prop::collection::vec(service(), 0..4),
        port in prop::option::of(prop::sample::select(vec![0_u16, 443, 8080, 9000])),
    ) {
        let yaml = gateways.concat() + &routes.concat() + &services.concat();
        prop_assume!(!yaml.is_empty());
        let mut settings = settings();
        settings.first_gateway_port = port;
        let compiled = compile(&world(&yaml), &settings);
        prop_assert_eq!(sound(&compiled.snapshot), Ok(()), "{}", yaml);
    }
}
