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

use crate::upstream::Pool;

/// One address and what is known about it.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) pool: Pool,
    in_flight: AtomicUsize,
    retired: AtomicBool,
    /// A moving average of the time to the head of an answer, in microseconds.
    latency: AtomicU64,
    /// Woken when the endpoint is retired, and when its last request ends after that.
    idle: Notify,
}

impl Endpoint {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            pool: Pool::default(),
            in_flight: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            latency: AtomicU64::new(0),
            idle: Notify::new(),
        }
    }

    /// Counts a request in; None where the endpoint is retired.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Ticket> {
        let ticket = self.enter_unchecked();
        // Count first, look second: whoever retires the endpoint looks at the count after setting the flag.
        (!self.retired.load(Ordering::SeqCst)).then_some(ticket)
    }

    fn enter_unchecked(self: &Arc<Self>) -> Ticket {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        Ticket { endpoint: Arc::clone(self) }
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
        // Racing observers may lose one sample, which an average survives.
        self.latency.store((latency * 7 + micros.min(60_000_000)) / 8, Ordering::Relaxed);
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.pool.close();
        self.idle.notify_waiters();
    }

    fn revive(&self) {
        if self.retired.swap(false, Ordering::SeqCst) {
            self.pool.open();
        }
    }
}

/// A request under way at an endpoint; counts until dropped.
pub(crate) struct Ticket {
    pub(crate) endpoint: Arc<Endpoint>,
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
    by_address: Mutex<HashMap<SocketAddr, Arc<Endpoint>>>,
}

impl Endpoints {
    /// The endpoint at an address; made or revived where it does not serve yet.
    pub(crate) fn serving(&self, address: SocketAddr) -> Arc<Endpoint> {
        let mut all = self.by_address.lock();
        let endpoint = all.entry(address).or_insert_with(|| Arc::new(Endpoint::new(address)));
        endpoint.revive();
        Arc::clone(endpoint)
    }

    /// Retires every endpoint that `serves` says no of, and forgets retired ones without requests.
    pub(crate) fn retire_others(&self, serves: impl Fn(&SocketAddr) -> bool) {
        self.by_address.lock().retain(|address, endpoint| {
            if serves(address) {
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
        for endpoint in self.by_address.lock().values() {
            endpoint.pool.sweep(now);
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.by_address.lock().values().map(|endpoint| endpoint.in_flight()).sum()
    }

    /// Waits until the endpoint is retired and carries nothing; says whether that came before the limit.
    pub(crate) async fn drained(&self, address: SocketAddr, limit: Duration) -> bool {
        let Some(endpoint) = self.by_address.lock().get(&address).cloned() else { return true };
        let wait = async {
            loop {
                let mut woken = std::pin::pin!(endpoint.idle.notified());
                // Registers before looking, so that no wake-up falls between.
                woken.as_mut().enable();
                if endpoint.is_retired() && endpoint.in_flight() == 0 {
                    return;
                }
                woken.await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}
