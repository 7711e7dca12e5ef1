//! The limits that one proxy keeps. They hold for all of its listeners.

use std::path::PathBuf;
use std::time::Duration;

use crate::observe::Recording;

/// Limits and times; the defaults suit a development machine as well as a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How long connections get to end by themselves when their listener goes or the proxy stops.
    pub drain: Duration,
    /// The longest that a connection to an endpoint may take to be made.
    pub connect_timeout: Duration,
    /// How long the first word of an endpoint of HTTP/2 is waited for on a new connection. One that says nothing for longer is spoken to all the same.
    pub greeting: Duration,
    /// The longest wait for the head of an answer where the rule sets no limit, from the last that was taken of the request's body. None waits as
    /// long as the client does.
    pub response_timeout: Option<Duration>,
    /// The longest that the head of a request may take from its first byte to its last, the longest that a client's connection may be idle
    /// before that, and, under a policy, the longest that a client may be silent in the midst of a request that waits for it.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what waits for it, before its connection is ended, where the system can do that; or a stream of it.
    pub stalled: Duration,
    /// The longest that a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// After what time the name of an endpoint is asked for again; what it stood for serves until then.
    pub resolve_again: Duration,
    /// How long an unused connection to an endpoint is kept.
    pub pool_idle: Duration,
    /// How many unused connections are kept for each endpoint, by each thread.
    pub pool_size: usize,
    /// How many endpoints a request is offered to at most.
    pub attempts: u32,
    /// How many threads serve connections; with none, the runtime does that runs the proxy.
    pub threads: usize,
    /// How long a thread looks for an endpoint's answer before it sleeps, where answers have mostly come that soon; zero to sleep at once.
    pub glance: Duration,
    /// How many client connections there may be at once; more wait in the socket's own queue.
    pub max_connections: usize,
    /// How many headers a request may have.
    pub max_headers: usize,
    /// How many bytes the head of a request may have.
    pub max_head_bytes: usize,
    /// Whether plain requests of HTTP/1.1 are served by code of our own, and those of HTTP/2 passed on as they came. Without it, hyper serves all of the
    /// former, and the latter are read into maps; what clients see is the same.
    pub by_hand: bool,
    /// How long a client that speaks HTTP/1.1 without TLS waits after an answer until what serves it is let go, and no more than its
    /// socket kept; up to twice that may pass. None keeps what serves it for as long as it waits.
    pub park: Option<Duration>,
    /// How many requests at once one HTTP/2 connection may carry.
    pub max_streams: u32,
    /// How long a sniffing listener waits for the client's first bytes before it takes the protocol for one where the server speaks first.
    pub sniff_wait: Duration,
    /// How many different counters are kept; requests of further rules and callers are counted together.
    pub max_series: usize,
    /// Which requests are recorded, where somebody takes records.
    pub recording: Recording,
    /// The file in which the last good snapshot is kept, to be served at the next start; none keeps nothing.
    pub keep: Option<PathBuf>,
    /// How long sockets that face the outside wait after a start until what answered behind them before does so again. Connections
    /// are refused until then.
    pub hold: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            greeting: Duration::from_secs(1),
            response_timeout: Some(Duration::from_secs(300)),
            header_timeout: Duration::from_secs(60),
            stalled: Duration::from_secs(600),
            handshake_timeout: Duration::from_secs(10),
            resolve_again: Duration::from_secs(30),
            pool_idle: Duration::from_secs(30),
            pool_size: 256,
            attempts: 3,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            glance: Duration::from_micros(50),
            max_connections: 16_384,
            max_headers: 100,
            max_head_bytes: 64 * 1024,
            by_hand: true,
            park: Some(Duration::from_secs(1)),
            max_streams: 256,
            sniff_wait: Duration::from_millis(100),
            max_series: 10_000,
            recording: Recording::default(),
            keep: None,
            hold: Duration::from_secs(30),
        }
    }
}
