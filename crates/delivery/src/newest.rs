//! Which Pods the newest state of a workload made: those of earlier states say nothing about it.
//!
//! Pure: a workload, the ReplicaSets and the Pods of its namespace in. Told by owners, revisions and observed generations and by no
//! clock: the Pod of a state that is applied again is as old as the first attempt.

use serde_json::Value;

use crate::object;

/// Where a Deployment and its ReplicaSets say which revision they are.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// The Pods that the newest state of a workload made; none where its controller has not looked at that state yet. Pods that go are
/// none of them.
#[must_use]
pub fn pods<'a>(
    workload: &Value,
    sets: impl Iterator<Item = &'a Value> + Clone,
    pods: impl Iterator<Item = &'a Value>,
) -> Option<Vec<&'a Value>> {
    // A Job's Pods are of the one state it ever has.
    let observed = &workload["status"]["observedGeneration"];
    if object::kind(workload) != "Job" && observed.as_i64() < workload["metadata"]["generation"].as_i64() {
        return None;
    }
    let owner = if object::kind(workload) == "Deployment" {
        object::uid(newest_set(workload, sets)?)
    } else {
        object::uid(workload)
    };
    let newest = workload["status"]["updateRevision"].as_str();
    let of_newest = |pod: &&Value| {
        let revision = object::label(pod, "controller-revision-hash");
        let goes = !pod["metadata"]["deletionTimestamp"].is_null();
        !goes && owned_by(pod, owner) && (newest.is_none() || revision.is_none() || revision == newest)
    };
    Some(pods.filter(of_newest).collect())
}

/// The ReplicaSet of a Deployment's newest state.
fn newest_set<'a>(deployment: &Value, sets: impl Iterator<Item = &'a Value> + Clone) -> Option<&'a Value> {
    let mut sets = sets.filter(|set| owned_by(set, object::uid(deployment)));
    let revision = object::annotation(deployment, REVISION)?;
    let newest = sets.clone().find(|set| object::annotation(set, REVISION) == Some(revision))?;
    // Its controller says that it has looked before it says which revision is the newest.
    let another = sets.any(|set| made_of(set, deployment) && object::uid(set) != object::uid(newest));
    (!another).then_some(newest)
}

/// Whether a ReplicaSet's Pods are what the Deployment asks for now.
fn made_of(set: &Value, deployment: &Value) -> bool {
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    template == deployment["spec"]["template"]
}

fn owned_by(object: &Value, uid: &str) -> bool {
    object["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.iter().any(|owner| owner["uid"] == uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(uid: &str, revision: &str, image: &str) -> Value {
        json!({ "metadata": { "uid": uid, "annotations": { REVISION: revision }, "ownerReferences": [{ "uid": "web" }] },
            "spec": { "template": { "metadata": { "labels": { "app": "web", "pod-template-hash": uid } }, "spec": image } } })
    }

    fn pod(name: &str, owner: &str, hash: Value) -> Value {
        json!({ "metadata": { "name": name, "ownerReferences": [{ "uid": owner }],
            "labels": { "controller-revision-hash": hash } } })
    }

    fn workload(kind: &str, observed: i64, status: Value) -> Value {
        let mut workload = json!({ "kind": kind, "metadata": { "uid": "web", "generation": 2, "annotations": { REVISION: "2" } },
            "spec": { "template": { "metadata": { "labels": { "app": "web" } }, "spec": "two" } }, "status": status });
        workload["status"]["observedGeneration"] = observed.into();
        workload
    }

    #[test]
    fn only_pods_of_the_newest_state_are_told() {
        let both = [set("old", "1", "one"), set("new", "2", "two")];
        // Its controller has looked, and not yet said which one is the newest.
        let unsaid = [set("old", "2", "one"), set("new", "3", "two")];
        let mut going = pod("going", "new", Value::Null);
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let of_sets = [pod("a", "old", Value::Null), pod("b", "new", Value::Null), going];
        let own = [pod("a", "web", json!("x")), pod("b", "web", json!("y")), pod("other", "else", json!("y"))];
        let none = || json!({});
        for (kind, observed, status, sets, pods, wanted) in [
            ("Deployment", 2, none(), &both[..], &of_sets[..], Some(&["b"][..])),
            ("Deployment", 1, none(), &both, &of_sets, None),
            ("Deployment", 2, none(), &both[..1], &of_sets, None),
            ("Deployment", 2, none(), &unsaid, &of_sets, None),
            ("StatefulSet", 2, json!({ "updateRevision": "y" }), &[], &own, Some(&["b"])),
            ("StatefulSet", 1, json!({ "updateRevision": "x" }), &[], &own, None),
            ("DaemonSet", 2, none(), &[], &own, Some(&["a", "b"])),
            ("Job", 0, none(), &[], &own, Some(&["a", "b"])),
        ] {
            let found = super::pods(&workload(kind, observed, status), sets.iter(), pods.iter());
            let names = found.map(|all| all.into_iter().map(object::name).collect::<Vec<_>>());
            assert_eq!(names.as_deref(), wanted, "{kind} {observed}");
        }
    }
}
