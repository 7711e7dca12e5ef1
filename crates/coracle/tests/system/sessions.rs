//! Sessions with containers, as the real kubectl has them: over WebSocket, and over SPDY as older ones do.

use crate::harness::{Coracle, eventually, get, manifests};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: plain, labels: {app: plain}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: coracle.dev/host
      command: [python3, -c, \"import http.server,os; h=http.server.SimpleHTTPRequestHandler; os.chdir(os.environ['FOLDER']); http.server.ThreadingHTTPServer(('127.0.0.1',int(os.environ['PORT'])),h).serve_forever()\"]
      ports: [{name: http, containerPort: 8080}]
      env: [{name: FOLDER, value: /proc/self/cwd}]
    - name: reader
      image: coracle.dev/host
      command: [sh, -c, 'while read line; do echo got $line; done; echo over; exec sleep 1000']
      stdin: true
      stdinOnce: true
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  selector: {app: plain}
  ports: [{port: 80, targetPort: http}]
";

/// Says what it is told, to everybody.
const ECHO: &str = "apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: coracle.dev/host
      command: [python3, -c]
      args:
        - |
          import os, socketserver
          class Echo(socketserver.BaseRequestHandler):
              def handle(self):
                  while piece := self.request.recv(65536):
                      self.request.sendall(piece)
          socketserver.ThreadingTCPServer(('127.0.0.1', int(os.environ['PORT'])), Echo).serve_forever()
      ports: [{containerPort: 8080}]
";

/// The two ways in which kubectl speaks.
const WAYS: [&str; 2] = ["true", "false"];

fn kubectl(coracle: &Coracle, way: &str) -> Command {
    let mut command = Command::new("kubectl");
    command
        .env("KUBECONFIG", coracle.kubeconfig())
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", way)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", way)
        .stdin(Stdio::null());
    command
}

fn run(coracle: &Coracle, way: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = kubectl(coracle, way);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kubectl starts");
    let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_vec());
    // One that ends without reading all of it is judged by what it says.
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("kubectl ends");
    let _ = feeding.join().expect("no panic");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
#[ignore = "needs kubectl, python3 and tar"]
fn commands_copies_and_input() {
    let directory = manifests(&[("pods.yaml", PODS)]);
    let coracle = Coracle::up(directory.path());
    // More than any buffer on the way.
    let much: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    for way in WAYS {
        let exec = |arguments: &[&str], input: &[u8]| run(&coracle, way, &[&["exec"], arguments].concat(), input);
        let output = exec(&["plain", "-c", "main", "--", "sh", "-c", "echo $FOLDER; echo wrong >&2; exit 7"], b"");
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(7), "/proc/self/cwd\n"), "{output:?}");
        assert!(text(&output.stderr).starts_with("wrong\n"), "{output:?}");
        let output = exec(&["-i", "plain", "-c", "main", "--", "cat"], &much);
        assert!(output.status.success() && output.stdout == much, "{} {}", way, text(&output.stderr));
        let output = exec(&["plain", "-c", "main", "--", "/nonesuch"], b"");
        assert!(!output.status.success() && text(&output.stderr).contains("no such file"), "{output:?}");
        let output = exec(&["plain", "-c", "none", "--", "true"], b"");
        assert!(text(&output.stderr).contains("container none is not valid for pod plain"), "{output:?}");

        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("here"), &much).expect("written");
        for (from, to) in
            [(path("here"), format!("plain:{}", path("there"))), (format!("plain:{}", path("there")), path("back"))]
        {
            let output = run(&coracle, way, &["cp", "-c", "main", &from, &to], b"");
            assert!(output.status.success(), "{output:?}");
        }
        assert!(std::fs::read(path("back")).expect("copied") == much);
    }
    // Attached to a program that reads; its first client's end of input is the end of its input. The client stays for the output.
    let mut command = kubectl(&coracle, "true");
    command.args(["attach", "-i", "plain", "-c", "reader"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("kubectl starts");
    child.stdin.take().expect("piped").write_all(b"hello\n").expect("written");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let told: Vec<String> = lines.take_while(|line| line != "over").collect();
    assert_eq!(told, ["got hello"]);
    child.kill().expect("ours");
    child.wait().expect("ours");
}

#[test]
#[ignore = "needs kubectl and python3"]
fn what_runs_for_a_client_that_is_gone_ends() {
    let directory = manifests(&[("pods.yaml", PODS)]);
    let coracle = Coracle::up(directory.path());
    let marks = tempfile::tempdir().expect("a folder");
    for way in WAYS {
        let mark = marks.path().join(way);
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", mark.display());
        let mut command = kubectl(&coracle, way);
        // Its input is full: nothing is read of it.
        command.args(["exec", "-i", "plain", "-c", "reader", "--", "sh", "-c", &script]);
        command.stdin(std::fs::File::open("/dev/zero").expect("open")).stdout(Stdio::null());
        let mut child = command.spawn().expect("kubectl starts");
        let pid = eventually("it runs", || std::fs::read_to_string(&mark).map_err(|error| error.to_string()));
        let process = std::path::Path::new("/proc").join(pid.trim());
        assert!(process.exists());
        child.kill().expect("ours");
        child.wait().expect("ours");
        eventually("it ends", || if process.exists() { Err("it runs".to_owned()) } else { Ok(()) });
    }
}

#[test]
#[ignore = "needs kubectl and python3"]
fn forwarded_ports() {
    let directory = manifests(&[("pods.yaml", PODS)]);
    let coracle = Coracle::up(directory.path());
    for way in WAYS {
        for what in ["pod/plain", "service/plain"] {
            let port = if what.starts_with("pod") { ":8080" } else { ":80" };
            let mut command = kubectl(&coracle, way);
            command.args(["port-forward", what, port]).stdout(Stdio::piped());
            let mut child = command.spawn().expect("kubectl starts");
            let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
            let line = lines.next().expect("a first line").expect("text");
            let at: SocketAddr = line.split_whitespace().nth(2).expect(&line).parse().expect("an address");
            // The rest is read, so that it does not wait for us.
            let reading = std::thread::spawn(move || lines.map_while(Result::ok).count());
            eventually("the program answers", || match get(at, "/") {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            });
            let asking: Vec<_> = (0..8)
                .map(|_| std::thread::spawn(move || get(at, "/").map(|answer| answer.status).unwrap_or_default()))
                .collect();
            assert!(asking.into_iter().all(|one| one.join().expect("no panic") == 200), "{way} {what}");
            child.kill().expect("ours");
            child.wait().expect("ours");
            reading.join().expect("no panic");
        }
        // What is nobody's of the Pod: this test's own listener.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let ours = listener.local_addr().expect("an address").port();
        let mut command = kubectl(&coracle, way);
        command.args(["port-forward", "plain", &format!(":{ours}")]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = lines.next().expect("a first line").expect("text");
        let at = line.split_whitespace().nth(2).expect(&line).to_owned();
        let mut stream = std::net::TcpStream::connect(at).expect("kubectl listens");
        let mut nothing = Vec::new();
        let _ = stream.read_to_end(&mut nothing);
        assert!(nothing.is_empty());
        child.kill().expect("ours");
        let told = text(&child.wait_with_output().expect("ours").stderr);
        assert!(told.contains("none of this Pod's"), "{told}");
    }
}

#[test]
#[ignore = "needs kubectl and python3"]
fn another_pod_of_that_name_is_not_forwarded_to() {
    let directory = manifests(&[("pods.yaml", ECHO)]);
    let coracle = Coracle::up(directory.path());
    for way in WAYS {
        let mut command = kubectl(&coracle, way);
        command.args(["port-forward", "echo", ":8080"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = lines.next().expect("a first line").expect("text");
        let at = line.split_whitespace().nth(2).expect(&line).to_owned();
        let reading = std::thread::spawn(move || lines.map_while(Result::ok).count());
        let ask = || {
            let mut stream = std::net::TcpStream::connect(&at).map_err(|error| error.to_string())?;
            let mut heard = [0; 5];
            let asked = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut heard));
            asked.map(|()| heard).map_err(|error| error.to_string())
        };
        assert_eq!(eventually("it answers", ask), *b"hello");
        for verb in ["delete", "create"] {
            let arguments: &[&str] = if verb == "delete" { &[verb, "pod", "echo"] } else { &[verb, "-f", "-"] };
            let output = run(&coracle, way, arguments, ECHO.as_bytes());
            assert!(output.status.success(), "{output:?}");
        }
        let output = run(&coracle, way, &["wait", "--for=condition=Ready", "--timeout=300s", "pod/echo"], b"");
        assert!(output.status.success(), "{output:?}");
        assert!(ask().is_err(), "it is another Pod");
        // kubectl ends with its session.
        let told = text(&child.wait_with_output().expect("it ends").stderr);
        assert!(told.contains("is gone; another of its name is another Pod"), "{told}");
        reading.join().expect("no panic");
    }
}

#[test]
#[ignore = "needs python3 and its package kubernetes"]
fn ports_for_the_client_of_python() {
    let directory = manifests(&[("pods.yaml", ECHO)]);
    let coracle = Coracle::up(directory.path());
    // What is nobody's of the Pod: this test's own listener.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let other = listener.local_addr().expect("an address").port().to_string();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/peers/ports.py");
    let mut command = Command::new("timeout");
    command.arg("120").arg("python3").arg(script).arg(coracle.kubeconfig()).args(["echo", "8080", &other]);
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success() && output.stdout == b"ok\n", "{output:?}");
}
