//! Updates: what of the old object stays whatever the body says, and when the generation moves.

use super::{carry, has_generation, metadata_mut};
use crate::kinds;
use serde_json::Value;

/// What a client can't change in metadata.
const KEPT: [&str; 6] =
    ["name", "namespace", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"];

/// Makes a body what is stored on an update through the object itself.
///
/// A `uid` in the body is left for the caller to compare; one that is missing is filled in.
pub fn prepare_update(api_version: &str, kind: &str, old: &Value, new: &mut Value, has_status: bool) {
    keep_metadata(old, new);
    if has_status {
        keep(old, new, "status");
    }
    if !has_generation(api_version, kind) {
        return;
    }
    // Deployments count a change of annotations too: the controller copies them to ReplicaSets.
    let annotations_count = api_version == "apps/v1" && kind == "Deployment";
    if desired_differs(old, new, has_status)
        || (annotations_count && old.pointer("/metadata/annotations") != new.pointer("/metadata/annotations"))
    {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        metadata_mut(new).insert("generation".to_owned(), (generation + 1).into());
    }
}

/// Makes a body what is stored on an update through `/status`: the old object with the new status.
///
/// Built-in kinds also take annotations that way, and Pods, Nodes and Namespaces labels, as upstream's do.
pub fn prepare_status_update(api_version: &str, kind: &str, old: &Value, new: &mut Value) {
    let mut result = old.clone();
    keep(new, &mut result, "status");
    let metadata = metadata_mut(&mut result);
    metadata.remove("resourceVersion");
    metadata.remove("selfLink");
    carry(new, metadata, "managedFields");
    if kinds::find(api_version, kind).is_some() {
        carry(new, metadata, "annotations");
        if api_version == "v1" && matches!(kind, "Pod" | "Node" | "Namespace") {
            carry(new, metadata, "labels");
        }
    }
    if let Some(uid) = new.pointer("/metadata/uid").filter(|uid| !uid.is_null()) {
        metadata_mut(&mut result).insert("uid".to_owned(), uid.clone());
    }
    *new = result;
}

/// Whether storing `new` over `old` would change nothing but times in managedFields and the resourceVersion.
pub fn unchanged(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return old == new;
    };
    let same_keys =
        |skip: &str| old.iter().filter(|(key, _)| *key != skip).eq(new.iter().filter(|(key, _)| *key != skip));
    if !same_keys("metadata") {
        return false;
    }
    strip_times(old.get("metadata")) == strip_times(new.get("metadata"))
}

fn strip_times(metadata: Option<&Value>) -> Option<Value> {
    let mut metadata = metadata?.clone();
    if let Some(map) = metadata.as_object_mut() {
        map.remove("resourceVersion");
        map.retain(|_, value| !value.is_null());
    }
    if let Some(entries) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
        for entry in entries {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
    }
    Some(metadata)
}

fn keep_metadata(old: &Value, new: &mut Value) {
    let metadata = metadata_mut(new);
    super::drop_empty(metadata);
    metadata.remove("resourceVersion");
    metadata.remove("selfLink");
    for name in KEPT {
        carry(old, metadata, name);
    }
    if metadata.get("uid").is_none_or(Value::is_null) {
        carry(old, metadata, "uid");
    }
}

fn keep(from: &Value, to: &mut Value, field: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => {
            to.insert(field.to_owned(), value.clone());
        }
        None => {
            to.remove(field);
        }
    }
}

fn desired_differs(old: &Value, new: &Value, has_status: bool) -> bool {
    let desired = |object: &Value| -> Vec<(String, Value)> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| {
                !(matches!(key.as_str(), "metadata" | "apiVersion" | "kind")
                    || (has_status && *key == "status")
                    || value.is_null())
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    desired(old) != desired(new)
}
