//! Ownership as data: each case is a sequence of writes and what is to be there afterwards.

use super::*;

const T1: &str = "2026-01-01T00:00:01Z";
const T2: &str = "2026-01-01T00:00:02Z";

fn manager<'a>(name: &'a str, now: &'a str) -> Manager<'a> {
    Manager { name, api_version: "apps/v1", subresource: "", now, reset: &["status"] }
}

fn deployment_schema() -> Schema {
    Schema::builtin("apps/v1", "Deployment").expect("a served kind")
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
}

fn fields_of(object: &Value, name: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|entry| entry["manager"] == name).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

/// Applies each step in turn; the last column says what the whole ends in.
fn play(steps: &[(&str, bool, Value)]) -> Result<Value, ApplyError> {
    let schema = deployment_schema();
    let mut live = None;
    for (name, force, config) in steps {
        live = Some(apply(live.as_ref(), config, &schema, &manager(name, T1), *force)?);
    }
    Ok(live.expect("at least one step"))
}

fn containers(items: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": items}}}))
}

#[test]
fn applied_fields_come_merge_and_go() {
    for (what, steps, wanted) in [
        ("create", vec![("a", false, deployment(json!({"replicas": 1})))], json!({"replicas": 1})),
        (
            "another applier adds",
            vec![("a", false, deployment(json!({"replicas": 1}))), ("b", false, deployment(json!({"paused": true})))],
            json!({"replicas": 1, "paused": true}),
        ),
        (
            "left out means removed",
            vec![
                ("a", false, deployment(json!({"replicas": 1, "paused": true}))),
                ("a", false, deployment(json!({"replicas": 1}))),
            ],
            json!({"replicas": 1}),
        ),
        (
            "left out stays when someone else has it too",
            vec![
                ("a", false, deployment(json!({"replicas": 1, "paused": true}))),
                ("b", false, deployment(json!({"paused": true}))),
                ("a", false, deployment(json!({"replicas": 1}))),
            ],
            json!({"replicas": 1, "paused": true}),
        ),
        (
            "force takes over",
            vec![("a", false, deployment(json!({"replicas": 1}))), ("b", true, deployment(json!({"replicas": 2})))],
            json!({"replicas": 2}),
        ),
        (
            "labels one by one",
            vec![
                ("a", false, deployment(json!({"template": {"metadata": {"labels": {"x": "1", "y": "1"}}}}))),
                ("b", false, deployment(json!({"template": {"metadata": {"labels": {"z": "1"}}}}))),
                ("a", false, deployment(json!({"template": {"metadata": {"labels": {"x": "2"}}}}))),
            ],
            json!({"template": {"metadata": {"labels": {"x": "2", "z": "1"}}}}),
        ),
        (
            "items by key",
            vec![
                ("a", false, containers(json!([{"name": "one", "image": "i"}, {"name": "two", "image": "i"}]))),
                ("b", false, containers(json!([{"name": "three", "image": "i"}]))),
                ("a", false, containers(json!([{"name": "two", "image": "j"}]))),
            ],
            json!({"template": {"spec": {"containers": [{"name": "two", "image": "j"}, {"name": "three", "image": "i"}]}}}),
        ),
        (
            "an item's field that is someone else's stays, and the item with it",
            vec![
                ("a", false, containers(json!([{"name": "one", "image": "i"}]))),
                ("b", false, containers(json!([{"name": "one", "workingDir": "/w"}]))),
                ("a", false, deployment(json!({"paused": true}))),
            ],
            json!({"paused": true, "template": {"spec": {"containers": [{"name": "one", "workingDir": "/w"}]}}}),
        ),
        (
            "ports are keyed by number and protocol, TCP when not said",
            vec![
                (
                    "a",
                    false,
                    containers(
                        json!([{"name": "one", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]}]),
                    ),
                ),
                (
                    "b",
                    false,
                    containers(
                        json!([{"name": "one", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}]}]),
                    ),
                ),
            ],
            json!({"template": {"spec": {"containers": [{"name": "one", "ports": [
                {"containerPort": 80, "protocol": "TCP", "name": "web"}, {"containerPort": 80, "protocol": "UDP"}
            ]}]}}}),
        ),
        (
            "atomic lists are replaced",
            vec![
                ("a", false, containers(json!([{"name": "one", "args": ["x", "y"]}]))),
                ("a", false, containers(json!([{"name": "one", "args": ["z"]}]))),
            ],
            json!({"template": {"spec": {"containers": [{"name": "one", "args": ["z"]}]}}}),
        ),
        (
            "the applied order counts",
            vec![
                ("a", false, containers(json!([{"name": "one"}, {"name": "two"}, {"name": "three"}]))),
                ("a", false, containers(json!([{"name": "three"}, {"name": "one"}, {"name": "two"}]))),
            ],
            json!({"template": {"spec": {"containers": [{"name": "three"}, {"name": "one"}, {"name": "two"}]}}}),
        ),
    ] {
        let result = play(&steps).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(result["spec"], wanted, "{what}");
    }
}

#[test]
fn owned_fields_are_written_as_upstream_does() {
    let applied = play(&[(
        "a",
        false,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "n", "labels": {"app": "x"}, "creationTimestamp": null},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "template": {"spec": {
                "containers": [{"name": "c", "args": ["a"], "resources": {}, "ports": [{"containerPort": 80}]}], "nodeSelector": {"a": "b"}
            }}},
            "status": {"replicas": 4}
        }),
    )])
    .expect("no conflict");
    assert_eq!(
        fields_of(&applied, "a"),
        json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:spec": {
                "f:nodeSelector": {},
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:args": {}, "f:resources": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}
                }}
            }}}
        })
    );
    let entry = &applied["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["apiVersion"], "apps/v1");
    assert_eq!(entry["time"], T1);
    assert_eq!(entry["fieldsType"], "FieldsV1");
}

#[test]
fn conflicts_in_upstreams_words() {
    let schema = deployment_schema();
    let mut live = deployment(json!({"replicas": 1, "paused": false}));
    track_update(None, &mut live, &schema, &manager("hand", T1));
    let live = apply(Some(&live), &deployment(json!({"minReadySeconds": 3})), &schema, &manager("a", T1), false)
        .expect("no conflict");
    for (config, message, field) in [
        (
            json!({"replicas": 2}),
            "Apply failed with 1 conflict: conflict with \"hand\" using apps/v1: .spec.replicas",
            ".spec.replicas",
        ),
        (
            json!({"minReadySeconds": 2}),
            "Apply failed with 1 conflict: conflict with \"a\": .spec.minReadySeconds",
            ".spec.minReadySeconds",
        ),
        (
            json!({"minReadySeconds": 2, "replicas": 2, "paused": true}),
            "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.minReadySeconds\nconflicts with \"hand\" using apps/v1:\n- .spec.paused\n- .spec.replicas",
            ".spec.minReadySeconds",
        ),
    ] {
        let error = apply(Some(&live), &deployment(config.clone()), &schema, &manager("b", T2), false)
            .expect_err("must conflict");
        assert_eq!(error.to_string(), message);
        let ApplyError::Conflicts(conflicts) = error else { panic!("must be conflicts") };
        assert_eq!(conflicts[0].field, field);
        let forced = apply(Some(&live), &deployment(config), &schema, &manager("b", T2), true).expect("forced");
        assert!(!fields_of(&forced, "b").is_null());
    }
    // The same value is shared, not fought over.
    let shared =
        apply(Some(&live), &deployment(json!({"replicas": 1})), &schema, &manager("b", T2), false).expect("shared");
    assert_eq!(fields_of(&shared, "b"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields_of(&shared, "hand"), fields_of(&live, "hand"));
}

#[test]
fn refused_configurations() {
    let schema = deployment_schema();
    for (config, part) in [
        (
            deployment(json!({"sizes": 1})),
            "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.sizes: field not declared in schema",
        ),
        (containers(json!([{"name": "a"}, {"name": "a"}])), "duplicate entries for key [name=\"a\"]"),
        (containers(json!([{"image": "a"}])), "omits all key fields"),
        (containers(json!({"name": "a"})), "expected list"),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"managedFields": []}}),
            "metadata.managedFields must be nil",
        ),
    ] {
        let error = apply(None, &config, &schema, &manager("a", T1), true).expect_err("must be refused").to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn no_op_writes_change_nothing() {
    let schema = deployment_schema();
    let config =
        deployment(json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}));
    let live = apply(None, &config, &schema, &manager("a", T1), false).expect("created");
    assert_eq!(apply(Some(&live), &config, &schema, &manager("a", T2), false).expect("the same"), live);
    let mut same = live.clone();
    track_update(Some(&live), &mut same, &schema, &manager("hand", T2));
    assert_eq!(same, live);
    let mut without = live.clone();
    metadata_mut(&mut without).remove("managedFields");
    track_update(Some(&live), &mut without, &schema, &manager("hand", T2));
    assert_eq!(without, live);
}

#[test]
fn updates_take_what_they_change() {
    let schema = deployment_schema();
    let live = play(&[("a", false, deployment(json!({"replicas": 1, "paused": true})))]).expect("created");
    let mut new = live.clone();
    new["spec"]["replicas"] = 5.into();
    track_update(Some(&live), &mut new, &schema, &manager("hand", T2));
    assert_eq!(fields_of(&new, "hand"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields_of(&new, "a"), json!({"f:spec": {"f:paused": {}}}));
    let entries = new["metadata"]["managedFields"].as_array().expect("a list");
    assert_eq!(entries[0]["operation"], "Apply");
    assert_eq!(entries[1]["time"], T2);
    // What is removed belongs to nobody.
    let mut gone = new.clone();
    gone["spec"].as_object_mut().expect("an object").remove("paused");
    track_update(Some(&new), &mut gone, &schema, &manager("other", T2));
    assert_eq!(fields_of(&gone, "a"), Value::Null);
    assert_eq!(fields_of(&gone, "other"), Value::Null);
}

#[test]
fn creation_is_tracked_and_the_server_s_own_fields_are_not() {
    let schema = deployment_schema();
    let mut new = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", "uid": "u", "generation": 1, "creationTimestamp": T1, "labels": {"a": "b"}},
        "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "resources": {}}]}}}
    });
    track_update(None, &mut new, &schema, &manager("kubectl-create", T1));
    assert_eq!(
        fields_of(&new, "kubectl-create"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:resources": {}}}}
                }
            }
        })
    );
}

#[test]
fn subresources_have_their_own_entries() {
    let schema = deployment_schema();
    let live = play(&[("a", false, deployment(json!({"replicas": 1})))]).expect("created");
    let status = Manager {
        subresource: "status",
        reset: crate::meta::reset_fields("status", true),
        ..manager("controller", T2)
    };
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    track_update(Some(&live), &mut new, &schema, &status);
    let entry = &new["metadata"]["managedFields"][1];
    assert_eq!(entry["subresource"], "status");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:replicas": {}, "f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:type": {}, "f:status": {}}}}})
    );
    // The object itself can't own status, status can't own the spec.
    let both = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"paused": true}, "status": {"replicas": 7}});
    let main = apply(None, &both, &schema, &manager("a", T1), false).expect("created");
    assert_eq!(fields_of(&main, "a"), json!({"f:spec": {"f:paused": {}}}));
    let other = apply(Some(&main), &both, &schema, &Manager { name: "b", ..status }, false).expect("no conflict");
    assert_eq!(fields_of(&other, "b"), json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn clearing_and_untracked_objects() {
    let schema = deployment_schema();
    let live = play(&[("a", false, deployment(json!({"replicas": 1})))]).expect("created");
    for reset in [json!([]), json!([{}])] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = reset;
        track_update(Some(&live), &mut new, &schema, &manager("hand", T2));
        assert_eq!(new["metadata"].get("managedFields"), None);
    }
    // The first apply gives what was there to a stand-in, so that it conflicts.
    let untracked = deployment(json!({"replicas": 1}));
    let error = apply(Some(&untracked), &deployment(json!({"replicas": 2})), &schema, &manager("a", T1), false)
        .expect_err("must conflict");
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn kubectl_moves_from_the_client_s_side() {
    let schema = deployment_schema();
    let last = deployment(json!({"replicas": 1})).to_string();
    let mut live = deployment(json!({"replicas": 1}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: last});
    track_update(None, &mut live, &schema, &manager("kubectl-client-side-apply", T1));
    let config = deployment(json!({"replicas": 2}));
    assert!(apply(Some(&live), &config, &schema, &manager("someone", T2), false).is_err());
    let moved = apply(Some(&live), &config, &schema, &manager("kubectl", T2), false).expect("allowed");
    assert_eq!(moved["spec"]["replicas"], 2);
    let annotation = moved["metadata"]["annotations"][LAST_APPLIED].as_str().expect("kept");
    assert_eq!(serde_json::from_str::<Value>(annotation).expect("JSON"), config);
    // A field that was changed since is not allowed.
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 7.into();
    track_update(Some(&live), &mut scaled, &schema, &manager("scaler", T2));
    assert!(apply(Some(&scaled), &config, &schema, &manager("kubectl", T2), false).is_err());
}

#[test]
fn old_updaters_are_put_together() {
    let schema = Schema::builtin("v1", "ConfigMap").expect("a served kind");
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {}});
    let mut before: Option<Value> = None;
    for number in 0..12 {
        let mut new = live.clone();
        new["data"][format!("k{number}")] = "v".into();
        let (name, now) = (format!("m{number:02}"), format!("2026-01-01T00:00:{number:02}Z"));
        let manager = Manager { name: &name, api_version: "v1", subresource: "", now: &now, reset: &[] };
        track_update(before.as_ref(), &mut new, &schema, &manager);
        live = new;
        before = Some(live.clone());
    }
    let entries = live["metadata"]["managedFields"].as_array().expect("a list");
    assert_eq!(entries.len(), 10);
    let bucket = fields_of(&live, "ancient-changes");
    for key in ["f:k0", "f:k1", "f:k2"] {
        assert!(bucket["f:data"].get(key).is_some(), "{bucket}");
    }
}

#[test]
fn custom_resources() {
    let schema = Schema::from_crd(&json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {
            "hosts": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "routes": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
        }}}
    }))
    .expect("a valid schema");
    let thing = |spec: Value| json!({"apiVersion": "x.io/v1", "kind": "Thing", "metadata": {"name": "t", "labels": {"a": "b"}}, "spec": spec});
    let manager = |name| Manager { name, api_version: "x.io/v1", subresource: "", now: T1, reset: &[] };
    let one = apply(
        None,
        &thing(json!({"hosts": ["a", "b"], "routes": [{"name": "x"}], "free": {"deep": {"er": [1]}}})),
        &schema,
        &manager("one"),
        false,
    )
    .expect("created");
    assert_eq!(
        fields_of(&one, "one"),
        json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {
                "f:hosts": {"v:\"a\"": {}, "v:\"b\"": {}},
                "f:routes": {},
                "f:free": {"f:deep": {".": {}, "f:er": {}}}
            }
        })
    );
    let two = apply(Some(&one), &thing(json!({"hosts": ["c"]})), &schema, &manager("two"), false).expect("no conflict");
    let three =
        apply(Some(&two), &thing(json!({"hosts": ["b"]})), &schema, &manager("one"), false).expect("no conflict");
    assert_eq!(three["spec"], json!({"hosts": ["b", "c"]}));
    let error = apply(Some(&one), &thing(json!({"routes": [{"name": "y"}]})), &schema, &manager("two"), false)
        .expect_err("atomic");
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.routes");
}

#[test]
fn null_means_absent() {
    let config = deployment(
        json!({"replicas": null, "template": {"metadata": {"creationTimestamp": null, "labels": {"a": "b"}}}}),
    );
    let one = play(&[("a", false, config.clone())]).expect("created");
    assert_eq!(one["spec"], json!({"template": {"metadata": {"labels": {"a": "b"}}}}));
    assert_eq!(apply(Some(&one), &config, &deployment_schema(), &manager("a", T2), false).expect("the same"), one);
}

/// Whatever JSON is stored or sent, these functions answer.
#[test]
fn odd_shapes_do_not_panic() {
    let schema = deployment_schema();
    let whole =
        play(&[("a", false, containers(json!([{"name": "c", "ports": [{"containerPort": 1}]}])))]).expect("created");
    let odd = [
        json!(null),
        json!(1),
        json!("x"),
        json!([]),
        json!([1, "x", null, [], {}]),
        json!({}),
        json!({"a": []}),
        json!({"$patch": 1}),
    ];
    for pointer in [
        "",
        "/metadata",
        "/metadata/managedFields",
        "/metadata/managedFields/0",
        "/metadata/managedFields/0/fieldsV1",
        "/spec",
        "/spec/template/spec/containers",
        "/spec/template/spec/containers/0/ports",
    ] {
        for value in &odd {
            let mut other = whole.clone();
            *other.pointer_mut(pointer).expect("is there") = value.clone();
            for (live, config) in [(&whole, &other), (&other, &whole), (&other, &other)] {
                let mut config = config.clone();
                if let Ok(result) = apply(Some(live), &config, &schema, &manager("b", T2), true) {
                    assert!(result.is_object());
                }
                if let Ok(result) = crate::patch::strategic(live, &config, &schema) {
                    assert!(result.is_object());
                }
                track_update(Some(live), &mut config, &schema, &manager("b", T2));
                assert!(config["metadata"].is_object());
            }
        }
    }
}

#[test]
fn large_lists_are_applied_in_time() {
    const MANY: usize = 10_000;
    let env = |from: usize, value: &str| -> Vec<Value> {
        (from..from + MANY).map(|number| json!({ "name": format!("n{number}"), "value": value })).collect()
    };
    let with = |env: Vec<Value>| containers(json!([{ "name": "a", "env": env }]));
    let merged = play(&[("a", false, with(env(0, "old"))), ("b", false, with(env(MANY, "new")))]).expect("applied");
    let env = merged["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned().expect("a list");
    assert_eq!(env.len(), 2 * MANY);
}

/// As kube-apiserver 1.33 does it: what was filled in below an empty map is nobody's, and stays.
#[test]
fn an_empty_map_applied_again_keeps_what_was_filled_in() {
    let schema = deployment_schema();
    let config = deployment(json!({"strategy": {}}));
    let mut live = apply(None, &config, &schema, &manager("a", T1), false).expect("applied");
    live["spec"]["strategy"]["type"] = "Recreate".into();
    let again = apply(Some(&live), &config, &schema, &manager("a", T2), false).expect("applied again");
    assert_eq!(again["spec"], json!({"strategy": {"type": "Recreate"}}));
    assert_eq!(fields_of(&again, "a"), json!({"f:spec": {"f:strategy": {}}}));
    let gone = apply(Some(&again), &deployment(json!({})), &schema, &manager("a", T2), false).expect("let go");
    assert!(gone["spec"]["strategy"]["type"].is_null(), "{gone}");
}
