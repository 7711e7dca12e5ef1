//! Checks of the definitions: names as upstream's, structural schemas, the facts that server-side apply needs.

use std::collections::BTreeSet;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;

fn json_of(kind: &str) -> Value {
    let crd = crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect("the kind is one of ours");
    serde_json::to_value(crd).expect("a definition is JSON")
}

/// The schema at a path such as `spec.listeners[].name`.
fn field<'v>(crd: &'v Value, path: &str) -> &'v Value {
    let mut schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for part in path.split('.') {
        let name = part.trim_end_matches("[]");
        schema = &schema["properties"][name];
        if part.ends_with("[]") {
            schema = &schema["items"];
        }
    }
    assert!(schema.is_object(), "no field {path}");
    schema
}

#[test]
fn every_kind_of_the_standard_channel_is_there_under_its_own_name() {
    let crds = crds();
    let names: Vec<String> = crds.iter().map(|crd| crd.name_any()).collect();
    assert_eq!(
        names,
        [
            "gatewayclasses.gateway.networking.k8s.io",
            "gateways.gateway.networking.k8s.io",
            "httproutes.gateway.networking.k8s.io",
            "grpcroutes.gateway.networking.k8s.io",
            "tlsroutes.gateway.networking.k8s.io",
            "listenersets.gateway.networking.k8s.io",
            "referencegrants.gateway.networking.k8s.io",
            "backendtlspolicies.gateway.networking.k8s.io",
        ]
    );
    for crd in &crds {
        let name = crd.name_any();
        assert_eq!(crd.annotations()[BUNDLE_VERSION_ANNOTATION], "v1.5.1", "{name}");
        assert_eq!(crd.annotations()[CHANNEL_ANNOTATION], "standard", "{name}");
        assert_eq!(crd.spec.names.categories.as_deref(), Some(&["gateway-api".to_owned()][..]), "{name}");
        let beta = ["GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant"].contains(&crd.spec.names.kind.as_str());
        let versions: Vec<(&str, bool, bool)> =
            crd.spec.versions.iter().map(|version| (version.name.as_str(), version.served, version.storage)).collect();
        let expected = [("v1", true, true), ("v1beta1", true, false)];
        assert_eq!(versions, expected[..if beta { 2 } else { 1 }], "{name}");
        let version = &crd.spec.versions[0];
        let has_status = crd.spec.names.kind != "ReferenceGrant";
        let status = version.subresources.as_ref().and_then(|subresources| subresources.status.as_ref());
        assert_eq!(status.is_some(), has_status, "{name}");
        let namespaced = crd.spec.names.kind != "GatewayClass";
        assert_eq!(crd.spec.scope == "Namespaced", namespaced, "{name}");
    }
}

#[test]
fn names_and_columns_are_upstreams() {
    for (kind, plural, short, columns) in [
        ("GatewayClass", "gatewayclasses", json!(["gc"]), vec!["Controller", "Accepted", "Age", "Description"]),
        ("Gateway", "gateways", json!(["gtw"]), vec!["Class", "Address", "Programmed", "Age"]),
        ("HTTPRoute", "httproutes", Value::Null, vec!["Hostnames", "Age"]),
        ("ReferenceGrant", "referencegrants", json!(["refgrant"]), vec!["Age"]),
    ] {
        let crd = json_of(kind);
        assert_eq!(crd["spec"]["names"]["plural"], plural);
        assert_eq!(crd["spec"]["names"]["shortNames"], short, "{kind}");
        assert_eq!(crd["spec"]["names"]["listKind"], format!("{kind}List"));
        let found = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().expect("there are columns");
        assert_eq!(found.iter().map(|column| column["name"].as_str().unwrap_or_default()).collect::<Vec<_>>(), columns);
    }
}

#[test]
fn lists_have_the_keys_that_merging_needs() {
    for (kind, path, list_type, keys) in [
        ("Gateway", "spec.listeners", "map", json!(["name"])),
        ("Gateway", "spec.addresses", "atomic", Value::Null),
        ("Gateway", "status.conditions", "map", json!(["type"])),
        ("Gateway", "status.listeners", "map", json!(["name"])),
        ("Gateway", "status.listeners[].conditions", "map", json!(["type"])),
        ("Gateway", "spec.tls.frontend.perPort", "map", json!(["port"])),
        ("GatewayClass", "status.supportedFeatures", "map", json!(["name"])),
        ("HTTPRoute", "spec.parentRefs", "atomic", Value::Null),
        ("HTTPRoute", "spec.hostnames", "atomic", Value::Null),
        ("HTTPRoute", "spec.rules", "atomic", Value::Null),
        ("HTTPRoute", "spec.rules[].matches[].headers", "map", json!(["name"])),
        ("HTTPRoute", "spec.rules[].matches[].queryParams", "map", json!(["name"])),
        ("HTTPRoute", "spec.rules[].filters[].requestHeaderModifier.set", "map", json!(["name"])),
        ("HTTPRoute", "spec.rules[].filters[].requestHeaderModifier.remove", "set", Value::Null),
        ("HTTPRoute", "status.parents", "atomic", Value::Null),
        ("HTTPRoute", "status.parents[].conditions", "map", json!(["type"])),
        ("ListenerSet", "spec.listeners", "map", json!(["name"])),
        ("BackendTLSPolicy", "spec.targetRefs", "atomic", Value::Null),
        ("ReferenceGrant", "spec.from", "atomic", Value::Null),
    ] {
        let crd = json_of(kind);
        let schema = field(&crd, path);
        assert_eq!(schema["type"], "array", "{kind} {path}");
        assert_eq!(schema["x-kubernetes-list-type"], list_type, "{kind} {path}");
        assert_eq!(schema["x-kubernetes-list-map-keys"], keys, "{kind} {path}");
    }
}

#[test]
fn absent_fields_have_upstreams_defaults() {
    for (kind, path, default) in [
        ("Gateway", "spec.listeners[].allowedRoutes", json!({"namespaces": {"from": "Same"}})),
        ("Gateway", "spec.listeners[].tls.mode", json!("Terminate")),
        ("Gateway", "spec.addresses[].type", json!("IPAddress")),
        ("HTTPRoute", "spec.parentRefs[].group", json!("gateway.networking.k8s.io")),
        ("HTTPRoute", "spec.parentRefs[].kind", json!("Gateway")),
        ("HTTPRoute", "spec.rules", json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}])),
        ("HTTPRoute", "spec.rules[].matches", json!([{"path": {"type": "PathPrefix", "value": "/"}}])),
        ("HTTPRoute", "spec.rules[].matches[].path.type", json!("PathPrefix")),
        ("HTTPRoute", "spec.rules[].backendRefs[].weight", json!(1)),
        ("HTTPRoute", "spec.rules[].backendRefs[].group", json!("")),
        ("HTTPRoute", "spec.rules[].backendRefs[].kind", json!("Service")),
        ("HTTPRoute", "spec.rules[].filters[].requestRedirect.statusCode", json!(302)),
    ] {
        assert_eq!(field(&json_of(kind), path)["default"], default, "{kind} {path}");
    }
}

/// Goes through all schemas below one, with their paths.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&schema[key], &format!("{path}{mark}"), visit);
        }
    }
}

#[test]
fn every_schema_is_structural() {
    let allowed: BTreeSet<&str> = [
        "type",
        "properties",
        "items",
        "additionalProperties",
        "required",
        "description",
        "format",
        "default",
        "enum",
        "pattern",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "maxProperties",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
        "title",
    ]
    .into();
    for crd in crds().into_iter().chain(own_crds()) {
        let kind = crd.spec.names.kind.clone();
        let crd = serde_json::to_value(crd).expect("a definition is JSON");
        let mut fields = 0;
        walk(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "", &mut |path, schema| {
            fields += 1;
            assert!(schema["type"].is_string(), "{kind}{path} has no type: {schema}");
            for key in schema.as_object().into_iter().flatten().map(|(key, _)| key.as_str()) {
                assert!(allowed.contains(key), "{kind}{path} has {key}");
            }
            assert_eq!(schema["type"] == "array", schema["items"].is_object(), "{kind}{path}");
            for key in schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten() {
                let key = key.as_str().unwrap_or_default();
                let item = &schema["items"];
                let required =
                    item["required"].as_array().is_some_and(|required| required.iter().any(|name| name == key));
                assert!(required || item["properties"][key]["default"] != Value::Null, "{kind}{path}: key {key}");
            }
        });
        assert!(fields >= 10, "{kind} has {fields} fields");
    }
}

#[test]
fn our_own_kinds_say_what_they_are() {
    let istio = |crd: &CustomResourceDefinition| crd.spec.group.ends_with("istio.io");
    for crd in own_crds().into_iter().filter(|crd| !istio(crd)) {
        let name = crd.name_any();
        assert!(name.ends_with(".mesh.coracle.dev"), "{name}");
        assert_eq!(crd.spec.names.categories.as_deref(), Some(&["coracle".to_owned()][..]), "{name}");
        let versions: Vec<_> =
            crd.spec.versions.iter().map(|version| (version.name.as_str(), version.served)).collect();
        assert_eq!(versions, [("v1alpha1", true)], "{name}");
        let version = serde_json::to_value(&crd.spec.versions[0]).expect("a version is JSON");
        assert!(version["subresources"]["status"].is_object(), "{name}");
        let properties = &version["schema"]["openAPIV3Schema"]["properties"];
        assert_eq!(properties["spec"]["properties"]["targetRefs"]["minItems"], 1, "{name}");
        assert!(properties["status"]["properties"]["ancestors"].is_object(), "{name}");
    }
}

#[test]
fn the_objects_that_are_installed_fit_their_own_definitions() {
    let class = serde_json::to_value(crate::class::gateway_class()).expect("a class is JSON");
    let schema = json_of("GatewayClass");
    let known = |path: &str| field(&schema, path);
    assert_eq!(known("spec.controllerName")["type"], "string");
    let longest = known("spec.description")["maxLength"].as_u64().expect("it has a limit");
    assert!(class["spec"]["description"].as_str().is_some_and(|text| text.len() as u64 <= longest));
    let mut features = crate::class::SUPPORTED_FEATURES.to_vec();
    features.sort_unstable();
    assert_eq!(features, crate::class::SUPPORTED_FEATURES, "the API wants them in order");
}
