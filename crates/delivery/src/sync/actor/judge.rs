//! Watches over a revision that was just applied, until it is good or bad.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::Actor;
use crate::api::Api;
use crate::health::{self, Status};
use crate::object::{self, ObjectId};
use crate::sync::engine::cause;
use crate::sync::engine::decide::Content;
use crate::sync::engine::gate::{SETTLE, Verdict, Watched};
use crate::sync::engine::pods::{self, CAUSES, Event, Pods};

/// A revision that is being judged, and the Pods that are looked at for it.
pub(super) struct Judge {
    pub(super) content: Content,
    members: Vec<ObjectId>,
    watched: Watched,
    pods: Pods,
}

/// The next event of a Pod; never where none is watched.
pub(super) async fn next(judge: &mut Option<Judge>) -> Event {
    match judge {
        Some(judge) => judge.pods.next().await,
        None => std::future::pending().await,
    }
}

/// Takes a Pod's event in.
pub(super) fn take(judge: &mut Option<Judge>, event: Event) {
    if let Some(judge) = judge {
        judge.pods.take(event);
    }
}

impl Judge {
    pub(super) fn new(content: Content, members: Vec<ObjectId>, deadline: Duration) -> Self {
        Self { content, members, watched: Watched::new(Timestamp::now(), deadline), pods: Pods::default() }
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
            judge.pods.follow(&self.shared.api, &judge.members).await;
        }
        let stuck = judge.pods.stuck(&bad);
        judge.watched.see(worst, !stuck.is_empty(), now);
        Some(match judge.watched.verdict(worst, now) {
            Verdict::Good => Look::Good,
            Verdict::Open(at) => Look::Open(at),
            Verdict::Bad(why) => {
                let mut causes = Vec::new();
                // Who reads the status may read what its application may.
                let api = self.kinds.as_ref().and_then(|kinds| self.guarded(kinds).ok());
                if let Some(api) = &api {
                    causes.extend(pods::told(api, stuck).await);
                }
                causes.extend(bad.iter().filter_map(cause::of_deletion));
                if let Some(api) = &api {
                    causes.extend(events(api, &bad, now).await);
                }
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
