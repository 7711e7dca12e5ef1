//! Objects as JSON: who they are, and short ways to read them.
//!
//! Invariant: an object's identity is group, kind, namespace and name; the version in which it is written is no part of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// Which object is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectId {
    /// The API group; empty for the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace; empty for what has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectId {
    /// The identity that the object states itself.
    pub fn of(object: &Value) -> Self {
        Self {
            group: group(object).to_owned(),
            kind: kind(object).to_owned(),
            namespace: namespace(object).to_owned(),
            name: name(object).to_owned(),
        }
    }

    /// `Deployment.apps` or `Service`, as ApplySets write it.
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }
}

/// `deployment.apps/orders in shop`.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group_kind().to_lowercase(), self.name)?;
        if self.namespace.is_empty() { Ok(()) } else { write!(f, " in {}", self.namespace) }
    }
}

/// The object's `apiVersion`.
pub fn api_version(object: &Value) -> &str {
    object["apiVersion"].as_str().unwrap_or_default()
}

/// The object's API group; empty for the core group.
pub fn group(object: &Value) -> &str {
    api_version(object).split_once('/').map_or("", |(group, _)| group)
}

/// The object's kind.
pub fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// The object's name.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The object's namespace; empty for none.
pub fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// The object's uid; empty for what never was in a cluster.
pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// The object's resource version; empty for what never was in a cluster.
pub fn resource_version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// An annotation's value.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

/// A label's value.
pub fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"][name].as_str()
}

/// A map below `metadata` (`labels`, `annotations`), made where it is missing.
pub fn metadata_map<'a>(object: &'a mut Value, which: &str) -> &'a mut Map<String, Value> {
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    let map = &mut metadata[which];
    if !map.is_object() {
        *map = Value::Object(Map::new());
    }
    map.as_object_mut().expect("it was just made an object")
}

/// The object without what a server adds by itself: managed fields, version, uid, times, generation, status.
pub fn without_server_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in [
            "managedFields",
            "resourceVersion",
            "uid",
            "creationTimestamp",
            "generation",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata.remove(field);
        }
    }
    object
}
