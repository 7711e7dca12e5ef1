//! Jobs played out against Pods that are made, end and go as the tests say.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus, PodTemplateSpec,
};
use kube::api::ObjectMeta;
use proptest::prelude::*;

use super::plan::{Plan, Snapshot, condition, is_finished, plan};
use super::{new_pod, tracking};
use crate::machinery::clock::stamp;
use crate::pods;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time in range")
}

fn job(change: impl FnOnce(&mut JobSpec)) -> Job {
    let mut spec = JobSpec {
        parallelism: Some(1),
        completions: Some(1),
        backoff_limit: Some(6),
        template: PodTemplateSpec {
            metadata: None,
            spec: Some(PodSpec {
                containers: vec![Container { name: "main".into(), ..Container::default() }],
                restart_policy: Some("Never".into()),
                ..PodSpec::default()
            }),
        },
        ..JobSpec::default()
    };
    change(&mut spec);
    Job {
        metadata: ObjectMeta {
            name: Some("migrate".into()),
            namespace: Some("ns".into()),
            uid: Some("job".into()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

struct World {
    job: Job,
    pods: Vec<Pod>,
    second: i64,
    made: usize,
    said: Vec<String>,
}

impl World {
    fn new(job: Job) -> World {
        World { job, pods: Vec::new(), second: 0, made: 0, said: Vec::new() }
    }

    fn plan(&self) -> Plan {
        plan(&Snapshot { job: &self.job, pods: self.pods.iter().collect(), now: at(self.second) })
    }

    /// Plans and carries out, as the shell does. With `crash` nothing after the status is done.
    fn step_with(&mut self, crash: bool) -> Plan {
        let plan = self.plan();
        self.job.status = Some(plan.status.clone());
        if crash {
            return plan;
        }
        self.said.extend(plan.notes.iter().map(|note| note.reason.clone()));
        for pod in &mut self.pods {
            if plan.release.iter().any(|name| name == pods::name(pod)) {
                pod.metadata.finalizers = None;
            }
        }
        for (name, _) in &plan.delete {
            self.delete(name);
        }
        for index in &plan.create {
            self.made += 1;
            let mut pod = new_pod(&self.job, *index).expect("a Pod");
            let name = format!("pod-{}", self.made);
            pod.metadata.name = Some(name.clone());
            pod.metadata.uid = Some(name);
            pod.metadata.creation_timestamp = Some(stamp(at(self.second)));
            self.pods.push(pod);
        }
        self.reap();
        plan
    }

    fn step(&mut self) -> Plan {
        self.step_with(false)
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            let before = (self.job.clone(), self.pods.clone());
            self.step();
            if before == (self.job.clone(), self.pods.clone()) {
                return;
            }
        }
        panic!("no end after 50 steps");
    }

    fn pod(&mut self, name: &str) -> &mut Pod {
        self.pods.iter_mut().find(|pod| pods::name(pod) == name).expect("the Pod")
    }

    fn end(&mut self, name: &str, phase: &str) {
        let finished = stamp(at(self.second));
        self.pod(name).status = Some(PodStatus {
            phase: Some(phase.into()),
            container_statuses: Some(vec![ContainerStatus {
                state: Some(ContainerState {
                    terminated: Some(ContainerStateTerminated {
                        finished_at: Some(finished),
                        ..ContainerStateTerminated::default()
                    }),
                    ..ContainerState::default()
                }),
                ..ContainerStatus::default()
            }]),
            ..PodStatus::default()
        });
    }

    /// As the API does: an object with finalizers stays, marked.
    fn delete(&mut self, name: &str) {
        let now = stamp(at(self.second));
        self.pod(name).metadata.deletion_timestamp = Some(now);
        self.reap();
    }

    fn reap(&mut self) {
        self.pods.retain(|pod| !pods::is_going(pod) || tracking::is_tracked(pod));
    }

    fn active(&self) -> Vec<String> {
        self.pods.iter().filter(|pod| pods::is_active(pod)).map(|pod| pods::name(pod).to_owned()).collect()
    }

    fn counts(&self) -> (i32, i32, i32) {
        let status = self.job.status.clone().unwrap_or_default();
        (status.active.unwrap_or(0), status.succeeded.unwrap_or(0), status.failed.unwrap_or(0))
    }

    fn has(&self, type_: &str) -> Option<String> {
        condition(self.job.status.as_ref()?, type_)?.reason.clone()
    }
}

#[test]
fn one_pod_that_succeeds_completes_the_job() {
    let mut world = World::new(job(|_| {}));
    world.settle();
    assert_eq!(world.active(), ["pod-1"]);
    assert!(tracking::is_tracked(&world.pods[0]));
    let labels = world.pods[0].metadata.labels.clone().expect("labels");
    assert_eq!(labels["batch.kubernetes.io/job-name"], "migrate");
    assert_eq!(labels["controller-uid"], "job");
    assert_eq!(world.counts(), (1, 0, 0));
    world.end("pod-1", "Succeeded");
    world.settle();
    assert_eq!(world.counts(), (0, 1, 0));
    assert_eq!(world.has("SuccessCriteriaMet").as_deref(), Some("CompletionsReached"));
    assert_eq!(world.has("Complete").as_deref(), Some("CompletionsReached"));
    let status = world.job.status.clone().expect("a status");
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    assert_eq!(status.uncounted_terminated_pods.and_then(|list| list.succeeded), None);
    assert!(!tracking::is_tracked(&world.pods[0]), "the Pod is let go");
    assert_eq!(world.said, ["Completed"]);
}

#[test]
fn the_status_knows_of_an_ended_pod_before_the_pod_is_let_go() {
    let mut world = World::new(job(|_| {}));
    world.settle();
    world.end("pod-1", "Succeeded");
    let plan = world.step_with(true);
    assert_eq!(plan.release, ["pod-1"]);
    let list = world.job.status.clone().and_then(|s| s.uncounted_terminated_pods).and_then(|list| list.succeeded);
    assert_eq!(list, Some(vec!["pod-1".to_owned()]));
    assert_eq!(world.counts().1, 0, "on the list, not counted yet");
    assert!(!is_finished(&world.job));
    world.settle();
    assert_eq!(world.counts().1, 1);
    assert!(is_finished(&world.job));
}

#[test]
fn failures_pause_longer_each_time_until_the_limit() {
    let mut world = World::new(job(|spec| spec.backoff_limit = Some(3)));
    let mut pauses = Vec::new();
    for failure in 1..=4 {
        world.settle();
        assert_eq!(world.active(), [format!("pod-{failure}")]);
        world.end(&format!("pod-{failure}"), "Failed");
        world.settle();
        match world.plan().again {
            Some(pause) => {
                pauses.push(pause.as_secs());
                assert!(world.active().is_empty(), "nothing is made during the pause");
                world.second += i64::try_from(pause.as_secs()).expect("small");
            }
            None => assert!(is_finished(&world.job)),
        }
    }
    assert_eq!(pauses, [10, 20, 40]);
    assert_eq!(world.counts(), (0, 0, 4));
    assert_eq!(world.has("Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(world.has("FailureTarget").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(world.said, ["BackoffLimitExceeded"]);
}

#[test]
fn parallelism_and_completions_bound_what_runs() {
    let mut world = World::new(job(|spec| {
        spec.parallelism = Some(3);
        spec.completions = Some(4);
    }));
    world.settle();
    assert_eq!(world.active().len(), 3);
    world.end("pod-1", "Succeeded");
    world.end("pod-2", "Succeeded");
    world.settle();
    assert_eq!(world.active().len(), 2, "two to go");
    world.end("pod-3", "Succeeded");
    world.settle();
    assert_eq!(world.active(), ["pod-4"]);
    world.end("pod-4", "Succeeded");
    world.settle();
    assert_eq!(world.counts(), (0, 4, 0));
    assert!(is_finished(&world.job));
}

#[test]
fn a_queue_of_work_is_done_when_one_succeeded_and_the_rest_ended() {
    let mut world = World::new(job(|spec| {
        spec.parallelism = Some(2);
        spec.completions = None;
    }));
    world.settle();
    assert_eq!(world.active().len(), 2);
    world.end("pod-1", "Succeeded");
    world.settle();
    assert_eq!(world.active(), ["pod-2"], "nothing new after a success");
    assert!(!is_finished(&world.job));
    world.end("pod-2", "Failed");
    world.settle();
    assert_eq!(world.has("Complete").as_deref(), Some("CompletionsReached"));
}

#[test]
fn a_deadline_ends_what_runs() {
    let mut world = World::new(job(|spec| spec.active_deadline_seconds = Some(30)));
    world.settle();
    assert_eq!(world.plan().again.map(|again| again.as_secs()), Some(30));
    world.second = 31;
    world.step();
    assert_eq!(world.has("FailureTarget").as_deref(), Some("DeadlineExceeded"));
    assert_eq!(world.has("Failed"), None, "its Pod is not over yet");
    world.settle();
    assert_eq!(world.has("Failed").as_deref(), Some("DeadlineExceeded"));
    assert!(world.pods.is_empty());
}

#[test]
fn suspended_jobs_run_nothing() {
    let mut world = World::new(job(|spec| spec.suspend = Some(true)));
    world.settle();
    assert!(world.active().is_empty());
    assert_eq!(world.job.status.as_ref().and_then(|status| status.start_time.clone()), None);
    assert_eq!(world.has("Suspended").as_deref(), Some("JobSuspended"));
    world.job.spec.as_mut().expect("a spec").suspend = Some(false);
    world.settle();
    assert_eq!(world.active(), ["pod-1"]);
    world.job.spec.as_mut().expect("a spec").suspend = Some(true);
    world.settle();
    assert!(world.active().is_empty());
    assert_eq!(world.said, ["Suspended", "Resumed", "Suspended"]);
}

#[test]
fn restarts_count_as_failures_with_on_failure() {
    let mut world = World::new(job(|spec| {
        spec.backoff_limit = Some(2);
        spec.template.spec.as_mut().expect("a spec").restart_policy = Some("OnFailure".into());
    }));
    world.settle();
    world.pod("pod-1").status = Some(PodStatus {
        phase: Some("Running".into()),
        container_statuses: Some(vec![ContainerStatus { restart_count: 2, ..ContainerStatus::default() }]),
        ..PodStatus::default()
    });
    world.settle();
    assert_eq!(world.has("Failed").as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn indexed_jobs_run_each_index_once() {
    let mut world = World::new(job(|spec| {
        spec.completion_mode = Some("Indexed".into());
        spec.parallelism = Some(2);
        spec.completions = Some(3);
    }));
    world.settle();
    let indexes = |world: &World| {
        let active = world.pods.iter().filter(|pod| pods::is_active(pod));
        active.filter_map(tracking::index_of).collect::<Vec<_>>()
    };
    assert_eq!(indexes(&world), [0, 1]);
    world.end("pod-1", "Failed");
    world.settle();
    world.second += 10;
    world.settle();
    assert_eq!(indexes(&world), [1, 0], "a failed index is tried again");
    world.end("pod-2", "Succeeded");
    world.settle();
    assert_eq!(world.job.status.clone().and_then(|s| s.completed_indexes).as_deref(), Some("1"));
    world.end("pod-3", "Succeeded");
    world.settle();
    world.end("pod-4", "Succeeded");
    world.settle();
    assert_eq!(world.job.status.clone().and_then(|s| s.completed_indexes).as_deref(), Some("0-2"));
    assert_eq!(world.counts(), (0, 3, 1));
    assert!(is_finished(&world.job));
    assert_eq!(world.made, 4);
}

#[test]
fn what_is_not_acted_on_is_said() {
    let mut world = World::new(job(|spec| {
        spec.backoff_limit_per_index = Some(1);
    }));
    world.step();
    assert_eq!(world.said, ["Unsupported"]);
}

#[test]
fn a_finished_job_holds_no_pod() {
    let mut world = World::new(job(|_| {}));
    world.settle();
    world.end("pod-1", "Succeeded");
    world.settle();
    let mut late = world.pods[0].clone();
    late.metadata.name = Some("late".into());
    late.metadata.uid = Some("late".into());
    late.metadata.finalizers = Some(vec![tracking::FINALIZER.into()]);
    world.pods.push(late);
    let counts = world.counts();
    world.settle();
    assert!(world.pods.iter().all(|pod| !tracking::is_tracked(pod)));
    assert_eq!(world.counts(), counts);
}

#[derive(Clone, Debug)]
enum Happening {
    End(usize, bool),
    Delete(usize),
    Step,
    Crash,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        (0_usize..4, any::<bool>()).prop_map(|(at, success)| Happening::End(at, success)),
        (0_usize..4).prop_map(Happening::Delete),
        Just(Happening::Step),
        Just(Happening::Step),
        Just(Happening::Crash),
    ];
    proptest::collection::vec(one, 1..60)
}

proptest! {
    /// However Pods end and vanish, and wherever the controller is cut off: each is counted once.
    #[test]
    fn counts_are_exact(happenings in happenings()) {
        let mut world = World::new(job(|spec| {
            spec.parallelism = Some(3);
            spec.completions = Some(1000);
            spec.backoff_limit = Some(1000);
        }));
        let (mut succeeded, mut failed) = (BTreeSet::new(), BTreeSet::new());
        for happening in happenings {
            world.second += 700;
            match happening {
                Happening::Step => drop(world.step()),
                Happening::Crash => drop(world.step_with(true)),
                Happening::End(index, success) => {
                    if let Some(name) = world.active().get(index).cloned() {
                        world.end(&name, if success { "Succeeded" } else { "Failed" });
                        if success { &mut succeeded } else { &mut failed }.insert(name);
                    }
                }
                Happening::Delete(index) => {
                    if let Some(name) = world.pods.get(index).map(|pod| pods::name(pod).to_owned()) {
                        let ended = pods::has_ended(world.pod(&name));
                        world.delete(&name);
                        if !ended {
                            failed.insert(name);
                        }
                    }
                }
            }
        }
        world.second += 700;
        world.settle();
        let (_, counted_succeeded, counted_failed) = world.counts();
        prop_assert_eq!(usize::try_from(counted_succeeded).ok(), Some(succeeded.len()));
        prop_assert_eq!(usize::try_from(counted_failed).ok(), Some(failed.len()));
    }
}
