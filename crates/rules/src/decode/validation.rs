//! What a custom schema demands of a value: types, required fields, ranges, patterns, list keys, alternatives.
//!
//! Invariants: every finding carries its path; the number of findings is bounded; the schema's alternatives
//! (`allOf`, `anyOf`, `oneOf`, `not`) only judge, they never change what is known.

use std::collections::HashSet;

use serde_json::Value;

use super::fields::{with_index, with_key};
use crate::field::{FieldError, FieldErrorKind};
use crate::schema::{Bound, Constraints, ListType, Schema, Shape};

/// Most findings that are reported.
const MAX_FINDINGS: usize = 100;

/// Every way in which the value breaks its schema.
pub fn validate_schema(value: &Value, schema: &Schema) -> Vec<FieldError> {
    let mut found = Vec::new();
    judge(value, schema, &mut String::new(), &mut found);
    found.truncate(MAX_FINDINGS);
    found
}

fn judge(value: &Value, schema: &Schema, path: &mut String, found: &mut Vec<FieldError>) {
    if found.len() > MAX_FINDINGS || (value.is_null() && schema.nullable()) {
        return;
    }
    if let Some(expected) = wrong_type(value, schema) {
        let kind = FieldErrorKind::TypeInvalid;
        let detail = format!("{path} in body must be of type {expected}: \"{}\"", type_name(value));
        found.push(FieldError::new(kind, path.as_str(), Some(Value::from(type_name(value))), detail));
        return;
    }
    match value {
        Value::Object(map) => {
            for name in schema.required() {
                if !map.contains_key(name) {
                    with_key(path, name, |path| found.push(FieldError::required(path.as_str(), "")));
                }
            }
            for (key, child) in map {
                match schema.child(key) {
                    Some(below) => with_key(path, key, |path| judge(child, &below, path, found)),
                    None if schema.constraints().is_some_and(|c| c.closed) => {
                        with_key(path, key, |path| {
                            found.push(FieldError::forbidden(path.as_str(), "unknown field"));
                        });
                    }
                    None => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                for (at, item) in list.iter().enumerate() {
                    with_index(path, at, |path| judge(item, &items, path, found));
                }
            }
            unique_items(list, schema, path, found);
        }
        _ => {}
    }
    if let Some(string) = value.as_str() {
        check_format(string, schema, path, found);
    }
    if let Some(constraints) = schema.constraints() {
        bounds(value, constraints, path, found);
        alternatives(value, schema, constraints, path, found);
    }
}

fn wrong_type(value: &Value, schema: &Schema) -> Option<&'static str> {
    let (fits, expected) = match schema.shape() {
        Shape::Object | Shape::Map => (value.is_object(), "object"),
        Shape::List => (value.is_array(), "array"),
        Shape::String => (value.is_string(), "string"),
        Shape::Integer => {
            (value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0), "integer")
        }
        Shape::Number => (value.is_number(), "number"),
        Shape::Boolean => (value.is_boolean(), "boolean"),
        Shape::IntOrString => (value.is_string() || value.is_i64() || value.is_u64(), "integer,string"),
        Shape::Any => return None,
    };
    (!fits).then_some(expected)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Sets and keyed lists hold each item once.
fn unique_items(list: &[Value], schema: &Schema, path: &mut String, found: &mut Vec<FieldError>) {
    let keys = match schema.list_type() {
        ListType::Atomic if schema.constraints().is_some_and(|c| c.unique_items) => None,
        ListType::Atomic => return,
        ListType::Set => None,
        ListType::Map(keys) => Some(keys),
    };
    let mut seen = HashSet::new();
    for (at, item) in list.iter().enumerate() {
        let identity = match keys {
            None => item.clone(),
            Some(keys) => {
                let items = schema.items();
                let of = |key: &String| {
                    let default = || items.as_ref()?.field(key)?.default().cloned();
                    item.get(key).cloned().or_else(default)
                };
                Value::Object(keys.iter().filter_map(|k| Some((k.clone(), of(k)?))).collect())
            }
        };
        if !seen.insert(identity.to_string()) {
            with_index(path, at, |path| {
                found.push(FieldError::duplicate(path.as_str(), identity));
            });
        }
    }
}

fn bounds(value: &Value, constraints: &Constraints, at: &str, found: &mut Vec<FieldError>) {
    if let Some(allowed) = constraints.allowed.as_ref().filter(|allowed| !allowed.contains(value)) {
        let listed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let detail = format!("supported values: {}", listed.join(", "));
        let kind = FieldErrorKind::NotSupported;
        found.push(FieldError::new(kind, at, Some(value.clone()), detail));
    }
    match value {
        Value::String(text) => text_bounds(text, constraints, at, found),
        Value::Number(number) => number_bounds(number.as_f64().unwrap_or(f64::NAN), value, constraints, at, found),
        Value::Array(list) => count(list.len(), constraints.min_items, constraints.max_items, "items", at, found),
        Value::Object(map) => {
            count(map.len(), constraints.min_properties, constraints.max_properties, "properties", at, found);
        }
        _ => {}
    }
}

fn text_bounds(text: &str, constraints: &Constraints, at: &str, found: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    if let Some(limit) = constraints.max_length.filter(|limit| length > *limit) {
        let detail = format!("may not be more than {limit} bytes");
        found.push(FieldError::new(FieldErrorKind::TooLong, at, None, detail));
    }
    if let Some(limit) = constraints.min_length.filter(|limit| length < *limit) {
        let detail = format!("{at} in body should be at least {limit} chars long");
        found.push(FieldError::invalid(at, text, detail));
    }
    if let Some(pattern) = constraints.pattern.as_ref().filter(|p| !p.is_match(text)) {
        let detail = format!("{at} in body should match '{pattern}'");
        found.push(FieldError::invalid(at, text, detail));
    }
}

fn number_bounds(number: f64, value: &Value, constraints: &Constraints, at: &str, found: &mut Vec<FieldError>) {
    let mut complain = |detail: String| found.push(FieldError::invalid(at, value.clone(), detail));
    let outside = |b: &Bound| number < b.limit || (b.exclusive && number == b.limit);
    if let Some(bound) = constraints.minimum.filter(outside) {
        let or = if bound.exclusive { "" } else { " or equal to" };
        complain(format!("{at} in body should be greater than{or} {}", bound.limit));
    }
    let outside = |b: &Bound| number > b.limit || (b.exclusive && number == b.limit);
    if let Some(bound) = constraints.maximum.filter(outside) {
        let or = if bound.exclusive { "" } else { " or equal to" };
        complain(format!("{at} in body should be less than{or} {}", bound.limit));
    }
    if let Some(step) = constraints.multiple_of {
        let ratio = number / step;
        if (ratio - ratio.round()).abs() > 1e-9 {
            complain(format!("{at} in body should be a multiple of {step}"));
        }
    }
}

fn count(actual: usize, min: Option<u64>, max: Option<u64>, what: &str, at: &str, found: &mut Vec<FieldError>) {
    if let Some(limit) = max.filter(|limit| actual as u64 > *limit) {
        let detail = format!("must have at most {limit} {what}");
        let value = Some(Value::from(actual));
        found.push(FieldError::new(FieldErrorKind::TooMany, at, value, detail));
    }
    if let Some(limit) = min.filter(|limit| (actual as u64) < *limit) {
        let detail = format!("{at} in body should have at least {limit} {what}");
        found.push(FieldError::invalid(at, actual, detail));
    }
}

/// The formats whose violation upstream refuses; unknown formats are only documentation.
fn check_format(text: &str, schema: &Schema, path: &mut String, found: &mut Vec<FieldError>) {
    let fits = match schema.format() {
        Some("date-time") => text.parse::<jiff::Timestamp>().is_ok(),
        Some("date") => text.parse::<jiff::civil::Date>().is_ok(),
        Some("ipv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("ipv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
        Some("byte") => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        Some("uuid") => is_uuid(text),
        _ => true,
    };
    if !fits {
        let format = schema.format().unwrap_or_default();
        let detail = format!("{path} in body must be of type {format}: {text:?}");
        found.push(FieldError::invalid(path.as_str(), text, detail));
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn alternatives(
    value: &Value,
    schema: &Schema,
    constraints: &Constraints,
    path: &mut String,
    found: &mut Vec<FieldError>,
) {
    for id in &constraints.all_of {
        judge(value, &schema.wrap(*id), path, found);
    }
    let mut fits = |id: &crate::schema::NodeId| {
        let mut inner = Vec::new();
        judge(value, &schema.wrap(*id), path, &mut inner);
        inner.is_empty()
    };
    let any = constraints.any_of.is_empty() || constraints.any_of.iter().any(&mut fits);
    let one = constraints.one_of.is_empty() || constraints.one_of.iter().filter(|id| fits(id)).count() == 1;
    let not = constraints.not.as_ref().is_some_and(&mut fits);
    let at = path.as_str();
    let mut complain = |text: &str| {
        found.push(FieldError::invalid(at, value.clone(), format!("{at} in body {text}")));
    };
    if !any {
        complain("must validate at least one schema (anyOf)");
    }
    if !one {
        complain("must validate one and only one schema (oneOf)");
    }
    if not {
        complain("must not validate the schema (not)");
    }
}
