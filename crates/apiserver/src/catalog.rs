//! The table of resources that are served: the built-in kinds and what CustomResourceDefinitions add.
//!
//! A catalog is immutable; a change of definitions makes a new one, which is swapped in whole. It does no IO.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rules::kinds::{self, Kind};
use rules::schema::Schema;
use rules::table::{Column, CrdColumns};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// Where a resource keeps what its `scale` subresource shows, as dotted paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) spec: String,
    pub(crate) status: String,
    pub(crate) selector: Option<String>,
}

/// What is special about a resource that a CustomResourceDefinition defines.
pub(crate) struct Custom {
    /// The definition's name.
    pub(crate) definition: String,
    /// The definition is being deleted; nothing new may be made.
    pub(crate) terminating: bool,
    /// The columns of its table.
    pub(crate) columns: CrdColumns,
    /// `spec` fields that field selectors may use.
    pub(crate) selectable: Vec<String>,
    /// The schema as the definition has it, for OpenAPI documents.
    pub(crate) open_api: Value,
    /// What to warn users of, when the version is deprecated.
    pub(crate) deprecation: Option<String>,
    /// Cancelled when the definition is gone; ends watches.
    pub(crate) gone: CancellationToken,
}

/// One resource in one version.
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) status: bool,
    pub(crate) scale: Option<Scale>,
    pub(crate) acted_on: bool,
    /// A question that is answered and not kept.
    pub(crate) review: bool,
    pub(crate) schema: Schema,
    pub(crate) schema_name: String,
    pub(crate) custom: Option<Custom>,
    /// The prefix of its keys in the store.
    pub(crate) prefix: String,
}

impl Resource {
    /// `deployments.apps`, as messages name a resource.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether this is the resource `plural` of a built-in group.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// The key of an object.
    pub(crate) fn key(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace {
            Some(namespace) if self.namespaced => format!("{}{namespace}/{name}", self.prefix),
            _ => format!("{}{name}", self.prefix),
        }
    }

    /// The namespace and name that a key of it says.
    pub(crate) fn place<'a>(&self, key: &'a str) -> (Option<&'a str>, &'a str) {
        let place = key.strip_prefix(self.prefix.as_str()).unwrap_or(key);
        match place.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, place),
        }
    }

    /// The prefix of the keys of a namespace, or of all.
    pub(crate) fn keys_in(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced => format!("{}{namespace}/", self.prefix),
            _ => self.prefix.clone(),
        }
    }

    /// The columns of its table.
    pub(crate) fn columns(&self) -> Vec<Column> {
        match &self.custom {
            Some(custom) => custom.columns.columns(),
            None => rules::table::columns(&self.api_version, &self.kind),
        }
    }

    /// The cells of one object.
    pub(crate) fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        match &self.custom {
            Some(custom) => custom.columns.row(object, now),
            None => rules::table::row(&self.api_version, &self.kind, object, now),
        }
    }

    /// The subresources it has, by name.
    pub(crate) fn subresources(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.status {
            names.push("status");
        }
        if self.scale.is_some() {
            names.push("scale");
        }
        match (self.group.as_str(), self.plural.as_str()) {
            ("", "pods") => names.extend(["attach", "binding", "eviction", "exec", "log", "portforward"]),
            ("", "namespaces") => names.push("finalize"),
            ("", "serviceaccounts") => names.push("token"),
            _ => {}
        }
        names
    }

    fn builtin(kind: &'static Kind) -> Option<Self> {
        let api_version = api_version(kind.group, kind.version);
        let schema = Schema::builtin(&api_version, kind.kind)?;
        Some(Self {
            group: kind.group.into(),
            version: kind.version.into(),
            kind: kind.kind.into(),
            list_kind: format!("{}List", kind.kind),
            plural: kind.plural.into(),
            singular: kind.singular.into(),
            short_names: kind.short_names.iter().map(|name| (*name).into()).collect(),
            categories: kind.categories.iter().map(|name| (*name).into()).collect(),
            namespaced: kind.namespaced,
            status: kind.status,
            scale: kind.scale.map(|paths| Scale {
                spec: paths.spec.into(),
                status: paths.status.into(),
                selector: (!paths.selector.is_empty()).then(|| paths.selector.into()),
            }),
            acted_on: kind.acted_on,
            review: kind.create_only,
            schema,
            schema_name: kind.schema.into(),
            custom: None,
            prefix: prefix(kind.group, kind.plural),
            api_version,
        })
    }
}

/// The built-in kinds that are served. Of a kind with two shapes only the preferred one is: autoscalers convert in ways
/// that a change of names can't express.
fn served() -> impl Iterator<Item = &'static Kind> {
    kinds::all()
        .iter()
        .filter(|kind| (kind.group, kind.version, kind.plural) != ("autoscaling", "v1", "horizontalpodautoscalers"))
}

/// `v1`, `apps/v1`.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The prefix of the keys of a resource. Both APIs for Events show the same objects.
pub(crate) fn prefix(group: &str, plural: &str) -> String {
    match (group, plural) {
        ("" | "events.k8s.io", "events") => "/core/events/".into(),
        ("", plural) => format!("/core/{plural}/"),
        (group, plural) => format!("/{group}/{plural}/"),
    }
}

/// A group and its versions, the preferred one first.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) versions: Vec<String>,
}

/// All that is served.
pub(crate) struct Catalog {
    resources: Vec<Arc<Resource>>,
    by_path: HashMap<(String, String, String), Arc<Resource>>,
    groups: Vec<Group>,
    stamps: BTreeMap<String, u64>,
}

impl Catalog {
    /// The built-in resources; the same for every catalog.
    pub(crate) fn builtins() -> Vec<Arc<Resource>> {
        served().filter_map(Resource::builtin).map(Arc::new).collect()
    }

    /// A catalog of built-in resources and `custom` ones, each of these with a number that changes when it does.
    pub(crate) fn new(builtins: &[Arc<Resource>], custom: &[(Arc<Resource>, u64)]) -> Self {
        let mut resources: Vec<Arc<Resource>> = builtins.to_vec();
        let mut stamps: BTreeMap<String, u64> = BTreeMap::new();
        for resource in builtins {
            stamps.insert(resource.api_version.clone(), 0);
        }
        for (resource, stamp) in custom {
            let entry = stamps.entry(resource.api_version.clone()).or_default();
            let mut hasher = DefaultHasher::new();
            (*entry, resource.plural.as_str(), stamp).hash(&mut hasher);
            *entry = hasher.finish();
            resources.push(resource.clone());
        }
        let mut by_path = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for resource in &resources {
            let path = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
            by_path.entry(path).or_insert_with(|| resource.clone());
            let at = groups.iter().position(|group| group.name == resource.group).unwrap_or_else(|| {
                groups.push(Group { name: resource.group.clone(), versions: Vec::new() });
                groups.len() - 1
            });
            if !groups[at].versions.contains(&resource.version) {
                groups[at].versions.push(resource.version.clone());
            }
        }
        for group in &mut groups {
            group.versions.sort_by_key(|version| std::cmp::Reverse(precedence(version)));
        }
        Self { resources, by_path, groups, stamps }
    }

    /// The resource at a path.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// A built-in resource of the core group, which is always there.
    pub(crate) fn core(&self, plural: &str) -> &Arc<Resource> {
        self.get("", "v1", plural).expect("the core kinds are built in")
    }

    pub(crate) fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// The resources of one version of a group.
    pub(crate) fn of_version<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.resources.iter().filter(move |resource| resource.group == group && resource.version == version)
    }

    /// The groups, the core group first.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// A number per group version that changes when its definitions do.
    pub(crate) fn stamp(&self, api_version: &str) -> Option<u64> {
        self.stamps.get(api_version).copied()
    }
}

/// How versions rank: `v2` > `v1` > `v2beta1` > `v1alpha1` > anything else, by name backwards.
fn precedence(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        let rank = |level, text: &str| Some((level, major, text.parse().ok()?, std::cmp::Reverse(String::new())));
        match &rest[digits..] {
            "" => Some((3, major, 0, std::cmp::Reverse(String::new()))),
            tail => tail
                .strip_prefix("beta")
                .map_or_else(|| tail.strip_prefix("alpha").and_then(|minor| rank(1, minor)), |minor| rank(2, minor)),
        }
    });
    parsed.unwrap_or_else(|| (0, 0, 0, std::cmp::Reverse(version.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rank_as_upstream() {
        let ranked = ["v11", "v10", "v1", "v3beta1", "v2beta1", "v11alpha2", "v1alpha1", "foo1", "foo10"];
        let mut versions = ranked;
        versions.reverse();
        versions.sort_by_key(|version| std::cmp::Reverse(precedence(version)));
        assert_eq!(versions, ranked);
    }

    #[test]
    fn every_builtin_kind_has_a_schema_and_a_path() {
        let builtins = Catalog::builtins();
        assert_eq!(builtins.len(), served().count(), "a built-in kind has no schema");
        let catalog = Catalog::new(&builtins, &[]);
        for resource in catalog.resources() {
            let found = catalog.get(&resource.group, &resource.version, &resource.plural).expect("a resource");
            assert_eq!(found.kind, resource.kind);
        }
        assert_eq!(catalog.core("pods").key(Some("shop"), "a"), "/core/pods/shop/a");
        assert_eq!(catalog.core("namespaces").key(None, "a"), "/core/namespaces/a");
        assert_eq!(catalog.core("pods").place("/core/pods/shop/a"), (Some("shop"), "a"));
        assert_eq!(catalog.core("namespaces").place("/core/namespaces/a"), (None, "a"));
        assert_eq!(catalog.groups()[0].name, "");
    }
}
