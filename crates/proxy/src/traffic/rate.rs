//! Rate limits by key, by the generic cell rate algorithm: a key is one moment in time, at which it is as good as new.
//!
//! Invariants: a key costs a few dozen bytes and there are only so many; keys beyond that share one limit, so that nobody
//! gets more by inventing them. Time is an argument.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::RateLimit;

const SHARDS: usize = 16;
/// How many keys each shard remembers.
const KEYS: usize = 1024;

/// A limit that many requests share.
pub(crate) struct Limiter {
    settings: RateLimit,
    cell: Cell,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// When each key will be as good as new.
    keys: HashMap<Box<str>, Instant>,
    /// The same for all keys for which there is no room.
    others: Option<Instant>,
    swept: Option<Instant>,
}

/// What a limit comes down to.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The time that one request takes up.
    each: Duration,
    /// How far ahead of the clock a key may be.
    ahead: Duration,
}

impl Cell {
    fn new(settings: &RateLimit) -> Self {
        let each = (settings.per / settings.requests.max(1)).max(Duration::from_nanos(1));
        Self { each, ahead: each * settings.burst.max(1) }
    }

    /// The moment at which the key is as good as new after one more request; or how long until there may be one.
    fn take(self, new_at: Option<Instant>, now: Instant) -> Result<Instant, Duration> {
        let next = new_at.map_or(now, |at| at.max(now)) + self.each;
        match (next - now).checked_sub(self.ahead) {
            None | Some(Duration::ZERO) => Ok(next),
            Some(wait) => Err(wait),
        }
    }
}

impl Limiter {
    pub(super) fn new(settings: RateLimit) -> Self {
        Self {
            cell: Cell::new(&settings),
            settings,
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(super) fn settings(&self) -> &RateLimit {
        &self.settings
    }

    /// Counts a request of a key; or says how long until there may be one.
    pub(super) fn take(&self, key: &str, now: Instant) -> Result<(), Duration> {
        let shard = (self.hasher.hash_one(key) % SHARDS as u64) as usize;
        self.shards[shard].lock().take(key, self.cell, now)
    }
}

impl Shard {
    fn take(&mut self, key: &str, cell: Cell, now: Instant) -> Result<(), Duration> {
        if let Some(at) = self.keys.get_mut(key) {
            *at = cell.take(Some(*at), now)?;
            return Ok(());
        }
        if self.keys.len() >= KEYS {
            self.sweep(cell, now);
        }
        if self.keys.len() >= KEYS {
            self.others = Some(cell.take(self.others, now)?);
            return Ok(());
        }
        self.keys.insert(key.into(), cell.take(None, now)?);
        Ok(())
    }

    /// Forgets keys that are as good as new. Not more often than that may have changed much.
    fn sweep(&mut self, cell: Cell, now: Instant) {
        let pause = cell.ahead.min(Duration::from_secs(1)) / 2;
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < pause) {
            return;
        }
        self.swept = Some(now);
        self.keys.retain(|_, at| *at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RateKey;

    fn limiter(requests: u32, seconds: u64, burst: u32) -> Limiter {
        let per = Duration::from_secs(seconds);
        Limiter::new(RateLimit { name: "l".into(), requests, per, burst, key: RateKey::All })
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        // (millisecond, how many ask, how many may, wait of the first that may not)
        for (limit, steps) in [
            ((10, 1, 10), vec![(0, 15, 10, 100), (100, 3, 1, 100), (1_100, 15, 10, 100)]),
            ((10, 1, 1), vec![(0, 2, 1, 100), (50, 1, 0, 50), (100, 2, 1, 100)]),
            ((60, 60, 5), vec![(0, 9, 5, 1_000), (500, 1, 0, 500), (3_000, 9, 3, 1_000)]),
        ] {
            let limiter = limiter(limit.0, limit.1, limit.2);
            for (at, ask, may, wait) in steps {
                let now = start + Duration::from_millis(at);
                let taken: Vec<_> = (0..ask).map(|_| limiter.take("k", now)).collect();
                assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), may, "{limit:?} at {at}");
                if may < ask {
                    assert_eq!(taken[may], Err(Duration::from_millis(wait)), "{limit:?} at {at}");
                }
            }
        }
    }

    #[test]
    fn keys_are_apart() {
        let (limiter, now) = (limiter(1, 1, 1), Instant::now());
        assert!(limiter.take("a", now).is_ok() && limiter.take("b", now).is_ok());
        assert!(limiter.take("a", now).is_err() && limiter.take("b", now).is_err());
    }

    #[test]
    fn inventing_keys_gains_nothing_and_costs_a_bounded_amount() {
        let (limiter, now) = (limiter(1, 60, 1), Instant::now());
        let may = (0..100_000).filter(|n| limiter.take(&n.to_string(), now).is_ok()).count();
        assert!(may <= SHARDS * (KEYS + 1), "{may}");
        let kept: usize = limiter.shards.iter().map(|shard| shard.lock().keys.len()).sum();
        assert_eq!(kept, SHARDS * KEYS);
        // A known key is not hurt by them, and they are forgotten when they are as good as new.
        assert!(limiter.take("0", now).is_err());
        assert!(limiter.take("another", now + Duration::from_secs(61)).is_ok());
    }
}
