//! Validation of objects.
pub(crate) mod names;

use crate::field::FieldError;
use serde_json::Value;

/// What is wrong with an object about to be created.
pub fn create(api_version: &str, kind: &str, obj: &Value) -> Vec<FieldError> {
    let _ = (api_version, kind, obj);
    Vec::new()
}

/// What is wrong with a change of an object.
pub fn update(api_version: &str, kind: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let _ = (api_version, kind, old, new);
    Vec::new()
}

/// What is wrong with an object's metadata.
pub fn metadata(obj: &Value, namespaced: bool) -> Vec<FieldError> {
    let _ = (obj, namespaced);
    Vec::new()
}
