//! Compiles one listener of a snapshot, or says why it cannot be served.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;

use super::{Action, Choice, Condition, HostTable, Protocol, Rule, Rules, Table};
use crate::balance::Backend;
use crate::error::Refused;
use crate::filter;
use crate::snapshot::{self, BackendId, Filter, HostMatch, Listener, ListenerProtocol, PathMatch};
use crate::stats::Registry;
use crate::tls;

/// What compiled listeners refer to.
pub(crate) struct Ingredients<'a> {
    pub(crate) backends: &'a HashMap<BackendId, Arc<Backend>>,
    pub(crate) counters: &'a Registry,
}

/// Compiles a listener.
pub(crate) fn compile(listener: &Listener, with: &Ingredients<'_>) -> Result<Table, Refused> {
    let mut hosts = HostTable::new();
    for virtual_host in &listener.hosts {
        let rules = virtual_host
            .rules
            .iter()
            .map(|rule| compile_rule(listener, rule, with).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        if !hosts.insert(&virtual_host.host, Rules::new(rules)) {
            return Err(Refused::DuplicateHost { listener: listener.id.clone(), host: written(&virtual_host.host) });
        }
    }
    let protocol = match &listener.protocol {
        ListenerProtocol::Http => Protocol::Http,
        ListenerProtocol::Https { certificates } => Protocol::Https(tls::server_config(&listener.id, certificates)?),
        ListenerProtocol::Tcp { backend } => Protocol::Tcp(resolve(&listener.id, backend, with)?),
        ListenerProtocol::Sniff { tcp } => Protocol::Sniff(resolve(&listener.id, tcp, with)?),
    };
    let nothing: Arc<str> = Arc::default();
    Ok(Table {
        id: listener.id.clone(),
        protocol,
        forwarded: listener.forwarded,
        hosts,
        unmatched: with.counters.counter(&listener.id, &nothing, &nothing),
    })
}

fn compile_rule(listener: &Listener, rule: &snapshot::Rule, with: &Ingredients<'_>) -> Result<Rule, Refused> {
    let bad = |reason: String| Refused::BadRule { rule: rule.id.clone(), reason };
    let counter = |backend: &Arc<str>| with.counters.counter(&listener.id, &rule.id, backend);
    let own = || counter(&Arc::default());
    let condition = Condition::compile(&rule.matches).map_err(bad)?;
    let prefix = match &rule.matches.path {
        PathMatch::Prefix(path) => Some(path.clone()),
        _ => None,
    };
    filter::check(&rule.filters, prefix.is_some()).map_err(bad)?;
    let redirect = rule.filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect),
        _ => None,
    });
    let action = match (redirect, &rule.action) {
        (Some(redirect), _) => Action::Redirect { redirect: redirect.clone(), counter: own() },
        (None, snapshot::Action::Respond { status, body }) => {
            Action::Respond { status: *status, body: body.clone(), counter: own() }
        }
        (None, snapshot::Action::Forward { backends }) => {
            let mut total = 0;
            let mut choices = Vec::with_capacity(backends.len());
            for weighted in backends.iter().filter(|weighted| weighted.weight > 0) {
                filter::check(&weighted.filters, prefix.is_some()).map_err(bad)?;
                if weighted.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_))) {
                    return Err(bad("a backend's own filter cannot be a redirect".into()));
                }
                total += u64::from(weighted.weight);
                choices.push(Choice {
                    backend: resolve(&rule.id, &weighted.backend, with)?,
                    until: total,
                    filters: weighted.filters.clone(),
                    counter: counter(&weighted.backend),
                });
            }
            // What is never chosen must exist all the same, as the snapshot is checked whole.
            for weighted in backends.iter().filter(|weighted| weighted.weight == 0) {
                resolve(&rule.id, &weighted.backend, with)?;
            }
            if choices.is_empty() {
                let body = "No backend of this route has any weight.\n".into();
                Action::Respond { status: StatusCode::INTERNAL_SERVER_ERROR, body, counter: own() }
            } else {
                Action::Forward { choices, total }
            }
        }
    };
    Ok(Rule { id: rule.id.clone(), condition, prefix, filters: rule.filters.clone(), action, timeouts: rule.timeouts })
}

fn resolve(owner: &Arc<str>, backend: &BackendId, with: &Ingredients<'_>) -> Result<Arc<Backend>, Refused> {
    let unknown = || Refused::UnknownBackend { owner: owner.clone(), backend: backend.clone() };
    with.backends.get(backend).cloned().ok_or_else(unknown)
}

fn written(host: &HostMatch) -> String {
    match host {
        HostMatch::Any => "*".into(),
        HostMatch::Exact(name) => name.to_string(),
        HostMatch::Suffix(suffix) => format!("*.{suffix}"),
    }
}
