//! Which match wins.

use super::{compiled, edge, text};

/// The rules for every host, in order, each as its match alone.
fn order(yaml: &str) -> Vec<String> {
    let lines = text::listener(&compiled(&edge(yaml)), "gateway/8080");
    let rules = lines.iter().filter(|line| line.starts_with("  "));
    rules.map(|line| line.trim().split(" -> ").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn paths_then_methods_then_headers_then_query() {
    let ordered = order(
        r"
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches:
    - {path: {type: PathPrefix, value: /}}
    - {path: {type: PathPrefix, value: /a}}
    - {path: {type: PathPrefix, value: /a/bc/}}
    - {path: {type: PathPrefix, value: /a/b}}
    - {path: {type: RegularExpression, value: '/z+'}}
    - {path: {type: RegularExpression, value: '/long/z+'}}
    - {path: {type: Exact, value: /a}}
    - {path: {type: Exact, value: /a/long}}
    - {path: {type: PathPrefix, value: /a}, queryParams: [{name: q, value: '1'}]}
    - {path: {type: PathPrefix, value: /a}, queryParams: [{name: q, value: '1'}, {name: p, value: '1'}]}
    - {path: {type: PathPrefix, value: /a}, headers: [{name: x, value: '1'}]}
    - {path: {type: PathPrefix, value: /a}, headers: [{name: x, value: '1'}, {name: w, value: '1'}]}
    - {path: {type: PathPrefix, value: /a}, method: GET}
    - {path: {type: PathPrefix, value: /a}, method: GET, headers: [{name: x, value: '1'}]}
    backendRefs: [{name: one, port: 80}]
",
    );
    assert_eq!(
        ordered,
        [
            "=/a/long",
            "=/a",
            "~/long/z+",
            "~/z+",
            "/a/bc/",
            "/a/b",
            "GET /a [x=1]",
            "GET /a",
            "/a [x=1] [w=1]",
            "/a [x=1]",
            "/a ?q=1 ?p=1",
            "/a ?q=1",
            "/a",
            "/",
        ]
    );
}

#[test]
fn ties_go_to_the_oldest_route_then_to_the_first_name_then_to_the_first_rule() {
    let route = |name: &str, created: &str| {
        format!(
            "kind: HTTPRoute\nmetadata: {{name: {name}, creationTimestamp: '{created}'}}\nspec:\n  parentRefs: [{{name: edge}}]\n  \
             rules: [{{name: first, backendRefs: [{{name: one, port: 80}}]}}, {{name: second, backendRefs: [{{name: two, port: 80}}]}}]\n---\n"
        )
    };
    let yaml =
        route("b", "2026-01-02T00:00:00Z") + &route("a", "2026-01-02T00:00:00Z") + &route("c", "2026-01-01T00:00:00Z");
    let lines = text::listener(&compiled(&edge(&yaml)), "gateway/8080");
    let ids: Vec<&str> = lines.iter().filter_map(|line| line.split('(').nth(1)).collect();
    assert_eq!(
        ids,
        ["shop/c/first)", "shop/c/second)", "shop/a/first)", "shop/a/second)", "shop/b/first)", "shop/b/second)"]
    );
}

#[test]
fn the_length_of_a_prefix_does_not_count_its_last_slash() {
    let rules = |first: &str, second: &str| {
        order(&format!(
            "kind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: edge}}]\n  rules:\n  - matches: \
             [{{path: {{type: PathPrefix, value: {first}}}}}, {{path: {{type: PathPrefix, value: {second}}}}}]\n    \
             backendRefs: [{{name: one, port: 80}}]\n"
        ))
    };
    assert_eq!(rules("/ab", "/ab/"), ["/ab", "/ab/"], "equal, so the first in the list wins");
    assert_eq!(rules("/a/", "/ab"), ["/ab", "/a/"]);
}

#[test]
fn a_rule_without_matches_is_every_request() {
    assert_eq!(
        order(
            "{kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: one, port: 80}]}]}}"
        ),
        ["/"]
    );
    let lines = text::listener(
        &compiled(&edge("{kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}]}}")),
        "gateway/8080",
    );
    assert_eq!(lines, ["*", "  / -> 500 (shop/r/0)"], "no rules at all: everything, to no backend");
}

#[test]
fn only_the_first_of_several_matches_on_one_header_or_parameter_counts() {
    let ordered = order(
        r"
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches:
    - headers: [{name: X-One, value: a}, {name: x-one, value: b}, {name: w, value: 'c.*', type: RegularExpression}]
      queryParams: [{name: q, value: a}, {name: q, value: b}, {name: Q, value: 'c+', type: RegularExpression}]
    backendRefs: [{name: one, port: 80}]
",
    );
    assert_eq!(ordered, ["/ [x-one=a] [w~c.*] ?q=a ?Q~c+"]);
}
