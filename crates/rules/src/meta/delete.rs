//! Deletion: removed at once, or marked and kept until finalizers and grace period are over.

use super::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER, metadata_mut, object_at, rfc3339};
use crate::pods;
use serde_json::Value;

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first; the owner waits.
    Foreground,
    /// They stay.
    Orphan,
}

/// What a client asks for in DeleteOptions.
#[derive(Debug, Clone, Copy)]
pub struct DeleteRequest {
    /// The time of the request.
    pub now: jiff::Timestamp,
    /// `gracePeriodSeconds`, when given.
    pub grace_seconds: Option<i64>,
    /// `propagationPolicy`, when given.
    pub propagation: Option<Propagation>,
}

/// What the store is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Deletion {
    /// Remove the object now.
    Remove,
    /// Store this instead; it is removed when nothing holds it any more ([`ready_to_remove`]).
    Mark(Value),
    /// It is being deleted already; there is nothing to change.
    Pending,
}

/// Decides what a delete request does to an object.
pub fn delete(api_version: &str, kind: &str, obj: &Value, request: &DeleteRequest) -> Deletion {
    let mut marked = obj.clone();
    metadata_mut(&mut marked).remove("resourceVersion");
    set_propagation(&mut marked, request.propagation);
    let grace = grace_seconds(api_version, kind, obj, request.grace_seconds);
    let begun = obj.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
    let held = is_held(api_version, kind, &marked);
    if grace == 0 && !held {
        return Deletion::Remove;
    }
    match begun.and_then(|at| at.parse::<jiff::Timestamp>().ok()) {
        None => mark(api_version, kind, &mut marked, request.now, grace),
        Some(at) => shorten(&mut marked, at, grace),
    }
    let mut before = obj.clone();
    metadata_mut(&mut before).remove("resourceVersion");
    if before == marked { Deletion::Pending } else { Deletion::Mark(marked) }
}

/// Whether an object that is being deleted is held by nothing any more: no finalizer and no grace period.
pub fn ready_to_remove(api_version: &str, kind: &str, obj: &Value) -> bool {
    obj.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
        && obj.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
        && !is_held(api_version, kind, obj)
}

fn is_held(api_version: &str, kind: &str, obj: &Value) -> bool {
    let any = |pointer: &str| obj.pointer(pointer).and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    any("/metadata/finalizers") || (api_version == "v1" && kind == "Namespace" && any("/spec/finalizers"))
}

/// Only Pods have a grace period, and only those that may be running.
fn grace_seconds(api_version: &str, kind: &str, obj: &Value, asked: Option<i64>) -> i64 {
    if (api_version, kind) != ("v1", "Pod") || !pods::is_scheduled(obj) || pods::is_terminated(obj) {
        return 0;
    }
    let own = obj.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    // A negative period means the shortest one.
    match asked.or(own).unwrap_or(30) {
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

fn set_propagation(obj: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let metadata = metadata_mut(obj);
    let mut finalizers: Vec<Value> = metadata
        .get("finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|one| *one != FOREGROUND_FINALIZER && *one != ORPHAN_FINALIZER)
        .cloned()
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND_FINALIZER.into()),
        Propagation::Orphan => finalizers.push(ORPHAN_FINALIZER.into()),
    }
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

fn mark(api_version: &str, kind: &str, obj: &mut Value, now: jiff::Timestamp, grace: i64) {
    let end = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
    let metadata = metadata_mut(obj);
    metadata.insert("deletionTimestamp".to_owned(), rfc3339(end).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    let namespace = (api_version, kind) == ("v1", "Namespace");
    if namespace && let Some(status) = object_at(obj, &["status"]) {
        status.insert("phase".to_owned(), "Terminating".into());
    }
}

/// A second request may only bring the end nearer.
fn shorten(obj: &mut Value, end: jiff::Timestamp, grace: i64) {
    let metadata = metadata_mut(obj);
    let before = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    if grace >= before {
        return;
    }
    let end = end.checked_sub(jiff::SignedDuration::from_secs(before - grace)).unwrap_or(end);
    metadata.insert("deletionTimestamp".to_owned(), rfc3339(end).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
}
