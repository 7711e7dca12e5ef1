//! What tells resources apart: group, version, kind, name and namespace, with the loose comparisons that kustomizations use.
//!
//! Invariants: an empty part of a selector matches anything. It must not know: what resources contain.

/// Stands for the namespace of what has none.
pub(super) const NO_NAMESPACE: &str = "_non_namespaceable_";
/// The namespace that is meant when none is given.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// Group, version and kind. As a selector, an empty part matches anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Gvk {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

/// `apps/v1` as group and version.
pub(super) fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Kinds that come first and last when nothing else is said, in order.
pub(super) const FIRST: [&str; 22] = [
    "Namespace",
    "ResourceQuota",
    "StorageClass",
    "CustomResourceDefinition",
    "ServiceAccount",
    "PodSecurityPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
    "Secret",
    "Endpoints",
    "Service",
    "LimitRange",
    "PriorityClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
];
/// See [`FIRST`].
pub(super) const LAST: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

impl Gvk {
    pub(super) fn of(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// Whether this is what the selector asks for.
    pub(super) fn is_selected(&self, selector: &Gvk) -> bool {
        part(&selector.group, &self.group) && part(&selector.version, &self.version) && part(&selector.kind, &self.kind)
    }

    /// `Kind.version.group` with placeholders, as messages and sort keys have it.
    pub(super) fn dotted(&self) -> String {
        let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        format!("{}.{}.{}", or(&self.kind, "[noKind]"), or(&self.version, "[noVer]"), or(&self.group, "[noGrp]"))
    }

    /// `group_version_Kind` with placeholders that sort after letters.
    pub(super) fn sort_text(&self) -> String {
        let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        format!("{}_{}_{}", or(&self.group, "~G"), or(&self.version, "~V"), or(&self.kind, "~K"))
    }

    /// Orders field specifications: what others depend on first.
    pub(super) fn rank(&self) -> (i32, String) {
        let at = |list: &[&str]| list.iter().position(|kind| *kind == self.kind).and_then(|at| i32::try_from(at).ok());
        let place = match (at(&FIRST), at(&LAST)) {
            (Some(at), _) => at - 22,
            (None, Some(at)) => at + 1,
            (None, None) => 0,
        };
        (place, self.sort_text())
    }
}

/// Whether a selector's part accepts a value.
pub(super) fn part(selector: &str, value: &str) -> bool {
    selector.is_empty() || selector == value
}

/// One resource's identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct ResId {
    pub(super) gvk: Gvk,
    pub(super) name: String,
    pub(super) namespace: String,
    /// The kind is known to have no namespace.
    pub(super) cluster: bool,
}

impl ResId {
    /// A namespace that is never empty, for comparisons.
    pub(super) fn effective_namespace(&self) -> &str {
        effective(self.cluster, &self.namespace)
    }

    pub(super) fn same_namespace(&self, other: &ResId) -> bool {
        self.effective_namespace() == other.effective_namespace()
    }

    /// The same resource in every respect.
    pub(super) fn equals(&self, other: &ResId) -> bool {
        self.same_namespace(other) && self.name_equals(other)
    }

    /// The same kind and name, in whatever namespace.
    pub(super) fn name_equals(&self, other: &ResId) -> bool {
        self.name == other.name && self.gvk == other.gvk
    }

    pub(super) fn is_selected_by(&self, selector: &ResId) -> bool {
        part(&selector.name, &self.name)
            && (selector.namespace.is_empty() || selector.same_namespace(self))
            && self.gvk.is_selected(&selector.gvk)
    }
}

/// See [`ResId::effective_namespace`].
pub(super) fn effective(cluster: bool, namespace: &str) -> &str {
    match namespace {
        _ if cluster => NO_NAMESPACE,
        "" => DEFAULT_NAMESPACE,
        named => named,
    }
}

impl std::fmt::Display for ResId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.gvk.kind, self.name)?;
        if !self.namespace.is_empty() && self.namespace != NO_NAMESPACE {
            write!(f, " in namespace {}", self.namespace)?;
        }
        Ok(())
    }
}
