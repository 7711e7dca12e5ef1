use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use kube::runtime::reflector;
use serde_json::json;

use super::*;

fn pod(value: serde_json::Value) -> Arc<Pod> {
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn named(name: &str) -> Arc<Pod> {
    pod(json!({"metadata": {"namespace": "shop", "name": name, "uid": name}}))
}

#[test]
fn a_pod_is_one_of_its_deployment_or_controller_or_itself() {
    let owned = |kind: &str, owner: &str, hash: &str| {
        pod(json!({"metadata": {"name": "p", "labels": {"pod-template-hash": hash},
            "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": owner, "uid": "u", "controller": true}]}}))
    };
    for (pod, expected) in [
        (named("alone"), "alone"),
        (owned("ReplicaSet", "orders-7d9f", "7d9f"), "orders"),
        (owned("ReplicaSet", "orders-7d9f", "other"), "orders-7d9f"),
        (owned("StatefulSet", "db-7d9f", "7d9f"), "db-7d9f"),
        (owned("Job", "nightly-1", "x"), "nightly-1"),
    ] {
        assert_eq!(PodRef::of(&pod).workload, expected);
    }
    assert_eq!(PodRef::of(&named("a")).service_account, "default");
    let other = pod(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "serviceAccountName": "payer"}}));
    assert_eq!(PodRef::of(&other).service_account, "payer");
}

/// A process that stands for a shim, with a child that connects where it is told, as often as it is told.
struct Family {
    root: Child,
    _owned: Option<Owned>,
}

const CHILD: &str =
    r#"bash -c 'echo $$; while read -r n a p; do eval "exec $n<>/dev/tcp/$a/$p"; echo done; done' & wait"#;

impl Family {
    fn new(owners: &Owners, name: &str) -> (Self, i32, BufReader<std::process::ChildStdout>) {
        let mut root = Command::new("bash")
            // A background process of a shell without job control reads nothing, unless told from where.
            .args(["-c", &CHILD.replace("done' &", "done' <&0 &")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash starts");
        let mut said = BufReader::new(root.stdout.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("its number");
        let id = i32::try_from(root.id()).expect("a number");
        let owned = owners.launcher("shim".into(), &named(name)).own(Some(id));
        assert!(owned.is_some());
        (Self { root, _owned: owned }, line.trim().parse().expect("a number"), said)
    }

    fn connect(&mut self, said: &mut impl BufRead, descriptor: u32, listener: &TcpListener) -> (TcpStream, SocketAddr) {
        let at = listener.local_addr().expect("an address");
        let input = self.root.stdin.as_mut().expect("piped");
        writeln!(input, "{descriptor} {} {}", at.ip(), at.port()).expect("told");
        said.read_line(&mut String::new()).expect("done");
        listener.accept().expect("connected")
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        for process in shim::tree(i32::try_from(self.root.id()).unwrap_or_default()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.root.kill();
        let _ = self.root.wait();
    }
}

/// Whose a socket is. On a busy machine one look may not be long enough; that nobody's is known at once is nothing to wait for.
async fn found(owners: &Owners, peer: SocketAddr, local: SocketAddr) -> Option<String> {
    let looking = async {
        loop {
            if let Some(pod) = owners.of_socket(peer, local).await {
                return pod.name;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(180), looking).await.ok()
}

#[tokio::test]
async fn sockets_and_processes_are_found_to_be_their_pods() {
    let (store, _writer) = reflector::store::<Pod>();
    let owners = Owners::new(store);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let at = listener.local_addr().expect("an address");
    let (mut one, child, mut said_one) = Family::new(&owners, "one");
    let (mut other, _, mut said_other) = Family::new(&owners, "other");
    assert_eq!(owners.of_process(child).map(|pod| pod.name).as_deref(), Some("one"));
    let own = i32::try_from(std::process::id()).expect("a number");
    assert_eq!(owners.of_process(own), None);

    let mut open = Vec::new();
    // Far apart and close together, by turns, so that every way of searching is taken.
    for descriptor in [20, 21, 40, 30, 22] {
        for (family, said, name) in
            [(&mut one, &mut said_one as &mut dyn BufRead, "one"), (&mut other, &mut said_other, "other")]
        {
            let mut said = said;
            let (server, peer) = family.connect(&mut said, descriptor, &listener);
            assert_eq!(found(&owners, peer, at).await.as_deref(), Some(name), "{descriptor}");
            open.push(server);
        }
    }
    let mine = TcpStream::connect(at).expect("connected");
    let peer = mine.local_addr().expect("an address");
    assert_eq!(owners.of_socket(peer, at).await, None, "this process is no Pod's");

    drop(one);
    assert_eq!(owners.of_process(child), None);
    let gone = open[0].peer_addr().expect("an address");
    // What is killed is so once it has had its turn.
    let ended = async {
        while owners.of_socket(gone, at).await.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), ended).await.expect("its process is gone");
}

#[tokio::test]
async fn neither_callers_nor_listeners_keep_the_other_waiting() {
    let (store, _writer) = reflector::store::<Pod>();
    let owners = Owners::new(store);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let at = listener.local_addr().expect("an address");
    let (mut family, _, mut said) = Family::new(&owners, "one");
    let (_server, peer) = family.connect(&mut said, 20, &listener);
    // Bound, so that nobody else takes the port, but nobody listens.
    let silent = tokio::net::TcpSocket::new_v4().expect("a socket");
    silent.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
    let theirs = silent.local_addr().expect("an address");
    let all = owners.inner.listeners.turn("one").await.expect("open");
    assert_eq!(found(&owners, peer, at).await.as_deref(), Some("one"));
    // What nobody listens on takes nobody's turn.
    let asked = tokio::time::timeout(Duration::from_secs(180), owners.listens("one", theirs)).await;
    assert!(!asked.expect("it is known at once"));
    drop(all);
    let _all = Arc::clone(&owners.inner.searches).acquire_many_owned(SEARCHES as u32).await.expect("open");
    // This process's own listener is no Pod's, and nobody listens at the other: both are found out.
    for (address, heard) in [(at, true), (theirs, false)] {
        assert_eq!(socket::inode(address, SocketAddr::new(address.ip(), 0)).is_some(), heard);
        let found = tokio::time::timeout(Duration::from_secs(180), owners.listens("one", address)).await;
        assert!(!found.expect("it is found out in time"));
    }
}
