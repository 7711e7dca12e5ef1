//! AccessPolicies in a cluster: taken, followed, and reported.

use serde_json::Value;

use crate::harness::{Cluster, get, service, until};

const VERSION: &str = "mesh.coracle.dev/v1alpha1";
const EDGE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: coracle, listeners: [{name: http, port: 8080, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
";

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: {VERSION}\nkind: AccessPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// The condition `Accepted` of the first target, for the generation that is there.
fn accepted(object: &Value, generation: i64) -> Option<(&str, &str)> {
    let condition = &object["status"]["ancestors"][0]["conditions"][0];
    (condition["observedGeneration"] == generation)
        .then(|| Some((condition["status"].as_str()?, condition["reason"].as_str()?)))?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_closed_and_opened_for_its_gateway_alone() {
    let mut cluster = Cluster::start().await;
    cluster.apply(&format!("{EDGE}{}", service("web", 80))).await;
    cluster.endpoint("web", "one").await;
    let edge = cluster.gateway("edge", "http").await;
    until(edge, "a.test", "/", (200, "one /")).await;

    cluster.apply(&policy("default-deny", "{targetRefs: [{kind: Namespace, name: default}]}")).await;
    until(edge, "a.test", "/", (403, "")).await;
    let direct = cluster.service("web", 80).await;
    assert_eq!(get(direct, "web", "/").await.0, 403);

    let open = "{targetRefs: [{kind: Service, name: web}], rules: [{from: {gateways: [edge]}, methods: [GET]}]}";
    cluster.apply(&policy("web", open)).await;
    until(edge, "a.test", "/", (200, "one /")).await;
    assert_eq!(get(direct, "web", "/").await.0, 403);
    cluster.wait(VERSION, "AccessPolicy", "web", |object| accepted(object, 1) == Some(("True", "Accepted"))).await;

    // A slip closes the Service, and is named; mending it opens it again.
    cluster
        .apply(&policy("web", &open.replace("[GET]", "[GET], paths: [{type: RegularExpression, value: '('}]")))
        .await;
    until(edge, "a.test", "/", (500, "")).await;
    let object =
        cluster.wait(VERSION, "AccessPolicy", "web", |object| accepted(object, 2) == Some(("False", "Invalid"))).await;
    let message = object.data["status"]["ancestors"][0]["conditions"][0]["message"].as_str().expect("a message");
    assert!(message.contains("rule 0") && message.contains("cannot be used"), "{message}");
    cluster.apply(&policy("web", open)).await;
    until(edge, "a.test", "/", (200, "one /")).await;

    cluster.delete(VERSION, "AccessPolicy", "web").await;
    until(edge, "a.test", "/", (403, "")).await;
    cluster.delete(VERSION, "AccessPolicy", "default-deny").await;
    until(direct, "web", "/", (200, "one /")).await;
    cluster.stop().await;
}
