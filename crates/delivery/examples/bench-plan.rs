//! How long a plan without changes takes, and applying many objects; beside `terraform plan` where terraform is there.
//!
//! ```sh
//! cargo run --release -p delivery --example bench-plan            # 1,000 and 10,000 objects
//! cargo run --release -p delivery --example bench-plan -- 5000
//! ```
//!
//! The API server is another process, reached over TLS like any cluster, so that the memory shown is the planner's own.

use delivery::apply;
use delivery::applyset::Set;
use delivery::plan::{self, Options};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

type Failed = Box<dyn std::error::Error>;

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

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.first().map(String::as_str) {
        Some("serve") => runtime.block_on(serve(Path::new(&arguments[1]))),
        Some("again") => runtime.block_on(again(&arguments[1], arguments[2].parse()?)),
        Some(count) => runtime.block_on(one(count.parse()?)),
        None => {
            // Each size in a process of its own: the peak of memory is of the whole process.
            for count in ["1000", "10000"] {
                let status = Command::new(std::env::current_exe()?).arg(count).status()?;
                if !status.success() {
                    return Err(format!("{count}: {status}").into());
                }
            }
            terraform(1000)
        }
    }
}

/// The server's side: says where its kubeconfig is, and serves until stdin ends.
async fn serve(folder: &Path) -> Result<(), Failed> {
    let (store, task) = store::SqliteStore::open(store::Settings::new(folder.join("state.db")))?;
    let dependencies = apiserver::Dependencies { logs: Arc::new(NoLogs), sessions: None, pages: None };
    let (server, handle) = apiserver::build(apiserver::Settings::new(folder), Arc::new(store), dependencies)?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(server.run(shutdown.clone()));
    handle.ready().await;
    println!("{}", handle.kubeconfig_path().display());
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())).await??;
    shutdown.cancel();
    running.await??;
    task.close().await?;
    Ok(())
}

/// Deployments, ConfigMaps and Secrets in equal parts: the shapes that sets are made of.
fn object(index: usize) -> Value {
    let label = json!({"app": format!("a-{index}")});
    match index % 3 {
        0 => {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": format!("d-{index}"), "labels": label},
            "spec": {"replicas": 0, "selector": {"matchLabels": label}, "template": {"metadata": {"labels": label},
                "spec": {"containers": [{"name": "app", "image": format!("shop/app:{index}"),
                    "ports": [{"containerPort": 8080}], "env": [{"name": "LEVEL", "value": "info"}],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}}}})
        }
        1 => {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c-{index}"), "labels": label},
            "data": {"LEVEL": "info", "URL": format!("http://service-{index}:8080"),
                "TEXT": "some lines of configuration\n".repeat(8)}})
        }
        _ => json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("s-{index}")}, "type": "Opaque",
            "data": {"token": "c29tZSBzZWNyZXQgdGV4dA=="}}),
    }
}

async fn one(count: usize) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut server = Command::new(std::env::current_exe()?);
    server.arg("serve").arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = server.spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
    let kubeconfig = Kubeconfig::read_from(line.trim())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let set = Set::new("default", "bench");
    let options = Options::default();
    let objects = || (0..count).map(object).collect::<Vec<_>>();

    let start = Instant::now();
    let plan = plan::plan(client.clone(), objects(), &set, &options).await?;
    let first = start.elapsed();
    let start = Instant::now();
    // Nothing here runs Deployments, so nobody waits for them.
    let how = apply::Options { wait: None, ..apply::Options::default() };
    apply::apply(client.clone(), &plan, &how, &|_| {}).await?;
    let applied = start.elapsed();
    println!("{count} objects: plan of all new {}, apply {}", shown(first), shown(applied));
    drop(plan);
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let plan = plan::plan(client.clone(), objects(), &set, &options).await?;
        times.push(start.elapsed());
        assert!(plan.is_empty() && plan.unchanged == count, "{} changes", plan.changes.len());
    }
    times.sort();
    let (median, worst) = (shown(times[2]), shown(times[4]));
    println!(
        "{count} objects: plan without changes {median} (median of 5, worst {worst}), peak memory of all {} MB",
        peak()?
    );
    // In a process of its own, so that nothing of what came before counts.
    let status =
        Command::new(std::env::current_exe()?).arg("again").arg(line.trim()).arg(count.to_string()).status()?;
    drop(server.stdin.take());
    server.wait()?;
    if status.success() { Ok(()) } else { Err(format!("again: {status}").into()) }
}

/// One plan without changes, and nothing else.
async fn again(kubeconfig: &str, count: usize) -> Result<(), Failed> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let before = peak()?;
    let objects: Vec<Value> = (0..count).map(object).collect();
    let read = peak()?;
    let start = Instant::now();
    let plan = plan::plan(client, objects, &Set::new("default", "bench"), &Options::default()).await?;
    let time = shown(start.elapsed());
    assert!(plan.is_empty() && plan.unchanged == count, "{} changes", plan.changes.len());
    let peak = peak()?;
    println!(
        "{count} objects: one plan without changes alone {time}, peak memory {peak} MB ({read} MB with the manifests read, {before} MB before)"
    );
    Ok(())
}

fn shown(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// The most memory that this process ever had, the plan of all new objects included.
fn peak() -> Result<u64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kilobytes / 1024)
}

/// As many resources that do nothing, with no provider process and no API: Terraform's own cost.
fn terraform(count: usize) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut file = std::fs::File::create(folder.path().join("main.tf"))?;
    writeln!(
        file,
        "resource \"terraform_data\" \"x\" {{\n  count = {count}\n  input = \"value ${{count.index}}\"\n}}"
    )?;
    let run = |arguments: &[&str]| {
        let start = Instant::now();
        let output = Command::new("terraform").args(arguments).current_dir(folder.path()).output();
        output.map(|output| (output.status.success(), start.elapsed()))
    };
    if run(&["init", "-input=false"]).is_err() {
        println!("terraform is not installed");
        return Ok(());
    }
    let (applied, apply) = run(&["apply", "-auto-approve", "-input=false"])?;
    let (planned, plan) = run(&["plan", "-input=false"])?;
    if applied && planned {
        println!("terraform, {count} terraform_data: apply {}, plan without changes {}", shown(apply), shown(plan));
    } else {
        println!("terraform could not be measured");
    }
    Ok(())
}
