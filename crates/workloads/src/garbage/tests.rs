//! What wakes what, and what becomes of an object, in tables.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::{FOREGROUND, Node, Nodes, ORPHAN, ResourceKind};
use super::plan::{Action, Owner, Propagation, going, standing};

fn kind(name: &str, namespaced: bool) -> Arc<ResourceKind> {
    Arc::new(ResourceKind {
        group: "apps".into(),
        version: "v1".into(),
        kind: name.into(),
        plural: format!("{}s", name.to_lowercase()),
        namespaced,
        deletes_collections: true,
    })
}

fn node(uid: &str, owners: &[&str]) -> Node {
    Node {
        uid: uid.into(),
        kind: kind("Thing", true),
        namespace: "ns".into(),
        name: format!("name-{uid}"),
        revision: "1".into(),
        owners: owners
            .iter()
            .map(|owner| OwnerReference {
                api_version: "apps/v1".into(),
                kind: "Thing".into(),
                name: format!("name-{owner}"),
                uid: (*owner).into(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            })
            .collect(),
        finalizers: Vec::new(),
        going: false,
    }
}

fn ending(mut node: Node, finalizer: &str) -> Node {
    node.going = true;
    node.finalizers.push(finalizer.into());
    node
}

fn uids(wake: &BTreeSet<Arc<str>>) -> Vec<&str> {
    wake.iter().map(|uid| &**uid).collect()
}

fn graph(all: Vec<Node>) -> Nodes {
    let mut nodes = Nodes::default();
    for node in all {
        nodes.apply(node);
    }
    nodes
}

#[test]
fn changes_wake_those_they_concern() {
    let mut nodes = graph(vec![node("d", &[])]);
    assert_eq!(uids(&nodes.apply(node("r", &["d"]))), [""; 0], "a known owner is nothing to look at");
    assert_eq!(uids(&nodes.apply(node("stray", &["nobody"]))), ["stray"], "an unknown owner is");
    let mut elsewhere = node("elsewhere", &["d"]);
    elsewhere.namespace = "other".into();
    assert_eq!(uids(&nodes.apply(elsewhere)), ["elsewhere"], "an owner in another namespace is none");
    nodes.apply(node("p", &["r"]));
    assert_eq!(uids(&nodes.remove("d")), ["elsewhere", "r"], "dependents of what is gone");
    assert_eq!(uids(&nodes.remove("r")), ["p"]);
    assert_eq!(uids(&nodes.remove("p")), [""; 0]);
}

#[test]
fn waiting_for_dependents_wakes_them_and_their_ends_wake_the_owner() {
    let mut nodes = graph(vec![node("d", &[]), node("r", &["d"]), node("s", &["d"])]);
    assert_eq!(uids(&nodes.apply(ending(node("d", &[]), FOREGROUND))), ["d", "r", "s"]);
    assert_eq!(uids(&nodes.apply(node("late", &["d"]))), ["late"], "made after the wait began");
    assert_eq!(uids(&nodes.remove("late")), ["d"]);
    assert_eq!(uids(&nodes.apply(node("s", &[]))), ["d"], "disowned counts as gone");
    assert_eq!(uids(&nodes.remove("r")), ["d"]);
}

#[test]
fn what_is_being_deleted() {
    let table = [
        ("nothing special", ending(node("d", &[]), "example.com/hold"), vec![], Action::Nothing),
        ("waits for none", ending(node("d", &[]), FOREGROUND), vec![], Action::Finish(FOREGROUND)),
        ("waits for one", ending(node("d", &[]), FOREGROUND), vec![node("r", &["d"])], Action::Nothing),
        ("lets go", ending(node("d", &[]), ORPHAN), vec![node("r", &["d"])], Action::LetGo(vec!["r".into()])),
    ];
    for (what, node, dependents, expected) in table {
        let mut all = vec![node.clone()];
        all.extend(dependents);
        assert_eq!(going(&node, &graph(all)), expected, "{what}");
    }
    let waits = ending(node("d", &[]), FOREGROUND);
    let mut lenient = node("r", &["d"]);
    lenient.owners[0].block_owner_deletion = Some(false);
    let nodes = graph(vec![waits.clone(), lenient]);
    assert_eq!(going(&waits, &nodes), Action::Finish(FOREGROUND), "who doesn't block isn't waited for");
}

#[test]
fn what_stands() {
    let background = Action::Delete(Propagation::Background);
    let disown = |uids: &[&str]| Action::Disown(uids.iter().map(|uid| (*uid).to_owned()).collect());
    use Owner::{Absent, Solid, Unknown, Waiting};
    let table: &[(&str, &[Owner], Action)] = &[
        ("no owners", &[], Action::Nothing),
        ("an owner", &[Solid], Action::Nothing),
        ("its owner is gone", &[Absent], background.clone()),
        ("all owners are gone", &[Absent, Absent], background.clone()),
        ("one of two is gone", &[Solid, Absent], disown(&["o1"])),
        ("one of two waits", &[Waiting, Solid], disown(&["o0"])),
        ("its owner waits", &[Waiting], background.clone()),
        ("nothing is known of one", &[Absent, Unknown], Action::Nothing),
    ];
    for (what, owners, expected) in table {
        let names: Vec<String> = (0..owners.len()).map(|index| format!("o{index}")).collect();
        let item = node("x", &names.iter().map(String::as_str).collect::<Vec<_>>());
        let nodes = graph(vec![item.clone()]);
        assert_eq!(standing(&item, owners, &nodes), *expected, "{what}");
    }
    let item = node("x", &["o"]);
    let nodes = graph(vec![item.clone(), node("y", &["x"])]);
    assert_eq!(
        standing(&item, &[Waiting], &nodes),
        Action::Delete(Propagation::Foreground),
        "its own dependents go first"
    );
    let nodes = graph(vec![item.clone(), ending(node("y", &["x"]), FOREGROUND)]);
    assert_eq!(standing(&item, &[Waiting], &nodes), Action::Untangle(vec!["o".into()]));
    let mut orphaning = node("x", &["o"]);
    orphaning.finalizers.push(ORPHAN.into());
    let nodes = graph(vec![orphaning.clone()]);
    assert_eq!(standing(&orphaning, &[Absent], &nodes), Action::Delete(Propagation::Orphan));
}
