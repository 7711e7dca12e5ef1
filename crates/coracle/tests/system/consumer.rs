//! Gateway API's consumer routes: a namespace changes how its own callers reach another namespace's Service.

use crate::harness::{Coracle, eventually, manifests};
use crate::probes::application;

/// A route of the namespace `web` for the Service `target` of another, and namespaces that call.
const ROUTE: &str = "apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mine, namespace: web}
spec:
  parentRefs: [{group: '', kind: Service, name: target, namespace: default}]
  rules:
    - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: mine}]}}]
      backendRefs: [{name: target, namespace: default, port: 8080}]
";

fn asks(namespace: &str, address: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: asks, namespace: {namespace}}}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: coracle.dev/host
      command: [sh, -c, 'curl -si --noproxy \"*\" http://{address}/healthz']
"
    )
}

#[test]
#[ignore = "needs curl"]
fn a_route_for_another_namespaces_service_is_for_its_own_callers_alone() {
    let directory = manifests(&[("target.yaml", &application("target", 1, "")), ("route.yaml", ROUTE)]);
    let coracle = Coracle::up(directory.path());
    eventually("the route is accepted", || {
        let route = coracle.get(&["httproute/mine", "-n", "web"]);
        let conditions = route["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
        let holds = conditions.iter().filter(|condition| condition["status"] == "True").count();
        if holds == 2 { Ok(()) } else { Err(route["status"].to_string()) }
    });
    let service = coracle.get(&["svc/target"]);
    let address = format!("{}:8080", service["spec"]["clusterIP"].as_str().expect("an address"));
    for (namespace, routed) in [("web", true), ("other", false)] {
        let file = directory.path().join(format!("{namespace}-asks.yaml"));
        std::fs::write(&file, asks(namespace, &address)).expect("written");
        coracle.ok(&["apply", "-f", &file.to_string_lossy()]);
        let said = coracle.told_by("asks", namespace);
        assert!(said.contains("HTTP/1.1 200"), "{namespace}: {said}");
        assert_eq!(said.contains("x-route: mine"), routed, "{namespace}: {said}");
    }
}
