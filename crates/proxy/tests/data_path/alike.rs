//! Plain requests are served by code of our own, all others by hyper: whoever asks cannot tell which. The same bytes go to a proxy that does
//! and to one that leaves all to hyper; answers, ends, and what reaches the endpoint are compared.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

/// How many bytes the longest body has.
const LONG: usize = 300_000;

type Log = Arc<Mutex<Vec<String>>>;

/// A proxy, and what its endpoint was asked.
struct Side {
    _proxy: Running,
    _upstream: Upstream,
    address: SocketAddr,
    log: Log,
}

/// What an endpoint sees of a request, but for what differs between any two.
fn noted(parts: &http::request::Parts) -> String {
    let own = ["x-request-id", "x-forwarded-for"];
    let mut lines: Vec<String> = parts
        .headers
        .iter()
        .filter(|(name, _)| !own.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    // Where the client names no host, the endpoint is told its own address.
    for line in lines.iter_mut().filter(|line| line.starts_with("host: 127.0.0.1:")) {
        line.truncate("host: 127.0.0.1:".len());
    }
    format!("{} {} {lines:?}", parts.method, parts.uri)
}

/// Answers in the form that the path names.
fn answer(path: &str) -> Response<ServedBody> {
    let chunked = |parts: &[&'static str], trailers: Option<HeaderMap>| {
        let frames = parts.iter().map(|part| Frame::data(bytes::Bytes::from_static(part.as_bytes())));
        let frames: Vec<_> = frames.chain(trailers.map(Frame::trailers)).map(Ok).collect();
        StreamBody::new(futures::stream::iter(frames)).boxed()
    };
    match path {
        "/chunks" => Response::new(chunked(&["one", "two", "three"], None)),
        "/trailers" => {
            let trailers =
                HeaderMap::from_iter([(http::HeaderName::from_static("x-t"), "v".parse().expect("a value"))]);
            let mut response = Response::new(chunked(&["x"], Some(trailers)));
            response.headers_mut().insert("trailer", "x-t".parse().expect("a value"));
            response
        }
        "/long" => Response::new(text("y".repeat(LONG))),
        "/none" => Response::builder().status(204).body(text("")).expect("an answer"),
        "/same" => Response::builder().status(304).header("etag", "\"e\"").body(text("")).expect("an answer"),
        "/odd" => {
            Response::builder().status(299).header("x-a", "1").header("x-a", "2").body(text("odd")).expect("an answer")
        }
        "/empty" => Response::new(text("")),
        _ => Response::new(text(format!("[{path}]"))),
    }
}

async fn side(by_hand: bool) -> Side {
    let log = Log::default();
    let kept = Arc::clone(&log);
    let upstream = Upstream::http(move |request| {
        let kept = Arc::clone(&kept);
        async move {
            let (parts, body) = request.into_parts();
            let path = parts.uri.path().to_owned();
            let bodyless = hyper::body::Body::is_end_stream(&body);
            // How far one gets that breaks off is chance.
            if bodyless {
                kept.lock().expect("no panic").push(noted(&parts));
            }
            let read = body.collect().await.map(http_body_util::Collected::to_bytes);
            match read {
                Ok(read) if read.is_empty() => answer(&path),
                Ok(read) => Response::new(text(format!("[{path} {}]", String::from_utf8_lossy(&read)))),
                Err(_) => Response::builder().status(StatusCode::BAD_REQUEST).body(text("")).expect("an answer"),
            }
        }
    })
    .await;
    let proxy = start(Settings { by_hand, max_head_bytes: 4096, max_headers: 20, ..Settings::default() });
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    let address = proxy.address("l");
    Side { _proxy: proxy, _upstream: upstream, address, log }
}

/// How an exchange went.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// All that came, without what differs between any two answers.
    answers: String,
    asked: Vec<String>,
}

/// Removes dates and ids, and puts headers in order.
fn normal(answers: &[u8]) -> String {
    let text = String::from_utf8_lossy(answers);
    let mut out = Vec::new();
    let mut headers = Vec::new();
    let mut in_head = false;
    for line in text.split("\r\n") {
        if let Some(start) = line.find("HTTP/1.").filter(|_| !in_head) {
            // A body may end without a line's end.
            out.push(line[..start].to_owned());
            (in_head, headers) = (true, vec![line[start..].to_owned()]);
        } else if in_head && line.is_empty() {
            headers[1..].sort();
            out.append(&mut headers);
            in_head = false;
        } else if in_head {
            if line.starts_with("x-request-id: ") {
                headers.push("x-request-id".to_owned());
            } else if !line.starts_with("date: ") {
                headers.push(line.to_owned());
            }
        } else if !line.starts_with("request id: ") {
            out.push(line.replace(char::is_whitespace, " "));
        }
    }
    out.append(&mut headers);
    // The proxy's own answers name the request's id.
    let out: Vec<&str> = out.iter().map(|line| line.split("request id: ").next().unwrap_or_default()).collect();
    out.join("|")
}

/// Whether the other end has read all that this one has sent.
fn all_read(stream: &TcpStream) -> bool {
    let written = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("{address} is of another family") };
        format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port())
    };
    let [near, far] = [stream.peer_addr(), stream.local_addr()].map(|address| address.map(written).ok());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    // The socket that is the other end. Fields are: number, local, remote, state, queues.
    let ends = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1).map(str::to_owned);
        (fields.next(), fields.next()) == (near.clone(), far.clone())
    };
    let queues = table.lines().find(ends).and_then(|line| line.split_whitespace().nth(4));
    queues.is_none_or(|queues| queues.ends_with(":00000000"))
}

/// Sends pieces, each as soon as the one before has been read, and reads until the proxy ends the connection.
async fn exchange(side: &Side, pieces: &[&[u8]], half_close: bool) -> Outcome {
    let stream = TcpStream::connect(side.address).await.expect("connects");
    stream.set_nodelay(true).expect("a socket");
    let (mut read, mut write) = stream.into_split();
    let sending = async {
        for (place, piece) in pieces.iter().enumerate() {
            // It may have had enough.
            if write.write_all(piece).await.is_err() {
                break;
            }
            if place + 1 < pieces.len() {
                until(|| all_read(write.as_ref())).await;
            }
        }
        if half_close {
            let _ = write.shutdown().await;
        }
        // Dropped by whoever ends the exchange, as that would end this side.
        write
    };
    let reading = async {
        let mut all = Vec::new();
        // A reset after the answers is an end as well.
        let _ = read.read_to_end(&mut all).await;
        all
    };
    let (_write, all) = soon(async { tokio::join!(sending, reading) }).await;
    let asked = std::mem::take(&mut *side.log.lock().expect("no panic"));
    Outcome { answers: normal(&all), asked }
}

const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// Inputs after each of which the proxy ends the connection, with the statuses of the answers.
fn inputs() -> Vec<(String, &'static str)> {
    let plain = "GET /x?y=%20 HTTP/1.1\r\nHost: A\r\nAccept: */*\r\nx-a: 1\r\nX-A: 2\r\nempty:\r\n\r\n";
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    let with = |line: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{line}\r\n\r\n");
    let post = "POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
    let chunked = "POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n";
    let many = |count: usize| with(&vec!["x: y"; count].join("\r\n"));
    let mut inputs: Vec<(String, &str)> = [
        (LAST.to_owned(), "200"),
        (plain.to_owned() + LAST, "200 200"),
        (get("/chunks") + &get("/long") + &get("/empty") + LAST, "200 200 200 200"),
        (get("/none") + &get("/same") + &get("/odd") + &get("/trailers") + LAST, "204 304 299 200 200"),
        (get("/chunks").replace("GET", "HEAD") + &get("/").replace("GET", "HEAD") + LAST, "200 200 200"),
        (get("/a").replace("GET", "OPTIONS") + &get("/b").replace("GET", "DELETE") + LAST, "200 200 200"),
        (get("/a") + post + &get("/b") + chunked + LAST, "200 200 200 200 200"),
        (get("/a") + "\r\n\r\n" + LAST, "200 200"),
        (with("connection: keep-alive") + &with("connection: Close") + LAST, "200 200"),
        (with("connection: x-a, close\r\nx-a: 1") + LAST, "200"),
        (with("connection: x-a\r\nx-a: 1") + LAST, "200 200"),
        (with("connection: keep-alive\r\nconnection: close") + LAST, "200"),
        (with("content-length: 0") + LAST, "200 200"),
        (with("content-length: 4") + "body" + LAST, "200 200"),
        (with("content-length: 0\r\ncontent-length: 0") + LAST, "200 200"),
        (with("te: trailers").replace("/ ", "/trailers ") + LAST, "200 200"),
        (with("expect: 100-continue") + LAST, "200 200"),
        (with("upgrade: x") + LAST, "200 200"),
        (with("upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk") + LAST, "200 200"),
        (with("proxy-connection: close\r\nkeep-alive: timeout=5") + LAST, "200 200"),
        (get("/").replace("\r\n", "\n") + LAST, "200 200"),
        (get("/").replace("a\r\n", "a\n") + LAST, "200 200"),
        (get("//two//slashes") + &get("/a#b") + &get("/%zz") + LAST, "200 200 200 200"),
        (get("http://b/abs") + LAST, "200 200"),
        (get("*").replace("GET", "OPTIONS") + LAST, "200 200"),
        (many(18) + LAST, "200 200"),
        ("GET / HTTP/1.0\r\n\r\n".to_owned() + LAST, "200"),
        ("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned() + LAST, "200 200"),
    ]
    .into();
    // Those that are refused, and whatever comes after them is not looked at.
    let refused: [(&str, String); 20] = [
        ("400", "GET / HTTP/1.1\r\n\r\n".into()),
        ("400", with("host: b")),
        ("400", "GET / HTTP/1.1\r\nhost: a/b@c\r\n\r\n".into()),
        ("400", with("x : 1")),
        ("400", with("x: 1\r\n 2")),
        ("400", with("x: \0")),
        ("400", with("x: a\rb")),
        ("400", with("x: \x7f")),
        ("400", with(": x")),
        ("400", with("no colon")),
        ("400", get("/a b")),
        ("400", "GET  / HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("400", "GET / HTTP/1.2\r\nhost: a\r\n\r\n".into()),
        ("400", with("content-length: +4") + "body"),
        ("400", with("content-length: 4\r\ncontent-length: 5") + "body!"),
        ("400", with("transfer-encoding: chunked, identity")),
        ("400", with("transfer-encoding: xchunked")),
        ("431", many(40)),
        ("431", with(&format!("x: {}", "y".repeat(5000)))),
        ("501", "CONNECT a:1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".into()),
    ];
    for (status, input) in refused {
        let input =
            if status == "400" { input.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1) } else { input };
        inputs.push((input.clone(), status));
        let after: &'static str = if status == "400" {
            "200 400"
        } else if status == "431" {
            "200 431"
        } else {
            "200 501"
        };
        inputs.push((get("/before") + &input, after));
    }
    inputs.push((with("content-length: 5\r\ntransfer-encoding: chunked") + "0\r\n\r\n" + LAST, "200"));
    inputs
}

fn statuses(outcome: &Outcome) -> String {
    let all = outcome.answers.split('|').filter_map(|line| line.strip_prefix("HTTP/1."));
    all.filter_map(|line| line.get(2..5)).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn whatever_is_sent_is_answered_alike() {
    let (ours, hypers) = (side(true).await, side(false).await);
    for (input, expected) in inputs() {
        let bytes = input.as_bytes();
        let pieces: &[&[u8]] = &[bytes];
        let (ours, hypers) = tokio::join!(exchange(&ours, pieces, false), exchange(&hypers, pieces, false));
        assert_eq!(ours, hypers, "{input:?}");
        assert_eq!(statuses(&ours), expected, "{input:?}");
    }
}

async fn split_alike(sides: (&Side, &Side), (input, expected): (&str, &str), place: usize) {
    let pieces: &[&[u8]] = &[&input.as_bytes()[..place], &input.as_bytes()[place..]];
    let (ours, hypers) = tokio::join!(exchange(sides.0, pieces, false), exchange(sides.1, pieces, false));
    assert_eq!(ours, hypers, "{input:?} at {place}");
    assert_eq!(statuses(&ours), expected, "{input:?} at {place}");
}

#[tokio::test]
async fn wherever_it_is_split_it_is_answered_alike() {
    let (ours, hypers) = (side(true).await, side(false).await);
    let post = "POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
    let mixed = format!("HEAD /x HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n{post}{LAST}");
    for place in 1..mixed.len() {
        split_alike((&ours, &hypers), (&mixed, "200 200 200"), place).await;
    }
    let mut random = fastrand::Rng::with_seed(48);
    for (input, expected) in inputs() {
        for _ in 0..4 {
            split_alike((&ours, &hypers), (&input, expected), random.usize(1..input.len())).await;
        }
    }
}

#[tokio::test]
async fn a_head_that_breaks_off_is_answered_by_nobody() {
    let (ours, hypers) = (side(true).await, side(false).await);
    for place in 0..LAST.len() {
        let bytes = &LAST.as_bytes()[..place];
        let pieces: &[&[u8]] = &[bytes];
        let (ours, hypers) = tokio::join!(exchange(&ours, pieces, true), exchange(&hypers, pieces, true));
        assert_eq!((&*ours.answers, ours.asked.len()), ("", 0), "{place}");
        assert_eq!(ours, hypers, "{place}");
    }
}

/// Changes an input here and there, from a seed.
fn mutated(random: &mut fastrand::Rng) -> Vec<u8> {
    const PARTS: &[&str] = &[
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        "\0",
        "\u{7f}",
        "é",
        "/",
        "*",
        "HTTP/1.0",
        "HTTP/1.1",
        "GET ",
        "HEAD ",
        "POST ",
        "host: b\r\n",
        "content-length: 3\r\n",
        "content-length: 0\r\n",
        "Content-Length: 3, 3\r\n",
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: x\r\n",
        "connection: close\r\n",
        "connection: keep-alive\r\n",
        "connection: x, y\r\n",
        "upgrade: x\r\n",
        "te: trailers\r\n",
        "expect: 100-continue\r\n",
        "\r\n\r\n",
        "0\r\n\r\n",
        "3\r\nabc\r\n",
    ];
    let get = "GET /m HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
    let mut bytes = get.repeat(random.usize(1..=3)).into_bytes();
    for _ in 0..random.usize(1..=3) {
        let place = random.usize(..bytes.len());
        match random.u8(..4) {
            0 => bytes[place] = random.u8(..),
            1 => drop(bytes.remove(place)),
            _ => drop(bytes.splice(place..place, random.choice(PARTS).expect("parts").bytes())),
        }
    }
    bytes
}

#[tokio::test]
async fn what_chance_makes_of_it_is_answered_alike() {
    let (ours, hypers) = (side(true).await, side(false).await);
    let mut random = fastrand::Rng::with_seed(47);
    // Completes what is not complete, and ends the connection.
    let tail = ["\r\n\r\n", LAST, LAST].concat();
    let mut answered = 0;
    for number in 0..500 {
        let mut bytes = mutated(&mut random);
        bytes.extend_from_slice(tail.as_bytes());
        let place = random.usize(1..bytes.len());
        let pieces: &[&[u8]] = if number % 3 == 0 { &[&bytes[..place], &bytes[place..]] } else { &[&bytes[..]] };
        let (ours, hypers) = tokio::join!(exchange(&ours, pieces, false), exchange(&hypers, pieces, false));
        assert_eq!(ours, hypers, "{number}: {:?} at {place}", String::from_utf8_lossy(&bytes));
        answered += usize::from(statuses(&ours).starts_with("200"));
    }
    assert!((100..450).contains(&answered), "{answered} of the inputs began with a request");
}
