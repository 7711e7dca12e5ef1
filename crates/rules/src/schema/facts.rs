//! Facts about lists and maps that the types themselves do not carry: how they merge.
//!
//! `facts.txt` is generated (see `examples/gen-facts.rs`) and holds the strategic-merge view of lists; the tables below
//! are reviewed by hand and hold where server-side apply differs from it, and what neither source says.
//!
//! Invariant: every entry names a field that exists (tested).

use std::collections::BTreeMap;

/// Generated: `definition field map keys | set | atomic`, sorted by definition.
const GENERATED: &str = include_str!("facts.txt");

/// Lists whose apply keys are not their patch merge key. An empty key list means atomic.
const APPLY_KEYS: &[(&str, &str, &[&str])] = &[
    ("io.k8s.api.batch.v1.JobStatus", "conditions", &[]),
    ("io.k8s.api.core.v1.Container", "ports", &["containerPort", "protocol"]),
    ("io.k8s.api.core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    ("io.k8s.api.core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("io.k8s.api.core.v1.PodStatus", "hostIPs", &[]),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", &["port", "protocol"]),
];

/// Keyed lists that a strategic merge patch replaces all the same.
const PATCH_REPLACES: &[(&str, &str)] = &[
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", "conditions"),
    ("io.k8s.api.core.v1.ResourceRequirements", "claims"),
    ("io.k8s.api.core.v1.ResourceStatus", "resources"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", "conditions"),
];

/// Sets that a strategic merge patch merges item by item.
const PATCH_MERGES_SET: &[(&str, &str)] =
    &[("io.k8s.api.core.v1.NodeSpec", "podCIDRs"), ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers")];

/// Fields whose patch strategy says `retainKeys`.
const RETAIN_KEYS: &[(&str, &str)] = &[
    ("io.k8s.api.apps.v1.DeploymentSpec", "strategy"),
    ("io.k8s.api.core.v1.PodSpec", "resourceClaims"),
    ("io.k8s.api.core.v1.PodSpec", "volumes"),
    ("io.k8s.api.core.v1.PodStatus", "resourceClaimStatuses"),
];

/// Structures that are owned and replaced as a whole.
const ATOMIC_STRUCTURES: &[&str] = &[
    "io.k8s.api.admissionregistration.v1.MatchResources",
    "io.k8s.api.admissionregistration.v1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1.ParamKind",
    "io.k8s.api.admissionregistration.v1.ParamRef",
    "io.k8s.api.admissionregistration.v1.Variable",
    "io.k8s.api.autoscaling.v1.CrossVersionObjectReference",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.ScopeSelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.TopologySelectorTerm",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.networking.v1.ServiceBackendPort",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// Fields that merge by key although their structure is atomic elsewhere.
const GRANULAR: &[(&str, &str)] = &[("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef")];

/// Defaults that are part of a list key, so that an item without the field has the same identity as one with it.
const KEY_DEFAULTS: &[(&str, &str, &str)] =
    &[("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"), ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP")];

/// What is known about one field beyond its type.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fact {
    /// Keys under server-side apply; empty when atomic or a set.
    pub(crate) apply_keys: Option<Keys>,
    /// Whether the list is a set under server-side apply.
    pub(crate) set: bool,
    /// Whether the map is atomic.
    pub(crate) atomic: bool,
    /// Whether the map merges although its structure is atomic.
    pub(crate) granular: bool,
    /// Whether a strategic merge patch merges the list.
    pub(crate) merge: bool,
    /// The key of that merge.
    pub(crate) merge_key: Option<&'static str>,
    /// Whether `$retainKeys` applies.
    pub(crate) retain_keys: bool,
    /// The default, where it is part of a key.
    pub(crate) default: Option<&'static str>,
}

/// Names of key fields: from the generated text or from a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Keys {
    /// Separated by commas.
    Text(&'static str),
    /// One by one.
    Table(&'static [&'static str]),
}

impl Keys {
    pub(crate) fn names(self) -> Vec<String> {
        match self {
            Self::Text(text) => text.split(',').map(str::to_owned).collect(),
            Self::Table(table) => table.iter().map(|s| (*s).to_owned()).collect(),
        }
    }
}

/// Every fact, by definition and field.
pub(crate) struct Facts(BTreeMap<(&'static str, &'static str), Fact>);

impl Facts {
    pub(crate) fn load() -> Self {
        let mut facts: BTreeMap<(&str, &str), Fact> = BTreeMap::new();
        for line in GENERATED.lines() {
            let mut words = line.split(' ');
            let (Some(definition), Some(field), Some(kind)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let fact = facts.entry((definition, field)).or_default();
            match kind {
                "set" => fact.set = true,
                "atomic" => fact.atomic = true,
                _ => {
                    let keys = words.next().unwrap_or_default();
                    fact.apply_keys = Some(Keys::Text(keys));
                    fact.merge = !keys.contains(',');
                    fact.merge_key = fact.merge.then_some(keys);
                }
            }
        }
        for (definition, field, keys) in APPLY_KEYS {
            let fact = facts.entry((definition, field)).or_default();
            fact.apply_keys = (!keys.is_empty()).then_some(Keys::Table(keys));
        }
        for key in PATCH_REPLACES {
            let fact = facts.entry(*key).or_default();
            fact.merge = false;
            fact.merge_key = None;
        }
        for key in PATCH_MERGES_SET {
            facts.entry(*key).or_default().merge = true;
        }
        for key in RETAIN_KEYS {
            facts.entry(*key).or_default().retain_keys = true;
        }
        for key in GRANULAR {
            facts.entry(*key).or_default().granular = true;
        }
        for (definition, field, default) in KEY_DEFAULTS {
            facts.entry((definition, field)).or_default().default = Some(default);
        }
        Self(facts)
    }

    pub(crate) fn get(&self, definition: &str, field: &str) -> Fact {
        self.0.get(&(definition, field)).copied().unwrap_or_default()
    }

    pub(crate) fn structure_is_atomic(definition: &str) -> bool {
        ATOMIC_STRUCTURES.binary_search(&definition).is_ok()
    }

    /// Every `(definition, field)` there is a fact about.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.keys().copied()
    }

    #[cfg(test)]
    pub(crate) fn atomic_structures() -> &'static [&'static str] {
        ATOMIC_STRUCTURES
    }
}
