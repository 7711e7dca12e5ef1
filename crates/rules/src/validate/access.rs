//! Roles and their bindings: rules that can mean something, subjects and roles that can be found.

use super::{list, text};
use crate::field::FieldError;
use crate::rbac::GROUP;
use crate::select::LabelSelector;
use serde_json::Value;

/// A Role or a ClusterRole.
pub(super) fn role(obj: &Value, namespaced: bool, wrong: &mut Vec<FieldError>) {
    for (index, rule) in list(obj, "/rules").iter().enumerate() {
        policy_rule(rule, &format!("rules[{index}]"), namespaced, wrong);
    }
    if namespaced || obj["aggregationRule"].is_null() {
        return;
    }
    let selectors = list(obj, "/aggregationRule/clusterRoleSelectors");
    let path = "aggregationRule.clusterRoleSelectors";
    if selectors.is_empty() {
        wrong.push(FieldError::required(
            path,
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        ));
    }
    for (index, selector) in selectors.iter().enumerate() {
        if let Err(error) = LabelSelector::from_object(selector) {
            wrong.push(FieldError::invalid(format!("{path}[{index}]"), selector.clone(), error.to_string()));
        }
    }
}

fn policy_rule(rule: &Value, path: &str, namespaced: bool, wrong: &mut Vec<FieldError>) {
    let none = |field: &str| rule[field].as_array().is_none_or(Vec::is_empty);
    if none("verbs") {
        wrong.push(FieldError::required(format!("{path}.verbs"), "verbs must contain at least one value"));
    }
    if !none("nonResourceURLs") {
        let mut refuse = |why: &str| {
            wrong.push(FieldError::invalid(format!("{path}.nonResourceURLs"), rule["nonResourceURLs"].clone(), why));
        };
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if !(none("apiGroups") && none("resources") && none("resourceNames")) {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if none("apiGroups") {
        wrong.push(FieldError::required(
            format!("{path}.apiGroups"),
            "resource rules must supply at least one api group",
        ));
    }
    if none("resources") {
        wrong.push(FieldError::required(
            format!("{path}.resources"),
            "resource rules must supply at least one resource",
        ));
    }
}

/// A RoleBinding or a ClusterRoleBinding.
pub(super) fn binding(obj: &Value, namespaced: bool, wrong: &mut Vec<FieldError>) {
    let group = text(obj, "/roleRef/apiGroup");
    if group != GROUP {
        wrong.push(FieldError::not_supported("roleRef.apiGroup", group, &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    let kind = text(obj, "/roleRef/kind");
    if !kinds.contains(&kind) {
        wrong.push(FieldError::not_supported("roleRef.kind", kind, kinds));
    }
    if text(obj, "/roleRef/name").is_empty() {
        wrong.push(FieldError::required("roleRef.name", ""));
    }
    for (index, subject) in list(obj, "/subjects").iter().enumerate() {
        let path = format!("subjects[{index}]");
        let (kind, group) = (text(subject, "/kind"), text(subject, "/apiGroup"));
        if text(subject, "/name").is_empty() {
            wrong.push(FieldError::required(format!("{path}.name"), ""));
        }
        let expected = match kind {
            "ServiceAccount" => "",
            "User" | "Group" => GROUP,
            other => {
                wrong.push(FieldError::not_supported(
                    format!("{path}.kind"),
                    other,
                    &["Group", "ServiceAccount", "User"],
                ));
                continue;
            }
        };
        if group != expected {
            wrong.push(FieldError::not_supported(format!("{path}.apiGroup"), group, &[expected]));
        }
        if kind == "ServiceAccount" && !namespaced && text(subject, "/namespace").is_empty() {
            wrong.push(FieldError::required(format!("{path}.namespace"), ""));
        }
    }
}
