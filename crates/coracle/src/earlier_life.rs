//! What the store says of an earlier life of this instance and is not true any more: no Pod of then has a process.
//!
//! Invariants: it is said before anyone can route to such a Pod or count it; what somebody else wrote, or runs, is left alone; one
//! that cannot be said keeps nothing from starting. Who would say it later is the controllers, but the mesh is up before they are: it
//! would send requests to ports that may be another program's by now.

use crate::connect::{self, Api};
use crate::readiness;
use http::StatusCode;
use resources::names::NODE;
use serde_json::{Value, json};

/// The slices that our own controller keeps.
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=\
    endpointslice.kubernetes.io%2Fmanaged-by%3Dendpointslice-controller.k8s.io";

/// Says of every Pod of this node, and of every endpoint that is one, that it is not ready.
pub(crate) async fn forget(api: &Api) -> anyhow::Result<()> {
    let pods = api.get("/api/v1/pods").await?;
    for pod in pods["items"].as_array().into_iter().flatten().filter(|pod| was_ready(pod)) {
        let condition = |name: &str| {
            json!({ "type": name, "status": "False", "reason": "ContainersNotReady",
                "message": "Coracle has started again, and the containers have not yet" })
        };
        let status = json!({ "status": { "conditions": [condition("Ready"), condition("ContainersReady")] } });
        passed_over(api.patch(&format!("{}/status", path(pod, "/api/v1", "pods")), &status).await)?;
    }
    let slices = api.get(SLICES).await?;
    for slice in slices["items"].as_array().into_iter().flatten() {
        if let Some(endpoints) = without_readiness(&slice["endpoints"]) {
            let path = path(slice, "/apis/discovery.k8s.io/v1", "endpointslices");
            passed_over(api.merge(&path, &json!({ "endpoints": endpoints })).await)?;
        }
    }
    Ok(())
}

/// Whether our own node runs it, and it was ready.
fn was_ready(pod: &Value) -> bool {
    pod["spec"]["nodeName"] == NODE && readiness::is_ready(pod)
}

/// What the server refuses is no reason not to start: the controllers say it later. Where it is gone, or has just been written by
/// somebody else, there is nothing to say.
fn passed_over(answer: anyhow::Result<Value>) -> anyhow::Result<()> {
    let Err(error) = answer else { return Ok(()) };
    match connect::refused(&error) {
        None => Err(error),
        Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT) => Ok(()),
        Some(_) => {
            tracing::warn!(
                "cannot say that a Pod of an earlier life is not ready, requests may go to its port: {error:#}"
            );
            Ok(())
        }
    }
}

fn path(object: &Value, group: &str, kind: &str) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    format!("{group}/namespaces/{}/{kind}/{}", text("namespace"), text("name"))
}

/// The same endpoints, of which none is ready; none where none was.
fn without_readiness(endpoints: &Value) -> Option<Value> {
    let mut endpoints = endpoints.clone();
    let mut changed = false;
    for endpoint in endpoints.as_array_mut()? {
        let elsewhere = endpoint["nodeName"].as_str().is_some_and(|node| node != NODE);
        // What does not say is ready.
        if !elsewhere && endpoint["conditions"]["ready"] != false {
            endpoint["conditions"]["ready"] = false.into();
            endpoint["conditions"]["serving"] = false.into();
            changed = true;
        }
    }
    changed.then_some(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    #[test]
    fn no_endpoint_stays_ready_and_what_is_so_already_is_not_written() {
        let one = |conditions: Value| json!({ "addresses": ["127.0.0.1"], "conditions": conditions });
        let unready = one(json!({ "ready": false, "serving": false }));
        for (before, after) in [
            (json!([]), None),
            (Value::Null, None),
            (json!([unready]), None),
            (json!([one(json!({ "ready": true, "serving": true })), unready]), Some(json!([unready, unready]))),
            (json!([one(json!({}))]), Some(json!([unready]))),
            (json!([{ "nodeName": "other", "conditions": { "ready": true } }]), None),
        ] {
            assert_eq!(without_readiness(&before), after, "{before}");
        }
    }

    /// Answers every request with what `answers` has for its first line, and gives back the first lines of PATCHes.
    async fn told(answers: impl Fn(&str) -> (u16, Value)) -> (anyhow::Result<()>, Vec<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let client = kube::Client::try_from(kube::Config::new(url.parse().expect("a URL"))).expect("a client");
        let mut patched = Vec::new();
        let serve = async {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let mut stream = BufReader::new(stream);
                let (mut first, mut length, mut line) = (String::new(), 0, String::new());
                stream.read_line(&mut first).await.expect("a request");
                while stream.read_line(&mut line).await.expect("a header") > 2 {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a number");
                    }
                    line.clear();
                }
                stream.read_exact(&mut vec![0; length]).await.expect("a body");
                let (code, body) = answers(&first);
                let body = body.to_string();
                let head = format!("HTTP/1.1 {code} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.expect("it reads");
                stream.shutdown().await.expect("it reads");
                patched.extend(first.strip_prefix("PATCH ").and_then(|rest| rest.split(' ').next()).map(str::to_owned));
            }
        };
        let api = Api::over(client);
        let done = tokio::select! {
            done = forget(&api) => done,
            () = serve => unreachable!("it serves for ever"),
        };
        (done, patched)
    }

    #[tokio::test]
    async fn who_refuses_to_be_told_keeps_nobody_from_starting_and_other_nodes_pods_are_left_alone() {
        let pod = |name: &str, node: &str| {
            json!({ "metadata": { "namespace": "n", "name": name }, "spec": { "nodeName": node },
                "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } })
        };
        let pods = ["gone", "written", "refused", "last"].map(|name| pod(name, NODE));
        let pods = json!({ "items": pods.into_iter().chain([pod("foreign", "other")]).collect::<Vec<_>>() });
        let slice = json!({ "metadata": { "namespace": "n", "name": "s" }, "endpoints": [{ "conditions": {} }] });
        let status = |code: u16| (code, json!({ "kind": "Status", "message": "no", "code": code }));
        let (done, patched) = told(|line| match line {
            line if line.starts_with("GET /api/v1/pods") => (200, pods.clone()),
            line if line.starts_with("GET ") => (200, json!({ "items": [slice] })),
            line if line.contains("/gone/") => status(404),
            line if line.contains("/written/") => status(409),
            line if line.contains("/refused/") || line.contains("endpointslices") => status(422),
            _ => (200, json!({})),
        })
        .await;
        done.expect("it goes on");
        let pods =
            ["gone", "written", "refused", "last"].map(|name| format!("/api/v1/namespaces/n/pods/{name}/status"));
        let slice = "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices/s".to_owned();
        assert_eq!(patched, pods.into_iter().chain([slice]).collect::<Vec<_>>());
    }
}
