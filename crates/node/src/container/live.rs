//! The containers that run, for whoever wants to talk to one: a command beside its program, its program itself, a port of its Pod.
//!
//! Invariants: a container is here from its program's start to its end; what was started beside it ends with it, and when whoever wanted it
//! is gone, also where it has killed its shim: it has a mark of its own, and whoever keeps the container is told of it. Nothing is spawned here:
//! whoever holds a [`Session`] drives it. Who asks says which Pod by its uid: another of that name is another Pod.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::ContainerPort;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use super::ends::{Ends, Input, Output};
use super::hooks::Reach;
use super::prepare::MARK;
use super::process::Process;
use super::terminal::Terminal;
use crate::network::Sandbox;
use crate::owners::Owners;
use crate::ports;
use crate::shim::{Config, Order, Report};

/// How many pieces of output wait for who is joined to a program, before some are lost to them.
pub(crate) const PIECES: usize = 256;
/// How long a connection to a Pod may take.
const CONNECTED: Duration = Duration::from_secs(30);
/// How many marks of commands that may have left something wait for whoever keeps their container. What is beyond goes with the container.
pub(super) const TRACES: usize = 64;
/// What programs are told of a terminal that do not know better, as container runtimes have it.
const TERM: (&str, &str) = ("TERM", "xterm");

/// A piece of a program's output, and whether it came from standard error.
pub(crate) type Piece = (bool, Bytes);

/// What is wanted of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionQuery {
    /// The container's name.
    pub container: String,
    /// The command to run beside its program; none for the program itself.
    pub command: Option<Vec<String>>,
    /// There will be input.
    pub stdin: bool,
    /// The output is wanted.
    pub stdout: bool,
    /// The error output is wanted.
    pub stderr: bool,
    /// Input and output are to be a terminal.
    pub tty: bool,
}

/// A session with a container. Dropping it ends what was started for it.
pub struct Session {
    /// To the program. Dropping it closes the program's input.
    pub stdin: Option<Input>,
    /// From the program.
    pub stdout: Option<Output>,
    /// From the program.
    pub stderr: Option<Output>,
    /// Says how large the terminal is, in columns and rows.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// The exit code, or why there is none.
    pub ended: BoxFuture<'static, Result<i32, String>>,
}

/// Why there can be no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// There is no such container that runs.
    #[error("container {0} does not run at the moment")]
    NotRunning(String),
    /// It is not declared as what is wanted needs it.
    #[error("{0}")]
    Impossible(String),
}

/// One run of one container.
pub(crate) struct Live {
    pub(super) reach: Reach,
    pub(super) sandbox: Option<Arc<Sandbox>>,
    /// Its program's input, where it is declared to have one.
    pub(super) input: Option<Arc<tokio::sync::Mutex<Option<Input>>>>,
    pub(super) terminal: Option<Terminal>,
    pub(super) output: broadcast::WeakSender<Piece>,
    ended: CancellationToken,
    /// Its mark.
    mark: String,
    /// How many commands were begun beside it.
    begun: AtomicU64,
    /// The marks of those of which something may be left.
    left: mpsc::Sender<String>,
}

impl Live {
    pub(super) fn new(
        (reach, mark): (Reach, String),
        sandbox: Option<Arc<Sandbox>>,
        ends: Ends,
        output: broadcast::WeakSender<Piece>,
        left: mpsc::Sender<String>,
    ) -> Self {
        let Ends { input, terminal, .. } = ends;
        let input = input.map(|input| Arc::new(tokio::sync::Mutex::new(Some(input))));
        let (ended, begun) = (CancellationToken::new(), AtomicU64::new(0));
        Self { reach, sandbox, input, terminal, output, ended, mark, begun, left }
    }

    /// The uid of its Pod.
    fn uid(&self) -> &str {
        self.reach.launcher.uid()
    }
}

/// What a command beside a program may leave behind. Whoever keeps the container is told of its mark when this is dropped, but where its shim
/// has said that nothing is left.
struct Trace {
    mark: Option<String>,
    left: mpsc::Sender<String>,
}

impl Trace {
    /// Gives a command that is to be run a mark of its own, which begins with its container's, whatever its environment says.
    fn new(live: &Live, config: &mut Config) -> Self {
        let number = live.begun.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}exec-{number}/", live.mark);
        config.env.retain(|(name, _)| name != MARK);
        config.env.push((MARK.to_owned(), mark.clone()));
        Self { mark: Some(mark), left: live.left.clone() }
    }

    /// Nothing is left.
    fn none(&mut self) {
        self.mark = None;
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Some(mark) = self.mark.take() {
            let _ = self.left.try_send(mark);
        }
    }
}

/// Namespace, Pod and container.
type Key = (String, String, String);

/// All containers that run.
#[derive(Clone, Default)]
pub(crate) struct Running {
    all: Arc<Mutex<HashMap<Key, Arc<Live>>>>,
}

/// A container's place among those that run, which it has until this is dropped.
pub(crate) struct Place {
    running: Running,
    key: Key,
    live: Arc<Live>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.ended.cancel();
        let mut all = self.running.all.lock();
        // It may be another run's already.
        if all.get(&self.key).is_some_and(|live| Arc::ptr_eq(live, &self.live)) {
            all.remove(&self.key);
        }
    }
}

impl Running {
    /// Takes note of a container that runs now.
    pub(super) fn enter(&self, namespace: &str, pod: &str, live: Live) -> Place {
        let key = (namespace.to_owned(), pod.to_owned(), live.reach.container.name.clone());
        let live = Arc::new(live);
        self.all.lock().insert(key.clone(), Arc::clone(&live));
        Place { running: self.clone(), key, live }
    }

    /// Connects to a port of a Pod. Of a Pod on the machine's network only its own ports are reached: those that were handed out to it,
    /// and those on which a process of it listens.
    pub(crate) async fn connect(
        &self,
        owners: &Owners,
        (namespace, pod, uid): (&str, &str, &str),
        port: u16,
    ) -> Result<TcpStream, String> {
        let lives: Vec<Arc<Live>> = {
            let all = self.all.lock();
            let its =
                all.iter().filter(|((space, name, _), live)| space == namespace && name == pod && live.uid() == uid);
            its.map(|(_, live)| Arc::clone(live)).collect()
        };
        let live = lives.first().ok_or_else(|| "none of its containers runs at the moment".to_owned())?;
        let connecting = async {
            if let Some(sandbox) = &live.sandbox {
                return sandbox.connect(port).await.map_err(|error| refused(port, &error));
            }
            let declared = || lives.iter().flat_map(|live| live.reach.container.ports.iter().flatten());
            let at = match declared_at(live.reach.ports.get(&port).copied(), port, declared) {
                Some((at, true)) => at,
                // A number that the manifest names may be somebody else's.
                Some((at, false)) if listens(owners, uid, at).await => at,
                Some((at, false)) => {
                    return Err(format!(
                        "port {port} is none of this Pod's at the moment: no program of it listens on {at}, which its manifest names"
                    ));
                }
                None if listens(owners, uid, port).await => port,
                None => {
                    return Err(format!(
                        "port {port} is none of this Pod's: no container declares it, and no program of it listens there"
                    ));
                }
            };
            TcpStream::connect((Ipv4Addr::LOCALHOST, at)).await.map_err(|error| refused(at, &error))
        };
        let connected = tokio::time::timeout(CONNECTED, connecting).await;
        connected.unwrap_or_else(|_| Err(format!("no connection to port {port} within {}s", CONNECTED.as_secs())))
    }

    /// A session, which begins when it is first waited for.
    pub(crate) fn session(
        &self,
        (namespace, pod, uid): (&str, &str, &str),
        query: SessionQuery,
    ) -> Result<BoxFuture<'static, Result<Session, String>>, SessionError> {
        let key = (namespace.to_owned(), pod.to_owned(), query.container.clone());
        let live = self.all.lock().get(&key).filter(|live| live.uid() == uid).cloned();
        let live = live.ok_or_else(|| SessionError::NotRunning(query.container.clone()))?;
        if query.command.is_some() {
            return Ok(Box::pin(run(live, query)));
        }
        if query.stdin && live.input.is_none() {
            let why = format!(
                "container {} has no input: its manifest says `stdin: true` where it is to have one",
                query.container
            );
            return Err(SessionError::Impossible(why));
        }
        if query.tty && live.terminal.is_none() {
            let why = format!(
                "container {} has no terminal: its manifest says `tty: true` where it is to have one",
                query.container
            );
            return Err(SessionError::Impossible(why));
        }
        Ok(Box::pin(async move { join(&live, &query) }))
    }
}

/// Where a declared port is, and whether that is a number which was handed out to this Pod alone. Ports of another protocol are none.
fn declared_at<'a, I: Iterator<Item = &'a ContainerPort>>(
    at: Option<u16>,
    port: u16,
    declared: impl Fn() -> I,
) -> Option<(u16, bool)> {
    let at = at?;
    let tcp = |one: &ContainerPort| one.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let mut its = declared().filter(|one| one.container_port == i32::from(port)).peekable();
    // Where it is not here at all it is one of a container that has ended.
    if its.peek().is_some() && !its.any(tcp) {
        return None;
    }
    let named = at == port || declared().any(|one| one.host_port == Some(i32::from(at)));
    Some((at, !named && ports::RANGE.contains(&at)))
}

fn refused(port: u16, error: &io::Error) -> String {
    format!("failed to connect to localhost:{port} inside the Pod: {error}")
}

/// Whether a process of a Pod listens on a port of the machine's loopback address.
async fn listens(owners: &Owners, uid: &str, port: u16) -> bool {
    owners.listens(uid, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}

/// Runs a command beside a container's program, seeing what it sees.
async fn run(live: Arc<Live>, query: SessionQuery) -> Result<Session, String> {
    if live.ended.is_cancelled() {
        return Err("the container has ended".to_owned());
    }
    let SessionQuery { command, stdin, tty, .. } = query;
    let failed = |error: io::Error| format!("error executing command in container: {error}");
    let mut ends = Ends::make(stdin, tty).map_err(failed)?;
    let mut config = Config {
        command: command.unwrap_or_default(),
        mounts: Vec::new(),
        stdin: ends.stdin.clone(),
        ..live.reach.config.clone()
    };
    let mut trace = Trace::new(&live, &mut config);
    if tty && !config.env.iter().any(|(name, _)| name == TERM.0) {
        config.env.push((TERM.0.to_owned(), TERM.1.to_owned()));
    }
    let (mut process, out, err) = Process::spawn(&live.reach.launcher, &config).await.map_err(failed)?;
    loop {
        match process.next().await {
            Some(Report::Started(_)) => break,
            Some(Report::Plain(_) | Report::View(_)) => {}
            Some(Report::Failed(why)) => {
                trace.none();
                return Err(failed(io::Error::other(why)));
            }
            Some(Report::Exited { .. }) | None => {
                return Err(failed(io::Error::other("the shim ended before the command began")));
            }
        }
    }
    ends.taken();
    let (out, err) = ends.outputs(out, err).map_err(failed)?;
    let resize = ends.terminal.clone().map(|terminal| {
        Box::new(move |columns, rows| terminal.resize(columns, rows)) as Box<dyn Fn(u16, u16) + Send + Sync>
    });
    let ended = async move {
        let mut told = false;
        loop {
            tokio::select! {
                report = process.next() => match report {
                    Some(Report::Exited { code, signal }) => {
                        trace.none();
                        process.finish().await;
                        return Ok(code.unwrap_or(128 + signal.unwrap_or(9)));
                    }
                    Some(Report::Failed(why)) => return Err(why),
                    Some(_) => {}
                    None => return Err("the command's shim ended without a word".to_owned()),
                },
                () = live.ended.cancelled(), if !told => {
                    told = true;
                    process.order(Order::Kill).await;
                }
            }
        }
    };
    Ok(Session { stdin: ends.input, stdout: Some(out), stderr: Some(err), resize, ended: Box::pin(ended) })
}

/// Joins a client to a container's own program.
fn join(live: &Arc<Live>, query: &SessionQuery) -> Result<Session, String> {
    let over = || "the container has ended".to_owned();
    let sender = live.output.upgrade().ok_or_else(over)?;
    let reader = |stderr: bool| Box::new(StreamReader::new(pieces(sender.subscribe(), stderr).boxed())) as Output;
    let (stdout, stderr) = (query.stdout.then(|| reader(false)), query.stderr.then(|| reader(true)));
    let stdin = match (&live.input, query.stdin) {
        (Some(input), true) => {
            let busy = |_| "somebody else's input goes to this container already; end that session first".to_owned();
            let held = Arc::clone(input).try_lock_owned().map_err(busy)?;
            if held.is_none() {
                return Err("the container's input was closed with the first session (stdinOnce)".to_owned());
            }
            let once = live.reach.container.stdin_once == Some(true);
            Some(Box::new(Joined { held, once }) as Input)
        }
        _ => None,
    };
    let resize = live.terminal.clone().filter(|_| query.tty).map(|terminal| {
        Box::new(move |columns, rows| terminal.resize(columns, rows)) as Box<dyn Fn(u16, u16) + Send + Sync>
    });
    let live = Arc::clone(live);
    let ended = async move {
        live.ended.cancelled().await;
        Ok(0)
    };
    Ok(Session { stdin, stdout, stderr, resize, ended: Box::pin(ended) })
}

/// The pieces of one of a program's outputs, to its end.
fn pieces(from: broadcast::Receiver<Piece>, wanted: bool) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(from, move |mut from| async move {
        loop {
            match from.recv().await {
                Ok((stderr, piece)) if stderr == wanted => return Some((Ok(piece), from)),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => {
                    let note =
                        format!("\r\n[{lost} pieces of output came faster than they were read and are left out]\r\n");
                    return Some((Ok(Bytes::from(note)), from));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

/// A container's input while one client has it.
struct Joined {
    held: OwnedMutexGuard<Option<Input>>,
    /// Its end is the end of the program's input.
    once: bool,
}

impl Drop for Joined {
    fn drop(&mut self) {
        if self.once {
            *self.held = None;
        }
    }
}

impl AsyncWrite for Joined {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self.held {
            Some(input) => Pin::new(input).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.held {
            Some(input) => Pin::new(input).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_were_handed_out_are_known_to_be_the_pods() {
        let port = |number, host_port, protocol: Option<&str>| ContainerPort {
            container_port: number,
            host_port,
            protocol: protocol.map(str::to_owned),
            ..ContainerPort::default()
        };
        for (declared, at, expected) in [
            (port(80, None, None), Some(20_001), Some((20_001, true))),
            (port(80, None, Some("TCP")), Some(20_001), Some((20_001, true))),
            (port(80, None, Some("UDP")), Some(20_001), None),
            (port(80, Some(22), None), Some(22), Some((22, false))),
            (port(80, Some(20_001), None), Some(20_001), Some((20_001, false))),
            (port(80, None, None), Some(80), Some((80, false))),
            (port(80, None, None), Some(40_000), Some((40_000, false))),
            (port(81, None, Some("UDP")), Some(20_001), Some((20_001, true))),
            (port(81, None, None), None, None),
        ] {
            assert_eq!(declared_at(at, 80, || [&declared].into_iter()), expected, "{declared:?} {at:?}");
        }
    }
}
