//! The table of built-in resources: what exists, under which names, in which scope.
//!
//! Invariants: static data, one entry a served resource, in the order discovery lists them; every entry's definition
//! exists in [`crate::schema`]. Knows nothing of custom resources (see [`crate::crd`]) or of how a resource is served.

mod table;

/// Where a scalable kind keeps what the `scale` subresource shows, as paths below the object (`spec.replicas`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted number of replicas.
    pub spec: &'static str,
    /// The observed number of replicas.
    pub status: &'static str,
    /// The label selector, an object or (ReplicationController) a plain map.
    pub selector: &'static str,
}

/// One served built-in resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version without the group.
    pub version: &'static str,
    /// Kind, e.g. `Deployment`.
    pub kind: &'static str,
    /// Name in paths, e.g. `deployments`.
    pub plural: &'static str,
    /// Singular name, e.g. `deployment`.
    pub singular: &'static str,
    /// Abbreviations kubectl accepts.
    pub short_names: &'static [&'static str],
    /// Groups of resources, e.g. `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// Where the `scale` subresource looks, if there is one.
    pub scale: Option<ScalePaths>,
    /// Whether anything acts on objects of this kind; otherwise they are stored and served only.
    pub acted_on: bool,
    /// Whether objects are never stored: a create answers at once (reviews).
    pub create_only: bool,
    /// Name of the schema definition, e.g. `io.k8s.api.apps.v1.Deployment`.
    pub schema: &'static str,
}

impl Kind {
    /// `group/version`, or `version` alone in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether `api_version` (`apps/v1`, `v1`) names this entry's group and version.
    pub fn is_in(&self, api_version: &str) -> bool {
        match api_version.split_once('/') {
            Some((group, version)) => !group.is_empty() && self.group == group && self.version == version,
            None => self.group.is_empty() && self.version == api_version,
        }
    }

    /// The definition name of the list of these objects.
    pub fn list_schema(&self) -> String {
        format!("{}List", self.schema)
    }
}

/// Every served built-in resource.
pub fn all() -> &'static [Kind] {
    table::KINDS
}

/// The entry of a kind, if it is served.
pub fn find(api_version: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.kind == kind && k.is_in(api_version))
}

/// The entry of a resource by its plural name, if it is served.
pub fn find_resource(api_version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.plural == plural && k.is_in(api_version))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_within_a_group_version() {
        let mut seen = BTreeSet::new();
        for kind in all() {
            assert!(
                seen.insert((kind.api_version(), kind.plural)),
                "{} {} is listed twice",
                kind.api_version(),
                kind.plural
            );
            assert_eq!(kind.singular, kind.kind.to_lowercase(), "{}", kind.kind);
        }
    }

    #[test]
    fn short_names_belong_to_one_group_resource() {
        let mut owner = std::collections::BTreeMap::new();
        for kind in all() {
            for short in kind.short_names {
                let previous = owner.insert(short, kind.kind);
                assert!(
                    previous.is_none_or(|p| p == kind.kind),
                    "{short} is claimed by {previous:?} and {}",
                    kind.kind
                );
            }
        }
    }

    #[test]
    fn kinds_are_found_by_version_and_kind() {
        assert_eq!(find("v1", "Pod").map(|k| k.plural), Some("pods"));
        assert_eq!(find("apps/v1", "Deployment").map(|k| k.plural), Some("deployments"));
        assert_eq!(find("apps/v1", "Pod"), None);
        assert_eq!(find("/v1", "Pod"), None);
        assert_eq!(find_resource("batch/v1", "jobs").map(|k| k.kind), Some("Job"));
    }
}
