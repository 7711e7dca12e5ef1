//! The host's own resolvers, asked for the names that are not the cluster's.
//!
//! Invariants: an answer is believed only from the address that was asked, to the same question; each question has a socket, and so
//! a port, of its own; nothing is kept.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::wire::{self, Transport};

/// How many resolvers are asked, one after the other, and how long each may take (resolver(3) has 3 and 5 s).
const SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer over UDP that is taken.
const LARGEST: usize = 16 * 1024;
const PORT: u16 = 53;

/// Where other names are asked.
pub(super) struct Upstream {
    file: PathBuf,
    /// Never asked: that would be this server itself.
    own: SocketAddr,
    known: Mutex<(Option<SystemTime>, Vec<SocketAddr>)>,
}

impl Upstream {
    /// The resolvers that a resolv.conf names.
    pub(super) fn new(file: PathBuf, own: SocketAddr) -> Self {
        Self { file, own, known: Mutex::default() }
    }

    /// Asks one resolver after the other until one answers.
    pub(super) async fn ask(&self, question: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
        let mut last = io::Error::other(format!("{} names no other resolver", self.file.display()));
        for server in self.servers() {
            let asked = async {
                match transport {
                    Transport::Udp => over_udp(server, question).await,
                    Transport::Tcp => over_tcp(server, question).await,
                }
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{server} does not answer")),
            }
            tracing::debug!(%server, error = %last, "a resolver of the host did not answer");
        }
        Err(last)
    }

    /// The file is read again only when it has changed.
    fn servers(&self) -> Vec<SocketAddr> {
        let changed = std::fs::metadata(&self.file).and_then(|meta| meta.modified()).ok();
        let mut known = self.known.lock();
        if known.0 != changed || changed.is_none() {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            *known = (changed, nameservers(&text));
        }
        known.1.iter().copied().filter(|server| *server != self.own).take(SERVERS).collect()
    }
}

/// The servers that a resolv.conf names, in order; this machine where it names none (resolv.conf(5)).
pub(super) fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let found = lines.filter_map(|rest| {
        let address = rest.trim();
        // With a port where it is written as such, for tests and for odd resolvers.
        address.parse::<SocketAddr>().ok().or_else(|| Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT)))
    });
    let found: Vec<SocketAddr> = found.collect();
    if found.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))] } else { found }
}

async fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        if wire::answers(&answer[..length], question) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if wire::answers(&answer, question) {
        Ok(answer)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{server} answered something else")))
    }
}
