//! What the objects say, by subject, namespace, resource, name and path.

use super::*;
use crate::rbac::{Decision, RoleRef, Rule, escalation};

fn cluster() -> Index {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    index(&[
        ("clusterroles", "", role("reader", json!([rule(&[""], &["pods", "pods/log"], &["get", "list", "watch"])]))),
        ("clusterroles", "", role("scaler", json!([rule(&["*"], &["*/scale"], &["*"])]))),
        (
            "clusterroles",
            "",
            role("urls", json!([{ "nonResourceURLs": ["/metrics", "/coracle/*"], "verbs": ["get"] }])),
        ),
        (
            "clusterroles",
            "",
            role("root", json!([rule(&["*"], &["*"], &["*"]), { "nonResourceURLs": ["*"], "verbs": ["*"] }])),
        ),
        (
            "roles",
            "shop",
            role(
                "one",
                json!([{ "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get", "update"] }]),
            ),
        ),
        ("roles", "shop", role("apps", json!([rule(&["apps"], &["deployments"], &["get", "create"])]))),
        (
            "clusterrolebindings",
            "",
            binding("readers", "ClusterRole", "reader", json!([{ "kind": "Group", "name": "readers" }])),
        ),
        (
            "clusterrolebindings",
            "",
            binding("u", "ClusterRole", "urls", json!([{ "kind": "User", "name": "watcher" }])),
        ),
        (
            "clusterrolebindings",
            "",
            binding(
                "all-accounts",
                "ClusterRole",
                "scaler",
                json!([{ "kind": "Group", "name": "system:serviceaccounts:jobs" }]),
            ),
        ),
        ("clusterrolebindings", "", binding("r", "ClusterRole", "root", json!([{ "kind": "User", "name": "root" }]))),
        (
            "rolebindings",
            "shop",
            binding(
                "one",
                "Role",
                "one",
                json!([{ "kind": "User", "name": "bob" }, { "kind": "ServiceAccount", "name": "robot" }]),
            ),
        ),
        (
            "rolebindings",
            "shop",
            binding(
                "apps",
                "Role",
                "apps",
                json!([{ "kind": "ServiceAccount", "namespace": "ci", "name": "deployer" }]),
            ),
        ),
        (
            "rolebindings",
            "shop",
            binding("read", "ClusterRole", "reader", json!([{ "kind": "User", "name": "carol" }])),
        ),
        ("rolebindings", "bank", binding("apps", "Role", "apps", json!([{ "kind": "User", "name": "dave" }]))),
        ("rolebindings", "bank", binding("one", "ClusterRole", "urls", json!([{ "kind": "User", "name": "carol" }]))),
    ])
}

#[test]
fn who_may_do_what() {
    let index = cluster();
    for (user, question, expected) in [
        // Groups, everywhere.
        ("ann in readers", "list core/pods - -", true),
        ("ann in readers", "list core/pods shop -", true),
        ("ann in readers", "get core/pods/log shop web", true),
        ("ann in readers", "get core/pods/exec shop web", false),
        ("ann in readers", "create core/pods shop -", false),
        ("ann in readers", "list apps/pods shop -", false),
        ("ann", "list core/pods shop -", false),
        ("readers", "list core/pods shop -", false),
        // A ClusterRole by a RoleBinding holds in the namespace alone.
        ("carol", "list core/pods shop -", true),
        ("carol", "list core/pods - -", false),
        ("carol", "list core/pods bank -", false),
        // Names.
        ("bob", "get core/configmaps shop a", true),
        ("bob", "update core/configmaps shop a", true),
        ("bob", "get core/configmaps shop b", false),
        ("bob", "list core/configmaps shop -", false),
        ("bob", "list core/configmaps shop a", false),
        ("bob", "get core/configmaps bank a", false),
        // Service accounts: of the binding's namespace where none is named.
        ("sa:shop:robot", "get core/configmaps shop a", true),
        ("sa:bank:robot", "get core/configmaps shop a", false),
        ("sa:ci:deployer", "create apps/deployments shop -", true),
        ("sa:ci:deployer", "create apps/deployments ci -", false),
        ("sa:ci:deployer", "delete apps/deployments shop web", false),
        ("sa:shop:deployer", "create apps/deployments shop -", false),
        // Subresources of any resource, but not the resource itself.
        ("sa:jobs:x", "patch apps/deployments/scale shop web", true),
        ("sa:jobs:x", "patch apps/deployments shop web", false),
        ("sa:jobs:x", "patch apps/deployments/status shop web", false),
        ("sa:jobsx:x", "patch apps/deployments/scale shop web", false),
        // Paths: never by a RoleBinding.
        ("watcher", "get /metrics", true),
        ("watcher", "get /metrics/x", false),
        ("watcher", "get /coracle/v1/edges", true),
        ("watcher", "get /coracle", false),
        ("watcher", "post /metrics", false),
        ("carol", "get /metrics", false),
        // Everything.
        ("root", "impersonate core/users - ann", true),
        ("root", "get /nothing", true),
        ("eve in system:masters", "delete core/nodes - x", true),
        ("system:masters", "delete core/nodes - x", false),
        // A Role of another namespace is not there.
        ("dave", "get apps/deployments bank web", false),
    ] {
        assert_eq!(may(&index, user, question), expected, "{user}: {question}");
    }
}

#[test]
fn reasons_and_refusals_say_why() {
    let index = cluster();
    let ask = |user: &str, question: &str| {
        let (name, groups) = who(user);
        index.decide(Subject { name: &name, groups: &groups }, &asked(question))
    };
    for (user, question, reason) in [
        (
            "ann in readers",
            "list core/pods - -",
            r#"RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "readers""#,
        ),
        (
            "carol",
            "list core/pods shop -",
            r#"RBAC: allowed by RoleBinding "read/shop" of ClusterRole "reader" to User "carol""#,
        ),
        (
            "sa:ci:deployer",
            "create apps/deployments shop -",
            r#"RBAC: allowed by RoleBinding "apps/shop" of Role "apps" to ServiceAccount "deployer/ci""#,
        ),
    ] {
        assert_eq!(ask(user, question), Decision::Allowed(reason.into()));
    }
    let missing = r#"role.rbac.authorization.k8s.io "apps" not found"#;
    assert_eq!(ask("dave", "get apps/deployments bank web"), Decision::Denied(vec![missing.into()]));
    for (question, text) in [
        (
            "list apps/deployments y -",
            r#"User "x" cannot list resource "deployments" in API group "apps" in the namespace "y""#,
        ),
        ("get core/pods/log y web", r#"User "x" cannot get resource "pods/log" in API group "" in the namespace "y""#),
        ("create core/nodes - -", r#"User "x" cannot create resource "nodes" in API group "" at the cluster scope"#),
        ("get /metrics", r#"User "x" cannot get path "/metrics""#),
    ] {
        assert_eq!(asked(question).refusal("x"), text);
    }
}

#[test]
fn changes_take_effect() {
    let mut index = cluster();
    assert!(may(&index, "bob", "get core/configmaps shop a"));
    index.set(
        "rolebindings",
        "shop",
        "one",
        Some(&binding("one", "Role", "one", json!([{ "kind": "User", "name": "zoe" }]))),
    );
    assert!(!may(&index, "bob", "get core/configmaps shop a"), "no longer a subject");
    assert!(may(&index, "zoe", "get core/configmaps shop a"));
    index.set("roles", "shop", "one", None);
    assert!(!may(&index, "zoe", "get core/configmaps shop a"), "the role is gone");
    index.set("clusterrolebindings", "", "readers", None);
    assert!(!may(&index, "ann in readers", "list core/pods - -"), "the binding is gone");
    index.set("clusterroles", "", "root", Some(&role("root", json!("what is this"))));
    assert!(!may(&index, "root", "get core/pods a b"), "what can't be read allows nothing");
}

fn aggregating(name: &str, label: &str, own: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { own: "true" } }, "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }],
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] } })
}

#[test]
fn roles_are_put_together_of_others() {
    let part = |name: &str, label: &str, resource: &str| {
        json!({ "metadata": { "name": name, "labels": { label: "true" } },
            "rules": [{ "apiGroups": [""], "resources": [resource], "verbs": ["get"] }] })
    };
    let mut index = index(&[
        ("clusterroles", "", aggregating("all", "to-all", "top")),
        ("clusterroles", "", aggregating("some", "to-some", "to-all")),
        ("clusterrolebindings", "", binding("b", "ClusterRole", "all", json!([{ "kind": "User", "name": "ann" }]))),
    ]);
    let get = |index: &Index, resource: &str| may(index, "ann", &format!("get core/{resource} a b"));
    assert!(!get(&index, "secrets"), "the rules of an aggregated role are those of others");
    index.set("clusterroles", "", "p", Some(&part("p", "to-some", "pods")));
    assert!(get(&index, "pods"), "through two roles");
    index.set("clusterroles", "", "q", Some(&part("q", "to-all", "nodes")));
    assert!(get(&index, "nodes") && get(&index, "pods"));
    let shown: Vec<(&str, usize)> = index.aggregated().map(|(name, rules)| (name, rules.len())).collect();
    assert!(shown.contains(&("all", 2)) && shown.contains(&("some", 1)), "{shown:?}");
    index.set("clusterroles", "", "p", Some(&part("p", "elsewhere", "pods")));
    assert!(!get(&index, "pods"), "no longer selected");
    index.set("clusterroles", "", "q", None);
    assert!(!get(&index, "nodes"), "gone");
    // In a circle, nothing hangs.
    index.set("clusterroles", "", "some", Some(&aggregating("some", "top", "to-all")));
    assert!(!get(&index, "secrets"));
    assert_eq!(index.rules_of_role("", &RoleRef { cluster: true, name: "all".into() }), Some(&Vec::new().into()));
}

#[test]
fn nobody_gives_away_what_they_lack() {
    let index = cluster();
    let confirm = |user: &str, namespace: &str, rules: Value| {
        let (name, groups) = who(user);
        let rules: Vec<Rule> = rules.as_array().expect("rules").iter().map(Rule::read).collect();
        let subject = Subject { name: &name, groups: &groups };
        escalation::confirm(&index.held_by(subject, namespace), subject, &rules)
    };
    let pods = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] }]);
    assert_eq!(confirm("ann in readers", "", pods.clone()), Ok(()));
    assert_eq!(confirm("carol", "shop", pods.clone()), Ok(()));
    assert_eq!(
        confirm("carol", "bank", pods),
        Err("user \"carol\" (groups=[]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}"
            .into())
    );
    let more = json!([{ "apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "delete"] }]);
    let refused = confirm("ann in readers,x", "", more).expect_err("secrets");
    let expected = "user \"ann\" (groups=[\"readers\" \"x\"]) is attempting to grant RBAC permissions not currently held:\n\
                    {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n\
                    {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}";
    assert_eq!(refused, expected);
    assert_eq!(confirm("root", "", super::super::rule::to_value(&escalation::everything())), Ok(()));
    assert!(confirm("ann in readers", "", super::super::rule::to_value(&escalation::everything())).is_err());
    let many: Vec<String> = (0..400).map(|n| format!("r{n}")).collect();
    let huge = json!([{ "apiGroups": many, "resources": many, "verbs": ["get"] }]);
    assert!(confirm("ann in readers", "", huge).expect_err("too much").contains("more than 100000"));
}

#[test]
fn looking_at_large_rules_ends() {
    let words = |many: usize| -> Vec<String> { (0..many).map(|n| format!("w{n}")).collect() };
    let rule = |groups: usize, resources: usize, names: usize, urls: usize, verbs: usize| {
        Rule::read(&json!({ "apiGroups": words(groups), "resources": words(resources), "resourceNames": words(names),
            "nonResourceURLs": words(urls), "verbs": words(verbs) }))
    };
    const MANY: usize = 10_000;
    for (wanted, expected) in [
        // A list without words: nothing is granted, and the other lists are not multiplied.
        (rule(MANY, MANY, MANY, 0, 0), Some(0)),
        (rule(MANY, 0, MANY, 0, MANY), Some(0)),
        (rule(0, MANY, MANY, 0, MANY), Some(0)),
        (rule(0, 0, 0, MANY, 0), Some(0)),
        (rule(MANY, MANY, MANY, 0, 1), None),
        (rule(1, 1, 0, 0, 100_000), Some(100)),
        (rule(0, 0, 0, 1, 100_000), Some(100)),
        (rule(1, 1, 0, 0, 100_001), None),
    ] {
        let missing = escalation::missing(&[], std::slice::from_ref(&wanted));
        let verbs = missing.map(|missing| missing.iter().map(|rule| rule.verbs.len()).sum::<usize>());
        assert_eq!(verbs, expected);
    }
    // Who has much is not let to compare it with much.
    let much = rule(1, 1, 0, 0, MANY);
    assert_eq!(escalation::missing(&[&much], &[rule(1, 1, 0, 0, 20_000)]), None);
    assert_eq!(escalation::missing(&[&much], &[rule(1, 1, 0, 0, 1000)]), Some(Vec::new()));
    assert_eq!(escalation::missing(&[&Rule::all_resources()], &[rule(1, 1, 0, 0, 20_000)]), Some(Vec::new()));
}

#[test]
fn large_roles_and_bindings_are_read_and_shown_in_time() {
    const MANY: usize = 20_000;
    let rules: Vec<Value> =
        (0..MANY).map(|n| json!({ "apiGroups": [""], "resources": [format!("r{n}")], "verbs": ["get"] })).collect();
    let subjects: Vec<Value> = (0..MANY).map(|n| json!({ "kind": "User", "name": format!("u{n}") })).collect();
    let part = json!({ "metadata": { "name": "part", "labels": { "l": "true" } }, "rules": rules });
    let index = index(&[
        ("clusterroles", "", part),
        ("clusterroles", "", aggregating("whole", "l", "none")),
        ("clusterrolebindings", "", binding("a", "ClusterRole", "part", json!(subjects))),
        ("clusterrolebindings", "", binding("b", "ClusterRole", "whole", json!([{ "kind": "User", "name": "u7" }]))),
    ]);
    let held = index.held_by(Subject { name: "u7", groups: &[] }, "shop");
    assert_eq!(held.rules().len(), MANY, "each once");
    assert!(may(&index, "u19999", "get core/r19999 - x"));
}
