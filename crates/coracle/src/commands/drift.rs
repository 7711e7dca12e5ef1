//! `coracle drift`: what is no longer as it was applied. Exit code 0: nothing, 2: something, 1: an error, or it cannot be told.

use crate::cli::{Drift, Form};
use crate::commands::say;
use crate::commands::synced::{self, Synced};
use crate::connect::{self, MANAGER};
use crate::exit;
use delivery::api::Api;
use delivery::applyset::Set;
use delivery::drift::{self, Drift as Difference};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) async fn run(arguments: Drift) -> anyhow::Result<ExitCode> {
    match told(&arguments).await {
        Ok(code) => Ok(code),
        Err(error) => {
            exit::report(&error);
            Ok(ExitCode::from(1))
        }
    }
}

async fn told(arguments: &Drift) -> anyhow::Result<ExitCode> {
    let client = connect::client_of(&arguments.at.target).await?;
    let set = Set::new(connect::namespace_of(&client, &arguments.at.scope), arguments.set.clone());
    if set.name.contains('/')
        && let Some(synced) = synced::find(&client, &set.name, &set.namespace).await?
    {
        return of_synced(client, &synced, arguments.answer.output).await;
    }
    let (objects, pods) = drift::drift_to_the_pods(client, &set, MANAGER).await?;
    let (status, reason, message, count) = drift::summary(&objects);
    let told = Told { status, reason: reason.to_owned(), message, count: Some(count), objects, pods };
    Ok(told.say(arguments.answer.output, "every object is as it was applied"))
}

/// What the sync says of an application, which it looks at all the time, and what was patched of its Pods.
async fn of_synced(client: kube::Client, synced: &Synced, form: Form) -> anyhow::Result<ExitCode> {
    if let Some(reason) = synced.nothing_yet() {
        return Err(exit::bad_input(reason));
    }
    let (status, reason, message) = standing(synced);
    let pods = drift::pods::patched(&Api::over(client), synced.members().iter()).await?;
    let others = synced.object["status"]["resources"].as_array();
    let count = match others.filter(|all| !all.is_empty()) {
        Some(all) => Some(all.iter().filter(|one| one["status"] != "Synced").count()),
        None => (status == "False").then_some(0),
    };
    let told = Told { status, reason, message, count, objects: Vec::new(), pods };
    Ok(told.say(form, "every object is as the repository says"))
}

/// Whether an application is as the repository says: status, reason and message of a condition `Drifted`.
fn standing(synced: &Synced) -> (&'static str, String, String) {
    let status = &synced.object["status"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let conditions: Vec<&Value> = status["conditions"].as_array().into_iter().flatten().collect();
    let of = |kind: &str| conditions.iter().find(|one| one["type"] == kind && one["status"] != "False");
    if let Some(drifted) = of("Drifted") {
        return ("True", "Drifted".to_owned(), text(&drifted["message"]));
    }
    let well = || ("False", "AsApplied".to_owned(), String::new());
    if synced.kind == "Kustomization" {
        let Some(ready) = conditions.iter().find(|one| one["type"] == "Ready") else {
            return ("Unknown", "NotLookedAt".to_owned(), "the sync has not looked at it yet".to_owned());
        };
        let (reason, message) = (text(&ready["reason"]), text(&ready["message"]));
        let told =
            if matches!(reason.as_str(), "HealthCheckFailed" | "ReconciliationFailed") { "True" } else { "Unknown" };
        return if ready["status"] == "True" { well() } else { (told, reason, message) };
    }
    let code = status["sync"]["status"].as_str().unwrap_or("Unknown");
    let operation = &status["operationState"];
    // What was as the repository says before anything was brought needed no operation.
    let succeeded = operation["phase"].is_null() || operation["phase"] == "Succeeded";
    let wrong = ["RevisionFailed", "SyncError", "ComparisonError", "InvalidSpecError"].iter().find_map(|kind| of(kind));
    if code == "Synced" && succeeded && wrong.is_none_or(|one| one["type"] == "RevisionFailed") {
        return well();
    }
    let told = if code == "Unknown" { "Unknown" } else { "True" };
    if let Some(wrong) = wrong {
        return (told, text(&wrong["type"]), text(&wrong["message"]));
    }
    let message =
        if succeeded { format!("it is {code}") } else { format!("its last sync: {}", text(&operation["message"])) };
    (told, if succeeded { code.to_owned() } else { format!("Sync{}", text(&operation["phase"])) }, message)
}

/// What is told of a set and of an application alike.
struct Told {
    /// Of the condition: `True`, `False`, or `Unknown` where it cannot be told.
    status: &'static str,
    reason: String,
    message: String,
    /// How many objects are not as they are to be, where that is known.
    count: Option<usize>,
    objects: Vec<Difference>,
    /// None where they may not be looked at.
    pods: Option<Vec<Difference>>,
}

impl Told {
    fn value(&self) -> Value {
        let condition =
            json!({ "type": "Drifted", "status": self.status, "reason": self.reason, "message": self.message });
        json!({ "condition": condition, "objects": self.count, "drift": self.objects, "pods": self.pods })
    }

    fn lines(&self, well: &str) -> Vec<String> {
        let mut lines: Vec<String> = self.objects.iter().map(drift::sentence).collect();
        if lines.is_empty() && self.status != "False" {
            lines.push(format!("{}: {}", self.reason, self.message));
        }
        lines.extend(self.pods.iter().flatten().map(drift::sentence));
        if lines.is_empty() {
            lines.push(well.to_owned());
        }
        if self.pods.is_none() {
            lines.push("Pods were not looked at: you may not list Pods, ReplicaSets and StatefulSets there".to_owned());
        }
        lines
    }

    fn code(&self) -> u8 {
        match self.status {
            "True" => 2,
            _ if self.pods.iter().any(|pods| !pods.is_empty()) => 2,
            "False" => 0,
            _ => 1,
        }
    }

    fn say(&self, form: Form, well: &str) -> ExitCode {
        match form {
            Form::Json => say(&format!("{:#}", self.value())),
            Form::Text => self.lines(well).iter().for_each(|line| say(line)),
        }
        ExitCode::from(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_the_repository_says_is_well() {
        let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason, "message": "why" });
        let of_argo = |kind: &str| json!([{ "type": kind, "message": "why" }]);
        let argo = |code: &str, phase: Value, conditions: Value| {
            let status = json!({ "sync": { "status": code }, "operationState": { "phase": phase, "message": "why" },
                "conditions": conditions });
            ("Application", status)
        };
        let flux = |ready: Value| ("Kustomization", json!({ "conditions": ready }));
        let none = || json!([]);
        for ((kind, status), code, reason) in [
            (argo("Synced", json!("Succeeded"), none()), 0, "AsApplied"),
            (argo("Synced", Value::Null, none()), 0, "AsApplied"),
            (argo("Synced", json!("Succeeded"), of_argo("SpecWarning")), 0, "AsApplied"),
            // It is what the repository says, and not healthy.
            (argo("Synced", json!("Succeeded"), of_argo("RevisionFailed")), 0, "AsApplied"),
            (argo("Synced", json!("Failed"), none()), 2, "SyncFailed"),
            (argo("Synced", json!("Succeeded"), of_argo("ComparisonError")), 2, "ComparisonError"),
            (argo("OutOfSync", json!("Failed"), of_argo("SyncError")), 2, "SyncError"),
            // A bad revision was put back.
            (argo("OutOfSync", json!("Succeeded"), of_argo("RevisionFailed")), 2, "RevisionFailed"),
            (argo("OutOfSync", json!("Succeeded"), none()), 2, "OutOfSync"),
            (argo("OutOfSync", json!("Succeeded"), of_argo("Drifted")), 2, "Drifted"),
            (argo("Unknown", json!("Succeeded"), of_argo("ComparisonError")), 1, "ComparisonError"),
            (("Application", json!({})), 1, "Unknown"),
            (flux(json!([condition("Ready", "True", "ReconciliationSucceeded")])), 0, "AsApplied"),
            (flux(json!([condition("Ready", "False", "HealthCheckFailed")])), 2, "HealthCheckFailed"),
            (flux(json!([condition("Ready", "False", "BuildFailed")])), 1, "BuildFailed"),
            (
                flux(json!([condition("Ready", "Unknown", "Progressing"), condition("Drifted", "True", "Drifted")])),
                2,
                "Drifted",
            ),
            (flux(none()), 1, "NotLookedAt"),
        ] {
            let said = standing(&Synced { kind, object: json!({ "status": status.clone() }) });
            let told =
                Told { status: said.0, reason: said.1, message: said.2, count: None, objects: Vec::new(), pods: None };
            assert_eq!((told.code(), told.reason.as_str()), (code, reason), "{kind} {status}");
            let lines = told.lines("all is well");
            assert_eq!(lines[0] == "all is well", code == 0, "{lines:?}");
            assert!(lines[1].starts_with("Pods were not looked at"), "{lines:?}");
        }
    }
}
