//! How an application stands: for those who wait for it, for a forge, and as the status of its object.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Actor, Stage, Standing};
use crate::sync::application::Front;
use crate::sync::engine::compare;
use crate::sync::report::stamp;

/// After a status that could not be written it is tried again after so many seconds.
const WRITE_AGAIN: i64 = 5;

impl Actor {
    /// Concludes how the application stands.
    pub(super) fn conclude(&mut self) -> Standing {
        let report = &mut self.report;
        let failure = report.target.as_ref().and_then(|target| report.memory.failure(target)).cloned();
        if let Some(failed) = &failure {
            let good = report.memory.good.as_ref().filter(|good| good.content != failed.content);
            let back = match good {
                Some(good) => format!("the last good revision {} is kept in its place", good.content.short()),
                None => "there is no good revision to put in its place".to_owned(),
            };
            let message =
                format!("revision {} failed and is not tried again: {}; {back}", failed.content.short(), failed.reason);
            report.conditions.push(("RevisionFailed", message));
        }
        if let Some(operation) = report.operation.as_ref().filter(|operation| operation.phase == "Failed")
            && failure.is_none()
        {
            let message = format!("Failed sync attempt to {}: {}", operation.content.short(), operation.message);
            report.conditions.push(("SyncError", message));
        }
        if !report.drift.is_empty() {
            report.conditions.push(("Drifted", crate::drift::summary(&report.drift).2));
        }
        report.judging = self.judge.as_ref().is_some_and(|judge| report.target.as_ref() == Some(&judge.content));
        let (stage, message) = self.stage();
        let report = &self.report;
        Standing {
            repositories: self
                .application
                .iter()
                .flat_map(|one| one.sources.iter().map(|source| source.url.clone()))
                .collect(),
            revisions: report.target.as_ref().map(|target| target.revisions.clone()).unwrap_or_default(),
            stage,
            message,
        }
    }

    /// Tells those who wait for it, once the status says it too.
    pub(super) fn publish(&self, standing: Standing) {
        let changed = self.shared.standings.send_if_modified(|all| {
            let changed = all.get(&self.id) != Some(&standing);
            if changed {
                all.insert(self.id.clone(), standing.clone());
            }
            changed
        });
        if let (true, Some(reporter)) = (changed, &self.shared.statuses) {
            reporter.tell(&self.id, &standing);
        }
    }

    fn stage(&self) -> (Stage, String) {
        let report = &self.report;
        let wrong = report.conditions.iter().find(|(kind, _)| {
            !matches!(*kind, "SpecWarning" | "SourceError" | "BreakGlass" | "Drifted" | "SyncWindow" | "SyncLocked")
        });
        let locked = report.conditions.iter().find(|(kind, _)| *kind == "SyncLocked");
        let (health, why) = report.health();
        let going = report.operation.as_ref().filter(|operation| operation.finished.is_none());
        if let (Some((_, message)), None) = (locked, wrong) {
            let stage = if going.is_some() { Stage::Working } else { Stage::Failed };
            return (stage, message.clone());
        }
        if let (Some(operation), None) = (going, wrong) {
            return (Stage::Working, format!("syncing {} {}", operation.content.short(), operation.message));
        }
        if let Some((_, message)) = wrong {
            return (Stage::Failed, message.clone());
        }
        if let Some(waiting) = report.building.as_ref().or(report.waiting.as_ref()) {
            return (Stage::Working, waiting.clone());
        }
        if report.target.is_none() || !report.compared {
            return (Stage::Unknown, "not looked at yet".to_owned());
        }
        if report.judging {
            return (Stage::Working, format!("waiting for health: {}", why.join("; ")));
        }
        let kept = report.states.iter().filter(|state| state.extra).count();
        match (self.differs(), health) {
            (false, crate::health::Status::Healthy | crate::health::Status::Suspended) => {
                let more =
                    if kept == 0 { String::new() } else { format!("; {kept} more are kept, which it does not name") };
                (Stage::Live, format!("{} objects are live and healthy{more}", report.states.len() - kept))
            }
            (false, _) => (Stage::Working, format!("waiting for health: {}", why.join("; "))),
            _ if self.application.as_ref().is_some_and(|one| one.policy.automated.is_none()) => {
                (Stage::Held, "it differs, and is synced only when asked".to_owned())
            }
            _ if report.conditions.iter().any(|(kind, _)| *kind == "SyncWindow") => {
                let found = report.conditions.iter().find(|(kind, _)| *kind == "SyncWindow");
                (Stage::Held, found.map(|(_, message)| message.clone()).unwrap_or_default())
            }
            _ if self.is_held() => (Stage::Held, "it differs, and is not synced for now".to_owned()),
            _ => (Stage::Working, "it differs and will be synced".to_owned()),
        }
    }

    /// Whether a difference is left as it is: syncing is suspended, or what others change is not undone.
    fn is_held(&self) -> bool {
        let Some(application) = &self.application else { return false };
        let brought = self.report.memory.last().is_some_and(|last| Some(&last.content) == self.report.target.as_ref());
        let left = application.policy.automated.is_some_and(|automated| !automated.self_heal);
        let glass = self.report.conditions.iter().any(|(kind, _)| *kind == "BreakGlass");
        application.suspended || glass || (brought && left)
    }

    pub(super) async fn write(&mut self, object: &Value, now: Timestamp) {
        let before = self.written.as_ref().unwrap_or(&object["status"]);
        let mut known = object.clone();
        known["status"] = before.clone();
        let mut after = match self.id.front {
            Front::Argo => self.report.argo(&known, now),
            Front::Flux => self.report.flux(self.application.as_ref(), &known, now),
        };
        let Some(_) = difference(before, &after) else { return };
        if self.id.front == Front::Argo {
            after["reconciledAt"] = stamp(now).into();
        }
        let Some(patch) = difference(before, &after) else { return };
        let path = match self.id.front {
            Front::Argo => self.id.path(),
            Front::Flux => format!("{}/status", self.id.path()),
        };
        match self.shared.api.merge(&path, &json!({ "status": patch }), compare::MANAGER).await {
            Ok(_) => self.written = Some(after),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::warn!(application = %self.id, %error, "the status could not be written; it is tried again");
                self.written = None;
                self.look_later(WRITE_AGAIN);
            }
        }
    }
}

/// The merge patch (RFC 7396) that makes one value out of another; none where they are alike.
fn difference(before: &Value, after: &Value) -> Option<Value> {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else {
        return (before != after).then(|| after.clone());
    };
    let mut patch = serde_json::Map::new();
    for (name, value) in new.iter().filter(|(_, value)| !value.is_null()) {
        match old.get(name) {
            Some(known) => drop(difference(known, value).map(|change| patch.insert(name.clone(), change))),
            None => drop(patch.insert(name.clone(), without_nulls(value))),
        }
    }
    for name in old.keys().filter(|name| new.get(*name).is_none_or(Value::is_null)) {
        patch.insert(name.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_by_what_differs() {
        let before = json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [1, 2] });
        for (after, wanted) in [
            (before.clone(), None),
            (json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [1, 2], "x": null }), None),
            (json!({ "a": 1, "b": { "c": 4 }, "e": [1] }), Some(json!({ "b": { "c": 4, "d": null }, "e": [1] }))),
            (json!({ "a": null, "b": { "c": 2, "d": 3 }, "e": [1, 2] }), Some(json!({ "a": null }))),
        ] {
            assert_eq!(difference(&before, &after), wanted, "{after}");
        }
    }
}
