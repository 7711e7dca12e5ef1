//! The Git remote over HTTP: who is told of a push, and what becomes of clients that go away.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use delivery::sync::http::{HttpSettings, listen};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, LIMIT, Repository, application, map};

/// A remote with somebody who may push.
struct Remote {
    address: std::net::SocketAddr,
    token: String,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    home: tempfile::TempDir,
}

impl Remote {
    async fn start(cluster: &Cluster) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let settings = HttpSettings {
            bind: ([127, 0, 0, 1], 0).into(),
            repositories: home.path().join("git"),
            hook: None,
            wait: LIMIT,
            limits: delivery::sync::git::Limits::default(),
        };
        let server = listen(settings, cluster.sync.clone()).await.expect("it listens");
        let (address, stop) = (server.address(), CancellationToken::new());
        let serving = tokio::spawn(server.run(stop.clone()));
        cluster
            .apply(&json!({ "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": { "name": "ann", "namespace": "shop" } }))
            .await;
        cluster
            .apply(&json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": { "name": "ann" },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
                "subjects": [{ "kind": "ServiceAccount", "name": "ann", "namespace": "shop" }] }))
            .await;
        let ask = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let path = "/api/v1/namespaces/shop/serviceaccounts/ann/token";
        let answer = cluster.api.create(path, &ask, "person").await.expect("a token");
        let token = answer["status"]["token"].as_str().expect("a token").to_owned();
        Self { address, token, stop, serving, home }
    }

    fn url(&self) -> String {
        format!("http://any:{}@{}/git/shop.git", self.token, self.address)
    }

    /// Pushes as a person does; what git said.
    async fn push(&self, repository: &Repository, what: &str) -> String {
        let (path, url, what) = (repository.path(), self.url(), what.to_owned());
        let pushed = tokio::task::spawn_blocking(move || {
            let mut command = Command::new("git");
            command.arg("-C").arg(&path).args(["push", &url, &what]).env("HOME", &path);
            command.env("GIT_CONFIG_NOSYSTEM", "1").output().expect("git runs")
        });
        let output = tokio::time::timeout(LIMIT * 2, pushed).await.expect("in time").expect("no panic");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_waits_only_for_those_who_follow_the_branch() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let remote = Remote::start(&cluster).await;
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.commit("First");
    let said = remote.push(&repository, "HEAD:main").await;
    assert!(said.contains("made application/shop") && said.contains("live application/shop"), "{said}");
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
    repository.commit("Aside");
    let said = remote.push(&repository, "HEAD:aside").await;
    assert!(said.contains("no Application follows aside") && !said.contains("not through"), "{said}");
    let map = cluster.api.get("/api/v1/namespaces/default/configmaps/a").await.expect("it is there");
    assert_eq!(map["data"]["key"], "one");
    remote.end().await;
    cluster.stop().await;
}

/// Whether a program runs for a client of the remote in this directory.
fn is_at_work(repositories: &Path) -> bool {
    let wanted = format!("GIT_PROJECT_ROOT={}", repositories.display());
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let mut environments = all.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
    environments.any(|one| one.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
}

/// Waits for a condition, such as that git ends when nobody listens any more.
async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_no_program_behind() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let remote = Remote::start(&cluster).await;
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    // More than all the buffers on the way take, and nothing to compress.
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(24 << 20).collect();
    std::fs::write(repository.path().join("noise"), noise).expect("a file");
    let commit = repository.commit("Large");
    remote.push(&repository, "HEAD:main").await;
    let object = cluster.api.find(&application("shop")).await.expect("an answer");
    assert!(object.is_some(), "the push was looked at");

    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let body = [
        &line("command=fetch\n"),
        "0001",
        &line("no-progress\n"),
        &line(&format!("want {commit}\n")),
        &line("done\n"),
        "0000",
    ]
    .concat();
    let request = format!(
        "POST /git/shop.git/git-upload-pack HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ngit-protocol: version=2\r\ncontent-type: application/x-git-upload-pack-request\r\ncontent-length: {}\r\n\r\n{body}",
        remote.token,
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(remote.address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut first = vec![0; 4096];
    let count = tokio::time::timeout(LIMIT, stream.read(&mut first)).await.expect("in time").expect("an answer");
    assert!(String::from_utf8_lossy(&first[..count]).starts_with("HTTP/1.1 200"));
    let repositories = remote.home.path().join("git");
    assert!(is_at_work(&repositories), "it answers");
    drop(stream);
    until(|| !is_at_work(&repositories)).await;
    remote.end().await;
    cluster.stop().await;
}

/// A first push that breaks off in the middle has made an empty repository and nothing else; the next one is the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_push_that_is_cut_off_is_no_hindrance() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    let remote = Remote::start(&cluster).await;
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let commit = repository.commit("First");
    let update = format!("{} {commit} refs/heads/main\0 report-status side-band-64k", "0".repeat(40));
    let body = format!("{:04x}{update}0000PACK", update.len() + 4);
    for (request, length) in [
        ("GET /git/shop.git/info/refs?service=git-receive-pack", 0),
        // Much more is promised than comes.
        ("POST /git/shop.git/git-receive-pack", 1_000_000),
    ] {
        let head = format!(
            "{request} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/x-git-receive-pack-request\r\ncontent-length: {length}\r\n\r\n",
            remote.token,
        );
        let mut stream = tokio::net::TcpStream::connect(remote.address).await.expect("it listens");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let repositories = remote.home.path().join("git");
        if length == 0 {
            let mut first = vec![0; 4096];
            let read = tokio::time::timeout(LIMIT, stream.read(&mut first)).await.expect("in time");
            let count = read.expect("an answer");
            assert!(String::from_utf8_lossy(&first[..count]).starts_with("HTTP/1.1 200"));
        } else {
            stream.write_all(body.as_bytes()).await.expect("sent");
            until(|| is_at_work(&repositories)).await;
        }
        drop(stream);
        until(|| !is_at_work(&repositories)).await;
    }
    assert!(remote.home.path().join("git/shop.git").is_dir(), "it came to that");
    assert!(
        cluster.api.find(&application("shop")).await.expect("an answer").is_none(),
        "nothing follows what is not there"
    );
    let said = remote.push(&repository, "HEAD:main").await;
    assert!(said.contains("made application/shop") && said.contains("live application/shop"), "{said}");
    let map = cluster.api.get("/api/v1/namespaces/default/configmaps/a").await.expect("it is there");
    assert_eq!(map["data"]["key"], "one");
    remote.end().await;
    cluster.stop().await;
}
