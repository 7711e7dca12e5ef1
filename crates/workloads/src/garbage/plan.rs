//! What to do about one object, given its owners and dependents.
//!
//! Invariants: synchronous and deterministic. An object goes only when every one of its owners is gone for certain; while one owner
//! is there, references to those that are gone are taken off.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::{FOREGROUND, Node, Nodes, ORPHAN};

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It is there.
    Solid,
    /// It is there and waits for its dependents to be deleted.
    Waiting,
    /// There is no such object: none of that name in this namespace, or another uid has the name by now.
    Absent,
    /// Its kind is not served, so nothing is known.
    Unknown,
}

/// How dependents of the object to delete are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    Delete(Propagation),
    /// Take the references to these owners off.
    Disown(Vec<String>),
    /// Take the finalizer off: nothing is waited for any more.
    Finish(&'static str),
    /// Take the reference to this object off these, then the finalizer off it.
    LetGo(Vec<Arc<str>>),
    /// This object and some of its dependents wait for each other: let the dependents stop blocking it, then delete it.
    Untangle(Vec<String>),
}

/// What to do about an object that is being deleted.
pub(crate) fn going(node: &Node, nodes: &Nodes) -> Action {
    if node.is_orphaning() {
        return Action::LetGo(nodes.dependents(&node.uid).map(|dependent| dependent.uid.clone()).collect());
    }
    if node.is_foreground() && blocking(node, nodes) == 0 {
        return Action::Finish(FOREGROUND);
    }
    Action::Nothing
}

/// How many dependents hold an owner back that waits for them.
fn blocking(node: &Node, nodes: &Nodes) -> usize {
    let blocks = |owner: &OwnerReference| *owner.uid == *node.uid && owner.block_owner_deletion == Some(true);
    nodes.dependents(&node.uid).filter(|dependent| dependent.owners.iter().any(blocks)).count()
}

/// What to do about an object that is not being deleted. `owners` are in the order of its references.
pub(crate) fn standing(node: &Node, owners: &[Owner], nodes: &Nodes) -> Action {
    if owners.is_empty() || owners.contains(&Owner::Unknown) {
        return Action::Nothing;
    }
    let with = |wanted: Owner| {
        let pairs = node.owners.iter().zip(owners);
        pairs.filter(move |(_, owner)| **owner == wanted).map(|(reference, _)| reference.uid.clone())
    };
    if owners.contains(&Owner::Solid) {
        // Those that wait must not be held back by an object that stays.
        let lost: Vec<String> = with(Owner::Absent).chain(with(Owner::Waiting)).collect();
        return if lost.is_empty() { Action::Nothing } else { Action::Disown(lost) };
    }
    if owners.contains(&Owner::Waiting) && nodes.dependents(&node.uid).next().is_some() {
        let circular = nodes.dependents(&node.uid).any(Node::is_foreground);
        if circular {
            return Action::Untangle(with(Owner::Waiting).collect());
        }
        return Action::Delete(Propagation::Foreground);
    }
    Action::Delete(if node.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if node.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}
