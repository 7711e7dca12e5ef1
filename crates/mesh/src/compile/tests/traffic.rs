//! TrafficPolicies: what they attach to, which part wins, and what is said of each.

use std::sync::Arc;

use proxy::policy::Policy;
use proxy::snapshot::Action;

use super::super::Compiled;
use super::{compiled, edge};

/// Routes `r` (rule `first` to `one`, rule `1` to both) and `s` (to `one`).
const ROUTES: &str = r"
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: edge}]
  rules:
  - name: first
    matches: [{path: {value: /first}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /second}}]
    backendRefs: [{name: one, port: 80}, {name: two, port: 80}]
---
kind: HTTPRoute
metadata: {name: s}
spec:
  parentRefs: [{name: edge}]
  rules: [{matches: [{path: {value: /s}}], backendRefs: [{name: one, port: 80}]}]
---
";

fn policy(name: &str, target: &str, rest: &str) -> String {
    format!("{{kind: TrafficPolicy, metadata: {{name: {name}}}, spec: {{targetRefs: [{target}], {rest}}}}}\n---\n")
}

const ROUTE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute";

/// The policy of a rule for a backend.
fn followed(compiled: &Compiled, rule: &str, backend: &str) -> Option<Arc<Policy>> {
    let rules = compiled.snapshot.listeners.iter().flat_map(|listener| &listener.hosts).flat_map(|host| &host.rules);
    let mut found = rules.filter(|candidate| &*candidate.id == rule).filter_map(|rule| match &rule.action {
        Action::Forward { backends } => backends.iter().find(|weighted| &*weighted.backend == backend),
        Action::Respond { .. } => None,
    });
    found.next().unwrap_or_else(|| panic!("no rule {rule} to {backend}")).policy.clone()
}

/// Attempts and their scope, the breaker's minimum and its scope: what the tests tell policies apart by.
fn told(compiled: &Compiled, rule: &str, backend: &str) -> String {
    let Some(policy) = followed(compiled, rule, backend) else { return "none".to_owned() };
    let mut parts = Vec::new();
    parts.extend(policy.timeouts.request.map(|limit| format!("request {limit:?}")));
    parts.extend(policy.timeouts.per_try.map(|limit| format!("try {limit:?}")));
    parts.extend(policy.retries.as_ref().map(|part| format!("{} retries@{}", part.settings.attempts, part.scope)));
    parts.extend(policy.breaker.as_ref().map(|part| format!("{} calls@{}", part.settings.minimum_calls, part.scope)));
    parts.join(", ")
}

/// What is said of a policy at its targets: reason and message where it is not accepted.
fn said(compiled: &Compiled, name: &str) -> Vec<String> {
    let plan = compiled.policies.iter().find(|plan| plan.name == name).expect("every policy has a plan");
    let one = |ancestor: &super::super::AncestorPlan| {
        let verdict = &ancestor.verdicts[0];
        assert_eq!((verdict.kind, verdict.holds), ("Accepted", verdict.reason == "Accepted"));
        if verdict.holds { "Accepted".to_owned() } else { format!("{}: {}", verdict.reason, verdict.message) }
    };
    plan.ancestors.iter().map(one).collect()
}

#[test]
fn without_policies_there_are_none() {
    let compiled = compiled(&edge(ROUTES));
    assert!(followed(&compiled, "shop/r/first", "shop/one:80").is_none());
    assert!(followed(&compiled, "shop/one:80", "shop/one:80").is_none());
}

#[test]
fn the_most_specific_wins_field_by_field() {
    let yaml = edge(ROUTES)
        + &policy(
            "ns",
            "{kind: Namespace, name: shop}",
            "timeouts: {request: 9s}, retries: {attempts: 1}, circuitBreaker: {minimumCalls: 1}",
        )
        + &policy("svc", "{kind: Service, name: one}", "timeouts: {perTry: 2s}, circuitBreaker: {minimumCalls: 2}")
        + &policy("port", "{kind: Service, name: two, sectionName: http}", "circuitBreaker: {minimumCalls: 3}")
        + &policy("route", &format!("{{{ROUTE}, name: r}}"), "retries: {attempts: 4}")
        + &policy(
            "rule",
            &format!("{{{ROUTE}, name: r, sectionName: first}}"),
            "retries: {attempts: 5}, timeouts: {request: 1s}",
        );
    let compiled = compiled(&yaml);
    for (rule, backend, expected) in [
        ("shop/r/first", "shop/one:80", "request 1s, try 2s, 5 retries@shop/r/first, 2 calls@shop/one:80"),
        ("shop/r/1", "shop/one:80", "request 9s, try 2s, 4 retries@shop/r, 2 calls@shop/one:80"),
        ("shop/r/1", "shop/two:80", "request 9s, 4 retries@shop/r, 3 calls@shop/two:80"),
        ("shop/s/0", "shop/one:80", "request 9s, try 2s, 1 retries@shop/one:80, 2 calls@shop/one:80"),
        // The Service's own listener, for callers inside.
        ("shop/one:80", "shop/one:80", "request 9s, try 2s, 1 retries@shop/one:80, 2 calls@shop/one:80"),
        ("shop/two:80", "shop/two:80", "request 9s, 1 retries@shop/two:80, 3 calls@shop/two:80"),
    ] {
        assert_eq!(told(&compiled, rule, backend), expected, "{rule} to {backend}");
    }
    for name in ["ns", "svc", "port", "route", "rule"] {
        assert_eq!(said(&compiled, name), ["Accepted"], "{name}");
    }
}

#[test]
fn defaults_are_those_of_the_documents() {
    let compiled =
        compiled(&(edge(ROUTES) + &policy("p", "{kind: Service, name: one}", "retries: {}, circuitBreaker: {}")));
    let policy = followed(&compiled, "shop/one:80", "shop/one:80").expect("there is one");
    let breaker = policy.breaker.as_ref().expect("a breaker").settings;
    let seconds = std::time::Duration::from_secs;
    assert_eq!((breaker.failure_percent, breaker.minimum_calls), (50, 10));
    assert_eq!((breaker.call_timeout, breaker.open, breaker.probes), (seconds(3), seconds(15), 3));
    let retries = &policy.retries.as_ref().expect("retries").settings;
    assert_eq!((retries.attempts, retries.budget.percent, retries.max_body), (2, 20, 65_536));
}

#[test]
fn the_older_of_two_equals_is_followed() {
    let yaml = edge(ROUTES)
        + &policy("z", "{kind: Service, name: one}", "retries: {attempts: 1}")
        + &policy("a", "{kind: Service, name: one}, {kind: Service, name: two}", "retries: {attempts: 2}");
    let compiled = compiled(&yaml);
    assert_eq!(told(&compiled, "shop/one:80", "shop/one:80"), "1 retries@shop/one:80");
    assert_eq!(told(&compiled, "shop/two:80", "shop/two:80"), "2 retries@shop/two:80");
    let conflict = "Conflicted: TrafficPolicy z is for the same and older; it is followed, this one is not";
    assert_eq!(said(&compiled, "a"), [conflict, "Accepted"]);
    assert_eq!(said(&compiled, "z"), ["Accepted"]);
}

#[test]
fn what_cannot_be_followed_says_why() {
    for (target, rest, expected) in [
        ("{kind: Service, name: nowhere}", "retries: {}", "TargetNotFound: Service shop/nowhere does not exist"),
        (
            "{kind: Service, name: one, sectionName: admin}",
            "retries: {}",
            "TargetNotFound: Service shop/one has no port admin",
        ),
        ("{kind: Service, name: one, sectionName: '80'}", "retries: {}", "Accepted"),
        (
            "{kind: Namespace, name: other}",
            "retries: {}",
            "Invalid: a Namespace is the policy's own (shop) and has no sections; this is other",
        ),
        (
            "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: x}",
            "retries: {}",
            "TargetNotFound: HTTPRoute shop/x does not exist",
        ),
        (
            "{group: gateway.networking.k8s.io, kind: GRPCRoute, name: r}",
            "retries: {}",
            "TargetNotFound: GRPCRoute shop/r does not exist",
        ),
        (
            "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: x}",
            "retries: {}",
            "TargetNotFound: HTTPRoute shop/r has no rule named x",
        ),
        (
            "{kind: Service, name: one}",
            "timeouts: {}",
            "Invalid: spec says nothing but what it is for; give it one of its other fields",
        ),
        (
            "{kind: Service, name: one}",
            "timeouts: {request: 0s}",
            "Invalid: spec.timeouts.request cannot be zero; leave it out to have no such limit",
        ),
        (
            "{kind: Service, name: one}",
            "timeouts: {request: 1s, perTry: 2s}",
            "Invalid: spec.timeouts.perTry cannot be longer than spec.timeouts.request",
        ),
        ("{kind: Service, name: one}", "retries: {on: [5xx, grpc-aborted, '429']}", "Accepted"),
        (
            "{kind: Service, name: one}",
            "retries: {backoff: {base: 2s}}",
            "Invalid: spec.retries.backoff.max cannot be shorter than spec.retries.backoff.base",
        ),
    ] {
        let compiled = compiled(&(edge(ROUTES) + &policy("p", target, rest)));
        assert_eq!(said(&compiled, "p"), [expected], "{target} {rest}");
        let accepted = expected == "Accepted";
        assert_eq!(followed(&compiled, "shop/one:80", "shop/one:80").is_some(), accepted, "{target} {rest}");
    }
    for word in ["6xx", "200", "grpc-ok", "grpc-", "teapot"] {
        let compiled = compiled(
            &(edge(ROUTES) + &policy("p", "{kind: Service, name: one}", &format!("retries: {{on: ['{word}']}}"))),
        );
        assert!(
            said(&compiled, "p")[0].starts_with(&format!("Invalid: spec.retries.on[0] {word:?} is none of")),
            "{word}"
        );
    }
}

#[test]
fn a_policy_with_nothing_to_govern_says_so() {
    let raw = |ports: &str| {
        let service = format!(
            "{{kind: Service, metadata: {{name: raw}}, spec: {{clusterIP: 127.96.0.9, ports: [{ports}]}}}}\n---\n"
        );
        let compiled = compiled(&(edge(&service) + &policy("p", "{kind: Service, name: raw}", "retries: {}")));
        let plan = compiled.policies.iter().find(|plan| plan.name == "p").expect("a plan");
        plan.ancestors[0].verdicts[0].message.clone()
    };
    assert_eq!(raw("{name: http, port: 80}, {name: tcp, port: 81}"), "Policy is accepted");
    assert!(raw("{name: redis, port: 80}").contains("governs nothing"), "{}", raw("{name: redis, port: 80}"));
}

#[test]
fn every_part_is_read_and_what_is_wrong_is_named() {
    let policed = |rest: &str| compiled(&(edge(ROUTES) + &policy("p", "{kind: Service, name: one}", rest)));
    for rest in [
        "concurrency: {limit: 10}",
        "rateLimits: [{requests: 10}, {name: each, requests: 1, per: 1m, burst: 5, key: ClientIP}]",
        "rateLimits: [{requests: 10, key: Header, header: x-api-key}]",
        "loadShedding: {latencyTarget: 500ms, queueTarget: 10}",
        "loadBalancing: {algorithm: RoundRobin, slowStart: 30s}",
        "loadBalancing: {algorithm: ConsistentHash, hashOn: {type: Cookie, name: session}}",
        "outlierEjection: {}",
        "faults: [{percent: 10, headers: [{name: x-test, value: 'on'}], delay: 2s, abort: {status: 503}}]",
        "fallback: {body: '[]', headers: [{name: content-type, value: application/json}]}",
    ] {
        let compiled = policed(rest);
        assert_eq!(said(&compiled, "p"), ["Accepted"], "{rest}");
        let followed = followed(&compiled, "shop/one:80", "shop/one:80").expect("it is followed");
        assert_ne!(*followed, Policy::default(), "{rest}");
    }
    for (rest, field) in [
        ("concurrency: {limit: 10, maxWait: 0s}", "spec.concurrency.maxWait"),
        ("rateLimits: [{requests: 10}, {requests: 5}]", "spec.rateLimits[1].name"),
        ("rateLimits: [{requests: 10, key: Header}]", "spec.rateLimits[0].header"),
        ("rateLimits: [{requests: 10, header: x-a}]", "spec.rateLimits[0].header"),
        ("rateLimits: [{requests: 10, key: Header, header: 'x a'}]", "spec.rateLimits[0].header"),
        ("loadShedding: {latencyTarget: soon}", "spec.loadShedding.latencyTarget"),
        ("loadBalancing: {algorithm: ConsistentHash}", "spec.loadBalancing.hashOn"),
        ("loadBalancing: {hashOn: {type: SourceIP}}", "spec.loadBalancing.hashOn"),
        ("loadBalancing: {algorithm: ConsistentHash, hashOn: {type: Header}}", "spec.loadBalancing.hashOn.name"),
        (
            "loadBalancing: {algorithm: ConsistentHash, slowStart: 1s, hashOn: {type: SourceIP}}",
            "spec.loadBalancing.slowStart",
        ),
        ("outlierEjection: {baseTime: 10m}", "spec.outlierEjection.maxTime"),
        ("faults: [{percent: 10}]", "spec.faults[0]"),
        ("faults: [{percent: 10, abort: {status: 99}}]", "spec.faults[0].abort.status"),
        ("fallback: {on: [never]}", "spec.fallback.on[0]"),
        ("fallback: {headers: [{name: content-length, value: '1'}]}", "spec.fallback.headers[0].name"),
    ] {
        let compiled = policed(rest);
        let told = &said(&compiled, "p")[0];
        assert!(told.starts_with(&format!("Invalid: {field} ")), "{rest}: {told}");
        assert!(followed(&compiled, "shop/one:80", "shop/one:80").is_none(), "{rest}");
    }
}

#[test]
fn a_resiliency_of_daprs_is_translated_and_the_rest_is_named() {
    let yaml = edge(ROUTES)
        + r"
kind: Resiliency
metadata: {name: dapr, uid: d1}
scopes: [shop]
spec:
  policies:
    timeouts: {quick: 2s, odd: 1.5s}
    retries:
      some: {policy: exponential, maxInterval: 15s, maxRetries: 3, matching: {httpStatusCodes: '429,502-503', gRPCStatusCodes: '14'}}
      endless: {policy: constant, duration: 1s, maxRetries: -1}
    circuitBreakers:
      row: {maxRequests: 2, timeout: 30s, trip: consecutiveFailures >= 4}
      share: {trip: requests > 10 && totalFailures / requests > 0.5}
  targets:
    apps:
      one: {timeout: quick, retry: some, circuitBreaker: row}
      two: {timeout: odd, retry: endless, circuitBreaker: share}
      gone: {timeout: quick}
    actors: {cart: {timeout: quick}}
    components: {statestore: {outbound: {retry: some}}}
---
" + &policy("ours", "{kind: Service, name: one}", "retries: {attempts: 7}");
    let compiled = compiled(&yaml);
    let seconds = std::time::Duration::from_secs;
    let one = followed(&compiled, "shop/one:80", "shop/one:80").expect("it is followed");
    assert_eq!(one.timeouts.per_try, Some(seconds(2)));
    assert_eq!(one.retries.as_ref().expect("retries").settings.attempts, 7, "a TrafficPolicy of the Service wins");
    let breaker = one.breaker.as_ref().expect("a breaker").settings;
    assert_eq!((breaker.consecutive, breaker.open, breaker.probes), (Some(4), seconds(30), 2));
    let two = followed(&compiled, "shop/two:80", "shop/two:80").expect("what can be is followed");
    assert_eq!((two.timeouts.per_try, two.breaker.is_none()), (None, true));
    assert_eq!(two.retries.as_ref().expect("retries").settings.attempts, 10);
    let notices: Vec<_> = compiled.notices.iter().filter(|notice| notice.reason == "NotTranslated").collect();
    assert_eq!((notices.len(), notices[0].about.kind.as_deref()), (1, Some("Resiliency")));
    for named in [
        "timeouts.odd \"1.5s\"",
        "retries.endless.maxRetries -1",
        "circuitBreakers.share.trip",
        "targets.apps.gone: Service shop/gone does not exist",
        "targets.actors.cart",
        "targets.components.statestore",
        "scopes (shop)",
    ] {
        assert!(notices[0].note.contains(named), "{named} is not in {}", notices[0].note);
    }
}
