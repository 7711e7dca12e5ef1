use serde_json::{Value, json};

use super::*;

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("as upstream writes it")
}

fn built(container: Value, services: Value) -> Result<BTreeMap<String, String>, EnvError> {
    let container: Container = typed(container);
    let pod: Pod = typed(json!({
        "metadata": {"name": "p-1", "namespace": "shop", "uid": "u", "labels": {"app": "p"}, "annotations": {"a/b": "c"}},
        "spec": {"nodeName": "coracle", "containers": [container.clone()]}
    }));
    let services = services_for("shop", typed::<Vec<Service>>(services));
    let lookups = Lookups {
        config_maps: BTreeMap::from([
            ("conf".to_owned(), Some(typed(json!({"data": {"LEVEL": "info", "key": "v"}})))),
            ("gone".to_owned(), None),
        ]),
        secrets: BTreeMap::from([("sec".to_owned(), Some(typed(json!({"data": {"PASS": "cA=="}}))))]),
    };
    let recipe =
        Recipe { env: BTreeMap::from([("FROM".to_owned(), "recipe $(PORT)".to_owned())]), ..Recipe::default() };
    build(&Input {
        pod: &pod,
        container: &container,
        recipe: Some(&recipe),
        lookups: &lookups,
        services: &services,
        reached: &|_: IpAddr, port: u16| (port == 80).then_some(8080),
        ports: &BTreeMap::from([(8080, 41000), (9090, 41001)]),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        volumes: &BTreeMap::from([("my-data".to_owned(), PathBuf::from("/v/my-data"))]),
        host: &BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        extra: &BTreeMap::new(),
    })
}

use std::net::IpAddr;

#[test]
fn what_is_declared_is_there() {
    let env = built(
        json!({"name": "c",
          "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 9090, "name": "my-metrics"}],
          "envFrom": [{"configMapRef": {"name": "conf"}}, {"prefix": "S_", "secretRef": {"name": "sec"}},
                      {"configMapRef": {"name": "gone", "optional": true}}],
          "env": [
            {"name": "LEVEL", "value": "debug"},
            {"name": "URL", "value": "http://$(USERS_SERVICE_HOST):$(USERS_SERVICE_PORT)/$(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "ANN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a/b']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "PASS"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "no", "optional": true}}},
            {"name": "DATA", "value": "$(VOLUME_MY_DATA)/x"}
          ]}),
        json!([
          {"metadata": {"name": "users", "namespace": "shop"}, "spec": {"clusterIP": "127.96.0.9", "ports": [{"name": "http", "port": 80}]}},
          {"metadata": {"name": "headless", "namespace": "shop"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
          {"metadata": {"name": "other", "namespace": "else"}, "spec": {"clusterIP": "127.96.0.8", "ports": [{"port": 80}]}},
          {"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "127.96.0.1", "ports": [{"name": "https", "port": 443}]}}
        ]),
    )
    .expect("complete");
    for (name, expected) in [
        ("PATH", "/bin"),
        ("HOSTNAME", "p-1"),
        ("PORT", "41000"),
        ("PORT_HTTP", "41000"),
        ("PORT_MY_METRICS", "41001"),
        ("FROM", "recipe 41000"),
        ("LEVEL", "debug"),
        ("key", "v"),
        ("S_PASS", "p"),
        ("URL", "http://127.96.0.9:8080/$(LATER)"),
        ("NAME", "p-1"),
        ("APP", "p"),
        ("ANN", "c"),
        ("IP", "127.0.0.1"),
        ("PASSWORD", "p"),
        ("DATA", "/v/my-data/x"),
        ("USERS_SERVICE_PORT_HTTP", "8080"),
        ("USERS_PORT", "tcp://127.96.0.9:8080"),
        ("USERS_PORT_80_TCP_ADDR", "127.96.0.9"),
        ("KUBERNETES_SERVICE_HOST", "127.96.0.1"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(expected), "{name}");
    }
    for absent in ["NONE", "HEADLESS_SERVICE_HOST", "OTHER_SERVICE_HOST"] {
        assert!(!env.contains_key(absent), "{absent}");
    }
}

#[test]
fn what_is_missing_is_named_as_upstream_does() {
    for (container, expected) in [
        (json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]}), "configmap \"gone\" not found"),
        (json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}), "secret \"no\" not found"),
        (
            json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "no"}}}]}),
            "couldn't find key no in ConfigMap shop/conf",
        ),
        (
            json!({"name": "c", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nothing"}}}]}),
            "env A: unsupported fieldPath: spec.nothing",
        ),
    ] {
        assert_eq!(built(container, json!([])).expect_err(expected).0, expected);
    }
}
