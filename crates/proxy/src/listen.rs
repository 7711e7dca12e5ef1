//! Listening sockets: bound, served, drained.
//!
//! Invariants: a socket stays while any snapshot wants its address; what has reached it before it is closed is still served; a
//! listener's end waits for its connections, with a limit.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::network::Ground;
use crate::route::Table;
use crate::service::Shared;
use crate::workers::Carried;

/// How many clients may wait in a socket's own queue.
pub(crate) const BACKLOG: u32 = 1024;

/// How long forced connections get to notice.
const LAST: Duration = Duration::from_secs(1);

/// What a connection takes of what there is only so much of: whatever goes on after it (the tunnel that it has become, say) keeps a share.
pub(crate) struct Held {
    _permit: OwnedSemaphorePermit,
    _carried: Option<Carried>,
}

impl Held {
    pub(crate) fn new(permit: OwnedSemaphorePermit, carried: Option<Carried>) -> Self {
        Self { _permit: permit, _carried: carried }
    }
}

/// A listener at work. What it serves is swapped in it.
pub(crate) struct Slot {
    pub(crate) table: ArcSwap<Table>,
    pub(crate) life: Arc<Life>,
    pub(crate) tasks: TaskTracker,
    /// What connections of other proxies ask for, by its name, while there are such connections.
    named: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
}

/// How far a listener is on its way to its end: it drains first, and may then be ended by force.
#[derive(Default)]
pub(crate) struct Life {
    changed: AtomicBool,
    drain: CancellationToken,
    force: CancellationToken,
}

impl Life {
    /// Whether there is anything to see in the other two.
    pub(crate) fn changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    pub(crate) fn draining(&self) -> WaitForCancellationFuture<'_> {
        self.drain.cancelled()
    }

    pub(crate) fn forced(&self) -> WaitForCancellationFuture<'_> {
        self.force.cancelled()
    }

    pub(crate) fn is_forced(&self) -> bool {
        self.force.is_cancelled()
    }

    pub(crate) fn drain(&self) {
        self.changed.store(true, Ordering::Release);
        self.drain.cancel();
    }

    fn force(&self) {
        self.changed.store(true, Ordering::Release);
        self.force.cancel();
    }
}

impl Slot {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self { table: ArcSwap::new(table), life: Arc::default(), tasks: TaskTracker::new(), named: Mutex::default() }
    }

    /// What other proxies ask for by `name`; it lives and ends with this listener.
    pub(crate) fn named(&self, name: &str, shared: &Shared) -> Option<Arc<Self>> {
        // Looked up under the lock, so that no renewal falls between.
        let mut named = self.named.lock();
        let tables = shared.named.load();
        let (name, table) = tables.get_key_value(name)?;
        let slot = named.entry(Arc::clone(name)).or_insert_with(|| {
            let (life, tasks) = (Arc::clone(&self.life), self.tasks.clone());
            Arc::new(Self { table: ArcSwap::new(Arc::clone(table)), life, tasks, named: Mutex::default() })
        });
        Some(Arc::clone(slot))
    }

    /// Gives what other proxies asked for its newest meaning; what is gone answers that no route matches.
    pub(crate) fn renew(&self, tables: &HashMap<Arc<str>, Arc<Table>>) {
        self.named.lock().retain(|name, slot| {
            let table = tables.get(name).cloned().unwrap_or_else(|| Arc::new(slot.table.load().emptied()));
            slot.table.store(table);
            Arc::strong_count(slot) > 1
        });
    }
}

/// Binds an address, or the fallback where permission is refused; nobody listens there yet. The error names the address tried last.
pub(crate) fn bind(address: SocketAddr, fallback: Option<SocketAddr>) -> Result<TcpSocket, (SocketAddr, io::Error)> {
    match (bind_one(address), fallback) {
        (Err(error), Some(fallback)) if error.kind() == io::ErrorKind::PermissionDenied => {
            bind_one(fallback).map_err(|error| (fallback, error))
        }
        (bound, _) => bound.map_err(|error| (address, error)),
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A port that was in use a moment ago is free.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Has the system end connections, which inherit this of their listener's socket, whose other side takes nothing of what is sent
/// to it for so long, or says nothing of having got it. Without it, a client that stops reading keeps what serves it for ever.
#[cfg(target_os = "linux")]
pub(crate) fn forsake_stalled(socket: &TcpSocket, after: Duration) -> io::Result<()> {
    let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    Ok(nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::TcpUserTimeout, &millis)?)
}

/// Elsewhere only what is lost on the way is given up, after the system's own time.
#[cfg(not(target_os = "linux"))]
pub(crate) fn forsake_stalled(_: &TcpSocket, _: Duration) -> io::Result<()> {
    Ok(())
}

/// Accepts until the listener drains, then waits for its connections. Returns how many had to be closed by force.
pub(crate) async fn run(
    listener: TcpListener,
    ground: Ground,
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    closed: oneshot::Sender<()>,
) -> usize {
    loop {
        let accepted = tokio::select! {
            biased;
            () = slot.life.draining() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, (ground, peer), &slot, &shared).await,
            Err(error) => {
                // No more descriptors, most likely: those who wait in the socket's queue go on waiting.
                tracing::warn!(listener = &*slot.table.load().id, %error, "cannot accept connections");
                let pause = tokio::time::sleep(Duration::from_millis(50));
                tokio::select! { () = pause => {}, () = slot.life.draining() => break }
            }
        }
    }
    // Whoever has connected already is served instead of being reset. The system's own call is made, as the runtime may not
    // have heard of them yet.
    match listener.into_std() {
        Ok(listener) => {
            // No more than the queue holds.
            for (stream, peer) in (0..BACKLOG).map_while(|_| listener.accept().ok()) {
                admit_late(stream, (ground, peer), &slot, &shared);
            }
        }
        Err(error) => tracing::debug!(%error, "a listener was closed with clients in its queue"),
    }
    // Nobody may be waiting any more, when the proxy itself ends.
    let _ = closed.send(());
    slot.tasks.close();
    if tokio::time::timeout(shared.settings.drain, slot.tasks.wait()).await.is_ok() {
        return 0;
    }
    let left = slot.tasks.len();
    slot.life.force();
    if tokio::time::timeout(LAST, slot.tasks.wait()).await.is_err() {
        tracing::warn!(left = slot.tasks.len(), "connections did not end when forced to");
    }
    left
}

async fn admit(stream: TcpStream, peer: (Ground, SocketAddr), slot: &Arc<Slot>, shared: &Arc<Shared>) {
    let permit = tokio::select! {
        permit = Arc::clone(&shared.permits).acquire_owned() => permit,
        () = slot.life.draining() => return,
    };
    // The semaphore is never closed.
    let Ok(permit) = permit else { return };
    spawn(stream, peer, slot, shared, permit);
}

fn admit_late(stream: std::net::TcpStream, peer: (Ground, SocketAddr), slot: &Arc<Slot>, shared: &Arc<Shared>) {
    let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) else { return };
    if let Ok(permit) = Arc::clone(&shared.permits).try_acquire_owned() {
        spawn(stream, peer, slot, shared, permit);
    }
}

fn spawn(
    stream: TcpStream,
    peer: (Ground, SocketAddr),
    slot: &Arc<Slot>,
    shared: &Arc<Shared>,
    permit: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client's connection ended at once");
        return;
    }
    let (own, slot_of_it) = (Arc::clone(shared), Arc::clone(slot));
    let served = shared.workers.serve(&slot.tasks, stream, move |stream, carried| {
        let held = Arc::new(Held::new(permit, carried));
        connection::serve(own, slot_of_it, stream, peer, held)
    });
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended at once");
    }
}
