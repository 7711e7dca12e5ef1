//! Two instances in two network namespaces: exercise E4 across hosts. The namespaces are the test's own.

use crate::harness::{Coracle, eventually, manifests, unique};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Two namespaces joined by a pair of interfaces; gone with the test.
pub(crate) struct Hosts {
    names: [String; 2],
}

impl Hosts {
    pub(crate) const ADDRESSES: [&str; 2] = ["10.199.7.1", "10.199.7.2"];

    pub(crate) fn new() -> Self {
        let names = ["a", "b"].map(|host| format!("coracle-{}-{host}", unique()));
        let hosts = Self { names };
        let [a, b] = &hosts.names;
        for name in &hosts.names {
            ip(&["netns", "add", name]);
        }
        ip(&["link", "add", "peer0", "netns", a, "type", "veth", "peer", "name", "peer0", "netns", b]);
        for (name, address) in hosts.names.iter().zip(Self::ADDRESSES) {
            ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", "peer0"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
            ip(&["-n", name, "link", "set", "peer0", "up"]);
        }
        hosts
    }

    fn run(&self, host: usize, program: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host]]).args(program).output().expect("ip starts")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip starts; is it installed?");
    assert!(status.success(), "ip {arguments:?}; it needs root");
}

const CALLED: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  template:
    metadata: {labels: {app: orders}}
    spec: {containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// `web` is in the mesh and `stray` is not; both call `orders`, which is at the other instance.
const CALLERS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      containers: [{name: c, image: fixture, ports: [{containerPort: 8080}]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stray, namespace: shop}
spec:
  selector: {matchLabels: {app: stray}}
  template:
    metadata: {labels: {app: stray, sidecar.istio.io/inject: "false"}}
    spec: {containers: [{name: c, image: fixture, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: stray, namespace: shop}
spec: {selector: {app: stray}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: orders-there
  namespace: shop
  labels: {kubernetes.io/service-name: orders}
  annotations: {mesh.coracle.dev/peer: "true"}
addressType: IPv4
ports: [{name: http, port: 15008}]
endpoints: [{addresses: [10.199.7.2]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: coracle, listeners: [{name: http, port: 8080, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: callers, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches: [{headers: [{name: from, value: stray}]}]
    backendRefs: [{name: stray, port: 80}]
  - backendRefs: [{name: web, port: 80}]
"#;

/// Answers with the headers of what it was asked.
const ECHO: &str = r"
import http.server, os
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = str(self.headers).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('0.0.0.0', int(os.environ['PORT'])), Echo).serve_forever()
";

pub(crate) fn start(hosts: &Hosts, host: usize, directory: &TempDir, data: &TempDir, more: &[&str]) -> Coracle {
    let namespace = &hosts.names[host];
    Coracle::up_in_namespace(namespace, directory.path(), data.path(), more)
        .unwrap_or_else(|output| panic!("up failed:\n{output}"))
}

/// Lets the instances of `a.test` and `b.test` trust each other.
pub(crate) fn befriend(a: &Coracle, b: &Coracle, folder: &TempDir) {
    for (from, to, domain) in [(a, b, "a.test"), (b, a, "b.test")] {
        let bundle = from.ok(&["trust", "bundle", "-o", "spiffe"]);
        let file = folder.path().join(format!("{domain}.json"));
        std::fs::write(&file, bundle).expect("a writable directory");
        to.ok(&["trust", "add", file.to_str().expect("UTF-8"), "--trust-domain", domain]);
    }
}

#[test]
#[ignore = "needs root, ip, curl and python3"]
fn a_call_to_another_instance_crosses_in_the_callers_name_and_nobody_elses() {
    let hosts = Hosts::new();
    let (there, here) = (manifests(&[("there.yaml", CALLED), ("echo.py", ECHO)]), manifests(&[("here.yaml", CALLERS)]));
    let recipe = format!("images:\n  echo:\n    command: [python3, {:?}]\n", there.path().join("echo.py"));
    std::fs::write(there.path().join("coracle.yaml"), recipe).expect("a writable directory");
    let data = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let b = start(&hosts, 1, &there, &data[1], &["--trust-domain", "b.test", "--mesh-listen", "10.199.7.2:15008"]);
    let a = start(&hosts, 0, &here, &data[0], &["--trust-domain", "a.test"]);
    let gateway = a.ready["gateway"].as_str().expect("a gateway").to_owned();
    let call = |from: &str| {
        let (url, from) = (format!("{gateway}/via?orders/"), format!("from: {from}"));
        let output = hosts.run(0, &["curl", "-sS", "--max-time", "90", "-H", &from, &url]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Nobody trusts anybody yet.
    eventually("the call is refused", || {
        let said = call("web");
        if said.contains("connect_failed") { Ok(()) } else { Err(said) }
    });
    befriend(&a, &b, &data[0]);
    eventually("the call is answered", || {
        let said = call("web");
        if said.contains("URI=spiffe://a.test/ns/shop/sa/web") { Ok(()) } else { Err(said) }
    });
    let said = call("stray");
    assert!(said.contains("502") && !said.contains("x-forwarded-client-cert"), "who is outside gets no answer: {said}");
    // A stranger at the called one's own address is reset.
    let service = b.get(&["service/orders", "-n", "shop"]);
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    let output = hosts.run(1, &["curl", "-sS", "--max-time", "90", &format!("http://{address}/")]);
    assert_eq!(output.status.code(), Some(56), "{}", String::from_utf8_lossy(&output.stderr));
}
