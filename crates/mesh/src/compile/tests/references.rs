//! Backends, grants, filters and times: what a rule does, and what is said where it cannot.

use super::{compiled, edge, text};

/// A route `r` with these rules, attached to `edge`.
fn with_rules(rules: &str) -> super::Compiled {
    let indented = rules.trim().lines().map(|line| format!("  {line}\n")).collect::<String>();
    compiled(&edge(&format!(
        "kind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: edge}}]\n  rules:\n{indented}"
    )))
}

fn rules(compiled: &super::Compiled) -> Vec<String> {
    let lines = text::listener(compiled, "gateway/8080");
    lines.iter().filter(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn weights_default_to_one_and_zero_takes_no_share() {
    let compiled = with_rules(
        "- backendRefs: [{name: one, port: 80, weight: 90}, {name: two, port: 80}, {name: two, port: 80, weight: 0}]\n\
         - {matches: [{path: {value: /none}}], backendRefs: [{name: one, port: 80, weight: 0}]}",
    );
    assert_eq!(
        rules(&compiled),
        ["/none -> 500 (shop/r/1)", "/ -> shop/one:80*90 + shop/two:80*1 + shop/two:80*0 (shop/r/0)"]
    );
    let endpoints = &compiled.snapshot.backends["shop/one:80"].endpoints;
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>(), ["127.0.0.1:4001"]);
}

#[test]
fn references_that_cannot_be_followed_take_their_share_with_500() {
    for (backend, reason, said) in [
        ("{name: three, port: 80}", "BackendNotFound", "Service shop/three does not exist"),
        ("{name: one, port: 81}", "BackendNotFound", "Service shop/one has no port 81 (it has 80)"),
        ("{name: one}", "BackendNotFound", "must give its port"),
        ("{name: one, kind: Pod, port: 80}", "InvalidKind", "of kind Pod"),
        ("{name: one, group: example.com, kind: Thing}", "InvalidKind", "of kind Thing.example.com"),
        ("{name: one, namespace: other, port: 80}", "RefNotPermitted", "no ReferenceGrant in other"),
    ] {
        let compiled = with_rules(&format!("- backendRefs: [{backend}, {{name: two, port: 80}}]"));
        assert_eq!(rules(&compiled), ["/ -> unresolved*1 + shop/two:80*1 (shop/r/0)"], "{backend}");
        assert_eq!(compiled.snapshot.backends["unresolved"].when_empty, 500);
        assert_eq!(text::route(&compiled, "r"), [format!("edge: Accepted !ResolvedRefs={reason}")], "{backend}");
        let message = text::route_message(&compiled, "r", "ResolvedRefs");
        assert!(message.contains(said), "{backend}: {message}");
    }
}

#[test]
fn all_that_is_wrong_with_references_is_said_once() {
    let rule = |name: &str| format!("- backendRefs: [{{name: {name}, port: 80}}]\n");
    let compiled = with_rules(&[rule("three"), rule("one"), rule("four"), rule("three")].concat());
    let expected = "Service shop/three does not exist; Service shop/four does not exist";
    assert_eq!(text::route_message(&compiled, "r", "ResolvedRefs"), expected);
    let many: String = (0..20).map(|n| rule(&format!("none-{n}"))).collect();
    let message = text::route_message(&with_rules(&many), "r", "ResolvedRefs");
    assert!(message.contains("shop/none-15 does") && message.ends_with("; and 4 more"), "{message}");
}

#[test]
fn what_carries_no_plain_http_is_no_backend() {
    for (port, said) in [
        ("{port: 80, protocol: UDP}", "is UDP"),
        ("{port: 80, appProtocol: https}", "speaks https"),
        ("{port: 80, name: tls-x}", "speaks tls-x"),
    ] {
        let compiled = compiled(&edge(&format!(
            "{{kind: Service, metadata: {{name: odd}}, spec: {{clusterIP: 127.96.0.9, ports: [{port}]}}}}\n---\n\
             {{kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: odd, port: 80}}]}}]}}}}"
        )));
        assert_eq!(text::route(&compiled, "r"), ["edge: Accepted !ResolvedRefs=UnsupportedProtocol"], "{port}");
        assert!(text::route_message(&compiled, "r", "ResolvedRefs").contains(said), "{port}");
    }
}

#[test]
fn a_grant_opens_another_namespace() {
    let service = "{kind: Service, metadata: {name: far, namespace: other}, spec: {clusterIP: 127.96.0.8, ports: [{port: 80}]}}\n---\n";
    let route = "{kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: far, namespace: other, port: 80}]}]}}\n---\n";
    let grant = |namespace: &str, from: &str, to: &str| {
        format!(
            "{{kind: ReferenceGrant, metadata: {{name: g, namespace: {namespace}}}, spec: {{from: [{from}], to: [{to}]}}}}"
        )
    };
    let from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}";
    let to = "{group: '', kind: Service}";
    for (grant, open) in [
        (grant("other", from, to), true),
        (grant("other", from, "{group: '', kind: Service, name: far}"), true),
        (grant("other", from, "{group: '', kind: Service, name: near}"), false),
        (grant("other", from, "{group: '', kind: Secret}"), false),
        (grant("other", "{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: shop}", to), false),
        (grant("other", "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}", to), false),
        (grant("shop", from, to), false),
    ] {
        let compiled = compiled(&edge(&format!("{service}{route}{grant}")));
        let expected = if open { "other/far:80*1" } else { "unresolved*1" };
        assert_eq!(rules(&compiled), [format!("/ -> {expected} (shop/r/0)")], "{grant}");
    }
}

#[test]
fn filters_are_carried_over_in_order() {
    let compiled = with_rules(
        r"
- filters:
  - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: a}], add: [{name: b, value: c}], remove: [D]}}
  - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: e, value: f}]}}
  matches: [{path: {value: /old}}]
  timeouts: {request: 1m30s, backendRequest: 500ms}
  backendRefs:
  - name: one
    port: 80
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: g, value: h}]}}]
- matches: [{path: {value: /moved}}]
  timeouts: {request: 0s}
  filters:
  - {type: RequestRedirect, requestRedirect: {scheme: https, hostname: x.example, port: 8443, statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: /z}}}
- matches: [{path: {value: /m}}]
  filters: [{type: RequestRedirect, requestRedirect: {}}]
",
    );
    assert_eq!(
        rules(&compiled),
        [
            "/moved {redirect 308 https host=x.example port=8443 path=/z} -> 500 (shop/r/1)",
            "/old {request x-a=a +b=c -d} {rewrite host=inner.example prefix=/new} {response e=f} -> \
             shop/one:80*1 {request +g=h} within 90s each 500ms (shop/r/0)",
            "/m {redirect 302} -> 500 (shop/r/2)",
        ]
    );
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs"]);
}

#[test]
fn mirrors_and_cors_are_carried_over() {
    let mirror = |rest: &str| {
        let compiled = with_rules(&format!(
            "- filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: two, port: 80}}{rest}}}}}]\n  backendRefs: [{{name: one, port: 80}}]"
        ));
        assert_eq!(text::route(&compiled, "r"), ["edge: Accepted ResolvedRefs"]);
        rules(&compiled)
    };
    for (rest, share) in [
        ("", "1/1"),
        (", percent: 30", "30/100"),
        (", fraction: {numerator: 3, denominator: 1000}", "3/1000"),
        (", fraction: {numerator: 3}", "3/100"),
    ] {
        assert_eq!(mirror(rest), [format!("/ {{mirror shop/two:80 {share}}} -> shop/one:80*1 (shop/r/0)")]);
    }
    let compiled = with_rules(
        "- filters: [{type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}]\n  backendRefs: [{name: one, port: 80}]",
    );
    assert_eq!(text::route(&compiled, "r"), ["edge: Accepted !ResolvedRefs=BackendNotFound"]);
    assert_eq!(rules(&compiled), ["/ {mirror unresolved 1/1} -> shop/one:80*1 (shop/r/0)"]);

    let compiled = with_rules(
        "- filters: [{type: CORS, cors: {allowOrigins: ['https://*.a.example'], allowCredentials: true, allowMethods: [PUT], allowHeaders: [x-a, x-b], exposeHeaders: ['*'], maxAge: 60}}]\n  backendRefs: [{name: one, port: 80}]\n\
         - {matches: [{path: {value: /b}}], filters: [{type: CORS, cors: {allowOrigins: ['*']}}]}",
    );
    assert_eq!(
        rules(&compiled),
        [
            "/b {cors origins=* 5s} -> 500 (shop/r/1)",
            "/ {cors origins=https://*.a.example credentials methods=PUT headers=x-a+x-b expose=* 60s} -> shop/one:80*1 (shop/r/0)"
        ]
    );
}

#[test]
fn what_cannot_be_followed_is_named_and_never_skipped() {
    let good = "- {backendRefs: [{name: one, port: 80}]}\n";
    for (rule, reason, said) in [
        ("filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]", "UnsupportedValue", "one filter of type CORS"),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}, percent: 101}}]",
            "UnsupportedValue",
            "101 of 100",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}, percent: 1, fraction: {numerator: 1}}}]",
            "UnsupportedValue",
            "not both",
        ),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: Own, name: x}}]",
            "UnsupportedValue",
            "Own x",
        ),
        ("filters: [{type: RequestHeaderModifier}]", "UnsupportedValue", "needs the field requestHeaderModifier"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]",
            "IncompatibleFilters",
            "cannot be combined",
        ),
        ("timeouts: {request: soon}", "UnsupportedValue", "timeouts.request \"soon\""),
        ("timeouts: {request: 1s, backendRequest: 2s}", "UnsupportedValue", "cannot be longer"),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a b', value: c}]}}]",
            "UnsupportedValue",
            "not the name of a header",
        ),
        ("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]", "UnsupportedValue", "200"),
        (
            "backendRefs: [{name: one, port: 80, filters: [{type: RequestRedirect, requestRedirect: {}}]}]",
            "UnsupportedValue",
            "a backend may only have",
        ),
    ] {
        let rule = format!("- matches: [{{path: {{value: /bad}}}}]\n  {rule}\n");
        let alone = with_rules(&rule);
        assert_eq!(text::route(&alone, "r"), [format!("edge: !Accepted={reason} ResolvedRefs")], "{rule}");
        assert!(text::route_message(&alone, "r", "Accepted").contains(said), "{rule}");
        assert!(rules(&alone).is_empty(), "{rule}");

        let beside = with_rules(&(rule.clone() + good));
        let said_of_both = "edge: Accepted ResolvedRefs PartiallyInvalid=UnsupportedValue";
        assert_eq!(text::route(&beside, "r"), [said_of_both], "{rule}");
        assert_eq!(rules(&beside), ["/bad -> 500 (shop/r/0)", "/ -> shop/one:80*1 (shop/r/1)"], "{rule}");
    }
}

#[test]
fn a_rule_whose_match_cannot_be_read_is_dropped() {
    let good = "- {backendRefs: [{name: one, port: 80}]}\n";
    for (matches, said) in [
        ("{path: {value: a}}", "must begin with '/'"),
        ("{path: {value: /a//b}}", "must not contain"),
        ("{path: {value: /a/..}}", "dot segment"),
        ("{headers: [{name: 'a b', value: c}]}", "not the name of a header"),
    ] {
        let compiled =
            with_rules(&format!("- {{matches: [{matches}], backendRefs: [{{name: two, port: 80}}]}}\n{good}"));
        assert_eq!(rules(&compiled), ["/ -> shop/one:80*1 (shop/r/1)"], "{matches}");
        let message = text::route_message(&compiled, "r", "PartiallyInvalid");
        assert!(message.starts_with("Dropped Rule") && message.contains(said), "{message}");
    }
}

#[test]
fn replacing_a_prefix_needs_one() {
    let rewrite =
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]";
    for (matches, fits) in
        [("{path: {value: /a}}", true), ("{path: {type: Exact, value: /a}}", false), ("{method: GET}", true)]
    {
        let compiled =
            with_rules(&format!("- matches: [{matches}]\n  {rewrite}\n  backendRefs: [{{name: one, port: 80}}]"));
        let expected = if fits { "Accepted" } else { "!Accepted=UnsupportedValue" };
        assert_eq!(text::route(&compiled, "r"), [format!("edge: {expected} ResolvedRefs")], "{matches}");
    }
}

#[test]
fn what_the_proxy_refused_is_left_out_until_the_route_changes() {
    let yaml = edge(
        "kind: HTTPRoute\nmetadata: {name: r, generation: 3}\nspec:\n  parentRefs: [{name: edge}]\n  rules:\n  \
         - {name: bad, matches: [{path: {type: RegularExpression, value: '('}}]}\n  - {backendRefs: [{name: one, port: 80}]}\n",
    );
    let mut world = super::world(&yaml);
    let compile = |world: &super::World| super::compile(world, &super::settings());
    assert_eq!(rules(&compile(&world)).len(), 2);
    assert_eq!(compile(&world).generation("shop/r/bad"), Some(3));
    assert_eq!(compile(&world).generation("shop/one:80"), None, "a Service's own rule is no route's");

    assert!(world.rejected.rule("shop/r/bad", 3, "unclosed group".to_owned()));
    assert!(!world.rejected.rule("shop/r/bad", 3, "unclosed group".to_owned()), "known already");
    let without = compile(&world);
    assert_eq!(rules(&without), ["/ -> shop/one:80*1 (shop/r/1)"]);
    assert!(text::route_message(&without, "r", "PartiallyInvalid").contains("rule bad: unclosed group"));

    world.rejected = super::super::super::world::Rejected::default();
    world.rejected.rule("shop/r/bad", 2, "unclosed group".to_owned());
    assert_eq!(rules(&compile(&world)).len(), 2, "an older generation was refused, this one was not");
}
