//! The SPIFFE Workload API on a Unix socket: programs ask who they are, and get their certificate and whom to trust (SPIFFE
//! Workload API and SPIFFE Workload Endpoint).
//!
//! Invariants: who asks is told by the kernel (`SO_PEERCRED`), never by what is asked; a call without the metadata
//! `workload.spiffe.io: true` is refused, so that nobody is talked into making it; whoever is no workload of this instance
//! learns nothing; calls, connections and messages are bounded; a token is signed for whoever asks and for nobody else.

mod authority;
mod calls;
mod wire;

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use authority::Tidied;

use super::accept::each_client;
use super::handle::Handle;
use super::spiffe::SpiffeId;

/// How many programs may be connected at once; more wait in the socket's queue.
const CONNECTIONS: usize = 4096;
/// How many calls one connection may have under way.
const CALLS: u32 = 64;
/// How long calls may take to end when the server ends.
const LAST: Duration = Duration::from_secs(1);
/// The longest path of a Unix socket on Linux, its closing zero included (unix(7)).
const LONGEST_PATH: usize = 108;

/// Tells whose process a caller is. The Workload API owns this trait; whoever runs workloads implements it.
pub trait Attestor: Send + Sync {
    /// The identity of the workload that the process belongs to; none where it is nobody's of this instance.
    fn attest(&self, pid: i32) -> Option<SpiffeId>;
}

/// Why the Workload API is not served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the SPIFFE Workload API at {}: {source}; choose a data directory with a shorter, writable path", .path.display())]
pub struct ServeError {
    /// The socket.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// The Workload API, bound and not yet served.
pub struct WorkloadApi {
    listener: UnixListener,
    path: PathBuf,
    handle: Handle,
    attestor: Arc<dyn Attestor>,
}

/// Runs what hyper wants to have run, under an owner who waits for it.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

impl WorkloadApi {
    /// Binds the socket, in the place of one that an earlier instance left. Every user may connect: who it is tells the kernel.
    ///
    /// # Errors
    ///
    /// Where it cannot be bound.
    pub fn bind(path: PathBuf, handle: Handle, attestor: Arc<dyn Attestor>) -> Result<Self, ServeError> {
        let bind = || {
            if path.as_os_str().len() >= LONGEST_PATH {
                return Err(io::Error::other("the path is longer than the 107 bytes that a socket's may have"));
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
            Ok(listener)
        };
        match bind() {
            Ok(listener) => Ok(Self { listener, path, handle, attestor }),
            Err(source) => Err(ServeError { path, source }),
        }
    }

    /// Serves until `shutdown`, then ends the calls that are under way.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        each_client(
            "the Workload API",
            CONNECTIONS,
            &shutdown,
            |cx| self.listener.poll_accept(cx),
            |(stream, _), place| {
                let (handle, attestor) = (self.handle.clone(), Arc::clone(&self.attestor));
                let (stop, own) = (shutdown.clone(), tasks.clone());
                tasks.spawn(async move {
                    serve(stream, handle, &*attestor, stop, own).await;
                    drop(place);
                });
            },
        )
        .await;
        tasks.close();
        if tokio::time::timeout(LAST, tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "calls of the Workload API did not end in time");
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the Workload API's socket could not be removed");
        }
    }
}

async fn serve(
    stream: UnixStream,
    handle: Handle,
    attestor: &dyn Attestor,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let pid = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
    let id = pid.and_then(|pid| attestor.attest(pid));
    tracing::debug!(?pid, id = id.as_ref().map(SpiffeId::as_str), "a program asks the Workload API");
    let ending = stop.clone();
    let service = service_fn(move |request| {
        let answer = calls::answer(request, id.clone(), pid, handle.clone(), ending.clone());
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut builder = http2::Builder::new(Tasks(tasks));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(60));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Tidied::new(stream)), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST / 2, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the Workload API ended");
    }
}
