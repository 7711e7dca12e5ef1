//! The way out: absolute URLs and CONNECT, limits by caller, and counts by host.

use std::net::SocketAddr;

use http::{Method, Request, StatusCode};
use proxy::snapshot::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access::{AS_A, AS_B, NOBODY, call, guarded};
use crate::harness::*;

fn exit(limits: Vec<EgressLimit>) -> Snapshot {
    let mut exit = listener("l", ListenerProtocol::Egress { limits, ways: Vec::new() }, Vec::new());
    exit.hosts.clear();
    Snapshot { listeners: vec![exit], ..Snapshot::default() }
}

fn only(callers: &str, hosts: &[&str]) -> EgressLimit {
    EgressLimit { callers: callers.into(), hosts: hosts.iter().map(|host| HostMatch::parse(host)).collect() }
}

fn to(method: Method, url: &str) -> Request<ServedBody> {
    Request::builder().method(method).uri(url).header("host", "forged.test").body(text("hello")).expect("a request")
}

#[tokio::test]
async fn an_absolute_url_is_asked_and_counted_by_caller_and_host() {
    let outside = Upstream::echo().await;
    let (running, at) = guarded(exit(Vec::new())).await;
    let url = format!("http://localhost:{}/x?y=1", outside.address.port());
    let mut request = to(Method::POST, &url);
    request.headers_mut().insert("proxy-authorization", http::HeaderValue::from_static("Basic c2VjcmV0"));
    request.headers_mut().insert("proxy-connection", http::HeaderValue::from_static("keep-alive"));
    let answer = call(AS_A, at, request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.starts_with("POST /x?y=1\n") && answer.body.ends_with("\n\nhello"), "{}", answer.body);
    assert!(answer.body.contains(&format!("host: localhost:{}\n", outside.address.port())), "{}", answer.body);
    assert!(!answer.body.contains("proxy-") && !answer.body.contains("forged"), "{}", answer.body);
    until(|| {
        let series = running.handle.stats().series;
        let edges: Vec<_> = series.iter().map(|s| (&*s.source, &*s.listener, &*s.rule, s.classes[1])).collect();
        edges == [("shop/a", "l", "localhost", 1)]
    })
    .await;
}

#[tokio::test]
async fn connect_makes_a_tunnel() {
    let outside = Upstream::raw(|mut stream| async move {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.expect("four bytes");
        bytes.reverse();
        stream.write_all(&bytes).await.expect("sent");
    })
    .await;
    let (_running, at) = guarded(exit(Vec::new())).await;
    let mut stream = TcpStream::connect(at).await.expect("connects");
    let head = format!("CONNECT localhost:{0} HTTP/1.1\r\nhost: localhost:{0}\r\n\r\n", outside.address.port());
    stream.write_all(head.as_bytes()).await.expect("sent");
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream.write_all(b"abcd").await.expect("sent");
    assert_eq!(read_until(&mut stream, "dcba").await, "dcba");
}

#[tokio::test]
async fn a_caller_goes_only_where_its_list_says() {
    let reached = Count::default();
    let counted = reached.clone();
    let outside = Upstream::http(move |_| {
        counted.add();
        async { http::Response::new(text("outside")) }
    })
    .await;
    let limits = vec![only("spiffe://cluster.local/ns/shop/sa/a", &["127.0.0.1"])];
    let (running, at) = guarded(exit(limits)).await;
    let port = outside.address.port();
    let (listed, other) = (format!("http://127.0.0.1:{port}/"), format!("http://localhost:{port}/"));
    for (caller, url, status) in [
        (AS_A, &listed, StatusCode::OK),
        (AS_A, &other, StatusCode::FORBIDDEN),
        (AS_B, &other, StatusCode::OK),
        (NOBODY, &other, StatusCode::OK),
    ] {
        let answer = call(caller, at, to(Method::GET, url)).await;
        assert_eq!(answer.status, status, "{caller:?} {url}: {}", answer.body);
        if status == StatusCode::FORBIDDEN {
            assert!(answer.body.contains("/sa/a may not go to localhost"), "{}", answer.body);
        }
    }
    let refused = call(AS_A, at, to(Method::CONNECT, &format!("localhost:{port}"))).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(reached.get(), 3);
    until(|| {
        let series = running.handle.stats().series;
        let refused = series.iter().find(|s| &*s.rule == "refused").map(|s| (&*s.source, s.classes[3]));
        refused == Some(("shop/a", 2))
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_sent_says_why() {
    let (_running, at) = guarded(exit(Vec::new())).await;
    let nobody: SocketAddr = nobody().await;
    for (request, status, word) in [
        (get("/x"), StatusCode::BAD_REQUEST, "absolute URL"),
        (to(Method::GET, "https://localhost/"), StatusCode::BAD_REQUEST, "use CONNECT"),
        (to(Method::GET, &format!("http://{nobody}/")), StatusCode::BAD_GATEWAY, "cannot be reached"),
        (to(Method::CONNECT, &nobody.to_string()), StatusCode::BAD_GATEWAY, "cannot be reached"),
    ] {
        let answer = call(NOBODY, at, request).await;
        assert!(answer.status == status && answer.body.contains(word), "{answer:?}");
    }
}

/// A destination with a policy of its caller's is told no more of the caller than any other is.
#[tokio::test]
async fn a_way_tells_the_outside_nothing_of_the_caller() {
    let outside = Upstream::echo().await;
    let port = outside.address.port();
    let policy = proxy::policy::Policy::default();
    let (_running, at) = guarded(crate::sessions::exit("localhost", port, policy)).await;
    let asked = || {
        let mut request = to(Method::POST, &format!("http://localhost:{port}/x"));
        for (name, value) in
            [("proxy-authorization", "Basic c2VjcmV0"), ("proxy-connection", "keep-alive"), ("te", "x")]
        {
            request.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        request
    };
    let answer = soon(async {
        loop {
            let answer = call(AS_A, at, asked()).await;
            if answer.status == StatusCode::OK {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    assert!(answer.body.starts_with("POST /x\n") && answer.body.ends_with("\n\nhello"), "{}", answer.body);
    assert!(answer.body.contains(&format!("host: localhost:{port}\n")), "{}", answer.body);
    for word in ["proxy-", "forwarded", "x-request-id", "traceparent", "client-cert", "forged"] {
        assert!(!answer.body.contains(word), "{word}: {}", answer.body);
    }
}

/// Deadlines that pass before all places on the way are full show nothing (`limits.rs`), so that longer ones are tried.
#[tokio::test]
async fn a_call_by_a_way_whose_client_reads_nothing_ends_at_its_deadline() {
    let (outside, mut left) = crate::limits::pours_http1().await;
    let port = outside.address.port();
    let concurrency = proxy::policy::Concurrency { limit: 100, queue: 0, max_wait: LIMIT };
    let policy = proxy::policy::Policy { concurrency: crate::policies::scoped(concurrency), ..Default::default() };
    let mut snapshot = crate::sessions::exit("localhost", port, policy);
    snapshot.backends.values_mut().for_each(|backend| backend.protocol = BackendProtocol::Http1);
    let (running, at) = guarded(snapshot).await;
    let mute = async |seconds: u64| loop {
        let mut client = crate::access::connect(AS_A, at).await;
        let head = format!("POST http://localhost:{port}/x.Y/Z HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n");
        let call = format!("{head}content-type: application/grpc\r\ngrpc-timeout: {seconds}S\r\n\r\n");
        client.write_all(call.as_bytes()).await.expect("sends");
        // Not much more of it than its head, which tells whether the name was found by then.
        let head = read_until(&mut client, "\r\n\r\n").await;
        if !head.contains("grpc-status") {
            return client;
        }
        tokio::time::sleep(PAUSE).await;
    };
    for seconds in [2, 8, 30] {
        // Some of them leave room in the proxy with their last write, and some do not.
        let clients = futures::future::join_all((0..6).map(|_| mute(seconds))).await;
        let mut still = std::time::Duration::ZERO;
        for _ in &clients {
            still = still.max(soon(left.recv()).await.expect("a server"));
        }
        until(|| running.handle.stats().in_flight == 0).await;
        if still > std::time::Duration::from_millis(300) {
            return;
        }
    }
    panic!("nothing has ever stood still");
}
