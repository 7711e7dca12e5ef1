//! What policies have done, counted by rule and backend.
//!
//! Invariants: counting takes no lock and no allocation; counts only grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something that a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyEvent {
    /// A request was sent again.
    Retried,
    /// A request was not sent again, for the budget was spent.
    BudgetSpent,
    /// A circuit opened.
    BreakerOpened,
    /// A circuit closed.
    BreakerClosed,
    /// A request was refused because a circuit was open.
    RefusedByBreaker,
    /// A request had to wait for its turn.
    Queued,
    /// A request was refused because too many were waiting, or because it had waited for too long.
    QueueFull,
    /// A request was refused because a rate limit was spent.
    RateLimited,
    /// A request was refused because there was too much to do.
    Shed,
    /// An endpoint was left alone because it failed.
    Ejected,
    /// A fault was wanted, and was done to a request.
    Injected,
    /// A request got the fallback.
    FellBack,
}

impl PolicyEvent {
    /// All of them, in the order of [`PolicySeries::counts`].
    pub const ALL: [Self; 12] = [
        Self::Retried,
        Self::BudgetSpent,
        Self::BreakerOpened,
        Self::BreakerClosed,
        Self::RefusedByBreaker,
        Self::Queued,
        Self::QueueFull,
        Self::RateLimited,
        Self::Shed,
        Self::Ejected,
        Self::Injected,
        Self::FellBack,
    ];

    /// A word for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::BudgetSpent => "budget_spent",
            Self::BreakerOpened => "breaker_opened",
            Self::BreakerClosed => "breaker_closed",
            Self::RefusedByBreaker => "circuit_open",
            Self::Queued => "queued",
            Self::QueueFull => "queue_full",
            Self::RateLimited => "rate_limited",
            Self::Shed => "overloaded",
            Self::Ejected => "ejected",
            Self::Injected => "fault_injected",
            Self::FellBack => "fell_back",
        }
    }
}

/// What the policy of a rule has done for one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySeries {
    /// The rule's id.
    pub rule: Arc<str>,
    /// The backend.
    pub backend: Arc<str>,
    /// By [`PolicyEvent`], in the order of [`PolicyEvent::ALL`].
    pub counts: [u64; PolicyEvent::ALL.len()],
}

impl PolicySeries {
    /// How often something was done.
    #[must_use]
    pub fn count(&self, event: PolicyEvent) -> u64 {
        self.counts[event as usize]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }
}

/// The live counters.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; PolicyEvent::ALL.len()]);

impl Counts {
    pub(super) fn add(&self, event: PolicyEvent) {
        self.0[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, rule: &Arc<str>, backend: &Arc<str>) -> PolicySeries {
        let counts = std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed));
        PolicySeries { rule: rule.clone(), backend: backend.clone(), counts }
    }
}
