//! Watches over a revision that was just applied, until it is good or bad.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde_json::Value;

use super::Actor;
use crate::api::{Api, ApiError};
use crate::health::{self, Status};
use crate::object::{self, ObjectId};
use crate::sync::engine::cause::{self, OfPod};
use crate::sync::engine::decide::Content;
use crate::sync::engine::gate::{SETTLE, Verdict, Watched};

/// How many causes are told.
const CAUSES: usize = 5;

/// A revision that is being judged, and the Pods that are looked at for it.
pub(super) struct Judge {
    pub(super) content: Content,
    members: Vec<ObjectId>,
    watched: Watched,
    pods: BTreeMap<(String, String), Value>,
    events: Vec<BoxStream<'static, Result<Value, ApiError>>>,
    open: bool,
}

/// The next event of a Pod; never where none is watched.
pub(super) async fn pods(judge: &mut Option<Judge>) -> Option<Result<Value, ApiError>> {
    let Some(judge) = judge.as_mut().filter(|judge| !judge.events.is_empty()) else { return future::pending().await };
    let next = judge.events.iter_mut().map(|stream| stream.next());
    let (event, index, rest) = future::select_all(next).await;
    drop(rest);
    if event.is_none() {
        drop(judge.events.remove(index));
    }
    event
}

/// Takes a Pod's event in.
pub(super) fn take(judge: &mut Option<Judge>, event: Option<Result<Value, ApiError>>) {
    let (Some(judge), Some(Ok(mut event))) = (judge.as_mut(), event) else { return };
    let pod = event["object"].take();
    let key = (object::namespace(&pod).to_owned(), object::name(&pod).to_owned());
    match event["type"].as_str() {
        Some("ADDED" | "MODIFIED") => drop(judge.pods.insert(key, pod)),
        Some("DELETED") => drop(judge.pods.remove(&key)),
        _ => {}
    }
}

impl Judge {
    pub(super) fn new(content: Content, members: Vec<ObjectId>, deadline: Duration) -> Self {
        let watched = Watched::new(Timestamp::now(), deadline);
        Self { content, members, watched, pods: BTreeMap::new(), events: Vec::new(), open: false }
    }

    /// Follows the Pods in the namespaces of these objects.
    async fn follow(&mut self, api: &Api) {
        if self.open {
            return;
        }
        self.open = true;
        let workloads =
            self.members.iter().filter(|id| matches!(id.group.as_str(), "apps" | "batch") || id.kind == "Pod");
        let mut namespaces: Vec<&str> = workloads.map(|id| id.namespace.as_str()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        for namespace in namespaces {
            match api.watch(&format!("/api/v1/namespaces/{namespace}/pods"), "").await {
                Ok(events) => self.events.push(events.boxed()),
                Err(error) => tracing::debug!(%error, "Pods cannot be watched; the objects' own health has to do"),
            }
        }
    }

    /// The Pods of these objects that do not run, with what keeps them.
    fn stuck(&self, objects: &[Value]) -> Vec<(Value, OfPod)> {
        let since = self.watched.since.as_second();
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
        // Pods of the revision before are no reason against this one.
        let new = |pod: &&Value| {
            let made = pod["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
            made.is_none_or(|made| made.as_second() >= since - 2)
        };
        let found = self.pods.values().filter(of_ours).filter(new).filter_map(|pod| Some((pod, cause::of_pod(pod)?)));
        found.filter(|(_, of)| of.for_good).take(CAUSES).map(|(pod, of)| (pod.clone(), of)).collect()
    }
}

/// What a look at a revision came to.
pub(super) enum Look {
    /// It is good.
    Good,
    /// It is bad; why.
    Bad(String),
    /// Look again at that time, if nothing happens.
    Open(Timestamp),
}

impl Actor {
    /// Looks at the revision that is being judged.
    pub(super) async fn look(&mut self, now: Timestamp) -> Option<Look> {
        let view = self.live.view();
        let judge = self.judge.as_mut()?;
        let found: Vec<(ObjectId, Option<Value>)> =
            judge.members.iter().map(|id| (id.clone(), view.get(id).map(|object| (*object).clone()))).collect();
        let healths: Vec<(ObjectId, health::Health)> = found
            .iter()
            .map(|(id, object)| {
                let missing = || health::Health { status: Status::Missing, message: String::new() };
                (id.clone(), object.as_ref().map_or_else(missing, health::health))
            })
            .collect();
        let worst = health::worst(healths.iter().map(|(_, health)| health.status));
        let unprobed = found.iter().filter_map(|(_, object)| object.as_ref()).any(health::is_unprobed);
        judge.watched.settle = if unprobed { SETTLE } else { Duration::ZERO };
        let bad: Vec<Value> = found
            .into_iter()
            .zip(&healths)
            .filter(|(_, (_, health))| health.status != Status::Healthy)
            .filter_map(|((_, object), _)| object)
            .collect();
        if !bad.is_empty() {
            judge.follow(&self.shared.api).await;
        }
        let stuck = judge.stuck(&bad);
        judge.watched.see(worst, !stuck.is_empty(), now);
        Some(match judge.watched.verdict(worst, now) {
            Verdict::Good => Look::Good,
            Verdict::Open(at) => Look::Open(at),
            Verdict::Bad(why) => {
                let mut causes = Vec::new();
                for (pod, of) in stuck {
                    causes.push(told(&self.shared.api, &pod, of).await);
                }
                causes.extend(bad.iter().filter_map(cause::of_deletion));
                causes.extend(events(&self.shared.api, &bad, now).await);
                if causes.is_empty() {
                    let named = healths.iter().filter(|(_, health)| health.status == worst);
                    causes.extend(named.map(|(id, health)| {
                        format!("{} {} is {}: {}", id.group_kind(), id.name, worst.as_str(), health.message)
                    }));
                }
                causes.dedup();
                causes.truncate(CAUSES);
                Look::Bad(format!("{why}: {}", causes.join("; ")))
            }
        })
    }
}

/// What keeps a Pod, with its own last words.
async fn told(api: &Api, pod: &Value, of: OfPod) -> String {
    let words = match &of.container {
        Some(container) => crate::apply::last_words(api, pod, container).await,
        None => None,
    };
    words.map_or(of.what.clone(), |words| format!("{}; its last words: {words}", of.what))
}

/// What Events say of these objects' Pods that could not be made.
async fn events(api: &Api, bad: &[Value], now: Timestamp) -> Vec<String> {
    let mut found = Vec::new();
    let mut namespaces: Vec<&str> = bad.iter().map(object::namespace).filter(|one| !one.is_empty()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    for namespace in namespaces {
        let path = format!("/api/v1/namespaces/{namespace}/events");
        // No Events are no reason to judge otherwise.
        let events = api.list(&path, "").await.unwrap_or_default();
        let of_ours = |event: &&Value| {
            let name = event["involvedObject"]["name"].as_str().unwrap_or_default();
            let recent = event["lastTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
            let recent = recent.is_none_or(|at| now.as_second() - at.as_second() < 900);
            recent && bad.iter().any(|object| name.starts_with(object::name(object)))
        };
        found.extend(events.iter().filter(of_ours).filter_map(cause::of_event));
    }
    found
}
