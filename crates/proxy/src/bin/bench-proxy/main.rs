//! Measures what the proxy costs: CPU time a request, requests a second, and latency, against a direct connection and against
//! haproxy and nginx where they are installed; the same backend and the same load, in turns, in one run.
//!
//! Every party is a process of its own. CPU time is what the kernel counted for all threads of the proxy's process.
//!
//! `bench-proxy [--wire http1|http2|tls|grpc] [--requests N] [--connections N] [--body BYTES] [--rounds N] [--routes N] [--idle N]`;
//! build it with `--release`. Wires other than http1 need h2load (nghttp2), tls needs openssl.

mod backend;
mod idle;
mod load;
mod parties;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use load::{Outcome, Plan};
use parties::{Party, Site, Wire};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is measured, from the command line.
struct Options {
    wire: Wire,
    requests: usize,
    connections: usize,
    body: usize,
    rounds: usize,
    routes: usize,
    idle: usize,
}

fn options(arguments: &[String]) -> Fallible<Options> {
    let mut options =
        Options { wire: Wire::Http1, requests: 100_000, connections: 32, body: 1024, rounds: 3, routes: 1, idle: 0 };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} needs a value", pair[0]).into()) };
        if name == "--wire" {
            options.wire = Wire::parse(value)?;
            continue;
        }
        let number: usize = value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))?;
        match name.as_str() {
            "--requests" => options.requests = number.clamp(1, 10_000_000),
            "--connections" => options.connections = number.clamp(1, 1_000),
            "--body" => options.body = number.min(16 << 20),
            "--rounds" => options.rounds = number.clamp(1, 100),
            "--idle" => options.idle = number.min(9_500),
            "--routes" => options.routes = number.clamp(1, 1_000_000),
            _ => return Err(format!("there is no option {name}").into()),
        }
    }
    Ok(options)
}

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime =
        |threads: usize| tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    match arguments.first().map(String::as_str) {
        Some("backend") => runtime(1)?.block_on(backend::serve(Wire::parse(&arguments[1])?, arguments[2].parse()?)),
        Some("proxy") => {
            let [_, wire, backend, routes, directory] = &arguments[..] else { return Err("five words, please".into()) };
            let running = parties::proxy(Wire::parse(wire)?, backend.parse()?, routes.parse()?, Path::new(directory));
            runtime(2)?.block_on(running)
        }
        _ => runtime(1)?.block_on(measure(&options(&arguments)?)),
    }
}

async fn measure(options: &Options) -> Fallible<()> {
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build; its figures mean nothing. Build with --release.");
    }
    let directory = parties::scratch()?;
    let wire = options.wire;
    if wire != Wire::Http1 && parties::installed("h2load").is_none() {
        return Err("h2load is not installed (it is part of nghttp2); only --wire http1 can be measured".into());
    }
    if wire == Wire::Tls && !parties::certify(&directory)? {
        return Err("openssl is not installed; --wire tls can't be measured".into());
    }
    let backend = Party::backend(wire, options.body).await?;
    let site = Site { wire, backend: backend.address, directory: &directory };
    let mut parties = vec![Party::coracle(&site, options.routes).await?];
    parties.extend(Party::haproxy(&site).await?);
    parties.extend(Party::nginx(&site).await?);
    println!(
        "{}: {} requests a round over {} connections, bodies of {} bytes, {} routes, {} rounds in turns",
        wire.name(),
        options.requests,
        options.connections,
        options.body,
        options.routes,
        options.rounds
    );
    for (title, connections, requests) in
        [("full load", options.connections, options.requests), ("one at a time", 1, options.requests / 5 + 1)]
    {
        println!("\n{title}, {connections} connections");
        turns(&backend, &parties, options, (Plan { connections, requests }, &directory)).await?;
    }
    if options.idle > 0 {
        idle::measure(&parties, options.idle).await?;
    }
    drop(parties);
    drop(backend);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// One measurement of one party.
struct Sample {
    /// Microseconds of CPU time a request.
    cpu: f64,
    outcome: Outcome,
}

async fn turns(
    backend: &Party,
    parties: &[Party],
    options: &Options,
    (plan, directory): (Plan, &Path),
) -> Fallible<()> {
    let run = async |address: SocketAddr, plan: Plan| match options.wire {
        Wire::Http1 => load::run(address, plan).await,
        wire => load::by_h2load(wire, address, plan, directory).await,
    };
    let direct = ("direct", backend.address, None);
    let rest = parties.iter().map(|party| (party.name, party.address, Some(party)));
    // Only where the backend speaks what clients do can it be asked without a proxy.
    let direct = matches!(options.wire, Wire::Http1 | Wire::Grpc).then_some(direct);
    let all: Vec<(&str, SocketAddr, Option<&Party>)> = direct.into_iter().chain(rest).collect();
    for (_, address, _) in &all {
        // Connections, code and caches are warm before anything counts.
        run(*address, Plan { requests: (plan.requests / 10).max(plan.connections), ..plan }).await?;
    }
    let mut samples: Vec<Vec<Sample>> = all.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for ((_, address, party), samples) in all.iter().zip(&mut samples) {
            let before = party.map_or(Ok(Duration::ZERO), Party::cpu)?;
            let outcome = run(*address, plan).await?;
            let spent = party.map_or(Ok(Duration::ZERO), Party::cpu)?.saturating_sub(before);
            samples.push(Sample { cpu: spent.as_secs_f64() * 1e6 / plan.requests as f64, outcome });
        }
    }
    println!(
        "{:10} {:>12} {:>8} {:>12} {:>9} {:>9} {:>10}",
        "", "CPU us/req", "ratio", "requests/s", "p50 us", "p99 us", "memory kB"
    );
    let ours = all
        .iter()
        .position(|(name, ..)| *name == "coracle")
        .map_or(0.0, |place| median(samples[place].iter().map(|sample| sample.cpu)));
    for ((name, _, party), samples) in all.iter().zip(&samples) {
        let cpu = median(samples.iter().map(|sample| sample.cpu));
        let rate = median(samples.iter().map(|sample| sample.outcome.rate));
        let p50 = median(samples.iter().map(|sample| sample.outcome.p50));
        let p99 = median(samples.iter().map(|sample| sample.outcome.p99));
        let memory = party.map_or(Ok(0), Party::memory)?;
        // Ours over theirs: below one, we are cheaper.
        let ratio = if cpu > 0.0 { format!("{:.2}", ours / cpu) } else { "-".into() };
        println!("{name:10} {cpu:>12.2} {ratio:>8} {rate:>12.0} {p50:>9.1} {p99:>9.1} {memory:>10}");
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
