//! Who is believed: scenario 43 (another's key), scenario 45 (an authority that is down), and the caller's name end to end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::SignedDuration;
use mesh::identity::{Issuer, SpiffeId, Svid};
use proxy::snapshot::{Admits, Endpoint};
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Client, ECHO, Instance, LIMIT, Time, echo, get, peer};

/// Two instances that trust each other: `a` calls as `caller`, and `b` has the program.
async fn pair(
    caller: Option<&str>,
    admits: Admits,
    time: &Time,
) -> (Instance, Instance, std::net::SocketAddr, tokio_util::task::AbortOnDropHandle<()>) {
    let (mut a, mut b) = (Instance::start("a.test", caller, time), Instance::start("b.test", None, time));
    a.trusts(&b);
    b.trusts(&a);
    let (program, running) = echo().await;
    let (mesh, _) = b.serve(Endpoint::plain(program), admits).await;
    let (_, local) = a.serve(peer(mesh), Admits::Anybody).await;
    (a, b, local, running)
}

#[tokio::test]
async fn a_call_crosses_in_the_callers_name() {
    let (_a, _b, local, _running) = pair(Some("web"), Admits::Known, &Time::new()).await;
    let mut client = Client::connect(local).await;
    for _ in 0..3 {
        let (status, body) = client.get().await.expect("an answer");
        assert_eq!(status, 200);
        assert!(
            body.contains("x-forwarded-client-cert") && body.contains("URI=spiffe://a.test/ns/shop/sa/web"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn whoever_is_nobody_gets_no_further_than_where_identities_are_asked_for() {
    let (a, b, local, _running) = pair(None, Admits::Known, &Time::new()).await;
    // The first proxy serves everybody and says so; the second one does not let it in.
    assert_eq!(get(local).await.expect("the first proxy's answer").0, 502);
    drop((a, b));
    let (_a, _b, local, _running) = pair(None, Admits::Anybody, &Time::new()).await;
    let (status, body) = get(local).await.expect("an answer");
    assert_eq!(status, 200);
    assert!(!body.contains("spiffe://"), "nobody is nobody: {body}");
}

#[tokio::test]
async fn a_plain_client_without_identity_is_reset_without_an_answer() {
    let time = Time::new();
    let (nobody, somebody) = (Instance::start("b.test", None, &time), Instance::start("b.test", Some("web"), &time));
    let (program, _running) = echo().await;
    for (admits, instance, served) in [
        (Admits::Known, &nobody, false),
        (Admits::Known, &somebody, true),
        (Admits::Certified, &somebody, false),
        (Admits::Anybody, &nobody, true),
    ] {
        let (_, local) = instance.serve(Endpoint::plain(program), admits).await;
        let answer = get(local).await;
        assert_eq!(answer.is_ok(), served, "{admits:?}: {answer:?}");
    }
}

/// A client with any chain and key. Whatever was answered; empty where nothing was.
async fn call_with(
    (of, address): (&Instance, std::net::SocketAddr),
    chain: Vec<CertificateDer<'static>>,
    svid: &Svid,
) -> String {
    // Key and chain need not fit: that is what one test is about.
    let key = ring::sign::any_supported_type(&svid.private_key()).expect("a key");
    let shown = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    // The tests with it are about clients, so the server is believed as its own instance would.
    let server = of.domain.account("coracle-system", "proxy").expect("an id");
    let verifier = proxy::believing(Arc::new(of.handle.clone()), server.shared());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    let stream = TcpStream::connect(address).await.expect("a connection");
    let name = ServerName::try_from(ECHO).expect("a name");
    let exchange = async {
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        // An end without a farewell after an answer is no matter here.
        let _ = stream.read_to_string(&mut answer).await;
        Ok::<_, std::io::Error>(answer)
    };
    tokio::time::timeout(LIMIT, exchange).await.expect("an end in time").unwrap_or_default()
}

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics with it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Whether there is a line about a refusal for `reason` that has all of `parts`.
    fn tell(&self, reason: &str, parts: &[&str]) {
        let log = String::from_utf8_lossy(&self.0.lock().expect("nobody panics with it")).into_owned();
        let reason = format!("reason=\"{reason}\"");
        let about = |line: &&str| line.contains("proxy::refused") && line.contains(&reason);
        let told = log.lines().filter(about).any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(told, "{reason} {parts:?} is not in {log}");
    }
}

/// What was refused of clients, by reason.
fn refused(instance: &Instance) -> Vec<(&'static str, u64)> {
    let all = instance.proxy.stats().rejections;
    all.into_iter().map(|rejected| (rejected.reason.word(), rejected.count)).collect()
}

/// Scenario 43: whoever poses as another gets no answer, and an operator sees who it was, as whom, and why.
#[tokio::test]
async fn another_ones_key_root_or_name_is_refused() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // Where there is one subscriber alone, a line that another test comes to first is thought to be heard by nobody.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _logs = tracing::subscriber::set_default(subscriber);
    let time = Time::new();
    let (a, mut b) = (Instance::start("a.test", None, &time), Instance::start_here("b.test", Some("thief"), &time));
    // Of the same name as a trusted one, and of its own making.
    let impostor = Instance::start("a.test", None, &time);
    let stranger = Instance::start("c.test", None, &time);
    b.trusts(&a);
    let (program, _running) = echo().await;
    let (mesh, local) = b.serve(Endpoint::plain(program), Admits::Certified).await;
    let issue = |instance: &Instance, id: &str| {
        let id: SpiffeId = id.parse().expect("an id");
        instance.issuer.issue(&id, time.now()).expect("a certificate")
    };
    let web = issue(&a, "spiffe://a.test/ns/shop/sa/web");
    let other = issue(&a, "spiffe://a.test/ns/shop/sa/other");
    for address in [mesh, local] {
        let answer = call_with((&b, address), web.chain.clone(), &web).await;
        assert!(answer.contains("URI=spiffe://a.test/ns/shop/sa/web"), "the right one is served: {answer:?}");
    }
    assert_eq!(refused(&b), []);
    // The certificate of one, the key of the other.
    assert_eq!(call_with((&b, mesh), web.chain.clone(), &other).await, "");
    assert_eq!(refused(&b), [("other_key", 1)]);
    lines.tell(
        "other_key",
        &["listener=\"mesh\"", "peer=127.0.0.1:", "the certificate of spiffe://a.test/ns/shop/sa/web"],
    );
    // From a Pod of this machine it is known by its socket whose program tries.
    assert_eq!(call_with((&b, local), web.chain.clone(), &other).await, "");
    assert_eq!(refused(&b), [("other_key", 2)]);
    lines.tell("other_key", &["caller=\"spiffe://b.test/ns/shop/sa/thief\"", "of spiffe://a.test/ns/shop/sa/web"]);
    // Signed by a workload.
    let chain = vec![impostor.issuer.issue(&web.id, time.now()).expect("one").chain[0].clone(), other.chain[0].clone()];
    assert_eq!(call_with((&b, mesh), chain, &other).await, "");
    for (instance, id) in [
        (&impostor, "spiffe://a.test/ns/shop/sa/web"),
        // A trusted root that speaks for another's trust domain.
        (&a, "spiffe://b.test/ns/shop/sa/web"),
        (&stranger, "spiffe://c.test/ns/shop/sa/web"),
    ] {
        let svid = issue(instance, id);
        assert_eq!(call_with((&b, mesh), svid.chain.clone(), &svid).await, "", "{id}");
    }
    lines.tell("unknown_trust_domain", &["spiffe://c.test/ns/shop/sa/web"]);
    lines.tell("unknown_root", &["spiffe://b.test/ns/shop/sa/web"]);
    // No certificate at all.
    assert_eq!(call_with((&b, mesh), Vec::new(), &other).await, "");
    time.pass(SignedDuration::from_hours(24 + 48));
    assert!(call_with((&b, mesh), web.chain.clone(), &web).await.contains("200 OK"), "the last moment of the grace");
    time.pass(SignedDuration::from_secs(61));
    // The server's own is renewed, so that it is the client's that is too old.
    b.keeper.turn(time.now());
    assert_eq!(call_with((&b, mesh), web.chain.clone(), &web).await, "");
    lines.tell("expired", &["spiffe://a.test/ns/shop/sa/web"]);
    let counts = [
        ("certificate_missing", 1),
        ("unknown_trust_domain", 1),
        ("unknown_root", 3),
        ("expired", 1),
        ("other_key", 2),
    ];
    assert_eq!(refused(&b), counts);
}

#[tokio::test]
async fn whoever_answers_must_be_a_proxy_that_is_trusted() {
    let time = Time::new();
    // The caller knows nobody but itself.
    let (a, mut b) = (Instance::start("a.test", Some("web"), &time), Instance::start("b.test", None, &time));
    b.trusts(&a);
    let (program, _running) = echo().await;
    let (mesh, _) = b.serve(Endpoint::plain(program), Admits::Anybody).await;
    let (_, local) = a.serve(peer(mesh), Admits::Anybody).await;
    assert_eq!(get(local).await.expect("the first proxy's answer").0, 502);
}

#[tokio::test]
async fn connections_outlive_the_renewal_of_every_certificate_and_root() {
    let time = Time::new();
    let (mut a, mut b, local, _running) = pair(Some("web"), Admits::Known, &time).await;
    let mut open = Client::connect(local).await;
    assert_eq!(open.get().await.expect("an answer").0, 200);
    for round in 0..4 {
        time.pass(SignedDuration::from_hours(15));
        if round == 1 {
            a.issuer.authority.rotate_root(time.now()).expect("a root");
        }
        for instance in [&mut a, &mut b] {
            instance.keeper.turn(time.now());
        }
        b.trusts(&a);
        assert_eq!(open.get().await.expect("the old connection serves").0, 200, "round {round}");
        assert_eq!(get(local).await.expect("a new one serves").0, 200, "round {round}");
    }
}

/// Scenario 45.
#[tokio::test]
async fn an_authority_that_is_down_for_26_hours_stops_nobody() {
    let time = Time::new();
    let (mut a, mut b, local, _running) = pair(Some("web"), Admits::Known, &time).await;
    assert_eq!(get(local).await.expect("an answer").0, 200);
    for instance in [&a, &b] {
        instance.issuer.down.store(true, Ordering::SeqCst);
    }
    for instance in [&mut a, &mut b] {
        let alarm = instance.keeper.turn(time.now()).alarm.expect("an alarm from hour 0");
        assert_eq!(alarm.level(), 1);
    }
    let program = echo().await;
    for hour in 1..=26 {
        time.pass(SignedDuration::from_hours(1));
        for instance in [&mut a, &mut b] {
            instance.keeper.turn(time.now());
        }
        // The second proxy forgets its connections, so that every hour has handshakes of its own.
        let (mesh, _) = b.serve(Endpoint::plain(program.0), Admits::Known).await;
        a.serve(peer(([127, 0, 0, 1], 9).into()), Admits::Anybody).await;
        a.serve(peer(mesh), Admits::Anybody).await;
        assert_eq!(get(local).await.expect("an answer").0, 200, "hour {hour}");
        assert_eq!(a.handle.report().alarm.level(), if hour < 24 { 1 } else { 2 }, "hour {hour}");
    }
    let alarm = a.handle.gauges().into_iter().find(|gauge| gauge.name == "coracle_identity_alarm");
    assert_eq!(alarm.expect("it").values, [(None, 2.0)]);
    for instance in [&mut a, &mut b] {
        instance.issuer.down.store(false, Ordering::SeqCst);
        instance.keeper.turn(time.now());
    }
    assert_eq!(get(local).await.expect("an answer").0, 200);
    assert_eq!(a.handle.report().alarm.level(), 0);
}
