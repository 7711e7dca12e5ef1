//! The way out, as programs in Pods meet it.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::harness::{Coracle, eventually, get, manifests};

/// A Pod that asks two hosts by the proxy of its environment, and one through a tunnel.
fn pod(namespace: &str, port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: asks, namespace: {namespace}, annotations: {{mesh.coracle.dev/egress: proxy}}}}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: coracle.dev/host
      command: [sh, -c, 'for host in localhost 127.0.0.1; do curl -s -o /dev/null --noproxy \"\" -w \"$host %{{http_code}}\\n\" http://$host:{port}/; done; curl -s -o /dev/null --noproxy \"\" -p -w \"tunnel %{{http_connect}}\\n\" http://localhost:{port}/; echo $NO_PROXY']
"
    )
}

/// A namespace with nothing, one with a list, and one with a policy for one of the hosts. Pods of all ask the same two hosts by the proxy
/// of their environment, and one through a tunnel.
fn namespaces(port: u16) -> String {
    let namespace = |name: &str, more: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{{more}}}}}\n")
    };
    let all = [
        namespace("free", ""),
        namespace("listed", "mesh.coracle.dev/egress-allow: localhost"),
        namespace("governed", "mesh.coracle.dev/egress-local: 'true'"),
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: out, namespace: governed}}
spec: {{type: ExternalName, externalName: localhost, ports: [{{name: http, port: {port}}}]}}
---
apiVersion: mesh.coracle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: out, namespace: governed}}
spec:
  targetRefs: [{{kind: Service, name: out}}]
  faults: [{{percent: 100, abort: {{status: 418}}}}]
"
        ),
    ];
    all.join("---\n")
}

#[test]
#[ignore = "needs curl"]
fn pods_go_out_by_the_proxy_and_only_where_their_namespace_says() {
    let outside = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = outside.local_addr().expect("an address").port();
    let server = std::thread::spawn(move || {
        // Both hosts and the tunnel of the first, one and the tunnel of the second, the host without a policy of the third.
        for _ in 0..6 {
            let (mut stream, _) = outside.accept().expect("asked");
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n").expect("answered");
        }
    });
    let directory = manifests(&[("asks.yaml", &namespaces(port))]);
    let coracle = Coracle::up(directory.path());
    eventually("the policy is followed", || {
        let policy = coracle.get(&["trafficpolicy/out", "-n", "governed"]);
        let accepted = &policy["status"]["ancestors"][0]["conditions"][0]["status"];
        if accepted == "True" { Ok(()) } else { Err(policy["status"].to_string()) }
    });
    // Only now: a Pod asks once, and what its namespace says is to be in force by then.
    let file = directory.path().join("pods.yaml");
    let pods = ["free", "listed", "governed"].map(|namespace| pod(namespace, port));
    std::fs::write(&file, pods.join("---\n")).expect("written");
    coracle.ok(&["apply", "-f", &file.to_string_lossy()]);
    let said = |namespace: &str| coracle.told_by("asks", namespace);
    let (free, listed, governed) = (said("free"), said("listed"), said("governed"));
    assert!(free.contains("localhost 204") && free.contains("127.0.0.1 204"), "{free}");
    assert!(listed.contains("localhost 204") && listed.contains("127.0.0.1 403"), "{listed}");
    assert!(free.contains(".cluster.local"), "{free}");
    assert!(free.contains("tunnel 200") && listed.contains("tunnel 200"), "{free} {listed}");
    assert!(governed.contains("localhost 418") && governed.contains("127.0.0.1 204"), "{governed}");
    assert!(governed.contains("tunnel 418"), "{governed}");
    server.join().expect("asked six times");
    eventually("the tunnel is an edge, and told of at its end", || {
        let top: serde_json::Value =
            serde_json::from_str(&coracle.ok(&["top", "--total", "-o", "json"])).expect("JSON");
        let edges = top["edges"].as_array().cloned().unwrap_or_default();
        let edge = edges.iter().find(|edge| edge["source"] == "free/asks" && edge["destination"] == "localhost");
        let counted = edge.is_some_and(|edge| edge["connections"] == 1 && edge["open"] == 0 && edge["requests"] == 2);
        let log = std::fs::read_to_string(coracle.data().join("access.log")).unwrap_or_default();
        let told = log.lines().any(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            line["method"] == "CONNECT" && line["source"] == "free/asks" && line["responseBytes"].as_u64() > Some(0)
        });
        if counted && told { Ok(()) } else { Err(format!("{edges:?} {log}")) }
    });
}

/// A Service without a selector is as good as its hand-written EndpointSlice, whose address is no Pod's.
#[test]
fn a_service_without_pods_sends_where_its_slices_say() {
    let outside = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = outside.local_addr().expect("an address").port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = outside.accept().expect("asked");
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 6\r\n\r\nlegacy").expect("answered");
    });
    let text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: legacy}}
spec: {{ports: [{{name: http, port: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: legacy-1, labels: {{kubernetes.io/service-name: legacy}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
"
    );
    let directory = manifests(&[("legacy.yaml", &text)]);
    let coracle = Coracle::up(directory.path());
    let service = coracle.get(&["svc/legacy"]);
    let address = format!("{}:8080", service["spec"]["clusterIP"].as_str().expect("an address"));
    let address = address.parse().expect("an address");
    let answer = eventually("the Service answers", || match get(address, "/") {
        Ok(answer) if answer.status == 200 => Ok(answer),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(answer.body, "legacy");
    server.join().expect("asked");
}
