//! The way of a request: caller, listener, rule, policies, and what became of others like it. Pure.

use super::{Facts, Finding, Report, Target, list, text};
use serde_json::Value;
use std::collections::BTreeMap;

/// How many of the recent failures are told.
const MOST: usize = 3;

/// What the proxy is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) listener: String,
    pub(crate) host: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

pub(super) fn caller(facts: &Facts, report: &mut Report) {
    match &facts.caller {
        None => {}
        Some(Ok(caller)) => {
            let identity = caller.identity.as_deref().unwrap_or("without an identity");
            report.steps.push(("caller", format!("{}, {identity}", caller.workload)));
            if caller.identity.is_none() {
                let problem = format!(
                    "{} has asked to stay outside of the mesh, so it is nobody to those it calls",
                    caller.workload
                );
                let evidence = "its Pods have the label sidecar.istio.io/inject: \"false\"".to_owned();
                report.findings.push(Finding::doubtful("NoIdentity", problem).because([evidence]));
            }
        }
        Some(Err(why)) => {
            report.findings.push(Finding::broken("NoSuchCaller", why.clone()).next("coracle get pods -A"));
        }
    }
}

/// What the Gateways offer where a URL is of none of the Services; false where nothing listens there.
pub(super) fn gateway(facts: &Facts, report: &mut Report) -> bool {
    let Target::Gateway { host, port } = &facts.target else { return false };
    if facts.listener.is_some() {
        return true;
    }
    let unserved: Vec<Finding> = facts.gateways.iter().flat_map(|gateway| unserved(gateway, *port)).collect();
    if !unserved.is_empty() {
        report.findings.extend(unserved);
        return false;
    }
    let offers = facts.gateways.iter().flat_map(|gateway| {
        let name = text_name(gateway);
        let listeners = list(gateway, "/spec/listeners").iter().map(move |listener| {
            let hostname = text(listener, "/hostname");
            let hostname = if hostname.is_empty() { "any host" } else { hostname };
            format!("{name} has a listener {} for {hostname}, port {}", text(listener, "/name"), listener["port"])
        });
        listeners.collect::<Vec<_>>()
    });
    let problem = format!("no Gateway listens on port {port}, and {host} is the name of no Service");
    report.findings.push(
        Finding::broken("NoListener", problem).because(offers).next("coracle get gateways -A").next("coracle status"),
    );
    conditions(&facts.gateways, |_| true, &mut report.findings);
    false
}

/// Whether a listener is to be found at a port: its own, or where it is moved to if it may not be bound.
fn is_at(listener: &Value, port: u16) -> bool {
    let own = listener["port"].as_u64().unwrap_or_default();
    own == u64::from(port) || (own < 1024 && own + 8000 == u64::from(port))
}

/// What keeps the listeners of a port from being served.
fn unserved(gateway: &Value, port: u16) -> Vec<Finding> {
    let (name, namespace) = (text(gateway, "/metadata/name"), text(gateway, "/metadata/namespace"));
    let mut found = Vec::new();
    for listener in list(gateway, "/spec/listeners").iter().filter(|listener| is_at(listener, port)) {
        let own = |status: &&Value| status["name"] == listener["name"];
        let status = list(gateway, "/status/listeners").iter().find(own).unwrap_or(&Value::Null);
        let mut evidence = Vec::new();
        for condition in list(status, "/conditions").iter().filter(|condition| condition["status"] == "False") {
            let message = text(condition, "/message").to_owned();
            if text(condition, "/type") != "Conflicted" && !evidence.contains(&message) {
                evidence.push(message);
            }
        }
        let problem = format!("listener {} of {} is not served", text(listener, "/name"), text_name(gateway));
        let next = format!("coracle describe {}/{name} -n {namespace}", text(gateway, "/kind").to_lowercase());
        found.push(Finding::broken("NotServed", problem).because(evidence).next(next));
    }
    found
}

pub(super) fn listener(facts: &Facts, report: &mut Report) {
    match &facts.listener {
        Some((id, Ok(address))) => report.steps.push(("listener", format!("{id} at {address}"))),
        Some((id, Err(why))) => {
            report.steps.push(("listener", format!("{id}, not bound")));
            let problem = format!("the proxy cannot listen for {id}");
            let next = "end what holds that address, or choose another port".to_owned();
            report.findings.push(Finding::broken("NotBound", problem).because([why.clone(), next]));
        }
        None => {
            if let Target::Service { namespace, name, .. } = &facts.target {
                let service = facts.services.iter().find(|service| super::is(service, namespace, name));
                let says = |path| service.map_or("", |service| text(service, path));
                if says("/spec/clusterIP") == "None" {
                    report.steps.push(("listener", "none: a headless Service's Pods are called directly".to_owned()));
                } else if says("/spec/type") == "ExternalName" {
                    let step = "none: callers go to the name that it stands for by themselves, or by the egress proxy";
                    report.steps.push(("listener", step.to_owned()));
                } else {
                    let problem = format!("the proxy has no listener for Service {namespace}/{name}");
                    report.findings.push(
                        Finding::broken("NoListener", problem)
                            .next(format!("coracle describe service/{name} -n {namespace}")),
                    );
                }
            }
        }
    }
}

/// Who the listener answers at all: others are reset before anything is read.
pub(super) fn door(facts: &Facts, report: &mut Report) {
    let (Some(explanation), Some((listener, _))) = (&facts.explanation, &facts.listener) else { return };
    let certified = match text(explanation, "/admits") {
        "known" => false,
        "certified" => true,
        _ => return,
    };
    let step = if certified { "callers with a certificate only" } else { "callers with an identity only" };
    report.steps.push(("door", step.to_owned()));
    let who = match &facts.caller {
        Some(Ok(caller)) if caller.identity.is_some() => return,
        Some(Ok(caller)) => caller.workload.clone(),
        Some(Err(_)) => return,
        None => "a caller without an identity, such as a program that is in no Pod,".to_owned(),
    };
    let (asked, because, next) = if certified {
        let because = "it is asked for by the annotation mesh.coracle.dev/mtls or by --mtls always";
        ("a certificate", because, "coracle get services,namespaces -A -o yaml")
    } else {
        let because = "it is asked for by a PeerAuthentication whose mode is STRICT";
        ("an identity", because, "coracle get peerauthentications -A")
    };
    let problem = format!("{listener} asks for {asked}: connections of {who} are reset");
    let hint = facts.caller.is_none().then(|| "say who calls with --from WORKLOAD to judge another caller".to_owned());
    let finding = Finding::broken("NotKnown", problem).because([because.to_owned()].into_iter().chain(hint));
    report.findings.push(finding.next(next));
}

pub(super) fn rule(facts: &Facts, report: &mut Report) {
    let Some(explanation) = &facts.explanation else { return };
    let own = explanation["ownAnswer"].as_u64();
    match (explanation["rule"].as_str(), own) {
        (Some(rule), None) => report.steps.push(("rule", rule.to_owned())),
        (Some(rule), Some(status)) => {
            report.steps.push(("rule", format!("{rule}, answered by the proxy itself with {status}")));
            if status >= 500 {
                let problem = format!(
                    "the proxy answers {status} for the rule {rule}: it cannot be followed, or has no backends with a weight"
                );
                report.findings.push(Finding::broken("RuleNotFollowed", problem).next(describe_route(rule)));
            }
        }
        (None, Some(_)) => {
            let problem = format!("no route matches {}", facts.request);
            report
                .findings
                .push(Finding::broken("NoRoute", problem).because(candidates(facts)).next("coracle get httproutes -A"));
        }
        (None, None) if text(explanation, "/protocol") == "tls" && list(explanation, "/backends").is_empty() => {
            let problem = "no TLSRoute is for this server name".to_owned();
            report
                .findings
                .push(Finding::broken("NoRoute", problem).because(candidates(facts)).next("coracle get tlsroutes -A"));
        }
        (None, None) => {
            report.steps.push(("rule", format!("none: the listener carries {}", text(explanation, "/protocol"))))
        }
    }
    for way in list(explanation, "/backends") {
        let endpoints = list(way, "/endpoints").len();
        let circuit = way["circuit"].as_str();
        let shown = circuit.map(|circuit| format!(", circuit {circuit}")).unwrap_or_default();
        report.steps.push((
            "backend",
            format!("{}: {endpoints} endpoints, weight {}{shown}", text(way, "/backend"), way["weight"]),
        ));
        if circuit == Some("open") {
            let problem = format!(
                "the circuit breaker for {} is open: calls are refused until it tries again",
                text(way, "/backend")
            );
            report
                .findings
                .push(Finding::broken("CircuitOpen", problem).next("coracle trace").next("coracle top --once"));
        }
        if text(way, "/backend") == "unresolved" {
            let problem = "the rule names a backend that cannot be found".to_owned();
            let next = describe_route(explanation["rule"].as_str().unwrap_or_default());
            report.findings.push(Finding::broken("BackendNotFound", problem).next(next));
        }
    }
}

fn describe_route(rule: &str) -> String {
    let mut parts = rule.rsplitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(name), Some(namespace)) => {
            format!("coracle describe httproute/{name} -n {}", namespace.rsplit('/').next().unwrap_or(namespace))
        }
        _ => "coracle get httproutes -A".to_owned(),
    }
}

/// Whether it is a listener whose connections go by their server names.
fn carries_tls(facts: &Facts) -> bool {
    facts.explanation.as_ref().is_some_and(|explanation| text(explanation, "/protocol") == "tls")
}

/// What routes would match.
fn candidates(facts: &Facts) -> Vec<String> {
    let mut all = Vec::new();
    let tls = carries_tls(facts);
    for route in facts.routes.iter().filter(|route| (route["kind"] == "TLSRoute") == tls) {
        let hosts: Vec<&str> = list(route, "/spec/hostnames").iter().filter_map(Value::as_str).collect();
        let hosts = if hosts.is_empty() { "any host".to_owned() } else { hosts.join(", ") };
        let matches = list(route, "/spec/rules").iter().flat_map(|rule| list(rule, "/matches"));
        let matches: Vec<String> = matches.map(one_match).collect();
        let matches = if tls {
            "every connection".to_owned()
        } else if matches.is_empty() {
            "every path".to_owned()
        } else {
            matches.join(" or ")
        };
        all.push(format!(
            "{} {}/{} matches {hosts}, {matches}",
            text(route, "/kind"),
            text(route, "/metadata/namespace"),
            text(route, "/metadata/name")
        ));
    }
    all.truncate(10);
    all
}

fn one_match(one: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(one["method"].as_str().map(str::to_owned));
    if let Some(value) = one.pointer("/path/value").and_then(Value::as_str) {
        let kind = one.pointer("/path/type").and_then(Value::as_str).unwrap_or("PathPrefix");
        parts.push(if kind == "PathPrefix" { format!("{value}...") } else { value.to_owned() });
    }
    parts.extend(
        list(one, "/headers").iter().map(|header| format!("{}: {}", text(header, "/name"), text(header, "/value"))),
    );
    if parts.is_empty() { "every path".to_owned() } else { parts.join(" ") }
}

/// The Services that the request might go to, each with its port.
pub(super) fn destinations(facts: &Facts) -> Vec<(String, String, Option<String>)> {
    let ways = facts.explanation.iter().flat_map(|explanation| list(explanation, "/backends"));
    let mut all: Vec<(String, String, Option<String>)> = ways
        .filter_map(|way| {
            let (service, port) = text(way, "/backend").rsplit_once(':')?;
            let (namespace, name) = service.split_once('/')?;
            Some((namespace.to_owned(), name.to_owned(), Some(port.to_owned())))
        })
        .collect();
    if let (true, Target::Service { namespace, name, port }) = (all.is_empty(), &facts.target) {
        all.push((namespace.clone(), name.clone(), port.clone()));
    }
    all
}

pub(super) fn refusals(facts: &Facts, report: &mut Report) {
    for refusal in facts.explanation.iter().flat_map(|explanation| list(explanation, "/refusals")) {
        let (policy, place, reason) = (text(refusal, "/policy"), text(refusal, "/place"), text(refusal, "/reason"));
        let who = match &facts.caller {
            Some(Ok(caller)) => caller.workload.clone(),
            _ => "a caller without an identity".to_owned(),
        };
        let problem = match reason {
            "policy_invalid" => format!("AccessPolicy {policy} cannot be followed, so nobody gets through at {place}"),
            "access_denied" => format!("AccessPolicy {policy} denies {who} at {place}"),
            _ => format!("AccessPolicy {policy} does not allow {who} at {place}"),
        };
        let rule = refusal["rule"].as_str().map(|rule| format!("by its rule {rule}"));
        let hint =
            facts.caller.is_none().then(|| "say who calls with --from WORKLOAD to judge another caller".to_owned());
        let (namespace, name) = policy
            .rsplit_once('/')
            .map_or(("default", policy), |(namespace, name)| (namespace.rsplit('/').next().unwrap_or(namespace), name));
        let next = format!("coracle get accesspolicies/{name} -n {namespace} -o yaml");
        report.findings.push(Finding::broken("AccessDenied", problem).because(rule.into_iter().chain(hint)).next(next));
    }
}

/// Routes that are meant for this place and not followed.
pub(super) fn routes(facts: &Facts, report: &mut Report) {
    let mut concerned: Vec<(String, String)> =
        destinations(facts).into_iter().map(|(namespace, name, _)| (namespace, name)).collect();
    if let Target::Service { namespace, name, .. } = &facts.target {
        concerned.push((namespace.clone(), name.clone()));
    }
    let at = if let Target::Gateway { port, .. } = &facts.target { Some(*port) } else { None };
    let at_gateway = at.is_some();
    let matched = facts.explanation.as_ref().and_then(|explanation| explanation["rule"].as_str());
    for route in facts.routes.iter().filter(|route| !at_gateway || (route["kind"] == "TLSRoute") == carries_tls(facts))
    {
        let own = text(route, "/metadata/namespace");
        let parents = list(route, "/spec/parentRefs").iter().filter(|parent| parent["kind"] == "Service");
        let backends = list(route, "/spec/rules").iter().flat_map(|rule| list(rule, "/backendRefs"));
        let named = |reference: &Value| {
            let namespace = reference["namespace"].as_str().unwrap_or(own);
            concerned.iter().any(|(at, name)| at == namespace && text(reference, "/name") == name)
        };
        let gateway_route = list(route, "/spec/parentRefs")
            .iter()
            .any(|parent| parent["kind"].as_str().is_none_or(|kind| kind == "Gateway"));
        if !(parents.into_iter().any(named) || backends.into_iter().any(named) || (at_gateway && gateway_route)) {
            continue;
        }
        let mut found = Vec::new();
        let statuses = list(route, "/status/parents");
        for status in statuses {
            conditions_of(status, &text_name(route), &mut found);
        }
        if statuses.is_empty() {
            let problem = format!("{} has no status: none of its parents is known to the mesh", text_name(route));
            found.push(Finding::doubtful("RouteNotSeen", problem));
        }
        let name = text(route, "/metadata/name");
        // What another route refers to does not matter to a request that it would not get.
        let another = matched.is_some_and(|rule| !format!("/{rule}/").contains(&format!("/{own}/{name}/")));
        if at_gateway && another {
            found.retain(|finding| !finding.problem.contains(": ResolvedRefs is "));
        }
        let next = format!("coracle describe {}/{name} -n {own}", text(route, "/kind").to_lowercase());
        report.findings.extend(found.into_iter().map(|finding| finding.next(next.clone())));
    }
    if let Some(port) = at {
        conditions(&facts.gateways, |listener| is_at(listener, port), &mut report.findings);
    }
}

pub(super) fn text_name(object: &Value) -> String {
    format!("{} {}/{}", text(object, "/kind"), text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

/// What is wrong with Gateways that have such listeners, and with these.
fn conditions(gateways: &[Value], such: impl Fn(&Value) -> bool, findings: &mut Vec<Finding>) {
    for gateway in gateways {
        let name = text_name(gateway);
        let meant: Vec<&Value> =
            list(gateway, "/spec/listeners").iter().filter(|it| such(it)).map(|it| &it["name"]).collect();
        if meant.is_empty() {
            continue;
        }
        conditions_of(&gateway["status"], &name, findings);
        for listener in list(gateway, "/status/listeners").iter().filter(|it| meant.contains(&&it["name"])) {
            conditions_of(listener, &format!("listener {} of {name}", text(listener, "/name")), findings);
        }
    }
}

/// What conditions say that should be true and are not.
fn conditions_of(holder: &Value, name: &str, findings: &mut Vec<Finding>) {
    for condition in list(holder, "/conditions") {
        let kind = text(condition, "/type");
        let wanted = matches!(kind, "Accepted" | "ResolvedRefs" | "Programmed");
        let odd = matches!(kind, "PartiallyInvalid" | "Conflicted") && condition["status"] == "True";
        if (wanted && condition["status"] == "False") || odd {
            let problem = format!("{name}: {kind} is {} ({})", text(condition, "/status"), text(condition, "/reason"));
            findings.push(Finding::doubtful("Condition", problem).because([text(condition, "/message").to_owned()]));
        }
    }
}

/// Policies that are meant for these Services.
pub(super) fn policies(facts: &Facts, report: &mut Report) {
    let concerned = destinations(facts);
    // Those for TLS have a judge of their own.
    for policy in facts.policies.iter().filter(|policy| policy["kind"] != "BackendTLSPolicy") {
        let own = text(policy, "/metadata/namespace");
        let mut refs = list(policy, "/spec/targetRefs").iter();
        let meant = refs.any(|target| {
            let whole = text(target, "/kind") == "Namespace" && concerned.iter().any(|(at, _, _)| at == own);
            whole
                || concerned.iter().any(|(at, name, _)| {
                    at == own && text(target, "/kind") == "Service" && text(target, "/name") == name
                })
        });
        let app = |name: &String| policy.pointer("/spec/targets/apps").is_some_and(|apps| apps.get(name).is_some());
        let translated = concerned.iter().any(|(at, name, _)| at == own && app(name));
        if !meant && !translated {
            continue;
        }
        report.steps.push(("policy", text_name(policy)));
        let holders = list(policy, "/status/ancestors").iter().chain(std::iter::once(&policy["status"]));
        holders.for_each(|holder| conditions_of(holder, &text_name(policy), &mut report.findings));
    }
}

/// What became of recent requests to the same Services.
pub(super) fn history(facts: &Facts, report: &mut Report) {
    let concerned: Vec<String> =
        destinations(facts).into_iter().map(|(namespace, name, _)| format!("{namespace}/{name}")).collect();
    let like = facts.records.iter().filter(|record| concerned.contains(&record.destination));
    let mut failed: BTreeMap<(String, String), (usize, String)> = BTreeMap::new();
    let mut all = 0;
    for record in like {
        all += 1;
        if record.failed() {
            let why = record.reason.clone().unwrap_or_else(|| record.status.to_string());
            let missed = record.missed.first().map(|missed| format!("{}: {}", missed.upstream, missed.reason));
            let entry = failed.entry((record.destination.clone(), why)).or_insert((0, missed.unwrap_or_default()));
            entry.0 += 1;
        }
    }
    for ((destination, why), (count, missed)) in failed.into_iter().take(MOST) {
        let problem = format!("{count} of the last {all} recorded requests to {destination} failed: {why}");
        let mut finding = Finding::doubtful("RecentFailures", problem).next("coracle trace");
        if why == "connect_failed" && !missed.contains("no TLS") {
            let hint = "its Pods are taken for ready, and nobody listens on the port that the Service leads to: compare targetPort with the port that the program opens";
            finding = finding.because([hint.to_owned()]);
        }
        if why == "not_http2" {
            let hint = "calls of gRPC need HTTP/2: lead the Service's port (targetPort) to one on which the program speaks it, and give it appProtocol: kubernetes.io/h2c";
            finding = finding.because([hint.to_owned()]);
        }
        finding = finding.because((!missed.is_empty()).then_some(missed));
        report.findings.push(finding);
    }
}
