//! What the node is told at start: validated settings, and the two doors it has to the rest (the API and the data plane).
//!
//! It must not know where settings come from (command line, file): whoever wires the node fills them in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::network::Block;
use crate::recipe::{Recipes, Shelf};

/// How this node runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Node object's name.
    pub name: String,
    /// Where Pods' volumes and logs live; the node owns `pods/` below it.
    pub data_dir: PathBuf,
    /// What each image means on this machine.
    pub recipes: Recipes,
    /// Programs that were made of commits.
    pub shelf: Shelf,
    /// The executable that is re-executed as `<shim> container-shim`. `/proc/self/exe` stays right even when the file on
    /// disk is replaced while Coracle runs.
    pub shim: PathBuf,
    /// No Pod may take longer than this to end when the node shuts down, whatever its grace period says.
    pub shutdown_limit: Duration,
    /// What a container gets at least to end in where its preStop hook took all the time there was.
    pub after_hook: Duration,
    /// Variables that every program gets beside what its manifest says, which goes before them.
    pub environment: BTreeMap<String, String>,
    /// How many open files programs are told to have (the soft limit); as this process where none is said.
    pub open_files: Option<u64>,
    /// Whether Pods have a network namespace of their own where they do not say.
    pub isolated: bool,
    /// The addresses of Services, to which such Pods have a way.
    pub services: Block,
    /// The addresses of such Pods.
    pub pods: Block,
    /// How long a start of such a Pod waits for what it may call to listen, before that is told and tried again.
    pub pod_network_limit: Duration,
}

impl Settings {
    /// Settings with the defaults that fit a laptop.
    pub fn new(data_dir: PathBuf, recipes: Recipes) -> Self {
        Settings {
            name: resources::names::NODE.to_owned(),
            data_dir,
            recipes,
            shelf: Shelf::default(),
            shim: PathBuf::from("/proc/self/exe"),
            shutdown_limit: Duration::from_secs(30),
            after_hook: Duration::from_secs(2),
            environment: BTreeMap::new(),
            open_files: None,
            isolated: false,
            services: Block { network: Ipv4Addr::new(127, 96, 0, 0), prefix: 12 },
            pods: Block::PODS,
            pod_network_limit: Duration::from_secs(5),
        }
    }
}

/// What the node needs from others.
#[derive(Clone)]
pub struct Dependencies {
    /// The Kubernetes API.
    pub client: kube::Client,
    /// The data plane, asked before a program is told to end.
    pub traffic: Arc<dyn Traffic>,
}

/// What the node must know about traffic to its Pods.
pub trait Traffic: Send + Sync {
    /// Resolves when no new request will be sent to this address and those under way have ended, or when `limit` has passed.
    fn drained(&self, address: SocketAddr, limit: Duration) -> BoxFuture<'static, ()>;

    /// The port on which a Service's port is really reached, when it is known (it differs from the declared one where that
    /// could not be bound).
    fn service_port(&self, cluster_ip: IpAddr, port: u16) -> Option<u16>;

    /// The cluster's DNS server, where programs on the machine's network can reach it: on port 53.
    fn nameserver(&self) -> Option<IpAddr>;

    /// The same for programs in the pod network, where port 53 can be had whoever runs Coracle.
    fn pod_nameserver(&self) -> Option<IpAddr>;

    /// Resolves once all that programs in the pod network may call listens there: Services and the DNS server.
    fn serves_pod_network(&self) -> BoxFuture<'static, ()>;
}
