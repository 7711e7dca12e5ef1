//! Begins a sync: what goes on ends first, what the rehearsal refuses is not begun, and what is begun is said before anything is done.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::target::Rendered;
use super::turn::ASK_AGAIN;
use super::{Actor, Running};
use crate::object::{self, ObjectId};
use crate::sync::engine::compare::{self, Code};
use crate::sync::engine::decide::{Content, Last, Why};
use crate::sync::engine::operation::{self, Job, Tools};
use crate::sync::report::Operation;

/// How many notes of a sync may wait to be read.
const NOTES: usize = 256;
/// The annotation by which a person agrees to deletions.
const APPROVED: &str = "argocd.argoproj.io/deletion-approved";

impl Actor {
    /// Begins a sync; one that goes on ends first.
    pub(super) async fn start(&mut self, rendered: &Rendered, other: bool, why: Why, object: &Value, now: Timestamp) {
        let Some(application) = self.application.clone() else { return };
        let Some(kinds) = self.kinds(&rendered.objects).await else { return };
        let prepared = compare::prepare(&rendered.objects, &kinds, &application.namespace, &self.set.id());
        self.follow(&kinds).await;
        let desired = match prepared {
            Ok(desired) => desired,
            Err(wrong) => return self.refuse(rendered, why, object, wrong.join("; "), now).await,
        };
        match self.refusals(rendered, &desired, &kinds).await {
            Ok(None) => {}
            Ok(Some(reason)) => return self.refuse(rendered, why, object, reason, now).await,
            Err(()) => return self.look_later(ASK_AGAIN),
        }
        let Ok(api) = self.guarded(&kinds) else { return };
        if let Some(mut running) = self.running.take() {
            running.task.abort();
            // Only its end is awaited; what it had done the comparison has seen, or the sync does again. Its lock is ours still.
            let _ = (&mut running.task).await;
            if self.waits.borrow().is_some() {
                // It has not begun.
                self.report.memory.under_way = running.half_done.take();
            }
        }
        self.judge = None;
        let wanted: BTreeSet<ObjectId> = desired.members.iter().map(ObjectId::of).collect();
        let view = self.live.view();
        let extra = view.all().into_iter().filter(|(id, one)| !wanted.contains(id) && compare::is_root(one));
        let extra = extra.map(|(id, _)| id).collect();
        let synced =
            self.report.states.iter().filter(|one| !other && one.code == Code::Synced).map(|one| one.id.clone());
        let last = self.report.memory.last();
        let again = last.filter(|last| last.content == rendered.content && !last.succeeded && why != Why::Asked);
        let attempts = again.map_or(1, |last| last.attempts.saturating_add(1));
        let operation =
            operation_of(object, why, &rendered.content, application.policy.automated.is_some_and(|one| one.prune));
        let job = Job {
            synced: synced.collect(),
            desired,
            extra,
            prune: operation["sync"]["prune"] == true,
            approved: self.approved(object),
            options: application.policy.options.clone(),
            ignore: application.ignore.clone(),
            namespace: application.namespace.clone(),
            set: self.set.clone(),
            deadline: application.policy.deadline,
        };
        let what = if other { "putting back" } else { "syncing" };
        let door = self.door(format!("{what} {}", rendered.content.short()));
        let tools = Tools { api, own: self.shared.api.clone(), live: view, kinds, door };
        self.report.operation = Some(Operation {
            phase: "Running",
            message: if other && why != Why::Asked {
                "putting back the last good revision".to_owned()
            } else {
                String::new()
            },
            content: rendered.content.clone(),
            started: now,
            finished: None,
            retries: attempts - 1,
            operation,
            done: Vec::new(),
        });
        if why == Why::Asked {
            // It is judged anew.
            self.report.memory.forgive(&rendered.content);
        }
        // Said before anything is done, so that an end of this process in the middle is known to the next.
        let half_done = self.report.memory.under_way.replace(rendered.content.clone());
        self.write(object, now).await;
        let (sender, notes) = mpsc::channel(NOTES);
        // From its first moment on it ends with this actor.
        let task = AbortOnDropHandle::new(tokio::spawn(async move { operation::run(&job, &tools, &sender).await }));
        let (content, commit, members) =
            (rendered.content.clone(), rendered.commit.clone(), wanted.into_iter().collect());
        self.running = Some(Running { content, other, commit, members, half_done, task, notes, attempts });
        if why == Why::Asked {
            let patch = json!({ "operation": null });
            if let Err(error) = self.shared.api.merge(&self.id.path(), &patch, compare::MANAGER).await {
                tracing::warn!(application = %self.id, %error, "the request for a sync could not be taken away");
            }
        }
    }

    /// What was to begin is refused: nothing is changed, and whoever asked is told. What had been begun counts it as one more attempt.
    async fn refuse(&mut self, rendered: &Rendered, why: Why, object: &Value, reason: String, now: Timestamp) {
        let content = rendered.content.clone();
        if why == Why::Asked {
            return self.refuse_asked(object, reason, now).await;
        }
        if self.report.target.as_ref() != Some(&content) {
            return self.cannot_put_back(&reason);
        }
        let last = self.report.memory.last().filter(|last| last.content == content && !last.succeeded);
        let attempts = last.map_or(0, |last| last.attempts).saturating_add(1);
        self.report.memory.synced(&Last { content: content.clone(), succeeded: false, attempts, at: now });
        let retry = self.application.as_ref().map(|one| one.policy.retry.clone()).unwrap_or_default();
        match retry.pause(attempts) {
            Some(_) => self.look_later(1),
            None => self.report.memory.fail(&content, &reason, now),
        }
    }

    /// Whether a person has agreed to deletions since the last sync.
    pub(super) fn approved(&self, object: &Value) -> bool {
        let Some(at) = object::annotation(object, APPROVED).and_then(|text| text.parse::<Timestamp>().ok()) else {
            return false;
        };
        let told = || object["status"]["operationState"]["finishedAt"].as_str()?.parse().ok();
        let last = self.report.operation.as_ref().map_or_else(told, |operation| operation.finished);
        last.is_none_or(|last| at >= last)
    }
}

/// What is written as the operation.
fn operation_of(object: &Value, why: Why, content: &Content, prune: bool) -> Value {
    if why == Why::Asked {
        let mut operation = object["operation"].clone();
        operation["sync"]["revision"] = content.revisions.first().cloned().unwrap_or_default().into();
        return operation;
    }
    let revision = content.revisions.first().cloned().unwrap_or_default();
    json!({ "sync": { "revision": revision, "prune": prune }, "initiatedBy": { "automated": true } })
}
