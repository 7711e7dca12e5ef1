//! A value against the fields of its schema: what is unknown, what has the wrong type, what to drop.
//!
//! Invariants: walks value and schema together, never deeper than the value; `null` counts as absent; what a schema
//! preserves is not looked into.

use serde_json::Value;

use crate::field::FieldError;
use crate::schema::{Schema, Shape};

/// Most findings of one sort that are reported.
const MAX_FINDINGS: usize = 100;

/// What strict decoding found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldReport {
    /// One entry per field the schema does not know: `unknown field "spec.foo"`.
    pub unknown: Vec<String>,
    /// Values of another JSON type than their field.
    pub mistyped: Vec<FieldError>,
}

/// Upstream's message for what strict validation refuses; `None` when there is nothing to refuse.
pub fn strict_message(unknown: &[String], duplicates: &[String]) -> Option<String> {
    if unknown.is_empty() && duplicates.is_empty() {
        return None;
    }
    let all: Vec<&str> = unknown.iter().chain(duplicates).map(String::as_str).collect();
    Some(format!("strict decoding error: {}", all.join(", ")))
}

/// Finds unknown fields and values of the wrong type.
pub fn check_fields(value: &Value, schema: &Schema) -> FieldReport {
    let mut report = FieldReport::default();
    check(value, schema, &mut String::new(), &mut report);
    report
}

/// Runs `below` with `path` extended by a key.
pub(super) fn with_key<R>(path: &mut String, key: &str, below: impl FnOnce(&mut String) -> R) -> R {
    let length = path.len();
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
    let result = below(path);
    path.truncate(length);
    result
}

/// Runs `below` with `path` extended by a position.
pub(super) fn with_index<R>(path: &mut String, at: usize, below: impl FnOnce(&mut String) -> R) -> R {
    let length = path.len();
    path.push_str(&format!("[{at}]"));
    let result = below(path);
    path.truncate(length);
    result
}

fn check(value: &Value, schema: &Schema, path: &mut String, report: &mut FieldReport) {
    if value.is_null() {
        return;
    }
    if let Some(expected) = mismatch(value, schema) {
        if report.mistyped.len() < MAX_FINDINGS {
            let detail = format!("must be {expected}, not {}", json_type(value));
            report.mistyped.push(FieldError::type_invalid(path.as_str(), value.clone(), detail));
        }
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                match schema.child(key) {
                    Some(below) => with_key(path, key, |path| check(child, &below, path, report)),
                    None if knows_all_fields(schema) && report.unknown.len() < MAX_FINDINGS => {
                        with_key(path, key, |path| {
                            report.unknown.push(format!("unknown field \"{path}\""));
                        });
                    }
                    None => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                for (at, item) in list.iter().enumerate() {
                    with_index(path, at, |path| check(item, &items, path, report));
                }
            }
        }
        _ => {}
    }
}

/// Whether a field the schema does not name is unknown rather than free.
fn knows_all_fields(schema: &Schema) -> bool {
    schema.shape() == Shape::Object && !schema.preserve_unknown()
}

/// What the value should have been, if it is something else.
fn mismatch(value: &Value, schema: &Schema) -> Option<&'static str> {
    let (fits, expected) = match schema.shape() {
        Shape::Object | Shape::Map => (value.is_object(), "an object"),
        Shape::List => (value.is_array(), "a list"),
        Shape::String => (value.is_string(), "a string"),
        Shape::Integer if schema.format() == Some("int32") => {
            (value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()), "a whole number of 32 bits")
        }
        Shape::Integer => (value.is_i64() || value.is_u64(), "a whole number"),
        Shape::Number => (value.is_number(), "a number"),
        Shape::Boolean => (value.is_boolean(), "true or false"),
        Shape::IntOrString => (value.is_string() || value.is_number(), "a number or a string"),
        Shape::Any => return None,
    };
    (!fits).then_some(expected)
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Removes the fields the schema does not know.
pub fn prune(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            if knows_all_fields(schema) && schema.values().is_none() {
                map.retain(|key, _| schema.field(key).is_some());
            }
            for (key, child) in map.iter_mut() {
                if let Some(below) = schema.child(key) {
                    prune(child, &below);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                for item in list {
                    prune(item, &items);
                }
            }
        }
        _ => {}
    }
}

/// Removes `null` fields that mean "absent": all but the nullable ones and those inside free-form parts.
pub fn drop_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            map.retain(|key, child| {
                !child.is_null()
                    || match schema.child(key) {
                        Some(below) => below.nullable() || below.shape() == Shape::Any,
                        None => true,
                    }
            });
            for (key, child) in map.iter_mut() {
                if let Some(below) = schema.child(key) {
                    drop_nulls(child, &below);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                for item in list {
                    drop_nulls(item, &items);
                }
            }
        }
        _ => {}
    }
}
