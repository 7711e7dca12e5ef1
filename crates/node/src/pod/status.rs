//! How a Pod looks from outside: its status, as a pure function of what is known of it.
//!
//! Only what a kubelet owns is written. Conditions of others are not touched: the status is sent as a strategic merge, in which
//! conditions are merged by their type.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::plan::{Phase, Policy, restarts};
use super::record::{Part, Record, State, containers};
use crate::container::Ended;
use crate::env::{ADDRESS, milli};
use crate::events::seconds;

/// What a status is made of.
pub(crate) struct Input<'a> {
    pub pod: &'a Pod,
    pub records: &'a [Record],
    pub policy: Policy,
    pub phase: Phase,
    /// The Pod's address, once what it needs is there.
    pub address: Option<IpAddr>,
    /// What stands in the way of that.
    pub obstacle: Option<(&'a str, &'a str)>,
    pub initialized: bool,
    /// The Pod is ending: nothing of it is ready.
    pub ending: bool,
    /// Why the Pod failed as a whole.
    pub failure: Option<(&'a str, &'a str)>,
    pub started: Timestamp,
    pub now: Timestamp,
}

/// The last known state of each condition and since when.
pub(crate) type Conditions = BTreeMap<&'static str, (bool, String)>;

/// What the API says of the conditions that are ours.
pub(crate) fn known(pod: &Pod) -> Conditions {
    let ours = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];
    let conditions = || pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let of = |name: &'static str| {
        let found = conditions().find(|c| c.type_ == name)?;
        Some((name, (found.status == "True", seconds(found.last_transition_time.as_ref()?.0))))
    };
    ours.into_iter().filter_map(of).collect()
}

/// The status; `known` is brought up to date.
pub(crate) fn status(input: &Input<'_>, known: &mut Conditions) -> Value {
    let spec = input.pod.spec.as_ref();
    let declared = spec.map(containers).unwrap_or_default();
    let statuses = |main: bool| -> Vec<Value> {
        let all = declared.iter().zip(input.records);
        all.filter(|((_, part), _)| (*part == Part::Main) == main).map(|((c, _), r)| container(input, c, r)).collect()
    };
    let init = statuses(false);
    let failure = input.failure.filter(|_| input.phase.over());
    let mut status = json!({
        "phase": input.phase.name(),
        "conditions": conditions(input, known),
        "containerStatuses": statuses(true),
        "qosClass": qos(&declared.iter().map(|(c, _)| *c).collect::<Vec<_>>()),
        "hostIP": ADDRESS,
        "hostIPs": [{ "ip": ADDRESS }],
        "startTime": seconds(input.started),
        "reason": failure.map(|f| f.0),
        "message": failure.map(|f| f.1),
    });
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    if let Some(address) = input.address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{ "ip": address }]);
    }
    status
}

fn container(input: &Input<'_>, container: &Container, record: &Record) -> Value {
    let mut waits = None;
    let state = match &record.state {
        State::Running { since, .. } => json!({ "running": { "startedAt": seconds(*since) } }),
        State::Ended(ended) => match waiting_again(input, record) {
            Some(waiting) => {
                waits = Some(ended);
                json!({ "waiting": waiting })
            }
            None => json!({ "terminated": terminated(ended) }),
        },
        State::Waiting(Some(refused)) => json!({ "waiting": { "reason": refused.reason, "message": refused.message } }),
        State::Waiting(None) | State::Starting => json!({ "waiting": { "reason": waiting_for(input, record) } }),
    };
    let last = waits.or(record.last.as_ref());
    let id = match &record.state {
        State::Running { id, .. } => Some(id.clone()),
        State::Ended(ended) => Some(ended.id.clone()),
        _ => last.map(|e| e.id.clone()),
    };
    let mut status = json!({
        "name": container.name,
        "image": container.image,
        "imageID": record.image_id,
        "ready": ready(input, record),
        "started": matches!(record.state, State::Running { .. }) && record.started,
        "restartCount": record.restarts,
        "state": state,
        "lastState": last.map_or(json!({}), |ended| json!({ "terminated": terminated(ended) })),
    });
    if let Some(id) = id {
        status["containerID"] = id.into();
    }
    without_nulls(&mut status);
    status
}

/// In a list that is replaced as a whole a null would be kept, where it is meant to be nothing.
fn without_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, v| !v.is_null());
        map.values_mut().for_each(without_nulls);
    }
}

fn ready(input: &Input<'_>, record: &Record) -> bool {
    match record.part {
        Part::Init => record.initialized(),
        _ => record.ready && !input.ending && !record.stopping && matches!(record.state, State::Running { .. }),
    }
}

/// What a container that has never been refused waits for.
fn waiting_for(input: &Input<'_>, record: &Record) -> &'static str {
    let has_init = input.records.iter().any(|r| r.part != Part::Main);
    let waits_for_others = record.part == Part::Main && !input.initialized && has_init;
    if waits_for_others && matches!(record.state, State::Waiting(_)) { "PodInitializing" } else { "ContainerCreating" }
}

/// How a container that has ended waits for its next run, if it does.
fn waiting_again(input: &Input<'_>, record: &Record) -> Option<Value> {
    if input.ending || input.phase.over() || !restarts(record, input.policy) {
        return None;
    }
    let later = record.not_before.filter(|at| *at > input.now)?;
    let ended = record.ended()?;
    let wait = later.duration_since(ended.finished).as_secs();
    let meta = &input.pod.metadata;
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    let message = format!(
        "back-off {} restarting failed container={} pod={}_{}({})",
        duration(wait),
        record.name,
        of(&meta.name),
        of(&meta.namespace),
        of(&meta.uid)
    );
    Some(json!({ "reason": "CrashLoopBackOff", "message": message }))
}

/// As Go writes a duration.
fn duration(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn terminated(ended: &Ended) -> Value {
    json!({
        "exitCode": ended.code,
        "signal": ended.signal,
        "reason": ended.reason,
        "message": ended.message,
        "startedAt": ended.started.map(seconds),
        "finishedAt": seconds(ended.finished),
        "containerID": ended.id,
    })
}

fn conditions(input: &Input<'_>, known: &mut Conditions) -> Vec<Value> {
    let active = input.records.iter().any(Record::active);
    let done = input.phase == Phase::Succeeded;
    let names = |wrong: &dyn Fn(&&Record) -> bool| {
        let names: Vec<_> = input.records.iter().filter(wrong).map(|r| r.name.as_str()).collect();
        names.join(" ")
    };
    let unfinished = names(&|r| r.part != Part::Main && !r.initialized());
    let unready = names(&|r| r.part != Part::Init && !ready(input, r));
    let initialized = input.initialized || unfinished.is_empty();
    let containers_ready = !done && input.phase != Phase::Failed && unready.is_empty() && input.initialized;
    let gates = unmet_gates(input.pod);
    let not_initialized = ("ContainersNotInitialized", format!("containers with incomplete status: [{unfinished}]"));
    let not_ready = match input.phase {
        Phase::Succeeded => ("PodCompleted", String::new()),
        Phase::Failed => ("PodFailed", String::new()),
        _ => ("ContainersNotReady", format!("containers with unready status: [{unready}]")),
    };
    let ready_reason = if containers_ready {
        ("ReadinessGatesNotReady", gates.clone().unwrap_or_default())
    } else {
        not_ready.clone()
    };
    let all = [
        (
            "PodReadyToStartContainers",
            input.address.is_some() && (active || !input.phase.over()),
            input.obstacle.map(|(reason, why)| (reason.to_owned(), why.to_owned())).unwrap_or_default(),
        ),
        ("Initialized", initialized || done, (not_initialized.0.to_owned(), not_initialized.1)),
        ("ContainersReady", containers_ready, (not_ready.0.to_owned(), not_ready.1)),
        ("Ready", containers_ready && gates.is_none(), (ready_reason.0.to_owned(), ready_reason.1)),
    ];
    let mut out = Vec::new();
    for (name, good, (reason, message)) in all {
        let fresh = !known.contains_key(name);
        let entry = known.entry(name).or_insert_with(|| (good, seconds(input.now)));
        if entry.0 != good {
            *entry = (good, seconds(input.now));
        }
        let since = entry.1.clone();
        // Null takes away what an earlier state said.
        let (reason, message) = match (good, name) {
            (true, "Initialized") if done => (Some("PodCompleted".to_owned()), None),
            (true, _) => (None, None),
            (false, _) => (Some(reason).filter(|r| !r.is_empty()), Some(message).filter(|m| !m.is_empty())),
        };
        let mut condition = json!({
            "type": name, "status": if good { "True" } else { "False" },
            "lastTransitionTime": since, "reason": reason, "message": message,
        });
        if fresh {
            without_nulls(&mut condition); // there is nothing to take away
        }
        out.push(condition);
    }
    out
}

/// The readiness gates that are not met, in upstream's words.
fn unmet_gates(pod: &Pod) -> Option<String> {
    let has = |kind: &str| {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
    };
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let unmet: Vec<_> = gates
        .filter(|g| !has(&g.condition_type))
        .map(|g| format!("corresponding condition of pod readiness gate \"{}\" does not exist.", g.condition_type))
        .collect();
    (!unmet.is_empty()).then(|| unmet.join(", "))
}

/// `status.qosClass`.
fn qos(containers: &[&Container]) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let resources = container.resources.as_ref();
        for kind in ["cpu", "memory"] {
            let amount =
                |of: Option<&BTreeMap<String, _>>| of.and_then(|m| m.get(kind)).and_then(milli).filter(|m| *m > 0);
            let limit = amount(resources.and_then(|r| r.limits.as_ref()));
            let request = amount(resources.and_then(|r| r.requests.as_ref())).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests;
