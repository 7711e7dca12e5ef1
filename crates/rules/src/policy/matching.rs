//! Which writes a policy is about: operations, resources, names, scope, and labels.

use serde_json::Value;

use crate::select::LabelSelector;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change.
    Update,
    /// An end.
    Delete,
    /// A connection to a part of an object.
    Connect,
}

impl Operation {
    /// As policies and AdmissionReview write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A write, as far as policies look at it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// What is done.
    pub operation: Operation,
    /// The API group; empty for the core.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The plural.
    pub resource: &'a str,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// Its namespace; none for what is in none.
    pub namespace: Option<&'a str>,
    /// That namespace as an object.
    pub namespace_object: Option<&'a Value>,
    /// What is to be; none for a deletion.
    pub object: Option<&'a Value>,
    /// What is; none for a creation.
    pub old: Option<&'a Value>,
    /// Who writes.
    pub user: &'a str,
    /// The groups of whoever writes.
    pub groups: &'a [String],
    /// Whether nothing is to be stored.
    pub dry_run: bool,
}

/// Whether `constraints` (MatchResources) are about a write.
pub(super) fn matches(constraints: &Value, write: &Attributes<'_>) -> bool {
    let rules = |field: &str| constraints[field].as_array().into_iter().flatten();
    let none_given = rules("resourceRules").next().is_none();
    let included = none_given || rules("resourceRules").any(|rule| about(rule, write));
    included
        && !rules("excludeResourceRules").any(|rule| about(rule, write))
        && in_namespace(&constraints["namespaceSelector"], write)
        && labelled(&constraints["objectSelector"], write)
}

/// Whether a NamedRuleWithOperations is about a write.
fn about(rule: &Value, write: &Attributes<'_>) -> bool {
    let lists = |field: &str, wanted: &str| {
        rule[field].as_array().is_some_and(|list| list.iter().any(|one| one == "*" || one == wanted))
    };
    let named = match rule["resourceNames"].as_array() {
        Some(names) if !names.is_empty() => names.iter().any(|name| name == write.name),
        _ => true,
    };
    let scoped = match rule["scope"].as_str() {
        Some("Cluster") => write.namespace.is_none(),
        Some("Namespaced") => write.namespace.is_some(),
        _ => true,
    };
    let resource = || {
        let listed = rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str);
        listed.into_iter().any(|one| {
            let (resource, subresource) = one.split_once('/').unwrap_or((one, ""));
            (resource == "*" || resource == write.resource) && (subresource == "*" || subresource == write.subresource)
        })
    };
    lists("operations", write.operation.name())
        && lists("apiGroups", write.group)
        && lists("apiVersions", write.version)
        && named
        && scoped
        && resource()
}

/// What is in no namespace is matched whatever the selector; a Namespace by its own labels.
fn in_namespace(selector: &Value, write: &Attributes<'_>) -> bool {
    let of = match (write.group, write.resource) {
        ("", "namespaces") => write.object.or(write.old),
        _ if write.namespace.is_none() => return true,
        _ => write.namespace_object,
    };
    selects(selector, of)
}

/// Matched where either what is or what is to be has the labels.
fn labelled(selector: &Value, write: &Attributes<'_>) -> bool {
    [write.object, write.old].into_iter().flatten().any(|object| selects(selector, Some(object)))
}

fn selects(selector: &Value, object: Option<&Value>) -> bool {
    if selector.as_object().is_none_or(serde_json::Map::is_empty) {
        return true;
    }
    match (LabelSelector::from_object(selector), object) {
        (Ok(selector), Some(object)) => selector.matches_object(object),
        // What cannot be told is looked at rather than let through.
        _ => true,
    }
}
