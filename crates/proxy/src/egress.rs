//! The way out: an HTTP proxy as programs know it from `HTTP_PROXY` and `HTTPS_PROXY` (RFC 9110, 7.6 and 9.3.6).
//!
//! A request names where it is to go, by an absolute URL or by CONNECT. It is let out if its caller's limits say so, counted by
//! the host it goes to, and sent; where a host has several addresses, those that cannot be reached are passed over. A
//! destination that a caller's [`EgressWay`] names goes by that rule: to its backend, under its policy.
//!
//! Invariants: nothing is sent before the host has been allowed; whoever is of the network beside the machine's own reaches nothing
//! but the outside, and that only if it asks for it; nobody out there is told who asks; a caller is who somebody vouched for, never who a request says;
//! the number of hosts that are counted apart is bounded; a tunnel ends with either side or with its listener.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::header::{HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, request};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpStream, lookup_host};

use crate::answer::{Fault, Kind};
use crate::body::Body;
use crate::connection::{self, Ended, Sees};
use crate::forward;
use crate::headers;
use crate::heads::{HeadTimer, Term};
use crate::identity::{Client, Identity};
use crate::incoming::Incoming;
use crate::listen::Slot;
use crate::network::Ground;
use crate::observe::{Observation, Seen};
use crate::request::{self as path, Caller};
use crate::route::{Action, HostTable, Rule};
use crate::service::Shared;
use crate::session::{Carries, Session};
use crate::snapshot::EgressLimit;
use crate::stats::{Counter, Registry};
use crate::taken::watched;
use crate::traffic;
use crate::turn::{Over, Turn};

/// How many hosts are counted apart; all further ones are counted as `*`.
const HOSTS: usize = 256;
const AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

/// Who may go where, and what was counted.
pub(crate) struct Egress {
    listener: Arc<str>,
    limits: Vec<(Arc<str>, HostTable<()>)>,
    ways: Vec<Way>,
    counters: Mutex<HashMap<Arc<str>, Arc<Counter>>>,
}

/// How some callers go to one destination.
pub(crate) struct Way {
    pub(crate) callers: Arc<str>,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) rule: Arc<Rule>,
}

impl Egress {
    pub(crate) fn new(listener: &Arc<str>, limits: &[EgressLimit], ways: Vec<Way>) -> Self {
        let limits = limits.iter().map(|limit| {
            let mut hosts = HostTable::new();
            for host in &limit.hosts {
                // One that is there twice is allowed all the same.
                hosts.insert(host, ());
            }
            (Arc::clone(&limit.callers), hosts)
        });
        Self { listener: Arc::clone(listener), limits: limits.collect(), ways, counters: Mutex::default() }
    }

    /// Whether a caller may go to a host, in lower case. One that no limit speaks of may go anywhere.
    pub(crate) fn allows(&self, caller: Option<&Identity>, host: &str) -> bool {
        let Some(caller) = caller else { return true };
        let mut own = self.limits.iter().filter(|(prefix, _)| caller.id.starts_with(&**prefix));
        own.all(|(_, hosts)| hosts.find(host).is_some())
    }

    /// The rule for a caller's way to a destination, where there is one.
    fn way(&self, caller: Option<&Identity>, to: &Destination) -> Option<Arc<Rule>> {
        let caller = caller?;
        let mut own = self.ways.iter().filter(|way| way.port == to.port && *way.host == *to.host);
        own.find(|way| caller.id.starts_with(&*way.callers)).map(|way| Arc::clone(&way.rule))
    }

    fn counter(&self, host: &str, registry: &Registry) -> Arc<Counter> {
        let mut counters = self.counters.lock();
        if let Some(counter) = counters.get(host) {
            return Arc::clone(counter);
        }
        let rule: Arc<str> = if counters.len() < HOSTS { host.into() } else { "*".into() };
        let counter = registry.counter(&self.listener, &rule, &Arc::default());
        counters.insert(rule, Arc::clone(&counter));
        counter
    }
}

/// Where a request is to go.
#[derive(Debug, PartialEq, Eq)]
struct Destination {
    /// In lower case, without brackets or a dot at its end.
    host: String,
    port: u16,
}

/// Reads where a request is to go, or says what is wrong with it.
fn destination(method: &Method, uri: &Uri) -> Result<Destination, String> {
    let authority = uri.authority().ok_or_else(|| {
        "this is an HTTP proxy for what leaves: ask it with an absolute URL or with CONNECT; a Service is asked directly"
            .to_owned()
    })?;
    let host =
        authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    let port = match (method, uri.scheme_str()) {
        (&Method::CONNECT, _) => authority.port_u16().ok_or_else(|| format!("CONNECT {authority} names no port"))?,
        (_, Some("http")) => authority.port_u16().unwrap_or(80),
        (_, scheme) => return Err(format!("{} is not sent for you: use CONNECT", scheme.unwrap_or("this"))),
    };
    if host.is_empty() {
        return Err(format!("{authority} names no host"));
    }
    Ok(Destination { host, port })
}

/// What the requests of one connection share.
struct Exit {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    egress: Arc<Egress>,
    client: Client,
    caller: Arc<Caller>,
}

/// An answer, and what it is counted as.
type Answered = (Response<Body>, Arc<Counter>);

/// Serves a client's connection.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    stream: TcpStream,
    client: Client,
    egress: &Arc<Egress>,
) -> Ended {
    // Who calls is nobody's business out there.
    let caller = connection::leaving_caller(shared, slot, client.clone());
    let (shared, slot, egress) = (Arc::clone(shared), Arc::clone(slot), Arc::clone(egress));
    let (life, served) = (Arc::clone(&slot.life), Arc::clone(&shared));
    let (settings, asked) = (&served.settings, Arc::clone(&caller));
    let exit = Arc::new(Exit { shared, slot, egress, client, caller });
    let term = Arc::new(Term::new(settings.header_timeout, Instant::now()));
    let answers = Arc::clone(&term);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (exit, answers) = (Arc::clone(&exit), Arc::clone(&answers));
        async move {
            let mut answer = exit.serve(request.map(Into::into)).await;
            answer.body_mut().is_taken_by(&answers);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(HeadTimer::from_the_start(&term)).header_read_timeout(settings.header_timeout);
    builder.max_buf_size(settings.max_head_bytes.max(8192) + 8192);
    let stream = TokioIo::new(watched(stream, &term));
    let mut connection = pin!(builder.serve_connection(stream, service).with_upgrades());
    let under_way = || asked.active.load(Ordering::Relaxed) > 0;
    let sees = Sees { idle: || false, under_way, due: || term.due() };
    connection::drive(connection.as_mut(), |connection| connection.graceful_shutdown(), &life, settings, sees).await
}

impl Exit {
    async fn serve(&self, request: Request<Incoming>) -> Response<Seen> {
        let (parts, body) = request.into_parts();
        let mut seen = Box::new(Observation::begin(&self.caller, &parts));
        let method = parts.method.clone();
        let (response, counter) = {
            let _active = path::Active::begin(&self.caller);
            Box::pin(self.answer(parts, body, &mut seen)).await
        };
        seen.counts_as(&counter);
        let (head, body) = response.into_parts();
        seen.answered(head.status, &head.headers);
        let status = head.status;
        Response::from_parts(head, Seen::new(body, seen, &method, status))
    }

    async fn answer(&self, mut parts: request::Parts, body: Incoming, seen: &mut Observation) -> Answered {
        let kind = Kind::of(&parts.headers);
        // It is for this proxy alone.
        parts.headers.remove(AUTHORIZATION);
        let failed = |fault: &Fault, counter: Arc<Counter>, seen: &mut Observation| {
            seen.fails(fault);
            (fault.answer(kind, &seen.id), counter)
        };
        let to = match destination(&parts.method, &parts.uri) {
            Ok(to) => to,
            Err(why) => {
                let fault = Fault::new(StatusCode::BAD_REQUEST, "egress", why);
                return failed(&fault, self.egress.counter("refused", &self.shared.counters), seen);
            }
        };
        let caller = self.client.identity.as_deref();
        if let Some(why) = self.shut_in() {
            return failed(&shut(caller, &to, why), self.egress.counter("refused", &self.shared.counters), seen);
        }
        if !self.egress.allows(caller, &to.host) {
            // What is not allowed is counted as one: a caller can make up any number of names.
            return failed(&refuse(caller, &to), self.egress.counter("refused", &self.shared.counters), seen);
        }
        let counter = self.egress.counter(&to.host, &self.shared.counters);
        seen.counts_as(&counter);
        let way = self.egress.way(caller, &to);
        // What it leads to by the time that it is asked is looked at again, endpoint by endpoint.
        if let Some(why) = way.as_deref().and_then(|rule| self.leads_inside(rule)) {
            let detail = format!("{}:{} cannot be reached: {why}", to.host, to.port);
            return failed(&Fault::new(StatusCode::FORBIDDEN, "egress_denied", detail), counter, seen);
        }
        let sent = if parts.method == Method::CONNECT {
            self.tunnel(parts, &to, way, &counter, seen).await
        } else if let Some(rule) = way {
            return (path::by_rule(&self.caller, &rule, parts, body, seen).await, counter);
        } else {
            self.ask(parts, body, &to, seen).await
        };
        match sent {
            Ok(response) => (response, counter),
            Err(fault) => failed(&fault, counter, seen),
        }
    }

    /// Why its programs may not leave at all.
    fn shut_in(&self) -> Option<&'static str> {
        let Client { ground, peer, identity, .. } = &self.client;
        let may_leave = || self.shared.callers.as_ref().is_some_and(|callers| callers.may_leave(peer.ip()));
        shut_in(*ground, identity.is_some(), may_leave)
    }

    /// Why a rule leads to what the caller must not be sent to, as a namespace may let its names do for others.
    fn leads_inside(&self, rule: &Rule) -> Option<&'static str> {
        let Action::Forward { choices, .. } = &rule.action else { return None };
        let mut endpoints = choices.iter().flat_map(|choice| choice.backend.endpoints());
        endpoints.find_map(|(address, _)| self.caller.kept_from(address.ip()))
    }

    /// Connects to the first address of a host that can be reached. Nothing has been sent by then, so going on is safe.
    async fn connect(&self, to: &Destination, tell: &mut dyn Attempts) -> Result<TcpStream, Fault> {
        let settings = &self.shared.settings;
        let late = |what: &str| io::Error::new(io::ErrorKind::TimedOut, format!("{what} took too long"));
        let found = tokio::time::timeout(settings.connect_timeout, lookup_host((to.host.as_str(), to.port))).await;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        match found.unwrap_or_else(|_| Err(late("finding its address"))) {
            Err(error) => last = error,
            Ok(addresses) => {
                for address in addresses.take(settings.attempts as usize) {
                    if let Some(why) = self.caller.kept_from(address.ip()) {
                        last = io::Error::new(io::ErrorKind::PermissionDenied, why);
                        continue;
                    }
                    tell.attempts(address);
                    match tokio::time::timeout(settings.connect_timeout, TcpStream::connect(address)).await {
                        Ok(Ok(stream)) if stream.set_nodelay(true).is_ok() => return Ok(stream),
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => last = error,
                        Err(_) => last = late("connecting"),
                    }
                    tell.missed(&last.to_string());
                }
            }
        }
        let (status, reason) = match last.kind() {
            io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "egress_denied"),
            io::ErrorKind::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            _ => (StatusCode::BAD_GATEWAY, "connect_failed"),
        };
        Err(Fault::new(status, reason, format!("{}:{} cannot be reached: {last}", to.host, to.port)))
    }

    /// Makes a tunnel: both sides are joined once the client has been told so.
    async fn tunnel(
        &self,
        mut parts: request::Parts,
        to: &Destination,
        way: Option<Arc<Rule>>,
        counter: &Arc<Counter>,
        seen: &mut Observation,
    ) -> Result<Response<Body>, Fault> {
        let Some(client) = parts.extensions.remove::<OnUpgrade>() else {
            return Err(Fault::bad_request("egress", "This connection cannot become a tunnel."));
        };
        let host = HeaderValue::try_from(format!("{}:{}", to.host, to.port)).ok();
        let carries = Carries { scheme: "http", method: Method::CONNECT, host };
        let mut session = Session::open(&self.shared, counter, &self.client, carries);
        session.asked_for(&self.slot.life);
        let opened = match way.as_deref().map(|rule| (rule, &rule.action)) {
            Some((rule, Action::Forward { choices, .. })) => {
                let opened = traffic::connect(&self.caller, rule, &choices[0], &mut session).await;
                opened.map(|(stream, ticket)| (stream, Some(ticket)))
            }
            _ => self.connect(to, &mut session).await.map(|stream| (stream.into(), None)),
        };
        let (server, ticket) = opened.inspect_err(|fault| session.not_made(fault.reason, seen))?;
        // One line in the log is enough: the one at the tunnel's end.
        session.made_of(seen);
        let (slot, held) = (Arc::clone(&self.slot), Arc::clone(&self.client.held));
        self.slot.tasks.spawn(async move {
            match client.await {
                Ok(client) => session.carry(TokioIo::new(client), server, &slot.life).await,
                Err(error) => {
                    tracing::debug!(%error, "a tunnel to the outside was not completed");
                    if !slot.life.is_forced() {
                        session.gone();
                    }
                }
            }
            drop((session, ticket, held));
        });
        Ok(Response::new(Body::empty()))
    }

    async fn ask(
        &self,
        mut parts: request::Parts,
        body: Incoming,
        to: &Destination,
        seen: &mut Observation,
    ) -> Result<Response<Body>, Fault> {
        let stream = self.connect(to, seen).await?;
        let broken = |error: hyper::Error| {
            let detail = format!("{} gave no answer: {error}", to.host);
            Fault::new(StatusCode::BAD_GATEWAY, "upstream_closed", detail)
        };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(broken)?;
        let slot = Arc::clone(&self.slot);
        self.slot.tasks.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the outside broke");
                },
                () = slot.life.forced() => {}
            }
        });
        headers::strip(&mut parts.headers);
        if let Some(host) = parts.uri.authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok()) {
            // The URL says where it goes, whatever this header said (RFC 9112, 3.2.2).
            parts.headers.insert(HOST, host);
        }
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        let (body, watch) = body.watched();
        let asked = pin!(sender.send_request(Request::from_parts(parts, seen.body(body))));
        // An upload may take as long as it goes on.
        let answered = match (self.shared.settings.response_timeout, watch) {
            (None, _) => Ok(asked.await),
            (Some(limit), Some(watch)) => Turn::usual(limit, false).wait(&watch, asked).await,
            (Some(limit), None) => tokio::time::timeout(limit, asked).await.map_err(|_| Over::Late),
        };
        let over_time = |over| match over {
            Over::Late => {
                Fault::new(StatusCode::GATEWAY_TIMEOUT, "timeout", format!("{} gave no answer in time", to.host))
            }
            Over::Silent => forward::over_time(over),
        };
        let (mut parts, body) = answered.map_err(over_time)?.map_err(broken)?.into_parts();
        headers::strip(&mut parts.headers);
        Ok(Response::from_parts(parts, Body::Outside(body)))
    }
}

/// Who is told of attempts to connect.
trait Attempts: Send {
    fn attempts(&mut self, address: std::net::SocketAddr);
    fn missed(&mut self, reason: &str);
}

impl Attempts for Observation {
    fn attempts(&mut self, address: std::net::SocketAddr) {
        Self::attempts(self, address, Instant::now());
    }

    fn missed(&mut self, reason: &str) {
        Self::missed(self, reason);
    }
}

impl Attempts for Session {
    fn attempts(&mut self, address: std::net::SocketAddr) {
        Self::attempts(self, address);
    }

    fn missed(&mut self, reason: &str) {
        Self::missed(self, reason);
    }
}

fn shut(caller: Option<&Identity>, to: &Destination, why: &str) -> Fault {
    let who = caller.map_or("nobody known", |caller| &caller.id);
    tracing::info!(caller = who, host = to.host, port = to.port, "not let out: {why}");
    Fault::new(StatusCode::FORBIDDEN, "egress_denied", format!("{who} may not go to {}: {why}", to.host))
}

/// Why one of another network may not leave at all; none where it may. Programs of the machine's own are not kept from what they can
/// do by themselves.
fn shut_in(ground: Ground, known: bool, may_leave: impl FnOnce() -> bool) -> Option<&'static str> {
    match ground {
        Ground::Machine => None,
        Ground::Network if !known => Some("nobody vouches for who it is"),
        Ground::Network => (!may_leave()).then_some("it does not ask for the way out"),
    }
}

fn refuse(caller: Option<&Identity>, to: &Destination) -> Fault {
    let who = caller.map_or("nobody known", |caller| &caller.id);
    tracing::info!(caller = who, host = to.host, port = to.port, "not let out: the host is not in its allow-list");
    let detail = format!("{} may not go to {}: it is not in the allow-list", who, to.host);
    Fault::new(StatusCode::FORBIDDEN, "egress_denied", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::HostMatch;

    #[test]
    fn where_a_request_goes() {
        let of = |method: &str, uri: &str| {
            let found = destination(&method.parse().expect("a method"), &uri.parse().expect("a URI"));
            found.map(|to| format!("{} {}", to.host, to.port))
        };
        assert_eq!(of("GET", "http://API.Example.com./x?y").as_deref(), Ok("api.example.com 80"));
        assert_eq!(of("GET", "http://[::1]:8080/").as_deref(), Ok("::1 8080"));
        assert_eq!(of("CONNECT", "example.com:443").as_deref(), Ok("example.com 443"));
        for (method, uri) in [("GET", "/x"), ("GET", "https://example.com/"), ("CONNECT", "example.com")] {
            assert!(of(method, uri).is_err(), "{method} {uri}");
        }
    }

    #[test]
    fn who_is_of_another_network_leaves_only_if_known_and_asking() {
        for (ground, known, asks, leaves) in [
            (Ground::Machine, false, false, true),
            (Ground::Machine, true, false, true),
            (Ground::Network, true, true, true),
            (Ground::Network, true, false, false),
            (Ground::Network, false, true, false),
            (Ground::Network, false, false, false),
        ] {
            assert_eq!(shut_in(ground, known, || asks).is_none(), leaves, "{ground:?} known={known} asks={asks}");
        }
    }

    #[test]
    fn callers_go_where_their_limits_say() {
        let limit = |callers: &str, hosts: &[&str]| EgressLimit {
            callers: callers.into(),
            hosts: hosts.iter().map(|host| HostMatch::parse(host)).collect(),
        };
        let limits =
            [limit("spiffe://d/ns/shop/", &["api.example.com", "*.bank.com"]), limit("spiffe://d/ns/shut/", &[])];
        let egress = Egress::new(&"egress".into(), &limits, Vec::new());
        let who = |id: &str| Identity { id: id.into(), workload: "w".into() };
        for (id, host, allowed) in [
            ("spiffe://d/ns/shop/sa/a", "api.example.com", true),
            ("spiffe://d/ns/shop/sa/a", "www.bank.com", true),
            ("spiffe://d/ns/shop/sa/a", "bank.com", false),
            ("spiffe://d/ns/shop/sa/a", "example.com", false),
            ("spiffe://d/ns/shut/sa/a", "api.example.com", false),
            ("spiffe://d/ns/shopping/sa/a", "anything", true),
        ] {
            assert_eq!(egress.allows(Some(&who(id)), host), allowed, "{id} {host}");
        }
        assert!(egress.allows(None, "anything"));
    }

    #[test]
    fn hosts_are_counted_apart_up_to_a_bound() {
        let (egress, registry) = (Egress::new(&"egress".into(), &[], Vec::new()), Registry::new(10_000));
        for n in 0..HOSTS + 50 {
            egress.counter(&format!("h{n}"), &registry).edge(None).answered(StatusCode::OK, begun());
        }
        let series = registry.read();
        assert_eq!(series.len(), HOSTS + 1);
        assert_eq!(series.iter().find(|s| &*s.rule == "*").map(|s| s.classes[1]), Some(50));
    }

    fn begun() -> std::time::Duration {
        std::time::Duration::from_millis(1)
    }
}
