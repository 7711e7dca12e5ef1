//! How a sync ended: what is remembered of it, and what it says about its content.
//!
//! Invariant: a content is not judged by what has nothing to do with it, such as a lock that others hold.

use jiff::{SignedDuration, Timestamp};

use super::judge::Judge;
use super::{Actor, Running};
use crate::sync::engine::decide::{self, Last};
use crate::sync::engine::locked::Broken;
use crate::sync::engine::operation::Note;
use crate::sync::report::{Deployed, Operation, stamp};

/// A lock that was not to be had is asked for again after so many seconds.
const LOCK_AGAIN: i64 = 10;

impl Actor {
    /// Takes in how a sync ended.
    pub(super) async fn finish(&mut self, now: Timestamp) {
        let Some(running) = &mut self.running else { return };
        while let Ok(note) = running.notes.try_recv() {
            note_into(&mut self.report.operation, note);
        }
        if !(running.notes.is_closed() && running.notes.is_empty()) {
            return;
        }
        let Some(mut running) = self.running.take() else { return };
        let outcome = match (&mut running.task).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Broken::Failed(reason))) => Err(reason),
            Ok(Err(broken)) => return self.stay_out(&broken, running, now),
            Err(error) => Err(format!("the sync broke: {error}")),
        };
        crate::fault::point("sync.told");
        let members = std::mem::take(&mut running.members);
        let last =
            Last { content: running.content.clone(), succeeded: outcome.is_ok(), attempts: running.attempts, at: now };
        self.report.memory.synced(&last);
        self.report.memory.under_way = None;
        let automated = self.application.as_ref().is_some_and(|one| one.policy.automated.is_some());
        let asked_for = |operation: &Operation| operation.operation["initiatedBy"]["automated"] != true;
        let back = running.other && self.report.operation.as_ref().is_none_or(|operation| !asked_for(operation));
        if let Some(operation) = &mut self.report.operation {
            operation.finished = Some(now);
            (operation.phase, operation.message) = match &outcome {
                Ok(()) if back => ("Succeeded", "the last good revision was put back".to_owned()),
                Ok(()) => ("Succeeded", "successfully synced (all tasks run)".to_owned()),
                Err(reason) => ("Failed", reason.clone()),
            };
        }
        match outcome {
            Ok(()) => {
                self.remember(&running, now);
                let deadline = self.application.as_ref().map(|one| one.policy.deadline).unwrap_or_default();
                if !running.other {
                    self.judge = Some(Judge::new(running.content, members, deadline));
                }
            }
            Err(reason) if automated && !running.other => {
                let retry = self.application.as_ref().map(|one| one.policy.retry.clone()).unwrap_or_default();
                if decide::given_up(&retry, running.attempts) {
                    self.report.memory.fail(&running.content, &reason, now);
                }
            }
            Err(_) => {}
        }
    }

    /// Takes in that the lock was not to be had, or was lost: nothing is learned of the content, and it is tried again.
    fn stay_out(&mut self, broken: &Broken, running: Running, now: Timestamp) {
        if matches!(broken, Broken::Locked(_)) {
            // It has not begun.
            self.report.memory.under_way = running.half_done;
        }
        if let Some(operation) = &mut self.report.operation {
            (operation.phase, operation.message, operation.finished) = ("Error", broken.to_string(), Some(now));
        }
        self.wait_for_lock();
    }

    /// Asks for the lock again later.
    pub(super) fn wait_for_lock(&mut self) {
        self.locked_until = Timestamp::now().checked_add(SignedDuration::from_secs(LOCK_AGAIN)).ok();
    }

    /// Until when a lock that was not to be had a moment ago is not asked for again.
    pub(super) fn lock_is_away(&self) -> Option<Timestamp> {
        self.locked_until.filter(|at| *at > Timestamp::now())
    }

    /// Nobody is waited for any more where nothing is to be done.
    pub(super) fn forget_lock(&mut self) {
        if self.running.is_none() && self.leaving.is_none() && self.lock_is_away().is_none() {
            self.waits.send_if_modified(|waits| waits.take().is_some());
        }
    }

    fn remember(&mut self, running: &Running, now: Timestamp) {
        let Some(operation) = &self.report.operation else { return };
        let id = self.report.history.last().map_or(0, |last| last.id + 1);
        self.report.history.push(Deployed {
            id,
            revision: running.content.revisions.first().cloned().unwrap_or_default(),
            deploy_started_at: stamp(operation.started),
            deployed_at: stamp(now),
            initiated_by: operation.operation["initiatedBy"].clone(),
            source: self.object.borrow()["spec"]["source"].clone(),
            commit: running.commit.clone(),
        });
        let most = self.application.as_ref().map_or(10, |one| one.history).max(1);
        let over = self.report.history.len().saturating_sub(most);
        self.report.history.drain(..over);
    }

    pub(super) fn take_note(&mut self, note: Option<Note>) {
        if let Some(note) = note {
            note_into(&mut self.report.operation, note);
        }
    }
}

fn note_into(operation: &mut Option<Operation>, note: Note) {
    let Some(operation) = operation else { return };
    match note {
        Note::Doing(what) => operation.message = what,
        Note::Object(done) => {
            operation.done.retain(|one| one.id != done.id || one.phase != done.phase);
            operation.done.push(done);
        }
    }
}
