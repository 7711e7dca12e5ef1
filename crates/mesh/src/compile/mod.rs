//! From a picture of the cluster to what the proxy serves and what is to be said about it. Pure.
//!
//! The steps, one module each: `index` (look-ups), `gateways` over `sets`, `listeners` and `certificates` (which sockets
//! there are), `kind` (all routes, of whichever kind, in one form),
//! `routes` over `matches`, `filters` and `backends` (each route once), `attach` (routes to listeners, by `hosts`, in the
//! order of `precedence`), `services` (a listener for every Service port, by its `speech`), `traffic` (what requests may
//! cost), `access` (who may come by).
//!
//! Invariants: the same picture gives the same result; the snapshot names only backends that it has and no address or host
//! twice, so the proxy can refuse it only for what it alone can judge (expressions, certificates); a part that is wrong
//! never takes another part with it.

mod access;
mod addresses;
mod admission;
mod attach;
mod backend_tls;
mod backends;
mod certificates;
mod egress;
mod filters;
mod frontend;
mod gateways;
mod hosts;
mod index;
mod kind;
mod listeners;
mod matches;
mod outside;
mod peers;
mod plan;
mod precedence;
mod routes;
mod services;
mod sets;
mod speech;
mod traffic;
mod verdict;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use proxy::Snapshot;
use resources::names::GATEWAY_CONTROLLER;

pub use attach::ParentPlan;
pub use certificates::{SecretVersion, Served};
pub use kind::RouteKind;
pub use plan::{AdmissionPlan, AncestorPlan, ClassPlan, GatewayPlan, ListenerPlan, PolicyKind, PolicyPlan, RoutePlan};
pub use services::ServicePortPlan;
pub use verdict::Verdict;

pub(crate) use backends::serves;
pub(crate) use certificates::SECRET_TYPE;
pub(crate) use index::key;
pub(crate) use verdict::{condition, reason};

use crate::config::Settings;
use crate::identity::TrustDomain;
use crate::world::World;
use access::Policies;
use backend_tls::{BackendTlsPolicies, Ways};
use backends::Backends;
use gateways::Gateways;
use index::Index;
use traffic::Traffic;

/// Ports below this one can be refused for want of permission.
const PRIVILEGED: u16 = 1024;
/// What is added to a port that may not be bound.
pub(crate) const FALLBACK_OFFSET: u16 = 8000;

/// Something to tell about an object by an Event.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// What it is about.
    pub about: ObjectReference,
    /// One word for machines.
    pub reason: &'static str,
    /// What happened, why, and what to do.
    pub note: String,
}

impl Notice {
    pub(crate) fn warning(about: ObjectReference, reason: &'static str, note: String) -> Self {
        Self { about, reason, note }
    }
}

/// What a picture of the cluster compiles to.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// What the proxy is to serve.
    pub snapshot: Snapshot,
    /// What is to be said about our GatewayClasses.
    pub classes: Vec<ClassPlan>,
    /// What is to be said about our Gateways, and then about their ListenerSets, oldest first.
    pub gateways: Vec<GatewayPlan>,
    /// What is to be said about every route, in order of kind, namespace and name.
    pub routes: Vec<RoutePlan>,
    /// What is to be said about every policy, in order of kind, namespace and name.
    pub policies: Vec<PolicyPlan>,
    /// What is to be said about every PeerAuthentication.
    pub admissions: Vec<AdmissionPlan>,
    /// The listeners of Services.
    pub services: Vec<ServicePortPlan>,
    /// What is to be told by Events.
    pub notices: Vec<Notice>,
    /// Which Secret each certificate of a listener is from, by listener and position.
    pub certificates: BTreeMap<Arc<str>, Vec<SecretVersion>>,
}

impl Compiled {
    /// The generation of the route that the rule `id` is from. None where it is from no route.
    #[must_use]
    pub fn generation(&self, id: &str) -> Option<i64> {
        let (kind, id) = RouteKind::of_id(id);
        let mut parts = id.splitn(3, '/');
        let (namespace, name) = (parts.next()?, parts.next()?);
        parts.next()?;
        let position = self.routes.binary_search_by(|route| {
            (route.kind, route.namespace.as_str(), route.name.as_str()).cmp(&(kind, namespace, name))
        });
        position.ok().map(|position| self.routes[position].generation.unwrap_or_default())
    }
}

/// Compiles `world`.
#[must_use]
pub fn compile(world: &World, settings: &Settings) -> Compiled {
    let index = Index::new(world);
    let ours = world.classes.iter().filter(|class| class.spec.controller_name == GATEWAY_CONTROLLER);
    let classes: HashSet<&str> = ours.clone().map(|class| key(&class.metadata).1).collect();
    let sets = sets::find(world, &index, &classes);
    let mut gateways = Gateways::new(world, &sets, &index, settings, &classes);
    let (mut traffic, mut plans) = Traffic::new(world, &index);
    let resiliencies = traffic.translate(world, &index);
    let all = kind::all(world);
    let admission = admission::Admission::new(world, settings);
    let tls = BackendTlsPolicies::new(world, &index);
    let mut backends = Backends::new(&index, &admission, &tls);
    let mut policies = Policies::new(world, settings, (&index, &gateways), &all, &mut backends);
    let mut for_services = attach::ForServices::new();
    let mut ways = Ways::new();
    let mut compiled_routes = Vec::with_capacity(all.len());
    let mut routes: Vec<RoutePlan> = all.iter().map(|(kind, route)| RoutePlan::new(*kind, &route.metadata)).collect();
    for position in kind::by_age(&all) {
        let (kind, route) = all[position];
        let parents = route.spec.parent_refs.iter().flatten();
        let targets: Vec<_> =
            parents.filter_map(|parent| Some((parent, attach::target(route, parent, &gateways, &index)?))).collect();
        if targets.is_empty() {
            continue;
        }
        let attached = (&traffic, &mut policies);
        let compiled = routes::compile(kind, route, compiled_routes.len(), &mut backends, attached, &world.rejected);
        routes[position].parents = targets
            .into_iter()
            .map(|(parent, target)| {
                let gateway = target.gateway(&gateways);
                let plan =
                    attach::attach(kind, route, &compiled, parent, target, &mut gateways, &mut for_services, &index);
                if let Some(gateway) = gateway.filter(|_| plan.accepted()) {
                    backends.reached(compiled.backends(), gateway, &mut ways);
                }
                plan
            })
            .collect();
        compiled_routes.push(compiled);
    }
    let mut overrides = overrides(for_services, &compiled_routes, &policies, &settings.trust_domain);
    let mut served = services::Made::default();
    for service in &world.services {
        served.add(service, &mut backends, &traffic, &mut overrides, &admission);
    }
    served.notices.extend(admission.notices());
    egress::add(world, &mut served, &settings.trust_domain, (&mut backends, &traffic));
    let (mut listeners, certificates) = gateways.listeners(&compiled_routes, &mut policies);
    listeners.append(&mut served.listeners);
    listeners.extend(settings.peers.map(peers::listener));
    let backends = backends.into_map(&policies);
    plans.append(&mut policies.plans);
    plans.extend(tls.plans(&ways));
    let (places, policies) = policies.into_maps();
    Compiled {
        snapshot: Snapshot { listeners, backends, places, policies, ..Snapshot::default() },
        classes: ours.map(|class| ClassPlan::new(class, world.bundle_version.as_deref())).collect(),
        gateways: plan::gateways(&gateways),
        routes,
        policies: plans,
        admissions: admission.plans(),
        services: served.ports,
        notices: served.notices.into_iter().chain(resiliencies).collect(),
        certificates,
    }
}

/// The rules of routes whose parent is a Service, in order of precedence.
fn overrides<'w>(
    for_services: attach::ForServices<'w>,
    routes: &[routes::Compiled],
    policies: &Policies<'w>,
    domain: &TrustDomain,
) -> services::Overrides<'w> {
    let sorted = for_services.into_iter().map(|(port, by_callers)| {
        let place = policies.of_service(port.0, port.1, i32::from(port.2));
        let rule = |candidate: &routes::Candidate| {
            routes[candidate.route].rule(*candidate, Vec::new(), place.clone().into_iter().collect())
        };
        let rules = by_callers.into_iter().map(|(callers, mut candidates)| {
            candidates.sort_unstable();
            candidates.dedup();
            let callers = callers.map(|namespace| services::callers_of(&namespace, domain));
            (callers, candidates.iter().map(rule).collect())
        });
        (port, rules.collect())
    });
    sorted.collect()
}
