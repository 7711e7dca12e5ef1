use std::collections::BTreeSet;

use super::*;
use crate::kinds;

fn resources(api_version: &str) -> Vec<OpenApiResource<'static>> {
    kinds::all()
        .iter()
        .filter(|k| api_version.is_empty() || k.is_in(api_version))
        .map(|k| OpenApiResource {
            group: k.group,
            version: k.version,
            kind: k.kind,
            list_kind: Box::leak(format!("{}List", k.kind).into_boxed_str()),
            plural: k.plural,
            namespaced: k.namespaced,
            status: k.status,
            scale: k.scale.is_some(),
            create_only: k.create_only,
            schema_name: k.schema,
            custom: None,
        })
        .collect()
}

fn references<'a>(value: &'a Value, into: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                into.insert(target);
            }
            map.values().for_each(|v| references(v, into));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, into)),
        _ => {}
    }
}

fn assert_closed(document: &Value) {
    let mut targets = BTreeSet::new();
    references(document, &mut targets);
    assert!(!targets.is_empty());
    for target in targets {
        let pointer = target.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{target} does not resolve");
    }
}

fn widget(schema: &Value) -> OpenApiResource<'_> {
    OpenApiResource {
        group: "example.com",
        version: "v1",
        kind: "Widget",
        list_kind: "WidgetList",
        plural: "widgets",
        namespaced: true,
        status: true,
        scale: true,
        create_only: false,
        schema_name: "com.example.v1.Widget",
        custom: Some(schema),
    }
}

#[test]
fn every_reference_resolves() {
    let versions: BTreeSet<String> = kinds::all().iter().map(kinds::Kind::api_version).collect();
    for version in versions {
        assert_closed(&v3_document(&version, &resources(&version)));
    }
    assert_closed(&v2_document(&resources("")));
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
    assert_closed(&v3_document("example.com/v1", &[widget(&schema)]));
    assert_closed(&v2_document(&[widget(&Value::Null)]));
}

#[test]
fn patch_operations_name_field_validation_and_formats() {
    let document = v3_document("apps/v1", &resources("apps/v1"));
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    let names: Vec<&str> =
        patch["parameters"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
    assert!(names.contains(&"fieldValidation"), "{names:?}");
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(scale["get"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn schemas_carry_merge_facts_and_descriptions() {
    let document = v3_document("v1", &resources("v1"));
    let schemas = &document["components"]["schemas"];
    let ports = &schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-type"], "map");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
    assert!(ports["description"].as_str().is_some_and(|d| d.len() > 10));
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
    assert_eq!(pod["properties"]["spec"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
}

#[test]
fn custom_resources_are_published_with_their_metadata() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "nullable": true,
        "properties": {"size": {"type": "integer", "description": "How large."}}}}});
    let document = v3_document("example.com/v1", &[widget(&schema)]);
    let widget_schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(widget_schema["properties"]["spec"]["properties"]["size"]["description"], "How large.");
    assert!(widget_schema["properties"]["metadata"]["allOf"].is_array());
    assert!(document["components"]["schemas"]["com.example.v1.WidgetList"].is_object());
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert!(patch["requestBody"]["content"]["application/merge-patch+json"].is_object());
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_null());
    let v2 = v2_document(&[widget(&schema)]);
    assert!(v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["nullable"].is_null());
}
