//! The Pods of workloads that are waited for, watched for what keeps them from running, with their own last words.
//!
//! Invariants: nothing polls; Pods of the revision before are no reason against this one; where Pods may not be watched, nobody is
//! stuck, and the workloads' own health has to do.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use futures::future;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde_json::Value;

use super::cause::{self, OfPod};
use crate::api::{Api, ApiError};
use crate::object::{self, ObjectId};

/// How many causes are told.
pub const CAUSES: usize = 5;

/// A change of a Pod, as the API tells it; none where a watch ended.
pub type Event = Option<Result<Value, ApiError>>;

/// What is known of the Pods. Dropping it ends its watches.
pub struct Pods {
    since: Timestamp,
    known: BTreeMap<(String, String), Value>,
    events: Vec<BoxStream<'static, Result<Value, ApiError>>>,
    open: bool,
}

impl Pods {
    /// Follows nothing yet.
    #[must_use]
    pub fn new(since: Timestamp) -> Self {
        Self { since, known: BTreeMap::new(), events: Vec::new(), open: false }
    }

    /// Follows the Pods in the namespaces of these objects, once.
    pub async fn follow(&mut self, api: &Api, members: &[ObjectId]) {
        if std::mem::replace(&mut self.open, true) {
            return;
        }
        let workloads = members.iter().filter(|id| matches!(id.group.as_str(), "apps" | "batch") || id.kind == "Pod");
        let namespaces: BTreeSet<&str> = workloads.map(|id| id.namespace.as_str()).collect();
        for namespace in namespaces {
            match api.watch(&format!("/api/v1/namespaces/{namespace}/pods"), "").await {
                Ok(events) => self.events.push(events.boxed()),
                Err(error) => tracing::debug!(%error, "Pods cannot be watched; the objects' own health has to do"),
            }
        }
    }

    /// The next event of a Pod; never where none is watched.
    pub async fn next(&mut self) -> Event {
        if self.events.is_empty() {
            return future::pending().await;
        }
        let next = self.events.iter_mut().map(|stream| stream.next());
        let (event, index, rest) = future::select_all(next).await;
        drop(rest);
        if event.is_none() {
            drop(self.events.remove(index));
        }
        event
    }

    /// Takes a Pod's event in.
    pub fn take(&mut self, event: Event) {
        let Some(Ok(mut event)) = event else { return };
        let pod = event["object"].take();
        let key = (object::namespace(&pod).to_owned(), object::name(&pod).to_owned());
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => drop(self.known.insert(key, pod)),
            Some("DELETED") => drop(self.known.remove(&key)),
            _ => {}
        }
    }

    /// The Pods of these objects that do not run, with what keeps them.
    #[must_use]
    pub fn stuck(&self, objects: &[Value]) -> Vec<(Value, OfPod)> {
        let since = self.since.as_second();
        let selectors: Vec<(&str, &Value)> = objects
            .iter()
            .filter(|object| object["spec"]["selector"]["matchLabels"].is_object())
            .map(|object| (object::namespace(object), &object["spec"]["selector"]["matchLabels"]))
            .collect();
        let of_ours = |pod: &&Value| {
            selectors.iter().any(|(namespace, labels)| {
                let has = |(name, value): (&String, &Value)| pod["metadata"]["labels"][name] == *value;
                object::namespace(pod) == *namespace && labels.as_object().is_some_and(|all| all.iter().all(has))
            })
        };
        let new = |pod: &&Value| {
            let made = pod["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
            made.is_none_or(|made| made.as_second() >= since - 2)
        };
        let found = self.known.values().filter(of_ours).filter(new).filter_map(|pod| Some((pod, cause::of_pod(pod)?)));
        found.filter(|(_, of)| of.for_good).take(CAUSES).map(|(pod, of)| (pod.clone(), of)).collect()
    }
}

/// What keeps these Pods, each with its own last words.
pub async fn told(api: &Api, stuck: Vec<(Value, OfPod)>) -> Vec<String> {
    let mut causes = Vec::new();
    for (pod, of) in stuck {
        let words = match &of.container {
            Some(container) => crate::apply::last_words(api, &pod, container).await,
            None => None,
        };
        causes.push(words.map_or(of.what.clone(), |words| format!("{}; its last words: {words}", of.what)));
    }
    causes
}
