//! Tells users what the controllers do, as Events.
//!
//! Invariants: saying something never waits; when the queue is full it is not said (and the log has it). What is said about
//! one object is bounded ([`super::correlate`]).

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use kube::Resource;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::clock;
use super::correlate::{Correlator, Topic, Verdict};
use crate::error::WriteError;

const QUEUE: usize = 1024;
/// How long the events still queued at the end may take.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(2);

/// What is said: one reason and message about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Note {
    pub(crate) fn normal(reason: &str, message: impl Into<String>) -> Note {
        Note { warning: false, reason: reason.to_owned(), message: message.into() }
    }

    pub(crate) fn warning(reason: &str, message: impl Into<String>) -> Note {
        Note { warning: true, ..Note::normal(reason, message) }
    }
}

struct Record {
    component: &'static str,
    about: ObjectReference,
    note: Note,
    at: jiff::Timestamp,
}

/// Says things about objects. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Record>,
}

/// The task that writes Events.
pub(crate) struct RecorderTask {
    receiver: mpsc::Receiver<Record>,
    client: kube::Client,
    correlator: Correlator,
}

pub(crate) fn recorder(client: kube::Client) -> (Recorder, RecorderTask) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let task = RecorderTask { receiver, client, correlator: Correlator::default() };
    (Recorder { sender }, task)
}

impl Recorder {
    /// Says `note` about `object`, in the name of `component`.
    pub(crate) fn say<K: Resource<DynamicType = ()>>(&self, component: &'static str, object: &K, note: Note) {
        let record = Record { component, about: object.object_ref(&()), note, at: clock::now() };
        if let Err(mpsc::error::TrySendError::Full(record)) = self.sender.try_send(record) {
            tracing::warn!(
                component = record.component,
                object = record.about.name.as_deref().unwrap_or_default(),
                reason = %record.note.reason,
                message = %record.note.message,
                "too many events at once, this one is only logged"
            );
        }
    }
}

fn event(record: &Record, message: &str, namespace: &str) -> Event {
    let name = record.about.name.as_deref().unwrap_or("object");
    let stamp = clock::stamp(record.at);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", record.at.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: record.about.clone(),
        reason: Some(record.note.reason.clone()),
        message: Some(message.to_owned()),
        type_: Some(if record.note.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(stamp.clone()),
        last_timestamp: Some(stamp),
        source: Some(EventSource { component: Some(record.component.to_owned()), host: None }),
        reporting_component: Some(record.component.to_owned()),
        reporting_instance: Some(String::new()),
        ..Event::default()
    }
}

impl RecorderTask {
    /// Writes Events until the token is cancelled, then what is still queued.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                record = self.receiver.recv() => match record {
                    Some(record) => self.write(record).await,
                    None => return,
                },
                () = shutdown.cancelled() => break,
            }
        }
        let rest = async {
            while let Ok(record) = self.receiver.try_recv() {
                self.write(record).await;
            }
        };
        if tokio::time::timeout(FAREWELL, rest).await.is_err() {
            tracing::warn!("some events were not recorded before the end");
        }
    }

    async fn write(&mut self, record: Record) {
        let topic = Topic {
            component: record.component,
            object: record.about.uid.clone().or_else(|| record.about.name.clone()).unwrap_or_default(),
            reason: record.note.reason.clone(),
            warning: record.note.warning,
        };
        // Events about objects without a namespace live in `default`.
        let namespace = record.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let outcome = match self.correlator.observe(&topic, &record.note.message, record.at) {
            Verdict::Drop => return,
            Verdict::Create { message } => self.create(&topic, &record, &message, &namespace).await,
            Verdict::Count { name, count, message } => {
                match self.count(&record, &namespace, &name, count, &message).await {
                    Err(error) if error.is_not_found() => {
                        self.correlator.lost(&name);
                        self.create(&topic, &record, &message, &namespace).await
                    }
                    outcome => outcome,
                }
            }
        };
        match outcome {
            Err(error) if !error.is_namespace_terminating() && !error.is_not_found() => {
                tracing::warn!(%error, reason = %record.note.reason, message = %record.note.message, "event not recorded");
            }
            _ => {}
        }
    }

    async fn create(
        &mut self,
        topic: &Topic,
        record: &Record,
        message: &str,
        namespace: &str,
    ) -> Result<(), WriteError> {
        let event = event(record, message, namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        let attempt = async {
            let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
            let request = Request::new(Event::url_path(&(), Some(namespace)))
                .create(&PostParams::default(), body)
                .map_err(kube::Error::BuildRequest)?;
            self.client.request::<serde_json::Value>(request).await
        };
        attempt.await.map_err(|error| WriteError::new("create", format!("Event {namespace}/{name}"), error))?;
        self.correlator.made(topic, message, name, record.at);
        Ok(())
    }

    async fn count(
        &self,
        record: &Record,
        namespace: &str,
        name: &str,
        count: i32,
        message: &str,
    ) -> Result<(), WriteError> {
        let patch = json!({
            "count": count,
            "lastTimestamp": clock::stamp(record.at),
            "message": message,
        });
        let attempt = async {
            let request = Request::new(Event::url_path(&(), Some(namespace)))
                .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                .map_err(kube::Error::BuildRequest)?;
            self.client.request::<serde_json::Value>(request).await
        };
        attempt.await.map(drop).map_err(|error| WriteError::new("change", format!("Event {namespace}/{name}"), error))
    }
}
