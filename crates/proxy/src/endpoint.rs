//! The endpoints that requests are sent to: what each one carries, its connections, and when it is drained.
//!
//! Invariants: an endpoint is one address, whatever backends list it; a request is counted before the endpoint is
//! known to be serving still, so that retirement either turns a request away or waits for it; nothing here waits without limit.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::identity::Speaker;
use crate::secured::ClientCertificate;
use crate::snapshot;
use crate::traffic::Place;
use crate::upstream::{Pool, Pools, Secure, Secured};

/// How many callers have connections of their own to one proxy; those of others are not kept.
const SPEAKERS: usize = 1024;

/// One address and what is known about it.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// What is asked for, where another proxy listens there.
    pub(crate) peer: Option<Arc<str>>,
    /// Who the program must be, where it is spoken to by mutual TLS.
    pub(crate) expects: Option<Arc<str>>,
    /// The TLS that is spoken to it.
    pub(crate) secure: Option<Arc<Secure>>,
    /// Whether a name led there.
    pub(crate) by_name: bool,
    pools: Pools,
    /// The connections of each caller, where they are made in its name.
    named: Mutex<HashMap<Arc<str>, Pools>>,
    in_flight: AtomicUsize,
    retired: AtomicBool,
    /// A moving average of the time to the head of an answer that follows peaks at once, in microseconds.
    latency: AtomicU64,
    /// Woken when the endpoint is retired, and when its last request ends after that.
    idle: Notify,
}

impl Endpoint {
    fn new(endpoint: &snapshot::Endpoint, threads: usize, secured: &Secured) -> Self {
        Self {
            address: endpoint.address,
            peer: endpoint.peer.clone(),
            expects: endpoint.expects.clone(),
            secure: endpoint.tls.as_ref().map(|says| secured.get(says)),
            by_name: endpoint.by_name,
            pools: Pools::new(threads),
            named: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            latency: AtomicU64::new(0),
            idle: Notify::new(),
        }
    }

    /// The connections that may be used in the name of `speaker`, on which `client` was shown, on this thread.
    pub(crate) fn pool(&self, speaker: Speaker<'_>, client: Option<&ClientCertificate>) -> Arc<Pool> {
        let id = match (speaker, client) {
            (_, Some(client)) if self.peer.is_none() && self.secure.is_some() => client.id(),
            _ if self.peer.is_none() && (self.secure.is_some() || self.expects.is_none()) => return self.pools.here(),
            (Speaker::Proxy, _) => return self.pools.here(),
            (Speaker::Gateway, _) => "gateway",
            (Speaker::Workload(id), _) => id,
        };
        let mut named = self.named.lock();
        if let Some(pools) = named.get(id) {
            return pools.here();
        }
        let pools = Pools::new(self.pools.threads());
        let pool = pools.here();
        if named.len() < SPEAKERS && !self.is_retired() {
            named.insert(id.into(), pools);
        }
        pool
    }

    /// What URLs to it begin with.
    pub(crate) fn scheme(&self) -> http::uri::Scheme {
        if self.secure.is_some() && self.peer.is_none() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP }
    }

    /// Counts a request in; None where the endpoint is retired.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Ticket> {
        let ticket = self.enter_unchecked();
        // Count first, look second: whoever retires the endpoint looks at the count after setting the flag.
        (!self.retired.load(Ordering::SeqCst)).then_some(ticket)
    }

    fn enter_unchecked(self: &Arc<Self>) -> Ticket {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        Ticket { endpoint: Arc::clone(self), place: None, client: None }
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// How much the endpoint has to do; less is better. Latencies count by order of magnitude only, as small differences
    /// between equals would send everything to one of them.
    pub(crate) fn load(&self) -> u64 {
        let magnitude = (self.latency.load(Ordering::Relaxed) / 1_000).checked_ilog(4).map_or(0, |log| log + 1);
        (self.in_flight.load(Ordering::Relaxed) as u64 + 1) << magnitude
    }

    /// Forgets a little of what made this endpoint be passed over, so that it is tried again in time.
    pub(crate) fn forgive(&self) {
        let latency = self.latency.load(Ordering::Relaxed);
        if latency >= 1_000 {
            self.latency.store(latency - latency / 16, Ordering::Relaxed);
        }
    }

    /// Takes note of how long an answer took.
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 16);
        let latency = self.latency.load(Ordering::Relaxed);
        let micros = micros.min(60_000_000);
        // A peak counts at once and is forgotten slowly. Racing observers may lose one sample, which an average survives.
        let average = if micros > latency { micros } else { (latency * 7 + micros) / 8 };
        self.latency.store(average, Ordering::Relaxed);
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.pools.close();
        let named = std::mem::take(&mut *self.named.lock());
        named.values().for_each(Pools::close);
        self.idle.notify_waiters();
    }

    /// Resolves once it is retired and carries nothing.
    async fn emptied(&self) {
        loop {
            let mut woken = std::pin::pin!(self.idle.notified());
            // Registers before looking, so that no wake-up falls between.
            woken.as_mut().enable();
            if self.is_retired() && self.in_flight() == 0 {
                return;
            }
            woken.await;
        }
    }

    fn revive(&self) {
        if self.retired.swap(false, Ordering::SeqCst) {
            self.pools.open();
        }
    }
}

/// A request under way at an endpoint; counts until dropped.
pub(crate) struct Ticket {
    pub(crate) endpoint: Arc<Endpoint>,
    /// What a policy lets only so many requests have.
    pub(crate) place: Option<Place>,
    /// What the endpoint is shown where it asks for a certificate.
    pub(crate) client: Option<Arc<ClientCertificate>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let before = self.endpoint.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.endpoint.retired.load(Ordering::SeqCst) {
            self.endpoint.idle.notify_waiters();
        }
    }
}

/// All endpoints: those that serve, and retired ones that still carry requests.
#[derive(Default)]
pub(crate) struct Endpoints {
    /// How many threads have connections of their own.
    threads: usize,
    all: Mutex<HashMap<snapshot::Endpoint, Arc<Endpoint>>>,
    secured: Secured,
}

impl Endpoints {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads, all: Mutex::default(), secured: Secured::default() }
    }

    /// The endpoint of that description; made or revived where it does not serve yet.
    pub(crate) fn serving(&self, endpoint: &snapshot::Endpoint) -> Arc<Endpoint> {
        let mut all = self.all.lock();
        let made = || Arc::new(Endpoint::new(endpoint, self.threads, &self.secured));
        let endpoint = all.entry(endpoint.clone()).or_insert_with(made);
        endpoint.revive();
        Arc::clone(endpoint)
    }

    /// Retires every endpoint that `serves` says no of, and forgets retired ones without requests.
    pub(crate) fn retire_others(&self, serves: impl Fn(&snapshot::Endpoint) -> bool) {
        self.all.lock().retain(|written, endpoint| {
            if serves(written) {
                return true;
            }
            if !endpoint.is_retired() {
                endpoint.retire();
            }
            endpoint.in_flight() > 0
        });
    }

    /// Closes connections that have been unused for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        for endpoint in self.all.lock().values() {
            endpoint.pools.sweep(now);
            endpoint.named.lock().retain(|_, pools| {
                pools.sweep(now);
                pools.in_use()
            });
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.all.lock().values().map(|endpoint| endpoint.in_flight()).sum()
    }

    /// Waits until an address is retired, however it was spoken to, and carries nothing; says whether that came before the limit.
    pub(crate) async fn drained(&self, address: SocketAddr, limit: Duration) -> bool {
        let ours = |written: &snapshot::Endpoint| written.address == address && written.peer.is_none();
        let all: Vec<Arc<Endpoint>> =
            self.all.lock().iter().filter(|(written, _)| ours(written)).map(|(_, one)| Arc::clone(one)).collect();
        let wait = async {
            for endpoint in &all {
                endpoint.emptied().await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}
