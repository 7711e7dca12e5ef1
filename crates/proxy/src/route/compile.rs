//! Compiles one listener of a snapshot, or says why it cannot be served.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;

use super::{Action, Choice, Condition, Guard, HostTable, Https, Mirror, Name, Protocol, Rule, Rules, Table};
use crate::access::Places;
use crate::balance::Backend;
use crate::cors::Cors;
use crate::egress::{Egress, Way};
use crate::error::Refused;
use crate::filter;
use crate::snapshot::{self, BackendId, Filter, HostMatch, Listener, ListenerProtocol, PathMatch};
use crate::stats::{Counter, Registry};
use crate::tls;
use crate::traffic::{States, Traffic};

/// What compiled listeners refer to.
pub(crate) struct Ingredients<'a> {
    pub(crate) backends: &'a HashMap<BackendId, Arc<Backend>>,
    pub(crate) places: &'a Places,
    pub(crate) counters: &'a Registry,
    pub(crate) states: &'a States,
}

/// Compiles a listener.
pub(crate) fn compile(listener: &Listener, with: &Ingredients<'_>) -> Result<Table, Refused> {
    let mut hosts = HostTable::new();
    let compiled = |rules: &[snapshot::Rule]| {
        let rules = rules.iter().map(|rule| compile_rule(listener, rule, with).map(Arc::new));
        rules.collect::<Result<Vec<_>, _>>().map(Rules::new)
    };
    for virtual_host in &listener.hosts {
        if !hosts.insert(&virtual_host.host, compiled(&virtual_host.rules)?) {
            return Err(Refused::DuplicateHost { listener: listener.id.clone(), host: written(&virtual_host.host) });
        }
    }
    let own = listener.for_callers.iter().map(|own| Ok((Arc::clone(&own.callers), compiled(&own.rules)?)));
    let for_callers = own.collect::<Result<_, _>>()?;
    let protocol = match &listener.protocol {
        ListenerProtocol::Http => Protocol::Http,
        ListenerProtocol::Https { certificates, clients, apart } => Protocol::Https(Https {
            config: tls::server_config(&listener.id, certificates, clients.as_ref(), tls::HTTP)?,
            apart: apart_by_host(listener, apart)?,
        }),
        ListenerProtocol::Tls { certificates, names } => {
            let config = (!certificates.is_empty()).then(|| tls::server_config(&listener.id, certificates, None, &[]));
            Protocol::Tls(config.transpose()?, server_names(listener, names, with)?)
        }
        ListenerProtocol::Tcp { backend } => Protocol::Tcp(resolve(&listener.id, backend, with)?),
        ListenerProtocol::Egress { limits, ways } => {
            let way = |way: &snapshot::EgressWay| {
                let rule = Arc::new(compile_rule(listener, &way.rule, with)?);
                Ok(Way { callers: way.callers.clone(), host: way.host.clone(), port: way.port, rule })
            };
            let ways = ways.iter().map(way).collect::<Result<_, Refused>>()?;
            Protocol::Egress(Arc::new(Egress::new(&listener.id, limits, ways)))
        }
        ListenerProtocol::Mesh => Protocol::Mesh,
        ListenerProtocol::Sniff { tcp } => Protocol::Sniff(resolve(&listener.id, tcp, with)?),
    };
    let nothing: Arc<str> = Arc::default();
    Ok(Table {
        id: listener.id.clone(),
        protocol,
        forwarded: listener.forwarded,
        admits: listener.admits,
        peer_name: listener.peer_name.clone(),
        shows: listener.shows.clone(),
        hosts,
        for_callers,
        unmatched: with.counters.counter(&listener.id, &nothing, &nothing),
    })
}

/// The place of each of the hosts that are told apart.
fn apart_by_host(listener: &Listener, hosts: &[HostMatch]) -> Result<HostTable<usize>, Refused> {
    let mut table = HostTable::new();
    for (place, host) in hosts.iter().enumerate() {
        if !table.insert(host, place) {
            return Err(Refused::DuplicateHost { listener: listener.id.clone(), host: written(host) });
        }
    }
    Ok(table)
}

fn server_names(
    listener: &Listener,
    names: &[snapshot::ServerName],
    with: &Ingredients<'_>,
) -> Result<HostTable<Name>, Refused> {
    let mut table = HostTable::new();
    for name in names {
        let mut total = 0;
        let mut backends = Vec::with_capacity(name.backends.len());
        for weighted in &name.backends {
            let backend = resolve(&listener.id, &weighted.backend, with)?;
            if weighted.weight > 0 {
                total += u64::from(weighted.weight);
                backends.push((backend, total));
            }
        }
        let guard = Arc::new(guard(&listener.id, &name.guard, with)?);
        if !table.insert(&name.host, Name { backends, guard }) {
            return Err(Refused::DuplicateHost { listener: listener.id.clone(), host: written(&name.host) });
        }
    }
    Ok(table)
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
            let (choices, total) = choices(backends, prefix.is_some(), rule, with, &counter)?;
            if choices.is_empty() {
                let body = "No backend of this route has any weight.\n".into();
                Action::Respond { status: StatusCode::INTERNAL_SERVER_ERROR, body, counter: own() }
            } else {
                Action::Forward { choices, total }
            }
        }
    };
    let (mirrors, cors) = beside(listener, rule, with)?;
    let guard = guard(&rule.id, &rule.guard, with)?;
    let (id, filters, timeouts) = (rule.id.clone(), rule.filters.clone(), rule.timeouts);
    // Mirrors and CORS are filters too.
    let direct = filters.is_empty() && passes_on(&action);
    Ok(Rule { id, condition, prefix, filters, mirrors, cors, action, timeouts, guard, direct })
}

/// Whether what an action does is to send a request to a backend as it is, by policies that need not see its headers.
fn passes_on(action: &Action) -> bool {
    let blind = |traffic: &Arc<Traffic>| !traffic.asks_headers();
    let as_it_is = |choice: &Choice| choice.filters.is_empty() && choice.traffic.as_ref().is_none_or(blind);
    matches!(action, Action::Forward { choices, .. } if choices.iter().all(as_it_is))
}

fn guard(owner: &Arc<str>, guard: &snapshot::Guard, with: &Ingredients<'_>) -> Result<Guard, Refused> {
    let places = guard.places.iter().map(|place| with.places.get(owner, place)).collect::<Result<_, _>>()?;
    Ok(Guard { through: guard.through.clone(), places })
}

fn choices(
    backends: &[snapshot::Weighted],
    prefixed: bool,
    rule: &snapshot::Rule,
    with: &Ingredients<'_>,
    counter: &dyn Fn(&Arc<str>) -> Arc<Counter>,
) -> Result<(Vec<Choice>, u64), Refused> {
    let bad = |reason: String| Refused::BadRule { rule: rule.id.clone(), reason };
    let mut total = 0;
    let mut choices = Vec::with_capacity(backends.len());
    for weighted in backends.iter().filter(|weighted| weighted.weight > 0) {
        filter::check(&weighted.filters, prefixed).map_err(bad)?;
        let whole = |filter: &Filter| matches!(filter, Filter::Redirect(_) | Filter::Mirror(_) | Filter::Cors(_));
        if weighted.filters.iter().any(whole) {
            return Err(bad("a backend's own filter cannot be a redirect, a mirror or CORS".into()));
        }
        total += u64::from(weighted.weight);
        let traffic = weighted.policy.as_ref().map(|policy| {
            Traffic::compile(policy, &rule.id, &weighted.backend, with.states).map(Arc::new).map_err(bad)
        });
        choices.push(Choice {
            backend: resolve(&rule.id, &weighted.backend, with)?,
            until: total,
            filters: weighted.filters.clone(),
            counter: counter(&weighted.backend),
            traffic: traffic.transpose()?,
            client: rule.client.clone(),
        });
    }
    // What is never chosen must exist all the same, as the snapshot is checked whole.
    for weighted in backends.iter().filter(|weighted| weighted.weight == 0) {
        resolve(&rule.id, &weighted.backend, with)?;
    }
    Ok((choices, total))
}

/// What happens beside the way to a backend: mirrors and CORS.
fn beside(
    listener: &Listener,
    rule: &snapshot::Rule,
    with: &Ingredients<'_>,
) -> Result<(Vec<Mirror>, Option<Cors>), Refused> {
    let bad = |reason: String| Refused::BadRule { rule: rule.id.clone(), reason };
    let (mut mirrors, mut cors) = (Vec::new(), None);
    for filter in &rule.filters {
        match filter {
            Filter::Mirror(mirror) => {
                if mirror.denominator == 0 {
                    return Err(bad("the share of requests to mirror is out of 0".into()));
                }
                mirrors.push(Mirror {
                    backend: resolve(&rule.id, &mirror.backend, with)?,
                    client: rule.client.clone(),
                    numerator: mirror.numerator,
                    denominator: mirror.denominator,
                    counter: with.counters.counter(&listener.id, &format!("copy:{}", rule.id).into(), &mirror.backend),
                });
            }
            Filter::Cors(written) if cors.is_none() => cors = Some(Cors::compile(written).map_err(bad)?),
            Filter::Cors(_) => return Err(bad("there are two CORS filters; one is all that can be followed".into())),
            _ => {}
        }
    }
    Ok((mirrors, cors))
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
