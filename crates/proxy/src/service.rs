//! The running proxy: applies snapshots one after the other, owns every task, and ends them in order.
//!
//! Invariants: nothing changes before a snapshot has been compiled whole; a listener is swapped before the endpoints that only the old
//! one used are retired, so that every request finds a rule whose endpoints serve.

mod beside;
mod hold;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Audit, Places};
use crate::balance::{Backend, Members};
use crate::config::Settings;
use crate::endpoint::{Endpoint, Endpoints};
use crate::error::{BindError, Refused, RunError};
use crate::explain::{self, Explanation, Question};
use crate::handle::{Applied, Bound, Handle};
use crate::identity::{Callers, Credentials, Dependencies, Speaker};
use crate::keep;
use crate::listen::{self, Slot};
use crate::mirror;
use crate::names::{Names, Resolved};
use crate::network::{Ground, Network};
use crate::observe::{Observer, Sampler};
use crate::peer::Peers;
use crate::rejection::Rejections;
use crate::route::{Ingredients, Table, compile};
use crate::snapshot::{self, BackendId, Listener, Snapshot};
use crate::stats::{Registry, Stats};
use crate::traffic::States;
use crate::upstream::Dial;
use crate::workers::{self, Threads, Workers};

/// What a handle asks for.
pub(crate) enum Command {
    Apply {
        snapshot: Snapshot,
        reply: oneshot::Sender<Result<Applied, Refused>>,
    },
    /// Close these listeners; the reply is what still serves their connections.
    Close {
        listeners: Vec<Arc<str>>,
        reply: oneshot::Sender<Vec<Arc<Slot>>>,
    },
    /// Open the sockets that are held.
    Open {
        reply: oneshot::Sender<()>,
    },
    /// What would a request meet? None where there is no such listener.
    Explain {
        question: Box<Question>,
        reply: oneshot::Sender<Option<Explanation>>,
    },
}

/// What every connection uses.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    /// Where clients' connections are served.
    pub(crate) workers: Workers,
    pub(crate) endpoints: Endpoints,
    pub(crate) counters: Registry,
    /// What policies remember.
    pub(crate) states: States,
    /// One for each client connection there may be.
    pub(crate) permits: Arc<Semaphore>,
    /// One for each copy of a request that may be under way.
    pub(crate) mirrors: Arc<Semaphore>,
    /// Shared connections to endpoints.
    pub(crate) upstreams: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) callers: Option<Arc<dyn Callers>>,
    /// The network beside the machine's own.
    pub(crate) network: Option<Arc<dyn Network>>,
    /// What other proxies may ask for.
    pub(crate) named: ArcSwap<HashMap<Arc<str>, Arc<Table>>>,
    /// Connections with other proxies, where there are certificates for them.
    pub(crate) peers: Option<Arc<Peers>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) sampler: Sampler,
    pub(crate) audit: Audit,
    /// Connections that were refused.
    pub(crate) refused: Rejections,
}

impl Shared {
    /// How connections to endpoints are made in the name of `speaker`.
    pub(crate) fn dial<'a>(&'a self, speaker: Speaker<'a>) -> Dial<'a> {
        Dial {
            limit: self.settings.connect_timeout,
            peers: self.peers.as_ref(),
            network: self.network.as_ref(),
            refused: &self.refused,
            speaker,
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            connections: self.settings.max_connections.saturating_sub(self.permits.available_permits()),
            parked: self.workers.parked(),
            in_flight: self.endpoints.in_flight(),
            series: self.counters.read(),
            policies: self.states.read(),
            refusals: self.audit.read(),
            rejections: self.refused.read(),
        }
    }
}

/// The proxy, ready to run.
pub struct Proxy {
    shared: Arc<Shared>,
    threads: Threads,
    commands: mpsc::Receiver<Command>,
    bound: watch::Sender<Bound>,
    listeners: HashMap<SocketKey, Running>,
    ended: JoinSet<usize>,
    backends: HashMap<BackendId, (snapshot::Backend, Arc<Backend>)>,
    tables: HashMap<Arc<str>, (Listener, Arc<Table>)>,
    places: Places,
    names: Names,
    /// Ports at this machine that no name may lead to.
    taken: HashSet<u16>,
    /// There is the network beside the machine's own.
    joined: bool,
    /// All sockets that are to be in it are there.
    beside: watch::Sender<bool>,
    /// Where snapshots are kept, if they are.
    keep: Option<watch::Sender<Option<Snapshot>>>,
    /// Sockets that are not opened yet.
    hold: Option<hold::Hold>,
    /// Listeners that were closed on purpose since the last application.
    closed: HashSet<Arc<str>>,
}

/// What makes a socket the same one in two snapshots. Where the system chooses the port, only the listener's id tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SocketKey {
    bind: SocketAddr,
    fallback: Option<SocketAddr>,
    id: Option<Arc<str>>,
}

impl SocketKey {
    fn of(listener: &Listener) -> Self {
        let id = (listener.bind.port() == 0).then(|| listener.id.clone());
        Self { bind: listener.bind, fallback: listener.fallback, id }
    }
}

struct Running {
    address: SocketAddr,
    slot: Arc<Slot>,
    closed: oneshot::Receiver<()>,
    /// Its sockets in the other network, by their addresses.
    beside: HashMap<SocketAddr, oneshot::Receiver<()>>,
}

impl Running {
    /// Tells connections to finish, and waits until its sockets are closed.
    async fn unbind(self) -> Arc<Slot> {
        self.slot.life.drain();
        for closed in self.beside.into_values().chain([self.closed]) {
            // An error means that its task is gone, and the socket with it.
            let _ = closed.await;
        }
        self.slot
    }
}

/// Makes a proxy that serves nothing yet.
#[must_use]
pub fn build(settings: Settings, dependencies: Dependencies) -> (Proxy, Handle) {
    let (commands, received) = mpsc::channel(16);
    let (bound, following) = watch::channel(Arc::default());
    let (beside, complete) = watch::channel(false);
    let (threads, workers) = workers::start(settings.threads, settings.glance);
    let shared = Arc::new(Shared {
        workers,
        endpoints: Endpoints::new(settings.threads),
        counters: Registry::new(settings.max_series),
        states: States::new(settings.max_series),
        permits: Arc::new(Semaphore::new(settings.max_connections)),
        mirrors: Arc::new(Semaphore::new(mirror::MOST)),
        upstreams: TaskTracker::new(),
        stop: CancellationToken::new(),
        callers: dependencies.callers,
        network: dependencies.network,
        named: ArcSwap::default(),
        peers: dependencies.credentials.and_then(peers),
        observer: dependencies.observer,
        sampler: Sampler::new(settings.recording.ratio, settings.recording.per_second),
        audit: Audit::new(),
        refused: Rejections::new(),
        settings,
    });
    let handle = Handle { commands, shared: Arc::clone(&shared), bound: following, beside: complete };
    let proxy = Proxy {
        shared,
        threads,
        commands: received,
        bound,
        listeners: HashMap::new(),
        ended: JoinSet::new(),
        backends: HashMap::new(),
        tables: HashMap::new(),
        places: Places::default(),
        names: Names::default(),
        taken: HashSet::new(),
        joined: false,
        beside,
        keep: None,
        hold: None,
        closed: HashSet::new(),
    };
    (proxy, handle)
}

fn peers(credentials: Arc<dyn Credentials>) -> Option<Arc<Peers>> {
    let made = Peers::new(credentials).map(Arc::new);
    made.inspect_err(|error| tracing::error!(%error, "no connections with other proxies: TLS 1.3 is not to be had"))
        .ok()
}

/// A snapshot that can be served.
struct Compiled {
    tables: Vec<(Listener, Arc<Table>)>,
    backends: HashMap<BackendId, (snapshot::Backend, Arc<Backend>)>,
    places: Places,
}

impl Proxy {
    /// Serves until `shutdown`, then lets connections end for as long as [`Settings::drain`] says. It goes on serving what
    /// was applied last when every handle is gone.
    ///
    /// # Errors
    ///
    /// Connections that did not end in that time; they were closed.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let keeper = self.restore().await;
        let pause = (self.shared.settings.pool_idle / 2).max(Duration::from_millis(10));
        let mut sweep = tokio::time::interval(pause);
        let mut handles = true;
        let network = self.shared.network.clone();
        let mut joined = std::pin::pin!(async move {
            match network {
                Some(network) => network.ready().await,
                None => std::future::pending().await,
            }
        });
        loop {
            let held = self.held_until();
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = hold::passed(held) => {
                    tracing::info!("not all that was served before answers again; connections are taken all the same");
                    self.open();
                }
                command = self.commands.recv(), if handles => match command {
                    Some(Command::Apply { snapshot, reply }) => {
                        let applied = self.apply(snapshot).await;
                        // Whoever asked may have gone; the snapshot serves all the same.
                        let _ = reply.send(applied);
                    }
                    Some(Command::Close { listeners, reply }) => {
                        let _ = reply.send(self.close(&listeners).await);
                    }
                    Some(Command::Open { reply }) => {
                        self.open();
                        let _ = reply.send(());
                    }
                    Some(Command::Explain { question, reply }) => {
                        let table = self.tables.get(&question.listener);
                        let _ = reply.send(table.map(|(_, table)| explain::explain(table, &question)));
                    }
                    None => handles = false,
                },
                resolved = self.names.found() => self.learn(resolved),
                () = &mut joined, if !self.joined => {
                    self.joined = true;
                    if self.joined && !*self.beside.borrow() {
                        self.listen_beside().await;
                    }
                }
                _ = sweep.tick() => {
                    self.shared.endpoints.sweep(Instant::now());
                    self.bind_again();
                    self.listen_beside().await;
                }
                // A listener that went with an earlier snapshot has drained.
                Some(_) = self.ended.join_next() => {}
            }
        }
        // Nothing is applied any more, so what the keeper has is the last.
        self.keep = None;
        if let Some(keeper) = keeper {
            keeper.ended().await;
        }
        self.end().await
    }

    /// Serves what an earlier life has kept, until somebody applies what is true now, and goes on keeping.
    async fn restore(&mut self) -> Option<keep::Keeper> {
        let path = self.shared.settings.keep.clone()?;
        let kept = match keep::load(&path).await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!("{error}; nothing is served until routes are known");
                None
            }
        };
        self.hold = kept.as_ref().and_then(|kept| hold::Hold::of(kept, self.shared.settings.hold));
        if let Some(snapshot) = kept.clone()
            && let Err(refused) = self.apply(snapshot).await
        {
            tracing::warn!(path = %path.display(), "the kept snapshot is not served: {refused}");
        }
        let (keeper, keep) = keep::Keeper::start(path, kept);
        self.keep = Some(keep);
        Some(keeper)
    }

    /// Unbinds listeners and tells their connections to finish. The next application binds them again, if it has them.
    async fn close(&mut self, ids: &[Arc<str>]) -> Vec<Arc<Slot>> {
        let sockets = ids.iter().filter_map(|id| self.tables.get(id)).map(|(listener, _)| SocketKey::of(listener));
        let mut slots = Vec::new();
        self.closed.extend(ids.iter().cloned());
        let sockets: HashSet<SocketKey> = sockets.collect();
        self.hold.iter_mut().for_each(|hold| hold.retain(|key| !sockets.contains(key)));
        for running in sockets.iter().filter_map(|key| self.listeners.remove(key)).collect::<Vec<_>>() {
            slots.push(running.unbind().await);
        }
        slots
    }

    async fn end(mut self) -> Result<(), RunError> {
        self.commands.close();
        for running in self.listeners.values() {
            running.slot.life.drain();
        }
        let mut open = 0;
        while let Some(forced) = self.ended.join_next().await {
            open += forced.unwrap_or(0);
        }
        self.shared.endpoints.retire_others(|_| false);
        self.shared.stop.cancel();
        self.shared.upstreams.close();
        self.shared.upstreams.wait().await;
        self.threads.end().await;
        if open == 0 { Ok(()) } else { Err(RunError::NotDrained { open, limit: self.shared.settings.drain }) }
    }

    async fn apply(&mut self, snapshot: Snapshot) -> Result<Applied, Refused> {
        // Until then, what was kept is served.
        let live = self.keep.is_some();
        let mut at_rest = live.then(|| snapshot.at_rest());
        at_rest.iter_mut().for_each(|at_rest| self.remember(at_rest));
        let compiled = self.compile(snapshot)?;
        // What becomes stricter is so before anything new can be reached.
        compiled
            .places
            .serve(&self.places, &self.shared, |id| compiled.backends.get(id).map(|(_, backend)| Arc::clone(backend)));
        self.names.follow(compiled.backends.values().map(|(backend, _)| backend), &self.shared);
        self.taken = self.taken(&compiled);
        self.serve_backends(&compiled)?;
        let sockets: HashSet<SocketKey> = compiled.tables.iter().map(|(listener, _)| SocketKey::of(listener)).collect();
        self.unbind_others(&sockets).await;
        let mut bound = BTreeMap::new();
        for (listener, table) in &compiled.tables {
            bound.insert(listener.id.clone(), self.serve_listener(listener, table, &compiled));
        }
        self.closed.clear();
        self.held(live);
        self.name(&compiled);
        self.tables =
            compiled.tables.into_iter().map(|(listener, table)| (listener.id.clone(), (listener, table))).collect();
        self.listen_beside().await;
        self.backends = compiled.backends;
        self.shared.states.sweep();
        self.places = compiled.places;
        self.retire();
        let bound: Bound = Arc::new(bound);
        self.bound.send_replace(Arc::clone(&bound));
        if let (Some(keep), Some(at_rest)) = (&self.keep, at_rest) {
            keep.send_replace(Some(at_rest));
        }
        Ok(Applied { bound })
    }

    /// The ports that listed endpoints and listeners have.
    fn taken(&self, compiled: &Compiled) -> HashSet<u16> {
        let endpoints = compiled.backends.values().flat_map(|(backend, _)| &backend.endpoints);
        let listeners = compiled.tables.iter().flat_map(|(listener, _)| [Some(listener.bind), listener.fallback]);
        let bound = self.listeners.values().map(|running| running.address.port());
        endpoints.map(|e| e.address.port()).chain(listeners.flatten().map(|at| at.port())).chain(bound).collect()
    }

    /// Sends to what a name stands for now.
    fn learn(&mut self, resolved: Resolved) {
        let Some(host) = self.names.learn(resolved, self.shared.network.as_ref()) else { return };
        for (backend, live) in self.backends.values() {
            if backend.names.iter().any(|name| name.host == host) {
                let (protocol, when_empty, place) = (backend.protocol, backend.when_empty, live.place());
                live.replace(Members { endpoints: self.endpoints(backend), protocol, when_empty, place });
            }
        }
        self.retire();
    }

    /// What a backend sends to now.
    fn endpoints(&self, backend: &snapshot::Backend) -> Vec<Arc<Endpoint>> {
        let serving = |endpoint: &snapshot::Endpoint| self.shared.endpoints.serving(endpoint);
        if backend.names.is_empty() {
            return backend.endpoints.iter().map(serving).collect();
        }
        self.names.endpoints(backend, &self.taken).iter().map(serving).collect()
    }

    /// Lets go of endpoints that no backend has.
    fn retire(&mut self) {
        self.names.tell(self.backends.values().map(|(backend, _)| backend), &self.taken);
        let all = || self.backends.values().map(|(backend, _)| backend);
        let named: HashSet<snapshot::Endpoint> = all()
            .filter(|backend| !backend.names.is_empty())
            .flat_map(|backend| self.names.endpoints(backend, &self.taken))
            .collect();
        let listed: HashSet<&snapshot::Endpoint> = all().flat_map(|backend| &backend.endpoints).collect();
        self.shared.endpoints.retire_others(|endpoint| listed.contains(endpoint) || named.contains(endpoint));
    }

    /// Lets other proxies ask for what they now may.
    fn name(&self, compiled: &Compiled) {
        let named = compiled.tables.iter().filter_map(|(l, table)| Some((l.peer_name.clone()?, Arc::clone(table))));
        let named = Arc::new(named.collect::<HashMap<_, _>>());
        self.shared.named.store(Arc::clone(&named));
        for running in self.listeners.values() {
            running.slot.renew(&named);
        }
    }

    /// Checks and compiles everything. Nothing changes yet.
    fn compile(&self, snapshot: Snapshot) -> Result<Compiled, Refused> {
        check_listeners(&snapshot.listeners)?;
        let named = |id: &BackendId| match self.backends.get(id) {
            Some((_, backend)) => Arc::clone(backend),
            None => Arc::new(Backend::new(id.clone())),
        };
        let by_id: HashMap<BackendId, Arc<Backend>> =
            snapshot.backends.keys().map(|id| (id.clone(), named(id))).collect();
        let places = self.places.compile(&snapshot, &by_id)?;
        for (id, place) in snapshot.backends.iter().filter_map(|(id, backend)| Some((id, backend.place.as_ref()?))) {
            places.get(id, place)?;
        }
        let still_there = self.still_there(&by_id) && self.places.all_in(&places);
        let Shared { counters, states, .. } = &*self.shared;
        let ingredients = Ingredients { backends: &by_id, places: &places, counters, states };
        let mut tables = Vec::with_capacity(snapshot.listeners.len());
        for listener in snapshot.listeners {
            let table = match self.tables.get(&listener.id) {
                // The same words mean the same, as long as the backends they name are still there.
                Some((before, table)) if *before == listener && still_there => Arc::clone(table),
                _ => Arc::new(compile(&listener, &ingredients)?),
            };
            tables.push((listener, table));
        }
        let pair = |(id, backend): (BackendId, snapshot::Backend)| {
            let live = Arc::clone(&by_id[&id]);
            (id, (backend, live))
        };
        Ok(Compiled { tables, backends: snapshot.backends.into_iter().map(pair).collect(), places })
    }

    fn still_there(&self, by_id: &HashMap<BackendId, Arc<Backend>>) -> bool {
        self.backends.keys().all(|id| by_id.contains_key(id))
    }

    /// Gives every backend its endpoints of now. Endpoints that are in none any more go on serving until they are retired.
    fn serve_backends(&self, compiled: &Compiled) -> Result<(), Refused> {
        for (id, (backend, live)) in &compiled.backends {
            if backend.names.is_empty() && self.backends.get(id).is_some_and(|(before, _)| before == backend) {
                continue;
            }
            live.replace(Members {
                endpoints: self.endpoints(backend),
                protocol: backend.protocol,
                when_empty: backend.when_empty,
                place: backend.place.as_ref().map(|place| compiled.places.get(id, place)).transpose()?,
            });
        }
        Ok(())
    }

    /// Closes the sockets that are not wanted any more, and waits until they are closed (not until they have drained).
    async fn unbind_others(&mut self, wanted: &HashSet<SocketKey>) {
        self.hold.iter_mut().for_each(|hold| hold.retain(|key| wanted.contains(key)));
        let gone: Vec<SocketKey> = self.listeners.keys().filter(|key| !wanted.contains(*key)).cloned().collect();
        for running in gone.iter().filter_map(|key| self.listeners.remove(key)).collect::<Vec<_>>() {
            running.unbind().await;
        }
    }

    fn serve_listener(
        &mut self,
        listener: &Listener,
        table: &Arc<Table>,
        compiled: &Compiled,
    ) -> Result<SocketAddr, BindError> {
        let key = SocketKey::of(listener);
        if let Some(running) = self.listeners.get(&key) {
            running.slot.table.store(Arc::clone(table));
            return Ok(running.address);
        }
        let backend = |id: &BackendId| compiled.backends.get(id).map(|(backend, _)| backend);
        let (address, socket) = self.bind(listener, backend).map_err(|(address, source)| {
            let error = BindError { listener: listener.id.clone(), address, source: Arc::new(source) };
            tracing::warn!("{error}");
            error
        })?;
        if let Some(socket) = socket {
            let running = self.start(socket, address, table);
            self.listeners.insert(key, running);
        }
        Ok(address)
    }

    fn start(&mut self, socket: TcpListener, address: SocketAddr, table: &Arc<Table>) -> Running {
        let slot = Arc::new(Slot::new(Arc::clone(table)));
        let (tell, closed) = oneshot::channel();
        self.ended.spawn(listen::run(socket, Ground::Machine, Arc::clone(&slot), Arc::clone(&self.shared), tell));
        Running { address, slot, closed, beside: HashMap::new() }
    }
}

fn check_listeners(listeners: &[Listener]) -> Result<(), Refused> {
    let mut ids = HashSet::new();
    let mut addresses: HashMap<SocketAddr, &Arc<str>> = HashMap::new();
    let mut names = HashSet::new();
    for listener in listeners {
        if !ids.insert(&listener.id) {
            return Err(Refused::DuplicateListener { id: listener.id.clone() });
        }
        if let Some(name) = listener.peer_name.as_ref().filter(|name| !names.insert(*name)) {
            return Err(Refused::DuplicateHost { listener: listener.id.clone(), host: name.to_string() });
        }
        if listener.bind.port() != 0
            && let Some(first) = addresses.insert(listener.bind, &listener.id)
        {
            return Err(Refused::DuplicateAddress {
                address: listener.bind,
                first: first.clone(),
                second: listener.id.clone(),
            });
        }
    }
    Ok(())
}
