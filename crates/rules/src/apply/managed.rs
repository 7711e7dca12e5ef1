//! `metadata.managedFields`: entries read, written, ordered and capped.

use super::set::FieldSet;
use serde_json::{Map, Value, json};

/// Most managers that are kept apart for operation Update; the oldest beyond are put together.
const MOST_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// One manager's fields.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) applied: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

impl Entry {
    /// Whether both are the same manager. Appliers are the same across versions.
    pub(super) fn is(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.applied == other.applied
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    /// As conflicts name a manager.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applied {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn read(entry: &Value) -> Option<Entry> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let applied = match text("operation").as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Entry {
            manager: text("manager"),
            applied,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            fields: FieldSet::from_fields_v1(&entry["fieldsV1"]),
        })
    }

    fn write(&self) -> Value {
        let mut entry = Map::new();
        let mut put = |name: &str, value: Value| entry.insert(name.to_owned(), value);
        put("manager", self.manager.as_str().into());
        put("operation", if self.applied { "Apply" } else { "Update" }.into());
        put("apiVersion", self.api_version.as_str().into());
        if !self.subresource.is_empty() {
            put("subresource", self.subresource.as_str().into());
        }
        if let Some(time) = &self.time {
            put("time", time.as_str().into());
        }
        put("fieldsType", "FieldsV1".into());
        put("fieldsV1", self.fields.to_fields_v1());
        Value::Object(entry)
    }
}

/// The entries of an object; none when one of them can't be read.
pub(super) fn read(object: &Value) -> Option<Vec<Entry>> {
    match object.pointer("/metadata/managedFields") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(entries) => entries.as_array()?.iter().map(Entry::read).collect(),
    }
}

/// Whether a body asks to forget all managers: an empty list, or one empty entry.
pub(super) fn asks_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields").and_then(Value::as_array) {
        Some(entries) => entries.is_empty() || (entries.len() == 1 && entries[0] == json!({})),
        None => false,
    }
}

/// Writes the entries into the object, in Kubernetes' order.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| {
            (
                !entry.applied,
                entry.time.clone(),
                entry.manager.clone(),
                entry.api_version.clone(),
                entry.subresource.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let metadata = crate::meta::metadata_mut(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), entries.iter().map(Entry::write).collect());
    }
}

/// Puts the oldest updaters together when there are too many.
pub(super) fn cap(entries: Vec<Entry>) -> Vec<Entry> {
    let (mut updaters, mut rest): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| !entry.applied);
    if updaters.len() <= MOST_UPDATERS {
        rest.append(&mut updaters);
        return rest;
    }
    updaters.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let mut length = updaters.len();
    let mut kept: Vec<Entry> = Vec::new();
    for entry in updaters {
        let first = kept.iter_mut().find(|other| other.api_version == entry.api_version);
        match first {
            Some(bucket) if length > MOST_UPDATERS => {
                bucket.manager = ANCIENT.to_owned();
                bucket.subresource = String::new();
                bucket.fields = bucket.fields.union(&entry.fields);
                bucket.time = entry.time;
                length -= 1;
            }
            _ => kept.push(entry),
        }
    }
    rest.append(&mut kept);
    rest
}
