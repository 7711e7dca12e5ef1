//! Our proxy's process: a gateway that passes on, or a hop between two services with everything on that the mesh does.
//!
//! It reads lines: `swap N` applies N snapshots one after the other, each with rules that are new, and answers with the times.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use proxy::access::{self, AccessRule, Effect, Source};
use proxy::policy::{Balancing, Breaker, Budget, Outliers, Policy, Retries, RetryOn, Scoped, TryTimeouts};
use proxy::snapshot::{
    Action, Admits, Backend, BackendProtocol, Certificate, Endpoint, Forwarded, Guard, HostMatch, Listener,
    ListenerProtocol, Match, PathMatch, Rule, Timeouts, VirtualHost, Weighted,
};
use proxy::{Dependencies, Exchange, Handle, Identifying, Identity, Settings, Snapshot};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Fallible;
use crate::parties::{CERTIFICATE, KEY, Kind, Wire};

/// Who calls, where our proxy is a hop.
const CALLER: &str = "spiffe://cluster.local/ns/bench/sa/caller";

/// How many records wait to be taken, and for how long.
const BATCH: usize = 8_192;
const LINGER: Duration = Duration::from_millis(100);

/// What its snapshots are made of.
struct Make {
    kind: Kind,
    protocol: ListenerProtocol,
    speaks: BackendProtocol,
    backends: Vec<SocketAddr>,
    routes: usize,
}

/// Serves until it is ended from outside.
pub(crate) async fn run(wire: Wire, backends: &str, kind: Kind, routes: usize, directory: &Path) -> Fallible<()> {
    let settings = Settings { max_connections: 30_000, ..Settings::default() };
    let (records, taking) = mpsc::channel(BATCH);
    let dependencies = match kind {
        Kind::Gateway => Dependencies::default(),
        Kind::Hop => Dependencies {
            callers: Some(Arc::new(Known)),
            observer: Some(Arc::new(Recorder(records))),
            ..Dependencies::default()
        },
    };
    let (proxy, handle) = proxy::build(settings, dependencies);
    let protocol = match wire {
        Wire::Tls => ListenerProtocol::Https {
            certificates: vec![Certificate {
                hosts: Vec::new(),
                chain: std::fs::read(directory.join(CERTIFICATE))?.into(),
                key: std::fs::read(directory.join(KEY))?.into(),
            }],
            clients: None,
            apart: Vec::new(),
        },
        _ => ListenerProtocol::Http,
    };
    let speaks = if wire == Wire::Grpc { BackendProtocol::H2c } else { BackendProtocol::Http1 };
    let backends = backends.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let make = Make { kind, protocol, speaks, backends, routes };
    tokio::select! {
        ended = proxy.run(CancellationToken::new()) => ended.map_err(Into::into),
        failed = obey(&handle, &make) => failed,
        () = take(taking) => Err("nobody records any more".into()),
    }
}

/// Applies the first snapshot, and then does what it is told.
async fn obey(handle: &Handle, make: &Make) -> Fallible<()> {
    handle.apply(make.snapshot(0)).await?;
    println!("{}", handle.bound("bench").ok_or("not bound")??);
    let mut lines = BufReader::new(pipe::OpenOptions::new().open_receiver("/dev/stdin")?).lines();
    while let Some(line) = lines.next_line().await? {
        let swaps = line.strip_prefix("swap ").ok_or("it is told nothing but to swap")?.parse()?;
        println!("{}", swap(handle, make, swaps).await?);
    }
    // Whoever spoke has gone, and is about to end this.
    std::future::pending().await
}

/// Swaps so often; says how long the fastest, the median and the slowest took, in microseconds.
async fn swap(handle: &Handle, make: &Make, swaps: usize) -> Fallible<String> {
    let mut times: Vec<Duration> = Vec::with_capacity(swaps);
    for generation in 1..=swaps {
        let snapshot = make.snapshot(generation);
        let started = Instant::now();
        handle.apply(snapshot).await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let at = |place: usize| times.get(place).map_or(0, Duration::as_micros);
    Ok(format!("{} {} {}", at(0), at(times.len() / 2), at(times.len().saturating_sub(1))))
}

/// Knows everybody.
struct Known;

impl proxy::Callers for Known {
    fn identify(&self, _: proxy::Ground, _: SocketAddr, _: SocketAddr) -> Identifying {
        let identity = Arc::new(Identity { id: CALLER.into(), workload: "bench/caller".into() });
        Box::pin(async { Some(identity) })
    }
}

/// Hands records over, as the program does: to a task of its own, and none that there is no room for.
struct Recorder(mpsc::Sender<Box<Exchange>>);

impl proxy::Observer for Recorder {
    fn observe(&self, exchange: Box<Exchange>) {
        // Without room it is lost, which is what an observer is to do then.
        let _ = self.0.try_send(exchange);
    }
}

/// Takes them as the program does: those of a tenth of a second together, so that nobody is woken for each.
async fn take(mut records: mpsc::Receiver<Box<Exchange>>) {
    let (mut seen, mut batch) = (0, Vec::new());
    while records.recv_many(&mut batch, BATCH).await > 0 {
        seen += batch.drain(..).filter(|record| record.status == StatusCode::OK).count();
        tokio::time::sleep(LINGER).await;
    }
    tracing::debug!(seen, "records");
}

impl Make {
    /// So many routes; every generation has rules of its own.
    fn snapshot(&self, generation: usize) -> Snapshot {
        let hop = self.kind == Kind::Hop;
        let policy = hop.then(|| Arc::new(policy()));
        let guard = Guard { through: Vec::new(), places: if hop { vec!["place".into()] } else { Vec::new() } };
        let rule = |number: usize| Rule {
            id: format!("bench/bench/{}", generation % 2).into(),
            matches: Match { path: PathMatch::Prefix(format!("/bench/{number}").into()), ..Match::default() },
            filters: Vec::new(),
            action: Action::Forward {
                backends: vec![Weighted {
                    backend: "out".into(),
                    weight: 1,
                    filters: Vec::new(),
                    policy: policy.clone(),
                }],
            },
            timeouts: Timeouts::default(),
            client: None,
            guard: guard.clone(),
        };
        let listener = Listener {
            id: "bench".into(),
            bind: ([127, 0, 0, 1], 0).into(),
            fallback: None,
            protocol: self.protocol.clone(),
            forwarded: if hop { Forwarded::Append } else { Forwarded::Replace },
            admits: if hop { Admits::Known } else { Admits::Anybody },
            peer_name: None,
            for_callers: Vec::new(),
            shows: None,
            hosts: vec![VirtualHost { host: HostMatch::Any, rules: (0..self.routes).map(rule).collect() }],
        };
        let endpoints = self.backends.iter().copied().map(Endpoint::plain).collect();
        let out = Backend { endpoints, protocol: self.speaks, ..Backend::default() };
        let mut snapshot = Snapshot {
            listeners: vec![listener],
            backends: BTreeMap::from([("out".into(), out)]),
            ..Snapshot::default()
        };
        if hop {
            snapshot.places.insert("place".into(), access::Place { policies: vec!["callers".into()] });
            snapshot.policies.insert("callers".into(), callers());
        }
        snapshot
    }
}

/// Who may ask for what.
fn callers() -> access::Policy {
    let rule = AccessRule {
        name: "callers".into(),
        effect: Effect::Allow,
        from: vec![Source::Id("spiffe://cluster.local/ns/bench/sa/*".into())],
        methods: vec![Method::GET, Method::POST],
        paths: vec![PathMatch::Prefix("/bench".into())],
        headers: Vec::new(),
        token: None,
        clients: None,
    };
    access::Policy { rules: vec![rule], ..access::Policy::default() }
}

/// Limits of time, retries within a budget, a breaker, balancing and the watch for endpoints that fail.
fn policy() -> Policy {
    fn scoped<T>(settings: T) -> Option<Scoped<T>> {
        Some(Scoped { scope: "bench".into(), settings })
    }
    Policy {
        timeouts: TryTimeouts { request: Some(Duration::from_secs(10)), per_try: Some(Duration::from_secs(2)) },
        retries: scoped(Retries {
            attempts: 2,
            on: vec![RetryOn::GatewayError, RetryOn::ConnectFailure, RetryOn::Reset],
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
            budget: Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 },
            max_body: 64 * 1024,
        }),
        breaker: scoped(Breaker {
            failure_percent: 50,
            minimum_calls: 20,
            window: Duration::from_secs(10),
            consecutive: Some(10),
            call_timeout: Duration::from_secs(2),
            open: Duration::from_secs(5),
            probes: 3,
        }),
        balancing: scoped(Balancing { algorithm: proxy::policy::Algorithm::PeakEwma, slow_start: None }),
        outliers: scoped(Outliers {
            consecutive: Some(5),
            failure_percent: None,
            minimum_requests: 10,
            window: Duration::from_secs(10),
            base: Duration::from_secs(30),
            max: Duration::from_secs(300),
            max_percent: 50,
        }),
        ..Policy::default()
    }
}
