//! The server as a part of the program: built once, run until told to stop.
//!
//! Invariants: the port is bound by `build`, so that a port in use is known early; nothing is answered before the
//! bootstrap objects are there; every connection is a task of one set, and all have ended when `run` returns; so have the writes that
//! their clients did not wait for.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use store::Store;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::addresses::Addresses;
use crate::audit::{Peer, Trail};
use crate::config::{Limits, Settings};
use crate::credential::Credentials;
use crate::definitions::Definitions;
use crate::error::{BuildError, RunError};
use crate::extra::Pages;
use crate::handle::Handle;
use crate::logs::PodLogs;
use crate::openapi::Documents;
use crate::pki::{Authority, RENEW_AFTER};
use crate::policy::Policies;
use crate::server::Server;
use crate::sessions::PodSessions;
use crate::shares::Shares;
use crate::{bootstrap, catalog, expiry, files, kubeconfig, right};

/// What the server needs from others.
pub struct Dependencies {
    /// Where the logs of Pods are to be had.
    pub logs: Arc<dyn PodLogs>,
    /// Where containers can be talked to; without it there is neither exec nor attach nor port-forward.
    pub sessions: Option<Arc<dyn PodSessions>>,
    /// Who makes the pages beside the API; without it there are none.
    pub pages: Option<Arc<dyn Pages>>,
}

/// A server whose port is bound, ready to run.
pub struct ApiServer {
    server: Arc<Server>,
    listener: TcpListener,
    authority: Authority,
    tls: TlsAcceptor,
    handle: Handle,
}

/// Binds the port, reads or makes keys and credentials, writes the kubeconfig, and reads what is stored.
///
/// # Errors
/// See [`BuildError`]. Must be called within a Tokio runtime.
pub fn build(settings: Settings, store: Arc<dyn Store>, deps: Dependencies) -> Result<(ApiServer, Handle), BuildError> {
    let bind = |source| BuildError::Bind { address: settings.bind, source };
    let listener = std::net::TcpListener::bind(settings.bind).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let listener = TcpListener::from_std(listener).map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let addresses = Addresses::new(settings.service_cidr, settings.node_ports)
        .map_err(|reason| BuildError::Setting { name: "service_cidr or node_ports", reason })?;
    let pki = settings.data_dir.join("pki");
    files::private_folder(&pki)?;
    let authority = Authority::open(&pki, address.ip(), addresses.first().into(), jiff::Timestamp::now())?;
    let tls = TlsAcceptor::from(Arc::new(authority.server_config()?));
    let credentials = Credentials::open(&pki)?;
    let config = settings.data_dir.join("kubeconfig");
    let ca_pem = authority.pem();
    files::write_private(&config, kubeconfig::render(address, &ca_pem, credentials.admin_token()).as_bytes())?;
    let trail = Trail::open(&settings.data_dir.join("audit"))?;
    let definitions = Definitions::new();
    let limits = settings.limits.clone();
    let server = Arc::new(Server {
        catalog: ArcSwap::from_pointee(definitions.empty()),
        settings,
        access: Access::new(store.clone()),
        trail,
        store,
        definitions,
        credentials,
        addresses: Arc::new(addresses),
        logs: deps.logs,
        sessions: deps.sessions,
        pages: deps.pages,
        documents: Documents::default(),
        policies: Policies::default(),
        stopping: CancellationToken::new(),
        requests: Arc::new(Semaphore::new(limits.requests)),
        streams: Arc::new(Semaphore::new(limits.streams)),
        session_permits: Shares::halves(limits.sessions),
        session_tasks: TaskTracker::new(),
        writes: TaskTracker::new(),
        ready: watch::Sender::new(false),
        losses: watch::Sender::new(()),
    });
    server.definitions.refresh(&*server.store, &server.catalog);
    claim_addresses(&server)?;
    let handle = Handle { server: server.clone(), address, kubeconfig: Arc::new(config), ca_pem };
    Ok((ApiServer { server, listener, authority, tls, handle: handle.clone() }, handle))
}

/// Learns which addresses the stored Services have.
fn claim_addresses(server: &Server) -> Result<(), BuildError> {
    let prefix = catalog::prefix("", "services");
    let failed = |key: &str, reason: String| BuildError::Stored { key: key.to_owned(), reason };
    let listing = server.store.list(&prefix, None, 0, None).map_err(|error| failed(&prefix, error.to_string()))?;
    for entry in listing.entries {
        let service = serde_json::from_slice(&entry.value).map_err(|error| failed(&entry.key, error.to_string()))?;
        server.addresses.settle(&entry.key, || Some(service));
    }
    Ok(())
}

impl ApiServer {
    /// Serves until `shutdown`; then ends watches cleanly, lets requests under way finish, and returns.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        bootstrap::run(&self.server, self.handle.address).await?;
        for definition in terminating_definitions(&self.server) {
            crate::definitions::clean_up(&self.server, &definition).await;
        }
        self.server.ready.send_replace(true);
        tracing::info!(url = %self.handle.url(), "the API server is serving");
        let settings = &self.server.settings;
        let mut tasks = JoinSet::new();
        tasks.spawn(expiry::run(self.server.store.clone(), settings.event_ttl, settings.event_limit, shutdown.clone()));
        tasks.spawn(right::watch_for_losses(self.server.clone(), shutdown.clone()));
        let mut connections = JoinSet::new();
        self.accept(&shutdown, &mut connections).await;
        self.server.stopping.cancel();
        drop(self.listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(settings.limits.drain, drained).await.is_err() {
            tracing::warn!(left = connections.len(), "connections did not end in time and are cut");
            connections.shutdown().await;
        }
        let sessions = &self.server.session_tasks;
        sessions.close();
        if tokio::time::timeout(settings.limits.drain, sessions.wait()).await.is_err() {
            tracing::warn!(left = sessions.len(), "sessions with containers did not end in time");
        }
        let writes = &self.server.writes;
        writes.close();
        if tokio::time::timeout(settings.limits.drain, writes.wait()).await.is_err() {
            tracing::warn!(left = writes.len(), "writes did not end in time; the store refuses what it has not begun");
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                return Err(RunError::Task { task: "keeper of Events or of rights", reason: error.to_string() });
            }
        }
        Ok(())
    }

    async fn accept(&self, shutdown: &CancellationToken, connections: &mut JoinSet<()>) {
        let limits = &self.server.settings.limits;
        let room = Arc::new(Semaphore::new(limits.connections));
        let mut renewal = tokio::time::interval(RENEW_AFTER);
        renewal.reset();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                _ = renewal.tick() => {
                    if let Err(error) = self.authority.renew(jiff::Timestamp::now()) {
                        tracing::error!(%error, "the server's certificate could not be renewed");
                    }
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => match room.clone().try_acquire_owned() {
                        Ok(permit) => {
                            let connection = Connection { server: self.server.clone(), tls: self.tls.clone(), _permit: permit };
                            connections.spawn(connection.serve(stream));
                        }
                        Err(_) => tracing::warn!(%peer, limit = limits.connections, "refused: too many connections"),
                    },
                    Err(error) => {
                        // Out of file descriptors, most likely; trying again at once would spin.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    }
}

fn terminating_definitions(server: &Server) -> Vec<String> {
    let catalog = server.catalog.load();
    let mut names: Vec<String> = catalog
        .resources()
        .iter()
        .filter_map(|resource| resource.custom.as_ref().filter(|custom| custom.terminating))
        .map(|custom| custom.definition.clone())
        .collect();
    names.dedup();
    names
}

struct Connection {
    server: Arc<Server>,
    tls: TlsAcceptor,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        let limits = self.server.settings.limits.clone();
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok().map(|peer| Peer(peer.ip()));
        let stopping = self.server.stopping.clone();
        let secured = tokio::select! {
            secured = tokio::time::timeout(limits.head_time, self.tls.accept(stream)) => secured,
            () = stopping.cancelled() => return,
        };
        let stream = match secured {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "no TLS session"),
            Err(_) => return tracing::debug!("the TLS handshake took too long"),
        };
        let server = self.server.clone();
        let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            let server = server.clone();
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            async move { Ok::<_, std::convert::Infallible>(server.serve(request, None).await) }
        });
        let builder = protocol(&limits);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

fn protocol(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_buf_size(64 * 1024);
    // Every watch of a client is a stream of its one connection.
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
