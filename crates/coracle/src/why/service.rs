//! A Service, its ports, its Pods and its endpoints. Pure.

use super::{Facts, Finding, Report, is, list, text};
use crate::readiness::{Baseline, is_ready, trouble};
use serde_json::Value;

/// How many names or Pods are listed as evidence.
const MOST: usize = 5;

/// The Service that was asked about and its port, as steps; false where there is none.
pub(super) fn find(facts: &Facts, namespace: &str, name: &str, port: Option<&str>, report: &mut Report) -> bool {
    let Some(service) = facts.services.iter().find(|service| is(service, namespace, name)) else {
        report.findings.push(missing(facts, namespace, name));
        return false;
    };
    let ports = list(service, "/spec/ports");
    report.steps.push(("service", format!("{namespace}/{name}, {}", shown(ports))));
    let known = port.is_none_or(|port| ports.iter().any(|candidate| named(candidate, port)));
    if !known {
        let port = port.unwrap_or_default();
        let problem = format!("Service {namespace}/{name} has no port {port}; it has {}", shown(ports));
        let wrong = ports.iter().find(|candidate| candidate["targetPort"].to_string().trim_matches('"') == port);
        let hint = wrong.map(|found| format!("{port} is the port of its Pods; callers use {}", found["port"]));
        let describe = format!("coracle describe service/{name} -n {namespace}");
        report.findings.push(Finding::broken("NoSuchPort", problem).because(hint).next(describe));
    }
    known
}

/// Whether this is the port of that name or number.
fn named(port: &Value, wanted: &str) -> bool {
    port["port"].as_u64().is_some_and(|number| wanted.parse() == Ok(number)) || text(port, "/name") == wanted
}

fn shown(ports: &[Value]) -> String {
    let all: Vec<String> = ports
        .iter()
        .map(|port| match text(port, "/name") {
            "" => port["port"].to_string(),
            name => format!("{} ({name})", port["port"]),
        })
        .collect();
    if all.is_empty() { "no ports".to_owned() } else { format!("port {}", all.join(", ")) }
}

fn missing(facts: &Facts, namespace: &str, name: &str) -> Finding {
    let full =
        |service: &Value| format!("{}/{}", text(service, "/metadata/namespace"), text(service, "/metadata/name"));
    let elsewhere = facts.services.iter().filter(|service| text(service, "/metadata/name") == name).map(full);
    let elsewhere =
        elsewhere.map(|service| format!("there is {service}: from another namespace it is called by that name"));
    let here = facts.services.iter().filter(|service| text(service, "/metadata/namespace") == namespace);
    let similar = here.filter(|service| {
        let other = text(service, "/metadata/name");
        other.contains(name) || name.contains(other) || distance(other, name) <= 2
    });
    let similar = similar.map(|service| format!("there is {}", full(service)));
    Finding::broken("NoSuchService", format!("there is no Service {name} in namespace {namespace}"))
        .because(elsewhere.chain(similar).take(MOST))
        .next("coracle get services -A")
}

/// How many letters must be changed, added or left out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let cost = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = cost.min(before + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// What is behind a Service that requests would go to.
pub(super) fn behind(facts: &Facts, namespace: &str, name: &str, port: Option<&str>, report: &mut Report) {
    let Some(service) = facts.services.iter().find(|service| is(service, namespace, name)) else {
        let problem = format!("the rule sends to Service {namespace}/{name}, which does not exist");
        report
            .findings
            .push(Finding::broken("NoSuchService", problem).next(format!("coracle get services -n {namespace}")));
        return;
    };
    if text(service, "/spec/type") == "ExternalName" {
        report
            .steps
            .push(("pods", format!("none: {namespace}/{name} stands for {}", text(service, "/spec/externalName"))));
        return;
    }
    let selector: Vec<(&str, &str)> = service
        .pointer("/spec/selector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
        .collect();
    if selector.is_empty() {
        without_selector(facts, namespace, name, report);
        return;
    }
    let here = || facts.pods.iter().filter(|pod| text(pod, "/metadata/namespace") == namespace);
    let has = |pod: &Value, (key, value): &(&str, &str)| pod["metadata"]["labels"][*key] == **value;
    let own: Vec<&Value> = here().filter(|pod| selector.iter().all(|label| has(pod, label))).collect();
    let living = || own.iter().filter(|pod| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed"));
    let ready = living().filter(|pod| is_ready(pod)).count();
    report.steps.push(("pods", format!("{ready} of {} of {namespace}/{name} are ready", living().count())));
    if own.is_empty() {
        let words = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        let near = here().filter(|pod| selector.iter().any(|(key, _)| !pod["metadata"]["labels"][*key].is_null()));
        let near = near.map(|pod| format!("Pod {} has {}", text(pod, "/metadata/name"), labels(pod, &selector)));
        let problem = format!("the selector of Service {namespace}/{name} ({words}) matches no Pod");
        let finding = Finding::broken("SelectorMatchesNoPods", problem).because(near.take(MOST));
        report.findings.push(
            finding
                .next(format!("coracle get pods -n {namespace} -o wide"))
                .next(format!("coracle get service/{name} -n {namespace} -o yaml")),
        );
        return;
    }
    if ready == 0 {
        report.findings.push(unready(facts, namespace, name, &own));
        return;
    }
    ports_of(service, port, &own, report);
    if ready < living().count() {
        let problem =
            format!("{} of the Pods of {namespace}/{name} are not ready and get no requests", living().count() - ready);
        let troubles = living().filter(|pod| !is_ready(pod)).map(|pod| told(pod));
        report.findings.push(Finding::doubtful("SomePodsNotReady", problem).because(troubles.take(MOST)));
    }
}

fn labels(pod: &Value, selector: &[(&str, &str)]) -> String {
    let each = selector.iter().map(|(key, _)| match pod["metadata"]["labels"][*key].as_str() {
        Some(value) => format!("{key}={value}"),
        None => format!("no label {key}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

fn without_selector(facts: &Facts, namespace: &str, name: &str, report: &mut Report) {
    let own = facts.slices.iter().filter(|slice| {
        text(slice, "/metadata/namespace") == namespace
            && slice["metadata"]["labels"][resources::names::SERVICE_NAME_LABEL] == name
    });
    let count: usize = own.map(|slice| list(slice, "/endpoints").len()).sum();
    report.steps.push(("endpoints", format!("{count} of {namespace}/{name}, which has no selector")));
    if count == 0 {
        let problem = format!("Service {namespace}/{name} has no selector, and no EndpointSlice gives it endpoints");
        let next = format!("coracle get endpointslices -n {namespace}");
        report.findings.push(Finding::broken("NoEndpoints", problem).next(next));
    }
}

fn told(pod: &Value) -> String {
    let why = trouble(pod, &Baseline::new()).unwrap_or_else(|| condition(pod));
    format!("Pod {}: {why}", text(pod, "/metadata/name"))
}

/// What the Pod's own condition says.
fn condition(pod: &Value) -> String {
    let all = list(pod, "/status/conditions");
    let false_ones = all.iter().filter(|condition| condition["status"] == "False");
    let containers = list(pod, "/status/containerStatuses").iter().filter_map(|status| {
        let name = text(status, "/name");
        let waiting = status.pointer("/state/waiting/reason").and_then(Value::as_str);
        let code =
            ["/state", "/lastState"].iter().find_map(|state| status.pointer(&format!("{state}/terminated/exitCode")));
        match (waiting, code) {
            (None, None) => None,
            (Some(reason), None) => Some(format!("container {name} is waiting: {reason}")),
            (reason, Some(code)) => {
                let restarts = &status["restartCount"];
                let reason = reason.map(|reason| format!(", {reason}")).unwrap_or_default();
                Some(format!("container {name} ended with exit code {code} ({restarts} restarts{reason})"))
            }
        }
    });
    let said: Vec<String> = false_ones
        .map(|condition| {
            format!(
                "{} is False ({}) {}",
                text(condition, "/type"),
                text(condition, "/reason"),
                text(condition, "/message")
            )
        })
        .map(|said| said.trim_end().to_owned())
        .chain(containers)
        .collect();
    if said.is_empty() { "it has not started".to_owned() } else { said.join("; ") }
}

fn unready(facts: &Facts, namespace: &str, name: &str, own: &[&Value]) -> Finding {
    let mut finding = Finding::broken("NoPodReady", format!("no Pod of Service {namespace}/{name} is ready"));
    for pod in own.iter().take(MOST) {
        finding = finding.because([told(pod)]);
        let key = format!("{namespace}/{}", text(pod, "/metadata/name"));
        let line = facts.last_lines.get(&key);
        finding = finding.because(line.map(|line| format!("the last line it wrote: {line}")));
    }
    let pod = own.first().map(|pod| text(pod, "/metadata/name")).unwrap_or_default();
    let restarted = own.first().is_some_and(|pod| {
        list(pod, "/status/containerStatuses").iter().any(|status| status["restartCount"].as_u64() > Some(0))
    });
    let previous = if restarted { " --previous" } else { "" };
    finding
        .next(format!("coracle describe pod/{pod} -n {namespace}"))
        .next(format!("coracle logs {pod} -n {namespace}{previous}"))
}

/// Whether the Service's port leads to a port of the containers.
fn ports_of(service: &Value, port: Option<&str>, own: &[&Value], report: &mut Report) {
    let (namespace, name) = (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
    for candidate in
        list(service, "/spec/ports").iter().filter(|candidate| port.is_none_or(|port| named(candidate, port)))
    {
        let declared: Vec<&Value> = own
            .iter()
            .flat_map(|pod| list(pod, "/spec/containers"))
            .flat_map(|container| list(container, "/ports"))
            .collect();
        let has = |holds: &dyn Fn(&Value) -> bool| declared.iter().any(|port| holds(port));
        let all: Vec<String> = declared
            .iter()
            .map(|port| format!("{} {}", text(port, "/name"), port["containerPort"]).trim().to_owned())
            .collect();
        let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
        let next = format!("coracle get service/{name} -n {namespace} -o yaml");
        match &candidate["targetPort"] {
            Value::String(target) if !has(&|port| text(port, "/name") == target) => {
                let problem = format!(
                    "port {} of Service {namespace}/{name} leads to a container port named {target}, which its Pods don't have",
                    candidate["port"]
                );
                let evidence = format!("ports of the containers: {all}");
                report.findings.push(Finding::broken("NoSuchTargetPort", problem).because([evidence]).next(next));
            }
            Value::Number(target)
                if !declared.is_empty() && !has(&|port| port["containerPort"] == Value::Number(target.clone())) =>
            {
                let problem = format!(
                    "port {} of Service {namespace}/{name} leads to port {target}, which no container declares",
                    candidate["port"]
                );
                let evidence = format!("ports of the containers: {all}");
                report.findings.push(Finding::doubtful("UndeclaredTargetPort", problem).because([evidence]).next(next));
            }
            _ => {}
        }
    }
}
