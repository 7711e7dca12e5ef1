//! Events about Pods and claims: repeated ones become one with a count, and no Pod may fill the API with them.
//!
//! Invariants: recording never waits and never fails its caller; what comes too fast is dropped.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many Events may wait to be written.
const QUEUE: usize = 512;
/// How many Events are remembered so that they can be counted up.
const REMEMBERED: usize = 2048;
/// An Event that was last seen longer ago is a new one.
const SAME_FOR: i64 = 600;
/// As upstream: so many Events of one object at once, and one more every five minutes.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// What an Event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Pod,
    Claim,
}

/// What happened.
#[derive(Clone, Debug)]
struct Happened {
    about: About,
    object: kube::api::ObjectMeta,
    field: Option<String>,
    warning: bool,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// What makes two Events the same: the Pod's uid, the container, the reason and the message.
type Same = (String, Option<String>, &'static str, String);
/// The Event's name, how often it happened, and when last.
type Counted = (String, i32, Timestamp);

/// Records Events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Happened>,
}

/// Writes what was recorded.
pub(crate) struct Writer {
    queue: mpsc::Receiver<Happened>,
    client: kube::Client,
    node: String,
    written: HashMap<Same, Counted>,
    budgets: HashMap<String, (f64, Timestamp)>,
}

pub(crate) fn recorder(client: kube::Client, node: String) -> (Recorder, Writer) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Recorder { queue: sender }, Writer { queue, client, node, written: HashMap::new(), budgets: HashMap::new() })
}

impl Recorder {
    /// Something usual.
    pub(crate) fn normal(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.record(pod, container, false, reason, message.into());
    }

    /// Something to look at.
    pub(crate) fn warning(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.record(pod, container, true, reason, message.into());
    }

    fn record(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &'static str, message: String) {
        let spec = pod.spec.as_ref();
        let init = |name: &str| spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == name));
        let field = container.map(|name| match init(name) {
            true => format!("spec.initContainers{{{name}}}"),
            false => format!("spec.containers{{{name}}}"),
        });
        let object = pod.metadata.clone();
        self.send(Happened { about: About::Pod, object, field, warning, reason, message, at: Timestamp::now() });
    }

    /// Something about a claim.
    pub(crate) fn claim(&self, claim: &PersistentVolumeClaim, warning: bool, reason: &'static str, message: String) {
        let object = claim.metadata.clone();
        self.send(Happened {
            about: About::Claim,
            object,
            field: None,
            warning,
            reason,
            message,
            at: Timestamp::now(),
        });
    }

    fn send(&self, happened: Happened) {
        let reason = happened.reason;
        if self.queue.try_send(happened).is_err() {
            tracing::debug!(reason, "an Event was dropped: too many at once");
        }
    }
}

impl Writer {
    /// Runs until all recorders are gone, or until `shutdown` and nothing waits any more.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let happened = tokio::select! {
                biased;
                happened = self.queue.recv() => happened,
                () = shutdown.cancelled() => return,
            };
            let Some(happened) = happened else { return };
            if let Err(error) = self.write(&happened).await {
                tracing::debug!(%error, reason = happened.reason, "an Event could not be written");
            }
        }
    }

    async fn write(&mut self, happened: &Happened) -> Result<(), kube::Error> {
        let uid = happened.object.uid.clone().unwrap_or_default();
        if !self.allowed(&uid, happened.at) {
            return Ok(());
        }
        let namespace = happened.object.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let key = (uid, happened.field.clone(), happened.reason, happened.message.clone());
        if let Some((name, count, last)) = self.written.get_mut(&key)
            && happened.at.as_second() - last.as_second() < SAME_FOR
        {
            (*count, *last) = (*count + 1, happened.at);
            let patch = json!({ "count": *count, "lastTimestamp": seconds(happened.at) });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let name = self.create(&api, happened).await?;
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        self.written.insert(key, (name, 1, happened.at));
        Ok(())
    }

    async fn create(&self, api: &Api<Event>, happened: &Happened) -> Result<String, kube::Error> {
        let meta = &happened.object;
        let (kind, component) = match happened.about {
            About::Pod => ("Pod", "kubelet"),
            About::Claim => ("PersistentVolumeClaim", crate::claims::PROVISIONER),
        };
        let object = meta.name.as_deref().unwrap_or_default();
        let name = format!("{object}.{:016x}{:04x}", happened.at.as_nanosecond() as u64, fastrand::u16(..));
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "name": name, "namespace": meta.namespace },
            "involvedObject": {
                "apiVersion": "v1", "kind": kind, "name": object, "namespace": meta.namespace, "uid": meta.uid,
                "resourceVersion": meta.resource_version, "fieldPath": happened.field,
            },
            "type": if happened.warning { "Warning" } else { "Normal" },
            "reason": happened.reason, "message": happened.message, "count": 1,
            "firstTimestamp": seconds(happened.at), "lastTimestamp": seconds(happened.at),
            "source": { "component": component, "host": self.node },
            "reportingComponent": component, "reportingInstance": self.node,
        });
        let event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &event).await?;
        Ok(name)
    }

    fn allowed(&mut self, uid: &str, now: Timestamp) -> bool {
        if self.budgets.len() >= REMEMBERED {
            self.budgets.clear();
        }
        let (left, at) = self.budgets.entry(uid.to_owned()).or_insert((BURST, now));
        let passed = (now.as_second() - at.as_second()) as f64;
        *left = (*left + passed / REFILL_SECONDS).min(BURST);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

/// Times in objects have whole seconds.
pub(crate) fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}
