//! Whether what was applied is ready, and why not: a pure reading of objects as they are now.
//!
//! It must not know how objects are fetched; `commands::up` and `commands::status` do that.

use serde_json::Value;
use std::collections::BTreeMap;

/// One object's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Not yet; what is awaited.
    Waiting(String),
    /// It will not become ready by itself; why.
    Failed(String),
}

/// The key of an object: kind, namespace, name.
pub(crate) type Key = (String, String, String);

/// The objects as they are now.
pub(crate) type World = BTreeMap<Key, Value>;

/// The key of an object.
pub(crate) fn key(object: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&object["kind"]), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

/// How many restarts of a container that never became ready count as failing for good.
const RESTARTS_THAT_FAIL: i64 = 2;

/// What the object's state is. Kinds without a notion of ready are ready by being there.
pub(crate) fn state(object: &Value) -> State {
    match object["kind"].as_str().unwrap_or_default() {
        "Deployment" | "ReplicaSet" => replicas(object),
        "Job" => job(object),
        "Pod" => pod(object),
        "Gateway" => gateway(object),
        "HTTPRoute" => route(object),
        "PersistentVolumeClaim" => match object["status"]["phase"].as_str() {
            Some("Bound") => State::Ready,
            _ => State::Waiting("not bound".into()),
        },
        _ => State::Ready,
    }
}

fn observed(object: &Value) -> bool {
    object["status"]["observedGeneration"].as_i64() >= object["metadata"]["generation"].as_i64()
}

fn replicas(object: &Value) -> State {
    let count = |name: &str| object["status"][name].as_i64().unwrap_or(0);
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    if !observed(object) {
        return State::Waiting("not looked at yet".into());
    }
    let updated = if object["kind"] == "Deployment" { count("updatedReplicas") } else { count("replicas") };
    let available = count("availableReplicas");
    if available >= wanted && updated >= wanted && count("replicas") == wanted {
        return State::Ready;
    }
    if let Some(failure) = condition(object, "ReplicaFailure").filter(|c| c["status"] == "True") {
        return State::Failed(text(&failure["message"]));
    }
    if let Some(stuck) = condition(object, "Progressing").filter(|c| c["reason"] == "ProgressDeadlineExceeded") {
        return State::Failed(text(&stuck["message"]));
    }
    State::Waiting(format!("{available}/{wanted} available"))
}

fn job(object: &Value) -> State {
    if let Some(failed) = condition(object, "Failed").filter(|c| c["status"] == "True") {
        return State::Failed(format!("{}: {}", text(&failed["reason"]), text(&failed["message"])));
    }
    if condition(object, "Complete").is_some_and(|c| c["status"] == "True") || object["spec"]["suspend"] == true {
        return State::Ready;
    }
    let wanted = object["spec"]["completions"].as_i64().unwrap_or(1);
    let done = object["status"]["succeeded"].as_i64().unwrap_or(0);
    State::Waiting(format!("{done}/{wanted} complete"))
}

fn pod(object: &Value) -> State {
    match object["status"]["phase"].as_str().unwrap_or("Pending") {
        "Succeeded" => State::Ready,
        "Failed" => State::Failed(trouble(object).unwrap_or_else(|| "it failed".into())),
        _ if condition(object, "Ready").is_some_and(|c| c["status"] == "True") => State::Ready,
        _ => match trouble(object) {
            Some(trouble) => State::Failed(trouble),
            None => State::Waiting("not ready".into()),
        },
    }
}

/// Why a Pod will not become ready by itself, where it can be told.
pub(crate) fn trouble(pod: &Value) -> Option<String> {
    if let Some(unfit) = condition(pod, "PodScheduled").filter(|c| c["reason"] == "Unschedulable") {
        return Some(text(&unfit["message"]));
    }
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = lists.iter().flat_map(|list| pod["status"][*list].as_array().into_iter().flatten());
    statuses
        .filter_map(|status| container_trouble(status).map(|why| format!("container {}: {why}", text(&status["name"]))))
        .next()
}

fn container_trouble(status: &Value) -> Option<String> {
    let waiting = &status["state"]["waiting"];
    match waiting["reason"].as_str().unwrap_or_default() {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "ErrImageNeverPull"
        | "InvalidImageName"
        | "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError" => {
            return Some(format!("{}: {}", text(&waiting["reason"]), text(&waiting["message"])));
        }
        _ => {}
    }
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    let ended = ["state", "lastState"].iter().map(|s| &status[*s]["terminated"]).find(|t| t.is_object())?;
    let code = ended["exitCode"].as_i64().unwrap_or(0);
    if status["ready"] == true || restarts < RESTARTS_THAT_FAIL {
        return None;
    }
    // A program that could not be started at all says why; its exit code is made up.
    let said = ended["message"].as_str().map(str::trim).filter(|message| !message.is_empty());
    let said = said.map_or_else(String::new, |message| format!(": {message}"));
    Some(format!("its program ends with exit code {code} (restarted {restarts} times){said}"))
}

/// How long a Pod that is starting may still take by its startup probe: seconds, by the slowest container. None where no
/// container has such a probe, or all have started.
pub(crate) fn may_start_for(pod: &Value) -> Option<i64> {
    let statuses = pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let started = |name: &Value| statuses.iter().any(|status| &status["name"] == name && status["started"] == true);
    let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let waiting = containers.iter().filter(|c| c["startupProbe"].is_object() && !started(&c["name"]));
    waiting.map(|container| allowance(&container["startupProbe"])).max()
}

/// The longest start that a startup probe allows, in seconds.
fn allowance(probe: &Value) -> i64 {
    let number = |name: &str, default: i64| probe[name].as_i64().unwrap_or(default);
    number("initialDelaySeconds", 0) + number("periodSeconds", 10) * number("failureThreshold", 3)
}

/// Whether a Pod's readiness was asked for, rather than concluded from its programs having been started.
pub(crate) fn is_probed(object: &Value) -> bool {
    let template = if object["kind"] == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    let containers = template["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    containers.iter().all(|container| container["readinessProbe"].is_object() || container["startupProbe"].is_object())
}

fn gateway(object: &Value) -> State {
    let Some(programmed) = condition(object, "Programmed") else {
        return State::Waiting("not looked at yet".into());
    };
    if programmed["status"] == "True" && programmed["observedGeneration"] == object["metadata"]["generation"] {
        return State::Ready;
    }
    if programmed["status"] == "False" && programmed["reason"] != "Pending" {
        let listeners = object["status"]["listeners"].as_array().into_iter().flatten();
        let why = listeners
            .filter_map(|l| condition_in(&l["conditions"], "Programmed").filter(|c| c["status"] == "False"))
            .map(|c| text(&c["message"]))
            .next();
        return State::Failed(why.unwrap_or_else(|| text(&programmed["message"])));
    }
    State::Waiting("not programmed".into())
}

fn route(object: &Value) -> State {
    let parents = object["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if parents.is_empty() {
        return State::Waiting("no parent has accepted it".into());
    }
    for parent in parents {
        for name in ["Accepted", "ResolvedRefs"] {
            let Some(found) = condition_in(&parent["conditions"], name) else { continue };
            if found["status"] == "False" {
                return State::Failed(format!("{}: {}", text(&found["reason"]), text(&found["message"])));
            }
        }
    }
    State::Ready
}

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    condition_in(&object["status"]["conditions"], name)
}

fn condition_in<'a>(conditions: &'a Value, name: &str) -> Option<&'a Value> {
    conditions.as_array()?.iter().find(|c| c["type"] == name)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The Pods that belong to a workload: through its ReplicaSets for a Deployment, its own for the others.
pub(crate) fn pods_of<'a>(owner: &Value, world: &'a World) -> Vec<&'a Value> {
    let uid = &owner["metadata"]["uid"];
    let owned = |object: &Value, uid: &Value| {
        let references = object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        references.iter().any(|reference| &reference["uid"] == uid)
    };
    let sets: Vec<&Value> =
        world.values().filter(|o| o["kind"] == "ReplicaSet" && owned(o, uid)).map(|o| &o["metadata"]["uid"]).collect();
    let pods = world.values().filter(|o| o["kind"] == "Pod");
    pods.filter(|pod| owned(pod, uid) || sets.iter().any(|set| owned(pod, set))).collect()
}

/// The state of a workload with its Pods in view: a Pod that can't start fails it, with the reason.
pub(crate) fn state_in(object: &Value, world: &World) -> State {
    let own = state(object);
    let State::Waiting(waiting) = &own else { return own };
    if !matches!(object["kind"].as_str(), Some("Deployment" | "ReplicaSet" | "Job")) {
        return own;
    }
    let pods = pods_of(object, world);
    let found = pods
        .iter()
        .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
        .find_map(|pod| trouble(pod).map(|why| format!("pod {}: {why}", text(&pod["metadata"]["name"]))));
    match found {
        // A Job tries again by itself as often as its manifest allows.
        Some(why) if object["kind"] != "Job" || !why.contains("exit code") => State::Failed(why),
        _ => match pods.iter().filter_map(|pod| may_start_for(pod)).max() {
            Some(limit) => State::Waiting(format!("{waiting}; still starting, which may take up to {limit} s")),
            None => own,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(available: i64, observed: i64) -> Value {
        json!({"kind": "Deployment", "metadata": {"name": "d", "generation": 2, "uid": "u1"}, "spec": {"replicas": 3},
            "status": {"observedGeneration": observed, "replicas": 3, "updatedReplicas": 3, "availableReplicas": available}})
    }

    fn crashing(restarts: i64) -> Value {
        json!({"kind": "Pod", "metadata": {"name": "p", "ownerReferences": [{"uid": "r1"}]}, "status": {"phase": "Running",
            "containerStatuses": [{"name": "c", "ready": false, "restartCount": restarts,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 7}}}]}})
    }

    #[test]
    fn a_deployment_is_ready_when_the_newest_spec_is_available() {
        assert_eq!(state(&deployment(3, 2)), State::Ready);
        assert_eq!(state(&deployment(2, 2)), State::Waiting("2/3 available".into()));
        assert_eq!(state(&deployment(3, 1)), State::Waiting("not looked at yet".into()));
    }

    #[test]
    fn a_program_that_keeps_ending_fails_its_deployment() {
        let set =
            json!({"kind": "ReplicaSet", "metadata": {"name": "r", "uid": "r1", "ownerReferences": [{"uid": "u1"}]}});
        for (restarts, failed) in [(0, false), (1, false), (2, true), (5, true)] {
            let world: World = [crashing(restarts), set.clone()].into_iter().map(|o| (key(&o), o)).collect();
            let state = state_in(&deployment(0, 2), &world);
            assert_eq!(
                matches!(&state, State::Failed(why) if why.contains("exit code 7")),
                failed,
                "{restarts}: {state:?}"
            );
        }
    }

    #[test]
    fn a_slow_start_says_how_long_it_may_take() {
        let pod = |started: bool| {
            json!({"kind": "Pod", "metadata": {"name": "p", "ownerReferences": [{"uid": "u1"}]},
                "spec": {"containers": [{"name": "c", "startupProbe": {"periodSeconds": 5, "failureThreshold": 60}}]},
                "status": {"containerStatuses": [{"name": "c", "started": started, "restartCount": 0}]}})
        };
        let state = |started| {
            let world: World = [pod(started)].into_iter().map(|o| (key(&o), o)).collect();
            state_in(&deployment(0, 2), &world)
        };
        assert_eq!(state(false), State::Waiting("0/3 available; still starting, which may take up to 300 s".into()));
        assert_eq!(state(true), State::Waiting("0/3 available".into()));
    }

    #[test]
    fn a_gateway_that_cannot_bind_says_why() {
        let gateway = |status: &str, reason: &str| {
            json!({"kind": "Gateway", "metadata": {"generation": 1}, "status": {
                "conditions": [{"type": "Programmed", "status": status, "reason": reason, "observedGeneration": 1}],
                "listeners": [{"conditions": [{"type": "Programmed", "status": status, "message": "port 80 is in use"}]}]}})
        };
        assert_eq!(state(&gateway("True", "Programmed")), State::Ready);
        assert_eq!(state(&gateway("False", "Pending")), State::Waiting("not programmed".into()));
        assert_eq!(state(&gateway("False", "Invalid")), State::Failed("port 80 is in use".into()));
    }

    #[test]
    fn a_job_is_ready_when_complete_and_failed_when_it_gave_up() {
        let job = |kind: &str| json!({"kind": "Job", "status": {"conditions": [{"type": kind, "status": "True", "reason": "R", "message": "m"}]}});
        assert_eq!(state(&job("Complete")), State::Ready);
        assert_eq!(state(&job("Failed")), State::Failed("R: m".into()));
        assert_eq!(state(&json!({"kind": "Job"})), State::Waiting("0/1 complete".into()));
    }
}
