use super::*;
use serde_json::json;

const NOW: &str = "2026-01-01T00:00:00Z";

fn created(api_version: &str, kind: &str, mut obj: Value, has_status: bool) -> Value {
    prepare_create(api_version, kind, &mut obj, &Creation { uid: "u1", now: NOW, has_status });
    complete_create(api_version, kind, &mut obj, "u1");
    obj
}

#[test]
fn creation_sets_what_the_server_owns() {
    let body = json!({
        "metadata": {"name": "a", "resourceVersion": "7", "generation": 9, "deletionTimestamp": NOW, "creationTimestamp": null},
        "spec": {"replicas": 1}, "status": {"replicas": 3}
    });
    assert_eq!(
        created("apps/v1", "Deployment", body.clone(), true),
        json!({"metadata": {"name": "a", "uid": "u1", "creationTimestamp": NOW, "generation": 1}, "spec": {"replicas": 1}})
    );
    let kept = created("example.com/v1", "Thing", body, false);
    assert_eq!(kept["status"], json!({"replicas": 3}));
    let map = created("v1", "ConfigMap", json!({"metadata": {"name": "a"}}), false);
    assert_eq!(map["metadata"], json!({"name": "a", "uid": "u1", "creationTimestamp": NOW}));
}

#[test]
fn creation_knows_its_kinds() {
    let namespace = created("v1", "Namespace", json!({"metadata": {"name": "n"}}), true);
    assert_eq!(namespace["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(namespace["status"], json!({"phase": "Active"}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    let job = created("batch/v1", "Job", json!({"metadata": {"name": "j"}, "spec": {"template": {}}}), true);
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/job-name"], "j");
    assert_eq!(job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]);
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
    ] {
        let pod =
            created("v1", "Pod", json!({"metadata": {}, "spec": {"containers": [{"resources": resources}]}}), true);
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": class}));
    }
}

#[test]
fn names_fit() {
    assert_eq!(generate_name("web-", "abcde"), "web-abcde");
    assert_eq!(generate_name(&"x".repeat(80), "abcde").len(), 63);
}

#[test]
fn generation_moves_with_the_desired_state_only() {
    let old = json!({
        "metadata": {"name": "a", "uid": "u1", "creationTimestamp": NOW, "generation": 4, "resourceVersion": "1"},
        "spec": {"replicas": 1}, "status": {"replicas": 1}
    });
    for (kind, change, generation) in [
        ("Deployment", json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}), 4),
        ("Deployment", json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}}), 5),
        ("Deployment", json!({"metadata": {"name": "a", "annotations": {"x": "y"}}, "spec": {"replicas": 1}}), 5),
        ("ReplicaSet", json!({"metadata": {"name": "a", "annotations": {"x": "y"}}, "spec": {"replicas": 1}}), 4),
        (
            "ReplicaSet",
            json!({"metadata": {"name": "a", "generation": 99}, "spec": {"replicas": 1}, "status": {"replicas": 7}}),
            4,
        ),
    ] {
        let mut new = change.clone();
        prepare_update("apps/v1", kind, &old, &mut new, true);
        assert_eq!(new["metadata"]["generation"], generation, "{kind} {change}");
        assert_eq!(new["metadata"]["uid"], "u1");
        assert_eq!(new["metadata"]["creationTimestamp"], NOW);
        assert_eq!(new["metadata"].get("resourceVersion"), None);
        assert_eq!(new["status"], json!({"replicas": 1}));
    }
}

#[test]
fn status_updates_change_status_alone() {
    let old = json!({"metadata": {"name": "a", "labels": {"a": "b"}, "generation": 1}, "spec": {"x": 1}});
    let mut new = json!({
        "metadata": {"name": "a", "labels": {"other": "y"}, "finalizers": ["f"], "managedFields": [{}]},
        "spec": {"x": 2}, "status": {"ok": true}
    });
    prepare_status_update("apps/v1", "Deployment", &old, &mut new);
    assert_eq!(
        new,
        json!({"metadata": {"name": "a", "labels": {"a": "b"}, "generation": 1, "managedFields": [{}]}, "spec": {"x": 1}, "status": {"ok": true}})
    );
}

#[test]
fn empty_maps_and_lists_of_the_metadata_are_left_out() {
    let empty =
        json!({"metadata": {"name": "a", "annotations": {}, "labels": {}, "finalizers": [], "ownerReferences": []}});
    let made = created("v1", "ConfigMap", empty.clone(), false);
    let mut updated = empty;
    prepare_update("v1", "ConfigMap", &made, &mut updated, false);
    for object in [made, updated] {
        for name in ["annotations", "labels", "finalizers", "ownerReferences"] {
            assert!(object["metadata"].get(name).is_none(), "{name} in {object}");
        }
    }
}

#[test]
fn no_ops_are_seen() {
    let object = |rv: &str, time: &str, data: &str| json!({"metadata": {"resourceVersion": rv, "managedFields": [{"manager": "m", "time": time}]}, "data": {"k": data}});
    assert!(unchanged(&object("1", "a", "x"), &object("2", "b", "x")));
    assert!(!unchanged(&object("1", "a", "x"), &object("1", "a", "y")));
    assert!(!unchanged(&json!({"metadata": {}}), &json!({"metadata": {"labels": {"a": "b"}}})));
}

fn request(grace: Option<i64>, propagation: Option<Propagation>) -> DeleteRequest {
    DeleteRequest { now: NOW.parse().expect("a valid time"), grace_seconds: grace, propagation }
}

#[test]
fn plain_objects_go_at_once_and_finalizers_hold_them() {
    let plain = json!({"metadata": {"name": "a", "generation": 1}});
    assert_eq!(delete("v1", "ConfigMap", &plain, &request(None, None)), Deletion::Remove);
    assert_eq!(delete("v1", "ConfigMap", &plain, &request(None, Some(Propagation::Background))), Deletion::Remove);
    for (propagation, finalizer) in
        [(Propagation::Foreground, FOREGROUND_FINALIZER), (Propagation::Orphan, ORPHAN_FINALIZER)]
    {
        let Deletion::Mark(marked) = delete("apps/v1", "Deployment", &plain, &request(None, Some(propagation))) else {
            panic!("must be marked")
        };
        assert_eq!(
            marked["metadata"],
            json!({"name": "a", "generation": 2, "finalizers": [finalizer], "deletionTimestamp": NOW, "deletionGracePeriodSeconds": 0})
        );
        assert!(!ready_to_remove("apps/v1", "Deployment", &marked));
        assert_eq!(delete("apps/v1", "Deployment", &marked, &request(None, None)), Deletion::Pending);
        let mut done = marked;
        done["metadata"]["finalizers"] = json!([]);
        assert!(ready_to_remove("apps/v1", "Deployment", &done));
    }
}

#[test]
fn namespaces_wait_for_their_own_finalizer() {
    let namespace =
        json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
    let Deletion::Mark(marked) = delete("v1", "Namespace", &namespace, &request(None, Some(Propagation::Background)))
    else {
        panic!("must be marked")
    };
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert!(!ready_to_remove("v1", "Namespace", &marked));
}

#[test]
fn pods_get_their_grace() {
    let pod = |spec: Value, phase: &str| json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}});
    let running = pod(json!({"nodeName": "n", "terminationGracePeriodSeconds": 5}), "Running");
    for (obj, grace, end) in [
        (pod(json!({}), "Pending"), None, None),
        (pod(json!({"nodeName": "n"}), "Succeeded"), None, None),
        (running.clone(), Some(0), None),
        (running.clone(), None, Some((5, "2026-01-01T00:00:05Z"))),
        (running.clone(), Some(60), Some((60, "2026-01-01T00:01:00Z"))),
        (running.clone(), Some(-1), Some((1, "2026-01-01T00:00:01Z"))),
    ] {
        let wanted = match (delete("v1", "Pod", &obj, &request(grace, None)), end) {
            (Deletion::Remove, None) => continue,
            (Deletion::Mark(marked), Some(end)) => (marked, end),
            (other, _) => panic!("{other:?} for {obj}"),
        };
        let (marked, (seconds, at)) = wanted;
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], seconds);
        assert_eq!(marked["metadata"]["deletionTimestamp"], at);
    }
    let Deletion::Mark(first) = delete("v1", "Pod", &running, &request(Some(60), None)) else {
        panic!("must be marked")
    };
    assert_eq!(delete("v1", "Pod", &first, &request(Some(60), None)), Deletion::Pending);
    let Deletion::Mark(second) = delete("v1", "Pod", &first, &request(Some(10), None)) else {
        panic!("must be marked")
    };
    assert_eq!(second["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
}
