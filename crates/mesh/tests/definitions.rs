//! The definitions, as the API server's own rules read them.

use rules::decode::{apply_schema_defaults, check_fields, validate_schema};
use rules::schema::{ListType, Schema};
use serde_json::{Value, json};

fn definition(kind: &str) -> Value {
    let crd = mesh::crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect("the kind is one of ours");
    serde_json::to_value(crd).expect("a definition is JSON")
}

fn schema(kind: &str) -> Schema {
    Schema::from_crd(&definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]).expect("it is structural")
}

#[test]
fn every_definition_is_one_that_the_api_takes() {
    for crd in mesh::crds() {
        let kind = crd.spec.names.kind.clone();
        let mut definition = serde_json::to_value(crd).expect("a definition is JSON");
        rules::crd::complete(&mut definition);
        assert_eq!(rules::crd::validate(&definition), [], "{kind}");
        let served = rules::crd::served(&definition).expect("its schemas can be read");
        assert_eq!(served.len(), definition["spec"]["versions"].as_array().map_or(0, Vec::len), "{kind}");
    }
}

#[test]
fn listeners_are_merged_by_name() {
    let spec = schema("Gateway").field("spec").expect("a spec");
    let listeners = spec.field("listeners").expect("listeners");
    assert!(matches!(listeners.list_type(), ListType::Map(keys) if keys.len() == 1 && keys[0] == "name"));
    let parents = schema("HTTPRoute").field("spec").and_then(|spec| spec.field("parentRefs")).expect("parentRefs");
    assert!(matches!(parents.list_type(), ListType::Atomic));
}

#[test]
fn a_short_route_is_filled_in() {
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
    });
    let schema = schema("HTTPRoute");
    apply_schema_defaults(&mut route, &schema);
    assert_eq!(
        route["spec"],
        json!({
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}],
            "rules": [{
                "backendRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 1}],
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            }],
        })
    );
    assert_eq!(validate_schema(&route, &schema), []);
    let report = check_fields(&route, &schema);
    assert!(report.unknown.is_empty() && report.mistyped.is_empty());
}

#[test]
fn what_is_wrong_is_refused_with_its_path() {
    let gateway = |listener: Value| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
            "spec": {"gatewayClassName": "coracle", "listeners": [listener]},
        })
    };
    let schema = schema("Gateway");
    for (listener, path) in [
        (json!({"name": "l", "port": 0, "protocol": "HTTP"}), "spec.listeners[0].port"),
        (json!({"name": "l", "port": 70_000, "protocol": "HTTP"}), "spec.listeners[0].port"),
        (json!({"name": "L!", "port": 80, "protocol": "HTTP"}), "spec.listeners[0].name"),
        (json!({"name": "l", "port": 80, "protocol": "HTTP", "hostname": "a b"}), "spec.listeners[0].hostname"),
        (json!({"name": "l", "port": 80}), "spec.listeners[0].protocol"),
        (
            json!({"name": "l", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Some"}}}),
            "spec.listeners[0].allowedRoutes.namespaces.from",
        ),
    ] {
        let errors = validate_schema(&gateway(listener.clone()), &schema);
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, [path], "{listener}");
    }
    let good = gateway(json!({"name": "l", "port": 80, "protocol": "HTTP"}));
    assert_eq!(validate_schema(&good, &schema), []);
}
