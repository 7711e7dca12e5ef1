//! JSON Patch and JSON merge patch, which need no schema.

use json_patch::PatchOperation;
use serde_json::Value;

use super::PatchError;
use crate::decode::{MAX_BYTES, MAX_DEPTH, measure};

/// More operations than this in one JSON Patch are refused, as Kubernetes does.
const MOST_OPERATIONS: usize = 10_000;

/// The most bytes that one JSON Patch may copy: each copy can double what there is. Kubernetes has the same limit, that of a request.
const MOST_COPIED: usize = MAX_BYTES;
/// The most bytes that one JSON Patch may move.
const MOST_MOVED: usize = 20 * MAX_BYTES;

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
    let (mut copied, mut moved) = (0, 0);
    for (number, operation) in operations.0.iter().enumerate() {
        let (spent, most, what) = match operation {
            PatchOperation::Copy(_) => (&mut copied, MOST_COPIED, "copied"),
            _ => (&mut moved, MOST_MOVED, "moved"),
        };
        *spent += weigh(&result, operation, most - *spent)?;
        if *spent > most {
            let why = format!(
                "more than {most} bytes would be {what} by the patch; send several, or the object as it is to be"
            );
            return Err(PatchError::Operation(why));
        }
        json_patch::patch_unsafe(&mut result, std::slice::from_ref(operation))
            .map_err(|error| describe(&error, &patch[number]))?;
    }
    if measure(&result, usize::MAX).depth > MAX_DEPTH { Err(too_deep()) } else { Ok(result) }
}

fn too_deep() -> PatchError {
    PatchError::Operation(format!("the object would be nested deeper than {MAX_DEPTH} levels"))
}

/// How many bytes an operation takes from the document, up to a little more than `most`. It refuses what would dig deeper than is ever allowed, before
/// that is done: what is nested too deep can't even be thrown away.
fn weigh(doc: &Value, operation: &PatchOperation, most: usize) -> Result<usize, PatchError> {
    let steps = |path: &str| path.matches('/').count();
    let (from, path) = match operation {
        PatchOperation::Copy(copy) => (Some(copy.from.as_str()), copy.path.as_str()),
        PatchOperation::Move(moving) => (Some(moving.from.as_str()), moving.path.as_str()),
        PatchOperation::Add(add) => (None, add.path.as_str()),
        PatchOperation::Replace(replace) => (None, replace.path.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(0),
    };
    let taken = from.and_then(|from| doc.pointer(from)).map(|value| measure(value, most));
    let depth = steps(path) + taken.map_or(0, |taken| taken.depth);
    if depth > MAX_DEPTH { Err(too_deep()) } else { Ok(taken.map_or(0, |taken| taken.bytes)) }
}

/// Says which operation failed, in the words clients know from Kubernetes.
fn describe(error: &json_patch::PatchError, operation: &Value) -> PatchError {
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
    fn a_patch_neither_multiplies_nor_digs() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        let doubling: Vec<Value> =
            (0..16).map(|number| json!({ "op": "copy", "from": "/a", "path": format!("/a/{number}") })).collect();
        let digging: Vec<Value> =
            (1..150).map(|level| json!({ "op": "add", "path": "/a".repeat(level), "value": {} })).collect();
        let moving: Vec<Value> = (0..150)
            .flat_map(|number| {
                let (above, below) = (format!("/{}", number + 1), format!("/{number}"));
                [
                    json!({ "op": "add", "path": above, "value": {} }),
                    json!({ "op": "move", "from": below, "path": format!("{above}{below}") }),
                ]
            })
            .collect();
        for (doc, patch, part) in [
            (json!({ "a": { "text": "x".repeat(1000) } }), doubling, "copied"),
            (json!({}), digging, "nested deeper than 100"),
            (json!({ "0": {} }), moving, "nested deeper than 100"),
            (json!({}), vec![json!({ "op": "add", "path": "/a", "value": nested(101) })], "nested deeper than 100"),
        ] {
            let error = json_patch(&doc, &patch.into()).expect_err("must be refused").to_string();
            assert!(error.contains(part), "{error}");
        }
        let text = "x".repeat(100_000);
        let copies: Vec<Value> =
            (0..30).map(|number| json!({ "op": "copy", "from": "/a", "path": format!("/{number}") })).collect();
        assert!(json_patch(&json!({ "a": text }), &copies.into()).is_ok(), "below the limit of a request");
        let deep = json!([{ "op": "add", "path": "/a", "value": nested(99) }]);
        assert!(json_patch(&json!({}), &deep).is_ok());
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
