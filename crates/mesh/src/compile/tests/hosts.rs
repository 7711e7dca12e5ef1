//! Hostnames of listeners and routes.

use super::{compiled, edge, text};

const TWO_HOSTS: &str = r"
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: coracle
  listeners:
  - {name: any, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}}}
  - {name: exact, port: 80, protocol: HTTP, hostname: a.example.com, allowedRoutes: {namespaces: {from: All}}}
---
";

fn route(name: &str, section: &str, hostnames: &str) -> String {
    let section = if section.is_empty() { String::new() } else { format!(", sectionName: {section}") };
    format!(
        "kind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{name: edge{section}}}]\n  hostnames: {hostnames}\n  \
         rules: [{{}}]\n---\n"
    )
}

#[test]
fn a_route_serves_what_it_shares_with_each_listener() {
    let compiled = compiled(&(TWO_HOSTS.to_owned() + &route("r", "", "[b.example.com, c.example.org]")));
    assert_eq!(
        text::listener(&compiled, "gateway/80"),
        [
            "*",
            "a.example.com",
            "b.example.com",
            "  / -> 500 (shop/r/0)",
            "c.example.org",
            "  / -> 500 (shop/r/0)",
            "*.example.com",
        ]
    );
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs"]);
}

#[test]
fn a_listener_keeps_its_names_from_wider_ones() {
    // Attached to the listener for every host only: the names of the narrower ones are not for it.
    let compiled =
        compiled(&(TWO_HOSTS.to_owned() + &route("r", "any", "[a.example.com, b.example.com, example.com]")));
    assert_eq!(
        text::listener(&compiled, "gateway/80"),
        ["*", "a.example.com", "example.com", "  / -> 500 (shop/r/0)", "*.example.com"]
    );
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs"]);
}

#[test]
fn a_route_without_hostnames_takes_the_listeners() {
    let compiled = compiled(&(TWO_HOSTS.to_owned() + &route("r", "wild", "[]") + &route("s", "exact", "[]")));
    assert_eq!(
        text::listener(&compiled, "gateway/80"),
        ["*", "a.example.com", "  / -> 500 (shop/s/0)", "*.example.com", "  / -> 500 (shop/r/0)"]
    );
}

#[test]
fn a_route_that_shares_no_name_is_not_accepted() {
    let compiled = compiled(&(TWO_HOSTS.to_owned() + &route("r", "exact", "[b.example.com, '*.org']")));
    assert_eq!(text::route(&compiled, "r"), ["edge: !Accepted=NoMatchingListenerHostname ResolvedRefs"]);
    assert_eq!(text::listener(&compiled, "gateway/80"), ["*", "a.example.com", "*.example.com"]);
}

#[test]
fn wild_names_of_routes_narrow_and_widen() {
    let compiled = compiled(&(TWO_HOSTS.to_owned() + &route("r", "wild", "['*.b.example.com', '*.com']")));
    assert_eq!(
        text::listener(&compiled, "gateway/80"),
        ["*", "a.example.com", "*.b.example.com", "  / -> 500 (shop/r/0)", "*.example.com", "  / -> 500 (shop/r/0)"]
    );
}

#[test]
fn two_references_to_one_listener_give_a_rule_once() {
    let compiled = compiled(&edge(
        "{kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}, {name: edge, sectionName: http}], \
         rules: [{backendRefs: [{name: one, port: 80}]}]}}",
    ));
    assert_eq!(text::listener(&compiled, "gateway/8080"), ["*", "  / -> shop/one:80*1 (shop/r/0)"]);
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs", "edge: Accepted ResolvedRefs"]);
}
