//! What the sync answers over HTTP: a Git remote of its own (`/git/NAME.git`) and notices of pushes elsewhere (`/hooks`).
//!
//! Invariants: nobody without a token of the API (for Git) or a signature by the shared secret (for notices) gets anything done;
//! heads, bodies, connections and times are bounded; every task ends with the server.

mod backend;
mod progress;
pub mod scan;
pub(crate) mod webhook;

pub use backend::is_repository_name;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::git::{Git, GitError, Limits};
use super::service::Handle;

/// How many connections are served at once.
const CONNECTIONS: usize = 128;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(15);
/// How long requests may take to end after the server was told to.
const DRAIN: Duration = Duration::from_secs(5);
/// The largest notice, in bytes.
const NOTICE: usize = 4 * 1024 * 1024;

/// An answer's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How the server is to run.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Where to listen.
    pub bind: SocketAddr,
    /// Where the repositories of the remote are kept.
    pub repositories: PathBuf,
    /// The program whose `git-hook pre-receive` looks for secrets in what is pushed; none looks for nothing.
    pub hook: Option<PathBuf>,
    /// How long a pusher waits to hear how it went.
    pub wait: Duration,
    /// Bounds on what is pushed.
    pub limits: Limits,
}

/// A server that listens. It answers nothing until [`HttpServer::run`].
pub struct HttpServer {
    listener: TcpListener,
    front: Arc<Front>,
    address: SocketAddr,
}

/// What every request needs.
pub(crate) struct Front {
    pub(crate) settings: HttpSettings,
    pub(crate) handle: Handle,
    pub(crate) git: Git,
    /// Bounds the git programs that run.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// The server could not begin.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for Git: {source}; choose another port, or 0 for any free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The directory for repositories cannot be made.
    #[error(transparent)]
    Disk(#[from] GitError),
}

/// Listens.
///
/// # Errors
///
/// See [`HttpError`].
pub async fn listen(settings: HttpSettings, handle: Handle) -> Result<HttpServer, HttpError> {
    let git = Git::new(&settings.repositories, settings.limits.clone())?;
    backend::prepare(&settings)?;
    let failed = |source| HttpError::Listen { address: settings.bind, source };
    let listener = TcpListener::bind(settings.bind).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    handle.listens(address);
    let room = Arc::new(Semaphore::new(backend::PROGRAMS));
    let front = Front { settings, handle, git, room, tasks: TaskTracker::new(), stop: CancellationToken::new() };
    Ok(HttpServer { listener, front: Arc::new(front), address })
}

impl HttpServer {
    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`; then lets requests under way end, within bounds.
    pub async fn run(self, shutdown: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let front = Arc::clone(&self.front);
        self.front.tasks.spawn(async move {
            tokio::select! {
                () = front.stop.cancelled() => {}
                () = backend::finish_pushes(&front) => {}
            }
        });
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(permit) = room.clone().try_acquire_owned() else { continue };
                    let front = Arc::clone(&self.front);
                    self.front.tasks.spawn(async move {
                        serve(stream, front).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely; trying again at once would spin.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(self.listener);
        self.front.stop.cancel();
        self.front.tasks.close();
        if tokio::time::timeout(DRAIN, self.front.tasks.wait()).await.is_err() {
            tracing::warn!("requests for Git did not end in time");
        }
    }
}

async fn serve(stream: tokio::net::TcpStream, front: Arc<Front>) {
    let _ = stream.set_nodelay(true);
    let stop = front.stop.clone();
    let service = hyper::service::service_fn(move |request| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(answer(&front, request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection for Git ended");
    }
}

async fn answer(front: &Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path.starts_with("/git/") {
        return backend::answer(front, request).await;
    }
    match (request.method(), path.as_str()) {
        (&Method::POST, "/hooks" | "/api/webhook") => notice(front, request).await,
        (&Method::POST, _) if path.starts_with("/hook/") => receive(front, request, &path).await,
        _ => say(
            StatusCode::NOT_FOUND,
            "there is /git/NAME.git for git, and /hooks and the paths of Receivers for notices of pushes\n",
        ),
    }
}

/// A notice for one of Flux's Receivers.
async fn receive(front: &Front, request: Request<Incoming>, path: &str) -> Response<Body> {
    let (head, body) = request.into_parts();
    let read = tokio::time::timeout(HEAD, Limited::new(body, NOTICE).collect()).await;
    let Ok(Ok(body)) = read else { return say(StatusCode::PAYLOAD_TOO_LARGE, "the notice is too large or too slow\n") };
    let (api, receivers) = (front.handle.api(), front.handle.receivers());
    let (status, said) = super::receivers::answer(api, receivers, path, &head.headers, &body.to_bytes()).await;
    say(status, &format!("{said}\n"))
}

/// Somebody says that a repository has something new.
async fn notice(front: &Front, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let read = tokio::time::timeout(HEAD, Limited::new(body, NOTICE).collect()).await;
    let Ok(Ok(body)) = read else { return say(StatusCode::PAYLOAD_TOO_LARGE, "the notice is too large or too slow\n") };
    let body = body.to_bytes();
    let secrets = match webhook::secrets(front.handle.api()).await {
        Ok(secrets) => secrets,
        Err(reason) => return say(StatusCode::SERVICE_UNAVAILABLE, &format!("{reason}\n")),
    };
    if let Err(reason) = webhook::check(&head.headers, &body, &secrets) {
        tracing::warn!(reason, "a notice of a push was refused");
        return say(StatusCode::FORBIDDEN, &format!("{reason}\n"));
    }
    let Ok(payload) = serde_json::from_slice::<Value>(&body) else {
        return say(StatusCode::BAD_REQUEST, "the notice is no JSON\n");
    };
    let urls = webhook::urls(&payload);
    let count = front.handle.poke(|url| urls.contains(&webhook::plain(url)));
    say(StatusCode::ACCEPTED, &format!("looking at {count} repositories\n"))
}

/// A short answer.
pub(crate) fn say(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())).boxed_unsync());
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
