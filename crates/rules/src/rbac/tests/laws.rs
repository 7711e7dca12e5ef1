//! Laws that hold for all rules: covering is about what is allowed, and the order of changes does not matter.

use super::*;
use crate::rbac::{Rule, escalation};
use proptest::prelude::*;

fn some(words: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    // Also none: what can't be stored is looked at all the same, before it is refused.
    proptest::collection::vec(proptest::sample::select(words), 0..3)
}

fn rule() -> impl Strategy<Value = Value> {
    let names = prop_oneof![Just(Vec::new()), some(&["a", "b"])];
    let on = (
        some(&["", "apps", "*"]),
        some(&["pods", "pods/log", "*/log", "jobs", "*"]),
        names,
        some(&["get", "list", "*"]),
    );
    let on = on.prop_map(|(groups, resources, names, verbs)| {
        json!({ "apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs })
    });
    let urls = (some(&["/a", "/a/*", "/a/b", "*"]), some(&["get", "*"]));
    let urls = urls.prop_map(|(urls, verbs)| json!({ "nonResourceURLs": urls, "verbs": verbs }));
    prop_oneof![3 => on, 1 => urls]
}

fn lacking(held: &[Rule], wanted: &[Rule]) -> Option<Vec<Rule>> {
    escalation::missing(&held.iter().collect::<Vec<_>>(), wanted)
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(rule(), 0..4).prop_map(|rules| rules.iter().map(Rule::read).collect())
}

/// Every question that the words above can make.
fn questions() -> Vec<String> {
    let mut all = Vec::new();
    for verb in ["get", "list", "delete"] {
        for resource in ["pods", "pods/log", "jobs", "jobs/log", "jobs/status", "nodes"] {
            for group in ["core", "apps", "other"] {
                all.extend(["a", "b", "c", "-"].map(|name| format!("{verb} {group}/{resource} - {name}")));
            }
        }
        all.extend(["/a", "/a/", "/a/b", "/b"].map(|path| format!("{verb} {path}")));
    }
    all
}

proptest! {
    #[test]
    fn what_is_covered_is_allowed(held in rules(), wanted in rules()) {
        let covered = lacking(&held, &wanted).expect("few").is_empty();
        let any = |rules: &[Rule], question: &str| rules.iter().any(|rule| rule.allows(&asked(question)));
        for question in questions() {
            prop_assert!(!covered || !any(&wanted, &question) || any(&held, &question), "{question}");
        }
    }

    #[test]
    fn what_is_missing_is_all_that_is_missing(held in rules(), wanted in rules()) {
        let missing = lacking(&held, &wanted).expect("few");
        let together: Vec<Rule> = held.iter().chain(&missing).cloned().collect();
        prop_assert_eq!(lacking(&together, &wanted), Some(Vec::new()));
    }

    #[test]
    fn every_rule_covers_itself_and_its_pieces_say_the_same(rules in rules()) {
        prop_assert_eq!(lacking(&rules, &rules), Some(Vec::new()));
        for rule in &rules {
            prop_assert_eq!(rule.atoms().count(), rule.size());
            let atoms: Vec<Rule> = rule.atoms().collect();
            for question in questions() {
                let asked = asked(&question);
                prop_assert_eq!(rule.allows(&asked), atoms.iter().any(|atom| atom.allows(&asked)), "{}", question);
            }
            prop_assert_eq!(Rule::read(&rule.to_value()), rule.clone());
        }
    }

    #[test]
    fn the_order_of_changes_does_not_matter(
        changes in proptest::collection::vec((0usize..4, 0usize..3, proptest::option::of(rule()), 0usize..3), 1..20),
        seed in any::<u64>(),
    ) {
        let apply = |index: &mut Index, place: (usize, usize), rule: &Option<Value>, other: usize| {
            let (plural, name) = (["roles", "clusterroles", "rolebindings", "clusterrolebindings"][place.0], format!("n{}", place.1));
            let namespace = if place.0.is_multiple_of(2) { "s" } else { "" };
            let object = rule.as_ref().map(|rule| match place.0 {
                0 => role(&name, json!([rule])),
                1 if other == 0 => json!({ "metadata": { "name": name, "labels": { "l": "x" } }, "rules": [rule] }),
                1 if other == 1 => json!({ "metadata": { "name": name, "labels": { "l": "x" } }, "rules": [],
                    "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "l": "x" } }] } }),
                1 => role(&name, json!([rule])),
                _ => binding(&name, ["Role", "ClusterRole"][other % 2], &format!("n{other}"), json!([{ "kind": "User", "name": "u" }])),
            });
            index.set(plural, namespace, &name, object.as_ref());
        };
        let mut forward = Index::default();
        for (kind, name, rule, other) in &changes {
            apply(&mut forward, (*kind, *name), rule, *other);
        }
        // The newest state of each object alone, in another order.
        let mut last: Vec<_> = changes
            .iter()
            .enumerate()
            .filter(|(at, change)| !changes[at + 1..].iter().any(|later| (later.0, later.1) == (change.0, change.1)))
            .map(|(_, change)| change)
            .collect();
        let turn = usize::try_from(seed % 20).unwrap_or(0) % last.len();
        last.rotate_left(turn);
        let mut other = Index::default();
        for (kind, name, rule, selector) in last {
            apply(&mut other, (*kind, *name), rule, *selector);
        }
        for question in questions() {
            prop_assert_eq!(may(&forward, "u", &question), may(&other, "u", &question), "{}", question);
        }
    }
}
