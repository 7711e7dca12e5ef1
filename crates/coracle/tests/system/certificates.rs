//! Certificates that cannot be had: who is told, where, and from when on (scenario 45).

use crate::harness::{Coracle, eventually, get, manifests};
use crate::probes::application;

#[test]
fn an_authority_that_is_damaged_raises_the_alarm_at_once_everywhere() {
    let directory = manifests(&[("one.yaml", &application("one", 1, ""))]);
    let data = tempfile::tempdir().expect("a temporary directory");
    let more = ["--identity-grace", "48"];
    // A first life, so that certificates are in use.
    let up = || Coracle::up_on(directory.path(), data.path(), &more).unwrap_or_else(|said| panic!("{said}"));
    let quiet = up();
    eventually("certificates are issued", || {
        let text = quiet.ok(&["get", "--raw", "/metrics"]);
        let lines = ["coracle_identity_alarm 0", "coracle_identity_certificates 3", "coracle_identity_roots 1"];
        let all = lines.iter().all(|line| text.contains(&format!("{line}\n")));
        let classes = ["platform", "workload", "root"].map(|class| format!("expiry_seconds{{class=\"{class}\"}}"));
        let all = all && classes.iter().all(|class| text.contains(class.as_str()));
        if all { Ok(()) } else { Err(text) }
    });
    assert!(!quiet.ok(&["status"]).contains("certificates:"));
    drop(quiet);
    std::fs::write(data.path().join("identity/authority.json"), "{").expect("a writable directory");
    let coracle = up();
    assert_eq!(get(coracle.gateway(), "/").expect("the gateway answers").status, 200, "who is there goes on");
    eventually("the alarm is counted", || {
        let text = coracle.ok(&["get", "--raw", "/metrics"]);
        let failed = !text.contains("coracle_identity_failures_total 0\n");
        if failed && text.contains("coracle_identity_alarm 1\n") { Ok(()) } else { Err(text) }
    });
    let reason = "authority.json is damaged";
    let event = eventually("an Event tells of it", || {
        let events = coracle.get(&["events", "-n", "default"]);
        let all = events["items"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|event| event["reason"] == "CertificatesNotIssued").ok_or_else(|| events.to_string())
    });
    assert_eq!((&event["involvedObject"]["kind"], &event["type"]), (&"Node".into(), &"Warning".into()), "{event}");
    assert!(event["message"].as_str().is_some_and(|message| message.contains(reason)), "{event}");
    eventually("status, why and trust status tell of it", || {
        let status = String::from_utf8_lossy(&coracle.run(&["status"]).stdout).into_owned();
        let why = String::from_utf8_lossy(&coracle.run(&["why", "one"]).stdout).into_owned();
        let trust = coracle.ok(&["trust", "status"]);
        let told = |text: &str| text.contains(reason);
        if [&status, &why, &trust].iter().all(|text| told(text)) {
            Ok(())
        } else {
            Err(format!("{status}\n{why}\n{trust}"))
        }
    });
}

/// A PeerAuthentication says on itself whether it counts.
#[test]
fn a_peer_authentication_that_says_nonsense_is_told_so() {
    let policies = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: good}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: wrong}
spec: {selector: {matchLabels: {app: one}}, portLevelMtls: {http: {mode: STRICT}}}
";
    let directory = manifests(&[("policies.yaml", policies)]);
    let coracle = Coracle::up(directory.path());
    for (name, status, words) in [("good", "True", "all workloads"), ("wrong", "False", "no port from 1 to 65535")] {
        eventually("it has a status", || {
            let policy = coracle.get(&[&format!("peerauthentications/{name}")]);
            let condition = &policy["status"]["conditions"][0];
            let message = condition["message"].as_str().unwrap_or_default();
            let right = condition["type"] == "Accepted"
                && condition["status"] == status
                && message.contains(words)
                && policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
            if right { Ok(()) } else { Err(policy.to_string()) }
        });
    }
}
