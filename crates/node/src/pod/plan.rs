//! What to do about a Pod's containers, as a pure function of what is known of them.

use jiff::{SignedDuration, Timestamp};

use super::record::{Part, Record, State};

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

impl Policy {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("OnFailure") => Policy::OnFailure,
            Some("Never") => Policy::Never,
            _ => Policy::Always,
        }
    }
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    pub(crate) fn over(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// A Pod at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot<'a> {
    pub records: &'a [Record],
    pub policy: Policy,
    /// Volumes and ports are there.
    pub prepared: bool,
    /// All is to end: the Pod is being deleted, or the node shuts down.
    pub ending: bool,
    /// The Pod has failed as a whole (its deadline has passed).
    pub failed: bool,
    /// The main containers have been let start once.
    pub initialized: bool,
    /// When the Pod fails if it has not ended.
    pub deadline: Option<Timestamp>,
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start this container.
    Start(usize),
    /// Stop this container.
    Stop(usize),
    /// The Pod's time is up.
    Expire,
}

/// What to do, and when to think again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    pub wake: Option<Timestamp>,
    pub phase: Phase,
    /// The main containers may start, now or before.
    pub initialized: bool,
    /// No process is left, and none will be started.
    pub quiet: bool,
}

/// Decides.
pub(crate) fn plan(now: &Snapshot<'_>) -> Plan {
    let phase = phase(now);
    let mut plan =
        Plan { actions: Vec::new(), wake: None, phase: shown(now, phase), initialized: now.initialized, quiet: false };
    let expired = now.deadline.is_some_and(|at| at <= now.now);
    if expired && !now.failed && !phase.over() && !now.ending {
        plan.actions.push(Action::Expire);
        return plan;
    }
    if now.ending || phase.over() {
        wind_down(now, &mut plan);
        return plan;
    }
    plan.wake = now.deadline;
    if now.prepared {
        go_on(now, &mut plan);
    }
    plan
}

/// Ends what runs: main containers first, then sidecars, the last one first.
fn wind_down(now: &Snapshot<'_>, plan: &mut Plan) {
    let active = |sidecar: bool| {
        let records = now.records.iter().enumerate();
        records.filter(move |(_, r)| r.active() && (r.part == Part::Sidecar) == sidecar)
    };
    if active(false).next().is_some() {
        plan.actions.extend(active(false).filter(|(_, r)| !r.stopping).map(|(at, _)| Action::Stop(at)));
        return;
    }
    match active(true).next_back() {
        Some((at, record)) if !record.stopping => plan.actions.push(Action::Stop(at)),
        Some(_) => {}
        None => plan.quiet = true,
    }
}

/// Starts what is to run and does not.
fn go_on(now: &Snapshot<'_>, plan: &mut Plan) {
    for (at, record) in now.records.iter().enumerate() {
        if record.part == Part::Main && !plan.initialized {
            plan.initialized = true; // all before it has done what it is for
        }
        let due = match &record.state {
            State::Starting | State::Running { .. } => false,
            State::Waiting(_) => !(plan.initialized && record.part == Part::Init && now.initialized),
            State::Ended(_) => restarts(record, now.policy),
        };
        if due {
            match record.not_before.filter(|t| *t > now.now) {
                Some(later) => plan.wake = Some(plan.wake.map_or(later, |w| w.min(later))),
                None => plan.actions.push(Action::Start(at)),
            }
        }
        if !plan.initialized && !record.initialized() {
            return; // those behind it wait for it
        }
    }
}

/// Whether a container that has ended is to run again.
pub(crate) fn restarts(record: &Record, policy: Policy) -> bool {
    let Some(ended) = record.ended() else { return false };
    if record.changed {
        return true; // whatever the policy: what ended is not what is declared
    }
    let failed = ended.code != 0 || record.again;
    match (record.part, policy) {
        (Part::Sidecar, _) => true,
        (Part::Init, Policy::Never) => false,
        (Part::Init, _) => failed,
        (Part::Main, Policy::Always) => true,
        (Part::Main, Policy::OnFailure) => failed,
        (Part::Main, Policy::Never) => false,
    }
}

/// As upstream's `getPhase`.
fn phase(now: &Snapshot<'_>) -> Phase {
    if now.failed {
        return Phase::Failed;
    }
    let part = |part: Part| now.records.iter().filter(move |r| r.part == part);
    let lost = |r: &Record| r.ended().is_some_and(|e| e.code != 0) && !restarts(r, now.policy);
    if part(Part::Init).any(lost) {
        return Phase::Failed;
    }
    let main = || part(Part::Main);
    if main().any(|r| !r.ran) {
        return Phase::Pending;
    }
    if main().all(|r| r.ended().is_some() && !restarts(r, now.policy)) {
        return if main().any(lost) { Phase::Failed } else { Phase::Succeeded };
    }
    Phase::Running
}

/// A Pod is not over for those who look at it while anything of it may still run, as upstream: a Job must not count a Pod
/// whose sidecar is still writing.
fn shown(now: &Snapshot<'_>, phase: Phase) -> Phase {
    if !phase.over() || !now.records.iter().any(Record::active) {
        return phase;
    }
    let began = now.records.iter().filter(|r| r.part == Part::Main).all(|r| r.ran);
    if began { Phase::Running } else { Phase::Pending }
}

/// When a Pod with `activeDeadlineSeconds` fails.
pub(crate) fn deadline(started: Timestamp, seconds: Option<i64>) -> Option<Timestamp> {
    started.checked_add(SignedDuration::from_secs(seconds?)).ok()
}

#[cfg(test)]
mod tests;
