//! gRPC and plain bytes from one instance to another: who is let in by STRICT and AccessPolicies there, and what is counted on
//! both sides of the encrypted hop (scenario 46).

use crate::harness::{Coracle, eventually, manifests};
use crate::two_instances::{Hosts, befriend, start};

/// Streams back what it gets, and says who asked. `/x/Fail` fails.
const ORDERS: &str = r#"
import grpc, os
from concurrent import futures
class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        who = dict(details.invocation_metadata).get("x-forwarded-client-cert", "nobody").encode()
        def echo(requests, context):
            for request in requests:
                yield request + b" " + who
        def fail(request, context):
            context.abort(grpc.StatusCode.INTERNAL, "it fails")
        if details.method == "/x/Echo":
            return grpc.stream_stream_rpc_method_handler(echo)
        return grpc.unary_unary_rpc_method_handler(fail)
server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Handler()])
server.add_insecure_port("0.0.0.0:" + os.environ["PORT"])
server.start()
server.wait_for_termination()
"#;

/// Speaks first, and then says again what it hears.
const BANK: &str = r#"
import os, socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"welcome\n")
        while heard := self.request.recv(4096):
            self.request.sendall(heard)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
Server(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// Calls both, again and again, and says what it hears.
const CALLER: &str = r#"
import grpc, os, socket, time
def address(name):
    return os.environ[name + "_SERVICE_HOST"], int(os.environ[name + "_SERVICE_PORT"])
def stream(channel):
    call = channel.stream_stream("/x/Echo")
    return [answer.decode() for answer in call(iter([b"one", b"two"]), timeout=30)]
def fail(channel):
    try:
        channel.unary_unary("/x/Fail")(b"", timeout=30)
    except grpc.RpcError as error:
        return error.code().name
def bank():
    with socket.create_connection(address("BANK"), timeout=30) as stream:
        heard = stream.recv(4096)
        if not heard:
            return "closed"
        stream.sendall(b"ping")
        return (heard + stream.recv(4096)).decode().replace("\n", " ")
while True:
    with grpc.insecure_channel("%s:%d" % address("ORDERS")) as channel:
        try:
            print("grpc", *stream(channel), "then", fail(channel), flush=True)
        except grpc.RpcError as error:
            print("grpc refused", error.code().name, flush=True)
    try:
        print("tcp", bank(), flush=True)
    except OSError as error:
        print("tcp", type(error).__name__, flush=True)
    time.sleep(0.5)
"#;

/// A program of its own account behind a Service.
fn called(name: &str, port: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: c, image: {name}, ports: [{{containerPort: 8080}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{name: {port}, port: 8080}}]}}
---
apiVersion: mesh.coracle.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: {name}}}]
  rules: [{{name: web, from: {{spiffeIds: ['spiffe://a.test/ns/shop/sa/web']}}}}]
"
    )
}

/// The same Service as it is elsewhere.
fn there(name: &str, port: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{name: {port}, port: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-there
  namespace: shop
  labels: {{kubernetes.io/service-name: {name}}}
  annotations: {{mesh.coracle.dev/peer: 'true'}}
addressType: IPv4
ports: [{{name: {port}, port: 15008}}]
endpoints: [{{addresses: [{}]}}]
",
        Hosts::ADDRESSES[1]
    )
}

fn caller(name: &str, label: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: shop}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}{label}}}}}
    spec:
      serviceAccountName: {name}
      containers: [{{name: c, image: caller}}]
"
    )
}

const SHOP: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
const STRICT: &str = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\n\
                      spec: {mtls: {mode: STRICT}}\n";

/// What `/metrics` says of an edge: its answers that were good, those that were not, bytes back, and answers whose time was taken.
fn edge(coracle: &Coracle, source: &str, destination: &str) -> [f64; 4] {
    let who = format!("{{source=\"{source}\",destination=\"{destination}\",");
    let text = coracle.ok(&["get", "--raw", "/metrics"]);
    let sum = |family: &str, wanted: &dyn Fn(&str) -> bool| -> f64 {
        let start = format!("{family}{who}");
        let lines = text.lines().filter(|line| line.starts_with(&start) && wanted(line));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let good = |line: &str| line.contains("code_class=\"2xx\"");
    [
        sum("coracle_requests_total", &good),
        sum("coracle_requests_total", &|line| !good(line)),
        sum("coracle_response_bytes_total", &|_| true),
        sum("coracle_request_duration_seconds_count", &|_| true),
    ]
}

#[test]
#[ignore = "needs root, ip, and python3 with grpcio"]
fn grpc_and_bytes_cross_for_those_who_may_and_are_counted_on_both_sides() {
    let python = std::env::var("CORACLE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let hosts = Hosts::new();
    let far = [SHOP.to_owned(), STRICT.to_owned(), called("orders", "grpc"), called("bank", "tcp")].concat();
    let stray = ", sidecar.istio.io/inject: 'false'";
    let services = [SHOP.to_owned(), there("orders", "grpc"), there("bank", "tcp")].concat();
    let callers = [caller("web", ""), caller("other", ""), caller("stray", stray)].concat();
    let programs = [("orders", ORDERS), ("bank", BANK), ("caller", CALLER)];
    let far = manifests(&[("far.yaml", &far)]);
    let near = manifests(&[("a.yaml", &services), ("b.yaml", &callers)]);
    for folder in [&far, &near] {
        let mut recipe = "images:\n".to_owned();
        for (name, text) in programs {
            let path = folder.path().join(format!("{name}.py"));
            std::fs::write(&path, text).expect("a writable directory");
            recipe.push_str(&format!("  {name}:\n    command: [{python}, {path:?}]\n"));
        }
        std::fs::write(folder.path().join("coracle.yaml"), recipe).expect("a writable directory");
    }
    let data = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let listen = format!("{}:15008", Hosts::ADDRESSES[1]);
    let b = start(&hosts, 1, &far, &data[1], &["--trust-domain", "b.test", "--mesh-listen", &listen]);
    let a = start(&hosts, 0, &near, &data[0], &["--trust-domain", "a.test"]);
    befriend(&a, &b, &data[0]);
    let hears = |name: &str, all: &[&str]| {
        eventually(&format!("{name} hears {all:?}"), || {
            let said = a.ok(&["logs", &format!("deploy/{name}"), "-n", "shop"]);
            let last: Vec<&str> = said.lines().rev().take(6).collect();
            let heard = all.iter().all(|wanted| last.iter().any(|line| line.contains(wanted)));
            if heard { Ok(()) } else { Err(last.join("\n")) }
        });
    };
    let who = "URI=spiffe://a.test/ns/shop/sa/web";
    hears("web", &[&format!("grpc one {who} two {who} then INTERNAL"), "tcp welcome ping"]);
    hears("other", &["grpc refused PERMISSION_DENIED", "tcp closed"]);
    // Nobody speaks for it at the other end.
    hears("stray", &["grpc refused UNAVAILABLE"]);
    let counted = |coracle: &Coracle, source: &str, holds: &dyn Fn([f64; 4]) -> bool| {
        eventually(&format!("rate, errors, size and latency of {source} are counted"), || {
            let told = edge(coracle, source, "shop/orders");
            if holds(told) { Ok(()) } else { Err(format!("good, bad, bytes, timed: {told:?}")) }
        });
    };
    for (coracle, source) in [(&a, "shop/web"), (&b, "a.test/shop/web")] {
        counted(coracle, source, &|[good, bad, bytes, timed]| {
            good > 0.0 && bad > 0.0 && bytes > 0.0 && timed >= good + bad
        });
    }
    for (coracle, source) in [(&a, "shop/other"), (&b, "a.test/shop/other"), (&a, "unknown")] {
        counted(coracle, source, &|[good, bad, _, timed]| bad > 0.0 && good == 0.0 && timed >= bad);
    }
}
