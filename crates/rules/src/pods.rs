//! What a Pod's status says: phase, readiness, restarts. Pure readers over the JSON form.
//!
//! Invariants: a missing field reads as Kubernetes' zero value; nothing here changes an object.
//! Must not know: who runs Pods.

use serde_json::Value;

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The Pod's `status.phase`; a Pod that has none yet is `Pending`.
pub fn phase(pod: &Value) -> &str {
    match text(pod, "/status/phase") {
        "" => "Pending",
        phase => phase,
    }
}

/// Whether the Pod has ended for good: phase `Succeeded` or `Failed`.
pub fn is_terminated(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether deletion of the Pod was asked for.
pub fn is_terminating(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
}

/// Whether the Pod counts for a workload: neither ended nor being deleted.
pub fn is_active(pod: &Value) -> bool {
    !is_terminated(pod) && !is_terminating(pod)
}

/// The entry of `status.conditions` of the given type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether the object's condition of this type has status `True`.
pub fn condition_is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Whether the Pod's condition `Ready` is true.
pub fn is_ready(pod: &Value) -> bool {
    condition_is_true(pod, "Ready")
}

/// Whether the Pod has been ready for at least `seconds` at `now`, as Deployments and ReplicaSets ask (`minReadySeconds`).
pub fn is_available(pod: &Value, seconds: i64, now: jiff::Timestamp) -> bool {
    let Some(ready) = condition(pod, "Ready").filter(|ready| ready["status"] == "True") else {
        return false;
    };
    if seconds <= 0 {
        return true;
    }
    ready["lastTransitionTime"]
        .as_str()
        .and_then(|at| at.parse::<jiff::Timestamp>().ok())
        .is_some_and(|at| now.as_second() - at.as_second() >= seconds)
}

/// Whether a node has been chosen for the Pod.
pub fn is_scheduled(pod: &Value) -> bool {
    !text(pod, "/spec/nodeName").is_empty()
}

/// All restarts of the Pod's containers together.
pub fn restarts(pod: &Value) -> i64 {
    pod.pointer("/status/containerStatuses")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(|one| one["restartCount"].as_i64()).sum())
        .unwrap_or(0)
}

/// Whether an init container is a sidecar (`restartPolicy: Always`): it starts in order but runs beside the others.
pub fn is_sidecar(init_container: &Value) -> bool {
    init_container["restartPolicy"] == "Always"
}

/// The controller among the object's owner references.
pub fn controller_of(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/ownerReferences")?.as_array()?.iter().find(|owner| owner["controller"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn phases() {
        for (status, name, terminated, active) in [
            (json!({}), "Pending", false, true),
            (json!({"phase": "Running"}), "Running", false, true),
            (json!({"phase": "Succeeded"}), "Succeeded", true, false),
            (json!({"phase": "Failed"}), "Failed", true, false),
        ] {
            let pod = json!({"status": status});
            assert_eq!(phase(&pod), name);
            assert_eq!(is_terminated(&pod), terminated, "{pod}");
            assert_eq!(is_active(&pod), active, "{pod}");
        }
        assert!(!is_active(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})));
    }

    #[test]
    fn readiness() {
        let now: jiff::Timestamp = "2026-01-01T00:01:00Z".parse().expect("a valid time");
        let pod = |status: &str, at: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": at}]}});
        for (pod, seconds, ready, available) in [
            (json!({}), 0, false, false),
            (pod("False", "2026-01-01T00:00:00Z"), 0, false, false),
            (pod("True", "2026-01-01T00:00:30Z"), 0, true, true),
            (pod("True", "2026-01-01T00:00:30Z"), 30, true, true),
            (pod("True", "2026-01-01T00:00:31Z"), 30, true, false),
            (pod("True", "nonsense"), 30, true, false),
        ] {
            assert_eq!(is_ready(&pod), ready, "{pod}");
            assert_eq!(is_available(&pod, seconds, now), available, "{pod}");
        }
    }

    #[test]
    fn counts_and_owners() {
        let pod = json!({
            "metadata": {"ownerReferences": [{"name": "a"}, {"name": "b", "controller": true}]},
            "spec": {"nodeName": "coracle"},
            "status": {"containerStatuses": [{"restartCount": 2}, {"restartCount": 3}, {}]}
        });
        assert_eq!(restarts(&pod), 5);
        assert!(is_scheduled(&pod));
        assert_eq!(controller_of(&pod).expect("a controller")["name"], "b");
        assert_eq!(controller_of(&json!({})), None);
        assert!(is_sidecar(&json!({"restartPolicy": "Always"})));
    }
}
