//! The definitions, as the API server's own rules read them.

use rules::decode::{apply_schema_defaults, check_fields, validate_schema};
use rules::schema::{ListType, Schema};
use serde_json::{Value, json};

fn definition(kind: &str) -> Value {
    let crd = mesh::crds()
        .into_iter()
        .chain(mesh::own_crds())
        .find(|crd| crd.spec.names.kind == kind)
        .expect("the kind is one of ours");
    serde_json::to_value(crd).expect("a definition is JSON")
}

fn schema(kind: &str) -> Schema {
    Schema::from_crd(&definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]).expect("it is structural")
}

#[test]
fn every_definition_is_one_that_the_api_takes() {
    for crd in mesh::crds().into_iter().chain(mesh::own_crds()).chain(mesh::foreign_crds()) {
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

#[test]
fn a_short_traffic_policy_says_what_is_followed() {
    let policy = |spec: Value| {
        json!({
            "apiVersion": "mesh.coracle.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "p"},
            "spec": spec,
        })
    };
    let schema = schema("TrafficPolicy");
    let mut short = policy(json!({
        "targetRefs": [{"kind": "Service", "name": "billing"}], "circuitBreaker": {}, "retries": {"attempts": 1},
    }));
    apply_schema_defaults(&mut short, &schema);
    assert_eq!(
        short["spec"]["circuitBreaker"],
        json!({
            "failureRate": 50, "minimumCalls": 10, "window": "30s", "callTimeout": "3s", "openFor": "15s", "probes": 3,
        })
    );
    assert_eq!(
        short["spec"]["retries"],
        json!({
            "attempts": 1, "maxBodyBytes": 65_536, "backoff": {"base": "25ms", "max": "1s"},
            "on": ["gateway-error", "connect-failure", "reset", "timeout", "grpc-unavailable"],
            "budget": {"percent": 20, "interval": "10s", "minPerSecond": 10},
        })
    );
    assert!(short["spec"].get("timeouts").is_none(), "what is not asked for is not there");
    assert_eq!(validate_schema(&short, &schema), []);
    for (spec, path) in [
        (json!({"targetRefs": []}), "spec.targetRefs"),
        (
            json!({"targetRefs": [{"kind": "Service", "name": "s"}], "retries": {"attempts": 11}}),
            "spec.retries.attempts",
        ),
        (
            json!({"targetRefs": [{"kind": "Service", "name": "s"}], "timeouts": {"request": "3 s"}}),
            "spec.timeouts.request",
        ),
        (
            json!({"targetRefs": [{"kind": "Service", "name": "s"}], "circuitBreaker": {"failureRate": 101}}),
            "spec.circuitBreaker.failureRate",
        ),
    ] {
        let errors = validate_schema(&policy(spec.clone()), &schema);
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, [path], "{spec}");
    }
}
