//! What to do about a Job, as a function of what is there.
//!
//! Invariants: synchronous and deterministic. A Job is declared Complete or Failed only when no Pod of it runs and every Pod that
//! ended is counted for good. A condition that says a Job is over is never taken back.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::indexes;
use super::tracking::{self, Counts};
use crate::machinery::clock;
use crate::machinery::recorder::Note;
use crate::pods;

const BURST: usize = 500;
const FIRST_PAUSE: i64 = 10;
const LONGEST_PAUSE: i64 = 600;

/// All a plan is made from.
pub(crate) struct Snapshot<'a> {
    pub(crate) job: &'a Job,
    /// The Pods that belong to it.
    pub(crate) pods: Vec<&'a Pod>,
    pub(crate) now: Timestamp,
}

/// What to do. The status is written before finalizers are removed.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// One entry a Pod to create; its index when the Job is Indexed.
    pub(crate) create: Vec<Option<u32>>,
    /// Names and uids.
    pub(crate) delete: Vec<(String, String)>,
    pub(crate) status: JobStatus,
    /// Names of Pods that lose the tracking finalizer.
    pub(crate) release: Vec<String>,
    pub(crate) notes: Vec<Note>,
    pub(crate) again: Option<Duration>,
}

/// How a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    success: bool,
    reason: String,
    message: String,
}

impl Outcome {
    fn success() -> Outcome {
        Outcome {
            success: true,
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        }
    }

    fn failure(reason: &str, message: &str) -> Outcome {
        Outcome { success: false, reason: reason.to_owned(), message: message.to_owned() }
    }

    fn interim(&self) -> &'static str {
        if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }
    }

    fn terminal(&self) -> &'static str {
        if self.success { "Complete" } else { "Failed" }
    }
}

pub(crate) fn condition<'a>(status: &'a JobStatus, type_: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// When the Job ended, if it has.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let over = condition(status, "Complete").or_else(|| condition(status, "Failed"))?;
    over.last_transition_time.as_ref().map(|time| time.0)
}

pub(crate) fn is_finished(job: &Job) -> bool {
    job.status
        .as_ref()
        .is_some_and(|status| condition(status, "Complete").is_some() || condition(status, "Failed").is_some())
}

struct Step<'a> {
    snapshot: &'a Snapshot<'a>,
    spec: &'a JobSpec,
    counts: Counts,
    active: Vec<&'a Pod>,
    status: JobStatus,
    plan: Plan,
}

/// What to do next.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let job = snapshot.job;
    let status = job.status.clone().unwrap_or_default();
    let Some(spec) = &job.spec else { return Plan::default() };
    if is_finished(job) {
        // Nothing is counted any more; what still holds a Pod back is let go.
        let tracked = snapshot.pods.iter().filter(|pod| tracking::is_tracked(pod));
        return Plan { release: tracked.map(|pod| pods::name(pod).to_owned()).collect(), status, ..Plan::default() };
    }
    let mut step = Step {
        snapshot,
        spec,
        counts: tracking::count(job, &snapshot.pods),
        active: snapshot.pods.iter().copied().filter(|pod| pods::is_active(pod)).collect(),
        status,
        plan: Plan::default(),
    };
    step.run();
    step.plan
}

impl<'a> Step<'a> {
    fn run(&mut self) {
        if self.status.start_time.is_none() && !self.is_suspended() {
            self.status.start_time = Some(clock::stamp(self.snapshot.now));
            self.say_unsupported();
        }
        let mut outcome = self.known_outcome().or_else(|| self.failure());
        if outcome.is_none() {
            if self.snapshot.job.metadata.deletion_timestamp.is_none() {
                self.manage();
            }
            outcome = self.completion();
            if outcome.is_none() {
                self.note_suspension();
            }
        }
        if let Some(outcome) = &outcome {
            self.plan.create.clear();
            self.delete(self.active.clone());
            self.add_condition(outcome.interim(), outcome);
        }
        self.count();
        if let Some(outcome) = outcome {
            self.finish(&outcome);
        }
        self.plan.release.clone_from(&self.counts.release);
        self.plan.status = self.status.clone();
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend.unwrap_or(false)
    }

    fn say_unsupported(&mut self) {
        let fields: Vec<&str> = [
            ("spec.podFailurePolicy", self.spec.pod_failure_policy.is_some()),
            ("spec.successPolicy", self.spec.success_policy.is_some()),
            ("spec.backoffLimitPerIndex", self.spec.backoff_limit_per_index.is_some()),
        ]
        .into_iter()
        .filter_map(|(field, there)| there.then_some(field))
        .collect();
        if !fields.is_empty() {
            let message = format!("{} not acted on: the Job runs as if it were not set", fields.join(", "));
            self.plan.notes.push(Note::warning("Unsupported", message));
        }
    }

    /// How the Job was already said to end.
    fn known_outcome(&self) -> Option<Outcome> {
        let found = |type_, success| {
            condition(&self.status, type_).map(|condition| Outcome {
                success,
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
            })
        };
        found("FailureTarget", false).or_else(|| found("SuccessCriteriaMet", true))
    }

    fn failure(&mut self) -> Option<Outcome> {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.counts.total_failed() > limit || self.restarted_too_often(limit) {
            return Some(Outcome::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        if self.is_suspended() {
            return None;
        }
        let (Some(seconds), Some(start)) = (self.spec.active_deadline_seconds, &self.status.start_time) else {
            return None;
        };
        let deadline = clock::plus(start.0, seconds);
        if deadline <= self.snapshot.now {
            return Some(Outcome::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        self.look_again(clock::until(deadline, self.snapshot.now));
        None
    }

    /// With `restartPolicy: OnFailure` the restarts of containers count as failures.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let restarts: i32 = self.active.iter().map(|pod| pods::restarts(pod).1).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn look_again(&mut self, after: Duration) {
        let after = after.max(Duration::from_millis(1));
        self.plan.again = Some(self.plan.again.map_or(after, |known| known.min(after)));
    }

    fn delete(&mut self, pods: Vec<&Pod>) {
        self.plan.delete =
            pods.into_iter().map(|pod| (pods::name(pod).to_owned(), pods::uid(pod).to_owned())).collect();
    }

    fn wanted_active(&self) -> i32 {
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let active = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        match self.spec.completions {
            // Work from a queue: after the first success nothing new is started.
            None if self.counts.total_succeeded() > 0 => active,
            None => parallelism,
            Some(completions) => (completions - self.counts.total_succeeded()).clamp(0, parallelism),
        }
    }

    /// Brings the number of running Pods towards what is wanted.
    fn manage(&mut self) {
        if self.is_suspended() {
            return self.delete(self.active.clone());
        }
        let superfluous = self.superfluous();
        if !superfluous.is_empty() {
            return self.delete(superfluous);
        }
        let terminating = if tracking::replaces_only_failed(self.snapshot.job) { self.terminating() } else { 0 };
        let active = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        let missing = usize::try_from(self.wanted_active() - terminating - active).unwrap_or(0);
        if missing == 0 {
            return;
        }
        if let Some(at) = self.not_before()
            && at > self.snapshot.now
        {
            return self.look_again(clock::until(at, self.snapshot.now));
        }
        let missing = missing.min(BURST);
        self.plan.create = match tracking::indexed(self.snapshot.job) {
            None => vec![None; missing],
            Some(completions) => self.open_indexes(completions).take(missing).map(Some).collect(),
        };
    }

    fn terminating(&self) -> i32 {
        let count = self.snapshot.pods.iter().filter(|pod| pods::is_terminating(pod)).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    fn open_indexes(&self, completions: u32) -> impl Iterator<Item = u32> {
        let mut taken: BTreeSet<u32> = self.active.iter().filter_map(|pod| tracking::index_of(pod)).collect();
        if tracking::replaces_only_failed(self.snapshot.job) {
            let terminating = self.snapshot.pods.iter().filter(|pod| pods::is_terminating(pod));
            taken.extend(terminating.filter_map(|pod| tracking::index_of(pod)));
        }
        taken.extend(&self.counts.completed_indexes);
        (0..completions).filter(move |index| !taken.contains(index))
    }

    /// The Pods that run beyond what is wanted: of Indexed Jobs doubles and strangers first.
    fn superfluous(&self) -> Vec<&'a Pod> {
        let mut superfluous: Vec<&'a Pod> = Vec::new();
        let mut rest = self.active.clone();
        rest.sort_by_key(|pod| (pods::is_ready(pod), std::cmp::Reverse(pods::created_at(pod)), pods::name(pod)));
        if let Some(completions) = tracking::indexed(self.snapshot.job) {
            let mut seen = BTreeSet::new();
            // From the end, so that of two Pods with one index the one that is further stays.
            for pod in rest.iter().rev() {
                let useful = tracking::index_of(pod).is_some_and(|index| {
                    index < completions && !self.counts.completed_indexes.contains(&index) && seen.insert(index)
                });
                if !useful {
                    superfluous.push(*pod);
                }
            }
            rest.retain(|pod| !superfluous.iter().any(|other| pods::uid(other) == pods::uid(pod)));
        }
        let wanted = usize::try_from(self.wanted_active()).unwrap_or(0);
        let excess = rest.len().saturating_sub(wanted);
        superfluous.extend(rest.into_iter().take(excess));
        superfluous
    }

    /// When the next Pod may be created after failures: 10 s after the first, twice that after each further one.
    fn not_before(&self) -> Option<Timestamp> {
        let all = &self.snapshot.pods;
        let last_success =
            all.iter().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| pods::ended_at(pod)).max();
        let failures: Vec<Timestamp> = all
            .iter()
            .filter(|pod| tracking::has_failed(self.snapshot.job, pod))
            .filter_map(|pod| pods::ended_at(pod))
            .filter(|ended| last_success.is_none_or(|success| *ended > success))
            .collect();
        let doublings = u32::try_from(failures.len()).unwrap_or(u32::MAX).checked_sub(1)?;
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(20)).min(LONGEST_PAUSE);
        Some(clock::plus(*failures.iter().max()?, pause))
    }

    fn completion(&self) -> Option<Outcome> {
        let succeeded = self.counts.total_succeeded();
        let idle = self.active.is_empty() && self.plan.create.is_empty();
        let complete = match self.spec.completions {
            None => succeeded > 0 && idle,
            Some(completions) => succeeded >= completions && self.active.is_empty(),
        };
        complete.then(Outcome::success)
    }

    fn note_suspension(&mut self) {
        let suspended = self.is_suspended();
        let known = self.status.conditions.iter().flatten().find(|condition| condition.type_ == "Suspended");
        let was = known.map(|condition| condition.status == "True");
        if was.unwrap_or(false) == suspended {
            return;
        }
        let (reason, message) =
            if suspended { ("JobSuspended", "Job suspended") } else { ("JobResumed", "Job resumed") };
        self.replace_condition("Suspended", suspended, reason, message);
        let event = if suspended { "Suspended" } else { "Resumed" };
        self.plan.notes.push(Note::normal(event, message));
        if !suspended {
            self.status.start_time = Some(clock::stamp(self.snapshot.now));
        }
    }

    fn replace_condition(&mut self, type_: &str, value: bool, reason: &str, message: &str) {
        let stamp = clock::stamp(self.snapshot.now);
        let conditions = self.status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != type_);
        conditions.push(JobCondition {
            type_: type_.to_owned(),
            status: if value { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(stamp.clone()),
            last_transition_time: Some(stamp),
        });
    }

    fn add_condition(&mut self, type_: &str, outcome: &Outcome) {
        if condition(&self.status, type_).is_none() {
            self.replace_condition(type_, true, &outcome.reason, &outcome.message);
        }
    }

    /// Puts the counts into the status.
    fn count(&mut self) {
        let some = |count: i32| (count != 0).then_some(count);
        let active = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        let ready = self.active.iter().filter(|pod| pods::is_ready(pod)).count();
        self.status.active = some(active);
        self.status.ready = Some(i32::try_from(ready).unwrap_or(i32::MAX));
        self.status.terminating = Some(self.terminating());
        self.status.succeeded = some(self.counts.succeeded);
        self.status.failed = some(self.counts.failed);
        self.status.uncounted_terminated_pods = Some(self.counts.list());
        if tracking::indexed(self.snapshot.job).is_some() {
            let text = indexes::format(&self.counts.completed_indexes);
            self.status.completed_indexes = (!text.is_empty()).then_some(text);
        }
    }

    fn finish(&mut self, outcome: &Outcome) {
        if !self.active.is_empty() || self.terminating() > 0 || !self.counts.is_settled() {
            return;
        }
        self.plan.again = None;
        self.add_condition(outcome.terminal(), outcome);
        if outcome.success {
            self.status.completion_time = Some(clock::stamp(self.snapshot.now));
            self.plan.notes.push(Note::normal("Completed", "Job completed"));
        } else {
            self.plan.notes.push(Note::warning(&outcome.reason, outcome.message.clone()));
        }
    }
}
