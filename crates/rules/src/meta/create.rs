//! Creation: what the server sets and what it drops from a new object.

use super::{has_generation, metadata_mut, object_at};
use serde_json::{Map, Value, json};

/// What the server decides about a new object.
#[derive(Debug, Clone, Copy)]
pub struct Creation<'a> {
    /// Its new uid.
    pub uid: &'a str,
    /// The time, RFC 3339 with seconds.
    pub now: &'a str,
    /// Whether the kind has the status subresource, so that a status in the body doesn't count.
    pub has_status: bool,
}

/// A name from `generateName` and a random suffix, shortened to what a name may hold.
pub fn generate_name(base: &str, suffix: &str) -> String {
    let most = 63_usize.saturating_sub(suffix.len());
    let cut =
        base.char_indices().map(|(at, one)| at + one.len_utf8()).take_while(|end| *end <= most).last().unwrap_or(0);
    format!("{}{suffix}", &base[..cut])
}

/// Makes a body what is stored on create.
pub fn prepare_create(api_version: &str, kind: &str, obj: &mut Value, creation: &Creation<'_>) {
    let metadata = metadata_mut(obj);
    for gone in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.remove(gone);
    }
    super::drop_empty(metadata);
    metadata.insert("uid".to_owned(), creation.uid.into());
    metadata.insert("creationTimestamp".to_owned(), creation.now.into());
    if has_generation(api_version, kind) {
        metadata.insert("generation".to_owned(), 1.into());
    }
    let keeps_status = !creation.has_status || (api_version, kind) == ("v1", "Node");
    if let Some(top) = obj.as_object_mut().filter(|_| !keeps_status) {
        top.remove("status");
    }
    match (api_version, kind) {
        ("v1", "Namespace") => namespace(obj),
        ("v1", "Pod") => obj["status"] = json!({"phase": "Pending", "qosClass": qos_class(obj)}),
        ("v1", "PersistentVolumeClaim" | "PersistentVolume") => obj["status"] = json!({"phase": "Pending"}),
        ("v1", "Service") => obj["status"] = json!({"loadBalancer": {}}),
        _ => {}
    }
}

/// Adds what the server generates into the desired state. It comes after the author's fields are recorded, for the
/// author does not own it.
pub fn complete_create(api_version: &str, kind: &str, obj: &mut Value, uid: &str) {
    match (api_version, kind) {
        ("v1", "Namespace") => namespace_finalizer(obj),
        ("batch/v1", "Job") => job_selector(obj, uid),
        _ => {}
    }
}

fn namespace(obj: &mut Value) {
    let name = obj["metadata"]["name"].clone();
    if let Some(labels) = object_at(obj, &["metadata", "labels"]) {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
    obj["status"] = json!({"phase": "Active"});
}

/// A namespace stays until its contents are gone: that is what its own finalizer is for.
fn namespace_finalizer(obj: &mut Value) {
    let held = obj["spec"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|one| one == "kubernetes"));
    if !held {
        obj["spec"] = json!({"finalizers": ["kubernetes"]});
    }
}

/// A Job selects its own Pods by its uid unless the author chose the selector.
fn job_selector(obj: &mut Value, uid: &str) {
    if obj.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) || !obj["spec"].is_object() {
        return;
    }
    let name = obj["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Some(labels) = object_at(obj, &["spec", "template", "metadata", "labels"]) {
        for (label, value) in [
            ("controller-uid", uid),
            ("batch.kubernetes.io/controller-uid", uid),
            ("job-name", name.as_str()),
            ("batch.kubernetes.io/job-name", name.as_str()),
        ] {
            labels.insert(label.to_owned(), value.into());
        }
        // A Job without labels has its template's, as a default; that it is not filled in by a later write is said here.
        let template = Value::Object(labels.clone());
        if obj["metadata"]["labels"].as_object().is_none_or(Map::is_empty) {
            obj["metadata"]["labels"] = template;
        }
    }
    if let Some(matched) = object_at(obj, &["spec", "selector", "matchLabels"]) {
        matched.insert("batch.kubernetes.io/controller-uid".to_owned(), uid.into());
    }
}

/// The Pod's quality of service class, from its containers' requests and limits of cpu and memory.
fn qos_class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let lists = ["/spec/containers", "/spec/initContainers"];
    for container in lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten() {
        for resource in ["cpu", "memory"] {
            let limit = container.pointer("/resources/limits").and_then(|all| all.get(resource));
            let request = container.pointer("/resources/requests").and_then(|all| all.get(resource));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
