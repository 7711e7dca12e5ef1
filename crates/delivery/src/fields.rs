//! Who owns which field of a live object (`metadata.managedFields`), and whether a manifest is applied exactly.
//!
//! No schema is needed: the entries themselves say which lists are maps (`k:`), sets (`v:`) and wholes.
//!
//! Specification: structured-merge-diff's FieldsV1, as in the Kubernetes API reference.

use crate::object;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// One step of the way to a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A field of an object.
    Field(String),
    /// The element of a list that has this field with this value (`containers[name=app]`), which stands at this index.
    Element(String, Value, usize),
    /// The element of a list at an index.
    Index(usize),
}

/// The way to a field from the object's root.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The path with one more step.
    pub fn with(&self, step: Step) -> Self {
        let mut path = self.0.clone();
        path.push(step);
        Self(path)
    }

    /// The value that is there.
    pub fn find<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(object, |value, step| match step {
            Step::Field(name) => value.get(name),
            Step::Element(key, wanted, _) => value.as_array()?.iter().find(|item| &item[key] == wanted),
            Step::Index(index) => value.get(index),
        })
    }
}

/// `.spec.containers[name=app].args[0]`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.0 {
            match step {
                Step::Field(name) if name.contains(['.', '/', '[', '"']) => write!(f, "[{name:?}]")?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Element(key, Value::String(value), _) => write!(f, "[{key}={value}]")?,
                Step::Element(key, value, _) => write!(f, "[{key}={value}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Who owns a field, how and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The field manager.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// When it last changed any of its fields (RFC 3339); managed fields keep no time for each field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The subresource that was written through, as `status` or `scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subresource: Option<String>,
}

/// The owners of a field, the latest first. A field inside what is owned as a whole has the whole's owners.
pub fn owners(live: &Value, path: &Path) -> Vec<Owner> {
    let entries = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    let mut found: Vec<Owner> = entries.filter(|entry| owns(&entry["fieldsV1"], live, &path.0)).map(owner).collect();
    found.sort_by(|a, b| b.time.cmp(&a.time));
    found
}

fn owner(entry: &Value) -> Owner {
    let text = |name: &str| entry[name].as_str().map(str::to_owned);
    Owner {
        manager: text("manager").unwrap_or_default(),
        operation: text("operation").unwrap_or_default(),
        time: text("time"),
        subresource: text("subresource").filter(|text| !text.is_empty()),
    }
}

/// Whether the fields name what is at the path, or something below it.
fn owns(fields: &Value, value: &Value, path: &[Step]) -> bool {
    let Some(fields) = fields.as_object() else { return false };
    let Some((step, rest)) = path.split_first() else { return true };
    // An empty entry is a leaf: the whole below it.
    if fields.is_empty() {
        return true;
    }
    match step {
        Step::Field(name) => match fields.get(&format!("f:{name}")) {
            Some(below) => owns(below, &value[name.as_str()], rest),
            None => false,
        },
        Step::Element(..) | Step::Index(_) => {
            let Some(list) = value.as_array() else { return false };
            let element = match step {
                Step::Element(key, wanted, _) => list.iter().find(|item| &item[key.as_str()] == wanted),
                Step::Index(index) => list.get(*index),
                Step::Field(_) => None,
            };
            let Some(element) = element else { return false };
            fields.iter().any(|(key, below)| is_element(key, element) && owns(below, element, rest))
        }
    }
}

/// Whether an entry's key (`k:{…}` or `v:…`) is the element's.
fn is_element(key: &str, element: &Value) -> bool {
    if let Some(keys) = key.strip_prefix("k:").and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok()) {
        return keys.iter().all(|(name, value)| &element[name] == value);
    }
    key.strip_prefix("v:")
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .is_some_and(|value| &value == element)
}

/// The entry of a manager that applied the object in the version of the manifest.
fn entry_of<'a>(live: &'a Value, manager: &str, api_version: &str) -> Option<&'a Value> {
    let entries = live["metadata"]["managedFields"].as_array()?;
    entries.iter().find(|entry| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["apiVersion"] == api_version
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    })
}

/// What a manifest says that nobody ever owns.
const IDENTITY: [&str; 3] = ["name", "namespace", "creationTimestamp"];

/// Whether applying the manifest again would change nothing: the manager owns exactly the manifest's fields, and each
/// has the manifest's value. True is certain; false may only mean that it is not to be seen without asking the server.
pub fn is_applied(desired: &Value, live: &Value, manager: &str) -> bool {
    let Some(entry) = entry_of(live, manager, object::api_version(desired)) else { return false };
    let (Some(desired), Some(fields)) = (desired.as_object(), entry["fieldsV1"].as_object()) else { return false };
    let mut owned = fields.len();
    for (name, value) in desired {
        let below = fields.get(&format!("f:{name}")).and_then(Value::as_object);
        let same = match (name.as_str(), value, below) {
            ("apiVersion" | "kind", ..) => continue,
            ("metadata", Value::Object(metadata), below) => {
                owned -= usize::from(below.is_some());
                if !metadata_applied(metadata, below, &live["metadata"]) {
                    return false;
                }
                continue;
            }
            (_, value, Some(below)) => applied(value, below, &live[name.as_str()]),
            _ => false,
        };
        if !same {
            return false;
        }
        owned -= 1;
    }
    owned == 0
}

fn metadata_applied(desired: &Map<String, Value>, fields: Option<&Map<String, Value>>, live: &Value) -> bool {
    let mut owned = fields.map_or(0, |fields| fields.keys().filter(|name| *name != ".").count());
    for (name, value) in desired {
        if IDENTITY.contains(&name.as_str()) {
            continue;
        }
        let below = fields.and_then(|fields| fields.get(&format!("f:{name}"))).and_then(Value::as_object);
        if !below.is_some_and(|below| applied(value, below, &live[name.as_str()])) {
            return false;
        }
        owned -= 1;
    }
    owned == 0
}

fn applied(desired: &Value, fields: &Map<String, Value>, live: &Value) -> bool {
    if fields.is_empty() {
        return !desired.is_null() && desired == live;
    }
    let owned = fields.keys().filter(|key| *key != ".").count();
    match desired {
        Value::Object(map) if map.len() == owned && live.is_object() => map.iter().all(|(name, value)| {
            let below = fields.get(&format!("f:{name}")).and_then(Value::as_object);
            below.is_some_and(|below| applied(value, below, &live[name.as_str()]))
        }),
        Value::Array(list) if list.len() == owned => list_applied(list, fields, live),
        _ => false,
    }
}

/// A list whose elements are owned one by one: each is found by its keys, in the order of the live list.
fn list_applied(desired: &[Value], fields: &Map<String, Value>, live: &Value) -> bool {
    let Some(live) = live.as_array() else { return false };
    let mut from = 0;
    desired.iter().all(|item| {
        let mut own = fields.iter().filter(|(key, _)| may_be(key, item));
        let (Some((key, below)), None) = (own.next(), own.next()) else { return false };
        let Some(at) = live[from..].iter().position(|element| is_element(key, element)) else { return false };
        let element = &live[from + at];
        from += at + 1;
        match below.as_object() {
            Some(below) if key.starts_with("k:") => applied(item, below, element),
            _ => item == element,
        }
    })
}

/// Whether an entry's key can be a manifest's element, which may leave out keys that have defaults (a port's protocol).
fn may_be(key: &str, item: &Value) -> bool {
    match key.strip_prefix("k:").and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok()) {
        Some(keys) => keys.iter().all(|(name, value)| item.get(name).is_none_or(|own| own == value)),
        None => is_element(key, item),
    }
}

/// What a manager's manifest last said, as far as the live object still has it; the whole object where the manager never
/// applied it.
pub fn applied_by(live: &Value, manager: &str) -> Value {
    let Some(entry) = entry_of(live, manager, object::api_version(live)) else {
        return object::without_server_fields(live);
    };
    let mut said = extract(live, &entry["fieldsV1"]).unwrap_or_default();
    for field in ["apiVersion", "kind"] {
        said[field] = live[field].clone();
    }
    for field in ["name", "namespace"] {
        if let Some(value) = live["metadata"].get(field) {
            said["metadata"][field] = value.clone();
        }
    }
    said
}

/// The part of a value that the fields name.
fn extract(value: &Value, fields: &Value) -> Option<Value> {
    let fields = fields.as_object()?;
    if fields.keys().all(|key| key == ".") {
        return Some(value.clone()).filter(|value| !value.is_null());
    }
    match value {
        Value::Object(map) => {
            let own = fields.iter().filter_map(|(key, below)| {
                let name = key.strip_prefix("f:")?;
                Some((name.to_owned(), extract(map.get(name)?, below)?))
            });
            Some(Value::Object(own.collect()))
        }
        Value::Array(list) => {
            let own = list.iter().filter_map(|item| {
                let (key, below) = fields.iter().find(|(key, _)| is_element(key, item))?;
                if key.starts_with("v:") { Some(item.clone()) } else { extract(item, below) }
            });
            Some(Value::Array(own.collect()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn live() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "labels": {"x": "1", "y": "2"}, "managedFields": [
                {"manager": "coracle", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
                 "fieldsV1": {"f:metadata": {"f:labels": {"f:x": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}}},
                {"manager": "hand", "operation": "Update", "apiVersion": "apps/v1", "time": "2026-01-02T00:00:00Z",
                 "fieldsV1": {"f:metadata": {"f:labels": {"f:y": {}}}}},
            ]},
            "spec": {"replicas": 2, "template": {"spec": {"containers": [
                {"name": "side", "image": "s"},
                {"name": "c", "image": "i", "args": ["a", "b"], "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}},
        })
    }

    fn desired() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "creationTimestamp": null, "labels": {"x": "1"}},
            "spec": {"replicas": 2, "template": {"spec": {"containers": [
                {"name": "c", "image": "i", "args": ["a", "b"], "ports": [{"containerPort": 80}]}]}}},
        })
    }

    #[test]
    fn what_is_applied_exactly_needs_no_question() {
        assert!(is_applied(&desired(), &live(), "coracle"));
        type Changed = (&'static str, fn(&mut Value));
        let changes: &[Changed] = &[
            ("a value", |d| d["spec"]["replicas"] = 3.into()),
            ("one more label", |d| d["metadata"]["labels"]["z"] = "1".into()),
            ("one label less", |d| drop(d["metadata"].as_object_mut().unwrap().remove("labels"))),
            ("an argument", |d| d["spec"]["template"]["spec"]["containers"][0]["args"][1] = "c".into()),
            ("another port", |d| {
                d["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = 81.into()
            }),
            ("a field less", |d| drop(d["spec"].as_object_mut().unwrap().remove("replicas"))),
            ("another version", |d| d["apiVersion"] = "apps/v2".into()),
            ("nothing", |d| d["spec"]["replicas"] = Value::Null),
        ];
        for (what, change) in changes {
            let mut desired = desired();
            change(&mut desired);
            assert!(!is_applied(&desired, &live(), "coracle"), "{what}");
        }
        assert!(!is_applied(&desired(), &live(), "other"), "who never applied it owns nothing");
        let mut taken = live();
        taken["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"].as_object_mut().unwrap().remove("f:replicas");
        assert!(!is_applied(&desired(), &taken, "coracle"), "somebody took a field over");
    }

    #[test]
    fn the_owner_of_a_field_is_found_below_keys_and_wholes() {
        let field = |name: &str| Step::Field(name.into());
        let container = |name: &str| {
            let element = Step::Element("name".into(), name.into(), 0);
            Path(vec![field("spec"), field("template"), field("spec"), field("containers"), element])
        };
        let manager =
            |path: &Path| owners(&live(), path).first().map(|owner| owner.manager.clone()).unwrap_or_default();
        assert_eq!(manager(&container("c").with(field("image"))), "coracle");
        assert_eq!(manager(&container("c").with(field("args")).with(Step::Index(1))), "coracle");
        assert_eq!(manager(&container("side").with(field("image"))), "");
        assert_eq!(manager(&Path(vec![field("metadata"), field("labels"), field("y")])), "hand");
        assert_eq!(container("c").with(field("image")).to_string(), ".spec.template.spec.containers[name=c].image");
    }
}
