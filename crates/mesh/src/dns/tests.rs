//! The zone as a table, and the server over real sockets, asked as a resolver would.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, ParsedName};
use domain::rdata::{A, AllRecordData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::server::pair;
use super::upstream::nameservers;
use super::zone::Zone;
use super::{Dns, wire};
use crate::compile::tests::world;

const CLUSTER: &str = r"
kind: Namespace
metadata: {name: shop}
---
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 127.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}]}
---
kind: Service
metadata: {name: users}
spec: {clusterIP: 127.96.0.2, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
kind: Service
metadata: {name: both}
spec: {clusterIP: 127.96.0.3, clusterIPs: [127.96.0.3, 'fd00::3'], ports: [{port: 80}]}
---
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: API.Example.com}
---
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: users.shop.svc.cluster.local}
---
kind: Service
metadata: {name: round}
spec: {type: ExternalName, externalName: round.shop.svc.cluster.local}
---
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}
---
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: pg, port: 5432, protocol: TCP}]
endpoints:
  - {addresses: [10.244.0.5], hostname: db-0, conditions: {ready: true}}
  - {addresses: [10.244.0.6], conditions: {ready: true}}
  - {addresses: [10.244.0.7], hostname: db-2, conditions: {ready: false}}
";

fn zone(more: &str) -> Zone {
    let actual = |address: IpAddr, port: u16| (address.to_string() == "127.96.0.2" && port == 80).then_some(8080);
    Zone::new(&world(&format!("{CLUSTER}{more}")), &actual)
}

/// A server on a port of its own, with a resolver beside it that knows one address for every name.
struct Running {
    at: SocketAddr,
    zone: watch::Sender<Arc<Zone>>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn start(zone: Zone) -> Running {
    let other = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {}\n", other.local_addr().expect("an address"))).expect("written");
    let (sender, receiver) = watch::channel(Arc::new(zone));
    let sockets = pair("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let dns = Dns::new(sockets, receiver, file);
    let (at, stop) = (dns.address(), CancellationToken::new());
    tokio::spawn(dns.run(std::future::pending(), stop.clone()));
    tokio::spawn(resolver(other, stop.clone()));
    Running { at, zone: sender, stop, _folder: folder }
}

/// Says that every name is at 192.0.2.1, but `gone.*`.
async fn resolver(socket: UdpSocket, stop: CancellationToken) {
    let mut buffer = [0; 1024];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, client) = received.expect("received");
        let question = Message::from_octets(&buffer[..length]).expect("a message");
        let name = question.sole_question().expect("a question").into_qname();
        let gone = name.to_string().starts_with("gone.");
        let rcode = if gone { Rcode::NXDOMAIN } else { Rcode::NOERROR };
        let mut answer = MessageBuilder::new_vec().start_answer(&question, rcode).expect("room");
        if !gone {
            answer.push((name, 60, A::from_octets(192, 0, 2, 1))).expect("room");
        }
        socket.send_to(&answer.finish(), client).await.expect("sent");
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Heard {
    rcode: Rcode,
    answers: Vec<String>,
    truncated: bool,
    denied: bool,
}

fn query(name: &str, kind: Rtype, edns: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(4711);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name.parse::<Name<Vec<u8>>>().expect("a name"), kind)).expect("room");
    let mut builder = builder.additional();
    if let Some(size) = edns {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(size);
                Ok(())
            })
            .expect("room");
    }
    builder.finish()
}

fn read(bytes: &[u8]) -> Heard {
    let message = Message::from_octets(bytes).expect("a message");
    assert!(message.header().qr() && message.header().id() == 4711);
    let records = |section: domain::base::message::RecordSection<'_, &[u8]>| -> Vec<String> {
        section
            .into_records::<AllRecordData<_, ParsedName<_>>>()
            .map(|record| {
                let record = record.expect("readable");
                assert_eq!(record.ttl().as_secs(), 0, "nothing may be kept");
                let text = format!("{} {} {}", record.owner(), record.rtype(), record.data());
                text.trim_end_matches('.').to_owned()
            })
            .collect()
    };
    let mut answers = records(message.answer().expect("a section"));
    answers.sort();
    let authority = records(message.authority().expect("a section"));
    Heard {
        rcode: message.header().rcode(),
        answers,
        truncated: message.header().tc(),
        denied: authority.iter().any(|record| record.starts_with("cluster.local SOA")),
    }
}

async fn send(at: SocketAddr, question: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    socket.send_to(question, at).await.expect("sent");
    let mut answer = vec![0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(60), socket.recv(&mut answer)).await;
    answer.truncate(received.expect("in time").expect("an answer"));
    answer
}

async fn ask(at: SocketAddr, name: &str, kind: Rtype) -> Heard {
    read(&send(at, &query(name, kind, None)).await)
}

#[tokio::test]
async fn names_have_the_records_that_kubernetes_says() {
    let server = start(zone("")).await;
    let users = "users.shop.svc.cluster.local";
    for (name, kind, expected) in [
        (users, Rtype::A, vec!["users.shop.svc.cluster.local A 127.96.0.2"]),
        ("both.shop.svc.cluster.local", Rtype::A, vec!["both.shop.svc.cluster.local A 127.96.0.3"]),
        ("both.shop.svc.cluster.local", Rtype::AAAA, vec!["both.shop.svc.cluster.local AAAA fd00::3"]),
        (
            "_http._tcp.users.shop.svc.cluster.local",
            Rtype::SRV,
            // On the port where it is really reached.
            vec!["_http._tcp.users.shop.svc.cluster.local SRV 0 100 8080 users.shop.svc.cluster.local"],
        ),
        (
            "_dns._udp.users.shop.svc.cluster.local",
            Rtype::SRV,
            vec!["_dns._udp.users.shop.svc.cluster.local SRV 0 100 53 users.shop.svc.cluster.local"],
        ),
        (
            "db.shop.svc.cluster.local",
            Rtype::A,
            vec!["db.shop.svc.cluster.local A 10.244.0.5", "db.shop.svc.cluster.local A 10.244.0.6"],
        ),
        ("db-0.db.shop.svc.cluster.local", Rtype::A, vec!["db-0.db.shop.svc.cluster.local A 10.244.0.5"]),
        (
            "_pg._tcp.db.shop.svc.cluster.local",
            Rtype::SRV,
            vec![
                "_pg._tcp.db.shop.svc.cluster.local SRV 0 100 5432 10-244-0-6.db.shop.svc.cluster.local",
                "_pg._tcp.db.shop.svc.cluster.local SRV 0 100 5432 db-0.db.shop.svc.cluster.local",
            ],
        ),
        ("2.0.96.127.in-addr.arpa", Rtype::PTR, vec!["2.0.96.127.in-addr.arpa PTR users.shop.svc.cluster.local"]),
        ("5.0.244.10.in-addr.arpa", Rtype::PTR, vec!["5.0.244.10.in-addr.arpa PTR db-0.db.shop.svc.cluster.local"]),
        ("10-1-2-3.shop.pod.cluster.local", Rtype::A, vec!["10-1-2-3.shop.pod.cluster.local A 10.1.2.3"]),
        ("dns-version.cluster.local", Rtype::TXT, vec!["dns-version.cluster.local TXT \"1.1.0\""]),
        ("cluster.local", Rtype::NS, vec!["cluster.local NS ns.dns.cluster.local"]),
        ("ns.dns.cluster.local", Rtype::A, vec!["ns.dns.cluster.local A 127.96.0.10"]),
        (
            "alias.shop.svc.cluster.local",
            Rtype::A,
            vec![
                "alias.shop.svc.cluster.local CNAME users.shop.svc.cluster.local",
                "users.shop.svc.cluster.local A 127.96.0.2",
            ],
        ),
        (
            "outside.shop.svc.cluster.local",
            Rtype::A,
            vec!["API.Example.com A 192.0.2.1", "outside.shop.svc.cluster.local CNAME API.Example.com"],
        ),
        ("outside.shop.svc.cluster.local", Rtype::CNAME, vec!["outside.shop.svc.cluster.local CNAME API.Example.com"]),
    ] {
        let heard = ask(server.at, name, kind).await;
        let answers: Vec<&str> = heard.answers.iter().map(String::as_str).collect();
        assert_eq!((heard.rcode, answers), (Rcode::NOERROR, expected), "{name} {kind}");
        assert!(!heard.denied && !heard.truncated, "{name} {kind}: {heard:?}");
    }
    // Letter case is kept, and makes no difference.
    let heard = ask(server.at, "USERS.shop.SVC.cluster.local", Rtype::A).await;
    assert_eq!(heard.answers, ["USERS.shop.SVC.cluster.local A 127.96.0.2"]);
}

#[tokio::test]
async fn what_is_not_there_is_told_from_what_has_no_such_record() {
    let server = start(zone("")).await;
    for (name, kind, rcode) in [
        ("nobody.shop.svc.cluster.local", Rtype::A, Rcode::NXDOMAIN),
        ("users.other.svc.cluster.local", Rtype::A, Rcode::NXDOMAIN),
        ("example.com.shop.svc.cluster.local", Rtype::A, Rcode::NXDOMAIN),
        ("10-1-2-3.other.pod.cluster.local", Rtype::A, Rcode::NXDOMAIN),
        ("db-2.db.shop.svc.cluster.local", Rtype::A, Rcode::NXDOMAIN),
        ("users.shop.svc.cluster.local", Rtype::AAAA, Rcode::NOERROR),
        ("users.shop.svc.cluster.local", Rtype::MX, Rcode::NOERROR),
        ("_tcp.users.shop.svc.cluster.local", Rtype::SRV, Rcode::NOERROR),
        ("shop.svc.cluster.local", Rtype::A, Rcode::NOERROR),
        ("svc.cluster.local", Rtype::A, Rcode::NOERROR),
    ] {
        let heard = ask(server.at, name, kind).await;
        assert_eq!((heard.rcode, heard.answers.len(), heard.denied), (rcode, 0, true), "{name} {kind}");
    }
    assert_eq!(ask(server.at, "round.shop.svc.cluster.local", Rtype::A).await.rcode, Rcode::NOERROR);
}

#[tokio::test]
async fn other_names_are_asked_of_others() {
    let server = start(zone("")).await;
    for name in ["www.example.org", "xcluster.local"] {
        let message = send(server.at, &query(name, Rtype::A, None)).await;
        let message = Message::from_octets(&message[..]).expect("a message");
        assert_eq!((message.header().id(), message.header_counts().ancount()), (4711, 1), "{name}");
    }
    let message = send(server.at, &query("gone.example.org", Rtype::A, Some(1232))).await;
    assert_eq!(Message::from_octets(&message[..]).expect("a message").header().rcode(), Rcode::NXDOMAIN);
}

#[tokio::test]
async fn nobody_to_ask_is_a_failure_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let at = silent.local_addr().expect("an address");
    drop(silent);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {at}\n")).expect("written");
    let (_zone, receiver) = watch::channel(Arc::new(zone("")));
    let dns = Dns::new(pair("127.0.0.1:0".parse().expect("an address")).expect("bound"), receiver, file);
    let (at, stop) = (dns.address(), CancellationToken::new());
    let running = tokio::spawn(dns.run(std::future::pending(), stop.clone()));
    for name in ["www.example.org", "outside.shop.svc.cluster.local"] {
        assert_eq!(ask(at, name, Rtype::A).await.rcode, Rcode::SERVFAIL, "{name}");
    }
    stop.cancel();
    running.await.expect("ended");
}

/// More endpoints than fit a datagram.
fn crowd() -> String {
    let endpoints: Vec<String> = (0..100).map(|n| format!("{{addresses: [10.244.1.{n}]}}")).collect();
    format!(
        "---\nkind: Service\nmetadata: {{name: crowd}}\nspec: {{clusterIP: None}}\n---\nkind: EndpointSlice\nmetadata: \
         {{name: crowd-1, labels: {{kubernetes.io/service-name: crowd}}}}\naddressType: IPv4\nports: []\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_had_whole_over_tcp() {
    let server = start(zone(&crowd())).await;
    let name = "crowd.shop.svc.cluster.local";
    for (edns, limit) in [(None, 512), (Some(100), 512), (Some(800), 800), (Some(4096), 1232)] {
        let bytes = send(server.at, &query(name, Rtype::A, edns)).await;
        let heard = read(&bytes);
        assert!(bytes.len() <= limit && heard.truncated && !heard.answers.is_empty(), "{edns:?}: {}", bytes.len());
        let opt = Message::from_octets(&bytes[..]).expect("a message").opt().map(|opt| opt.udp_payload_size());
        assert_eq!(opt, edns.map(|_| 1232));
    }
    let mut stream = TcpStream::connect(server.at).await.expect("connected");
    for _ in 0..2 {
        let question = query(name, Rtype::A, None);
        let length = u16::try_from(question.len()).expect("short").to_be_bytes();
        stream.write_all(&[&length[..], &question].concat()).await.expect("sent");
        let mut answer = vec![0; usize::from(stream.read_u16().await.expect("an answer"))];
        stream.read_exact(&mut answer).await.expect("an answer");
        let heard = read(&answer);
        assert!(heard.answers.len() == 100 && !heard.truncated);
    }
}

/// Scenario 25: after a cut-over, the very next answer names the new target and nobody may keep the old one.
#[tokio::test]
async fn after_a_cut_over_the_next_answer_is_the_new_target() {
    let slice = |address: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: moved}}\nspec: {{clusterIP: None}}\n---\nkind: EndpointSlice\nmetadata: \
             {{name: moved-1, labels: {{kubernetes.io/service-name: moved}}}}\naddressType: IPv4\nports: []\nendpoints: \
             [{{addresses: [{address}]}}]\n"
        )
    };
    let server = start(zone(&slice("10.244.0.1"))).await;
    let name = "moved.shop.svc.cluster.local";
    assert_eq!(ask(server.at, name, Rtype::A).await.answers, [format!("{name} A 10.244.0.1")]);
    server.zone.send_replace(Arc::new(zone(&slice("10.244.0.2"))));
    assert_eq!(ask(server.at, name, Rtype::A).await.answers, [format!("{name} A 10.244.0.2")]);
}

#[tokio::test]
async fn what_is_no_question_is_refused_or_ignored() {
    let server = start(zone("")).await;
    let good = query("users.shop.svc.cluster.local", Rtype::A, Some(1232));
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let version = good.len() - 5;
    for (bytes, rcode) in [
        (changed(2, 0x28), Rcode::NOTIMP),
        (changed(5, 2), Rcode::FORMERR),
        (changed(5, 0), Rcode::FORMERR),
        (good[..20].to_vec(), Rcode::FORMERR),
        (query("cluster.local", Rtype::AXFR, None), Rcode::REFUSED),
        // Bad version: 16, of which the header has the lower four bits.
        (changed(version, 1), Rcode::NOERROR),
    ] {
        let answer = send(server.at, &bytes).await;
        let message = Message::from_octets(&answer[..]).expect("a message");
        assert_eq!((message.header().rcode(), message.header_counts().ancount()), (rcode, 0), "{bytes:?}");
    }
    let zone = zone("");
    for bytes in [vec![], vec![0; 5], changed(2, 0x81)] {
        let step = wire::step(&zone, &bytes, wire::Transport::Udp, 0);
        assert!(matches!(step, wire::Step::Silence), "{bytes:?}");
    }
}

#[test]
fn resolvers_are_read_as_the_system_does() {
    let text =
        "# a comment\nsearch x\nnameserver 10.0.0.1\n nameserver ::1\nnameserver nonsense\nnameserver 127.0.0.1:5353\n";
    let found: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["10.0.0.1:53", "[::1]:53", "127.0.0.1:5353"]);
    assert_eq!(nameservers("").len(), 1);
}

/// Messages that were made to break servers: each is answered with an error that is no longer than its question, or not at all.
#[test]
fn hostile_messages_are_refused_or_ignored() {
    const HEAD: [u8; 12] = [0x12, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let counts = |questions: u16, answers: u16, more: u16| {
        let [q, a, m] = [questions, answers, more].map(u16::to_be_bytes);
        [&HEAD[..4], &q[..], &a[..], &[0, 0], &m[..]].concat()
    };
    let asked = |name: &[u8]| [&HEAD[..], name, &[0, 1, 0, 1]].concat();
    let opt: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let name: &[u8] = &[5, b'u', b's', b'e', b'r', b's', 0, 0, 1, 0, 1];
    let long: Vec<u8> = std::iter::repeat_n([&[63][..], &[b'a'; 63]].concat(), 5).flatten().chain([0]).collect();
    let zone = zone("");
    for (what, bytes) in [
        ("a pointer to itself", asked(&[0xc0, 12])),
        ("two pointers at each other", asked(&[0xc0, 14, 0xc0, 12])),
        ("a pointer beyond the end", asked(&[0xff, 0xff])),
        ("a pointer into the head", asked(&[0xc0, 0])),
        ("a label that is longer than all", asked(&[63, b'a'])),
        ("a label of an unknown kind", asked(&[0x40, b'a', 0])),
        ("a label of a kind that was given up", asked(&[0x80, b'a', 0])),
        ("a name that is too long", asked(&long)),
        ("a name without an end", [&HEAD[..], &[1, b'a']].concat()),
        ("no class", [&HEAD[..], &[1, b'a', 0, 0, 1]].concat()),
        ("no question", counts(0, 0, 0)),
        ("more questions than there are", [&counts(0xffff, 0, 0)[..], name].concat()),
        ("two questions", [&counts(2, 0, 0)[..], name, name].concat()),
        ("two EDNS records", [&counts(1, 0, 2)[..], name, opt, opt].concat()),
        ("a head alone", HEAD.to_vec()),
        ("half a head", HEAD[..7].to_vec()),
        ("nothing", Vec::new()),
        ("an answer", [&[0x12, 0x67, 0x81, 0x80][..], &HEAD[4..], name].concat()),
        ("another operation", [&[0x12, 0x67, 0x28, 0][..], &HEAD[4..], name].concat()),
    ] {
        for transport in [wire::Transport::Udp, wire::Transport::Tcp] {
            match wire::step(&zone, &bytes, transport, 0) {
                wire::Step::Silence => {}
                wire::Step::Answer(answer) => {
                    let message = Message::from_octets(&answer[..]).expect("a message");
                    assert_ne!(message.header().rcode(), Rcode::NOERROR, "{what}");
                    assert!(message.header().qr() && answer.len() <= bytes.len().max(12), "{what}: {}", answer.len());
                }
                wire::Step::Forward | wire::Step::Chase { .. } => panic!("{what} is handed on"),
            }
        }
    }
}

/// Letters come back as they were asked: some who ask take that for a proof (draft-vixie-dnsext-dns0x20).
#[tokio::test]
async fn the_case_of_a_question_is_kept() {
    let server = start(zone("")).await;
    let question = query("uSeRs.ShOp.sVc.cLuStEr.LoCaL", Rtype::A, None);
    let answer = send(server.at, &question).await;
    let end = question.len();
    assert_eq!(&answer[12..end], &question[12..end], "the question, byte for byte");
    assert_eq!(read(&answer).answers.len(), 1);
}

/// Whatever comes, the server neither breaks nor answers with more than fits.
#[tokio::test]
async fn nonsense_breaks_nothing() {
    let zone = zone(&crowd());
    let mut config = proptest::test_runner::Config::with_cases(2000);
    config.failure_persistence = None;
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let base = query("crowd.shop.svc.cluster.local", Rtype::A, Some(1232));
    let bytes = proptest::collection::vec((0..base.len(), proptest::prelude::any::<u8>()), 0..8);
    runner
        .run(&bytes, |changes| {
            let mut bytes = base.clone();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let wire::Step::Answer(answer) = wire::step(&zone, &bytes, wire::Transport::Udp, 7) {
                proptest::prop_assert!(answer.len() <= 1232 + 300);
            }
            Ok(())
        })
        .expect("no answer is too long");
}
