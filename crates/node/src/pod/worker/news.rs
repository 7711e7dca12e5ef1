//! What containers tell, taken into a Pod's records.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::super::plan::{Policy, restarts};
use super::super::record::{State, containers};
use super::Worker;
use crate::container::{Message, News, Refused, Stop};
use crate::probe::Kind;

/// How soon a first refusal turns into waiting for the next try.
const TURN: SignedDuration = SignedDuration::from_secs(1);

impl Worker {
    pub(super) fn hear(&mut self, message: Message) {
        let Message { index, run, news } = message;
        if self.current.get(index) != Some(&run) {
            return; // of a run that is over
        }
        match news {
            News::Plain(why) => self.plain(&why),
            News::Refused(refused) => self.refused(index, refused),
            News::Running { id, image_id, at } => {
                let record = &mut self.records[index];
                record.image_id = image_id;
                record.state = State::Running { id, since: at };
            }
            News::Hooked(Ok(())) => {
                let record = &mut self.records[index];
                record.started = !record.has_startup;
                record.ready = record.started && !record.has_readiness && !record.stopping;
            }
            News::Hooked(Err(why)) => {
                let name = self.records[index].name.clone();
                let message = format!("PostStartHook failed: {why}");
                self.context.events.warning(&self.pod, Some(&name), "FailedPostStartHook", message);
                self.stop_again(index, format!("Container {name} failed its postStart hook"), None);
            }
            News::Probed { kind, failure, verdict } => self.probed(index, kind, failure, verdict),
            News::Ended(ended) => {
                self.stops[index] = None;
                let record = &mut self.records[index];
                record.end(ended);
                self.ended(index);
            }
        }
    }

    fn plain(&mut self, why: &str) {
        if !std::mem::replace(&mut self.told_plain, true) {
            let message = format!(
                "volumes are not at their mountPath, and Services have no names: {why}; use $(VOLUME_<NAME>) and <NAME>_SERVICE_HOST"
            );
            self.context.events.warning(&self.pod, None, "NoMountNamespace", message);
        }
    }

    fn refused(&mut self, index: usize, refused: Refused) {
        self.stops[index] = None;
        let now = Timestamp::now();
        let record = &mut self.records[index];
        let wait = record.backoff.after_refusal();
        record.not_before = now.checked_add(wait).ok();
        // Nothing ran: the next run is no restart because of this one.
        record.ran = record.last.is_some();
        if record.ran {
            record.restarts = record.restarts.saturating_sub(1);
        }
        (record.started, record.ready, record.stopping) = (false, false, false);
        let name = record.name.clone();
        if refused.reason == "ErrImagePull" {
            if let Ok(at) = now.checked_add(TURN) {
                self.turns.insert(index, at);
            }
            self.context.events.warning(
                &self.pod,
                Some(&name),
                "Failed",
                format!("Failed to pull: {}", refused.message),
            );
        }
        self.context.events.warning(
            &self.pod,
            Some(&name),
            "Failed",
            format!("Error: {}: {}", refused.reason, refused.message),
        );
        self.records[index].state = State::Waiting(Some(refused));
    }

    /// Tells refusals that are a moment old as waiting for the next try.
    pub(super) fn turn(&mut self) {
        let now = Timestamp::now();
        let due: Vec<usize> = self.turns.iter().filter(|(_, at)| **at <= now).map(|(index, _)| *index).collect();
        for index in due {
            self.turns.remove(&index);
            let record = &mut self.records[index];
            if let State::Waiting(Some(refused)) = &mut record.state {
                refused.reason = "ImagePullBackOff";
                let message = format!("Back-off pulling image: {}", refused.message);
                self.context.events.normal(&self.pod, Some(&record.name), "BackOff", message);
            }
        }
    }

    fn probed(&mut self, index: usize, kind: Kind, failure: Option<String>, verdict: Option<bool>) {
        let record = &mut self.records[index];
        if record.stopping || !matches!(record.state, State::Running { .. }) {
            return;
        }
        let name = record.name.clone();
        match (kind, verdict) {
            (Kind::Startup, Some(true)) => {
                record.started = true;
                record.ready = !record.has_readiness;
            }
            (Kind::Readiness, Some(good)) => record.ready = good,
            _ => {}
        }
        if let Some(why) = failure {
            let message = format!("{} probe failed: {why}", kind.name());
            self.context.events.warning(&self.pod, Some(&name), "Unhealthy", message);
        }
        if kind != Kind::Readiness && verdict == Some(false) {
            let again = Policy::parse(self.spec.restart_policy.as_deref()) != Policy::Never;
            let will = if again { ", will be restarted" } else { "" };
            let why = format!("Container {name} failed {} probe{will}", kind.name().to_lowercase());
            self.stop_again(index, why, Some(kind));
        }
    }

    /// Stops a container so that it starts again.
    pub(super) fn stop_again(&mut self, index: usize, why: String, kind: Option<Kind>) {
        let declared = containers(&self.spec);
        let probe = kind.zip(declared.get(index)).and_then(|(kind, (c, _))| kind.of(c));
        let own = probe.and_then(|p| p.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
        let grace = own.map_or(self.grace(), Duration::from_secs);
        self.records[index].again = true;
        self.stop(index, Stop { deadline: Instant::now() + grace, drain: None }, Some(why));
    }

    fn ended(&mut self, index: usize) {
        let record = &self.records[index];
        let policy = Policy::parse(self.spec.restart_policy.as_deref());
        let again = restarts(record, policy) && self.ending.is_none() && self.failure.is_none();
        if !again {
            self.context.logs.close(&self.directory.join(&record.name));
        } else if record.not_before.is_some_and(|at| at > Timestamp::now()) {
            let message = format!("Back-off restarting failed container {} in pod {}", record.name, self.name());
            self.context.events.warning(&self.pod, Some(&record.name), "BackOff", message);
        }
    }
}
