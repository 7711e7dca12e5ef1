//! The status of a definition: which names it got and whether it is served.
//!
//! Invariant: a condition's transition time changes only with its status.

use serde_json::{Value, json};

use super::{list, storage_version, text, texts};

/// Names another definition or a built-in kind of the same group already has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Plural, singular and short names.
    pub resources: Vec<String>,
    /// Kinds and list kinds.
    pub kinds: Vec<String>,
}

/// Writes `status` of a (completed, valid) definition: accepted names, stored versions, `NamesAccepted` and
/// `Established`. `now` is RFC 3339.
pub fn establish(definition: &mut Value, taken: &Taken, now: &str) {
    let conflict = conflict(&definition["spec"]["names"], taken);
    let storage = storage_version(definition).unwrap_or_default().to_owned();
    let names = definition["spec"]["names"].clone();
    let status = &mut definition["status"];
    if !status.is_object() {
        *status = json!({});
    }
    if conflict.is_none() || !status["acceptedNames"].is_object() {
        let accepted = if conflict.is_none() { names } else { json!({"kind": "", "plural": ""}) };
        status["acceptedNames"] = accepted;
    }
    let mut stored = texts(&status["storedVersions"]);
    if !storage.is_empty() && !stored.contains(&storage) {
        stored.push(storage);
    }
    status["storedVersions"] = stored.into();
    match conflict {
        None => {
            set(status, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now);
            let message = "the initial names have been accepted";
            set(status, "Established", "True", "InitialNamesAccepted", message, now);
        }
        Some((reason, message)) => {
            set(status, "NamesAccepted", "False", reason, &message, now);
            // Once established, a definition stays so under its accepted names.
            if !list(&status["conditions"]).iter().any(|c| c["type"] == "Established") {
                let message = "not all names are accepted";
                set(status, "Established", "False", "NotAccepted", message, now);
            }
        }
    }
}

fn conflict(names: &Value, taken: &Taken) -> Option<(&'static str, String)> {
    let resource = |name: &str| taken.resources.iter().any(|t| t == name);
    let kind = |name: &str| taken.kinds.iter().any(|t| t == name);
    let message = |name: &str| format!("{name:?} is already in use");
    for (field, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        if resource(text(names, field)) {
            return Some((reason, message(text(names, field))));
        }
    }
    if let Some(short) = texts(&names["shortNames"]).iter().find(|s| resource(s)) {
        return Some(("ShortNamesConflict", message(short)));
    }
    for (field, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        if kind(text(names, field)) {
            return Some((reason, message(text(names, field))));
        }
    }
    None
}

fn set(status: &mut Value, kind: &str, state: &str, reason: &str, message: &str, now: &str) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else {
        return;
    };
    let since = conditions
        .iter()
        .find(|c| c["type"] == kind && c["status"] == state)
        .and_then(|c| c["lastTransitionTime"].as_str())
        .unwrap_or(now)
        .to_owned();
    let condition = json!({
        "type": kind, "status": state, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}
