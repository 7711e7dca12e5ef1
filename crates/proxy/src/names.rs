//! Backends whose endpoints are names: resolved off the path of requests, kept, and asked for again in time.
//!
//! A name never leads to what this machine itself serves unless its backend says so, and not even then to a port of a listed
//! endpoint or of a listener: whoever may write a name could otherwise go around whoever guards those.
//!
//! Invariants: there is one resolution for a name, however many backends have it, and it ends with the last of them; what was
//! found last serves while a name cannot be resolved; addresses and resolutions under way are bounded.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::service::Shared;
use crate::snapshot::{Backend, Endpoint, NamedEndpoint};

/// How many addresses of a name are used.
const ADDRESSES: usize = 16;
/// How many names are resolved at once.
const AT_ONCE: usize = 8;
/// How long one resolution may take.
const WITHIN: Duration = Duration::from_secs(5);
/// The wait after a name could not be resolved; it doubles up to the time after which one that was found is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// What has been found.
pub(crate) struct Resolved {
    host: Arc<str>,
    addresses: BTreeSet<IpAddr>,
}

struct Known {
    addresses: BTreeSet<IpAddr>,
    _life: DropGuard,
}

/// All names, and what they stand for.
pub(crate) struct Names {
    known: HashMap<Arc<str>, Known>,
    tell: mpsc::Sender<Resolved>,
    found: mpsc::Receiver<Resolved>,
    turns: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        let (tell, found) = mpsc::channel(64);
        Self { known: HashMap::new(), tell, found, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Names {
    /// Resolves these names from now on, and no others.
    pub(crate) fn follow<'b>(&mut self, backends: impl Iterator<Item = &'b Backend>, shared: &Shared) {
        let wanted: HashSet<&Arc<str>> = backends.flat_map(|backend| &backend.names).map(|name| &name.host).collect();
        self.known.retain(|host, _| wanted.contains(host));
        for host in wanted {
            if self.known.contains_key(host) {
                continue;
            }
            let life = CancellationToken::new();
            let keep =
                keep(Arc::clone(host), self.tell.clone(), Arc::clone(&self.turns), shared.settings.resolve_again);
            let (ended, stop) = (life.clone(), shared.stop.clone());
            shared.upstreams.spawn(async move {
                tokio::select! {
                    () = keep => {}
                    () = ended.cancelled() => {}
                    () = stop.cancelled() => {}
                }
            });
            self.known.insert(Arc::clone(host), Known { addresses: BTreeSet::new(), _life: life.drop_guard() });
        }
    }

    /// Waits for something to be found.
    pub(crate) async fn found(&mut self) -> Resolved {
        match self.found.recv().await {
            Some(resolved) => resolved,
            // Never so: one sender is here.
            None => std::future::pending().await,
        }
    }

    /// Takes note of what was found; the name, where that is news.
    pub(crate) fn learn(&mut self, resolved: Resolved) -> Option<Arc<str>> {
        let known = self.known.get_mut(&resolved.host)?;
        if known.addresses == resolved.addresses {
            return None;
        }
        known.addresses = resolved.addresses;
        Some(resolved.host)
    }

    /// The endpoints of a backend as they are now, those that its names stand for behind those that are listed.
    pub(crate) fn endpoints(&self, backend: &Backend, taken: &HashSet<u16>) -> Vec<Endpoint> {
        let mut endpoints = backend.endpoints.clone();
        for name in &backend.names {
            let addresses = self.known.get(&name.host).map(|known| &known.addresses).into_iter().flatten();
            let allowed = addresses.filter(|address| match refused(**address, name, taken, is_of_this_machine) {
                None => true,
                Some(why) => {
                    tracing::warn!(target: "proxy::refused", host = &*name.host, port = name.port, %address,
                        "a backend's name is not followed there: {why}");
                    false
                }
            });
            let endpoint = |address: &IpAddr| Endpoint {
                tls: name.tls.clone(),
                ..Endpoint::plain((address.to_canonical(), name.port).into())
            };
            endpoints.extend(allowed.map(endpoint));
        }
        endpoints
    }
}

/// Why a name must not lead to an address that it stands for. `taken` are the ports of listed endpoints and of listeners.
fn refused(
    address: IpAddr,
    name: &NamedEndpoint,
    taken: &HashSet<u16>,
    is_own: fn(IpAddr) -> bool,
) -> Option<&'static str> {
    let address = address.to_canonical();
    let (link_local, broadcast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Some("it is no address of anybody");
    }
    if link_local {
        return Some("it is link-local, where machines keep what is theirs alone");
    }
    if !is_own(address) {
        return None;
    }
    if !name.local {
        return Some("it is this machine, and the name may not lead there");
    }
    taken.contains(&name.port).then_some("it is a port of a Pod or of the proxy, which are called by their Services")
}

/// Whether an address is one of this machine's: then a socket can be bound to it.
fn is_of_this_machine(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// Resolves a name again and again.
async fn keep(host: Arc<str>, tell: mpsc::Sender<Resolved>, turns: Arc<Semaphore>, again: Duration) {
    let mut failures = 0_u32;
    loop {
        let turn = turns.acquire().await;
        let found = tokio::time::timeout(WITHIN, lookup_host((&*host, 0))).await;
        drop(turn);
        let wait = match found {
            Ok(Ok(addresses)) => {
                failures = 0;
                let addresses = addresses.map(|address| address.ip()).take(ADDRESSES).collect();
                if tell.send(Resolved { host: Arc::clone(&host), addresses }).await.is_err() {
                    return;
                }
                again
            }
            failed => {
                let why = failed.map_or_else(
                    |_| "it took too long".to_owned(),
                    |found| match found {
                        Ok(_) => String::new(),
                        Err(error) => error.to_string(),
                    },
                );
                // The first time, and then ever more rarely.
                if failures.is_power_of_two() || failures == 0 {
                    tracing::warn!(
                        host = &*host,
                        why,
                        "a backend's name cannot be resolved; what was found last serves"
                    );
                }
                failures = failures.saturating_add(1);
                (AGAIN * 2_u32.saturating_pow(failures.min(10) - 1)).min(again)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_away_from_here_unless_they_may() {
        let taken = HashSet::from([8080]);
        let own: fn(IpAddr) -> bool = |address| address.is_loopback() || address.to_string() == "10.0.0.1";
        let judged = |address: &str, port, local| {
            let name = NamedEndpoint { host: "x.test".into(), port, local, tls: None };
            refused(address.parse().expect("an address"), &name, &taken, own).is_none()
        };
        for (address, port, local, followed) in [
            ("192.0.2.1", 80, false, true),
            ("10.0.0.2", 8080, false, true),
            ("2001:db8::1", 80, false, true),
            ("127.0.0.1", 80, false, false),
            ("127.96.0.5", 80, false, false),
            ("::1", 80, false, false),
            ("::ffff:127.0.0.1", 80, false, false),
            ("10.0.0.1", 80, false, false),
            ("127.0.0.1", 80, true, true),
            ("127.0.0.1", 8080, true, false),
            ("10.0.0.1", 8080, true, false),
            ("0.0.0.0", 80, true, false),
            ("169.254.169.254", 80, true, false),
            ("fe80::1", 80, true, false),
            ("224.0.0.1", 80, true, false),
            ("255.255.255.255", 80, true, false),
        ] {
            assert_eq!(judged(address, port, local), followed, "{address}:{port} local={local}");
        }
        assert!(is_of_this_machine("127.0.0.9".parse().expect("an address")));
        assert!(!is_of_this_machine("192.0.2.1".parse().expect("an address")));
    }
}
