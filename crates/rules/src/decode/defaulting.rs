//! Defaults a custom schema declares.
//!
//! Invariants: only absent fields (and `null` ones that may not be null) are filled; defaults below a default apply too.

use serde_json::Value;

use crate::schema::Schema;

/// Fills in declared defaults.
pub fn apply_schema_defaults(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, field) in schema.fields() {
                let Some(default) = field.default() else {
                    continue;
                };
                let fill = match map.get(name) {
                    None => true,
                    Some(Value::Null) => !field.nullable(),
                    Some(_) => false,
                };
                if fill {
                    map.insert(name.to_owned(), default.clone());
                }
            }
            for (key, child) in map.iter_mut() {
                if let Some(below) = schema.child(key) {
                    if let Some(default) = below.default().filter(|_| child.is_null() && !below.nullable()) {
                        *child = default.clone();
                    }
                    apply_schema_defaults(child, &below);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                for item in list {
                    apply_schema_defaults(item, &items);
                }
            }
        }
        _ => {}
    }
}
