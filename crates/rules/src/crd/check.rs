//! What is wrong with a definition.
//!
//! Invariant: the definition has been through [`super::complete`], and its JSON types through strict decoding.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{list, text};
use crate::decode::validate_schema;
use crate::field::FieldError;
use crate::schema::Schema;

/// Longest DNS label.
const LABEL: usize = 63;

/// Everything wrong with a definition on its own.
pub fn validate(definition: &Value) -> Vec<FieldError> {
    let mut found = Vec::new();
    let spec = &definition["spec"];
    let (group, plural) = (text(spec, "group"), text(&spec["names"], "plural"));
    let name = text(&definition["metadata"], "name");
    if name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        found.push(FieldError::invalid("metadata.name", name, detail));
    }
    if group.is_empty() {
        found.push(FieldError::required("spec.group", ""));
    } else if !is_subdomain(group) {
        found.push(FieldError::invalid("spec.group", group, "must be a lowercase DNS name"));
    } else if !group.contains('.') {
        found.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
    match text(spec, "scope") {
        "Namespaced" | "Cluster" => {}
        "" => found.push(FieldError::required("spec.scope", "")),
        other => found.push(FieldError::not_supported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
    names(&spec["names"], &mut found);
    conversion(&spec["conversion"], &mut found);
    versions(spec, &mut found);
    found
}

/// What may not change once a definition is there.
pub fn validate_update(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut found = validate(new);
    for field in ["group", "scope"] {
        if old["spec"][field] != new["spec"][field] {
            let value = new["spec"][field].clone();
            found.push(FieldError::invalid(format!("spec.{field}"), value, "field is immutable"));
        }
    }
    // Names are fixed once they were accepted.
    if super::condition(old, "Established") {
        for field in ["kind", "plural"] {
            if old["spec"]["names"][field] != new["spec"]["names"][field] {
                let value = new["spec"]["names"][field].clone();
                let path = format!("spec.names.{field}");
                found.push(FieldError::invalid(path, value, "field is immutable"));
            }
        }
    }
    let present: Vec<&str> = list(&new["spec"]["versions"]).iter().map(|v| text(v, "name")).collect();
    for (at, stored) in list(&old["status"]["storedVersions"]).iter().enumerate() {
        let stored = stored.as_str().unwrap_or_default();
        if !present.contains(&stored) {
            let detail = "missing from spec.versions; v1 objects may still be stored in it: migrate them first";
            let path = format!("status.storedVersions[{at}]");
            found.push(FieldError::invalid(path, stored, detail.replacen("v1", stored, 1)));
        }
    }
    found
}

fn names(names: &Value, found: &mut Vec<FieldError>) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let path = format!("spec.names.{field}");
        let value = text(names, field);
        if value.is_empty() {
            found.push(FieldError::required(path, ""));
        } else if !is_label(&value.to_lowercase()) {
            let detail = "may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
            found.push(FieldError::invalid(path, value, detail));
        } else if matches!(field, "plural" | "singular") && value != value.to_lowercase() {
            found.push(FieldError::invalid(path, value, "must be lower case"));
        }
    }
    if text(names, "kind") == text(names, "listKind") && !text(names, "kind").is_empty() {
        let value = text(names, "listKind");
        found.push(FieldError::invalid("spec.names.listKind", value, "kind and listKind may not be the same"));
    }
    for field in ["shortNames", "categories"] {
        for (at, value) in list(&names[field]).iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            if !is_label(value) {
                let path = format!("spec.names.{field}[{at}]");
                found.push(FieldError::invalid(path, value, "must be a lower case DNS label"));
            }
        }
    }
}

fn conversion(conversion: &Value, found: &mut Vec<FieldError>) {
    let strategy = text(conversion, "strategy");
    match strategy {
        "" | "None" => {
            if conversion["webhook"].is_object() {
                let detail = "should not be set when strategy is not set to Webhook";
                found.push(FieldError::forbidden("spec.conversion.webhook", detail));
            }
        }
        "Webhook" => {
            if !conversion["webhook"].is_object() {
                let detail = "required when strategy is set to Webhook";
                found.push(FieldError::required("spec.conversion.webhook", detail));
            }
        }
        other => {
            let path = "spec.conversion.strategy";
            found.push(FieldError::not_supported(path, other, &["None", "Webhook"]));
        }
    }
}

fn versions(spec: &Value, found: &mut Vec<FieldError>) {
    let versions = list(&spec["versions"]);
    let mut seen = BTreeSet::new();
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = text(version, "name");
        if !is_label(name) {
            let detail = "must be a lower case DNS label, e.g. v1 or v1alpha1";
            found.push(FieldError::invalid(format!("{path}.name"), name, detail));
        }
        if !seen.insert(name) {
            found.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        schema(&format!("{path}.schema.openAPIV3Schema"), &version["schema"]["openAPIV3Schema"], found);
        scale(&format!("{path}.subresources.scale"), &version["subresources"]["scale"], found);
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        found.push(FieldError::invalid("spec.versions", spec["versions"].clone(), detail));
    }
}

fn scale(path: &str, scale: &Value, found: &mut Vec<FieldError>) {
    if !scale.is_object() {
        return;
    }
    for (field, prefix, required) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", "", false),
    ] {
        let path = format!("{path}.{field}");
        match text(scale, field) {
            "" if required => found.push(FieldError::required(path, "")),
            "" => {}
            value if prefix.is_empty() && !value.starts_with(".spec.") && !value.starts_with(".status.") => {
                found.push(FieldError::invalid(path, value, "should be a json path under either .status or .spec"));
            }
            value if !value.starts_with(prefix) => {
                let detail = format!("should be a json path under {}", prefix.trim_end_matches('.'));
                found.push(FieldError::invalid(path, value, detail));
            }
            _ => {}
        }
    }
}

fn schema(path: &str, schema: &Value, found: &mut Vec<FieldError>) {
    if schema.is_null() {
        found.push(FieldError::required(path, "schemas are required"));
        return;
    }
    if text(schema, "type") != "object" {
        let detail = "must be object at the root";
        found.push(FieldError::invalid(format!("{path}.type"), text(schema, "type"), detail));
    }
    match Schema::from_crd(schema) {
        Err(error) => found.push(FieldError::invalid(path, "", error.to_string())),
        Ok(compiled) => {
            structural(path, schema, true, found);
            defaults(path, &compiled, found);
        }
    }
}

/// A structural schema says of every part what it is: types everywhere but in validations and int-or-string.
fn structural(path: &str, schema: &Value, root: bool, found: &mut Vec<FieldError>) {
    let is = |key: &str| schema[key] == true;
    if text(schema, "type").is_empty()
        && !is("x-kubernetes-int-or-string")
        && !is("x-kubernetes-preserve-unknown-fields")
    {
        found.push(FieldError::required(format!("{path}.type"), "must not be empty for specified object fields"));
    }
    if is("x-kubernetes-embedded-resource") && text(schema, "type") != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        found.push(FieldError::invalid(format!("{path}.type"), text(schema, "type"), detail));
    }
    if text(schema, "type") == "array" && !schema["items"].is_object() {
        found.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    if schema["properties"].is_object() && schema["additionalProperties"].is_object() {
        let detail = "additionalProperties and properties are mutual exclusive";
        found.push(FieldError::forbidden(format!("{path}.additionalProperties"), detail));
    }
    if text(schema, "x-kubernetes-list-type") == "map" {
        for key in list(&schema["x-kubernetes-list-map-keys"]).iter().filter_map(Value::as_str) {
            let property = &schema["items"]["properties"][key];
            let required = list(&schema["items"]["required"]).iter().any(|r| r == key);
            let path = format!("{path}.items.properties[{key}]");
            if !property.is_object() {
                found.push(FieldError::required(
                    path,
                    "entries of x-kubernetes-list-map-keys must be properties of the items",
                ));
            } else if !required && property["default"].is_null() {
                let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                found.push(FieldError::required(format!("{path}.default"), detail));
            }
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let metadata = root && name == "metadata";
        if !metadata {
            structural(&format!("{path}.properties[{name}]"), property, false, found);
        }
    }
    if schema["items"].is_object() {
        structural(&format!("{path}.items"), &schema["items"], false, found);
    }
    if schema["additionalProperties"].is_object() {
        let below = format!("{path}.additionalProperties");
        structural(&below, &schema["additionalProperties"], false, found);
    }
}

/// A default must be a value its own schema allows.
fn defaults(path: &str, schema: &Schema, found: &mut Vec<FieldError>) {
    if let Some(default) = schema.default() {
        let mut complete = default.clone();
        crate::decode::apply_schema_defaults(&mut complete, schema);
        for error in validate_schema(&complete, schema) {
            let at = if error.path.is_empty() { String::new() } else { format!(".{}", error.path) };
            found.push(FieldError { path: format!("{path}.default{at}"), ..error });
        }
    }
    // The fixed metadata of a resource has no defaults, and is the only part that repeats.
    for (name, field) in schema.fields().filter(|(name, _)| *name != "metadata") {
        defaults(&format!("{path}.properties[{name}]"), &field, found);
    }
    if let Some(items) = schema.items() {
        defaults(&format!("{path}.items"), &items, found);
    }
    if let Some(values) = schema.values() {
        defaults(&format!("{path}.additionalProperties"), &values, found);
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= LABEL
        && text.bytes().all(inner)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && p.len() <= LABEL
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !p.starts_with('-')
            && !p.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}
