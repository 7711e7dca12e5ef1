//! What can be set about the API server. Every limit has a default that fits one machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How the API server is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen. Port 0 takes any free one.
    pub bind: SocketAddr,
    /// Where keys, certificates and the kubeconfig are kept.
    pub data_dir: PathBuf,
    /// The addresses for Services, as network and prefix length.
    pub service_cidr: (Ipv4Addr, u8),
    /// First and last port given to Services of type NodePort.
    pub node_ports: (u16, u16),
    /// How long an Event is kept after its last change.
    pub event_ttl: Duration,
    /// How many Events are kept at most; beyond it the oldest go first.
    pub event_limit: usize,
    /// The bounds on what clients may use.
    pub limits: Limits,
}

impl Settings {
    /// Settings with every default, listening on any free loopback port.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data_dir: data_dir.into(),
            service_cidr: (Ipv4Addr::new(127, 96, 0, 0), 12),
            node_ports: (30000, 32767),
            event_ttl: Duration::from_secs(3600),
            event_limit: 10_000,
            limits: Limits::default(),
        }
    }
}

/// Bounds on what clients may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest request body in bytes.
    pub body: usize,
    /// How long a request's body may take to arrive.
    pub body_time: Duration,
    /// Open TCP connections.
    pub connections: usize,
    /// Requests under way, watches and logs not counted.
    pub requests: usize,
    /// Watches and log streams under way.
    pub streams: usize,
    /// Connections that carry streams of containers (exec, attach, port-forward). No user gets more than half of them.
    pub sessions: usize,
    /// How long a TLS handshake or a request's head may take.
    pub head_time: Duration,
    /// How often a watch that asked for bookmarks gets one.
    pub bookmark_period: Duration,
    /// How long open connections may take to end after shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 3 * 1024 * 1024,
            body_time: Duration::from_secs(60),
            connections: 2048,
            requests: 512,
            streams: 4096,
            sessions: 256,
            head_time: Duration::from_secs(15),
            bookmark_period: Duration::from_secs(60),
            drain: Duration::from_secs(5),
        }
    }
}
