//! The platform in one process: which role needs what, in which order they start, and in which they end.
//!
//! Start: store, proxy (with what it served last), API server, mesh, node, controllers, Git sync. End, so that no request is
//! lost: the sync and the controllers (nothing
//! new is made), the mesh (nothing is routed anew), the gateways (nothing new comes in, what is under way ends), the
//! node's Pods, the DNS server, the rest of the data plane, what it told, the API server, and the store last, so that every
//! status written on the way is kept.

use crate::adapters::{DataPlane, NodePods, PodCallers, Pods};
use crate::cli::Start;
use crate::connect::Api;
use crate::data_dir::{DataDir, Holder};
use crate::descriptors;
use crate::git_sync::GitSync;
use crate::identities::Identities;
use crate::seen::{self, Recorder, TrafficPages};
use crate::service_addresses::Block;
use crate::{cli, earlier_life, identities, instances, readiness};
use anyhow::Context;
use futures::{FutureExt, StreamExt};
use mesh::identity::federation::Follower;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How the platform is to run.
pub(crate) struct Settings {
    pub(crate) api_port: u16,
    pub(crate) gateway_port: Option<u16>,
    pub(crate) recipes: node::recipe::Recipes,
    pub(crate) seen: cli::Seen,
    pub(crate) mesh_listen: Option<SocketAddr>,
    pub(crate) certificates_always: bool,
    pub(crate) glance: Duration,
    pub(crate) isolated: bool,
    pub(crate) pods: node::Block,
    pub(crate) identity: identities::Settings,
    pub(crate) git: cli::GitOptions,
}

impl Settings {
    /// What the command line says.
    pub(crate) fn new(start: &Start, recipes: node::recipe::Recipes) -> anyhow::Result<Self> {
        let grace = jiff::SignedDuration::from_hours(start.identity_grace.into());
        Ok(Self {
            api_port: start.api_port,
            gateway_port: start.gateway_port,
            recipes,
            seen: start.seen.clone(),
            mesh_listen: start.mesh_listen,
            pods: pods(start.pod_cidr)?,
            isolated: start.pod_network == cli::PodNetwork::Isolated,
            certificates_always: start.mtls == cli::Mtls::Always,
            glance: Duration::from_micros(start.proxy_glance.into()),
            git: start.git.clone(),
            identity: identities::Settings {
                domain: identities::domain(&start.trust_domain)?,
                grace,
                bundle_listen: start.bundle_listen,
            },
        })
    }
}

/// The addresses of Pods. Those that were asked for must be free; the usual ones matter only once a Pod wants one.
fn pods(asked: Option<node::Block>) -> anyhow::Result<node::Block> {
    let Some(block) = asked else { return Ok(node::Block::PODS) };
    match node::address_in(&block) {
        None => Ok(block),
        Some((interface, address)) => Err(crate::exit::bad_input(format!(
            "--pod-cidr {block} has {address} in it, which this machine has itself, on {interface}; choose a block that nothing here uses"
        ))),
    }
}

/// A role that runs, and how it is told to end.
struct Role {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Role {
    fn start<E>(name: &'static str, run: impl FnOnce(CancellationToken) -> BoxedRun<E>) -> Self
    where
        E: Into<anyhow::Error> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let running = run(stop.clone());
        Self { name, stop, task: tokio::spawn(async move { running.await.map_err(Into::into) }) }
    }

    /// Resolves when the role has ended though nobody asked it to.
    async fn failure(&mut self) -> anyhow::Error {
        let name = self.name;
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("the {name} ended unasked"),
            Ok(Err(error)) => error.context(format!("the {name} failed")),
            Err(error) => anyhow::anyhow!("the {name} broke: {error}"),
        }
    }

    /// Tells the role to end, and waits until it has.
    async fn end(self) {
        self.stop.cancel();
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(role = self.name, "did not end cleanly: {error:#}"),
            Err(error) => tracing::error!(role = self.name, "broke: {error}"),
        }
    }
}

type BoxedRun<E> = std::pin::Pin<Box<dyn Future<Output = Result<(), E>> + Send>>;

/// What happens to a running platform by itself.
pub(crate) enum Change {
    /// A role has ended though nobody asked it to.
    Broken(anyhow::Error),
    /// Where the gateways answer.
    Gateways,
}

/// The file in the data directory with what the proxy served last.
const SNAPSHOT: &str = "routes.snapshot";

/// How long the node may take to register.
const NODE_READY_WITHIN: Duration = Duration::from_secs(30);
/// How long the newest endpoints may take into the data plane before the start is called done without.
const SERVED_WITHIN: Duration = Duration::from_secs(30);

/// Binds the DNS server. Without one, the hosts file names the Services.
async fn dns(client: kube::Client, addresses: &Block, mesh: &mesh::Handle) -> anyhow::Result<Option<mesh::dns::Dns>> {
    let installed = mesh::dns::install(client, addresses.nameserver()).await;
    let Some(address) = installed.context("cannot install the DNS server's Service")? else { return Ok(None) };
    match mesh::dns::bind(address, mesh, PathBuf::from("/etc/resolv.conf")) {
        Ok(dns) => {
            tracing::debug!(address = %dns.address(), "names of Services are served");
            Ok(Some(dns))
        }
        Err(error) => {
            tracing::warn!("{error}");
            Ok(None)
        }
    }
}

/// The DNS server's sockets in the pod network, on its declared port, once there is that network.
async fn dns_for_pods(network: node::PodNetwork, address: IpAddr) -> Option<(UdpSocket, TcpListener)> {
    network.ready().await;
    let address = SocketAddr::new(address, 53);
    let bound = async {
        let (udp, tcp) = (network.udp(address).await?, network.tcp().await?);
        tcp.set_reuseaddr(true)?;
        tcp.bind(address)?;
        std::io::Result::Ok((udp, tcp.listen(128)?))
    };
    bound.await.inspect_err(|error| tracing::warn!(%address, %error, "no DNS in the pod network")).ok()
}

/// A running platform.
pub(crate) struct Platform {
    data: DataDir,
    _addresses: Block,
    holder: Holder,
    _listed: instances::Entry,
    api: Api,
    kubeconfig: PathBuf,
    published: tokio::sync::watch::Receiver<Arc<mesh::Published>>,
    mesh: mesh::Handle,
    proxy: proxy::Handle,
    node: node::Handle,
    closed: CancellationToken,
    // In the order in which they end.
    git: Role,
    controllers: Role,
    routes: Role,
    pods: Role,
    names: Option<Role>,
    traffic: Role,
    records: Role,
    identities: Role,
    server: Role,
    store: store::StoreTask,
}

impl Platform {
    /// Starts every role on a data directory that is held already.
    pub(crate) async fn start(data: DataDir, settings: Settings) -> anyhow::Result<Self> {
        let open_files = descriptors::raise();
        let addresses = Block::of(data.path())?;
        let (store, store_task) = store::SqliteStore::open(store::Settings::new(data.path().join("state.db")))
            .context("cannot open the store")?;
        let logs = Arc::new(NodePods::default());
        let mut api_settings = apiserver::Settings::new(data.path());
        api_settings.bind = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.api_port));
        api_settings.service_cidr = addresses.cidr();
        let pages = TrafficPages::default();
        let dependencies = apiserver::Dependencies {
            logs: logs.clone(),
            sessions: Some(logs.clone()),
            pages: Some(Arc::new(pages.clone())),
        };
        let (server, api) = apiserver::build(api_settings, Arc::new(store), dependencies)?;
        let client = |user: &str| kube::Client::new(api.service_as(user), "default");

        let domain = settings.identity.domain.to_string();
        let pods = Arc::new(Pods::of(settings.pods));
        let callers = Arc::new(PodCallers::new(&domain));
        let mesh_settings = mesh::Settings {
            first_gateway_port: settings.gateway_port,
            peers: settings.mesh_listen,
            own_addresses: addresses.gateways(),
            trust_domain: settings.identity.domain.clone(),
            certificates_always: settings.certificates_always,
            ..mesh::Settings::default()
        };
        let bundle_listen = settings.identity.bundle_listen;
        let identities = Identities::open(data.path(), settings.identity);
        let (telemetry, told) = telemetry::build(seen::telemetry(&settings.seen, data.path())?)?;
        let dependencies = proxy::Dependencies {
            callers: Some(callers.clone()),
            network: Some(pods.clone()),
            credentials: Some(Arc::new(identities.handle())),
            observer: Some(Arc::new(Recorder(told.clone()))),
        };
        let recording = seen::recording(&settings.seen)?;
        let keep = Some(data.path().join(SNAPSHOT));
        let proxy_settings = proxy::Settings { recording, keep, glance: settings.glance, ..proxy::Settings::default() };
        let (proxy, proxy_handle) = proxy::build(proxy_settings, dependencies);
        pages.connect(proxy_handle.clone(), api.clone(), told, identities.handle());
        let (mesh, mesh_handle) = mesh::build(mesh_settings, client("system:coracle:mesh"), proxy_handle.clone());

        let closed = CancellationToken::new();
        let (names_there, names_beside) = tokio::sync::watch::channel(false);
        let traffic =
            DataPlane { proxy: proxy_handle.clone(), mesh: mesh_handle.clone(), closed: closed.clone(), names_beside };
        let user = format!("system:node:{}", resources::names::NODE);
        let dependencies = node::Dependencies { client: client(&user), traffic: Arc::new(traffic) };
        let mut node_settings = node::Settings::new(data.path().to_owned(), settings.recipes);
        let (network, prefix) = addresses.cidr();
        node_settings.isolated = settings.isolated;
        node_settings.pods = settings.pods;
        node_settings.open_files = open_files;
        node_settings.services = node::Block { network, prefix };
        node_settings.environment = identities::environment(data.path());
        let shelf = node::recipe::Shelf::open(data.path().join("programs"));
        let shelf = shelf.context("cannot read the programs of commits that were pushed")?;
        node_settings.shelf = shelf.clone();
        let (node, node_handle) = node::build(node_settings, dependencies)?;
        logs.connect(node_handle.clone());
        callers.connect(node_handle.clone());
        pods.connect(node_handle.network().clone());

        let controllers = workloads::Settings { ca_pem: api.ca_pem().to_owned(), ..workloads::Settings::default() };
        let controllers =
            workloads::build(controllers, |name| client(&format!("system:serviceaccount:kube-system:{name}")));

        // First of all, as it serves what it has kept until the others are up.
        let traffic = Role::start("proxy", |stop| Box::pin(proxy.run(stop)));
        let mut server = Role::start("API server", |stop| Box::pin(server.run(stop)));
        tokio::select! {
            () = api.ready() => {}
            error = server.failure() => return Err(error),
        }
        earlier_life::forget(&Api::over(client("system:admin")))
            .await
            .context("cannot look at the Pods of an earlier life")?;
        let gateways =
            mesh::install(client("system:coracle:mesh")).map(|done| done.context("cannot install the Gateway API"));
        let syncing = delivery::sync::install(client("system:coracle:sync"));
        let syncing = syncing.map(|done| done.context("cannot install the kinds of the Git sync"));
        futures::try_join!(gateways, syncing)?;
        let names = dns(client("system:coracle:mesh"), &addresses, &mesh_handle).await?;
        let records = Role::start("telemetry", |stop| Box::pin(telemetry.run(stop).map(Ok::<_, anyhow::Error>)));
        let routes = Role::start("mesh", |stop| Box::pin(mesh.run(stop)));
        let pod_network = node_handle.network().clone();
        let names = names.map(|dns| {
            Role::start::<std::convert::Infallible>("DNS server", |stop| {
                Box::pin(async move {
                    let address = dns.address().ip();
                    let beside = async move {
                        let bound = dns_for_pods(pod_network, address).await;
                        names_there.send_replace(true);
                        bound
                    };
                    dns.run(beside, stop).await;
                    Ok(())
                })
            })
        });
        let workload_api = identities::workload_api(data.path(), identities.handle(), node_handle.clone());
        let endpoint = identities::bundle_endpoint(bundle_listen, identities.handle()).await?;
        let follower = Follower::new(client("system:coracle:identity"), identities.handle());
        let served = endpoint.as_ref().and_then(|endpoint| endpoint.address().ok());
        let steward = identities.steward(client("system:coracle:identity")).with_endpoint(served);
        let handed = (endpoint, follower);
        let identities =
            Role::start("identities", |stop| Box::pin(identities::run(steward, workload_api, handed, stop)));
        let pods = Role::start("node", |stop| Box::pin(node.run(stop)));
        let controllers = Role::start("controllers", |stop| Box::pin(controllers.run(stop)));

        let git = GitSync::build(data.path(), client("system:coracle:sync"), &settings.git, shelf).await?;
        let git_url = git.url();
        pages.count_drift(git.drifts());
        let git = Role::start("Git sync", |stop| Box::pin(git.run(stop)));

        let holder = Holder { pid: std::process::id(), api: Some(api.url()), gateway: None, git: Some(git_url) };
        data.announce(&holder)?;
        Ok(Self {
            _listed: instances::add(data.path()),
            kubeconfig: api.kubeconfig_path().to_owned(),
            api: Api::over(client("system:admin")),
            data,
            _addresses: addresses,
            holder,
            published: mesh_handle.subscribe(),
            mesh: mesh_handle,
            proxy: proxy_handle,
            node: node_handle,
            closed,
            git,
            controllers,
            routes,
            pods,
            names,
            traffic,
            records,
            identities,
            server,
            store: store_task,
        })
    }

    /// The API, as the administrator.
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    pub(crate) fn api_url(&self) -> &str {
        self.holder.api.as_deref().unwrap_or_default()
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The address of the first Gateway listener that serves.
    pub(crate) fn gateway_url(&self) -> Option<String> {
        self.mesh.gateway_addresses().iter().find_map(mesh::GatewayListener::url)
    }

    /// Has gateways take connections that have waited since the start for what was served before.
    pub(crate) async fn open_gateways(&self) {
        self.proxy.open().await;
    }

    /// Resolves once the data plane sends requests to what EndpointSlices of up to this resourceVersion say. Not for ever: what serves goes on
    /// serving where a change cannot be taken.
    pub(crate) async fn serves_endpoints_of(&self, resource_version: u64) {
        let served = self.mesh.serves_endpoints_of(resource_version);
        if tokio::time::timeout(SERVED_WITHIN, served).await.is_err() {
            tracing::warn!(
                "the data plane has not taken the newest endpoints within {} s; `coracle why SERVICE` says what requests meet",
                SERVED_WITHIN.as_secs()
            );
        }
    }

    /// The base URL of the Git remote.
    pub(crate) fn git_url(&self) -> Option<&str> {
        self.holder.git.as_deref()
    }

    /// Resolves once the node takes Pods.
    pub(crate) async fn node_ready(&self) -> anyhow::Result<()> {
        let path = format!("/api/v1/nodes?watch=true&fieldSelector=metadata.name%3D{}", resources::names::NODE);
        let mut events = Box::pin(self.api.watch(&path, "application/json").await?);
        let ready = async {
            while let Some(event) = events.next().await {
                if readiness::is_ready(&event?["object"]) {
                    return Ok(());
                }
            }
            anyhow::bail!("the API ended before the node was ready")
        };
        tokio::time::timeout(NODE_READY_WITHIN, ready).await.with_context(|| {
            format!("the node was not ready within {} s; start again with -v to see why", NODE_READY_WITHIN.as_secs())
        })?
    }

    /// Says in the data directory where the gateway answers, for `coracle status`.
    pub(crate) fn announce_gateway(&mut self) -> anyhow::Result<()> {
        self.holder.gateway = self.gateway_url();
        self.data.announce(&self.holder)
    }

    /// The lines that Pods write, from now on.
    pub(crate) fn lines(&self) -> node::Lines {
        self.node.lines()
    }

    /// The next thing that happens unasked.
    pub(crate) async fn changed(&mut self) -> Change {
        let roles = [
            &mut self.server,
            &mut self.records,
            &mut self.traffic,
            &mut self.identities,
            &mut self.routes,
            &mut self.pods,
            &mut self.controllers,
            &mut self.git,
        ];
        let ends = roles.into_iter().chain(&mut self.names).map(|role| Box::pin(role.failure()));
        tokio::select! {
            (error, _, _) = futures::future::select_all(ends) => Change::Broken(error),
            Ok(()) = self.published.changed() => Change::Gateways,
        }
    }

    /// Ends everything in order; bounded, because each role bounds its own end.
    pub(crate) async fn stop(self) {
        self.git.end().await;
        self.controllers.end().await;
        self.routes.end().await;
        self.proxy.close(mesh::is_gateway).await;
        self.closed.cancel();
        self.pods.end().await;
        if let Some(names) = self.names {
            names.end().await;
        }
        self.traffic.end().await;
        self.records.end().await;
        self.identities.end().await;
        self.server.end().await;
        match tokio::time::timeout(Duration::from_secs(10), self.store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the store did not close cleanly: {error}"),
            Err(_) => tracing::warn!("the store took too long to close; what was acknowledged is on the disk"),
        }
    }
}
