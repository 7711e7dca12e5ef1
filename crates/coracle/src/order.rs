//! In which order objects are applied, and the reverse for deleting: what others refer to comes first.

use serde_json::Value;

/// Kinds in the order in which they are applied; what is not named comes after Services and before workloads' routes.
const FIRST: &[&str] = &[
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "StorageClass",
    "ResourceQuota",
    "LimitRange",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Service",
    "GatewayClass",
    "Gateway",
    "HTTPRoute",
];
const LAST: &[&str] = &["Job", "CronJob", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Pod"];

/// The place of a kind: smaller is applied earlier.
fn rank(kind: &str) -> usize {
    if let Some(place) = FIRST.iter().position(|k| *k == kind) {
        return place;
    }
    match LAST.iter().position(|k| *k == kind) {
        Some(place) => FIRST.len() + 1 + place,
        None => FIRST.len(),
    }
}

/// Sorts for applying; objects of one rank keep the order in which they were written.
pub(crate) fn for_apply<T>(objects: &mut [T], object: impl Fn(&T) -> &Value) {
    objects.sort_by_key(|item| rank(object(item)["kind"].as_str().unwrap_or_default()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_refer_to_comes_first() {
        let kinds = [
            "Pod",
            "Deployment",
            "Widget",
            "Service",
            "HTTPRoute",
            "ConfigMap",
            "CustomResourceDefinition",
            "Namespace",
            "Job",
        ];
        let mut objects: Vec<Value> = kinds.iter().map(|kind| json!({ "kind": kind })).collect();
        for_apply(&mut objects, |o| o);
        let sorted: Vec<&str> = objects.iter().filter_map(|o| o["kind"].as_str()).collect();
        assert_eq!(
            sorted,
            [
                "Namespace",
                "CustomResourceDefinition",
                "ConfigMap",
                "Service",
                "HTTPRoute",
                "Widget",
                "Job",
                "Deployment",
                "Pod"
            ]
        );
    }
}
