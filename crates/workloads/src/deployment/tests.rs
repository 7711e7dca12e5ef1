//! Tables for single steps, and rollouts played out against a simulated ReplicaSet controller.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, ReplicaSet, ReplicaSetStatus,
    RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use proptest::prelude::*;

use super::plan::{Action, Plan, Snapshot, plan};
use super::revision;
use super::rolling::{Targets, available, wanted};
use crate::machinery::clock::stamp;
use crate::machinery::recorder::Note;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time in range")
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "shop".to_owned())])
}

fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels()), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![Container { name: "main".into(), image: Some(image.into()), ..Container::default() }],
            ..PodSpec::default()
        }),
    }
}

fn limit(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int)
}

fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
    Deployment {
        metadata: ObjectMeta {
            name: Some("shop".into()),
            namespace: Some("ns".into()),
            uid: Some("d".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: LabelSelector { match_labels: Some(labels()), match_expressions: None },
            template: template("one"),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(limit(surge)),
                    max_unavailable: Some(limit(unavailable)),
                }),
            }),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(10),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn spec(deployment: &mut Deployment) -> &mut DeploymentSpec {
    deployment.spec.as_mut().expect("a spec")
}

/// A Deployment with its ReplicaSets; Pods exist as counts.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    pods: Vec<Pod>,
    second: i64,
    said: Vec<Note>,
    revision: String,
}

impl World {
    fn new(deployment: Deployment) -> World {
        World { deployment, sets: Vec::new(), pods: Vec::new(), second: 0, said: Vec::new(), revision: String::new() }
    }

    fn plan(&self) -> Plan {
        plan(&Snapshot {
            deployment: &self.deployment,
            sets: self.sets.iter().collect(),
            pods: self.pods.iter().collect(),
            now: at(self.second),
        })
    }

    /// Plans and carries out, as the shell does.
    fn step(&mut self) -> Vec<Action> {
        self.second += 1;
        let actions = self.plan().actions;
        for action in actions.clone() {
            match action {
                Action::Create(mut set) => {
                    set.metadata.creation_timestamp = Some(stamp(at(self.second)));
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.generation = Some(1);
                    self.sets.push(*set);
                }
                Action::Change { name, replicas, annotations, min_ready_seconds } => {
                    let set = self.set_mut(&name);
                    let spec = set.spec.as_mut().expect("a spec");
                    spec.replicas = replicas.or(spec.replicas);
                    spec.min_ready_seconds = min_ready_seconds.or(spec.min_ready_seconds);
                    set.metadata.annotations.get_or_insert_default().extend(annotations);
                }
                Action::Delete { name, .. } => self.sets.retain(|set| set.metadata.name.as_deref() != Some(&name)),
                Action::Status(status) => self.deployment.status = Some(*status),
                Action::Revision(revision) => {
                    let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                    annotations.insert(revision::REVISION.into(), revision.clone());
                    self.revision = revision;
                }
                Action::Say(note) => self.said.push(note),
            }
        }
        actions
    }

    fn set_mut(&mut self, name: &str) -> &mut ReplicaSet {
        self.sets.iter_mut().find(|set| set.metadata.name.as_deref() == Some(name)).expect("the ReplicaSet")
    }

    /// What the ReplicaSet controller and the node would do: up to `ready` more Pods of each become available, the excess goes.
    fn run_pods(&mut self, ready: i32) {
        for set in &mut self.sets {
            let wanted = wanted(set);
            let before = available(set);
            let now = (before + ready).min(wanted);
            set.status = Some(ReplicaSetStatus {
                replicas: wanted,
                ready_replicas: Some(now),
                available_replicas: Some(now),
                observed_generation: Some(1),
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn totals(&self) -> (i32, i32) {
        (self.sets.iter().map(wanted).sum(), self.sets.iter().map(available).sum())
    }

    fn sizes(&self) -> Vec<(i32, i32)> {
        self.sets.iter().map(|set| (wanted(set), available(set))).collect()
    }

    /// Until a step does nothing.
    fn settle(&mut self, ready: i32) {
        for _ in 0..200 {
            let quiet = self.step().is_empty();
            let before = self.sizes();
            self.run_pods(ready);
            if quiet && before == self.sizes() {
                return;
            }
        }
        panic!("no end after 200 steps: {:?}", self.sizes());
    }

    fn progress(&self) -> (String, String) {
        let status = self.deployment.status.clone().unwrap_or_default();
        let condition = status.conditions.into_iter().flatten().find(|c| c.type_ == "Progressing");
        condition.map(|c| (c.status, c.reason.unwrap_or_default())).unwrap_or_default()
    }

    fn set_image(&mut self, image: &str) {
        spec(&mut self.deployment).template = template(image);
        let generation = self.deployment.metadata.generation.get_or_insert(0);
        *generation += 1;
    }

    fn scale(&mut self, replicas: i32) {
        spec(&mut self.deployment).replicas = Some(replicas);
        let generation = self.deployment.metadata.generation.get_or_insert(0);
        *generation += 1;
    }

    fn messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said).into_iter().map(|note| note.message).collect()
    }
}

#[test]
fn percentages_are_rounded_as_upstream_does() {
    let table = [
        // replicas, surge, unavailable -> surge, unavailable
        ((4, "25%", "25%"), (1, 1)),
        ((3, "25%", "25%"), (1, 0)),
        ((10, "25%", "25%"), (3, 2)),
        ((1, "25%", "25%"), (1, 0)),
        ((1, "0", "25%"), (0, 1)),
        ((10, "0%", "0%"), (0, 1)),
        ((3, "2", "100%"), (2, 3)),
        ((0, "25%", "25%"), (0, 0)),
        ((2, "0", "5"), (0, 2)),
    ];
    for ((replicas, surge, unavailable), expected) in table {
        let targets = Targets::of(&deployment(replicas, surge, unavailable));
        assert_eq!((targets.surge, targets.unavailable), expected, "{replicas} {surge} {unavailable}");
    }
}

#[test]
fn a_first_rollout_ends_available_with_upstreams_reasons() {
    let mut world = World::new(deployment(3, "25%", "25%"));
    world.step();
    assert_eq!(world.progress(), ("True".into(), "NewReplicaSetCreated".into()));
    assert_eq!(world.sizes(), [(3, 0)]);
    let name = world.sets[0].metadata.name.clone().expect("a name");
    assert_eq!(world.messages(), [format!("Scaled up replica set {name} from 0 to 3")]);
    world.run_pods(1);
    world.step();
    assert_eq!(world.progress(), ("True".into(), "ReplicaSetUpdated".into()));
    world.settle(1);
    assert_eq!(world.progress(), ("True".into(), "NewReplicaSetAvailable".into()));
    let status = world.deployment.status.clone().expect("a status");
    assert_eq!((status.replicas, status.updated_replicas, status.available_replicas), (Some(3), Some(3), Some(3)));
    assert_eq!((status.unavailable_replicas, status.observed_generation), (None, Some(1)));
    let minimum = status.conditions.iter().flatten().find(|c| c.type_ == "Available").expect("Available");
    assert_eq!(minimum.reason.as_deref(), Some("MinimumReplicasAvailable"));
    assert_eq!(world.revision, "1");
    assert!(world.plan().actions.is_empty(), "settled");
    assert_eq!(world.plan().again, None);
    let set = &world.sets[0];
    let label = set.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash")).expect("the label");
    assert_eq!(name, format!("shop-{label}"));
    assert_eq!(revision::annotation(set, revision::DESIRED), Some("3"));
    assert_eq!(revision::annotation(set, revision::MAXIMUM), Some("4"));
}

#[test]
fn an_update_rolls_and_a_rollback_reuses_the_old_set() {
    let mut world = World::new(deployment(3, "25%", "25%"));
    world.settle(3);
    world.set_image("two");
    world.messages();
    world.settle(1);
    assert_eq!(world.sizes(), [(0, 0), (3, 3)]);
    assert_eq!(world.revision, "2");
    let new = world.sets[1].metadata.name.clone().expect("a name");
    let old = world.sets[0].metadata.name.clone().expect("a name");
    let expected = [
        format!("Scaled up replica set {new} from 0 to 1"),
        format!("Scaled down replica set {old} from 3 to 2"),
        format!("Scaled up replica set {new} from 1 to 2"),
        format!("Scaled down replica set {old} from 2 to 1"),
        format!("Scaled up replica set {new} from 2 to 3"),
        format!("Scaled down replica set {old} from 1 to 0"),
    ];
    assert_eq!(world.messages(), expected);

    world.set_image("one");
    world.settle(3);
    assert_eq!(world.sizes(), [(3, 3), (0, 0)]);
    assert_eq!(world.revision, "3");
    assert_eq!(revision::revision_of(&world.sets[0]), 3);
    let history = revision::annotation(&world.sets[0], "deployment.kubernetes.io/revision-history");
    assert_eq!(history, Some("1"));
}

#[test]
fn a_broken_update_stops_and_times_out() {
    let mut world = World::new(deployment(4, "25%", "25%"));
    world.settle(4);
    world.set_image("broken");
    for _ in 0..20 {
        world.step();
        world.run_pods(0);
        assert!(world.totals().1 >= 3, "at most one Pod is given up: {:?}", world.sizes());
    }
    assert_eq!(world.sizes(), [(3, 3), (2, 0)], "one old Pod given up, the surge used, then nothing");
    let again = world.plan().again.expect("a deadline to wait for");
    assert!(again.as_secs() <= 601, "{again:?}");
    world.second += 700;
    world.step();
    assert_eq!(world.progress(), ("False".into(), "ProgressDeadlineExceeded".into()));
    assert_eq!(world.plan().again, None);
    world.set_image("one");
    world.settle(4);
    assert_eq!(world.progress(), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut deployment = deployment(2, "25%", "25%");
    spec(&mut deployment).strategy = Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    let mut world = World::new(deployment);
    world.settle(2);
    let old = world.sets[0].clone();
    world.set_image("two");
    world.step();
    assert_eq!(world.sizes(), [(0, 2)], "scaled down first");
    world.run_pods(0);
    world.pods = vec![Pod {
        metadata: ObjectMeta {
            owner_references: Some(vec![crate::owners::reference(&old)]),
            deletion_timestamp: Some(stamp(at(0))),
            ..ObjectMeta::default()
        },
        status: Some(PodStatus { phase: Some("Running".into()), ..PodStatus::default() }),
        ..Pod::default()
    }];
    world.step();
    assert_eq!(world.sets.len(), 1, "an old Pod still runs");
    world.pods.clear();
    world.settle(2);
    assert_eq!(world.sizes(), [(0, 0), (2, 2)]);
}

#[test]
fn paused_means_no_new_set_but_scaling_works() {
    let mut world = World::new(deployment(2, "25%", "25%"));
    world.settle(2);
    spec(&mut world.deployment).paused = Some(true);
    world.set_image("two");
    world.settle(2);
    assert_eq!(world.sizes(), [(2, 2)]);
    assert_eq!(world.progress(), ("Unknown".into(), "DeploymentPaused".into()));
    world.scale(5);
    world.settle(5);
    assert_eq!(world.sizes(), [(5, 5)]);
    spec(&mut world.deployment).paused = Some(false);
    world.settle(5);
    assert_eq!(world.sizes(), [(0, 0), (5, 5)]);
    assert_eq!(world.progress(), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn scaling_amid_a_rollout_is_in_proportion() {
    let mut world = World::new(deployment(10, "3", "2"));
    world.settle(10);
    world.set_image("two");
    for _ in 0..3 {
        world.step();
        world.run_pods(0);
    }
    assert_eq!(world.sizes(), [(8, 8), (5, 0)]);
    world.scale(15);
    world.step();
    // 18 Pods at most now, 13 before: 8 and 5 grow by the same factor.
    assert_eq!(world.sets.iter().map(wanted).collect::<Vec<_>>(), [11, 7]);
}

#[test]
fn history_beyond_the_limit_is_cleaned_up() {
    let mut deployment = deployment(1, "1", "0");
    spec(&mut deployment).revision_history_limit = Some(2);
    let mut world = World::new(deployment);
    for image in ["one", "two", "three", "four", "five"] {
        world.set_image(image);
        world.settle(1);
    }
    let mut revisions: Vec<i64> = world.sets.iter().map(revision::revision_of).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn the_hash_names_what_the_template_says() {
    let plain = template("one");
    let mut same = plain.clone();
    same.spec.as_mut().expect("a spec").volumes = Some(Vec::new());
    same.metadata.as_mut().expect("metadata").annotations = Some(BTreeMap::new());
    let mut labelled = plain.clone();
    let meta = labelled.metadata.as_mut().expect("metadata");
    meta.labels.get_or_insert_default().insert("pod-template-hash".into(), "x".into());
    let hash = revision::template_hash(&plain, None);
    assert_eq!(revision::template_hash(&same, None), hash);
    assert_eq!(revision::template_hash(&labelled, None), hash);
    assert_ne!(revision::template_hash(&template("two"), None), hash);
    assert_ne!(revision::template_hash(&plain, Some(1)), hash);
    assert!(hash.len() <= 10 && hash.bytes().all(|b| b.is_ascii_alphanumeric()), "{hash}");
}

#[test]
fn selecting_everything_is_refused() {
    let mut deployment = deployment(1, "1", "0");
    spec(&mut deployment).selector = LabelSelector::default();
    let mut world = World::new(deployment);
    let actions = world.step();
    assert!(matches!(&actions[0], Action::Say(note) if note.reason == "SelectingAll"), "{actions:?}");
    assert_eq!(world.deployment.status.as_ref().and_then(|s| s.observed_generation), Some(1));
    assert!(world.sets.is_empty());
}

#[test]
fn a_deployment_being_deleted_only_counts() {
    let mut world = World::new(deployment(2, "1", "0"));
    world.settle(2);
    world.deployment.metadata.deletion_timestamp = Some(stamp(at(0)));
    world.set_image("two");
    for action in world.step() {
        assert!(matches!(action, Action::Status(_)), "{action:?}");
    }
    assert_eq!(world.sizes(), [(2, 2)]);
}

#[test]
fn a_status_without_a_deadline_has_no_progress() {
    let mut deployment = deployment(1, "1", "0");
    spec(&mut deployment).progress_deadline_seconds = Some(i32::MAX);
    deployment.status = Some(DeploymentStatus::default());
    let mut world = World::new(deployment);
    world.settle(1);
    assert_eq!(world.progress(), (String::new(), String::new()));
}

proptest! {
    /// Whatever the limits, and whenever Pods become ready: never too many, never too few, and it ends.
    #[test]
    fn rollouts_keep_their_promises(
        replicas in 1_i32..12,
        surge in 0_i32..5,
        unavailable in 0_i32..5,
        pace in proptest::collection::vec(0_i32..4, 40),
    ) {
        let mut world = World::new(deployment(replicas, &surge.to_string(), &unavailable.to_string()));
        world.settle(replicas);
        world.set_image("two");
        let targets = Targets::of(&world.deployment);
        for ready in pace {
            world.step();
            let (total, _) = world.totals();
            prop_assert!(total <= targets.maximum(), "{total} Pods asked for, {} allowed", targets.maximum());
            world.run_pods(ready);
            let (_, available) = world.totals();
            let least = replicas - targets.unavailable;
            prop_assert!(available >= least, "{available} available, {least} promised");
        }
        world.settle(2);
        prop_assert_eq!(world.sizes(), [(0, 0), (replicas, replicas)]);
    }

    /// Scaling at any moment of a rollout ends at the new size.
    #[test]
    fn scaling_at_any_moment_ends_right(
        replicas in 1_i32..10,
        to in 0_i32..15,
        steps in 0_usize..8,
    ) {
        let mut world = World::new(deployment(replicas, "25%", "25%"));
        world.settle(replicas);
        world.set_image("two");
        for _ in 0..steps {
            world.step();
            world.run_pods(1);
        }
        world.scale(to);
        world.settle(2);
        let sizes = world.sizes();
        prop_assert_eq!(sizes.iter().map(|size| size.0).sum::<i32>(), to);
        prop_assert_eq!(sizes.last().copied(), Some((to, to)));
    }
}
