//! What the node knows of each container of a Pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::backoff::Backoff;
use crate::container::{Ended, Refused};

/// Which part a container has in its Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Runs to its end before the next.
    Init,
    /// An init container that stays.
    Sidecar,
    Main,
}

/// Where a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not started yet, or refused.
    Waiting(Option<Refused>),
    /// A run has begun; its program not yet.
    Starting,
    Running {
        id: String,
        since: Timestamp,
    },
    Ended(Ended),
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub name: String,
    pub part: Part,
    pub state: State,
    /// How the run before the current one ended.
    pub last: Option<Ended>,
    pub restarts: u32,
    /// It ran at least once, so the next run is a restart.
    pub ran: bool,
    /// The startup probe has passed, and what follows the start is done.
    pub started: bool,
    pub ready: bool,
    /// An order to stop is out.
    pub stopping: bool,
    /// It was stopped to be started again.
    pub again: bool,
    /// What it is to run has changed since its run began.
    pub changed: bool,
    pub backoff: Backoff,
    /// No start before this time.
    pub not_before: Option<Timestamp>,
    pub image_id: String,
    pub has_startup: bool,
    pub has_readiness: bool,
}

impl Record {
    pub(crate) fn new(container: &Container, part: Part) -> Self {
        Record {
            name: container.name.clone(),
            part,
            state: State::Waiting(None),
            last: None,
            restarts: 0,
            ran: false,
            started: false,
            ready: false,
            stopping: false,
            again: false,
            changed: false,
            backoff: Backoff::default(),
            not_before: None,
            image_id: String::new(),
            has_startup: container.startup_probe.is_some(),
            has_readiness: container.readiness_probe.is_some(),
        }
    }

    /// A process of it may be there.
    pub(crate) fn active(&self) -> bool {
        matches!(self.state, State::Starting | State::Running { .. })
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// It did what it is for: an init container ended well, a sidecar is up.
    pub(crate) fn initialized(&self) -> bool {
        match self.part {
            Part::Init => self.ended().is_some_and(|e| e.code == 0),
            Part::Sidecar => matches!(self.state, State::Running { .. }) && self.started,
            Part::Main => true,
        }
    }

    /// A run begins.
    pub(crate) fn begin(&mut self) {
        if self.ran {
            self.restarts += 1;
        }
        if let State::Ended(ended) = std::mem::replace(&mut self.state, State::Starting) {
            self.last = Some(ended);
        }
        (self.ran, self.started, self.ready) = (true, false, false);
        (self.stopping, self.again, self.changed) = (false, false, false);
    }

    /// A run is over.
    pub(crate) fn end(&mut self, ended: Ended) {
        let ran = ended.started.map(|s| ended.finished.duration_since(s)).and_then(|d| d.try_into().ok());
        let wait = self.backoff.after(ran.unwrap_or_default());
        self.not_before = ended.finished.checked_add(wait).ok();
        self.state = State::Ended(ended);
        (self.started, self.ready, self.stopping) = (false, false, false);
    }
}

/// All containers of a Pod, in the order in which they start.
pub(crate) fn records(spec: &PodSpec) -> Vec<Record> {
    containers(spec).into_iter().map(|(container, part)| Record::new(container, part)).collect()
}

/// Which containers are to run another image than before.
pub(crate) fn changed(old: &PodSpec, new: &PodSpec) -> Vec<usize> {
    let pairs = containers(old).into_iter().zip(containers(new)).enumerate();
    pairs.filter(|(_, ((old, _), (new, _)))| old.image != new.image).map(|(index, _)| index).collect()
}

/// All containers of a Pod, in the order of their records.
pub(crate) fn containers(spec: &PodSpec) -> Vec<(&Container, Part)> {
    let stays = |c: &Container| c.restart_policy.as_deref() == Some("Always");
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|c| (c, if stays(c) { Part::Sidecar } else { Part::Init }));
    init.chain(spec.containers.iter().map(|c| (c, Part::Main))).collect()
}
