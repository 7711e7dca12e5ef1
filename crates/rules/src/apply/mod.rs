//! Server-side apply and field ownership (`metadata.managedFields`).
//!
//! Invariants: the result carries its `managedFields`; a write that changes nothing leaves them identical to the live
//! object's; fields the server keeps for itself (name, uid, resourceVersion...) are never owned; a manager loses a
//! field as soon as someone else changes it.
//! Must not know: HTTP, stores, clocks (the time is given).

mod managed;
mod set;
mod typed;
mod walk;

#[cfg(test)]
mod tests;

use crate::kinds;
use crate::meta::metadata_mut;
use crate::schema::Schema;
use managed::Entry;
use serde_json::{Value, json};
use set::FieldSet;
use std::collections::BTreeMap;
use std::fmt;
use typed::Place;
use walk::Comparison;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Never owned by anyone.
const STRIPPED: [&str; 12] = [
    "apiVersion",
    "kind",
    "metadata",
    "metadata.name",
    "metadata.namespace",
    "metadata.creationTimestamp",
    "metadata.selfLink",
    "metadata.uid",
    "metadata.clusterName",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
];

/// Who writes, how, and when.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// The field manager's name.
    pub name: &'a str,
    /// The apiVersion the write was made in.
    pub api_version: &'a str,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// The time of the write, RFC 3339 with seconds.
    pub now: &'a str,
    /// Fields that this request can't change and so never owns, dotted from the root: see `meta::reset_fields`.
    pub reset: &'a [&'a str],
}

impl Manager<'_> {
    fn entry(&self, applied: bool) -> Entry {
        Entry {
            manager: if self.name.is_empty() { "unknown" } else { self.name }.to_owned(),
            applied,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: None,
            fields: FieldSet::default(),
        }
    }
}

/// One field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owning manager's name.
    pub manager: String,
    /// The field, as `.spec.replicas`.
    pub field: String,
    /// The cause's message: `conflict with "mgr" using apps/v1`.
    pub message: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that would change; forcing takes them over.
    #[error("{}", Conflicts(.0))]
    Conflicts(Vec<Conflict>),
    /// The applied configuration can't be merged.
    #[error("{0}")]
    Invalid(String),
}

/// Conflicts in upstream's words.
struct Conflicts<'a>(&'a [Conflict]);

impl fmt::Display for Conflicts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0 {
            return write!(f, "Apply failed with 1 conflict: {}: {}", only.message, only.field);
        }
        let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for conflict in self.0 {
            by_manager.entry(&conflict.message).or_default().push(&conflict.field);
        }
        let mut lines = Vec::new();
        for (message, fields) in by_manager {
            lines.push(format!("{}:", message.replacen("conflict with", "conflicts with", 1)));
            lines.extend(fields.into_iter().map(|field| format!("- {field}")));
        }
        write!(f, "Apply failed with {} conflicts: {}", self.0.len(), lines.join("\n"))
    }
}

/// Applies a configuration to the live object (none: it is created).
///
/// `live` carries its `managedFields`. Defaults are not filled in here: the caller does that with the result.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    schema: &Schema,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let place = Place::root(schema);
    if applied.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    let mut config = applied.clone();
    metadata_mut(&mut config).retain(|_, value| !value.is_null());
    let mut wrong = Vec::new();
    walk::check(&config, &place, "", &mut wrong);
    if !wrong.is_empty() {
        return Err(ApplyError::Invalid(describe_wrong(applied, &wrong)));
    }
    let mut entries = match live {
        Some(live) => managed::read(live).ok_or_else(|| {
            ApplyError::Invalid(
                "failed to decode managed fields: the live object's metadata.managedFields can't be read".to_owned(),
            )
        })?,
        None => Vec::new(),
    };
    let before = without_managed(live.unwrap_or(&empty_like(applied)));
    let untracked = entries.is_empty() && live.is_some();
    if untracked {
        entries = owner_of_all(&before, &place, manager);
    }
    let outcome = apply_once(&before, &config, &place, manager, &entries, force);
    let outcome = match outcome {
        Err(ApplyError::Conflicts(conflicts)) if manager.name == "kubectl" => {
            let allowed = unchanged_since_last_applied(&before, &place, manager.api_version);
            let left: Vec<Conflict> = conflicts.into_iter().filter(|one| !allowed.contains(&one.field)).collect();
            if left.is_empty() {
                apply_once(&before, &config, &place, manager, &entries, true)
            } else {
                Err(ApplyError::Conflicts(left))
            }
        }
        outcome => outcome,
    };
    let (mut object, mut entries) = outcome?;
    // Applying next to nothing (a namespace has a name and no more) to what nobody tracks is no reason to write.
    if untracked && object == before && entries.iter().all(|entry| !entry.applied || entry.fields.is_empty()) {
        entries.clear();
    }
    if manager.name == "kubectl" {
        refresh_last_applied(&mut object, applied);
    }
    managed::write(&mut object, entries);
    Ok(object)
}

/// Records in `new` which fields this write changed. `new` is what will be stored, defaults filled in.
pub fn track_update(live: Option<&Value>, new: &mut Value, schema: &Schema, manager: &Manager<'_>) {
    let place = Place::root(schema);
    let live_entries = || live.and_then(managed::read).unwrap_or_default();
    let entries = if !manager.subresource.is_empty() {
        live_entries()
    } else if managed::asks_reset(new) {
        Vec::new()
    } else {
        managed::read(new).filter(|entries| !entries.is_empty()).unwrap_or_else(live_entries)
    };
    // An object that nobody tracked from its creation stays untracked until someone applies.
    if entries.is_empty() && live.is_some() {
        metadata_mut(new).remove("managedFields");
        return;
    }
    let before = with_go_fields(without_managed(live.unwrap_or(&empty_like(new))), new, manager.api_version);
    let after = without_managed(new);
    let entries = update_entries(&before, &after, &place, manager, entries);
    managed::write(new, managed::cap(entries));
}

fn describe_wrong(applied: &Value, wrong: &[String]) -> String {
    let text = |pointer: &str| applied.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = format!(
        "{}/{}; {}, Kind={}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        text("/apiVersion"),
        text("/kind")
    );
    let wrong = match wrong {
        [only] => only.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    format!("failed to create typed patch object ({name}): {wrong}")
}

fn empty_like(object: &Value) -> Value {
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"]})
}

fn without_managed(object: &Value) -> Value {
    let mut object = object.clone();
    metadata_mut(&mut object).remove("managedFields");
    object
}

/// Fields that the Go types of built-in kinds always have, so that nobody comes to own them by being first.
const GO_FIELDS: [&str; 16] = [
    "/metadata",
    "/spec",
    "/status",
    "/spec/strategy",
    "/spec/updateStrategy",
    "/spec/template",
    "/spec/template/metadata",
    "/spec/template/spec",
    "/spec/jobTemplate",
    "/spec/jobTemplate/metadata",
    "/spec/jobTemplate/spec",
    "/spec/jobTemplate/spec/template",
    "/spec/jobTemplate/spec/template/spec",
    "/spec/containers",
    "/spec/template/spec/containers",
    "/spec/jobTemplate/spec/template/spec/containers",
];

fn with_go_fields(mut before: Value, new: &Value, api_version: &str) -> Value {
    let built_in = kinds::find(api_version, new["kind"].as_str().unwrap_or_default()).is_some();
    for pointer in GO_FIELDS.iter().filter(|_| built_in) {
        let empty = match new.pointer(pointer) {
            Some(Value::Object(_)) => json!({}),
            Some(Value::Array(_)) => Value::Null,
            _ => continue,
        };
        let Some((parent, name)) = pointer.rsplit_once('/') else { continue };
        if let Some(Value::Object(parent)) = before.pointer_mut(parent) {
            parent.entry(name).or_insert(empty);
        }
    }
    before
}

/// The entries after an update, and times moved only for who changed something.
fn update_entries(
    before: &Value,
    after: &Value,
    place: &Place,
    manager: &Manager<'_>,
    entries: Vec<Entry>,
) -> Vec<Entry> {
    let reset = FieldSet::of_fields(manager.reset);
    let changes = walk::compare(before, after, place).without(&reset);
    let taken = changes.modified.union(&changes.added);
    let mut entries = give_up(entries, &changes, None);
    let own = taken.difference(&FieldSet::of_fields(&STRIPPED));
    if !own.is_empty() {
        let mut mine = manager.entry(false);
        mine.time = Some(manager.now.to_owned());
        mine.fields = own;
        match entries.iter_mut().find(|entry| entry.is(&mine)) {
            Some(entry) => {
                entry.fields = entry.fields.union(&mine.fields);
                entry.time = mine.time;
            }
            None => entries.push(mine),
        }
    }
    entries.retain(|entry| !entry.fields.is_empty());
    entries
}

/// Takes what changed away from everyone but `except`.
fn give_up(mut entries: Vec<Entry>, changes: &Comparison, except: Option<&Entry>) -> Vec<Entry> {
    let lost = changes.modified.union(&changes.added).union(&changes.removed);
    for entry in &mut entries {
        if except.is_none_or(|except| !entry.is(except)) {
            entry.fields = entry.fields.difference(&lost);
        }
    }
    entries
}

/// What was there before the first apply belongs to one stand-in manager.
fn owner_of_all(live: &Value, place: &Place, manager: &Manager<'_>) -> Vec<Entry> {
    let first = Manager { name: "before-first-apply", subresource: "", reset: &[], ..*manager };
    let nothing = with_go_fields(empty_like(live), live, manager.api_version);
    update_entries(&nothing, live, place, &first, Vec::new())
}

fn apply_once(
    live: &Value,
    config: &Value,
    place: &Place,
    manager: &Manager<'_>,
    entries: &[Entry],
    force: bool,
) -> Result<(Value, Vec<Entry>), ApplyError> {
    let reset = FieldSet::of_fields(manager.reset);
    let mut mine = manager.entry(true);
    let last = entries.iter().find(|entry| entry.is(&mine)).cloned();
    mine.fields = walk::field_set(config, place).without_subtrees(&reset);
    let mut entries: Vec<Entry> = entries.iter().filter(|entry| !entry.is(&mine)).cloned().collect();
    let merged = walk::merge(live, config, place);
    entries.push(mine.clone());
    let merged = match &last {
        Some(last) if !last.fields.is_empty() => prune(&merged, place, &last.fields, &entries),
        _ => merged,
    };
    let changes = walk::compare(live, &merged, place).without(&reset);
    if !force {
        let conflicts = conflicts(&entries, &mine, &changes);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    let mut entries = give_up(entries, &changes, Some(&mine));
    let changed = live != &merged;
    for entry in entries.iter_mut().filter(|entry| entry.is(&mine)) {
        entry.fields = entry.fields.difference(&FieldSet::of_fields(&STRIPPED));
        entry.time = match &last {
            Some(last) if !changed && last.fields == entry.fields => last.time.clone(),
            _ => Some(manager.now.to_owned()),
        };
    }
    Ok((merged, entries))
}

fn conflicts(entries: &[Entry], mine: &Entry, changes: &Comparison) -> Vec<Conflict> {
    let changed = changes.modified.union(&changes.added);
    let mut conflicts = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is(mine)) {
        for field in entry.fields.intersection(&changed).paths() {
            let message = format!("conflict with {}", entry.describe());
            conflicts.push(Conflict { manager: entry.manager.clone(), field, message });
        }
    }
    conflicts.sort_by(|a, b| a.message.cmp(&b.message));
    conflicts
}

/// Removes what this manager applied last time and nobody claims now.
fn prune(merged: &Value, place: &Place, last: &FieldSet, entries: &[Entry]) -> Value {
    let whole = |value: Option<Value>| value.unwrap_or_else(|| json!({}));
    let named = |set: &FieldSet| walk::with_named_parents(set, place);
    let last = named(last);
    let all = named(&walk::field_set(merged, place));
    let owned = entries.iter().fold(FieldSet::default(), |all, entry| all.union(&entry.fields));
    let pruned = whole(walk::remove_for_look(merged, &last, place));
    let kept = named(&walk::field_set(&pruned, place)).union(&named(&owned));
    let pruned = whole(walk::remove_for_look(merged, &all.difference(&kept), place));
    // Only what this manager had owned may go; what nobody owns stays.
    let gone = all.difference(&named(&walk::field_set(&pruned, place))).intersection(&last);
    whole(walk::remove(merged, &gone, place))
}

/// Fields whose live value is still what `kubectl apply` on the client's side had put there.
fn unchanged_since_last_applied(live: &Value, place: &Place, api_version: &str) -> Vec<String> {
    let annotation =
        live.pointer("/metadata/annotations").and_then(|all| all.get(LAST_APPLIED)).and_then(Value::as_str);
    let Some(Ok(last)) = annotation.map(serde_json::from_str::<Value>) else { return Vec::new() };
    if last["apiVersion"] != api_version {
        return Vec::new();
    }
    let changes = walk::compare(&last, live, place);
    walk::field_set(&last, place)
        .difference(&changes.modified)
        .difference(&changes.added)
        .difference(&changes.removed)
        .paths()
}

fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let Some(annotation) = annotations.and_then(|all| all.get_mut(LAST_APPLIED)) else { return };
    let mut config = applied.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    *annotation = format!("{config}\n").into();
}
