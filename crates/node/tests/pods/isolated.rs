//! Pods with a network namespace of their own: what they see, what they can reach, and what is left of them.
//!
//! Where the kernel gives no user namespace these tests say so and have nothing to look at, but that the Pod says so too.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bench::{Bench, LIMIT, is, shell};

/// A program that answers every connection with a word, at a port of its choice. It is Python as the shell has no sockets.
fn answers(name: &str, port: u16, word: &str) -> Value {
    let script = format!(
        "import socket
s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('0.0.0.0',{port})); s.listen(64)
while True:
  c,a=s.accept(); c.sendall(b'{word}'); c.close()"
    );
    json!({"name": name, "image": "coracle.dev/host", "command": ["python3", "-c", script],
        "ports": [{"containerPort": port}]})
}

/// The Pod, once it is ready; none where there are no namespaces to be had, which is said.
async fn ready(bench: &Bench, name: &str) -> Option<Value> {
    let pod = bench
        .until(name, "ready, or without a network", |pod| {
            is(pod, "Ready", "True") || pod["status"]["conditions"].to_string().contains("no network namespace")
        })
        .await;
    if is(&pod, "Ready", "True") {
        return Some(pod);
    }
    eprintln!("NOT TESTED: this machine gives no user namespaces: {:#}", pod["status"]["conditions"]);
    None
}

fn address(pod: &Value, port: u16) -> SocketAddr {
    let ip = pod["status"]["podIP"].as_str().expect("it has an address");
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// What a Pod says to whoever connects.
async fn said(bench: &Bench, to: SocketAddr) -> String {
    let asked = async {
        let mut stream = bench.node.network().connect(to).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map(|_| text)
    };
    tokio::time::timeout(LIMIT, asked).await.expect("in time").unwrap_or_else(|e| panic!("{to}: {e}"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3"]
async fn a_pod_has_an_address_and_all_ports_of_its_own() {
    let bench = Bench::start().await;
    let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1});
    for name in ["a", "b"] {
        let mut container = answers("c", 80, name);
        container["readinessProbe"] = probe.clone();
        bench.pod(name, json!({"runtimeClassName": "isolated", "containers": [container]})).await;
    }
    let (Some(a), Some(b)) = (ready(&bench, "a").await, ready(&bench, "b").await) else { return bench.end().await };
    let (to_a, to_b) = (address(&a, 80), address(&b, 80));
    assert_ne!(to_a, to_b);
    assert!(to_a.ip().to_string().starts_with("10.244."), "{to_a}");
    assert_eq!((said(&bench, to_a).await, said(&bench, to_b).await), ("a".to_owned(), "b".to_owned()));
    assert_eq!(bench.node.pod_at(to_a.ip()).map(|pod| pod.name).as_deref(), Some("a"));
    bench.delete("a").await;
    bench.until_gone("a").await;
    // The object goes first; the network goes with the last process.
    let let_go = async {
        while bench.node.pod_at(to_a.ip()).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, let_go).await.expect("the address is free again");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3"]
async fn a_pod_reaches_neither_another_nor_the_machine() {
    let bench = Bench::start().await;
    bench.pod("b", json!({"runtimeClassName": "isolated", "containers": [answers("c", 8080, "b")]})).await;
    let Some(b) = ready(&bench, "b").await else { return bench.end().await };
    let machine = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let machine = machine.local_addr().expect("an address");
    let script = format!(
        "import socket
def tell(what, f):
  try: f(); print(what, 'reached', flush=True)
  except Exception as e: print(what, type(e).__name__, flush=True)
for what, to in (('pod', ('{}', 8080)), ('machine', ('127.0.0.1', {})), ('mesh', ('10.244.0.1', 1)), ('outside', ('192.0.2.1', 80))):
  tell(what, lambda: socket.create_connection(to, 5))
def raw():
  s=socket.socket(); s.bind(('{}', 0))
tell('spoof', raw)
l=socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()
tell('own', lambda: socket.create_connection(l.getsockname(), 5))",
        address(&b, 0).ip(),
        machine.port(),
        address(&b, 0).ip(),
    );
    let container = json!({"name": "c", "image": "coracle.dev/host", "command": ["python3", "-c", script]});
    bench.pod("a", json!({"runtimeClassName": "isolated", "restartPolicy": "Never", "containers": [container]})).await;
    bench.until_phase("a", "Succeeded").await;
    let log = bench.logs("a", node::LogQuery::default()).await.expect("a log");
    let told: Vec<&str> = log.lines().collect();
    assert_eq!(told[1], "machine ConnectionRefusedError", "{log}");
    assert_eq!(told[5], "own reached", "{log}");
    for what in ["pod", "mesh", "outside", "spoof"] {
        assert!(told.iter().any(|line| line.starts_with(what)), "{log}");
        assert!(!told.contains(&format!("{what} reached").as_str()), "{log}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3"]
async fn containers_of_a_pod_share_its_network_and_commands_run_in_it() {
    let bench = Bench::start().await;
    let mut beside = shell(
        "beside",
        "python3 -c \"import socket; print(socket.create_connection(('127.0.0.1', 8080), 20).recv(9).decode())\" && sleep 300",
    );
    let ask = "import socket,sys; sys.exit(socket.create_connection(('127.0.0.1', 8080), 5).recv(9) != b'hello')";
    beside["readinessProbe"] =
        json!({"exec": {"command": ["python3", "-c", ask]}, "periodSeconds": 1, "timeoutSeconds": 10});
    beside["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "sleep 0; exit 0"]}}});
    beside["env"] = json!([{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    let first = json!({"initContainers": [{
        "name": "s", "restartPolicy": "Always", "image": "coracle.dev/host",
        "command": answers("s", 8080, "hello")["command"], "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }]});
    let spec =
        json!({"runtimeClassName": "isolated", "initContainers": first["initContainers"], "containers": [beside]});
    bench.pod("p", spec).await;
    let Some(_) = ready(&bench, "p").await else { return bench.end().await };
    // The probe may be faster than the program.
    let said = async {
        loop {
            let query = node::LogQuery { container: Some("beside".to_owned()), ..node::LogQuery::default() };
            let log = bench.logs("p", query).await.expect("a log");
            if !log.is_empty() {
                return log;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, said).await.expect("something is said"), "hello\n");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3"]
async fn a_pod_keeps_its_address_when_the_node_starts_again() {
    let mut bench = Bench::start().await;
    bench.pod("p", json!({"runtimeClassName": "isolated", "containers": [answers("c", 80, "one")]})).await;
    let Some(before) = ready(&bench, "p").await else { return bench.end().await };
    let started = before["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
    bench.crash_node().await;
    bench.start_node();
    let again = bench.until("p", "restarted", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        is(pod, "Ready", "True") && status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    let after = again.await;
    assert!(!started.is_null());
    assert_eq!(before["status"]["podIP"], after["status"]["podIP"]);
    let to = address(&after, 80);
    // Its program may not listen yet.
    let mut word = String::new();
    let began = std::time::Instant::now();
    while word != "one" {
        assert!(began.elapsed() < LIMIT, "it does not answer at {to}");
        if let Ok(mut stream) = bench.node.network().connect(to).await {
            let _ = stream.write_all(b"").await;
            let _ = stream.read_to_string(&mut word).await;
        }
        tokio::task::yield_now().await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_said_and_nothing_runs() {
    let bench = Bench::start().await;
    let spec = json!({"runtimeClassName": "isolated", "hostNetwork": true, "containers": [shell("c", "sleep 300")]});
    bench.pod("p", spec).await;
    let event = bench.event("p", "FailedCreatePodSandBox").await;
    assert!(event.contains("hostNetwork"), "{event}");
    let pod = bench
        .until("p", "told why", |pod| pod["status"]["conditions"].to_string().contains("exclude each other"))
        .await;
    assert!(is(&pod, "PodReadyToStartContainers", "False"), "{:#}", pod["status"]);
    assert!(pod["status"]["podIP"].is_null(), "{:#}", pod["status"]);
    bench.delete("p").await;
    bench.until_gone("p").await;
    bench.end().await;
}
