//! The load: connections that each ask, wait for the whole answer, and ask again. HTTP/1.1 is spoken here; for the rest, h2load
//! of nghttp2 makes the load.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Fallible;
use crate::parties::Wire;

/// How much is asked.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    pub(crate) requests: usize,
    /// Requests are spread over so many routes. Only HTTP/1.1 has more than one.
    pub(crate) routes: usize,
}

/// What came of it.
pub(crate) struct Outcome {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// The target of a request for a route.
fn target(route: usize) -> String {
    format!("/bench/{route}/item?id=42")
}

pub(crate) fn request(route: usize) -> Vec<u8> {
    let target = target(route);
    format!(
        "GET {target} HTTP/1.1\r\nhost: bench.test\r\nuser-agent: bench-proxy/1.0\r\naccept: */*\r\n\
         accept-encoding: gzip, deflate\r\naccept-language: en\r\ncookie: session=0123456789abcdef\r\n\r\n"
    )
    .into_bytes()
}

/// A client's connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Fallible<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 128 * 1024] })
    }

    /// Asks once, and waits for the whole answer.
    async fn ask(&mut self, request: &[u8]) -> Fallible<()> {
        self.stream.write_all(request).await?;
        answer(&mut self.stream, &mut self.buffer).await
    }
}

pub(crate) fn nanos(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}

/// Runs a plan against an address. Anything but a 200 is an error.
pub(crate) async fn run(address: SocketAddr, plan: Plan) -> Fallible<Outcome> {
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for number in 0..plan.connections {
        // The first ones take what does not divide.
        let share = plan.requests / plan.connections + usize::from(number < plan.requests % plan.connections);
        connections.spawn(one(address, share, plan.routes));
    }
    let mut times = Vec::with_capacity(plan.requests);
    while let Some(part) = connections.join_next().await {
        times.extend(part??);
    }
    Ok(outcome(times, started))
}

/// Asks so often over one connection; returns how long each took, in nanoseconds.
async fn one(address: SocketAddr, requests: usize, routes: usize) -> Fallible<Vec<u32>> {
    let mut client = Client::connect(address).await?;
    let mut times = Vec::with_capacity(requests);
    let first = request(0);
    for _ in 0..requests {
        let other = (routes > 1).then(|| request(fastrand::usize(..routes)));
        let started = Instant::now();
        client.ask(other.as_deref().unwrap_or(&first)).await?;
        times.push(nanos(started.elapsed()));
    }
    Ok(times)
}

/// What came of asking for as long as something went on.
#[derive(Default)]
pub(crate) struct Meanwhile {
    pub(crate) answered: usize,
    /// The first words of each failure.
    pub(crate) failures: Vec<String>,
}

/// Asks over so many connections until `stop`; failures are counted, and asked on.
pub(crate) async fn until(address: SocketAddr, plan: Plan, stop: CancellationToken) -> Fallible<Meanwhile> {
    let mut clients = JoinSet::new();
    for _ in 0..plan.connections {
        let stop = stop.clone();
        clients.spawn(async move {
            let (mut all, mut client) = (Meanwhile::default(), Client::connect(address).await?);
            while !stop.is_cancelled() {
                match client.ask(&request(fastrand::usize(..plan.routes))).await {
                    Ok(()) => all.answered += 1,
                    Err(error) => {
                        all.failures.push(error.to_string());
                        client = Client::connect(address).await?;
                    }
                }
            }
            Fallible::Ok(all)
        });
    }
    let mut all = Meanwhile::default();
    while let Some(part) = clients.join_next().await {
        let part = part??;
        all.answered += part.answered;
        all.failures.extend(part.failures);
    }
    Ok(all)
}

pub(crate) fn outcome(mut times: Vec<u32>, started: Instant) -> Outcome {
    let took = started.elapsed();
    times.sort_unstable();
    let at = |share: f64| f64::from(times[((times.len() - 1) as f64 * share) as usize]) / 1_000.0;
    Outcome { rate: times.len() as f64 / took.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

/// How many requests at once h2load has on each connection of HTTP/2.
const STREAMS: &str = "4";

/// Runs a plan by h2load. `directory` takes its log.
pub(crate) async fn by_h2load(wire: Wire, address: SocketAddr, plan: Plan, directory: &Path) -> Fallible<Outcome> {
    let (log, message) = (directory.join("h2load.log"), directory.join("message"));
    // A message of gRPC without content.
    std::fs::write(&message, [0; 5])?;
    let connections = plan.connections.min(plan.requests).to_string();
    let mut command = Command::new("h2load");
    command.args(["-n", &plan.requests.to_string(), "-c", &connections, "--log-file"]).arg(&log);
    command.args(["-H", "user-agent: bench-proxy/1.0", "-H", "accept-language: en"]);
    let scheme = match wire {
        Wire::Tls => {
            command.args(["--h1", "-H", ":authority: bench.test"]);
            "https"
        }
        Wire::Grpc => {
            command
                .args(["-m", STREAMS, "-H", "content-type: application/grpc", "-H", "te: trailers", "-d"])
                .arg(&message);
            "http"
        }
        Wire::Http1 | Wire::Http2 => {
            command.args(["-m", STREAMS]);
            "http"
        }
    };
    let started = Instant::now();
    let output = command.arg(format!("{scheme}://{address}{}", target(0))).output().await?;
    let words = String::from_utf8_lossy(&output.stdout);
    if !words.contains(&format!(" {} succeeded, 0 failed, 0 errored", plan.requests)) {
        return Err(format!("h2load was not answered every time: {words}").into());
    }
    let lines = std::fs::read_to_string(&log)?;
    std::fs::remove_file(&log)?;
    // Start, status, and microseconds until the answer was whole.
    let micros = lines.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok());
    let times: Vec<u32> = micros.map(|micros| micros.saturating_mul(1_000)).collect();
    if times.is_empty() {
        return Err("h2load wrote no times".into());
    }
    Ok(outcome(times, started))
}

/// How long the whole answer is that begins so, once its head is there. Anything but a 200 is an error.
pub(crate) fn whole(begun: &[u8]) -> Fallible<Option<usize>> {
    let Some(end) = begun.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&begun[..end])?.to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(format!("the answer was no 200: {head}").into());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    Ok(Some(end + 4 + length.ok_or("the answer has no length")?.trim().parse::<usize>()?))
}

async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Fallible<()> {
    let mut filled = 0;
    let whole = loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err("the connection was closed before the answer".into());
        }
        filled += read;
        if let Some(whole) = whole(&buffer[..filled])? {
            break whole;
        }
    };
    let mut left = whole.saturating_sub(filled);
    while left > 0 {
        let most = left.min(buffer.len());
        let read = stream.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Err("the connection was closed in the middle of an answer".into());
        }
        left -= read;
    }
    Ok(())
}
