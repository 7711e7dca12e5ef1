//! What is known of an application, and how it is written into the status of Argo CD's and of Flux's kinds.
//!
//! Pure. Beside the fields of those kinds stands `status.coracle`: the last good content, the contents that failed, and the last
//! sync. It is what is remembered over a restart.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::application::Application;
use super::engine::compare::{Code, State, worst};
use super::engine::decide::{Content, Last};
use super::engine::operation::Done;
use super::manifests::Made;
use crate::health::Status;

/// How many contents that failed are remembered.
const FAILED: usize = 10;

/// A content that failed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which.
    pub content: Content,
    /// Why, in words.
    pub reason: String,
    /// When it was given up.
    pub at: String,
}

/// A content that was healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// Which.
    pub content: Content,
    /// Since when.
    pub at: String,
}

/// One sync that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployed {
    /// Counts up.
    pub id: u64,
    /// The first source's commit.
    pub revision: String,
    /// When it began and ended.
    pub deploy_started_at: String,
    /// When it ended.
    pub deployed_at: String,
    /// Who asked.
    pub initiated_by: Value,
    /// The sources.
    pub source: Value,
    /// The commit's author and message.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub commit: Value,
}

impl Deployed {
    /// The syncs that a Kustomization's status keeps, oldest first: as [`Report::flux`] writes them, or as Flux had done.
    #[must_use]
    pub fn of_flux(status: &Value) -> Vec<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entries = status["history"].as_array().into_iter().flatten().rev();
        let done = entries.filter(|one| one["lastReconciledStatus"] == "ReconciliationSucceeded");
        let one = |(id, one): (u64, &Value)| {
            let metadata = &one["metadata"];
            // Flux has the branch and the algorithm before it: `main@sha1:…`.
            let revision = metadata["revision"].as_str().unwrap_or_default();
            let known = metadata["author"].is_string() || metadata["message"].is_string();
            let commit = json!({ "author": metadata["author"], "message": metadata["message"] });
            Self {
                id,
                revision: revision.rsplit(':').next().unwrap_or(revision).to_owned(),
                deploy_started_at: text(&one["firstReconciled"]),
                deployed_at: text(&one["lastReconciled"]),
                initiated_by: Value::Null,
                source: Value::Null,
                commit: if known { commit } else { Value::Null },
            }
        };
        (0..).zip(done).map(one).collect()
    }
}

/// What outlives a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// The last content that was healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good: Option<Good>,
    /// Contents that failed, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Failed>,
    /// What is being brought. It is written before the first object is, so that a sync that was cut short is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_way: Option<Content>,
    /// The last sync: content, outcome, attempts, time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastSync>,
}

/// As [`Last`], with a time as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSync {
    content: Content,
    succeeded: bool,
    attempts: u32,
    at: String,
}

impl Memory {
    /// Reads it from an object's status.
    #[must_use]
    pub fn of(status: &Value) -> Self {
        serde_json::from_value(status["coracle"].clone()).unwrap_or_default()
    }

    /// The last sync.
    #[must_use]
    pub fn last(&self) -> Option<Last> {
        let last = self.last.as_ref()?;
        let at = last.at.parse().ok()?;
        Some(Last { content: last.content.clone(), succeeded: last.succeeded, attempts: last.attempts, at })
    }

    /// Remembers a sync.
    pub fn synced(&mut self, last: &Last) {
        let at = last.at.to_string();
        self.last =
            Some(LastSync { content: last.content.clone(), succeeded: last.succeeded, attempts: last.attempts, at });
    }

    /// Remembers that a content is bad.
    pub fn fail(&mut self, content: &Content, reason: &str, now: Timestamp) {
        self.failed.retain(|one| one.content != *content);
        let reason = reason.chars().take(2000).collect();
        self.failed.insert(0, Failed { content: content.clone(), reason, at: stamp(now) });
        self.failed.truncate(FAILED);
    }

    /// Forgets that a content was bad: it is to be judged again.
    pub fn forgive(&mut self, content: &Content) {
        self.failed.retain(|one| one.content != *content);
    }

    /// Remembers that a content is good.
    pub fn approve(&mut self, content: &Content, now: Timestamp) {
        self.failed.retain(|one| one.content != *content);
        if self.good.as_ref().is_none_or(|good| good.content != *content) {
            self.good = Some(Good { content: content.clone(), at: stamp(now) });
        }
    }

    /// Why a content failed.
    #[must_use]
    pub fn failure(&self, content: &Content) -> Option<&Failed> {
        self.failed.iter().find(|one| one.content == *content)
    }
}

/// A sync that goes on or has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// `Running`, `Succeeded`, `Failed`, `Error` or `Terminating`.
    pub phase: &'static str,
    /// In words.
    pub message: String,
    /// What it brings.
    pub content: Content,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// How often it was tried again.
    pub retries: u32,
    /// What asked for it, as `operation` has it.
    pub operation: Value,
    /// What became of each object.
    pub done: Vec<Done>,
}

/// Everything that is said about an application.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What the repository says.
    pub target: Option<Content>,
    /// The revision as Flux writes it.
    pub flux_revision: String,
    /// The commit of the target: author, date, message.
    pub commit: Value,
    /// How the manifests came to be.
    pub made: Option<Made>,
    /// Every object, compared.
    pub states: Vec<State>,
    /// Whether the comparison is of the target.
    pub compared: bool,
    /// The sync that goes on, or the last one.
    pub operation: Option<Operation>,
    /// Syncs that were made, oldest first.
    pub history: Vec<Deployed>,
    /// What outlives a restart.
    pub memory: Memory,
    /// Type and message of everything that is wrong.
    pub conditions: Vec<(&'static str, String)>,
    /// Whether the gate is still open on what was applied.
    pub judging: bool,
    /// What is awaited before anything is done.
    pub waiting: Option<String>,
    /// What others changed of what was brought.
    pub drift: Vec<crate::drift::Drift>,
    /// The programs that are being made for the target.
    pub building: Option<String>,
}

/// A time as the API writes it.
#[must_use]
pub fn stamp(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

impl Report {
    /// Whether all is as the repository says.
    #[must_use]
    pub fn code(&self) -> Code {
        if !self.compared {
            return Code::Unknown;
        }
        self.states.iter().map(|state| state.code).max().unwrap_or(Code::Synced)
    }

    /// The worst health, and who has it.
    #[must_use]
    pub fn health(&self) -> (Status, Vec<String>) {
        if self.states.is_empty() && !self.compared { (Status::Unknown, Vec::new()) } else { worst(&self.states) }
    }

    fn revision(&self) -> String {
        self.target.as_ref().and_then(|target| target.revisions.first().cloned()).unwrap_or_default()
    }

    /// The status of an `Application`. `before` is what is there, whose times stay where nothing changed.
    #[must_use]
    pub fn argo(&self, object: &Value, now: Timestamp) -> Value {
        let before = &object["status"];
        let (health, why) = self.health();
        let since =
            if before["health"]["status"] == health.as_str() && before["health"]["lastTransitionTime"].is_string() {
                before["health"]["lastTransitionTime"].clone()
            } else {
                stamp(now).into()
            };
        let many = object["spec"]["sources"].as_array().is_some_and(|all| !all.is_empty());
        let mut compared = json!({ "destination": object["spec"]["destination"] });
        compared[if many { "sources" } else { "source" }] =
            object["spec"][if many { "sources" } else { "source" }].clone();
        let mut sync = json!({ "status": self.code().as_str(), "comparedTo": compared });
        if let Some(target) = &self.target {
            if many {
                sync["revisions"] = json!(target.revisions);
            } else {
                sync["revision"] = self.revision().into();
            }
        }
        let conditions: Vec<Value> = self
            .conditions
            .iter()
            .map(|(kind, message)| {
                let known = before["conditions"].as_array().into_iter().flatten();
                let known = known.clone().find(|one| one["type"] == *kind && one["message"] == message.as_str());
                let at = known.map_or_else(|| stamp(now).into(), |known| known["lastTransitionTime"].clone());
                json!({ "type": kind, "message": message, "lastTransitionTime": at })
            })
            .collect();
        let mut health = json!({ "status": health.as_str(), "lastTransitionTime": since });
        if !why.is_empty() {
            health["message"] = why.iter().take(5).cloned().collect::<Vec<_>>().join("; ").into();
        }
        let mut status = json!({
            "sync": sync, "health": health,
            "resources": self.states.iter().map(resource).collect::<Vec<_>>(),
            "conditions": conditions, "history": self.history, "coracle": self.memory,
            "sourceType": self.made.map(Made::as_str), "reconciledAt": before["reconciledAt"],
        });
        status["operationState"] = self
            .operation
            .as_ref()
            .map_or(before["operationState"].clone(), |operation| operation_state(operation, object));
        status
    }

    /// The status of a `Kustomization`.
    #[must_use]
    pub fn flux(&self, application: Option<&Application>, object: &Value, now: Timestamp) -> Value {
        let before = &object["status"];
        let (ready, reason, message) = self.ready(application);
        let mut conditions = Vec::new();
        conditions.push(condition(before, object, ("Ready", ready, reason, &message), now));
        if ready == "Unknown" {
            conditions.push(condition(before, object, ("Reconciling", "True", "Progressing", &message), now));
        }
        if self.conditions.iter().any(|(kind, _)| *kind == "InvalidSpecError") {
            conditions.push(condition(before, object, ("Stalled", "True", "InvalidSpec", &message), now));
        }
        if !self.drift.is_empty() {
            let message = crate::drift::summary(&self.drift).2;
            conditions.push(condition(before, object, ("Drifted", "True", "Drifted", &message), now));
        }
        let (health, why) = self.health();
        if application.is_some_and(|application| application.policy.wait) && self.compared {
            let good = if health == Status::Healthy { ("True", "Succeeded") } else { ("False", "HealthCheckFailed") };
            conditions.push(condition(before, object, ("Healthy", good.0, good.1, &why.join("; ")), now));
        }
        let succeeded = self.memory.last.as_ref().is_some_and(|last| last.succeeded);
        let entries: Vec<Value> = self
            .states
            .iter()
            .filter(|state| !state.extra)
            .map(|state| {
                let id = &state.id;
                json!({ "id": format!("{}_{}_{}_{}", id.namespace, id.name, id.group, id.kind), "v": state.version })
            })
            .collect();
        let mut status = json!({
            "observedGeneration": object["metadata"]["generation"], "conditions": conditions,
            "inventory": { "entries": entries }, "coracle": self.memory, "history": self.flux_history(),
            "lastAppliedRevision": before["lastAppliedRevision"], "lastAttemptedRevision": before["lastAttemptedRevision"],
            "lastHandledReconcileAt": super::front::flux::requested_at(object),
        });
        if !self.flux_revision.is_empty() {
            status["lastAttemptedRevision"] = self.flux_revision.as_str().into();
            let of_target = self.memory.last.as_ref().map(|last| &last.content) == self.target.as_ref();
            let in_sync = self.compared && self.code() == Code::Synced;
            if (succeeded && of_target) || in_sync {
                status["lastAppliedRevision"] = self.flux_revision.as_str().into();
            }
        }
        status
    }

    fn flux_history(&self) -> Vec<Value> {
        let one = |one: &Deployed| {
            json!({ "digest": format!("sha1:{}", one.revision), "firstReconciled": one.deploy_started_at,
                "lastReconciled": one.deployed_at, "lastReconciledStatus": "ReconciliationSucceeded", "totalReconciliations": 1,
                "metadata": { "revision": one.revision, "author": one.commit["author"], "message": one.commit["message"] } })
        };
        self.history.iter().rev().take(5).map(one).collect()
    }

    /// Flux's condition Ready: status, reason, message.
    #[must_use]
    pub fn ready(&self, application: Option<&Application>) -> (&'static str, &'static str, String) {
        if application.is_some_and(|application| application.suspended) {
            return ("Unknown", "Suspended", "reconciliation is suspended".to_owned());
        }
        if let Some((kind, message)) = self.conditions.iter().find(|(kind, _)| *kind != "Drifted") {
            let reason = match *kind {
                "InvalidSpecError" => "InvalidSpec",
                "ComparisonError" => "BuildFailed",
                "RevisionFailed" => "HealthCheckFailed",
                "SyncLocked" => "Locked",
                _ => "ReconciliationFailed",
            };
            return ("False", reason, message.clone());
        }
        if let Some(building) = &self.building {
            return ("Unknown", "Progressing", building.clone());
        }
        if let Some(waiting) = &self.waiting {
            return ("False", "DependencyNotReady", waiting.clone());
        }
        let running = self.operation.as_ref().is_some_and(|operation| operation.finished.is_none());
        if running || !self.compared {
            return ("Unknown", "Progressing", format!("Reconciling {}", self.flux_revision));
        }
        let (health, why) = self.health();
        if application.is_some_and(|application| application.policy.wait) && health != Status::Healthy {
            return ("Unknown", "Progressing", format!("waiting for health: {}", why.join("; ")));
        }
        if self.code() != Code::Synced {
            return ("Unknown", "Progressing", format!("not yet as {} says", self.flux_revision));
        }
        ("True", "ReconciliationSucceeded", format!("Applied revision: {}", self.flux_revision))
    }
}

fn condition(before: &Value, object: &Value, said: (&str, &str, &str, &str), now: Timestamp) -> Value {
    let (kind, status, reason, message) = said;
    let mut known = before["conditions"].as_array().into_iter().flatten();
    let known = known.find(|one| one["type"] == kind && one["status"] == status);
    let at = known.map_or_else(|| stamp(now).into(), |known| known["lastTransitionTime"].clone());
    let message: String = message.chars().take(4000).collect();
    json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at,
        "observedGeneration": object["metadata"]["generation"] })
}

fn resource(state: &State) -> Value {
    let mut one = json!({ "group": state.id.group, "version": state.version, "kind": state.id.kind, "name": state.id.name,
        "status": state.code.as_str() });
    if !state.id.namespace.is_empty() {
        one["namespace"] = state.id.namespace.as_str().into();
    }
    if let Some(health) = &state.health {
        one["health"] = json!({ "status": health.status.as_str() });
        if !health.message.is_empty() {
            one["health"]["message"] = health.message.as_str().into();
        }
    }
    if state.extra {
        one["requiresPruning"] = true.into();
    }
    if state.wave != 0 {
        one["syncWave"] = state.wave.into();
    }
    one
}

fn operation_state(operation: &Operation, object: &Value) -> Value {
    let results: Vec<Value> = operation
        .done
        .iter()
        .map(|done| {
            let mut one = json!({ "group": done.id.group, "version": done.version, "kind": done.id.kind,
            "namespace": done.id.namespace, "name": done.id.name, "status": done.status, "message": done.message,
            "syncPhase": done.phase.as_str() });
            if let Some(hook) = done.hook {
                one["hookPhase"] = hook.into();
                one["hookType"] = done.phase.as_str().into();
            } else {
                one["hookPhase"] = (if done.status == "Synced" { "Running" } else { "Failed" }).into();
            }
            one
        })
        .collect();
    let revision = operation.content.revisions.first().cloned().unwrap_or_default();
    let mut state = json!({ "operation": operation.operation, "phase": operation.phase, "message": operation.message,
        "startedAt": stamp(operation.started),
        "syncResult": { "revision": revision, "resources": results, "source": object["spec"]["source"] } });
    if let Some(finished) = operation.finished {
        state["finishedAt"] = stamp(finished).into();
    }
    if operation.retries > 0 {
        state["retryCount"] = operation.retries.into();
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployed(id: u64, revision: &str, commit: Value) -> Deployed {
        Deployed {
            id,
            revision: revision.to_owned(),
            deploy_started_at: format!("2026-01-0{}T00:00:00Z", id + 1),
            deployed_at: format!("2026-01-0{}T00:00:05Z", id + 1),
            initiated_by: Value::Null,
            source: Value::Null,
            commit,
        }
    }

    #[test]
    fn the_history_of_a_kustomization_is_read_as_it_is_written() {
        let history = vec![
            deployed(0, "aaa", Value::Null),
            deployed(1, "bbb", json!({ "author": "Ann", "message": "Second" })),
            deployed(2, "ccc", json!({ "author": "Bob", "message": "Third" })),
        ];
        let report = Report { history: history.clone(), ..Report::default() };
        let status = report.flux(None, &json!({}), Timestamp::UNIX_EPOCH);
        assert_eq!(status["history"][0]["metadata"]["author"], "Bob");
        assert_eq!(Deployed::of_flux(&status), history);
    }

    #[test]
    fn the_history_that_flux_wrote_is_taken_over() {
        let status = json!({ "history": [
            { "digest": "sha256:1", "firstReconciled": "2026-01-02T00:00:00Z", "lastReconciled": "2026-01-02T00:00:05Z",
                "lastReconciledStatus": "HealthCheckFailed", "metadata": { "revision": "main@sha1:bbb" } },
            { "digest": "sha256:0", "firstReconciled": "2026-01-01T00:00:00Z", "lastReconciled": "2026-01-01T00:00:05Z",
                "lastReconciledStatus": "ReconciliationSucceeded", "metadata": { "revision": "main@sha1:aaa" } },
        ] });
        assert_eq!(Deployed::of_flux(&status), [deployed(0, "aaa", Value::Null)]);
        assert_eq!(Deployed::of_flux(&json!({})), []);
    }
}
