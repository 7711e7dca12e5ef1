//! What to do about a Deployment, as a function of what is there.
//!
//! Invariants: synchronous and deterministic. One plan is one step: what follows from a step is planned when its outcome is
//! seen. At most one ReplicaSet is created a step.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;

use super::revision::{self, DESIRED, HASH_LABEL, MAXIMUM, REVISION};
use super::rolling::{self, Sized, Targets, present, wanted};
use super::status::{self, Facts};
use crate::machinery::recorder::Note;
use crate::{owners, pods};

/// All a plan is made from.
pub(crate) struct Snapshot<'a> {
    pub(crate) deployment: &'a Deployment,
    /// The ReplicaSets that belong to it.
    pub(crate) sets: Vec<&'a ReplicaSet>,
    /// The Pods of those ReplicaSets.
    pub(crate) pods: Vec<&'a Pod>,
    pub(crate) now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Create(Box<ReplicaSet>),
    /// Change a ReplicaSet's size, annotations or `minReadySeconds`, as far as said.
    Change {
        name: String,
        replicas: Option<i32>,
        annotations: BTreeMap<String, String>,
        min_ready_seconds: Option<i32>,
    },
    Delete {
        name: String,
        uid: String,
    },
    /// Write the status.
    Status(Box<DeploymentStatus>),
    /// Note the revision on the Deployment.
    Revision(String),
    /// Tell the user.
    Say(Note),
}

/// The actions, in order, and when to plan again even if nothing changes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) again: Option<Duration>,
}

struct Step<'a> {
    snapshot: &'a Snapshot<'a>,
    targets: Targets,
    new: Option<&'a ReplicaSet>,
    old: Vec<&'a ReplicaSet>,
    status: DeploymentStatus,
    changes: BTreeMap<String, Change>,
    plan: Plan,
}

#[derive(Default)]
struct Change {
    replicas: Option<i32>,
    annotations: BTreeMap<String, String>,
    min_ready_seconds: Option<i32>,
}

/// What to do next.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let deployment = snapshot.deployment;
    let Some(spec) = &deployment.spec else { return Plan::default() };
    let (new, old) = revision::split(&spec.template, &snapshot.sets);
    let mut step = Step {
        snapshot,
        targets: Targets::of(deployment),
        new,
        old,
        status: deployment.status.clone().unwrap_or_default(),
        changes: BTreeMap::new(),
        plan: Plan::default(),
    };
    if owners::Matcher::new(&spec.selector).selects_all() {
        step.refuse_selecting_all();
    } else if deployment.metadata.deletion_timestamp.is_some() {
        step.finish_counted();
    } else {
        status::note_pause(deployment, &mut step.status, snapshot.now);
        let all: Vec<&ReplicaSet> = step.old.iter().copied().chain(step.new).collect();
        if status::is_paused(deployment) {
            step.adopt_new();
            step.scale();
            step.clean_up();
            step.finish_counted();
        } else if rolling::was_scaled(&step.targets, &all) {
            step.adopt_new();
            step.scale();
            step.finish_counted();
        } else if step.targets.rolling {
            step.roll();
        } else {
            step.recreate();
        }
    }
    step.plan
}

impl Step<'_> {
    fn refuse_selecting_all(&mut self) {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        self.plan.actions.push(Action::Say(Note::warning("SelectingAll", message)));
        let generation = self.snapshot.deployment.metadata.generation;
        if self.status.observed_generation != generation {
            self.status.observed_generation = generation;
            self.plan.actions.push(Action::Status(Box::new(self.status.clone())));
        }
    }

    /// RollingUpdate.
    fn roll(&mut self) {
        self.adopt_new();
        let Some(new) = self.new else {
            let others: i32 = self.old.iter().map(|set| wanted(set)).sum();
            let replicas = rolling::new_size(&self.targets, 0, others);
            return self.create_new(replicas);
        };
        if wanted(new) != self.targets.replicas {
            let all: i32 = self.old.iter().map(|set| wanted(set)).sum::<i32>() + wanted(new);
            let replicas = rolling::new_size(&self.targets, wanted(new), all);
            if self.resize(new, replicas) {
                return self.finish_rollout();
            }
        }
        let mut old: Vec<Sized<'_>> =
            self.old.iter().map(|set| Sized::new(set)).filter(|one| one.replicas > 0).collect();
        if rolling::shrink_old(&self.targets, new, &mut old) {
            for one in old {
                self.resize(one.set, one.replicas);
            }
            return self.finish_rollout();
        }
        if status::is_complete(self.snapshot.deployment, &self.targets, &self.status) {
            self.clean_up();
        }
        self.finish_rollout();
    }

    /// Recreate.
    fn recreate(&mut self) {
        self.adopt_new();
        let mut shrunk = false;
        for set in self.old.clone() {
            shrunk |= wanted(set) > 0 && self.resize(set, 0);
        }
        if shrunk || self.old_pods_run() {
            return self.finish_rollout();
        }
        let Some(new) = self.new else {
            return self.create_new(self.targets.replicas);
        };
        self.resize(new, self.targets.replicas);
        if status::is_complete(self.snapshot.deployment, &self.targets, &self.status) {
            self.clean_up();
        }
        self.finish_rollout();
    }

    fn old_pods_run(&self) -> bool {
        if self.old.iter().any(|set| present(set) > 0) {
            return true;
        }
        let new = self.new.and_then(|set| set.metadata.uid.as_deref());
        self.snapshot.pods.iter().any(|pod| {
            let owner = owners::controller(&pod.metadata).map(|owner| owner.uid.as_str());
            owner != new && !pods::has_ended(pod)
        })
    }

    fn scale(&mut self) {
        let replicas = self.status.replicas.unwrap_or(0);
        for one in rolling::scale(&self.targets, self.new, &self.old, replicas) {
            self.resize(one.set, one.replicas);
            if rolling::sizes_outdated(&self.targets, one.set) {
                self.note_sizes(one.set);
            }
        }
    }

    /// Plans another size; says whether it is another.
    fn resize(&mut self, set: &ReplicaSet, replicas: i32) -> bool {
        let before = wanted(set);
        if before == replicas {
            return false;
        }
        let name = set.metadata.name.clone().unwrap_or_default();
        let direction = if replicas > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {before} to {replicas}");
        self.plan.actions.push(Action::Say(Note::normal("ScalingReplicaSet", message)));
        self.changes.entry(name).or_default().replicas = Some(replicas);
        self.note_sizes(set);
        true
    }

    fn note_sizes(&mut self, set: &ReplicaSet) {
        let change = self.changes.entry(set.metadata.name.clone().unwrap_or_default()).or_default();
        change.annotations.extend(sizes(&self.targets));
    }

    /// Brings the annotations of the new ReplicaSet up to date, and the Deployment's revision with it.
    fn adopt_new(&mut self) {
        let Some(new) = self.new else { return };
        let deployment = self.snapshot.deployment;
        let current = new.metadata.annotations.clone().unwrap_or_default();
        let set = revision::annotations_to_set(deployment, &current, revision::next_revision(&self.old));
        let revision = set.get(REVISION).or_else(|| current.get(REVISION)).cloned();
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let known = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        if !set.is_empty() || wanted != known {
            let change = self.changes.entry(new.metadata.name.clone().unwrap_or_default()).or_default();
            change.annotations.extend(set);
            change.min_ready_seconds = (wanted != known).then_some(wanted);
        }
        self.note_revision(revision);
        if status::deadline(deployment).is_some() && status::condition(&self.status, status::PROGRESSING).is_none() {
            let message = format!("Found new replica set {:?}", new.metadata.name.as_deref().unwrap_or(""));
            status::set_progress(&mut self.status, "True", "FoundNewReplicaSet", message, self.snapshot.now);
        }
    }

    fn note_revision(&mut self, revision: Option<String>) {
        let Some(revision) = revision else { return };
        let known = self.snapshot.deployment.metadata.annotations.as_ref().and_then(|all| all.get(REVISION));
        if known != Some(&revision) {
            self.plan.actions.push(Action::Revision(revision));
        }
    }

    fn create_new(&mut self, replicas: i32) {
        let deployment = self.snapshot.deployment;
        let revision = revision::next_revision(&self.old);
        let Some(set) = new_set(deployment, &self.targets, replicas, revision, self.status.collision_count) else {
            return;
        };
        let name = set.metadata.name.clone().unwrap_or_default();
        self.plan.actions.push(Action::Create(Box::new(set)));
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            self.plan.actions.push(Action::Say(Note::normal("ScalingReplicaSet", message)));
        }
        if status::deadline(deployment).is_some() {
            let message = format!("Created new replica set {name:?}");
            let now = self.snapshot.now;
            status::set_progress(&mut self.status, "True", "NewReplicaSetCreated", message, now);
        }
        self.note_revision(Some(revision.to_string()));
        self.finish_rollout();
    }

    fn clean_up(&mut self) {
        for set in revision::beyond_history(self.snapshot.deployment, &self.old) {
            self.plan.actions.push(Action::Delete {
                name: set.metadata.name.clone().unwrap_or_default(),
                uid: set.metadata.uid.clone().unwrap_or_default(),
            });
        }
    }

    fn finish_counted(&mut self) {
        self.finish(|facts, base| facts.counted(base));
    }

    fn finish_rollout(&mut self) {
        self.finish(|facts, base| facts.rollout(base));
    }

    fn finish(&mut self, work_out: impl Fn(&Facts<'_>, &DeploymentStatus) -> DeploymentStatus) {
        let sized: Vec<Sized<'_>> = self
            .old
            .iter()
            .copied()
            .chain(self.new)
            .map(|set| {
                let name = set.metadata.name.as_deref().unwrap_or("");
                let planned = self.changes.get(name).and_then(|change| change.replicas);
                Sized { set, replicas: planned.unwrap_or_else(|| wanted(set)) }
            })
            .collect();
        let facts = Facts {
            deployment: self.snapshot.deployment,
            targets: &self.targets,
            all: &sized,
            new: self.new,
            now: self.snapshot.now,
        };
        let status = work_out(&facts, &self.status);
        self.plan.again = facts.look_again(&status);
        let changes = std::mem::take(&mut self.changes).into_iter().map(|(name, change)| Action::Change {
            name,
            replicas: change.replicas,
            annotations: change.annotations,
            min_ready_seconds: change.min_ready_seconds,
        });
        // Sizes first: they are what users wait for. Events follow what they tell of.
        self.plan.actions.splice(0..0, changes);
        if self.snapshot.deployment.status.as_ref() != Some(&status) {
            self.plan.actions.push(Action::Status(Box::new(status)));
        }
        self.plan.actions.sort_by_key(rank);
    }
}

/// The order in which actions are carried out: the status is held to the Deployment's revision as it was read, so it comes
/// before the annotation that changes it.
fn rank(action: &Action) -> u8 {
    match action {
        Action::Create(_) => 0,
        Action::Change { .. } => 1,
        Action::Say(_) => 2,
        Action::Delete { .. } => 3,
        Action::Status(_) => 4,
        Action::Revision(_) => 5,
    }
}

fn sizes(targets: &Targets) -> [(String, String); 2] {
    [(DESIRED.to_owned(), targets.replicas.to_string()), (MAXIMUM.to_owned(), targets.maximum().to_string())]
}

fn new_set(
    deployment: &Deployment,
    targets: &Targets,
    replicas: i32,
    revision: i64,
    collisions: Option<i32>,
) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let hash = revision::template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = {
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        labels.clone()
    };
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut annotations = revision::annotations_to_set(deployment, &BTreeMap::new(), revision);
    annotations.extend(sizes(targets));
    Some(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or(""))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owners::reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    })
}
