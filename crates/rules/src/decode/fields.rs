//! A value against the fields of its schema: what is unknown, what has the wrong type, what to drop.
//!
//! Invariants: walks value and schema together, never deeper than the value; `null` counts as absent; what a schema
//! preserves is not looked into.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
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
        refuse(value, expected, path, report);
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
                // A field may be null and so absent; an item may not.
                let nullable = items.nullable() || items.shape() == Shape::Any;
                for (at, item) in list.iter().enumerate() {
                    with_index(path, at, |path| match item {
                        Value::Null if !nullable => refuse(item, "a value", path, report),
                        _ => check(item, &items, path, report),
                    });
                }
            }
        }
        _ => {}
    }
}

fn refuse(value: &Value, expected: &str, path: &str, report: &mut FieldReport) {
    if report.mistyped.len() < MAX_FINDINGS {
        let detail = format!("must be {expected}, not {}", json_type(value));
        report.mistyped.push(FieldError::type_invalid(path, value.clone(), detail));
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
        Shape::String => return text_mismatch(value, schema.format()),
        Shape::Integer if schema.format() == Some("int32") => (is_i32(value), "a whole number of 32 bits"),
        Shape::Integer => (value.is_i64(), "a whole number of 64 bits"),
        Shape::Number => (value.is_number(), "a number"),
        Shape::Boolean => (value.is_boolean(), "true or false"),
        Shape::IntOrString if schema.format() == Some("quantity") => {
            (is_quantity(value), "a quantity such as 500m, 2 or 1Gi")
        }
        Shape::IntOrString => (value.is_string() || is_i32(value), "a whole number or a string"),
        Shape::Any => return None,
    };
    (!fits).then_some(expected)
}

fn text_mismatch(value: &Value, format: Option<&str>) -> Option<&'static str> {
    let Some(text) = value.as_str() else {
        return Some("a string");
    };
    match format {
        Some("date-time") if text.parse::<jiff::Timestamp>().is_err() => Some("a time such as 2006-01-02T15:04:05Z"),
        Some("byte") if STANDARD.decode(text).is_err() => Some("base64"),
        _ => None,
    }
}

fn is_i32(value: &Value) -> bool {
    value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
}

fn is_quantity(value: &Value) -> bool {
    static QUANTITY: LazyLock<Regex> = LazyLock::new(|| {
        let pattern = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$";
        Regex::new(pattern).expect("the pattern of quantities is well-formed")
    });
    value.is_number() || value.as_str().is_some_and(|text| QUANTITY.is_match(text))
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

/// Brings a decoded value into the form that is stored: no `null` that means "absent", every quantity as text.
pub fn normalize(value: &mut Value, schema: &Schema) {
    drop_nulls(value, schema);
    spell_quantities(value, schema);
}

fn spell_quantities(value: &mut Value, schema: &Schema) {
    match value {
        Value::Number(number) if schema.format() == Some("quantity") => {
            *value = Value::from(number.to_string());
        }
        Value::Object(map) => {
            for (key, child) in map.iter_mut() {
                if let Some(below) = schema.child(key) {
                    spell_quantities(child, &below);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                for item in list {
                    spell_quantities(item, &items);
                }
            }
        }
        _ => {}
    }
}
