//! Trust bundles that are handed on by network: one instance serves its own, another follows it.

use crate::harness::{Coracle, eventually};
use serde_json::Value;

/// What `b` keeps of `a`'s bundle, or of its own.
fn known(coracle: &Coracle, map: &str, key: &str) -> String {
    let map = coracle.get(&[&format!("configmap/{map}"), "-n", "coracle-system"]);
    map["data"][key].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_bundle_is_served_and_followed_by_whoever_trusts_it_already() {
    let b = Coracle::serve(&["--trust-domain", "b.test", "--bundle-listen", "127.0.0.1:0"]);
    let a = Coracle::serve(&["--trust-domain", "a.test"]);
    let endpoint = eventually("the endpoint is told", || {
        let output = b.run(&["trust", "status", "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["status"]["bundleEndpoint"].as_str().map(str::to_owned).ok_or_else(|| format!("{output:?}"))
    });
    let folder = tempfile::tempdir().expect("a temporary directory");
    // The roots alone, as PEM has them: enough to believe the endpoint.
    let file = folder.path().join("b.pem");
    std::fs::write(&file, b.ok(&["trust", "bundle"])).expect("a writable directory");
    let file = file.to_str().expect("UTF-8");
    a.ok(&["trust", "add", file, "--trust-domain", "b.test", "--endpoint", &endpoint]);
    assert!(!known(&a, "trust-b.test", "bundle").contains("jwt-svid"));
    let own: Value = serde_json::from_str(&known(&b, "trust-bundle", "bundle.json")).expect("JSON");
    assert!(own["spiffe_sequence"].as_u64().is_some_and(|number| number > 0), "{own}");
    assert_eq!(own["spiffe_refresh_hint"], 300);
    eventually("the bundle is fetched whole", || {
        let text = known(&a, "trust-b.test", "bundle");
        let fetched: Value = serde_json::from_str(&text).unwrap_or_default();
        if fetched["keys"] == own["keys"] { Ok(()) } else { Err(text) }
    });
    // Whoever answers there must be the one that was named.
    let refused = a.run(&["trust", "add", file, "--trust-domain", "b.test", "--endpoint", "http://127.0.0.1:1/"]);
    assert!(!refused.status.success(), "plain http is refused");
}
