//! Talking to containers that run: a command beside a program, the program itself, a port of the Pod.

use node::{Session, SessionError, SessionQuery};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bench::{Bench, LIMIT, alive, gone, pause, shell};
use crate::isolated::{ready, required};

fn ask(command: &[&str]) -> SessionQuery {
    let command = Some(command.iter().map(|&word| word.to_owned()).collect());
    SessionQuery { container: "c".to_owned(), command, stdout: true, stderr: true, ..SessionQuery::default() }
}

async fn begin(bench: &Bench, pod: &str, query: SessionQuery) -> Result<Session, String> {
    let uid = bench.pods().get(pod).await.expect("a Pod").metadata.uid.expect("a uid");
    let beginning = bench.node.session(("default", pod, &uid), query).map_err(|error| error.to_string())?;
    tokio::time::timeout(LIMIT, beginning).await.expect("it begins in time")
}

/// Runs to the end; gives the output, the error output and the exit code.
async fn run(bench: &Bench, query: SessionQuery, input: &str) -> (String, String, i32) {
    let session = begin(bench, "a", query).await.expect("begun");
    let Session { stdin, stdout, stderr, ended, .. } = session;
    let feed = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input.as_bytes()).await.expect("written");
        }
    };
    let all = async |from: Option<node::SessionOutput>| {
        let mut text = String::new();
        from.expect("an output").read_to_string(&mut text).await.expect("read");
        text
    };
    let whole = async { tokio::join!(feed, all(stdout), all(stderr), ended) };
    let ((), out, err, code) = tokio::time::timeout(LIMIT, whole).await.expect("it ends in time");
    (out, err, code.expect("an exit code"))
}

/// Reads until some text has come.
async fn until(from: &mut node::SessionOutput, wanted: &str) -> String {
    let mut text = String::new();
    let read = async {
        let mut piece = [0; 1024];
        while !text.contains(wanted) {
            let read = from.read(&mut piece).await.expect("read");
            assert!(read > 0, "it ended after {text:?}, without {wanted:?}");
            text.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    };
    if tokio::time::timeout(LIMIT, read).await.is_err() {
        panic!("there was no {wanted:?} in {text:?}");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_as_the_containers_program_does() {
    let bench = Bench::start().await;
    let mut container = shell("c", "sleep 300");
    container["env"] = json!([{"name": "WHO", "value": "me"}]);
    container["workingDir"] = json!("/usr");
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/mnt"}]);
    bench.pod("a", json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]})).await;
    bench.until_ready("a").await;
    let (out, err, code) = run(&bench, ask(&["sh", "-c", "echo $WHO; pwd; echo wrong >&2; exit 7"]), "").await;
    assert_eq!((out.as_str(), err.as_str(), code), ("me\n/usr\n", "wrong\n", 7));
    // Input reaches it, and ends.
    let (out, _, code) = run(&bench, SessionQuery { stdin: true, ..ask(&["cat"]) }, "hello").await;
    assert_eq!((out.as_str(), code), ("hello", 0));
    // Without input there is none.
    assert_eq!(run(&bench, ask(&["cat"]), "").await.2, 0);
    // A signal is told as shells tell it.
    assert_eq!(run(&bench, ask(&["sh", "-c", "kill -9 $$"]), "").await.2, 137);
    let none = begin(&bench, "a", ask(&["/nonesuch"])).await.err().expect("there is no such program");
    assert!(none.contains("exec: \"/nonesuch\": no such file or directory"), "{none}");
    let error = bench.node.session(("default", "b", "u"), ask(&["true"])).err().expect("there is no such Pod");
    assert_eq!(error, SessionError::NotRunning("c".to_owned()));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_a_terminal() {
    let bench = Bench::start().await;
    bench.pod("a", json!({"containers": [shell("c", "sleep 300")]})).await;
    bench.until_ready("a").await;
    let query = SessionQuery { stdin: true, tty: true, ..ask(&["sh"]) };
    let session = begin(&bench, "a", query).await.expect("begun");
    let Session { stdin, stdout, resize, ended, .. } = session;
    let (mut stdin, mut stdout) = (stdin.expect("an input"), stdout.expect("an output"));
    resize.expect("it can be resized")(90, 30);
    stdin.write_all(b"PS1=pro''mpt; stty size; tty; echo $TERM; echo o''ver\n").await.expect("written");
    let told = until(&mut stdout, "over\r\n").await;
    assert!(["30 90\r\n", "/dev/pts/", "xterm\r\n"].iter().all(|part| told.contains(part)), "{told:?}");
    // Ctrl-C reaches what runs in it, and Ctrl-D ends the shell.
    stdin.write_all(b"sh -c 'echo be''gun; exec sleep 1000'\n").await.expect("written");
    // Earlier it would be the shell that is interrupted.
    until(&mut stdout, "begun\r\n").await;
    stdin.write_all(b"\x03").await.expect("written");
    until(&mut stdout, "prompt").await;
    stdin.write_all(b"exit 5\n").await.expect("written");
    let code = tokio::time::timeout(LIMIT, ended).await.expect("it ends in time");
    assert_eq!(code, Ok(5));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_command_outlives_its_client_or_its_container() {
    let bench = Bench::start().await;
    bench.pod("a", json!({"containers": [shell("c", "sleep 300")], "terminationGracePeriodSeconds": 1})).await;
    bench.until_ready("a").await;
    // What has left the session's process group goes too.
    let script =
        |file: &str| format!("setsid sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", bench.path(file).display());
    let session = begin(&bench, "a", ask(&["sh", "-c", &script("first")])).await.expect("begun");
    let pid = bench.file("first").await;
    assert!(alive(&pid));
    drop(session);
    gone(&pid).await;
    let session = begin(&bench, "a", ask(&["sh", "-c", &script("second")])).await.expect("begun");
    let pid = bench.file("second").await;
    bench.delete("a").await;
    let code = tokio::time::timeout(LIMIT, session.ended).await.expect("it ends with its container");
    assert_eq!(code, Ok(137));
    gone(&pid).await;
    bench.until_gone("a").await;
    assert!(bench.node.session(("default", "a", "u"), ask(&["true"])).is_err());
    bench.end().await;
}

/// What is left of a command that has killed the shim above it: something with another session, which says its number in `file`.
fn orphan(bench: &Bench, file: &str, how: &str) -> String {
    let path = bench.path(file);
    format!(
        "{how} setsid sleep 1000 & until [ \"$(tr -d '\\000' < /proc/$!/cmdline)\" = sleep1000 ]; do :; done; \
         echo $! > {0}.new; mv {0}.new {0}; kill -9 $PPID; wait",
        path.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_kills_its_shim_ends_all_the_same() {
    let bench = Bench::start().await;
    bench.pod("a", json!({"containers": [shell("c", "sleep 300")], "terminationGracePeriodSeconds": 1})).await;
    bench.until_ready("a").await;
    let session = begin(&bench, "a", ask(&["sh", "-c", &orphan(&bench, "first", "")])).await.expect("begun");
    let pid = bench.file("first").await;
    let told = tokio::time::timeout(LIMIT, session.ended).await.expect("it is told in time");
    assert!(told.expect_err("nobody knows how it ended").contains("shim"));
    gone(&pid).await;
    // Nobody need wait for its end.
    let session = begin(&bench, "a", ask(&["sh", "-c", &orphan(&bench, "second", "")])).await.expect("begun");
    let pid = bench.file("second").await;
    drop(session);
    gone(&pid).await;
    // Others of the container are let be.
    assert_eq!(run(&bench, ask(&["echo", "here"]), "").await.0, "here\n");
    // One that hides what it is goes with the container at the latest.
    let session = begin(&bench, "a", ask(&["sh", "-c", &orphan(&bench, "third", "env -i")])).await.expect("begun");
    let pid = bench.file("third").await;
    assert!(tokio::time::timeout(LIMIT, session.ended).await.expect("it is told in time").is_err());
    let view = |pid: &str| std::fs::read_link(format!("/proc/{}/ns/mnt", pid.trim())).ok();
    let apart = view(&pid) != view("self");
    bench.delete("a").await;
    bench.until_gone("a").await;
    if apart {
        gone(&pid).await;
    } else {
        let _ = std::process::Command::new("kill").args(["-9", pid.trim()]).status();
        assert!(!required(), "there are to be namespaces");
        eprintln!("NOT TESTED: this machine gives no mount namespaces");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_manifest_says_what_is_killed() {
    const MARK: &str = "CORACLE_CONTAINER_DIR";
    let bench = Bench::start().await;
    let victim = bench.path("victim/");
    let map = serde_json::from_value(json!({ "metadata": { "name": "other" }, "data": { MARK: victim } }));
    bench.maps().create(&kube::api::PostParams::default(), &map.expect("a map")).await.expect("made");
    // By a value of its own, and by what it takes from elsewhere.
    let mut by_value =
        shell("c", &format!("echo ${MARK} > {0}.new; mv {0}.new {0}; sleep 300", bench.path("told").display()));
    by_value["env"] = json!([{ "name": MARK, "value": victim }]);
    let mut by_map = shell("d", "sleep 300");
    by_map["envFrom"] = json!([{ "configMapRef": { "name": "other" } }]);
    bench.pod("a", json!({ "containers": [by_value, by_map] })).await;
    bench.until_ready("a").await;
    let told = bench.file("told").await;
    let own = told.trim().strip_suffix("c/").filter(|own| !own.contains("victim")).expect("its own directory");
    let echo = ["sh", "-c", "env | grep ^CORACLE_CONTAINER_DIR="];
    for container in ["c", "d"] {
        for number in 0..2 {
            let (out, _, _) = run(&bench, SessionQuery { container: container.to_owned(), ..ask(&echo) }, "").await;
            assert_eq!(out, format!("{MARK}={own}{container}/exec-{number}/\n"));
        }
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joined_to_a_program() {
    let bench = Bench::start().await;
    let mut container = shell("c", "while read line; do echo got $line; done; echo over");
    (container["stdin"], container["stdinOnce"]) = (json!(true), json!(true));
    let terminal = json!({"name": "t", "image": "coracle.dev/host", "command": ["sh"], "stdin": true, "tty": true});
    let containers = [container, terminal, shell("d", "sleep 300")];
    // A shell at a terminal does not heed its end.
    bench
        .pod("a", json!({"containers": containers, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1}))
        .await;
    bench.until_ready("a").await;
    let join = |container: &str, tty: bool| SessionQuery {
        container: container.to_owned(),
        stdin: true,
        stdout: true,
        tty,
        ..SessionQuery::default()
    };
    let session = begin(&bench, "a", join("c", false)).await.expect("begun");
    let (mut stdin, mut stdout) = (session.stdin.expect("an input"), session.stdout.expect("an output"));
    stdin.write_all(b"one\n").await.expect("written");
    until(&mut stdout, "got one\n").await;
    let second = begin(&bench, "a", join("c", false)).await.err().expect("it is somebody's");
    assert!(second.contains("somebody else's input"), "{second}");
    drop(stdin);
    until(&mut stdout, "over\n").await;
    assert_eq!(tokio::time::timeout(LIMIT, session.ended).await.expect("it ends in time"), Ok(0));

    let session = begin(&bench, "a", join("t", true)).await.expect("begun");
    let (mut stdin, mut stdout) = (session.stdin.expect("an input"), session.stdout.expect("an output"));
    stdin.write_all(b"tty; echo it is $((40+2))\n").await.expect("written");
    assert!(until(&mut stdout, "it is 42").await.contains("/dev/pts/"));

    let refused = begin(&bench, "a", join("d", false)).await.err().expect("it has no input");
    assert!(refused.contains("`stdin: true`"), "{refused}");
    bench.end().await;
}

/// A program that answers every connection with a word, at a port of which it is told by its command.
fn answers(name: &str, port: &str, file: &std::path::Path) -> serde_json::Value {
    let script = "import socket,sys
s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('127.0.0.1',int(sys.argv[1]))); s.listen(64)
open(sys.argv[2]+'.new','w').write(str(s.getsockname()[1])); import os; os.rename(sys.argv[2]+'.new',sys.argv[2])
while True:
  c,a=s.accept(); c.sendall(b'word'); c.close()";
    json!({"name": name, "image": "coracle.dev/host", "command": ["python3", "-c", script, port, file]})
}

async fn said(bench: &Bench, pod: &str, port: u16) -> Result<String, String> {
    let uid = bench.pods().get_opt(pod).await.expect("an answer").and_then(|pod| pod.metadata.uid).unwrap_or_default();
    said_by(bench, (pod, &uid), port).await
}

async fn said_by(bench: &Bench, (pod, uid): (&str, &str), port: u16) -> Result<String, String> {
    let asked = async {
        let mut stream = bench.node.connect(("default", pod, uid), port).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
        Ok(text)
    };
    tokio::time::timeout(LIMIT, asked).await.expect("an answer in time")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3"]
async fn the_ports_of_a_pod_and_no_others() {
    let bench = Bench::start().await;
    let program = |name: &str, port: &str, file: &str| answers(name, port, &bench.path(file));
    let mut declared = program("c", "$(PORT)", "declared");
    declared["ports"] = json!([{"containerPort": 8080}]);
    bench.pod("a", json!({"containers": [declared, program("d", "0", "undeclared")]})).await;
    bench.until_ready("a").await;
    bench.pod("b", json!({"containers": [shell("c", "sleep 300")]})).await;
    bench.until_ready("b").await;
    bench.file("declared").await;
    let undeclared: u16 = bench.file("undeclared").await.parse().expect("a port");
    assert_eq!(said(&bench, "a", 8080).await.as_deref(), Ok("word"));
    // Whose a listener is may not be found out in time where much else runs: who asks again is told.
    let found = async {
        while said(&bench, "a", undeclared).await.as_deref() != Ok("word") {
            pause().await;
        }
    };
    tokio::time::timeout(LIMIT, found).await.expect("it is known to be its own");
    // What listens on the machine, and what another Pod has.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bound");
    let ours = listener.local_addr().expect("an address").port();
    for (pod, port) in [("a", ours), ("b", ours), ("b", undeclared), ("b", 8080)] {
        let refused = said(&bench, pod, port).await.expect_err("it is none of this Pod's");
        assert!(refused.contains("none of this Pod's"), "{refused}");
    }
    // Another Pod of that name.
    let other = said_by(&bench, ("a", "earlier"), 8080).await.expect_err("that Pod does not run");
    assert!(other.contains("none of its containers runs"), "{other}");
    let none = said(&bench, "none", 80).await.expect_err("there is no such Pod");
    assert!(none.contains("none of its containers runs"), "{none}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3"]
async fn inside_of_a_network_of_its_own() {
    let bench = Bench::start().await;
    let program = answers("c", "8123", &bench.path("up"));
    bench.pod("a", json!({"runtimeClassName": "isolated", "containers": [program]})).await;
    if ready(&bench, "a").await.is_some() {
        bench.file("up").await;
        // It listens on its own loopback address, where nobody from outside gets.
        assert_eq!(said(&bench, "a", 8123).await.as_deref(), Ok("word"));
        let refused = said(&bench, "a", 8124).await.expect_err("nobody listens there");
        assert!(refused.contains("localhost:8124 inside the Pod"), "{refused}");
        let script = "import socket; s=socket.create_connection(('127.0.0.1',8123)); print(s.recv(9).decode())";
        let (out, err, code) = run(&bench, ask(&["python3", "-c", script]), "").await;
        assert_eq!((out.as_str(), err.as_str(), code), ("word\n", "", 0));
        // And it is called what its Pod is, for who is beside it as well.
        let script = "import socket; print(socket.gethostname())";
        assert_eq!(run(&bench, ask(&["python3", "-c", script]), "").await.0, "a\n");
    }
    bench.end().await;
}
