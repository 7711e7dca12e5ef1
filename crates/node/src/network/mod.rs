//! The pod network: a network namespace for every Pod that asks for one, joined to the mesh's by a line of its own.
//!
//! A Pod reaches what listens in the mesh's namespace, and nothing else: nothing is passed on there, neither to another Pod nor
//! to the machine. Service addresses are loopback addresses of the machine; in these namespaces they are routed like others,
//! so that a Service has one address for everybody.
//!
//! Coracle itself stays outside. A socket stays in the namespace in which it was made, so a helper ([`helper`]) makes them there
//! and passes them out ([`wire`]). Namespaces are kept by descriptors here and by the processes in them: they go when Coracle and
//! the Pod are gone, however they end.
//!
//! Invariants: nothing is started before the first Pod asks; a Pod that asks gets a namespace or does not run; an address is
//! one Pod's as long as its [`Sandbox`] is there.
//! It must not know routes, nor what is asked over its sockets.

mod helper;
mod keeper;
mod netlink;
mod plan;
mod sandbox;
mod wire;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use helper::run as help;
pub(crate) use keeper::Keeper;
pub use plan::{BadBlock, Block};
pub(crate) use sandbox::{Sandbox, SandboxError, foreign_class, is_wanted};

use crate::shim::Network as Names;
use plan::Addresses;
use wire::Kind;

/// How many questions may wait for the helper.
const WAITING: usize = 64;
/// How many TCP sockets are kept ready, and at how few there are more made.
const READY: usize = wire::MOST;
const FEW: usize = READY / 2;

/// The pod network; cheap to clone.
#[derive(Clone)]
pub struct PodNetwork {
    state: Arc<State>,
}

struct State {
    orders: mpsc::Sender<Order>,
    /// The namespaces, once there are any.
    held: watch::Sender<Option<Arc<Held>>>,
    services: Block,
    block: Block,
    addresses: Mutex<Addresses>,
    pods: Mutex<HashMap<Ipv4Addr, Arc<Pod>>>,
    /// TCP sockets that are ready.
    sockets: Mutex<Vec<OwnedFd>>,
}

/// The namespaces that all Pods share.
struct Held {
    user: OwnedFd,
    mesh: OwnedFd,
}

/// What the helper is to do, and who waits for it.
enum Order {
    Sockets {
        kind: Kind,
        count: usize,
        reply: Option<Reply>,
    },
    Pod {
        address: Ipv4Addr,
        reply: Reply,
    },
    /// A TCP socket of a Pod's namespace.
    Inside {
        namespace: OwnedFd,
        reply: Reply,
    },
}

type Reply = oneshot::Sender<Result<Vec<OwnedFd>, String>>;

/// How a descriptor of this process is named to others.
fn path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd()))
}

impl PodNetwork {
    /// A network that nothing is done for yet, and who does it.
    pub(crate) fn new(shim: PathBuf, services: Block, block: Block) -> (Self, Keeper) {
        let (orders, received) = mpsc::channel(WAITING);
        let state = Arc::new(State {
            orders,
            held: watch::Sender::new(None),
            services,
            block,
            addresses: Mutex::new(Addresses::of(block)),
            pods: Mutex::default(),
            sockets: Mutex::default(),
        });
        let network = Self { state };
        (network.clone(), Keeper::new(network, received, shim))
    }

    /// Resolves once there is the network: with the first Pod that asks for it, perhaps never.
    pub async fn ready(&self) {
        // The sender is here, so it is not closed.
        let _ = self.state.held.subscribe().wait_for(Option::is_some).await;
    }

    /// Whether an address is to be reached in this network.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.state.block.covers(address) && self.state.held.borrow().is_some()
    }

    /// A TCP socket of the mesh's namespace, for IPv4.
    ///
    /// # Errors
    ///
    /// Where the helper cannot make one.
    pub async fn tcp(&self) -> io::Result<TcpSocket> {
        let (socket, left) = {
            let mut sockets = self.state.sockets.lock();
            (sockets.pop(), sockets.len())
        };
        if left < FEW {
            // A full queue has others that ask for the same.
            let more = Order::Sockets { kind: Kind::Tcp, count: READY - left, reply: None };
            let _ = self.state.orders.try_send(more);
        }
        let socket = match socket {
            Some(socket) => socket,
            None => self.sockets(Kind::Tcp).await?,
        };
        Ok(TcpSocket::from_std_stream(std::net::TcpStream::from(socket)))
    }

    /// A UDP socket of the mesh's namespace, bound to an address.
    ///
    /// # Errors
    ///
    /// Where the helper cannot make one, or it cannot be bound.
    pub async fn udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.sockets(Kind::Udp).await?;
        let bytes = address_of(address)?;
        nix::sys::socket::bind(socket.as_raw_fd(), &bytes)?;
        UdpSocket::from_std(std::net::UdpSocket::from(socket))
    }

    /// Connects to a Pod.
    ///
    /// # Errors
    ///
    /// As any connection.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.tcp().await?.connect(address).await
    }

    /// The Pod that an address is, as it was when it started.
    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<Arc<Pod>> {
        let IpAddr::V4(address) = address.to_canonical() else { return None };
        self.state.pods.lock().get(&address).cloned()
    }

    async fn sockets(&self, kind: Kind) -> io::Result<OwnedFd> {
        let made = self.ask(|reply| Order::Sockets { kind, count: 1, reply: Some(reply) }).await;
        let mut made = made.map_err(io::Error::other)?;
        made.pop().ok_or_else(|| io::Error::other("the pod network's helper gave no socket"))
    }

    async fn ask(&self, order: impl FnOnce(Reply) -> Order) -> Result<Vec<OwnedFd>, String> {
        let ended = || "the pod network has ended".to_owned();
        let (reply, answer) = oneshot::channel();
        self.state.orders.send(order(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn address_of(address: SocketAddr) -> io::Result<nix::sys::socket::SockaddrIn> {
    match address {
        SocketAddr::V4(address) => Ok(address.into()),
        SocketAddr::V6(_) => Err(io::Error::other("the pod network speaks IPv4 alone")),
    }
}

impl Held {
    /// How the namespaces of a Pod are named to its shims.
    fn names(&self, net: &OwnedFd) -> Names {
        Names { user: path(&self.user), net: path(net) }
    }
}
