//! Whose connections Services take, and what other instances may ask for.

use std::net::SocketAddr;

use proxy::snapshot::{Admits, ListenerProtocol};

use super::super::compile;
use super::{Settings, compiled, settings, world};

/// A Service `one` with the Pods `a` (label `kind: a`) and `b` behind port 80, which the Pods know as 8080.
const TWO_PODS: &str = r"
kind: Namespace
apiVersion: v1
metadata: {name: shop}
---
kind: Service
apiVersion: v1
metadata: {name: one}
spec:
  clusterIP: 127.96.0.9
  selector: {app: one}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
---
kind: Pod
apiVersion: v1
metadata: {name: a, labels: {app: one, kind: a}}
---
kind: Pod
apiVersion: v1
metadata: {name: b, labels: {app: one}}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: one-x, labels: {kubernetes.io/service-name: one}}
addressType: IPv4
ports: [{name: http, port: 41000}]
endpoints:
- {addresses: [127.0.0.1], targetRef: {kind: Pod, name: a}}
- {addresses: [127.0.0.2], targetRef: {kind: Pod, name: b}}
";

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\nkind: PeerAuthentication\napiVersion: security.istio.io/v1\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn admits(policies: &[String]) -> Admits {
    let yaml = format!("{TWO_PODS}{}", policies.concat());
    let compiled = compiled(&yaml);
    compiled.snapshot.listeners.iter().find(|listener| &*listener.id == "service/shop/one:80").expect("it").admits
}

#[test]
fn the_narrower_and_then_the_older_policy_counts() {
    let strict = "{mtls: {mode: STRICT}}";
    let permissive = "{mtls: {mode: PERMISSIVE}}";
    let unset = "{mtls: {mode: UNSET}}";
    let of_a = |mode: &str| format!("{{selector: {{matchLabels: {{kind: a}}}}, mtls: {{mode: {mode}}}}}");
    let of_port = |port: u16, mode: &str, own: &str| {
        format!(
            "{{selector: {{matchLabels: {{app: one}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{{port}: {{mode: {own}}}}}}}"
        )
    };
    let shop = |name: &str, spec: &str| policy(name, "shop", spec);
    for (name, policies, known) in [
        ("none", vec![], false),
        ("namespace", vec![shop("p", strict)], true),
        ("empty selector", vec![shop("p", "{selector: {}, mtls: {mode: STRICT}}")], true),
        ("no mtls at all", vec![shop("p", "{}")], false),
        ("other namespace", vec![policy("p", "other", strict)], false),
        ("root", vec![policy("p", "istio-system", strict)], true),
        ("our root", vec![policy("p", "coracle-system", strict)], true),
        ("namespace over root", vec![policy("p", "istio-system", strict), shop("p", "{mtls: {mode: DISABLE}}")], false),
        ("unset inherits", vec![policy("p", "istio-system", strict), shop("p", unset)], true),
        ("older first", vec![shop("z", permissive), shop("a", strict)], false),
        ("one of two Pods", vec![shop("p", &of_a("STRICT"))], true),
        ("workload over namespace", vec![shop("p", strict), shop("q", &of_a("PERMISSIVE"))], true),
        ("port", vec![shop("p", &of_port(8080, "PERMISSIVE", "STRICT"))], true),
        ("port over workload", vec![shop("p", &of_port(8080, "STRICT", "DISABLE"))], false),
        ("port unset inherits", vec![shop("p", &of_port(8080, "STRICT", "UNSET"))], true),
        ("the Service's own number is not meant", vec![shop("p", &of_port(80, "PERMISSIVE", "STRICT"))], false),
    ] {
        let expected = if known { Admits::Known } else { Admits::Anybody };
        assert_eq!(admits(&policies), expected, "{name}");
    }
}

#[test]
fn every_policy_says_whether_it_counts_and_why_not() {
    let of =
        |labels: &str, more: &str| format!("{{selector: {{matchLabels: {{{labels}}}}}, mtls: {{mode: STRICT}}{more}}}");
    let strict = "{mtls: {mode: STRICT}}";
    let shop = |name: &str, spec: &str| policy(name, "shop", spec);
    let said = |policies: &[String]| {
        let compiled = compiled(&format!("{TWO_PODS}{}", policies.concat()));
        let said = compiled.admissions.iter().map(|plan| {
            let verdict = &plan.verdicts[0];
            (plan.name.clone(), verdict.holds, verdict.reason, verdict.message.clone())
        });
        said.collect::<Vec<_>>()
    };
    for (policies, place, holds, reason, words) in [
        (vec![shop("p", strict)], 0, true, "Accepted", "all workloads of shop"),
        (vec![policy("p", "istio-system", strict)], 0, true, "Accepted", "all namespaces"),
        (vec![shop("p", &of("kind: a", ""))], 0, true, "Accepted", "with its labels"),
        (vec![shop("p", &of("kind: z", ""))], 0, true, "Accepted", "there is none now"),
        (vec![shop("a", strict), shop("b", strict)], 1, false, "Conflicted", "shop/a is older"),
        (vec![shop("a", &of("app: one", "")), shop("b", &of("app: one", ""))], 1, false, "Conflicted", "shop/a"),
        (vec![shop("a", &of("app: one", "")), shop("b", &of("kind: a", ""))], 1, true, "Accepted", "labels"),
        (vec![shop("p", &of("'a b': c", ""))], 0, false, "Invalid", "is no label"),
        (
            vec![shop("p", &of("app: one", ", portLevelMtls: {http: {mode: STRICT}}"))],
            0,
            false,
            "Invalid",
            "all ports of these",
        ),
        (
            vec![shop("p", &of("app: one", ", portLevelMtls: {'0': {mode: DISABLE}}"))],
            0,
            false,
            "Invalid",
            "does not count",
        ),
        (vec![shop("p", "{portLevelMtls: {'80': {mode: STRICT}}}")], 0, false, "Invalid", "need a spec.selector"),
    ] {
        let said = said(&policies);
        let (name, found, why, message) = &said[place];
        assert_eq!((*found, *why), (holds, reason), "{name} {message}");
        assert!(message.contains(words), "{message}");
    }
    // Nobody can tell which port was meant.
    let unclear = "{selector: {matchLabels: {app: one}}, mtls: {mode: DISABLE}, portLevelMtls: {http: {mode: STRICT}}}";
    assert_eq!(admits(&[shop("p", unclear)]), Admits::Known);
    assert_eq!(admits(&[shop("p", "{portLevelMtls: {'80': {mode: STRICT}}}")]), Admits::Known);
}

#[test]
fn the_service_and_then_the_namespace_and_then_the_instance_says_whether_certificates_are_asked_for() {
    let asked = |service: &str, namespace: &str, instance: bool| {
        let annotate = |yaml: &str, name: &str, value: &str| {
            let with = format!("metadata: {{name: {name}, annotations: {{mesh.coracle.dev/mtls: {value}}}}}\n");
            if value.is_empty() {
                yaml.to_owned()
            } else {
                yaml.replacen(&format!("metadata: {{name: {name}}}\n"), &with, 1)
            }
        };
        let yaml = annotate(&annotate(TWO_PODS, "one", service), "shop", namespace);
        let settings = Settings { certificates_always: instance, ..settings() };
        let compiled = compile(&world(&yaml), &settings);
        (compiled.snapshot.listeners[0].admits == Admits::Certified, compiled.notices.len())
    };
    for (service, namespace, instance, expected) in [
        ("", "", false, (false, 0)),
        ("always", "", false, (true, 0)),
        ("", "always", false, (true, 0)),
        ("", "", true, (true, 0)),
        ("auto", "always", true, (false, 0)),
        ("always", "auto", false, (true, 0)),
        ("", "auto", true, (false, 0)),
        ("alway", "", false, (true, 1)),
        ("", "none", false, (true, 1)),
    ] {
        assert_eq!(asked(service, namespace, instance), expected, "{service:?} {namespace:?} {instance}");
    }
    let api = "kind: Service\nmetadata: {name: kubernetes, namespace: default}\nspec: {clusterIP: 127.96.0.1, ports: [{port: 443}]}\n";
    let settings = Settings { certificates_always: true, ..settings() };
    assert_eq!(compile(&world(api), &settings).snapshot.listeners[0].admits, Admits::Anybody, "the API asks by itself");
}

#[test]
fn a_service_shows_its_pods_certificate_and_expects_it_of_programs() {
    let annotated = |value: &str| {
        let with = format!("metadata: {{name: one, annotations: {{mesh.coracle.dev/program-tls: '{value}'}}}}\n");
        TWO_PODS.replacen("metadata: {name: one}\n", &with, 1)
    };
    let expects = |yaml: &str| {
        let compiled = compiled(yaml);
        let expects =
            compiled.snapshot.backends["shop/one:80"].endpoints.iter().map(|e| e.expects.as_deref().map(str::to_owned));
        (
            expects.collect::<Vec<_>>(),
            compiled.snapshot.listeners[0].shows.as_deref().map(str::to_owned),
            compiled.notices.len(),
        )
    };
    let id = |account: &str| Some(format!("spiffe://cluster.local/ns/shop/sa/{account}"));
    assert_eq!(expects(TWO_PODS), (vec![None, None], id("default"), 0));
    assert_eq!(expects(&annotated("spiffe")), (vec![id("default"), id("default")], id("default"), 0));
    let apart =
        annotated("spiffe").replacen("kind: a}}", "kind: a}}\nspec: {serviceAccountName: a, containers: []}", 1);
    assert_eq!(expects(&apart), (vec![id("a"), id("default")], None, 0), "the proxy speaks for both");
    assert_eq!(
        expects(&annotated("spiffe://b.test/x")).0,
        [const { Some("spiffe://b.test/x") }; 2].map(|id| id.map(str::to_owned))
    );
    assert_eq!(
        expects(&annotated("spife")),
        (vec![Some("spife".to_owned()), Some("spife".to_owned())], id("default"), 1)
    );
}

#[test]
fn other_instances_ask_by_name_and_answer_in_slices() {
    let yaml = format!(
        "{TWO_PODS}---\n{}",
        r#"
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata:
  name: one-there
  labels: {kubernetes.io/service-name: one}
  annotations: {mesh.coracle.dev/peer: "true"}
addressType: IPv4
ports: [{name: http, port: 15008}]
endpoints: [{addresses: [10.9.0.2]}]
"#
    );
    let bind: SocketAddr = "10.9.0.1:15008".parse().unwrap();
    let mut settings = settings();
    assert_eq!(compile(&world(&yaml), &settings).snapshot.listeners.len(), 1, "only where it is asked for");
    settings.peers = Some(bind);
    let compiled = compile(&world(&yaml), &settings);
    let mesh = compiled.snapshot.listeners.iter().find(|l| l.protocol == ListenerProtocol::Mesh).expect("it");
    assert_eq!((&*mesh.id, mesh.bind), ("mesh", bind));
    assert_eq!(compiled.snapshot.listeners[0].peer_name.as_deref(), Some("80.one.shop.svc.cluster.local"));
    let endpoints = &compiled.snapshot.backends["shop/one:80"].endpoints;
    let told: Vec<_> = endpoints.iter().map(|e| (e.address.to_string(), e.peer.as_deref().is_some())).collect();
    let expected = [("10.9.0.2:15008", true), ("127.0.0.1:41000", false), ("127.0.0.2:41000", false)];
    assert_eq!(told, expected.map(|(address, peer)| (address.to_owned(), peer)));
}
