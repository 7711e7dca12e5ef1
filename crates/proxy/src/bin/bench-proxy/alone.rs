//! Our proxy by itself: how cost grows, and what swapping snapshots does to those who ask.

use tokio_util::sync::CancellationToken;

use crate::compare::{median, sample};
use crate::load::{self, Plan};
use crate::parties::{Kind, Party, Scratch, Site, Wire};
use crate::{Fallible, Options};

/// How many routes and endpoints [`growth`] has.
const SIZES: [(usize, usize); 5] = [(10, 1), (1_000, 1), (100_000, 1), (10, 10), (10, 1_000)];

/// CPU time a request with few and with many routes and endpoints. Requests are spread over all of them.
pub(crate) async fn growth(options: &Options) -> Fallible<()> {
    let directory = Scratch::new()?;
    let mut parties = Vec::new();
    for (routes, endpoints) in SIZES {
        let backend = Party::backend(Wire::Http1, options.body, endpoints).await?;
        let site = Site { wire: Wire::Http1, backends: &backend.addresses, directory: &directory.0 };
        let party = Party::coracle(&site, Kind::Gateway, routes).await?;
        let plan = Plan { connections: options.connections, requests: options.requests, routes };
        load::run(party.address, Plan { requests: plan.requests / 5 + plan.connections, ..plan }).await?;
        parties.push((backend, party, plan));
    }
    let mut samples: Vec<Vec<f64>> = SIZES.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for ((_, party, plan), samples) in parties.iter().zip(&mut samples) {
            samples.push(sample(party, *plan).await?.cpu);
        }
    }
    println!(
        "\ngrowth: {} requests a round over {} connections, {} rounds in turns",
        options.requests, options.connections, options.rounds
    );
    println!("{:>8} {:>10} {:>12} {:>10}", "routes", "endpoints", "CPU us/req", "memory kB");
    for (((routes, endpoints), (_, party, _)), samples) in SIZES.iter().zip(&parties).zip(samples) {
        println!("{routes:>8} {endpoints:>10} {:>12.2} {:>10}", median(samples.into_iter()), party.memory()?);
    }
    Ok(())
}

/// Swaps a snapshot under load, and counts what goes wrong meanwhile.
pub(crate) async fn swaps(options: &Options) -> Fallible<()> {
    let directory = Scratch::new()?;
    let (routes, swaps) = (options.routes.max(10_000), options.swaps);
    let backend = Party::backend(Wire::Http1, options.body, 1).await?;
    let site = Site { wire: Wire::Http1, backends: &backend.addresses, directory: &directory.0 };
    let mut party = Party::coracle(&site, Kind::Hop, routes).await?;
    let (stop, plan) = (CancellationToken::new(), Plan { connections: 8, requests: 0, routes });
    let asking = tokio::spawn(load::until(party.address, plan, stop.clone()));
    let times = party.ask(&format!("swap {swaps}")).await?;
    stop.cancel();
    let meanwhile = asking.await??;
    let millis: Vec<f64> = times.split(' ').filter_map(|time| Some(time.parse::<f64>().ok()? / 1_000.0)).collect();
    let [fastest, median, slowest] = millis[..] else { return Err(format!("not three times: {times}").into()) };
    println!(
        "\n{swaps} swaps of a snapshot of {routes} routes, each new, under load over {} connections",
        plan.connections
    );
    println!(
        "checked, compiled and swapped in: fastest {fastest:.1} ms, median {median:.1} ms, slowest {slowest:.1} ms"
    );
    println!("{} requests answered meanwhile, {} errors", meanwhile.answered, meanwhile.failures.len());
    meanwhile.failures.first().map_or(Ok(()), |first| Err(format!("the first error: {first}").into()))
}
