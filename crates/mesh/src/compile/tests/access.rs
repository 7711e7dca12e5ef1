//! AccessPolicies: where they are judged, what they say, and what is said about them.

use proxy::access::{Effect, Keys, Origin, Source};
use proxy::snapshot::ListenerProtocol;

use super::*;

const ROUTE: &str = r"
{kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}], rules: [{name: api, backendRefs: [{name: one, port: 80}]}]}}
";

fn policy(name: &str, targets: &str, rules: &str) -> String {
    format!(
        "---\n{{kind: AccessPolicy, metadata: {{name: {name}}}, spec: {{targetRefs: [{targets}], rules: [{rules}]}}}}\n"
    )
}

const SERVICE: &str = r#"{kind: Service, name: one}"#;
const NAMESPACE: &str = r#"{kind: Namespace, name: shop}"#;
const GATEWAY: &str = r#"{group: gateway.networking.k8s.io, kind: Gateway, name: edge}"#;
const HTTP_ROUTE: &str = r#"{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}"#;

/// The policies of a place, where there is one.
fn at(compiled: &Compiled, place: &str) -> Option<Vec<String>> {
    let place = compiled.snapshot.places.get(place)?;
    Some(place.policies.iter().map(ToString::to_string).collect())
}

/// `Accepted` of each target: status, reason and message.
fn accepted(compiled: &Compiled, name: &str) -> Vec<(bool, &'static str, String)> {
    let plan = compiled.policies.iter().find(|plan| plan.name == name).expect("the policy is one of the fixture's");
    let verdicts = plan.ancestors.iter().map(|ancestor| &ancestor.verdicts[0]);
    verdicts.map(|verdict| (verdict.holds, verdict.reason, verdict.message.clone())).collect()
}

#[test]
fn without_policies_nothing_is_judged() {
    let compiled = compiled(&edge(ROUTE));
    assert!(compiled.snapshot.places.is_empty() && compiled.snapshot.policies.is_empty());
    assert!(compiled.snapshot.backends.values().all(|backend| backend.place.is_none()));
}

#[test]
fn a_services_port_has_its_own_policies_and_its_namespaces() {
    let yaml =
        edge(&format!("{}{}", policy("all", NAMESPACE, ""), policy("one", SERVICE, "{from: {namespaces: [web]}}")));
    let compiled = compiled(&yaml);
    let backend = |id: &str| compiled.snapshot.backends[id].place.as_deref().map(str::to_owned);
    assert_eq!(backend("shop/one:80").as_deref(), Some("service/shop/one:80"));
    assert_eq!(backend("shop/two:80").as_deref(), Some("service/shop/two:80"));
    assert_eq!(at(&compiled, "service/shop/one:80"), Some(vec!["shop/all".into(), "shop/one".into()]));
    assert_eq!(at(&compiled, "service/shop/two:80"), Some(vec!["shop/all".into()]));
    assert_eq!(accepted(&compiled, "all"), [(true, "Accepted", "AccessPolicy is accepted".into())]);
    let rules = &compiled.snapshot.policies["shop/one"].rules;
    assert_eq!(rules[0].from, [Source::Id("spiffe://cluster.local/ns/web/**".into())]);
}

#[test]
fn requests_through_a_gateway_meet_its_policies_and_those_of_the_route() {
    let policies = [policy("g", GATEWAY, "{}"), policy("r", HTTP_ROUTE, "{}"), policy("s", SERVICE, "{}")].concat();
    let compiled = compiled(&edge(&format!("{ROUTE}{policies}")));
    let gateway = compiled.snapshot.listeners.iter().find(|listener| listener.id.starts_with("gateway/")).expect("one");
    let guard = &gateway.hosts[0].rules[0].guard;
    assert_eq!(guard.through, ["shop/edge".into()]);
    assert_eq!(guard.places, ["gateway/shop/edge/http".into(), "HTTPRoute/shop/r/api".into()]);
    assert_eq!(at(&compiled, "gateway/shop/edge/http"), Some(vec!["shop/g".into()]));
    assert_eq!(at(&compiled, "HTTPRoute/shop/r/api"), Some(vec!["shop/r".into()]));
    assert_eq!(at(&compiled, "service/shop/one:80"), Some(vec!["shop/s".into()]));
}

#[test]
fn a_section_is_a_part_only() {
    let other = ROUTE.replace("name: r}", "name: o}").replace("name: api", "name: other");
    let section = |target: &str, name: &str| target.replace('}', &format!(", sectionName: {name}}}"));
    let policies = [
        policy("g", &section(GATEWAY, "http"), ""),
        policy("r", &section(HTTP_ROUTE, "api"), ""),
        policy("s", &section(SERVICE, "http"), ""),
        policy("none", &section(SERVICE, "grpc"), ""),
    ];
    let compiled = compiled(&edge(&format!("{ROUTE}---\n{other}{}", policies.concat())));
    assert_eq!(at(&compiled, "HTTPRoute/shop/r/api"), Some(vec!["shop/r".into()]));
    assert_eq!(at(&compiled, "HTTPRoute/shop/o/other"), None);
    assert_eq!(at(&compiled, "service/shop/one:80"), Some(vec!["shop/s".into()]));
    assert_eq!(at(&compiled, "gateway/shop/edge/http"), Some(vec!["shop/g".into()]));
    let message = "spec.targetRefs[0]: Service shop/one has no part named grpc (named parts: http)";
    assert_eq!(accepted(&compiled, "none"), [(false, "TargetNotFound", message.into())]);
}

#[test]
fn routes_of_a_service_are_behind_its_policies() {
    let mesh = ROUTE.replace("{name: edge}", "{kind: Service, group: '', name: two}");
    let compiled = compiled(&edge(&format!("{mesh}{}", policy("p", "{kind: Service, name: two}", ""))));
    let listener =
        compiled.snapshot.listeners.iter().find(|listener| &*listener.id == "service/shop/two:80").expect("one");
    let guard = &listener.hosts[0].rules[0].guard;
    assert!(guard.through.is_empty());
    assert_eq!(guard.places, ["service/shop/two:80".into()]);
}

#[test]
fn each_target_is_looked_for_by_itself() {
    let targets = format!(
        "{SERVICE}, {{kind: Service, name: gone}}, {{kind: Namespace, name: other}}, {{kind: Deployment, group: apps, name: x}}, {{group: gateway.networking.k8s.io, kind: GRPCRoute, name: r}}"
    );
    let compiled = compiled(&edge(&format!("{ROUTE}{}", policy("p", &targets, ""))));
    let said: Vec<_> = accepted(&compiled, "p").into_iter().map(|(holds, reason, _)| (holds, reason)).collect();
    let expected = [
        (true, "Accepted"),
        (false, "TargetNotFound"),
        (false, "Invalid"),
        (false, "Invalid"),
        (false, "TargetNotFound"),
    ];
    assert_eq!(said, expected);
    assert_eq!(at(&compiled, "service/shop/one:80"), Some(vec!["shop/p".into()]));
    assert_eq!(at(&compiled, "service/shop/two:80"), None);
}

#[test]
fn what_is_wrong_is_named_by_its_field_and_closes_the_target() {
    for (rule, expected) in [
        ("{methods: [get]}", "spec.rules[0].methods[0]: \"get\" is not a method"),
        ("{paths: [{value: orders}]}", "spec.rules[0].paths[0]: \"orders\" does not begin with a slash"),
        ("{headers: [{name: 'x y'}]}", "spec.rules[0].headers[0]: \"x y\" is not the name of a header"),
        ("{from: {}}", "spec.rules[0].from: it names nobody"),
        ("{}, {from: {serviceAccounts: ['shop/*']}}", "spec.rules[1].from.serviceAccounts[0]: \"*\" is not a name"),
        ("{from: {spiffeIds: [shop/a]}}", "spec.rules[0].from.spiffeIds[0]: \"shop/a\" is not a SPIFFE ID"),
    ] {
        let compiled = compiled(&edge(&policy("p", SERVICE, rule)));
        let (holds, reason, message) = accepted(&compiled, "p").remove(0);
        assert_eq!((holds, reason), (false, "Invalid"), "{rule}");
        assert!(message.starts_with(expected), "{message}");
        assert!(message.ends_with("all requests to the target are refused"), "{message}");
        assert!(compiled.snapshot.policies["shop/p"].broken.is_some());
        assert!(compiled.snapshot.backends["shop/one:80"].place.is_some());
    }
}

#[test]
fn what_the_proxy_cannot_read_is_said_too() {
    let mut world = world(&edge(&policy("p", SERVICE, "{paths: [{type: RegularExpression, value: '('}]}")));
    let read = compile(&world, &settings()).snapshot.policies["shop/p"].clone();
    assert!(read.broken.is_none());
    assert!(world.rejected.policy("shop/p", read, "rule 0: no expression".into()));
    let compiled = compile(&world, &settings());
    assert_eq!(accepted(&compiled, "p")[0].1, "Invalid");
    assert!(compiled.snapshot.policies["shop/p"].broken.is_some());
}

#[test]
fn names_without_a_namespace_are_in_the_policys_own() {
    let rules = "{name: a, from: {serviceAccounts: [web, other/web], gateways: [edge, infra/edge], spiffeIds: ['spiffe://**']}}, \
                 {action: Deny, methods: [DELETE], headers: [{name: X-A}]}";
    let compiled = compiled(&edge(&policy("p", SERVICE, rules)));
    let rules = &compiled.snapshot.policies["shop/p"].rules;
    let id = |id: &str| Source::Id(id.into());
    assert_eq!(
        rules[0].from,
        [
            id("spiffe://cluster.local/ns/shop/sa/web"),
            id("spiffe://cluster.local/ns/other/sa/web"),
            id("spiffe://**"),
            Source::Gateway("shop/edge".into()),
            Source::Gateway("infra/edge".into()),
        ]
    );
    assert_eq!((&*rules[0].name, &*rules[1].name, rules[1].effect), ("a", "1", Effect::Deny));
}

#[test]
fn short_forms_mean_callers_of_our_own_trust_domain() {
    let rules = "{name: a, from: {serviceAccounts: [web], namespaces: [other], spiffeIds: ['spiffe://cluster.local/ns/a/sa/b']}}";
    let yaml = format!(
        "{}---\nkind: Namespace\nmetadata: {{name: shop, annotations: {{mesh.coracle.dev/egress-allow: a.test}}}}\n---\n\
         kind: Service\nmetadata: {{name: egress, namespace: kube-system}}\nspec: {{clusterIP: 127.96.0.11, ports: [{{port: 3128}}]}}\n",
        edge(&policy("p", SERVICE, rules))
    );
    let settings = Settings { trust_domain: "prod.example".parse().unwrap(), ..settings() };
    let compiled = compile(&world(&yaml), &settings);
    let from = &compiled.snapshot.policies["shop/p"].rules[0].from;
    let id = |id: &str| Source::Id(id.into());
    let expected = [
        "spiffe://prod.example/ns/shop/sa/web",
        "spiffe://prod.example/ns/other/**",
        "spiffe://cluster.local/ns/a/sa/b",
    ];
    assert_eq!(*from, expected.map(id));
    let limits = compiled.snapshot.listeners.iter().find_map(|listener| match &listener.protocol {
        ListenerProtocol::Egress { limits, .. } => Some(limits),
        _ => None,
    });
    assert_eq!(&*limits.expect("the way out")[0].callers, "spiffe://prod.example/ns/shop/");
}

#[test]
fn tls_that_is_handed_on_is_guarded_too() {
    let yaml = format!(
        "{EDGE}{}---\n{}{}",
        "{kind: Gateway, metadata: {name: tls}, spec: {gatewayClassName: coracle, listeners: [{name: tls, port: 8443, protocol: TLS, tls: {mode: Passthrough}}]}}\n",
        "{kind: TLSRoute, metadata: {name: t}, spec: {hostnames: [a.test], parentRefs: [{name: tls}], rules: [{backendRefs: [{name: one, port: 80}]}]}}\n",
        policy("p", "{group: gateway.networking.k8s.io, kind: Gateway, name: tls}", ""),
    );
    let compiled = compiled(&yaml);
    let listener = compiled.snapshot.listeners.iter().find(|listener| &*listener.id == "gateway/8443").expect("one");
    let ListenerProtocol::Tls { names, .. } = &listener.protocol else { panic!("it hands TLS on") };
    let guard = &names.iter().find(|name| !name.backends.is_empty()).expect("a name").guard;
    assert_eq!((&*guard.through[0], &*guard.places[0]), ("shop/tls", "gateway/shop/tls/tls"));
}

const TOKENS: &str = "{kind: AccessPolicy, metadata: {name: p}, spec: {targetRefs: [{kind: Service, name: one}], ";

fn with_spec(more: &str) -> String {
    edge(&format!("{TOKENS}{more}}}}}\n"))
}

#[test]
fn issuers_are_read_with_their_keys() {
    let yaml = with_spec(
        "jwt: {providers: [
           {issuer: a, jwks: {inline: '{}'}},
           {issuer: b, audiences: [x], jwks: {configMap: {name: m, key: jwks}}, leeway: 5s, forward: false, tokenFrom: [{header: X-T, prefix: 'T '}, {query: t}], claimsToHeaders: [{claim: sub, header: X-User}]},
           {issuer: c, jwks: {secret: {name: s, key: jwks}}},
           {issuer: d, jwks: {uri: 'https://idp.test:8443/keys?x=1', refresh: 1m, timeout: 2s}},
           {issuer: e, jwks: {service: {name: two, port: 80, path: /jwks}}},
         ]}, rules: [{jwt: {issuer: b, claims: [{name: role, equals: x}, {name: groups, contains: g}, {name: tier, anyOf: [p, q]}, {name: sub}]}}]",
    );
    let objects = "---\n{kind: ConfigMap, metadata: {name: m}, data: {jwks: 'from-map'}}\n---\n{kind: Secret, metadata: {name: s}, type: Opaque, data: {jwks: ZnJvbS1zZWNyZXQ=}}\n";
    let compiled = compiled(&format!("{yaml}{objects}"));
    assert_eq!(accepted(&compiled, "p"), [(true, "Accepted", "AccessPolicy is accepted".into())]);
    let policy = &compiled.snapshot.policies["shop/p"];
    let issuers = &policy.jwt.as_ref().expect("it has issuers").issuers;
    let here = |text: &str| Keys::Here(text.into());
    assert_eq!(
        [&issuers[0].keys, &issuers[1].keys, &issuers[2].keys],
        [&here("{}"), &here("from-map"), &here("from-secret")]
    );
    assert_eq!((issuers[0].leeway.as_secs(), issuers[1].leeway.as_secs()), (60, 5));
    assert_eq!((issuers[0].forward, issuers[1].forward, issuers[1].from.len()), (true, false, 2));
    let remote = |keys: &Keys| match keys {
        Keys::There(remote) => remote.clone(),
        Keys::Here(_) => panic!("it is fetched"),
    };
    let (uri, service) = (remote(&issuers[3].keys), remote(&issuers[4].keys));
    assert_eq!(uri.at, Origin::Host { host: "idp.test".into(), port: 8443, tls: true, roots: None });
    assert_eq!((&*uri.path, uri.refresh.as_secs(), uri.timeout.as_secs()), ("/keys?x=1", 60, 2));
    assert_eq!((service.at, &*service.path), (Origin::Backend("shop/two:80".into()), "/jwks"));
    let token = policy.rules[0].token.as_ref().expect("it asks for one");
    assert_eq!((token.issuer.as_deref(), token.claims.len()), (Some("b"), 4));
}

#[test]
fn keys_of_clients_are_kept_as_hashes_only() {
    let secret =
        "---\n{kind: Secret, metadata: {name: s}, type: Opaque, data: {mobile: b25lCnR3bwo=, web: dGhyZWU=}}\n";
    let compiled = compiled(&format!("{}{secret}", with_spec("apiKeys: {secrets: [{name: s}]}")));
    let policy = &compiled.snapshot.policies["shop/p"];
    let keys = policy.keys.as_ref().expect("it has keys");
    let clients: Vec<&str> = keys.keys.iter().map(|(client, _)| &**client).collect();
    assert_eq!(clients, ["mobile", "mobile", "web"], "every line is a key");
    assert_eq!(keys.header.as_ref().map(http::HeaderName::as_str), Some("x-api-key"));
    assert!(!format!("{policy:?}").contains("three"));
    // Without rules, any key will do, and none will not.
    assert_eq!(policy.rules[0].clients, Some(Vec::new()));
}

#[test]
fn a_service_that_decides_is_one_of_the_backends() {
    let spec = "externalAuthorization: {service: {name: two, port: 80, path: /check}, timeout: 2s, failOpen: true, headersToService: [X-User]}";
    let compiled = compiled(&with_spec(spec));
    let policy = &compiled.snapshot.policies["shop/p"];
    let external = policy.external.as_ref().expect("it asks");
    assert_eq!((&*external.backend, &*external.path), ("shop/two:80", "/check"));
    assert_eq!((external.timeout.as_secs(), external.fail_open, external.to_backend.len()), (2, true, 1));
    // Without rules, all that it lets in.
    assert_eq!((policy.rules.len(), policy.rules[0].effect), (1, Effect::Allow));
    let compiled = self::compiled(&with_spec("externalAuthorization: {service: {name: gone, port: 80}}"));
    let (holds, _, message) = accepted(&compiled, "p").remove(0);
    assert!(
        !holds && message.starts_with("spec.externalAuthorization.service: Service shop/gone does not exist"),
        "{message}"
    );
}

#[test]
fn what_is_wrong_with_keys_is_named() {
    for (spec, expected) in [
        ("jwt: {providers: [{issuer: a, jwks: {}}]}", "spec.jwt.providers[0].jwks.inline: exactly one of"),
        (
            "jwt: {providers: [{issuer: a, jwks: {inline: x, uri: u}}]}",
            "spec.jwt.providers[0].jwks.inline: exactly one of",
        ),
        (
            "jwt: {providers: [{issuer: a, jwks: {uri: 'ftp://x'}}]}",
            "spec.jwt.providers[0].jwks.uri: \"ftp://x\" is not a URL",
        ),
        (
            "jwt: {providers: [{issuer: a, jwks: {configMap: {name: m, key: k}}}]}",
            "spec.jwt.providers[0].jwks.configMap: ConfigMap shop/m does not exist",
        ),
        (
            "jwt: {providers: [{issuer: a, jwks: {service: {name: gone, port: 80}}}]}",
            "spec.jwt.providers[0].jwks.service: Service shop/gone does not exist",
        ),
        (
            "jwt: {providers: [{issuer: a, jwks: {service: {name: x, namespace: other, port: 80}}}]}",
            "spec.jwt.providers[0].jwks.service: Service other/x is in another namespace",
        ),
        (
            "jwt: {providers: [{issuer: a, jwks: {inline: x}, leeway: 1h}]}",
            "spec.jwt.providers[0].leeway: 1h is not between",
        ),
        (
            "jwt: {providers: [{issuer: a, jwks: {inline: x}}, {issuer: a, jwks: {inline: x}}]}",
            "spec.jwt.providers[1].issuer: \"a\" is there twice",
        ),
        (
            "jwt: {providers: [{issuer: a, jwks: {inline: x}}]}, rules: [{jwt: {issuer: b}}]",
            "spec.rules[0].jwt.issuer: \"b\" is none of",
        ),
        (
            "jwt: {providers: [{issuer: a, jwks: {inline: x}}]}, rules: [{jwt: {claims: [{name: c, equals: x, contains: g}]}}]",
            "spec.rules[0].jwt.claims[0]: only one of",
        ),
        ("rules: [{jwt: {}}]", "spec.rules[0].jwt: spec.jwt is not there"),
        ("rules: [{apiKeys: {}}]", "spec.rules[0].apiKeys: spec.apiKeys is not there"),
        ("apiKeys: {secrets: [{name: s}]}", "spec.apiKeys.secrets[0]: Secret shop/s does not exist"),
    ] {
        let compiled = compiled(&with_spec(spec));
        let (holds, reason, message) = accepted(&compiled, "p").remove(0);
        assert_eq!((holds, reason), (false, "Invalid"), "{spec}");
        assert!(message.starts_with(expected), "{message}");
    }
}

/// A bundle of an authority of its own, as the others hand theirs out.
fn bundle(domain: &str) -> crate::identity::Bundle {
    use crate::identity::{Authority, Bundle, Issuer, Policy};
    let folder = tempfile::tempdir().unwrap();
    let domain = domain.parse().unwrap();
    let authority = Authority::open(folder.path().join("a"), domain, Policy::default(), jiff::Timestamp::now());
    let authority = authority.unwrap();
    Bundle::new(authority.roots()).unwrap().with_keys(authority.token_keys())
}

#[test]
fn the_keys_of_a_trust_domain_are_those_of_all_its_labelled_bundles_and_no_other() {
    let map = |name: &str, label: Option<&str>, domain: &str, bundle: &crate::identity::Bundle| {
        let labels = label.map(|of| format!(", labels: {{mesh.coracle.dev/trust-bundle: {of}}}")).unwrap_or_default();
        format!(
            "---\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: coracle-system{labels}}}\ndata: {{trust-domain: '{domain} ', \
             bundle: '{}'}}\n",
            bundle.to_spiffe()
        )
    };
    let bundles: Vec<_> = (0..5).map(|_| bundle("b.test")).collect();
    let maps = [
        map("a", None, "b.test", &bundles[0]),
        map("b", Some("foreign"), "b.test", &bundles[1]),
        map("c", Some("foreign"), "b.test", &bundles[2]),
        map("d", Some("foreign"), "c.test", &bundles[3]),
        map("e", Some("own"), "b.test", &bundles[4]),
    ];
    let spec = "jwt: {providers: [{issuer: 'https://b.test', jwks: {trustDomain: b.test}}]}";
    let keys_in = |maps: &[String]| {
        let compiled = compiled(&(with_spec(spec) + &maps.concat()));
        compiled.snapshot.policies["shop/p"].jwt.as_ref().map(|jwt| match &jwt.issuers[0].keys {
            Keys::Here(text) => text.to_string(),
            Keys::There(_) => panic!("they are here"),
        })
    };
    let keys = keys_in(&maps).expect("the policy has its keys");
    for (position, bundle) in bundles.iter().enumerate() {
        let there = keys.contains(bundle.keys()[0]["kid"].as_str().unwrap());
        assert_eq!(there, [1, 2].contains(&position), "{position}: {keys}");
    }
}

#[test]
fn a_bundle_without_its_label_is_nobodys() {
    let text = bundle("b.test").to_spiffe().to_string();
    let unlabelled = format!(
        "---\nkind: ConfigMap\nmetadata: {{name: a, namespace: coracle-system}}\ndata: {{trust-domain: b.test, bundle: '{text}'}}\n"
    );
    let spec = "jwt: {providers: [{issuer: 'https://b.test', jwks: {trustDomain: b.test}}]}";
    let compiled = compiled(&(with_spec(spec) + &unlabelled));
    let said = &accepted(&compiled, "p")[0];
    assert!(!said.0 && said.2.contains("no bundle of b.test"), "{said:?}");
}
