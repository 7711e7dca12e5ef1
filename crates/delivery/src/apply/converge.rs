//! Waits until what was written is healthy, by watching it, and stops when it will not become so.

use super::concern::Concern;
use super::{ApplyError, Event, Run, cause};
use crate::api::{ApiError, escape};
use crate::health::{self, Health, Status};
use crate::kinds::Resource;
use crate::object::{self, ObjectId};
use futures::{Stream, StreamExt};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

/// How long an object may take to be gone.
const GONE: Duration = Duration::from_secs(120);

/// Kinds that are waited for. The others work by being there, or depend on what may not be in every cluster (an address
/// from a cloud, a volume that is bound by its first user).
const AWAITED: [&str; 10] = [
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "Pod",
    "Job",
    "CustomResourceDefinition",
    "APIService",
    "Gateway",
    "HTTPRoute",
];

/// Kinds whose failure shows in their Pods.
const WORKLOADS: [&str; 6] = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod", "Job"];

pub(super) fn is_awaited(object: &Value) -> bool {
    AWAITED.contains(&object::kind(object))
}

type Events = Pin<Box<dyn Stream<Item = Result<Value, ApiError>> + Send>>;

impl Run<'_> {
    /// Waits until the objects are healthy. Without a limit, nobody waits.
    pub(super) async fn converge(&self, objects: &[Value], limit: Option<Duration>) -> Result<(), ApplyError> {
        let Some(limit) = limit else { return Ok(()) };
        let mut waiting: BTreeMap<ObjectId, Health> = BTreeMap::new();
        for object in objects.iter().filter(|object| is_awaited(object)) {
            let health = health::health(object);
            if !health.is_well() {
                waiting.insert(ObjectId::of(object), health);
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let result = tokio::time::timeout(limit, self.settled(objects, &mut waiting)).await;
        match result {
            Ok(result) => result,
            Err(_) => {
                let Some((id, health)) = waiting.first_key_value() else { return Ok(()) };
                let mut why = format!("not healthy after {} s: {}", limit.as_secs(), health.message);
                if WORKLOADS.contains(&id.kind.as_str())
                    && let Some(more) = cause::of(self.api, id, true).await
                {
                    why.push_str(&format!("; {more}"));
                }
                Err(self.failed(id, why))
            }
        }
    }

    /// Waits until everybody is well, and those that no probe asks are so a moment later still.
    async fn settled(&self, objects: &[Value], waiting: &mut BTreeMap<ObjectId, Health>) -> Result<(), ApplyError> {
        let unprobed: Vec<ObjectId> = objects
            .iter()
            .filter(|object| health::is_unprobed(object))
            .map(ObjectId::of)
            .filter(|id| waiting.contains_key(id))
            .collect();
        loop {
            self.watch(objects, waiting).await?;
            if unprobed.is_empty() || self.options.settle.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(self.options.settle).await;
            for id in &unprobed {
                let Some(resource) = self.kinds.of_group(&id.group, &id.kind) else { continue };
                let now = self.api.find(&crate::api::path_of(resource, id)).await?;
                let now = now
                    .as_ref()
                    .map_or(Health { status: Status::Missing, message: "it is gone".into() }, health::health);
                if !now.is_well() {
                    waiting.insert(id.clone(), now);
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
        }
    }

    async fn watch(&self, objects: &[Value], waiting: &mut BTreeMap<ObjectId, Health>) -> Result<(), ApplyError> {
        loop {
            // Listed and watched anew whenever a watch ends.
            let mut concern = Concern::of(objects.iter().filter(|object| waiting.contains_key(&ObjectId::of(object))));
            let mut streams = futures::stream::SelectAll::new();
            for (resource, namespace, pods) in self.collections(waiting) {
                let path = resource.path(Some(&namespace), None);
                let query = if pods {
                    String::new()
                } else {
                    format!("labelSelector={}", escape(&format!("{}={}", crate::applyset::PART_OF, self.plan.set.id())))
                };
                let (items, version) = self.list(&path, &query).await?;
                for item in &items {
                    self.look(item, waiting);
                    concern.seen(item);
                }
                let query = format!("{query}&resourceVersion={version}");
                let events: Events = Box::pin(self.api.watch(&path, &query).await?);
                streams.push(events);
            }
            self.examine(waiting, &concern.all()).await?;
            while !waiting.is_empty() {
                let Some(event) = streams.next().await else { break };
                let Ok(event) = event else { break };
                if event["type"] == "ERROR" {
                    break;
                }
                self.look(&event["object"], waiting);
                let concerned = match event["type"].as_str() {
                    Some("DELETED") => concern.gone(&event["object"]),
                    _ => concern.seen(&event["object"]),
                };
                self.examine(waiting, &concerned).await?;
            }
            if waiting.is_empty() {
                return Ok(());
            }
        }
    }

    async fn list(&self, path: &str, query: &str) -> Result<(Vec<Value>, String), ApiError> {
        let mut items = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let page = self.api.page(path, query, 500, from.as_deref()).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok((items, page.version)),
            }
        }
    }

    /// The collections to watch: of the objects, and of Pods where workloads are.
    fn collections(&self, waiting: &BTreeMap<ObjectId, Health>) -> Vec<(Resource, String, bool)> {
        let mut keys: BTreeSet<(String, String, String, bool)> = BTreeSet::new();
        for id in waiting.keys() {
            keys.insert((id.group.clone(), id.kind.clone(), id.namespace.clone(), false));
            if WORKLOADS.contains(&id.kind.as_str()) && id.kind != "Pod" {
                keys.insert((String::new(), "Pod".to_owned(), id.namespace.clone(), true));
            }
        }
        let found = keys.into_iter().filter_map(|(group, kind, namespace, pods)| {
            Some((self.kinds.of_group(&group, &kind)?.clone(), namespace, pods))
        });
        found.collect()
    }

    /// Takes in how an object is now.
    fn look(&self, object: &Value, waiting: &mut BTreeMap<ObjectId, Health>) {
        let id = ObjectId::of(object);
        let Some(before) = waiting.get_mut(&id) else { return };
        let now = health::health(object);
        if *before != now {
            (self.progress)(Event::Health { object: id.clone(), health: now.clone() });
        }
        if now.is_well() {
            waiting.remove(&id);
        } else {
            *before = now;
        }
    }

    /// Stops where somebody will not become healthy. Asks the API only about those with Pods in trouble, and those that failed.
    async fn examine(
        &self,
        waiting: &BTreeMap<ObjectId, Health>,
        concerned: &BTreeSet<ObjectId>,
    ) -> Result<(), ApplyError> {
        for (id, health) in
            waiting.iter().filter(|(id, health)| concerned.contains(*id) || health.status == Status::Degraded)
        {
            let workload = WORKLOADS.contains(&id.kind.as_str());
            let lost = health.status == Status::Degraded
                && matches!(id.kind.as_str(), "Deployment" | "Job" | "CustomResourceDefinition" | "ReplicaSet");
            if workload && let Some(cause) = cause::of(self.api, id, lost).await {
                return Err(self.failed(id, cause));
            }
            if lost {
                return Err(self.failed(id, health.message.clone()));
            }
        }
        Ok(())
    }

    /// Waits until an object is gone, or is another one of the same name.
    pub(super) async fn gone(&self, resource: &Resource, id: &ObjectId, uid: &str) -> Result<(), ApplyError> {
        let path = resource.path(Some(&id.namespace), None);
        let query = format!("fieldSelector={}", escape(&format!("metadata.name={}", id.name)));
        let waiting = async {
            loop {
                let (items, version) = self.list(&path, &query).await?;
                if !items.iter().any(|item| object::uid(item) == uid) {
                    return Ok::<(), ApiError>(());
                }
                let mut events = Box::pin(self.api.watch(&path, &format!("{query}&resourceVersion={version}")).await?);
                while let Some(Ok(event)) = events.next().await {
                    if event["type"] == "DELETED" {
                        break;
                    }
                }
            }
        };
        match tokio::time::timeout(GONE, waiting).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(self
                .failed(id, format!("it is still being deleted after {} s; a finalizer may hold it", GONE.as_secs()))),
        }
    }
}
