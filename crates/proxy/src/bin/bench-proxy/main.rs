//! Measures what the proxy costs: CPU time a request, requests a second, and latency, against a direct connection and against
//! haproxy and nginx where they are installed; the same backend and the same load, in turns, in one run.
//!
//! Every party is a process of its own. CPU time is what the kernel counted for all threads of the proxy's process.
//!
//! `bench-proxy [--wire http1|http2|tls|grpc] [--requests N] [--connections N] [--body BYTES] [--rounds N] [--routes N] [--idle N [--rate N]]`
//! compares one wire (connections that wait are opened as fast as that goes, or so many a second); `--all` compares all of them, with bodies of 100 KiB and 10,000 connections that wait, and does
//! the rest:
//! `--hop [--rate N] [--patience SECONDS]` a mesh hop against a direct call and the others' hops (in quiet moments, waited for so long), `--growth` with routes and endpoints, `--swap N` snapshots under load.
//! Build it with `--release`. Wires other than http1 need h2load (nghttp2), tls needs openssl.

mod alone;
mod backend;
mod compare;
mod hop;
mod idle;
mod load;
mod ours;
mod paced;
mod parties;
mod quiet;

use std::path::Path;
use std::time::Duration;

use parties::{Kind, Wire};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Wire,
    All,
    Hop,
    Growth,
    Swaps,
}

/// What is measured, from the command line.
#[derive(Clone)]
struct Options {
    what: What,
    wire: Wire,
    requests: usize,
    connections: usize,
    body: usize,
    rounds: usize,
    routes: usize,
    idle: usize,
    swaps: usize,
    /// Requests a second of a hop, where not several are measured; connections that wait and are opened a second, where that is not as fast as it goes.
    rate: Option<usize>,
    /// How long quiet moments of the machine are waited for, for each rate of a hop.
    patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            what: What::Wire,
            wire: Wire::Http1,
            requests: 100_000,
            connections: 32,
            body: 1024,
            rounds: 3,
            routes: 1,
            idle: 0,
            swaps: 1_000,
            rate: None,
            patience: Duration::ZERO,
        }
    }
}

fn options(arguments: &[String]) -> Fallible<Options> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let what = match name.as_str() {
            "--all" => Some(What::All),
            "--hop" => Some(What::Hop),
            "--growth" => Some(What::Growth),
            _ => None,
        };
        if let Some(what) = what {
            options.what = what;
            continue;
        }
        let value = rest.next().ok_or_else(|| format!("{name} needs a value, or is no option"))?;
        if name == "--wire" {
            options.wire = Wire::parse(value)?;
            continue;
        }
        let number: usize = value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))?;
        match name.as_str() {
            "--requests" => options.requests = number.min(10_000_000),
            "--connections" => options.connections = number.clamp(1, 1_000),
            "--body" => options.body = number.min(16 << 20),
            "--rounds" => options.rounds = number.clamp(1, 100),
            "--idle" => options.idle = number.min(10_000),
            "--patience" => options.patience = Duration::from_secs(number.min(36_000) as u64),
            "--rate" => options.rate = Some(number.clamp(1, 100_000)),
            "--routes" => options.routes = number.clamp(1, 1_000_000),
            "--swap" => (options.what, options.swaps) = (What::Swaps, number.clamp(1, 100_000)),
            _ => return Err(format!("there is no option {name}").into()),
        }
    }
    Ok(options)
}

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime =
        |threads: usize| tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["backend", wire, body, listeners] => {
            runtime(1)?.block_on(backend::serve(Wire::parse(wire)?, body.parse()?, listeners.parse()?))
        }
        ["proxy", wire, backends, kind, routes, directory] => {
            let (wire, kind) = (Wire::parse(wire)?, Kind::parse(kind)?);
            runtime(2)?.block_on(ours::run(wire, backends, kind, routes.parse()?, Path::new(directory)))
        }
        _ => runtime(1)?.block_on(measure(&options(&arguments)?)),
    }
}

async fn measure(options: &Options) -> Fallible<()> {
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build; its figures mean nothing. Build with --release.");
    }
    match options.what {
        What::Wire => compare::compare(options).await,
        What::Hop => hop::hop(options).await,
        What::Growth => alone::growth(options).await,
        What::Swaps => alone::swaps(options).await,
        What::All => {
            let wires = [
                Options { wire: Wire::Http1, ..options.clone() },
                Options { wire: Wire::Http2, ..options.clone() },
                Options { wire: Wire::Tls, ..options.clone() },
                Options { wire: Wire::Grpc, ..options.clone() },
                Options { body: 100 << 10, requests: options.requests / 4, ..options.clone() },
                Options { requests: 0, idle: 10_000, ..options.clone() },
            ];
            for wire in wires {
                compare::compare(&wire).await?;
            }
            hop::hop(options).await?;
            alone::growth(options).await?;
            alone::swaps(options).await
        }
    }
}
