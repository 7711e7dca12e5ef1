//! How busy the machine is with other things than what is measured.
//!
//! Times of parties that sleep between requests mean little beside a build. A turn can wait for a moment in which the machine is
//! quiet, and be thrown away if that did not last; what is left says how quiet it was.

use std::time::{Duration, Instant};

use crate::Fallible;

/// What the kernel has counted for all cores, in its own unit.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    all: u64,
    idle: u64,
}

impl Cores {
    pub(crate) fn now() -> Fallible<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().ok_or("/proc/stat is empty")?;
        // user nice system idle iowait irq softirq steal; what comes after these is counted in them.
        let counts: Vec<u64> = line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        let idle = counts.get(3..5).ok_or("/proc/stat counts no idle time")?.iter().sum();
        Ok(Self { all: counts.iter().sum(), idle })
    }

    /// The share of all cores, 0 to 1, that was at work since `before`.
    pub(crate) fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let idle = self.idle.saturating_sub(before.idle);
        if all == 0 { 0.0 } else { 1.0 - idle as f64 / all as f64 }
    }
}

/// The share of the cores that others may have in a quiet moment.
pub(crate) const QUIET: f64 = 0.08;
/// How long the machine is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Waits until the machine is quiet, or `until`. Says whether it is.
pub(crate) async fn wait(until: Instant) -> Fallible<bool> {
    while Instant::now() < until {
        let before = Cores::now()?;
        tokio::time::sleep(LOOK).await;
        if Cores::now()?.busy_since(before) < QUIET {
            return Ok(true);
        }
    }
    Ok(false)
}
