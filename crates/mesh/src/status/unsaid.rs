//! What a policy's status has no room for, said by Events at the policy and at each Gateway that is left out. Pure.
//!
//! The API takes so many ancestors and no more, and wants whoever is left out to hear of it in another way (GEP-713).
//!
//! Invariant: where not all find room, what is wrong is in the status before what is right.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use resources::gateway::backendtlspolicies::BackendTlsPolicyStatus;
use resources::names::GATEWAY_CONTROLLER;

use super::MOST_ANCESTORS;
use crate::compile::{AncestorPlan, Compiled, Notice, PolicyKind, PolicyPlan, key};
use crate::world::World;

/// How many of those that are left out are named.
const NAMED: usize = 10;

/// The ancestors that find room beside those of `others`, and those that do not.
pub(super) fn room(plan: &PolicyPlan, others: usize) -> (Vec<&AncestorPlan>, Vec<&AncestorPlan>) {
    let mut all: Vec<&AncestorPlan> = plan.ancestors.iter().collect();
    let most = MOST_ANCESTORS.saturating_sub(others).min(all.len());
    if all.len() > most {
        all.sort_by_key(|ancestor| ancestor.verdicts.iter().all(|verdict| verdict.holds));
    }
    let left_out = all.split_off(most);
    (all, left_out)
}

/// An Event for each policy whose status is full, and for each Gateway that is not in it.
pub(crate) fn notices(compiled: &Compiled, world: &World) -> Vec<Notice> {
    let mut notices = Vec::new();
    for plan in compiled.policies.iter().filter(|plan| !plan.ancestors.is_empty()) {
        let Some((policy, status)) = live(plan, world) else { continue };
        let told = status.map(|status| status.ancestors.as_slice()).unwrap_or_default();
        let others = told.iter().filter(|ancestor| ancestor.controller_name != GATEWAY_CONTROLLER).count();
        let (_, left_out) = room(plan, others);
        if left_out.is_empty() {
            continue;
        }
        let names: Vec<String> = left_out.iter().take(NAMED).map(|ancestor| name(ancestor)).collect();
        let more = if left_out.len() > NAMED { format!(" and {} more", left_out.len() - NAMED) } else { String::new() };
        let note = format!(
            "{} applies to {} objects, and its status has room for {}: it does not speak of {}{more}, to which it applies as well",
            plan.kind.name(),
            plan.ancestors.len(),
            plan.ancestors.len() - left_out.len(),
            names.join(", ")
        );
        notices.push(Notice::warning(policy, "StatusFull", note));
        notices.extend(left_out.into_iter().filter_map(|ancestor| at_gateway(plan, ancestor, world)));
    }
    notices
}

fn name(ancestor: &AncestorPlan) -> String {
    format!("{} {}/{}", ancestor.kind, ancestor.namespace, ancestor.name)
}

fn at_gateway(plan: &PolicyPlan, ancestor: &AncestorPlan, world: &World) -> Option<Notice> {
    let meant = (ancestor.namespace.as_str(), ancestor.name.as_str());
    let gateway =
        world.gateways.iter().find(|gateway| ancestor.kind == "Gateway" && key(&gateway.metadata) == meant)?;
    let policy = format!("{} {}/{}", plan.kind.name(), plan.namespace, plan.name);
    let wrong = ancestor.verdicts.iter().find(|verdict| !verdict.holds);
    let note = match wrong {
        Some(verdict) => {
            format!("{policy} is not followed here, and its status is too full to say so: {}", verdict.message)
        }
        None => format!("{policy} is followed here, and its status is too full to say so"),
    };
    Some(Notice::warning(gateway.object_ref(&()), "PolicyStatusFull", note))
}

/// The policy that a plan is for, and what its status says by now.
fn live<'w>(plan: &PolicyPlan, world: &'w World) -> Option<(ObjectReference, Option<&'w BackendTlsPolicyStatus>)> {
    let meant = (plan.namespace.as_str(), plan.name.as_str());
    match plan.kind {
        PolicyKind::Traffic => {
            let policy = world.traffic.iter().find(|policy| key(&policy.metadata) == meant)?;
            Some((policy.object_ref(&()), policy.status.as_ref()))
        }
        PolicyKind::Access => {
            let policy = world.access.iter().find(|policy| key(&policy.metadata) == meant)?;
            Some((policy.object_ref(&()), policy.status.as_ref()))
        }
        PolicyKind::BackendTls => {
            let policy = world.backend_tls.iter().find(|policy| key(&policy.metadata) == meant)?;
            Some((policy.object_ref(&()), policy.status.as_ref()))
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;
    use std::sync::Arc;

    use super::*;
    use crate::compile::compile;
    use crate::config::Settings;

    /// So many Gateways that lead to one Service by a route, and a policy for it.
    fn world(gateways: usize) -> World {
        let mut world = World { bundle_version: Some("v1.5.1".to_owned()), ..World::default() };
        world.classes.push(Arc::new(crate::class::gateway_class()));
        for n in 0..gateways {
            let gateway = json!({
                "metadata": {"name": format!("g{n:02}"), "namespace": "shop"},
                "spec": {"gatewayClassName": "coracle", "listeners": [{"name": "http", "port": 8000 + n, "protocol": "HTTP"}]},
            });
            world.gateways.push(Arc::new(serde_json::from_value(gateway).expect("a Gateway")));
        }
        let parents: Vec<_> = (0..gateways).map(|n| json!({"name": format!("g{n:02}")})).collect();
        let route = json!({"metadata": {"name": "r", "namespace": "shop"}, "spec": {"parentRefs": parents,
            "rules": [{"backendRefs": [{"name": "db", "port": 443}]}]}});
        world.routes.push(Arc::new(serde_json::from_value(route).expect("a route")));
        let service = json!({"metadata": {"name": "db", "namespace": "shop"},
            "spec": {"clusterIP": "127.96.0.7", "selector": {"app": "db"}, "ports": [{"name": "https", "port": 443}]}});
        world.services.push(Arc::new(serde_json::from_value(service).expect("a Service")));
        let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "db"}],
            "validation": {"hostname": "db.test", "wellKnownCACertificates": "System"}}});
        world.backend_tls.push(Arc::new(serde_json::from_value(policy).expect("a policy")));
        world
    }

    fn said(gateways: usize) -> (usize, Vec<String>) {
        let world = world(gateways);
        let compiled = compile(&world, &Settings::default());
        let now = Time(Timestamp::from_second(1_000_000_000).expect("a second"));
        let status = super::super::policy(&compiled.policies[0], None, &now).expect("something is said");
        let notices = notices(&compiled, &world).into_iter();
        let told = notices
            .map(|notice| format!("{} {}: {}", notice.reason, notice.about.name.unwrap_or_default(), notice.note));
        (status.ancestors.len(), told.collect())
    }

    #[test]
    fn whoever_finds_no_room_in_a_status_hears_of_it_by_an_event() {
        assert_eq!(said(16), (16, Vec::new()));
        let (ancestors, told) = said(18);
        assert_eq!(ancestors, 16);
        assert_eq!(
            told,
            [
                "StatusFull p: BackendTLSPolicy applies to 18 objects, and its status has room for 16: it does not speak of Gateway shop/g16, Gateway shop/g17, to which it applies as well",
                "PolicyStatusFull g16: BackendTLSPolicy shop/p is followed here, and its status is too full to say so",
                "PolicyStatusFull g17: BackendTLSPolicy shop/p is followed here, and its status is too full to say so",
            ]
        );
    }

    #[test]
    fn what_is_wrong_finds_room_first_and_others_keep_theirs() {
        let world = world(18);
        let mut plan = compile(&world, &Settings::default()).policies.remove(0);
        plan.ancestors[17].verdicts[0].holds = false;
        let (told, left_out) = room(&plan, 2);
        assert_eq!((told.len(), left_out.len()), (14, 4));
        assert_eq!((told[0].name.as_str(), told[1].name.as_str()), ("g17", "g00"));
        assert!(room(&plan, 16).0.is_empty());
    }
}
