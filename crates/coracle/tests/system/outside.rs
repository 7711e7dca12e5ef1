//! Services that are names: where they lead, and where they must not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use crate::harness::{Coracle, eventually, get, manifests};

/// A server outside of the mesh that answers with the host that it was asked for.
fn outside() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 2048];
            let read = stream.read(&mut asked).unwrap_or(0);
            let asked = String::from_utf8_lossy(&asked[..read]).to_lowercase();
            let host = asked.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("none").to_owned();
            let answer = format!("HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{host}", host.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

fn objects(namespace: &str, annotations: &str, port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, annotations: {{{annotations}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: named, namespace: {namespace}}}
spec: {{type: ExternalName, externalName: localhost, ports: [{{name: http, port: {port}}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: named, namespace: {namespace}}}
spec:
  parentRefs: [{{name: edge, namespace: default}}]
  rules:
    - matches: [{{path: {{value: /{namespace}}}}}]
      backendRefs: [{{name: named, port: {port}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: listed, namespace: {namespace}}}
spec: {{ports: [{{name: http, port: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: listed-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: listed}}}}
addressType: FQDN
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [localhost]}}]
---
"
    )
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: coracle
  listeners: [{name: http, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]
";

#[test]
fn a_name_leads_to_this_machine_where_its_namespace_says_so() {
    let port = outside();
    let text = objects("open", "mesh.coracle.dev/egress-local: 'true'", port) + &objects("shut", "", port) + GATEWAY;
    let directory = manifests(&[("outside.yaml", &text)]);
    let coracle = Coracle::up(directory.path());
    let listed = |namespace: &str| -> SocketAddr {
        let service = coracle.get(&["svc/listed", "-n", namespace]);
        let address = format!("{}:8080", service["spec"]["clusterIP"].as_str().expect("an address"));
        address.parse().expect("an address")
    };
    let answered = |address: SocketAddr, path: &str, status: u16| {
        eventually(&format!("{address}{path} answers {status}"), || match get(address, path) {
            Ok(answer) if answer.status == status => Ok(answer.body),
            other => Err(format!("{other:?}")),
        })
    };
    let host = format!("localhost:{port}");
    assert_eq!(answered(coracle.gateway(), "/open", 200), host);
    assert_eq!(answered(listed("open"), "/", 200), host);
    answered(coracle.gateway(), "/shut", 503);
    answered(listed("shut"), "/", 503);
}
