//! The node's handle: what others may ask of a running node. Cheap to clone; no channel type is public.
//!
//! It must not know how logs are kept (`logs` does) nor change anything on the node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::container::{Running, Session, SessionError, SessionQuery};
use crate::error::LogError;
use crate::logs::Logs;
use crate::network::PodNetwork;
use crate::owners::{Owners, PodRef};
use crate::view::PodView;

/// Bytes of a log, as they are to be sent to the one who asked.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// Which part of a container's log is wanted. The default is all there is of the current run.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Which container; may be left out where the Pod has one alone or names a default.
    pub container: Option<String>,
    /// Go on with what comes, until the container has ended for good.
    pub follow: bool,
    /// The run before the current one.
    pub previous: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines younger than so many seconds.
    pub since_seconds: Option<i64>,
    /// Only lines from this time on.
    pub since_time: Option<jiff::Timestamp>,
    /// Each line with its time in front.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// One line of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The Pod's namespace.
    pub namespace: Arc<str>,
    /// The Pod's name.
    pub pod: Arc<str>,
    /// The container's name.
    pub container: Arc<str>,
    /// Whether it came from standard error.
    pub stderr: bool,
    /// When it was read.
    pub time: jiff::Timestamp,
    /// The line without its end, at most 16 KiB of it.
    pub text: Bytes,
}

/// So many lines were lost because the reader was slower than the writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lagged(pub u64);

/// The lines of all Pods as they come.
pub struct Lines(pub(crate) tokio::sync::broadcast::Receiver<LogLine>);

impl Lines {
    /// The next line; `Err` says how many were lost before it; `None` when the node has ended.
    pub async fn next(&mut self) -> Option<Result<LogLine, Lagged>> {
        use tokio::sync::broadcast::error::RecvError;
        match self.0.recv().await {
            Ok(line) => Some(Ok(line)),
            Err(RecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(RecvError::Closed) => None,
        }
    }
}

/// What others may ask of a running node.
#[derive(Clone)]
pub struct Handle {
    pub(crate) pods: PodView,
    pub(crate) logs: Arc<Logs>,
    pub(crate) running: Running,
    pub(crate) owners: Owners,
    pub(crate) network: PodNetwork,
}

impl Handle {
    /// A container's log.
    pub async fn logs(&self, namespace: &str, pod: &str, query: LogQuery) -> Result<LogStream, LogError> {
        let chosen = self.pods.container(namespace, pod, query.container.as_deref())?;
        self.logs.read(chosen, query).await
    }

    /// A session with a container that runs, of a Pod by namespace, name and uid: a command beside its program, or that program itself. It
    /// begins when it is first waited for; whoever has it drives it.
    ///
    /// # Errors
    ///
    /// Where the container does not run, or is not declared as what is wanted needs it.
    pub fn session(
        &self,
        (namespace, pod, uid): (&str, &str, &str),
        query: SessionQuery,
    ) -> Result<BoxFuture<'static, Result<Session, String>>, SessionError> {
        self.running.session((namespace, pod, uid), query)
    }

    /// A connection to a port of a Pod (namespace, name, uid), as a program of the Pod itself would get it.
    ///
    /// # Errors
    ///
    /// Where nothing of the Pod listens there, in words for people.
    pub async fn connect(
        &self,
        (namespace, pod, uid): (&str, &str, &str),
        port: u16,
    ) -> Result<tokio::net::TcpStream, String> {
        self.running.connect(&self.owners, (namespace, pod, uid), port).await
    }

    /// The Pod that a process of this machine is of; none where it is no Pod's. It reads a few files of `/proc`, which waits for
    /// nothing.
    pub fn pod_of_process(&self, pid: i32) -> Option<PodRef> {
        self.owners.of_process(pid)
    }

    /// The Pod whose TCP socket is bound to `own` and connected to `other`; none where it is no Pod's, or where that is not
    /// found out within 100 ms.
    pub async fn pod_of_socket(&self, own: SocketAddr, other: SocketAddr) -> Option<PodRef> {
        self.owners.of_socket(own, other).await
    }

    /// The network of Pods that have namespaces of their own.
    #[must_use]
    pub fn network(&self) -> &PodNetwork {
        &self.network
    }

    /// The Pod that has this address in the pod network.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<PodRef> {
        self.network.pod_at(address).map(|pod| self.owners.as_told(&pod))
    }

    /// All lines of all Pods from now on. A slow reader loses lines and is told how many.
    pub fn lines(&self) -> Lines {
        Lines(self.logs.subscribe())
    }
}
