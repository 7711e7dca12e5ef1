//! What can be done to objects, and the steps that writes share.
//!
//! Invariant: a plan (what would be stored) is made by functions without IO; only the loops here read and write the store.

pub(crate) mod change;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod patch;
pub(crate) mod update;

use rules::apply::Manager;
use rules::field::FieldError;
use serde_json::Value;
use store::WriteError;

use crate::call::Call;
use crate::catalog::Resource;
use crate::object;
use crate::status::{Answer, Failure};

/// How often a write is tried again when another came between.
const TRIES: usize = 16;

/// Fills in what the API promises when a field is left out.
pub(crate) fn default(resource: &Resource, object: &mut Value) {
    if resource.custom.is_some() {
        rules::decode::apply_schema_defaults(object, &resource.schema);
    } else {
        rules::defaults::apply(&resource.api_version, &resource.kind, object);
    }
}

/// Holds an object to the rules of its kind.
pub(crate) fn validate(resource: &Resource, old: Option<&Value>, new: &Value) -> Answer<()> {
    let errors: Vec<FieldError> = match (&resource.custom, old) {
        (Some(_), old) => {
            let mut errors = rules::validate::metadata(new, resource.namespaced);
            // What is stored was valid when it was written; a definition that became stricter does not stop its deletion.
            if old.is_none_or(|old| !object::is_terminating(old)) {
                errors.extend(rules::decode::validate_schema(new, &resource.schema));
            }
            errors
        }
        (None, None) => rules::validate::create(&resource.api_version, &resource.kind, new),
        (None, Some(old)) => rules::validate::update(&resource.api_version, &resource.kind, old, new),
    };
    if errors.is_empty() { Ok(()) } else { Err(Failure::invalid(resource, object::name(new), &errors)) }
}

/// Says who writes, to `rules::apply`.
pub(crate) fn with_manager<T>(
    call: &Call,
    resource: &Resource,
    subresource: &str,
    use_it: impl FnOnce(&Manager<'_>) -> T,
) -> T {
    let (name, now) = (call.manager(), object::time(call.now));
    use_it(&Manager {
        name: &name,
        api_version: &resource.api_version,
        subresource,
        now: &now,
        reset: rules::meta::reset_fields(subresource, resource.status),
    })
}

/// A failed write that was not a lost race.
pub(crate) fn store_failure(error: &WriteError) -> Failure {
    match error {
        WriteError::TooLarge { size, limit, .. } => {
            Failure::new(413, "RequestEntityTooLarge", format!("the object has {size} bytes; {limit} can be stored"))
        }
        // Not something to try again soon, so nothing that clients repeat by themselves.
        WriteError::Full { .. } => Failure::new(507, "InternalError", error.to_string()),
        WriteError::Closed { .. } => Failure::unavailable(&error.to_string()),
        other => Failure::internal(other.to_string()),
    }
}
