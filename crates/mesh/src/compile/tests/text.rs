//! A compiled snapshot as a few lines of text, so that a test says what it expects.

use proxy::snapshot::{
    Action, Filter, HostMatch, Listener, ListenerProtocol, PathMatch, PathRewrite, Rule, ValueMatch,
};

use super::super::verdict::Verdict;
use super::super::{Compiled, hosts};

/// The rules of listener `id`: a line for a host, below it one for each rule in order.
pub(super) fn listener(compiled: &Compiled, id: &str) -> Vec<String> {
    let listener = compiled.snapshot.listeners.iter().find(|listener| &*listener.id == id);
    let Some(listener) = listener else { return vec![format!("no listener {id}")] };
    let mut lines = Vec::new();
    for host in &listener.hosts {
        lines.push(match &host.host {
            HostMatch::Any => "*".to_owned(),
            other => hosts::display(other),
        });
        lines.extend(host.rules.iter().map(|line| format!("  {}", rule(line))));
    }
    lines
}

/// Where a listener listens, and what it speaks.
pub(super) fn socket(listener: &Listener) -> String {
    let protocol = match &listener.protocol {
        ListenerProtocol::Http => "http".to_owned(),
        ListenerProtocol::Egress { .. } => "egress".to_owned(),
        ListenerProtocol::Mesh => "mesh".to_owned(),
        ListenerProtocol::Https { certificates, .. } => {
            let named = |certificate: &proxy::snapshot::Certificate| {
                let names: Vec<String> = certificate.hosts.iter().map(hosts::display).collect();
                if names.is_empty() { "*".to_owned() } else { names.join("+") }
            };
            format!("https({})", certificates.iter().map(named).collect::<Vec<_>>().join(","))
        }
        ListenerProtocol::Tls { names, .. } => {
            let named = |name: &proxy::snapshot::ServerName| {
                let backends = name.backends.iter().map(|to| format!("{}*{}", to.backend, to.weight));
                let host = if name.host == HostMatch::Any { "*".to_owned() } else { hosts::display(&name.host) };
                format!("{host}:{}", backends.collect::<Vec<_>>().join("+"))
            };
            format!("tls({})", names.iter().map(named).collect::<Vec<_>>().join(" "))
        }
        ListenerProtocol::Tcp { backend } => format!("tcp({backend})"),
        ListenerProtocol::Sniff { tcp } => format!("sniff({tcp})"),
    };
    let fallback = listener.fallback.map(|fallback| format!(" or {fallback}")).unwrap_or_default();
    format!("{} {}{fallback} {protocol}", listener.id, listener.bind)
}

pub(super) fn rule(rule: &Rule) -> String {
    let mut parts = Vec::new();
    parts.extend(rule.matches.method.as_ref().map(ToString::to_string));
    parts.push(match &rule.matches.path {
        PathMatch::Exact(path) => format!("={path}"),
        PathMatch::Prefix(path) => path.to_string(),
        PathMatch::Regex(path) => format!("~{path}"),
    });
    parts.extend(rule.matches.headers.iter().map(|header| format!("[{}{}]", header.name, value(&header.value))));
    parts.extend(rule.matches.query.iter().map(|query| format!("?{}{}", query.name, value(&query.value))));
    parts.extend(rule.filters.iter().map(filter));
    parts.push("->".to_owned());
    parts.push(match &rule.action {
        Action::Respond { status, .. } => status.as_u16().to_string(),
        Action::Forward { backends } => {
            let backend = |weighted: &proxy::snapshot::Weighted| {
                let filters: String = weighted.filters.iter().map(|change| format!(" {}", filter(change))).collect();
                format!("{}*{}{filters}", weighted.backend, weighted.weight)
            };
            backends.iter().map(backend).collect::<Vec<_>>().join(" + ")
        }
    });
    if let Some(limit) = rule.timeouts.request {
        parts.push(format!("within {limit:?}"));
    }
    if let Some(limit) = rule.timeouts.backend_request {
        parts.push(format!("each {limit:?}"));
    }
    parts.push(format!("({})", rule.id));
    parts.join(" ")
}

fn value(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(value) => format!("={value}"),
        ValueMatch::Regex(value) => format!("~{value}"),
        ValueMatch::Present => String::new(),
    }
}

fn filter(filter: &Filter) -> String {
    let path = |path: &Option<PathRewrite>| match path {
        Some(PathRewrite::Full(path)) => format!(" path={path}"),
        Some(PathRewrite::Prefix(path)) => format!(" prefix={path}"),
        None => String::new(),
    };
    let changes = |changes: &proxy::snapshot::HeaderChanges| {
        let set = changes.set.iter().map(|(name, value)| format!(" {name}={}", value.to_str().unwrap_or("?")));
        let add = changes.add.iter().map(|(name, value)| format!(" +{name}={}", value.to_str().unwrap_or("?")));
        let remove = changes.remove.iter().map(|name| format!(" -{name}"));
        set.chain(add).chain(remove).collect::<String>()
    };
    match filter {
        Filter::RequestHeaders(headers) => format!("{{request{}}}", changes(headers)),
        Filter::ResponseHeaders(headers) => format!("{{response{}}}", changes(headers)),
        Filter::Rewrite { host, path: to } => {
            let host = host.as_ref().map(|host| format!(" host={host}")).unwrap_or_default();
            format!("{{rewrite{host}{}}}", path(to))
        }
        Filter::Mirror(mirror) => {
            format!("{{mirror {} {}/{}}}", mirror.backend, mirror.numerator, mirror.denominator)
        }
        Filter::Cors(cors) => {
            let list = |name: &str, words: &[std::sync::Arc<str>]| {
                if words.is_empty() { String::new() } else { format!(" {name}={}", words.join("+")) }
            };
            format!(
                "{{cors{}{}{}{}{} {}s}}",
                list("origins", &cors.origins),
                if cors.credentials { " credentials" } else { "" },
                list("methods", &cors.methods),
                list("headers", &cors.headers),
                list("expose", &cors.expose),
                cors.max_age
            )
        }
        Filter::Redirect(redirect) => {
            let scheme = redirect.scheme.as_ref().map(|scheme| format!(" {scheme}")).unwrap_or_default();
            let host = redirect.host.as_ref().map(|host| format!(" host={host}")).unwrap_or_default();
            let port = redirect.port.map(|port| format!(" port={port}")).unwrap_or_default();
            format!("{{redirect {}{scheme}{host}{port}{}}}", redirect.status.as_u16(), path(&redirect.path))
        }
    }
}

/// Conditions in short: `Accepted` or `!Accepted=Reason`.
pub(super) fn verdicts(verdicts: &[Verdict]) -> String {
    let short = |verdict: &Verdict| match (verdict.holds, verdict.kind == verdict.reason) {
        (true, true) => verdict.kind.to_owned(),
        (true, false) => format!("{}={}", verdict.kind, verdict.reason),
        (false, _) => format!("!{}={}", verdict.kind, verdict.reason),
    };
    verdicts.iter().map(short).collect::<Vec<_>>().join(" ")
}

/// What is said about a route, a line for each of its parents that are ours.
pub(super) fn route(compiled: &Compiled, name: &str) -> Vec<String> {
    let plan = compiled.routes.iter().find(|route| route.name == name).expect("the route is in the picture");
    plan.parents.iter().map(|parent| format!("{}: {}", parent.parent.name, verdicts(&parent.verdicts))).collect()
}

/// The message of a route's condition.
pub(super) fn route_message(compiled: &Compiled, name: &str, kind: &str) -> String {
    let plan = compiled.routes.iter().find(|route| route.name == name).expect("the route is in the picture");
    let verdicts = plan.parents.iter().flat_map(|parent| &parent.verdicts);
    verdicts
        .filter(|verdict| verdict.kind == kind)
        .map(|verdict| verdict.message.clone())
        .collect::<Vec<_>>()
        .join(" | ")
}

/// What is said about a Gateway: a line for itself, and one for each listener with what serves it.
pub(super) fn gateway(compiled: &Compiled, name: &str) -> Vec<String> {
    let plan = compiled.gateways.iter().find(|gateway| gateway.name == name);
    let Some(plan) = plan else { return vec!["not ours".to_owned()] };
    let mut lines = vec![verdicts(std::slice::from_ref(&plan.accepted))];
    lines.extend(plan.listeners.iter().map(|listener| {
        let served = match &listener.served {
            Ok(ids) => ids.join(" and "),
            Err(fault) => format!("!{}", fault.reason),
        };
        let kinds = listener.kinds.join(",");
        format!("{} [{kinds}] {} routes {served}: {}", listener.name, listener.attached, verdicts(&listener.verdicts))
    }));
    lines
}
