//! Hooks around the end of an application: PreDelete before its objects go, PostDelete after.
//!
//! Invariants: an Application with such hooks is held by Argo CD's finalizers until they have run; a hook that failed keeps it, and
//! is run again only when somebody asks (`argocd.argoproj.io/refresh`).

use std::collections::BTreeSet;
use std::future;

use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::Actor;
use super::leave::finalizers;
use crate::kinds::Kinds;
use crate::object;
use crate::sync::application::Front;
use crate::sync::engine::compare::{Desired, MANAGER};
use crate::sync::engine::locked::Broken;
use crate::sync::engine::operation::{self, Job, Tools};
use crate::sync::engine::steps::{self, Phase};

/// Argo CD's finalizers, with the phase that each stands for.
pub(super) const FINALIZERS: [(&str, Phase); 2] = [
    ("pre-delete-finalizer.argocd.argoproj.io", Phase::PreDelete),
    ("post-delete-finalizer.argocd.argoproj.io", Phase::PostDelete),
];

/// Hooks that run.
pub(super) struct Leaving {
    phase: Phase,
    task: AbortOnDropHandle<Result<(), Broken>>,
}

impl Leaving {
    pub(super) fn into_task(self) -> AbortOnDropHandle<Result<(), Broken>> {
        self.task
    }
}

/// How the hooks ended; never where none run.
pub(super) async fn left(leaving: &mut Option<Leaving>) -> Result<(), Broken> {
    match leaving {
        Some(leaving) => {
            let broke = |error| Err(Broken::Failed(format!("the hooks broke: {error}")));
            (&mut leaving.task).await.unwrap_or_else(broke)
        }
        None => future::pending().await,
    }
}

impl Actor {
    /// Holds an Application that has hooks for its end, and lets go of one that has none any more.
    pub(super) async fn keep_hook_finalizers(&mut self, object: &Value) {
        if self.id.front != Front::Argo {
            return;
        }
        let before = finalizers(object);
        let mut after = before.clone();
        for (name, phase) in FINALIZERS {
            let wanted = !steps::of_phase(&self.desired.all, phase).is_empty();
            if wanted != after.iter().any(|one| one == name) {
                after.retain(|one| one != name);
                after.extend(wanted.then(|| name.to_owned()));
            }
        }
        if before == after {
            return;
        }
        let patch = json!({ "metadata": { "finalizers": after, "resourceVersion": object::resource_version(object) } });
        if let Err(error) = self.shared.api.merge(&self.id.path(), &patch, MANAGER).await {
            tracing::debug!(application = %self.id, %error, "the finalizers of hooks are written at the next look");
            self.look_later(1);
        }
    }

    /// Takes in how the hooks ended.
    pub(super) fn take_left(&mut self, outcome: Result<(), Broken>) {
        let Some(leaving) = self.leaving.take() else { return };
        match outcome {
            // They have not failed, and are run again.
            Err(Broken::Locked(_) | Broken::Lost(_)) => self.wait_for_lock(),
            Err(Broken::Failed(reason)) => drop(self.left.insert(leaving.phase, Err(reason))),
            Ok(()) => drop(self.left.insert(leaving.phase, Ok(()))),
        }
    }

    /// Runs the hooks of a phase. None once they are through, else what is to be said.
    pub(super) async fn hooks(&mut self, phase: Phase, kinds: &Kinds) -> Option<String> {
        let waits = self.waits.borrow().clone();
        let running = || waits.clone().unwrap_or_else(|| format!("{} hooks run", phase.as_str()));
        match self.left.get(&phase) {
            Some(Ok(())) => return None,
            Some(Err(reason)) => {
                return Some(format!(
                    "{reason}; mend it and ask again with the annotation argocd.argoproj.io/refresh, or remove the finalizer to go without"
                ));
            }
            None if self.leaving.is_some() || self.lock_is_away().is_some() => return Some(running()),
            None => {}
        }
        if self.rendered.is_none() && self.find_target().await.is_none() {
            let why = self.report.conditions.last().map(|(_, message)| message.clone());
            return Some(format!(
                "the hooks cannot be read: {}",
                why.unwrap_or_else(|| "the repository is looked at".to_owned())
            ));
        }
        let steps = steps::of_phase(&self.desired.all, phase);
        let application = self.application.clone().filter(|_| !steps.is_empty())?;
        let api = match self.guarded(kinds) {
            Ok(api) => api,
            Err(reason) => return Some(reason),
        };
        let job = Job {
            desired: Desired::default(),
            synced: BTreeSet::new(),
            extra: Vec::new(),
            prune: false,
            approved: false,
            options: application.policy.options,
            ignore: Vec::new(),
            namespace: application.namespace,
            set: self.set.clone(),
            deadline: application.policy.deadline,
        };
        let door = self.door(format!("{} hooks", phase.as_str()));
        let tools = Tools { api, own: self.shared.api.clone(), live: self.live.view(), kinds: kinds.clone(), door };
        let task = tokio::spawn(async move { operation::run_hooks(&steps, &job, &tools).await });
        self.leaving = Some(Leaving { phase, task: AbortOnDropHandle::new(task) });
        Some(running())
    }
}
