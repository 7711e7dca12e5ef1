//! After a start, sockets that face the outside stay shut until what answered behind them before answers again.
//!
//! Whoever knows a second proxy for the same goes there when a connection is refused, and so does a health check that only connects;
//! 503 would be an answer, to be believed. So a socket that only had to be opened to say "not yet" is bound, so that its address is
//! known and nobody else's, and not listened on: the system refuses connections. It does not share its address meanwhile: the system
//! lets others that share listen where nobody does yet.
//!
//! Invariants: only what the kept snapshot knew to answer is waited for; there is a limit, and somebody may end the wait before it;
//! a socket that was opened is not shut again; sockets between services are never held; what could not be opened is tried again.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use super::{Proxy, SocketKey};
use crate::error::BindError;
use crate::listen;
use crate::snapshot::{
    AT_REST, Action, Backend, BackendId, Forwarded, Listener, ListenerProtocol, Rule, Snapshot, Weighted,
};

/// Sockets that are bound and shut, and what they wait for.
pub(super) struct Hold {
    awaited: BTreeSet<BackendId>,
    shut: HashMap<SocketKey, TcpSocket>,
    until: Instant,
}

impl Hold {
    /// Waits for what answered when `kept` was kept; nothing is held where nothing did.
    pub(super) fn of(kept: &Snapshot, limit: std::time::Duration) -> Option<Self> {
        let awaited = &kept.answering;
        (!awaited.is_empty()).then(|| Self {
            awaited: awaited.clone(),
            shut: HashMap::new(),
            until: Instant::now() + limit,
        })
    }

    /// Lets go of sockets that no snapshot wants.
    pub(super) fn retain(&mut self, wanted: impl Fn(&SocketKey) -> bool) {
        self.shut.retain(|key, _| wanted(key));
    }

    /// Whether a listener can't answer yet what it could before.
    fn holds<'a>(&self, listener: &Listener, backend: impl Fn(&BackendId) -> Option<&'a Backend>) -> bool {
        let silent = |id: &BackendId| {
            let empty = |backend: &Backend| backend.endpoints.is_empty() && backend.names.is_empty();
            **id == *AT_REST || self.awaited.contains(id) && backend(id).is_none_or(empty)
        };
        listener.forwarded == Forwarded::Replace && backends(listener).into_iter().any(silent)
    }
}

/// Resolves when the wait has taken too long; never where nothing is held.
pub(super) async fn passed(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn of_rule(rule: &Rule) -> &[Weighted] {
    match &rule.action {
        Action::Forward { backends } => backends,
        Action::Respond { .. } => &[],
    }
}

/// The backends that a listener sends to.
fn backends(listener: &Listener) -> Vec<&BackendId> {
    let mut weighted: Vec<_> = listener.hosts.iter().flat_map(|host| &host.rules).flat_map(of_rule).collect();
    let mut all = Vec::new();
    match &listener.protocol {
        ListenerProtocol::Tls { names, .. } => weighted.extend(names.iter().flat_map(|name| &name.backends)),
        ListenerProtocol::Tcp { backend } | ListenerProtocol::Sniff { tcp: backend } => all.push(backend),
        ListenerProtocol::Http
        | ListenerProtocol::Https { .. }
        | ListenerProtocol::Egress { .. }
        | ListenerProtocol::Mesh => {}
    }
    all.extend(weighted.into_iter().filter(|weighted| weighted.weight > 0).map(|weighted| &weighted.backend));
    all
}

impl Proxy {
    /// Until when sockets are held at most.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.hold.as_ref().map(|hold| hold.until)
    }

    /// Binds a listener's socket, or takes the one that is held; it is listened on unless it has to wait (then there is none, and its
    /// address all the same).
    pub(super) fn bind<'a>(
        &mut self,
        listener: &Listener,
        backend: impl Fn(&BackendId) -> Option<&'a Backend>,
    ) -> Result<(SocketAddr, Option<TcpListener>), (SocketAddr, io::Error)> {
        let key = SocketKey::of(listener);
        let held = self.hold.as_mut().and_then(|hold| hold.shut.remove(&key));
        let socket = held.map_or_else(|| listen::bind(listener.bind, listener.fallback), Ok)?;
        let address = socket.local_addr().map_err(|error| (listener.bind, error))?;
        listen::forsake_stalled(&socket, self.shared.settings.stalled).map_err(|error| (address, error))?;
        match self.hold.as_mut().filter(|hold| hold.holds(listener, backend)) {
            Some(hold) => {
                socket.set_reuseaddr(false).map_err(|error| (address, error))?;
                hold.shut.insert(key, socket);
                Ok((address, None))
            }
            None => listened(socket).map(|open| (address, Some(open))).map_err(|error| (address, error)),
        }
    }

    /// Tries listeners again that could not be bound: nobody tells when a port comes free.
    pub(super) fn bind_again(&mut self) {
        let failed =
            |(id, at): (&Arc<str>, &Result<_, _>)| (at.is_err() && !self.closed.contains(id)).then(|| id.clone());
        let failed: Vec<_> = self.bound.borrow().iter().filter_map(failed).collect();
        for (listener, table) in failed.iter().filter_map(|id| self.tables.get(id)).cloned().collect::<Vec<_>>() {
            let backends = std::mem::take(&mut self.backends);
            let bound = self.bind(&listener, |id| backends.get(id).map(|(backend, _)| backend));
            self.backends = backends;
            match bound {
                Ok((address, socket)) => {
                    tracing::info!(listener = &*listener.id, %address, "the address is to be had now");
                    if let Some(socket) = socket {
                        let running = self.start(socket, address, &table);
                        self.listeners.insert(SocketKey::of(&listener), running);
                    }
                    self.tell(&listener.id, Ok(address));
                }
                Err((address, error)) => {
                    tracing::debug!(listener = &*listener.id, %address, %error, "still cannot listen");
                }
            }
        }
    }

    fn tell(&self, listener: &Arc<str>, at: Result<SocketAddr, BindError>) {
        self.bound.send_modify(|bound| {
            Arc::make_mut(bound).insert(Arc::clone(listener), at);
        });
    }

    /// What was just applied is true now, or was kept (`live` says which): once nothing is shut that is true now, nothing will be.
    pub(super) fn held(&mut self, live: bool) {
        if live && self.hold.as_ref().is_some_and(|hold| hold.shut.is_empty()) {
            self.hold = None;
        }
    }

    /// What is kept while sockets are held still knows what is waited for.
    pub(super) fn remember(&self, at_rest: &mut Snapshot) {
        let awaited = self.hold.iter().flat_map(|hold| &hold.awaited);
        at_rest.answering.extend(awaited.filter(|id| at_rest.backends.contains_key(*id)).cloned());
    }

    /// Opens every socket that is held.
    pub(super) fn open(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let of_key: HashMap<SocketKey, Arc<str>> =
            self.tables.values().map(|(listener, _)| (SocketKey::of(listener), Arc::clone(&listener.id))).collect();
        for (key, socket) in hold.shut {
            let Some((listener, table)) = of_key.get(&key).and_then(|id| self.tables.get(id)).cloned() else {
                continue;
            };
            let address = socket.local_addr().unwrap_or(listener.bind);
            match listened(socket) {
                Ok(socket) => {
                    let running = self.start(socket, address, &table);
                    self.listeners.insert(key, running);
                }
                Err(source) => {
                    let error = BindError { listener: Arc::clone(&listener.id), address, source: Arc::new(source) };
                    tracing::warn!("{error}");
                    self.tell(&listener.id, Err(error));
                }
            }
        }
    }
}

/// Listens on a socket that may have been held.
fn listened(socket: TcpSocket) -> io::Result<TcpListener> {
    // What is left of an earlier life's connections does not keep it from that.
    socket.set_reuseaddr(true)?;
    socket.listen(listen::BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Admits, Endpoint, Guard, HostMatch, Match, Timeouts, VirtualHost};

    fn listener(forwarded: Forwarded, to: &[(&str, u32)]) -> Listener {
        let weighted = |(id, weight): &(&str, u32)| Weighted {
            backend: (*id).into(),
            weight: *weight,
            filters: Vec::new(),
            policy: None,
        };
        let rule = Rule {
            id: "r".into(),
            matches: Match::default(),
            filters: Vec::new(),
            action: Action::Forward { backends: to.iter().map(weighted).collect() },
            timeouts: Timeouts::default(),
            client: None,
            guard: Guard::default(),
        };
        Listener {
            id: "l".into(),
            bind: ([127, 0, 0, 1], 0).into(),
            fallback: None,
            protocol: ListenerProtocol::Http,
            forwarded,
            admits: Admits::Anybody,
            peer_name: None,
            shows: None,
            hosts: vec![VirtualHost { host: HostMatch::Any, rules: vec![rule] }],
            for_callers: Vec::new(),
        }
    }

    #[test]
    fn only_what_answered_before_and_faces_the_outside_is_waited_for() {
        let kept = Snapshot { answering: ["a".into(), "gone".into()].into(), ..Snapshot::default() };
        let hold = Hold::of(&kept, std::time::Duration::from_secs(1)).expect("a had endpoints");
        let full = Backend { endpoints: vec![Endpoint::plain(([127, 0, 0, 1], 1).into())], ..Backend::default() };
        let empty = Backend::default();
        let outside = Forwarded::Replace;
        for (listener, a, holds) in [
            (listener(outside, &[("a", 1)]), &empty, true),
            (listener(outside, &[("a", 1)]), &full, false),
            (listener(outside, &[("a", 1), ("never", 1)]), &full, false),
            (listener(outside, &[("a", 1), ("gone", 1)]), &full, true),
            (listener(outside, &[("a", 1), ("gone", 0)]), &full, false),
            (listener(outside, &[("never", 1)]), &empty, false),
            (listener(outside, &[]), &empty, false),
            (listener(outside, &[(AT_REST, 1)]), &full, true),
            (listener(Forwarded::Append, &[("a", 1)]), &empty, false),
        ] {
            let backend = |id: &BackendId| (**id == *"a").then_some(a);
            assert_eq!(hold.holds(&listener, backend), holds, "{listener:?} {a:?}");
        }
        assert!(Hold::of(&Snapshot::default(), std::time::Duration::from_secs(1)).is_none());
    }

    #[tokio::test]
    async fn what_is_held_is_nobody_elses_and_what_cannot_be_opened_is_tried_again() {
        let sharing = || {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("a new socket");
            socket
        };
        let others = sharing();
        others.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = others.local_addr().expect("an address");
        let (mut proxy, handle) = super::super::build(crate::Settings::default(), crate::Dependencies::default());
        let kept = Snapshot { answering: ["a".into()].into(), ..Snapshot::default() };
        proxy.hold = Hold::of(&kept, std::time::Duration::from_secs(600));
        let held = Listener { bind: address, ..listener(Forwarded::Replace, &[("a", 1)]) };
        let key = SocketKey::of(&held);
        let backends = [("a".into(), Backend::default())].into();
        let snapshot = Snapshot { listeners: vec![held], backends, ..Snapshot::default() };
        let applied = proxy.apply(snapshot).await.expect("a good snapshot");
        assert!(matches!(applied.bound["l"], Ok(bound) if bound == address), "{applied:?}");
        assert!(proxy.listeners.is_empty(), "it is shut");
        sharing().bind(address).expect_err("it is held");
        others.listen(1).expect_err("it is held");
        // All the same somebody else has it.
        proxy.hold.as_ref().expect("it is held").shut[&key].set_reuseaddr(true).expect("a socket");
        let others = sharing();
        others.bind(address).expect("it is shared");
        let others = others.listen(1).expect("nobody listens");
        let mut told = handle.subscribe_bound();
        proxy.open();
        assert!(told.has_changed().expect("the proxy is there") && told.borrow_and_update()["l"].is_err());
        proxy.bind_again();
        assert!(!told.has_changed().expect("the proxy is there"), "it is still taken");
        drop(others);
        proxy.bind_again();
        assert!(matches!(told.borrow_and_update()["l"], Ok(bound) if bound == address));
        tokio::net::TcpStream::connect(address).await.expect("it is listened on");
        // What was closed on purpose stays so.
        proxy.close(&["l".into()]).await;
        proxy.tell(
            &"l".into(),
            Err(BindError { listener: "l".into(), address, source: Arc::new(io::Error::other("x")) }),
        );
        proxy.bind_again();
        assert!(proxy.listeners.is_empty());
    }
}
