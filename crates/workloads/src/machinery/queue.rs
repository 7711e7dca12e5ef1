//! A work queue of keys.
//!
//! Invariants:
//! - A key is queued at most once, and never handed out twice at the same time: added while it is worked on, it comes again after.
//! - What a key costs when it fails grows: 5 ms, 10 ms, ... up to a minute, until it succeeds.
//! - The queue is as long as there are distinct keys, so it is bounded by the number of objects.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

struct State<T> {
    ready: VecDeque<T>,
    queued: HashSet<T>,
    active: HashSet<T>,
    /// Added while active: to be queued again when done.
    again: HashSet<T>,
    later: BTreeMap<(Instant, u64), T>,
    due: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    sequence: u64,
}

/// See the module's header.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T) -> bool {
        if self.active.contains(&key) {
            self.again.insert(key);
            return false;
        }
        if !self.queued.insert(key.clone()) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }

    /// Keeps the earlier of two times for one key.
    fn add_at(&mut self, key: T, at: Instant) {
        if let Some(known) = self.due.get(&key) {
            if known.0 <= at {
                return;
            }
            self.later.remove(known);
        }
        self.sequence += 1;
        let slot = (at, self.sequence);
        self.due.insert(key.clone(), slot);
        self.later.insert(slot, key);
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    pub(crate) fn new() -> Queue<T> {
        Queue {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                queued: HashSet::new(),
                active: HashSet::new(),
                again: HashSet::new(),
                later: BTreeMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                sequence: 0,
            }),
            wake: Notify::new(),
        }
    }

    /// Queues a key now.
    pub(crate) fn add(&self, key: T) {
        if self.state.lock().add(key) {
            self.wake.notify_one();
        }
    }

    /// Queues a key after a while. An earlier time already asked for stays.
    pub(crate) fn add_after(&self, key: T, after: Duration) {
        if after.is_zero() {
            return self.add(key);
        }
        self.state.lock().add_at(key, Instant::now() + after);
        self.wake.notify_one();
    }

    /// Queues a key that failed, later each time it fails in a row.
    pub(crate) fn retry(&self, key: T) {
        let mut state = self.state.lock();
        let failures = state.failures.entry(key.clone()).or_insert(0);
        let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(20)).min(LONGEST_PAUSE);
        *failures = failures.saturating_add(1);
        state.add_at(key, Instant::now() + pause);
        drop(state);
        self.wake.notify_one();
    }

    /// The key succeeded: its next failure is the first again.
    pub(crate) fn forget(&self, key: &T) {
        self.state.lock().failures.remove(key);
    }

    /// The next key to work on; [`Queue::done`] gives it back. Cancel safe.
    pub(crate) async fn next(&self) -> T {
        loop {
            let woken = self.wake.notified();
            let due = {
                let mut state = self.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.active.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.later.first_key_value().map(|(slot, _)| slot.0)
            };
            match due {
                Some(at) => tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => woken.await,
            }
        }
    }

    /// Work on the key has ended.
    pub(crate) fn done(&self, key: &T) {
        let mut state = self.state.lock();
        state.active.remove(key);
        if state.again.remove(key) && state.add(key.clone()) {
            drop(state);
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_handed_out_once_and_again_when_added_meanwhile() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        assert!(tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err());
        queue.done(&"b");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(tokio::time::timeout(Duration::from_secs(5), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_times_counts() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"a");
        assert!(tokio::time::timeout(Duration::from_secs(90), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failing_costs_more_each_time_and_success_resets_it() {
        let queue = Queue::new();
        let mut pauses = Vec::new();
        for _ in 0..16 {
            let start = Instant::now();
            queue.retry("a");
            let key = queue.next().await;
            pauses.push(start.elapsed().as_millis());
            queue.done(&key);
        }
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
        assert!((5..=7).contains(&pauses[0]), "{pauses:?}");
        assert_eq!(pauses[15] / 1000, 60, "{pauses:?}");
        queue.forget(&"a");
        let start = Instant::now();
        queue.retry("a");
        queue.next().await;
        assert!(start.elapsed() < Duration::from_millis(10));
    }

    #[tokio::test]
    async fn many_workers_drain_all_keys() {
        let queue = std::sync::Arc::new(Queue::new());
        let (sender, mut seen) = tokio::sync::mpsc::channel(200);
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let queue = queue.clone();
            let sender = sender.clone();
            workers.spawn(async move {
                loop {
                    let key = queue.next().await;
                    queue.done(&key);
                    if sender.send(key).await.is_err() {
                        return;
                    }
                }
            });
        }
        for key in 0..100 {
            queue.add(key);
        }
        let mut all = HashSet::new();
        while all.len() < 100 {
            all.insert(seen.recv().await.expect("workers are alive"));
        }
        workers.abort_all();
    }
}
