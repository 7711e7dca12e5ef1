//! Connections that have asked and wait: what has served one ends, and what is kept of it is its socket and who is at its other end.
//!
//! A thread keeps those that it has served in one list (`list.rs`), and hears of all of them through one descriptor (`lot.rs`). One that
//! sends something, is due, or has a listener that drains goes back to what serves connections, which finds it as it would have been:
//! nothing is read here, nothing answered, and nothing closed but what the system will not hear of any longer.
//!
//! Invariants: only plain connections of HTTP/1.1 are parked, between two requests, with nothing read; one that is parked counts as open
//! wherever connections are counted; the list ends with its thread. It must not know what is asked over a connection, nor of routes and policies.

mod list;
mod lot;

use std::io;
use std::net::{SocketAddr, TcpStream as Socket};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::identity::Identity;
use crate::listen::{Held, Slot};
use crate::request::Caller;
use crate::service::Shared;

pub(crate) use lot::{Ground, Lot, Way, way};

/// A connection that is parked.
pub(crate) struct Parked {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) socket: Socket,
    pub(crate) peer: SocketAddr,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) held: Held,
    /// Since when it waits.
    pub(crate) since: Instant,
    /// Its listener waits for it.
    pub(crate) tracked: TaskTrackerToken,
}

/// How connections of a kind are parked. What is not is given back, with its caller.
pub(crate) type Park<S> = fn(S, Arc<Caller>, Instant) -> io::Result<Option<(S, Arc<Caller>)>>;

/// Parks a connection that has waited since then, unless its thread has no room for it at the moment, or there is something else to do for it.
pub(crate) fn park(
    stream: TcpStream,
    caller: Arc<Caller>,
    since: Instant,
) -> io::Result<Option<(TcpStream, Arc<Caller>)>> {
    let place = caller.shared.workers.place();
    let Some(place) = place.filter(|_| !caller.slot.life.changed()) else { return Ok(Some((stream, caller))) };
    // Somebody else who knows of it may have a use for it.
    let caller = match Arc::try_unwrap(caller) {
        Ok(caller) => caller,
        Err(caller) => return Ok(Some((stream, caller))),
    };
    let held = match Arc::try_unwrap(caller.held) {
        Ok(held) => held,
        Err(held) => return Ok(Some((stream, Arc::new(Caller { held, ..caller })))),
    };
    let socket = stream.into_std()?;
    let (peer, tracked) = (socket.peer_addr()?, caller.slot.tasks.token());
    let Caller { shared, slot, identity, .. } = caller;
    place.send(Parked { shared, slot, socket, peer, identity, held, since, tracked });
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_parked_is_small() {
        let bytes = size_of::<list::Place<Parked>>();
        assert!(bytes <= 128, "{bytes}");
    }
}
