//! Start, liveness and readiness as users meet them (scenarios 8, 12, 13, 14, 15).

use crate::harness::{Coracle, eventually, get, manifests};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// A Deployment of the fixture behind a Service and a Gateway; `container` is YAML for the container, indented by 10.
pub(crate) fn application(name: &str, replicas: u32, container: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 8080, targetPort: http}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 60
      containers:
        - name: {name}
          image: fixture:1
          ports: [{{name: http, containerPort: 8080}}]
{container}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec:
  gatewayClassName: coracle
  listeners: [{{name: http, protocol: HTTP, port: 8080}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: {name}}}]
  rules: [{{backendRefs: [{{name: {name}, port: 8080}}]}}]
"
    )
}

/// The container's status of the only Pod.
fn container(coracle: &Coracle) -> Value {
    coracle.get(&["pods"])["items"][0]["status"]["containerStatuses"][0].clone()
}

fn restarts(coracle: &Coracle) -> i64 {
    container(coracle)["restartCount"].as_i64().unwrap_or(-1)
}

/// The names of the Pods that answered so many requests through the gateway.
fn answering(gateway: SocketAddr, requests: usize) -> BTreeSet<String> {
    (0..requests)
        .map(|_| {
            let answer = get(gateway, "/").expect("the gateway answers");
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.body
        })
        .collect()
}

/// Scenario 8: three copies behind the balancer from the first command on, so that state in a process shows at once.
#[test]
fn three_copies_show_that_a_counter_in_memory_is_wrong() {
    let directory = manifests(&[("app.yaml", &application("copies", 3, ""))]);
    let coracle = Coracle::up(directory.path());
    let mut names = BTreeSet::new();
    eventually("every copy gets requests", || {
        names.extend(answering(coracle.gateway(), 10));
        if names.len() == 3 { Ok(()) } else { Err(format!("{names:?}")) }
    });
    let mut counts = BTreeSet::new();
    eventually("a number comes twice, which one counter never gives", || {
        let count: u64 = get(coracle.gateway(), "/count").expect("an answer").body.parse().expect("a number");
        if counts.insert(count) { Err(format!("{counts:?}")) } else { Ok(()) }
    });
}

/// Scenario 12: a slow start is not killed by liveness, and gets no request before it is ready.
#[test]
fn a_slow_start_is_left_alone_and_gets_no_request_before_it_is_ready() {
    let slow = "          env: [{name: START_DELAY_MS, value: '4000'}]
          startupProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1, failureThreshold: 300}
          livenessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 1}
          readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1, timeoutSeconds: 60}";
    let directory = manifests(&[("app.yaml", &application("slow", 1, slow))]);
    let coracle = Coracle::up(directory.path());
    assert_eq!(restarts(&coracle), 0, "liveness must wait for the start-up probe");
    let first = answering(coracle.gateway(), 1);
    // A second copy starts as slowly; until it is ready, the first answers alone.
    scale(&coracle, "slow", 2);
    let second = eventually("the second Pod is ready", || {
        let found = get(coracle.gateway(), "/").map_err(|e| e.to_string())?;
        assert_eq!(found.status, 200, "a request reached a Pod that was not ready: {found:?}");
        let items = coracle.get(&["pods"])["items"].clone();
        let pods = items.as_array().ok_or("no list")?;
        if pods.len() == 2 && pods.iter().all(is_ready) { Ok(pods.len()) } else { Err(format!("{} Pods", pods.len())) }
    });
    assert_eq!((first.len(), second), (1, 2));
    eventually("both answer", || {
        let names = answering(coracle.gateway(), 20);
        if names.len() == 2 { Ok(()) } else { Err(format!("{names:?}")) }
    });
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Scales by applying the Deployment's replicas alone.
pub(crate) fn scale(coracle: &Coracle, name: &str, replicas: u32) {
    let text =
        format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec: {{replicas: {replicas}}}\n");
    let file = coracle.data().join("scale.yaml");
    std::fs::write(&file, text).expect("a writable directory");
    // The field is the first apply's; a partial manifest would give up the others, so they are patched in as they are.
    let mut object = coracle.get(&[&format!("deployment/{name}")]);
    object["spec"]["replicas"] = replicas.into();
    object["metadata"] = serde_json::json!({ "name": name, "namespace": object["metadata"]["namespace"] });
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    std::fs::write(&file, object.to_string()).expect("a writable directory");
    coracle.ok(&["apply", "--force-conflicts", "-f", file.to_str().expect("UTF-8")]);
}

/// Scenario 13: a program that hangs is restarted after three failures, with nobody called.
#[test]
fn a_program_that_hangs_is_restarted() {
    let live = "          livenessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1, timeoutSeconds: 5}";
    let directory = manifests(&[("app.yaml", &application("hangs", 1, live))]);
    let coracle = Coracle::up(directory.path());
    assert_eq!(get(coracle.gateway(), "/hang").expect("an answer").status, 200);
    eventually("it is restarted", || match restarts(&coracle) {
        1.. => Ok(()),
        other => Err(format!("{other} restarts")),
    });
    eventually("it answers again", || match get(coracle.gateway(), "/") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("Events tell of it", || {
        let events = coracle.get(&["events"]);
        let reasons: BTreeSet<&str> =
            events["items"].as_array().into_iter().flatten().filter_map(|e| e["reason"].as_str()).collect();
        if reasons.contains("Unhealthy") && reasons.contains("Killing") { Ok(()) } else { Err(format!("{reasons:?}")) }
    });
}

/// Scenario 14: readiness that fails takes a Pod out of rotation and does not restart it.
#[test]
fn a_pod_that_is_not_ready_leaves_the_rotation_and_is_not_restarted() {
    let ready = "          readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 2}";
    let directory = manifests(&[("app.yaml", &application("unready", 2, ready))]);
    let coracle = Coracle::up(directory.path());
    let gone = get(coracle.gateway(), "/unready").expect("an answer").header("x-pod").expect("a name").to_owned();
    eventually("it is out of rotation", || {
        let names = answering(coracle.gateway(), 20);
        if names.contains(&gone) { Err(format!("{gone} still answers")) } else { Ok(()) }
    });
    assert!(!answering(coracle.gateway(), 50).contains(&gone), "it stays out");
    let pods = coracle.get(&["pods"]);
    for pod in pods["items"].as_array().expect("a list") {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        assert_eq!(is_ready(pod), name != gone, "{name}");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{name} must not be restarted");
    }
}

/// Scenario 15: a Pod that ends gets no new request, and the one under way is answered.
#[test]
fn a_pod_that_ends_finishes_what_it_has() {
    let directory = manifests(&[("app.yaml", &application("ends", 2, ""))]);
    let coracle = Coracle::up(directory.path());
    let gateway = coracle.gateway();
    let slow: Vec<_> =
        (0..8).map(|_| std::thread::spawn(move || get(gateway, "/slow?1500").map(|answer| answer.status))).collect();
    let names: Vec<String> = coracle.ok(&["get", "pods", "-o", "name"]).lines().map(str::to_owned).collect();
    coracle.ok(&["delete", &names[0], "--no-wait"]);
    for request in slow {
        let status = request.join().expect("a thread that does not panic");
        assert_eq!(status.expect("an answer to a request under way"), 200);
    }
    for _ in 0..40 {
        assert_eq!(get(gateway, "/").expect("an answer").status, 200);
    }
}
