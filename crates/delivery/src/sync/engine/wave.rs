//! Waits until the members of a wave are healthy, says for whom it waits, and why it does not go on.
//!
//! It decides nothing: what is good and bad says [`super::gate`], what keeps Pods [`super::pods`]. Pods are watched as ourselves, and told
//! of as the application.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;

use super::gate::{SETTLE, Verdict, Watched};
use super::operation::{Note, Tools};
use super::pods::{self, Pods};
use crate::health::{self, Health, Status};
use crate::object::ObjectId;

/// Waits until these members are healthy; a sentence where they will not be.
pub(super) async fn healthy(
    tools: &Tools,
    deadline: Duration,
    doing: &str,
    ids: &[ObjectId],
    notes: &mpsc::Sender<Note>,
) -> Result<(), String> {
    let mut changes = tools.live.changes();
    let mut watched = Watched::new(Timestamp::now(), deadline);
    let mut pods = Pods::default();
    let unprobed = |id| tools.live.get(id).is_some_and(|object| health::is_unprobed(&object));
    watched.settle = if ids.iter().any(unprobed) { SETTLE } else { Duration::ZERO };
    let mut told = String::new();
    loop {
        changes.borrow_and_update();
        let missing = || Health { status: Status::Missing, message: "it is not there yet".to_owned() };
        let of = |id| (id, tools.live.get(id).map_or_else(missing, |object| health::health(&object)));
        let all: Vec<(&ObjectId, Health)> = ids.iter().map(of).collect();
        let worst = health::worst(all.iter().map(|(_, health)| health.status));
        let bad: Vec<&(&ObjectId, Health)> = all.iter().filter(|(_, health)| !health.is_well()).collect();
        let objects: Vec<Value> = bad.iter().filter_map(|(id, _)| Some((*tools.live.get(id)?).clone())).collect();
        if !objects.is_empty() {
            pods.follow(&tools.own, ids).await;
        }
        let stuck = pods.stuck(&objects);
        let now = Timestamp::now();
        watched.see(worst, !stuck.is_empty(), now);
        let until = match watched.verdict(worst, now) {
            Verdict::Good => return Ok(()),
            Verdict::Bad(why) => {
                let mut causes = pods::told(&tools.api, stuck).await;
                if causes.is_empty() {
                    let named = bad.iter().filter(|(_, health)| health.status == worst);
                    causes.extend(named.map(|(id, health)| sentence(id, health)));
                }
                return Err(format!("the wave failed: {why}: {}", causes.join("; ")));
            }
            Verdict::Open(until) => until,
        };
        let waits = bad.first().map(|(id, health)| format!("{doing}: waiting: {}", sentence(id, health)));
        if let Some(waits) = waits.filter(|waits| *waits != told) {
            // Whoever listened may have gone; the wait goes on.
            let _ = notes.send(Note::Doing(waits.clone())).await;
            told = waits;
        }
        let pause = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Err("the watches ended".to_owned()) },
            event = pods.next() => pods.take(event),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn sentence(id: &ObjectId, health: &Health) -> String {
    format!("{} {} is {}: {}", id.group_kind(), id.name, health.status.as_str(), health.message)
}
