use serde_json::json;

use super::*;
use crate::kinds;

fn at(root: &str, path: &str) -> Schema {
    let (version, kind) = root.split_once(' ').expect("version and kind");
    let mut schema = Schema::builtin(version, kind).expect("a served kind");
    for step in path.split('.') {
        schema = match step {
            "[]" => schema.items(),
            name => schema.field(name),
        }
        .unwrap_or_else(|| panic!("{root}: no {step} in {path}"));
    }
    schema
}

#[test]
fn every_served_kind_has_a_schema() {
    for kind in kinds::all() {
        let schema = Schema::builtin(&kind.api_version(), kind.kind)
            .unwrap_or_else(|| panic!("{} {} has no schema", kind.api_version(), kind.kind));
        assert_eq!(schema.shape(), Shape::Object, "{}", kind.kind);
        assert!(schema.field("metadata").is_some(), "{}", kind.kind);
        if kind.status {
            assert!(schema.field("status").is_some(), "{} has no status", kind.kind);
        }
    }
}

#[test]
fn every_fact_is_about_a_field_that_exists() {
    let facts = Facts::load();
    let mut known = 0;
    for (definition, field) in facts.entries() {
        // The generated text also covers kinds that are not served.
        let Some(schema) = Schema::definition(definition) else {
            continue;
        };
        assert!(schema.field(field).is_some(), "{definition} has no field {field}");
        known += 1;
    }
    assert!(known > 60, "only {known} facts are used");
    let structures = Facts::atomic_structures();
    assert!(structures.is_sorted(), "looked up by bisection");
    for name in structures {
        assert!(Schema::definition(name).is_some(), "{name} does not exist");
    }
}

#[test]
fn list_keys_are_those_of_apply() {
    let cases = [
        ("v1 Pod", "spec.containers", &["name"][..]),
        ("v1 Pod", "spec.containers.[].ports", &["containerPort", "protocol"]),
        ("apps/v1 Deployment", "spec.template.spec.containers.[].env", &["name"]),
        ("v1 Service", "spec.ports", &["port", "protocol"]),
        ("v1 Pod", "spec.topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
        ("v1 Pod", "metadata.ownerReferences", &["uid"]),
        ("v1 Pod", "status.conditions", &["type"]),
        ("v1 Pod", "status.podIPs", &["ip"]),
    ];
    for (root, path, expected) in cases {
        let schema = at(root, path);
        let keys: Vec<String> = expected.iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(schema.list_type(), ListType::Map(&keys), "{root} {path}");
    }
    assert_eq!(at("v1 Pod", "metadata.finalizers").list_type(), ListType::Set);
    for path in ["spec.tolerations", "spec.containers.[].args", "status.hostIPs"] {
        assert_eq!(at("v1 Pod", path).list_type(), ListType::Atomic, "{path}");
    }
}

#[test]
fn merge_keys_are_those_of_strategic_patches() {
    let cases = [
        ("v1 Pod", "spec.containers.[].ports", Some("containerPort"), true, false),
        ("v1 Service", "spec.ports", Some("port"), true, false),
        ("v1 Pod", "spec.volumes", Some("name"), true, true),
        ("v1 Pod", "metadata.finalizers", None, true, false),
        ("v1 Pod", "spec.tolerations", None, false, false),
        ("batch/v1 Job", "status.conditions", Some("type"), true, false),
        ("v1 Pod", "spec.containers.[].resources.claims", None, false, false),
        ("apps/v1 Deployment", "spec.strategy", None, false, true),
    ];
    for (root, path, key, merge, retain) in cases {
        let schema = at(root, path);
        assert_eq!(schema.merge_key(), key, "{root} {path}");
        assert_eq!(schema.merge_list(), merge, "{root} {path}");
        assert_eq!(schema.retain_keys(), retain, "{root} {path}");
    }
    assert!(at("v1 Pod", "spec.nodeSelector").map_atomic());
    assert!(at("apps/v1 Deployment", "spec.selector").map_atomic());
    assert!(!at("v1 Pod", "metadata.labels").map_atomic());
    assert!(!at("v1 PersistentVolume", "spec.claimRef").map_atomic());
    assert_eq!(at("v1 Service", "spec.ports.[].protocol").default(), Some(&json!("TCP")));
}

#[test]
fn shapes_of_special_types() {
    let cases = [
        ("v1 Service", "spec.ports.[].targetPort", Shape::IntOrString),
        ("v1 Pod", "metadata.creationTimestamp", Shape::String),
        ("v1 Pod", "metadata.managedFields.[].fieldsV1", Shape::Object),
        ("apps/v1 ControllerRevision", "data", Shape::Object),
        ("v1 ConfigMap", "data", Shape::Map),
        ("v1 Secret", "data", Shape::Map),
        ("v1 Node", "status.capacity", Shape::Map),
        (
            "apiextensions.k8s.io/v1 CustomResourceDefinition",
            "spec.versions.[].schema.openAPIV3Schema.default",
            Shape::Any,
        ),
        (
            "apiextensions.k8s.io/v1 CustomResourceDefinition",
            "spec.versions.[].schema.openAPIV3Schema.not.not.properties",
            Shape::Map,
        ),
    ];
    for (root, path, expected) in cases {
        assert_eq!(at(root, path).shape(), expected, "{root} {path}");
    }
    let quantity = at("v1 Node", "status.capacity").values().expect("a map has values");
    assert_eq!(quantity.shape(), Shape::IntOrString);
    assert!(at("apps/v1 ControllerRevision", "data").preserve_unknown());
    assert_eq!(at("v1 Pod", "metadata.generation").format(), Some("int64"));
}

#[test]
fn bodies_have_schemas_too() {
    for (version, kind) in [
        ("policy/v1", "Eviction"),
        ("autoscaling/v1", "Scale"),
        ("v1", "DeleteOptions"),
        ("apps/v1", "DeleteOptions"),
        ("authentication.k8s.io/v1", "TokenRequest"),
    ] {
        assert!(Schema::builtin(version, kind).is_some(), "{version} {kind}");
    }
    assert!(Schema::builtin("v1", "Nonsense").is_none());
}

#[test]
fn the_arena_is_compact() {
    let nodes = builtin::arena().len();
    assert!((500..3_000).contains(&nodes), "{nodes} nodes");
    let bytes = nodes * std::mem::size_of::<Node>();
    assert!(bytes < 2 << 20, "{bytes} bytes of nodes");
}

#[test]
fn custom_schemas_know_their_lists_and_embedded_resources() {
    let schema = Schema::from_crd(&json!({"type":"object","properties":{
    "spec":{"type":"object","properties":{
        "rules":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],
                 "items":{"type":"object","properties":{"name":{"type":"string"}}}},
        "ref":{"type":"object","x-kubernetes-map-type":"atomic","additionalProperties":{"type":"string"}},
        "pod":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}
    }}}}))
    .expect("well-formed");
    let spec = schema.field("spec").expect("declared");
    let keys = ["name".to_owned()];
    let rules = spec.field("rules").expect("declared");
    assert_eq!(rules.list_type(), ListType::Map(&keys));
    let reference = spec.field("ref").expect("declared");
    assert!(reference.map_atomic());
    assert_eq!(reference.shape(), Shape::Map);
    let pod = spec.field("pod").expect("declared");
    assert!(pod.embedded_resource() && pod.preserve_unknown());
    let finalizers = pod.field("metadata").and_then(|m| m.field("finalizers"));
    assert_eq!(finalizers.expect("embedded").list_type(), ListType::Set);
    assert!(schema.field("metadata").is_some());
}

#[test]
fn custom_schemas_that_cannot_be_used_are_refused() {
    let mut deep = json!({"type":"object"});
    for _ in 0..80 {
        deep = json!({"type":"object","properties":{"x":deep}});
    }
    let cases = [
        (json!({"type":"objct"}), "type \"objct\" is unknown"),
        (json!({"type":"object","properties":{"a":{"type":"string","pattern":"("}}}), "openAPIV3Schema.properties[a]"),
        (json!({"type":"array","x-kubernetes-list-type":"map"}), "needs x-kubernetes-list-map-keys"),
        (json!({"$ref":"#/x"}), "$ref is not supported"),
        (deep, "nested deeper"),
    ];
    for (schema, expected) in cases {
        let error = Schema::from_crd(&schema).expect_err("cannot be used").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
