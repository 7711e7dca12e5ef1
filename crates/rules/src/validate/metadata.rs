//! Metadata: names, labels, annotations, owners, finalizers.

use super::{list, names, text};
use crate::field::{FieldError, FieldErrorKind};
use serde_json::Value;

/// All annotations of an object together, in bytes.
const MOST_ANNOTATIONS: usize = 256 * 1024;

pub(super) type NameRule = fn(&str) -> Vec<String>;

/// Which form a kind's names have.
pub(super) fn name_rule(api_version: &str, kind: &str) -> NameRule {
    match (api_version, kind) {
        ("v1", "Namespace") => names::dns_label,
        ("v1", "Service") => names::dns1035_label,
        (group, _) if group.starts_with("rbac.authorization.k8s.io/") => names::path_segment,
        _ => names::dns_subdomain,
    }
}

pub(super) fn check(obj: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let mut wrong = Vec::new();
    name(obj, rule, &mut wrong);
    let namespace = text(obj, "/metadata/namespace");
    if namespaced && namespace.is_empty() {
        wrong.push(FieldError::required("metadata.namespace", ""));
    } else if namespaced {
        wrong.extend(
            names::dns_label(namespace)
                .into_iter()
                .map(|why| FieldError::invalid("metadata.namespace", namespace, why)),
        );
    } else if !namespace.is_empty() {
        wrong.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    if let Some(generation) = obj.pointer("/metadata/generation").and_then(Value::as_i64).filter(|number| *number < 0) {
        wrong.push(FieldError::invalid("metadata.generation", generation, "must be greater than or equal to 0"));
    }
    labels(&obj["metadata"]["labels"], "metadata.labels", &mut wrong);
    annotations(&obj["metadata"]["annotations"], "metadata.annotations", &mut wrong);
    owners(obj, &mut wrong);
    finalizers(obj, &mut wrong);
    wrong
}

fn name(obj: &Value, rule: NameRule, wrong: &mut Vec<FieldError>) {
    let base = text(obj, "/metadata/generateName");
    if !base.is_empty() {
        // Whatever is added to it is alphanumeric, so a dash at its end is fine.
        let masked = format!("{}a", base.trim_end_matches('-'));
        wrong.extend(rule(&masked).into_iter().map(|why| FieldError::invalid("metadata.generateName", base, why)));
    }
    let name = text(obj, "/metadata/name");
    if name.is_empty() {
        wrong.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        wrong.extend(rule(name).into_iter().map(|why| FieldError::invalid("metadata.name", name, why)));
    }
}

/// The keys and values of labels.
pub(super) fn labels(labels: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        wrong.extend(names::qualified_name(key).into_iter().map(|why| FieldError::invalid(path, key.as_str(), why)));
        let value = value.as_str().unwrap_or_default();
        wrong.extend(names::label_value(value).into_iter().map(|why| FieldError::invalid(path, value, why)));
    }
}

pub(super) fn annotations(annotations: &Value, path: &str, wrong: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        // Upper case is allowed in an annotation's prefix.
        let lower = key.to_lowercase();
        wrong.extend(names::qualified_name(&lower).into_iter().map(|why| FieldError::invalid(path, key.as_str(), why)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MOST_ANNOTATIONS {
        let detail = format!("may not be more than {MOST_ANNOTATIONS} bytes");
        wrong.push(FieldError::new(FieldErrorKind::TooLong, path, None, detail));
    }
}

fn owners(obj: &Value, wrong: &mut Vec<FieldError>) {
    let mut controller: Option<String> = None;
    for (at, owner) in list(obj, "/metadata/ownerReferences").iter().enumerate() {
        let path = format!("metadata.ownerReferences[{at}]");
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                let detail = if field == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                wrong.push(FieldError::invalid(format!("{path}.{field}"), "", detail));
            }
        }
        if owner["controller"] == true {
            let named = format!("{}/{}", text(owner, "/kind"), text(owner, "/name"));
            match &controller {
                Some(first) => wrong.push(FieldError::invalid(
                    "metadata.ownerReferences",
                    obj["metadata"]["ownerReferences"].clone(),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {named}"),
                )),
                None => controller = Some(named),
            }
        }
    }
}

fn finalizers(obj: &Value, wrong: &mut Vec<FieldError>) {
    let all = list(obj, "/metadata/finalizers");
    for finalizer in all {
        let name = finalizer.as_str().unwrap_or_default();
        wrong.extend(
            names::qualified_name(name).into_iter().map(|why| FieldError::invalid("metadata.finalizers", name, why)),
        );
    }
    if all.iter().any(|one| one == crate::meta::FOREGROUND_FINALIZER)
        && all.iter().any(|one| one == crate::meta::ORPHAN_FINALIZER)
    {
        wrong.push(FieldError::invalid(
            "metadata.finalizers",
            obj["metadata"]["finalizers"].clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

pub(super) fn check_update(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut wrong = Vec::new();
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (before, after) = (&old["metadata"][field], &new["metadata"][field]);
        if before != after && !before.is_null() {
            wrong.push(FieldError::invalid(format!("metadata.{field}"), after.clone(), "field is immutable"));
        }
    }
    if old.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()) {
        let before = list(old, "/metadata/finalizers");
        let added: Vec<String> = list(new, "/metadata/finalizers")
            .iter()
            .filter(|one| !before.contains(one))
            .map(ToString::to_string)
            .collect();
        if !added.is_empty() {
            wrong.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers [{}]",
                    added.join(", ")
                ),
            ));
        }
    }
    wrong
}
