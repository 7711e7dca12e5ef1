//! Taking in the clients of a small server, a bounded number at once.
//!
//! Invariants: a client is accepted only when there is room for it, so the others wait in the socket's queue; a failing accept
//! is said and pauses, and ends nothing; the end of serving comes before the next client. It knows no protocol.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long a server rests after an accept that failed: mostly for want of descriptors, which others must give back first.
const PAUSE: Duration = Duration::from_millis(50);

/// Calls `begin` with each client of `server` and the place that it takes among `places`, until `shutdown`. Who is begun is
/// the caller's to end; its place is free once the permit is dropped.
pub(super) async fn each_client<Client>(
    server: &str,
    places: usize,
    shutdown: &CancellationToken,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<Client>>,
    mut begin: impl FnMut(Client, OwnedSemaphorePermit),
) {
    let places = Arc::new(Semaphore::new(places));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, poll_fn(&mut accept).await)
        };
        let (place, client) = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            next = next => next,
        };
        match (place, client) {
            (Ok(place), Ok(client)) => begin(client, place),
            // The semaphore is never closed.
            (Err(_), _) => return,
            (_, Err(error)) => {
                tracing::warn!(%error, "{server} cannot accept a connection");
                tokio::select! { () = tokio::time::sleep(PAUSE) => {}, () = shutdown.cancelled() => return }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_failed_accept_ends_nothing_and_nobody_comes_in_beyond_the_places() {
        let coming = Mutex::new(VecDeque::from([Err(io::Error::other("no descriptors")), Ok(1), Ok(2), Ok(3)]));
        let (shutdown, mut inside) = (CancellationToken::new(), Vec::new());
        let accept =
            |_: &mut Context<'_>| coming.lock().expect("not poisoned").pop_front().map_or(Poll::Pending, Poll::Ready);
        let served = each_client("a server", 2, &shutdown, accept, |client: i32, place| inside.push((client, place)));
        let ended = tokio::time::timeout(Duration::from_millis(500), served).await;
        assert!(ended.is_err(), "it serves on");
        assert_eq!(inside.iter().map(|(client, _)| *client).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(coming.lock().expect("not poisoned").len(), 1, "the third waits in the queue");
    }

    #[tokio::test]
    async fn the_end_comes_before_the_next_client() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        each_client("a server", 1, &shutdown, |_| Poll::Ready(Ok(1)), |client: i32, _| panic!("{client} was let in"))
            .await;
    }
}
