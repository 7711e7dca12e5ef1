//! The way out, as programs in Pods meet it.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::harness::{Coracle, eventually, get, manifests};

/// Two Pods ask the same two hosts by the proxy of their environment, one of them from a namespace with a list.
fn asks(port: u16) -> String {
    let pod = |namespace: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: asks, namespace: {namespace}, annotations: {{mesh.coracle.dev/egress: proxy}}}}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: coracle.dev/host
      command: [sh, -c, 'for host in localhost 127.0.0.1; do curl -s -o /dev/null --noproxy \"\" -w \"$host %{{http_code}}\\n\" http://$host:{port}/; done; echo $NO_PROXY']
"
        )
    };
    let namespace = |name: &str, more: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{{more}}}}}\n")
    };
    let all = [
        namespace("free", ""),
        namespace("listed", "mesh.coracle.dev/egress-allow: localhost"),
        pod("free"),
        pod("listed"),
    ];
    all.join("---\n")
}

#[test]
#[ignore = "needs curl"]
fn pods_go_out_by_the_proxy_and_only_where_their_namespace_says() {
    let outside = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = outside.local_addr().expect("an address").port();
    let server = std::thread::spawn(move || {
        // Both hosts of the one, and one of the other.
        for _ in 0..3 {
            let (mut stream, _) = outside.accept().expect("asked");
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n").expect("answered");
        }
    });
    let directory = manifests(&[("asks.yaml", &asks(port))]);
    let coracle = Coracle::up(directory.path());
    let said = |namespace: &str| {
        eventually("the Pod has asked", || {
            let pod = coracle.get(&["pod/asks", "-n", namespace]);
            match pod["status"]["phase"].as_str() {
                Some("Succeeded") => Ok(coracle.ok(&["logs", "asks", "-n", namespace])),
                other => Err(format!("{other:?}")),
            }
        })
    };
    let (free, listed) = (said("free"), said("listed"));
    assert!(free.contains("localhost 204") && free.contains("127.0.0.1 204"), "{free}");
    assert!(listed.contains("localhost 204") && listed.contains("127.0.0.1 403"), "{listed}");
    assert!(free.contains(".cluster.local"), "{free}");
    server.join().expect("asked three times");
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
