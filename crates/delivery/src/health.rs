//! Whether an object works, by Argo CD's table: a pure reading of the object as it is now.
//!
//! Invariants: an object that is being deleted is never healthy; an object whose newest spec nobody has looked at yet is
//! progressing. Kinds that Argo CD has no rule for follow kstatus' conditions (`Stalled`, `Reconciling`, `Ready`), and
//! are healthy by being there when they have none of them.

use crate::object;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How an object is, the worse the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// It works.
    Healthy,
    /// It rests because it was told to.
    Suspended,
    /// It is on its way.
    Progressing,
    /// It is not there.
    Missing,
    /// It failed, or will not get there in its time.
    Degraded,
    /// It cannot be told.
    Unknown,
}

impl Status {
    /// The word as Argo CD writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Suspended => "Suspended",
            Self::Progressing => "Progressing",
            Self::Missing => "Missing",
            Self::Degraded => "Degraded",
            Self::Unknown => "Unknown",
        }
    }
}

/// An object's health, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// How it is.
    pub status: Status,
    /// What is awaited or wrong; empty where there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Health {
    /// Whether nothing is to be waited for.
    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(self.status, Status::Healthy | Status::Suspended)
    }
}

fn is(status: Status, message: impl Into<String>) -> Health {
    Health { status, message: message.into() }
}

fn healthy() -> Health {
    is(Status::Healthy, "")
}

/// The health of an object that is there.
pub fn health(object: &Value) -> Health {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return is(Status::Progressing, "Pending deletion");
    }
    let group = crate::object::group(object);
    match (group, crate::object::kind(object)) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ReplicaSet") => replica_set(object),
        ("", "Pod") => pod(object),
        ("", "PersistentVolumeClaim") => claim(object),
        ("", "Service") => service(object),
        ("networking.k8s.io" | "extensions", "Ingress") => balanced(object),
        ("batch", "Job") => job(object),
        ("batch", "CronJob") if object["spec"]["suspend"] == true => is(Status::Suspended, "CronJob is suspended"),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object),
        ("apiregistration.k8s.io", "APIService") => match condition(object, "Available") {
            Some(available) if available["status"] == "True" => is(Status::Healthy, said(available)),
            Some(other) => is(Status::Progressing, said(other)),
            None => is(Status::Progressing, "Waiting to be processed"),
        },
        ("gateway.networking.k8s.io", "Gateway") => gateway(object),
        ("gateway.networking.k8s.io", kind) if kind.ends_with("Route") => route(object),
        _ => by_conditions(object),
    }
}

/// The worst of several; healthy when there are none.
pub fn worst(all: impl IntoIterator<Item = Status>) -> Status {
    all.into_iter().max().unwrap_or(Status::Healthy)
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    condition_in(&object["status"]["conditions"], kind)
}

fn condition_in<'a>(conditions: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == kind)
}

fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

fn said(condition: &Value) -> String {
    let text = |name: &str| condition[name].as_str().unwrap_or_default();
    match (text("reason"), text("message")) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn observed(object: &Value) -> bool {
    object["status"]["observedGeneration"].as_i64().unwrap_or(0)
        >= object["metadata"]["generation"].as_i64().unwrap_or(0)
}

fn count(object: &Value, name: &str) -> i64 {
    object["status"][name].as_i64().unwrap_or(0)
}

fn deployment(object: &Value) -> Health {
    if object["spec"]["paused"] == true {
        return is(Status::Suspended, "Deployment is paused");
    }
    if !observed(object) {
        return is(
            Status::Progressing,
            "Waiting for rollout to finish: observed deployment generation less than desired generation",
        );
    }
    if let Some(stuck) = condition(object, "Progressing").filter(|c| c["reason"] == "ProgressDeadlineExceeded") {
        let said = stuck["message"].as_str().unwrap_or("it exceeded its progress deadline");
        return is(Status::Degraded, said);
    }
    if let Some(failure) = condition(object, "ReplicaFailure").filter(|c| c["status"] == "True") {
        return is(Status::Degraded, said(failure));
    }
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let (updated, all, available) =
        (count(object, "updatedReplicas"), count(object, "replicas"), count(object, "availableReplicas"));
    let waiting = |what: String| is(Status::Progressing, format!("Waiting for rollout to finish: {what}"));
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated..."));
    }
    if all > updated {
        return waiting(format!("{} old replicas are pending termination...", all - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available..."));
    }
    healthy()
}

fn stateful_set(object: &Value) -> Health {
    if count(object, "observedGeneration") == 0 || !observed(object) {
        return is(Status::Progressing, "Waiting for statefulset spec update to be observed...");
    }
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let ready = count(object, "readyReplicas");
    if ready < wanted {
        return is(Status::Progressing, format!("Waiting for {} pods to be ready...", wanted - ready));
    }
    let strategy = &object["spec"]["updateStrategy"];
    let partition = strategy["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
    if strategy["type"] == "RollingUpdate" && partition > 0 {
        let updated = count(object, "updatedReplicas");
        if updated < wanted - partition {
            let of = wanted - partition;
            let what = format!(
                "Waiting for partitioned roll out to finish: {updated} out of {of} new pods have been updated..."
            );
            return is(Status::Progressing, what);
        }
        return is(Status::Healthy, format!("partitioned roll out complete: {updated} new pods have been updated..."));
    }
    let status = &object["status"];
    if strategy["type"] != "OnDelete" && status["updateRevision"] != status["currentRevision"] {
        let updated = count(object, "updatedReplicas");
        return is(
            Status::Progressing,
            format!(
                "waiting for statefulset rolling update to complete {updated} pods at revision {}...",
                status["updateRevision"].as_str().unwrap_or_default()
            ),
        );
    }
    healthy()
}

fn daemon_set(object: &Value) -> Health {
    if !observed(object) {
        return is(
            Status::Progressing,
            "Waiting for rollout to finish: observed daemon set generation less than desired generation",
        );
    }
    if object["spec"]["updateStrategy"]["type"] == "OnDelete" {
        return healthy();
    }
    let wanted = count(object, "desiredNumberScheduled");
    for (name, word) in [("updatedNumberScheduled", "updated"), ("numberAvailable", "available")] {
        let there = count(object, name);
        if there < wanted {
            return is(
                Status::Progressing,
                format!("Waiting for daemon set rollout to finish: {there} of {wanted} pods are {word}..."),
            );
        }
    }
    healthy()
}

fn replica_set(object: &Value) -> Health {
    if !observed(object) {
        return is(
            Status::Progressing,
            "Waiting for rollout to finish: observed replica set generation less than desired generation",
        );
    }
    if let Some(failure) = condition(object, "ReplicaFailure").filter(|c| c["status"] == "True") {
        return is(Status::Degraded, said(failure));
    }
    let (wanted, available) = (object["spec"]["replicas"].as_i64().unwrap_or(1), count(object, "availableReplicas"));
    if available < wanted {
        return is(
            Status::Progressing,
            format!("Waiting for rollout to finish: {available} out of {wanted} new replicas are available..."),
        );
    }
    healthy()
}

fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    lists.into_iter().flat_map(|list| object["status"][list].as_array().into_iter().flatten())
}

fn pod(object: &Value) -> Health {
    let always = matches!(object["spec"]["restartPolicy"].as_str(), None | Some("Always"));
    if always {
        for container in containers(object) {
            let waiting = &container["state"]["waiting"];
            let reason = waiting["reason"].as_str().unwrap_or_default();
            if reason.starts_with("Err") || reason.ends_with("Error") || reason.ends_with("BackOff") {
                let message = waiting["message"].as_str().unwrap_or_default();
                let colon = if message.is_empty() { "" } else { ": " };
                return is(Status::Degraded, format!("{reason}{colon}{message}"));
            }
        }
    }
    let text = |name: &str| object["status"][name].as_str().unwrap_or_default();
    match text("phase") {
        "Pending" | "" => is(Status::Progressing, text("message")),
        "Succeeded" => is(Status::Healthy, text("message")),
        "Failed" => {
            if !text("message").is_empty() {
                return is(Status::Degraded, text("message"));
            }
            let ended = containers(object).find_map(|container| {
                let ended = &container["state"]["terminated"];
                let code = ended["exitCode"].as_i64().filter(|code| *code != 0)?;
                let name = container["name"].as_str().unwrap_or_default();
                Some(match ended["message"].as_str().filter(|m| !m.is_empty()) {
                    Some(message) => crate::mask::without_passwords(message),
                    None if ended["reason"] == "OOMKilled" => "OOMKilled".to_owned(),
                    None => format!("container {name:?} failed with exit code {code}"),
                })
            });
            is(Status::Degraded, ended.unwrap_or_default())
        }
        "Running" if always => {
            if holds(object, "Ready") {
                return is(Status::Healthy, text("message"));
            }
            let failed = containers(object).any(|container| container["lastState"]["terminated"].is_object());
            is(if failed { Status::Degraded } else { Status::Progressing }, text("message"))
        }
        "Running" => is(Status::Progressing, text("message")),
        _ => is(Status::Unknown, text("message")),
    }
}

fn claim(object: &Value) -> Health {
    match object["status"]["phase"].as_str() {
        Some("Lost") => is(Status::Degraded, "the claim has lost its volume"),
        Some("Bound") => healthy(),
        None | Some("Pending") => is(Status::Progressing, "not bound"),
        Some(_) => is(Status::Unknown, ""),
    }
}

fn balanced(object: &Value) -> Health {
    if object["status"]["loadBalancer"]["ingress"].as_array().is_some_and(|all| !all.is_empty()) {
        healthy()
    } else {
        is(Status::Progressing, "it has no address yet")
    }
}

fn service(object: &Value) -> Health {
    if object["spec"]["type"] == "LoadBalancer" { balanced(object) } else { healthy() }
}

fn job(object: &Value) -> Health {
    if let Some(failed) = condition(object, "Failed").filter(|c| c["status"] == "True") {
        return is(Status::Degraded, said(failed));
    }
    if holds(object, "Suspended") {
        return is(Status::Suspended, "Job is suspended");
    }
    if let Some(complete) = condition(object, "Complete").filter(|c| c["status"] == "True") {
        return is(Status::Healthy, complete["message"].as_str().unwrap_or_default());
    }
    is(Status::Progressing, "")
}

fn autoscaler(object: &Value) -> Health {
    const FAILED: [&str; 6] = [
        "FailedGetScale",
        "FailedUpdateScale",
        "FailedGetResourceMetric",
        "FailedGetObjectMetric",
        "FailedGetExternalMetric",
        "InvalidSelector",
    ];
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    for condition in conditions {
        if condition["status"] == "False" && FAILED.iter().any(|reason| condition["reason"] == *reason) {
            return is(Status::Degraded, said(condition));
        }
    }
    let able = conditions
        .iter()
        .any(|c| (c["type"] == "AbleToScale" || c["type"] == "ScalingLimited") && c["status"] == "True");
    if able { healthy() } else { is(Status::Progressing, "Waiting to Autoscale") }
}

fn definition(object: &Value) -> Health {
    if let Some(refused) = condition(object, "NamesAccepted").filter(|c| c["status"] == "False") {
        return is(Status::Degraded, said(refused));
    }
    if holds(object, "Established") { healthy() } else { is(Status::Progressing, "not established yet") }
}

fn gateway(object: &Value) -> Health {
    let Some(programmed) = condition(object, "Programmed") else { return is(Status::Progressing, "not looked at yet") };
    if programmed["observedGeneration"].as_i64() < object["metadata"]["generation"].as_i64() {
        return is(Status::Progressing, "not looked at yet");
    }
    match (programmed["status"].as_str(), programmed["reason"].as_str()) {
        (Some("True"), _) => healthy(),
        (Some("False"), Some(reason)) if reason != "Pending" => is(Status::Degraded, said(programmed)),
        _ => is(Status::Progressing, said(programmed)),
    }
}

fn route(object: &Value) -> Health {
    let parents = object["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if parents.is_empty() {
        return is(Status::Progressing, "no parent has looked at it yet");
    }
    for parent in parents {
        for kind in ["Accepted", "ResolvedRefs"] {
            let Some(condition) = condition_in(&parent["conditions"], kind) else { continue };
            if condition["observedGeneration"].as_i64() < object["metadata"]["generation"].as_i64() {
                return is(Status::Progressing, "not looked at yet");
            }
            if condition["status"] == "False" {
                return is(Status::Degraded, said(condition));
            }
        }
    }
    healthy()
}

/// kstatus' reading of conditions, for kinds that have no rule of their own.
fn by_conditions(object: &Value) -> Health {
    if object["status"]["observedGeneration"].is_i64() && !observed(object) {
        return is(Status::Progressing, "not looked at yet");
    }
    if let Some(stalled) = condition(object, "Stalled").filter(|c| c["status"] == "True") {
        return is(Status::Degraded, said(stalled));
    }
    if let Some(reconciling) = condition(object, "Reconciling").filter(|c| c["status"] == "True") {
        return is(Status::Progressing, said(reconciling));
    }
    match condition(object, "Ready") {
        Some(ready) if ready["status"] != "True" => is(Status::Progressing, said(ready)),
        _ => healthy(),
    }
}

/// Whether a workload is ready as soon as its programs were started, because nothing asks them.
#[must_use]
pub fn is_unprobed(object: &Value) -> bool {
    let template = if object::kind(object) == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    let containers = template["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let asked = |container: &Value| container["readinessProbe"].is_object() || container["startupProbe"].is_object();
    matches!(object::kind(object), "Deployment" | "StatefulSet" | "DaemonSet" | "Pod")
        && containers.iter().any(|c| !asked(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(api_version: &str, kind: &str, rest: Value) -> Status {
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"generation": 2}});
        for (name, value) in rest.as_object().unwrap() {
            object[name] = value.clone();
        }
        health(&object).status
    }

    #[test]
    fn each_kind_has_its_rule() {
        use Status::{Degraded, Healthy, Missing, Progressing, Suspended, Unknown};
        let rolled = json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2});
        let set = |ready: i64, update: &str| {
            json!({"spec": {"replicas": 2}, "status": {"observedGeneration": 2, "readyReplicas": ready,
                "currentRevision": "a", "updateRevision": update}})
        };
        let waiting = |reason: &str| json!({"status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}});
        let condition = |kind: &str, status: &str, reason: &str| json!({"status": {"conditions": [{"type": kind, "status": status, "reason": reason, "observedGeneration": 2}]}});
        let cases = [
            ("apps/v1", "Deployment", json!({"spec": {"replicas": 2}, "status": rolled}), Healthy),
            ("apps/v1", "Deployment", json!({"spec": {"replicas": 3}, "status": rolled}), Progressing),
            ("apps/v1", "Deployment", json!({"spec": {"paused": true}}), Suspended),
            ("apps/v1", "Deployment", json!({"spec": {}, "status": {"observedGeneration": 1}}), Progressing),
            (
                "apps/v1",
                "Deployment",
                json!({"status": {"observedGeneration": 2, "conditions": [{"type": "Progressing", "status": "False",
                    "reason": "ProgressDeadlineExceeded"}]}}),
                Degraded,
            ),
            ("apps/v1", "StatefulSet", set(2, "a"), Healthy),
            ("apps/v1", "StatefulSet", set(1, "a"), Progressing),
            ("apps/v1", "StatefulSet", set(2, "b"), Progressing),
            ("v1", "Pod", waiting("ImagePullBackOff"), Degraded),
            ("v1", "Pod", waiting("ContainerCreating"), Progressing),
            ("v1", "Pod", json!({"status": {"phase": "Lost"}}), Unknown),
            (
                "v1",
                "Pod",
                json!({"status": {"phase": "Running", "containerStatuses": [{"lastState": {"terminated": {"exitCode": 1}}}]}}),
                Degraded,
            ),
            ("v1", "PersistentVolumeClaim", json!({"status": {"phase": "Lost"}}), Degraded),
            ("v1", "PersistentVolumeClaim", json!({"status": {"phase": "Bound"}}), Healthy),
            ("v1", "Service", json!({"spec": {"type": "LoadBalancer"}}), Progressing),
            ("v1", "Service", json!({"spec": {"type": "ClusterIP"}}), Healthy),
            ("batch/v1", "Job", condition("Failed", "True", "BackoffLimitExceeded"), Degraded),
            ("batch/v1", "Job", condition("Complete", "True", ""), Healthy),
            ("batch/v1", "Job", json!({}), Progressing),
            ("batch/v1", "CronJob", json!({"spec": {"suspend": true}}), Suspended),
            ("v1", "ConfigMap", json!({}), Healthy),
            ("x.io/v1", "Widget", json!({}), Healthy),
            ("x.io/v1", "Widget", condition("Ready", "False", "Working"), Progressing),
            ("x.io/v1", "Widget", condition("Stalled", "True", "Broken"), Degraded),
            ("gateway.networking.k8s.io/v1", "Gateway", condition("Programmed", "False", "Invalid"), Degraded),
            ("gateway.networking.k8s.io/v1", "Gateway", condition("Programmed", "False", "Pending"), Progressing),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition", condition("Established", "True", ""), Healthy),
        ];
        for (api_version, kind, rest, wanted) in cases {
            assert_eq!(of(api_version, kind, rest.clone()), wanted, "{kind} {rest}");
        }
        assert_eq!(worst([Healthy, Missing, Progressing]), Missing);
        assert_eq!(
            of("v1", "ConfigMap", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            Progressing
        );
    }
}
