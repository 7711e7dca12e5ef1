//! Instances made of an authority, its certificates and a proxy, with one clock for all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mesh::identity::{
    self, Authority, AuthorityError, Bundles, Clock, Handle, Issuer, Keeper, Policy, SpiffeId, Svid, TrustDomain,
};
use proxy::snapshot::{
    Action, Admits, Backend, Endpoint, Forwarded, HostMatch, Listener, ListenerProtocol, Match, Rule, Timeouts,
    VirtualHost, Weighted,
};
use proxy::{Dependencies, Identifying, Identity, Snapshot};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long anything may take here before the test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The name of the one service.
pub(crate) const ECHO: &str = "80.echo.shop.svc.cluster.local";

/// Hours since the tests' beginning, for everybody.
#[derive(Clone)]
pub(crate) struct Time(Arc<AtomicI64>);

impl Time {
    pub(crate) fn new() -> Self {
        // Real time, as openssl and curl have no other.
        Self(Arc::new(AtomicI64::new(Timestamp::now().as_second())))
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).expect("a time")
    }

    pub(crate) fn pass(&self, time: SignedDuration) {
        self.0.fetch_add(time.as_secs(), Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let own = self.clone();
        Arc::new(move || own.now())
    }
}

/// An authority that can be taken away.
pub(crate) struct Switch {
    pub(crate) authority: Authority,
    pub(crate) down: AtomicBool,
}

impl Switch {
    fn up(&self) -> Result<(), AuthorityError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(AuthorityError::Away { reason: "the control plane is down".into() });
        }
        Ok(())
    }
}

impl Issuer for Switch {
    fn check(&self, now: Timestamp) -> Result<(), AuthorityError> {
        self.up().and_then(|()| self.authority.check(now))
    }

    fn issue(&self, id: &SpiffeId, now: Timestamp) -> Result<Svid, AuthorityError> {
        self.up().and_then(|()| self.authority.issue(id, now))
    }

    fn sign_token(&self, id: &SpiffeId, audiences: &[String], now: Timestamp) -> Result<String, AuthorityError> {
        self.up().and_then(|()| self.authority.sign_token(id, audiences, now))
    }

    fn token_keys(&self) -> Vec<serde_json::Value> {
        if self.up().is_ok() { self.authority.token_keys() } else { Vec::new() }
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        if self.up().is_ok() { self.authority.roots() } else { Vec::new() }
    }
}

/// One that everybody is the workload `shop/web` to, or nobody.
struct Everybody(Option<Arc<Identity>>);

impl proxy::Callers for Everybody {
    fn identify(&self, _: proxy::Ground, _: SocketAddr, _: SocketAddr) -> Identifying {
        let identity = self.0.clone();
        Box::pin(async move { identity })
    }
}

pub(crate) struct Instance {
    pub(crate) issuer: Arc<Switch>,
    pub(crate) keeper: Keeper,
    pub(crate) handle: Handle,
    pub(crate) domain: TrustDomain,
    pub(crate) folder: TempDir,
    pub(crate) proxy: proxy::Handle,
    time: Time,
    stop: CancellationToken,
    _running: AbortOnDropHandle<()>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Instance {
    /// An instance of a trust domain; `caller` is the service account in namespace `shop` that all of its local clients are of.
    pub(crate) fn start(domain: &str, caller: Option<&str>, time: &Time) -> Self {
        Self::start_as(domain, caller, time, proxy::Settings::default())
    }

    /// The same, with all of its proxy on the test's own thread, whose log can be read.
    pub(crate) fn start_here(domain: &str, caller: Option<&str>, time: &Time) -> Self {
        Self::start_as(domain, caller, time, proxy::Settings { threads: 0, ..proxy::Settings::default() })
    }

    fn start_as(domain: &str, caller: Option<&str>, time: &Time, of_proxy: proxy::Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let domain: TrustDomain = domain.parse().expect("a trust domain");
        let path = folder.path().join("authority.json");
        let authority = Authority::open(path, domain.clone(), Policy::default(), time.now()).expect("an authority");
        let issuer = Arc::new(Switch { authority, down: AtomicBool::new(false) });
        let settings = identity::Settings {
            cache: folder.path().join("certificates.json"),
            domain: domain.clone(),
            policy: Policy::default(),
        };
        let (mut keeper, handle) = identity::build(settings, issuer.clone(), time.clock());
        let id = |account: &str| domain.account("shop", account).expect("an id");
        keeper.want(["web", "other"].map(id).into());
        keeper.turn(time.now());
        let identity = caller.map(|caller| {
            Arc::new(Identity { id: id(caller).to_string().into(), workload: format!("shop/{caller}").into() })
        });
        let dependencies = Dependencies {
            callers: Some(Arc::new(Everybody(identity))),
            credentials: Some(Arc::new(handle.clone())),
            ..Dependencies::default()
        };
        let (running, proxy) = proxy::build(of_proxy, dependencies);
        let stop = CancellationToken::new();
        let own = stop.clone();
        let running = AbortOnDropHandle::new(tokio::spawn(async move {
            running.run(own).await.expect("the proxy ends well");
        }));
        Self { issuer, keeper, handle, domain, folder, proxy, time: time.clone(), stop, _running: running }
    }

    /// Lets this one believe the other.
    pub(crate) fn trusts(&mut self, other: &Self) {
        let bundles: Bundles = [(other.domain.clone(), other.handle.bundle().expect("a bundle"))].into_iter().collect();
        self.keeper.trust(bundles);
        self.keeper.turn(self.time.now());
    }

    /// Serves `echo` at a listener for other instances and one for clients here; the addresses of both.
    pub(crate) async fn serve(&self, endpoint: Endpoint, admits: Admits) -> (SocketAddr, SocketAddr) {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let base = Listener {
            id: "service".into(),
            bind: local,
            fallback: None,
            protocol: ListenerProtocol::Http,
            forwarded: Forwarded::Append,
            admits,
            peer_name: Some(ECHO.into()),
            shows: None,
            for_callers: Vec::new(),
            hosts: vec![VirtualHost { host: HostMatch::Any, rules: vec![all_to("echo")] }],
        };
        let mesh = Listener {
            id: "mesh".into(),
            protocol: ListenerProtocol::Mesh,
            admits: Admits::Anybody,
            peer_name: None,
            for_callers: Vec::new(),
            hosts: Vec::new(),
            ..base.clone()
        };
        let backends = BTreeMap::from([("echo".into(), Backend { endpoints: vec![endpoint], ..Backend::default() })]);
        let snapshot = Snapshot { listeners: vec![base, mesh], backends, ..Snapshot::default() };
        let applied = self.proxy.apply(snapshot).await.expect("a good snapshot");
        let bound = |id: &str| *applied.bound[id].as_ref().expect("a bound listener");
        (bound("mesh"), bound("service"))
    }
}

fn all_to(backend: &str) -> Rule {
    Rule {
        id: "all".into(),
        matches: Match::default(),
        filters: Vec::new(),
        action: Action::Forward {
            backends: vec![Weighted { backend: backend.into(), weight: 1, filters: Vec::new(), policy: None }],
        },
        timeouts: Timeouts::default(),
        client: None,
        guard: proxy::snapshot::Guard::default(),
    }
}

/// An endpoint that is another instance's listener.
pub(crate) fn peer(address: SocketAddr) -> Endpoint {
    Endpoint { peer: Some(ECHO.into()), ..Endpoint::plain(address) }
}

/// A program that answers every request with its head.
pub(crate) async fn echo() -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer_all(stream));
        }
    });
    (address, AbortOnDropHandle::new(task))
}

async fn answer_all(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// A client's connection that stays open.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.expect("a connection")))
    }

    /// A request; the status and the body. An error where the connection ends without an answer.
    pub(crate) async fn get(&mut self) -> std::io::Result<(u16, String)> {
        tokio::time::timeout(LIMIT, self.exchange()).await.expect("an answer in time")
    }

    async fn exchange(&mut self) -> std::io::Result<(u16, String)> {
        self.0.write_all(b"GET / HTTP/1.1\r\nhost: echo.shop\r\n\r\n").await?;
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            head.push_str(&line);
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(address: SocketAddr) -> std::io::Result<(u16, String)> {
    Client::connect(address).await.get().await
}
