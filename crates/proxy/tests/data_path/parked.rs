//! Connections that have asked and wait: no more is kept of them than their sockets, and nobody can tell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::snapshot::Forwarded;
use proxy::{Callers, Dependencies, Ground, Identifying, Identity, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// What a client waits for until it is parked.
const PAUSE: Option<Duration> = Some(Duration::from_millis(20));

async fn parking(upstream: &Upstream, settings: Settings) -> Running {
    let proxy = start(Settings { park: PAUSE, threads: 2, ..settings });
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    proxy
}

/// Asks, and has the answer.
async fn answered(stream: &mut TcpStream) -> String {
    stream.write_all(GET).await.expect("sends");
    read_until(stream, "\r\n\r\na").await
}

/// A client that has asked once.
async fn waiting(proxy: &Running) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address("l")).await.expect("connects");
    answered(&mut stream).await;
    stream
}

async fn all_waiting(proxy: &Running, count: usize) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(waiting(proxy).await);
    }
    clients
}

/// Waits until so many are open, and so many of them parked.
async fn kept(proxy: &Running, open: usize, parked: usize) {
    soon(async {
        loop {
            let stats = proxy.handle.stats();
            if (stats.connections, stats.parked) == (open, parked) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Sees the connection end with nothing more said.
async fn ended(stream: &mut TcpStream) {
    let mut said = Vec::new();
    // A reset is an end as well.
    let _ = soon(stream.read_to_end(&mut said)).await;
    assert_eq!(String::from_utf8_lossy(&said), "");
}

#[tokio::test]
async fn those_who_wait_are_parked_and_answered_when_they_ask_again() {
    let upstream = Upstream::named("a").await;
    let proxy = parking(&upstream, Settings::default()).await;
    let mut clients = all_waiting(&proxy, 300).await;
    for _ in 0..2 {
        kept(&proxy, 300, 300).await;
        for client in &mut clients {
            client.write_all(GET).await.expect("sends");
        }
        for client in &mut clients {
            let answer = read_until(client, "\r\n\r\na").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    kept(&proxy, 300, 300).await;
    // Half of them go, one after the other half.
    clients.truncate(150);
    kept(&proxy, 150, 150).await;
    drop(clients);
    kept(&proxy, 0, 0).await;
    let counted: u64 = proxy.handle.stats().series.iter().map(|series| series.classes[1]).sum();
    assert_eq!(counted, 900);
}

#[tokio::test]
async fn whenever_somebody_asks_he_is_answered() {
    let upstream = Upstream::named("a").await;
    let proxy = parking(&upstream, Settings::default()).await;
    // Requests that come while nothing is parked, while it is about to be, while it is, and at every step between.
    let clients = (0..64).map(|seed| {
        let proxy = &proxy;
        async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut client = waiting(proxy).await;
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_micros(random.u64(0..60_000))).await;
                answered(&mut client).await;
            }
            client
        }
    });
    let clients = futures::future::join_all(clients).await;
    kept(&proxy, 64, 64).await;
    drop(clients);
    kept(&proxy, 0, 0).await;
}

#[tokio::test]
async fn whoever_ends_his_side_while_parked_is_let_go() {
    let upstream = Upstream::named("a").await;
    let proxy = parking(&upstream, Settings::default()).await;
    let mut client = waiting(&proxy).await;
    kept(&proxy, 1, 1).await;
    client.shutdown().await.expect("shuts down");
    ended(&mut client).await;
    kept(&proxy, 0, 0).await;
}

#[tokio::test]
async fn whoever_breaks_off_while_parked_is_let_go() {
    let upstream = Upstream::named("a").await;
    let proxy = parking(&upstream, Settings::default()).await;
    let mut clients = all_waiting(&proxy, 100).await;
    kept(&proxy, 100, 100).await;
    for client in clients.drain(1..) {
        // Its end is a reset.
        client.set_zero_linger().expect("a socket");
    }
    kept(&proxy, 1, 1).await;
    answered(&mut clients[0]).await;
    kept(&proxy, 1, 1).await;
}

#[tokio::test]
async fn whoever_waits_for_too_long_is_let_go_while_parked() {
    let upstream = Upstream::named("a").await;
    let proxy = parking(&upstream, Settings { header_timeout: Duration::from_secs(24), ..Settings::default() }).await;
    let mut clients = all_waiting(&proxy, 3).await;
    // They are parked long before that.
    until(|| proxy.handle.stats().parked > 0).await;
    for client in &mut clients {
        ended(client).await;
    }
    kept(&proxy, 0, 0).await;
}

#[tokio::test]
async fn a_head_that_wakes_one_has_its_time_from_its_first_byte() {
    let (limit, idle, slow) = (Duration::from_secs(24), Duration::from_secs(13), Duration::from_millis(12_500));
    let upstream = Upstream::named("a").await;
    let patient = parking(&upstream, Settings { header_timeout: limit, ..Settings::default() }).await;
    let goes_on = async {
        let mut client = waiting(&patient).await;
        kept(&patient, 1, 1).await;
        tokio::time::sleep(idle).await;
        assert_eq!(patient.handle.stats().parked, 1);
        client.write_all(&GET[..10]).await.expect("sends");
        kept(&patient, 1, 0).await;
        // Longer than what was left of the time that it may be idle.
        tokio::time::sleep(slow).await;
        client.write_all(&GET[10..]).await.expect("sends");
        let answer = read_until(&mut client, "\r\n\r\na").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let short = parking(&upstream, Settings { header_timeout: limit, ..Settings::default() }).await;
    let stands = async {
        let mut client = waiting(&short).await;
        until(|| short.handle.stats().parked == 1).await;
        client.write_all(&GET[..10]).await.expect("sends");
        ended(&mut client).await;
        kept(&short, 0, 0).await;
    };
    assert!(idle + slow > limit);
    tokio::join!(goes_on, stands);
}

#[tokio::test]
async fn what_is_sent_ahead_to_one_that_is_parked_is_answered_in_order() {
    let upstream = Upstream::http(|request| async move {
        let length = request.uri().path().len();
        http::Response::new(text(format!("<{}>{}", request.uri(), "x".repeat(length))))
    })
    .await;
    let proxy = parking(&upstream, Settings::default()).await;
    let mut client = TcpStream::connect(proxy.address("l")).await.expect("connects");
    client.write_all(GET).await.expect("sends");
    read_until(&mut client, "</>x").await;
    kept(&proxy, 1, 1).await;
    let get = |number: usize| format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n");
    let post = "POST /posted HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab";
    let all: String = (0..40).map(get).collect();
    client.write_all((all + post + &get(40)[..9]).as_bytes()).await.expect("sends");
    let mut said = read_until(&mut client, "</posted>").await;
    client.write_all(&get(40).as_bytes()[9..]).await.expect("sends");
    said += &read_until(&mut client, "</40>").await;
    let said: Vec<&str> = said.split('<').skip(1).filter_map(|rest| rest.split('>').next()).collect();
    let mut expected: Vec<String> = (0..40).map(|number| format!("/{number}")).collect();
    expected.extend(["/posted".to_owned(), "/40".to_owned()]);
    assert_eq!(said, expected);
}

#[tokio::test]
async fn those_who_are_parked_end_with_their_listener_and_nobody_elses() {
    let upstream = Upstream::named("a").await;
    let proxy = start(Settings { park: PAUSE, threads: 2, ..Settings::default() });
    let mut both = all_to(&[upstream.address]);
    let mut other = both.listeners[0].clone();
    other.id = "other".into();
    both.listeners.push(other);
    proxy.handle.apply(both.clone()).await.expect("a good snapshot");
    let mut stays = TcpStream::connect(proxy.address("other")).await.expect("connects");
    answered(&mut stays).await;
    // Closed, bound again, and removed by the snapshot after that.
    for way in 0..2 {
        let mut clients = all_waiting(&proxy, 100).await;
        kept(&proxy, 101, 101).await;
        match way {
            0 => soon(proxy.handle.close(|id| id == "l")).await,
            _ => {
                let mut one = both.clone();
                one.listeners.remove(0);
                proxy.handle.apply(one).await.expect("a good snapshot");
            }
        }
        for client in &mut clients {
            ended(client).await;
        }
        kept(&proxy, 1, 1).await;
        if way == 0 {
            proxy.handle.apply(both.clone()).await.expect("a good snapshot");
        }
    }
    answered(&mut stays).await;
    kept(&proxy, 1, 1).await;
    proxy.shutdown.cancel();
    ended(&mut stays).await;
    soon(proxy.task).await.expect("no panic").expect("all ended by themselves");
    assert_eq!(proxy.handle.stats().parked, 0);
}

#[tokio::test]
async fn a_request_of_one_that_is_parked_which_arrives_with_the_end_is_answered() {
    let upstream = Upstream::named("a").await;
    for _ in 0..20 {
        let proxy = parking(&upstream, Settings::default()).await;
        let client = waiting(&proxy).await;
        kept(&proxy, 1, 1).await;
        let mut client = client.into_std().expect("a socket");
        std::io::Write::write_all(&mut client, GET).expect("sends");
        proxy.shutdown.cancel();
        let mut client = TcpStream::from_std(client).expect("a socket");
        let answer = read_until(&mut client, "\r\n\r\na").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        soon(proxy.task).await.expect("no panic").expect("all ended by themselves");
    }
}

/// Says who calls once for each connection, and somebody else each time.
#[derive(Default)]
struct Numbered(Count);

impl Callers for Numbered {
    fn identify(&self, _: Ground, _: SocketAddr, _: SocketAddr) -> Identifying {
        let name = format!("shop/w{}", self.0.add());
        let identity = Identity { id: format!("spiffe://cluster.local/{name}").into(), workload: name.into() };
        Box::pin(async { Some(Arc::new(identity)) })
    }
}

#[tokio::test]
async fn who_somebody_is_was_found_out_when_he_came() {
    let upstream = Upstream::echo().await;
    let callers = Numbered::default();
    let asked = callers.0.clone();
    let dependencies = Dependencies { callers: Some(Arc::new(callers)), ..Dependencies::default() };
    let proxy = start_with(Settings { park: PAUSE, threads: 2, ..Settings::default() }, dependencies);
    let mut snapshot = all_to(&[upstream.address]);
    // Callers are known between services only.
    snapshot.listeners.iter_mut().for_each(|listener| listener.forwarded = Forwarded::Append);
    proxy.handle.apply(snapshot).await.expect("a good snapshot");
    let mut client = TcpStream::connect(proxy.address("l")).await.expect("connects");
    let mut told = Vec::new();
    for _ in 0..3 {
        client.write_all(GET).await.expect("sends");
        // What the echo says ends as the head of a request does.
        read_until(&mut client, "\r\n\r\n").await;
        let said = read_until(&mut client, "\n\n").await;
        let lines = said.lines().filter(|line| line.starts_with("x-forwarded")).map(str::to_owned);
        told.push(lines.collect::<Vec<_>>());
        kept(&proxy, 1, 1).await;
    }
    assert!(told[0].iter().any(|line| line.contains("spiffe://cluster.local/shop/w0")), "{told:?}");
    assert!(told.iter().all(|each| *each == told[0]), "{told:?}");
    assert_eq!(asked.get(), 1);
    let series = proxy.handle.stats().series;
    let seen: Vec<(&str, u64)> = series.iter().map(|series| (&*series.source, series.classes[1])).collect();
    assert_eq!(seen, [("shop/w0", 3)]);
}

#[tokio::test]
async fn nobody_is_parked_where_that_is_not_wanted_or_cannot_be() {
    let upstream = Upstream::named("a").await;
    let limit = Duration::from_secs(2);
    for settings in [
        Settings { park: None, header_timeout: limit, ..Settings::default() },
        Settings { park: PAUSE, threads: 0, header_timeout: limit, ..Settings::default() },
    ] {
        let proxy = start(settings);
        proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
        let mut client = waiting(&proxy).await;
        let mut most = 0;
        // It is asked for as long as the connection is there.
        until(|| {
            let stats = proxy.handle.stats();
            most = most.max(stats.parked);
            stats.connections == 0
        })
        .await;
        ended(&mut client).await;
        assert_eq!(most, 0);
    }
}
