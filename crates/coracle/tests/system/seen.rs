//! What is seen of the traffic: edges, metrics, traces and logs of requests, and why one does not get through.

use crate::harness::{Coracle, eventually, get, manifests};
use crate::probes::application;
use serde_json::Value;
use std::process::{Command, Stdio};

/// A Service and its Pod that others call, without a Gateway.
fn inner(name: &str) -> String {
    let all = application(name, 1, "");
    all.split("---\n").take(2).collect::<Vec<_>>().join("---\n")
}

/// `front` behind the Gateway, and Services that it may call. They come first, so that it knows their addresses.
fn calling(services: &[&str]) -> tempfile::TempDir {
    let inner: Vec<String> = services.iter().map(|name| inner(name)).collect();
    manifests(&[("a.yaml", &inner.join("---\n")), ("b.yaml", &application("front", 1, ""))])
}

fn edges(coracle: &Coracle, more: &[&str]) -> Vec<Value> {
    let text = coracle.ok(&[&["top", "--total", "-o", "json"], more].concat());
    let picture: Value = serde_json::from_str(&text).expect("JSON");
    picture["edges"].as_array().cloned().expect("edges")
}

fn edge(all: &[Value], source: &str, destination: &str) -> Option<Value> {
    all.iter().find(|edge| edge["source"] == source && edge["destination"] == destination).cloned()
}

#[test]
fn every_edge_is_counted_by_caller_and_service() {
    let directory = calling(&["back"]);
    let coracle = Coracle::up(directory.path());
    for _ in 0..5 {
        assert_eq!(get(coracle.gateway(), "/via?back/").expect("an answer").status, 200);
    }
    assert_eq!(get(coracle.gateway(), "/via?nobody/").expect("an answer").status, 502);
    let all = edges(&coracle, &[]);
    let outside = edge(&all, "gateway", "default/front").unwrap_or_else(|| panic!("{all:#?}"));
    assert_eq!(outside["requests"], 6, "{all:#?}");
    assert!(outside["errors"].as_f64().is_some_and(|share| (0.16..0.17).contains(&share)), "{outside}");
    let inside = edge(&all, "default/front", "default/back").unwrap_or_else(|| panic!("{all:#?}"));
    assert_eq!(inside["requests"], 5, "{all:#?}");
    assert!(inside["p50Ms"].as_f64().is_some_and(|time| time > 0.0), "{inside}");
    let routes = edges(&coracle, &["--by-route"]);
    assert!(routes.iter().any(|edge| edge["route"] == "default/front/0"), "{routes:#?}");
    let table = coracle.ok(&["top", "--once", "--interval", "0.1"]);
    assert!(table.contains("no requests in this time"), "{table}");
    let text = coracle.ok(&["get", "--raw", "/metrics"]);
    let line = r#"coracle_requests_total{source="default/front",destination="default/back",route="default/back:8080",backend="default/back:8080",code_class="2xx"} 5"#;
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("process_resident_memory_bytes ") && text.contains("coracle_store_revision_total "),
        "{text}"
    );
}

#[test]
fn strangers_see_no_metrics() {
    let coracle = Coracle::serve(&[]);
    let kubeconfig = std::fs::read_to_string(coracle.kubeconfig()).expect("a kubeconfig");
    let without = kubeconfig.lines().filter(|line| !line.contains("token")).collect::<Vec<_>>();
    assert_ne!(without.len(), kubeconfig.lines().count(), "the kubeconfig has a token to take out");
    let missing = coracle.run(&["get", "--raw", "/coracle/v1/nothing"]);
    assert_eq!(missing.status.code(), Some(1));
    let other = coracle.run(&["get", "--raw", "metrics"]);
    assert_eq!(other.status.code(), Some(2));
    std::fs::write(coracle.kubeconfig(), without.join("\n")).expect("the test's own");
    let refused = coracle.run(&["get", "--raw", "/metrics"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("Unauthorized") || said.contains("401"), "{said}");
}

/// Prometheus' own client library reads what it would scrape, in both forms.
#[test]
#[ignore = "needs python3 with prometheus_client, and kubectl"]
fn prometheus_parses_the_metrics() {
    let directory = calling(&["back"]);
    let coracle = Coracle::up(directory.path());
    assert_eq!(get(coracle.gateway(), "/via?back/").expect("an answer").status, 200);
    let parse = "import sys
from prometheus_client.parser import text_string_to_metric_families as parse
families = {family.name: family for family in parse(sys.stdin.read())}
requests = families['coracle_requests']
assert requests.type == 'counter', requests
assert any(s.labels['destination'] == 'default/back' and s.value == 1 for s in requests.samples), requests
duration = families['coracle_request_duration_seconds']
assert duration.type == 'histogram' and any(s.labels.get('le') == '+Inf' for s in duration.samples), duration
assert families['process_cpu_seconds'].type == 'counter'
print(len(families))
";
    let text = coracle.kubectl(&["get", "--raw", "/metrics"]);
    assert!(text.status.success(), "{text:?}");
    let mut python = Command::new("python3");
    let mut child = python.args(["-c", parse]).stdin(Stdio::piped()).spawn().expect("python3 starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), &text.stdout).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{}", String::from_utf8_lossy(&text.stdout));
    eventually("the counters grow", || {
        get(coracle.gateway(), "/").map_err(|error| error.to_string())?;
        let all = edges(&coracle, &[]);
        edge(&all, "gateway", "default/front")
            .filter(|edge| edge["requests"].as_u64() > Some(1))
            .ok_or(format!("{all:?}"))
    });
}
