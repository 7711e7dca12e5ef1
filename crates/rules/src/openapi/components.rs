//! The schemas of a document: built-in definitions with their merge facts, custom ones as they were published.
//!
//! Invariant: holds every definition that another one, or a path, refers to.

use serde_json::{Map, Value, json};

use super::{Dialect, OpenApiResource};
use crate::schema::{Facts, Keys, generate};

/// Definitions every document needs because paths and custom resources refer to them.
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Carries a reference to the metadata of objects, for documents with custom resources only.
const WITH_OBJECT_META: &str = "io.k8s.api.core.v1.ConfigMap";

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object.";
const KIND: &str = "Kind is a string value representing the REST resource this object represents.";

/// Every schema of a document by name.
pub(super) fn all(resources: &[OpenApiResource<'_>], dialect: Dialect) -> Map<String, Value> {
    let custom = resources.iter().any(|r| r.custom.is_some());
    let scale = resources.iter().any(|r| r.scale);
    let source = generate(&|name| {
        matches!(name, DELETE_OPTIONS | STATUS | LIST_META)
            || (name == SCALE && scale)
            || (name == WITH_OBJECT_META && custom)
            || resources.iter().any(|r| r.custom.is_none() && r.schema_name == name)
    });
    let facts = Facts::load();
    let mut schemas: Map<String, Value> =
        source.iter().map(|(name, schema)| (name.clone(), builtin(name, schema, &facts, dialect))).collect();
    let wanted = |r: &OpenApiResource<'_>| r.schema_name == WITH_OBJECT_META;
    if custom && !resources.iter().any(wanted) {
        schemas.remove(WITH_OBJECT_META);
    }
    schemas.insert(
        PATCH.to_owned(),
        json!({
            "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
            "type": "object",
        }),
    );
    for resource in resources {
        if let Some(published) = resource.custom {
            schemas.insert(resource.schema_name.to_owned(), root(published, dialect));
        }
        if let Some(schema) = schemas.get_mut(resource.schema_name) {
            schema["x-kubernetes-group-version-kind"] = json!([resource.group_version_kind()]);
        }
        if !resource.create_only {
            schemas.insert(resource.list_schema_name(), list(resource, dialect));
        }
    }
    mark(&mut schemas, DELETE_OPTIONS, "", "v1", "DeleteOptions");
    mark(&mut schemas, STATUS, "", "v1", "Status");
    mark(&mut schemas, SCALE, "autoscaling", "v1", "Scale");
    schemas
}

fn mark(schemas: &mut Map<String, Value>, name: &str, group: &str, version: &str, kind: &str) {
    if let Some(schema) = schemas.get_mut(name) {
        schema["x-kubernetes-group-version-kind"] = json!([{"group": group, "kind": kind, "version": version}]);
    }
}

fn list(resource: &OpenApiResource<'_>, dialect: Dialect) -> Value {
    json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "kind": {"type": "string", "description": KIND},
            "metadata": described(
                dialect.reference(LIST_META),
                Some(&json!("Standard list metadata.")),
                dialect,
            ),
            "items": {
                "description": format!("List of {}.", resource.plural),
                "type": "array",
                "items": dialect.reference(resource.schema_name),
            },
        },
        "x-kubernetes-group-version-kind": [{
            "group": resource.group, "kind": resource.list_kind, "version": resource.version,
        }],
    })
}

/// A reference that says more than what it refers to: in OpenAPI 3 that needs `allOf`.
fn described(reference: Value, description: Option<&Value>, dialect: Dialect) -> Value {
    let Some(description) = description else {
        return reference;
    };
    match dialect {
        Dialect::V3 => json!({"allOf": [reference], "description": description}),
        Dialect::V2 => {
            let mut reference = reference;
            reference["description"] = description.clone();
            reference
        }
    }
}

/// A definition as generated from its type, in the dialect's spelling and with merge facts.
fn builtin(definition: &str, schema: &Value, facts: &Facts, dialect: Dialect) -> Value {
    let mut out = convert(definition, schema, facts, dialect);
    if Facts::structure_is_atomic(definition) {
        out["x-kubernetes-map-type"] = json!("atomic");
    }
    out
}

fn convert(definition: &str, schema: &Value, facts: &Facts, dialect: Dialect) -> Value {
    let Value::Object(schema) = schema else {
        return schema.clone();
    };
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next());
    if let Some(target) = target {
        return described(dialect.reference(target), schema.get("description"), dialect);
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return int_or_string(schema.get("description"), dialect);
    }
    let mut out = Map::new();
    for (key, value) in schema {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                let converted = properties.iter().map(|(name, property)| {
                    let mut value = convert(definition, property, facts, dialect);
                    annotate(&mut value, definition, name, property, facts);
                    (name.clone(), value)
                });
                Value::Object(converted.collect())
            }
            ("items" | "additionalProperties", value) => convert(definition, value, facts, dialect),
            ("oneOf", _) if dialect == Dialect::V2 => continue,
            ("oneOf", Value::Array(list)) => list.iter().map(|s| convert(definition, s, facts, dialect)).collect(),
            ("$schema" | "title", _) => continue,
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

fn int_or_string(description: Option<&Value>, dialect: Dialect) -> Value {
    let mut out = match dialect {
        Dialect::V3 => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Dialect::V2 => json!({"format": "int-or-string", "type": "string"}),
    };
    if let Some(description) = description {
        out["description"] = description.clone();
    }
    out
}

/// Writes what is known about merging a field beside its schema.
fn annotate(value: &mut Value, definition: &str, field: &str, source: &Value, facts: &Facts) {
    let fact = facts.get(definition, field);
    if source.get("type") == Some(&json!("array")) {
        let list_type = match fact.apply_keys {
            Some(keys) => {
                value["x-kubernetes-list-map-keys"] = json!(Keys::names(keys));
                "map"
            }
            None if fact.set => "set",
            None => "atomic",
        };
        value["x-kubernetes-list-type"] = json!(list_type);
    }
    if fact.atomic {
        value["x-kubernetes-map-type"] = json!("atomic");
    }
    if fact.granular {
        value["x-kubernetes-map-type"] = json!("granular");
    }
    if let Some(default) = fact.default {
        value["default"] = json!(default);
    }
    let strategy = match (fact.merge, fact.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => return,
    };
    value["x-kubernetes-patch-strategy"] = json!(strategy);
    if let Some(key) = fact.merge_key {
        value["x-kubernetes-patch-merge-key"] = json!(key);
    }
}

/// A custom resource's schema as it is published: with the fields every object has.
fn root(published: &Value, dialect: Dialect) -> Value {
    let mut out = match published {
        Value::Object(_) => custom(published, dialect),
        _ => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    };
    embed(&mut out, dialect);
    out
}

fn embed(out: &mut Value, dialect: Dialect) {
    let properties = &mut out["properties"];
    if !properties.is_object() {
        *properties = json!({});
    }
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    properties["kind"] = json!({"type": "string", "description": KIND});
    let description = json!("Standard object's metadata.");
    properties["metadata"] = described(dialect.reference(OBJECT_META), Some(&description), dialect);
}

/// Keys OpenAPI 2 has no place for (upstream leaves them out, too).
const V3_ONLY: &[&str] = &["oneOf", "anyOf", "not", "nullable", "allOf"];

fn custom(schema: &Value, dialect: Dialect) -> Value {
    let Value::Object(schema) = schema else {
        return schema.clone();
    };
    let mut out = Map::new();
    for (key, value) in schema {
        let value = match (key.as_str(), value) {
            (key, _) if dialect == Dialect::V2 && V3_ONLY.contains(&key) => continue,
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, property)| (name.clone(), custom(property, dialect)))
                .collect::<Map<_, _>>()
                .into(),
            ("items" | "additionalProperties" | "not", value) => custom(value, dialect),
            ("oneOf" | "anyOf" | "allOf", Value::Array(list)) => list.iter().map(|s| custom(s, dialect)).collect(),
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    let mut out = Value::Object(out);
    if schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        embed(&mut out, dialect);
    }
    out
}
