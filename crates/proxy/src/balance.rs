//! Chooses an endpoint of a backend by the power of two choices.
//!
//! Invariants: a backend outlives snapshots and its endpoints are swapped in it, so that a rule matched a moment ago sends
//! to the endpoints of now; choosing takes no lock.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use http::StatusCode;

use crate::access::LivePlace;
use crate::endpoint::{Endpoint, Ticket};
use crate::snapshot::{BackendId, BackendProtocol};

/// What a backend is at the moment.
pub(crate) struct Members {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) protocol: BackendProtocol,
    pub(crate) when_empty: StatusCode,
    pub(crate) place: Option<Arc<LivePlace>>,
}

/// A named set of endpoints that are as good as each other.
pub(crate) struct Backend {
    pub(crate) id: BackendId,
    members: ArcSwap<Members>,
}

impl Backend {
    pub(crate) fn new(id: BackendId) -> Self {
        let members = Members {
            endpoints: Vec::new(),
            protocol: BackendProtocol::Auto,
            when_empty: StatusCode::SERVICE_UNAVAILABLE,
            place: None,
        };
        Self { id, members: ArcSwap::from_pointee(members) }
    }

    pub(crate) fn replace(&self, members: Members) {
        self.members.store(Arc::new(members));
    }

    /// What it is now.
    pub(crate) fn members(&self) -> Guard<Arc<Members>> {
        self.members.load()
    }

    /// Whether it takes requests as they are over HTTP/1.1, those of gRPC aside, from whomever the place lets in where callers are judged.
    pub(crate) fn takes(&self, lets_in: impl FnOnce(&LivePlace) -> bool) -> bool {
        let members = self.members.load();
        members.protocol != BackendProtocol::H2c && members.place.as_deref().is_none_or(lets_in)
    }

    pub(crate) fn protocol(&self) -> BackendProtocol {
        self.members.load().protocol
    }

    pub(crate) fn when_empty(&self) -> StatusCode {
        self.members.load().when_empty
    }

    /// Where it sends to now, and what each carries.
    pub(crate) fn endpoints(&self) -> Vec<(SocketAddr, usize)> {
        self.members.load().endpoints.iter().map(|endpoint| (endpoint.address, endpoint.in_flight())).collect()
    }

    /// Where callers are judged.
    pub(crate) fn place(&self) -> Option<Arc<LivePlace>> {
        self.members.load().place.clone()
    }

    /// Chooses an endpoint that is not among those tried, and counts the request in there.
    pub(crate) fn pick(&self, tried: &[SocketAddr]) -> Option<Ticket> {
        // A second look is only needed where the endpoints changed during the first.
        for _ in 0..4 {
            let members = self.members.load();
            let ticket = choose(&members.endpoints, tried)?.enter();
            if ticket.is_some() {
                return ticket;
            }
        }
        let members = self.members.load();
        members.endpoints.iter().filter(|e| !tried.contains(&e.address)).find_map(Endpoint::enter)
    }
}

fn choose<'a>(endpoints: &'a [Arc<Endpoint>], tried: &[SocketAddr]) -> Option<&'a Arc<Endpoint>> {
    if !tried.is_empty() {
        return endpoints.iter().filter(|e| !tried.contains(&e.address)).min_by_key(|e| e.load());
    }
    match endpoints {
        [] => None,
        [only] => Some(only),
        many => {
            let first = fastrand::usize(..many.len());
            let mut second = fastrand::usize(..many.len() - 1);
            second += usize::from(second >= first);
            let (first, second) = (&many[first], &many[second]);
            let (better, worse) = if second.load() < first.load() { (second, first) } else { (first, second) };
            worse.forgive();
            Some(better)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::endpoint::Endpoints;
    use crate::snapshot;

    fn local(port: u16) -> snapshot::Endpoint {
        snapshot::Endpoint::plain(([127, 0, 0, 1], port).into())
    }

    fn backend(endpoints: &Endpoints, ports: &[u16]) -> Backend {
        let backend = Backend::new("b".into());
        backend.replace(Members {
            endpoints: ports.iter().map(|p| endpoints.serving(&local(*p))).collect(),
            protocol: BackendProtocol::Http1,
            when_empty: StatusCode::SERVICE_UNAVAILABLE,
            place: None,
        });
        backend
    }

    #[test]
    fn nothing_to_choose_from() {
        assert!(backend(&Endpoints::default(), &[]).pick(&[]).is_none());
    }

    #[test]
    fn the_busier_of_two_is_passed_over() {
        let endpoints = Endpoints::default();
        let backend = backend(&endpoints, &[1, 2]);
        let first = backend.pick(&[]).expect("two endpoints");
        let second = backend.pick(&[]).expect("two endpoints");
        assert_ne!(first.endpoint.address, second.endpoint.address);
    }

    #[test]
    fn idle_equals_share() {
        let endpoints = Endpoints::default();
        let backend = backend(&endpoints, &[1, 2, 3]);
        let mut counts = [0; 4];
        for _ in 0..3_000 {
            counts[usize::from(backend.pick(&[]).expect("three endpoints").endpoint.address.port())] += 1;
        }
        assert!(counts[1..].iter().all(|count| *count > 500), "{counts:?}");
    }

    #[test]
    fn a_slow_one_is_avoided_but_not_for_ever() {
        let endpoints = Endpoints::default();
        let backend = backend(&endpoints, &[1, 2]);
        let slow = endpoints.serving(&local(2));
        slow.observe(Duration::from_secs(1));
        let slow_picks =
            |n: usize| (0..n).filter(|_| backend.pick(&[]).expect("two").endpoint.address.port() == 2).count();
        assert_eq!(slow_picks(10), 0);
        assert!(slow_picks(1_000) > 100);
    }

    #[test]
    fn a_retired_endpoint_gets_nothing_and_a_tried_one_nothing_more() {
        let endpoints = Endpoints::default();
        let backend = backend(&endpoints, &[1, 2]);
        let one: SocketAddr = ([127, 0, 0, 1], 1).into();
        let two: SocketAddr = ([127, 0, 0, 1], 2).into();
        assert_eq!(backend.pick(&[one]).expect("one is left").endpoint.address, two);
        assert!(backend.pick(&[one, two]).is_none());
        endpoints.retire_others(|endpoint| endpoint.address == one);
        for _ in 0..100 {
            assert_eq!(backend.pick(&[]).expect("one is left").endpoint.address, one);
        }
    }

    #[tokio::test]
    async fn drained_waits_for_the_last_request() {
        let endpoints = Endpoints::default();
        let backend = backend(&endpoints, &[1]);
        let address: SocketAddr = ([127, 0, 0, 1], 1).into();
        let ticket = backend.pick(&[]).expect("one endpoint");
        endpoints.retire_others(|_| false);
        assert!(!endpoints.drained(address, Duration::from_millis(1)).await);
        let (drained, ()) = tokio::join!(endpoints.drained(address, Duration::from_secs(60)), async { drop(ticket) });
        assert!(drained);
    }
}
