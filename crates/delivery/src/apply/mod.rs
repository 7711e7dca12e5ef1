//! Does what a plan says: in waves, what others refer to first, and stops at the first failure.
//!
//! Invariants: nothing is written when the plan has problems, or an object is no longer as the plan saw it; the inventory
//! names a kind before its first member is written; deletions come last, after what replaces them is healthy. Ended at
//! any point, what is there can be planned again and completed.

mod cause;
mod concern;
mod converge;
mod stale;
mod write;

use crate::api::{Api, ApiError, ApplyMode};
use crate::applyset::{self, Contents};
use crate::fault;
use crate::health::Health;
use crate::kinds::{Kinds, Resource};
use crate::object::{self, ObjectId};
use crate::order;
use crate::plan::{Action, Change, Plan};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) use cause::{RESTARTS_THAT_FAIL, last_words};
pub use stale::Moved;

/// How a plan is applied.
#[derive(Debug, Clone)]
pub struct Options {
    /// Take over fields that others own.
    pub force_conflicts: bool,
    /// How long a wave may take to become healthy; nothing where nobody waits.
    pub wait: Option<Duration>,
    /// How long a workload that no probe asks must go on working before it counts as healthy: it counts as ready as soon
    /// as its program was started.
    pub settle: Duration,
    /// How many writes are under way at once.
    pub concurrency: usize,
    /// Wait also for what is as it should be already: whoever wrote it did not wait to the end.
    pub await_all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            force_conflicts: false,
            wait: Some(Duration::from_secs(300)),
            settle: Duration::from_secs(1),
            concurrency: 16,
            await_all: false,
        }
    }
}

/// What happens while a plan is applied.
#[derive(Debug, Clone)]
pub enum Event {
    /// Somebody else holds the lock, and is waited for.
    Waits {
        /// Who, and what for.
        held: String,
    },
    /// An object was written.
    Done {
        /// How.
        action: Action,
        /// Which.
        object: ObjectId,
    },
    /// An object that was written is not healthy yet, or now is.
    Health {
        /// Which.
        object: ObjectId,
        /// How it is.
        health: Health,
    },
    /// An object was kept although no manifest has it any more.
    Kept {
        /// Which.
        object: ObjectId,
        /// Why, and what to do.
        why: String,
    },
}

/// Where events go. Must return soon.
pub type Progress<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many objects were written or deleted.
    pub done: usize,
    /// How many stayed as they were.
    pub unchanged: usize,
}

/// Why a plan was not applied, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The plan has problems; nothing was changed.
    #[error("the plan has problems, and nothing was changed:\n  {}", .0.join("\n  "))]
    Problems(Vec<String>),
    /// Fields would have to be taken over; nothing was changed.
    #[error("others own fields that would change, and nothing was changed; leave them out of the manifests, or take them over with --force-conflicts:\n  {}", .0.join("\n  "))]
    Conflicts(Vec<String>),
    /// Objects are not as the plan saw them; nothing was changed.
    #[error("the plan is stale, and nothing was changed; plan again. What moved:\n  {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Stale(Vec<Moved>),
    /// One object failed; what came before it is done.
    #[error(transparent)]
    Failed(Box<Failure>),
    /// The API failed in what every apply needs.
    #[error("cannot apply: {0}")]
    Api(#[from] ApiError),
}

/// One object that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{object}: {cause}")]
pub struct Failure {
    /// Which.
    pub object: ObjectId,
    /// Why.
    pub cause: String,
    /// How many objects were done before.
    pub done: usize,
}

/// Whether a plan can be applied now: it has no problems, takes nothing over unasked, and is not stale.
///
/// # Errors
/// As [`apply`] would fail before it changes anything.
pub async fn check(client: kube::Client, plan: &Plan, options: &Options) -> Result<(), ApplyError> {
    refuse(plan, options)?;
    let api = Api::over(client);
    let kinds = api.kinds().await?;
    stale::check(&api, &kinds, plan, options.concurrency).await?;
    Ok(())
}

/// Applies a plan.
///
/// # Errors
/// See [`ApplyError`].
pub async fn apply(
    client: kube::Client,
    plan: &Plan,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Outcome, ApplyError> {
    let api = Api::over(client);
    let kinds = api.kinds().await?;
    refuse(plan, options)?;
    let versions = stale::check(&api, &kinds, plan, options.concurrency).await?;
    let mut run = Run { api: &api, kinds, plan, options, progress, versions, done: 0 };
    let wanted = Contents::of(&plan.set, plan.desired.iter().map(ObjectId::of).collect::<Vec<_>>().iter());
    run.record(&plan.contents.union(&wanted)).await?;
    fault::point("apply.recorded");
    for (wave, changes) in waves(plan) {
        run.wave(wave, &changes).await?;
    }
    if options.await_all {
        run.others().await?;
    }
    let kept = run.deletions().await?;
    run.record(&wanted.union(&Contents::of(&plan.set, kept.iter()))).await?;
    fault::point("apply.forgotten");
    Ok(Outcome { done: run.done, unchanged: plan.unchanged })
}

/// What keeps a plan from being applied before anything is read.
fn refuse(plan: &Plan, options: &Options) -> Result<(), ApplyError> {
    if !plan.problems.is_empty() {
        let problems = plan.problems.iter().map(|problem| format!("{}: {}", problem.object, problem.message));
        return Err(ApplyError::Problems(problems.collect()));
    }
    if plan.has_conflicts() && !options.force_conflicts {
        let conflicts = plan.changes.iter().flat_map(|change| {
            change.fields.iter().filter(|field| field.conflict).map(|field| {
                let owner = field.owners.iter().find(|owner| owner.manager != plan.manager);
                let owner = owner.map_or("somebody", |owner| owner.manager.as_str());
                format!("{}: {} is {owner}'s", change.object, field.path)
            })
        });
        return Err(ApplyError::Conflicts(conflicts.collect()));
    }
    Ok(())
}

/// What is written (not deleted), by wave.
fn waves(plan: &Plan) -> BTreeMap<i64, Vec<&Change>> {
    let mut waves: BTreeMap<i64, Vec<&Change>> = BTreeMap::new();
    for change in plan.changes.iter().filter(|change| !matches!(change.action, Action::Delete | Action::Keep)) {
        waves.entry(change.wave).or_default().push(change);
    }
    waves
}

/// An apply under way.
struct Run<'a> {
    api: &'a Api,
    kinds: Kinds,
    plan: &'a Plan,
    options: &'a Options,
    progress: Progress<'a>,
    /// The resource versions that the check saw.
    versions: BTreeMap<ObjectId, String>,
    done: usize,
}

impl Run<'_> {
    /// Writes the set's parent.
    async fn record(&self, contents: &Contents) -> Result<(), ApplyError> {
        let parent = self.plan.set.parent_object(contents);
        let mode = ApplyMode { manager: applyset::MANAGER, force: true, dry_run: false };
        self.api.apply(&self.plan.set.path(), &parent, mode).await?;
        if !self.plan.source.is_empty() {
            let patch = json!({ "metadata": { "annotations": { applyset::SOURCE: self.plan.source } } });
            self.api.merge(&self.plan.set.path(), &patch, &self.plan.manager).await?;
        }
        Ok(())
    }

    fn failed(&self, object: &ObjectId, cause: impl Into<String>) -> ApplyError {
        ApplyError::Failed(Box::new(Failure { object: object.clone(), cause: cause.into(), done: self.done }))
    }

    fn resource(&self, api_version: &str, id: &ObjectId) -> Result<Resource, ApplyError> {
        let found = self.kinds.of(api_version, &id.kind).or_else(|| self.kinds.of_group(&id.group, &id.kind));
        found.cloned().ok_or_else(|| self.failed(id, format!("the API has no kind {} in {api_version}", id.kind)))
    }

    /// Writes everything of one wave, kind after kind, and waits until it is healthy.
    async fn wave(&mut self, wave: i64, changes: &[&Change]) -> Result<(), ApplyError> {
        let mut ranks: BTreeMap<usize, Vec<&Change>> = BTreeMap::new();
        for change in changes {
            ranks.entry(order::rank(&change.object.kind)).or_default().push(change);
        }
        let mut written = Vec::new();
        for group in ranks.into_values() {
            let unknown = group.iter().any(|change| self.kinds.of(&change.api_version, &change.object.kind).is_none());
            if unknown {
                self.kinds = self.api.kinds().await?;
            }
            let results = self.write_all(&group).await?;
            let definitions: Vec<Value> =
                results.iter().filter(|o| object::kind(o) == "CustomResourceDefinition").cloned().collect();
            if !definitions.is_empty() {
                // What follows may be of these kinds.
                self.converge(&definitions, Some(Duration::from_secs(60))).await?;
            }
            written.extend(results);
        }
        fault::point("apply.wave");
        tracing::debug!(wave, objects = written.len(), "a wave is written");
        self.converge(&written, self.options.wait).await?;
        for change in changes.iter().filter(|change| change.action == Action::Move) {
            self.leave(change).await?;
        }
        Ok(())
    }

    /// Waits for the members that nothing was written of.
    async fn others(&self) -> Result<(), ApplyError> {
        let written: BTreeSet<&ObjectId> = self.plan.changes.iter().map(|change| &change.object).collect();
        let mut found = Vec::new();
        for member in self.plan.desired.iter().filter(|one| converge::is_awaited(one)) {
            let id = ObjectId::of(member);
            if !written.contains(&id) {
                let resource = self.resource(object::api_version(member), &id)?;
                found.extend(self.api.find(&crate::api::path_of(&resource, &id)).await?);
            }
        }
        self.converge(&found, self.options.wait).await
    }

    /// Writes objects at once; the first failure ends it, once those under way have ended.
    async fn write_all(&mut self, changes: &[&Change]) -> Result<Vec<Value>, ApplyError> {
        let mut results = Vec::with_capacity(changes.len());
        let mut first = None;
        {
            let run = &*self;
            let mut writes = futures::stream::iter(changes.iter().map(|change| run.write(change)))
                .buffer_unordered(self.options.concurrency.max(1));
            while let Some(result) = writes.next().await {
                match result {
                    Ok(object) => {
                        results.push(object);
                        fault::point("apply.object");
                    }
                    Err(error) => {
                        first = Some(error);
                        break;
                    }
                }
            }
        }
        self.done += results.len();
        match first {
            Some(ApplyError::Failed(failure)) => {
                Err(ApplyError::Failed(Box::new(Failure { done: self.done, ..*failure })))
            }
            Some(error) => Err(error),
            None => Ok(results),
        }
    }

    /// Deletes what is no longer wanted; returns what was kept.
    async fn deletions(&mut self) -> Result<Vec<ObjectId>, ApplyError> {
        let mut kept = Vec::new();
        let mut groups: Vec<((i64, usize), Vec<&Change>)> = Vec::new();
        for change in self.plan.changes.iter().filter(|change| matches!(change.action, Action::Delete | Action::Keep)) {
            if change.action == Action::Keep {
                kept.push(change.object.clone());
                let why = change.protected.clone().unwrap_or_default();
                (self.progress)(Event::Kept { object: change.object.clone(), why });
                continue;
            }
            let key = (change.wave, order::rank(&change.object.kind));
            match groups.last_mut() {
                Some((last, group)) if *last == key => group.push(change),
                _ => groups.push((key, vec![change])),
            }
        }
        for (_, group) in groups {
            let run = &*self;
            let count = group.len();
            futures::stream::iter(group.into_iter().map(Ok::<_, ApplyError>))
                .try_for_each_concurrent(self.options.concurrency.max(1), |change| run.remove(change))
                .await?;
            self.done += count;
            fault::point("apply.deleted");
        }
        Ok(kept)
    }
}
