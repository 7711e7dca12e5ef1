//! What lives, as manifests that can be applied elsewhere: without what the server, controllers and this place add.
//!
//! Invariants: applying an export where it came from changes nothing; what a controller made for an owner is no part of
//! it, because its owner makes it again.

use crate::applyset::PART_OF;
use crate::object;
use resources::names::{CONFIRM_DELETE, DELETE_REASON, MOVED_TO};
use rules::defaults;
use serde_json::{Map, Value};

/// Kinds that are never exported: what controllers make, and what is of one place alone.
const MADE: [&str; 9] = [
    "Event",
    "Endpoints",
    "EndpointSlice",
    "Lease",
    "Node",
    "ControllerRevision",
    "ReplicaSet",
    "PersistentVolume",
    "APIService",
];

/// Annotations that tools and controllers write for themselves.
const TOOLS: [&str; 9] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/selected-node",
    "coracle.dev/ports",
    CONFIRM_DELETE,
    DELETE_REASON,
    MOVED_TO,
];

/// Whether an object is worth exporting: not made by a controller, and not what every cluster has of itself.
pub fn is_wanted(object: &Value) -> bool {
    let owned =
        object["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.iter().any(|o| o["controller"] == true));
    let own = match (object::kind(object), object::name(object), object::namespace(object)) {
        ("ServiceAccount", "default", _)
        | ("ConfigMap", "kube-root-ca.crt", _)
        | ("Service", "kubernetes", "default") => true,
        ("Namespace", name, _) => name == "default" || name.starts_with("kube-"),
        ("Secret", ..) => matches!(
            object["type"].as_str(),
            Some("kubernetes.io/service-account-token" | "coracle.dev/revision" | "helm.sh/release.v1")
        ),
        ("ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding", name, _) => name.starts_with("system:"),
        _ => false,
    };
    let parent = object::label(object, crate::applyset::ID).is_some();
    !owned
        && !own
        && !parent
        && !MADE.contains(&object::kind(object))
        && object["metadata"]["deletionTimestamp"].is_null()
}

/// The object as a manifest: only what somebody would write.
pub fn clean(live: &Value) -> Value {
    let mut manifest = object::without_server_fields(live);
    if let Some(metadata) = manifest["metadata"].as_object_mut() {
        for field in ["ownerReferences", "finalizers", "generateName"] {
            metadata.remove(field);
        }
        for (map, unwanted) in [("labels", &[PART_OF][..]), ("annotations", &TOOLS[..])] {
            let Some(values) = metadata.get_mut(map).and_then(Value::as_object_mut) else { continue };
            values.retain(|name, _| !unwanted.contains(&name.as_str()));
            if values.is_empty() {
                metadata.remove(map);
            }
        }
    }
    of_this_place(&mut manifest);
    without_defaults(&mut manifest);
    manifest
}

/// Takes out what the cluster assigned here.
fn of_this_place(manifest: &mut Value) {
    let kind = object::kind(manifest).to_owned();
    let Some(spec) = manifest["spec"].as_object_mut() else {
        if let Some(map) = manifest.as_object_mut() {
            map.retain(|name, value| name != "spec" || !value.is_null());
        }
        return;
    };
    match kind.as_str() {
        "Service" => {
            // A headless Service says so itself.
            if spec.get("clusterIP").is_some_and(|ip| ip != "None") {
                spec.remove("clusterIP");
            }
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
                spec.remove(field);
            }
            for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
        }
        "PersistentVolumeClaim" => drop(spec.remove("volumeName")),
        "Pod" => {
            for field in ["nodeName", "serviceAccount"] {
                spec.remove(field);
            }
        }
        "Namespace" => drop(spec.remove("finalizers")),
        "Job" if spec.get("manualSelector") != Some(&Value::Bool(true)) => {
            spec.remove("selector");
            let labels =
                spec.get_mut("template").and_then(|t| t.pointer_mut("/metadata/labels")).and_then(Value::as_object_mut);
            if let Some(labels) = labels {
                labels.retain(|name, _| {
                    !matches!(
                        name.as_str(),
                        "controller-uid"
                            | "job-name"
                            | "batch.kubernetes.io/controller-uid"
                            | "batch.kubernetes.io/job-name"
                    )
                });
            }
        }
        _ => {}
    }
    if spec.is_empty()
        && let Some(map) = manifest.as_object_mut()
    {
        map.remove("spec");
    }
}

/// Takes out every field that the API would fill in just so: removed one by one, where filling in gives the same object.
fn without_defaults(manifest: &mut Value) {
    let (api_version, kind) = (object::api_version(manifest).to_owned(), object::kind(manifest).to_owned());
    if rules::kinds::find(&api_version, &kind).is_none() {
        return;
    }
    let filled = |value: &Value| {
        let mut value = value.clone();
        defaults::apply(&api_version, &kind, &mut value);
        value
    };
    let whole = filled(manifest);
    let mut pointers = Vec::new();
    for field in ["spec", "type", "immutable"] {
        if let Some(value) = manifest.get(field) {
            collect(&format!("/{field}"), value, &mut pointers);
        }
    }
    for pointer in pointers {
        let mut less = manifest.clone();
        if remove(&mut less, &pointer) && filled(&less) == whole {
            *manifest = less;
        }
    }
    let empty = |value: Option<&Value>| value.and_then(Value::as_object).is_some_and(Map::is_empty);
    if empty(manifest.pointer("/spec/template/metadata")) {
        remove(manifest, "/spec/template/metadata");
    }
}

/// Fields that are never worth leaving out: they are what people look for.
const SAID: [&str; 6] = ["replicas", "name", "image", "selector", "port", "containerPort"];

/// The pointers of all fields of objects, the outer before the inner.
fn collect(at: &str, value: &Value, pointers: &mut Vec<String>) {
    let last = at.rsplit('/').next().unwrap_or_default();
    if !SAID.contains(&last) && last.parse::<usize>().is_err() && at.matches('/').count() > 1 || at == "/type" {
        pointers.push(at.to_owned());
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                collect(&format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), value, pointers);
            }
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| collect(&format!("{at}/{index}"), value, pointers))
        }
        _ => {}
    }
}

fn remove(object: &mut Value, pointer: &str) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    let name = name.replace("~1", "/").replace("~0", "~");
    let parent = if parent.is_empty() { Some(object) } else { object.pointer_mut(parent) };
    parent.and_then(Value::as_object_mut).is_some_and(|map| map.remove(&name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_export_is_what_somebody_would_write() {
        let written = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "web:1", "ports": [{"containerPort": 80}]}]}}}});
        let mut live = written.clone();
        defaults::apply("apps/v1", "Deployment", &mut live);
        live["metadata"]["uid"] = "u".into();
        live["metadata"]["managedFields"] = json!([{}]);
        live["metadata"]["labels"] = json!({PART_OF: "x"});
        live["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "3"});
        live["status"] = json!({"replicas": 1});
        assert_ne!(live["spec"], written["spec"]);
        assert_eq!(clean(&live), written);
    }

    #[test]
    fn what_the_cluster_assigned_stays_here() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "type": "NodePort",
            "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP", "targetPort": 80}]}});
        let manifest = clean(&service);
        assert_eq!(manifest["spec"], json!({"type": "NodePort", "ports": [{"port": 80}]}));
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "d"},
            "spec": {"volumeName": "v", "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"}});
        assert_eq!(clean(&claim)["spec"], json!({"accessModes": ["ReadWriteOnce"]}));
    }

    #[test]
    fn what_controllers_make_is_left_out() {
        let object = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "n"}});
        assert!(is_wanted(&object("ConfigMap", "a")));
        for (kind, name) in
            [("ConfigMap", "kube-root-ca.crt"), ("Event", "e"), ("ServiceAccount", "default"), ("EndpointSlice", "s")]
        {
            assert!(!is_wanted(&object(kind, name)), "{kind}/{name}");
        }
        let mut pod = object("Pod", "p");
        pod["metadata"]["ownerReferences"] = json!([{"controller": true}]);
        assert!(!is_wanted(&pod));
    }
}
