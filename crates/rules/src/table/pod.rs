//! Pods: readiness, the one word that says how a Pod is, restarts.

use super::{AGE, NAME, Printer, STRING, age, count, list, name, number, or_none, text};
use crate::pods;
use jiff::Timestamp;
use serde_json::Value;

pub(super) const POD: Printer = Printer {
    headings: &[
        NAME,
        ("Ready", STRING, 0),
        ("Status", STRING, 0),
        ("Restarts", STRING, 0),
        AGE,
        ("IP", STRING, 1),
        ("Node", STRING, 1),
        ("Nominated Node", STRING, 1),
        ("Readiness Gates", STRING, 1),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, super::age::since(&at.into(), now))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = match text(pod, "/status/podIPs/0/ip") {
        "" => text(pod, "/status/podIP"),
        ip => ip,
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.word.into(),
        restarts.into(),
        age(pod, now),
        or_none(ip),
        or_none(text(pod, "/spec/nodeName")),
        or_none(text(pod, "/status/nominatedNodeName")),
        readiness_gates(pod),
    ]
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let met =
        gates.iter().filter(|gate| pods::condition_is_true(pod, gate["conditionType"].as_str().unwrap_or_default()));
    format!("{}/{}", met.count(), gates.len()).into()
}

struct Summary<'a> {
    ready: usize,
    total: usize,
    word: String,
    restarts: i64,
    last_restart: Option<&'a str>,
}

impl<'a> Summary<'a> {
    fn count_restarts(&mut self, status: &'a Value) {
        self.restarts += number(status, "/restartCount");
        let at = text(status, "/lastState/terminated/finishedAt");
        if !at.is_empty() && self.last_restart.is_none_or(|before| before < at) {
            self.last_restart = Some(at);
        }
    }
}

fn summarize(pod: &Value) -> Summary<'_> {
    let word = match text(pod, "/status/reason") {
        "" if pods::condition(pod, "PodScheduled").is_some_and(|one| one["reason"] == "SchedulingGated") => {
            "SchedulingGated"
        }
        "" => text(pod, "/status/phase"),
        reason => reason,
    };
    let sidecars = list(pod, "/spec/initContainers").iter().filter(|one| pods::is_sidecar(one)).count();
    let mut summary = Summary {
        ready: 0,
        total: count(pod, "/spec/containers") + sidecars,
        word: word.to_owned(),
        restarts: 0,
        last_restart: None,
    };
    let initializing = init_containers(pod, &mut summary);
    if !initializing || pods::condition_is_true(pod, "Initialized") {
        main_containers(pod, &mut summary);
    }
    if pods::is_terminating(pod) {
        if text(pod, "/status/reason") == "NodeLost" {
            summary.word = "Unknown".to_owned();
        } else if !pods::is_terminated(pod) {
            summary.word = "Terminating".to_owned();
        }
    }
    summary
}

/// Whether the Pod is still at its init containers.
fn init_containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) -> bool {
    let declared = list(pod, "/spec/initContainers");
    let statuses = list(pod, "/status/initContainerStatuses");
    for (at, status) in statuses.iter().enumerate() {
        summary.count_restarts(status);
        let sidecar = declared.iter().any(|one| one["name"] == status["name"] && pods::is_sidecar(one));
        let terminated = &status["state"]["terminated"];
        let waiting = text(status, "/state/waiting/reason");
        if terminated.is_object() && number(terminated, "/exitCode") == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            summary.ready += usize::from(status["ready"] == true);
            continue;
        }
        summary.word = if terminated.is_object() {
            format!("Init:{}", ending(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{at}/{}", declared.len())
        };
        return true;
    }
    false
}

/// Why a container ended: its reason, else its signal or exit code.
fn ending(terminated: &Value) -> String {
    match (text(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn main_containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) {
    // Past initialization only sidecars' restarts count among the init containers'.
    (summary.restarts, summary.last_restart) = (0, None);
    let declared = list(pod, "/spec/initContainers");
    for status in list(pod, "/status/initContainerStatuses") {
        if declared.iter().any(|one| one["name"] == status["name"] && pods::is_sidecar(one)) {
            summary.count_restarts(status);
        }
    }
    let mut running = false;
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        summary.count_restarts(status);
        let waiting = text(status, "/state/waiting/reason");
        let terminated = &status["state"]["terminated"];
        if !waiting.is_empty() {
            summary.word = waiting.to_owned();
        } else if terminated.is_object() {
            summary.word = ending(terminated);
        } else if status["ready"] == true && status["state"]["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.word == "Completed" && running {
        summary.word = if pods::is_ready(pod) { "Running" } else { "NotReady" }.to_owned();
    }
}
