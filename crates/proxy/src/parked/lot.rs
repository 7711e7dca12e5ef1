//! Where a thread keeps the connections that are parked on it, and hears of them.
//!
//! Invariants: one poll of the system for all of them, of which the thread's runtime knows one descriptor; no more than [`BATCH`] go back before
//! all others that are ready have had their turn, and nothing is heard of more before those have gone. One that goes back for no reason does no
//! harm: it waits there, and is parked again. It must not read from a socket, nor know how a connection is served.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use mio::unix::SourceFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::Parked;
use super::list::List;
use crate::connection;
use crate::listen::Slot;

/// How many go back at once.
const BATCH: usize = 64;
/// How many may be on their way in. One for which there is no room is served on, and parked a little later.
const ARRIVING: usize = 256;

/// The way to a lot.
pub(crate) struct Way {
    arrive: mpsc::Sender<Parked>,
    parked: Arc<AtomicUsize>,
}

/// What a lot is made of where it is to be.
pub(crate) struct Ground {
    arriving: mpsc::Receiver<Parked>,
    parked: Arc<AtomicUsize>,
}

/// A way, and what it leads to.
pub(crate) fn way() -> (Way, Ground) {
    let (arrive, arriving) = mpsc::channel(ARRIVING);
    let parked = Arc::<AtomicUsize>::default();
    (Way { arrive, parked: Arc::clone(&parked) }, Ground { arriving, parked })
}

impl Way {
    /// A place for one more, if there is one at the moment.
    pub(crate) fn place(&self) -> Option<mpsc::OwnedPermit<Parked>> {
        self.arrive.clone().try_reserve_owned().ok()
    }

    /// Whether it leads anywhere.
    pub(crate) fn is_open(&self) -> bool {
        !self.arrive.is_closed()
    }

    /// How many are parked.
    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }
}

/// A thread's connections that are parked.
pub(crate) struct Lot {
    poll: AsyncFd<mio::Poll>,
    events: mio::Events,
    arriving: mpsc::Receiver<Parked>,
    list: List<Parked>,
    /// How many there are, for others.
    parked: Arc<AtomicUsize>,
    /// Listeners of which the end is waited for, by their addresses in memory: each stays there until then.
    watched: HashSet<usize>,
    ends: FuturesUnordered<Pin<Box<dyn Future<Output = Arc<Slot>> + Send>>>,
    /// The places of those who are to go back.
    leaving: Vec<usize>,
}

impl Drop for Lot {
    fn drop(&mut self) {
        self.parked.store(0, Ordering::Relaxed);
    }
}

impl Lot {
    /// One of this thread's runtime.
    pub(crate) fn open(ground: Ground) -> io::Result<Self> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe to call; this poll is owned, and open as long as it is registered"
        )]
        let poll = AsyncFd::with_interest(mio::Poll::new()?, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: mio::Events::with_capacity(BATCH),
            arriving: ground.arriving,
            list: List::new(),
            parked: ground.parked,
            watched: HashSet::new(),
            ends: FuturesUnordered::new(),
            leaving: Vec::new(),
        })
    }

    /// Keeps connections, for as long as it is polled.
    pub(crate) async fn attend(mut self) -> Infallible {
        loop {
            if self.leaving.is_empty() {
                self.hear().await;
            }
            let more = self.leave();
            self.parked.store(self.list.len(), Ordering::Relaxed);
            if more {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for something to do, and for those who are to go back.
    async fn hear(&mut self) {
        let look = self.list.next_look();
        tokio::select! {
            Some(parked) = self.arriving.recv() => self.add(parked),
            Some(slot) = self.ends.next() => self.ended(&slot),
            heard = heard(&mut self.poll, &mut self.events) => match heard {
                Ok(()) => self.leaving.extend(self.events.iter().map(|event| event.token().0)),
                Err(error) => {
                    tracing::warn!(%error, "nothing is heard of connections that are parked; they go back");
                    self.leaving = self.list.chosen(|_| true);
                }
            },
            () = until(look) => self.leaving.extend(self.list.due(Instant::now())),
        }
    }

    /// A listener has come to its end. Those that do together are dealt with together: all who are parked are looked through for it.
    fn ended(&mut self, slot: &Arc<Slot>) {
        self.watched.remove(&address(slot));
        while let Some(Some(slot)) = self.ends.next().now_or_never() {
            self.watched.remove(&address(&slot));
        }
        self.leaving.extend(self.list.chosen(|parked| parked.slot.life.changed()));
    }

    fn add(&mut self, parked: Parked) {
        let slot = Arc::clone(&parked.slot);
        if self.watched.insert(address(&slot)) {
            self.ends.push(Box::pin(async move {
                slot.life.draining().await;
                slot
            }));
        }
        let descriptor = parked.socket.as_raw_fd();
        let due = parked.since + parked.shared.settings.header_timeout;
        let place = self.list.add(parked, due);
        let registry = self.poll.get_ref().registry();
        // What has come already is told of as well.
        if let Err(error) = registry.register(&mut SourceFd(&descriptor), mio::Token(place), mio::Interest::READABLE) {
            tracing::debug!(%error, "a client's connection cannot be parked");
            if let Some(parked) = self.list.take(place) {
                connection::resume(parked);
            }
        }
    }

    /// Sends some of those back who are to go. Says whether those were as many as may go at once.
    fn leave(&mut self) -> bool {
        for _ in 0..BATCH {
            let Some(place) = self.leaving.pop() else {
                // Many may have gone.
                self.leaving.shrink_to(BATCH);
                return false;
            };
            let Some(parked) = self.list.take(place) else { continue };
            let registry = self.poll.get_ref().registry();
            match registry.deregister(&mut SourceFd(&parked.socket.as_raw_fd())) {
                Ok(()) => connection::resume(parked),
                Err(error) => tracing::debug!(%error, "a client's connection ended while it was parked"),
            }
        }
        true
    }
}

/// What is known of a slot that stays where it is.
fn address(slot: &Arc<Slot>) -> usize {
    Arc::as_ptr(slot).addr()
}

/// Waits until something is heard of anybody.
async fn heard(poll: &mut AsyncFd<mio::Poll>, events: &mut mio::Events) -> io::Result<()> {
    let Ok(mut ready) = poll.readable_mut().await else {
        // The runtime ends, and this with it.
        return std::future::pending().await;
    };
    let heard = ready.get_inner_mut().poll(events, Some(Duration::ZERO));
    if heard.is_err() || events.iter().count() < BATCH {
        // There is no more, until the runtime hears of the descriptor again.
        ready.clear_ready();
    }
    heard
}

async fn until(look: Option<Instant>) {
    match look {
        Some(look) => tokio::time::sleep_until(look.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::listen::Held;
    use crate::route::{HostTable, Protocol, Table};
    use crate::service::Shared;
    use crate::snapshot::{Admits, Forwarded};
    use crate::{Dependencies, Settings, build};

    /// How many are parked: more batches than one, and the last one not whole.
    const MANY: usize = 4 * BATCH + 9;

    fn slot(shared: &Shared) -> Arc<Slot> {
        let nothing: Arc<str> = Arc::default();
        Arc::new(Slot::new(Arc::new(Table {
            id: Arc::clone(&nothing),
            protocol: Protocol::Http,
            forwarded: Forwarded::default(),
            admits: Admits::default(),
            peer_name: None,
            shows: None,
            hosts: HostTable::new(),
            for_callers: Vec::new(),
            unmatched: shared.counters.counter(&nothing, &nothing, &nothing),
        })))
    }

    /// A client, and the other end of its connection.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
        let (socket, _) = listener.accept().expect("a connection");
        socket.set_nonblocking(true).expect("a socket");
        (client, socket)
    }

    /// Parks so many times the same connection, each with a descriptor of its own.
    async fn parked(way: &Way, shared: &Arc<Shared>, slot: &Arc<Slot>, socket: &TcpStream) {
        for _ in 0..MANY {
            let place = loop {
                match way.place() {
                    Some(place) => break place,
                    None => tokio::task::yield_now().await,
                }
            };
            let permit = Arc::clone(&shared.permits).try_acquire_owned().expect("there is room");
            place.send(Parked {
                shared: Arc::clone(shared),
                slot: Arc::clone(slot),
                socket: socket.try_clone().expect("a descriptor"),
                peer: socket.peer_addr().expect("an address"),
                identity: None,
                held: Held::new(permit, None),
                since: Instant::now(),
                tracked: slot.tasks.token(),
            });
        }
        while way.parked() < MANY {
            tokio::task::yield_now().await;
        }
    }

    /// Has a turn after the other until all have gone. Says how many went between two, each time that some did.
    async fn gone(way: &Way) -> Vec<usize> {
        let (mut went, mut before) = (Vec::new(), way.parked());
        while before > 0 {
            tokio::task::yield_now().await;
            let now = way.parked();
            went.extend(Some(before - now).filter(|went| *went > 0));
            before = now;
        }
        went
    }

    #[tokio::test]
    async fn everybody_else_has_a_turn_after_each_batch_that_goes_back() {
        for by_listener in [false, true] {
            let (_proxy, handle) = build(Settings { threads: 0, ..Settings::default() }, Dependencies::default());
            let (shared, slot) = (Arc::clone(&handle.shared), slot(&handle.shared));
            let (way, ground) = way();
            let lot = tokio::spawn(Lot::open(ground).expect("a poll").attend());
            let (client, socket) = connection();
            let work = tokio::spawn(async move {
                parked(&way, &shared, &slot, &socket).await;
                if by_listener {
                    slot.life.drain();
                } else {
                    client.shutdown(std::net::Shutdown::Both).expect("a connection");
                }
                let went = gone(&way).await;
                slot.tasks.close();
                slot.tasks.wait().await;
                went
            });
            let went = tokio::time::timeout(Duration::from_secs(60), work).await.expect("an end").expect("no panic");
            // Of two who give way to each other the runtime lets now the one go first, now the other.
            assert!(went.iter().all(|went| *went <= 2 * BATCH), "{by_listener}: {went:?}");
            assert_eq!(went.iter().sum::<usize>(), MANY, "{by_listener}: {went:?}");
            lot.abort();
        }
    }
}
