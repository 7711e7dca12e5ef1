//! The id of a request in its answer: clients of Gateways are told it, so that the records of what they saw can be found.

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use proxy::policy::{Fallback, FallbackOn, Policy};
use proxy::snapshot::*;
use proxy::{Settings, Snapshot};

use crate::harness::*;
use crate::policies::{scoped, under};

/// Who asks, and by which way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// What is passed on as it came, and what is not.
    Plain,
    Upload,
    /// All by the library.
    Library,
    Http2,
}

const ALL: [By; 4] = [By::Plain, By::Upload, By::Library, By::Http2];

/// Answers in the form that the path names, with the id that it was told; at `/own` with one of its own.
async fn telling() -> Upstream {
    Upstream::http(|request| async move {
        let id = request.headers()["x-request-id"].clone();
        let path = request.uri().path().to_owned();
        let body = match &*path {
            "/chunks" => StreamBody::new(futures::stream::iter([Ok(Frame::data("chunk".into()))])).boxed(),
            _ => text("whole"),
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = if path == "/fails" { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        if path == "/own" {
            answer.headers_mut().insert("x-request-id", HeaderValue::from_static("of-the-program"));
        }
        answer.headers_mut().insert("told", id);
        answer
    })
    .await
}

async fn asked(by: By, snapshot: Snapshot, path: &str, said: Option<&str>) -> Answer {
    let proxy = start(Settings { by_hand: by != By::Library, ..Settings::default() });
    proxy.handle.apply(snapshot).await.expect("a good snapshot");
    let address = proxy.address("l");
    let method = if by == By::Upload { "POST" } else { "GET" };
    let target = if by == By::Http2 { format!("http://a.test{path}") } else { path.to_owned() };
    let request = Request::builder().method(method).uri(target);
    let request = if by == By::Http2 { request } else { request.header("host", "a.test") };
    let request = said.into_iter().fold(request, |request, id| request.header("x-request-id", id));
    let request = request.body(text(if by == By::Upload { "body" } else { "" })).expect("a request");
    let mut client = if by == By::Http2 { Client::http2(address).await } else { Client::http1(address).await };
    read(client.send(request).await.expect("an answer")).await.expect("whole")
}

/// The ids that an answer says.
fn ids(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("x-request-id").iter().map(|id| id.to_str().expect("text")).collect()
}

#[tokio::test]
async fn answers_at_gateways_say_the_id_that_their_backend_was_told() {
    let upstream = telling().await;
    for by in ALL {
        for path in ["/", "/chunks", "/fails"] {
            for said in [None, Some("said-1")] {
                for snapshot in [all_to(&[upstream.address]), under(Policy::default(), &[upstream.address])] {
                    let answer = asked(by, snapshot, path, said).await;
                    let told = answer.headers["told"].to_str().expect("text");
                    assert_eq!(ids(&answer), [told], "{by:?} {path} {answer:?}");
                    assert!(said.is_none_or(|said| said == told), "{by:?} {answer:?}");
                }
            }
        }
        // What the program says stands.
        let answer = asked(by, all_to(&[upstream.address]), "/own", None).await;
        assert_eq!(ids(&answer), ["of-the-program"], "{by:?}");
        // Between Services the caller knows which id it was given, and gets what the program says.
        let mut within = all_to(&[upstream.address]);
        within.listeners[0].forwarded = Forwarded::Append;
        let answer = asked(by, within, "/", Some("said-1")).await;
        assert!(ids(&answer).is_empty() && answer.headers["told"] == "said-1", "{by:?} {answer:?}");
        // Whoever wants it otherwise says so in a filter.
        let mut changed = all_to(&[upstream.address]);
        let name = http::HeaderName::from_static("x-request-id");
        let removed = HeaderChanges { remove: vec![name], ..HeaderChanges::default() };
        changed.listeners[0].hosts[0].rules[0].filters = vec![Filter::ResponseHeaders(removed)];
        let answer = asked(by, changed, "/", None).await;
        assert!(ids(&answer).is_empty() && answer.headers.contains_key("told"), "{by:?} {answer:?}");
    }
}

#[tokio::test]
async fn answers_of_the_proxys_own_say_it_too() {
    let redirect =
        Redirect { scheme: None, host: Some("b.test".into()), port: None, path: None, status: StatusCode::FOUND };
    let mut redirects = all_to(&[]);
    redirects.listeners[0].hosts[0].rules[0].filters = vec![Filter::Redirect(redirect)];
    let mut responds = all_to(&[]);
    responds.listeners[0].hosts[0].rules[0].action = Action::Respond { status: StatusCode::OK, body: "own".into() };
    let mut unmatched = all_to(&[]);
    unmatched.listeners[0].hosts[0].rules.clear();
    let fallback =
        Fallback { on: vec![FallbackOn::NoEndpoint], status: StatusCode::OK, headers: Vec::new(), body: "[]".into() };
    let falls_back = under(Policy { fallback: scoped(fallback), ..Policy::default() }, &[]);
    for by in ALL {
        for (snapshot, status) in [
            (&redirects, 302),
            (&responds, 200),
            (&unmatched, 404),
            (&falls_back, 200),
            (&all_to(&[]), 503),
            (&all_to(&[nobody().await]), 502),
        ] {
            let answer = asked(by, snapshot.clone(), "/", Some("said-1")).await;
            assert_eq!((answer.status.as_u16(), &ids(&answer)[..]), (status, &["said-1"][..]), "{by:?} {answer:?}");
        }
    }
}
