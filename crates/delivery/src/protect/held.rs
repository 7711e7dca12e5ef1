//! Whether a deletion is to be held back here, because the cluster may have nobody who does: elsewhere than with our own API,
//! admission knows nothing of protections unless the example policy is installed.
//!
//! Invariants: as our admission has it: what is annotated, and namespaces and definitions with such objects; what somebody confirmed is
//! let go; what is going already is nobody's question.

use futures::{StreamExt, TryStreamExt};
use resources::names::{CONFIRM_DELETE, DELETE_REASON, PROTECT};
use serde_json::Value;

use crate::api::{Api, ApiError};
use crate::kinds::Kinds;
use crate::object::{self, ObjectId};

/// How many kinds are looked through at once.
const AT_ONCE: usize = 8;

/// Whether the object itself is protected, and nobody confirmed its deletion.
pub fn is_held(live: &Value) -> bool {
    let said = |name: &str| object::annotation(live, name).unwrap_or_default();
    let confirmed = said(CONFIRM_DELETE) == object::name(live) && !said(DELETE_REASON).trim().is_empty();
    said(PROTECT) == "true" && !confirmed && live["metadata"]["deletionTimestamp"].is_null()
}

/// Why the object is not to be deleted; nothing where it may be.
///
/// # Errors
/// As the API answers. What may not be listed is passed over.
pub async fn why(api: &Api, kinds: &Kinds, live: &Value) -> Result<Option<String>, ApiError> {
    if is_held(live) {
        return Ok(Some("it is protected".to_owned()));
    }
    if !live["metadata"]["deletionTimestamp"].is_null() {
        return Ok(None);
    }
    let paths: Vec<String> = match (object::group(live), object::kind(live)) {
        ("", "Namespace") => kinds
            .preferred()
            .filter(|kind| kind.namespaced && kind.can("list") && kind.kind != "Event")
            .map(|kind| kind.path(Some(object::name(live)), None))
            .collect(),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let kind = kinds.of_group(&word(&live["spec"]["group"]), &word(&live["spec"]["names"]["kind"]));
            kind.map(|kind| kind.path(None, None)).into_iter().collect()
        }
        _ => return Ok(None),
    };
    let looks = futures::stream::iter(paths.into_iter().map(|path| async move { inside(api, &path).await }));
    let found: Vec<Option<ObjectId>> = looks.buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().min().map(|id| format!("it contains {id}, which is protected")))
}

/// A protected object of a collection.
async fn inside(api: &Api, path: &str) -> Result<Option<ObjectId>, ApiError> {
    let mut from: Option<String> = None;
    loop {
        let page = match api.page(path, "", 500, from.as_deref()).await {
            Ok(page) => page,
            Err(error) if matches!(error.code, Some(403..=405)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(held) = page.items.iter().find(|item| is_held(item)) {
            return Ok(Some(ObjectId::of(held)));
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_annotated_is_held_until_it_is_confirmed() {
        let with =
            |annotations: Value| json!({"kind": "ConfigMap", "metadata": {"name": "a", "annotations": annotations}});
        let cases = [
            (json!({}), false),
            (json!({PROTECT: "false"}), false),
            (json!({PROTECT: "true"}), true),
            (json!({PROTECT: "true", CONFIRM_DELETE: "a"}), true),
            (json!({PROTECT: "true", CONFIRM_DELETE: "b", DELETE_REASON: "moved"}), true),
            (json!({PROTECT: "true", CONFIRM_DELETE: "a", DELETE_REASON: "moved"}), false),
        ];
        for (annotations, held) in cases {
            assert_eq!(is_held(&with(annotations.clone())), held, "{annotations}");
        }
        let mut going = with(json!({PROTECT: "true"}));
        going["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
        assert!(!is_held(&going));
    }
}
