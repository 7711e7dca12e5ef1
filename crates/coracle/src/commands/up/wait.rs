//! Waiting until what was applied is ready: watches into one picture, and `readiness` reads it.

use crate::commands::status::WATCHED;
use crate::connect::Api;
use crate::readiness::{self, Baseline, Key, State, World};
use crate::{colour, exit};
use futures::StreamExt;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How many changes may wait to be read.
const QUEUE: usize = 256;
/// How many lines of a log are shown of what failed.
const LAST_LINES: u32 = 20;

/// How long programs without a probe must have looked well. One that ends at once looks ready for a moment.
const SETTLE: Duration = Duration::from_millis(500);

/// What is watched beside the workloads: a ready Pod gets requests once it is in there.
const ENDPOINTS: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// A change of one object; None when it is gone.
type Change = (Key, Option<Value>);

/// Waits until all these objects are ready. What fails for good is an error that shows the log's end, unless the caller
/// wants to go on. Gives the resourceVersion of the newest EndpointSlice by then.
pub(crate) async fn until_ready(
    api: &Api,
    applied: &[Value],
    baseline: &Baseline,
    limit: Duration,
    keep_going: bool,
) -> anyhow::Result<u64> {
    let wanted: Vec<Key> = applied.iter().map(readiness::key).collect();
    let mut world: World = applied.iter().map(|object| (readiness::key(object), object.clone())).collect();
    let (sender, mut changes) = mpsc::channel(QUEUE);
    let mut watches = JoinSet::new();
    for path in WATCHED.iter().copied().chain([ENDPOINTS]) {
        watches.spawn(watch(api.clone(), path, sender.clone()));
    }
    drop(sender);
    let probed = applied.iter().filter(|o| o["kind"] != "Job").all(readiness::is_probed);
    let settle = if probed { Duration::ZERO } else { SETTLE };
    let mut well_since = None;
    let mut told = Told::default();
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let states = states(&wanted, &world, baseline);
        told.tell(&states);
        if states.values().all(|state| *state == State::Ready) {
            let since = *well_since.get_or_insert_with(tokio::time::Instant::now);
            if since.elapsed() >= settle {
                return Ok(readiness::newest_slice(&world));
            }
        } else {
            well_since = None;
        }
        if let Some((key, why)) = failure(&states).filter(|(key, _)| told.is_news(key)) {
            let report = report(api, key, why, &world, baseline).await;
            if !keep_going {
                anyhow::bail!(report);
            }
            eprintln!("{} {report}", colour::error("failed:"));
        }
        tokio::select! {
            change = changes.recv() => match change {
                Some((key, Some(object))) => { world.insert(key, object); }
                Some((key, None)) => { world.remove(&key); }
                None => anyhow::bail!("the API ended while waiting for the objects to become ready"),
            },
            () = tokio::time::sleep_until(well_since.map_or(deadline, |since| since + settle)), if well_since.is_some() => {}
            () = tokio::time::sleep_until(deadline) => anyhow::bail!(too_late(&states, limit)),
        }
    }
}

fn states(wanted: &[Key], world: &World, baseline: &Baseline) -> BTreeMap<Key, State> {
    let state = |key: &Key| match world.get(key) {
        Some(object) => readiness::state_in(object, world, baseline),
        None => State::Waiting("gone".to_owned()),
    };
    wanted.iter().map(|key| (key.clone(), state(key))).collect()
}

fn failure(states: &BTreeMap<Key, State>) -> Option<(&Key, &str)> {
    states.iter().find_map(|(key, state)| match state {
        State::Failed(why) => Some((key, why.as_str())),
        _ => None,
    })
}

fn label((kind, namespace, name): &Key) -> String {
    let place = if namespace.is_empty() || namespace == "default" { String::new() } else { format!(" in {namespace}") };
    format!("{}/{name}{place}", kind.to_lowercase())
}

fn too_late(states: &BTreeMap<Key, State>, limit: Duration) -> String {
    let waiting: Vec<String> = states
        .iter()
        .filter_map(|(key, state)| match state {
            State::Waiting(why) | State::Failed(why) => Some(format!("  {}: {why}", label(key))),
            State::Ready => None,
        })
        .collect();
    format!(
        "not ready after {} s:\n{}\nWait longer with --timeout, or look with `coracle describe` and `coracle logs`",
        limit.as_secs(),
        waiting.join("\n")
    )
}

/// What has been said to the person already.
#[derive(Default)]
struct Told {
    ready: BTreeSet<Key>,
    slow: BTreeSet<Key>,
    starting: BTreeSet<Key>,
    failed: BTreeSet<Key>,
}

impl Told {
    fn tell(&mut self, states: &BTreeMap<Key, State>) {
        for (key, state) in states {
            let has_a_state = matches!(key.0.as_str(), "Deployment" | "ReplicaSet" | "Job" | "Pod" | "Gateway");
            match state {
                State::Ready if has_a_state && self.ready.insert(key.clone()) => {
                    eprintln!("  {} {}", colour::good("ready"), label(key));
                }
                // Said once, and again when it turns out to take long.
                State::Waiting(why) if has_a_state => {
                    let slow = why.contains("still starting");
                    let list = if slow { &mut self.slow } else { &mut self.starting };
                    if list.insert(key.clone()) {
                        eprintln!("  {} {}: {why}", colour::dim("waits"), label(key));
                    }
                }
                _ => {}
            }
        }
    }

    fn is_news(&mut self, key: &Key) -> bool {
        self.failed.insert(key.clone())
    }
}

/// What failed, why, its log's last lines and the way out.
async fn report(api: &Api, key: &Key, why: &str, world: &World, baseline: &Baseline) -> String {
    let mut text = format!("{} did not start: {why}", label(key));
    let pod = world.get(key).and_then(|object| {
        let pods = if key.0 == "Pod" { vec![object] } else { readiness::pods_of(object, world) };
        pods.into_iter().find(|pod| readiness::trouble(pod, baseline).is_some() || pod["status"]["phase"] == "Failed")
    });
    let mut way_out = "fix its manifest or its program and run `coracle up` again".to_owned();
    if let Some(pod) = pod {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let lines = last_lines(api, pod).await;
        if !lines.is_empty() {
            text.push_str(&format!("\nthe last lines of its log:\n  {}", lines.replace('\n', "\n  ")));
        }
        way_out.push_str(&format!("; with --keep-going it stays up, for `coracle describe pod/{name}`"));
    }
    format!("{text}\n{way_out}")
}

async fn last_lines(api: &Api, pod: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
    let statuses = ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|l| pod["status"][l].as_array());
    let bad = statuses.flatten().find(|status| status["ready"] != true);
    let container = bad.map(|status| text(&status["name"])).unwrap_or_default();
    // The run that ended is what is told of; the one after it may have begun already.
    let ended = bad.is_some_and(|status| status["state"]["terminated"].is_object());
    for previous in if ended { [false, true] } else { [true, false] } {
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{name}/log?container={container}&tailLines={LAST_LINES}&previous={previous}"
        );
        let chunks = match api.stream(&path).await {
            Ok(chunks) => chunks,
            // A container that never ran has no log; then there is nothing to show.
            Err(error) => {
                tracing::debug!("no log to show: {}", exit::sentence(&error));
                continue;
            }
        };
        let bytes: Vec<u8> = chunks
            .filter_map(|c| async { c.ok() })
            .fold(Vec::new(), |mut all, chunk| async move {
                all.extend_from_slice(&chunk);
                all
            })
            .await;
        if !bytes.is_empty() {
            return String::from_utf8_lossy(&bytes).trim_end().to_owned();
        }
    }
    String::new()
}

/// Lists and then watches one collection, until nobody listens; starts over where the watch is lost.
async fn watch(api: Api, path: &'static str, sender: mpsc::Sender<Change>) {
    loop {
        if let Err(error) = follow(&api, path, &sender).await {
            tracing::debug!("watching {path}: {}", exit::sentence(&error));
        }
        if sender.is_closed() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn follow(api: &Api, path: &str, sender: &mpsc::Sender<Change>) -> anyhow::Result<()> {
    let list = api.get(path).await?;
    let kind = list["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
    for mut object in list["items"].as_array().cloned().unwrap_or_default() {
        object["kind"] = kind.as_str().into();
        sender.send((readiness::key(&object), Some(object))).await?;
    }
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let path = format!("{path}?watch=true&resourceVersion={version}");
    let mut events = Box::pin(api.watch(&path, "application/json").await?);
    while let Some(event) = events.next().await {
        let mut event = event?;
        let gone = event["type"] == "DELETED";
        if event["type"] == "ERROR" {
            anyhow::bail!("{}", event["object"]["message"]);
        }
        let object = event["object"].take();
        sender.send((readiness::key(&object), (!gone).then_some(object))).await?;
    }
    Ok(())
}
