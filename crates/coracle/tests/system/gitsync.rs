//! Git as the truth, with the real binary and the real git: pushes to our own remote, secrets, break-glass, kill -9.

use crate::harness::{Coracle, LIMIT, eventually};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A repository of somebody who pushes.
pub(crate) struct Work {
    all: TempDir,
}

impl Work {
    pub(crate) fn new() -> Self {
        let this = Self { all: tempfile::tempdir().expect("a temporary directory") };
        std::fs::create_dir(this.path()).expect("a directory");
        this.git(&["init", "-q", "-b", "main"]);
        this
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.all.path().join("shop")
    }

    pub(crate) fn try_git(&self, arguments: &[&str]) -> Output {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.path()).args(arguments).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", self.all.path());
        for (name, value) in [("NAME", "Ann"), ("EMAIL", "ann@example.com")] {
            git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        git.env("GIT_TERMINAL_PROMPT", "0").output().expect("git runs")
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = self.try_git(arguments);
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, content).expect("a file");
    }

    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Pushes, and returns what was said.
    pub(crate) fn push(&self) -> String {
        let output = self.try_git(&["push", "coracle", "HEAD:main"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

pub(crate) fn remote(coracle: &Coracle, work: &Work) {
    let path = work.path();
    coracle.ok(&["git", "add-remote", "shop", "--repository", path.to_str().expect("UTF-8")]);
}

/// A kustomization with one ConfigMap made by a generator.
fn overlay(work: &Work, value: &str) {
    work.write("deploy/map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red}\n");
    let text = format!(
        "resources: [map.yaml]\npatches:\n- patch: |-\n    - op: replace\n      path: /data/colour\n      value: {value}\n  target: {{kind: ConfigMap}}\n"
    );
    work.write("deploy/kustomization.yaml", &text);
}

fn colour(coracle: &Coracle) -> Value {
    let output = coracle.run(&["get", "configmap/settings", "-o", "json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    object["data"]["colour"].clone()
}

pub(crate) fn application(coracle: &Coracle) -> Value {
    coracle.get(&["applications/shop", "-n", "argocd"])
}

#[test]
fn a_push_is_live_and_the_pusher_is_told() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    remote(&coracle, &work);
    overlay(&work, "green");
    let first = work.commit("First");
    let said = work.push();
    assert!(said.contains("made application/shop") && said.contains("live application/shop"), "{said}");
    assert_eq!(colour(&coracle), "green", "it is live when the push ends");
    eventually("the revision is told", || match &application(&coracle)["status"]["sync"]["revision"] {
        revision if *revision == first.as_str() => Ok(()),
        other => Err(other.to_string()),
    });

    // A bad commit is told of, and changes nothing; the push itself is kept.
    work.write(
        "deploy/map.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ncolour: odd\ndata: {colour: red}\n",
    );
    work.commit("Bad");
    let said = work.push();
    assert!(said.contains("FAILED application/shop") && said.contains("colour"), "{said}");
    assert_eq!(colour(&coracle), "green");

    // A revert is a push like any other.
    work.git(&["revert", "--no-edit", "HEAD"]);
    overlay(&work, "blue");
    work.commit("Blue");
    assert!(work.push().contains("live application/shop"));
    assert_eq!(colour(&coracle), "blue");
}

#[test]
fn secrets_and_strangers_are_turned_away() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    remote(&coracle, &work);
    overlay(&work, "green");
    work.write("key.pem", &format!("-----BEGIN {} KEY-----\nMII\n", "RSA PRIVATE"));
    work.commit("A key");
    let output = work.try_git(&["push", "coracle", "HEAD:main"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("key.pem:1: a private key"), "{said}");
    std::fs::remove_file(work.path().join("key.pem")).expect("a file");
    work.commit("Without it");
    let output = work.try_git(&["push", "coracle", "HEAD:main"]);
    assert!(!output.status.success(), "it is still in the history");

    let url = work.git(&["remote", "get-url", "coracle"]);
    let output = work.try_git(&["-c", &format!("http.{url}.extraHeader="), "ls-remote", &url]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Authentication failed") || said.contains("could not read Username"), "{said}");
}

#[test]
fn break_glass_hands_over_and_back() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    remote(&coracle, &work);
    overlay(&work, "green");
    work.commit("First");
    work.push();
    coracle.ok(&["break-glass", "--reason", "the site is down", "--app", "shop"]);
    let patch = work.path().join("by-hand.yaml");
    std::fs::write(&patch, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: black}\n")
        .expect("a file");
    coracle.ok(&["apply", "-f", patch.to_str().expect("UTF-8"), "--force-conflicts"]);
    eventually("the act is recorded", || {
        let list: Value = serde_json::from_str(&coracle.ok(&["break-glass", "--list", "-o", "json"])).expect("JSON");
        let acts = list[0]["acts"].to_string();
        if acts.contains("configmap/settings") && acts.contains("changed") { Ok(()) } else { Err(list.to_string()) }
    });
    assert_eq!(colour(&coracle), "black");
    let ended: Value = serde_json::from_str(&coracle.ok(&["break-glass", "--end", "-o", "json"])).expect("JSON");
    assert_eq!(ended["ended"].as_array().map(Vec::len), Some(1), "{ended}");
    eventually(
        "Git holds again",
        || if colour(&coracle) == "green" { Ok(()) } else { Err(colour(&coracle).to_string()) },
    );
    assert_eq!(coracle.run(&["break-glass", "--end"]).status.code(), Some(2), "there is none open");
}

/// Whoever held an application's lock is gone with their machine: by its own name it is let go, and the sync that waited goes on.
#[test]
fn the_lock_of_an_application_is_ended_by_hand() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    remote(&coracle, &work);
    overlay(&work, "green");
    work.commit("First");
    work.push();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {
            "name": "applyset-application.shop", "namespace": "argocd", "labels": { "coracle.dev/lock": "apply" },
            "annotations": { "coracle.dev/lock-reason": "looking at it", "coracle.dev/lock-host": "elsewhere",
                "coracle.dev/lock-pid": "1", "coracle.dev/lock-set": "application.shop" } },
        "spec": { "holderIdentity": "ann@elsewhere:1", "leaseDurationSeconds": 3600, "acquireTime": now, "renewTime": now } });
    let file = coracle.data().join("lease.json");
    std::fs::write(&file, lease.to_string()).expect("a file");
    coracle.ok(&["apply", "-f", file.to_str().expect("UTF-8"), "--force-conflicts"]);
    overlay(&work, "blue");
    work.commit("Second");
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| work.push());
        eventually("the sync waits", || {
            let conditions = application(&coracle)["status"]["conditions"].to_string();
            if conditions.contains("waiting for the lock: ann on elsewhere") { Ok(()) } else { Err(conditions) }
        });
        assert_eq!(colour(&coracle), "green");
        let listed = coracle.ok(&["lock", "list"]);
        assert!(listed.contains("argocd/application.shop: ann on elsewhere"), "{listed}");
        let freed = coracle.ok(&["lock", "release", "application/shop", "-n", "argocd"]);
        assert!(freed.contains("the lock of application.shop is free; ann on elsewhere had it"), "{freed}");
        let said = pushing.join().expect("a push that ends well");
        assert!(said.contains("live application/shop"), "{said}");
    });
    assert_eq!(colour(&coracle), "blue");
    let again = coracle.run(&["lock", "release", "application/shop", "-n", "argocd"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(2) && said.contains("nobody holds the lock of application.shop"), "{said}");
    coracle.ok(&["apply", "-f", file.to_str().expect("UTF-8"), "--force-conflicts"]);
    let freed = coracle.ok(&["lock", "release", "application/shop", "-n", "argocd", "-o", "json"]);
    let freed: Value = serde_json::from_str(&freed).expect("JSON");
    assert_eq!((&freed["holder"], &freed["host"]), (&"ann".into(), &"elsewhere".into()), "{freed}");
}

#[test]
fn after_kill_9_what_was_pushed_is_live() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let empty = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(empty.path().join("n.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
        .expect("a file");
    let work = Work::new();
    overlay(&work, "green");
    work.commit("First");
    let mut first = Coracle::up_on(empty.path(), data.path(), &["--git-port", "0"]).unwrap_or_else(|e| panic!("{e}"));
    remote(&first, &work);
    work.push();
    overlay(&work, "blue");
    work.commit("Second");
    // In the middle of a push, wherever that is by then.
    let mut push = Command::new("git");
    push.arg("-C").arg(work.path()).args(["push", "-q", "coracle", "HEAD:main"]).env("HOME", data.path());
    let mut push = push.env("GIT_CONFIG_NOSYSTEM", "1").spawn().expect("git runs");
    first.end(nix::sys::signal::Signal::SIGKILL);
    push.wait().expect("git ends");
    let second = Coracle::up_on(empty.path(), data.path(), &["--git-port", "0"]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(colour(&second).as_str().map(str::len).unwrap_or(0).min(1), 1, "what was there is there");
    remote(&second, &work);
    work.push();
    eventually("what was pushed is live", || {
        if colour(&second) == "blue" { Ok(()) } else { Err(colour(&second).to_string()) }
    });
}

/// A forge that remembers what it is told.
pub(crate) fn forge() -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let text = request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
            if said.send(text).is_err() {
                return;
            }
        }
    });
    (port, heard)
}

fn request(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        read.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break;
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[test]
fn a_forge_hears_how_the_commit_fares() {
    let (port, heard) = forge();
    let url = format!("http://127.0.0.1:{port}");
    let options = [
        "--git-port",
        "0",
        "--commit-status-url",
        &url,
        "--commit-status-repository",
        "team/shop",
        "--commit-status-token",
        "t0ken",
    ];
    let (coracle, work) = (Coracle::serve(&options), Work::new());
    remote(&coracle, &work);
    overlay(&work, "green");
    let commit = work.commit("First");
    work.push();
    let mut said = std::iter::from_fn(|| heard.recv_timeout(LIMIT).ok());
    let told = said.find(|text| text.contains("\"success\"")).expect("it is told");
    assert!(told.starts_with(&format!("POST /repos/team/shop/statuses/{commit} ")), "{told}");
    assert!(told.contains("coracle/argocd/shop") && told.contains("Bearer t0ken"), "{told}");
}

#[test]
fn a_signed_notice_is_heard_and_others_are_not() {
    let (coracle, work) = (Coracle::serve(&["--git-port", "0"]), Work::new());
    let git: String = coracle.ready["git"].as_str().expect("the ready line names the remote").to_owned();
    let address: std::net::SocketAddr =
        git.trim_start_matches("http://").trim_end_matches("/git").parse().expect("an address");
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "argocd-secret", "namespace": "argocd" },
        "stringData": { "webhook.gitlab.secret": "shared" } });
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "argocd" } });
    for object in [namespace, secret] {
        work.write("object.json", &object.to_string());
        coracle.ok(&["apply", "-f", Path::new(&work.path()).join("object.json").to_str().expect("UTF-8")]);
    }
    let notice = |token: &str| {
        let body = json!({ "project": { "git_http_url": "https://example.com/team/shop.git" } }).to_string();
        let mut stream = TcpStream::connect(address).expect("it listens");
        write!(
            stream,
            "POST /hooks HTTP/1.1\r\nhost: x\r\nx-gitlab-event: Push Hook\r\nx-gitlab-token: {token}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    assert!(notice("shared").starts_with("HTTP/1.1 202"));
    assert!(notice("guessed").starts_with("HTTP/1.1 403"));
}
