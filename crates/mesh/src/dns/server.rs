//! The DNS server: sockets, and one task for each question that must be asked of others.
//!
//! Invariants: questions about the cluster are answered without waiting for anything; the number of questions and connections under way is
//! bounded; it answers until it is told to end, from the last zone it was given.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::upstream::Upstream;
use super::wire::{self, Step, Transport};
use super::zone::Zone;
use crate::compile::FALLBACK_OFFSET;

const PORT: u16 = 53;
/// How many questions may wait for others at once; further ones are told that they failed.
const WAITING: usize = 512;
/// How many connections there may be at once, and how long one may be silent.
const CONNECTIONS: usize = 128;
const SILENCE: Duration = Duration::from_secs(10);
/// How often a pair of sockets on one port is tried where the system chooses the port.
const PAIRS: usize = 8;

/// No socket for the DNS server.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for DNS on {address}: {source}; names of Services are told by the hosts file alone")]
pub struct BindError {
    /// The address tried last.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// A DNS server that is bound and does not answer yet.
pub struct Dns {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
    server: Arc<Server>,
}

/// What every question needs.
struct Server {
    zone: watch::Receiver<Arc<Zone>>,
    upstream: Upstream,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    turn: AtomicUsize,
}

/// Binds port 53 of an address, or 8053 where that is refused for want of permission. `handle`'s zone is answered from;
/// `resolv_conf` names the resolvers for all other names.
///
/// # Errors
///
/// Where neither can be had.
pub fn bind(address: IpAddr, handle: &crate::Handle, resolv_conf: PathBuf) -> Result<Dns, BindError> {
    let bound = match pair(SocketAddr::new(address, PORT)) {
        Err((_, error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            pair(SocketAddr::new(address, PORT + FALLBACK_OFFSET))
        }
        bound => bound,
    };
    let (udp, tcp, address) = bound.map_err(|(address, source)| BindError { address, source })?;
    let dns = Dns::new((udp, tcp, address), handle.zone.clone(), resolv_conf);
    handle.nameserver.get_or_init(|| address);
    Ok(dns)
}

type Pair = (UdpSocket, TcpListener, SocketAddr);

/// Both sockets on one port.
pub(super) fn pair(address: SocketAddr) -> Result<Pair, (SocketAddr, io::Error)> {
    let try_once = || -> io::Result<Pair> {
        let udp = std::net::UdpSocket::bind(address)?;
        udp.set_nonblocking(true)?;
        let at = udp.local_addr()?;
        let tcp = std::net::TcpListener::bind(at)?;
        tcp.set_nonblocking(true)?;
        Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?, at))
    };
    let mut last = try_once();
    for _ in 0..if address.port() == 0 { PAIRS } else { 0 } {
        if last.is_ok() {
            break;
        }
        last = try_once();
    }
    last.map_err(|error| (address, error))
}

impl Dns {
    pub(super) fn new(sockets: Pair, zone: watch::Receiver<Arc<Zone>>, resolv_conf: PathBuf) -> Self {
        let (udp, tcp, address) = sockets;
        let server = Server {
            zone,
            upstream: Upstream::new(resolv_conf, address),
            waiting: Arc::new(Semaphore::new(WAITING)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            turn: AtomicUsize::new(0),
        };
        Self { udp, tcp, address, server: Arc::new(server) }
    }

    /// Where it listens, UDP and TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`; over the sockets that `beside` brings too, once it does.
    pub async fn run(
        self,
        beside: impl Future<Output = Option<(UdpSocket, TcpListener)>>,
        shutdown: CancellationToken,
    ) {
        let questions = TaskTracker::new();
        let mut loops = JoinSet::new();
        let serve = |loops: &mut JoinSet<()>, udp: UdpSocket, tcp: TcpListener| {
            let (server, questions) = (Arc::clone(&self.server), questions.clone());
            loops.spawn(datagrams(Arc::new(udp), Arc::clone(&server), questions, shutdown.clone()));
            loops.spawn(connections(tcp, server, shutdown.clone()));
        };
        serve(&mut loops, self.udp, self.tcp);
        tokio::select! {
            () = shutdown.cancelled() => {}
            more = beside => if let Some((udp, tcp)) = more {
                serve(&mut loops, udp, tcp);
            }
        }
        while loops.join_next().await.is_some() {}
        questions.close();
        questions.wait().await;
    }
}

async fn datagrams(udp: Arc<UdpSocket>, server: Arc<Server>, questions: TaskTracker, shutdown: CancellationToken) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let received = tokio::select! {
            () = shutdown.cancelled() => return,
            received = udp.recv_from(&mut buffer) => received,
        };
        // An error is about an answer that could not be delivered.
        let Ok((length, client)) = received else { continue };
        let question = &buffer[..length];
        if let Some(answer) = server.at_once(question, Transport::Udp) {
            send(&udp, &answer, client).await;
            continue;
        }
        let Ok(turn) = Arc::clone(&server.waiting).try_acquire_owned() else {
            send(&udp, &wire::failure(question), client).await;
            continue;
        };
        let (udp, server, question, shutdown) =
            (Arc::clone(&udp), Arc::clone(&server), question.to_vec(), shutdown.clone());
        questions.spawn(async move {
            tokio::select! {
                answer = server.of_others(&question, Transport::Udp) => send(&udp, &answer, client).await,
                () = shutdown.cancelled() => {}
            }
            drop(turn);
        });
    }
}

async fn send(udp: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if !answer.is_empty()
        && let Err(error) = udp.send_to(answer, client).await
    {
        tracing::debug!(%client, %error, "an answer could not be sent");
    }
}

async fn connections(tcp: TcpListener, server: Arc<Server>, shutdown: CancellationToken) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = open.join_next() => {}
            accepted = tcp.accept() => match accepted {
                // One that finds no room is closed.
                Ok((stream, _)) => if let Ok(permit) = Arc::clone(&server.connections).try_acquire_owned() {
                    let server = Arc::clone(&server);
                    open.spawn(async move {
                        if let Err(error) = converse(stream, &server).await {
                            tracing::trace!(%error, "a DNS connection ended");
                        }
                        drop(permit);
                    });
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept DNS connections");
                    // No more descriptors, most likely: those who wait go on waiting.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    open.shutdown().await;
}

/// One question after the other (RFC 7766).
async fn converse(mut stream: TcpStream, server: &Server) -> io::Result<()> {
    loop {
        let question = async {
            let mut question = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut question).await?;
            io::Result::Ok(question)
        };
        let question = tokio::time::timeout(SILENCE, question).await.map_err(io::Error::other)??;
        let answer = match server.at_once(&question, Transport::Tcp) {
            Some(answer) => answer,
            None => match server.waiting.try_acquire() {
                Ok(_turn) => server.of_others(&question, Transport::Tcp).await,
                Err(_) => wire::failure(&question),
            },
        };
        if answer.is_empty() {
            return Ok(());
        }
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), &answer[..]].concat();
        tokio::time::timeout(SILENCE, stream.write_all(&framed)).await.map_err(io::Error::other)??;
    }
}

/// A number that nobody who has not seen the question can answer with.
fn unguessable() -> u16 {
    let mut id = [0; 2];
    // Without randomness there is still the port.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id);
    u16::from_be_bytes(id)
}

impl Server {
    fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone.borrow())
    }

    /// The answer that needs nobody else; empty where there is nothing to say, none where others must be asked.
    fn at_once(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match wire::step(&self.zone(), question, transport, turn) {
            Step::Answer(answer) => Some(answer),
            Step::Silence => Some(Vec::new()),
            Step::Forward | Step::Chase { .. } => None,
        }
    }

    /// The answer that others give.
    async fn of_others(&self, question: &[u8], transport: Transport) -> Vec<u8> {
        let zone = self.zone();
        match wire::step(&zone, question, transport, 0) {
            Step::Forward => self.upstream.ask(question, transport).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "no resolver of the host answered");
                wire::failure(question)
            }),
            Step::Chase { target, kind } => {
                let theirs = match wire::question(&target, kind, unguessable()) {
                    Some(asked) => self.whole(&asked).await.ok(),
                    None => None,
                };
                wire::chased(&zone, question, theirs.as_deref(), transport)
            }
            Step::Answer(answer) => answer,
            Step::Silence => Vec::new(),
        }
    }

    /// An answer that is not cut short.
    async fn whole(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let answer = self.upstream.ask(question, Transport::Udp).await?;
        if wire::truncated(&answer) { self.upstream.ask(question, Transport::Tcp).await } else { Ok(answer) }
    }
}
