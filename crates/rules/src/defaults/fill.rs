//! Filling in what is absent.

use serde_json::{Map, Value};

/// Sets a field of an object unless it is set. Null counts as absent.
pub(super) fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), value.into());
    }
}

/// As [`set`], where the empty string counts as absent too.
pub(super) fn set_text(object: &mut Value, name: &str, value: &str) {
    let Some(fields) = object.as_object_mut() else { return };
    if fields.get(name).is_none_or(|old| old.is_null() || old == "") {
        fields.insert(name.to_owned(), value.into());
    }
}

/// As [`set`], where zero counts as absent too.
pub(super) fn set_number(object: &mut Value, name: &str, value: i64) {
    let Some(fields) = object.as_object_mut() else { return };
    if fields.get(name).is_none_or(|old| old.is_null() || old == 0) {
        fields.insert(name.to_owned(), value.into());
    }
}

/// Sets a field of the object under `parent`, which is made when it is absent.
pub(super) fn set_in(object: &mut Value, parent: &str, name: &str, value: impl Into<Value>) {
    set(object, parent, Map::new());
    if let Some(parent) = object.get_mut(parent) {
        set(parent, name, value);
    }
}

/// Does something with every item of the list at `pointer`.
pub(super) fn each(object: &mut Value, pointer: &str, mut change: impl FnMut(&mut Value)) {
    if let Some(Value::Array(items)) = object.pointer_mut(pointer) {
        items.iter_mut().for_each(&mut change);
    }
}

/// Removes every field whose value is null, at any depth.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
