//! Policies from the API to the wire and back to their status.

use serde_json::json;

use crate::harness::{Cluster, service, slice, until};

const V1ALPHA1: &str = "mesh.coracle.dev/v1alpha1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_followed_and_says_so() {
    let cluster = Cluster::start().await;
    // Nobody listens at the endpoint: port 1 of loopback.
    cluster.apply(&service("billing", 80)).await;
    cluster.apply(&slice("billing", "dead", 1, true)).await;
    let at = cluster.service("billing", 80).await;
    until(at, "billing", "/", (502, "")).await;

    let policy = |on: &str| {
        format!(
            "apiVersion: {V1ALPHA1}\nkind: TrafficPolicy\nmetadata: {{name: careful}}\nspec:\n  targetRefs: \
             [{{kind: Service, name: {on}}}]\n  circuitBreaker: {{minimumCalls: 2, openFor: 1h}}\n"
        )
    };
    cluster.apply(&policy("elsewhere")).await;
    let wanted = |generation: i64, reason: &'static str| {
        move |policy: &serde_json::Value| {
            let condition = &policy["status"]["ancestors"][0]["conditions"][0];
            condition["observedGeneration"] == json!(generation) && condition["reason"] == json!(reason)
        }
    };
    let object = cluster.wait(V1ALPHA1, "TrafficPolicy", "careful", wanted(1, "TargetNotFound")).await;
    let ancestor = &object.data["status"]["ancestors"][0];
    assert_eq!(ancestor["controllerName"], "coracle.dev/gateway");
    assert_eq!(
        ancestor["ancestorRef"],
        json!({"group": "", "kind": "Service", "name": "elsewhere", "namespace": "default"})
    );
    assert_eq!(ancestor["conditions"][0]["message"], "Service default/elsewhere does not exist");

    cluster.apply(&policy("billing")).await;
    cluster.wait(V1ALPHA1, "TrafficPolicy", "careful", wanted(2, "Accepted")).await;
    // Two calls that fail, and then the circuit is open.
    until(at, "billing", "/", (503, "")).await;

    cluster.delete(V1ALPHA1, "TrafficPolicy", "careful").await;
    until(at, "billing", "/", (502, "")).await;
    cluster.stop().await;
}
