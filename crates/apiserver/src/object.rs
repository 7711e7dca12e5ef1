//! Objects between their stored form and what a client sees.
//!
//! Invariant: what is stored has no `metadata.resourceVersion`; what a client sees always has it.

use bytes::Bytes;
use serde_json::{Map, Value};
use store::Entry;

use crate::catalog::Resource;
use crate::splice::{self, Type};
use crate::status::{Answer, Failure};

/// A stored object: its key, its bytes, and the revision it is of.
pub(crate) type Stored<'a> = (&'a str, &'a [u8], u64);

/// An entry as a stored object.
pub(crate) fn of(entry: &Entry) -> Stored<'_> {
    (&entry.key, &entry.value, entry.revision)
}

/// The object of an entry, in the version of `resource`.
pub(crate) fn read(resource: &Resource, entry: &Entry) -> Answer<Value> {
    read_at(resource, &entry.key, &entry.value, entry.revision)
}

/// The object of stored bytes as of `revision`.
pub(crate) fn read_at(resource: &Resource, key: &str, bytes: &[u8], revision: u64) -> Answer<Value> {
    let mut object: Value = serde_json::from_slice(bytes)
        .map_err(|error| Failure::internal(format!("the stored object {key} can't be read: {error}")))?;
    present(resource, &mut object);
    set_version(&mut object, revision);
    Ok(object)
}

/// Appends the JSON of an entry's object to `out`, in the version of `resource`. `bare` leaves its type out.
pub(crate) fn write(
    out: &mut Vec<u8>,
    resource: &Resource,
    (key, bytes, revision): Stored<'_>,
    bare: bool,
) -> Answer<()> {
    let named = if bare { Type::Bare } else { Type::Named(&resource.api_version) };
    if !converts(resource) && splice::object(out, bytes, named, revision).is_some() {
        return Ok(());
    }
    let mut object = read_at(resource, key, bytes, revision)?;
    if let (true, Some(map)) = (bare, object.as_object_mut()) {
        map.remove("apiVersion");
        map.remove("kind");
    }
    append(out, &object)
}

/// Appends the JSON of an entry's `metadata` to `out`.
pub(crate) fn write_metadata(out: &mut Vec<u8>, resource: &Resource, (key, bytes, revision): Stored<'_>) -> Answer<()> {
    if splice::metadata(out, bytes, revision).is_some() {
        return Ok(());
    }
    append(out, &read_at(resource, key, bytes, revision)?["metadata"])
}

/// Appends a value's JSON.
pub(crate) fn append(out: &mut Vec<u8>, value: &Value) -> Answer<()> {
    serde_json::to_writer(out, value).map_err(|error| Failure::internal(error.to_string()))
}

/// The bytes to store for an object in the version of `resource`.
pub(crate) fn stored(resource: &Resource, object: &Value) -> Bytes {
    let mut object = object.clone();
    if let Some(metadata) = metadata_mut(&mut object) {
        metadata.remove("resourceVersion");
    }
    if converts(resource) {
        crate::events::to_core(&mut object);
    }
    Bytes::from(object.to_string())
}

/// Whether objects of the resource look different in the store.
fn converts(resource: &Resource) -> bool {
    resource.is("events.k8s.io", "events")
}

/// Turns a stored object into the version that is asked for.
fn present(resource: &Resource, object: &mut Value) {
    if converts(resource) {
        crate::events::from_core(object);
        return;
    }
    // Definitions convert by strategy None: only the version's name differs.
    if object["apiVersion"].as_str() != Some(&resource.api_version) {
        object["apiVersion"] = resource.api_version.as_str().into();
    }
}

/// Puts a revision on an object.
pub(crate) fn set_version(object: &mut Value, revision: u64) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
}

/// `metadata`, made when absent; `None` when the object is no map.
pub(crate) fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut()
}

/// A text of `metadata`; empty when absent.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata.name`
pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// `metadata.finalizers`
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .map(|all| all.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Whether deletion was asked for.
pub(crate) fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// The value at a dotted path (`.spec.replicas`).
pub(crate) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|part| !part.is_empty()).try_fold(object, |value, part| value.get(part))
}

/// Sets the value at a dotted path, making maps on the way.
pub(crate) fn set_at(object: &mut Value, path: &str, new: Value) {
    let mut current = object;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        if !current.is_object() {
            *current = Value::Object(Map::new());
        }
        current = &mut current[part];
    }
    *current = new;
}

/// A time as the API writes it.
pub(crate) fn time(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dotted_paths() {
        let mut object = json!({ "spec": { "replicas": 2 } });
        assert_eq!(at(&object, ".spec.replicas"), Some(&json!(2)));
        assert_eq!(at(&object, ".spec.other.deep"), None);
        set_at(&mut object, ".status.replicas", json!(1));
        assert_eq!(object, json!({ "spec": { "replicas": 2 }, "status": { "replicas": 1 } }));
    }
}
