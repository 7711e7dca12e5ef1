//! Backends whose endpoints are names: resolved off the path of requests, kept, and asked for again in time.
//!
//! A name never leads into the network beside the machine's own, nor to what this machine itself serves unless its backend says so,
//! and not even then to a port of a listed endpoint or of a listener: whoever may write a name could otherwise go around whoever guards those.
//!
//! Invariants: there is one resolution for a name, however many backends have it, and it ends with the last of them; what was
//! found last serves while a name cannot be resolved; addresses and resolutions under way are bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::network::Network;
use crate::service::Shared;
use crate::snapshot::{Backend, Endpoint, NamedEndpoint};
use crate::whereabouts::{self, Whose};

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
    addresses: BTreeMap<IpAddr, Whose>,
    _life: DropGuard,
}

/// Where a name is not followed to.
#[derive(PartialEq, Eq, Hash)]
struct NotFollowed {
    host: Arc<str>,
    port: u16,
    address: IpAddr,
    why: &'static str,
}

/// All names, and what they stand for.
pub(crate) struct Names {
    known: HashMap<Arc<str>, Known>,
    /// What has been said of them.
    told: HashSet<NotFollowed>,
    tell: mpsc::Sender<Resolved>,
    found: mpsc::Receiver<Resolved>,
    turns: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        let (tell, found) = mpsc::channel(64);
        Self { known: HashMap::new(), told: HashSet::new(), tell, found, turns: Arc::new(Semaphore::new(AT_ONCE)) }
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
            self.known.insert(Arc::clone(host), Known { addresses: BTreeMap::new(), _life: life.drop_guard() });
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
    pub(crate) fn learn(&mut self, resolved: Resolved, network: Option<&Arc<dyn Network>>) -> Option<Arc<str>> {
        let known = self.known.get_mut(&resolved.host)?;
        // Judged here alone, so that everybody who asks goes by the same.
        let judged = |address: IpAddr| (address.to_canonical(), whereabouts::whose(address, network));
        let addresses = resolved.addresses.into_iter().map(judged).collect();
        if known.addresses == addresses {
            return None;
        }
        known.addresses = addresses;
        Some(resolved.host)
    }

    /// The endpoints of a backend as they are now, those that its names stand for behind those that are listed.
    pub(crate) fn endpoints(&self, backend: &Backend, taken: &HashSet<u16>) -> Vec<Endpoint> {
        let mut endpoints = backend.endpoints.clone();
        let led = self.led(backend).filter(|(name, _, whose)| refused(*whose, name, taken).is_none());
        endpoints.extend(led.map(|(name, address, _)| Endpoint {
            tls: name.tls.clone(),
            by_name: true,
            ..Endpoint::plain((address, name.port).into())
        }));
        endpoints
    }

    /// What the names of a backend stand for.
    fn led<'n>(&'n self, backend: &'n Backend) -> impl Iterator<Item = (&'n NamedEndpoint, IpAddr, Whose)> {
        backend.names.iter().flat_map(|name| {
            let addresses = self.known.get(&name.host).map(|known| &known.addresses).into_iter().flatten();
            addresses.map(move |(address, whose)| (name, *address, *whose))
        })
    }

    /// Says where names are not followed to, as soon as that is so and not again while it stays so.
    pub(crate) fn tell<'b>(&mut self, backends: impl Iterator<Item = &'b Backend>, taken: &HashSet<u16>) {
        let mut now = HashSet::new();
        for (name, address, whose) in backends.flat_map(|backend| self.led(backend)) {
            let Some(why) = refused(whose, name, taken) else { continue };
            let not = NotFollowed { host: Arc::clone(&name.host), port: name.port, address, why };
            if !self.told.contains(&not) && !now.contains(&not) {
                tracing::warn!(target: "proxy::refused", host = &*name.host, port = name.port, %address,
                    "a backend's name is not followed there: {why}");
            }
            now.insert(not);
        }
        self.told = now;
    }
}

/// Why a name must not lead to an address that it stands for. `taken` are the ports of listed endpoints and of listeners.
fn refused(whose: Whose, name: &NamedEndpoint, taken: &HashSet<u16>) -> Option<&'static str> {
    match whose {
        Whose::Outside => None,
        Whose::Machine if !name.local => Some("it is this machine, and the name may not lead there"),
        Whose::Machine => taken
            .contains(&name.port)
            .then_some("it is a port of a Pod or of the proxy, which are called by their Services"),
        Whose::Nobody | Whose::Link | Whose::Network => whose.not_outside(),
    }
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
        for (whose, port, local, followed) in [
            (Whose::Outside, 80, false, true),
            (Whose::Outside, 8080, false, true),
            (Whose::Machine, 80, false, false),
            (Whose::Machine, 80, true, true),
            (Whose::Machine, 8080, true, false),
            (Whose::Nobody, 80, true, false),
            (Whose::Link, 80, true, false),
            // Whatever the namespace says: who guards a program there would be gone around.
            (Whose::Network, 80, false, false),
            (Whose::Network, 80, true, false),
        ] {
            let name = NamedEndpoint { host: "x.test".into(), port, local, tls: None };
            assert_eq!(refused(whose, &name, &taken).is_none(), followed, "{whose:?}:{port} local={local}");
        }
    }

    struct Beside;

    impl Network for Beside {
        fn ready(&self) -> crate::network::Asked<()> {
            Box::pin(std::future::pending())
        }

        fn covers(&self, address: IpAddr) -> bool {
            address.to_string().starts_with("10.244.")
        }

        fn has(&self, _: IpAddr) -> bool {
            false
        }

        fn socket(&self) -> crate::network::Asked<std::io::Result<tokio::net::TcpSocket>> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn a_name_never_leads_into_the_network_beside_also_before_there_is_one() {
        let mut names = Names::default();
        let host: Arc<str> = "pod.test".into();
        let life = CancellationToken::new().drop_guard();
        names.known.insert(Arc::clone(&host), Known { addresses: BTreeMap::new(), _life: life });
        let addresses = ["10.244.0.7", "::ffff:10.244.0.8", "192.0.2.1"].map(|text| text.parse().expect("an address"));
        let network: Arc<dyn Network> = Arc::new(Beside);
        let found = || Resolved { host: Arc::clone(&host), addresses: addresses.into() };
        assert!(names.learn(found(), Some(&network)).is_some());
        assert!(names.learn(found(), Some(&network)).is_none(), "nothing new");
        let name = NamedEndpoint { host: Arc::clone(&host), port: 80, local: true, tls: None };
        let backend = Backend { names: vec![name], ..Backend::default() };
        let endpoints = names.endpoints(&backend, &HashSet::new());
        let led: Vec<String> = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(led, ["192.0.2.1:80"]);
        assert!(endpoints[0].by_name);
        names.tell([&backend].into_iter(), &HashSet::new());
        assert_eq!(names.told.len(), 2);
    }
}
