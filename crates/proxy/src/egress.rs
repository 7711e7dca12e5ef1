//! The way out: an HTTP proxy as programs know it from `HTTP_PROXY` and `HTTPS_PROXY` (RFC 9110, 7.6 and 9.3.6).
//!
//! A request names where it is to go, by an absolute URL or by CONNECT. It is let out if its caller's limits say so, counted by
//! the host it goes to, and sent; where a host has several addresses, those that cannot be reached are passed over.
//!
//! Invariants: nothing is sent before the host has been allowed; a caller is who somebody vouched for, never who a request says;
//! the number of hosts that are counted apart is bounded; a tunnel ends with either side or with its listener.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, lookup_host};

use crate::connection::Ended;
use crate::headers;
use crate::identity::{Client, Identity};
use crate::listen::Slot;
use crate::network::Ground;
use crate::route::HostTable;
use crate::service::Shared;
use crate::snapshot::EgressLimit;
use crate::stats::{Counter, Registry};

/// How many hosts are counted apart; all further ones are counted as `*`.
const HOSTS: usize = 256;
const AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

/// Who may go where, and what was counted.
pub(crate) struct Egress {
    listener: Arc<str>,
    limits: Vec<(Arc<str>, HostTable<()>)>,
    counters: Mutex<HashMap<Arc<str>, Arc<Counter>>>,
}

impl Egress {
    pub(crate) fn new(listener: &Arc<str>, limits: &[EgressLimit]) -> Self {
        let limits = limits.iter().map(|limit| {
            let mut hosts = HostTable::new();
            for host in &limit.hosts {
                // One that is there twice is allowed all the same.
                hosts.insert(host, ());
            }
            (Arc::clone(&limit.callers), hosts)
        });
        Self { listener: Arc::clone(listener), limits: limits.collect(), counters: Mutex::default() }
    }

    /// Whether a caller may go to a host, in lower case. One that no limit speaks of may go anywhere.
    pub(crate) fn allows(&self, caller: Option<&Identity>, host: &str) -> bool {
        let Some(caller) = caller else { return true };
        let mut own = self.limits.iter().filter(|(prefix, _)| caller.id.starts_with(&**prefix));
        own.all(|(_, hosts)| hosts.find(host).is_some())
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

/// What an answer holds.
enum Body {
    Text(Option<Bytes>),
    Stream(Incoming),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

fn said(status: StatusCode, text: String) -> Response<Body> {
    let mut answer = Response::new(Body::Text(Some(Bytes::from(text + "\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// What the requests of one connection share.
struct Exit {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    egress: Arc<Egress>,
    client: Client,
}

/// Serves a client's connection.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    stream: TcpStream,
    client: Client,
    egress: &Arc<Egress>,
) -> Ended {
    let exit =
        Arc::new(Exit { shared: Arc::clone(shared), slot: Arc::clone(slot), egress: Arc::clone(egress), client });
    let service = service_fn(move |request| {
        let exit = Arc::clone(&exit);
        async move { Ok::<_, Infallible>(exit.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.settings.header_timeout);
    builder.max_buf_size(shared.settings.max_head_bytes.max(8192) + 8192);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(Into::into),
        () = slot.life.forced() => return Ok(()),
        () = slot.life.draining() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection.as_mut() => ended.map_err(Into::into),
        () = slot.life.forced() => Ok(()),
    }
}

impl Exit {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let begun = Instant::now();
        let to = match destination(request.method(), request.uri()) {
            Ok(to) => to,
            Err(why) => return said(StatusCode::BAD_REQUEST, why),
        };
        let caller = self.client.identity.as_deref();
        let allowed = self.egress.allows(caller, &to.host);
        // What is not allowed is counted as one: a caller can make up any number of names.
        let counter = self.egress.counter(if allowed { &to.host } else { "refused" }, &self.shared.counters);
        let answer = if allowed { self.send(request, &to).await } else { refuse(caller, &to) };
        counter.edge(caller).answered(answer.status(), begun.elapsed());
        answer
    }

    async fn send(&self, request: Request<Incoming>, to: &Destination) -> Response<Body> {
        let stream = match self.connect(to).await {
            Ok(stream) => stream,
            Err(error) => {
                let status = match error.kind() {
                    io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
                    io::ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
                    _ => StatusCode::BAD_GATEWAY,
                };
                return said(status, format!("{}:{} cannot be reached: {error}", to.host, to.port));
            }
        };
        if request.method() == Method::CONNECT {
            self.tunnel(request, stream);
            return Response::new(Body::Text(None));
        }
        let limit = self.shared.settings.response_timeout;
        let asked = self.ask(request, stream);
        let answered = match limit {
            Some(limit) => tokio::time::timeout(limit, asked).await,
            None => Ok(asked.await),
        };
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => said(StatusCode::BAD_GATEWAY, format!("{} gave no answer: {error}", to.host)),
            Err(_) => said(StatusCode::GATEWAY_TIMEOUT, format!("{} gave no answer in time", to.host)),
        }
    }

    /// Connects to the first address of a host that can be reached. Nothing has been sent by then, so going on is safe.
    async fn connect(&self, to: &Destination) -> io::Result<TcpStream> {
        let settings = &self.shared.settings;
        let late = |what: &str| io::Error::new(io::ErrorKind::TimedOut, format!("{what} took too long"));
        let found = tokio::time::timeout(settings.connect_timeout, lookup_host((to.host.as_str(), to.port))).await;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        for address in found.map_err(|_| late("finding its address"))??.take(settings.attempts as usize) {
            if self.client.ground == Ground::Network && is_machine(address.ip()) {
                last =
                    io::Error::new(io::ErrorKind::PermissionDenied, "it is the machine itself, which is not outside");
                continue;
            }
            match tokio::time::timeout(settings.connect_timeout, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = late("connecting"),
            }
        }
        Err(last)
    }

    /// Joins both sides once the client has been told so.
    fn tunnel(&self, request: Request<Incoming>, mut server: TcpStream) {
        let slot = Arc::clone(&self.slot);
        self.slot.tasks.spawn(async move {
            let both = async {
                let client = hyper::upgrade::on(request).await.map_err(io::Error::other)?;
                copy_bidirectional(&mut TokioIo::new(client), &mut server).await
            };
            tokio::select! {
                ended = both => if let Err(error) = ended {
                    tracing::debug!(%error, "a tunnel to the outside broke");
                },
                () = slot.life.forced() => {}
            }
        });
    }

    async fn ask(&self, request: Request<Incoming>, stream: TcpStream) -> Result<Response<Body>, hyper::Error> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let slot = Arc::clone(&self.slot);
        self.slot.tasks.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the outside broke");
                },
                () = slot.life.forced() => {}
            }
        });
        let (mut parts, body) = request.into_parts();
        headers::strip(&mut parts.headers);
        parts.headers.remove(AUTHORIZATION);
        if let Some(host) = parts.uri.authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok()) {
            // The URL says where it goes, whatever this header said (RFC 9112, 3.2.2).
            parts.headers.insert(HOST, host);
        }
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        let (mut parts, body) = sender.send_request(Request::from_parts(parts, body)).await?.into_parts();
        headers::strip(&mut parts.headers);
        Ok(Response::from_parts(parts, Body::Stream(body)))
    }
}

/// Whether an address leads to what listens on this machine alone. Programs of the machine's own network reach that by
/// themselves; to those of another it is closed.
fn is_machine(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

fn refuse(caller: Option<&Identity>, to: &Destination) -> Response<Body> {
    let who = caller.map_or("nobody known", |caller| &caller.id);
    tracing::info!(caller = who, host = to.host, port = to.port, "not let out: the host is not in its allow-list");
    said(StatusCode::FORBIDDEN, format!("{} may not go to {}: it is not in the allow-list", who, to.host))
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
    fn the_machine_itself_is_not_outside() {
        for (address, machine) in [
            ("127.0.0.1", true),
            ("127.96.4.7", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_machine(address.parse().expect("an address")), machine, "{address}");
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
        let egress = Egress::new(&"egress".into(), &limits);
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
        let (egress, registry) = (Egress::new(&"egress".into(), &[]), Registry::new(10_000));
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
