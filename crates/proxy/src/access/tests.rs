use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::compile::Policy;
use super::decide::{Asked, Facts, Reason, decide};
use super::evidence::Evidence;
use super::place::Sets;
use super::policy::{self, AccessRule, Effect, Source};
use crate::identity::Identity;
use crate::route::Candidate;
use crate::snapshot::{HeaderMatch, PathMatch, ValueMatch};

fn rule(effect: Effect) -> AccessRule {
    let (from, methods, paths, headers) = Default::default();
    AccessRule { name: "r".into(), effect, from, methods, paths, headers, token: None, clients: None }
}

fn from(effect: Effect, id: &str) -> AccessRule {
    AccessRule { from: vec![Source::Id(id.into())], ..rule(effect) }
}

fn compiled(id: &str, rules: Vec<AccessRule>) -> Arc<Policy> {
    let policy = policy::Policy { rules, ..policy::Policy::default() };
    Arc::new(Policy::compile(&id.into(), &policy, &mut Sets::default()).expect("a good policy"))
}

/// One call: who, through which Gateway, method, path.
#[derive(Clone, Copy)]
struct Call<'a>(Option<&'a str>, Option<&'a str>, &'a str, &'a str);

fn judged(policies: &[Arc<Policy>], Call(who, through, method, target): Call<'_>) -> Option<(Reason, String)> {
    let identity = who.map(|id| Identity { id: id.into(), workload: "w".into() });
    let through: Vec<Arc<str>> = through.map(Into::into).into_iter().collect();
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let uri: Uri = target.parse().expect("a target");
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-tier"), HeaderValue::from_static("gold"))]);
    let request = Some(Asked::new(Candidate::new(&method, &uri, &headers)));
    let facts = Facts { identity: identity.as_ref(), through: &through, request };
    let shown: Vec<_> = policies.iter().map(|policy| (&**policy, Evidence::default())).collect();
    decide(&shown, &facts).err().map(|verdict| (verdict.reason, verdict.policy.to_string()))
}

fn reason(policies: &[Arc<Policy>], call: Call<'_>) -> Option<Reason> {
    judged(policies, call).map(|(reason, _)| reason)
}

const A: &str = "spiffe://cluster.local/ns/shop/sa/a";
const B: &str = "spiffe://cluster.local/ns/shop/sa/b";
const ELSEWHERE: &str = "spiffe://cluster.local/ns/other/sa/a";

#[test]
fn without_policies_all_pass() {
    assert_eq!(reason(&[], Call(None, None, "GET", "/")), None);
}

#[test]
fn a_policy_without_rules_lets_nothing_in() {
    let nothing = [compiled("p", Vec::new())];
    for call in
        [Call(None, None, "GET", "/"), Call(Some(A), None, "GET", "/"), Call(None, Some("shop/edge"), "GET", "/")]
    {
        assert_eq!(reason(&nothing, call), Some(Reason::NotAllowed));
    }
}

#[test]
fn policies_of_a_place_add_up_and_deny_wins() {
    let default_deny = compiled("none", Vec::new());
    let allow_a = compiled("allow", vec![from(Effect::Allow, A)]);
    let deny_a = compiled("deny", vec![from(Effect::Deny, A)]);
    for (policies, who, expected) in [
        (vec![&default_deny, &allow_a], A, None),
        (vec![&default_deny, &allow_a], B, Some((Reason::NotAllowed, "allow".to_owned()))),
        (vec![&default_deny], A, Some((Reason::NotAllowed, "none".to_owned()))),
        (vec![&deny_a], A, Some((Reason::Denied, "deny".to_owned()))),
        // A policy that only denies refuses nobody else.
        (vec![&deny_a], B, None),
        (vec![&allow_a, &deny_a], A, Some((Reason::Denied, "deny".to_owned()))),
        (vec![&deny_a, &default_deny], B, Some((Reason::NotAllowed, "none".to_owned()))),
    ] {
        let policies: Vec<_> = policies.into_iter().cloned().collect();
        assert_eq!(judged(&policies, Call(Some(who), None, "GET", "/")), expected, "{who}");
    }
}

#[test]
fn callers_are_known_by_their_ids_and_patterns() {
    for (pattern, id, expected) in [
        (A, Some(A), true),
        (A, Some(B), false),
        (A, None, false),
        ("spiffe://cluster.local/ns/shop/**", Some(B), true),
        ("spiffe://cluster.local/ns/shop/**", Some(ELSEWHERE), false),
        ("spiffe://cluster.local/ns/*/sa/a", Some(ELSEWHERE), true),
        ("spiffe://cluster.local/ns/*/sa/a", Some(B), false),
        ("spiffe://cluster.local/ns/*", Some(A), false),
        ("spiffe://cluster.local/ns/sho?/sa/a", Some(A), false),
        ("spiffe://cluster.local/ns/shop/sa/a", Some("spiffe://cluster.local/ns/shop/sa/ab"), false),
        ("spiffe://cluster.loca./ns/shop/sa/*", Some(A), false),
        ("spiffe://**", Some(A), true),
        ("spiffe://cluster.local/ns/**/a", Some(A), true),
        ("spiffe://cluster.local/ns/**/b", Some(A), false),
        // What stands before and what stands after are not the same bytes.
        ("spiffe://cluster.local/ns/shop/sa/a*a", Some(A), false),
        ("spiffe://cluster.local/ns/shop/sa/a*", Some(A), true),
        ("spiffe://*/ns/*/sa/*", Some(A), true),
        ("spiffe://*/ns/*/sb/*", Some(A), false),
        ("spiffe://**", None, false),
    ] {
        let policies = [compiled("p", vec![from(Effect::Allow, pattern)])];
        assert_eq!(reason(&policies, Call(id, None, "GET", "/")).is_none(), expected, "{pattern} {id:?}");
    }
}

#[test]
fn behind_a_gateway_the_gateway_calls() {
    let edge = || Source::Gateway("shop/edge".into());
    let allow_edge = [compiled("p", vec![AccessRule { from: vec![edge()], ..rule(Effect::Allow) }])];
    let allow_a = [compiled("p", vec![from(Effect::Allow, A)])];
    let deny_a = [compiled("p", vec![from(Effect::Deny, A)])];
    for (policies, call, expected) in [
        (&allow_edge, Call(None, Some("shop/edge"), "GET", "/"), true),
        (&allow_edge, Call(None, Some("shop/other"), "GET", "/"), false),
        (&allow_edge, Call(Some(A), None, "GET", "/"), false),
        // A workload that goes around by a Gateway is the Gateway there, but is denied as itself.
        (&allow_a, Call(Some(A), Some("shop/edge"), "GET", "/"), false),
        (&deny_a, Call(Some(A), Some("shop/edge"), "GET", "/"), false),
        (&deny_a, Call(Some(B), Some("shop/edge"), "GET", "/"), true),
    ] {
        assert_eq!(reason(policies, call).is_none(), expected);
    }
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let narrow = AccessRule {
        methods: vec![Method::GET, Method::HEAD],
        paths: vec![PathMatch::Prefix("/orders".into()), PathMatch::Exact("/health".into())],
        headers: vec![HeaderMatch { name: HeaderName::from_static("x-tier"), value: ValueMatch::Exact("gold".into()) }],
        ..from(Effect::Allow, A)
    };
    let policies = [compiled("p", vec![narrow.clone()])];
    for (call, expected) in [
        (Call(Some(A), None, "GET", "/orders/1?x=y"), true),
        (Call(Some(A), None, "HEAD", "/health"), true),
        (Call(Some(A), None, "POST", "/orders/1"), false),
        (Call(Some(A), None, "GET", "/ordersx"), false),
        (Call(Some(A), None, "GET", "/health/x"), false),
        (Call(Some(B), None, "GET", "/orders/1"), false),
    ] {
        assert_eq!(reason(&policies, call).is_none(), expected, "{} {}", call.2, call.3);
    }
    let silver = HeaderMatch { name: HeaderName::from_static("x-tier"), value: ValueMatch::Exact("silver".into()) };
    let other = [compiled("p", vec![AccessRule { headers: vec![silver], ..narrow }])];
    assert!(reason(&other, Call(Some(A), None, "GET", "/orders")).is_some());
}

#[test]
fn no_spelling_of_a_path_gets_around_a_rule() {
    let at = |effect, path: PathMatch| AccessRule { paths: vec![path], ..rule(effect) };
    let deny = [compiled("p", vec![at(Effect::Deny, PathMatch::Prefix("/admin".into()))])];
    let allow = [compiled("p", vec![at(Effect::Allow, PathMatch::Prefix("/public".into()))])];
    for spelling in [
        "/admin",
        "/admin/x",
        "//admin",
        "/./admin",
        "/public/../admin",
        "/public/..%2fadmin",
        "/public/%2e%2e/admin",
        "/%61dmin",
        "/public/..%5cadmin",
    ] {
        assert_eq!(reason(&deny, Call(None, None, "GET", spelling)), Some(Reason::Denied), "{spelling}");
        assert_eq!(reason(&allow, Call(None, None, "GET", spelling)), Some(Reason::NotAllowed), "{spelling}");
    }
    assert_eq!(reason(&allow, Call(None, None, "GET", "/public/a%20b")), None);
    assert_eq!(reason(&deny, Call(None, None, "GET", "/administrators")), None);
}

#[test]
fn bytes_that_are_no_http_obey_identities_alone() {
    let judge = |policy: Arc<Policy>, id: &str| {
        let identity = Identity { id: id.into(), workload: "w".into() };
        decide(&[(&*policy, Evidence::default())], &Facts { identity: Some(&identity), through: &[], request: None })
            .is_ok()
    };
    let narrow = |effect| AccessRule { methods: vec![Method::GET], ..from(effect, A) };
    for (rule, id, expected) in [
        (from(Effect::Allow, A), A, true),
        (from(Effect::Allow, A), B, false),
        // There is no method to be seen: what is allowed cannot be told, what is denied is taken to be so.
        (narrow(Effect::Allow), A, false),
        (narrow(Effect::Deny), A, false),
        (narrow(Effect::Deny), B, true),
    ] {
        assert_eq!(judge(compiled("p", vec![rule.clone()]), id), expected, "{rule:?} {id}");
    }
}

#[test]
fn a_policy_that_cannot_be_followed_lets_nothing_in() {
    let broken = policy::Policy {
        broken: Some("a typing error".into()),
        rules: vec![rule(Effect::Allow)],
        ..policy::Policy::default()
    };
    let broken = Arc::new(Policy::compile(&"p".into(), &broken, &mut Sets::default()).expect("it compiles"));
    let all = compiled("all", vec![rule(Effect::Allow)]);
    assert_eq!(reason(&[all, broken], Call(Some(A), None, "GET", "/")), Some(Reason::Broken));
}

#[test]
fn an_expression_that_cannot_be_read_is_named() {
    let rules = vec![AccessRule { paths: vec![PathMatch::Regex("(".into())], ..rule(Effect::Allow) }];
    let policy = policy::Policy { rules, ..policy::Policy::default() };
    let error = Policy::compile(&"p".into(), &policy, &mut Sets::default()).err().expect("it is no expression");
    assert!(error.contains("rule r") && error.contains('('), "{error}");
}
