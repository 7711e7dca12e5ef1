//! The inventory: an ApplySet as kubectl keeps it (`kubectl apply --applyset`), so that each takes the other's for its own.
//!
//! Shape: a parent object (a Secret or ConfigMap) that carries the set's id and the kinds and namespaces of its members,
//! and a label with the id on every member. Nothing else is kept anywhere: no state file.
//!
//! Invariants: an object is in at most one set; a parent of another tool's is refused; the parent names every kind and
//! namespace that may hold members *before* the first member is written, and forgets one only after the last is gone.
//!
//! Specification: KEP-3659, with the label names that kubectl ships (`applyset.kubernetes.io/…`).

use crate::object::{self, ObjectId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// On a member: the id of its set.
pub const PART_OF: &str = "applyset.kubernetes.io/part-of";
/// On a parent: its own id.
pub const ID: &str = "applyset.kubernetes.io/id";
/// On a parent: which tool writes it.
pub const TOOLING: &str = "applyset.kubernetes.io/tooling";
/// On a parent: the kinds of its members.
pub const GROUP_KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
/// On a parent: the namespaces of its members beside its own.
pub const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
/// On a parent: where its manifests are, so that two directories of one name are not taken for one set.
pub const SOURCE: &str = "coracle.dev/source";
/// The field manager under which parents are written; kubectl's, so that neither has to force the other.
pub const MANAGER: &str = "kubectl-applyset";
/// What stands as the writing tool. kubectl takes over no set but those of a tool called kubectl.
const TOOL: &str = concat!("kubectl/v", env!("CARGO_PKG_VERSION"), "-coracle");

/// A named set of objects that are planned and applied together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Set {
    /// The parent's name.
    pub name: String,
    /// The parent's namespace.
    pub namespace: String,
    /// The parent's kind.
    #[serde(default)]
    pub parent: Parent,
}

/// What kind of object a set's parent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Parent {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret, as `kubectl --applyset=NAME` has it.
    #[default]
    Secret,
}

impl Parent {
    /// The kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// The kind's name in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }
}

impl Set {
    /// A set whose parent is a Secret.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: namespace.into(), parent: Parent::default() }
    }

    /// The id: `applyset-` and a digest of name, namespace, kind and group of the parent, and `-v1`.
    pub fn id(&self) -> String {
        let text = format!("{}.{}.{}.", self.name, self.namespace, self.parent.kind());
        format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes())))
    }

    /// The parent's path in the API.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/{}/{}", self.namespace, self.parent.plural(), self.name)
    }

    /// The parent as it is to be applied by [`MANAGER`].
    pub fn parent_object(&self, contents: &Contents) -> Value {
        let mut object = json!({
            "apiVersion": "v1", "kind": self.parent.kind(),
            "metadata": {
                "name": self.name, "namespace": self.namespace,
                "labels": { ID: self.id() },
                "annotations": {
                    TOOLING: TOOL,
                    GROUP_KINDS: contents.kinds.iter().cloned().collect::<Vec<_>>().join(","),
                    NAMESPACES: contents.namespaces.iter().filter(|n| **n != self.namespace).cloned().collect::<Vec<_>>().join(","),
                },
            },
        });
        if self.parent == Parent::Secret {
            object["type"] = "Opaque".into();
        }
        object
    }

    /// Reads a parent: what its members may be.
    ///
    /// # Errors
    /// [`Foreign`] when the object is no parent, or another tool's.
    pub fn contents(&self, parent: &Value) -> Result<Contents, Foreign> {
        let refuse = |reason: String| Foreign { set: self.clone(), reason };
        let Some(id) = object::label(parent, ID) else {
            return Err(refuse(format!("it has no label {ID}; it is something else")));
        };
        if id != self.id() {
            return Err(refuse(format!("its label {ID} is {id}, and must be {}", self.id())));
        }
        let tool = object::annotation(parent, TOOLING).unwrap_or_default();
        let base = tool.rsplit_once('/').map_or(tool, |(base, _)| base);
        if base != "kubectl" {
            return Err(refuse(format!("it is kept by {tool:?}")));
        }
        let words = |name: &str| {
            let text = object::annotation(parent, name).unwrap_or_default();
            text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let mut namespaces = words(NAMESPACES);
        namespaces.insert(self.namespace.clone());
        Ok(Contents { kinds: words(GROUP_KINDS), namespaces })
    }
}

/// An object of the parent's name that is no parent of ours.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} {} in {} can't be the inventory of this set: {reason}; name another set", set.parent.kind().to_lowercase(), set.name, set.namespace)]
pub struct Foreign {
    set: Set,
    reason: String,
}

/// Where members of a set may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// `Kind.group`, or `Kind` for the core group.
    pub kinds: BTreeSet<String>,
    /// Namespaces; the parent's own is always one.
    pub namespaces: BTreeSet<String>,
}

impl Contents {
    /// What these objects need.
    pub fn of<'a>(set: &Set, ids: impl IntoIterator<Item = &'a ObjectId>) -> Self {
        let mut contents = Self { namespaces: BTreeSet::from([set.namespace.clone()]), ..Self::default() };
        for id in ids {
            contents.kinds.insert(id.group_kind());
            if !id.namespace.is_empty() {
                contents.namespaces.insert(id.namespace.clone());
            }
        }
        contents
    }

    /// Both together.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            kinds: self.kinds.union(&other.kinds).cloned().collect(),
            namespaces: self.namespaces.union(&other.namespaces).cloned().collect(),
        }
    }
}

/// Splits `Kind.group` into group and kind.
pub fn split_group_kind(text: &str) -> (&str, &str) {
    text.split_once('.').map_or(("", text), |(kind, group)| (group, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kubectls() {
        // As `kubectl apply --prune --applyset=configmaps/NAME` writes it: sha256 of "name.namespace.ConfigMap.".
        let set = Set { name: "a".into(), namespace: "b".into(), parent: Parent::ConfigMap };
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(b"a.b.ConfigMap."));
        assert_eq!(set.id(), format!("applyset-{digest}-v1"));
        assert!(set.id().len() <= 63, "it is a label's value");
    }

    #[test]
    fn a_parent_says_what_its_set_holds() {
        let set = Set::new("shop", "all");
        let ids = [
            ObjectId { group: "apps".into(), kind: "Deployment".into(), namespace: "shop".into(), name: "a".into() },
            ObjectId { group: String::new(), kind: "Service".into(), namespace: "other".into(), name: "a".into() },
            ObjectId { group: String::new(), kind: "Namespace".into(), namespace: String::new(), name: "other".into() },
        ];
        let contents = Contents::of(&set, &ids);
        let parent = set.parent_object(&contents);
        assert_eq!(parent["metadata"]["annotations"][GROUP_KINDS], "Deployment.apps,Namespace,Service");
        assert_eq!(parent["metadata"]["annotations"][NAMESPACES], "other");
        assert_eq!(set.contents(&parent).unwrap(), contents);
        assert_eq!(split_group_kind("Deployment.apps"), ("apps", "Deployment"));
        assert_eq!(split_group_kind("Service"), ("", "Service"));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let set = Set::new("shop", "all");
        let refused = |change: fn(&mut Value)| {
            let mut parent = set.parent_object(&Contents::default());
            change(&mut parent);
            set.contents(&parent).unwrap_err().to_string()
        };
        assert!(refused(|p| p["metadata"]["labels"] = json!({})).contains("something else"));
        assert!(refused(|p| p["metadata"]["labels"][ID] = "applyset-x-v1".into()).contains("must be applyset-"));
        assert!(refused(|p| p["metadata"]["annotations"][TOOLING] = "kapp/v1".into()).contains("kapp/v1"));
    }
}
