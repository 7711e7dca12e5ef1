//! The kinds that a server has, by any name that users write: `po`, `pod`, `pods`, `Pod`, `deployments.apps`.

use serde_json::Value;
use std::collections::BTreeSet;

/// A kind as the server offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version, as `v1`.
    pub version: String,
    /// The kind, as `Deployment`.
    pub kind: String,
    /// The name in paths, as `deployments`.
    pub plural: String,
    singular: String,
    short_names: Vec<String>,
    verbs: Vec<String>,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// No kind of the server is called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the API has no kind that is called {name:?}{hint}")]
pub struct UnknownKind {
    name: String,
    hint: String,
}

impl Resource {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of one object or, without a name, of the collection; of all namespaces without a namespace.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        let mut path = format!("{root}/{}", self.version);
        if let Some(namespace) = namespace.filter(|n| self.namespaced && !n.is_empty()) {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// `deployment.apps`, as it stands before a name in messages.
    pub fn label(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    /// Whether the server offers a verb for the kind. A server that names no verbs is taken to offer all.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.is_empty() || self.verbs.iter().any(|v| v == verb)
    }

    fn is(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let plain = |n: &str| {
            n == self.plural
                || n == self.singular
                || n == self.kind.to_lowercase()
                || self.short_names.iter().any(|s| s == n)
        };
        plain(&name) || name.split_once('.').is_some_and(|(n, group)| group == self.group && plain(n))
    }
}

/// All kinds of a server, in its order of preference.
#[derive(Debug, Clone, Default)]
pub struct Kinds(Vec<Resource>);

impl Kinds {
    /// Reads APIGroupDiscoveryList documents.
    pub fn from_discovery(documents: &[Value]) -> Self {
        let mut found = Vec::new();
        for group in documents.iter().flat_map(|d| d["items"].as_array().into_iter().flatten()) {
            for version in group["versions"].as_array().into_iter().flatten() {
                for resource in version["resources"].as_array().into_iter().flatten() {
                    found.push(read(group, version, resource));
                }
            }
        }
        Self(found)
    }

    /// The kind that a user's word means.
    ///
    /// # Errors
    /// [`UnknownKind`], with what it may have been meant to be.
    pub fn find(&self, name: &str) -> Result<Resource, UnknownKind> {
        self.0.iter().find(|resource| resource.is(name)).cloned().ok_or_else(|| {
            let near = self.0.iter().filter(|r| !name.is_empty() && r.plural.contains(&name.to_lowercase()));
            let near: BTreeSet<&str> = near.map(|r| r.plural.as_str()).collect();
            let near: Vec<&str> = near.into_iter().take(3).collect();
            let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
            UnknownKind { name: name.to_owned(), hint }
        })
    }

    /// The kind of a manifest.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.0.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    /// The preferred version of a group's kind.
    pub fn of_group(&self, group: &str, kind: &str) -> Option<&Resource> {
        self.0.iter().find(|resource| resource.kind == kind && resource.group == group)
    }

    /// Every kind once, in its preferred version.
    pub fn preferred(&self) -> impl Iterator<Item = &Resource> {
        let mut seen = BTreeSet::new();
        self.0.iter().filter(move |resource| seen.insert((resource.group.as_str(), resource.kind.as_str())))
    }
}

fn read(group: &Value, version: &Value, resource: &Value) -> Resource {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
    Resource {
        group: text(&group["metadata"]["name"]),
        version: text(&version["version"]),
        kind: text(&resource["responseKind"]["kind"]),
        plural: text(&resource["resource"]),
        singular: text(&resource["singularResource"]),
        short_names: texts(&resource["shortNames"]),
        verbs: texts(&resource["verbs"]),
        namespaced: resource["scope"] == "Namespaced",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kinds() -> Kinds {
        Kinds::from_discovery(&[
            json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
                {"resource": "pods", "singularResource": "pod", "shortNames": ["po"], "scope": "Namespaced", "responseKind": {"kind": "Pod"}},
                {"resource": "namespaces", "singularResource": "namespace", "shortNames": ["ns"], "scope": "Cluster", "responseKind": {"kind": "Namespace"}}]}]}]}),
            json!({"items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                {"resource": "deployments", "singularResource": "deployment", "shortNames": ["deploy"], "scope": "Namespaced", "responseKind": {"kind": "Deployment"}}]}]}]}),
        ])
    }

    #[test]
    fn a_kind_is_found_by_each_of_its_names() {
        for name in ["deployments", "deployment", "deploy", "Deployment", "deployments.apps", "deploy.apps"] {
            assert_eq!(kinds().find(name).unwrap().kind, "Deployment", "{name}");
        }
        let unknown = kinds().find("deploymen").unwrap_err().to_string();
        assert!(unknown.contains("did you mean deployments?"), "{unknown}");
    }

    #[test]
    fn paths_follow_group_and_scope() {
        let path = |kind: &str, namespace, name| kinds().find(kind).unwrap().path(namespace, name);
        assert_eq!(path("po", Some("a"), Some("b")), "/api/v1/namespaces/a/pods/b");
        assert_eq!(path("deploy", None, None), "/apis/apps/v1/deployments");
        assert_eq!(path("ns", Some("a"), Some("b")), "/api/v1/namespaces/b");
    }
}
