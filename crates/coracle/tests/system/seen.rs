//! What is seen of the traffic: edges, metrics, traces and logs of requests, and why one does not get through.

use crate::harness::{Coracle, eventually, get, manifests};
use crate::probes::application;
use serde_json::Value;
use std::io::{BufRead, Read, Write};
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

/// A request with headers of the caller's; the answer's body.
fn ask(coracle: &Coracle, path: &str, headers: &str) -> String {
    let mut stream = std::net::TcpStream::connect(coracle.gateway()).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n").expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn trace(coracle: &Coracle, id: &str, hops: usize) -> Value {
    eventually("the trace has every hop", || {
        let output = coracle.run(&["trace", id, "-o", "json"]);
        let tree: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
        let text = tree["hops"].to_string();
        if text.matches("\"spanId\"").count() == hops { Ok(tree) } else { Err(text) }
    })
}

/// Who called whom, depth first.
fn path(hops: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for hop in hops.as_array().into_iter().flatten() {
        let text = |field: &str| hop["record"][field].as_str().unwrap_or_default().to_owned();
        all.push(format!("{} -> {}", text("source"), text("destination")));
        all.extend(path(&hop["children"]));
    }
    all
}

/// Scenario 49: a click crosses ten services, and one of them is slow.
#[test]
fn a_trace_names_the_slow_hop() {
    const BEHIND: [&str; 9] = ["payments", "taxes", "prices", "stock", "carts", "orders", "users", "baskets", "offers"];
    const SLOW: usize = 5;
    /// Longer than all others take, in milliseconds.
    const PAUSE: u32 = 8_000;
    let directory = calling(&BEHIND);
    let coracle = Coracle::up(directory.path());
    // Services that came later call those that came before; the last one is called by the front.
    let way: Vec<&str> = BEHIND.iter().rev().copied().collect();
    let mut expected = vec!["gateway -> default/front".to_owned(), format!("default/front -> default/{}", way[0])];
    expected.extend(way.windows(2).map(|pair| format!("default/{} -> default/{}", pair[0], pair[1])));
    assert_eq!(expected.len(), 10);
    let (slow, slow_hop) = (format!("default/{}", way[SLOW]), expected[SLOW + 1].clone());
    // Every one passes the rest on, and one of them takes its time before it does.
    let path_of = |word: &str, pause: u32| {
        let steps = way.iter().enumerate().map(|(at, name)| {
            if at == SLOW + 1 { format!("/slow-{word}?{pause}/{name}") } else { format!("/{word}?{name}") }
        });
        steps.collect::<String>() + "/"
    };
    let with_trace =
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx-request-id: click-1\r\n";
    let answer = ask(&coracle, &path_of("via", PAUSE), with_trace);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for id in ["click-1", "0af7651916cd43dd8448eb211c80319c"] {
        let tree = trace(&coracle, id, 10);
        assert_eq!(path(&tree["hops"]), expected, "{tree:#}");
        assert_eq!(tree["slowest"]["destination"], *slow, "{tree:#}");
        assert_eq!(tree["hops"][0]["record"]["parentSpanId"], "b7ad6b7169203331", "the caller's span stays the parent");
    }
    let text = coracle.ok(&["trace", "click-1"]);
    let line = text.lines().find(|line| line.contains("<- slowest")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains(&slow_hop) && text.contains("slowest: "), "{text}");
    // Programs that pass on nothing but the request's id.
    ask(&coracle, &path_of("via-id", PAUSE), "x-request-id: click-2\r\n");
    let tree = trace(&coracle, "click-2", 10);
    assert_eq!(path(&tree["hops"]), expected, "{tree:#}");
    assert_eq!(tree["slowest"]["destination"], *slow, "{tree:#}");
    assert_eq!(tree["hops"][0]["children"][0]["inferred"], true, "{tree:#}");
    let unknown = coracle.run(&["trace", "nothing"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(coracle.ok(&["trace"]).contains("click-2"));
}

#[test]
fn the_access_log_has_who_what_and_why_not() {
    let directory = calling(&["back"]);
    let coracle = Coracle::up(directory.path());
    ask(&coracle, "/via?back/x?secret=1", "x-request-id: good-1\r\n");
    let not = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n";
    ask(&coracle, "/", &format!("x-request-id: unsampled-1\r\n{not}"));
    coracle.ok(&["delete", "deploy/front"]);
    eventually("the Pod is gone", || {
        let answer = ask(&coracle, "/", &format!("x-request-id: bad-1\r\n{not}"));
        if answer.starts_with("HTTP/1.1 503") { Ok(()) } else { Err(answer) }
    });
    let lines: Vec<Value> = eventually("the log has the failure", || {
        let text = std::fs::read_to_string(coracle.data().join("access.log")).map_err(|error| error.to_string())?;
        // The last line may be half written.
        let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        match lines {
            Ok(lines) if text.contains("no_endpoint") => Ok(lines),
            _ => Err(text),
        }
    });
    let find = |id: &str, destination: &str| {
        lines.iter().rfind(|line| line["requestId"] == id && line["destination"] == destination)
    };
    let inner = find("good-1", "default/back").unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(
        (&inner["source"], &inner["method"], &inner["path"]),
        (&"default/front".into(), &"GET".into(), &"/x".into())
    );
    assert_eq!(inner["sourceId"], "spiffe://cluster.local/ns/default/sa/default", "{inner}");
    for field in ["time", "traceId", "upstream", "route", "backend", "durationMs", "upstreamMs", "host", "attempts"] {
        assert!(!inner[field].is_null(), "{inner} lacks {field}");
    }
    assert!(!inner.to_string().contains("secret"), "queries stay out");
    assert!(find("unsampled-1", "default/front").is_none(), "its caller wanted no record");
    let bad = find("bad-1", "default/front").unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(
        (&bad["status"], &bad["reason"]),
        (&503.into(), &"no_endpoint".into()),
        "a failure is recorded all the same"
    );
}

/// A collector that keeps what it is sent; it ends with the test's process.
fn collector() -> (String, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, received) = std::sync::mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let mut reader = std::io::BufReader::new(stream);
            loop {
                let (mut length, mut line) = (0, String::new());
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap_or(0);
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if length == 0 || reader.read_exact(&mut body).is_err() || sender.send(body).is_err() {
                    break;
                }
                let _ = reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
            }
        }
    });
    (url, received)
}

/// OpenTelemetry's own definitions read what a collector gets.
#[test]
#[ignore = "needs python3 with opentelemetry-proto"]
fn opentelemetry_parses_the_spans() {
    let (url, received) = collector();
    let directory = calling(&["back"]);
    let data = tempfile::tempdir().expect("a temporary directory");
    let more = ["--otlp-endpoint", &url, "--access-log", "all"];
    let coracle = Coracle::up_on(directory.path(), data.path(), &more).unwrap_or_else(|output| panic!("{output}"));
    ask(&coracle, "/via?back/", "x-request-id: click-1\r\n");
    let body = received.recv_timeout(crate::harness::LIMIT).expect("spans");
    let parse = "import sys
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
text = sys.stdin.read()
# In OTLP's JSON ids are hexadecimal, unlike in protobuf's own.
import base64, json
def ids(node):
    if isinstance(node, list): return [ids(item) for item in node]
    if not isinstance(node, dict): return node
    return {k: base64.b64encode(bytes.fromhex(v)).decode() if k in ('traceId', 'spanId', 'parentSpanId') else ids(v) for k, v in node.items()}
request = json_format.ParseDict(ids(json.loads(text)), ExportTraceServiceRequest())
services = sorted({a.value.string_value for r in request.resource_spans for a in r.resource.attributes if a.key == 'service.name'})
assert set(services) <= {'back', 'front'} and services, services
span = request.resource_spans[0].scope_spans[0].spans[0]
assert len(span.trace_id) == 16 and len(span.span_id) == 8 and span.kind == 2 and span.end_time_unix_nano > span.start_time_unix_nano
assert any(a.key == 'http.response.status_code' and a.value.int_value == 200 for a in span.attributes), span
";
    let mut child = Command::new("python3").args(["-c", parse]).stdin(Stdio::piped()).spawn().expect("python3 starts");
    child.stdin.take().expect("piped").write_all(&body).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{}", String::from_utf8_lossy(&body));
}

fn why(coracle: &Coracle, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = coracle.run(&[&["why"], arguments, &["-o", "json"]].concat());
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

/// The reasons of what is broken.
fn broken(report: &Value) -> Vec<String> {
    let all = report["findings"].as_array().expect("findings").iter();
    all.filter(|finding| finding["weight"] == "broken")
        .map(|finding| finding["reason"].as_str().expect("a reason").to_owned())
        .collect()
}

/// Scenario 44: two that should talk cannot, and `why` names what is missing.
#[test]
fn why_names_what_is_broken_and_what_to_do_next() {
    let policy = "apiVersion: mesh.coracle.dev/v1alpha1
kind: AccessPolicy
metadata: {name: nobody}
spec:
  targetRefs: [{kind: Service, name: guarded}]
";
    let crashing = inner("crashing").replace("image: fixture:1", "image: fixture:1\n          args: [exit, '3']");
    let mistaken =
        inner("mistaken").replace("selector: {app: mistaken}\n  ports", "selector: {app: mistakem}\n  ports");
    let wrong_port = inner("wrong-port").replace("targetPort: http}", "targetPort: web}");
    let tls = "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: sealed}
spec:
  targetRefs: [{group: '', kind: Service, name: sealed}]
  validation: {hostname: sealed.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: missing}]}
";
    let outsider = inner("outsider")
        .replace("labels: {app: outsider}", "labels: {app: outsider, sidecar.istio.io/inject: 'false'}");
    let policies = [policy.to_owned(), tls.to_owned()].join("---\n");
    let services =
        [inner("back"), inner("guarded"), mistaken, wrong_port, inner("sealed"), outsider, policies].join("---\n");
    let directory = manifests(&[("a.yaml", &services), ("b.yaml", &application("front", 1, ""))]);
    let coracle = Coracle::up(directory.path());
    let url = format!("http://{}/", coracle.gateway());
    for way in [&["back", "--from", "front"][..], &["default/back:http"], &["http://back:8080/x"], &[&url]] {
        let (code, report) = why(&coracle, way);
        assert_eq!((code, broken(&report)), (Some(0), vec![]), "{way:?} {report:#}");
    }
    assert!(coracle.ok(&["why", "back", "--from", "front"]).contains("spiffe://cluster.local/ns/default/sa/default"));
    let file = directory.path().join("late.txt");
    std::fs::write(&file, crashing).expect("writable");
    let applied = std::fs::read_to_string(&file).expect("readable");
    std::fs::write(directory.path().join("late.yaml"), applied).expect("writable");
    coracle.ok(&["apply", "-f", directory.path().join("late.yaml").to_str().expect("UTF-8")]);
    let crashed = eventually("the program has ended and said something", || {
        let (code, report) = why(&coracle, &["crashing"]);
        let evidence = report["findings"][0]["evidence"].to_string();
        if code == Some(2) && evidence.contains("exit code 3") && evidence.contains("ending with 3 as told") {
            Ok(report)
        } else {
            Err(report.to_string())
        }
    });
    assert_eq!(broken(&crashed), ["NoPodReady"], "{crashed:#}");
    for (way, reason) in [
        (&["bakc"][..], "NoSuchService"),
        (&["back:9090"], "NoSuchPort"),
        (&["mistaken"], "SelectorMatchesNoPods"),
        (&["wrong-port"], "NoSuchTargetPort"),
        (&["guarded", "--from", "front"], "AccessDenied"),
        (&["back", "--from", "nobody"], "NoSuchCaller"),
        (&["http://localhost:1/"], "NoListener"),
        (&["sealed"], "BackendTlsInvalid"),
    ] {
        let report = eventually(&format!("{way:?} is broken"), || {
            let (code, report) = why(&coracle, way);
            let found = code == Some(2) && broken(&report).iter().any(|found| found == reason);
            if found { Ok(report) } else { Err(format!("{code:?} {report:#}")) }
        });
        assert!(!report["findings"][0]["next"].as_array().expect("commands").is_empty(), "{report:#}");
    }
    let (_, sealed) = why(&coracle, &["sealed"]);
    let named = sealed["findings"][0].to_string();
    assert!(named.contains("BackendTLSPolicy default/sealed") && named.contains("default/missing"), "{sealed:#}");
    let (code, nobody) = why(&coracle, &["back", "--from", "outsider"]);
    let found = nobody["findings"].as_array().expect("findings").iter().any(|one| one["reason"] == "NoIdentity");
    assert!(code == Some(0) && found, "{nobody:#}");
    let text = coracle.run(&["why", "bakc"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("there is default/back") && text.contains("next: coracle get services -A"), "{text}");
}

/// Scenario 48, as far as one machine goes: what was served is served again from the first moment, and a broken copy of it is no
/// hindrance.
#[test]
fn what_was_served_is_kept_for_the_next_start() {
    let directory = calling(&["back"]);
    let data = tempfile::tempdir().expect("a temporary directory");
    let up = || Coracle::up_on(directory.path(), data.path(), &[]).unwrap_or_else(|output| panic!("{output}"));
    let kept = data.path().join("routes.snapshot");
    let mut coracle = up();
    assert_eq!(get(coracle.gateway(), "/via?back/").expect("an answer").status, 200);
    assert_eq!(coracle.end(nix::sys::signal::Signal::SIGTERM), Some(0));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).expect("it is kept").permissions());
    assert_eq!(mode & 0o777, 0o600, "it may hold private keys");
    let text = std::fs::read_to_string(&kept).expect("text");
    assert!(text.contains("default/front/0") && !text.contains("\"address\""), "routes, and no endpoints: {text}");
    let mut coracle = up();
    assert_eq!(get(coracle.gateway(), "/via?back/").expect("an answer").status, 200);
    coracle.child.kill().expect("ours");
    coracle.child.wait().expect("it ends");
    std::fs::write(&kept, &text[..text.len() / 2]).expect("ours");
    let coracle = up();
    assert_eq!(get(coracle.gateway(), "/via?back/").expect("an answer").status, 200);
    eventually("it is whole again", || {
        let again = std::fs::read_to_string(&kept).map_err(|error| error.to_string())?;
        if again.contains("default/front/0") && again.len() > text.len() / 2 { Ok(()) } else { Err(again) }
    });
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
    child.stdin.take().expect("piped").write_all(&text.stdout).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{}", String::from_utf8_lossy(&text.stdout));
    eventually("the counters grow", || {
        get(coracle.gateway(), "/").map_err(|error| error.to_string())?;
        let all = edges(&coracle, &[]);
        edge(&all, "gateway", "default/front")
            .filter(|edge| edge["requests"].as_u64() > Some(1))
            .ok_or(format!("{all:?}"))
    });
}
