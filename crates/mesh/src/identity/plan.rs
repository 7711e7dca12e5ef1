//! What to issue, when, what to forget, how bad things are: decisions from times alone. Pure.
//!
//! Invariants: a certificate is replaced around the middle of its life, and not all at once; nothing is forgotten while
//! anybody may still need it; things are bad from the first failure on, not from the first expiry.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};

use super::spiffe::SpiffeId;

/// How long things last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a certificate of a workload is valid.
    pub life: SignedDuration,
    /// How long after its end it is still used and believed, where no newer one could be had.
    pub grace: SignedDuration,
    /// How long a root is valid. The next one is made when two thirds are over.
    pub root_life: SignedDuration,
    /// How long a new root is in the bundle before it signs.
    pub root_overlap: SignedDuration,
    /// How often whoever signs is asked whether it could.
    pub check: SignedDuration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            life: SignedDuration::from_hours(24),
            grace: SignedDuration::from_hours(48),
            root_life: SignedDuration::from_hours(24 * 365 * 5),
            root_overlap: SignedDuration::from_hours(24),
            check: SignedDuration::from_mins(5),
        }
    }
}

/// A certificate that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose it is.
    pub id: SpiffeId,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// Whether a root that is trusted now has signed it.
    pub trusted: bool,
}

impl Held {
    /// When to replace it: in the middle of its life, give or take a tenth of it, the same each time it is asked.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        const STEPS: u64 = 2001;
        if !self.trusted {
            return self.not_before;
        }
        let mut hasher = DefaultHasher::new();
        (&self.id, self.not_before).hash(&mut hasher);
        let share = (hasher.finish() % STEPS) as f64 / (STEPS - 1) as f64;
        let life = self.not_before.duration_until(self.not_after);
        self.not_before + life.mul_f64(0.4 + 0.2 * share)
    }
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Who gets a new certificate.
    pub issue: Vec<SpiffeId>,
    /// Whose is not needed any more.
    pub forget: Vec<SpiffeId>,
    /// When the next certificate is due; none where there is none.
    pub next: Option<Timestamp>,
}

/// Decides about certificates. Where nobody knows who is there (`wanted` is none), everybody who was there is kept.
#[must_use]
pub fn plan(now: Timestamp, wanted: Option<&BTreeSet<SpiffeId>>, held: &[Held]) -> Plan {
    let mut plan = Plan::default();
    let has: BTreeSet<&SpiffeId> = held.iter().map(|held| &held.id).collect();
    plan.issue.extend(wanted.into_iter().flatten().filter(|id| !has.contains(id)).cloned());
    for held in held {
        if wanted.is_some_and(|wanted| !wanted.contains(&held.id)) {
            plan.forget.push(held.id.clone());
        } else if held.due() <= now {
            plan.issue.push(held.id.clone());
        } else {
            plan.next = Some(plan.next.map_or(held.due(), |next| next.min(held.due())));
        }
    }
    plan
}

/// What is to be done about roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootsPlan {
    /// The places of those that stay.
    pub keep: Vec<usize>,
    /// The place of the one that signs.
    pub signs: Option<usize>,
    /// Whether to make another one.
    pub make: bool,
}

/// Decides about roots, each given by when it begins to sign and when it ends.
#[must_use]
pub fn roots_plan(now: Timestamp, roots: &[(Timestamp, Timestamp)], policy: &Policy) -> RootsPlan {
    let needed = policy.life + policy.grace;
    let succeeded = |signs_from: Timestamp| {
        roots.iter().any(|(later, ends)| *later > signs_from && now < *ends && *later + needed <= now)
    };
    let alive = |(_, (signs_from, ends)): &(usize, &(Timestamp, Timestamp))| now < *ends && !succeeded(*signs_from);
    let keep: Vec<usize> = roots.iter().enumerate().filter(alive).map(|(place, _)| place).collect();
    let begun = keep.iter().copied().filter(|place| roots[*place].0 <= now).max_by_key(|place| roots[*place].0);
    let signs = begun.or_else(|| keep.iter().copied().min_by_key(|place| roots[*place].0));
    let youngest = keep.iter().map(|place| roots[*place].1).max();
    let make = youngest.is_none_or(|ends| now.duration_until(ends) < policy.root_life / 3);
    RootsPlan { keep, signs, make }
}

/// How bad things are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alarm {
    /// Certificates can be had.
    #[default]
    Quiet,
    /// None can be had; those in use are good still.
    Failing {
        /// Since when.
        since: Timestamp,
        /// When the first of those in use ends.
        ends: Option<Timestamp>,
    },
    /// One in use has ended and is used all the same.
    Grace {
        /// Until when.
        until: Timestamp,
    },
    /// One in use is not believed by anybody any more.
    Lost {
        /// Since when.
        since: Timestamp,
    },
}

impl Alarm {
    /// The level as a number: 0 quiet, 1 failing, 2 in grace, 3 lost.
    #[must_use]
    pub fn level(self) -> u8 {
        match self {
            Self::Quiet => 0,
            Self::Failing { .. } => 1,
            Self::Grace { .. } => 2,
            Self::Lost { .. } => 3,
        }
    }
}

/// Decides how bad things are, from when issuing began to fail and when the first certificate in use ends.
#[must_use]
pub fn alarm(now: Timestamp, failing: Option<Timestamp>, ends: Option<Timestamp>, grace: SignedDuration) -> Alarm {
    let lost = |ends: Timestamp| ends + grace <= now;
    match (failing, ends) {
        (_, Some(ends)) if lost(ends) => Alarm::Lost { since: ends + grace },
        (_, Some(ends)) if ends <= now => Alarm::Grace { until: ends + grace },
        (Some(since), ends) => Alarm::Failing { since, ends },
        (None, _) => Alarm::Quiet,
    }
}
