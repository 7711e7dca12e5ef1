//! Which parents a route is attached to, and what is to be said to each.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use proxy::snapshot::HostMatch;
use resources::gateway::httproutes::{HttpRoute, HttpRouteParentRefs};

use super::gateways::Gateways;
use super::hosts;
use super::index::{Index, key};
use super::kind::RouteKind;
use super::routes::{Candidate, Compiled, GROUP};
use super::speech::transport;
use super::verdict::{Fault, Verdict, condition, reason};

/// What is to be said about a route to one of its parents.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentPlan {
    /// The reference, as the route has it.
    pub parent: HttpRouteParentRefs,
    /// The conditions.
    pub verdicts: Vec<Verdict>,
}

/// What a parent reference leads to, if it is for us to say.
pub(super) enum Target<'w> {
    Gateway(usize),
    Service(&'w Service),
    /// A Service that is not there, or that is not ours to route for.
    NoService(Fault),
}

impl Target<'_> {
    /// Namespace and name of the Gateway, where it is one.
    pub(super) fn gateway(&self, gateways: &Gateways<'_>) -> Option<(String, String)> {
        let Self::Gateway(position) = self else { return None };
        let owned = &gateways.owned[*position];
        let (namespace, name) = key(&gateways.owned[owned.parent.unwrap_or(*position)].gateway.metadata);
        Some((namespace.to_owned(), name.to_owned()))
    }
}

impl ParentPlan {
    /// Whether the route is attached.
    pub(super) fn accepted(&self) -> bool {
        self.verdicts.iter().any(|verdict| verdict.kind == condition::ACCEPTED && verdict.holds)
    }
}

/// Candidates of routes whose parent is a Service, by Service and port, and then by the namespace whose callers they are for; none
/// where they are for all.
pub(super) type ForServices<'w> = BTreeMap<(&'w str, &'w str, u16), BTreeMap<Option<String>, Vec<Candidate>>>;

/// What `parent` leads to. None where another controller has to answer for it.
pub(super) fn target<'w>(
    route: &HttpRoute,
    parent: &HttpRouteParentRefs,
    gateways: &Gateways<'w>,
    index: &Index<'w>,
) -> Option<Target<'w>> {
    let here = key(&route.metadata).0;
    let namespace = parent.namespace.as_deref().unwrap_or(here);
    match (parent.group.as_deref().unwrap_or(GROUP), parent.kind.as_deref().unwrap_or("Gateway")) {
        (GROUP, "Gateway") => gateways.position(false, namespace, &parent.name).map(Target::Gateway),
        (GROUP, "ListenerSet") => gateways.position(true, namespace, &parent.name).map(Target::Gateway),
        ("", "Service") => Some(service_target(namespace, &parent.name, index)),
        _ => None,
    }
}

fn service_target<'w>(namespace: &str, name: &str, index: &Index<'w>) -> Target<'w> {
    match index.service(namespace, name) {
        Some(service) => Target::Service(service),
        None => {
            let message = format!("Service {namespace}/{name} does not exist");
            Target::NoService(Fault::new(reason::NO_MATCHING_PARENT, message))
        }
    }
}

/// Attaches a compiled route to one of its parents.
#[expect(clippy::too_many_arguments, reason = "a route, a parent, and all that they meet in")]
pub(super) fn attach<'w>(
    kind: RouteKind,
    route: &HttpRoute,
    compiled: &Compiled,
    parent: &HttpRouteParentRefs,
    target: Target<'w>,
    gateways: &mut Gateways<'w>,
    services: &mut ForServices<'w>,
    index: &Index<'w>,
) -> ParentPlan {
    let attached = match target {
        Target::Gateway(gateway) => to_gateway(kind, route, compiled, parent, gateway, gateways, index),
        Target::Service(_) if kind == RouteKind::Tls => {
            Err(Fault::new(reason::NO_MATCHING_PARENT, "a TLSRoute can be attached to Gateways only"))
        }
        Target::Service(service) => to_service(key(&route.metadata).0, compiled, parent, service, services),
        Target::NoService(fault) => Err(fault),
    };
    let accepted = match attached {
        Ok(()) => Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, "Route is accepted"),
        Err(fault) => Verdict::no(condition::ACCEPTED, fault.reason, fault.message),
    };
    let mut verdicts = vec![accepted, compiled.resolved.clone()];
    verdicts.extend(compiled.partially_invalid.clone());
    ParentPlan { parent: parent.clone(), verdicts }
}

fn to_gateway(
    kind: RouteKind,
    route: &HttpRoute,
    compiled: &Compiled,
    parent: &HttpRouteParentRefs,
    position: usize,
    gateways: &mut Gateways<'_>,
    index: &Index<'_>,
) -> Result<(), Fault> {
    let owned = &gateways.owned[position];
    let (home, name) = key(&owned.gateway.metadata);
    if let Some(fault) = owned.fault.as_ref().filter(|_| owned.parent.is_some()) {
        let message = format!("ListenerSet {home}/{name} is not accepted: {}", fault.message);
        return Err(Fault::new(reason::NO_MATCHING_PARENT, message));
    }
    let here = key(&route.metadata).0;
    let meant: Vec<usize> = (0..owned.lanes.len())
        .filter(|lane| {
            let lane = &owned.lanes[*lane];
            parent.section_name.as_deref().is_none_or(|section| section.is_empty() || section == lane.name)
                && parent.port.is_none_or(|port| port == i32::from(lane.port))
        })
        .collect();
    if meant.is_empty() {
        let message = format!("Gateway {home}/{name} has no listener{}", wanted(parent));
        return Err(Fault::new(reason::NO_MATCHING_PARENT, message));
    }
    let allowed: Vec<usize> =
        meant.into_iter().filter(|lane| owned.lanes[*lane].allows(kind.name(), home, here, index)).collect();
    if allowed.is_empty() {
        let message = format!(
            "no listener of Gateway {home}/{name}{} allows {}s from namespace {here}; see its allowedRoutes",
            wanted(parent),
            kind.name()
        );
        return Err(Fault::new(reason::NOT_ALLOWED_BY_LISTENERS, message));
    }
    let shared: Vec<(usize, Vec<HostMatch>)> = allowed
        .into_iter()
        .map(|lane| (lane, shared(route.spec.hostnames.as_deref().unwrap_or_default(), &owned.lanes[lane].host)))
        .filter(|(_, shared)| !shared.is_empty())
        .collect();
    if shared.is_empty() {
        let message = format!("none of the route's hostnames is one of a listener's of Gateway {home}/{name}");
        return Err(Fault::new(reason::NO_MATCHING_LISTENER_HOSTNAME, message));
    }
    if let Some(fault) = &compiled.refused {
        return Err(fault.clone());
    }
    let free: Vec<_> = shared.into_iter().filter(|(lane, shared)| !owned.lanes[*lane].taken(kind, shared)).collect();
    if free.is_empty() {
        let message = format!(
            "an older route of another kind has a hostname in common with this one at Gateway {home}/{name}; \
             give HTTPRoutes and GRPCRoutes hostnames of their own"
        );
        return Err(Fault::new(reason::HOSTNAME_CONFLICT, message));
    }
    for (lane, shared) in free {
        gateways.attach(kind, position, lane, &shared, &compiled.ranks);
    }
    Ok(())
}

/// The hosts that a listener and a route have in common.
fn shared(hostnames: &[String], listener: &HostMatch) -> Vec<HostMatch> {
    if hostnames.is_empty() {
        return vec![listener.clone()];
    }
    let mut found: Vec<HostMatch> = Vec::with_capacity(hostnames.len());
    for host in hostnames.iter().filter_map(|hostname| hosts::intersection(listener, &HostMatch::parse(hostname))) {
        if !found.contains(&host) {
            found.push(host);
        }
    }
    found
}

/// Hostnames play no part here: a Service is called by many. A route of another namespace is for that namespace's callers
/// alone.
fn to_service<'w>(
    here: &str,
    compiled: &Compiled,
    parent: &HttpRouteParentRefs,
    service: &'w Service,
    services: &mut ForServices<'w>,
) -> Result<(), Fault> {
    let (namespace, name) = key(&service.metadata);
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let meant = ports.iter().filter(|port| transport(port) == "TCP").filter(|port| {
        parent.port.is_none_or(|wanted| wanted == port.port)
            && parent.section_name.as_deref().is_none_or(|section| Some(section) == port.name.as_deref())
    });
    let meant: Vec<u16> = meant.filter_map(|port| u16::try_from(port.port).ok()).collect();
    if meant.is_empty() {
        let message = format!("Service {namespace}/{name} has no TCP port{}", wanted(parent));
        return Err(Fault::new(reason::NO_MATCHING_PARENT, message));
    }
    if let Some(fault) = &compiled.refused {
        return Err(fault.clone());
    }
    let callers = (here != namespace).then(|| here.to_owned());
    for port in meant {
        let own = services.entry((namespace, name, port)).or_default().entry(callers.clone()).or_default();
        own.extend_from_slice(&compiled.ranks);
    }
    Ok(())
}

/// What a reference asks for within its parent, as the end of a sentence.
fn wanted(parent: &HttpRouteParentRefs) -> String {
    let section = parent.section_name.as_deref().map(|section| format!(" named {section}"));
    let port = parent.port.map(|port| format!(" on port {port}"));
    [section, port].into_iter().flatten().collect()
}
