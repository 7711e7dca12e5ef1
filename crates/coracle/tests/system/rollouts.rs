//! Changes under load (scenarios 10, 19, 25).

use crate::harness::{Coracle, eventually, get, manifests, root};
use crate::load::Load;
use crate::probes::{application, scale};
use serde_json::Value;

/// The Deployment as it is, without what the API keeps about it.
fn manifest_of(coracle: &Coracle, name: &str) -> Value {
    let mut object = coracle.get(&[&format!("deployment/{name}")]);
    object["metadata"] = serde_json::json!({ "name": name, "namespace": object["metadata"]["namespace"] });
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object
}

/// A new revision of a Deployment: what `kubectl rollout restart` does.
pub(crate) fn restart(coracle: &Coracle, name: &str, mark: &str) {
    let mut object = manifest_of(coracle, name);
    object["spec"]["template"]["metadata"]["annotations"] = serde_json::json!({ "restarted": mark });
    let file = coracle.data().join(format!("restart-{name}.json"));
    std::fs::write(&file, object.to_string()).expect("a writable directory");
    coracle.ok(&["apply", "--force-conflicts", "-f", file.to_str().expect("UTF-8")]);
}

/// Waits until the newest revision alone runs.
pub(crate) fn rolled_out(coracle: &Coracle, name: &str) {
    eventually(&format!("{name} is rolled out"), || {
        let object = coracle.get(&[&format!("deployment/{name}")]);
        let status = &object["status"];
        let wanted = &object["spec"]["replicas"];
        let done = status["observedGeneration"] == object["metadata"]["generation"]
            && &status["updatedReplicas"] == wanted
            && &status["replicas"] == wanted
            && &status["availableReplicas"] == wanted;
        if done { Ok(()) } else { Err(status.to_string()) }
    });
}

/// Scenario 10: twenty rollouts of orders under constant load through the gateway; no reset, no 5xx.
#[test]
fn twenty_rollouts_under_load_lose_no_request() {
    let coracle = Coracle::up(&root().join("examples/shop"));
    let load = Load::start(coracle.gateway(), "/api/orders", 4);
    for round in 0..20 {
        restart(&coracle, "orders", &round.to_string());
        rolled_out(&coracle, "orders");
    }
    let seen = load.stop();
    assert_eq!(seen.failures, 0, "{seen:?}");
    assert!(seen.answers > 200, "the load was no load: {seen:?}");
}

/// Scenario 19: a changed value reaches the Pods by a rollout, with nothing rebuilt.
#[test]
fn a_changed_configuration_reaches_the_pods_without_a_build() {
    let config = |level: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config}}\ndata: {{LOG_LEVEL: {level}}}\n")
    };
    let from = "          envFrom: [{configMapRef: {name: config}}]";
    let directory = manifests(&[("app.yaml", &application("configured", 2, from)), ("config.yaml", &config("info"))]);
    let coracle = Coracle::up(directory.path());
    assert_eq!(get(coracle.gateway(), "/env?LOG_LEVEL").expect("an answer").body, "info");
    let changed = directory.path().join("config.yaml");
    std::fs::write(&changed, config("debug")).expect("a writable directory");
    coracle.ok(&["apply", "-f", changed.to_str().expect("UTF-8")]);
    restart(&coracle, "configured", "new configuration");
    rolled_out(&coracle, "configured");
    for _ in 0..10 {
        assert_eq!(get(coracle.gateway(), "/env?LOG_LEVEL").expect("an answer").body, "debug");
    }
}

/// Scenario 25: after a cut-over no request goes to a target that is gone; there is no cached name to expire.
#[test]
fn a_target_that_is_gone_gets_no_request() {
    let directory = manifests(&[("app.yaml", &application("targets", 3, ""))]);
    let coracle = Coracle::up(directory.path());
    let load = Load::start(coracle.gateway(), "/", 2);
    for replicas in [1, 3, 1, 3] {
        scale(&coracle, "targets", replicas);
        rolled_out(&coracle, "targets");
    }
    // All old targets are replaced at once; the load goes on over connections that were opened before.
    restart(&coracle, "targets", "cut-over");
    rolled_out(&coracle, "targets");
    let seen = load.stop();
    assert_eq!(seen.failures, 0, "{seen:?}");
    let living: Vec<String> = coracle.ok(&["get", "pods", "-o", "name"]).lines().map(str::to_owned).collect();
    for _ in 0..30 {
        let name = get(coracle.gateway(), "/").expect("an answer").body;
        assert!(living.contains(&format!("pod/{name}")), "{name} answered, but {living:?} live");
    }
}
