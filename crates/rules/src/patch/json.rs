//! JSON Patch and JSON merge patch, which need no schema.

use super::PatchError;
use serde_json::Value;

/// More operations than this in one JSON Patch are refused, as Kubernetes does.
const MOST_OPERATIONS: usize = 10_000;

/// Applies a JSON Patch (RFC 6902).
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| PatchError::Malformed(error.to_string()))?;
    if operations.0.len() > MOST_OPERATIONS {
        return Err(PatchError::Malformed(format!(
            "the allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
            operations.0.len()
        )));
    }
    let mut result = doc.clone();
    json_patch::patch(&mut result, &operations).map_err(|error| describe(&error, patch))?;
    Ok(result)
}

/// Says which operation failed, in the words clients know from Kubernetes.
fn describe(error: &json_patch::PatchError, patch: &Value) -> PatchError {
    let operation = &patch[error.operation];
    let verb = operation["op"].as_str().unwrap_or("unknown");
    let path = operation["path"].as_str().unwrap_or("");
    PatchError::Operation(match error.kind {
        json_patch::PatchErrorKind::TestFailed => {
            format!("the server rejected our request due to an error in our request: testing value {path} failed")
        }
        _ => format!("{verb} operation does not apply: doc is missing path: \"{path}\": missing value"),
    })
}

/// Applies a JSON merge patch (RFC 7386): null removes, objects merge, anything else replaces.
pub fn merge_patch(doc: &Value, patch: &Value) -> Value {
    let mut result = doc.clone();
    json_patch::merge(&mut result, patch);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations() {
        let doc = json!({"a": 1, "list": [1, 2]});
        for (patch, wanted) in [
            (json!([]), json!({"a": 1, "list": [1, 2]})),
            (
                json!([{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": 2}]),
                json!({"a": 2, "list": [1, 2]}),
            ),
            (json!([{"op": "add", "path": "/list/-", "value": 3}]), json!({"a": 1, "list": [1, 2, 3]})),
            (json!([{"op": "remove", "path": "/list/0"}]), json!({"a": 1, "list": [2]})),
            (json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1, "list": [1, 2]})),
            (json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1, "list": [1, 2]})),
        ] {
            assert_eq!(json_patch(&doc, &patch), Ok(wanted), "{patch}");
        }
    }

    #[test]
    fn refused_operations_name_the_path_and_change_nothing() {
        let doc = json!({"a": 1});
        for (patch, part) in [
            (json!([{"op": "test", "path": "/a", "value": 2}]), "testing value /a failed"),
            (
                json!([{"op": "remove", "path": "/missing"}]),
                "remove operation does not apply: doc is missing path: \"/missing\"",
            ),
            (json!([{"op": "replace", "path": "/missing", "value": 1}]), "replace operation does not apply"),
            (json!([{"op": "sing", "path": "/a"}]), "error decoding patch"),
            (json!({"op": "add"}), "error decoding patch"),
        ] {
            let error = json_patch(&doc, &patch).expect_err("must be refused").to_string();
            assert!(error.contains(part), "{error}");
        }
        let many: Vec<_> = (0..10_001).map(|_| json!({"op": "test", "path": "/a", "value": 1})).collect();
        assert!(matches!(json_patch(&doc, &Value::Array(many)), Err(PatchError::Malformed(_))));
    }

    #[test]
    fn merging() {
        for (doc, patch, wanted) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merge_patch(&doc, &patch), wanted);
        }
    }
}
