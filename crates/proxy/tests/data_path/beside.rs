//! What happens beside the way to a backend: copies of requests, and CORS.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use proxy::snapshot::*;
use tokio::io::AsyncReadExt;

use crate::harness::*;

fn mirrored(share: (u32, u32)) -> Rule {
    let mirror = Mirror { backend: "copy".into(), numerator: share.0, denominator: share.1 };
    Rule { filters: vec![Filter::Mirror(mirror)], ..rule(&[("b", 1)]) }
}

fn post(body: impl Into<bytes::Bytes>) -> Request<ServedBody> {
    Request::post("/x").header("host", "a.test").body(text(body)).expect("a request")
}

#[tokio::test]
async fn a_copy_gets_all_and_its_answer_is_thrown_away() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let copy = Upstream::http(move |request| {
        let kept = Arc::clone(&kept);
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            if let Ok(body) = request.into_body().collect().await {
                kept.lock().expect("no panic").push((line, body.to_bytes()));
            }
            let mut response = Response::new(text("copy"));
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    })
    .await;
    let main = Upstream::http(|request| async move {
        request.into_body().collect().await.expect("a whole body");
        Response::new(text("main"))
    })
    .await;
    let snapshot = routes(vec![mirrored((1, 1))], &[("b", vec![main.address]), ("copy", vec![copy.address])]);
    let (proxy, address) = serving(snapshot).await;
    for body in [String::new(), "small".into(), "x".repeat(300_000)] {
        let answer = ask(address, post(body)).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "main"));
    }
    // The small ones certainly arrive; a large one may outrun its copy, and then is given up.
    until(|| seen.lock().expect("no panic").iter().filter(|(_, body)| body.len() < 10).count() == 2).await;
    let mut bodies: Vec<usize> = seen.lock().expect("no panic").iter().map(|(_, body)| body.len()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies[..2], [0, 5]);
    assert!(seen.lock().expect("no panic").iter().all(|(line, _)| line == "POST /x"));
    // They are an edge of their own, by what became of them.
    let failed = || {
        let of = |rule: &str, backend: &str| {
            let series = proxy.handle.stats().series;
            let own = series.into_iter().find(|series| *series.rule == *rule && *series.backend == *backend);
            own.expect("a series").classes
        };
        assert_eq!(of("r", "b"), [0, 3, 0, 0, 0], "requests are not counted twice");
        let [_, good, _, _, failed] = of("copy:r", "copy");
        assert_eq!(good, 0);
        failed
    };
    until(|| failed() >= 2).await;
}

#[tokio::test]
async fn a_share_of_requests_is_copied() {
    let count = Count::default();
    let counted = count.clone();
    let copy = Upstream::http(move |_| {
        counted.add();
        async move { Response::new(text("")) }
    })
    .await;
    let main = Upstream::named("main").await;
    for (share, fits) in [((0, 100), 0..1), ((1, 1), 400..401), ((1, 2), 120..280)] {
        let before = count.get();
        let snapshot = routes(vec![mirrored(share)], &[("b", vec![main.address]), ("copy", vec![copy.address])]);
        let (proxy, address) = serving(snapshot).await;
        let mut client = Client::http1(address).await;
        for number in 0..400 {
            // There may be only so many copies at once, so those that are sure to be made do not fall far behind.
            until(|| count.get() - before + 100 > number || fits.start < 400).await;
            let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a whole answer");
            assert_eq!(answer.body, "main");
        }
        // Copies are under way beside; wait for as many as there must be at least.
        until(|| count.get() - before >= fits.start).await;
        assert!(fits.contains(&(count.get() - before)), "{share:?}: {}", count.get() - before);
        drop(client);
        proxy.shutdown.cancel();
        soon(proxy.task).await.expect("no panic").expect("a clean end");
    }
}

#[tokio::test]
async fn a_copy_that_hangs_or_fails_hurts_nobody() {
    let main = Upstream::http(|request| async move {
        let body = request.into_body().collect().await.expect("a whole body").to_bytes();
        Response::new(text(body.len().to_string()))
    })
    .await;
    let hangs = Upstream::raw(|mut stream| async move {
        let mut some = [0; 16];
        let _ = stream.read(&mut some).await;
        std::future::pending::<()>().await;
    })
    .await;
    let closes = Upstream::raw(|stream| async move { drop(stream) }).await;
    for copy in [vec![hangs.address], vec![closes.address], vec![nobody().await], vec![]] {
        let snapshot = routes(vec![mirrored((1, 1))], &[("b", vec![main.address]), ("copy", copy)]);
        let (proxy, address) = serving(snapshot).await;
        for _ in 0..3 {
            assert_eq!(ask(address, post("y".repeat(4_000_000))).await.body, "4000000");
        }
        // And nobody waits for it in the end.
        proxy.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(12), proxy.task)
            .await
            .expect("an end before a copy's own limit")
            .expect("no panic")
            .expect("a clean end");
    }
}

#[tokio::test]
async fn browsers_are_told_who_may_read() {
    let main = Upstream::http(|_| async move {
        Response::builder().header("access-control-allow-origin", "*").body(text("main")).expect("a response")
    })
    .await;
    let cors = Cors {
        origins: vec!["https://*.good.example".into()],
        credentials: true,
        methods: vec!["PUT".into()],
        headers: vec!["x-a".into()],
        expose: vec!["x-b".into()],
        max_age: 60,
    };
    let rule = Rule { filters: vec![Filter::Cors(cors)], ..rule(&[("b", 1)]) };
    let (proxy, address) = serving(routes(vec![rule.clone()], &[("b", vec![main.address])])).await;
    let request = |method: &str, origin: &str| {
        let request = Request::builder().method(method).uri("/").header("host", "a.test").header("origin", origin);
        request.header("access-control-request-method", "PUT").body(text("")).expect("a request")
    };
    let preflight = ask(address, request("OPTIONS", "https://a.good.example")).await;
    assert_eq!((preflight.status.as_u16(), preflight.body.as_str()), (204, ""));
    for (name, value) in [
        ("access-control-allow-origin", "https://a.good.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(preflight.headers[name], value);
    }
    let refused = ask(address, request("OPTIONS", "https://bad.example")).await;
    assert_eq!(refused.status, 204);
    assert!(!refused.headers.contains_key("access-control-allow-origin"));

    let actual = ask(address, request("GET", "https://a.good.example")).await;
    assert_eq!(actual.body, "main");
    let origins: Vec<_> = actual.headers.get_all("access-control-allow-origin").iter().collect();
    assert_eq!(origins, ["https://a.good.example"], "in place of what the backend says");
    assert_eq!(actual.headers["access-control-expose-headers"], "x-b");

    // A preflight needs no backend.
    proxy.handle.apply(routes(vec![rule], &[("b", vec![])])).await.expect("a good snapshot");
    let address = proxy.address("l");
    assert_eq!(ask(address, request("OPTIONS", "https://a.good.example")).await.status, 204);
    let odd = Cors { origins: vec!["nonsense".into()], ..Cors::default() };
    let rule = Rule { filters: vec![Filter::Cors(odd)], ..rule_to_b() };
    let refused = proxy.handle.apply(routes(vec![rule], &[("b", vec![])])).await;
    assert!(refused.expect_err("a bad origin").to_string().contains("nonsense"));
}

fn rule_to_b() -> Rule {
    rule(&[("b", 1)])
}
