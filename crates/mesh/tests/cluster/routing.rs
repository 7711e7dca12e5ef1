//! From manifests to answers.

use crate::harness::{Cluster, LIMIT, get, service, slice, until};

const GATEWAY: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: coracle
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

fn route(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec: {{parentRefs: [{{name: edge}}], {spec}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_leads_to_ready_endpoints_and_follows_every_change() {
    let mut cluster = Cluster::start().await;
    let rules = "rules: [{matches: [{path: {value: /api}}], backendRefs: [{name: api, port: 8080}]}, {backendRefs: [{name: web, port: 8080}]}]";
    cluster.apply(&(GATEWAY.to_owned() + &route("shop", rules) + &service("web", 8080) + &service("api", 8080))).await;
    let edge = cluster.gateway("edge", "http").await;

    until(edge, "shop.example", "/", (503, "")).await;
    cluster.endpoint("web", "first").await;
    until(edge, "shop.example", "/x", (200, "first /x")).await;
    until(edge, "shop.example", "/api/x", (503, "")).await;
    cluster.endpoint("api", "api").await;
    until(edge, "shop.example", "/api/x", (200, "api /api/x")).await;

    // An endpoint that is no longer ready gets nothing more; another takes over.
    let second = cluster.serve("second").await;
    cluster.apply(&slice("web", "second", second, true)).await;
    let port = 1; // nothing listens there, and nothing is to be sent there
    cluster.apply(&slice("web", "first", port, false)).await;
    until(edge, "shop.example", "/", (200, "second /")).await;
    for _ in 0..20 {
        assert_eq!(get(edge, "shop.example", "/").await, (200, "second /".to_owned()));
    }

    // The route changes, then goes; the Gateway stays where it is.
    cluster.apply(&route("shop", "hostnames: [only.example], rules: [{backendRefs: [{name: api, port: 8080}]}]")).await;
    until(edge, "only.example", "/", (200, "api /")).await;
    until(edge, "shop.example", "/", (404, "")).await;
    cluster.delete("gateway.networking.k8s.io/v1", "HTTPRoute", "shop").await;
    until(edge, "only.example", "/", (404, "")).await;
    assert_eq!(cluster.gateway("edge", "http").await, edge);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_answers_on_its_own_address() {
    let mut cluster = Cluster::start().await;
    cluster.apply(&service("users", 8081)).await;
    cluster.endpoint("users", "users").await;
    let users = cluster.service("users", 8081).await;
    assert_eq!(users.port(), 8081);
    until(users, "users", "/1", (200, "users /1")).await;

    // A route on the Service itself takes over its HTTP.
    cluster.apply(&service("canary", 8081)).await;
    cluster.endpoint("canary", "canary").await;
    cluster
        .apply(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: canary}\nspec:\n  parentRefs: \
             [{group: '', kind: Service, name: users}]\n  rules: [{matches: [{path: {value: /new}}], backendRefs: [{name: canary, port: 8081}]}, \
             {backendRefs: [{name: users, port: 8081}]}]\n",
        )
        .await;
    until(users, "users", "/new", (200, "canary /new")).await;
    until(users, "users", "/old", (200, "users /old")).await;

    cluster.delete("v1", "Service", "users").await;
    let mut published = cluster.mesh.subscribe();
    let gone = published.wait_for(|now| !now.services.contains_key(&(users.ip(), 8081)));
    drop(tokio::time::timeout(crate::harness::LIMIT, gone).await.expect("it goes in time").expect("the mesh runs"));
    assert!(tokio::net::TcpStream::connect(users).await.is_err(), "nothing listens there any more");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_part_does_not_take_the_others_with_it() {
    let mut cluster = Cluster::start().await;
    let good = route("good", "hostnames: [good.example], rules: [{backendRefs: [{name: web, port: 8082}]}]");
    cluster.apply(&(GATEWAY.to_owned() + &service("web", 8082) + &good)).await;
    cluster.endpoint("web", "web").await;
    let edge = cluster.gateway("edge", "http").await;
    until(edge, "good.example", "/", (200, "web /")).await;

    let bad = "hostnames: [bad.example], rules: [{matches: [{path: {type: RegularExpression, value: '/a('}}], backendRefs: [{name: web, port: 8082}]}]";
    cluster.apply(&route("bad", bad)).await;
    cluster
        .wait("gateway.networking.k8s.io/v1", "HTTPRoute", "bad", |route| {
            route.pointer("/status/parents/0/conditions/0/reason").is_some_and(|reason| reason == "UnsupportedValue")
        })
        .await;
    // A change after it is served all the same.
    cluster
        .apply(&route("later", "hostnames: [later.example], rules: [{backendRefs: [{name: web, port: 8082}]}]"))
        .await;
    until(edge, "later.example", "/", (200, "web /")).await;
    assert_eq!(get(edge, "good.example", "/").await.0, 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_of_the_beta_are_served_too() {
    let mut cluster = Cluster::start().await;
    let manifests =
        GATEWAY.to_owned() + &route("r", "rules: [{backendRefs: [{name: web, port: 8083}]}]") + &service("web", 8083);
    cluster.apply(&manifests.replace("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1")).await;
    cluster.endpoint("web", "web").await;
    let edge = cluster.gateway("edge", "http").await;
    until(edge, "any.example", "/", (200, "web /")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_routed_by_service_and_method() {
    let mut cluster = Cluster::start().await;
    let route = r"---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls}
spec:
  parentRefs: [{name: edge}]
  rules:
  - {matches: [{method: {service: shop.Orders, method: Get}}], backendRefs: [{name: web, port: 8080}]}
  - {matches: [{method: {service: shop.Users}}], backendRefs: [{name: api, port: 8080}]}
";
    cluster.apply(&(GATEWAY.to_owned() + route + &service("web", 8080) + &service("api", 8080))).await;
    cluster.endpoint("web", "web").await;
    cluster.endpoint("api", "api").await;
    let edge = cluster.gateway("edge", "http").await;
    until(edge, "shop.example", "/shop.Orders/Get", (200, "web /shop.Orders/Get")).await;
    until(edge, "shop.example", "/shop.Users/Any", (200, "api /shop.Users/Any")).await;
    assert_eq!(get(edge, "shop.example", "/shop.Orders/Put").await.0, 404);
    cluster
        .wait("gateway.networking.k8s.io/v1", "GRPCRoute", "calls", |route| {
            let conditions = route.pointer("/status/parents/0/conditions").and_then(serde_json::Value::as_array);
            conditions.is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["status"] == "True"))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_set_brings_hosts_to_a_gateway() {
    let mut cluster = Cluster::start().await;
    let manifests = r"---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: coracle
  allowedListeners: {namespaces: {from: Same}}
  listeners: [{name: http, port: 80, protocol: HTTP, hostname: own.example}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more}
spec:
  parentRef: {name: edge}
  listeners: [{name: extra, port: 80, protocol: HTTP, hostname: more.example}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{kind: ListenerSet, name: more}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
";
    cluster.apply(&(manifests.to_owned() + &service("web", 8080))).await;
    cluster.endpoint("web", "web").await;
    let edge = cluster.gateway("edge", "http").await;
    until(edge, "more.example", "/", (200, "web /")).await;
    assert_eq!(get(edge, "own.example", "/").await.0, 404);
    let all_hold = |object: &serde_json::Value, at: &str, count: usize| {
        let conditions = object.pointer(at).and_then(serde_json::Value::as_array);
        conditions.is_some_and(|all| all.iter().filter(|one| one["status"] == "True").count() == count)
    };
    cluster
        .wait("gateway.networking.k8s.io/v1", "ListenerSet", "more", |set| {
            // Of a listener's four, Conflicted is the one that does not hold.
            all_hold(set, "/status/conditions", 2)
                && all_hold(set, "/status/listeners/0/conditions", 3)
                && set.pointer("/status/listeners/0/attachedRoutes") == Some(&serde_json::json!(1))
        })
        .await;
    cluster
        .wait("gateway.networking.k8s.io/v1", "Gateway", "edge", |gateway| {
            gateway.pointer("/status/attachedListenerSets") == Some(&serde_json::json!(1))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_for_endpoints_meets_them_with_the_first_request() {
    let mut cluster = Cluster::start().await;
    cluster.apply(&service("web", 8080)).await;
    let address = cluster.service("web", 8080).await;
    assert_eq!(get(address, "web", "/").await.0, 503, "nobody is behind it");
    for name in ["one", "two"] {
        let port = cluster.serve(name).await;
        // The second time the same slice leads elsewhere.
        let newest = cluster.apply(&slice("web", "ready", port, true)).await;
        tokio::time::timeout(LIMIT, cluster.mesh.serves_endpoints_of(newest)).await.expect("served in time");
        for _ in 0..10 {
            assert_eq!(get(address, "web", "/x").await, (200, format!("{name} /x")));
        }
    }
    // What is older is served as well.
    tokio::time::timeout(LIMIT, cluster.mesh.serves_endpoints_of(1)).await.expect("at once");
    cluster.stop().await;
}
