//! Strategic merge patches as data.

use super::*;
use crate::schema::Schema;
use serde_json::{Value, json};

fn spec(items: Value) -> Value {
    json!({"spec": {"containers": items}})
}

#[test]
fn strategic_merges() {
    let schema = Schema::builtin("v1", "Pod").expect("a served kind");
    let two = spec(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1", "args": ["x"]}]));
    let volumes = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    for (what, doc, patch, wanted) in [
        (
            "scalars",
            json!({"spec": {"nodeName": "a"}}),
            json!({"spec": {"nodeName": "b"}}),
            json!({"spec": {"nodeName": "b"}}),
        ),
        (
            "null removes",
            json!({"spec": {"nodeName": "a", "hostname": "h"}}),
            json!({"spec": {"nodeName": null}}),
            json!({"spec": {"hostname": "h"}}),
        ),
        ("null of nothing", json!({"spec": {}}), json!({"spec": {"nodeName": null}}), json!({"spec": {}})),
        (
            "nulls in new objects go",
            json!({}),
            json!({"metadata": {"labels": {"a": null, "b": "c"}, "creationTimestamp": null}}),
            json!({"metadata": {"labels": {"b": "c"}}}),
        ),
        (
            "maps merge",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        ),
        (
            "items merge by key",
            two.clone(),
            spec(json!([{"name": "b", "image": "2"}])),
            spec(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2", "args": ["x"]}])),
        ),
        (
            "new items are appended",
            two.clone(),
            spec(json!([{"name": "c"}])),
            spec(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1", "args": ["x"]}, {"name": "c"}])),
        ),
        (
            "atomic lists are replaced",
            two.clone(),
            spec(json!([{"name": "b", "args": ["y"]}])),
            spec(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1", "args": ["y"]}])),
        ),
        (
            "items are deleted",
            two.clone(),
            spec(json!([{"name": "a", "$patch": "delete"}])),
            spec(json!([{"name": "b", "image": "1", "args": ["x"]}])),
        ),
        (
            "lists are replaced on demand",
            two.clone(),
            spec(json!([{"$patch": "replace"}, {"name": "c"}])),
            spec(json!([{"name": "c"}])),
        ),
        (
            "explicit merge",
            two.clone(),
            spec(json!([{"name": "a", "$patch": "merge", "image": "3"}])),
            spec(json!([{"name": "a", "image": "3"}, {"name": "b", "image": "1", "args": ["x"]}])),
        ),
        (
            "maps are replaced on demand",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            "maps are deleted on demand",
            json!({"metadata": {"labels": {"a": "1"}, "name": "n"}}),
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            json!({"metadata": {"name": "n"}}),
        ),
        (
            "order is set",
            two.clone(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "2"}]}}),
            spec(json!([{"name": "b", "image": "1", "args": ["x"]}, {"name": "a", "image": "2"}])),
        ),
        (
            "order without items",
            two.clone(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            spec(json!([{"name": "b", "image": "1", "args": ["x"]}, {"name": "a", "image": "1"}])),
        ),
        (
            "what only the server has keeps its place",
            spec(json!([{"name": "a"}, {"name": "server"}, {"name": "b"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "b", "image": "2"}]}}),
            spec(json!([{"name": "a"}, {"name": "server"}, {"name": "b", "image": "2"}])),
        ),
        (
            "delete and order together",
            two.clone(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a", "$patch": "delete"}]}}),
            spec(json!([{"name": "b", "image": "1", "args": ["x"]}])),
        ),
        (
            "finalizers merge as a set",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        ),
        (
            "values are deleted from lists of scalars",
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["c", "a"]}}),
            json!({"metadata": {"finalizers": ["c", "a"]}}),
        ),
        (
            "retained keys alone stay",
            volumes.clone(),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
        ),
        (
            "without retained keys both stay",
            volumes,
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]}}),
        ),
        (
            "directives in new parts vanish",
            json!({}),
            spec(json!([{"name": "a", "env": [{"name": "x", "$patch": "delete"}, {"name": "y", "value": "1"}]}])),
            spec(json!([{"name": "a", "env": [{"name": "y", "value": "1"}]}])),
        ),
        (
            "a type changes",
            json!({"spec": {"nodeName": {"odd": 1}}}),
            json!({"spec": {"nodeName": "a"}}),
            json!({"spec": {"nodeName": "a"}}),
        ),
    ] {
        assert_eq!(strategic(&doc, &patch, &schema), Ok(wanted), "{what}");
    }
}

#[test]
fn strategic_refusals() {
    let schema = Schema::builtin("v1", "Pod").expect("a served kind");
    let doc = spec(json!([{"name": "a"}]));
    for (patch, part) in [
        (json!([]), "must be an object"),
        (spec(json!([{"image": "x"}])), "does not contain declared merge key: name"),
        (spec(json!([{"$patch": "delete"}])), "does not contain declared merge key: name"),
        (spec(json!([{"name": "a", "$patch": "sing"}])), "unknown patch type found: sing"),
        (json!({"spec": {"$patch": "sing"}}), "unknown patch type found: sing"),
        (json!({"spec": {"$retainKeys": ["containers"], "nodeName": "a"}}), "must contain all fields of the patch"),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a", "image": "1"}]}}),
            "doesn't match $setElementOrder/containers",
        ),
    ] {
        let error = strategic(&doc, &patch, &schema).expect_err("must be refused").to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn large_lists_are_merged_in_time() {
    let schema = Schema::builtin("v1", "Pod").expect("a served kind");
    const MANY: usize = 15_000;
    let env = |from: usize, value: &str| -> Vec<Value> {
        (from..from + MANY).map(|number| json!({ "name": format!("n{number}"), "value": value })).collect()
    };
    let names = |from: usize| -> Vec<Value> {
        (from..from + MANY).map(|number| json!(format!("example.com/{number}"))).collect()
    };
    let doc = json!({ "metadata": { "finalizers": names(0) }, "spec": { "containers": [{ "name": "a", "env": env(0, "old") }] } });
    let patch = json!({
        "metadata": { "finalizers": names(MANY / 2), "$setElementOrder/finalizers": names(MANY / 2) },
        "spec": { "containers": [{ "name": "a", "env": env(MANY / 2, "new"), "$setElementOrder/env": env(MANY / 2, "") }] },
    });
    let merged = strategic(&doc, &patch, &schema).expect("merged");
    let env = merged["spec"]["containers"][0]["env"].as_array().expect("a list");
    assert_eq!((env.len(), &env[0]["value"], &env[MANY]["value"]), (MANY + MANY / 2, &json!("old"), &json!("new")));
    let finalizers = merged["metadata"]["finalizers"].as_array().expect("a list");
    assert_eq!((finalizers.len(), &finalizers[0]), (MANY + MANY / 2, &json!("example.com/0")));
    let gone = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": names(0) } });
    let left = strategic(&doc, &gone, &schema).expect("merged");
    assert_eq!(left["metadata"]["finalizers"], json!([]));
}
