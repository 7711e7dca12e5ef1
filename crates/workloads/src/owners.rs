//! Who controls an object: reading, claiming and giving up ownership.
//!
//! Invariants: an object has at most one controlling owner; an object is adopted only when it has none, matches the selector,
//! and neither side is being deleted; one that no longer matches is given up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::{Selector, SelectorExt};
use serde_json::{Value, json};

/// The owner that controls an object.
pub(crate) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object of that uid controls this one.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller(meta).is_some_and(|owner| owner.uid == uid)
}

/// The reference that makes `owner` the controller of a new object.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A selector ready to match; one that can't be read matches nothing.
pub(crate) struct Matcher(Option<Selector>);

impl Matcher {
    pub(crate) fn new(selector: &LabelSelector) -> Matcher {
        Matcher(Selector::try_from(selector.clone()).ok())
    }

    /// Whether it picks objects by nothing at all, that is, all of them.
    pub(crate) fn selects_all(&self) -> bool {
        self.0.as_ref().is_some_and(Selector::selects_all)
    }

    pub(crate) fn matches(&self, meta: &ObjectMeta) -> bool {
        let Some(selector) = &self.0 else { return false };
        match &meta.labels {
            Some(labels) => selector.matches(labels),
            None => selector.matches(&std::collections::BTreeMap::new()),
        }
    }
}

/// What to do about one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours.
    Ours,
    /// It should become ours.
    Adopt,
    /// It is ours no more.
    Release,
    /// It is none of our business.
    Ignore,
}

/// Whether `candidate` belongs to `owner`, whose selector is `matcher`.
pub(crate) fn claim(owner: &ObjectMeta, matcher: &Matcher, candidate: &ObjectMeta) -> Claim {
    let matches = matcher.matches(candidate);
    let owner_going = owner.deletion_timestamp.is_some();
    match controller(candidate) {
        Some(reference) if owner.uid.as_deref() != Some(reference.uid.as_str()) => Claim::Ignore,
        Some(_) if matches => Claim::Ours,
        Some(_) if owner_going || candidate.deletion_timestamp.is_some() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matches || owner_going || candidate.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The patch that adds an owner to what was read of an object.
pub(crate) fn adoption(candidate: &ObjectMeta, owner: &OwnerReference) -> Value {
    let mut owners: Vec<&OwnerReference> =
        candidate.owner_references.iter().flatten().filter(|known| known.uid != owner.uid).collect();
    owners.push(owner);
    json!({ "metadata": {
        "uid": candidate.uid,
        "resourceVersion": candidate.resource_version,
        "ownerReferences": owners,
    }})
}

/// The patch that removes owners, by uid, from what was read of an object.
pub(crate) fn release(candidate: &ObjectMeta, uids: &[&str]) -> Value {
    let owners: Vec<&OwnerReference> =
        candidate.owner_references.iter().flatten().filter(|known| !uids.contains(&known.uid.as_str())).collect();
    json!({ "metadata": {
        "uid": candidate.uid,
        "resourceVersion": candidate.resource_version,
        "ownerReferences": owners,
    }})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::machinery::clock::stamp;

    fn owner(uid: &str, going: bool) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            deletion_timestamp: going.then(|| stamp(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        }
    }

    fn candidate(label: &str, controlled_by: Option<&str>, going: bool) -> ObjectMeta {
        ObjectMeta {
            labels: Some(BTreeMap::from([("app".to_owned(), label.to_owned())])),
            owner_references: controlled_by.map(|uid| {
                vec![OwnerReference { uid: uid.into(), controller: Some(true), ..OwnerReference::default() }]
            }),
            ..owner("c", going)
        }
    }

    #[test]
    fn claims() {
        let matcher = Matcher::new(&LabelSelector {
            match_labels: Some(BTreeMap::from([("app".to_owned(), "x".to_owned())])),
            match_expressions: None,
        });
        let table = [
            ("ours", false, "x", Some("o"), false, Claim::Ours),
            ("ours, going", false, "x", Some("o"), true, Claim::Ours),
            ("relabelled", false, "y", Some("o"), false, Claim::Release),
            ("relabelled, owner going", true, "y", Some("o"), false, Claim::Ignore),
            ("orphan", false, "x", None, false, Claim::Adopt),
            ("orphan, going", false, "x", None, true, Claim::Ignore),
            ("orphan, owner going", true, "x", None, false, Claim::Ignore),
            ("another's", false, "x", Some("p"), false, Claim::Ignore),
            ("stranger", false, "y", None, false, Claim::Ignore),
        ];
        for (what, owner_going, label, controlled_by, going, expected) in table {
            let found = claim(&owner("o", owner_going), &matcher, &candidate(label, controlled_by, going));
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn owners_come_and_go_by_uid() {
        let mut meta = candidate("x", Some("o"), false);
        meta.resource_version = Some("7".into());
        let reference = OwnerReference { uid: "p".into(), ..OwnerReference::default() };
        let added = adoption(&meta, &reference);
        assert_eq!(added["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(2));
        assert_eq!(added["metadata"]["resourceVersion"], "7");
        assert_eq!(release(&meta, &["o"])["metadata"]["ownerReferences"], json!([]));
    }
}
