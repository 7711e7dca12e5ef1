//! What is counted and recorded about requests, and the trace that goes on with them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use proxy::snapshot::*;
use proxy::{
    CLIENT_GONE, Callers, Class, Dependencies, Exchange, Identifying, Identity, Observer, Recording, Settings,
};

use crate::harness::*;

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Notebook(Mutex<Vec<Exchange>>);

impl Observer for Notebook {
    fn observe(&self, exchange: Box<Exchange>) {
        self.0.lock().expect("nobody panics here").push(*exchange);
    }
}

impl Notebook {
    pub(crate) fn len(&self) -> usize {
        self.0.lock().expect("nobody panics here").len()
    }

    pub(crate) fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics here"))
    }

    pub(crate) async fn only(&self) -> Exchange {
        until(|| self.len() > 0).await;
        let mut all = self.0.lock().expect("nobody panics here");
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }
}

/// Everyone is `shop/web`.
struct Web;

impl Callers for Web {
    fn identify(&self, _: proxy::Ground, _: SocketAddr, _: SocketAddr) -> Identifying {
        let identity = Identity { id: "spiffe://cluster.local/ns/shop/sa/web".into(), workload: "shop/web".into() };
        Box::pin(async { Some(Arc::new(identity)) })
    }
}

pub(crate) async fn observed(
    mut snapshot: proxy::Snapshot,
    recording: Recording,
) -> (Running, SocketAddr, Arc<Notebook>) {
    let notebook = Arc::new(Notebook::default());
    let dependencies =
        Dependencies { callers: Some(Arc::new(Web)), observer: Some(notebook.clone()), ..Dependencies::default() };
    let running = start_with(Settings { recording, ..Settings::default() }, dependencies);
    // Callers are known between services only.
    snapshot.listeners.iter_mut().for_each(|listener| listener.forwarded = Forwarded::Append);
    running.handle.apply(snapshot).await.expect("a good snapshot");
    let address = running.address("l");
    (running, address, notebook)
}

const NONE: Recording = Recording { all: false, ratio: 0.0, per_second: 0 };

#[tokio::test]
async fn an_edge_is_counted_by_caller_with_its_sizes() {
    let echo = Upstream::echo().await;
    let (proxy, address, notebook) = observed(all_to(&[echo.address]), NONE).await;
    let request = Request::post("/").header("host", "a.test").body(text("0123456789")).expect("a request");
    let answer = ask(address, request).await;
    let chunks = futures::stream::iter(["abc", "de"].map(|part| Ok(hyper::body::Frame::data(part.into()))));
    let streamed = BodyExt::boxed(http_body_util::StreamBody::new(chunks));
    let request = Request::post("/").header("host", "a.test").body(streamed).expect("a request");
    let second = ask(address, request).await;
    assert!(second.body.ends_with("abcde"), "{second:?}");
    let bytes = (answer.body.len() + second.body.len()) as u64;
    let success = Class::Success as usize;
    let counted = |series: &proxy::Series| series.response_bytes == bytes && series.classes[success] == 2;
    until(|| proxy.handle.stats().series.iter().any(|series| counted(series) && series.request_bytes == 15)).await;
    let series = &proxy.handle.stats().series;
    assert_eq!(series.len(), 1, "{series:#?}");
    let edge = &series[0];
    assert_eq!((&*edge.source, &*edge.rule, &*edge.backend), ("shop/web", "r", "b"));
    assert_eq!((edge.classes[success], edge.request_bytes), (2, 15));
    assert_eq!(notebook.len(), 0, "not sampled, not failed");
}

#[tokio::test]
async fn a_sampled_request_is_recorded_whole_and_its_trace_goes_on() {
    let echo = Upstream::echo().await;
    let (_proxy, address, notebook) = observed(all_to(&[echo.address]), NONE).await;
    let request = Request::get("/cart?x=1")
        .header("host", "a.test")
        .header("x-request-id", "id-1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("tracestate", "vendor=1")
        .body(text(""))
        .expect("a request");
    let answer = ask(address, request).await;
    let record = notebook.only().await;
    let place = record.place;
    assert_eq!((place.trace, place.parent), (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, Some(0xb7ad_6b71_6920_3331)));
    let told = format!("traceparent: 00-0af7651916cd43dd8448eb211c80319c-{:016x}-01", place.span);
    assert!(answer.body.contains(&told) && answer.body.contains("tracestate: vendor=1"), "{}", answer.body);
    assert_eq!((record.method, record.uri.path(), record.status.as_u16()), (Method::GET, "/cart", 200));
    assert_eq!((record.id.as_bytes(), record.reason, record.attempts), (&b"id-1"[..], None, 1));
    assert_eq!((record.upstream, record.client.as_bytes()), (Some(echo.address), &b"127.0.0.1"[..]));
    assert_eq!(record.caller.map(|caller| caller.workload.to_string()).as_deref(), Some("shop/web"));
    assert_eq!(record.response_bytes, answer.body.len() as u64);
    assert!(record.upstream_time.is_some_and(|time| time <= record.head) && record.head <= record.total);
}

#[tokio::test]
async fn what_fails_is_recorded_with_its_reason_whether_sampled_or_not() {
    let (down, good) = (nobody().await, Upstream::named("a").await);
    let mut missing = routes(vec![rule(&[("b", 1)])], &[("b", vec![down])]);
    missing.listeners[0].hosts[0].host = HostMatch::parse("a.test");
    let (proxy, address, notebook) = observed(missing, NONE).await;
    assert_eq!(ask(address, get("/")).await.status, 502);
    let record = notebook.only().await;
    assert_eq!((record.reason, record.attempts, record.upstream), (Some("connect_failed"), 1, Some(down)));
    assert_eq!((record.missed.len(), record.missed[0].address), (1, down));
    notebook.0.lock().expect("ours").clear();
    let other = Request::get("/").header("host", "b.test").body(text("")).expect("a request");
    assert_eq!(ask(address, other).await.status, 404);
    let record = notebook.only().await;
    assert_eq!((record.reason, &*record.rule, record.attempts), (Some("no_route"), "", 0));
    notebook.0.lock().expect("ours").clear();
    proxy.handle.apply(all_to(&[good.address])).await.expect("a good snapshot");
    assert_eq!(ask(address, get("/")).await.body, "a");
    assert_eq!(notebook.len(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_wait_is_counted_and_recorded() {
    let silent = Upstream::http(|_| async {
        std::future::pending::<()>().await;
        Response::new(text(""))
    })
    .await;
    let (proxy, address, notebook) = observed(all_to(&[silent.address]), NONE).await;
    let mut client = Client::http2(address).await;
    {
        let mut asking = std::pin::pin!(client.send(get("/")));
        let waiting = async {
            tokio::select! {
                _ = &mut asking => panic!("nobody answers"),
                () = until(|| proxy.handle.stats().in_flight == 1) => {}
            }
        };
        waiting.await;
    }
    drop(client);
    let record = notebook.only().await;
    assert_eq!((record.status.as_u16(), record.reason), (CLIENT_GONE, Some("client_gone")));
    let counted = || proxy.handle.stats().series.first().map(|series| series.classes[Class::ClientError as usize]);
    until(|| counted() == Some(1)).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_recorded_as_such() {
    let upstream = Upstream::raw(|mut stream| async move {
        use tokio::io::AsyncWriteExt;
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.expect("writes");
    })
    .await;
    let (_proxy, address, notebook) = observed(all_to(&[upstream.address]), NONE).await;
    let mut client = Client::http1(address).await;
    // The client may be cut off before it has got the head.
    if let Ok(response) = client.send(get("/")).await {
        read(response).await.expect_err("half a body");
    }
    let record = notebook.only().await;
    assert_eq!((record.status.as_u16(), record.reason, record.response_bytes), (200, Some("upstream_cut"), 4));
}

#[tokio::test]
async fn all_are_recorded_where_that_is_asked_for_and_heads_are_no_failures() {
    let upstream = Upstream::named("a").await;
    let (_proxy, address, notebook) = observed(all_to(&[upstream.address]), Recording { all: true, ..NONE }).await;
    let head = Request::head("/").header("host", "a.test").body(text("")).expect("a request");
    assert_eq!(ask(address, head).await.status, 200);
    let record = notebook.only().await;
    assert_eq!((record.reason, record.place.sampled), (None, false));
    assert!(record.total < Duration::from_secs(3600) && record.began.elapsed().is_ok());
}

#[tokio::test]
async fn without_an_observer_a_trace_passes_untouched() {
    let echo = Upstream::echo().await;
    let (_proxy, address) = serving(all_to(&[echo.address])).await;
    let request = Request::get("/").header("host", "a.test").header("traceparent", "as it was").body(text(""));
    let answer = ask(address, request.expect("a request")).await;
    assert!(answer.body.contains("traceparent: as it was"), "{}", answer.body);
}

#[tokio::test]
async fn what_a_request_would_meet_is_told_without_sending_one() {
    let seen = Count::default();
    let counted = seen.clone();
    let upstream = Upstream::http(move |_| {
        counted.add();
        async { Response::new(text("a")) }
    })
    .await;
    let api = Rule {
        matches: Match { path: PathMatch::Prefix("/api".into()), ..Match::default() },
        ..rule(&[("b", 3), ("none", 1)])
    };
    let (proxy, address) = serving(routes(vec![api], &[("b", vec![upstream.address]), ("none", vec![])])).await;
    let question = |path: &str| proxy::Question {
        listener: "l".into(),
        host: "A.test".into(),
        method: Method::GET,
        uri: path.parse().expect("a path"),
        headers: http::HeaderMap::new(),
        caller: None,
    };
    let met = proxy.handle.explain(question("/api/x")).await.expect("a listener");
    assert_eq!((met.protocol, met.admits, met.rule.as_deref(), met.own_answer), ("http", "anybody", Some("r"), None));
    let ways: Vec<_> = met.backends.iter().map(|way| (&*way.backend, way.weight, way.endpoints.len())).collect();
    assert_eq!(ways, [("b", 3, 1), ("none", 1, 0)]);
    assert_eq!(met.backends[0].endpoints, [(upstream.address, 0)]);
    let not = proxy.handle.explain(question("/other")).await.expect("a listener");
    assert_eq!((not.rule, not.own_answer.map(|status| status.as_u16())), (None, Some(404)));
    let nowhere = proxy::Question { listener: "x".into(), ..question("/") };
    assert_eq!(proxy.handle.explain(nowhere).await, None);
    assert_eq!(seen.get(), 0);
    assert_eq!(ask(address, get("/other")).await.status, 404, "as it was told");
}

/// gRPC-Web carries its trailers in the body, where nobody looks: HTTP's status is all that is known of it.
#[tokio::test]
async fn a_call_of_grpc_web_counts_by_its_status_of_http() {
    let upstream = Upstream::http(|_| async {
        Response::builder().header("content-type", "application/grpc-web+proto").body(text("data")).expect("a response")
    })
    .await;
    let (proxy, address, _notebook) = observed(all_to(&[upstream.address]), NONE).await;
    let request = Request::post("/x.Y/Z").header("host", "a.test").header("content-type", "application/grpc-web+proto");
    assert_eq!(ask(address, request.body(text("call")).expect("a request")).await.body, "data");
    until(|| proxy.handle.stats().series.iter().any(|series| series.classes.iter().sum::<u64>() == 1)).await;
    assert_eq!(proxy.handle.stats().series[0].classes[Class::Success as usize], 1);
}
