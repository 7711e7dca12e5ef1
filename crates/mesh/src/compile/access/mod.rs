//! AccessPolicies: what each one governs, and the places where the proxy is to judge by them.
//!
//! A place is a port of a Service, a listener of a Gateway or a rule of a route, with all policies that govern it: its own, those
//! of the whole object, and for Services those of the namespace.
//!
//! Invariants: a policy that cannot be followed still has its places, where everything is refused then; a target that cannot
//! be found takes no other target with it; without policies there are no places.

mod authentication;
mod read;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use proxy::access::{Place, PlaceId, Policy, PolicyId};
use resources::access::{AccessPolicy, AccessPolicyTargetRef};
use resources::gateway::httproutes::HttpRoute;

use super::backends::Backends;
use super::gateways::{Gateways, Owned};
use super::index::{Index, key};
use super::kind::RouteKind;
use super::plan::{AncestorPlan, PolicyKind, PolicyPlan};
use super::routes::GROUP;
use super::speech::transport;
use super::verdict::{Fault, Verdict, condition, reason};
use crate::config::Settings;
use crate::identity::TrustDomain;
use crate::world::World;
use read::Reader;

/// What a policy is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Service,
    Namespace,
    Gateway,
    Route(RouteKind),
}

/// An object, or a part of one.
type Target<'w> = (Kind, &'w str, &'w str, Option<&'w str>);

/// All policies and places.
#[derive(Default)]
pub(super) struct Policies<'w> {
    by_target: HashMap<Target<'w>, BTreeSet<PolicyId>>,
    places: BTreeMap<PlaceId, Place>,
    /// By namespace, name and port.
    services: HashMap<(&'w str, &'w str, i32), PlaceId>,
    compiled: BTreeMap<PolicyId, Policy>,
    pub(super) plans: Vec<PolicyPlan>,
}

impl<'w> Policies<'w> {
    pub(super) fn new(
        world: &'w World,
        settings: &Settings,
        (index, gateways): (&Index<'w>, &Gateways<'w>),
        routes: &[(RouteKind, &'w HttpRoute)],
        backends: &mut Backends<'w>,
    ) -> Self {
        let mut policies = Self::default();
        if world.access.is_empty() {
            return policies;
        }
        let routes: HashMap<_, _> =
            routes.iter().map(|(kind, route)| ((*kind, key(&route.metadata)), *route)).collect();
        let find = Finder { index, gateways, routes: &routes, domain: &settings.trust_domain };
        for policy in &world.access {
            policies.add(policy, &find, backends, world);
        }
        policies.place_services(world);
        policies
    }

    /// The places and policies, for the proxy.
    pub(super) fn into_maps(self) -> (BTreeMap<PlaceId, Place>, BTreeMap<PolicyId, Policy>) {
        (self.places, self.compiled)
    }

    /// Where callers of a Service's port are judged.
    pub(super) fn of_service(&self, namespace: &str, name: &str, port: i32) -> Option<PlaceId> {
        self.services.get(&(namespace, name, port)).cloned()
    }

    /// Where those who come through a listener are judged. One of a ListenerSet has its Gateway's policies.
    pub(super) fn of_listener(&mut self, gateways: &[Owned<'w>], position: usize, listener: &str) -> Option<PlaceId> {
        let owned = &gateways[position];
        let gateway = gateways[owned.parent.unwrap_or(position)].gateway;
        let (namespace, name) = key(&gateway.metadata);
        let section = Some(listener).filter(|_| owned.parent.is_none());
        self.place(format!("gateway/{namespace}/{name}/{listener}"), &[(Kind::Gateway, namespace, name)], section)
    }

    /// Where those who meet a rule of a route are judged.
    pub(super) fn of_rule(&mut self, kind: RouteKind, route: &HttpRoute, rule: Option<&str>) -> Option<PlaceId> {
        let (namespace, name) = key(&route.metadata);
        let id = format!("{}/{namespace}/{name}/{}", kind.name(), rule.unwrap_or_default());
        self.place(id, &[(Kind::Route(kind), namespace, name)], rule)
    }

    fn place_services(&mut self, world: &'w World) {
        for service in &world.services {
            let (namespace, name) = key(&service.metadata);
            let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
            for port in ports.iter().filter(|port| transport(port) == "TCP") {
                let objects = [(Kind::Namespace, namespace, namespace), (Kind::Service, namespace, name)];
                let id = format!("service/{namespace}/{name}:{}", port.port);
                if let Some(place) = self.place(id, &objects, port.name.as_deref()) {
                    self.services.insert((namespace, name, port.port), place);
                }
            }
        }
    }

    /// The place with the policies of some objects, and of a section of the last one.
    fn place(&mut self, id: String, objects: &[(Kind, &str, &str)], section: Option<&str>) -> Option<PlaceId> {
        if self.by_target.is_empty() {
            return None;
        }
        let whole = objects.iter().map(|(kind, namespace, name)| (*kind, *namespace, *name, None));
        let part = objects.last().zip(section);
        let part = part.map(|((kind, namespace, name), section)| (*kind, *namespace, *name, Some(section)));
        let found: Vec<_> = whole.chain(part).filter_map(|target| self.by_target.get(&target)).flatten().collect();
        let mut policies: Vec<PolicyId> = Vec::with_capacity(found.len());
        for policy in found {
            if !policies.contains(policy) {
                policies.push(Arc::clone(policy));
            }
        }
        if policies.is_empty() {
            return None;
        }
        let id: PlaceId = id.into();
        self.places.insert(Arc::clone(&id), Place { policies });
        Some(id)
    }

    fn add(&mut self, policy: &'w AccessPolicy, find: &Finder<'_, 'w>, backends: &mut Backends<'w>, world: &World) {
        let (namespace, name) = key(&policy.metadata);
        let id: PolicyId = format!("{namespace}/{name}").into();
        let read =
            Reader::new(policy, (find.index, find.domain), backends).policy(policy).and_then(|read| {
                match world.rejected.policies.get(&*id) {
                    Some((before, why)) if *before == read => Err(why.clone()),
                    _ => Ok(read),
                }
            });
        let mut ancestors: Vec<AncestorPlan> = Vec::new();
        for (position, target) in policy.spec.target_refs.iter().enumerate() {
            let accepted = match find.target(namespace, target) {
                Ok(target) => {
                    self.by_target.entry(target).or_default().insert(Arc::clone(&id));
                    match &read {
                        Ok(_) => Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, "AccessPolicy is accepted"),
                        Err(why) => {
                            let message =
                                format!("{why}; until this is mended, all requests to the target are refused");
                            Verdict::no(condition::ACCEPTED, reason::INVALID, message)
                        }
                    }
                }
                Err(fault) => {
                    let message = format!("spec.targetRefs[{position}]: {}", fault.message);
                    Verdict::no(condition::ACCEPTED, fault.reason, message)
                }
            };
            if !ancestors.iter().any(|ancestor| ancestor.is(namespace, target)) {
                ancestors.push(ancestor(namespace, target, accepted));
            }
        }
        let compiled = read.unwrap_or_else(|why| Policy { broken: Some(why.into()), ..Policy::default() });
        self.compiled.insert(id, compiled);
        self.plans.push(PolicyPlan::new(PolicyKind::Access, &policy.metadata, ancestors));
    }
}

fn ancestor(namespace: &str, target: &AccessPolicyTargetRef, accepted: Verdict) -> AncestorPlan {
    AncestorPlan {
        group: target.group.clone(),
        kind: target.kind.clone(),
        namespace: namespace.to_owned(),
        name: target.name.clone(),
        section: target.section_name.clone(),
        verdicts: vec![accepted],
    }
}

impl AncestorPlan {
    fn is(&self, namespace: &str, target: &AccessPolicyTargetRef) -> bool {
        (self.namespace.as_str(), &self.group, &self.kind, &self.name, &self.section)
            == (namespace, &target.group, &target.kind, &target.name, &target.section_name)
    }
}

/// Where targets are looked for.
struct Finder<'f, 'w> {
    index: &'f Index<'w>,
    gateways: &'f Gateways<'w>,
    routes: &'f HashMap<(RouteKind, (&'w str, &'w str)), &'w HttpRoute>,
    /// Whose callers the short forms mean.
    domain: &'f TrustDomain,
}

impl<'w> Finder<'_, 'w> {
    fn target(&self, namespace: &'w str, target: &'w AccessPolicyTargetRef) -> Result<Target<'w>, Fault> {
        let name = target.name.as_str();
        let section = target.section_name.as_deref();
        let kind = match (target.group.as_str(), target.kind.as_str()) {
            ("", "Service") => Kind::Service,
            ("", "Namespace") => Kind::Namespace,
            (GROUP, "Gateway") => Kind::Gateway,
            (GROUP, "HTTPRoute") => Kind::Route(RouteKind::Http),
            (GROUP, "GRPCRoute") => Kind::Route(RouteKind::Grpc),
            (group, kind) => {
                let message = format!(
                    "{kind} of group {group:?} is not one of Service and Namespace (group \"\"), Gateway, HTTPRoute and \
                     GRPCRoute (group {GROUP:?})"
                );
                return Err(Fault::new(reason::INVALID, message));
            }
        };
        let parts = match kind {
            Kind::Namespace if name != namespace => {
                let message = format!("a policy in namespace {namespace} can govern that one, not {name}");
                return Err(Fault::new(reason::INVALID, message));
            }
            Kind::Namespace => Some(Vec::new()),
            Kind::Service => self.index.service(namespace, name).map(|service| {
                let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
                ports.iter().filter_map(|port| port.name.as_deref()).collect()
            }),
            Kind::Gateway => self.gateways.position(false, namespace, name).map(|position| {
                let lanes = &self.gateways.owned[position].gateway.spec.listeners;
                lanes.iter().map(|listener| listener.name.as_str()).collect()
            }),
            Kind::Route(kind) => self.routes.get(&(kind, (namespace, name))).map(|route| {
                let rules = route.spec.rules.as_deref().unwrap_or_default();
                rules.iter().filter_map(|rule| rule.name.as_deref()).collect()
            }),
        };
        let what = format!("{} {namespace}/{name}", target.kind);
        let not_found = |message| Fault::new(reason::TARGET_NOT_FOUND, message);
        let parts: Vec<&str> = parts.ok_or_else(|| not_found(format!("{what} does not exist")))?;
        if let Some(section) = section.filter(|section| !parts.contains(section)) {
            let has = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
            let message = format!("{what} has no part named {section} (named parts: {has})");
            return Err(not_found(message));
        }
        Ok((kind, namespace, name, section))
    }
}
