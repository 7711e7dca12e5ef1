//! Where roles meet: each trait is owned by the role that needs something, and implemented here by one that has it.

use apiserver::{Beginning, Connection, LogOptions, LogsError, PodKey, PodLogs, PodSessions, SessionOptions};
use bytes::Bytes;
use delivery::sync::programs::{self, Programs};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use proxy::Ground;
use resources::names::EGRESS_ANNOTATION;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The API server's view of the node's logs. The node is built after the API server, so it is told later.
#[derive(Default)]
pub(crate) struct NodePods {
    node: OnceLock<node::Handle>,
}

impl NodePods {
    /// Says which node keeps the logs; only the first word counts.
    pub(crate) fn connect(&self, node: node::Handle) {
        let _ = self.node.set(node);
    }
}

impl PodLogs for NodePods {
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, io::Result<Bytes>>, LogsError>> {
        let node = self.node.get().cloned();
        let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
        Box::pin(async move {
            let Some(node) = node else {
                return Err(LogsError::NotStarted { reason: "the node is still starting; try again".to_owned() });
            };
            node.logs(&namespace, &pod, query(options)).await.map_err(refusal)
        })
    }
}

impl PodSessions for NodePods {
    fn session(&self, pod: &PodKey, options: SessionOptions) -> Result<Beginning, apiserver::SessionError> {
        let node = self.node.get().ok_or(apiserver::SessionError::NotStarted)?;
        let SessionOptions { container, command, stdin, stdout, stderr, tty } = options;
        let query = node::SessionQuery { container, command, stdin, stdout, stderr, tty };
        let beginning = node.session((&pod.namespace, &pod.name, &pod.uid), query).map_err(|error| match error {
            node::SessionError::NotRunning(container) => apiserver::SessionError::NotRunning { container },
            node::SessionError::Impossible(why) => apiserver::SessionError::Impossible(why),
        })?;
        Ok(Box::pin(async move {
            let node::Session { stdin, stdout, stderr, resize, ended } = beginning.await?;
            Ok(apiserver::Session { stdin, stdout, stderr, resize, ended })
        }))
    }

    fn connect(&self, pod: &PodKey, port: u16) -> BoxFuture<'static, Result<Box<dyn Connection>, String>> {
        let (node, pod) = (self.node.get().cloned(), pod.clone());
        Box::pin(async move {
            let node = node.ok_or_else(|| apiserver::SessionError::NotStarted.to_string())?;
            let stream = node.connect((&pod.namespace, &pod.name, &pod.uid), port).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

fn query(options: LogOptions) -> node::LogQuery {
    node::LogQuery {
        container: options.container,
        follow: options.follow,
        previous: options.previous,
        tail_lines: options.tail_lines,
        since_seconds: options.since_seconds,
        since_time: options.since_time,
        timestamps: options.timestamps,
        limit_bytes: options.limit_bytes,
    }
}

fn refusal(error: node::LogError) -> LogsError {
    match error {
        node::LogError::Io { source, .. } => LogsError::Io(source),
        // The API server has looked at which container is meant; the node knows no other only while the Pod is new to it.
        node::LogError::NotFound { .. } | node::LogError::Container { .. } => LogsError::NotFound,
        node::LogError::NotStarted { reason, .. } => LogsError::NotStarted { reason },
        node::LogError::NoPrevious { .. } => LogsError::NoPrevious,
    }
}

/// The data plane's view of the node: a client's socket is a process's, and a process is a Pod's. The node is built after the
/// proxy, so it is told later.
pub(crate) struct PodCallers {
    node: OnceLock<node::Handle>,
    trust_domain: String,
}

/// The label by which a Pod stays outside of the mesh, as Istio has it. It is then nobody to those it calls.
const INJECT: &str = "sidecar.istio.io/inject";

impl PodCallers {
    /// Identities will be of this trust domain.
    pub(crate) fn new(trust_domain: &str) -> Self {
        Self { node: OnceLock::new(), trust_domain: trust_domain.to_owned() }
    }

    /// Says which node runs the Pods; only the first word counts.
    pub(crate) fn connect(&self, node: node::Handle) {
        let _ = self.node.set(node);
    }
}

/// Who a Pod is to those it calls; nobody where it stays outside of the mesh.
fn identity(trust_domain: &str, pod: &node::PodRef) -> Option<proxy::Identity> {
    if pod.labels.get(INJECT).or_else(|| pod.annotations.get(INJECT)).is_some_and(|inject| inject == "false") {
        return None;
    }
    let node::PodRef { namespace, service_account, workload, .. } = pod;
    Some(proxy::Identity {
        id: format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").into(),
        workload: format!("{namespace}/{workload}").into(),
    })
}

/// Whether a Pod has asked to be let out.
fn asks_for_the_way_out(pod: &node::PodRef) -> bool {
    pod.annotations.get(EGRESS_ANNOTATION).is_some_and(|how| how == "proxy")
}

impl proxy::Callers for PodCallers {
    fn identify(&self, ground: Ground, peer: SocketAddr, local: SocketAddr) -> proxy::Identifying {
        let (node, trust_domain) = (self.node.get().cloned(), self.trust_domain.clone());
        Box::pin(async move {
            let pod = match ground {
                Ground::Machine => node?.pod_of_socket(peer, local).await?,
                // The kernel lets no Pod send from there but the one whose address it is.
                Ground::Network => node?.pod_at(peer.ip())?,
            };
            identity(&trust_domain, &pod).map(Arc::new)
        })
    }

    fn may_leave(&self, peer: IpAddr) -> bool {
        self.node.get().and_then(|node| node.pod_at(peer)).is_some_and(|pod| asks_for_the_way_out(&pod))
    }
}

/// The data plane's view of the network of Pods that have namespaces of their own. The node is built after the proxy, so it is
/// told later.
pub(crate) struct Pods {
    /// Its addresses, known from the start.
    block: node::Block,
    network: watch::Sender<Option<node::PodNetwork>>,
}

impl Pods {
    pub(crate) fn of(block: node::Block) -> Self {
        Self { block, network: watch::Sender::new(None) }
    }

    /// Says whose network it is.
    pub(crate) fn connect(&self, network: node::PodNetwork) {
        self.network.send_replace(Some(network));
    }
}

impl proxy::Network for Pods {
    fn ready(&self) -> proxy::Asked<()> {
        let mut told = self.network.subscribe();
        Box::pin(async move {
            let network = told.wait_for(Option::is_some).await.ok().and_then(|network| network.clone());
            match network {
                Some(network) => network.ready().await,
                None => std::future::pending().await,
            }
        })
    }

    fn covers(&self, address: IpAddr) -> bool {
        self.block.covers(address)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.network.borrow().as_ref().is_some_and(|network| network.has(address))
    }

    fn socket(&self) -> proxy::Asked<io::Result<TcpSocket>> {
        let network = self.network.borrow().clone();
        Box::pin(async move {
            match network {
                Some(network) => network.tcp().await,
                None => Err(io::Error::other("there is no pod network")),
            }
        })
    }
}

/// The node's view of the data plane.
pub(crate) struct DataPlane {
    pub(crate) proxy: proxy::Handle,
    pub(crate) mesh: mesh::Handle,
    /// Set once the whole platform ends: the gateways are closed by then, so no program need wait for its traffic.
    pub(crate) closed: CancellationToken,
    /// Whether the DNS server is in the pod network, or will not be.
    pub(crate) names_beside: watch::Receiver<bool>,
}

impl node::Traffic for DataPlane {
    fn drained(&self, address: SocketAddr, limit: Duration) -> BoxFuture<'static, ()> {
        let (proxy, closed) = (self.proxy.clone(), self.closed.clone());
        Box::pin(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                _ = proxy.drained(address, limit) => {}
            }
        })
    }

    fn service_port(&self, cluster_ip: IpAddr, port: u16) -> Option<u16> {
        self.mesh.service_port(cluster_ip, port)
    }

    fn nameserver(&self) -> Option<IpAddr> {
        self.mesh.nameserver().filter(|address| address.port() == 53).map(|address| address.ip())
    }

    fn pod_nameserver(&self) -> Option<IpAddr> {
        self.mesh.nameserver().map(|address| address.ip())
    }

    fn serves_pod_network(&self) -> BoxFuture<'static, ()> {
        let (proxy, mut names) = (self.proxy.clone(), self.names_beside.clone());
        Box::pin(async move {
            proxy.listens_beside().await;
            // Without its sender there will be no DNS server there.
            let _ = names.wait_for(|there| *there).await;
        })
    }
}

/// The Git sync's view of recipes: the node builds them and keeps what they make.
pub(crate) struct CommitPrograms(pub(crate) node::recipe::Shelf);

fn tree(tree: &programs::Tree) -> node::recipe::Tree {
    let programs::Tree { repository, commit, manifests, recipe, text, files } = tree.clone();
    node::recipe::Tree { repository, commit, manifests, recipe, text, files }
}

/// A line of a build, as a pusher reads it.
fn build_line(progress: node::recipe::BuildProgress<'_>) -> Option<String> {
    use node::recipe::BuildProgress as P;
    match progress {
        P::Started { images, command } => Some(format!("building {}: {command}", images.join(", "))),
        P::Line { text, .. } => Some(format!("  {text}")),
        P::Finished { images, elapsed } => {
            Some(format!("built {} in {:.1} s", images.join(", "), elapsed.as_secs_f64()))
        }
        P::Unchanged { .. } => None,
    }
}

impl Programs for CommitPrograms {
    fn digests(&self, of: &programs::Tree, images: &BTreeSet<String>) -> Result<BTreeMap<String, String>, String> {
        // The path in the repository says enough, and it begins with none of the disk's.
        self.0.digests(&tree(of), images).map_err(|error| error.to_string().trim_start_matches('/').to_owned())
    }

    fn has(&self, image: &str, digest: &str) -> bool {
        self.0.has(image, digest)
    }

    fn room(&self, commit: &str) -> PathBuf {
        self.0.room(commit)
    }

    fn make(
        &self,
        of: Arc<programs::Tree>,
        images: BTreeSet<String>,
        directory: PathBuf,
        mut say: programs::Say,
    ) -> BoxFuture<'static, Result<(), String>> {
        let shelf = self.0.clone();
        Box::pin(async move {
            let show = |progress: node::recipe::BuildProgress<'_>| build_line(progress).into_iter().for_each(&mut say);
            let made = shelf.make(&tree(&of), &images, &directory, show).await;
            made.map_err(|error| error.to_string().replace(&format!("{}/", directory.display()), ""))
        })
    }

    fn keep(&self, used: &BTreeSet<String>) {
        self.0.keep(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_its_service_account_and_counts_as_its_workload() {
        let mut pod = node::PodRef {
            namespace: "shop".to_owned(),
            name: "orders-7d9f-abcde".to_owned(),
            uid: "u".to_owned(),
            service_account: "payer".to_owned(),
            workload: "orders".to_owned(),
            labels: [(INJECT.to_owned(), "true".to_owned())].into(),
            annotations: [].into(),
        };
        let who = identity("example.org", &pod).expect("in the mesh");
        assert_eq!((&*who.id, &*who.workload), ("spiffe://example.org/ns/shop/sa/payer", "shop/orders"));
        assert!(!asks_for_the_way_out(&pod));
        pod.annotations.insert(EGRESS_ANNOTATION.to_owned(), "proxy".to_owned());
        assert!(asks_for_the_way_out(&pod));
        pod.labels.insert(INJECT.to_owned(), "false".to_owned());
        assert_eq!(identity("example.org", &pod), None);
    }
}
