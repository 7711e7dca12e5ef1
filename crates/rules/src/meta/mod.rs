//! What the server itself writes into objects on create, update, status update and delete.
//!
//! Invariants: pure functions over JSON (time, uid and random suffix are given); `metadata.generation` moves only
//! when the desired state does; a write through the object can't touch `status`, a write through `/status` can't
//! touch anything else; `resourceVersion` is never kept in what is stored.
//! Must not know: stores, HTTP, who asks.

mod create;
mod delete;
mod update;

#[cfg(test)]
mod tests;

pub use create::{Creation, complete_create, generate_name, prepare_create};
pub use delete::{DeleteRequest, Deletion, Propagation, delete, ready_to_remove};
pub use update::{prepare_status_update, prepare_update, unchanged};

use serde_json::{Map, Value};

/// The finalizer that makes deletion wait for dependents.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
/// The finalizer that makes deletion orphan dependents.
pub const ORPHAN_FINALIZER: &str = "orphan";

/// A time as Kubernetes writes it: RFC 3339, UTC, whole seconds.
pub fn rfc3339(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The fields a request through this subresource can't change, and so never owns (see `apply::Manager::reset`).
pub fn reset_fields(subresource: &str, has_status: bool) -> &'static [&'static str] {
    match subresource {
        "" if has_status => &["status"],
        "status" => &["spec", "metadata.labels", "metadata.ownerReferences", "metadata.finalizers"],
        _ => &[],
    }
}

/// Whether the server counts `metadata.generation` for this kind. Custom resources always have it.
pub fn has_generation(api_version: &str, kind: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match group {
        "" => matches!(kind, "Pod" | "ReplicationController" | "PodTemplate"),
        "apps" => kind != "ControllerRevision",
        "autoscaling"
        | "coordination.k8s.io"
        | "events.k8s.io"
        | "rbac.authorization.k8s.io"
        | "certificates.k8s.io"
        | "node.k8s.io"
        | "authentication.k8s.io"
        | "authorization.k8s.io" => false,
        "storage.k8s.io" => matches!(kind, "CSIDriver"),
        _ => true,
    }
}

/// The object's metadata, made when there is none.
pub(crate) fn metadata_mut(obj: &mut Value) -> &mut Map<String, Value> {
    if !obj.is_object() {
        *obj = Value::Object(Map::new());
    }
    let metadata = &mut obj["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().expect("was made an object on the line above")
}

/// Drops what says nothing: upstream's typed metadata leaves empty maps and lists out, so clients see no difference there.
pub(crate) fn drop_empty(metadata: &mut Map<String, Value>) {
    for name in ["annotations", "labels", "finalizers", "ownerReferences"] {
        let empty = match metadata.get(name) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            _ => false,
        };
        if empty {
            metadata.remove(name);
        }
    }
}

/// The object below these fields, made where there is nothing; none when something that is no object is in the way.
pub(crate) fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut at = value;
    for name in path {
        at = at.as_object_mut()?.entry(*name).or_insert(Value::Null);
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
    }
    at.as_object_mut()
}

/// Copies a field of the metadata, or removes it where the source has none.
fn carry(from: &Value, to: &mut Map<String, Value>, name: &str) {
    match from.pointer("/metadata").and_then(|metadata| metadata.get(name)).filter(|value| !value.is_null()) {
        Some(value) => {
            to.insert(name.to_owned(), value.clone());
        }
        None => {
            to.remove(name);
        }
    }
}
