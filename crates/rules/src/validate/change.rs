//! What may not change once an object is there.

use super::{list, text};
use crate::field::FieldError;
use serde_json::{Value, json};

const IMMUTABLE: &str = "field is immutable";

pub(super) fn check(api_version: &str, kind: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let mut wrong = Vec::new();
    match (api_version, kind) {
        ("v1", "Pod") => pod(old, new, &mut wrong),
        ("apps/v1", "Deployment" | "ReplicaSet" | "DaemonSet") => same(old, new, "spec.selector", &mut wrong),
        ("apps/v1", "StatefulSet") => stateful_set(old, new, &mut wrong),
        ("batch/v1", "Job") => job(old, new, &mut wrong),
        ("v1", "Service") => service(old, new, &mut wrong),
        ("v1", "ConfigMap") => frozen(old, new, &["data", "binaryData"], &mut wrong),
        ("v1", "Secret") => {
            same(old, new, "type", &mut wrong);
            frozen(old, new, &["data"], &mut wrong);
        }
        ("v1", "PersistentVolumeClaim") => claim(old, new, &mut wrong),
        ("discovery.k8s.io/v1", "EndpointSlice") => same(old, new, "addressType", &mut wrong),
        ("rbac.authorization.k8s.io/v1", "RoleBinding" | "ClusterRoleBinding") if old["roleRef"] != new["roleRef"] => {
            wrong.push(FieldError::invalid("roleRef", new["roleRef"].clone(), "cannot change roleRef"));
        }
        ("storage.k8s.io/v1", "StorageClass") => {
            for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
                if old[field] != new[field] {
                    wrong.push(FieldError::forbidden(field, format!("updates to {field} are forbidden.")));
                }
            }
        }
        _ => {}
    }
    wrong
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, part| &value[part])
}

fn same(old: &Value, new: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    if at(old, path) != at(new, path) {
        wrong.push(FieldError::invalid(path, at(new, path).clone(), IMMUTABLE));
    }
}

/// ConfigMaps and Secrets that are `immutable: true`.
fn frozen(old: &Value, new: &Value, fields: &[&str], wrong: &mut Vec<FieldError>) {
    if old["immutable"] != true {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        wrong.push(FieldError::forbidden("immutable", detail));
    }
    for field in fields.iter().filter(|field| old[**field] != new[**field]) {
        wrong.push(FieldError::forbidden(*field, detail));
    }
}

/// What of a Pod's spec may change is put back; whatever differs then is refused.
fn pod(old: &Value, new: &Value, wrong: &mut Vec<FieldError>) {
    for field in ["containers", "initContainers"] {
        let (before, after) = (list(&old["spec"], &format!("/{field}")), list(&new["spec"], &format!("/{field}")));
        if before.len() != after.len() {
            wrong.push(FieldError::forbidden(format!("spec.{field}"), "pod updates may not add or remove containers"));
            return;
        }
    }
    let mut allowed = new["spec"].clone();
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        let before = list(&old["spec"], &format!("/{field}"));
        let Some(after) = allowed.get_mut(field).and_then(Value::as_array_mut) else { continue };
        for (one, before) in after.iter_mut().zip(before) {
            put_back(before, one, "image");
        }
    }
    active_deadline(old, new, wrong);
    tolerations(old, new, wrong);
    let held_back = !list(&old["spec"], "/schedulingGates").is_empty();
    let mut fields = vec!["activeDeadlineSeconds", "tolerations", "ephemeralContainers"];
    if held_back {
        fields.extend(["schedulingGates", "nodeSelector", "affinity"]);
    }
    // The scheduler sets the node through the binding; a grace period may be repaired.
    if text(old, "/spec/nodeName").is_empty() {
        fields.push("nodeName");
    }
    if old["spec"]["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0)
        && new["spec"]["terminationGracePeriodSeconds"] == 1
    {
        fields.push("terminationGracePeriodSeconds");
    }
    for field in fields {
        put_back(&old["spec"], &mut allowed, field);
    }
    if allowed != old["spec"] {
        let changed = first_difference(&old["spec"], &allowed, "spec");
        wrong.push(FieldError::forbidden(
            "spec",
            format!(
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n{changed} differs"
            ),
        ));
    }
}

fn put_back(from: &Value, to: &mut Value, field: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => to.insert(field.to_owned(), value.clone()),
        None => to.remove(field),
    };
}

/// Names the first field that differs, so that the message helps.
fn first_difference(old: &Value, new: &Value, path: &str) -> String {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for name in before.keys().chain(after.keys()) {
                if before.get(name) != after.get(name) {
                    let null = Value::Null;
                    let (old, new) = (before.get(name).unwrap_or(&null), after.get(name).unwrap_or(&null));
                    return first_difference(old, new, &format!("{path}.{name}"));
                }
            }
            path.to_owned()
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            match before.iter().zip(after).position(|(old, new)| old != new) {
                Some(index) => first_difference(&before[index], &after[index], &format!("{path}[{index}]")),
                None => path.to_owned(),
            }
        }
        _ => path.to_owned(),
    }
}

fn active_deadline(old: &Value, new: &Value, wrong: &mut Vec<FieldError>) {
    const PATH: &str = "spec.activeDeadlineSeconds";
    let (before, after) = (at(old, PATH).as_i64(), at(new, PATH).as_i64());
    match (before, after) {
        (Some(before), Some(after)) if after > before => {
            wrong.push(FieldError::invalid(PATH, after, "must be less than or equal to previous value"));
        }
        (Some(_), None) => {
            wrong.push(FieldError::invalid(PATH, Value::Null, "must not update from a positive integer to nil value"));
        }
        _ => {}
    }
}

fn tolerations(old: &Value, new: &Value, wrong: &mut Vec<FieldError>) {
    let bare = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(fields) = toleration.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        toleration
    };
    let after: Vec<Value> = list(new, "/spec/tolerations").iter().map(bare).collect();
    if list(old, "/spec/tolerations").iter().any(|one| !after.contains(&bare(one))) {
        wrong.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
}

fn stateful_set(old: &Value, new: &Value, wrong: &mut Vec<FieldError>) {
    let mut allowed = new["spec"].clone();
    for field in [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ] {
        put_back(&old["spec"], &mut allowed, field);
    }
    if allowed != old["spec"] {
        wrong.push(FieldError::forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
}

fn job(old: &Value, new: &Value, wrong: &mut Vec<FieldError>) {
    for path in
        ["spec.selector", "spec.completionMode", "spec.podFailurePolicy", "spec.backoffLimitPerIndex", "spec.managedBy"]
    {
        same(old, new, path, wrong);
    }
    let indexed_scaling = new["spec"]["completionMode"] == "Indexed"
        && new["spec"]["completions"] == new["spec"]["parallelism"]
        && !new["spec"]["completions"].is_null();
    if !indexed_scaling {
        same(old, new, "spec.completions", wrong);
    }
    // A Job that is suspended and has not begun may have its scheduling directives changed.
    let mut template = new["spec"]["template"].clone();
    if old["spec"]["suspend"] == true && old["status"]["startTime"].is_null() {
        for pointer in [
            "/metadata/labels",
            "/metadata/annotations",
            "/spec/nodeSelector",
            "/spec/affinity",
            "/spec/tolerations",
            "/spec/schedulingGates",
        ] {
            let Some((parent, field)) = pointer.rsplit_once('/') else { continue };
            if let Some(to) = template.pointer_mut(parent) {
                put_back(old["spec"]["template"].pointer(parent).unwrap_or(&Value::Null), to, field);
            }
        }
    }
    if template != old["spec"]["template"] {
        wrong.push(FieldError::invalid("spec.template", new["spec"]["template"].clone(), IMMUTABLE));
    }
}

fn service(old: &Value, new: &Value, wrong: &mut Vec<FieldError>) {
    let no_ip = |service: &Value| text(service, "/spec/type") == "ExternalName";
    if no_ip(old) || no_ip(new) {
        return;
    }
    let before = text(old, "/spec/clusterIP");
    let after = text(new, "/spec/clusterIP");
    if !before.is_empty() && before != after {
        wrong.push(FieldError::invalid("spec.clusterIPs[0]", json!([after]), "may not change once set"));
    }
}

/// A claim may only ask for more, once it is bound.
fn claim(old: &Value, new: &Value, wrong: &mut Vec<FieldError>) {
    let mut allowed = new["spec"].clone();
    if text(old, "/status/phase") == "Bound" {
        if let (Some(resources), Some(before)) = (allowed.get_mut("resources"), old["spec"].get("resources")) {
            put_back(before, resources, "requests");
        }
        let sizes =
            [old, new].map(|claim| super::container::quantity(&claim["spec"]["resources"]["requests"]["storage"]));
        if let [Some(before), Some(after)] = sizes
            && after < before
        {
            wrong.push(FieldError::forbidden(
                "spec.resources.requests.storage",
                "field can not be less than status.capacity",
            ));
        }
    }
    put_back(&old["spec"], &mut allowed, "volumeAttributesClassName");
    if text(old, "/spec/volumeName").is_empty() {
        put_back(&old["spec"], &mut allowed, "volumeName");
    }
    if old["spec"]["storageClassName"].is_null() {
        put_back(&old["spec"], &mut allowed, "storageClassName");
    }
    if allowed != old["spec"] {
        wrong.push(FieldError::forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
}
