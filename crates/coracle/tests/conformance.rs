//! The conformance suite of Gateway API against the real binary.
//!
//! The suite and its servers are Go, and built elsewhere: docs/conformance.md says how, and by which variables they are found here. It takes
//! the machine's ports 80 and 443, so that one test runs at a time.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// Held by the test that runs.
static PORTS: Mutex<()> = Mutex::new(());

/// The binary; it ends when this is dropped, and its Pods with it.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file that a variable names.
fn file(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set; see docs/conformance.md"));
    let path = PathBuf::from(path);
    assert!(path.is_file(), "{variable} names {}, which is no file", path.display());
    path
}

/// Runs the suite against a new instance in which `echo` stands for the image of echo-advanced, and prints its report.
fn conforms(echo: &str, more: &[&str]) {
    let _alone = PORTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let place = tempfile::tempdir().expect("a temporary directory");
    let (suite, basic, echo) = (file("CORACLE_CONFORMANCE"), file("CORACLE_ECHO_BASIC"), file(echo));
    let recipes = place.path().join("coracle.yaml");
    let images = [
        ("gcr.io/k8s-staging-gateway-api/echo-basic", format!("[{basic:?}]")),
        ("gcr.io/k8s-staging-gateway-api/echo-advanced", format!("[{echo:?}]")),
        ("registry.k8s.io/coredns/coredns", "[sh, -c, \"exec sleep infinity\"]".to_owned()),
    ];
    let images = images.map(|(image, command)| format!("  {image}:\n    command: {command}\n"));
    std::fs::write(&recipes, format!("images:\n{}", images.concat())).expect("a writable directory");

    let mut serve = Command::new(env!("CARGO_BIN_EXE_coracle"));
    serve.args(["serve", "-o", "json", "--pod-network", "isolated", "--recipes"]).arg(&recipes);
    serve.arg("--data").arg(place.path().join("data")).env("HOME", place.path());
    let mut serving = Serving(serve.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary starts"));
    let mut ready = String::new();
    let words = serving.0.stdout.take().expect("stdout is piped");
    BufReader::new(words).read_line(&mut ready).expect("a line");
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap_or_else(|e| panic!("stdout is {ready:?}: {e}"));

    let report = place.path().join("report.yaml");
    let mut run = Command::new(suite);
    run.args(["-test.v", "-gateway-class", "coracle", "-organization", "coracle", "-project", "coracle"]);
    run.args(["-version", env!("CARGO_PKG_VERSION"), "-url", "https://example.org", "-contact", "nobody"]);
    run.args(more).arg("-report-output").arg(&report).stdin(Stdio::null());
    run.env("KUBECONFIG", ready["kubeconfig"].as_str().expect("the ready line names the kubeconfig"));
    let done = run.output().expect("the suite starts");
    let said = String::from_utf8_lossy(&done.stdout);
    let failed: Vec<&str> = said.lines().filter(|line| line.contains("--- FAIL")).collect();
    println!("{}", std::fs::read_to_string(&report).unwrap_or_else(|e| format!("no report: {e}")));
    assert!(done.status.success() && failed.is_empty(), "{}: {failed:#?}", done.status);
    assert!(said.contains("--- PASS: TestConformance"), "the suite ran no test");
}

#[test]
#[ignore = "needs root, and the programs that docs/conformance.md names"]
fn gateways_conform() {
    let profiles = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS";
    let (usable, unusable) = ("127.0.0.9", "203.0.113.9");
    conforms(
        "CORACLE_ECHO_BASIC",
        &["-conformance-profiles", profiles, "-usable-address", usable, "-unusable-address", unusable],
    );
}

#[test]
#[ignore = "needs root, and the programs that docs/conformance.md names"]
fn the_mesh_conforms() {
    let features = "Mesh,HTTPRoute,GRPCRoute,MeshConsumerRoute,MeshHTTPRouteRewritePath,MeshHTTPRouteSchemeRedirect,\
                    MeshHTTPRouteRedirectPort,MeshHTTPRouteRedirectPath,MeshHTTPRouteBackendRequestHeaderModification,\
                    MeshHTTPRouteQueryParamMatching,MeshHTTPRouteNamedRouteRule";
    let profiles = "MESH-HTTP,MESH-GRPC";
    conforms("CORACLE_ECHO_ADVANCED", &["-conformance-profiles", profiles, "-supported-features", features]);
}
