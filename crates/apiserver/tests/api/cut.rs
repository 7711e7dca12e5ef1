//! Clients that hang up while their write is under way: what was written is written whole, with all that follows.

use std::sync::Arc;

use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use store::{Compacted, Entry, ListError, Listing, Op, Store, Watch, WriteFuture};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::*;
use crate::trail::lines;

/// A store whose writes of some keys are done, but not answered until the gate is open.
struct Gate {
    inner: Arc<dyn Store>,
    word: &'static str,
    reached: CancellationToken,
    open: CancellationToken,
}

impl Store for Gate {
    fn revision(&self) -> u64 {
        self.inner.revision()
    }

    fn get(&self, key: &str) -> (Option<Entry>, u64) {
        self.inner.get(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<u64>) -> Result<Listing, ListError> {
        self.inner.list(prefix, after, limit, at)
    }

    fn write(&self, op: Op) -> WriteFuture {
        let (Op::Put { key, .. } | Op::Delete { key, .. }) = &op;
        let held = key.ends_with(self.word);
        let done = self.inner.write(op);
        let (reached, open) = (self.reached.clone(), self.open.clone());
        Box::pin(async move {
            let done = done.await;
            if held {
                reached.cancel();
                open.cancelled().await;
            }
            done
        })
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, Compacted> {
        self.inner.watch(prefix, after)
    }
}

/// Makes `object`, hangs up while it is written, and stops the server where `stop` says so before the store answers.
async fn cut(path: &str, word: &'static str, object: &Value, stop: bool) -> Harness {
    let (reached, open) = (CancellationToken::new(), CancellationToken::new());
    let (seen, answer) = (reached.clone(), open.clone());
    let server =
        Harness::over(tempfile::tempdir().expect("a folder"), |inner| Arc::new(Gate { inner, word, reached, open }))
            .await;
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(Full::from(object.to_string())).expect("a request");
    let mut asked = Box::pin(server.service().oneshot(request));
    tokio::select! {
        _ = &mut asked => panic!("the store does not answer yet"),
        reached = tokio::time::timeout(LIMIT, seen.cancelled()) => reached.expect("the write in time"),
    }
    drop(asked);
    if stop {
        server.shutdown.cancel();
    }
    answer.cancel();
    server
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            pause().await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn told(server: &Harness, name: &str) -> bool {
    lines(server, "audit.log")
        .iter()
        .any(|line| line["objectRef"]["name"] == name && line["responseStatus"]["code"] == 201)
}

#[tokio::test]
async fn a_definition_is_served_though_its_author_hung_up() {
    let definition = json!({ "metadata": { "name": "widgets.example.com" }, "spec": { "group": "example.com", "scope": "Namespaced",
        "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
        "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }] } });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let server = cut(path, "widgets.example.com", &definition, false).await;
    until("the line", async || told(&server, "widgets.example.com")).await;
    assert_eq!(server.text(Method::GET, "/apis/example.com/v1").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn an_address_stays_taken_though_its_owner_hung_up() {
    let service = |name: &str| json!({ "metadata": { "name": name }, "spec": { "clusterIP": "127.96.7.7", "ports": [{ "port": 80 }] } });
    let server = cut(SERVICES, "/first", &service("first"), false).await;
    until("the line", async || told(&server, "first")).await;
    assert_eq!(server.post(SERVICES, service("second")).await.0, 422, "the address is the first's");
    server.stop().await;
}

#[tokio::test]
async fn the_end_waits_for_writes_that_nobody_waits_for() {
    let server = cut(CONFIG_MAPS, "/late", &config_map("late", json!({})), true).await;
    let folder = server.stop().await;
    let text = std::fs::read_to_string(folder.path().join("audit/audit.log")).expect("a trail");
    assert!(text.contains("\"late\""), "{text}");
}
