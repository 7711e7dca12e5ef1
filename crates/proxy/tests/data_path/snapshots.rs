//! Snapshots: applied whole or not at all, without disturbing what stays.

use std::sync::Arc;

use http::StatusCode;
use proxy::snapshot::*;
use proxy::{Refused, Settings};
use tokio::net::TcpListener;

use crate::harness::*;

/// A port that was free a moment ago, on an address of the test's own.
async fn free(own: std::net::IpAddr) -> std::net::SocketAddr {
    TcpListener::bind((own, 0)).await.expect("a free port").local_addr().expect("an address")
}

fn two(rules: &[Rule], backends: &[(&str, Vec<std::net::SocketAddr>)]) -> proxy::Snapshot {
    let mut snapshot = routes(rules.to_vec(), backends);
    snapshot.listeners.push(listener("m", ListenerProtocol::Http, rules.to_vec()));
    snapshot
}

#[tokio::test]
async fn listeners_come_and_go_without_the_others() {
    let upstream = Upstream::named("a").await;
    let backends = [("b", vec![upstream.address])];
    let mut both = two(&[rule(&[("b", 1)])], &backends);
    both.listeners[1].bind.set_ip(alone());
    let (proxy, address) = serving(both).await;
    let second = proxy.address("m");
    let mut kept = Client::http1(address).await;
    assert_eq!(read(kept.send(get("/")).await.expect("an answer")).await.expect("a body").body, "a");
    let applied = proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    assert_eq!(applied.bound.len(), 1);
    assert!(proxy.handle.bound("m").is_none());
    // Closed before the application returned.
    tokio::net::TcpStream::connect(second).await.expect_err("nobody listens");
    assert_eq!(read(kept.send(get("/")).await.expect("the same connection")).await.expect("a body").body, "a");
    assert_eq!(proxy.address("l"), address);
}

#[tokio::test]
async fn a_bad_snapshot_is_refused_whole() {
    let upstream = Upstream::named("a").await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let good = two(&[rule(&[("b", 1)])], &[("b", vec![])]);
    let mut twice = good.clone();
    twice.listeners[1].id = "l".into();
    let mut same_address = good.clone();
    for listener in &mut same_address.listeners {
        listener.bind = ([127, 0, 0, 1], 9).into();
    }
    let mut unknown = good.clone();
    unknown.listeners[1].hosts[0].rules = vec![rule(&[("nowhere", 1)])];
    let mut expression = good.clone();
    expression.listeners[1].hosts[0].rules[0].matches.path = PathMatch::Regex("(".into());
    let mut certificate = good.clone();
    certificate.listeners[1].protocol =
        ListenerProtocol::Https { certificates: Vec::new(), clients: None, apart: Vec::new() };
    let mut hosts = good.clone();
    let host = hosts.listeners[1].hosts[0].clone();
    hosts.listeners[1].hosts.push(host);
    for (bad, says) in [
        (twice, "names listener l twice"),
        (same_address, "both want 127.0.0.1:9"),
        (unknown, "sends to backend nowhere"),
        (expression, "rule r: the expression"),
        (certificate, "listener m: certificate 0 cannot be used"),
        (hosts, "has the host * twice"),
    ] {
        let refused = proxy.handle.apply(bad).await.expect_err("a bad snapshot");
        assert!(refused.to_string().contains(says), "{refused}");
        assert!(proxy.handle.bound("m").is_none());
        assert_eq!(ask(address, get("/")).await.body, "a");
    }
}

#[tokio::test]
async fn a_taken_address_is_reported_and_tried_again() {
    let upstream = Upstream::named("a").await;
    let taken = TcpListener::bind((alone(), 0)).await.expect("a free port");
    let mut snapshot = two(&[rule(&[("b", 1)])], &[("b", vec![upstream.address])]);
    snapshot.listeners[1].bind = taken.local_addr().expect("an address");
    let proxy = start(Settings::default());
    let mut follow = proxy.handle.subscribe_bound();
    proxy.handle.apply(snapshot.clone()).await.expect("the rest is good");
    let error = proxy.handle.bound("m").expect("reported").expect_err("taken");
    assert!(error.to_string().contains("cannot listen on"), "{error}");
    assert_eq!(ask(proxy.address("l"), get("/")).await.body, "a");
    drop(taken);
    proxy.handle.apply(snapshot.clone()).await.expect("a good snapshot");
    assert_eq!(proxy.address("m"), snapshot.listeners[1].bind);
    assert_eq!(ask(proxy.address("m"), get("/")).await.body, "a");
    soon(follow.wait_for(|bound| bound.get("m").is_some_and(Result::is_ok))).await.expect("followed");
}

#[tokio::test]
async fn a_listener_changes_its_name_and_keeps_its_socket() {
    let upstream = Upstream::named("a").await;
    let mut snapshot = all_to(&[upstream.address]);
    snapshot.listeners[0].bind = free(alone()).await;
    let (proxy, address) = serving(snapshot.clone()).await;
    let mut kept = Client::http1(address).await;
    kept.send(get("/")).await.expect("an answer");
    snapshot.listeners[0].id = "renamed".into();
    proxy.handle.apply(snapshot).await.expect("a good snapshot");
    assert_eq!(proxy.address("renamed"), address);
    kept.send(get("/")).await.expect("the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn swapping_routes_under_load_loses_nothing() {
    let upstreams = [Upstream::named("a").await, Upstream::named("b").await];
    let (proxy, address) = serving(all_to(&[upstreams[0].address])).await;
    let swapped = Count::default();
    let enough = swapped.clone();
    let asking = tokio::spawn(async move {
        let mut client = Client::http1(address).await;
        let mut answers = 0;
        while answers < 2_000 || enough.get() < 20 {
            answers += 1;
            let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a body");
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        }
    });
    while !asking.is_finished() {
        let swaps = swapped.add();
        // Another backend each time, so that the rule, the backend and its endpoint all go.
        let id: Arc<str> = format!("backend-{swaps}").into();
        let to = vec![upstreams[swaps % 2].address];
        proxy.handle.apply(routes(vec![rule(&[(&id, 1)])], &[(&id, to)])).await.expect("a good snapshot");
    }
    soon(asking).await.expect("no request was lost");
}

#[tokio::test]
async fn nothing_is_applied_to_a_proxy_that_has_ended() {
    let proxy = start(Settings::default());
    proxy.shutdown.cancel();
    soon(proxy.task).await.expect("no panic").expect("nothing was open");
    assert_eq!(proxy.handle.apply(all_to(&[])).await.expect_err("ended"), Refused::Closed);
}

/// Three listeners: "l" has the proxy's own answer alone, "g" faces the outside and needs an endpoint, "s" is between services.
fn kept(endpoints: &[std::net::SocketAddr]) -> proxy::Snapshot {
    let own = Rule { action: Action::Respond { status: StatusCode::IM_A_TEAPOT, body: "tea".into() }, ..rule(&[]) };
    let mut snapshot = routes(vec![own], &[("b", endpoints.to_vec())]);
    for (id, forwarded) in [("g", Forwarded::Replace), ("s", Forwarded::Append)] {
        let listener = listener(id, ListenerProtocol::Http, vec![rule(&[("b", 1)])]);
        snapshot.listeners.push(Listener { forwarded, ..listener });
    }
    snapshot
}

async fn ended(proxy: Running) {
    proxy.shutdown.cancel();
    soon(proxy.task).await.expect("no panic").expect("a clean end");
}

async fn refused(proxy: &Running, listener: &str) {
    tokio::net::TcpStream::connect(proxy.address(listener)).await.expect_err("nobody listens yet");
}

#[tokio::test]
async fn the_last_good_snapshot_serves_at_the_next_start_without_its_endpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings { keep: Some(folder.path().join("snapshot")), ..Settings::default() };
    let upstream = Upstream::named("a").await;
    let first = start(settings.clone());
    first.handle.apply(kept(&[upstream.address])).await.expect("a good snapshot");
    assert_eq!(ask(first.address("g"), get("/")).await.body, "a");
    ended(first).await;
    // Nobody applies anything.
    let second = start(settings.clone());
    until(|| second.handle.bound("s").is_some()).await;
    assert_eq!(ask(second.address("l"), get("/own")).await.body, "tea");
    let answer = ask(second.address("s"), get("/")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "whoever listens there now is not asked");
    assert_eq!(answer.headers["retry-after"], "1");
    second.handle.apply(kept(&[upstream.address])).await.expect("a good snapshot");
    assert_eq!(ask(second.address("s"), get("/")).await.body, "a");
    ended(second).await;
    let text = std::fs::read(folder.path().join("snapshot")).expect("it is kept");
    std::fs::write(folder.path().join("snapshot"), &text[..text.len() / 2]).expect("ours");
    let third = start(settings);
    third.handle.apply(kept(&[upstream.address])).await.expect("a good snapshot");
    assert_eq!(ask(third.address("g"), get("/")).await.body, "a", "a torn file is as none");
}

/// Whoever has another proxy to go to must not be answered "not yet", but refused.
#[tokio::test]
async fn a_socket_to_the_outside_opens_once_what_answered_before_answers_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings { keep: Some(folder.path().join("snapshot")), ..Settings::default() };
    let upstream = Upstream::named("a").await;
    // Never served before: nothing is waited for.
    let first = start(settings.clone());
    first.handle.apply(kept(&[])).await.expect("a good snapshot");
    assert_eq!(ask(first.address("g"), get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    first.handle.apply(kept(&[upstream.address])).await.expect("a good snapshot");
    ended(first).await;
    for _ in 0..2 {
        let again = start(settings.clone());
        until(|| again.handle.bound("g").is_some()).await;
        refused(&again, "g").await;
        again.handle.apply(kept(&[])).await.expect("a good snapshot");
        refused(&again, "g").await;
        assert_eq!(ask(again.address("l"), get("/")).await.body, "tea");
        // Ended before it came to that, it waits the next time as well.
        ended(again).await;
    }
    let fourth = start(settings.clone());
    fourth.handle.apply(kept(&[])).await.expect("a good snapshot");
    let address = fourth.address("g");
    refused(&fourth, "g").await;
    fourth.handle.apply(kept(&[upstream.address])).await.expect("a good snapshot");
    assert_eq!((ask(address, get("/")).await.body.as_str(), fourth.address("g")), ("a", address));
    // Once open, it stays so.
    fourth.handle.apply(kept(&[])).await.expect("a good snapshot");
    assert_eq!(ask(address, get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    fourth.handle.apply(kept(&[upstream.address])).await.expect("a good snapshot");
    ended(fourth).await;
    let told = start(settings.clone());
    told.handle.apply(kept(&[])).await.expect("a good snapshot");
    refused(&told, "g").await;
    told.handle.open().await;
    assert_eq!(ask(told.address("g"), get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    told.handle.apply(kept(&[upstream.address])).await.expect("a good snapshot");
    ended(told).await;
    let impatient = start(Settings { hold: std::time::Duration::from_millis(50), ..settings });
    impatient.handle.apply(kept(&[])).await.expect("a good snapshot");
    soon(async {
        while tokio::net::TcpStream::connect(impatient.address("g")).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_swaps_of_many_routes_under_load_cost_no_request() {
    let upstream = Upstream::named("a").await;
    let many = |generation: usize| {
        let others = (0..100).map(|i| Rule {
            id: format!("r{i}-{generation}").into(),
            matches: Match { path: PathMatch::Prefix(format!("/other/{i}").into()), ..Match::default() },
            ..rule(&[("b", 1)])
        });
        let rules = others.chain([rule(&[("b", 1)])]).collect();
        routes(rules, &[("b", vec![upstream.address])])
    };
    let (proxy, address) = serving(many(0)).await;
    let (stop, made) = (tokio_util::sync::CancellationToken::new(), [(); 4].map(|()| Count::default()));
    let load = |stop: tokio_util::sync::CancellationToken, made: Count| async move {
        let mut client = Client::http1(address).await;
        while !stop.is_cancelled() {
            let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a whole one");
            assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "a"));
            made.add();
        }
    };
    let clients: Vec<_> = made.iter().map(|made| tokio::spawn(load(stop.clone(), made.clone()))).collect();
    for generation in 1..=1_000 {
        proxy.handle.apply(many(generation)).await.expect("a good snapshot");
    }
    until(|| made.iter().all(|made| made.get() > 0)).await;
    stop.cancel();
    for client in clients {
        soon(client).await.expect("no failure");
    }
}

/// A network beside with the sockets that this gives.
struct Beside<F>(F);

impl<F: Fn() -> proxy::Asked<std::io::Result<tokio::net::TcpSocket>> + Send + Sync> proxy::Network for Beside<F> {
    fn ready(&self) -> proxy::Asked<()> {
        Box::pin(async {})
    }

    fn covers(&self, _: std::net::IpAddr) -> bool {
        false
    }

    fn has(&self, _: std::net::IpAddr) -> bool {
        false
    }

    fn socket(&self) -> proxy::Asked<std::io::Result<tokio::net::TcpSocket>> {
        (self.0)()
    }
}

/// An address of the network beside that is not to be had is not the end of the others, nor of who waits for them.
#[tokio::test]
async fn an_address_that_the_network_beside_refuses_keeps_nobody_waiting() {
    let asked = Count::default();
    let counted = asked.clone();
    // They can't be bound, as they are already.
    let network = std::sync::Arc::new(Beside(move || -> proxy::Asked<std::io::Result<tokio::net::TcpSocket>> {
        counted.add();
        Box::pin(async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(([127, 0, 0, 1], 0).into())?;
            Ok(socket)
        })
    }));
    let running = start_with(
        proxy::Settings::default(),
        proxy::Dependencies { network: Some(network), ..proxy::Dependencies::default() },
    );
    let mut snapshot = all_to(&[nobody().await]);
    let second = listener("second", ListenerProtocol::Http, vec![rule(&[("b", 1)])]);
    snapshot.listeners.push(second);
    for listener in &mut snapshot.listeners {
        (listener.bind, listener.forwarded) = (free(alone()).await, Forwarded::Append);
    }
    running.handle.apply(snapshot).await.expect("a good snapshot");
    soon(running.handle.listens_beside()).await;
    // There may have been nothing to listen for yet when the network was ready.
    until(|| asked.get() >= 2).await;
}

/// The machine's own listeners and snapshots do not wait for the network beside.
#[tokio::test]
async fn a_network_beside_that_hangs_holds_nothing_up() {
    let upstream = Upstream::named("served").await;
    // Sockets that never come.
    let hangs = Beside(|| -> proxy::Asked<std::io::Result<tokio::net::TcpSocket>> { Box::pin(std::future::pending()) });
    let dependencies = proxy::Dependencies { network: Some(std::sync::Arc::new(hangs)), ..Default::default() };
    let running = start_with(proxy::Settings::default(), dependencies);
    let mut snapshot = all_to(&[upstream.address]);
    for n in 0..20 {
        let own = listener(&format!("l{n}"), ListenerProtocol::Http, vec![rule(&[("b", 1)])]);
        snapshot.listeners.push(own);
    }
    // All held until each has one: a port that is free again is given out twice.
    let (own, mut held) = (alone(), Vec::new());
    for listener in &mut snapshot.listeners {
        let free = TcpListener::bind((own, 0)).await.expect("a free port");
        (listener.bind, listener.forwarded) = (free.local_addr().expect("an address"), Forwarded::Append);
        held.push(free);
    }
    drop(held);
    for _ in 0..2 {
        soon(running.handle.apply(snapshot.clone())).await.expect("a good snapshot");
    }
    assert_eq!(ask(running.address("l19"), get("/")).await.body, "served");
}
