//! Programs that nobody here wrote: openssl and curl show certificates of ours.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use mesh::identity::{Issuer, SpiffeId};
use proxy::snapshot::{Admits, Endpoint};
use tokio::process::Command;

use crate::harness::{ECHO, Instance, Time, echo};

/// The certificate and key of a workload, and the roots, as files.
fn files(instance: &Instance, time: &Time) -> (PathBuf, PathBuf, PathBuf) {
    let id: SpiffeId = format!("spiffe://{}/ns/shop/sa/web", instance.domain).parse().expect("an id");
    let svid = instance.issuer.issue(&id, time.now()).expect("a certificate");
    let write = |name: &str, label: &str, der: &[u8]| {
        use base64::Engine;
        let path = instance.folder.path().join(name);
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        std::fs::write(&path, format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")).expect("a file");
        path
    };
    let roots = instance.folder.path().join("roots.pem");
    std::fs::write(&roots, instance.handle.bundle().expect("a bundle").to_pem()).expect("a file");
    (write("leaf.pem", "CERTIFICATE", &svid.chain[0]), write("key.pem", "PRIVATE KEY", &svid.key), roots)
}

async fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await.expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn openssl_verifies_what_is_issued_and_is_served() {
    let time = Time::new();
    let b = Instance::start("b.test", None, &time);
    let (leaf, key, roots) = files(&b, &time);
    let (good, said) = run("openssl", &["verify", "-CAfile", text(&roots), "-purpose", "sslclient", text(&leaf)]).await;
    assert!(good, "{said}");
    let (_, said) = run("openssl", &["x509", "-in", text(&leaf), "-noout", "-text"]).await;
    assert!(said.contains("URI:spiffe://b.test/ns/shop/sa/web") && said.contains("CA:FALSE"), "{said}");
    let (program, _running) = echo().await;
    let (mesh, _) = b.serve(Endpoint::plain(program), Admits::Known).await;
    let connect = format!("127.0.0.1:{}", mesh.port());
    let common =
        ["s_client", "-connect", &connect, "-servername", ECHO, "-CAfile", text(&roots), "-verify_return_error"];
    let (good, said) =
        run("openssl", &[&common[..], &["-cert", text(&leaf), "-key", text(&key), "-tls1_3"]].concat()).await;
    assert!(good && said.contains("Verify return code: 0 (ok)"), "{said}");
    // TLS 1.2 is not spoken, whoever asks.
    let (good, said) =
        run("openssl", &[&common[..], &["-cert", text(&leaf), "-key", text(&key), "-tls1_2"]].concat()).await;
    assert!(!good, "{said}");
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_is_served_with_a_certificate_and_not_without() {
    let time = Time::new();
    let b = Instance::start("b.test", None, &time);
    let (leaf, key, _) = files(&b, &time);
    let (program, _running) = echo().await;
    let (mesh, local) = b.serve(Endpoint::plain(program), Admits::Certified).await;
    for (address, version) in [(mesh, "--http1.1"), (mesh, "--http2"), (local, "--http1.1"), (local, "--http2")] {
        let url = format!("https://{ECHO}:{}/", address.port());
        let resolve = format!("{ECHO}:{}:127.0.0.1", address.port());
        // SPIFFE has no names of hosts, so curl cannot check the server's; the proxy checks curl's certificate.
        let common = ["-sSk", "--max-time", "30", version, "--resolve", &resolve, &url];
        let (good, said) = run("curl", &[&common[..], &["--cert", text(&leaf), "--key", text(&key)]].concat()).await;
        assert!(good && said.contains("URI=spiffe://b.test/ns/shop/sa/web"), "{version}: {said}");
        let (good, said) = run("curl", &common).await;
        assert!(!good && !said.contains("GET /"), "{version} without a certificate: {said}");
    }
    let (good, said) = run("curl", &["-sS", "--max-time", "30", &format!("http://{local}/")]).await;
    assert!(!good && said.contains("curl: (56)"), "reset, not answered: {said}");
}
