//! Exercise E4: who is not of the mesh gets no answer where an identity is asked for, and who is of it is known to the server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::harness::{Coracle, LIMIT, eventually, get, manifests};
use crate::probes::application;

/// Two Services that take callers of the mesh alone, as Istio's manifests say it.
fn strict() -> String {
    let inner = |name: &str| application(name, 1, "").split("---\n").take(2).collect::<Vec<_>>().join("---\n");
    let policy = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: third}
";
    [&inner("one"), &inner("two"), policy].map(str::to_owned).join("---\n")
}

/// A third application, of a service account of its own, with Istio's label that says whether it is of the mesh.
fn third(inject: bool) -> String {
    application("third", 1, "")
        .replace(
            "labels: {app: third}}\n",
            &format!("labels: {{app: third, sidecar.istio.io/inject: \"{inject}\"}}}}\n"),
        )
        .replace(
            "      terminationGracePeriodSeconds: 60\n",
            "      terminationGracePeriodSeconds: 60\n      serviceAccountName: third\n",
        )
}

/// What a process of this machine that is no Pod's hears from a Service: nothing, where it is refused or reset.
fn heard_outside(coracle: &Coracle, service: &str) -> String {
    let service = coracle.get(&[&format!("service/{service}")]);
    let address = format!("{}:8080", service["spec"]["clusterIP"].as_str().expect("an address"));
    let address: SocketAddr = address.parse().expect("an address");
    let mut heard = Vec::new();
    // Refused when connecting, reset when writing or reading: all are no answer.
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, LIMIT) {
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let asked = stream.write_all(b"GET /caller HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let ended = asked.and_then(|()| stream.read_to_end(&mut heard));
        let waited = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!waited, "the connection was neither answered nor closed");
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// What the third application hears from a Service: the status and the body.
fn heard_by_third(coracle: &Coracle, service: &str) -> (u16, String) {
    let answer = get(coracle.gateway(), &format!("/via?{service}/caller")).expect("the gateway answers");
    (answer.status, answer.body)
}

#[test]
fn a_caller_outside_of_the_mesh_gets_no_answer_until_it_joins() {
    let directory = manifests(&[("a.yaml", &strict()), ("b.yaml", &third(false))]);
    let coracle = Coracle::up(directory.path());
    // What a policy says is in force in its own time.
    for service in ["one", "two"] {
        eventually("a process that is no Pod's is not answered", || match heard_outside(&coracle, service) {
            nothing if nothing.is_empty() => Ok(()),
            heard => Err(format!("{service}: {heard}")),
        });
        eventually("nor is who is not of the mesh", || {
            let (status, body) = heard_by_third(&coracle, service);
            let refused = status == 502 && body.contains("no answer") || body.contains("cannot connect");
            if refused { Ok(()) } else { Err(format!("{service}: {status} {body}")) }
        });
    }

    // What is wrong is told to whoever asks, and counted.
    let why = coracle.run(&["why", "one", "--from", "third"]);
    let report = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(report.contains("asks for an identity: connections of default/third are reset"), "{report}");
    assert_eq!(why.status.code(), Some(2), "{report}");
    let counted = "coracle_access_refusals_total{policy=\"service/default/one:8080\",reason=\"identity_missing\"}";
    let metrics = coracle.ok(&["get", "--raw", "/metrics"]);
    assert!(metrics.contains(counted), "{metrics}");

    let file = directory.path().join("b.yaml");
    std::fs::write(&file, third(true)).expect("writable");
    coracle.ok(&["apply", "-f", file.to_str().expect("UTF-8")]);
    for service in ["one", "two"] {
        let caller = eventually("the third application has joined", || match heard_by_third(&coracle, service) {
            (200, caller) => Ok(caller),
            other => Err(format!("{other:?}")),
        });
        assert!(caller.split(';').any(|part| part == "URI=spiffe://cluster.local/ns/default/sa/third"), "{caller:?}");
        assert_eq!(heard_outside(&coracle, service), "", "{service} answers a process that is no Pod's");
    }
}
