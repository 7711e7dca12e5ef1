//! Strategic merge patch: objects merge field by field, lists by the schema's merge key, with directives:
//!
//! - `$patch: replace|delete|merge` in an object or a list's item,
//! - `$setElementOrder/<list>`: the order of the result's items,
//! - `$deleteFromPrimitiveList/<list>`: values to take out of a list of scalars,
//! - `$retainKeys`: the only fields that may stay.
//!
//! Invariant: a list takes time by its length, not by the square of it.

use super::PatchError;
use crate::schema::Schema;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap, HashSet};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch to `doc`, merging lists as `schema` says.
pub fn strategic(doc: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(format!("a strategic merge patch must be an object, got {patch}")));
    };
    let empty = Map::new();
    let doc = doc.as_object().unwrap_or(&empty);
    Ok(Value::Object(merge_map(doc, patch, schema)?))
}

fn fail<T>(text: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Strategic(text.into()))
}

fn is_directive(name: &str) -> bool {
    name == PATCH || name == RETAIN_KEYS || name.starts_with(ORDER) || name.starts_with(DELETE_VALUES)
}

fn child(schema: &Schema, name: &str) -> Schema {
    schema.field(name).or_else(|| schema.values()).unwrap_or_else(Schema::any)
}

fn merge_map(
    original: &Map<String, Value>,
    patch: &Map<String, Value>,
    schema: &Schema,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => return Ok(plain_map(patch)),
        Some("delete") => return Ok(Map::new()),
        Some(other) => {
            return fail(format!("unknown patch type found: {other} in map: {}", Value::Object(patch.clone())));
        }
    }
    let mut result = original.clone();
    retain_keys(&mut result, patch)?;
    for (key, values) in patch {
        if let Some(name) = key.strip_prefix(DELETE_VALUES) {
            delete_values(&mut result, name, values)?;
        }
    }
    for (name, value) in patch {
        if is_directive(name) {
            continue;
        }
        merge_field(&mut result, original, name, value, schema)?;
    }
    for (key, order) in patch {
        if let Some(name) = key.strip_prefix(ORDER) {
            set_order(&mut result, original, patch, name, order, schema)?;
        }
    }
    Ok(result)
}

fn merge_field(
    result: &mut Map<String, Value>,
    original: &Map<String, Value>,
    name: &str,
    value: &Value,
    schema: &Schema,
) -> Result<(), PatchError> {
    let below = child(schema, name);
    let merged = match (result.get(name), value) {
        (_, Value::Null) => {
            result.remove(name);
            return Ok(());
        }
        // `$patch: delete` in a field's object takes the field away.
        (_, Value::Object(patch))
            if patch.get(PATCH).is_some_and(|directive| directive == "delete") && !original.is_empty() =>
        {
            result.remove(name);
            return Ok(());
        }
        (Some(Value::Object(before)), Value::Object(patch)) => Value::Object(merge_map(before, patch, &below)?),
        (Some(Value::Array(before)), Value::Array(patch)) if below.merge_list() => {
            Value::Array(merge_list(before, patch, &below, name)?)
        }
        (None | Some(Value::Null), Value::Object(patch)) => Value::Object(merge_map(&Map::new(), patch, &below)?),
        (None | Some(Value::Null), Value::Array(patch)) if below.merge_list() => {
            Value::Array(merge_list(&[], patch, &below, name)?)
        }
        (_, value) => plain(value),
    };
    result.insert(name.to_owned(), merged);
    Ok(())
}

/// A value taken over as it is, without directives and without nulls in objects.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(plain_map(fields)),
        Value::Array(items) => {
            Value::Array(items.iter().filter(|item| item.get(PATCH).is_none_or(|p| p != "delete")).map(plain).collect())
        }
        other => other.clone(),
    }
}

fn plain_map(fields: &Map<String, Value>) -> Map<String, Value> {
    fields
        .iter()
        .filter(|(name, value)| !value.is_null() && !is_directive(name))
        .map(|(name, value)| (name.clone(), plain(value)))
        .collect()
}

fn retain_keys(result: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Some(directive) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Some(keys) = directive.as_array() else {
        return fail("bad format for retainKeys: it must be a list of field names");
    };
    let kept: BTreeSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    if let Some(other) =
        patch.iter().find(|(name, value)| !name.starts_with('$') && !value.is_null() && !kept.contains(name.as_str()))
    {
        return fail(format!(
            "fields in retainKeys directive must contain all fields of the patch; {} is missing",
            other.0
        ));
    }
    result.retain(|name, _| kept.contains(name.as_str()));
    Ok(())
}

fn delete_values(result: &mut Map<String, Value>, name: &str, values: &Value) -> Result<(), PatchError> {
    let Some(values) = values.as_array() else {
        return fail(format!("bad format for {DELETE_VALUES}{name}: it must be a list"));
    };
    if let Some(Value::Array(list)) = result.get_mut(name) {
        let values: HashSet<&Value> = values.iter().collect();
        list.retain(|item| !values.contains(item));
    }
    Ok(())
}

fn merge_list(original: &[Value], patch: &[Value], schema: &Schema, name: &str) -> Result<Vec<Value>, PatchError> {
    let items = schema.items().unwrap_or_else(Schema::any);
    if !patch.iter().chain(original).any(Value::is_object) {
        let mut seen = HashSet::new();
        return Ok(original.iter().chain(patch).filter(|item| seen.insert(*item)).cloned().collect());
    }
    let Some(key) = schema.merge_key() else {
        return fail(format!("cannot merge the list {name}: its schema declares no merge key"));
    };
    let mut merged = original.to_vec();
    let mut replace = false;
    let (mut plain_items, mut deleted) = (Vec::new(), HashSet::new());
    for item in patch {
        let Value::Object(fields) = item else {
            return fail(format!("invalid item {item} in the list {name}: all items must be objects"));
        };
        match fields.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
            None | Some("merge") => plain_items.push(fields),
            Some("replace") => {
                replace = true;
                if fields.len() > 1 {
                    plain_items.push(fields);
                }
            }
            Some("delete") => {
                deleted.insert(key_of(fields, key)?);
            }
            Some(other) => return fail(format!("unknown patch type found: {other} in the list {name}")),
        }
    }
    if replace {
        return Ok(plain_items.into_iter().map(|fields| Value::Object(plain_map(fields))).collect());
    }
    merged.retain(|item| item.get(key).is_none_or(|is| !deleted.contains(is)));
    // Of items with the same key, the first counts.
    let mut places: HashMap<Value, usize> = HashMap::new();
    for (place, item) in merged.iter().enumerate() {
        if let Some(is) = item.get(key) {
            places.entry(is.clone()).or_insert(place);
        }
    }
    for fields in plain_items {
        let wanted = key_of(fields, key)?;
        match places.get(wanted).and_then(|place| merged.get_mut(*place)) {
            Some(Value::Object(before)) => *before = merge_map(before, fields, &items)?,
            _ => {
                let new = merge_map(&Map::new(), fields, &items)?;
                if let Some(is) = new.get(key) {
                    places.entry(is.clone()).or_insert(merged.len());
                }
                merged.push(Value::Object(new));
            }
        }
    }
    Ok(merged)
}

fn key_of<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<&'a Value, PatchError> {
    fields.get(key).ok_or_else(|| {
        PatchError::Strategic(format!(
            "map: {} does not contain declared merge key: {key}",
            Value::Object(fields.clone())
        ))
    })
}

/// Where each value is first.
fn first_places(values: &[Value]) -> HashMap<&Value, usize> {
    let mut places = HashMap::new();
    for (place, value) in values.iter().enumerate() {
        places.entry(value).or_insert(place);
    }
    places
}

/// Orders a merged list: what the directive names in its order, what only the server has where it stood.
fn set_order(
    result: &mut Map<String, Value>,
    original: &Map<String, Value>,
    patch: &Map<String, Value>,
    name: &str,
    order: &Value,
    schema: &Schema,
) -> Result<(), PatchError> {
    let below = child(schema, name);
    let key = below.merge_key().map(str::to_owned);
    let identity = |item: &Value| match (&key, item) {
        (Some(key), Value::Object(fields)) => fields.get(key).cloned().unwrap_or(Value::Null),
        (_, scalar) => scalar.clone(),
    };
    let Some(order) = order.as_array() else {
        return fail(format!("bad format for {ORDER}{name}: it must be a list"));
    };
    let order: Vec<Value> = order.iter().map(identity).collect();
    let ordered = first_places(&order);
    let is_deleted =
        |item: &Value| item.get(PATCH).is_some_and(|directive| directive == "delete" || directive == "replace");
    for item in patch.get(name).and_then(Value::as_array).into_iter().flatten().filter(|item| !is_deleted(item)) {
        if !ordered.contains_key(&identity(item)) {
            return fail(format!(
                "The order in patch list:\n{}\n doesn't match {ORDER}{name} list:\n{}\n",
                patch[name],
                Value::Array(order)
            ));
        }
    }
    let Some(Value::Array(merged)) = result.get_mut(name) else { return Ok(()) };
    let before: Vec<Value> = original.get(name).and_then(Value::as_array).into_iter().flatten().map(identity).collect();
    let stood = first_places(&before);
    let position = |item: &Value| stood.get(&identity(item)).copied();
    let (mut named, server_only): (Vec<Value>, Vec<Value>) =
        merged.drain(..).partition(|item| ordered.contains_key(&identity(item)));
    named.sort_by_cached_key(|item| ordered.get(&identity(item)).copied());
    let mut server_only = server_only.into_iter().peekable();
    for item in named {
        // New items come after what the server alone has; known ones where they stood.
        while let Some(other) = server_only.next_if(|other| match (position(&item), position(other)) {
            (Some(ours), Some(theirs)) => theirs < ours,
            _ => true,
        }) {
            merged.push(other);
        }
        merged.push(item);
    }
    merged.extend(server_only);
    Ok(())
}
