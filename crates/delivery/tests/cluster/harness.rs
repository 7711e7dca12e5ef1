//! A store and an API server in the test's process, and what a test does with them.

use delivery::apply::{self, ApplyError, Outcome};
use delivery::applyset::Set;
use delivery::plan::{self, Options, Plan};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a test waits for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

struct NoLogs;

impl apiserver::PodLogs for NoLogs {
    fn logs(
        &self,
        _: &str,
        _: &str,
        _: apiserver::LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, std::io::Result<bytes::Bytes>>, apiserver::LogsError>> {
        Box::pin(async { Err(apiserver::LogsError::NotFound) })
    }
}

/// A running API server. Dropping it ends it.
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
    pub(crate) api: delivery::api::Api,
    shutdown: CancellationToken,
    running: Option<JoinHandle<()>>,
    _data: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (store, task) =
            store::SqliteStore::open(store::Settings::new(data.path().join("state.db"))).expect("the store opens");
        let settings = apiserver::Settings::new(data.path());
        let dependencies = apiserver::Dependencies { logs: Arc::new(NoLogs), sessions: None, pages: None };
        let (server, handle) = apiserver::build(settings, Arc::new(store), dependencies).expect("the server is built");
        let client = kube::Client::new(handle.service_as("system:admin"), "default");
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let running = tokio::spawn(async move {
            server.run(stop).await.expect("the server ends well");
            drop(task);
        });
        tokio::time::timeout(LIMIT, handle.ready()).await.expect("ready in time");
        let api = delivery::api::Api::over(client.clone());
        Self { client, api, shutdown, running: Some(running), _data: data }
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let running = self.running.take().expect("it runs");
        tokio::time::timeout(LIMIT, running).await.expect("it ends in time").expect("no panic");
    }

    pub(crate) async fn plan_with(&self, desired: &[Value], options: &Options) -> Plan {
        plan::plan(self.client.clone(), desired.to_vec(), &set(), options).await.expect("a plan")
    }

    pub(crate) async fn plan(&self, desired: &[Value]) -> Plan {
        self.plan_with(desired, &Options::default()).await
    }

    pub(crate) async fn apply(&self, plan: &Plan) -> Result<Outcome, ApplyError> {
        // No controller here ever looks at a workload.
        let options = apply::Options { wait: None, ..apply::Options::default() };
        apply::apply(self.client.clone(), plan, &options, &|_| {}).await
    }

    /// Plans and applies.
    pub(crate) async fn bring(&self, desired: &[Value]) -> Plan {
        let plan = self.plan(desired).await;
        self.apply(&plan).await.expect("it is applied");
        plan
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        self.api.find(path).await.expect("an answer")
    }
}

pub(crate) fn set() -> Set {
    Set::new("default", "shop")
}

pub(crate) fn config(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub(crate) fn claim(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
}

/// `create configmap/a, delete …`.
pub(crate) fn told(plan: &Plan) -> String {
    let word = |action| serde_json::to_value(action).expect("a word").as_str().expect("a word").to_owned();
    let changes = plan
        .changes
        .iter()
        .map(|change| format!("{} {}/{}", word(change.action), change.object.kind.to_lowercase(), change.object.name));
    changes.collect::<Vec<_>>().join(", ")
}
