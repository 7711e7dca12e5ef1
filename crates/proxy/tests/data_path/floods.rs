//! Clients that send what is allowed, without end: whoever floods is cut off or kept waiting, and others are served meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// `GET http://a/` (RFC 7541: three indexed fields and a literal one).
pub(crate) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
/// `POST http://a/`.
pub(crate) const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a'];
/// How many frames a flood has at most.
const FLOOD: u32 = 100_000;

/// A frame (RFC 9113, section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The odd ids that clients give their streams.
pub(crate) fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// What a proxy does about a flood.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    /// It ends the connection.
    End,
    /// It may as well read no more, so that whoever floods waits, or take all of it.
    Anything,
}

/// Sends what `next` makes until the proxy has had enough or the flood is over, reading all the while.
async fn flood(address: SocketAddr, expected: Expected, mut next: impl FnMut(u32) -> Vec<u8>) {
    let (mut answers, mut out) = TcpStream::connect(address).await.expect("connects").into_split();
    let mut reading = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while answers.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    let mut sent = out.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    for number in 0..FLOOD / 100 {
        if sent.is_err() || reading.is_finished() {
            return;
        }
        let burst: Vec<u8> = (0..100).flat_map(|one| next(number * 100 + one)).collect();
        let writing = out.write_all(&burst);
        if expected == Expected::End {
            sent = soon(writing).await;
            continue;
        }
        match tokio::time::timeout(Duration::from_secs(2), writing).await {
            Ok(result) => sent = result,
            Err(_) => break,
        }
    }
    if expected == Expected::End {
        // All of it may have been sent before any of it was looked at.
        soon(&mut reading).await.expect("no panic");
    }
    reading.abort();
}

/// A proxy with one endpoint, and a client of it that asks again and again.
async fn beside(expected: Expected, next: impl FnMut(u32) -> Vec<u8>) {
    let upstream = Upstream::named("unhurt").await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let others = async {
        let mut client = Client::http1(address).await;
        for _ in 0..50 {
            let answer = read(client.send(get("/")).await.expect("an answer")).await.expect("a body");
            assert_eq!(answer.body, "unhurt");
        }
    };
    tokio::join!(flood(address, expected, next), soon(others));
    // Nothing of the flood goes on once the one who made it is gone.
    until(|| proxy.handle.stats().in_flight == 0 && proxy.handle.stats().connections == 0).await;
    assert_eq!(ask(address, get("/")).await.body, "unhurt");
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_the_connection() {
    let reset = |number| {
        let cancel = 8_u32.to_be_bytes();
        let begin = frame(HEADERS, END_HEADERS | END_STREAM, stream(number), GET);
        [begin, frame(RST_STREAM, 0, stream(number), &cancel)].concat()
    };
    // Rapid reset (CVE-2023-44487) is cut off.
    beside(Expected::End, reset).await;
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let drip = |number| match number {
        0 => frame(HEADERS, 0, 1, GET),
        // A header that is new each time, so that nothing can be left out.
        _ => frame(CONTINUATION, 0, 1, &[&[0x40, 10][..], format!("x{number:09}").as_bytes(), &[1, b'v']].concat()),
    };
    // A flood of CONTINUATION (CVE-2024-27316) is cut off.
    beside(Expected::End, drip).await;
}

#[tokio::test]
async fn pings_and_settings_without_end_hurt_nobody() {
    beside(Expected::Anything, |_| frame(PING, 0, 0, &[0; 8])).await;
    beside(Expected::Anything, |_| frame(SETTINGS, 0, 0, &[])).await;
}

#[tokio::test]
async fn empty_frames_without_end_hurt_nobody() {
    beside(Expected::Anything, |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, POST),
        _ => frame(DATA, 0, 1, &[]),
    })
    .await;
}

#[tokio::test]
async fn a_compressed_head_that_grows_is_refused() {
    // One large header is put into the table once and then named by one byte each, 1,000 times: 4 MB of headers.
    let value = vec![b'v'; 4000];
    let entry = [&[0x40, 1, b'b', 0x7f, 0xa1, 0x1e][..], &value].concat();
    let bomb = |number| match number {
        0 => frame(HEADERS, END_HEADERS | END_STREAM, 1, &[GET, &entry, &vec![0xbe; 1000]].concat()),
        _ => frame(PING, 0, 0, &[0; 8]),
    };
    beside(Expected::Anything, bomb).await;
}

#[tokio::test]
async fn heads_that_drip_are_cut_off_and_bodies_that_drip_hold_only_themselves() {
    let upstream = Upstream::echo().await;
    let limits = Settings { header_timeout: Duration::from_secs(6), ..Settings::default() };
    let proxy = start(limits);
    proxy.handle.apply(all_to(&[upstream.address])).await.expect("a good snapshot");
    let address = proxy.address("l");

    let mut dripping = TcpStream::connect(address).await.expect("connects");
    dripping.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await.expect("sends");
    // Every line is in time; the whole head is not.
    let cut = async {
        let (mut answers, mut out) = dripping.split();
        let mut bytes = Vec::new();
        let mut reading = std::pin::pin!(answers.read_to_end(&mut bytes));
        loop {
            tokio::select! {
                ended = &mut reading => break ended.is_ok() || ended.is_err(),
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    // A refusal shows in what is read.
                    let _ = out.write_all(b"x: y\r\n").await;
                }
            }
        }
    };
    assert!(soon(cut).await);

    let mut slow = TcpStream::connect(address).await.expect("connects");
    slow.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nab").await.expect("sends");
    until(|| proxy.handle.stats().in_flight == 1).await;
    assert_eq!(ask(address, get("/")).await.status, 200, "others are served");
    drop(slow);
    until(|| proxy.handle.stats().in_flight == 0).await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_counts_as_gone() {
    // As for nginx and Envoy: nobody can tell it from one that has gone altogether, and its request would go on for nobody.
    let asked = Count::default();
    let counted = asked.clone();
    let upstream = Upstream::http(move |_| {
        counted.add();
        std::future::pending()
    })
    .await;
    let (proxy, address) = serving(all_to(&[upstream.address])).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sends");
    until(|| asked.get() == 1).await;
    stream.shutdown().await.expect("closes its half");
    until(|| proxy.handle.stats().in_flight == 0 && proxy.handle.stats().connections == 0).await;
}

#[tokio::test]
async fn endpoints_that_hang_or_reset_hold_up_nobody_else() {
    let hanging = Upstream::raw(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let resetting = Upstream::raw(|stream| async move {
        // Closing with unread bytes is a reset.
        stream.readable().await.expect("a request");
        drop(stream);
    })
    .await;
    let good = Upstream::named("good").await;
    let mut rules = Vec::new();
    for (path, backend) in [("/hangs", "hangs"), ("/resets", "resets"), ("/", "good")] {
        let mut one = rule(&[(backend, 1)]);
        one.matches.path = proxy::snapshot::PathMatch::Prefix(path.into());
        rules.push(one);
    }
    let backends =
        [("hangs", vec![hanging.address]), ("resets", vec![resetting.address]), ("good", vec![good.address])];
    let (proxy, address) = serving(routes(rules, &backends)).await;
    let stuck: Vec<_> = (0..50).map(|_| tokio::spawn(ask(address, get("/hangs")))).collect();
    until(|| proxy.handle.stats().in_flight == 50).await;
    for _ in 0..20 {
        assert_eq!(ask(address, get("/resets")).await.status, 502);
        assert_eq!(ask(address, get("/")).await.body, "good");
    }
    for one in stuck {
        one.abort();
    }
    until(|| proxy.handle.stats().in_flight == 0).await;
}
