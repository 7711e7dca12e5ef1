//! Connections that are carried as bytes: what is counted and told of them, and policies of tunnels to the outside.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use proxy::policy::{Breaker, Concurrency, Policy, Scoped};
use proxy::snapshot::*;
use proxy::{Ending, Recording, Sessions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access::{AS_A, NOBODY, call, guarded};
use crate::harness::*;
use crate::observed::observed;

const ALL: Recording = Recording { all: true, ratio: 0.0, per_second: 0 };

/// Sends back what it gets, until its client closes.
async fn echo() -> Upstream {
    Upstream::raw(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        // A client that breaks off is its own affair.
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

fn raw_to(endpoints: &[SocketAddr]) -> proxy::Snapshot {
    let mut snapshot = all_to(endpoints);
    snapshot.listeners = vec![listener("l", ListenerProtocol::Tcp { backend: "b".into() }, Vec::new())];
    snapshot
}

fn sessions(running: &Running) -> Sessions {
    running.handle.stats().series.iter().map(|series| series.sessions).find(|all| all.opened > 0).unwrap_or_default()
}

fn closed(running: &Running, ending: Ending) -> u64 {
    sessions(running).closed[ending as usize]
}

#[tokio::test]
async fn a_connection_is_counted_as_it_goes_and_told_of_at_its_end() {
    let upstream = echo().await;
    let (running, address, notebook) = observed(raw_to(&[upstream.address]), ALL).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"hello").await.expect("sent");
    let mut back = [0; 5];
    soon(stream.read_exact(&mut back)).await.expect("an echo");
    // Counted while it is open.
    until(|| sessions(&running).received == 5 && sessions(&running).sent == 5).await;
    let open = sessions(&running);
    assert_eq!((open.opened, open.sent, open.closed), (1, 5, [0; 5]));
    drop(stream);
    until(|| closed(&running, Ending::Client) == 1).await;
    let told = notebook.only().await;
    assert_eq!((told.method.as_str(), told.scheme, told.status, told.reason), ("TCP", "tcp", StatusCode::OK, None));
    assert_eq!((told.request_bytes, told.response_bytes, told.attempts), (5, 5, 1));
    assert_eq!((&*told.backend, told.upstream), ("b", Some(upstream.address)));
    assert_eq!(told.caller.map(|caller| caller.workload.to_string()).as_deref(), Some("shop/web"));
}

#[tokio::test]
async fn who_closes_first_is_told_and_nobody_to_reach_as_well() {
    let closing = Upstream::raw(|mut stream| async move {
        stream.write_all(b"bye").await.expect("sent");
    })
    .await;
    let (running, address, notebook) = observed(raw_to(&[closing.address]), ALL).await;
    assert_eq!(raw(address, "").await, "bye");
    until(|| closed(&running, Ending::Server) == 1).await;
    assert_eq!(notebook.only().await.reason, None);
    running.handle.apply(raw_to(&[nobody().await])).await.expect("a good snapshot");
    assert_eq!(raw(running.address("l"), "x").await, "");
    until(|| closed(&running, Ending::Unreached) == 1).await;
    let told = notebook.only().await;
    assert_eq!((told.status, told.reason), (StatusCode::BAD_GATEWAY, Some("connect_failed")));
    assert_eq!(told.missed.len(), 1);
}

/// The way out, with a policy for what A sends to `host`, a name of this machine.
pub(crate) fn exit(host: &str, port: u16, policy: Policy) -> proxy::Snapshot {
    let mut rule = rule(&[("out", 1)]);
    if let Action::Forward { backends } = &mut rule.action {
        backends[0].policy = Some(Arc::new(policy));
    }
    let way = EgressWay { callers: "spiffe://cluster.local/ns/shop/sa/a".into(), host: host.into(), port, rule };
    let mut exit = listener("l", ListenerProtocol::Egress { limits: Vec::new(), ways: vec![way] }, Vec::new());
    exit.hosts.clear();
    let name = NamedEndpoint { host: host.into(), port, local: true, tls: None };
    let out = Backend { names: vec![name], ..Backend::default() };
    proxy::Snapshot { listeners: vec![exit], backends: [("out".into(), out)].into(), ..proxy::Snapshot::default() }
}

fn scoped<T>(settings: T) -> Option<Scoped<T>> {
    Some(Scoped { scope: "out".into(), settings })
}

fn connect(port: u16) -> http::Request<ServedBody> {
    http::Request::connect(format!("localhost:{port}")).body(text("")).expect("a request")
}

#[tokio::test]
async fn tunnels_to_the_outside_have_places_and_their_destination_is_counted() {
    let upstream = echo().await;
    let port = upstream.address.port();
    let concurrency = Concurrency { limit: 1, queue: 0, max_wait: LIMIT };
    let policy = Policy { concurrency: scoped(concurrency), ..Policy::default() };
    let (running, at) = guarded(exit("localhost", port, policy)).await;
    // By the first tunnel its name has been resolved.
    let mut tunnel = soon(async {
        loop {
            let mut stream = crate::access::connect(AS_A, at).await;
            let head = format!("CONNECT localhost:{port} HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("sent");
            if read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200") {
                return stream;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    tunnel.write_all(b"abc").await.expect("sent");
    assert_eq!(read_until(&mut tunnel, "abc").await, "abc");
    let full = call(AS_A, at, connect(port)).await;
    assert!(full.status == StatusCode::SERVICE_UNAVAILABLE && full.body.contains("queue_full"), "{full:?}");
    // The place is this caller's policy's: others go straight.
    let mut free = crate::access::connect(NOBODY, at).await;
    let head = format!("CONNECT localhost:{port} HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n");
    free.write_all(head.as_bytes()).await.expect("sent");
    assert!(read_until(&mut free, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    drop(tunnel);
    let own = || {
        let series = running.handle.stats().series;
        series.into_iter().find(|series| &*series.source == "shop/a" && &*series.rule == "localhost")
    };
    let carried = |series: &proxy::Series| (series.sessions.sent, series.sessions.received) == (3, 3);
    let ended = |series: &proxy::Series| series.sessions.closed[Ending::Client as usize] == 1;
    until(|| own().is_some_and(|series| ended(&series) && carried(&series))).await;
}

#[tokio::test]
async fn a_circuit_opens_for_a_destination_that_cannot_be_reached() {
    let port = nobody().await.port();
    let breaker = Breaker {
        failure_percent: 50,
        minimum_calls: 2,
        window: LIMIT * 10,
        consecutive: None,
        call_timeout: LIMIT,
        open: LIMIT * 10,
        probes: 1,
    };
    let policy = Policy { breaker: scoped(breaker), ..Policy::default() };
    let (_running, at) = guarded(exit("localhost", port, policy)).await;
    let refused = soon(async {
        loop {
            let answer = call(AS_A, at, connect(port)).await;
            if answer.body.contains("circuit_open") {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    // Plain requests go by the same circuit.
    let url = format!("http://localhost:{port}/");
    let plain = http::Request::get(url).body(text("")).expect("a request");
    assert!(call(AS_A, at, plain).await.body.contains("circuit_open"));
    // Who has no policy is told what is so.
    assert_eq!(call(NOBODY, at, connect(port)).await.status, StatusCode::BAD_GATEWAY);
}

/// What is asked for at the way out is told of once: by the request where no tunnel was made of it, by the tunnel at its end.
#[tokio::test]
async fn a_tunnel_is_told_of_once_with_its_requests_id_and_trace() {
    let upstream = echo().await;
    let mut way_out = exit("localhost", 1, Policy::default());
    way_out.listeners[0].protocol = ListenerProtocol::Egress { limits: Vec::new(), ways: Vec::new() };
    let (running, at, notebook) = observed(way_out, ALL).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let ask_for = |to: SocketAddr| {
        format!(
            "CONNECT {to} HTTP/1.1\r\nhost: {to}\r\nx-request-id: id-1\r\ntraceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n"
        )
    };
    let mut tunnel = TcpStream::connect(at).await.expect("connects");
    tunnel.write_all(ask_for(upstream.address).as_bytes()).await.expect("sent");
    assert!(read_until(&mut tunnel, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    drop(tunnel);
    until(|| closed(&running, Ending::Client) == 1).await;
    let told = notebook.only().await;
    assert_eq!((told.method.as_str(), told.status), ("CONNECT", StatusCode::OK));
    assert_eq!((told.id.as_bytes(), format!("{:032x}", told.place.trace)), (&b"id-1"[..], trace.to_owned()));
    let gone = nobody().await;
    let mut refused = TcpStream::connect(at).await.expect("connects");
    refused.write_all(ask_for(gone).as_bytes()).await.expect("sent");
    assert!(read_until(&mut refused, "\r\n\r\n").await.starts_with("HTTP/1.1 502"));
    drop(refused);
    until(|| closed(&running, Ending::Unreached) == 1).await;
    let told = notebook.only().await;
    assert_eq!(
        (told.method.as_str(), told.status, told.reason),
        ("CONNECT", StatusCode::BAD_GATEWAY, Some("connect_failed"))
    );
    assert_eq!((told.id.as_bytes(), told.upstream), (&b"id-1"[..], Some(gone)));
    assert_eq!(told.missed.len(), 1);
}

/// Tunnels and connections that have changed their protocol are connections for as long as they last.
#[tokio::test]
async fn what_became_a_tunnel_counts_as_a_connection_until_its_end() {
    let upstream = echo().await;
    let (running, at) = guarded(exit("localhost", 1, Policy::default())).await;
    let mut tunnel = TcpStream::connect(at).await.expect("connects");
    let head = format!("CONNECT {0} HTTP/1.1\r\nhost: {0}\r\n\r\n", upstream.address);
    tunnel.write_all(head.as_bytes()).await.expect("sent");
    assert!(read_until(&mut tunnel, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    // Both ways: by then the request's own part is over.
    tunnel.write_all(b"abc").await.expect("sent");
    assert_eq!(read_until(&mut tunnel, "abc").await, "abc");
    assert_eq!(running.handle.stats().connections, 1);
    drop(tunnel);
    until(|| running.handle.stats().connections == 0).await;
}
