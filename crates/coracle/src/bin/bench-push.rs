//! Measures from `git push` to live: a changed ConfigMap, and a changed Deployment whose new Pod is ready.
//!
//! `cargo build --release -p coracle --bins --example fixture && cargo run --release -p coracle --bin bench-push -- [PUSHES]`
//!
//! One Coracle, one repository on its own remote, one Application that holds a ConfigMap and a Deployment of one replica (a
//! program of ours that is ready at once). Each push changes one of the two. The time runs from the exec of `git push` until
//! a watch on the API has shown the ConfigMap's new value, or the Deployment with its new revision all available. For the
//! Deployment the program's own start, measured alone beside it, is to be taken off.

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Instance {
    child: Child,
    folder: PathBuf,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn main() -> Outcome<()> {
    let pushes: usize = std::env::args().nth(1).map_or(Ok(50), |text| text.parse())?;
    let binary = std::env::current_exe()?.with_file_name("coracle");
    let program = binary.with_file_name("examples").join("fixture");
    for file in [&binary, &program] {
        if !file.is_file() {
            return Err(format!("{} is missing; see the head of this program's source", file.display()).into());
        }
    }
    let folder = std::env::temp_dir().join(format!("bench-push-{}", std::process::id()));
    let work = folder.join("shop");
    std::fs::create_dir_all(work.join("deploy"))?;
    std::fs::write(folder.join("coracle.yaml"), format!("images:\n  fixture:\n    command: [{:?}]\n", program))?;
    let mut child = Command::new(&binary)
        .args(["serve", "-o", "json", "--git-port", "0", "--recipes"])
        .arg(folder.join("coracle.yaml"))
        .arg("--data")
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let instance = Instance { child, folder: folder.clone() };
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    git(&work, &["init", "-q", "-b", "main"])?;
    let data = folder.join("data");
    let added = Command::new(&binary)
        .args(["git", "add-remote", "shop", "--repository"])
        .arg(&work)
        .arg("--data")
        .arg(&data)
        .output()?;
    if !added.status.success() {
        return Err(String::from_utf8_lossy(&added.stderr).into_owned().into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&work, &data, pushes))?;
    drop(instance);
    Ok(())
}

async fn measure(work: &Path, data: &Path, pushes: usize) -> Outcome<()> {
    let kubeconfig = Kubeconfig::read_from(data.join("kubeconfig"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    write(work, 0, 0)?;
    commit(work)?;
    git(work, &["push", "-q", "coracle", "HEAD:main"])?;
    let mut config_maps = Vec::new();
    let mut deployments = Vec::new();
    for run in 1..=pushes {
        write(work, run, run - 1)?;
        config_maps.push(
            push(work, &client, "v1", "ConfigMap", "configmaps", run, |object, run| {
                object.data["data"]["run"].as_str() == Some(&run.to_string())
            })
            .await?,
        );
        write(work, run, run)?;
        deployments.push(push(work, &client, "apps/v1", "Deployment", "deployments", run, available).await?);
    }
    print("push to live, ConfigMap", &mut config_maps);
    print("push to live, Deployment (new Pod ready, old one gone)", &mut deployments);
    Ok(())
}

fn available(object: &DynamicObject, run: usize) -> bool {
    let (status, spec) = (&object.data["status"], &object.data["spec"]);
    spec["template"]["metadata"]["annotations"]["run"].as_str() == Some(&run.to_string())
        && status["observedGeneration"].as_i64() >= object.metadata.generation
        && status["updatedReplicas"] == 1
        && status["availableReplicas"] == 1
        && status["replicas"] == 1
}

async fn push(
    work: &Path,
    client: &kube::Client,
    api_version: &str,
    kind: &str,
    plural: &str,
    run: usize,
    live: fn(&DynamicObject, usize) -> bool,
) -> Outcome<Duration> {
    commit(work)?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let mut events = api.watch(&WatchParams::default().fields("metadata.name=bench"), "0").await?.boxed();
    let began = Instant::now();
    let mut git = Command::new("git")
        .arg("-C")
        .arg(work)
        .args(["push", "-q", "coracle", "HEAD:main"])
        .stderr(Stdio::null())
        .spawn()?;
    let seen = async {
        while let Some(event) = events.next().await {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event?
                && live(&object, run)
            {
                return Ok::<_, kube::Error>(began.elapsed());
            }
        }
        Ok(LIMIT)
    };
    let elapsed = tokio::time::timeout(LIMIT, seen).await??;
    // The pusher is told a moment later; the next push begins after.
    git.wait()?;
    Ok(elapsed)
}

fn write(work: &Path, map: usize, deployment: usize) -> std::io::Result<()> {
    let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: bench}}\ndata: {{run: \"{map}\"}}\n");
    std::fs::write(work.join("deploy/map.yaml"), map)?;
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: bench}}\nspec:\n  replicas: 1\n  selector: {{matchLabels: {{app: bench}}}}\n  template:\n    metadata: {{labels: {{app: bench}}, annotations: {{run: \"{deployment}\"}}}}\n    spec:\n      containers:\n      - name: bench\n        image: fixture\n        ports: [{{containerPort: 8080}}]\n        readinessProbe: {{tcpSocket: {{port: 8080}}}}\n"
    );
    std::fs::write(work.join("deploy/deployment.yaml"), deployment)
}

fn commit(work: &Path) -> Outcome<()> {
    git(work, &["add", "-A"])?;
    git(work, &["-c", "user.name=bench", "-c", "user.email=bench@example.com", "commit", "-q", "-m", "change"])
}

fn git(work: &Path, arguments: &[&str]) -> Outcome<()> {
    let output = Command::new("git").arg("-C").arg(work).args(arguments).output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: f64| {
        // A handful of samples: the nearest rank is what is meant.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
        times.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "{what}: {} pushes, p50 {:.0} ms, p95 {:.0} ms, max {:.0} ms  (goal: p95 under 1000 ms)",
        times.len(),
        at(0.5),
        at(0.95),
        at(1.0)
    );
}
