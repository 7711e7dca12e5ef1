//! A constant load over HTTP/1.1 with keep-alive, which counts whatever is not an answer of 2xx to 4xx.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a load has seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) answers: u64,
    /// Connections refused, reset or closed before an answer, and answers of 5xx; the first few in words.
    pub(crate) failures: u64,
    pub(crate) first_failures: Vec<String>,
}

impl Seen {
    fn fail(&mut self, why: String) {
        self.failures += 1;
        if self.first_failures.len() < 10 {
            self.first_failures.push(why);
        }
    }
}

/// Clients that ask without pause until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// Starts so many clients, each on a connection of its own that is kept while the server keeps it.
    pub(crate) fn start(address: SocketAddr, path: &str, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let request = format!("GET {path} HTTP/1.1\r\nhost: load\r\n\r\n");
        let client = |_| {
            let (stop, request) = (Arc::clone(&stop), request.clone());
            std::thread::spawn(move || ask(address, &request, &stop))
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, clients }
    }

    /// Stops every client after its current request, and adds up.
    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = Seen::default();
        for client in self.clients {
            let seen = client.join().expect("a client that does not panic");
            sum.answers += seen.answers;
            sum.failures += seen.failures;
            sum.first_failures.extend(seen.first_failures);
        }
        sum
    }
}

fn ask(address: SocketAddr, request: &str, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut connection: Option<BufReader<TcpStream>> = None;
    while !stop.load(Ordering::SeqCst) {
        if connection.is_none() {
            match connect(address) {
                Ok(stream) => connection = Some(stream),
                Err(error) => {
                    seen.fail(format!("connect: {error}"));
                    continue;
                }
            }
        }
        let Some(stream) = connection.as_mut() else { continue };
        match exchange(stream, request) {
            Ok((status, keep)) => {
                seen.answers += 1;
                if status >= 500 {
                    seen.fail(format!("status {status}"));
                }
                if !keep {
                    connection = None;
                }
            }
            Err(error) => {
                seen.fail(format!("exchange: {error}"));
                connection = None;
            }
        }
    }
    seen
}

pub(crate) fn connect(address: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// The status, and whether the server keeps the connection.
pub(crate) fn exchange(stream: &mut BufReader<TcpStream>, request: &str) -> std::io::Result<(u16, bool)> {
    stream.get_mut().write_all(request.as_bytes())?;
    let (mut status, mut length, mut chunked, mut keep) = (0, 0_u64, false, true);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other("closed before an answer"));
        }
        let lower = line.trim_end().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if status == 0 {
            status = lower.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(599);
        } else if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        } else if lower.starts_with("transfer-encoding:") {
            chunked = true;
        } else if lower == "connection: close" {
            keep = false;
        }
    }
    if chunked {
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            discard(stream, size + 2)?;
            if size == 0 {
                break;
            }
        }
    } else {
        discard(stream, length)?;
    }
    Ok((status, keep))
}

fn discard(stream: &mut impl Read, bytes: u64) -> std::io::Result<()> {
    let read = std::io::copy(&mut stream.take(bytes), &mut std::io::sink())?;
    if read == bytes { Ok(()) } else { Err(std::io::Error::other("closed within the body")) }
}
