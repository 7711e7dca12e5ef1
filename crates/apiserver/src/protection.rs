//! What may not be deleted by a slip: objects that carry `coracle.dev/protect: "true"`.
//!
//! Invariants: a protected object is deleted only after somebody wrote its own name and a reason on it; the protection
//! itself cannot be taken off in another way; a namespace or a definition that holds protected objects is protected as
//! well. Whoever asks: kubectl, a sync, a controller, with or without `--force`.

use resources::names::{CONFIRM_DELETE, DELETE_REASON, PROTECT};
use serde_json::Value;

use crate::admission::Write;
use crate::call::Call;
use crate::catalog::Resource;
use crate::object;
use crate::server::Server;
use crate::status::{Answer, Failure};

fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"]["annotations"][name].as_str().unwrap_or_default()
}

fn is_protected(object: &Value) -> bool {
    annotation(object, PROTECT) == "true"
}

/// Whether somebody wrote the object's own name and a reason on it.
fn is_confirmed(object: &Value) -> bool {
    annotation(object, CONFIRM_DELETE) == object::name(object) && !annotation(object, DELETE_REASON).trim().is_empty()
}

/// Refuses a deletion that nobody confirmed.
pub(crate) fn hold(server: &Server, resource: &Resource, namespace: Option<&str>, current: &Value) -> Answer<()> {
    if object::is_terminating(current) || is_confirmed(current) {
        return Ok(());
    }
    let why = if is_protected(current) {
        // What was confirmed for the whole holds for its parts.
        let whole_goes = namespace.is_some_and(|namespace| is_going(server, namespace))
            || resource.custom.as_ref().is_some_and(|custom| custom.terminating);
        if whole_goes {
            return Ok(());
        }
        "it is protected".to_owned()
    } else if let Some(inside) = protected_inside(server, resource, object::name(current))? {
        format!("it contains {inside}, which is protected")
    } else {
        return Ok(());
    };
    let name = object::name(current);
    let how = format!(
        "{why}; to delete it nevertheless, annotate it with {CONFIRM_DELETE}={name} and {DELETE_REASON}=WHY first, or use \
         `coracle delete {}/{name} --confirm-delete {name} --reason WHY`",
        resource.kind.to_lowercase()
    );
    Err(Failure::forbidden(resource, name, &how))
}

/// Whether the namespace is being deleted.
fn is_going(server: &Server, namespace: &str) -> bool {
    let catalog = server.catalog.load();
    let namespaces = catalog.core("namespaces");
    let entry = server.store.get(&namespaces.key(None, namespace)).0;
    entry.and_then(|entry| object::read(namespaces, &entry).ok()).is_some_and(|found| object::is_terminating(&found))
}

/// A protected object that would go with a namespace or a definition.
fn protected_inside(server: &Server, resource: &Resource, name: &str) -> Answer<Option<String>> {
    let of_namespace = resource.is("", "namespaces");
    if !of_namespace && !resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        return Ok(None);
    }
    let catalog = server.catalog.load();
    for inner in catalog.resources() {
        let concerned = match of_namespace {
            true => inner.namespaced,
            false => inner.custom.as_ref().is_some_and(|custom| custom.definition == name),
        };
        if !concerned {
            continue;
        }
        let prefix = inner.keys_in(of_namespace.then_some(name));
        let listing =
            server.store.list(&prefix, None, 0, None).map_err(|error| Failure::internal(error.to_string()))?;
        for entry in listing.entries {
            // Only what says the word at all is read.
            let word = PROTECT.as_bytes();
            if !entry.value.windows(word.len()).any(|bytes| bytes == word) {
                continue;
            }
            let found = object::read(inner, &entry)?;
            if is_protected(&found) && !is_confirmed(&found) {
                return Ok(Some(format!("{}/{}", inner.kind.to_lowercase(), object::name(&found))));
            }
        }
    }
    Ok(None)
}

/// Puts a protection back that a write leaves out or takes off without a confirmation.
pub(crate) fn carry(write: &Write<'_>, call: &mut Call, new: &mut Value) -> Answer<()> {
    let Some(old) = write.old.filter(|old| is_protected(old)) else { return Ok(()) };
    if is_protected(new) || is_confirmed(new) || is_confirmed(old) {
        return Ok(());
    }
    call.warn(format!(
        "{PROTECT} stays on {}/{}: it is taken off only together with {CONFIRM_DELETE}={} and {DELETE_REASON}=WHY",
        write.resource.kind.to_lowercase(),
        object::name(old),
        object::name(old)
    ));
    let Some(metadata) = object::metadata_mut(new) else { return Ok(()) };
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(serde_json::Map::new()));
    if annotations.is_null() {
        *annotations = Value::Object(serde_json::Map::new());
    }
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(PROTECT.to_owned(), "true".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_confirmation_is_the_name_and_a_reason() {
        let with = |annotations: Value| json!({"metadata": {"name": "data", "annotations": annotations}});
        let cases = [
            (json!({}), false),
            (json!({CONFIRM_DELETE: "data"}), false),
            (json!({CONFIRM_DELETE: "data", DELETE_REASON: " "}), false),
            (json!({CONFIRM_DELETE: "other", DELETE_REASON: "moved"}), false),
            (json!({CONFIRM_DELETE: "data", DELETE_REASON: "moved"}), true),
        ];
        for (annotations, wanted) in cases {
            assert_eq!(is_confirmed(&with(annotations.clone())), wanted, "{annotations}");
        }
    }
}
