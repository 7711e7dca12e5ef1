//! Rules: who gets a request, and what it looks like then.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use proxy::snapshot::*;
use proxy::{Class, Settings};

use crate::harness::*;

fn prefix(path: &str) -> Match {
    Match { path: PathMatch::Prefix(path.into()), ..Match::default() }
}

#[tokio::test]
async fn the_first_rule_that_matches_answers() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let rules = vec![
        Rule { matches: Match { method: Some(Method::POST), ..prefix("/x") }, ..rule(&[("a", 1)]) },
        Rule { matches: prefix("/x"), ..rule(&[("b", 1)]) },
    ];
    let (_proxy, address) = serving(routes(rules, &[("a", vec![a.address]), ("b", vec![b.address])])).await;
    let post = Request::post("/x/y").header("host", "h").body(text("body")).expect("a request");
    assert_eq!(ask(address, post).await.body, "a");
    assert_eq!(ask(address, get("/x")).await.body, "b");
    let missing = ask(address, get("/y")).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert!(
        missing.body.contains("no_route")
            && missing.body.contains(missing.headers["x-request-id"].to_str().expect("text"))
    );
}

#[tokio::test]
async fn hosts_choose_their_rules() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let mut snapshot = routes(Vec::new(), &[("a", vec![a.address]), ("b", vec![b.address])]);
    snapshot.listeners[0].hosts = vec![
        VirtualHost { host: HostMatch::parse("a.test"), rules: vec![rule(&[("a", 1)])] },
        VirtualHost { host: HostMatch::parse("*.test"), rules: vec![rule(&[("b", 1)])] },
    ];
    let (_proxy, address) = serving(snapshot).await;
    for (host, expected) in [("A.test:81", "a"), ("a.test.", "a"), ("x.test", "b"), ("test", ""), ("other", "")] {
        let request = Request::get("/").header("host", host).body(text("")).expect("a request");
        let answer = ask(address, request).await;
        assert_eq!(if answer.status == 404 { "" } else { &*answer.body }, expected, "{host}");
    }
}

#[tokio::test]
async fn a_backend_without_endpoints_keeps_its_share() {
    let a = Upstream::named("a").await;
    let (_proxy, address) =
        serving(routes(vec![rule(&[("a", 1), ("empty", 1)])], &[("a", vec![a.address]), ("empty", vec![])])).await;
    let mut answered = 0;
    for _ in 0..400 {
        answered += usize::from(ask(address, get("/")).await.status == StatusCode::OK);
    }
    // Seven standard deviations around a half, and not the three quarters that a second draw would make of it.
    assert!((130..=270).contains(&answered), "{answered} of 400");
}

#[tokio::test]
async fn weights_share_the_requests() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let split = vec![rule(&[("a", 9), ("b", 1), ("none", 0)])];
    let snapshot = routes(split, &[("a", vec![a.address]), ("b", vec![b.address]), ("none", vec![])]);
    let (proxy, address) = serving(snapshot).await;
    let mut client = Client::http1(address).await;
    let mut counts = BTreeMap::new();
    for _ in 0..1_000 {
        let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a body");
        *counts.entry(answer.body).or_insert(0) += 1;
    }
    // Ten standard deviations around a hundred.
    assert!((10..=200).contains(&counts["b"]), "{counts:?}");
    assert_eq!(counts["a"] + counts["b"], 1_000);
    let counted = proxy.handle.stats();
    let success = Class::ALL.iter().position(|class| *class == Class::Success).expect("a class");
    let sum: u64 = counted.series.iter().map(|series| series.classes[success]).sum();
    assert_eq!(sum, 1_000);
    until(|| proxy.handle.stats().in_flight == 0).await;
}

#[tokio::test]
async fn requests_and_answers_are_changed() {
    let echo = Upstream::echo().await;
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let mut changed = Rule { matches: prefix("/shop"), ..rule(&[]) };
    changed.filters = vec![
        Filter::RequestHeaders(HeaderChanges {
            set: vec![(name("x-set"), value("new"))],
            add: vec![(name("x-add"), value("two"))],
            remove: vec![name("x-remove")],
        }),
        Filter::Rewrite { host: Some("inner.test".into()), path: Some(PathRewrite::Prefix("/".into())) },
        Filter::ResponseHeaders(HeaderChanges {
            set: vec![(name("x-answer"), value("yes"))],
            ..HeaderChanges::default()
        }),
    ];
    let own =
        Filter::RequestHeaders(HeaderChanges { set: vec![(name("x-own"), value("b"))], ..HeaderChanges::default() });
    changed.action = Action::Forward {
        backends: vec![Weighted { backend: "b".into(), weight: 1, filters: vec![own], policy: None }],
    };
    let (_proxy, address) = serving(routes(vec![changed], &[("b", vec![echo.address])])).await;
    let request = Request::post("/shop/cart?q=1")
        .header("host", "a.test")
        .header("x-set", "old")
        .header("x-add", "one")
        .header("x-remove", "1")
        .header("connection", "x-listed")
        .header("x-listed", "1")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-request-id", "the-id")
        .body(text("body"))
        .expect("a request");
    let answer = ask(address, request).await;
    assert_eq!(answer.headers["x-answer"], "yes");
    let mut lines: Vec<_> = answer.body.lines().collect();
    assert_eq!(lines.remove(0), "POST /cart?q=1");
    lines.sort_unstable();
    let expected = [
        "",
        "body",
        "content-length: 4",
        "host: inner.test",
        "x-add: one",
        "x-add: two",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: a.test",
        "x-forwarded-proto: http",
        "x-own: b",
        "x-request-id: the-id",
        "x-set: new",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn redirects_and_own_answers_need_no_backend() {
    let mut away = Rule { matches: prefix("/old"), ..rule(&[]) };
    away.filters = vec![Filter::Redirect(Redirect {
        scheme: None,
        host: Some("new.test".into()),
        port: None,
        path: Some(PathRewrite::Prefix("/new".into())),
        status: StatusCode::MOVED_PERMANENTLY,
    })];
    let mut own = rule(&[]);
    own.action = Action::Respond { status: StatusCode::INTERNAL_SERVER_ERROR, body: "the backend is unknown".into() };
    let (_proxy, address) = serving(routes(vec![away, own], &[])).await;
    let moved =
        ask(address, Request::get("/old/x?y").header("host", "a.test:88").body(text("")).expect("a request")).await;
    assert_eq!(
        (moved.status, &moved.headers["location"]),
        (StatusCode::MOVED_PERMANENTLY, &value("http://new.test:88/new/x?y"))
    );
    let answered = ask(address, get("/")).await;
    assert_eq!((answered.status, &*answered.body), (StatusCode::INTERNAL_SERVER_ERROR, "the backend is unknown"));
}

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

#[tokio::test]
async fn nobody_there_is_said_with_the_right_status() {
    let mut snapshot = routes(vec![rule(&[("b", 1)])], &[("b", vec![])]);
    let (proxy, address) = serving(snapshot.clone()).await;
    let unavailable = ask(address, get("/")).await;
    assert_eq!(unavailable.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(unavailable.body.contains("no_endpoint"), "{}", unavailable.body);
    snapshot.backends.get_mut("b").expect("b").when_empty = StatusCode::INTERNAL_SERVER_ERROR;
    proxy.handle.apply(snapshot).await.expect("a good snapshot");
    let json =
        Request::get("/").header("host", "h").header("accept", "application/json").body(text("")).expect("a request");
    let answer = ask(address, json).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.body.starts_with("{\"status\":500,\"reason\":\"no_endpoint\""), "{}", answer.body);
    let refused = nobody().await;
    proxy.handle.apply(all_to(&[refused])).await.expect("a good snapshot");
    let bad = ask(address, get("/")).await;
    assert_eq!(bad.status, StatusCode::BAD_GATEWAY);
    assert!(bad.body.contains("connect_failed"), "{}", bad.body);
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_given_up() {
    let silent = Upstream::http(|_| std::future::pending()).await;
    let limit = Some(Duration::from_millis(20));
    for timeouts in
        [Timeouts { request: limit, backend_request: None }, Timeouts { request: None, backend_request: limit }]
    {
        let slow = Rule { timeouts, ..rule(&[("b", 1)]) };
        let (proxy, address) = serving(routes(vec![slow], &[("b", vec![silent.address])])).await;
        let answer = ask(address, get("/")).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        until(|| proxy.handle.stats().in_flight == 0).await;
    }
}

#[tokio::test]
async fn there_is_a_limit_where_the_rule_has_none() {
    let silent = Upstream::http(|_| std::future::pending()).await;
    let proxy = start(Settings { response_timeout: Some(Duration::from_millis(20)), ..Settings::default() });
    proxy.handle.apply(all_to(&[silent.address])).await.expect("a good snapshot");
    assert_eq!(ask(proxy.address("l"), get("/")).await.status, StatusCode::GATEWAY_TIMEOUT);
}
