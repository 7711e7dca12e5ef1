//! `portforward` as clients speak it: over SPDY, within WebSocket, and with ports as channels of one.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::streams::{Client, Spdy, data, message, messages, socket, spdy, stream};
use crate::support::*;
use crate::{trail, wire};

#[tokio::test]
async fn ports_over_spdy_and_within_web_socket() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let admin = wire::token(&server);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port().to_string();
    let program = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            // Answers once all has been said.
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("read");
            stream.write_all(format!("you said {text}").as_bytes()).await.expect("written");
        }
    });
    for tunnel in [false, true] {
        let (method, headers) = match tunnel {
            false => ("POST", spdy("portforward.k8s.io")),
            true => ("GET", socket("SPDY/3.1+portforward.k8s.io")),
        };
        let mut client = Client::ask(&server, &admin, &format!("{method} {PODS}/a/portforward"), &headers).await;
        assert_eq!(client.code(), 101, "{}", client.head);
        let mut spdy = Spdy::default();
        let mut bytes = Vec::new();
        let mut pair = |port: &str, id: &str| {
            ["error", "data"].map(|kind| {
                let (stream, frame) = spdy.open(&[("streamtype", kind), ("port", port), ("requestid", id)]);
                bytes.extend(frame);
                stream
            })
        };
        let ([error, first], [wrong, second]) = (pair(&port, "0"), pair("0", "1"));
        bytes.extend(data(first, b"hello", true));
        let sent: Vec<u8> = if tunnel { bytes.chunks(100).flat_map(message).collect() } else { bytes };
        client.send(&sent).await;
        let (mut all, mut piece) = (Vec::new(), [0; 1024]);
        let whole = |all: &[u8]| -> Vec<u8> { if tunnel { messages(all).concat() } else { all.to_vec() } };
        let ended = |all: &[u8]| {
            let all = whole(all);
            [error, first, wrong, second].iter().all(|id| stream(&all, *id).1)
        };
        let read = async {
            while !ended(&all) {
                let read = client.stream.read(&mut piece).await.expect("read");
                assert!(read > 0, "it ended too early");
                all.extend(&piece[..read]);
            }
        };
        tokio::time::timeout(LIMIT, read).await.expect("all is said in time");
        let all = whole(&all);
        assert_eq!(stream(&all, first).0, "you said hello");
        assert_eq!(stream(&all, error).0, "");
        assert_eq!(stream(&all, wrong).0, "error forwarding port 0 to pod a: that is no port");
    }
    program.abort();
    server.stop().await;
}

/// Reads until `stream` has ended; what came on it.
async fn until_ended(client: &mut Client, wanted: u32) -> String {
    let (mut all, mut piece) = (Vec::new(), [0; 1024]);
    let read = async {
        loop {
            let (text, ended) = stream(&all, wanted);
            if ended {
                return text;
            }
            let read = client.stream.read(&mut piece).await.expect("read");
            assert!(read > 0, "it ended too early");
            all.extend(&piece[..read]);
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("it ends in time")
}

#[tokio::test]
async fn a_forwarded_connection_ends_alone() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let admin = wire::token(&server);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port().to_string();
    let request = format!("POST {PODS}/a/portforward?dryRun=All");
    let mut client = Client::ask(&server, &admin, &request, &spdy("portforward.k8s.io")).await;
    assert_eq!(client.code(), 101, "{}", client.head);
    let mut spdy = Spdy::default();
    for reset in [false, true] {
        let id = reset.to_string();
        let [(error, first), (bytes, second)] = ["error", "data"]
            .map(|kind| spdy.open(&[("streamtype", kind), ("port", port.as_str()), ("requestid", id.as_str())]));
        client.send(&[first, second, data(bytes, b"hello", false)].concat()).await;
        let accepted = tokio::time::timeout(LIMIT, listener.accept()).await.expect("in time");
        let (mut program, _) = accepted.expect("accepted");
        if reset {
            let mut said = [0; 5];
            program.read_exact(&mut said).await.expect("read");
            client.send(&[&[0x80, 3, 0, 3, 0, 0, 0, 8][..], &bytes.to_be_bytes(), &[0, 0, 0, 5]].concat()).await;
            let end = tokio::time::timeout(LIMIT, program.read(&mut said)).await.expect("it ends in time");
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
            // Only now: it is the connection that is to end first.
            assert!(program.write_all(b"more").await.is_ok() || end.is_err());
        } else {
            // What is closed before all was read is cut.
            program.peek(&mut [0]).await.expect("something came");
            drop(program);
        }
        assert_eq!(until_ended(&mut client, error).await, "", "an error would end the client's whole forwarding");
    }
    let told = trail::lines(&server, "audit.log");
    let told = told.iter().filter(|line| line["objectRef"]["subresource"] == "portforward");
    assert_eq!(told.count(), 1, "of a session there is no rehearsal");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn ports_as_channels_of_a_web_socket() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let admin = wire::token(&server);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let (_held, nobody) = nobodys();
    let request = format!("GET {PODS}/a/portforward?ports={port}&ports={nobody}");
    let mut client = Client::ask(&server, &admin, &request, &socket("v4.channel.k8s.io")).await;
    assert!(client.code() == 101 && client.head.contains("sec-websocket-protocol: v4.channel.k8s.io"));
    let (mut program, _) = tokio::time::timeout(LIMIT, listener.accept()).await.expect("in time").expect("accepted");
    // A channel of errors, and one that is none's, are not listened to.
    client.send(&[message(b"\0hel"), message(b"\x01no"), message(b"\x09no"), message(b"\0lo")].concat()).await;
    let mut heard = [0; 5];
    tokio::time::timeout(LIMIT, program.read_exact(&mut heard)).await.expect("in time").expect("read");
    assert_eq!(&heard, b"hello");
    program.write_all(b"good-bye").await.expect("written");
    drop(program);
    let all = messages(&client.rest().await);
    let on = |channel: u8| -> Vec<&[u8]> { all.iter().filter(|m| m[0] == channel).map(|m| &m[1..]).collect() };
    // The port comes first on each, its lower byte in front.
    assert_eq!(on(0), [&port.to_le_bytes()[..], b"good-bye"]);
    assert_eq!(on(1), [&port.to_le_bytes()[..]]);
    assert_eq!(on(2), [&nobody.to_le_bytes()[..]]);
    let [first, why] = on(3)[..] else { panic!("{all:?}") };
    let why = String::from_utf8_lossy(why);
    assert!(first == nobody.to_le_bytes() && why.starts_with(&format!("error forwarding port {nobody} to pod a: ")));
    assert_eq!(all.last().map(Vec::as_slice), Some(&b"bye"[..]));
    for query in ["", "?ports=", "?ports=0", "?ports=70000"] {
        let request = format!("GET {PODS}/a/portforward{query}");
        assert_eq!(Client::ask(&server, &admin, &request, &socket("v4.channel.k8s.io")).await.code(), 400, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn forwarding_ends_with_its_pod() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let admin = wire::token(&server);
    let (_held, nobody) = nobodys();
    let request = format!("POST {PODS}/a/portforward");
    let mut client = Client::ask(&server, &admin, &request, &spdy("portforward.k8s.io")).await;
    let mut spdy = Spdy::default();
    let mut ask = |id: &str| {
        let port = nobody.to_string();
        ["error", "data"].map(|kind| spdy.open(&[("streamtype", kind), ("port", port.as_str()), ("requestid", id)]))
    };
    let [(error, first), (_, second)] = ask("0");
    client.send(&[first, second].concat()).await;
    let told = until_ended(&mut client, error).await;
    assert!(told.contains("refused"), "it may listen later: {told}");
    // Another Pod of that name.
    server.delete(&format!("{PODS}/a"), json!({ "gracePeriodSeconds": 0 })).await;
    server.make(PODS, pod("a")).await;
    let [(error, first), (_, second)] = ask("1");
    // What else was asked for by then does not hold it up.
    let more = (2..100).flat_map(|id| ask(&id.to_string()).map(|(_, frame)| frame));
    let all: Vec<_> = [first, second].into_iter().chain(more).collect();
    client.send(&all.concat()).await;
    let rest = client.rest().await;
    let (told, ended) = stream(&rest, error);
    assert!(ended && told.contains("is gone; another of its name is another Pod"), "{told}");
    assert!(rest.ends_with(&[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]), "a good-bye");
    server.stop().await;
}
