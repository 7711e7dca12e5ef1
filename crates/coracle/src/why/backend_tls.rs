//! BackendTLSPolicies of the Services that a request goes to: those that cannot be followed, and what servers' certificates are
//! refused for. Pure.
//!
//! Invariant: a policy that breaks the way is named, with which of its parts is wrong.

use super::{Facts, Finding, Report, is, list, text, way};
use serde_json::Value;

const KIND: &str = "BackendTLSPolicy";
/// How a failed handshake begins in a record.
const NO_TLS: &str = "no TLS";

/// What policies for these Services say of themselves.
pub(super) fn policies(facts: &Facts, report: &mut Report) {
    for (namespace, name, port) in way::destinations(facts) {
        for policy in meant(facts, &namespace, &name, port.as_deref()) {
            let own = way::text_name(policy);
            if !report.steps.contains(&("policy", own.clone())) {
                report.steps.push(("policy", own));
            }
            if let Some(finding) = judge(policy, &format!("{namespace}/{name}")) {
                report.findings.push(finding.next(describe(policy)));
            }
        }
    }
}

/// The policies for a port of a Service, or for all of it.
fn meant<'f>(facts: &'f Facts, namespace: &str, name: &str, port: Option<&str>) -> Vec<&'f Value> {
    let service = facts.services.iter().find(|service| is(service, namespace, name));
    let ports = service.map(|service| list(service, "/spec/ports")).unwrap_or_default();
    let called = |section: &str| {
        let named = ports.iter().find(|candidate| text(candidate, "/name") == section);
        named.is_some_and(|named| {
            port.is_none_or(|port| port == section || port.parse().is_ok_and(|port: u64| named["port"] == port))
        })
    };
    let is_meant = |policy: &&Value| {
        text(policy, "/kind") == KIND
            && text(policy, "/metadata/namespace") == namespace
            && list(policy, "/spec/targetRefs").iter().any(|target| {
                let whole = target["sectionName"].as_str().is_none_or(called);
                text(target, "/kind") == "Service" && text(target, "/name") == name && whole
            })
    };
    facts.policies.iter().filter(is_meant).collect()
}

/// The first thing that is wrong, the worst first.
fn judge(policy: &Value, service: &str) -> Option<Finding> {
    let said = || list(policy, "/status/ancestors").iter().flat_map(|ancestor| list(ancestor, "/conditions"));
    let refused = |kind: &str| said().find(|it| text(it, "/type") == kind && text(it, "/status") == "False");
    let name = way::text_name(policy);
    let (accepted, resolved) = (refused("Accepted"), refused("ResolvedRefs"));
    let finding = match (accepted, resolved) {
        (Some(accepted), _) if text(accepted, "/reason") == "Conflicted" => {
            let problem =
                format!("{name} is not followed for Service {service}: an older one is for the same (Conflicted)");
            Finding::doubtful("BackendTlsConflicted", problem)
        }
        (Some(accepted), _) => {
            let problem = format!(
                "{name} cannot be followed ({}), and Service {service} is not called in the clear instead: requests are answered 500",
                text(accepted, "/reason")
            );
            Finding::broken("BackendTlsInvalid", problem)
        }
        (None, Some(resolved)) => {
            let problem = format!("{name} has a reference that cannot be followed ({})", text(resolved, "/reason"));
            Finding::doubtful("BackendTlsReference", problem)
        }
        (None, None) => return None,
    };
    let mut messages: Vec<String> =
        [accepted, resolved].into_iter().flatten().map(|it| text(it, "/message").to_owned()).collect();
    messages.dedup();
    Some(finding.because(messages))
}

fn describe(policy: &Value) -> String {
    let (namespace, name) = (text(policy, "/metadata/namespace"), text(policy, "/metadata/name"));
    format!("coracle describe backendtlspolicy/{name} -n {namespace}")
}

/// What handshakes with these Services failed for lately; it is broken where no request got through since the oldest that is known.
pub(super) fn handshakes(facts: &Facts, report: &mut Report) {
    for (namespace, name, port) in way::destinations(facts) {
        let service = format!("{namespace}/{name}");
        let like: Vec<_> = facts.records.iter().filter(|record| record.destination == service).collect();
        let of = |record: &&telemetry::Record| {
            let missed = record.missed.iter().find(|missed| missed.reason.starts_with(NO_TLS));
            missed.map(|missed| format!("{}: {}", missed.upstream, missed.reason))
        };
        let failed: Vec<String> = like.iter().filter_map(of).collect();
        let Some(last) = failed.last() else { continue };
        let all = failed.len() == like.len();
        for policy in meant(facts, &namespace, &name, port.as_deref()) {
            let host = text(policy, "/spec/validation/hostname");
            let what = if last.contains("not valid for name") {
                format!("its certificate is for other names than {} asks for", way::text_name(policy))
            } else if last.contains("UnknownIssuer") {
                format!("its certificate is signed by none of the authorities that {} trusts", way::text_name(policy))
            } else {
                format!("{} asks for TLS, and there is none", way::text_name(policy))
            };
            let problem =
                format!("{} of {} recorded requests to Service {service} failed: {what}", failed.len(), like.len());
            let make = if all { Finding::broken } else { Finding::doubtful };
            let evidence = [last.clone(), format!("validation.hostname is {host}")];
            report.findings.push(make("BackendCertificate", problem).because(evidence).next(describe(policy)));
        }
    }
}
