//! PersistentVolumeClaims: gives each claim a volume, which is a directory of this machine unless somebody has made one
//! before, and takes volumes back when their claims are gone.
//!
//! Invariants:
//! - What to do is decided by [`plan`], a pure function of the objects as they are; [`act`] carries it out. Each step can be
//!   repeated, and every write names the state that it was decided upon, so that an end at any moment leaves nothing that the
//!   next start does not finish.
//! - Data is removed only after the API itself has said that the claim is gone, and only in directories that were made here.
//! - Nothing is asked for periodically: the watches tell, and only what failed is tried again, ever more rarely.
//!
//! It must not know how Pods run: they tell which claims they use, and ask where a claim's data lies ([`place`]).

mod act;
mod choose;
mod directory;
mod make;
mod place;
mod plan;
mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::{self, Event};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use place::{Unready, concerns, locate, used};

use crate::events::Recorder;
use crate::service::events_of;
use act::{Actor, Failed, Fresh};
use plan::{Action, World};
use shelf::Shelf;

/// The class of claims that do not name one.
pub(crate) const CLASS: &str = "coracle";
/// Who makes the directories.
pub(crate) const PROVISIONER: &str = "coracle.dev/directory";
/// As upstream: tells who made a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// As upstream: a claim that Pods use does not go away, nor does a volume that is bound.
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Steps of one claim that follow each other without waiting for the watches.
const ROUNDS: usize = 8;
/// How many writes are under way at once.
const AT_ONCE: usize = 8;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What the watches tell.
enum Seen {
    Claim(Box<Event<PersistentVolumeClaim>>),
    Volume(Box<Event<PersistentVolume>>),
    Class(Box<Event<StorageClass>>),
}

/// Keeps claims and volumes together.
pub(crate) struct Controller {
    actor: Actor,
    events: Recorder,
    pods: Store<Pod>,
    /// A Pod that uses a claim has changed.
    wake: Arc<Notify>,
    root: Arc<Path>,
    claims: Shelf<PersistentVolumeClaim>,
    volumes: Shelf<PersistentVolume>,
    classes: Shelf<StorageClass>,
    /// The last that was told of each claim, by uid: the same is not told again.
    told: BTreeMap<String, String>,
    class_made: bool,
    swept: bool,
}

/// How a pass over all claims went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Something failed, and no event will come because of it.
    Again,
}

impl Controller {
    pub(crate) fn new(
        client: kube::Client,
        events: Recorder,
        pods: Store<Pod>,
        wake: Arc<Notify>,
        root: Arc<Path>,
    ) -> Self {
        Controller {
            actor: Actor { client },
            events,
            pods,
            wake,
            root,
            claims: Shelf::default(),
            volumes: Shelf::default(),
            classes: Shelf::default(),
            told: BTreeMap::new(),
            class_made: false,
            swept: false,
        }
    }

    /// Runs until `shutdown`; what has been begun is ended first.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        // Without the Pods, no claim could be known to be unused.
        tokio::select! {
            ready = self.pods.wait_until_ready() => if ready.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        let mut seen = self.watches();
        let mut wait = FIRST_RETRY;
        loop {
            let retry = match self.pass(&shutdown).await {
                Outcome::Done => {
                    wait = FIRST_RETRY;
                    None
                }
                Outcome::Again => {
                    let at = Instant::now() + wait;
                    wait = (wait * 2).min(LAST_RETRY);
                    Some(at)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                next = seen.next() => match next {
                    Some(event) => self.take(event),
                    None => return,
                },
                () = self.wake.notified() => {}
                () = crate::service::until(retry) => {}
            }
            while let Some(Some(event)) = seen.next().now_or_never() {
                self.take(event);
            }
        }
    }

    fn watches(&self) -> BoxStream<'static, Seen> {
        let client = &self.actor.client;
        let all = watcher::Config::default;
        let claims = events_of(Api::<PersistentVolumeClaim>::all(client.clone()), all(), "PersistentVolumeClaims");
        let volumes = events_of(Api::<PersistentVolume>::all(client.clone()), all(), "PersistentVolumes");
        let classes = events_of(Api::<StorageClass>::all(client.clone()), all(), "StorageClasses");
        stream::select_all([
            claims.map(|event| Seen::Claim(Box::new(event))).boxed(),
            volumes.map(|event| Seen::Volume(Box::new(event))).boxed(),
            classes.map(|event| Seen::Class(Box::new(event))).boxed(),
        ])
        .boxed()
    }

    fn take(&mut self, event: Seen) {
        match event {
            Seen::Claim(event) => self.claims.take(*event),
            Seen::Volume(event) => self.volumes.take(*event),
            Seen::Class(event) => self.classes.take(*event),
        }
    }

    /// Does all that is to be done now.
    async fn pass(&mut self, shutdown: &CancellationToken) -> Outcome {
        if !self.class_made {
            match self.actor.make_class().await {
                Ok(()) => self.class_made = true,
                Err(error) => {
                    tracing::debug!(%error, "the storage class could not be made yet");
                    return Outcome::Again;
                }
            }
        }
        if !(self.claims.ready() && self.volumes.ready() && self.classes.ready()) {
            return Outcome::Done;
        }
        if !std::mem::replace(&mut self.swept, true) {
            let claims = self.claims.iter().filter_map(|claim| claim.metadata.uid.clone());
            let kept = self.volumes.iter().filter_map(|volume| choose::uid(choose::holder(volume)?).map(str::to_owned));
            let known = claims.chain(kept).collect();
            directory::sweep(&self.root, &known);
        }
        self.told.retain(|uid, _| self.claims.iter().any(|claim| claim.metadata.uid.as_ref() == Some(uid)));
        for _ in 0..ROUNDS {
            let actions = self.decide();
            if actions.is_empty() || shutdown.is_cancelled() {
                return Outcome::Done;
            }
            let actor = &self.actor;
            let results: Vec<_> =
                stream::iter(actions).map(|action| actor.act(action)).buffer_unordered(AT_ONCE).collect().await;
            let (mut stale, mut failed) = (false, false);
            for result in results {
                match result {
                    Ok(fresh) => self.learn(fresh),
                    // Somebody was faster: the watch is about to tell, and the plan will be another.
                    Err(Failed::Stale) => stale = true,
                    Err(Failed::Claim { claim, message }) => {
                        self.tell(&claim, true, "ProvisioningFailed", message);
                        failed = true;
                    }
                    Err(Failed::Other(message)) => {
                        tracing::warn!("{message}; trying again");
                        failed = true;
                    }
                }
            }
            if failed {
                return Outcome::Again;
            }
            if stale {
                return Outcome::Done;
            }
        }
        Outcome::Again
    }

    /// What is to be done, once what is only to be told has been told.
    fn decide(&mut self) -> Vec<Action> {
        let pods = self.pods.state();
        let used: BTreeSet<_> = pods.iter().flat_map(|pod| place::holds(pod)).collect();
        let world = World {
            claims: &self.claims,
            volumes: &self.volumes,
            classes: &self.classes,
            used: &used,
            root: &self.root,
        };
        let plan = plan::plan(&world);
        for word in plan.words {
            self.tell(&word.claim, word.warning, word.reason, word.message);
        }
        plan.actions
    }

    fn learn(&mut self, fresh: Fresh) {
        match fresh {
            Fresh::Claim(claim) => self.claims.learn(*claim),
            Fresh::Provisioned(volume, claim) => {
                let name = volume.metadata.name.clone().unwrap_or_default();
                self.tell(&claim, false, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
                self.volumes.learn(*volume);
            }
            Fresh::Volume(volume) => self.volumes.learn(*volume),
            Fresh::Nothing => {}
        }
    }

    fn tell(&mut self, claim: &PersistentVolumeClaim, warning: bool, reason: &'static str, message: String) {
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        if self.told.get(&uid) != Some(&message) {
            self.told.insert(uid, message.clone());
            self.events.claim(claim, warning, reason, message);
        }
    }
}

#[cfg(test)]
mod tests;
