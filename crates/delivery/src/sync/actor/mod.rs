//! One task for each application: it hears of everything that concerns it, asks [`decide`](super::engine::decide), and acts.
//!
//! Invariants: a turn never waits for a cluster to become healthy; a sync that goes on belongs to the actor and ends with it; the
//! status is written only where it differs; a failure of this task leaves everything in the cluster as it is.

mod account;
mod asked;
mod begin;
mod drifted;
mod ended;
mod farewell;
mod judge;
mod kept;
mod leave;
mod make;
mod say;
pub(crate) mod target;
mod turn;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::account::Accounts;
use super::application::{AppId, Application};
use super::break_glass::Glass;
use super::engine::compare::{Desired, Memo};
use super::engine::decide::{Content, Difference};
use super::engine::live::Live;
use super::engine::locked::{Broken, Door};
use super::engine::operation::Note;
use super::front::flux::Repository as FluxRepository;
use super::front::project::Project;
use super::report::Report;
use super::repository::Repositories;
use crate::api::Api;
use crate::applyset::Set;
use crate::kinds::Kinds;
use crate::lock::{self, Request};
use crate::object::ObjectId;

/// What all actors share.
pub(crate) struct Shared {
    pub(crate) client: kube::Client,
    pub(crate) api: Api,
    /// What this life of the sync is called on the locks that it takes.
    pub(crate) life: String,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) repositories: Arc<Repositories>,
    /// Where commits are written out for a moment.
    pub(crate) trees: PathBuf,
    pub(crate) projects: watch::Sender<Projects>,
    pub(crate) glass: watch::Sender<Glass>,
    /// GitRepositories of Flux, or why one cannot be used.
    pub(crate) flux: watch::Sender<BTreeMap<(String, String), Result<FluxRepository, String>>>,
    /// How every application stands.
    pub(crate) standings: watch::Sender<BTreeMap<AppId, Standing>>,
    pub(crate) statuses: Option<super::commit_status::Reporter>,
    /// How much has drifted.
    pub(crate) drifts: Arc<crate::drift::board::Board>,
    /// Who answers notices for Flux's Receivers.
    pub(crate) receivers: Arc<super::receivers::Receivers>,
    /// Who makes programs of commits.
    pub(crate) programs: Option<Arc<dyn super::programs::Programs>>,
    /// The digests of programs that what is rendered and may be brought names.
    pub(crate) held: parking_lot::Mutex<BTreeMap<AppId, BTreeSet<String>>>,
    /// Where our own remote answers.
    pub(crate) remote: OnceLock<SocketAddr>,
    /// What builds say: the repository and a line.
    pub(crate) said: tokio::sync::broadcast::Sender<(String, String)>,
}

/// The AppProjects. Before all were read once, nobody knows what is not allowed.
#[derive(Default)]
pub(crate) struct Projects {
    pub(crate) listed: bool,
    pub(crate) all: BTreeMap<(String, String), Project>,
}

/// How an application stands, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The repositories that it follows.
    pub repositories: Vec<String>,
    /// The commits that it is about.
    pub revisions: Vec<String>,
    /// How far that is.
    pub stage: Stage,
    /// In words.
    pub message: String,
}

/// How far an application is with what its repository says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It is on its way.
    Working,
    /// It is applied and healthy.
    Live,
    /// It is not applied by itself; somebody has to ask.
    Held,
    /// It failed.
    Failed,
}

/// A sync that goes on.
struct Running {
    content: Content,
    /// Whether it brings something else than the repository says now.
    other: bool,
    /// What its commit says of itself.
    commit: Value,
    /// What it brings.
    members: Vec<ObjectId>,
    /// What was half done when it began.
    half_done: Option<Content>,
    task: AbortOnDropHandle<Result<(), Broken>>,
    notes: mpsc::Receiver<Note>,
    attempts: u32,
}

/// One application. See the module's header.
pub(crate) struct Actor {
    shared: Arc<Shared>,
    id: AppId,
    set: Set,
    object: watch::Receiver<Arc<Value>>,
    written: Option<Value>,
    application: Option<Application>,
    /// What the application was read from.
    read: Option<(Value, Option<Result<FluxRepository, String>>)>,
    sources: target::Sources,
    rendered: Option<target::Rendered>,
    /// What the project does not allow; nothing is brought then.
    barred: Option<String>,
    /// What was compared in this turn, and how it differs; and how the good content does that is kept in its place.
    rehearsed: Option<Content>,
    difference: Option<Difference>,
    kept: Option<Difference>,
    /// A content that cannot be rendered, and why.
    wrong: Option<(Content, String)>,
    good: Option<target::Rendered>,
    desired: Desired,
    live: Live,
    memo: Memo,
    good_memo: Memo,
    /// The kinds of the API, asked for again when one is missing.
    kinds: Option<Kinds>,
    report: Report,
    running: Option<Running>,
    /// For whom its lock is waited, and before when it is not asked for again.
    waits: watch::Sender<Option<String>>,
    locked_until: Option<Timestamp>,
    /// Programs that are being made.
    making: Option<make::Making>,
    /// Another revision that was asked for and is on its way here.
    asked: Option<Content>,
    /// A content whose programs could not be made, and why.
    unmade: Option<(Content, String)>,
    judge: Option<judge::Judge>,
    /// Hooks of its end that run, and how those before ended.
    leaving: Option<farewell::Leaving>,
    left: BTreeMap<super::engine::steps::Phase, Result<(), String>>,
    /// What members there were, for the record of a break-glass session.
    seen: BTreeMap<ObjectId, String>,
    /// The refresh or the sync that was asked for last, so that each is done once.
    handled: Option<String>,
    next_look: Option<Timestamp>,
}

/// The longest that nothing happens without a look.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long giving back a lock may take at the end.
const LAST_WORD: Duration = Duration::from_secs(2);

impl Actor {
    pub(crate) fn new(shared: Arc<Shared>, id: AppId, object: watch::Receiver<Arc<Value>>) -> Self {
        let prefix = match id.front {
            super::application::Front::Argo => "application",
            super::application::Front::Flux => "kustomization",
        };
        let set = Set::new(id.namespace.clone(), format!("{prefix}.{}", id.name));
        let live = Live::new(shared.client.clone(), &set.id());
        let first = object.borrow().clone();
        let memory = super::report::Memory::of(&first["status"]);
        let history = match id.front {
            super::application::Front::Argo => {
                serde_json::from_value(first["status"]["history"].clone()).unwrap_or_default()
            }
            super::application::Front::Flux => super::report::Deployed::of_flux(&first["status"]),
        };
        let operation = memory.under_way.as_ref().map(|content| cut_short(content, &first));
        let report = Report { memory, history, operation, ..Report::default() };
        let this = Self {
            shared,
            id,
            set,
            object,
            written: None,
            application: None,
            read: None,
            sources: target::Sources::default(),
            rendered: None,
            barred: None,
            rehearsed: None,
            difference: None,
            kept: None,
            wrong: None,
            good: None,
            desired: Desired::default(),
            live,
            memo: Memo::default(),
            good_memo: Memo::default(),
            kinds: None,
            report,
            running: None,
            waits: watch::Sender::new(None),
            locked_until: None,
            making: None,
            unmade: None,
            asked: None,
            judge: None,
            leaving: None,
            left: BTreeMap::new(),
            seen: BTreeMap::new(),
            handled: None,
            next_look: None,
        };
        let mut conditions = first["status"]["conditions"].as_array().into_iter().flatten();
        if conditions.any(|one| one["type"] == "Drifted") {
            this.shared.drifts.known(&this.subject());
        }
        this
    }

    /// Runs until told to stop, or until the application is gone.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.live.changes();
        let mut projects = self.shared.projects.subscribe();
        let mut glass = self.shared.glass.subscribe();
        let mut flux = self.shared.flux.subscribe();
        let mut standings = self.shared.standings.subscribe();
        let mut waits = self.waits.subscribe();
        loop {
            let turn = tokio::select! {
                () = stop.cancelled() => break,
                turn = self.turn() => turn,
            };
            let turn::Next::At(until) = turn;
            let now = Timestamp::now();
            let pause = until.map_or(LONGEST, |at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
            let depends = self.application.as_ref().is_some_and(|one| !one.depends_on.is_empty());
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.object.changed() => if changed.is_err() { break },
                () = self.sources.changed() => {}
                _ = changes.changed() => {}
                _ = waits.changed() => {}
                _ = projects.changed() => {}
                _ = glass.changed() => {}
                _ = flux.changed(), if self.id.front == super::application::Front::Flux => {}
                _ = standings.changed(), if depends => {}
                event = judge::next(&mut self.judge) => judge::take(&mut self.judge, event),
                note = next_note(&mut self.running) => self.take_note(note),
                outcome = make::made(&mut self.making) => self.take_made(outcome),
                outcome = farewell::left(&mut self.leaving) => self.take_left(outcome),
                () = tokio::time::sleep(pause.min(LONGEST)) => {}
            }
        }
        self.end_work().await;
        self.shared.standings.send_modify(|all| drop(all.remove(&self.id)));
        self.shared.drifts.forget(&self.subject());
        self.shared.held.lock().remove(&self.id);
    }

    /// How its lock is asked for.
    fn door(&self, reason: String) -> Door {
        let request = Request::of_this_process("git sync".to_owned(), reason);
        let request = Request { life: Some(self.shared.life.clone()), ..request };
        Door { client: self.shared.client.clone(), request, waits: self.waits.clone() }
    }

    /// Ends a sync or hooks in the middle, and gives back the lock that they held. Where that cannot be told it ends by itself.
    async fn end_work(&mut self) {
        let (running, leaving) = (self.running.take(), self.leaving.take());
        let (running, leaving) = (running.map(|one| one.task), leaving.map(farewell::Leaving::into_task));
        if running.is_none() && leaving.is_none() {
            return;
        }
        for task in [running, leaving].into_iter().flatten() {
            task.abort();
            let _ = task.await;
        }
        let request = self.door(String::new()).request;
        let left = lock::leave(self.shared.client.clone(), &self.set, &request);
        if let Ok(Err(error)) = tokio::time::timeout(LAST_WORD, left).await {
            tracing::debug!(application = %self.id, %error, "a lock could not be given back, and ends by itself");
        }
    }
}

/// What is said of a sync in the middle of which an earlier life ended, until it is done again.
fn cut_short(content: &Content, object: &Value) -> super::report::Operation {
    let now = Timestamp::now();
    super::report::Operation {
        phase: "Error",
        message: "Coracle ended in the middle of this sync; where syncs happen by themselves it is done again, else ask again".to_owned(),
        content: content.clone(),
        started: now,
        finished: Some(now),
        retries: 0,
        operation: object["status"]["operationState"]["operation"].clone(),
        done: Vec::new(),
    }
}

/// The next note of a sync that goes on; none at its end.
async fn next_note(running: &mut Option<Running>) -> Option<Note> {
    match running {
        Some(running) => running.notes.recv().await,
        None => std::future::pending().await,
    }
}
