//! What is to be said about classes, Gateways and routes, before it is known what the proxy could bind.

use std::sync::Arc;

use kube::api::ObjectMeta;
use resources::gateway::gatewayclasses::GatewayClass;

use super::attach::ParentPlan;
use super::frontend;
use super::gateways::{Gateways, Owned};
use super::index::key;
use super::kind::RouteKind;
use super::listeners::{Lane, Protocol};
use super::verdict::{Fault, Verdict, condition, reason};
use crate::crds::BUNDLE_VERSION;

/// What is to be said about a GatewayClass of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassPlan {
    /// Its name.
    pub name: String,
    /// The generation that was looked at.
    pub generation: Option<i64>,
    /// The conditions.
    pub verdicts: Vec<Verdict>,
}

/// What is to be said about a Gateway of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayPlan {
    /// Whether it is a ListenerSet.
    pub set: bool,
    /// How many ListenerSets are attached to it.
    pub sets: i32,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation that was looked at.
    pub generation: Option<i64>,
    /// Whether it is accepted.
    pub accepted: Verdict,
    /// Whether its own references can be followed.
    pub resolved: Verdict,
    /// Its listeners, in its own order.
    pub listeners: Vec<ListenerPlan>,
    /// What is to be said besides, where there is anything.
    pub besides: Vec<Verdict>,
    /// Why it cannot be programmed, whatever the proxy does.
    pub(crate) unusable: Option<Fault>,
}

/// What is to be said about a listener of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerPlan {
    /// Its name.
    pub name: String,
    /// Its protocol, as written.
    pub protocol: String,
    /// Its hostname.
    pub hostname: Option<String>,
    /// The kinds of routes that it serves.
    pub kinds: Vec<&'static str>,
    /// How many routes are attached.
    pub attached: i32,
    /// The conditions, but for Programmed.
    pub verdicts: Vec<Verdict>,
    /// The listeners in the snapshot that serve it, one for each address and at least one, or why there is none.
    pub(crate) served: Result<Vec<Arc<str>>, Fault>,
}

/// What is to be said about a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePlan {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation that was looked at.
    pub generation: Option<i64>,
    /// What is to be said to each of its parents that are ours. Empty means that nothing is ours to say.
    pub parents: Vec<ParentPlan>,
}

impl RoutePlan {
    pub(super) fn new(kind: RouteKind, metadata: &ObjectMeta) -> Self {
        let (namespace, name) = key(metadata);
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            generation: metadata.generation,
            parents: Vec::new(),
        }
    }
}

impl ClassPlan {
    pub(super) fn new(class: &GatewayClass, bundle_version: Option<&str>) -> Self {
        let accepted = match &class.spec.parameters_ref {
            None => {
                Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, "Coracle's proxy serves Gateways of this class")
            }
            Some(_) => {
                let message = "spec.parametersRef is not supported; there are no parameters to set";
                Verdict::no(condition::ACCEPTED, reason::INVALID_PARAMETERS, message)
            }
        };
        Self {
            name: key(&class.metadata).1.to_owned(),
            generation: class.metadata.generation,
            verdicts: vec![accepted, version(bundle_version)],
        }
    }
}

/// Whether the installed definitions are of a release that this program knows.
fn version(installed: Option<&str>) -> Verdict {
    let minor = |version: &str| version.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    match installed {
        Some(installed) if minor(installed) == minor(BUNDLE_VERSION) => {
            let message = format!("Gateway API {installed} is installed");
            Verdict::yes(condition::SUPPORTED_VERSION, reason::SUPPORTED_VERSION, message)
        }
        other => {
            let installed = other.unwrap_or("of unknown release");
            let message = format!("Gateway API {installed} is installed; this program was made for {BUNDLE_VERSION}");
            Verdict::no(condition::SUPPORTED_VERSION, reason::UNSUPPORTED_VERSION, message)
        }
    }
}

/// What is to be said about every Gateway.
pub(super) fn gateways(gateways: &Gateways<'_>) -> Vec<GatewayPlan> {
    gateways.owned.iter().map(|owned| gateway(owned, gateways)).collect()
}

fn gateway(owned: &Owned<'_>, gateways: &Gateways<'_>) -> GatewayPlan {
    let (namespace, name) = key(&owned.gateway.metadata);
    let position = gateways.position(false, namespace, name).filter(|_| owned.parent.is_none());
    let attached = gateways.owned.iter().filter(|set| set.parent.is_some() && set.parent == position);
    GatewayPlan {
        set: owned.parent.is_some(),
        sets: attached.filter(|set| accepted(set).holds).map(|_| 1).sum(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        generation: owned.gateway.metadata.generation,
        accepted: accepted(owned),
        resolved: match &owned.client {
            Ok(_) => Verdict::yes(condition::RESOLVED_REFS, reason::RESOLVED_REFS, "All references are resolved"),
            Err(fault) => Verdict::no(condition::RESOLVED_REFS, fault.reason, fault.message.clone()),
        },
        listeners: owned.lanes.iter().map(|lane| listener(lane, owned, gateways)).collect(),
        unusable: owned.fault.clone(),
        besides: insecure(owned).into_iter().collect(),
    }
}

/// Said where clients are served that are not validated, though a validation is written.
fn insecure(owned: &Owned<'_>) -> Option<Verdict> {
    let said = owned.parent.is_none() && frontend::is_insecure(owned.gateway);
    let message =
        "spec.tls.frontend has mode AllowInsecureFallback: clients are served whatever certificate they show, or none";
    said.then(|| Verdict::yes(condition::INSECURE_FRONTEND, reason::CONFIGURATION_CHANGED, message))
}

fn accepted(owned: &Owned<'_>) -> Verdict {
    match &owned.fault {
        // The request is understood, but this machine does not have that address: a matter of Programmed.
        Some(fault) if fault.reason != reason::ADDRESS_NOT_USABLE => {
            return Verdict::no(condition::ACCEPTED, fault.reason, fault.message.clone());
        }
        _ => {}
    }
    // A set is there for its listeners alone, so one that cannot serve for want of what it refers to counts against it.
    let unserved = |lane: &'_ Lane| owned.parent.is_some() && !lane.valid();
    let fault = |lane| fault(lane).or_else(|| lane.unresolved.as_ref().filter(|_| unserved(lane)));
    let faults = owned.lanes.iter().filter_map(|lane| Some((lane, fault(lane)?)));
    let faults: Vec<String> =
        faults.map(|(lane, fault)| format!("listener {}: {}", lane.name, fault.message)).collect();
    if faults.is_empty() && !owned.lanes.is_empty() {
        Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, "Gateway is accepted")
    } else if faults.len() < owned.lanes.len() {
        let message = format!("Some listeners are not accepted: {}", faults.join("; "));
        Verdict::yes(condition::ACCEPTED, reason::LISTENERS_NOT_VALID, message)
    } else {
        let message = format!("No listener is accepted: {}", faults.join("; "));
        Verdict::no(condition::ACCEPTED, reason::LISTENERS_NOT_VALID, message)
    }
}

/// Why a listener cannot be accepted.
fn fault(lane: &Lane) -> Option<&Fault> {
    lane.conflict.as_ref().or(lane.refused.as_ref())
}

fn listener(lane: &Lane, owned: &Owned<'_>, gateways: &Gateways<'_>) -> ListenerPlan {
    let accepted = match fault(lane) {
        Some(fault) => Verdict::no(condition::ACCEPTED, fault.reason, fault.message.clone()),
        None => Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, "Listener is accepted"),
    };
    let conflicted = match &lane.conflict {
        Some(fault) => Verdict::yes(condition::CONFLICTED, fault.reason, fault.message.clone()),
        None => Verdict::no(condition::CONFLICTED, reason::NO_CONFLICTS, "No listener conflicts with this one"),
    };
    let resolved = match &lane.unresolved {
        Some(fault) => Verdict::no(condition::RESOLVED_REFS, fault.reason, fault.message.clone()),
        None => Verdict::yes(condition::RESOLVED_REFS, reason::RESOLVED_REFS, "All references are resolved"),
    };
    ListenerPlan {
        name: lane.name.clone(),
        protocol: lane.written_protocol.clone(),
        hostname: lane.hostname.clone(),
        // What two want to speak at one port takes no routes.
        kinds: match &lane.conflict {
            Some(conflict) if conflict.reason == reason::PROTOCOL_CONFLICT => Vec::new(),
            _ => lane.kinds.clone(),
        },
        attached: lane.attached,
        verdicts: vec![accepted, conflicted, resolved],
        served: served(lane, owned, gateways),
    }
}

/// The listeners in the snapshot that serve `lane`, or why one is not there.
fn served(lane: &Lane, owned: &Owned<'_>, gateways: &Gateways<'_>) -> Result<Vec<Arc<str>>, Fault> {
    let invalid = |message: String| Fault::new(reason::INVALID, message);
    if let Some(conflict) = lane.conflict.as_ref().filter(|_| owned.fault.is_none()) {
        return Err(conflict.clone());
    }
    if let Some(fault) = owned.fault.as_ref().or(lane.refused.as_ref()) {
        return Err(invalid(fault.message.clone()));
    }
    if lane.groups.is_empty() {
        let why = match (&lane.unresolved, lane.protocol) {
            (Some(fault), Some(Protocol::Https | Protocol::EndedTls)) => fault.message.clone(),
            _ => "the listener has nothing to serve with".to_owned(),
        };
        return Err(invalid(why));
    }
    let groups = lane.groups.iter().map(|group| &gateways.groups[*group]);
    let served = groups.map(|group| match &group.unavailable {
        Some(why) => Err(Fault::new(reason::PORT_UNAVAILABLE, why.clone())),
        None => Ok(Arc::clone(&group.id)),
    });
    served.collect()
}

/// A kind of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// TrafficPolicy.
    Traffic,
    /// AccessPolicy.
    Access,
    /// BackendTLSPolicy.
    BackendTls,
}

impl PolicyKind {
    /// As it is written in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Traffic => "TrafficPolicy",
            Self::Access => "AccessPolicy",
            Self::BackendTls => "BackendTLSPolicy",
        }
    }
}

/// What is to be said about a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyPlan {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation that was looked at.
    pub generation: Option<i64>,
    /// What is to be said about each object that it is attached to.
    pub ancestors: Vec<AncestorPlan>,
}

/// What is to be said about a PeerAuthentication.
#[derive(Clone, Debug, PartialEq)]
pub struct AdmissionPlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation that was looked at.
    pub generation: Option<i64>,
    /// The conditions.
    pub verdicts: Vec<Verdict>,
}

/// What is to be said about a policy at one object.
#[derive(Clone, Debug, PartialEq)]
pub struct AncestorPlan {
    /// The object's group.
    pub group: String,
    /// The object's kind.
    pub kind: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The part of it, where only a part is meant.
    pub section: Option<String>,
    /// The conditions.
    pub verdicts: Vec<Verdict>,
}

impl PolicyPlan {
    pub(super) fn new(kind: PolicyKind, metadata: &ObjectMeta, ancestors: Vec<AncestorPlan>) -> Self {
        let (namespace, name) = key(metadata);
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { kind, namespace, name, generation: metadata.generation, ancestors }
    }
}
