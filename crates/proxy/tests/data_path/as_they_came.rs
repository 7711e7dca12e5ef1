//! That plain requests of HTTP/2 are passed on as they came, and what becomes of the connections they go by. `alike_http2.rs` shows that nobody
//! can tell; it would hold if none were passed on so.

use std::sync::Arc;

use h2::Reason;
use http::Request;
use proxy::policy::Policy;
use proxy::{Dependencies, Recording, Settings};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::alike_http2::{answered, read_lines};
use crate::harness::*;
use crate::http2::connected;
use crate::observed::Notebook;
use crate::policies::{breaker, scoped, under};

/// What is made a map has the host after all that the client has sent.
const AS_IT_CAME: &str = "host: a.test";
const FROM_A_MAP: &str = "accept: */*";

/// Answers by which of the connections it was asked, and what the head says first. Of `/half` it answers a half: whoever asks over the same
/// connection again gets the other half before an answer.
async fn play(mut stream: TcpStream, connection: usize) {
    let mut rest = "";
    while let Some(head) = read_lines(&mut stream).await {
        let first = head.split("\r\n").nth(1).unwrap_or_default();
        let half = head.starts_with("GET /half ");
        let body = if half { "abc".to_owned() } else { connection.to_string() };
        let length = if half { 6 } else { body.len() };
        let answer = format!("{rest}HTTP/1.1 200 OK\r\nx-first: {first}\r\ncontent-length: {length}\r\n\r\n{body}");
        rest = if half { "def" } else { "" };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A proxy with such an endpoint, on the thread of the test, so that a record is made when all is done.
async fn side(by_hand: bool, policy: Option<Policy>) -> (Running, Upstream, Arc<Notebook>) {
    let connections = Count::default();
    let upstream = Upstream::raw(move |stream| play(stream, connections.add())).await;
    let notebook = Arc::new(Notebook::default());
    let recording = Recording { all: true, ratio: 0.0, per_second: 0 };
    let dependencies = Dependencies { observer: Some(notebook.clone()), ..Dependencies::default() };
    let running = start_with(Settings { by_hand, recording, threads: 0, ..Settings::default() }, dependencies);
    let to = [upstream.address];
    let snapshot = policy.map_or_else(|| all_to(&to), |policy| under(policy, &to));
    running.handle.apply(snapshot).await.expect("a good snapshot");
    (running, upstream, notebook)
}

/// Each of the ways, with what heads say first that go it.
fn ways() -> impl Iterator<Item = (bool, Option<Policy>, &'static str)> {
    let policies = || [None, Some(Policy { breaker: scoped(breaker()), ..Policy::default() })].into_iter();
    let by_hand = policies().map(|policy| (true, policy, AS_IT_CAME));
    by_hand.chain(policies().map(|policy| (false, policy, FROM_A_MAP)))
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.test{path}")).header("accept", "*/*").body(()).expect("a request")
}

/// If this fails where requests are passed on as they came, they take the long way.
#[tokio::test]
async fn plain_requests_of_http2_are_passed_on_as_they_came() {
    for (by_hand, policy, first) in ways() {
        let (running, _upstream, _) = side(by_hand, policy).await;
        let (sender, _driver) = connected(running.address("l")).await;
        let answer = answered(&sender, get("/"), || {}).await;
        assert!(answer.contains(&format!("\r\nx-first: {first}\r\n")), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_of_which_an_answer_was_read_by_half_is_never_used_again() {
    for (by_hand, policy, first) in ways() {
        let (running, _upstream, notebook) = side(by_hand, policy).await;
        let (mut sender, _driver) = connected(running.address("l")).await;
        let (answer, mut stream) = sender.send_request(get("/half"), true).expect("a stream");
        let answer = soon(answer).await.expect("an answer");
        assert_eq!(answer.headers()["x-first"], first);
        let mut body = answer.into_body();
        assert_eq!(soon(body.data()).await.expect("data").expect("a part"), "abc");
        stream.send_reset(Reason::CANCEL);
        // What is asked before that goes by another connection in any case.
        until(|| notebook.len() == 1).await;
        for _ in 0..2 {
            let answer = answered(&sender, get("/"), || {}).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n1"), "{answer}");
        }
    }
}
