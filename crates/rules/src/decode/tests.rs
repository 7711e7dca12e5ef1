use serde_json::json;

use super::*;
use crate::schema::Schema;

fn yaml(text: &str) -> Decoded {
    decode(text.as_bytes(), Format::Yaml).expect("the YAML of a test is well-formed")
}

#[test]
fn duplicates_are_found_with_their_paths() {
    let text = r#"{"spec":{"replicas":1,"replicas":2,"c":[{"n":1},{"n":1,"n":2}]},"kind":"X","kind":"Z"}"#;
    let decoded = decode(text.as_bytes(), Format::Json).expect("well-formed");
    assert_eq!(
        decoded.duplicates,
        [r#"duplicate field "spec.replicas""#, r#"duplicate field "spec.c[1].n""#, r#"duplicate field "kind""#,]
    );
    assert_eq!(decoded.value["spec"]["replicas"], 2);
    let same = yaml("spec:\n  replicas: 1\n  replicas: 2\n  c:\n  - n: 1\n  - n: 1\n    n: 2\nkind: X\nkind: Z\n");
    assert_eq!(same.duplicates, decoded.duplicates);
    assert_eq!(same.value, decoded.value);
}

#[test]
fn yaml_scalars_are_those_of_kubernetes() {
    let decoded = yaml("a: 1\nb: 1.5\nc: '1'\nd: true\ne: null\nf: 2.0\n8080: x\ng: 2001-01-01\nh: 0644\ni: 1e3\n");
    assert_eq!(
        decoded.value,
        json!({"a":1,"b":1.5,"c":"1","d":true,"e":null,"f":2,"8080":"x","g":"2001-01-01","h":420,"i":1000})
    );
}

#[test]
fn json_in_the_place_of_yaml_means_the_same() {
    let text =
        r#" {"a": 1, "b": 1.5, "f": 2.0, "i": 1e3, "s": "x\u00e9", "n": null, "big": 12345678901234567890, "a": 2} "#;
    let (as_yaml, as_json) = (yaml(text), decode(text.as_bytes(), Format::Json).expect("well-formed"));
    assert_eq!(as_yaml.value, as_json.value);
    assert_eq!(as_yaml.duplicates, as_json.duplicates);
    assert_eq!(as_yaml.value["f"], 2);
    let flow = yaml("{a: 1, b: [x, z]}");
    assert_eq!(flow.value, json!({"a": 1, "b": ["x", "z"]}), "flow style that is not JSON is YAML still");
    assert_eq!(yaml("{\"a\": 1}\n# a comment\n").value, json!({"a": 1}));
}

#[test]
fn yaml_merge_keys_and_anchors_work() {
    let decoded = yaml("base: &b\n  x: 1\nuse:\n  <<: *b\n  y: 2\n");
    assert_eq!(decoded.value["use"], json!({"x":1,"y":2}));
    assert!(decoded.duplicates.is_empty());
}

#[test]
fn errors_say_where() {
    let cases = [("{\n  \"a\": 1,\n  \"b\" 2\n}", Format::Json, 3), ("a:\n  b: 1\n bad\n", Format::Yaml, 3)];
    for (text, format, expected) in cases {
        match decode(text.as_bytes(), format) {
            Err(DecodeError::Syntax { line, column, .. }) => {
                assert_eq!(line, expected, "{text}");
                assert!(column > 0, "{text}");
            }
            other => panic!("{text} gave {other:?}"),
        }
    }
    assert!(matches!(decode(b"a: \xff", Format::Yaml), Err(DecodeError::NotText { at: 3 })));
    assert!(decode(b"{} {}", Format::Json).is_err());
}

#[test]
fn bombs_are_refused() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let below = level - 1;
        let refs = vec![format!("*a{below}"); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    assert!(decode(bomb.as_bytes(), Format::Yaml).is_err());
    let deep = "[".repeat(10_000);
    assert!(decode(deep.as_bytes(), Format::Json).is_err());
    assert!(decode(deep.as_bytes(), Format::Yaml).is_err());
    let large = vec![b' '; MAX_BYTES + 1];
    assert!(matches!(decode(&large, Format::Json), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn documents_are_split_and_empty_ones_skipped() {
    let all = documents("---\n# nothing\n---\na: 1\n---\nb: 2\nb: 3\n---\n").expect("well-formed");
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].value, json!({"a":1}));
    assert_eq!(all[1].duplicates, [r#"duplicate field "b""#]);
}

#[test]
fn unknown_and_mistyped_fields_of_a_builtin_are_found() {
    let schema = Schema::builtin("apps/v1", "Deployment").expect("deployments are served");
    let value = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "creationTimestamp": null, "labels": {"a": 1}},
        "spec": {"foo": 1, "replicas": "3", "template": {"spec": {"containers": [{"name": "c", "imag": "x",
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}]}}}
    });
    let report = check_fields(&value, &schema);
    assert_eq!(
        report.unknown,
        [r#"unknown field "spec.foo""#, r#"unknown field "spec.template.spec.containers[0].imag""#]
    );
    let mistyped: Vec<&str> = report.mistyped.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(mistyped, ["metadata.labels.a", "spec.replicas"]);
    assert_eq!(
        strict_message(&report.unknown[..1], &[r#"duplicate field "spec.replicas""#.to_owned()]).as_deref(),
        Some(r#"strict decoding error: unknown field "spec.foo", duplicate field "spec.replicas""#)
    );
    let mut pruned = value;
    prune(&mut pruned, &schema);
    drop_nulls(&mut pruned, &schema);
    assert_eq!(pruned["spec"].get("foo"), None);
    assert_eq!(pruned["metadata"].get("creationTimestamp"), None);
    assert_eq!(pruned["metadata"]["labels"]["a"], 1);
}

#[test]
fn values_no_reader_of_the_kind_could_read_are_refused() {
    let cases = [
        ("Pod", json!({"metadata":{"creationTimestamp":"yesterday"}}), "metadata.creationTimestamp"),
        ("Pod", json!({"spec":{"containers":[null]}}), "spec.containers[0]"),
        (
            "Pod",
            json!({"spec":{"terminationGracePeriodSeconds":18446744073709551615_u64}}),
            "spec.terminationGracePeriodSeconds",
        ),
        ("Pod", json!({"spec":{"priority":4294967296_u64}}), "spec.priority"),
        (
            "Pod",
            json!({"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}),
            "spec.containers[0].resources.limits.cpu",
        ),
        ("Service", json!({"spec":{"ports":[{"targetPort":1.5}]}}), "spec.ports[0].targetPort"),
        ("Secret", json!({"data":{"a":"not base64!"}}), "data.a"),
        ("Pod", json!({"spec":[]}), "spec"),
    ];
    for (kind, value, path) in cases {
        let schema = Schema::builtin("v1", kind).expect("served");
        let found = check_fields(&value, &schema).mistyped;
        assert_eq!(found.len(), 1, "{value}: {found:?}");
        assert_eq!(found[0].path, path);
    }
}

#[test]
fn quantities_are_stored_as_text() {
    let schema = Schema::builtin("v1", "Pod").expect("served");
    let mut value = json!({"metadata":{"labels":null},"spec":{"containers":[
        {"name":"a","resources":{"limits":{"cpu":1,"memory":"1Gi","x":1.5}},"ports":[{"containerPort":80}]}]}});
    assert_eq!(check_fields(&value, &schema), FieldReport::default());
    normalize(&mut value, &schema);
    assert_eq!(
        value,
        json!({"metadata":{},"spec":{"containers":[
            {"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi","x":"1.5"}},"ports":[{"containerPort":80}]}]}})
    );
}

fn widget() -> Schema {
    Schema::from_crd(&json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1, "maximum": 10, "default": 3},
                    "mode": {"type": "string", "enum": ["a", "b"]},
                    "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
                    "port": {"x-kubernetes-int-or-string": true},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 2},
                    "nested": {"type": "object", "default": {}, "properties": {"on": {"type": "boolean", "default": true}}},
                    "maybe": {"type": "string", "nullable": true, "default": "d"},
                    "either": {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "string"}},
                               "oneOf": [{"required": ["x"]}, {"required": ["y"]}]},
                    "when": {"type": "string", "format": "date-time"}
                }
            }
        }
    }))
    .expect("the schema of a test is well-formed")
}

#[test]
fn custom_schemas_prune_and_default() {
    let mut value = json!({"apiVersion":"x/v1","kind":"Widget","metadata":{"name":"a","bad":1},
        "spec":{"extra":1,"free":{"any":{"thing":1}},"maybe":null}});
    prune(&mut value, &widget());
    apply_schema_defaults(&mut value, &widget());
    assert_eq!(
        value,
        json!({"apiVersion":"x/v1","kind":"Widget","metadata":{"name":"a"},
            "spec":{"free":{"any":{"thing":1}},"maybe":null,"nested":{"on":true},"size":3}})
    );
    assert!(validate_schema(&value, &widget()).is_empty());
}

#[test]
fn custom_schemas_validate() {
    let cases = [
        (json!({}), "spec: Required value"),
        (json!({"spec":{}}), "spec.size: Required value"),
        (
            json!({"spec":{"size":0}}),
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (json!({"spec":{"size":1,"mode":"c"}}), "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\""),
        (
            json!({"spec":{"size":1,"name":"A1"}}),
            "spec.name: Invalid value: \"A1\": spec.name in body should match '^[a-z]+$'",
        ),
        (json!({"spec":{"size":1,"name":"abcdef"}}), "spec.name: Too long: may not be more than 5 bytes"),
        (
            json!({"spec":{"size":"1"}}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"spec":{"size":1,"port":true}}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (json!({"spec":{"size":1,"tags":["a","a"]}}), "spec.tags[1]: Duplicate value: \"a\""),
        (json!({"spec":{"size":1,"tags":["a","b","c"]}}), "spec.tags: Too many: 3: must have at most 2 items"),
        (
            json!({"spec":{"size":1,"either":{"x":"","y":""}}}),
            "spec.either: Invalid value: {\"x\":\"\",\"y\":\"\"}: spec.either in body must validate one and only one schema (oneOf)",
        ),
        (
            json!({"spec":{"size":1,"when":"noon"}}),
            "spec.when: Invalid value: \"noon\": spec.when in body must be of type date-time: \"noon\"",
        ),
    ];
    for (value, expected) in cases {
        let found: Vec<String> = validate_schema(&value, &widget()).iter().map(ToString::to_string).collect();
        assert_eq!(found, [expected], "{value}");
    }
}

proptest::proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let json = decode(&bytes, Format::Json);
        let yaml = decode(&bytes, Format::Yaml);
        // Whatever is JSON by one reader is judged without panic by every rule.
        for decoded in [json, yaml].into_iter().flatten() {
            let mut value = decoded.value;
            validate_schema(&value, &widget());
            prune(&mut value, &widget());
        }
    }
}

#[test]
fn depth_is_bounded_alike_in_both_formats() {
    let decide = || {
        for (levels, fine) in [(MAX_DEPTH, true), (MAX_DEPTH + 1, false), (120, false), (10_000, false)] {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                let text = format!("{}1{}", open.repeat(levels), close.repeat(levels));
                for format in [Format::Json, Format::Yaml] {
                    assert_eq!(decode(text.as_bytes(), format).is_ok(), fine, "{levels} of {open} as {format:?}");
                }
            }
        }
    };
    // Unoptimized, a level of YAML takes some 20 KiB of stack; optimized, less than 5.
    let roomy = std::thread::Builder::new().stack_size(64 << 20);
    roomy.spawn(decide).expect("a thread").join().expect("no panic");
}
