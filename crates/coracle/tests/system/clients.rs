//! The gateway through clients and servers that nobody here wrote.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Coracle, LIMIT, eventually, fixture, port};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/peers").join(name)
}

/// A program's stdout; it must succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg(LIMIT.as_secs().to_string()).arg(program).args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{program} starts: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {words}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn application(name: &str, kind: &str, protocol: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: c, image: {kind}, ports: [{{name: p, containerPort: 8080}}],
      readinessProbe: {{tcpSocket: {{port: p}}, periodSeconds: 1}}}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: p, appProtocol: {protocol}}}]}}
---
"
    )
}

fn route(kind: &str, name: &str, parent: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: gateway, sectionName: {parent}}}]
  hostnames: [{name}.test]
  rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]
---
"
    )
}

/// The platform with a fixture, a gRPC server, a WebSocket server and one of events behind one gateway.
struct Set {
    coracle: Coracle,
    directory: tempfile::TempDir,
    https: u16,
}

impl Set {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
        run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=web.test",
                "-addext",
                "subjectAltName=DNS:web.test",
                "-keyout",
                &path("key.pem"),
                "-out",
                &path("cert.pem"),
            ],
        );
        let https = port();
        std::fs::write(path("app.yaml"), Self::manifests(&directory, https)).expect("writable");
        let server = script("servers.py");
        let mut recipes = format!("images:\n  web: {{command: [{:?}]}}\n", fixture());
        for kind in ["grpc", "websocket", "events"] {
            recipes += &format!("  {kind}: {{command: [python3, {server:?}, {kind}]}}\n");
        }
        std::fs::write(path("coracle.yaml"), recipes).expect("writable");
        let coracle = Coracle::up(directory.path());
        Self { coracle, directory, https }
    }

    fn manifests(directory: &tempfile::TempDir, https: u16) -> String {
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("readable");
        let indented = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let mut all = format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: certificate}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: coracle
  listeners:
    - {{name: http, port: 80, protocol: HTTP}}
    - {{name: https, port: {https}, protocol: HTTPS, tls: {{certificateRefs: [{{name: certificate}}]}}}}
---
",
            indented(&read("cert.pem")),
            indented(&read("key.pem")),
        );
        for (name, protocol) in
            [("web", "http"), ("grpc", "kubernetes.io/h2c"), ("websocket", "kubernetes.io/ws"), ("events", "http")]
        {
            all += &application(name, name, protocol);
            let kind = if name == "grpc" { "GRPCRoute" } else { "HTTPRoute" };
            all += &route(kind, name, "http");
        }
        all += &route("HTTPRoute", "web", "https").replacen("name: web}", "name: web-https}", 1);
        all
    }

    fn gateway(&self) -> String {
        self.coracle.gateway().to_string()
    }

    fn certificate(&self) -> String {
        self.directory.path().join("cert.pem").to_str().expect("UTF-8").to_owned()
    }
}

#[test]
#[ignore = "needs curl, openssl, nghttp2, and python3 with grpcio and websockets"]
fn every_protocol_through_clients_of_others() {
    let set = Set::start();
    curl(&set);
    openssl(&set);
    nghttp2(&set);
    for client in ["grpc", "websocket", "events"] {
        let said = run("python3", &[script("clients.py").to_str().expect("UTF-8"), client, &set.gateway()]);
        assert_eq!(said.trim(), "ok", "{client}");
    }
}

/// HTTP/1.0, HTTP/1.1, HTTP/2 in clear and over TLS.
fn curl(set: &Set) {
    let plain = format!("http://{}/env?PORT", set.gateway());
    let secure = format!("https://web.test:{}/env?PORT", set.https);
    let resolve = format!("web.test:{}:127.0.0.1", set.https);
    let certificate = set.certificate();
    let show = ["-sS", "-o", "/dev/null", "-w", "%{http_version} %{response_code}"];
    for (flags, url, expected) in [
        (vec!["--http1.0", "-H", "host: web.test"], &plain, "1 200"),
        (vec!["--http1.1", "-H", "host: web.test"], &plain, "1.1 200"),
        (vec!["--http2-prior-knowledge", "-H", "host: web.test"], &plain, "2 200"),
        (vec!["--http2", "-H", "host: web.test"], &plain, "1.1 200"),
        (vec!["--http1.1", "--resolve", &resolve, "--cacert", &certificate], &secure, "1.1 200"),
        (vec!["--http2", "--resolve", &resolve, "--cacert", &certificate], &secure, "2 200"),
        (vec!["--http1.1", "-H", "host: web.test", "--data-binary", "@/usr/bin/env"], &plain, "1.1 200"),
        (vec!["--http1.1", "-H", "host: nobody.test"], &plain, "1.1 404"),
    ] {
        let said = run("curl", &[&show[..], &flags, &[url.as_str()]].concat());
        assert!(said.starts_with(expected), "{flags:?}: {said}");
    }
}

/// Names, versions and application protocols of TLS.
fn openssl(set: &Set) {
    let address = format!("127.0.0.1:{}", set.https);
    let certificate = set.certificate();
    for (flags, expected) in [
        (vec!["-tls1_3", "-alpn", "h2,http/1.1"], vec!["New, TLSv1.3, Cipher is", "ALPN protocol: h2"]),
        (vec!["-tls1_2", "-alpn", "http/1.1"], vec!["New, TLSv1.2, Cipher is", "ALPN protocol: http/1.1"]),
    ] {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "web.test", "-CAfile", &certificate])
            .args(["-verify_return_error", "-verify_hostname", "web.test"])
            .args(&flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        child.stdin.take().expect("piped").write_all(b"Q\n").expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let words = String::from_utf8_lossy(&output.stdout);
        for part in expected.iter().chain(&["Verify return code: 0 (ok)"]) {
            let loose = |text: &str| text.split_whitespace().collect::<String>();
            assert!(loose(&words).contains(&loose(part)), "{flags:?}: no {part:?} in {words}");
        }
    }
    let old = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"])
        .stdin(Stdio::null())
        .output()
        .expect("openssl starts");
    assert!(!old.status.success(), "TLS 1.1 is refused");
}

/// HTTP/2 as nghttp2 speaks it: many requests at once, in clear and over TLS.
fn nghttp2(set: &Set) {
    let plain = format!("http://{}/", set.gateway());
    let said = run("nghttp", &["-nv", "--no-dep", "-H", ":authority: web.test", &plain]);
    assert!(said.contains(":status: 200"), "{said}");
    for url in [plain, format!("https://127.0.0.1:{}/", set.https)] {
        eventually("every request of h2load is answered", || {
            let said = run("h2load", &["-n", "2000", "-c", "10", "-m", "32", "-H", ":authority: web.test", &url]);
            match said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout")
                && said.contains("status codes: 2000 2xx")
            {
                true => Ok(()),
                false => Err(said),
            }
        });
    }
}
