//! A second network of this machine, in which programs are that are known by their addresses.
//!
//! Listeners between services listen there too, at the same addresses, once there is that network; endpoints in it are reached over
//! sockets of it. Whoever runs workloads implements [`Network`]. This module must not know how such a network is made.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::listen;
use crate::snapshot::{Forwarded, Listener, ListenerProtocol};

/// What a question to a network brings.
pub type Asked<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A network beside the machine's own. The proxy owns this trait.
pub trait Network: Send + Sync {
    /// Resolves once there is the network; perhaps never.
    fn ready(&self) -> Asked<()>;

    /// Whether an address is of that network's range, whether there is the network by now or not. It must not wait.
    fn covers(&self, address: IpAddr) -> bool;

    /// Whether an endpoint's address is to be reached there. It must not wait.
    fn has(&self, address: IpAddr) -> bool;

    /// A socket of that network which is neither bound nor connected, for IPv4.
    fn socket(&self) -> Asked<io::Result<TcpSocket>>;
}

/// On which of the two networks a connection was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The machine's own.
    Machine,
    /// The other, where a client's address says whose it is.
    Network,
}

/// Connects to an endpoint over the network in which it is.
pub(crate) async fn connect(network: Option<&Arc<dyn Network>>, address: SocketAddr) -> io::Result<TcpStream> {
    match network.filter(|network| network.has(address.ip())) {
        Some(network) => network.socket().await?.connect(address).await,
        None => TcpStream::connect(address).await,
    }
}

/// Listens there.
pub(crate) async fn listen(
    network: &Arc<dyn Network>,
    address: SocketAddr,
    stalled: Duration,
) -> io::Result<TcpListener> {
    let socket = network.socket().await?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    listen::forsake_stalled(&socket, stalled)?;
    socket.listen(listen::BACKLOG)
}

/// Whether a listener is for programs in that network: it is between services, and on an address that is no port of the machine's.
pub(crate) fn concerns(listener: &Listener) -> bool {
    let between = listener.forwarded == Forwarded::Append && !matches!(listener.protocol, ListenerProtocol::Mesh);
    between && listener.bind.is_ipv4() && listener.bind.ip().is_loopback() && listener.bind.port() != 0
}
