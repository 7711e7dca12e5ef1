//! Measures what the proxy costs: CPU time a request, requests a second, and latency, against a direct connection and against
//! haproxy and nginx where they are installed; the same backend and the same load, in turns, in one run.
//!
//! Every party is a process of its own. CPU time is what the kernel counted for all threads of the proxy's process.
//!
//! `bench-proxy [--requests N] [--connections N] [--body BYTES] [--rounds N] [--routes N]`; build it with `--release`.

mod load;
mod parties;

use std::net::SocketAddr;
use std::time::Duration;

use load::{Outcome, Plan};
use parties::Party;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is measured, from the command line.
struct Options {
    requests: usize,
    connections: usize,
    body: usize,
    rounds: usize,
    routes: usize,
}

fn options(arguments: &[String]) -> Fallible<Options> {
    let mut options = Options { requests: 100_000, connections: 32, body: 1024, rounds: 3, routes: 1 };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} needs a number", pair[0]).into()) };
        let number: usize = value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))?;
        match name.as_str() {
            "--requests" => options.requests = number.clamp(1, 10_000_000),
            "--connections" => options.connections = number.clamp(1, 1_000),
            "--body" => options.body = number.min(16 << 20),
            "--rounds" => options.rounds = number.clamp(1, 100),
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
        Some("backend") => runtime(1)?.block_on(parties::backend(arguments[1].parse()?)),
        Some("proxy") => runtime(2)?.block_on(parties::proxy(arguments[1].parse()?, arguments[2].parse()?)),
        _ => runtime(1)?.block_on(measure(&options(&arguments)?)),
    }
}

async fn measure(options: &Options) -> Fallible<()> {
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build; its figures mean nothing. Build with --release.");
    }
    let backend = Party::backend(options.body).await?;
    let directory = parties::scratch()?;
    let mut parties = vec![Party::coracle(backend.address, options.routes).await?];
    parties.extend(Party::haproxy(backend.address, &directory).await?);
    parties.extend(Party::nginx(backend.address, &directory).await?);
    println!(
        "{} requests a round over {} connections, bodies of {} bytes, {} routes, {} rounds in turns",
        options.requests, options.connections, options.body, options.routes, options.rounds
    );
    for (title, connections, requests) in
        [("full load", options.connections, options.requests), ("one at a time", 1, options.requests / 5 + 1)]
    {
        println!("\n{title}, {connections} connections");
        turns(&backend, &parties, options, Plan { connections, requests }).await?;
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

async fn turns(backend: &Party, parties: &[Party], options: &Options, plan: Plan) -> Fallible<()> {
    let direct = ("direct", backend.address, None);
    let rest = parties.iter().map(|party| (party.name, party.address, Some(party)));
    let all: Vec<(&str, SocketAddr, Option<&Party>)> = std::iter::once(direct).chain(rest).collect();
    for (_, address, _) in &all {
        // Connections, code and caches are warm before anything counts.
        load::run(*address, Plan { requests: plan.requests / 10 + 1, ..plan }).await?;
    }
    let mut samples: Vec<Vec<Sample>> = all.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for ((_, address, party), samples) in all.iter().zip(&mut samples) {
            let before = party.map_or(Ok(Duration::ZERO), Party::cpu)?;
            let outcome = load::run(*address, plan).await?;
            let spent = party.map_or(Ok(Duration::ZERO), Party::cpu)?.saturating_sub(before);
            samples.push(Sample { cpu: spent.as_secs_f64() * 1e6 / plan.requests as f64, outcome });
        }
    }
    println!(
        "{:10} {:>12} {:>8} {:>12} {:>9} {:>9} {:>10}",
        "", "CPU us/req", "ratio", "requests/s", "p50 us", "p99 us", "memory kB"
    );
    let ours = median(samples[1].iter().map(|sample| sample.cpu));
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
