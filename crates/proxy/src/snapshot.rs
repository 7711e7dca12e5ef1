//! What the proxy serves, as plain data: listeners, the rules behind them, and the backends those rules name.
//!
//! A [`Snapshot`] is complete: applying it replaces everything that was served before. It is checked whole
//! before anything changes, so a bad one leaves the last good one serving.
//!
//! Invariants: no IO and no shared state here; equality is by value, so that whoever makes snapshots can leave
//! out an application that would change nothing. This module must not know where routes come from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::access;
use crate::policy::Policy;
use crate::secured::{BackendTls, ClientCertificate};
pub use crate::secured::{Certificate, Clients};

/// The name of a backend inside one snapshot.
pub type BackendId = Arc<str>;

/// Everything that the proxy serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The sockets that are listened on. Their ids are unique, and so are their addresses (port 0 apart).
    pub listeners: Vec<Listener>,
    /// The backends that rules and listeners name.
    pub backends: BTreeMap<BackendId, Backend>,
    /// The places where callers are judged; rules, server names and backends name them.
    #[serde(skip)]
    pub places: BTreeMap<access::PlaceId, access::Place>,
    /// The policies that places name.
    #[serde(skip)]
    pub policies: BTreeMap<access::PolicyId, access::Policy>,
    /// Of a snapshot at rest: the backends that had endpoints.
    #[serde(default)]
    pub answering: BTreeSet<BackendId>,
}

/// The backend at rest of rules that are guarded.
pub(crate) const AT_REST: &str = "at rest";

impl Snapshot {
    /// What of it is still true when nobody knows which endpoints there are, nor who may pass: listeners, certificates and rules,
    /// with backends that have no endpoints. What a guarded rule would answer by itself is not answered, as there are no policies
    /// to say to whom. The form of a snapshot that is kept has nothing else.
    #[must_use]
    pub fn at_rest(&self) -> Self {
        let (mut listeners, mut backends) = (self.listeners.clone(), self.backends.clone());
        let answers = |backend: &Backend| !backend.endpoints.is_empty() || !backend.names.is_empty();
        let answering = backends.iter().filter(|(_, backend)| answers(backend)).map(|(id, _)| id.clone()).collect();
        for backend in backends.values_mut() {
            backend.endpoints.clear();
            backend.names.clear();
            backend.place = None;
        }
        backends.insert(AT_REST.into(), Backend::default());
        for listener in &mut listeners {
            if let ListenerProtocol::Tls { names, .. } = &mut listener.protocol {
                names.iter_mut().for_each(|name| name.guard = Guard::default());
            }
            listener.hosts.iter_mut().flat_map(|host| &mut host.rules).for_each(Rule::rest);
            listener.for_callers.iter_mut().flat_map(|own| &mut own.rules).for_each(Rule::rest);
        }
        Self { listeners, backends, answering, places: BTreeMap::new(), policies: BTreeMap::new() }
    }
}

impl Rule {
    fn rest(&mut self) {
        if std::mem::take(&mut self.guard) != Guard::default() {
            let nobody = Weighted { backend: AT_REST.into(), weight: 1, filters: Vec::new(), policy: None };
            (self.action, self.filters) = (Action::Forward { backends: vec![nobody] }, Vec::new());
        }
        if let Action::Forward { backends } = &mut self.action {
            backends.iter_mut().for_each(|weighted| weighted.policy = None);
        }
    }
}

/// One listening socket and what it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Unique name; used in logs, in counters and by [`crate::Handle::bound`].
    pub id: Arc<str>,
    /// The address to listen on; port 0 lets the system choose, and that choice stays while the listener does.
    pub bind: SocketAddr,
    /// Tried when `bind` is refused for want of permission.
    pub fallback: Option<SocketAddr>,
    /// What is spoken on accepted connections.
    pub protocol: ListenerProtocol,
    /// How much of the client's forwarding headers is believed.
    pub forwarded: Forwarded,
    /// Whose connections are served.
    pub admits: Admits,
    /// The server name under which other proxies ask for what this listener serves, at a [`ListenerProtocol::Mesh`]. Unique.
    pub peer_name: Option<Arc<str>>,
    /// Whose certificate is shown to clients that begin with TLS at a listener between services; the proxy's own where it is nobody's.
    #[serde(default)]
    pub shows: Option<Arc<str>>,
    /// The hosts served; exactly the most specific one that matches a request is looked at (an exact name before the
    /// longest suffix before any), there is no falling through to the next. Each `host` occurs once.
    pub hosts: Vec<VirtualHost>,
    /// Rules of some callers' own, which take the place of `hosts` for them, also where none of them matches. The first entry
    /// that a caller is meant by counts.
    #[serde(default)]
    pub for_callers: Vec<CallerRules>,
}

/// The rules of some callers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerRules {
    /// How their identities begin.
    pub callers: Arc<str>,
    /// The first rule that matches is used, whatever the host.
    pub rules: Vec<Rule>,
}

/// What is spoken on a listener's connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2 by prior knowledge.
    Http,
    /// The same behind TLS, by ALPN.
    Https {
        /// Chosen by server name; the first one where no name matches or none is sent.
        certificates: Vec<Certificate>,
        /// What clients are asked to show; nothing where there is none.
        #[serde(default)]
        clients: Option<Clients>,
        /// Hosts that are told apart: what is asked for one of them on a connection that was opened for another is
        /// misdirected (RFC 9110, section 15.5.20).
        #[serde(default)]
        apart: Vec<HostMatch>,
    },
    /// TLS by the server name that the client asks for, handed on as it is; `hosts` is not looked at.
    Tls {
        /// Where there are any, TLS ends here, and what is in it is handed on.
        #[serde(default)]
        certificates: Vec<Certificate>,
        /// The most specific name that matches is used. Each occurs once. A client that no name matches is turned away.
        names: Vec<ServerName>,
    },
    /// Bytes, to one backend; `hosts` is not looked at.
    Tcp {
        /// Where the bytes go.
        backend: BackendId,
    },
    /// The way out: an HTTP proxy that sends requests where their URL or CONNECT says; `hosts` is not looked at.
    Egress {
        /// Who may go where. A caller that none speaks of may go anywhere.
        limits: Vec<EgressLimit>,
        /// How some callers go to some destinations. To all others it goes straight.
        #[serde(skip)]
        ways: Vec<EgressWay>,
    },
    /// Mutual TLS with other proxies. The server name says which other listener is meant, by its [`Listener::peer_name`], and
    /// that one's protocol, rules and admission count; `hosts` is not looked at.
    Mesh,
    /// HTTP where the first bytes look like it, else bytes to a backend (also when the client stays silent at first).
    Sniff {
        /// Where bytes that are not HTTP go.
        tcp: BackendId,
    },
}

/// Whose connections a listener serves. Others are reset before they get any answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Admits {
    /// Everybody's.
    #[default]
    Anybody,
    /// Those whose identity somebody vouches for, by a certificate or otherwise.
    Known,
    /// Those with a certificate.
    Certified,
}

/// Where some callers may go at a [`ListenerProtocol::Egress`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressLimit {
    /// How their identities begin.
    pub callers: Arc<str>,
    /// The hosts, and no others.
    pub hosts: Vec<HostMatch>,
}

/// How some callers go to one destination at a [`ListenerProtocol::Egress`].
#[derive(Clone, Debug, PartialEq)]
pub struct EgressWay {
    /// How their identities begin.
    pub callers: Arc<str>,
    /// The host, in lower case.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// What is done; its first backend, with its policy, takes tunnels as well. What it matches plays no part.
    pub rule: Rule,
}

/// Where TLS for a server name goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerName {
    /// Which names; [`HostMatch::Any`] also those of clients that send none.
    pub host: HostMatch,
    /// Drawn by weight; none turns clients away. Filters play no part.
    pub backends: Vec<Weighted>,
    /// Who may come this way.
    #[serde(skip)]
    pub guard: Guard,
}

/// How much of the `X-Forwarded-*` and `Forwarded` headers of a request is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Forwarded {
    /// Nothing: they are replaced by what the proxy itself sees. For listeners that face the outside.
    #[default]
    Replace,
    /// All: the caller is appended. For listeners between services.
    Append,
}

/// The rules of one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualHost {
    /// Which requests are meant.
    pub host: HostMatch,
    /// The first rule that matches is used: they are in order of precedence.
    pub rules: Vec<Rule>,
}

/// Matches the host of a request, without its port, whatever its letter case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum HostMatch {
    /// Every host.
    Any,
    /// This one.
    Exact(Arc<str>),
    /// Every host with at least one label before this suffix, which is written without the star: `example.com` for `*.example.com`.
    Suffix(Arc<str>),
}

impl HostMatch {
    /// Reads a host as Gateway API and Ingress write it: empty is any, `*.x` is a suffix, all else exact.
    #[must_use]
    pub fn parse(host: &str) -> Self {
        let lower = host.trim_end_matches('.').to_ascii_lowercase();
        match lower.strip_prefix("*.") {
            Some(suffix) => Self::Suffix(suffix.into()),
            None if lower.is_empty() || lower == "*" => Self::Any,
            None => Self::Exact(lower.into()),
        }
    }
}

/// One rule: which requests, what is changed about them, and where they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For logs and counters, such as `namespace/route/rule`. Several rules may share one.
    pub id: Arc<str>,
    /// Which requests. One that matches in several ways is written as several rules.
    pub matches: Match,
    /// Changes, in the order in which they are made.
    pub filters: Vec<Filter>,
    /// What answers.
    pub action: Action,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// What is shown to backends with TLS that ask for a certificate.
    #[serde(skip)]
    pub client: Option<Arc<ClientCertificate>>,
    /// Who may come this way.
    #[serde(skip)]
    pub guard: Guard,
}

/// The places that a request comes by before it is sent to a backend, which may have one of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The Gateways that lead here, by the names that policies have for them; none between services.
    pub through: Vec<Arc<str>>,
    /// All of these must let the request in. Each must be in [`Snapshot::places`].
    pub places: Vec<access::PlaceId>,
}

/// Conditions which must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// The method; every one where there is none.
    #[serde(with = "crate::keep::form")]
    pub method: Option<Method>,
    /// Headers that must be there.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that must be there.
    pub query: Vec<QueryMatch>,
}

/// A condition on the path of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum PathMatch {
    /// This path and no other.
    Exact(Arc<str>),
    /// Whole segments: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`. A trailing slash makes no difference; `/` is every path.
    Prefix(Arc<str>),
    /// The whole path must match this expression.
    Regex(Arc<str>),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// Its name.
    #[serde(with = "crate::keep::form")]
    pub name: HeaderName,
    /// Its value; several fields of one name count as one, joined by commas.
    pub value: ValueMatch,
}

/// A condition on a query parameter; the first one of that name counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryMatch {
    /// Its name, decoded.
    pub name: Arc<str>,
    /// Its value, decoded.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ValueMatch {
    /// Equal, byte for byte.
    Exact(Arc<str>),
    /// The whole value must match this expression.
    Regex(Arc<str>),
    /// There is one, whatever it says.
    Present,
}

/// A change to a request or its response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Filter {
    /// Changes the headers that the backend gets.
    RequestHeaders(HeaderChanges),
    /// Changes the headers that the client gets.
    ResponseHeaders(HeaderChanges),
    /// Changes host or path on the way to the backend.
    Rewrite {
        /// The new `Host`.
        host: Option<Arc<str>>,
        /// The new path.
        path: Option<PathRewrite>,
    },
    /// Answers with a redirect; nothing goes to a backend.
    Redirect(Redirect),
    /// Sends a copy of a share of the requests to another backend, whose answers are thrown away. For rules only.
    Mirror(Mirror),
    /// Answers preflights, and tells browsers which origins may read the answers. For rules only.
    Cors(Cors),
}

/// Where copies of requests go, and of which share of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Which backend; it must be in [`Snapshot::backends`].
    pub backend: BackendId,
    /// So many...
    pub numerator: u32,
    /// ... of so many requests; not zero.
    pub denominator: u32,
}

/// Cross-origin resource sharing, as Gateway API says it. `*` stands for all in each list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins such as `https://*.example.com:8443`.
    pub origins: Vec<Arc<str>>,
    /// Whether requests may bring credentials.
    pub credentials: bool,
    /// Methods beside those that are always allowed.
    pub methods: Vec<Arc<str>>,
    /// Headers that requests may have.
    pub headers: Vec<Arc<str>>,
    /// Headers of answers that scripts may read.
    pub expose: Vec<Arc<str>>,
    /// How long a browser may keep the answer to a preflight, in seconds.
    pub max_age: u32,
}

/// Header changes: removal first, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderChanges {
    /// Replaces all fields of that name.
    #[serde(with = "crate::keep::form")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Adds a field beside those that are there.
    #[serde(with = "crate::keep::form")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes all fields of that name.
    #[serde(with = "crate::keep::form")]
    pub remove: Vec<HeaderName>,
}

/// A new path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum PathRewrite {
    /// The whole path.
    Full(Arc<str>),
    /// What the rule's [`PathMatch::Prefix`] matched.
    Prefix(Arc<str>),
}

/// Where a redirect points; what is not given stays as the client asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// The host name, without a port.
    pub host: Option<Arc<str>>,
    /// The port. Where there is none and a scheme is given, that scheme's own; otherwise the one the client asked for.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    #[serde(with = "crate::keep::form")]
    pub status: StatusCode,
}

/// What answers a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Action {
    /// One of these backends, drawn by weight. Weights that are all zero answer 500.
    Forward {
        /// The backends.
        backends: Vec<Weighted>,
    },
    /// The proxy itself.
    Respond {
        /// The status.
        #[serde(with = "crate::keep::form")]
        status: StatusCode,
        /// The body, as plain text.
        body: Arc<str>,
    },
}

/// A backend and its share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// Which backend; it must be in [`Snapshot::backends`].
    pub backend: BackendId,
    /// Its share of the sum of all weights.
    pub weight: u32,
    /// Changes for this backend alone, made after the rule's.
    pub filters: Vec<Filter>,
    /// What its requests may cost, and what is done when it is not well.
    #[serde(skip)]
    pub policy: Option<Arc<Policy>>,
}

/// Limits of time on a request; expiry answers 504.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// From the request's head until the head of the answer, with all tries.
    pub request: Option<Duration>,
    /// The same for one try.
    pub backend_request: Option<Duration>,
}

/// Where requests end up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The endpoints that are ready; one that is not gets no request and is not listed.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints by name: all addresses that a name stands for, as the machine resolves it, and again in time.
    #[serde(default)]
    pub names: Vec<NamedEndpoint>,
    /// What they speak.
    pub protocol: BackendProtocol,
    /// The answer while there is no endpoint: 503 for a Service without ready Pods, 500 for a reference that cannot be followed.
    #[serde(with = "crate::keep::form")]
    pub when_empty: StatusCode,
    /// Where callers are judged, whichever way they come. It must be in [`Snapshot::places`].
    #[serde(skip)]
    pub place: Option<access::PlaceId>,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            names: Vec::new(),
            protocol: BackendProtocol::Auto,
            when_empty: StatusCode::SERVICE_UNAVAILABLE,
            place: None,
        }
    }
}

/// A name, and a port at each of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedEndpoint {
    /// The host, in lower case.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// Whether it may stand for this machine; ports of listed endpoints and of listeners are left out all the same.
    pub local: bool,
    /// As in [`Endpoint`].
    #[serde(skip)]
    pub tls: Option<Arc<BackendTls>>,
}

/// One address that answers for a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where another proxy listens there ([`ListenerProtocol::Mesh`]): the name that what is meant has with it.
    pub peer: Option<Arc<str>>,
    /// Where the program itself is spoken to by mutual TLS: the SPIFFE ID that it must show.
    pub expects: Option<Arc<str>>,
    /// The TLS that is spoken to it; plain text where there is none. What another proxy is told goes by its own.
    #[serde(skip)]
    pub tls: Option<Arc<BackendTls>>,
    /// Whether a name led there. Then it is never reached over the network beside the machine's own.
    #[serde(skip)]
    pub by_name: bool,
}

impl Endpoint {
    /// An endpoint that is spoken to as it is.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, peer: None, expects: None, tls: None, by_name: false }
    }
}

/// What endpoints speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    H2c,
    /// HTTP/2 by prior knowledge for gRPC (`content-type: application/grpc...`), HTTP/1.1 for all else.
    #[default]
    Auto,
}
