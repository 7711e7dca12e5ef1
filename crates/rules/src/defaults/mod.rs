//! Kubernetes' defaults: what the API promises when a field is left out.
//!
//! Invariants: a field that is set is never changed; applying twice changes nothing; lists keep their order.
//! Must not know: schemas of custom resources (their defaults are in `decode`), stores.

mod admission;
mod fill;
mod network;
mod pod;
mod workloads;

#[cfg(test)]
mod tests;

use crate::kinds;
use crate::meta::object_at;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fill::{each, set, set_in};
use serde_json::{Value, json};

/// Fills in the defaults of a built-in kind, for which null is the same as absent. Other kinds stay as they are.
pub fn apply(api_version: &str, kind: &str, obj: &mut Value) {
    // Elsewhere null is a value: in a schema's own defaults and in a revision's raw data.
    let holds_json = matches!(kind, "CustomResourceDefinition" | "ControllerRevision");
    if !holds_json && kinds::find(api_version, kind).is_some() {
        fill::drop_nulls(obj);
    }
    match (api_version, kind) {
        ("v1", "Pod") => {
            if let Some(spec) = obj.get_mut("spec") {
                pod::spec(spec);
                // Only a Pod itself mirrors limits into requests; templates keep what was written.
                pod::requests_from_limits(spec);
            }
        }
        ("v1", "PodTemplate") => {
            if let Some(template) = obj.get_mut("template") {
                pod::template(template);
            }
        }
        ("v1", "Service") => network::service(obj),
        ("v1", "Endpoints") => network::endpoints(obj),
        ("v1", "Secret") => secret(obj),
        ("v1", "Namespace") => namespace(obj),
        ("v1", "Event") => event(obj),
        ("v1", "PersistentVolume") => persistent_volume(obj),
        ("v1", "PersistentVolumeClaim") => set_in(obj, "spec", "volumeMode", "Filesystem"),
        ("v1", "LimitRange") => workloads::limit_range(obj),
        ("v1", "ReplicationController") => workloads::replication_controller(obj),
        ("apps/v1", "Deployment") => workloads::deployment(obj),
        ("apps/v1", "ReplicaSet") => workloads::replica_set(obj),
        ("apps/v1", "StatefulSet") => workloads::stateful_set(obj),
        ("apps/v1", "DaemonSet") => workloads::daemon_set(obj),
        ("batch/v1", "Job") => workloads::job(obj),
        ("batch/v1", "CronJob") => workloads::cron_job(obj),
        ("autoscaling/v2", "HorizontalPodAutoscaler") => workloads::autoscaler(obj),
        ("autoscaling/v1", "HorizontalPodAutoscaler") => set_in(obj, "spec", "minReplicas", 1),
        ("discovery.k8s.io/v1", "EndpointSlice") => network::endpoint_slice(obj),
        ("networking.k8s.io/v1", "NetworkPolicy") => network::policy(obj),
        ("networking.k8s.io/v1", "IngressClass") => {
            if let Some(parameters) = obj.pointer_mut("/spec/parameters").filter(|parameters| parameters.is_object()) {
                set(parameters, "scope", "Cluster");
            }
        }
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration") => admission::webhooks(obj, false),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration") => admission::webhooks(obj, true),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => admission::policy(obj),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => admission::binding(obj),
        ("storage.k8s.io/v1", "StorageClass") => {
            set(obj, "reclaimPolicy", "Delete");
            set(obj, "volumeBindingMode", "Immediate");
        }
        ("rbac.authorization.k8s.io/v1", "RoleBinding" | "ClusterRoleBinding") => binding(obj),
        ("scheduling.k8s.io/v1", "PriorityClass") => set(obj, "preemptionPolicy", "PreemptLowerPriority"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => definition(obj),
        _ => {}
    }
}

/// What was written as text becomes data and wins over it; the text itself is never kept. Values that are no text stay, for
/// validation to refuse.
fn secret(obj: &mut Value) {
    set(obj, "type", "Opaque");
    let Some(top) = obj.as_object_mut() else { return };
    let texts = match top.get("stringData") {
        Some(Value::Object(texts)) if texts.values().all(Value::is_string) => texts.clone(),
        _ => return,
    };
    top.remove("stringData");
    if texts.is_empty() {
        return;
    }
    let data = top.entry("data").or_insert_with(|| json!({}));
    let Some(data) = data.as_object_mut() else { return };
    for (key, text) in texts {
        data.insert(key, BASE64.encode(text.as_str().unwrap_or_default()).into());
    }
}

fn namespace(obj: &mut Value) {
    let Some(name) = obj.pointer("/metadata/name").filter(|name| name.is_string()).cloned() else { return };
    if let Some(labels) = object_at(obj, &["metadata", "labels"]) {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

fn event(obj: &mut Value) {
    set(obj, "reportingComponent", "");
    set(obj, "reportingInstance", "");
    set(obj, "source", json!({}));
}

fn persistent_volume(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec") else { return };
    set(spec, "persistentVolumeReclaimPolicy", "Retain");
    set(spec, "volumeMode", "Filesystem");
    pod::volume_source(spec);
}

fn binding(obj: &mut Value) {
    if obj["roleRef"].is_object() {
        set(&mut obj["roleRef"], "apiGroup", "rbac.authorization.k8s.io");
    }
    each(obj, "/subjects", |subject| {
        if subject["kind"] != "ServiceAccount" {
            set(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    });
}

fn definition(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec") else { return };
    let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) else { return };
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    if !kind.is_empty() {
        set(names, "singular", kind.to_lowercase());
        set(names, "listKind", format!("{kind}List"));
    }
    set(spec, "conversion", json!({"strategy": "None"}));
}
