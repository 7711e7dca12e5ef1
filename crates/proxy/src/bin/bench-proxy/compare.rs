//! One wire, one size of body: our proxy, haproxy and nginx in turns, with the same backend and the same load.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::load::{self, Outcome, Plan};
use crate::parties::{self, Kind, Party, Site, Wire};
use crate::{Fallible, Options, idle};

/// Measures and prints.
pub(crate) async fn compare(options: &Options) -> Fallible<()> {
    let directory = parties::Scratch::new()?;
    let wire = options.wire;
    if wire != Wire::Http1 && parties::installed("h2load").is_none() {
        return Err("h2load is not installed (it is part of nghttp2); only --wire http1 can be measured".into());
    }
    if wire == Wire::Tls && !parties::certify(&directory.0)? {
        return Err("openssl is not installed; --wire tls can't be measured".into());
    }
    let backend = Party::backend(wire, options.body, 1).await?;
    let site = Site { wire, backends: &backend.addresses, directory: &directory.0 };
    let mut parties = vec![Party::coracle(&site, Kind::Gateway, options.routes).await?];
    parties.extend(Party::haproxy(&site).await?);
    parties.extend(Party::nginx(&site).await?);
    println!(
        "\n{}: {} requests a round over {} connections, bodies of {} bytes, {} routes, {} rounds in turns",
        wire.name(),
        options.requests,
        options.connections,
        options.body,
        options.routes,
        options.rounds
    );
    if options.requests > 0 {
        for (title, connections, requests) in
            [("full load", options.connections, options.requests), ("one at a time", 1, options.requests / 5 + 1)]
        {
            println!("\n{title}, {connections} connections");
            let plan = Plan { connections, requests, routes: options.routes };
            turns(&backend, &parties, options, (plan, &directory.0)).await?;
        }
    }
    if options.idle > 0 {
        idle::measure(&parties, options.idle, options.rate).await?;
    }
    Ok(())
}

/// One measurement of one party.
pub(crate) struct Sample {
    /// Microseconds of CPU time a request.
    pub(crate) cpu: f64,
    pub(crate) outcome: Outcome,
}

/// Measures one plan once.
pub(crate) async fn sample(party: &Party, plan: Plan) -> Fallible<Sample> {
    let before = party.cpu()?;
    let outcome = load::run(party.address, plan).await?;
    let spent = party.cpu()?.saturating_sub(before);
    Ok(Sample { cpu: spent.as_secs_f64() * 1e6 / plan.requests as f64, outcome })
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
    for (name, address, _) in &all {
        // Connections, code and caches are warm before anything counts.
        let warm = Plan { requests: (plan.requests / 10).max(plan.connections), ..plan };
        run(*address, warm).await.map_err(|error| format!("{name}: {error}"))?;
    }
    let mut samples: Vec<Vec<Sample>> = all.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for ((name, address, party), samples) in all.iter().zip(&mut samples) {
            let before = party.map_or(Ok(Duration::ZERO), Party::cpu)?;
            let outcome = run(*address, plan).await.map_err(|error| format!("{name}: {error}"))?;
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

/// The middle one.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
