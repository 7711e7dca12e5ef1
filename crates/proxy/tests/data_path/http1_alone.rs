//! Calls of gRPC to programs that speak HTTP/1.1 alone, and to what is neither that nor HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;

/// How a server of HTTP/1.1 may go without a word.
const ENDS: &str = "";
const RESETS: &str = "\0";

/// A server of HTTP/1.1 that says so to who speaks HTTP/2, in its own way, and answers all else with its name.
async fn http1_alone(refusal: &'static str) -> Upstream {
    Upstream::raw(move |mut stream| async move {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                // Also what comes of a body, which is short.
                if stream.read_buf(&mut head).await.map_or(0, |read| read) == 0 {
                    return;
                }
                if head.starts_with(b"PRI") && refusal == RESETS {
                    return stream.set_zero_linger().expect("a socket");
                }
                if head.starts_with(b"PRI") {
                    stream.write_all(refusal.as_bytes()).await.expect("sends");
                    return;
                }
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain").await.expect("sends");
        }
    })
    .await
}

#[tokio::test]
async fn a_call_to_who_speaks_http1_alone_is_told_so_and_hurts_nobody() {
    use proxy::PolicyEvent;
    use proxy::policy::{Breaker, Policy};

    use crate::policies::{breaker, counted, scoped, under};

    let says = ["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "<!DOCTYPE HTML><p>Invalid HTTP version"];
    for refusal in says.into_iter().chain([ENDS, RESETS]) {
        let upstream = http1_alone(refusal).await;
        let breaker = Breaker { consecutive: Some(1), open: LIMIT * 10, ..breaker() };
        let policy = Policy { breaker: scoped(breaker), ..Policy::default() };
        for snapshot in [all_to(&[upstream.address]), under(policy, &[upstream.address])] {
            let (proxy, address) = serving(snapshot).await;
            let mut client = Client::http2(address).await;
            let asks = |kind: &str| {
                let call = Request::post("http://a.test/x.Y/Z").header("content-type", kind).header("te", "trailers");
                call.body(text("")).expect("a request")
            };
            for _ in 0..3 {
                let answer =
                    read(client.send(asks("application/grpc")).await.expect("an answer")).await.expect("whole");
                assert_eq!(answer.headers["grpc-status"], "13", "{answer:?}");
                let message = answer.headers["grpc-message"].to_str().expect("text");
                assert!(message.contains("HTTP/1.1") && message.contains("appProtocol"), "{message}");
                // What only looks like a call has always been able to go by HTTP/1.1.
                let answer = read(client.send(asks("application/grpc-web+proto")).await.expect("an answer")).await;
                assert_eq!(answer.expect("whole").body, "plain");
            }
            assert_eq!(counted(&proxy, PolicyEvent::BreakerOpened), 0);
            assert_eq!(ask(address, get("/")).await.body, "plain");
        }
    }
}

/// A server of HTTP/1.1 that goes without a word from all else. It counts questions for no resource, and answers them when it is let.
async fn asked_for_http1(counts: &Count, lets: Duration, open: &Arc<tokio::sync::Semaphore>) -> Upstream {
    let (counts, open) = (counts.clone(), Arc::clone(open));
    Upstream::raw(move |mut stream| {
        let (counts, open) = (counts.clone(), Arc::clone(&open));
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.map_or(0, |read| read) == 0 || head.starts_with(b"PRI") {
                    return;
                }
            }
            if head.starts_with(b"OPTIONS *") {
                counts.add();
                let _open = open.acquire().await.expect("a semaphore");
                // Its own pace.
                tokio::time::sleep(lets).await;
            }
            // Who asks may be gone.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain").await;
        }
    })
    .await
}

/// Two calls after `first`, to one that would be kept from all after one failure.
async fn known_after(
    upstream: &Upstream,
    first: impl AsyncFnOnce(&mut h2::client::SendRequest<bytes::Bytes>, &Running),
) {
    use proxy::PolicyEvent;
    use proxy::policy::{Breaker, Policy};

    use crate::policies::{breaker, counted, scoped, under};

    let breaker = Breaker { consecutive: Some(1), open: LIMIT * 10, ..breaker() };
    let policy = Policy { breaker: scoped(breaker), ..Policy::default() };
    // What is waited for is no clock. Of one thread, as each asks for itself.
    let proxy = start(Settings { connect_timeout: LIMIT * 10, threads: 1, ..Settings::default() });
    proxy.handle.apply(under(policy, &[upstream.address])).await.expect("a good snapshot");
    let (sender, _driver) = crate::http2::connected(proxy.address("l")).await;
    let mut sender = soon(sender.ready()).await.expect("a connection");
    first(&mut sender, &proxy).await;
    for _ in 0..2 {
        let (answer, _) = sender.send_request(a_call().map(drop), true).expect("a stream");
        let answer = soon(answer).await.expect("an answer");
        assert_eq!(answer.headers()["grpc-status"], "13", "{answer:?}");
    }
    assert_eq!(counted(&proxy, PolicyEvent::BreakerOpened), 0);
    assert_eq!(ask(proxy.address("l"), get("/")).await.body, "plain");
}

#[tokio::test]
async fn what_a_call_has_asked_an_endpoint_is_answered_also_where_its_caller_leaves() {
    let (asked, open) = (Count::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let upstream = asked_for_http1(&asked, Duration::ZERO, &open).await;
    known_after(&upstream, async |sender, proxy| {
        let (answer, mut leaves) = sender.send_request(a_call().map(drop), false).expect("a stream");
        until(|| asked.get() == 1).await;
        leaves.send_reset(h2::Reason::CANCEL);
        drop(answer);
        until(|| proxy.handle.stats().in_flight == 0).await;
        // One whose deadline passes, and who finds the question asked.
        let mut brief = a_call().map(drop);
        brief.headers_mut().insert("grpc-timeout", "50m".parse().expect("a value"));
        let (answer, _) = sender.send_request(brief, true).expect("a stream");
        assert_eq!(soon(answer).await.expect("an answer").headers()["grpc-status"], "4");
        assert_eq!(asked.get(), 1, "nobody asks twice at once");
        open.add_permits(100);
    })
    .await;
}

#[tokio::test]
async fn one_that_takes_long_to_answer_in_http1_is_waited_for() {
    let (asked, open) = (Count::default(), Arc::new(tokio::sync::Semaphore::new(100)));
    let upstream = asked_for_http1(&asked, Duration::from_secs(3), &open).await;
    known_after(&upstream, async |_, _| {}).await;
    assert!(asked.get() > 0);
}

#[tokio::test]
async fn one_that_goes_without_a_word_is_known_for_http1_only_where_it_speaks_that() {
    use proxy::PolicyEvent;
    use proxy::policy::{Breaker, Policy};

    use crate::policies::{breaker, counted, scoped, under};

    // It closes all connections as soon as something comes, as one does that is about to end.
    let asked = Count::default();
    let count = asked.clone();
    let ending = Upstream::raw(move |mut stream| {
        let count = count.clone();
        async move {
            let mut some = [0; 9];
            stream.read_exact(&mut some).await.expect("something");
            if some.starts_with(b"OPTIONS *") {
                count.add();
            }
        }
    })
    .await;
    let breaker = Breaker { consecutive: Some(2), open: LIMIT * 10, ..breaker() };
    let policy = Policy { breaker: scoped(breaker), ..Policy::default() };
    let (proxy, address) = serving_here(under(policy, &[ending.address])).await;
    let mut client = Client::http2(address).await;
    for _ in 0..2 {
        let answer = read(client.send(a_call()).await.expect("an answer")).await.expect("whole");
        assert_eq!(answer.headers["grpc-status"], "14", "{answer:?}");
    }
    assert_eq!(counted(&proxy, PolicyEvent::BreakerOpened), 1);
    assert!(asked.get() > 0, "it was asked whether it speaks HTTP/1.1");
    // And one that has done so once, and is another when it is asked again.
    let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let again = Upstream::raw(move |stream| {
        let first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
        async move {
            if first {
                return;
            }
            let service = hyper::service::service_fn(|_| async {
                let answer = Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
                Ok::<_, std::convert::Infallible>(answer.body(text("")).expect("an answer"))
            });
            let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    let (_proxy, address) = serving_here(all_to(&[again.address])).await;
    let mut client = Client::http2(address).await;
    let answer = read(client.send(a_call()).await.expect("an answer")).await.expect("whole");
    assert_eq!(answer.headers["grpc-status"], "0", "{answer:?}");
}

/// A call of gRPC, which has no message.
fn a_call() -> Request<ServedBody> {
    let call = Request::post("http://a.test/x.Y/Z").header("content-type", "application/grpc");
    call.header("te", "trailers").body(text("")).expect("a request")
}

#[tokio::test]
async fn a_call_goes_on_to_who_speaks_http2_and_those_who_do_not_are_not_asked_each_time() {
    use proxy::policy::Policy;

    use crate::policies::{breaker, scoped, under};

    let dialled = Count::default();
    // A stray program of HTTP/1.1, one that speaks neither, and one that is right.
    let strays = ["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "SSH-2.0-stray\r\n"].map(|says| {
        let dialled = dialled.clone();
        Upstream::raw(move |mut stream| {
            dialled.add();
            async move {
                stream.write_all(says.as_bytes()).await.expect("sends");
                // Until the other side has had enough.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
    });
    let [http1, neither] = strays;
    let (http1, neither) = (http1.await, neither.await);
    let right = Upstream::http(|_| async move {
        let mut answer = Response::new(text(""));
        answer.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
        answer.headers_mut().insert("grpc-status", "0".parse().expect("a value"));
        answer
    })
    .await;
    let policy = Policy { breaker: scoped(breaker()), ..Policy::default() };
    let all = [http1.address, neither.address, right.address];
    for snapshot in [all_to(&all), under(policy, &[http1.address, right.address])] {
        let (_proxy, address) = serving(snapshot).await;
        let mut client = Client::http2(address).await;
        for _ in 0..16 {
            let answer = read(client.send(a_call()).await.expect("an answer")).await.expect("whole");
            assert_eq!(answer.headers["grpc-status"], "0", "{answer:?}");
        }
    }
    let says = |answer: &Answer| answer.headers["grpc-message"].to_str().expect("text").to_owned();
    // What one shows is for all who ask meanwhile.
    let before = dialled.get();
    let (_proxy, address) = serving_here(all_to(&[http1.address])).await;
    let client = Client::<ServedBody>::http2(address).await;
    let Sender::Http2(sender) = &client.sender else { unreachable!("an HTTP/2 client") };
    let calls = (0..60).map(|_| {
        let mut sender = sender.clone();
        async move { read(soon(sender.send_request(a_call())).await.expect("an answer")).await.expect("whole") }
    });
    for answer in futures::future::join_all(calls).await {
        assert!(says(&answer).contains("appProtocol"), "{answer:?}");
    }
    let dials = dialled.get() - before;
    assert!(dials < 30, "{dials} connections for 60 calls");
    // Nothing is said of HTTP/1.1 that has not been seen.
    for to in [&[neither.address][..], &[http1.address, neither.address]] {
        let (_proxy, address) = serving(all_to(to)).await;
        let mut client = Client::http2(address).await;
        let answer = read(client.send(a_call()).await.expect("an answer")).await.expect("whole");
        assert!(answer.headers["grpc-status"] != "0" && !says(&answer).contains("HTTP/1.1"), "{answer:?}");
    }
}

#[tokio::test]
async fn grpc_web_goes_by_http2_where_that_is_spoken() {
    let upstream =
        Upstream::http(|request| async move { Response::new(text(format!("{:?}", request.version()))) }).await;
    let (_proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut client = Client::http2(address).await;
    let call = Request::post("http://a.test/x.Y/Z").header("content-type", "application/grpc-web");
    let answer = client.send(call.body(text("")).expect("a request")).await.expect("an answer");
    assert_eq!(read(answer).await.expect("whole").body, "HTTP/2.0");
}
