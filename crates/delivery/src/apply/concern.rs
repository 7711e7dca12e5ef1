//! Which workloads Pods in trouble concern, so that the API is asked about those alone: a wave may have hundreds.
//!
//! Invariant: of Pods, only those in trouble are remembered.
//! It must not know: the API; what is the matter in the end, and whether the Pods are of the workload's newest state, tells [`super::cause`].

use super::cause;
use crate::object::ObjectId;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Workloads by what their Pods carry, and the Pods in trouble.
#[derive(Debug, Default)]
pub(super) struct Concern {
    selectors: BTreeMap<ObjectId, Map<String, Value>>,
    troubled: BTreeMap<ObjectId, Value>,
}

impl Concern {
    /// For these workloads and Pods.
    pub(super) fn of<'a>(objects: impl Iterator<Item = &'a Value>) -> Self {
        let selector = |object: &Value| object["spec"]["selector"]["matchLabels"].as_object().cloned();
        let selectors = objects.map(|object| (ObjectId::of(object), selector(object).unwrap_or_default()));
        Self { selectors: selectors.collect(), troubled: BTreeMap::new() }
    }

    /// Takes in an object as it is now; returns whom it concerns.
    pub(super) fn seen(&mut self, object: &Value) -> BTreeSet<ObjectId> {
        let id = ObjectId::of(object);
        if id.kind != "Pod" {
            // Its controller may say only now that the Pods are of its newest state.
            let troubled = self.troubled.iter().any(|(pod, labels)| self.is_of(&id, pod, labels));
            return troubled.then_some(id).into_iter().collect();
        }
        if !cause::is_troubled(object) {
            self.troubled.remove(&id);
            return BTreeSet::new();
        }
        let labels = object["metadata"]["labels"].clone();
        let concerned = self.selectors.keys().filter(|workload| self.is_of(workload, &id, &labels)).cloned().collect();
        self.troubled.insert(id, labels);
        concerned
    }

    /// Takes in that an object is gone.
    pub(super) fn gone(&mut self, object: &Value) -> BTreeSet<ObjectId> {
        self.troubled.remove(&ObjectId::of(object));
        BTreeSet::new()
    }

    /// Everybody whom a Pod in trouble concerns.
    pub(super) fn all(&self) -> BTreeSet<ObjectId> {
        let concerned =
            |workload: &&ObjectId| self.troubled.iter().any(|(pod, labels)| self.is_of(workload, pod, labels));
        self.selectors.keys().filter(concerned).cloned().collect()
    }

    fn is_of(&self, workload: &ObjectId, pod: &ObjectId, labels: &Value) -> bool {
        if workload.kind == "Pod" {
            return workload == pod;
        }
        let Some(selector) = self.selectors.get(workload).filter(|_| workload.namespace == pod.namespace) else {
            return false;
        };
        // One that selects by expressions alone may be concerned by any.
        selector.iter().all(|(name, value)| &labels[name] == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(name: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "n"},
            "spec": {"selector": {"matchLabels": {"app": name}}}})
    }

    fn pod(app: &str, reason: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{app}-1"), "namespace": "n", "labels": {"app": app, "more": "x"}},
            "status": {"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": reason, "message": "m"}}}]}})
    }

    #[test]
    fn a_pod_in_trouble_concerns_its_own_workload_alone() {
        let all: Vec<Value> = ["a", "b", "c"].iter().map(|name| deployment(name)).collect();
        let mut concern = Concern::of(all.iter());
        assert!(concern.seen(&pod("a", "ContainerCreating")).is_empty(), "it is on its way");
        assert!(concern.seen(&deployment("a")).is_empty());
        let of_b = BTreeSet::from([ObjectId::of(&deployment("b"))]);
        assert_eq!(concern.seen(&pod("b", "ImagePullBackOff")), of_b);
        assert_eq!(concern.seen(&deployment("b")), of_b, "also once its controller has looked");
        assert_eq!(concern.all(), of_b);
        let mut elsewhere = pod("c", "ImagePullBackOff");
        elsewhere["metadata"]["namespace"] = "other".into();
        assert!(concern.seen(&elsewhere).is_empty());
        concern.gone(&pod("b", "ImagePullBackOff"));
        assert!(concern.all().is_empty());
        concern.seen(&pod("b", "ImagePullBackOff"));
        concern.seen(&pod("b", "ContainerCreating"));
        assert!(concern.seen(&deployment("b")).is_empty(), "it came out of it");
    }

    #[test]
    fn a_pod_by_itself_is_its_own() {
        let alone = pod("a", "InvalidImageName");
        let mut concern = Concern::of([&alone].into_iter());
        assert_eq!(concern.seen(&alone), BTreeSet::from([ObjectId::of(&alone)]));
    }
}
