//! `exec`, `attach` and `portforward` as clients speak to them: over WebSocket and SPDY, byte by byte.

use std::process::Stdio;

use apiserver::{Beginning, Connection, PodKey, PodSessions, Session, SessionError, SessionOptions};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::access::{RBAC, binding, role};
use crate::support::*;
use crate::{trail, wire};

/// Runs what it is asked as a process of its own; the ports of its Pods are the machine's.
pub(crate) struct Processes;

impl PodSessions for Processes {
    fn session(&self, pod: &PodKey, options: SessionOptions) -> Result<Beginning, SessionError> {
        assert!(!pod.uid.is_empty());
        if pod.name == "ended" {
            return Err(SessionError::NotRunning { container: options.container });
        }
        Ok(Box::pin(async move {
            let command = options.command.unwrap_or_else(|| vec!["cat".into()]);
            let mut child = tokio::process::Command::new(&command[0])
                .args(&command[1..])
                .stdin(if options.stdin { Stdio::piped() } else { Stdio::null() })
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| error.to_string())?;
            Ok(Session {
                stdin: child.stdin.take().map(|one| Box::new(one) as apiserver::Input),
                stdout: child.stdout.take().map(|one| Box::new(one) as apiserver::Output),
                stderr: child.stderr.take().map(|one| Box::new(one) as apiserver::Output),
                resize: None,
                ended: Box::pin(async move {
                    let status = child.wait().await.map_err(|error| error.to_string())?;
                    status.code().ok_or_else(|| status.to_string())
                }),
            })
        }))
    }

    fn connect(&self, _: &PodKey, port: u16) -> BoxFuture<'static, Result<Box<dyn Connection>, String>> {
        Box::pin(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

/// What a client says to change over to WebSocket, and to SPDY.
pub(crate) fn socket(protocol: &str) -> String {
    format!(
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n"
    )
}

pub(crate) fn spdy(protocol: &str) -> String {
    format!(
        "connection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: {protocol}\r\ncontent-length: 0\r\n"
    )
}

/// A connection after its request, and the head of the answer.
pub(crate) struct Client {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) head: String,
}

impl Client {
    pub(crate) async fn ask(server: &Harness, token: &str, request: &str, headers: &str) -> Client {
        let mut stream = wire::connect(server, "127.0.0.1", "http/1.1").await.expect("TLS");
        let text = format!("{request} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("an answer"));
            }
        };
        tokio::time::timeout(LIMIT, read).await.expect("an answer in time");
        Client { stream, head: String::from_utf8(head).expect("text").to_ascii_lowercase() }
    }

    pub(crate) fn code(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code")
    }

    /// All that comes, to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A server that cuts a connection need not say so in TLS.
        let _ = tokio::time::timeout(LIMIT, self.stream.read_to_end(&mut rest)).await.expect("an end in time");
        rest
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }
}

/// A client's message: short, and with a mask that changes nothing.
pub(crate) fn message(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    assert!(length < 126);
    [&[0x82, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// The payloads of those of a server's messages that are whole; the last is its good-bye.
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [kind, length, rest @ ..] = bytes {
        let (length, rest) = match (length, rest) {
            (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (126, _) => break,
            (length, rest) => (usize::from(*length), rest),
        };
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if *kind == 0x88 {
            all.push(b"bye".to_vec());
            break;
        }
        assert_eq!(*kind, 0x82);
        all.push(payload.to_vec());
        bytes = rest;
    }
    all
}

/// What came on a channel.
fn channel(all: &[Vec<u8>], channel: u8) -> String {
    let on: Vec<u8> = all.iter().filter(|m| m.first() == Some(&channel)).flat_map(|m| m[1..].to_vec()).collect();
    String::from_utf8(on).expect("text")
}

/// A client of SPDY. Its headers are packed as pieces that are stored as they are.
#[derive(Default)]
pub(crate) struct Spdy {
    begun: bool,
    next: u32,
}

impl Spdy {
    pub(crate) fn open(&mut self, headers: &[(&str, &str)]) -> (u32, Vec<u8>) {
        let mut block = u32::try_from(headers.len()).expect("few").to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
            block.extend(text.as_bytes());
        }
        let length = u16::try_from(block.len()).expect("short");
        let mut packed = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            packed.extend([0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2]);
        }
        packed.push(0);
        packed.extend(length.to_le_bytes());
        packed.extend((!length).to_le_bytes());
        packed.extend(block);
        self.next += if self.next == 0 { 1 } else { 2 };
        let mut frame = vec![0x80, 3, 0, 1, 0];
        frame.extend(&u32::try_from(packed.len() + 10).expect("short").to_be_bytes()[1..]);
        frame.extend(self.next.to_be_bytes());
        frame.extend([0; 6]);
        frame.extend(packed);
        (self.next, frame)
    }
}

pub(crate) fn data(stream: u32, payload: &[u8], last: bool) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&stream.to_be_bytes()[..], &[u8::from(last)], &length[1..], payload].concat()
}

/// What came on a stream, and whether it was ended. A frame of which a part is on its way still does not count.
pub(crate) fn stream(mut bytes: &[u8], wanted: u32) -> (String, bool) {
    let (mut text, mut ended) = (Vec::new(), false);
    while bytes.len() >= 8 {
        let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let length = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
        let Some((payload, rest)) = bytes[8..].split_at_checked(length) else { break };
        if first == wanted {
            text.extend(payload);
            ended |= bytes[4] & 1 == 1;
        }
        bytes = rest;
    }
    (String::from_utf8(text).expect("text"), ended)
}

const EXEC: &str =
    "command=sh&command=-c&command=cat%3B+echo+wrong+%3E%262%3B+exit+3&container=main&stdin=1&stdout=1&stderr=1";

fn outcome(text: &str) -> Value {
    let status: Value = serde_json::from_str(text).expect("a Status");
    status["details"]["causes"][0]["message"].clone()
}

#[tokio::test]
async fn a_session_over_web_socket() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let admin = wire::token(&server);
    let request = format!("GET {PODS}/a/exec?{EXEC}");
    let mut client = Client::ask(&server, &admin, &request, &socket("v4.channel.k8s.io, v5.channel.k8s.io")).await;
    assert_eq!(client.code(), 101, "{}", client.head);
    for header in ["sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=", "sec-websocket-protocol: v5.channel.k8s.io"] {
        assert!(client.head.contains(header), "{}", client.head);
    }
    client.send(&message(b"\0hello ")).await;
    client.send(&message(b"\0you")).await;
    client.send(&message(b"\xff\0")).await;
    let all = messages(&client.rest().await);
    assert_eq!((channel(&all, 1).as_str(), channel(&all, 2).as_str()), ("hello you", "wrong\n"));
    assert_eq!(outcome(&channel(&all, 3)), "3");
    assert_eq!(all.last().map(Vec::as_slice), Some(&b"bye"[..]));
    // A command that can't be run is told where its end would be.
    let request = format!("GET {PODS}/a/exec?command=/nonesuch&container=main&stdout=1");
    let mut client = Client::ask(&server, &admin, &request, &socket("v4.channel.k8s.io")).await;
    let all = messages(&client.rest().await);
    assert!(channel(&all, 3).contains("No such file"), "{all:?}");
    // Attached to.
    let request = format!("GET {PODS}/a/attach?container=main&stdout=1&stdin=1");
    let mut client = Client::ask(&server, &admin, &request, &socket("v5.channel.k8s.io")).await;
    client.send(&message(b"\0hello")).await;
    client.send(&message(b"\xff\0")).await;
    let all = messages(&client.rest().await);
    assert_eq!(channel(&all, 1), "hello");
    assert!(channel(&all, 3).contains("Success"), "{all:?}");
    // A client's good-bye is answered, and ends the command.
    let request = format!("GET {PODS}/a/exec?command=sleep&command=1000&container=main&stdout=1");
    let mut client = Client::ask(&server, &admin, &request, &socket("v5.channel.k8s.io")).await;
    client.send(b"\x88\x82\0\0\0\0\x03\xe8").await;
    assert_eq!(client.rest().await, b"\x88\x02\x03\xe8");
    // A frame that no client may send ends it, and the command with it.
    let request = format!("GET {PODS}/a/exec?command=sleep&command=1000&container=main&stdout=1");
    let mut client = Client::ask(&server, &admin, &request, &socket("v5.channel.k8s.io")).await;
    client.send(b"\x82\x01x").await;
    assert_eq!(client.rest().await, b"");
    server.stop().await;
}

#[tokio::test]
async fn a_session_over_spdy() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let admin = wire::token(&server);
    let request = format!("POST {PODS}/a/exec?{EXEC}");
    let mut client = Client::ask(&server, &admin, &request, &spdy("v4.channel.k8s.io, v3.channel.k8s.io")).await;
    assert!(client.code() == 101 && client.head.contains("x-stream-protocol-version: v4.channel.k8s.io"));
    let mut spdy = Spdy::default();
    let ids = ["error", "stdin", "stdout", "stderr"].map(|kind| spdy.open(&[("streamtype", kind)]));
    let [error, stdin, stdout, stderr] = ids.each_ref().map(|(id, _)| *id);
    for (_, frame) in &ids {
        client.send(frame).await;
    }
    client.send(&data(stdin, b"hello", false)).await;
    client.send(&data(stdin, b"", true)).await;
    let all = client.rest().await;
    assert_eq!(stream(&all, stdout), ("hello".to_owned(), true));
    assert_eq!(stream(&all, stderr), ("wrong\n".to_owned(), true));
    let (status, ended) = stream(&all, error);
    assert!(ended && outcome(&status) == "3", "{status}");
    server.stop().await;
}

/// Reads until all of `wanted` has come.
async fn until_said(client: &mut Client, wanted: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    while !seen.windows(wanted.len()).any(|part| part == wanted) {
        let read = tokio::time::timeout(LIMIT, client.stream.read_u8()).await.expect("in time");
        seen.push(read.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&seen))));
    }
    seen
}

#[tokio::test]
async fn nobody_has_all_sessions() {
    let tune = |settings: &mut apiserver::Settings| settings.limits.sessions = 3;
    let server = Harness::with(tempfile::tempdir().expect("a folder"), tune, |_| {}).await;
    server.make(PODS, pod("a")).await;
    let admin = wire::token(&server);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    server.make(accounts, json!({ "metadata": { "name": "robot" } })).await;
    let robot = "system:serviceaccount:default:robot";
    server.make(&format!("{RBAC}/clusterrolebindings"), binding("r", "ClusterRole", "cluster-admin", robot)).await;
    let made = server.make(&format!("{accounts}/robot/token"), json!({ "spec": {} })).await;
    let robot = made["status"]["token"].as_str().expect("a token").to_owned();
    let request = format!("GET {PODS}/a/exec?{EXEC}");
    let v5 = socket("v5.channel.k8s.io");
    let mut first = Client::ask(&server, &admin, &request, &v5).await;
    assert_eq!(first.code(), 101);
    // Nor by other names.
    for who in ["", "impersonate-user: bob\r\nimpersonate-group: system:masters\r\n"] {
        let mut second = Client::ask(&server, &admin, &request, &format!("{who}{v5}")).await;
        assert_eq!(second.code(), 429, "{who}");
        let told = String::from_utf8_lossy(&until_said(&mut second, b"\"status\":\"Failure\"").await).into_owned();
        assert!(told.contains("has 1 sessions with containers open"), "{told}");
    }
    let others = Client::ask(&server, &robot, &request, &v5).await;
    assert_eq!(others.code(), 101);
    first.send(&message(b"\xff\0")).await;
    first.rest().await;
    drop(first);
    let again = async {
        while Client::ask(&server, &admin, &request, &v5).await.code() != 101 {
            pause().await;
        }
    };
    tokio::time::timeout(LIMIT, again).await.expect("its room is there again");
    server.stop().await;
}

#[tokio::test]
async fn who_is_taken_for_another_needs_that_right_to_the_end() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let (space, wide) = (format!("{RBAC}/namespaces/default"), RBAC);
    server.make(accounts, json!({ "metadata": { "name": "robot" } })).await;
    let robot = "system:serviceaccount:default:robot";
    server.make(&format!("{wide}/clusterroles"), role("as", &["users"], &["impersonate"])).await;
    server.make(&format!("{space}/roles"), role("exec", &["pods/exec", "pods"], &["get", "create", "watch"])).await;
    server.make(&format!("{space}/rolebindings"), binding("bob", "Role", "exec", "bob")).await;
    let request = format!("GET {PODS}/a/exec?{EXEC}");
    let headers = format!("impersonate-user: bob\r\n{}", socket("v5.channel.k8s.io"));
    for lost in ["the right", "the account"] {
        server.make(&format!("{wide}/clusterrolebindings"), binding(&lost[4..], "ClusterRole", "as", robot)).await;
        let made = server.make(&format!("{accounts}/robot/token"), json!({ "spec": {} })).await;
        let token = made["status"]["token"].as_str().expect("a token").to_owned();
        let mut session = Client::ask(&server, &token, &request, &headers).await;
        assert_eq!(session.code(), 101, "{}", session.head);
        session.send(&message(b"\0hello")).await;
        until_said(&mut session, b"\x01hello").await;
        let watch = format!("GET {PODS}?watch=true");
        let mut watch = Client::ask(&server, &token, &watch, "impersonate-user: bob\r\n").await;
        assert_eq!(watch.code(), 200, "{}", watch.head);
        let gone = match lost {
            "the right" => format!("{wide}/clusterrolebindings/right"),
            _ => format!("{accounts}/robot"),
        };
        assert_eq!(server.delete(&gone, Value::Null).await.0, 200);
        // Neither has anything to show.
        assert_eq!(session.rest().await, b"", "{lost}");
        let code = if lost == "the right" { "\"code\":403" } else { "\"code\":401" };
        until_said(&mut watch, code.as_bytes()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_refused_before_anything_is_started() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    server.make(PODS, pod("ended")).await;
    let admin = wire::token(&server);
    let v5 = socket("v5.channel.k8s.io");
    for (request, headers, code) in [
        (format!("GET {PODS}/a/exec?{EXEC}"), String::new(), 400),
        (format!("GET {PODS}/a/exec?{EXEC}"), socket("v9"), 400),
        (format!("POST {PODS}/a/exec?{EXEC}"), spdy("v9"), 403),
        (format!("GET {PODS}/none/exec?{EXEC}"), v5.clone(), 404),
        (format!("GET {PODS}/ended/exec?{EXEC}"), v5.clone(), 404),
        (format!("GET {PODS}/a/exec?command=ls"), v5.clone(), 400),
        (format!("GET {PODS}/a/exec?stdout=1"), v5.clone(), 400),
        (format!("GET {PODS}/a/exec?command=ls&stdout=1&container=x"), v5.clone(), 400),
        (format!("PUT {PODS}/a/exec?{EXEC}"), v5.clone(), 405),
    ] {
        assert_eq!(Client::ask(&server, &admin, &request, &headers).await.code(), code, "{request} {headers}");
    }
    let policy = json!({ "metadata": { "name": "none" }, "spec": {
        "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"],
            "resources": ["pods/exec"] }] },
        "validations": [{ "expression": "object.command[0] != 'sh'", "message": "no shells" }] } });
    let admission = "/apis/admissionregistration.k8s.io/v1";
    server.make(&format!("{admission}/validatingadmissionpolicies"), policy).await;
    let bound =
        json!({ "metadata": { "name": "none" }, "spec": { "policyName": "none", "validationActions": ["Deny"] } });
    server.make(&format!("{admission}/validatingadmissionpolicybindings"), bound).await;
    assert_eq!(Client::ask(&server, &admin, &format!("GET {PODS}/a/exec?{EXEC}"), &v5).await.code(), 422);
    let other = format!("GET {PODS}/a/exec?command=true&container=main&stdout=1");
    assert_eq!(Client::ask(&server, &admin, &other, &v5).await.code(), 101);
    server.stop().await;
}

#[tokio::test]
async fn who_may_and_for_how_long() {
    let server = Harness::start().await;
    server.make(PODS, pod("a")).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let mut tokens = Vec::new();
    for (name, verbs) in [("reader", &["get"][..]), ("maker", &["create"]), ("both", &["get", "create"])] {
        server.make(accounts, json!({ "metadata": { "name": name } })).await;
        let space = format!("{RBAC}/namespaces/default");
        server.make(&format!("{space}/roles"), role(name, &["pods/exec"], verbs)).await;
        let user = format!("system:serviceaccount:default:{name}");
        server.make(&format!("{space}/rolebindings"), binding(name, "Role", name, &user)).await;
        let (code, made) = server.post(&format!("{accounts}/{name}/token"), json!({ "spec": {} })).await;
        assert_eq!(code, 201, "{made}");
        tokens.push(made["status"]["token"].as_str().expect("a token").to_owned());
    }
    let [reader, maker, both] = <[String; 3]>::try_from(tokens).expect("three");
    let (v5, v4) = (socket("v5.channel.k8s.io"), spdy("v4.channel.k8s.io"));
    let [get, post] = ["GET", "POST"].map(|method| format!("{method} {PODS}/a/exec?{EXEC}"));
    // As in Kubernetes of today: running something takes `create`, whatever the method.
    for (token, request, headers, code) in [
        (&reader, &get, &v5, 403),
        (&reader, &post, &v4, 403),
        (&maker, &get, &v5, 403),
        (&maker, &post, &v4, 101),
        (&both, &get, &v5, 101),
    ] {
        assert_eq!(Client::ask(&server, token, request, headers).await.code(), code, "{request}");
    }
    let told = trail::lines(&server, "audit.log");
    let told: Vec<_> = told
        .iter()
        .filter(|line| line["objectRef"]["subresource"] == "exec")
        .map(|line| (line["user"]["username"].clone(), line["verb"].clone(), line["responseStatus"]["code"].clone()))
        .collect();
    let user = |name: &str| json!(format!("system:serviceaccount:default:{name}"));
    assert_eq!(
        told,
        [(user("maker"), json!("create"), json!(101)), (user("both"), json!("get"), json!(101))],
        "who changed something; the others are among the refused"
    );
    assert_eq!(trail::lines(&server, "refused.log").len(), 3);
    // With the right goes the session.
    let mut client = Client::ask(&server, &both, &get, &v5).await;
    client.send(&message(b"\0hello")).await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"\x01hello") {
        seen.push(tokio::time::timeout(LIMIT, client.stream.read_u8()).await.expect("in time").expect("an echo"));
    }
    let (code, _) = server.delete(&format!("{RBAC}/namespaces/default/rolebindings/both"), Value::Null).await;
    assert_eq!(code, 200);
    client.send(&message(b"\0again")).await;
    assert_eq!(client.rest().await, b"", "nothing more is shown");
    // And with the server.
    let admin = wire::token(&server);
    let mut client = Client::ask(&server, &admin, &get, &v5).await;
    let (_, rest) = tokio::join!(server.stop(), client.rest());
    assert_eq!(rest, b"");
}
