//! The task that keeps one Pod: takes in what happens, asks [`plan`] what to do, does it, and has the status written.

mod leave;
mod news;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::Api;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::alarm::sleep_until;
use super::lost;
use super::plan::{Action, Plan, Policy, Snapshot, deadline, plan};
use super::publish::Publisher;
use super::record::{Part, Record, State, changed, containers, records};
use super::setup;
use super::status::{Conditions, Input, known, status};
use crate::container::{Keeper, Message, Setup, Stop};
use crate::context::Context;
use crate::view::pod_directory;

/// How many news of containers may wait.
const NEWS: usize = 64;
/// What is killed at once still gets so long where a Pod was deleted by force.
const FORCED: Duration = Duration::from_secs(1);
/// So long a claim may take to get its volume before that is worth an Event.
const QUIET: SignedDuration = SignedDuration::from_secs(1);
/// How soon what a Pod needs is tried again.
const SETUP_RETRY: [i64; 5] = [1, 2, 5, 10, 20];

/// What reaches a worker from outside.
#[derive(Clone)]
pub(crate) struct Mail {
    /// The Pod as last told; `None` when it is gone.
    pub pod: watch::Sender<Option<Arc<Pod>>>,
    /// ConfigMaps, Secrets, Services or PersistentVolumeClaims have changed.
    pub changed: Arc<Notify>,
}

/// How a Pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Deleted,
    Gone,
    Shutdown,
}

/// Keeps one Pod.
pub(crate) struct Worker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    spec: PodSpec,
    uid: String,
    directory: PathBuf,
    records: Vec<Record>,
    stops: Vec<Option<watch::Sender<Option<Stop>>>>,
    keepers: JoinSet<()>,
    runs: u64,
    /// The current run of each container.
    current: Vec<u64>,
    out: mpsc::Sender<Message>,
    setup: Option<Arc<Setup>>,
    /// The Pod's address, which the status keeps once it is given back.
    address: Option<IpAddr>,
    setup_at: Option<Timestamp>,
    setup_tries: usize,
    /// What stands in the way of the setup.
    obstacle: Option<(&'static str, String)>,
    ending: Option<(Ending, Instant)>,
    failure: Option<(&'static str, &'static str)>,
    initialized: bool,
    started: Timestamp,
    conditions: Conditions,
    publisher: Publisher,
    told_plain: bool,
    /// Nothing more is to be published.
    silent: bool,
    /// Containers whose refusal is to be told as waiting for the next try.
    turns: BTreeMap<usize, Timestamp>,
}

impl Worker {
    pub(crate) fn new(context: Arc<Context>, pod: Arc<Pod>) -> (Self, mpsc::Receiver<Message>) {
        let spec = pod.spec.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        let (namespace, name, uid) = (of(&meta.namespace), of(&meta.name), of(&meta.uid));
        let now = Timestamp::now();
        let mut records = records(&spec);
        lost::recall(&pod, &mut records, now);
        let (out, news) = mpsc::channel(NEWS);
        let api = Api::namespaced(context.client.clone(), &namespace);
        let publisher = Publisher::new(api, name.clone(), uid.clone());
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
        let over = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let failed = pod.status.as_ref().is_some_and(|s| s.reason.as_deref() == Some(DEADLINE.0));
        let worker = Worker {
            directory: pod_directory(&context.root, &namespace, &name, &uid),
            stops: records.iter().map(|_| None).collect(),
            current: vec![0; records.len()],
            conditions: known(&pod),
            initialized: over,
            failure: failed.then_some(DEADLINE),
            context,
            pod,
            spec,
            uid,
            records,
            keepers: JoinSet::new(),
            runs: 0,
            out,
            setup: None,
            address: None,
            setup_at: None,
            setup_tries: 0,
            obstacle: None,
            ending: None,
            started,
            publisher,
            told_plain: false,
            silent: false,
            turns: BTreeMap::new(),
        };
        (worker, news)
    }

    /// Runs until the Pod is gone or the node shuts down.
    pub(crate) async fn run(
        mut self,
        mut news: mpsc::Receiver<Message>,
        mut pods: watch::Receiver<Option<Arc<Pod>>>,
        changed: Arc<Notify>,
        shutdown: CancellationToken,
    ) {
        self.see(pods.borrow_and_update().clone());
        let mut told = false;
        loop {
            self.set_up().await;
            let wake = loop {
                let plan = self.decide();
                self.publish(&plan);
                self.release(&plan);
                if plan.quiet && self.ending.is_some() {
                    return self.leave().await;
                }
                if plan.actions.is_empty() {
                    break self.wake(plan.wake);
                }
                for action in plan.actions {
                    self.act(action);
                }
            };
            tokio::select! {
                biased;
                // Once, whatever becomes of it: a Pod that is deleted stays so, and what has come to pass stays ready.
                () = shutdown.cancelled(), if !told => {
                    told = true;
                    self.shut_down();
                }
                seen = pods.changed(), if self.ending.is_none_or(|e| e.0 != Ending::Gone) => {
                    let pod = if seen.is_ok() { pods.borrow_and_update().clone() } else { None };
                    if self.see(pod) {
                        changed.notify_one();
                    }
                }
                Some(message) = news.recv() => self.hear(message),
                () = changed.notified() => self.refresh().await,
                () = sleep_until(wake) => self.turn(),
            }
            while self.keepers.try_join_next().is_some() {}
        }
    }

    fn decide(&mut self) -> Plan {
        let now = Timestamp::now();
        let plan = plan(&Snapshot {
            records: &self.records,
            policy: Policy::parse(self.spec.restart_policy.as_deref()),
            prepared: self.setup.is_some(),
            ending: self.ending.is_some(),
            failed: self.failure.is_some(),
            initialized: self.initialized,
            deadline: deadline(self.started, self.spec.active_deadline_seconds),
            now,
        });
        self.initialized = plan.initialized;
        plan
    }

    fn wake(&self, planned: Option<Timestamp>) -> Option<Timestamp> {
        let setup = self.setup_at.filter(|_| self.setup.is_none() && self.ending.is_none());
        planned.into_iter().chain(setup).chain(self.turns.values().copied()).min()
    }

    /// Makes what the Pod needs, when it is due and of use.
    async fn set_up(&mut self) {
        let now = Timestamp::now();
        let due = self.setup_at.is_none_or(|at| at <= now);
        if self.setup.is_some() || self.ending.is_some() || !due || self.decide().phase.over() {
            return;
        }
        if self.setup_tries == 0 {
            let plan = self.decide();
            self.publish(&plan);
        }
        match setup::prepare(&self.context, &self.pod, &self.directory).await {
            Ok(setup) => {
                self.address = Some(setup.address());
                self.setup = Some(Arc::new(setup));
                self.obstacle = None;
            }
            Err(error) => {
                let wait = SETUP_RETRY[self.setup_tries.min(SETUP_RETRY.len() - 1)];
                self.setup_tries += 1;
                self.setup_at = now.checked_add(SignedDuration::from_secs(wait)).ok();
                if !error.may_pass() || self.started.checked_add(QUIET).is_ok_and(|told| told <= now) {
                    self.context.events.warning(&self.pod, None, error.reason(), error.to_string());
                    self.obstacle = Some((error.condition(), error.to_string()));
                }
            }
        }
    }

    fn publish(&mut self, plan: &Plan) {
        if self.silent || matches!(self.ending, Some((Ending::Gone, _))) {
            return;
        }
        let policy = Policy::parse(self.spec.restart_policy.as_deref());
        // What is to end by itself has not done so because a shutdown made it: that nothing is ready is all there is to say.
        self.silent = matches!(self.ending, Some((Ending::Shutdown, _))) && policy != Policy::Always;
        let input = Input {
            pod: &self.pod,
            records: &self.records,
            policy,
            phase: plan.phase,
            address: self.address,
            obstacle: self.obstacle.as_ref().map(|(reason, why)| (*reason, why.as_str())),
            initialized: self.initialized,
            ending: self.ending.is_some(),
            failure: self.failure,
            started: self.started,
            now: Timestamp::now(),
        };
        let status = status(&input, &mut self.conditions);
        self.publisher.publish(status);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(index) => self.start(index),
            Action::Stop(index) => {
                let ending = self.ending;
                let (at, drain) = match ending {
                    Some((Ending::Gone, at)) => (at, None),
                    Some((_, at)) => (at, Some(at.saturating_duration_since(Instant::now()) / 2)),
                    None => (Instant::now() + self.grace(), None),
                };
                self.stop(index, Stop { deadline: at, drain }, None);
            }
            Action::Expire => {
                self.failure = Some(DEADLINE);
                self.context.events.warning(&self.pod, None, "DeadlineExceeded", DEADLINE.1);
            }
        }
    }

    fn grace(&self) -> Duration {
        let seconds = self.spec.termination_grace_period_seconds.unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }

    fn start(&mut self, index: usize) {
        let Some(setup) = self.setup.clone() else { return };
        let record = &mut self.records[index];
        record.begin();
        self.turns.remove(&index);
        self.runs += 1;
        self.current[index] = self.runs;
        let (stop, orders) = watch::channel(None);
        self.stops[index] = Some(stop);
        let Some((container, part)) = containers(&self.spec).get(index).map(|(c, p)| ((*c).clone(), *p)) else {
            return;
        };
        let keeper = Keeper {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&self.pod),
            container,
            setup,
            index,
            run: self.runs,
            instance: self.records[index].restarts,
            probed: part != Part::Init,
            stop: orders,
            out: self.out.clone(),
        };
        self.keepers.spawn(keeper.keep());
    }

    fn stop(&mut self, index: usize, stop: Stop, why: Option<String>) {
        let record = &mut self.records[index];
        if !record.stopping {
            let message = why.unwrap_or_else(|| format!("Stopping container {}", record.name));
            self.context.events.normal(&self.pod, Some(&record.name), "Killing", message);
        }
        record.stopping = true;
        record.ready = false;
        if let Some(order) = &self.stops[index] {
            order.send_replace(Some(stop));
        }
    }

    /// Takes in what the API says of the Pod. Returns whether what the downward API shows may have changed.
    fn see(&mut self, pod: Option<Arc<Pod>>) -> bool {
        let Some(pod) = pod.filter(|p| p.metadata.uid.as_deref() == Some(&self.uid)) else {
            self.end(Ending::Gone, FORCED);
            return false;
        };
        let shown = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        let differs = shown(&self.pod) != shown(&pod);
        self.pod = pod;
        self.declare();
        if self.pod.metadata.deletion_timestamp.is_some() {
            let seconds = self.pod.metadata.deletion_grace_period_seconds;
            let grace = seconds.map_or(self.grace(), |s| Duration::from_secs(u64::try_from(s).unwrap_or_default()));
            self.end(Ending::Deleted, grace);
        }
        differs
    }

    /// Takes in what may change in a Pod's spec; a container of another image starts anew.
    fn declare(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let old = std::mem::replace(&mut self.spec, spec);
        for index in changed(&old, &self.spec) {
            let record = &mut self.records[index];
            (record.backoff, record.not_before) = Default::default();
            if record.active() && record.part != Part::Init {
                record.changed = true;
                let why = format!("Container {} definition changed, will be restarted", record.name);
                self.stop_again(index, why, None);
            }
        }
    }

    fn shut_down(&mut self) {
        self.end(Ending::Shutdown, self.grace().min(self.context.settings.shutdown_limit));
    }

    /// Begins the Pod's end, or makes one that has begun come sooner.
    fn end(&mut self, ending: Ending, grace: Duration) {
        let wanted = Instant::now() + grace;
        match &mut self.ending {
            None => self.ending = Some((ending, wanted)),
            Some((kind, at)) => {
                let sooner = wanted < *at;
                // A Pod that is gone takes nothing back; one that is deleted is still so while the node shuts down.
                if ending == Ending::Gone || *kind == Ending::Shutdown && ending == Ending::Deleted {
                    *kind = ending;
                }
                if !sooner {
                    return;
                }
                *at = wanted;
                for order in self.stops.iter().flatten() {
                    order.send_if_modified(|stop| match stop {
                        Some(stop) if wanted < stop.deadline => {
                            stop.deadline = wanted;
                            true
                        }
                        _ => false,
                    });
                }
            }
        }
    }

    fn name(&self) -> String {
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &self.pod.metadata;
        format!("{}_{}({})", of(&meta.name), of(&meta.namespace), self.uid)
    }

    /// Brings files up to date, and tries again what may have been missing.
    async fn refresh(&mut self) {
        if self.ending.is_some() {
            return;
        }
        let Some(setup) = &self.setup else {
            self.setup_at = None;
            return;
        };
        if let Err(error) = setup::write_hosts(&self.context, &self.pod, setup) {
            tracing::warn!(%error, pod = self.name(), "the hosts file could not be brought up to date");
        }
        if crate::volumes::follow(&self.pod)
            && let Err(error) = setup::fill(&self.context, &self.pod, &self.directory).await
        {
            tracing::debug!(%error, pod = self.name(), "volumes could not be brought up to date");
        }
        for record in &mut self.records {
            if matches!(&record.state, State::Waiting(Some(refused)) if refused.reason == "CreateContainerConfigError")
            {
                record.not_before = None;
            }
        }
    }
}

/// Why a Pod failed whose time was up.
const DEADLINE: (&str, &str) = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
