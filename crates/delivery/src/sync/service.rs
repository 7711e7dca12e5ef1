//! Puts the sync together and runs it: watches the kinds that users write, gives each application an actor, ends all in order.
//!
//! Invariants: an application's actor that breaks is begun again and takes nobody with it; when this ends, everything in the
//! cluster stays as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kube::api::{Api as KubeApi, ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::account::Accounts;
use super::actor::{Actor, Shared, Standing};
use super::application::{AppId, Front};
use super::break_glass::{self, Glass};
use super::commit_status::{self, Endpoint};
use super::credentials::Credentials;
use super::front::flux;
use super::front::project::Project;
use super::git::{Git, GitError, Limits};
use super::programs::Programs;
use super::repository::{Period, Repositories};
use super::source_status;
use crate::api::Api;
use crate::object;

/// How many lines of builds are kept for those who listen slowly.
const LINES: usize = 1024;

/// How the sync is to run.
#[derive(Clone)]
pub struct Settings {
    /// Where mirrors, keys and our own repositories are kept.
    pub home: PathBuf,
    /// Bounds on repositories.
    pub limits: Limits,
    /// How often a repository is looked at where nothing tells of changes.
    pub period: Period,
    /// Where commit statuses are told.
    pub commit_status: Option<Endpoint>,
    /// Who makes programs of commits; where nobody does, recipes are not looked at.
    pub programs: Option<Arc<dyn Programs>>,
}

impl Settings {
    /// Every default; state below `home`.
    #[must_use]
    pub fn new(home: PathBuf) -> Self {
        let period = Period { every: Duration::from_secs(120), jitter: Duration::from_secs(60) };
        Self { home, limits: Limits::default(), period, commit_status: None, programs: None }
    }
}

/// The sync ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part of it broke.
    #[error("the Git sync ends: {task} broke: {reason}; this is a defect of Coracle, and the cluster stays as it is")]
    Task {
        /// Which part.
        task: &'static str,
        /// What it said.
        reason: String,
    },
}

/// The sync. It does nothing until [`Sync::run`].
pub struct Sync {
    shared: Arc<Shared>,
    statuses: Option<(futures::future::BoxFuture<'static, ()>, CancellationToken)>,
}

/// Looks at repositories and at how applications stand. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Looks at every repository whose URL is meant, now; how many those are.
    pub fn poke(&self, means: impl Fn(&str) -> bool) -> usize {
        self.shared.repositories.poke(means)
    }

    /// How every application stands.
    #[must_use]
    pub fn standings(&self) -> watch::Receiver<BTreeMap<AppId, Standing>> {
        self.shared.standings.subscribe()
    }

    /// How many objects of each application and applied set have drifted.
    #[must_use]
    pub fn drifts(&self) -> Arc<crate::drift::board::Board> {
        Arc::clone(&self.shared.drifts)
    }

    pub(crate) fn receivers(&self) -> &super::receivers::Receivers {
        &self.shared.receivers
    }

    /// What builds say from now on: the repository and a line.
    pub(crate) fn said(&self) -> tokio::sync::broadcast::Receiver<(String, String)> {
        self.shared.said.subscribe()
    }

    /// Says where our own remote answers.
    pub(crate) fn listens(&self, address: std::net::SocketAddr) {
        // The first one is the one that is told of.
        let _ = self.shared.remote.set(address);
    }

    /// Where our own remote answers.
    pub(crate) fn remote(&self) -> Option<std::net::SocketAddr> {
        self.shared.remote.get().copied()
    }

    /// The API.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.shared.api
    }
}

/// Makes the sync and the handle to it. [`super::install`] comes before [`Sync::run`].
///
/// # Errors
///
/// When the directory cannot be made.
pub fn build(settings: Settings, client: kube::Client) -> Result<(Sync, Handle), GitError> {
    let git = Git::new(&settings.home, settings.limits)?;
    let api = Api::over(client.clone());
    let trees = settings.home.join("trees");
    // What a killed run had written out is nobody's.
    let _ = std::fs::remove_dir_all(&trees);
    let repositories = Repositories::new(git, Credentials::new(api.clone()), settings.period);
    let (reporter, statuses) = match settings.commit_status {
        Some(endpoint) => {
            let (reporter, work, stop) = commit_status::reporter(endpoint);
            (Some(reporter), Some((work.boxed(), stop)))
        }
        None => (None, None),
    };
    let shared = Arc::new(Shared {
        client,
        life: format!("{:016x}", fastrand::u64(..)),
        accounts: Arc::new(Accounts::new(api.clone())),
        api,
        repositories,
        trees,
        projects: watch::Sender::default(),
        glass: watch::Sender::default(),
        flux: watch::Sender::default(),
        standings: watch::Sender::default(),
        statuses: reporter,
        drifts: Arc::default(),
        receivers: Arc::default(),
        programs: settings.programs,
        held: parking_lot::Mutex::default(),
        remote: std::sync::OnceLock::new(),
        said: tokio::sync::broadcast::Sender::new(LINES),
    });
    Ok((Sync { shared: Arc::clone(&shared), statuses }, Handle { shared }))
}

/// A kind that is watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Watched {
    Application,
    AppProject,
    GitRepository,
    Kustomization,
    BreakGlass,
}

impl Watched {
    const ALL: [Self; 5] =
        [Self::AppProject, Self::GitRepository, Self::BreakGlass, Self::Application, Self::Kustomization];

    fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::Application => ("argoproj.io", "v1alpha1", "Application", "applications"),
            Self::AppProject => ("argoproj.io", "v1alpha1", "AppProject", "appprojects"),
            Self::GitRepository => ("source.toolkit.fluxcd.io", "v1", "GitRepository", "gitrepositories"),
            Self::Kustomization => ("kustomize.toolkit.fluxcd.io", "v1", "Kustomization", "kustomizations"),
            Self::BreakGlass => ("", "v1", "ConfigMap", "configmaps"),
        };
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let (group, version, kind, plural) = (group.to_owned(), version.to_owned(), kind.to_owned(), plural.to_owned());
        ApiResource { group, version, api_version, kind, plural }
    }
}

/// One step of a watch, with the object as JSON.
enum Step {
    Begun(Watched),
    Listed(Watched),
    There(Watched, Value, bool),
    Gone(Watched, Value),
}

fn steps(client: &kube::Client, kind: Watched) -> futures::stream::BoxStream<'static, Step> {
    let resource = kind.resource();
    let (api, config) = match kind {
        Watched::BreakGlass => (
            KubeApi::namespaced_with(client.clone(), "kube-system", &resource),
            watcher::Config::default().fields("metadata.name=coracle-break-glass"),
        ),
        _ => (KubeApi::all_with(client.clone(), &resource), watcher::Config::default()),
    };
    let json = move |object: DynamicObject| {
        let mut value = serde_json::to_value(&object).unwrap_or_default();
        value["apiVersion"] = resource.api_version.as_str().into();
        value["kind"] = resource.kind.as_str().into();
        value
    };
    let events = watcher(api, config).default_backoff();
    events
        .filter_map(move |event| {
            let step = match event {
                Ok(watcher::Event::Init) => Some(Step::Begun(kind)),
                Ok(watcher::Event::InitDone) => Some(Step::Listed(kind)),
                Ok(watcher::Event::InitApply(object)) => Some(Step::There(kind, json(object), true)),
                Ok(watcher::Event::Apply(object)) => Some(Step::There(kind, json(object), false)),
                Ok(watcher::Event::Delete(object)) => Some(Step::Gone(kind, json(object))),
                Err(error) => {
                    tracing::debug!(?kind, %error, "a watch is begun again");
                    None
                }
            };
            futures::future::ready(step)
        })
        .boxed()
}

/// An application that has an actor.
struct Held {
    object: watch::Sender<Arc<Value>>,
    stop: CancellationToken,
}

impl Sync {
    /// Syncs until `shutdown`. The cluster stays as it is then.
    ///
    /// # Errors
    ///
    /// When a part of it broke.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let mut rest = JoinSet::new();
        let stop_statuses = self.statuses.take().map(|(work, stop)| {
            rest.spawn(work);
            stop
        });
        let stop_glass = CancellationToken::new();
        rest.spawn(keep_records(Arc::clone(&self.shared), stop_glass.clone()));
        let stop_drift = CancellationToken::new();
        let (client, drifts) = (self.shared.client.clone(), Arc::clone(&self.shared.drifts));
        rest.spawn(crate::drift::watch::run(client.clone(), drifts, stop_drift.clone()));
        rest.spawn(crate::protect::claims::run(client.clone(), stop_drift.clone()));
        rest.spawn(super::receivers::run(client, Arc::clone(&self.shared.receivers), stop_drift.clone()));
        let accounts = Arc::clone(&self.shared.accounts);
        rest.spawn(async move { accounts.sweep().await });
        let stop_sources = CancellationToken::new();
        rest.spawn(source_status::run(Arc::clone(&self.shared), stop_sources.clone()));
        let outcome = Supervisor::new(Arc::clone(&self.shared)).run(&shutdown).await;
        self.shared.repositories.stop().await;
        stop_drift.cancel();
        stop_sources.cancel();
        stop_glass.cancel();
        if let Some(stop) = stop_statuses {
            stop.cancel();
        }
        while let Some(ended) = rest.join_next().await {
            ended.map_err(|error| RunError::Task { task: "a helper", reason: error.to_string() })?;
        }
        outcome
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    held: BTreeMap<AppId, Held>,
    actors: JoinSet<AppId>,
    /// What a list that goes on has named so far.
    listing: BTreeMap<Watched, Vec<Value>>,
}

impl Supervisor {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, held: BTreeMap::new(), actors: JoinSet::new(), listing: BTreeMap::new() }
    }

    async fn run(mut self, shutdown: &CancellationToken) -> Result<(), RunError> {
        let client = self.shared.client.clone();
        let mut all = futures::stream::select_all(Watched::ALL.map(|kind| steps(&client, kind)));
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.actors.join_next_with_id() => self.ended(ended),
                step = all.next() => match step {
                    Some(step) => self.take(step),
                    None => return Err(RunError::Task { task: "the watches", reason: "they ended".to_owned() }),
                },
            }
        }
        self.held.values().for_each(|held| held.stop.cancel());
        while self.actors.join_next().await.is_some() {}
        Ok(())
    }

    /// An actor ended: its application is gone, or it broke and is begun again.
    fn ended(&mut self, ended: Result<(tokio::task::Id, AppId), tokio::task::JoinError>) {
        match ended {
            Ok((_, id)) => {
                if self.held.get(&id).is_some_and(|held| held.stop.is_cancelled()) {
                    self.held.remove(&id);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the sync of an application broke; the cluster stays as it is, and it is begun again");
                let broken: Vec<(AppId, Arc<Value>)> = self
                    .held
                    .iter()
                    .filter(|(_, held)| held.object.receiver_count() == 0)
                    .map(|(id, held)| (id.clone(), held.object.borrow().clone()))
                    .collect();
                for (id, object) in broken {
                    self.held.remove(&id);
                    self.hold(id, object);
                }
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Begun(kind) => drop(self.listing.insert(kind, Vec::new())),
            Step::There(kind, object, true) => self.listing.entry(kind).or_default().push(object),
            Step::There(kind, object, false) => self.there(kind, object),
            Step::Gone(kind, object) => self.gone(kind, &object),
            Step::Listed(kind) => {
                let listed = self.listing.remove(&kind).unwrap_or_default();
                self.forget_unlisted(kind, &listed);
                listed.into_iter().for_each(|object| self.there(kind, object));
                if kind == Watched::AppProject {
                    self.shared.projects.send_modify(|known| known.listed = true);
                }
            }
        }
    }

    fn forget_unlisted(&mut self, kind: Watched, listed: &[Value]) {
        let keys: Vec<(String, String)> = listed.iter().map(key).collect();
        match kind {
            Watched::Application | Watched::Kustomization => {
                let front = if kind == Watched::Application { Front::Argo } else { Front::Flux };
                let gone = self
                    .held
                    .iter()
                    .filter(|(id, _)| id.front == front && !keys.contains(&(id.namespace.clone(), id.name.clone())));
                gone.for_each(|(_, held)| held.stop.cancel());
            }
            Watched::AppProject => self.shared.projects.send_modify(|known| {
                known.all.retain(|one, _| keys.contains(one));
            }),
            Watched::GitRepository => self.shared.flux.send_modify(|all| all.retain(|one, _| keys.contains(one))),
            Watched::BreakGlass => {}
        }
    }

    fn there(&mut self, kind: Watched, object: Value) {
        match kind {
            Watched::Application => self.application(Front::Argo, object),
            Watched::Kustomization => self.application(Front::Flux, object),
            Watched::AppProject => {
                let project = Project::read(&object);
                self.shared.projects.send_if_modified(|known| {
                    known.all.insert(key(&object), project.clone()).as_ref() != Some(&project)
                });
            }
            Watched::GitRepository => {
                let read = flux::repository(&object).map_err(|wrong| wrong.join("; "));
                if let Ok(now) = read.as_ref() {
                    let known = self.shared.flux.borrow();
                    let before = known.get(&key(&object)).and_then(|before| before.as_ref().ok());
                    // The first look is made without being asked for.
                    if now.requested.is_some() && before.is_some_and(|before| before.requested != now.requested) {
                        self.shared.repositories.poke(|url| url == now.source.url);
                    }
                }
                self.shared.flux.send_if_modified(|all| all.insert(key(&object), read.clone()).as_ref() != Some(&read));
            }
            Watched::BreakGlass => {
                let glass = Glass::read(&object);
                // Acts are ours; only sessions come from outside.
                self.shared.glass.send_if_modified(|known| {
                    let changed = known.sessions != glass.sessions;
                    known.sessions = glass.sessions;
                    for (id, acts) in glass.acts {
                        known.acts.entry(id).or_insert(acts);
                    }
                    changed
                });
            }
        }
    }

    fn gone(&mut self, kind: Watched, object: &Value) {
        match kind {
            Watched::Application | Watched::Kustomization => {
                let front = if kind == Watched::Application { Front::Argo } else { Front::Flux };
                if let Some(held) = self.held.get(&id(front, object)) {
                    held.stop.cancel();
                }
            }
            Watched::AppProject => self.shared.projects.send_modify(|known| drop(known.all.remove(&key(object)))),
            Watched::GitRepository => self.shared.flux.send_modify(|all| drop(all.remove(&key(object)))),
            Watched::BreakGlass => drop(self.shared.glass.send_replace(Glass::default())),
        }
    }

    fn application(&mut self, front: Front, object: Value) {
        let id = id(front, &object);
        let object = Arc::new(object);
        match self.held.get(&id) {
            // What the actor itself writes into the status is no news to it.
            Some(held) if !held.stop.is_cancelled() => {
                held.object.send_if_modified(|known| {
                    let news = concerns(known) != concerns(&object);
                    *known = Arc::clone(&object);
                    news
                });
            }
            _ => self.hold(id, object),
        }
    }

    fn hold(&mut self, id: AppId, object: Arc<Value>) {
        let (sender, receiver) = watch::channel(object);
        let stop = CancellationToken::new();
        let actor = Actor::new(Arc::clone(&self.shared), id.clone(), receiver);
        let (ended, token) = (id.clone(), stop.clone());
        let accounts = Arc::clone(&self.shared.accounts);
        self.actors.spawn(async move {
            actor.run(token).await;
            accounts.leave(&ended).await;
            ended
        });
        self.held.insert(id, Held { object: sender, stop });
    }
}

/// What of an object is news to its actor.
fn concerns(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!([
        object["spec"],
        object["operation"],
        metadata["annotations"],
        metadata["deletionTimestamp"],
        metadata["finalizers"],
        metadata["uid"]
    ])
}

fn key(object: &Value) -> (String, String) {
    (object::namespace(object).to_owned(), object::name(object).to_owned())
}

fn id(front: Front, object: &Value) -> AppId {
    AppId { front, namespace: object::namespace(object).to_owned(), name: object::name(object).to_owned() }
}

/// Writes what was done by hand into the record of its session.
async fn keep_records(shared: Arc<Shared>, stop: CancellationToken) {
    let mut glass = shared.glass.subscribe();
    let mut kept = glass.borrow_and_update().acts.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = glass.changed() => if changed.is_err() { return },
        }
        let now = glass.borrow_and_update().clone();
        if now.acts == kept || now.sessions.is_empty() {
            continue;
        }
        match shared.api.merge(break_glass::PATH, &now.acts_patch(), super::engine::compare::MANAGER).await {
            Ok(_) => kept = now.acts,
            Err(error) => {
                tracing::warn!(%error, "what was done by hand could not be recorded; it is tried with the next act")
            }
        }
    }
}
