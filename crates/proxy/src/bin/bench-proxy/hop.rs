//! What a hop adds to a direct call, at rates at which all who take part sleep between requests; haproxy and nginx in turns with it.
//!
//! Beside times there is what other work on the machine changes less: how often threads of the proxy went to sleep a request.

use std::time::{Duration, Instant};

use crate::compare::median;
use crate::paced::{self, Pace, Paced};
use crate::parties::{Kind, Party, Scratch, Site, Wire};
use crate::quiet::{self, Cores};
use crate::{Fallible, Options};

/// Requests a second, where nothing else is asked for.
const RATES: [usize; 3] = [500, 2_000, 8_000];
/// Connections.
const CALLERS: usize = 16;
/// How long one turn lasts.
const TURN: Duration = Duration::from_secs(1);
/// How many turns each party has for a round of other measurements, as these are shorter.
const TURNS: usize = 3;

/// One turn of one party.
struct Turn {
    paced: Paced,
    /// Microseconds of CPU time a request.
    cpu: f64,
    /// Times that a thread of it slept, a request.
    sleeps: f64,
    /// The share of the cores that was at work for others.
    others: f64,
}

/// A direct call against one through a hop with identity, policies, metrics and traces on, and through proxies without those.
pub(crate) async fn hop(options: &Options) -> Fallible<()> {
    let directory = Scratch::new()?;
    let backend = Party::backend(Wire::Http1, options.body, 1).await?;
    let site = Site { wire: Wire::Http1, backends: &backend.addresses, directory: &directory.0 };
    let hop = Party::coracle(&site, Kind::Hop, options.routes).await?;
    let plain = Party::coracle(&site, Kind::Gateway, options.routes).await?;
    let peers = [Party::haproxy(&site).await?, Party::nginx(&site).await?];
    let mut all = vec![("direct", &backend), ("a hop", &hop), ("no policies", &plain)];
    all.extend(peers.iter().flatten().map(|peer| (peer.name, peer)));
    let rates = options.rate.map_or(RATES.to_vec(), |rate| vec![rate]);
    for rate in rates {
        let until = Instant::now() + options.patience;
        let pace = Pace { callers: CALLERS, rate, lasting: TURN };
        let mut turns: Vec<Vec<Turn>> = all.iter().map(|_| Vec::new()).collect();
        let rounds = options.rounds * TURNS;
        for round in 0..=rounds {
            for ((name, party), turns) in all.iter().zip(&mut turns) {
                // The first one warms up.
                let until = if round == 0 { Instant::now() } else { until };
                let turn = quiet_turn(party, &backend, pace, until).await;
                let turn = turn.map_err(|error| format!("{name}: {error}"))?;
                if round > 0 {
                    turns.push(turn);
                }
            }
        }
        println!(
            "\na hop: {rate} requests a second over {CALLERS} connections, bodies of {} bytes, {rounds} rounds of {TURN:?} in turns",
            options.body
        );
        show(&all, &turns);
    }
    Ok(())
}

/// A turn in a quiet moment; the next best one where there is none until then.
async fn quiet_turn(party: &Party, backend: &Party, pace: Pace, until: Instant) -> Fallible<Turn> {
    loop {
        let waited = quiet::wait(until).await?;
        let turn = turn(party, backend, pace).await?;
        if !waited || turn.others < quiet::QUIET {
            return Ok(turn);
        }
    }
}

async fn turn(party: &Party, backend: &Party, pace: Pace) -> Fallible<Turn> {
    let all = [party, backend];
    // The backend is its own party where it is asked directly.
    let parties = if party.address == backend.address { &all[..1] } else { &all[..] };
    let used = || parties.iter().try_fold(crate::parties::own_cpu()?, |sum, party| Fallible::Ok(sum + party.cpu()?));
    let (cores, began, before) = (Cores::now()?, Instant::now(), used()?);
    let (cpu, sleeps) = (party.cpu()?, party.sleeps()?);
    let paced = paced::run(party.address, pace).await?;
    let requests = paced.requests as f64;
    let cpu = party.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / requests;
    let sleeps = party.sleeps()?.saturating_sub(sleeps) as f64 / requests;
    let capacity = began.elapsed().as_secs_f64() * std::thread::available_parallelism()?.get() as f64;
    let own = used()?.saturating_sub(before).as_secs_f64() / capacity;
    let others = (Cores::now()?.busy_since(cores) - own).max(0.0);
    Ok(Turn { paced, cpu, sleeps, others })
}

fn show(all: &[(&str, &Party)], turns: &[Vec<Turn>]) {
    println!(
        "{:12} {:>10} {:>8} {:>8} {:>9} {:>10} {:>10} {:>13} {:>9}",
        "", "CPU us/req", "sleeps", "p50 us", "p99 us", "added p50", "added p99", "callers' p99", "others %"
    );
    let middle = |turns: &[Turn], of: fn(&Turn) -> f64| median(turns.iter().map(of));
    let p50 = |turns: &[Turn]| middle(turns, |turn| turn.paced.outcome.p50);
    let p99 = |turns: &[Turn]| middle(turns, |turn| turn.paced.outcome.p99);
    let (direct50, direct99) = (p50(&turns[0]), p99(&turns[0]));
    for ((name, _), turns) in all.iter().zip(turns) {
        let (p50, p99) = (p50(turns), p99(turns));
        let (cpu, sleeps) = (middle(turns, |turn| turn.cpu), middle(turns, |turn| turn.sleeps));
        let (late, others) = (middle(turns, |turn| turn.paced.late), middle(turns, |turn| turn.others * 100.0));
        let (added50, added99) = (p50 - direct50, p99 - direct99);
        println!(
            "{name:12} {cpu:>10.2} {sleeps:>8.2} {p50:>8.1} {p99:>9.1} {added50:>10.1} {added99:>10.1} {late:>13.1} {others:>9.0}"
        );
    }
}
