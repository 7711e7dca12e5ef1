//! Repositories as they are elsewhere: behind TLS with an authority of one's own and a password or token, behind SSH with known
//! hosts, and with signatures that have to be somebody's.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Cluster, LIMIT, Repository, automated, config, map};

/// git's own server side behind TLS, with a certificate by an authority that nobody knows. Ends when dropped.
struct Https {
    port: u16,
    authority: String,
    _task: AbortOnDropHandle<()>,
}

type Answer = http::Response<Full<Bytes>>;

async fn cgi(root: PathBuf, wanted: Arc<str>, request: http::Request<hyper::body::Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if text("authorization") != *wanted {
        let refused = http::Response::builder().status(401).header("www-authenticate", "Basic realm=\"git\"");
        return refused.body(Full::default()).expect("an answer");
    }
    let body = body.collect().await.expect("a body").to_bytes();
    let mut git = tokio::process::Command::new("git");
    git.arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    git.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    git.env("PATH_INFO", head.uri.path()).env("QUERY_STRING", head.uri.query().unwrap_or_default());
    git.env("REQUEST_METHOD", head.method.as_str()).env("CONTENT_TYPE", text("content-type"));
    git.env("CONTENT_LENGTH", body.len().to_string()).env("HTTP_CONTENT_ENCODING", text("content-encoding"));
    git.env("GIT_PROTOCOL", text("git-protocol"));
    let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    let feed = async move {
        let _ = stdin.write_all(&body).await;
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.expect("git ends").stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let mut answer = http::Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").expect("a header");
        answer = match name {
            "Status" => answer.status(&value[..3]),
            _ => answer.header(name, value),
        };
    }
    answer.body(Full::from(Bytes::copy_from_slice(&output[end + 4..]))).expect("an answer")
}

impl Https {
    async fn start(root: &Path, authorization: &str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&key).expect("an authority").pem();
        let issuer = rcgen::Issuer::new(parameters, key);
        let own = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).expect("parameters").signed_by(&own, &issuer);
        let chain = vec![certificate.expect("a certificate").der().clone()];
        let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(own.serialize_der()).expect("a key");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let tls =
            tokio_rustls::rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.expect("TLS").with_no_client_auth().with_single_cert(chain, key).expect("TLS");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let (root, wanted): (PathBuf, Arc<str>) = (root.to_owned(), Arc::from(authorization));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, root, wanted) = (acceptor.clone(), root.clone(), Arc::clone(&wanted));
                connections.spawn(async move {
                    // Who does not trust the certificate goes away here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        let (root, wanted) = (root.clone(), Arc::clone(&wanted));
                        async move { Ok::<_, std::convert::Infallible>(cgi(root, wanted, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, authority, _task: AbortOnDropHandle::new(task) }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/work/.git", self.port)
    }
}

fn secret(name: &str, labels: &Value, data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "argocd", "labels": labels },
        "stringData": data })
}

fn of_argo(data: &Value) -> Value {
    secret("source", &json!({ "argocd.argoproj.io/secret-type": "repository" }), data)
}

fn said(status: &Value) -> String {
    status["conditions"].to_string()
}

fn application(repository: &Repository, url: &str) -> Value {
    let mut object = automated("shop", repository);
    object["spec"]["source"]["repoURL"] = url.into();
    object
}

async fn refreshed(cluster: &Cluster) {
    let patch = json!({ "metadata": { "annotations": { "argocd.argoproj.io/refresh": "normal" } } });
    cluster.api.merge(&crate::harness::application("shop"), &patch, "person").await.expect("asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn https_needs_the_authority_and_the_password() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    let basic = format!("Basic {}", STANDARD.encode("ann:pa55word"));
    let root = repository.path().parent().expect("a parent").to_owned();
    let server = Https::start(&root, &basic).await;
    let url = server.url();
    cluster.apply(&application(&repository, &url)).await;
    let status = cluster.application("shop", "refused", |status| said(status).contains("SourceError")).await;
    assert!(said(&status).contains("certificate"), "{}", said(&status));

    let good = json!({ "url": url, "username": "ann", "password": "pa55word", "ca.crt": server.authority });
    let mut wrong = good.clone();
    wrong["password"] = "gue55".into();
    cluster.apply(&of_argo(&wrong)).await;
    refreshed(&cluster).await;
    let refused = |status: &Value| {
        said(status).contains("Authentication failed") || said(status).contains("could not read Username")
    };
    let status = cluster.application("shop", "refused", refused).await;
    assert!(
        !said(&status).contains("gue55") && !said(&status).contains(&STANDARD.encode("ann:gue55")),
        "{}",
        said(&status)
    );
    assert_eq!(cluster.api.find(&config("a")).await.expect("an answer"), None);

    cluster.apply(&of_argo(&good)).await;
    refreshed(&cluster).await;
    cluster.synced("shop", &first).await;
    cluster.config("a", "one").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_with_a_token_as_flux_has_it() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    repository.commit("First");
    let root = repository.path().parent().expect("a parent").to_owned();
    let server = Https::start(&root, "Bearer t0ken").await;
    cluster.apply(&secret("key", &json!({}), &json!({ "bearerToken": "t0ken", "ca.crt": server.authority }))).await;
    cluster
        .apply(&json!({ "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
            "metadata": { "name": "shop", "namespace": "argocd" },
            "spec": { "interval": "1m", "url": server.url(), "ref": { "branch": "main" }, "secretRef": { "name": "key" } } }))
        .await;
    cluster
        .apply(&json!({ "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
            "metadata": { "name": "shop", "namespace": "argocd" },
            "spec": { "interval": "10m", "prune": true, "path": "deploy", "targetNamespace": "shop",
                "sourceRef": { "kind": "GitRepository", "name": "shop" } } }))
        .await;
    cluster.config("a", "one").await;
    cluster.stop().await;
}

/// OpenSSH's own server for one user and one key, on loopback. Ends when dropped.
struct Sshd {
    child: Child,
    home: TempDir,
    port: u16,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ssh_key(file: &Path) {
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "ann@example.com", "-f", file.to_str().expect("UTF-8")]);
}

impl Sshd {
    async fn start() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        for key in ["host", "user"] {
            ssh_key(&at(key));
        }
        // It refuses to run without this directory, where it runs as root.
        let _ = std::fs::create_dir_all("/run/sshd");
        let settings = format!(
            "ListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            at("host").display(),
            at("user.pub").display()
        );
        for _ in 0..20 {
            // A port that is free now. Somebody else may be faster: then it is another one's turn.
            let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
            std::fs::write(at("sshd_config"), format!("Port {port}\n{settings}")).expect("a file");
            if let Some(child) = Self::listening(&at("sshd_config")).await {
                return Self { child, home, port };
            }
        }
        panic!("sshd found no port to listen on");
    }

    /// Starts it, and waits until it says that it listens; none where it ends instead.
    async fn listening(config: &Path) -> Option<Child> {
        let sshd = std::env::var("SSHD").unwrap_or_else(|_| "/usr/sbin/sshd".to_owned());
        let mut child = Command::new(&sshd);
        child.args(["-D", "-e", "-f"]).arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap_or_else(|error| panic!("{sshd}: {error}; install openssh-server"));
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let (tell, told) = tokio::sync::oneshot::channel();
        // What it says is read to its end, or it would be held up.
        std::thread::spawn(move || {
            let listens =
                lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("Server listening on 127.0.0.1"));
            let _ = tell.send(listens);
            lines.map_while(Result::ok).for_each(drop);
        });
        let listens =
            tokio::time::timeout(LIMIT, told).await.expect("sshd says whether it listens").expect("it is told");
        if listens {
            return Some(child);
        }
        let _ = child.wait();
        None
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.path().join(name)).expect("a file")
    }

    fn known_hosts(&self, key: &str) -> String {
        let key: Vec<String> = self.text(key).split_whitespace().take(2).map(str::to_owned).collect();
        format!("[127.0.0.1]:{} {}\n", self.port, key.join(" "))
    }

    fn url(&self, repository: &Repository) -> String {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).expect("a user").expect("a user").name;
        format!("ssh://{user}@127.0.0.1:{}{}", self.port, repository.path().display())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sshd"]
async fn ssh_needs_a_known_host_and_the_key() {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    let server = Sshd::start().await;
    let url = server.url(&repository);
    cluster.apply(&of_argo(&json!({ "url": url, "sshPrivateKey": server.text("user") }))).await;
    cluster.apply(&application(&repository, &url)).await;
    let status = cluster.application("shop", "refused", |status| said(status).contains("SourceError")).await;
    assert!(said(&status).contains("Host key verification failed"), "{}", said(&status));

    // Somebody else in its place: the host's key is another.
    let known = |hosts: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "argocd-ssh-known-hosts-cm", "namespace": "argocd" },
            "data": { "ssh_known_hosts": hosts } })
    };
    cluster.apply(&known(&server.known_hosts("user.pub"))).await;
    refreshed(&cluster).await;
    let changed = |status: &Value| {
        said(status).contains("Host key verification failed") || said(status).contains("IDENTIFICATION HAS CHANGED")
    };
    cluster.application("shop", "still refused", changed).await;
    assert_eq!(cluster.api.find(&config("a")).await.expect("an answer"), None);

    cluster.apply(&known(&server.known_hosts("host.pub"))).await;
    refreshed(&cluster).await;
    cluster.synced("shop", &first).await;
    cluster.config("a", "one").await;

    // A key that opens nothing.
    let other = server.home.path().join("other");
    ssh_key(&other);
    cluster.apply(&of_argo(&json!({ "url": url, "sshPrivateKey": server.text("other") }))).await;
    refreshed(&cluster).await;
    let status = cluster.application("shop", "refused", |status| said(status).contains("Permission denied")).await;
    assert!(!said(&status).contains("PRIVATE KEY"));
    cluster.config("a", "one").await;
    cluster.stop().await;
}

/// Commits with a signature.
fn signed(repository: &Repository, value: &str, settings: &[&str]) -> String {
    repository.write("deploy/a.yaml", &map("a", value, &json!({})));
    repository.git(&["add", "-A"]);
    let mut arguments: Vec<&str> = settings.iter().flat_map(|setting| ["-c", setting]).collect();
    arguments.extend(["commit", "-q", "-S", "-m", value]);
    repository.git(&arguments);
    repository.git(&["rev-parse", "HEAD"])
}

async fn verified(repository: &Repository, keys: &Value) -> Cluster {
    let cluster = Cluster::start().await;
    cluster.apply(&secret("signers", &json!({}), keys)).await;
    let mut object = automated("shop", repository);
    object["metadata"]["annotations"] = json!({ "coracle.dev/verify-commits": "signers" });
    cluster.apply(&object).await;
    cluster
}

async fn refused(cluster: &Cluster, commit: &str) {
    let words = format!("commit {} is refused", &commit[..12]);
    let status = cluster.application("shop", "refused", |status| said(status).contains(&words)).await;
    assert!(said(&status).contains("signers"), "{}", said(&status));
    cluster.config("a", "good").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ssh-keygen"]
async fn a_commit_that_the_right_ssh_key_did_not_sign_changes_nothing() {
    let (repository, home) = (Repository::new(), tempfile::tempdir().expect("a folder"));
    for name in ["ann", "eve"] {
        ssh_key(&home.path().join(name));
    }
    let by = |name: &str| format!("user.signingkey={}", home.path().join(name).display());
    let good = signed(&repository, "good", &["gpg.format=ssh", &by("ann")]);
    let public = std::fs::read_to_string(home.path().join("ann.pub")).expect("a key");
    let cluster = verified(&repository, &json!({ "ann": public })).await;
    cluster.synced("shop", &good).await;
    let eve = signed(&repository, "by eve", &["gpg.format=ssh", &by("eve")]);
    refused(&cluster, &eve).await;
    repository.write("deploy/a.yaml", &map("a", "by nobody", &json!({})));
    let nobody = repository.commit("Not signed");
    refused(&cluster, &nobody).await;
    let again = signed(&repository, "again", &["gpg.format=ssh", &by("ann")]);
    cluster.synced("shop", &again).await;
    cluster.config("a", "again").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs gpg"]
async fn a_commit_that_the_right_pgp_key_did_not_sign_changes_nothing() {
    let repository = Repository::new();
    // Agents of gpg listen on sockets, whose paths have to be short.
    let home = tempfile::Builder::new().prefix("g").tempdir_in("/tmp").expect("a folder");
    let gpg = |arguments: &[&str]| {
        let output = Command::new("gpg").args(["--batch", "--homedir"]).arg(home.path()).args(arguments).output();
        let output = output.expect("gpg runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for name in ["ann@example.com", "eve@example.com"] {
        gpg(&["--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "never"]);
    }
    let program = home.path().join("gpg.sh");
    let script = format!("#!/bin/sh\nexec gpg --homedir {} \"$@\"\n", home.path().display());
    // By another process: what this one writes cannot be run as long as a child of another test's has it open as well.
    let write = "printf %s \"$1\" > \"$2\" && chmod 700 \"$2\"";
    run("sh", &["-c", write, "sh", &script, program.to_str().expect("UTF-8")]);
    let format = format!("gpg.program={}", program.display());
    let good = signed(&repository, "good", &[&format, "user.signingkey=ann@example.com"]);
    let public = gpg(&["--armor", "--export", "ann@example.com"]);
    let cluster = verified(&repository, &json!({ "ann.asc": public })).await;
    cluster.synced("shop", &good).await;
    let eve = signed(&repository, "by eve", &[&format, "user.signingkey=eve@example.com"]);
    refused(&cluster, &eve).await;
    let again = signed(&repository, "again", &[&format, "user.signingkey=ann@example.com"]);
    cluster.synced("shop", &again).await;
    cluster.config("a", "again").await;
    let _ = Command::new("gpgconf").arg("--homedir").arg(home.path()).args(["--kill", "gpg-agent"]).status();
    cluster.stop().await;
}
