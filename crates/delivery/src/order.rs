//! In which order objects are applied, and the reverse for deleting: by wave, then what others refer to first.

use crate::object::{self, ObjectId};
use serde_json::Value;

/// The annotation that puts an object into a wave; smaller waves come first, and the next waits until they are healthy.
pub const WAVE: &str = "argocd.argoproj.io/sync-wave";

/// Kinds in the order in which they are applied, as Argo CD has it; what is not named comes last.
const KINDS: &[&str] = &[
    "Namespace",
    "NetworkPolicy",
    "ResourceQuota",
    "LimitRange",
    "PodSecurityPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "SecretList",
    "ConfigMap",
    "StorageClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Pod",
    "ReplicationController",
    "ReplicaSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "StatefulSet",
    "Job",
    "CronJob",
    "IngressClass",
    "Ingress",
    "APIService",
];

/// An object's wave; 0 where none (or nothing that is a number) is said.
pub fn wave(object: &Value) -> i64 {
    object::annotation(object, WAVE).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The place of a kind among its wave: smaller is applied earlier.
pub fn rank(kind: &str) -> usize {
    KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len())
}

/// The place of an object: wave, kind, identity.
pub fn place(object: &Value) -> (i64, usize, ObjectId) {
    (wave(object), rank(object::kind(object)), ObjectId::of(object))
}

/// Sorts for applying.
pub fn sort(objects: &mut [Value]) {
    objects.sort_by_cached_key(place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn waves_come_first_then_kinds_then_names() {
        let object = |kind: &str, name: &str, wave: Option<&str>| {
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name,
                "annotations": wave.map(|wave| json!({WAVE: wave}))}})
        };
        let mut objects = vec![
            object("Widget", "w", None),
            object("Deployment", "b", None),
            object("Deployment", "a", None),
            object("ConfigMap", "late", Some("5")),
            object("ConfigMap", "odd", Some("soon")),
            object("Job", "early", Some("-1")),
            object("Namespace", "n", None),
        ];
        sort(&mut objects);
        let names: Vec<&str> = objects.iter().map(object::name).collect();
        assert_eq!(names, ["early", "n", "odd", "a", "b", "w", "late"]);
    }
}
