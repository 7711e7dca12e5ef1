//! `pods/exec`, `pods/attach` and `pods/portforward`: connections that stop being HTTP and carry streams.
//!
//! A request takes the way of all others until it is answered with 101: who asks is known, may (`create`, whatever the method: see
//! `authorize`), and no policy about `CONNECT` is against it. What is spoken then is WebSocket ([`websocket`], [`channels`]) or
//! SPDY ([`spdy`]); below both a session's streams are the same ([`relay`]), and so are a Pod's ports ([`pod_ports`], which are
//! [`channel_ports`] over WebSocket).
//!
//! Invariants: nothing is started for a client that has not changed over to the protocol; every connection is a task of one set, is one of a
//! bounded number of which no user has all, and ends with its client, its token, its right, the container, and the server.
//! It must not know how programs are run: [`crate::sessions::PodSessions`] does.

mod asked;
mod channel_ports;
mod channels;
mod link;
mod messages;
mod pod_ports;
mod relay;
pub(crate) mod spdy;
mod tunnel;
pub(crate) mod websocket;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rules::policy::Operation;
use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::catalog::Resource;
use crate::object;
use crate::policy;
use crate::right::{self, Right};
use crate::server::{Place, Server};
use crate::sessions::{Beginning, PodKey, PodSessions, SessionError, SessionOptions};
use crate::shares::{Full, Share};
use crate::status::{Answer, Failure};
use asked::{Kind, Protocol};
use link::Watch;
use pod_ports::Pod;
use relay::PIECE;

/// How long a connection may last on which nothing is said, as with a kubelet.
const IDLE: Duration = Duration::from_secs(4 * 3600);

/// What a request brings that wants to become something else.
pub(crate) struct Upgrade {
    pub(crate) headers: HeaderMap,
    /// The connection, once the answer is out; none in process and over HTTP/2.
    pub(crate) connection: Option<OnUpgrade>,
}

/// What is done on a connection.
enum Work {
    Session(SessionOptions, Beginning),
    /// The ports, where the request says them.
    Ports(Pod, Vec<u16>),
}

/// Answers a request to one of the three.
pub(crate) fn open(server: &Arc<Server>, call: &mut Call, place: Place<'_>, part: &str) -> Answer<Reply> {
    let (resource, target) = place;
    let (Some(name), Some(namespace)) = (target.name.as_deref(), target.namespace.as_deref()) else {
        return Err(Failure::no_such_path());
    };
    let entry = server.store.get(&resource.key(Some(namespace), name)).0;
    let pod = object::read(resource, &entry.ok_or_else(|| Failure::not_found(resource, name))?)?;
    let kind = if part == "portforward" { Kind::Ports } else { Kind::Session };
    let upgrade = call.upgrade.take().unwrap_or(Upgrade { headers: HeaderMap::new(), connection: None });
    let options = match kind {
        Kind::Session => Some(asked::options(&call.query, &pod, part == "exec")?),
        Kind::Ports => None,
    };
    let ports = match kind {
        Kind::Session => Vec::new(),
        Kind::Ports => asked::ports(&call.query)?,
    };
    admit(server, call, place, part, (options.as_ref(), &ports))?;
    let protocol = asked::protocol(kind, &upgrade.headers)?;
    if kind == Kind::Ports && protocol.has_channels() && ports.is_empty() {
        return Err(Failure::bad_request(
            "the query parameter `ports` is required: over WebSocket it says what to forward",
        ));
    }
    let connection = upgrade.connection.ok_or_else(|| {
        Failure::bad_request("Upgrade request required: a stream needs a connection of HTTP/1.1 of its own")
    })?;
    let sessions = server.sessions.clone().ok_or_else(|| {
        Failure::new(501, "NotImplemented", format!("pods/{part} is not served: nothing runs Pods here"))
    })?;
    let permit = permit(server, call)?;
    let key =
        PodKey { namespace: namespace.to_owned(), name: name.to_owned(), uid: object::meta(&pod, "uid").to_owned() };
    let work = match options {
        Some(options) => {
            let beginning = sessions.session(&key, options.clone()).map_err(refusal)?;
            Work::Session(options, beginning)
        }
        None => Work::Ports(ports_of(server, resource, key, sessions), ports),
    };
    let right = || Right::new(server, call, target);
    let (watch, gone) = (Watch::new(right(), IDLE), right().gone());
    let (stopping, longest) = (server.stopping.clone(), right::lasts(IDLE * 42, &call.user, call.now));
    let headers = answer(&protocol);
    server.session_tasks.spawn(async move {
        let _held = permit;
        let served = async {
            match connection.await {
                Ok(upgraded) => serve(TokioIo::new(upgraded), &protocol, work, &watch).await,
                Err(error) => tracing::debug!(%error, "a connection did not become a stream"),
            }
        };
        tokio::select! {
            () = Box::pin(served) => {}
            () = stopping.cancelled() => {}
            () = gone => {}
            () = tokio::time::sleep(longest) => {}
        }
    });
    Ok(Reply::Switch(headers))
}

/// Room for one more, of which nobody has all; whoever takes themselves for many is one.
fn permit(server: &Server, call: &Call) -> Answer<Share> {
    let who = &call.shown().name;
    server.session_permits.take(who).map_err(|full| {
        Failure::too_many_requests(match full {
            Full::Everywhere => "too many sessions with containers are open; end some and try again".to_owned(),
            Full::Yours(most) => format!(
                "user {who:?} has {most} sessions with containers open, and nobody may have more, so that some are left for \
                 others; end some and try again"
            ),
        })
    })
}

/// The Pod whose ports are forwarded, as long as it is that one.
fn ports_of(server: &Arc<Server>, resource: &Arc<Resource>, key: PodKey, sessions: Arc<dyn PodSessions>) -> Pod {
    let (server, resource) = (server.clone(), resource.clone());
    let (at, uid) = (resource.key(Some(&key.namespace), &key.name), key.uid.clone());
    Pod::new(sessions, key, move || {
        let entry = server.store.get(&at).0;
        let pod = entry.and_then(|entry| object::read(&resource, &entry).ok());
        pod.is_some_and(|pod| object::meta(&pod, "uid") == uid)
    })
}

async fn serve(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    protocol: &Protocol,
    work: Work,
    watch: &Watch,
) {
    match (work, protocol) {
        (Work::Session(options, beginning), Protocol::WebSocket { .. }) => {
            channels::serve(io, &options, protocol.closes(), beginning, watch).await;
        }
        (Work::Session(options, beginning), Protocol::Spdy { .. }) => {
            spdy::session::serve(io, &options, beginning, watch).await;
        }
        (Work::Ports(pod, _), Protocol::Spdy { .. }) => spdy::ports::serve(io, &pod, watch).await,
        (Work::Ports(pod, ports), Protocol::WebSocket { .. }) if protocol.has_channels() => {
            channel_ports::serve(io, &pod, &ports, watch).await;
        }
        (Work::Ports(pod, _), Protocol::WebSocket { .. }) => {
            let (near, far) = tokio::io::duplex(PIECE);
            // Each ends with the other: their ends of the pipe are dropped.
            tokio::join!(tunnel::carry(io, near, watch), spdy::ports::serve(far, &pod, watch));
        }
    }
}

/// The headers that say what is spoken from now on.
fn answer(protocol: &Protocol) -> Vec<(&'static str, String)> {
    let mut headers = vec![("connection", "Upgrade".to_owned())];
    match protocol {
        Protocol::WebSocket { name, key } => headers.extend([
            ("upgrade", "websocket".to_owned()),
            ("sec-websocket-accept", websocket::accept(key)),
            ("sec-websocket-protocol", (*name).to_owned()),
        ]),
        Protocol::Spdy { name } => {
            headers.extend([("upgrade", asked::SPDY.to_owned()), (asked::VERSION, (*name).to_owned())]);
        }
    }
    headers
}

/// Asks the policies about it, as about a `CONNECT`.
fn admit(
    server: &Server,
    call: &mut Call,
    (resource, target): Place<'_>,
    part: &str,
    (options, ports): (Option<&SessionOptions>, &[u16]),
) -> Answer<()> {
    let kind = match part {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let mut object = json!({ "kind": kind, "apiVersion": "v1" });
    if !ports.is_empty() {
        object["ports"] = json!(ports);
    }
    if let Some(options) = options {
        object["container"] = options.container.as_str().into();
        for (field, set) in
            [("stdin", options.stdin), ("stdout", options.stdout), ("stderr", options.stderr), ("tty", options.tty)]
        {
            if set {
                object[field] = true.into();
            }
        }
        if let Some(command) = &options.command {
            object["command"] = command.clone().into();
        }
    }
    let question = policy::Question {
        resource,
        namespace: target.namespace.as_deref(),
        name: target.name.as_deref().unwrap_or_default(),
        subresource: part,
        operation: Operation::Connect,
        new: Some(&object as &Value),
        old: None,
        dry: false,
    };
    policy::judge(server, call, &question)
}

fn refusal(error: SessionError) -> Failure {
    match error {
        SessionError::NotRunning { .. } => Failure::new(404, "NotFound", error.to_string()),
        SessionError::NotStarted => Failure::new(503, "ServiceUnavailable", error.to_string()),
        SessionError::Impossible(_) => Failure::bad_request(error.to_string()),
    }
}
