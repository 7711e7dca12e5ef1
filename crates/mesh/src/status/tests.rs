//! Tables of statuses: what is said when the proxy could bind, could not, or refused.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use proxy::BindError;
use serde_json::json;

use super::*;
use crate::compile::{Compiled, compile};
use crate::config::Settings;
use crate::world::World;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a second of this century"))
}

fn world(gateway: serde_json::Value, routes: serde_json::Value) -> World {
    let mut world = World { bundle_version: Some("v1.5.1".to_owned()), ..World::default() };
    world.classes.push(Arc::new(crate::class::gateway_class()));
    world.gateways.push(Arc::new(serde_json::from_value(gateway).expect("a Gateway")));
    world.routes = serde_json::from_value::<Vec<_>>(routes).expect("routes").into_iter().map(Arc::new).collect();
    world
}

/// A Gateway with two HTTP listeners, and one that cannot be served.
fn edge() -> Compiled {
    let gateway = json!({
        "metadata": {"name": "edge", "namespace": "shop", "generation": 4},
        "spec": {"gatewayClassName": "coracle", "listeners": [
            {"name": "web", "port": 80, "protocol": "HTTP"},
            {"name": "alt", "port": 8081, "protocol": "HTTP", "hostname": "a.example"},
            {"name": "raw", "port": 9000, "protocol": "TCP"},
        ]},
    });
    compile(&world(gateway, json!([])), &Settings::default())
}

fn bound(ports: &[(&str, Result<&str, &str>)]) -> Outcome {
    let bound: BTreeMap<Arc<str>, Result<SocketAddr, BindError>> = ports
        .iter()
        .map(|(id, result)| {
            let result = match result {
                Ok(address) => Ok(address.parse().expect("an address")),
                Err(said) => Err(BindError {
                    listener: (*id).into(),
                    address: "127.0.0.1:80".parse().expect("an address"),
                    source: Arc::new(io::Error::new(io::ErrorKind::AddrInUse, *said)),
                }),
            };
            (Arc::from(*id), result)
        })
        .collect();
    Outcome { bound: Arc::new(bound), refused: None }
}

fn find<'c>(conditions: &'c [Condition], kind: &str) -> &'c Condition {
    conditions.iter().find(|condition| condition.type_ == kind).expect("the condition is there")
}

/// The Gateway's own Programmed, then each listener's, as `status reason`.
fn programmed_of(status: &GatewayStatus) -> Vec<String> {
    let own = find(status.conditions.as_deref().unwrap_or_default(), "Programmed");
    let listeners = status.listeners.iter().flatten().map(|listener| find(&listener.conditions, "Programmed"));
    std::iter::once(own)
        .chain(listeners)
        .map(|condition| format!("{} {}", condition.status, condition.reason))
        .collect()
}

#[test]
fn a_gateway_is_programmed_when_all_that_can_serve_does() {
    let compiled = edge();
    let plan = &compiled.gateways[0];
    for (outcome, programmed, addresses) in [
        (
            bound(&[("gateway/80", Ok("127.0.0.1:8080")), ("gateway/8081", Ok("127.0.0.1:8081"))]),
            ["True Programmed", "True Programmed", "True Programmed", "False Invalid"],
            1,
        ),
        (
            bound(&[("gateway/80", Err("in use")), ("gateway/8081", Ok("127.0.0.1:8081"))]),
            ["False AddressNotUsable", "False PortUnavailable", "True Programmed", "False Invalid"],
            1,
        ),
        (bound(&[]), ["False Pending", "False Pending", "False Pending", "False Invalid"], 0),
        (
            Outcome { refused: Some("twice".to_owned()), ..bound(&[("gateway/80", Ok("127.0.0.1:8080"))]) },
            ["False Invalid", "False Invalid", "False Invalid", "False Invalid"],
            0,
        ),
    ] {
        let status = gateway(plan, None, &outcome, &at(100));
        assert_eq!(programmed_of(&status), programmed, "{outcome:?}");
        assert_eq!(status.addresses.as_ref().map(Vec::len), Some(addresses), "{outcome:?}");
        let conditions = status.conditions.as_deref().unwrap_or_default();
        assert!(conditions.iter().all(|condition| condition.observed_generation == Some(4)));
        let accepted = find(conditions, "Accepted");
        assert_eq!((accepted.status.as_str(), accepted.reason.as_str()), ("True", "ListenersNotValid"));
    }
}

#[test]
fn a_message_says_the_address() {
    let compiled = edge();
    let outcome = bound(&[("gateway/80", Err("in use")), ("gateway/8081", Ok("127.0.0.1:8081"))]);
    let status = gateway(&compiled.gateways[0], None, &outcome, &at(100));
    let listeners = status.listeners.unwrap_or_default();
    assert!(find(&listeners[0].conditions, "Programmed").message.contains("127.0.0.1:80"));
    assert_eq!(find(&listeners[1].conditions, "Programmed").message, "Listening on 127.0.0.1:8081");

    let addresses = addresses(&compiled.gateways[0], &outcome);
    let urls: Vec<Option<String>> = addresses.iter().map(GatewayListener::url).collect();
    assert_eq!(urls, [None, Some("http://127.0.0.1:8081".to_owned()), None]);
    assert!(addresses[0].address.as_ref().is_err_and(|why| why.contains("in use")));
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let compiled = edge();
    let plan = &compiled.gateways[0];
    let good = bound(&[("gateway/80", Ok("127.0.0.1:80")), ("gateway/8081", Ok("127.0.0.1:8081"))]);
    let bad = bound(&[("gateway/80", Err("in use")), ("gateway/8081", Ok("127.0.0.1:8081"))]);
    let first = gateway(plan, None, &good, &at(100));
    let same = gateway(plan, Some(&first), &good, &at(200));
    assert_eq!(same, first, "the same again is no difference");

    let worse = gateway(plan, Some(&first), &bad, &at(300));
    let conditions = worse.conditions.as_deref().unwrap_or_default();
    assert_eq!(find(conditions, "Programmed").last_transition_time, at(300));
    assert_eq!(find(conditions, "Accepted").last_transition_time, at(100));
    let listeners = worse.listeners.as_deref().unwrap_or_default();
    assert_eq!(find(&listeners[0].conditions, "Programmed").last_transition_time, at(300));
    assert_eq!(find(&listeners[1].conditions, "Programmed").last_transition_time, at(100));
}

#[test]
fn what_others_say_about_a_gateway_stays() {
    let compiled = edge();
    let outcome = bound(&[]);
    let theirs = Condition {
        last_transition_time: at(1),
        message: "m".to_owned(),
        observed_generation: None,
        reason: "R".to_owned(),
        status: "True".to_owned(),
        type_: "example.com/Audited".to_owned(),
    };
    let live = GatewayStatus { conditions: Some(vec![theirs.clone()]), ..GatewayStatus::default() };
    let status = gateway(&compiled.gateways[0], Some(&live), &outcome, &at(100));
    assert!(status.conditions.as_deref().unwrap_or_default().contains(&theirs));
}

fn route_plan(parents: serde_json::Value) -> RoutePlan {
    let gateway = json!({
        "metadata": {"name": "edge", "namespace": "shop"},
        "spec": {"gatewayClassName": "coracle", "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]},
    });
    let routes =
        json!([{"metadata": {"name": "r", "namespace": "shop", "generation": 2}, "spec": {"parentRefs": parents}}]);
    compile(&world(gateway, routes), &Settings::default()).routes.remove(0)
}

fn parent(controller: &str, name: &str) -> HttpRouteStatusParents {
    HttpRouteStatusParents {
        conditions: Vec::new(),
        controller_name: controller.to_owned(),
        parent_ref: HttpRouteStatusParentsParentRef {
            name: name.to_owned(),
            ..HttpRouteStatusParentsParentRef::default()
        },
    }
}

#[test]
fn a_routes_other_parents_are_left_alone_and_removed_ones_go() {
    let theirs = parent("example.com/x", "theirs");
    let live = HttpRouteStatus { parents: vec![parent(GATEWAY_CONTROLLER, "gone"), theirs.clone()] };
    let names = |status: &HttpRouteStatus| -> Vec<String> {
        status.parents.iter().map(|parent| parent.parent_ref.name.clone()).collect()
    };

    let attached =
        route(&route_plan(json!([{"name": "edge"}, {"name": "elsewhere"}])), Some(&live), &at(5)).expect("ours");
    assert_eq!(names(&attached), ["theirs", "edge"]);
    assert_eq!(attached.parents[0], theirs);
    assert_eq!(find(&attached.parents[1].conditions, "Accepted").observed_generation, Some(2));
    let again = route(&route_plan(json!([{"name": "edge"}, {"name": "elsewhere"}])), Some(&attached), &at(9));
    assert_eq!(again.as_ref(), Some(&attached), "the same again is no difference");

    let detached = route(&route_plan(json!([{"name": "elsewhere"}])), Some(&attached), &at(9)).expect("ours to clean");
    assert_eq!(names(&detached), ["theirs"]);
    assert_eq!(route(&route_plan(json!([{"name": "elsewhere"}])), Some(&detached), &at(9)), None, "nothing of ours");
    assert_eq!(route(&route_plan(json!([])), None, &at(9)), None);
}

#[test]
fn a_routes_condition_that_no_longer_applies_goes() {
    let plan = route_plan(json!([{"name": "edge"}]));
    let mut live = route(&plan, None, &at(5)).expect("ours");
    let mut stale = live.parents[0].conditions[0].clone();
    stale.type_ = "PartiallyInvalid".to_owned();
    live.parents[0].conditions.push(stale);
    let status = route(&plan, Some(&live), &at(9)).expect("ours");
    let kinds: Vec<&str> = status.parents[0].conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(kinds, ["Accepted", "ResolvedRefs"]);
}

#[test]
fn a_class_says_which_release_it_knows() {
    let mut picture = world(
        json!({"metadata": {"name": "g", "namespace": "n"}, "spec": {"gatewayClassName": "coracle", "listeners": []}}),
        json!([]),
    );
    for (installed, expected) in [
        (Some("v1.5.1"), "True SupportedVersion"),
        (Some("v1.5.9"), "True SupportedVersion"),
        (Some("v1.6.0"), "False UnsupportedVersion"),
        (None, "False UnsupportedVersion"),
    ] {
        picture.bundle_version = installed.map(str::to_owned);
        let compiled = compile(&picture, &Settings::default());
        let status = class(&compiled.classes[0], None, &at(1));
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let version = find(conditions, "SupportedVersion");
        assert_eq!(format!("{} {}", version.status, version.reason), expected, "{installed:?}");
        assert_eq!(find(conditions, "Accepted").status, "True");
    }
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    assert_eq!(shorten("short"), "short");
    let long = shorten(&"ö".repeat(20_000));
    assert!(long.ends_with("...") && long.len() <= 32_768);
}
