//! Listeners between services have sockets in the other network as well (`network.rs`), once there is one.
//!
//! Invariants: the machine's own sockets do not wait for these; whoever starts programs there can tell when all are there that can be;
//! an address that cannot be listened on keeps no other from being tried, and is tried again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Proxy, SocketKey};
use crate::listen;
use crate::network::{self, Ground};

/// How long a socket of the network beside the machine's own is waited for.
const BESIDE: Duration = Duration::from_secs(2);

impl Proxy {
    /// Listens in the other network, once there is one, wherever that has not been done. Whoever makes its sockets may be gone or hang:
    /// then this ends with the first of them, and is begun again with the next snapshot.
    pub(super) async fn listen_beside(&mut self) {
        let tried = self.listen_wherever_not().await;
        self.beside.send_if_modified(|before| std::mem::replace(before, tried) != tried);
    }

    /// Whether every address has been tried.
    async fn listen_wherever_not(&mut self) -> bool {
        let Some(network) = self.shared.network.clone().filter(|_| self.joined) else { return false };
        for (listener, _) in self.tables.values().filter(|(listener, _)| network::concerns(listener)) {
            let Some(running) = self.listeners.get_mut(&SocketKey::of(listener)) else { continue };
            // Programs there may have been told of either, where it is not the declared port that is bound.
            let addresses = [Some(listener.bind), Some(running.address).filter(|address| *address != listener.bind)];
            for address in addresses.into_iter().flatten() {
                if running.beside.contains_key(&address) {
                    continue;
                }
                let listening = network::listen(&network, address, self.shared.settings.stalled);
                let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no socket was made in time"));
                match tokio::time::timeout(BESIDE, listening).await.unwrap_or_else(late) {
                    Ok(socket) => {
                        let (tell, closed) = oneshot::channel();
                        let (slot, shared) = (Arc::clone(&running.slot), Arc::clone(&self.shared));
                        self.ended.spawn(listen::run(socket, Ground::Network, slot, shared, tell));
                        running.beside.insert(address, closed);
                    }
                    Err(error) => {
                        tracing::warn!(listener = &*listener.id, %address, %error, "cannot listen in the pod network");
                        // What the system says against an address is that address's own affair. Anything else is said by
                        // whoever makes the sockets, or of their not coming.
                        if error.raw_os_error().is_none() {
                            return false;
                        }
                    }
                }
            }
        }
        true
    }
}
