//! A plan, applied as a whole: under the set's lock, kept in its history, and taken back where that is wanted.
//!
//! Invariant: ended at any point, the next run sees what there is: an expired lock that it takes, a revision that was cut
//! short, and objects that the next plan completes.

use std::collections::BTreeSet;

use crate::api::{Api, ApiError};
use crate::apply::{self, ApplyError, Outcome, Progress};
use crate::applyset::{PART_OF, Set};
use crate::fault;
use crate::history::{self, HistoryError, Provenance, Revision, State};
use crate::lock::{self, Held, Lock, LockError, Request};
use crate::object;
use crate::ownership::{self, Owner};
use crate::plan::{self, Pin, Plan, PlanError, show};
use serde_json::Value;

/// How a release is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the plan is applied.
    pub apply: apply::Options,
    /// Who locks the set.
    pub lock: Request,
    /// Where the set came from.
    pub provenance: Provenance,
    /// How many revisions are kept.
    pub keep: usize,
    /// Whether the last healthy revision is put back when this one fails.
    pub rollback: bool,
}

/// What came of a release.
#[derive(Debug)]
pub struct Released {
    /// What was done.
    pub outcome: Outcome,
    /// The revision; none where nothing was to be done.
    pub revision: Option<Revision>,
}

/// Why a release was not made.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Somebody else applies the set.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The history cannot be written.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The plan was not applied, or not to its end.
    #[error("{cause}{after}")]
    Apply {
        /// Why.
        cause: ApplyError,
        /// What became of it then.
        after: String,
        /// The revision that was put back.
        back: Option<u64>,
        /// Whether it was refused before anything began: nothing was changed, and it is no revision.
        refused: bool,
    },
    /// The lock went to somebody else while the plan was applied.
    #[error("the lock was lost while the plan was applied, so the rest was left; plan again")]
    LockLost,
}

impl ReleaseError {
    /// Whether nothing was changed. What goes stale after it was checked has a revision already, and may have been put back.
    #[must_use]
    pub fn changed_nothing(&self) -> bool {
        matches!(self, Self::Lock(_) | Self::Apply { refused: true, .. })
    }
}

/// Makes a release of a plan.
///
/// # Errors
/// See [`ReleaseError`].
pub async fn release(
    client: kube::Client,
    plan: &Plan,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Released, ReleaseError> {
    let waits = |held: &Held| progress(apply::Event::Waits { held: held.to_string() });
    let mut locks = Vec::new();
    // Always in the same order, so that two who take from each other never wait for each other.
    for set in locked_sets(client.clone(), plan).await? {
        match lock::acquire(client.clone(), &set, &options.lock, &waits).await {
            Ok(lock) => locks.push(lock),
            Err(error) => {
                give_back(locks).await;
                return Err(error.into());
            }
        }
    }
    fault::point("apply.locked");
    let lost: Vec<_> = locks.iter().map(Lock::lost).collect();
    let lost = futures::future::select_all(lost.iter().map(|lost| Box::pin(lost.cancelled())));
    let result = tokio::select! {
        result = locked(client, plan, options, progress) => result,
        _ = lost => Err(ReleaseError::LockLost),
    };
    give_back(locks).await;
    result
}

/// The plan's own set, and those that it takes objects from.
async fn locked_sets(client: kube::Client, plan: &Plan) -> Result<BTreeSet<Set>, LockError> {
    let own = plan.set.id();
    let label = |pin: &Pin| object::label(&pin.state, PART_OF).map(str::to_owned);
    let pins = plan.changes.iter().flat_map(|change| change.pin.iter().chain(&change.from_pin));
    let others: BTreeSet<String> = pins.filter_map(label).filter(|id| *id != own).collect();
    let owners = ownership::of_sets(&Api::over(client), &others).await?;
    let sets = owners.into_values().filter_map(|owner| if let Owner::Set(set) = owner { Some(set) } else { None });
    Ok(sets.chain([plan.set.clone()]).collect())
}

async fn give_back(locks: Vec<Lock>) {
    for lock in locks {
        if let Err(error) = lock.release().await {
            tracing::warn!(%error, "a lock could not be given back, and ends by itself");
        }
    }
}

async fn locked(
    client: kube::Client,
    plan: &Plan,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Released, ReleaseError> {
    let before = history::list(client.clone(), &plan.set).await?;
    // A set that was cut short is completed even where all objects are there: its inventory and record are not.
    if plan.is_empty() && plan.problems.is_empty() && history::interrupted(&before).is_none() && !before.is_empty() {
        return Ok(Released { outcome: Outcome { done: 0, unchanged: plan.unchanged }, revision: None });
    }
    // Refused before it is noted: a plan that changes nothing is no revision.
    let refused = |cause| ReleaseError::Apply { cause, after: String::new(), back: None, refused: true };
    apply::check(client.clone(), plan, &options.apply).await.map_err(refused)?;
    let summary = show::summary(plan);
    let revision = history::begin(client.clone(), &plan.set, &plan.desired, &options.provenance, summary).await?;
    fault::point("apply.noted");
    let end = |state, cause: String| {
        let (client, set, revision) = (client.clone(), plan.set.clone(), revision.clone());
        async move { history::finish(client, &set, &revision, state, &cause, options.keep).await }
    };
    // A revision is healthy where all of it is: what an earlier one wrote that was cut short, or failed, nobody has seen work.
    let await_all = before.first().is_some_and(|last| last.state != State::Healthy);
    let how = apply::Options { await_all, ..options.apply.clone() };
    match apply::apply(client.clone(), plan, &how, progress).await {
        Ok(outcome) => {
            end(State::Healthy, String::new()).await?;
            fault::point("apply.finished");
            Ok(Released { outcome, revision: Some(revision) })
        }
        Err(cause) => {
            end(State::Failed, cause.to_string()).await?;
            let (back, after) = if options.rollback {
                put_back(&client, plan, options, &before, progress).await
            } else {
                let left = "\nwhat was done before is left as it is; mend and apply again, or take it back with `coracle rollback`";
                (None, left.to_owned())
            };
            Err(ReleaseError::Apply { cause, after, back, refused: false })
        }
    }
}

/// Puts the last healthy revision back: its number, where that was done, and in words what came of it.
async fn put_back(
    client: &kube::Client,
    failed: &Plan,
    options: &Options,
    before: &[Revision],
    progress: Progress<'_>,
) -> (Option<u64>, String) {
    let Some(good) = before.iter().find(|revision| revision.state == State::Healthy) else {
        return (None, "\nthere is no healthy revision to put back".to_owned());
    };
    match restore(client, failed, options, good, progress).await {
        Ok(()) => (Some(good.number), format!("\nrevision {} is back", good.number)),
        Err(error) => (None, format!("\nrevision {} could not be put back: {error}", good.number)),
    }
}

/// What can go wrong while a revision is put back.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

async fn restore(
    client: &kube::Client,
    failed: &Plan,
    options: &Options,
    good: &Revision,
    progress: Progress<'_>,
) -> Result<(), RestoreError> {
    let desired = history::load(client.clone(), &failed.set, good).await?;
    let how = plan::Options { manager: failed.manager.clone(), ..plan::Options::default() };
    let back = plan::plan(client.clone(), desired, &failed.set, &how).await?;
    let provenance = Provenance {
        applied_by: options.provenance.applied_by.clone(),
        message: history::back_to(good.number),
        ..good.provenance.clone()
    };
    let revision =
        history::begin(client.clone(), &failed.set, &back.desired, &provenance, show::summary(&back)).await?;
    fault::point("back.noted");
    let result = apply::apply(client.clone(), &back, &options.apply, progress).await;
    fault::point("back.applied");
    let (state, cause) = match &result {
        Ok(_) => (State::Healthy, String::new()),
        Err(error) => (State::Failed, error.to_string()),
    };
    history::finish(client.clone(), &failed.set, &revision, state, &cause, options.keep).await?;
    fault::point("back.finished");
    result?;
    Ok(())
}

/// The rendered set of a revision, ready to be planned: without what a set's label adds.
///
/// # Errors
/// As [`history::load`].
pub async fn manifests_of(client: kube::Client, set: &Set, revision: &Revision) -> Result<Vec<Value>, HistoryError> {
    let mut desired = history::load(client, set, revision).await?;
    for object in &mut desired {
        object::metadata_map(object, "labels").remove(PART_OF);
    }
    Ok(desired)
}

/// Whether the set has a parent in the API already.
///
/// # Errors
/// As the API answers.
pub async fn is_there(client: kube::Client, set: &Set) -> Result<bool, ApiError> {
    Ok(Api::over(client).find(&set.path()).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_refused_before_it_began_changed_nothing() {
        let stale = || ApplyError::Stale(Vec::new());
        let error = |cause, refused| ReleaseError::Apply { cause, after: String::new(), back: None, refused };
        assert!(error(stale(), true).changed_nothing());
        assert!(!error(stale(), false).changed_nothing());
        assert!(!error(ApplyError::Conflicts(Vec::new()), false).changed_nothing());
        assert!(!ReleaseError::LockLost.changed_nothing());
    }
}
