//! Who may pass: policies at Services, routes and Gateways, over real connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use proxy::access::{AccessRule, Effect, Place, Policy, Source};
use proxy::snapshot::*;
use proxy::{Dependencies, Identifying, Identity, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::*;

pub(crate) const A: &str = "spiffe://cluster.local/ns/shop/sa/a";
pub(crate) const B: &str = "spiffe://cluster.local/ns/shop/sa/b";

/// Tells workloads by the loopback address that they call from: 127.0.0.2 is A, 127.0.0.3 is B, others are nobody.
pub(crate) struct ByAddress;

impl proxy::Callers for ByAddress {
    fn identify(&self, _: proxy::Ground, peer: SocketAddr, _: SocketAddr) -> Identifying {
        let known = match peer.ip().to_string().as_str() {
            "127.0.0.2" => Some((A, "shop/a")),
            "127.0.0.3" => Some((B, "shop/b")),
            _ => None,
        };
        let identity = known.map(|(id, workload)| Arc::new(Identity { id: id.into(), workload: workload.into() }));
        Box::pin(async move { identity })
    }
}

pub(crate) const NOBODY: [u8; 4] = [127, 0, 0, 1];
pub(crate) const AS_A: [u8; 4] = [127, 0, 0, 2];
pub(crate) const AS_B: [u8; 4] = [127, 0, 0, 3];

/// A proxy between services, which knows A and B.
pub(crate) async fn guarded(snapshot: Snapshot) -> (Running, SocketAddr) {
    guarded_with(snapshot, Settings::default()).await
}

async fn guarded_with(snapshot: Snapshot, settings: Settings) -> (Running, SocketAddr) {
    let running = start_with(settings, Dependencies { callers: Some(Arc::new(ByAddress)), ..Dependencies::default() });
    running.handle.apply(between(snapshot)).await.expect("a good snapshot");
    let address = running.address("l");
    (running, address)
}

/// Callers are known between services only.
fn between(mut snapshot: Snapshot) -> Snapshot {
    snapshot.listeners.iter_mut().for_each(|listener| listener.forwarded = Forwarded::Append);
    snapshot
}

pub(crate) async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((IpAddr::from(from), 0).into()).expect("an address of loopback");
    socket.connect(to).await.expect("connects")
}

#[tokio::test]
async fn callers_with_rules_of_their_own_see_no_others() {
    let upstream = Upstream::named("b").await;
    let answered = |status: u16, path: &str| Rule {
        matches: Match { path: PathMatch::Prefix(path.into()), ..Match::default() },
        action: Action::Respond { status: StatusCode::from_u16(status).expect("a status"), body: "".into() },
        ..rule(&[])
    };
    let mut snapshot = between(all_to(&[upstream.address]));
    let own = |callers: &str, rules| CallerRules { callers: callers.into(), rules };
    snapshot.listeners[0].for_callers =
        vec![own(B, vec![answered(201, "/own")]), own("spiffe://cluster.local/ns/other/", vec![answered(202, "/")])];
    let (running, address) = guarded(snapshot.clone()).await;
    for (from, path, status) in
        [(AS_B, "/own", 201), (AS_B, "/else", 404), (AS_A, "/own", 200), (NOBODY, "/own", 200), (AS_A, "/else", 200)]
    {
        assert_eq!(call(from, address, get(path)).await.status, status, "{from:?} {path}");
    }
    snapshot.listeners[0].for_callers.clear();
    running.handle.apply(snapshot).await.expect("a good snapshot");
    assert_eq!(call(AS_B, address, get("/else")).await.status, StatusCode::OK);
}

/// One request of a workload.
pub(crate) async fn call(from: [u8; 4], to: SocketAddr, request: Request<ServedBody>) -> Answer {
    let stream = connect(from, to).await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    let driver = tokio::spawn(async move { drop(connection.await) });
    let answer =
        soon(read(soon(sender.send_request(request)).await.expect("an answer"))).await.expect("a whole answer");
    driver.abort();
    answer
}

/// The same over HTTP/2.
async fn call_http2(from: [u8; 4], to: SocketAddr, request: Request<ServedBody>) -> Answer {
    let stream = connect(from, to).await;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("a handshake");
    let driver = tokio::spawn(async move { drop(connection.await) });
    let answer =
        soon(read(soon(sender.send_request(request)).await.expect("an answer"))).await.expect("a whole answer");
    driver.abort();
    answer
}

pub(crate) fn rule_for(effect: Effect, id: Option<&str>) -> AccessRule {
    let from = id.map(|id| Source::Id(id.into())).into_iter().collect();
    let (methods, paths, headers) = Default::default();
    AccessRule { name: "one".into(), effect, from, methods, paths, headers, token: None, clients: None }
}

pub(crate) fn policy(rules: Vec<AccessRule>) -> Policy {
    Policy { rules, ..Policy::default() }
}

/// Puts policies at the backend `b`.
pub(crate) fn at_backend(mut snapshot: Snapshot, policies: Vec<(&str, Policy)>) -> Snapshot {
    snapshot.backends.get_mut("b").expect("the backend").place = Some("service/b".into());
    place(&mut snapshot, "service/b", policies);
    snapshot
}

pub(crate) fn place(snapshot: &mut Snapshot, id: &str, policies: Vec<(&str, Policy)>) {
    let names = policies.iter().map(|(name, _)| (*name).into()).collect();
    snapshot.places.insert(id.into(), Place { policies: names });
    snapshot.policies.extend(policies.into_iter().map(|(name, policy)| (name.into(), policy)));
}

#[tokio::test]
async fn only_who_is_allowed_gets_through_and_others_learn_why() {
    let upstream = Upstream::named("served").await;
    let allow_a = policy(vec![rule_for(Effect::Allow, Some(A))]);
    let (running, at) = guarded(at_backend(all_to(&[upstream.address]), vec![("shop/b", allow_a)])).await;
    assert_eq!(call(AS_A, at, get("/")).await.body, "served");
    for from in [AS_B, NOBODY] {
        let answer = call(from, at, get("/")).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(answer.body.contains("access_not_allowed"), "{}", answer.body);
        // Nothing of the policy is told to whom it keeps out.
        assert!(!answer.body.contains("shop/b"), "{}", answer.body);
    }
    let mut grpc = get("/x.Y/Z");
    *grpc.method_mut() = http::Method::POST;
    grpc.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let answer = call_http2(AS_B, at, grpc).await;
    assert_eq!((answer.status, &answer.headers["grpc-status"]), (StatusCode::OK, &http::HeaderValue::from_static("7")));
    let refusals = running.handle.stats().refusals;
    assert_eq!(refusals.len(), 1);
    assert_eq!((&*refusals[0].policy, refusals[0].reason, refusals[0].count), ("shop/b", "access_not_allowed", 3));
}

/// Lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Scenario 43, as far as the proxy sees it: A says in a header that it is B.
#[tokio::test]
async fn who_poses_as_another_is_refused_and_written_down() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let upstream = Upstream::echo().await;
    let allow_b = policy(vec![rule_for(Effect::Allow, Some(B))]);
    let snapshot = at_backend(all_to(&[upstream.address]), vec![("shop/payments", allow_b)]);
    // On this thread, whose log is read.
    let (_running, at) = guarded_with(snapshot, Settings { threads: 0, ..Settings::default() }).await;
    let forged = || {
        let mut request = get("/pay");
        let said = http::HeaderValue::from_static("URI=spiffe://cluster.local/ns/shop/sa/b");
        request.headers_mut().insert("x-forwarded-client-cert", said);
        request.headers_mut().insert("x-request-id", http::HeaderValue::from_static("forged-1"));
        request
    };
    // Where there is one subscriber alone, a line that another test comes to first is thought to be heard by nobody.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _logs = tracing::subscriber::set_default(subscriber);
    assert_eq!(call(AS_A, at, forged()).await.status, StatusCode::FORBIDDEN);
    let log = String::from_utf8_lossy(&lines.0.lock()).into_owned();
    let line = log.lines().find(|line| line.contains("proxy::access")).expect("a line");
    for part in ["refused", "shop/payments", "access_not_allowed", A, "/pay", "forged-1"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[tokio::test]
async fn services_are_told_who_calls_and_by_nobody_else() {
    let upstream = Upstream::echo().await;
    let (_running, at) = guarded(all_to(&[upstream.address])).await;
    let forged = || {
        let mut request = get("/");
        request
            .headers_mut()
            .insert("x-forwarded-client-cert", http::HeaderValue::from_static("URI=spiffe://x/forged"));
        request
    };
    let told = |body: &str| {
        let lines = body.lines().filter_map(|line| line.strip_prefix("x-forwarded-client-cert: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(&call(AS_A, at, forged()).await.body), [format!("URI={A}")]);
    assert_eq!(told(&call_http2(AS_B, at, forged()).await.body), [format!("URI={B}")]);
    assert!(told(&call(NOBODY, at, forged()).await.body).is_empty());
    // Nor does a route's own filter say it.
    let name = http::HeaderName::from_static("x-forwarded-client-cert");
    let changes =
        HeaderChanges { set: vec![(name, http::HeaderValue::from_static("URI=forged"))], ..HeaderChanges::default() };
    let filter = Filter::RequestHeaders(changes);
    let mut forging = rule(&[("b", 1)]);
    forging.filters.push(filter.clone());
    if let Action::Forward { backends } = &mut forging.action {
        backends[0].filters.push(filter);
    }
    let (_running, at) = guarded(routes(vec![forging], &[("b", vec![upstream.address])])).await;
    assert_eq!(told(&call(AS_A, at, get("/")).await.body), [format!("URI={A}")]);
    assert!(told(&call(NOBODY, at, get("/")).await.body).is_empty());
}

#[tokio::test]
async fn a_service_behind_a_gateway_is_called_by_the_gateway_and_judged_as_it_is_called() {
    let upstream = Upstream::echo().await;
    let mut by_edge = rule_for(Effect::Allow, None);
    by_edge.from.push(Source::Gateway("shop/edge".into()));
    by_edge.paths.push(PathMatch::Prefix("/orders".into()));
    let mut edge = rule(&[("b", 1)]);
    edge.guard.through.push("shop/edge".into());
    edge.matches.path = PathMatch::Prefix("/api".into());
    edge.filters.push(Filter::Rewrite { host: None, path: Some(PathRewrite::Prefix("/".into())) });
    let mut other = rule(&[("b", 1)]);
    other.guard.through.push("shop/other".into());
    let snapshot = routes(vec![edge, other], &[("b", vec![upstream.address])]);
    let (_running, at) = guarded(at_backend(snapshot, vec![("p", policy(vec![by_edge]))])).await;
    assert!(call(NOBODY, at, get("/api/orders/1")).await.body.starts_with("GET /orders/1"));
    assert_eq!(call(NOBODY, at, get("/api/admin")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(call(AS_A, at, get("/orders/1")).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn every_place_on_the_way_must_let_a_request_in() {
    let upstream = Upstream::named("served").await;
    let mut guarded_rule = rule(&[("b", 1)]);
    guarded_rule.guard.places = vec!["gateway".into(), "route".into()];
    let mut snapshot = routes(vec![guarded_rule], &[("b", vec![upstream.address])]);
    let get_only = AccessRule { methods: vec![http::Method::GET], ..rule_for(Effect::Allow, None) };
    place(&mut snapshot, "gateway", vec![("g", policy(vec![get_only]))]);
    place(&mut snapshot, "route", vec![("r", policy(vec![rule_for(Effect::Allow, Some("spiffe://**"))]))]);
    let (running, at) = guarded(at_backend(snapshot, vec![("s", policy(vec![rule_for(Effect::Deny, Some(B))]))])).await;
    assert_eq!(call(AS_A, at, get("/")).await.body, "served");
    let mut post = get("/");
    *post.method_mut() = http::Method::POST;
    for (from, request, by) in [(AS_A, post, "g"), (NOBODY, get("/"), "r"), (AS_B, get("/"), "s")] {
        assert_eq!(call(from, at, request).await.status, StatusCode::FORBIDDEN, "{by}");
        let counted = || running.handle.stats().refusals;
        until(|| counted().iter().any(|refusals| *refusals.policy == *by && refusals.count == 1)).await;
    }
}

#[tokio::test]
async fn a_connection_without_http_is_closed_where_its_caller_may_not_pass() {
    let upstream = Upstream::raw(|mut stream| async move {
        let mut bytes = [0; 4];
        if stream.read_exact(&mut bytes).await.is_ok() {
            let _ = stream.write_all(b"pong").await;
        }
    })
    .await;
    let allow_a = || policy(vec![rule_for(Effect::Allow, Some(A))]);
    for protocol in [ListenerProtocol::Tcp { backend: "b".into() }, ListenerProtocol::Sniff { tcp: "b".into() }] {
        let mut snapshot = all_to(&[upstream.address]);
        let is_bytes = matches!(protocol, ListenerProtocol::Tcp { .. });
        snapshot.listeners[0].protocol = protocol;
        let (running, at) = guarded(at_backend(snapshot, vec![("p", allow_a())])).await;
        let question = proxy::Question {
            listener: "l".into(),
            host: String::new(),
            method: http::Method::GET,
            uri: "/".parse().expect("a path"),
            headers: http::HeaderMap::new(),
            caller: None,
        };
        if is_bytes {
            let met = running.handle.explain(question).await.expect("a listener");
            let refusals: Vec<_> = met.refusals.iter().map(|refusal| (&*refusal.policy, refusal.reason)).collect();
            assert_eq!(refusals, [("p", "access_not_allowed")], "it is told without a connection");
        }
        let mut stream = connect(AS_A, at).await;
        stream.write_all(b"\x01ing").await.expect("sends");
        read_until(&mut stream, "pong").await;
        let mut stream = connect(AS_B, at).await;
        stream.write_all(b"\x01ing").await.expect("sends");
        let mut all = Vec::new();
        // Closed, or reset as what was sent is never read.
        let _ = soon(stream.read_to_end(&mut all)).await;
        assert!(all.is_empty());
        until(|| running.handle.stats().refusals.first().is_some_and(|refusals| refusals.count == 1)).await;
    }
}

#[tokio::test]
async fn a_change_of_policy_holds_from_the_next_request_on() {
    let upstream = Upstream::named("served").await;
    let with = |id: &str| {
        at_backend(all_to(&[upstream.address]), vec![("p", policy(vec![rule_for(Effect::Allow, Some(id))]))])
    };
    let (running, at) = guarded(with(A)).await;
    let stream = connect(AS_A, at).await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    let driver = tokio::spawn(async move { drop(connection.await) });
    let mut next = async || {
        sender.ready().await.expect("it is open");
        read(sender.send_request(get("/")).await.expect("an answer")).await.expect("a whole answer").status
    };
    assert_eq!(soon(next()).await, StatusCode::OK);
    running.handle.apply(between(with(B))).await.expect("a good snapshot");
    assert_eq!(soon(next()).await, StatusCode::FORBIDDEN);
    running.handle.apply(between(all_to(&[upstream.address]))).await.expect("a good snapshot");
    assert_eq!(soon(next()).await, StatusCode::OK);
    driver.abort();
}

#[tokio::test]
async fn a_preflight_needs_no_credentials_and_a_script_may_read_its_refusal() {
    let upstream = Upstream::named("served").await;
    let mut shared = rule(&[("b", 1)]);
    shared.filters.push(Filter::Cors(Cors { origins: vec!["https://a.test".into()], ..Cors::default() }));
    let snapshot = routes(vec![shared], &[("b", vec![upstream.address])]);
    let (_running, at) = guarded(at_backend(snapshot, vec![("p", policy(Vec::new()))])).await;
    let preflight = Request::options("/").header("host", "a.test").header("origin", "https://a.test");
    let preflight = preflight.header("access-control-request-method", "GET").body(text("")).expect("a request");
    assert_eq!(call(NOBODY, at, preflight).await.status, StatusCode::NO_CONTENT);
    let mut actual = get("/");
    actual.headers_mut().insert("origin", http::HeaderValue::from_static("https://a.test"));
    let answer = call(NOBODY, at, actual).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://a.test");
}

#[tokio::test]
async fn a_copy_of_a_request_goes_nowhere_that_the_request_may_not() {
    let (upstream, count) = (Upstream::named("served").await, Count::default());
    let counted = count.clone();
    let copies = Upstream::http(move |_| {
        counted.add();
        async { http::Response::new(text("copied")) }
    })
    .await;
    let mut mirrored = rule(&[("b", 1)]);
    mirrored.filters.push(Filter::Mirror(Mirror { backend: "m".into(), numerator: 1, denominator: 1 }));
    let mut snapshot = routes(vec![mirrored], &[("b", vec![upstream.address]), ("m", vec![copies.address])]);
    snapshot.backends.get_mut("m").expect("the backend").place = Some("m".into());
    place(&mut snapshot, "m", vec![("p", policy(vec![rule_for(Effect::Allow, Some(A))]))]);
    let (running, at) = guarded(snapshot).await;
    assert_eq!(call(AS_B, at, get("/")).await.body, "served");
    until(|| running.handle.stats().refusals.first().is_some_and(|refusals| refusals.count == 1)).await;
    assert_eq!(call(AS_A, at, get("/")).await.body, "served");
    until(|| count.get() == 1).await;
}

#[tokio::test]
async fn what_a_snapshot_does_not_have_cannot_be_named() {
    let running = start_with(Settings::default(), Dependencies::default());
    let mut snapshot = all_to(&[]);
    snapshot.backends.get_mut("b").expect("the backend").place = Some("nowhere".into());
    let error = running.handle.apply(snapshot).await.expect_err("there is no such place");
    assert!(matches!(error, proxy::Refused::UnknownPlace { .. }), "{error}");
    let mut snapshot = all_to(&[]);
    snapshot.places.insert("somewhere".into(), Place { policies: vec!["p".into()] });
    let error = running.handle.apply(snapshot).await.expect_err("there is no such policy");
    assert!(matches!(error, proxy::Refused::UnknownPolicy { .. }), "{error}");
}
