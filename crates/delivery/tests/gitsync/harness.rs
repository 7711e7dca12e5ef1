//! A store, an API server and the Git sync in the test's process; real repositories in temporary directories.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use delivery::api::Api;
use delivery::sync;
use delivery::sync::programs::Programs;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a test waits for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// What every Pod's program wrote last.
pub(crate) const WORDS: &str = "the configuration lacks a key";

struct Words;

impl apiserver::PodLogs for Words {
    fn logs(
        &self,
        _: &str,
        _: &str,
        _: apiserver::LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, std::io::Result<bytes::Bytes>>, apiserver::LogsError>> {
        Box::pin(async { Ok(futures::stream::once(async { Ok(bytes::Bytes::from_static(WORDS.as_bytes())) }).boxed()) })
    }
}

/// A running API server with the sync over it. Dropping it ends both.
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
    pub(crate) api: Api,
    pub(crate) sync: sync::Handle,
    stop_sync: CancellationToken,
    syncing: JoinSet<()>,
    shutdown: CancellationToken,
    serving: JoinSet<()>,
    data: TempDir,
    programs: Option<Arc<dyn Programs>>,
}

fn settings_of(data: &TempDir, programs: &Option<Arc<dyn Programs>>) -> sync::Settings {
    sync::Settings { programs: programs.clone(), ..sync::Settings::new(data.path().join("sync")) }
}

fn run(settings: sync::Settings, client: kube::Client) -> (sync::Handle, CancellationToken, JoinSet<()>) {
    let (sync, handle) = sync::build(settings, client).expect("the sync is built");
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let token = stop.clone();
    tasks.spawn(async move { sync.run(token).await.expect("the sync ends well") });
    (handle, stop, tasks)
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With somebody who makes programs of commits.
    pub(crate) async fn start_with(programs: Option<Arc<dyn Programs>>) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (store, task) =
            store::SqliteStore::open(store::Settings::new(data.path().join("state.db"))).expect("the store opens");
        let settings = apiserver::Settings::new(data.path());
        let dependencies = apiserver::Dependencies { logs: Arc::new(Words), sessions: None, pages: None };
        let (server, handle) = apiserver::build(settings, Arc::new(store), dependencies).expect("the server is built");
        let client = kube::Client::new(handle.service_as("system:admin"), "default");
        let (shutdown, mut serving) = (CancellationToken::new(), JoinSet::new());
        let stop = shutdown.clone();
        serving.spawn(async move {
            server.run(stop).await.expect("the server ends well");
            drop(task);
        });
        tokio::time::timeout(LIMIT, handle.ready()).await.expect("ready in time");
        sync::install(client.clone()).await.expect("the kinds are installed");
        let (sync, stop_sync, syncing) = run(settings_of(&data, &programs), client.clone());
        let api = Api::over(client.clone());
        let this = Self { client, api, sync, stop_sync, syncing, shutdown, serving, data, programs };
        for name in ["argocd", "shop"] {
            this.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })).await;
        }
        this
    }

    /// Ends the sync and begins another on the same data, as a restart does.
    pub(crate) async fn restart_sync(&mut self) {
        self.end_sync().await;
        self.begin_sync();
    }

    pub(crate) async fn end_sync(&mut self) {
        self.stop_sync.cancel();
        while let Some(ended) = tokio::time::timeout(LIMIT, self.syncing.join_next()).await.expect("it ends in time") {
            ended.expect("no panic");
        }
    }

    pub(crate) fn begin_sync(&mut self) {
        let settings = settings_of(&self.data, &self.programs);
        (self.sync, self.stop_sync, self.syncing) = run(settings, self.client.clone());
    }

    pub(crate) async fn stop(mut self) {
        for (stop, tasks) in [(&self.stop_sync, &mut self.syncing), (&self.shutdown, &mut self.serving)] {
            stop.cancel();
            while let Some(ended) = tokio::time::timeout(LIMIT, tasks.join_next()).await.expect("it ends in time") {
                ended.expect("no panic");
            }
        }
    }

    pub(crate) async fn path(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> String {
        let kinds = self.api.kinds().await.expect("kinds");
        let resource = kinds.of(api_version, kind).unwrap_or_else(|| panic!("{api_version} {kind} is served"));
        resource.path(Some(namespace), Some(name))
    }

    /// Applies an object as a person would.
    pub(crate) async fn apply(&self, object: &Value) -> Value {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let path = self
            .path(&text("/apiVersion"), &text("/kind"), &text("/metadata/namespace"), &text("/metadata/name"))
            .await;
        let mode = delivery::api::ApplyMode { manager: "person", force: true, dry_run: false };
        self.api.apply(&path, object, mode).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Waits until an object is as wanted; none where it is to be gone.
    pub(crate) async fn until(&self, path: &str, what: &str, wanted: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let (collection, name) = path.rsplit_once('/').expect("a path");
        let waiting = async {
            loop {
                let now = self.api.find(path).await.expect("an answer");
                if wanted(now.as_ref()) {
                    return now;
                }
                let version =
                    now.as_ref().and_then(|now| now["metadata"]["resourceVersion"].as_str()).unwrap_or_default();
                let query = format!("fieldSelector=metadata.name%3D{name}&resourceVersion={version}");
                let mut events = Box::pin(self.api.watch(collection, &query).await.expect("a watch"));
                while let Some(event) = events.next().await {
                    let event = event.expect("an event");
                    let object = (event["type"] != "DELETED").then(|| event["object"].clone());
                    if event["type"] != "BOOKMARK" && wanted(object.as_ref()) {
                        return object;
                    }
                }
            }
        };
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(object) => object,
            Err(_) => {
                let now = self.api.find(path).await.ok().flatten().unwrap_or_default();
                panic!("{path} did not come to be {what}; it is {now:#}")
            }
        }
    }

    /// Waits until an Application's status is as wanted.
    pub(crate) async fn application(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = application(name);
        let seen = self.until(&path, what, |object| object.is_some_and(|object| wanted(&object["status"]))).await;
        seen.expect("it is there")["status"].clone()
    }

    /// Waits until an Application is synced to a commit, and healthy.
    pub(crate) async fn synced(&self, name: &str, commit: &str) -> Value {
        let what = format!("synced to {commit}");
        self.application(name, &what, |status| {
            status["sync"]["status"] == "Synced"
                && status["sync"]["revision"] == commit
                && status["health"]["status"] == "Healthy"
                && status["operationState"]["phase"] != "Running"
        })
        .await
    }

    /// Waits until a ConfigMap in `shop` has this under `key`.
    pub(crate) async fn config(&self, name: &str, value: &str) {
        let path = config(name);
        self.until(&path, &format!("{value:?}"), |object| object.is_some_and(|object| object["data"]["key"] == value))
            .await;
    }
}

pub(crate) fn application(name: &str) -> String {
    format!("/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/{name}")
}

pub(crate) fn config(name: &str) -> String {
    format!("/api/v1/namespaces/shop/configmaps/{name}")
}

/// A repository with a working tree, and what a person does with it.
pub(crate) struct Repository {
    all: TempDir,
}

impl Repository {
    pub(crate) fn new() -> Self {
        let this = Self { all: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir(this.path()).expect("a folder");
        this.git(&["init", "-q", "-b", "main"]);
        this
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.all.path().join("work")
    }

    pub(crate) fn elsewhere(&self) -> PathBuf {
        self.all.path().join("elsewhere")
    }

    pub(crate) fn url(&self) -> String {
        self.path().display().to_string()
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.path(), arguments)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    /// Commits everything; the commit's name.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }
}

pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args(arguments).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir);
    for (name, value) in [("NAME", "Ann"), ("EMAIL", "ann@example.com")] {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// A ConfigMap's manifest with one entry.
pub(crate) fn map(name: &str, value: &str, annotations: &Value) -> String {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "annotations": annotations },
        "data": { "key": value } })
    .to_string()
}

/// An Application for `deploy` of a repository, in sync by itself.
pub(crate) fn automated(name: &str, repository: &Repository) -> Value {
    json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": { "name": name, "namespace": "argocd" },
        "spec": {
            "project": "default", "source": { "repoURL": repository.url(), "path": "deploy", "targetRevision": "main" },
            "destination": { "server": "https://kubernetes.default.svc", "namespace": "shop" },
            "syncPolicy": { "automated": { "prune": true, "selfHeal": true }, "retry": { "limit": 1, "backoff": { "duration": "1s" } } },
        } })
}

/// A cluster to which a commit with ConfigMap `a` was brought, by an Application that changes nothing back by itself; it, and the commit.
pub(crate) async fn brought_without_healing() -> (Cluster, Repository, Value, String) {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let first = repository.commit("First");
    let mut object = automated("shop", &repository);
    object["spec"]["syncPolicy"]["automated"]["selfHeal"] = false.into();
    cluster.apply(&object).await;
    cluster.synced("shop", &first).await;
    (cluster, repository, object, first)
}

/// A Deployment that nobody runs here: its status is what a test writes.
pub(crate) fn deployment(image: &str) -> String {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": { "replicas": 1,
        "selector": { "matchLabels": { "app": "web" } }, "template": { "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "web", "image": image }] } } } })
    .to_string()
}

/// A cluster to which a commit with the Deployment `web` and the ConfigMap `a` was brought, and found good, by an Application that gives
/// what comes next two seconds to become healthy; it, and the commit.
pub(crate) async fn good() -> (Cluster, Repository, Value, String) {
    let (cluster, repository) = (Cluster::start().await, Repository::new());
    repository.write("deploy/web.yaml", &deployment("web:1"));
    repository.write("deploy/a.yaml", &map("a", "one", &json!({})));
    let good = repository.commit("Good");
    let mut object = automated("shop", &repository);
    cluster.apply(&object).await;
    healthy(&cluster).await;
    let is_good = |status: &Value| status["coracle"]["good"]["content"]["revisions"][0] == good.as_str();
    cluster.application("shop", "good", is_good).await;
    hurried(&cluster, &mut object).await;
    (cluster, repository, object, good)
}

/// Gives what an Application brings from now on two seconds to become healthy.
pub(crate) async fn hurried(cluster: &Cluster, object: &mut Value) {
    object["metadata"]["annotations"] = json!({ "coracle.dev/health-deadline": "2s" });
    cluster.apply(object).await;
    // What is brought by a sync that has not heard of it would have minutes.
    look(cluster, object["metadata"]["name"].as_str().expect("a name")).await;
}

/// Asks for a look, and waits until that turn has begun, with all that was said before.
pub(crate) async fn look(cluster: &Cluster, name: &str) {
    let refresh = json!({ "metadata": { "annotations": { "argocd.argoproj.io/refresh": "normal" } } });
    cluster.api.merge(&application(name), &refresh, "person").await.expect("asked");
    let taken = |object: Option<&Value>| {
        object.is_some_and(|object| object["metadata"]["annotations"]["argocd.argoproj.io/refresh"].is_null())
    };
    cluster.until(&application(name), "looked at", taken).await;
}

/// Changes what [`good`] brought to what nobody will say is healthy.
pub(crate) fn worse(repository: &Repository) {
    repository.write("deploy/web.yaml", &deployment("web:2"));
    repository.write("deploy/a.yaml", &map("a", "two", &json!({})));
}

/// Whether the last good revision was put back.
pub(crate) fn put_back(status: &Value) -> bool {
    status["operationState"]["message"] == "the last good revision was put back"
}

/// Says that it is healthy.
pub(crate) async fn healthy(cluster: &Cluster) {
    let path = "/apis/apps/v1/namespaces/shop/deployments/web";
    let mut object = cluster.until(path, "there", |object| object.is_some()).await.expect("it is there");
    // What is changed in between is another generation.
    while object["status"]["availableReplicas"] != 1
        || object["status"]["observedGeneration"] != object["metadata"]["generation"]
    {
        let status = json!({ "status": { "observedGeneration": object["metadata"]["generation"], "replicas": 1,
            "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1 } });
        object = cluster.api.merge(&format!("{path}/status"), &status, "person").await.expect("a status");
    }
}
