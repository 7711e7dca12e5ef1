//! Whether what was applied is ready, and why not: a pure reading of objects as they are now.
//!
//! It must not know how objects are fetched; `commands::up` and `commands::status` do that.

use resources::names::{NO_POD_NETWORK, SERVICE_NAME_LABEL};
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

/// How many restarts of a container that is not ready count as failing for good.
const RESTARTS_THAT_FAIL: i64 = 2;

/// How often the containers of Pods had been restarted before somebody began to wait: earlier lives don't count against
/// this one. By Pod uid and container name.
pub(crate) type Baseline = BTreeMap<(String, String), i64>;

/// The baseline of these Pods. Whoever was there before is restarted once more by Coracle's own start.
pub(crate) fn baseline<'a>(pods: impl IntoIterator<Item = &'a Value>) -> Baseline {
    let mut baseline = Baseline::new();
    for pod in pods {
        for status in statuses(pod) {
            let count = status["restartCount"].as_i64().unwrap_or(0) + 1;
            baseline.insert((text(&pod["metadata"]["uid"]), text(&status["name"])), count);
        }
    }
    baseline
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
}

/// What the object's state is. Kinds without a notion of ready are ready by being there.
pub(crate) fn state(object: &Value, baseline: &Baseline) -> State {
    match object["kind"].as_str().unwrap_or_default() {
        "Deployment" | "ReplicaSet" => replicas(object),
        "Job" => job(object),
        "Pod" => pod(object, baseline),
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

fn pod(object: &Value, baseline: &Baseline) -> State {
    match object["status"]["phase"].as_str().unwrap_or("Pending") {
        "Succeeded" => State::Ready,
        "Failed" => State::Failed(trouble(object, baseline).unwrap_or_else(|| "it failed".into())),
        _ if condition(object, "Ready").is_some_and(|c| c["status"] == "True") => State::Ready,
        _ => match trouble(object, baseline) {
            Some(trouble) => State::Failed(trouble),
            None => State::Waiting("not ready".into()),
        },
    }
}

/// Why a Pod will not become ready by itself, where it can be told.
pub(crate) fn trouble(pod: &Value, baseline: &Baseline) -> Option<String> {
    if let Some(unfit) = condition(pod, "PodScheduled").filter(|c| c["reason"] == "Unschedulable") {
        return Some(text(&unfit["message"]));
    }
    let networked = condition(pod, "PodReadyToStartContainers");
    if let Some(refused) = networked.filter(|c| c["status"] == "False" && c["reason"] == NO_POD_NETWORK) {
        return Some(text(&refused["message"]));
    }
    let uid = text(&pod["metadata"]["uid"]);
    statuses(pod).find_map(|status| {
        let name = text(&status["name"]);
        let before = baseline.get(&(uid.clone(), name.clone())).copied().unwrap_or(0);
        container_trouble(status, before).map(|why| format!("container {name}: {why}"))
    })
}

fn container_trouble(status: &Value, before: i64) -> Option<String> {
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
    let restarts = status["restartCount"].as_i64().unwrap_or(0) - before;
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

/// Whether the object (a Pod, a Node) has the condition Ready.
pub(crate) fn is_ready(object: &Value) -> bool {
    condition(object, "Ready").is_some_and(|c| c["status"] == "True")
}

/// A Deployment's own word may be of an earlier life, or older than what became of a Pod: its Pods must say the same.
fn confirmed(deployment: &Value, world: &World) -> State {
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let ready = pods_of(deployment, world).into_iter().filter(|pod| is_ready(pod)).count() as u64;
    if ready >= wanted { State::Ready } else { State::Waiting(format!("{ready}/{wanted} available")) }
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

/// The Pods that belong to a workload: through its newest ReplicaSet for a Deployment, its own for the others. What an older
/// revision's Pods do is no longer the Deployment's fate.
pub(crate) fn pods_of<'a>(owner: &Value, world: &'a World) -> Vec<&'a Value> {
    let uid = &owner["metadata"]["uid"];
    let owned = |object: &Value, uid: &Value| {
        let references = object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        references.iter().any(|reference| &reference["uid"] == uid)
    };
    let revision = |set: &&Value| {
        let annotation = &set["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
        annotation.as_str().and_then(|revision| revision.parse::<u64>().ok()).unwrap_or(0)
    };
    let sets = world.values().filter(|o| o["kind"] == "ReplicaSet" && owned(o, uid));
    let newest = sets.max_by_key(revision).map(|set| &set["metadata"]["uid"]);
    let pods = world.values().filter(|o| o["kind"] == "Pod");
    pods.filter(|pod| owned(pod, uid) || newest.is_some_and(|set| owned(pod, set))).collect()
}

/// Whether each ready Pod that a Service selects is among its endpoints. A Pod is ready before they have it.
fn endpoints(service: &Value, world: &World) -> State {
    let spec = &service["spec"];
    let Some(selector) = spec["selector"].as_object().filter(|selector| !selector.is_empty()) else {
        return State::Ready;
    };
    // What the Service's endpoints cannot have is not waited for.
    let families = spec["ipFamilies"].as_array().map(Vec::as_slice).unwrap_or_default();
    if spec["type"] == "ExternalName" || !(families.is_empty() || families.iter().any(|family| family == "IPv4")) {
        return State::Ready;
    }
    let (name, namespace) = (&service["metadata"]["name"], &service["metadata"]["namespace"]);
    let here = |kind: &'static str| {
        world.values().filter(move |o| o["kind"] == kind && &o["metadata"]["namespace"] == namespace)
    };
    let selected = |pod: &&Value| selector.iter().all(|(key, value)| &pod["metadata"]["labels"][key] == value);
    let reachable = |pod: &&Value| {
        let address = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<std::net::Ipv4Addr>().ok());
        address.is_some() && is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null()
    };
    let running = |pod: &&Value| pod["status"]["phase"] == "Running";
    let own = here("EndpointSlice").filter(|slice| &slice["metadata"]["labels"][SERVICE_NAME_LABEL] == name);
    let listed: Vec<&Value> = own.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten()).collect();
    let is_listed = |pod: &Value| {
        let of_it = |endpoint: &&&Value| endpoint["targetRef"]["uid"] == pod["metadata"]["uid"];
        listed.iter().filter(of_it).any(|endpoint| endpoint["conditions"]["ready"] == true)
    };
    let pods: Vec<&Value> = here("Pod").filter(selected).filter(reachable).filter(running).collect();
    let found = pods.iter().filter(|pod| is_listed(pod)).count();
    if found == pods.len() { State::Ready } else { State::Waiting(format!("{found}/{} endpoints", pods.len())) }
}

/// The highest resourceVersion of an EndpointSlice in view; 0 without any.
pub(crate) fn newest_slice(world: &World) -> u64 {
    let slices = world.values().filter(|object| object["kind"] == "EndpointSlice");
    slices.filter_map(|slice| slice["metadata"]["resourceVersion"].as_str()?.parse().ok()).max().unwrap_or(0)
}

/// The state of a workload with its Pods in view: a Pod that can't start fails it, with the reason.
pub(crate) fn state_in(object: &Value, world: &World, baseline: &Baseline) -> State {
    if object["kind"] == "Service" {
        return endpoints(object, world);
    }
    let own = state(object, baseline);
    if own == State::Ready && object["kind"] == "Deployment" {
        return confirmed(object, world);
    }
    let State::Waiting(waiting) = &own else { return own };
    if !matches!(object["kind"].as_str(), Some("Deployment" | "ReplicaSet" | "Job")) {
        return own;
    }
    let pods = pods_of(object, world);
    let found = pods
        .iter()
        .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
        .find_map(|pod| trouble(pod, baseline).map(|why| format!("pod {}: {why}", text(&pod["metadata"]["name"]))));
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
        assert_eq!(state(&deployment(3, 2), &Baseline::new()), State::Ready);
        assert_eq!(state(&deployment(2, 2), &Baseline::new()), State::Waiting("2/3 available".into()));
        assert_eq!(state(&deployment(3, 1), &Baseline::new()), State::Waiting("not looked at yet".into()));
    }

    #[test]
    fn a_program_that_keeps_ending_fails_its_deployment() {
        let set =
            json!({"kind": "ReplicaSet", "metadata": {"name": "r", "uid": "r1", "ownerReferences": [{"uid": "u1"}]}});
        for (restarts, failed) in [(0, false), (1, false), (2, true), (5, true)] {
            let world: World = [crashing(restarts), set.clone()].into_iter().map(|o| (key(&o), o)).collect();
            let state = state_in(&deployment(0, 2), &world, &Baseline::new());
            assert_eq!(
                matches!(&state, State::Failed(why) if why.contains("exit code 7")),
                failed,
                "{restarts}: {state:?}"
            );
        }
    }

    #[test]
    fn restarts_of_earlier_lives_and_older_revisions_do_not_count() {
        let set = |name: &str, uid: &str, revision: &str| {
            json!({"kind": "ReplicaSet", "metadata": {"name": name, "uid": uid, "ownerReferences": [{"uid": "u1"}],
                "annotations": {"deployment.kubernetes.io/revision": revision}}})
        };
        let world: World =
            [crashing(7), set("r", "r1", "1")].into_iter().map(|object| (key(&object), object)).collect();
        let earlier = baseline(world.values().filter(|object| object["kind"] == "Pod"));
        let state = |world: &World, baseline: &Baseline| state_in(&deployment(0, 2), world, baseline);
        assert!(matches!(state(&world, &Baseline::new()), State::Failed(_)));
        assert!(matches!(state(&world, &earlier), State::Waiting(_)), "it was so before");
        let mut replaced = world;
        let newer = set("n", "r2", "2");
        replaced.insert(key(&newer), newer);
        assert!(matches!(state(&replaced, &Baseline::new()), State::Waiting(_)), "an older revision's Pod");
    }

    #[test]
    fn a_deployment_that_says_ready_is_believed_when_its_pods_say_so() {
        let pod = |name: &str| {
            json!({"kind": "Pod", "metadata": {"name": name, "ownerReferences": [{"uid": "u1"}]},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        };
        let mut world = World::new();
        for (name, state) in [("a", "1/3"), ("b", "2/3"), ("c", "")] {
            let pod = pod(name);
            world.insert(key(&pod), pod);
            let wanted = if state.is_empty() { State::Ready } else { State::Waiting(format!("{state} available")) };
            assert_eq!(state_in(&deployment(3, 2), &world, &Baseline::new()), wanted);
        }
    }

    #[test]
    fn a_service_is_ready_once_its_endpoints_are_its_ready_pods() {
        let pod = |name: &str, app: &str, ready: &str| {
            json!({"kind": "Pod", "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": app, "x": "y"}},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}]}})
        };
        let slice = |name: &str, service: &str, version: &str, pods: &[(&str, bool)]| {
            let endpoint =
                |(pod, ready): &(&str, bool)| json!({"targetRef": {"uid": pod}, "conditions": {"ready": ready}});
            json!({"kind": "EndpointSlice", "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
                "metadata": {"name": name, "namespace": "n", "resourceVersion": version, "labels": {SERVICE_NAME_LABEL: service}}})
        };
        let service =
            |spec: Value| json!({"kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": spec});
        let ours = service(json!({"selector": {"app": "a"}}));
        let all = [pod("a1", "a", "True"), pod("a2", "a", "True"), pod("a3", "a", "False"), pod("b1", "b", "True")];
        let waits = |found: usize| State::Waiting(format!("{found}/2 endpoints"));
        let rows = [
            (vec![], waits(0), 0),
            (vec![slice("s-1", "s", "7", &[("a1", true)])], waits(1), 7),
            (vec![slice("s-1", "s", "9", &[("a1", true), ("a2", false)])], waits(1), 9),
            (vec![slice("s-1", "s", "7", &[("a1", true)]), slice("o", "other", "12", &[("a2", true)])], waits(1), 12),
            (vec![slice("s-1", "s", "7", &[("a1", true)]), slice("s-2", "s", "10", &[("a2", true)])], State::Ready, 10),
        ];
        for (slices, expected, newest) in rows {
            let world: World = all.iter().chain(&slices).map(|object| (key(object), object.clone())).collect();
            assert_eq!(state_in(&ours, &world, &Baseline::new()), expected, "{slices:?}");
            assert_eq!(newest_slice(&world), newest);
        }
        // Whose endpoints are somebody else's, or cannot be these Pods, is not waited for.
        let world: World = all.iter().map(|object| (key(object), object.clone())).collect();
        for spec in [
            json!({}),
            json!({"selector": {}}),
            json!({"selector": {"app": "nobody"}}),
            json!({"selector": {"app": "a"}, "type": "ExternalName"}),
            json!({"selector": {"app": "a"}, "ipFamilies": ["IPv6"]}),
        ] {
            assert_eq!(state_in(&service(spec.clone()), &world, &Baseline::new()), State::Ready, "{spec}");
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
            state_in(&deployment(0, 2), &world, &Baseline::new())
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
        assert_eq!(state(&gateway("True", "Programmed"), &Baseline::new()), State::Ready);
        assert_eq!(state(&gateway("False", "Pending"), &Baseline::new()), State::Waiting("not programmed".into()));
        assert_eq!(state(&gateway("False", "Invalid"), &Baseline::new()), State::Failed("port 80 is in use".into()));
    }

    #[test]
    fn a_job_is_ready_when_complete_and_failed_when_it_gave_up() {
        let job = |kind: &str| json!({"kind": "Job", "status": {"conditions": [{"type": kind, "status": "True", "reason": "R", "message": "m"}]}});
        assert_eq!(state(&job("Complete"), &Baseline::new()), State::Ready);
        assert_eq!(state(&job("Failed"), &Baseline::new()), State::Failed("R: m".into()));
        assert_eq!(state(&json!({"kind": "Job"}), &Baseline::new()), State::Waiting("0/1 complete".into()));
    }
}
