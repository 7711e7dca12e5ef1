//! Why a request gets through, or does not: from a picture of the objects and of the proxy to a report. Pure.
//!
//! `target` says what is asked about; `service` looks at a Service, its Pods and endpoints; `way` at the listener, the rule,
//! policies and the caller; `backend_tls` at TLS to what is behind. Findings are in the order in which a request would meet them, what breaks it before what is merely
//! doubtful, each with what it rests on and the next command to run.
//!
//! It must not know where the picture is from.

mod backend_tls;
mod service;
mod target;
#[cfg(test)]
mod tests;
mod way;

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use telemetry::Record;

pub(crate) use target::{Caller, Target, caller};
pub(crate) use way::Question;

/// All that is known.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) target: Target,
    /// `METHOD URL`, for people.
    pub(crate) request: String,
    pub(crate) services: Vec<Value>,
    pub(crate) slices: Vec<Value>,
    pub(crate) pods: Vec<Value>,
    /// Routes of all kinds.
    pub(crate) routes: Vec<Value>,
    /// Gateways and ListenerSets.
    pub(crate) gateways: Vec<Value>,
    /// TrafficPolicies, AccessPolicies, BackendTLSPolicies, and Dapr's Resiliencies.
    pub(crate) policies: Vec<Value>,
    /// The listener that the request would come in by: its id and address, or why it is not bound.
    pub(crate) listener: Option<(String, Result<String, String>)>,
    /// What the proxy says that it would do, as the page about it has it.
    pub(crate) explanation: Option<Value>,
    /// Who calls, where that was asked.
    pub(crate) caller: Option<Result<Caller, String>>,
    /// What is wrong with certificates.
    pub(crate) certificates: Option<String>,
    /// Recent requests.
    pub(crate) records: Vec<Record>,
    /// The last line that a Pod has written, by `NAMESPACE/NAME`.
    pub(crate) last_lines: BTreeMap<String, String>,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Weight {
    /// The request would not get through.
    Broken,
    /// It would, and something is odd.
    Doubtful,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    pub(crate) weight: Weight,
    /// One word for scripts.
    pub(crate) reason: &'static str,
    pub(crate) problem: String,
    pub(crate) evidence: Vec<String>,
    /// Commands to run next.
    pub(crate) next: Vec<String>,
}

impl Finding {
    fn new(weight: Weight, reason: &'static str, problem: impl Into<String>) -> Self {
        Self { weight, reason, problem: problem.into(), evidence: Vec::new(), next: Vec::new() }
    }

    fn broken(reason: &'static str, problem: impl Into<String>) -> Self {
        Self::new(Weight::Broken, reason, problem)
    }

    fn doubtful(reason: &'static str, problem: impl Into<String>) -> Self {
        Self::new(Weight::Doubtful, reason, problem)
    }

    fn because(mut self, evidence: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }
}

/// What a request would meet, and what is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) request: String,
    /// What it meets, in order: the name of a step, and what is there.
    pub(crate) steps: Vec<(&'static str, String)>,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn is_broken(&self) -> bool {
        self.findings.iter().any(|finding| finding.weight == Weight::Broken)
    }
}

/// The report.
pub(crate) fn diagnose(facts: &Facts) -> Report {
    let mut report = Report { request: facts.request.clone(), steps: Vec::new(), findings: Vec::new() };
    way::caller(facts, &mut report);
    if let Some(alarm) = &facts.certificates {
        let found = Finding::doubtful(
            "certificatesNotIssued",
            "certificates cannot be had; calls between instances fail once those in use end",
        );
        report.findings.push(found.because([alarm.clone()]).next("coracle trust status"));
    }
    let found = match &facts.target {
        Target::Service { namespace, name, port } => {
            service::find(facts, namespace, name, port.as_deref(), &mut report)
        }
        Target::Gateway { .. } => way::gateway(facts, &mut report),
    };
    // Without it nothing further can be told.
    if found {
        way::listener(facts, &mut report);
        way::door(facts, &mut report);
        way::rule(facts, &mut report);
        for (namespace, name, port) in way::destinations(facts) {
            service::behind(facts, &namespace, &name, port.as_deref(), &mut report);
        }
        way::refusals(facts, &mut report);
        way::routes(facts, &mut report);
        way::policies(facts, &mut report);
        backend_tls::policies(facts, &mut report);
        backend_tls::handshakes(facts, &mut report);
        way::history(facts, &mut report);
    }
    report.findings.sort_by_key(|finding| finding.weight);
    report.findings.dedup();
    report
}

fn text<'v>(object: &'v Value, path: &str) -> &'v str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(object: &'v Value, path: &str) -> &'v [Value] {
    object.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is(object: &Value, namespace: &str, name: &str) -> bool {
    text(object, "/metadata/namespace") == namespace && text(object, "/metadata/name") == name
}
