//! What is said about objects, as a client of the API sees it.

use base64::Engine as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use resources::gateway::httproutes::HttpRoute;
use serde_json::{Value, json};

use crate::harness::{Cluster, LIMIT, service};

const V1: &str = "gateway.networking.k8s.io/v1";

/// The condition of this type in a list at `path`.
fn condition<'v>(object: &'v Value, path: &str, kind: &str) -> Option<&'v Value> {
    object.pointer(path)?.as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn holds(object: &Value, path: &str, kind: &str) -> bool {
    condition(object, path, kind).is_some_and(|condition| condition["status"] == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installing_again_changes_nothing() {
    let cluster = Cluster::start().await;
    let versions = |client: Client| async move {
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
        let api: Api<CustomResourceDefinition> = Api::all(client);
        let list = api.list(&ListParams::default()).await.expect("definitions are listed");
        list.items.iter().map(|crd| (crd.name_any(), crd.resource_version())).collect::<Vec<_>>()
    };
    let before = versions(cluster.client.clone()).await;
    assert_eq!(before.len(), mesh::crds().len() + mesh::own_crds().len() + mesh::foreign_crds().len());
    mesh::install(cluster.client.clone()).await.expect("it is there already");
    assert_eq!(versions(cluster.client.clone()).await, before);
    let class =
        cluster.wait(V1, "GatewayClass", "coracle", |class| holds(class, "/status/conditions", "Accepted")).await;
    assert!(holds(&class.data, "/status/conditions", "SupportedVersion"));
    assert!(class.data["status"]["supportedFeatures"].as_array().is_some_and(|features| !features.is_empty()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_and_its_routes_are_told_how_they_fare() {
    let cluster = Cluster::start().await;
    cluster
        .apply(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: coracle\n  listeners: \
             [{name: http, port: 80, protocol: HTTP}]\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  \
             parentRefs: [{name: edge}, {name: elsewhere}]\n  rules: [{backendRefs: [{name: none, port: 80}]}]\n",
        )
        .await;
    let gateway = cluster
        .wait(V1, "Gateway", "edge", |gateway| {
            holds(gateway, "/status/conditions", "Programmed")
                && gateway.pointer("/status/listeners/0/attachedRoutes") == Some(&json!(1))
        })
        .await;
    assert!(holds(&gateway.data, "/status/conditions", "Accepted"));
    assert_eq!(gateway.data["status"]["addresses"], json!([{"type": "IPAddress", "value": "127.0.0.1"}]));
    let listener = &gateway.data["status"]["listeners"][0];
    assert_eq!(
        listener["supportedKinds"],
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}, {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"}])
    );
    let at = cluster.gateway("edge", "http").await;
    assert_eq!(
        condition(listener, "/conditions", "Programmed").map(|it| &it["message"]),
        Some(&json!(format!("Listening on {at}")))
    );

    let route = cluster
        .wait(V1, "HTTPRoute", "r", |route| condition(route, "/status/parents/0/conditions", "Accepted").is_some())
        .await;
    let parents = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    assert_eq!(parents.len(), 1, "the other parent is not ours to speak for");
    assert_eq!(parents[0]["controllerName"], "coracle.dev/gateway");
    let resolved = condition(&parents[0], "/conditions", "ResolvedRefs").cloned().unwrap_or_default();
    assert_eq!((&resolved["status"], &resolved["reason"]), (&json!("False"), &json!("BackendNotFound")));

    // The backend comes, and the reference resolves.
    cluster.apply(&service("none", 80)).await;
    cluster.wait(V1, "HTTPRoute", "r", |route| holds(route, "/status/parents/0/conditions", "ResolvedRefs")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_written_once() {
    let cluster = Cluster::start().await;
    let gateway = |note: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, annotations: {{note: {note}}}}}\nspec: \
             {{gatewayClassName: coracle, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}\n---\n"
        )
    };
    let route = |name: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec: \
             {{parentRefs: [{{name: edge}}], hostnames: [{name}.example], rules: [{{}}]}}\n---\n"
        )
    };
    cluster.apply(&(gateway("a") + &route("first"))).await;
    let written = |route: &Value| condition(route, "/status/parents/0/conditions", "Accepted").is_some();
    let first = cluster.wait(V1, "HTTPRoute", "first", written).await;

    // Twenty more routes and a change of the Gateway that matters to no route: the first route is not written again.
    let api: Api<HttpRoute> = Api::namespaced(cluster.client.clone(), "default");
    let mut seen = watcher(api, watcher::Config::default().fields("metadata.name=first")).boxed();
    for number in 0..20 {
        cluster.apply(&(route(&format!("more-{number}")) + &gateway(&format!("n{number}")))).await;
    }
    cluster.wait(V1, "HTTPRoute", "more-19", written).await;
    let all = |gateway: &Value| gateway.pointer("/status/listeners/0/attachedRoutes") == Some(&json!(21));
    cluster.wait(V1, "Gateway", "edge", all).await;
    let mut versions = Vec::new();
    loop {
        match tokio::time::timeout(LIMIT, seen.next()).await.expect("the watch goes on") {
            Some(Ok(watcher::Event::InitApply(route) | watcher::Event::Apply(route))) => {
                versions.push(route.resource_version());
            }
            Some(Ok(watcher::Event::InitDone)) => break,
            Some(Ok(_)) => {}
            other => panic!("the watch ended with {other:?}"),
        }
    }
    use futures::FutureExt;
    assert_eq!(versions, [first.resource_version()]);
    assert!(seen.next().now_or_never().is_none(), "no further change");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_not_tcp_gets_an_event() {
    let cluster = Cluster::start().await;
    cluster
        .apply("apiVersion: v1\nkind: Service\nmetadata: {name: dns}\nspec: {ports: [{name: u, port: 53, protocol: UDP}]}\n")
        .await;
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let mut seen = watcher(events, watcher::Config::default()).boxed();
    let told = async {
        while let Some(event) = seen.next().await {
            if let Ok(watcher::Event::InitApply(event) | watcher::Event::Apply(event)) = event
                && event.reason.as_deref() == Some("UnsupportedProtocol")
            {
                return event;
            }
        }
        panic!("the watch ended");
    };
    let event = tokio::time::timeout(LIMIT, told).await.expect("the Event comes in time");
    assert_eq!(
        (event.involved_object.kind.as_deref(), event.involved_object.name.as_deref()),
        (Some("Service"), Some("dns"))
    );
    assert!(event.message.is_some_and(|message| message.contains("port 53 is UDP")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_served_or_said_to_be_unfit() {
    let cluster = Cluster::start().await;
    let made = || rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let (one, other) = (made(), made());
    let encode = |pem: String| base64::engine::general_purpose::STANDARD.encode(pem);
    let secret = |name: &str, key: &rcgen::KeyPair| {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
            "data": {"tls.crt": encode(one.cert.pem()), "tls.key": encode(key.serialize_pem())},
        });
        format!("---\n{secret}\n")
    };
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: coracle\n  \
                   listeners:\n  - {name: good, port: 8443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: fit}]}}\n  \
                   - {name: bad, port: 8443, protocol: HTTPS, hostname: b.example, tls: {certificateRefs: [{name: unfit}]}}\n";
    // The proxy binds the declared port, which another process may have; only what is said of certificates matters here.
    cluster.apply(&(secret("fit", &one.signing_key) + &secret("unfit", &other.signing_key) + gateway)).await;
    let gateway = cluster
        .wait(V1, "Gateway", "edge", |gateway| {
            let unfit = condition(gateway, "/status/listeners/1/conditions", "ResolvedRefs");
            unfit.is_some_and(|unfit| {
                unfit["reason"] == "InvalidCertificateRef"
                    && unfit["message"].as_str().is_some_and(|message| message.contains("cannot be used"))
            })
        })
        .await;
    assert!(holds(&gateway.data, "/status/listeners/0/conditions", "ResolvedRefs"));
    assert!(!holds(&gateway.data, "/status/listeners/1/conditions", "Programmed"));

    // The right key comes, and the certificate fits.
    cluster.apply(&secret("unfit", &one.signing_key)).await;
    cluster
        .wait(V1, "Gateway", "edge", |gateway| holds(gateway, "/status/listeners/1/conditions", "ResolvedRefs"))
        .await;
    cluster.stop().await;
}
