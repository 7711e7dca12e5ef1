//! Pods with a network namespace of their own: what they see, what they can reach, and what is left of them.
//!
//! Where the kernel gives no user namespace these tests say so and have nothing to look at, but that the Pod says so too. With
//! `CORACLE_TEST_NAMESPACES=1`, as in `.ci/run`, that is a failure.

use std::net::SocketAddr;

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bench::{Bench, LIMIT, is, pause, shell, until};

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

fn has_no_network(pod: &Value) -> bool {
    pod["status"]["conditions"].to_string().contains("no network namespace")
}

/// Whether this machine is said to give namespaces.
pub(crate) fn required() -> bool {
    std::env::var("CORACLE_TEST_NAMESPACES").is_ok_and(|is| is == "1")
}

/// Whether the Pod got its network. Where `CORACLE_TEST_NAMESPACES=1` says that there are namespaces, it must have.
fn has_namespaces(pod: &Value) -> bool {
    let why = &pod["status"]["conditions"];
    let got = !has_no_network(pod);
    assert!(got || !required(), "there are to be namespaces: {why:#}");
    if !got {
        eprintln!("NOT TESTED: this machine gives no user namespaces: {why:#}");
    }
    got
}

/// The Pod, once it is ready; none where there are no namespaces to be had, which is said.
pub(crate) async fn ready(bench: &Bench, name: &str) -> Option<Value> {
    let pod =
        bench.until(name, "ready, or without a network", |pod| is(pod, "Ready", "True") || has_no_network(pod)).await;
    has_namespaces(&pod).then_some(pod)
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
    let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 20});
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
    until("the address is free again", || bench.node.pod_at(to_a.ip()).is_none()).await;
    bench.end().await;
}

/// Says a word to whoever connects, for as long as the test runs.
fn says(listener: tokio::net::TcpListener, word: &'static str) -> SocketAddr {
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(word.as_bytes()).await;
        }
    });
    address
}

/// What the machine itself hears there.
async fn heard(at: SocketAddr) -> String {
    let mut text = String::new();
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap_or_else(|e| panic!("{at}: {e}"));
    stream.read_to_string(&mut text).await.expect("a word");
    text
}

/// An address of the machine that is not loopback; the test makes a machine that has it.
const OUTER: &str = "198.51.100.1";
const NEITHER: &str = "isolated::a_pod_reaches_neither_another_nor_the_machine";

/// Runs a test of this program again, on a network of its own, once `first` has been done there.
fn on_a_network_of_its_own(test: &str, first: &str) {
    let script =
        format!("ip link set lo up && {first} || exit 99; exec \"$0\" --exact {test} --include-ignored --nocapture");
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", &script]);
    let output = command.arg(std::env::current_exe().expect("this program")).env(INSIDE, "1").output();
    let output = output.expect("unshare (util-linux)");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if said.contains("unshare failed") && !required() {
        eprintln!("NOT TESTED: this machine gives no user namespaces: {said}");
        return;
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Set where a test is run again by [`on_a_network_of_its_own`].
const INSIDE: &str = "CORACLE_TEST_INSIDE";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3, ip (iproute2) and unshare (util-linux)"]
async fn a_pod_reaches_neither_another_nor_the_machine() {
    if std::env::var_os(INSIDE).is_none() {
        let outer = format!(
            "ip link add outer type veth peer name inner && ip addr add {OUTER}/24 dev outer && ip link set outer up && ip link set inner up"
        );
        let again = tokio::task::spawn_blocking(move || on_a_network_of_its_own(NEITHER, &outer));
        return again.await.expect("it runs");
    }
    let bench = Bench::start().await;
    let mut other = answers("c", 8080, "b");
    other["readinessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 20});
    bench.pod("b", json!({"runtimeClassName": "isolated", "containers": [other]})).await;
    let Some(b) = ready(&bench, "b").await else { return bench.end().await };
    let pod = address(&b, 8080);
    let bind = |at: String| async move { tokio::net::TcpListener::bind(at).await.expect("a port") };
    let machine = says(bind("127.0.0.1:0".to_owned()).await, "machine");
    let outside = says(bind(format!("{OUTER}:0")).await, "outside");
    let any = says(bind("0.0.0.0:0".to_owned()).await, "any").port();
    // A Service's address, on the machine and, at the same port, in the mesh.
    let service = says(bind("127.96.0.9:0".to_owned()).await, "machine");
    let in_mesh = |at: SocketAddr| {
        let network = bench.node.network().clone();
        async move {
            let socket = network.tcp().await.expect("a socket");
            socket.bind(at).expect("its address");
            says(socket.listen(8).expect("it listens"), "mesh")
        }
    };
    in_mesh(service).await;
    let gate = in_mesh("10.244.0.1:0".parse().expect("an address")).await;
    // All are there for those who may.
    assert_eq!(said(&bench, pod).await, "b");
    for (at, word) in [(machine, "machine"), (outside, "outside"), (service, "machine")] {
        assert_eq!(heard(at).await, word);
    }
    let others = [("pod", pod), ("machine", machine), ("outside", outside), ("service", service), ("gate", gate)];
    let more = [
        ("any", SocketAddr::new(outside.ip(), any)),
        ("any-mesh", SocketAddr::new(gate.ip(), any)),
        ("any-pod", SocketAddr::new(pod.ip(), any)),
    ];
    let list: Vec<_> =
        others.iter().chain(&more).map(|(what, at)| format!("('{what}','{}',{})", at.ip(), at.port())).collect();
    let script = format!(
        "import socket
def tell(what, f):
  try: print(what, f(), flush=True)
  except Exception as e: print(what, type(e).__name__, flush=True)
def ask(what, *to):
  return socket.create_connection(to, 50 if what in ('service', 'gate') else 5).recv(9).decode()
for what, ip, port in [{}]:
  tell(what, lambda: ask(what, ip, port))
tell('spoof', lambda: socket.socket().bind(('{}', 0)))
l=socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()
tell('own', lambda: socket.create_connection(l.getsockname(), 50) and 'reached')",
        list.join(","),
        pod.ip(),
    );
    let container = json!({"name": "c", "image": "coracle.dev/host", "command": ["python3", "-c", script]});
    bench.pod("a", json!({"runtimeClassName": "isolated", "restartPolicy": "Never", "containers": [container]})).await;
    bench.until_phase("a", "Succeeded").await;
    let log = bench.logs("a", node::LogQuery::default()).await.expect("a log");
    let told = |what: &str| log.lines().find_map(|line| line.strip_prefix(&format!("{what} "))).unwrap_or_default();
    // What listens in the mesh is reached, at a Service's address and at the mesh's own; and itself.
    assert_eq!((told("service"), told("gate"), told("own")), ("mesh", "mesh", "reached"), "{log}");
    for what in ["pod", "machine", "outside", "any", "any-mesh", "any-pod", "spoof"] {
        assert!(told(what).ends_with("Error") || told(what) == "timeout", "{what}: {log}");
    }
    assert_eq!(told("machine"), "ConnectionRefusedError", "{log}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3"]
async fn containers_of_a_pod_share_its_network_and_commands_run_in_it() {
    let bench = Bench::start().await;
    let mut beside = shell(
        "beside",
        "python3 -c \"import socket; print(socket.create_connection(('127.0.0.1', 8080), 50).recv(9).decode())\" && sleep 300",
    );
    let ask = "import socket,sys; sys.exit(socket.create_connection(('127.0.0.1', 8080), 20).recv(9) != b'hello')";
    beside["readinessProbe"] =
        json!({"exec": {"command": ["python3", "-c", ask]}, "periodSeconds": 1, "timeoutSeconds": 30});
    beside["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "sleep 0; exit 0"]}}});
    beside["env"] = json!([{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    let first = json!({"initContainers": [{
        "name": "s", "restartPolicy": "Always", "image": "coracle.dev/host",
        "command": answers("s", 8080, "hello")["command"], "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 300, "timeoutSeconds": 20},
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
            pause().await;
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, said).await.expect("something is said"), "hello\n");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3 with the package grpcio"]
async fn a_grpc_probe_asks_inside_a_pods_network() {
    let bench = Bench::start().await;
    let ill = bench.path("ill");
    let script = format!(
        "import grpc, os
from concurrent import futures
class Health(grpc.GenericRpcHandler):
  def service(self, call):
    if call.method == '/grpc.health.v1.Health/Check':
      return grpc.unary_unary_rpc_method_handler(lambda asked, context: bytes([8, 2 if os.path.exists('{}') else 1]))
server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Health()])
server.add_insecure_port('0.0.0.0:9000')
server.start()
server.wait_for_termination()",
        ill.display()
    );
    let probe = json!({"grpc": {"port": 9000}, "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 2});
    let container = json!({"name": "c", "image": "coracle.dev/host", "command": ["python3", "-c", script],
        "ports": [{"containerPort": 9000}], "readinessProbe": probe});
    bench.pod("p", json!({"runtimeClassName": "isolated", "containers": [container]})).await;
    let Some(_) = ready(&bench, "p").await else { return bench.end().await };
    std::fs::write(&ill, "").expect("a file");
    let pod = bench.until("p", "not ready", |pod| is(pod, "Ready", "False")).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    assert!(bench.event("p", "Unhealthy").await.contains("Readiness probe failed"));
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
        pause().await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_has_ended_for_good_gives_its_network_back_and_its_status_keeps_the_address() {
    let bench = Bench::start().await;
    for (name, script) in [("done", "sleep 300 & exit 0"), ("failed", "exit 3")] {
        let containers = json!([shell("c", script)]);
        bench
            .pod(name, json!({"runtimeClassName": "isolated", "restartPolicy": "Never", "containers": containers}))
            .await;
    }
    for (name, phase) in [("done", "Succeeded"), ("failed", "Failed")] {
        let over = |pod: &Value| pod["status"]["phase"] == phase || has_no_network(pod);
        let pod = bench.until(name, "over, or without a network", over).await;
        if !has_namespaces(&pod) {
            return bench.end().await;
        }
        let at = address(&pod, 80).ip();
        until("the address is free again", || bench.node.pod_at(at).is_none()).await;
        let now = serde_json::to_value(bench.pods().get(name).await.expect("the object is there")).expect("JSON");
        assert_eq!((&now["status"]["podIP"], &now["status"]["phase"]), (&pod["status"]["podIP"], &json!(phase)));
    }
    bench.delete("done").await;
    bench.until_gone("done").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3, ip (iproute2) and unshare (util-linux)"]
async fn a_pod_network_that_has_an_address_of_the_machine_is_refused_and_can_be_another() {
    const TEST: &str = "isolated::a_pod_network_that_has_an_address_of_the_machine_is_refused_and_can_be_another";
    if std::env::var_os(INSIDE).is_none() {
        let taken = "ip addr add 10.244.9.9/32 dev lo";
        return tokio::task::spawn_blocking(|| on_a_network_of_its_own(TEST, taken)).await.expect("it runs");
    }
    let mut container = answers("c", 80, "here");
    container["readinessProbe"] = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 20});
    let spec = json!({"runtimeClassName": "isolated", "containers": [container]});
    let bench = Bench::start().await;
    bench.pod("p", spec.clone()).await;
    let event = bench.event("p", "FailedCreatePodSandBox").await;
    for part in ["10.244.0.0/16", "10.244.9.9", "lo", "--pod-cidr"] {
        assert!(event.contains(part), "{event}");
    }
    bench.end().await;
    let block = node::Block::of_pods("10.99.7.16/28").expect("a block");
    assert_eq!(node::address_in(&block), None);
    let bench = Bench::on("", block).await;
    bench.pod("p", spec).await;
    let Some(pod) = ready(&bench, "p").await else { return bench.end().await };
    let at = address(&pod, 80);
    assert_eq!(at.ip().to_string(), "10.99.7.18");
    assert!(bench.node.network().has(at.ip()) && !bench.node.network().has("10.244.0.2".parse().expect("an address")));
    assert_eq!(said(&bench, at).await, "here");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ip (iproute2) and unshare (util-linux)"]
async fn where_the_kernel_gives_no_namespaces_a_pod_is_not_run_as_plain_processes_instead() {
    const TEST: &str = "isolated::where_the_kernel_gives_no_namespaces_a_pod_is_not_run_as_plain_processes_instead";
    if std::env::var_os(INSIDE).is_none() {
        // Of the user namespace that the test made, not of the machine.
        let none = "echo 0 > /proc/sys/user/max_user_namespaces";
        return tokio::task::spawn_blocking(|| on_a_network_of_its_own(TEST, none)).await.expect("it runs");
    }
    let bench = Bench::start().await;
    let ran = bench.path("ran");
    let containers = json!([shell("c", &format!("touch {}; sleep 300", ran.display()))]);
    bench.pod("p", json!({"runtimeClassName": "isolated", "containers": containers})).await;
    let event = bench.event("p", "FailedCreatePodSandBox").await;
    for part in ["no network namespace", "user.max_user_namespaces", "runtimeClassName: plain"] {
        assert!(event.contains(part), "{event}");
    }
    let pod = bench.until("p", "told why", has_no_network).await;
    assert!(
        is(&pod, "PodReadyToStartContainers", "False") && pod["status"]["phase"] == "Pending",
        "{:#}",
        pod["status"]
    );
    // Its network is tried again, by a helper of its own each time.
    bench.events("p", "FailedCreatePodSandBox", 2).await;
    assert!(!ran.exists(), "it was run");
    // The same as plain processes runs.
    bench.pod("q", json!({"containers": [shell("c", "sleep 300")]})).await;
    bench.until_ready("q").await;
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
    let mut container = shell("c", "sleep 300");
    container["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
    bench.pod("q", json!({"runtimeClassName": "isolated", "containers": [container]})).await;
    let event = bench.event("q", "FailedCreatePodSandBox").await;
    for part in ["hostPort 8080 of container c", "a Service or a Gateway", "runtimeClassName: plain"] {
        assert!(event.contains(part), "{event}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_runs_its_pods_by_its_handler_and_none_as_plain_processes_instead() {
    let bench = Bench::start().await;
    let classes: Api<RuntimeClass> = Api::all(bench.client.clone());
    for (name, handler) in [("mine", "isolated"), ("gvisor", "runsc"), ("processes", "plain")] {
        let class = json!({"metadata": {"name": name}, "handler": handler});
        let class = serde_json::from_value(class).expect("a class");
        classes.create(&PostParams::default(), &class).await.expect("made");
    }
    for class in ["mine", "gvisor", "processes"] {
        let containers = json!([shell("c", "sleep 300")]);
        bench.pod(class, json!({"runtimeClassName": class, "containers": containers})).await;
    }
    let event = bench.event("gvisor", "FailedCreatePodSandBox").await;
    assert!(event.contains("runsc") && event.contains("isolated") && event.contains("plain"), "{event}");
    if let Some(mine) = ready(&bench, "mine").await {
        assert_ne!(mine["status"]["podIP"], "127.0.0.1", "{:#}", mine["status"]);
    }
    assert_eq!(bench.until_ready("processes").await["status"]["podIP"], "127.0.0.1");
    bench.end().await;
}

/// Nobody answers in the pod network before the data plane is there: no program starts before that, and the Pod says what it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_pods_programs_start_once_there_is_somebody_to_call() {
    let bench = Bench::start().await;
    bench.traffic.1.send_replace(true);
    let spec = json!({"runtimeClassName": "isolated", "containers": [shell("c", "sleep 3600")]});
    bench.pod("early", spec).await;
    let deaf = |pod: &Value| pod["status"]["conditions"].to_string().contains("nothing listens in the pod network yet");
    let pod = bench.until("early", "told to wait", |pod| deaf(pod) || has_no_network(pod)).await;
    if has_namespaces(&pod) {
        assert!(
            !is(&pod, "Ready", "True") && pod["status"]["containerStatuses"].to_string().contains("waiting"),
            "{pod:#}"
        );
        let event = bench.event("early", "FailedCreatePodSandBox").await;
        assert!(event.contains("DNS"), "{event}");
        bench.traffic.1.send_replace(false);
        bench.until("early", "ready", |pod| is(pod, "Ready", "True")).await;
    }
    bench.end().await;
}
