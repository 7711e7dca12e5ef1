//! The Pods of workloads that are waited for, watched for what keeps them from running, with their own last words.
//!
//! Invariants: nothing polls; Pods of the revision before are no reason against this one, and those of this one are, however old; where
//! Pods or ReplicaSets may not be watched, nobody is stuck, and the workloads' own health has to do; nothing of a Pod is told that its
//! application may not read.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use futures::future;
use futures::stream::BoxStream;
use serde_json::Value;

use super::cause::{self, OfPod};
use crate::api::{Api, ApiError};
use crate::newest;
use crate::object::{self, ObjectId};

/// How many causes are told.
pub const CAUSES: usize = 5;

/// What is followed: who makes a Deployment's Pods says of which revision they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Followed {
    /// A Pod.
    Pod,
    /// Which makes Pods.
    ReplicaSet,
}

/// A change of a Pod or a ReplicaSet, as the API tells it; none where a watch ended.
pub type Event = Option<(Followed, Result<Value, ApiError>)>;

/// What is known of the Pods. Dropping it ends its watches.
#[derive(Default)]
pub struct Pods {
    /// By kind, namespace and name.
    known: BTreeMap<(Followed, String, String), Value>,
    events: Vec<BoxStream<'static, (Followed, Result<Value, ApiError>)>>,
    open: bool,
}

impl Pods {
    /// Follows the Pods in the namespaces of these objects, once.
    pub async fn follow(&mut self, api: &Api, members: &[ObjectId]) {
        if std::mem::replace(&mut self.open, true) {
            return;
        }
        let workloads = members.iter().filter(|id| matches!(id.group.as_str(), "apps" | "batch") || id.kind == "Pod");
        let namespaces: BTreeSet<&str> = workloads.map(|id| id.namespace.as_str()).collect();
        let sets: BTreeSet<&str> =
            members.iter().filter(|id| id.kind == "Deployment").map(|id| id.namespace.as_str()).collect();
        let pods = namespaces.iter().map(|namespace| (Followed::Pod, format!("/api/v1/namespaces/{namespace}/pods")));
        let sets = sets
            .iter()
            .map(|namespace| (Followed::ReplicaSet, format!("/apis/apps/v1/namespaces/{namespace}/replicasets")));
        for (what, path) in sets.chain(pods) {
            match api.watch(&path, "").await {
                Ok(events) => self.events.push(events.map(move |event| (what, event)).boxed()),
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
        let Some((what, Ok(mut event))) = event else { return };
        let pod = event["object"].take();
        let key = (what, object::namespace(&pod).to_owned(), object::name(&pod).to_owned());
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => drop(self.known.insert(key, pod)),
            Some("DELETED") => drop(self.known.remove(&key)),
            _ => {}
        }
    }

    /// The Pods of these objects that do not run, with what keeps them.
    #[must_use]
    pub fn stuck(&self, objects: &[Value]) -> Vec<(Value, OfPod)> {
        let of = |what: Followed, namespace: &str| {
            let namespace = namespace.to_owned();
            let all = self.known.iter().filter(move |((kind, of, _), _)| *kind == what && *of == namespace);
            all.map(|(_, one)| one)
        };
        let newest = objects.iter().filter(|object| object["spec"]["selector"]["matchLabels"].is_object());
        let newest = newest.filter_map(|object| {
            let namespace = object::namespace(object);
            newest::pods(object, of(Followed::ReplicaSet, namespace), of(Followed::Pod, namespace))
        });
        let found = newest.flatten().filter_map(|pod| Some((pod, cause::of_pod(pod)?)));
        found.filter(|(_, of)| of.for_good).take(CAUSES).map(|(pod, of)| (pod.clone(), of)).collect()
    }
}

/// What keeps these Pods, each with its own last words, as far as whose API this is may read them. What it may not is not spoken of.
pub async fn told(api: &Api, stuck: Vec<(Value, OfPod)>) -> Vec<String> {
    let mut causes = Vec::new();
    for (pod, of) in stuck {
        let path = format!("/api/v1/namespaces/{}/pods/{}", object::namespace(&pod), object::name(&pod));
        if let Err(error) = api.find(&path).await {
            tracing::debug!(%error, "what keeps a Pod is not told");
            continue;
        }
        let words = match &of.container {
            Some(container) => crate::apply::last_words(api, &pod, container).await,
            None => None,
        };
        causes.push(words.map_or(of.what.clone(), |words| format!("{}; its last words: {words}", of.what)));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const REVISION: &str = "deployment.kubernetes.io/revision";

    fn seen(pods: &mut Pods, what: Followed, object: Value) {
        pods.take(Some((what, Ok(json!({ "type": "ADDED", "object": object })))));
    }

    fn crashing(name: &str, owner: &str, made: &str) -> Value {
        json!({ "metadata": { "name": name, "namespace": "n", "creationTimestamp": made, "labels": { "app": "web" },
                "ownerReferences": [{ "uid": owner }] },
            "status": { "containerStatuses": [{ "name": "c", "restartCount": 3,
                "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] } })
    }

    /// However old a Pod is: an attempt again makes none, and one of the commit before may have been made a moment ago.
    #[test]
    fn pods_of_the_newest_revision_are_stuck_however_old() {
        let template = |image: &str| json!({ "metadata": { "labels": { "app": "web" } }, "spec": image });
        let set = |uid: &str, revision: &str, image: &str| {
            json!({ "metadata": { "name": uid, "namespace": "n", "uid": uid, "annotations": { REVISION: revision },
                "ownerReferences": [{ "uid": "web" }] }, "spec": { "template": template(image) } })
        };
        let web = |revision: &str, image: &str, generation: i64| {
            json!({ "kind": "Deployment", "metadata": { "name": "web", "namespace": "n", "uid": "web", "generation": generation,
                    "annotations": { REVISION: revision } },
                "spec": { "selector": { "matchLabels": { "app": "web" } }, "template": template(image) },
                "status": { "observedGeneration": 2 } })
        };
        let now = jiff::Timestamp::now().to_string();
        let mut pods = Pods::default();
        seen(&mut pods, Followed::Pod, crashing("old", "bad", "2026-01-01T00:00:00Z"));
        let names = |pods: &Pods, web: Value| -> Vec<String> {
            pods.stuck(&[web]).iter().map(|(pod, _)| object::name(pod).to_owned()).collect()
        };
        assert!(names(&pods, web("1", "bad", 2)).is_empty(), "where ReplicaSets are not known, nobody is stuck");
        seen(&mut pods, Followed::ReplicaSet, set("bad", "1", "bad"));
        assert_eq!(names(&pods, web("1", "bad", 2)), ["old"], "tried again, and no Pod is made");
        seen(&mut pods, Followed::Pod, crashing("young", "bad", &now));
        assert!(names(&pods, web("1", "fix", 3)).is_empty(), "nobody has looked at the fix yet");
        seen(&mut pods, Followed::ReplicaSet, set("fix", "2", "fix"));
        assert!(names(&pods, web("1", "fix", 2)).is_empty(), "the fix is not said to be the newest yet");
        assert!(names(&pods, web("2", "fix", 2)).is_empty(), "those of the bad commit are no reason against the fix");
    }
}
