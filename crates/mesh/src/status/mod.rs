//! What was compiled and what the proxy bound, as the status of each object. Pure.
//!
//! Invariants: a condition keeps its time while its status stays; what other controllers have said stays; the same
//! input gives the same status, so that writing can be left out where nothing differs.

pub(crate) mod unsaid;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use proxy::Bound;
use resources::gateway::backendtlspolicies::{
    BackendTlsPolicyStatus, BackendTlsPolicyStatusAncestors, BackendTlsPolicyStatusAncestorsAncestorRef,
};
use resources::gateway::gatewayclasses::{GatewayClassStatus, GatewayClassStatusSupportedFeatures};
use resources::gateway::gateways::{
    GatewayStatus, GatewayStatusAddresses, GatewayStatusListeners, GatewayStatusListenersSupportedKinds,
};
use resources::gateway::httproutes::{HttpRouteStatus, HttpRouteStatusParents, HttpRouteStatusParentsParentRef};
use resources::gateway::listenersets::{
    ListenerSetStatus, ListenerSetStatusListeners, ListenerSetStatusListenersSupportedKinds,
};
use resources::istio::PeerAuthenticationStatus;
use resources::names::GATEWAY_CONTROLLER;

use crate::class::SUPPORTED_FEATURES;
use crate::compile::{
    AdmissionPlan, ClassPlan, GatewayPlan, ListenerPlan, ParentPlan, PolicyPlan, RoutePlan, Verdict, condition, reason,
};
use crate::handle::GatewayListener;

/// What the proxy has made of the last snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// What each listener is bound to.
    pub(crate) bound: Bound,
    /// Why the last snapshot was refused as a whole.
    pub(crate) refused: Option<String>,
}

impl Outcome {
    /// Where a listener answers, at each of its addresses, or why it does not.
    fn each(&self, listener: &ListenerPlan) -> Vec<Result<SocketAddr, Reason>> {
        match &listener.served {
            Ok(sockets) => sockets.iter().map(|socket| self.one(socket)).collect(),
            Err(fault) => vec![Err((fault.reason, fault.message.clone()))],
        }
    }

    /// Where a listener answers, or why it does not at one of its addresses.
    fn all(&self, listener: &ListenerPlan) -> Result<String, Reason> {
        let each: Result<Vec<SocketAddr>, Reason> = self.each(listener).into_iter().collect();
        Ok(each?.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" and "))
    }

    fn one(&self, socket: &str) -> Result<SocketAddr, Reason> {
        match (self.bound.get(socket), &self.refused) {
            (Some(Ok(address)), None) => Ok(*address),
            (Some(Err(error)), None) => Err((reason::PORT_UNAVAILABLE, error.to_string())),
            (None, None) => Err((reason::PENDING, "the proxy has not bound it yet".to_owned())),
            (_, Some(refused)) => {
                let message =
                    format!("the proxy goes on with what it served before, for it refused the change: {refused}");
                Err((reason::INVALID, message))
            }
        }
    }
}

/// The reason and the message of a condition.
type Reason = (&'static str, String);

/// The status of a GatewayClass.
pub(crate) fn class(plan: &ClassPlan, live: Option<&GatewayClassStatus>, now: &Time) -> GatewayClassStatus {
    let old = live.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let features =
        SUPPORTED_FEATURES.iter().map(|name| GatewayClassStatusSupportedFeatures { name: (*name).to_owned() });
    GatewayClassStatus {
        conditions: Some(conditions(&plan.verdicts, plan.generation, old, now)),
        supported_features: Some(features.collect()),
    }
}

/// The status of a Gateway.
pub(crate) fn gateway(
    plan: &GatewayPlan,
    live: Option<&GatewayStatus>,
    outcome: &Outcome,
    now: &Time,
) -> GatewayStatus {
    let old_listeners = live.and_then(|status| status.listeners.as_deref()).unwrap_or_default();
    let listeners = plan.listeners.iter().map(|listener| {
        let old = old_listeners.iter().find(|old| old.name == listener.name);
        let old = old.map_or(&[][..], |old| &old.conditions);
        GatewayStatusListeners {
            attached_routes: listener.attached,
            conditions: conditions(&listener_verdicts(listener, outcome), plan.generation, old, now),
            name: listener.name.clone(),
            supported_kinds: Some(listener.kinds.iter().map(|kind| supported(kind)).collect()),
        }
    });
    let listeners = listeners.collect();
    let addresses: BTreeSet<IpAddr> =
        plan.listeners.iter().flat_map(|listener| outcome.each(listener)).flatten().map(|at| at.ip()).collect();
    let addresses = addresses
        .into_iter()
        .map(|address| GatewayStatusAddresses { r#type: Some("IPAddress".to_owned()), value: address.to_string() });
    let old = live.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut verdicts = vec![plan.accepted.clone(), programmed(plan, outcome), plan.resolved.clone()];
    verdicts.extend(plan.besides.iter().cloned());
    GatewayStatus {
        addresses: Some(addresses.collect()),
        attached_listener_sets: (plan.sets > 0).then_some(plan.sets),
        conditions: Some(conditions(&verdicts, plan.generation, old, now)),
        listeners: Some(listeners),
    }
}

/// The status of a ListenerSet: that of a Gateway without addresses.
pub(crate) fn listener_set(
    plan: &GatewayPlan,
    live: Option<&ListenerSetStatus>,
    outcome: &Outcome,
    now: &Time,
) -> ListenerSetStatus {
    let old_listeners = live.and_then(|status| status.listeners.as_deref()).unwrap_or_default();
    let listeners = plan.listeners.iter().map(|listener| {
        let old = old_listeners.iter().find(|old| old.name == listener.name);
        let old = old.map_or(&[][..], |old| &old.conditions);
        let kinds = listener.kinds.iter().map(|kind| supported(kind));
        let kinds = kinds.map(|kind| ListenerSetStatusListenersSupportedKinds { group: kind.group, kind: kind.kind });
        ListenerSetStatusListeners {
            attached_routes: listener.attached,
            conditions: conditions(&listener_verdicts(listener, outcome), plan.generation, old, now),
            name: listener.name.clone(),
            supported_kinds: Some(kinds.collect()),
        }
    });
    let listeners = listeners.collect();
    let old = live.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let verdicts = [plan.accepted.clone(), programmed(plan, outcome)];
    ListenerSetStatus { conditions: Some(conditions(&verdicts, plan.generation, old, now)), listeners: Some(listeners) }
}

fn supported(kind: &str) -> GatewayStatusListenersSupportedKinds {
    GatewayStatusListenersSupportedKinds { group: Some("gateway.networking.k8s.io".to_owned()), kind: kind.to_owned() }
}

fn listener_verdicts(listener: &ListenerPlan, outcome: &Outcome) -> Vec<Verdict> {
    let programmed = match outcome.all(listener) {
        Ok(at) => Verdict::yes(condition::PROGRAMMED, reason::PROGRAMMED, format!("Listening on {at}")),
        Err((reason, message)) => Verdict::no(condition::PROGRAMMED, reason, message),
    };
    let mut verdicts = listener.verdicts.clone();
    verdicts.push(programmed);
    verdicts
}

/// A Gateway is programmed when every listener that could serve does; those that are not valid have said so themselves.
fn programmed(plan: &GatewayPlan, outcome: &Outcome) -> Verdict {
    if let Some(fault) = &plan.unusable {
        let kept = [reason::ADDRESS_NOT_USABLE, reason::NOT_ALLOWED, reason::PARENT_NOT_ACCEPTED];
        let reason = if kept.contains(&fault.reason) { fault.reason } else { reason::INVALID };
        return Verdict::no(condition::PROGRAMMED, reason, fault.message.clone());
    }
    let mut at = Vec::new();
    let mut invalid = Vec::new();
    for listener in &plan.listeners {
        match outcome.all(listener) {
            Ok(addresses) => at.push(format!("{} on {addresses}", listener.name)),
            Err((reason::INVALID | reason::HOSTNAME_CONFLICT | reason::PROTOCOL_CONFLICT, message))
                if outcome.refused.is_none() =>
            {
                invalid.push(format!("listener {}: {message}", listener.name));
            }
            Err((why, message)) => {
                let reason = if why == reason::PORT_UNAVAILABLE { reason::ADDRESS_NOT_USABLE } else { why };
                let message = format!("listener {}: {message}", listener.name);
                return Verdict::no(condition::PROGRAMMED, reason, message);
            }
        }
    }
    if at.is_empty() {
        let message = format!("No listener can serve: {}", invalid.join("; "));
        let reason = if plan.set { reason::LISTENERS_NOT_VALID } else { reason::INVALID };
        return Verdict::no(condition::PROGRAMMED, reason, message);
    }
    Verdict::yes(condition::PROGRAMMED, reason::PROGRAMMED, format!("Listening: {}", at.join(", ")))
}

/// The status of a route, or None where there is nothing of ours to say and nothing of ours was said.
pub(crate) fn route(plan: &RoutePlan, live: Option<&HttpRouteStatus>, now: &Time) -> Option<HttpRouteStatus> {
    let old = live.map(|status| status.parents.as_slice()).unwrap_or_default();
    let (ours, mut parents): (Vec<_>, Vec<_>) =
        old.iter().cloned().partition(|parent| parent.controller_name == GATEWAY_CONTROLLER);
    if ours.is_empty() && plan.parents.is_empty() {
        return None;
    }
    parents.extend(plan.parents.iter().map(|parent| route_parent(parent, plan.generation, &ours, now)));
    Some(HttpRouteStatus { parents })
}

/// The status of a policy, or None where there is nothing of ours to say and nothing of ours was said.
pub(crate) fn policy(
    plan: &PolicyPlan,
    live: Option<&BackendTlsPolicyStatus>,
    now: &Time,
) -> Option<BackendTlsPolicyStatus> {
    let old = live.map(|status| status.ancestors.as_slice()).unwrap_or_default();
    let (ours, mut ancestors): (Vec<_>, Vec<_>) =
        old.iter().cloned().partition(|ancestor| ancestor.controller_name == GATEWAY_CONTROLLER);
    if ours.is_empty() && plan.ancestors.is_empty() {
        return None;
    }
    let (room, _) = unsaid::room(plan, ancestors.len());
    let said = room.into_iter().map(|ancestor| {
        let ancestor_ref = BackendTlsPolicyStatusAncestorsAncestorRef {
            group: Some(ancestor.group.clone()),
            kind: Some(ancestor.kind.clone()),
            name: ancestor.name.clone(),
            namespace: Some(ancestor.namespace.clone()).filter(|_| ancestor.kind != "Namespace"),
            port: None,
            section_name: ancestor.section.clone(),
        };
        let old = ours.iter().find(|old| old.ancestor_ref == ancestor_ref);
        let old = old.map_or(&[][..], |old| &old.conditions);
        BackendTlsPolicyStatusAncestors {
            conditions: conditions(&ancestor.verdicts, plan.generation, old, now),
            controller_name: GATEWAY_CONTROLLER.to_owned(),
            ancestor_ref,
        }
    });
    ancestors.extend(said);
    Some(BackendTlsPolicyStatus { ancestors })
}

/// The status of a PeerAuthentication.
pub(crate) fn admission(
    plan: &AdmissionPlan,
    live: Option<&PeerAuthenticationStatus>,
    now: &Time,
) -> PeerAuthenticationStatus {
    let old = live.map(|status| status.conditions.as_slice()).unwrap_or_default();
    PeerAuthenticationStatus {
        conditions: conditions(&plan.verdicts, plan.generation, old, now),
        observed_generation: plan.generation,
    }
}

/// How many ancestors a policy's status may have, as the API says.
const MOST_ANCESTORS: usize = 16;

fn route_parent(
    plan: &ParentPlan,
    generation: Option<i64>,
    ours: &[HttpRouteStatusParents],
    now: &Time,
) -> HttpRouteStatusParents {
    let parent_ref = HttpRouteStatusParentsParentRef {
        group: plan.parent.group.clone(),
        kind: plan.parent.kind.clone(),
        name: plan.parent.name.clone(),
        namespace: plan.parent.namespace.clone(),
        port: plan.parent.port,
        section_name: plan.parent.section_name.clone(),
    };
    let old = ours.iter().find(|old| old.parent_ref == parent_ref);
    let old = old.map_or(&[][..], |old| &old.conditions);
    // All conditions of a parent of ours are ours: one that no longer applies goes.
    let old: Vec<Condition> =
        old.iter().filter(|old| plan.verdicts.iter().any(|verdict| verdict.kind == old.type_)).cloned().collect();
    HttpRouteStatusParents {
        conditions: conditions(&plan.verdicts, generation, &old, now),
        controller_name: GATEWAY_CONTROLLER.to_owned(),
        parent_ref,
    }
}

/// The verdicts as conditions, followed by those that others have set.
fn conditions(verdicts: &[Verdict], generation: Option<i64>, old: &[Condition], now: &Time) -> Vec<Condition> {
    let ours = verdicts.iter().map(|verdict| {
        let status = if verdict.holds { "True" } else { "False" };
        let unchanged = old.iter().find(|old| old.type_ == verdict.kind && old.status == status);
        Condition {
            last_transition_time: unchanged.map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
            message: shorten(&verdict.message),
            observed_generation: generation,
            reason: verdict.reason.to_owned(),
            status: status.to_owned(),
            type_: verdict.kind.to_owned(),
        }
    });
    let others = old.iter().filter(|old| !verdicts.iter().any(|verdict| verdict.kind == old.type_)).cloned();
    ours.chain(others).collect()
}

/// The API takes messages of up to 32768 bytes.
fn shorten(message: &str) -> String {
    const MOST: usize = 32_000;
    match message.char_indices().nth(MOST / 4) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_owned(),
    }
}

/// Where the listeners of a Gateway answer.
pub(crate) fn addresses(plan: &GatewayPlan, outcome: &Outcome) -> Vec<GatewayListener> {
    let listeners = plan.listeners.iter().map(|listener| GatewayListener {
        namespace: plan.namespace.clone(),
        gateway: plan.name.clone(),
        listener: listener.name.clone(),
        protocol: listener.protocol.clone(),
        hostname: listener.hostname.clone(),
        address: first(outcome.each(listener)),
    });
    listeners.collect()
}

/// The first address that answers, or else why the first does not.
fn first(mut each: Vec<Result<SocketAddr, Reason>>) -> Result<SocketAddr, String> {
    let position = each.iter().position(Result::is_ok).unwrap_or_default();
    each.swap_remove(position).map_err(|(_, message)| message)
}

#[cfg(test)]
mod tests;
