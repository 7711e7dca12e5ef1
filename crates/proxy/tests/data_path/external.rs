//! External authorization over real connections: what is asked, what comes of each answer, and of none.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use proxy::access::{Effect, External, Policy};
use proxy::snapshot::*;

use crate::access::{AS_A, NOBODY, at_backend, call, guarded, rule_for};
use crate::harness::*;

fn external(fail_open: bool) -> External {
    External {
        backend: "auth".into(),
        path: "/check?v=1".into(),
        timeout: LIMIT,
        fail_open,
        to_backend: vec![HeaderName::from_static("x-user")],
    }
}

fn snapshot(upstream: &Upstream, auth: Vec<std::net::SocketAddr>, external: External) -> Snapshot {
    let snapshot = routes(vec![rule(&[("b", 1)])], &[("b", vec![upstream.address]), ("auth", auth)]);
    let rules = vec![rule_for(Effect::Allow, None)];
    at_backend(snapshot, vec![("p", Policy { external: Some(external), rules, ..Policy::default() })])
}

/// Decides by the header `x-wish`, and tells in `x-asked` what it was asked.
async fn decider(asked: Count) -> Upstream {
    Upstream::http(move |request| {
        asked.add();
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        let said = format!(
            "{} {} {:?} {:?} {:?} {:?} {:?}",
            request.method(),
            request.uri(),
            header("x-original-method"),
            header("x-original-uri"),
            header("content-length"),
            header("x-user"),
            header("x-forwarded-client-cert").is_some(),
        );
        let mut response = Response::new(text("not for the client"));
        let status = header("x-wish").and_then(|wish| wish.parse::<u16>().ok()).unwrap_or(204);
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        response.headers_mut().insert("x-user", HeaderValue::try_from(said).expect("a value"));
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Basic realm=\"shop\""));
        async move { response }
    })
    .await
}

fn wish(status: &'static str) -> Request<ServedBody> {
    let request = Request::post("/orders?x=1").header("host", "a.test").header("x-wish", status);
    request.header("x-user", "forged").body(text("a body")).expect("a request")
}

fn told(answer: &Answer) -> Option<&str> {
    answer.body.lines().find_map(|line| line.strip_prefix("x-user: "))
}

#[tokio::test]
async fn the_service_that_decides_is_asked_once_with_the_head_alone() {
    let (upstream, asked) = (Upstream::echo().await, Count::default());
    let auth = decider(asked.clone()).await;
    let (_running, at) = guarded(snapshot(&upstream, vec![auth.address], external(false))).await;
    let answer = call(AS_A, at, wish("200")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let expected = r#"GET /check?v=1 Some("POST") Some("/orders?x=1") None None true"#;
    assert_eq!(told(&answer), Some(expected));
    assert!(answer.body.ends_with("\na body"), "{}", answer.body);
    assert_eq!(asked.get(), 1);
    // The next one uses the same connection, and is asked about again.
    assert_eq!(call(NOBODY, at, wish("204")).await.status, StatusCode::OK);
    assert_eq!(asked.get(), 2);
}

#[tokio::test]
async fn its_refusals_pass_on_and_all_else_is_no_answer() {
    let upstream = Upstream::echo().await;
    let auth = decider(Count::default()).await;
    let (running, at) = guarded(snapshot(&upstream, vec![auth.address], external(false))).await;
    for (wanted, status, reason, challenge) in [
        ("401", 401, "external_unauthorized", Some("Basic realm=\"shop\"")),
        ("403", 403, "external_denied", None),
        ("302", 503, "external_unavailable", None),
        ("500", 503, "external_unavailable", None),
    ] {
        let answer = call(NOBODY, at, wish(wanted)).await;
        assert_eq!(answer.status, status, "{wanted}");
        assert!(answer.body.contains(reason) && !answer.body.contains("not for the client"), "{}", answer.body);
        let found = answer.headers.get("www-authenticate").map(|value| value.to_str().expect("text"));
        assert_eq!(found, challenge, "{wanted}");
    }
    assert_eq!(running.handle.stats().refusals.iter().map(|refusals| refusals.count).sum::<u64>(), 4);
}

#[tokio::test]
async fn no_answer_refuses_unless_the_policy_says_otherwise() {
    let upstream = Upstream::echo().await;
    let silent = Upstream::raw(|_stream| std::future::pending()).await;
    for auth in [Vec::new(), vec![nobody().await], vec![silent.address]] {
        let quick = |fail_open| External { timeout: Duration::from_millis(50), ..external(fail_open) };
        let (_running, at) = guarded(snapshot(&upstream, auth.clone(), quick(false))).await;
        assert_eq!(call(NOBODY, at, wish("200")).await.status, StatusCode::SERVICE_UNAVAILABLE, "{auth:?}");
        let (_running, at) = guarded(snapshot(&upstream, auth.clone(), quick(true))).await;
        let answer = call(NOBODY, at, wish("200")).await;
        // What the client says of itself is taken out all the same.
        assert_eq!((answer.status, told(&answer)), (StatusCode::OK, None), "{auth:?}");
    }
}

#[tokio::test]
async fn who_is_refused_by_a_rule_is_not_asked_about() {
    let (upstream, asked) = (Upstream::echo().await, Count::default());
    let auth = decider(asked.clone()).await;
    let mut snapshot = snapshot(&upstream, vec![auth.address], external(false));
    let policy = snapshot.policies.get_mut("p").expect("it is there");
    policy.rules.push(rule_for(Effect::Deny, Some("spiffe://**")));
    let (_running, at) = guarded(snapshot).await;
    assert_eq!(call(AS_A, at, wish("200")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(asked.get(), 0);
    assert_eq!(call(NOBODY, at, wish("200")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_draw_among_backends_stays_while_one_is_asked_about() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let auth = decider(Count::default()).await;
    let shared = routes(
        vec![rule(&[("b", 1), ("c", 1)])],
        &[("b", vec![one.address]), ("c", vec![two.address]), ("auth", vec![auth.address])],
    );
    let rules = vec![rule_for(Effect::Allow, None)];
    let policy = Policy { external: Some(external(false)), rules, ..Policy::default() };
    let (_running, at) = guarded(at_backend(shared, vec![("p", policy)])).await;
    let mut first = 0;
    for _ in 0..400 {
        first += usize::from(call(NOBODY, at, get("/")).await.body == "one");
    }
    // Seven standard deviations around a half, and not the quarter that a second draw would make of it.
    assert!((130..=270).contains(&first), "{first} of 400");
}
