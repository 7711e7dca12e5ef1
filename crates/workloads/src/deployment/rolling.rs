//! How many Pods each ReplicaSet of a Deployment should have next.
//!
//! Invariants: with RollingUpdate there are never more than `replicas + maxSurge` Pods asked for, and no available Pod is given up while
//! fewer than `replicas - maxUnavailable` would stay; with Recreate no new Pod is asked for while an old one runs.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision::{DESIRED, MAXIMUM, annotation, created};

/// A ReplicaSet and the size that is being worked out for it.
#[derive(Clone, Debug)]
pub(crate) struct Sized<'a> {
    pub(crate) set: &'a ReplicaSet,
    pub(crate) replicas: i32,
}

impl<'a> Sized<'a> {
    pub(crate) fn new(set: &'a ReplicaSet) -> Sized<'a> {
        Sized { set, replicas: wanted(set) }
    }
}

/// `spec.replicas` of a ReplicaSet.
pub(crate) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub(crate) fn present(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// What a Deployment asks for, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    pub(crate) replicas: i32,
    pub(crate) surge: i32,
    pub(crate) unavailable: i32,
    pub(crate) rolling: bool,
}

fn scaled(value: Option<&IntOrString>, of: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(of);
            let result = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(result).unwrap_or(i32::MAX)
        }
    }
}

impl Targets {
    pub(crate) fn of(deployment: &Deployment) -> Targets {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate");
        if !rolling {
            return Targets { replicas, surge: 0, unavailable: 0, rolling };
        }
        let quarter = IntOrString::String("25%".to_owned());
        let limits = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = limits.and_then(|limits| limits.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = limits.and_then(|limits| limits.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = scaled(Some(surge), replicas, true);
        let mut unavailable = scaled(Some(unavailable), replicas, false);
        if surge == 0 && unavailable == 0 {
            // Both rounded to nothing: there would be no way forward.
            unavailable = 1;
        }
        Targets { replicas, surge, unavailable: if replicas == 0 { 0 } else { unavailable.min(replicas) }, rolling }
    }

    /// The most Pods there may be.
    pub(crate) fn maximum(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    fn minimum_available(&self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// The size of the new ReplicaSet, given what all of them ask for now.
pub(crate) fn new_size(targets: &Targets, current: i32, all: i32) -> i32 {
    if !targets.rolling {
        return targets.replicas;
    }
    if current > targets.replicas {
        return targets.replicas;
    }
    let room = targets.maximum() - all;
    if room <= 0 {
        return current;
    }
    current + room.min(targets.replicas - current)
}

/// Sizes the old ReplicaSets down as far as availability allows: broken Pods first.
pub(crate) fn shrink_old(targets: &Targets, new: &ReplicaSet, old: &mut [Sized<'_>]) -> bool {
    let old_total: i32 = old.iter().map(|one| one.replicas).sum();
    if old_total == 0 {
        return false;
    }
    let new_unavailable = wanted(new) - available(new);
    let most = old_total + wanted(new) - targets.minimum_available() - new_unavailable;
    if most <= 0 {
        return false;
    }
    old.sort_by(|a, b| created(a.set).cmp(&created(b.set)));
    let mut dropped = 0;
    for one in old.iter_mut() {
        let broken = (one.replicas - available(one.set)).max(0).min(most - dropped);
        one.replicas -= broken;
        dropped += broken;
    }
    let available_now = available(new) + old.iter().map(|one| available(one.set)).sum::<i32>();
    let mut spare = available_now - targets.minimum_available();
    for one in old.iter_mut() {
        if spare <= 0 {
            break;
        }
        let less = one.replicas.min(spare);
        one.replicas -= less;
        spare -= less;
        dropped += less;
    }
    dropped > 0
}

fn number(set: &ReplicaSet, name: &str) -> Option<i32> {
    annotation(set, name)?.parse().ok()
}

/// Whether the Deployment was scaled since its ReplicaSets were sized last.
pub(crate) fn was_scaled(targets: &Targets, all: &[&ReplicaSet]) -> bool {
    all.iter()
        .filter(|set| wanted(set) > 0)
        .any(|set| number(set, DESIRED).is_some_and(|desired| desired != targets.replicas))
}

/// Whether the ReplicaSet's annotations about sizes are out of date.
pub(crate) fn sizes_outdated(targets: &Targets, set: &ReplicaSet) -> bool {
    number(set, DESIRED) != Some(targets.replicas) || number(set, MAXIMUM) != Some(targets.maximum())
}

fn is_saturated(targets: &Targets, new: &ReplicaSet) -> bool {
    wanted(new) == targets.replicas
        && number(new, DESIRED) == Some(targets.replicas)
        && available(new) == targets.replicas
}

/// Sizes after the Deployment itself was scaled, or while it is paused: in proportion where several ReplicaSets have Pods.
///
/// Returns the sets that were looked at; those left out keep everything, their annotations too.
pub(crate) fn scale<'a>(
    targets: &Targets,
    new: Option<&'a ReplicaSet>,
    old: &[&'a ReplicaSet],
    status_replicas: i32,
) -> Vec<Sized<'a>> {
    let active: Vec<&ReplicaSet> = old.iter().copied().chain(new).filter(|set| wanted(set) > 0).collect();
    let newest_old = old.iter().copied().max_by(|a, b| created(a).cmp(&created(b)));
    let only = match active.as_slice() {
        [] => new.or(newest_old),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        if wanted(only) == targets.replicas {
            return Vec::new();
        }
        return vec![Sized { set: only, replicas: targets.replicas }];
    }
    if let Some(new) = new
        && is_saturated(targets, new)
    {
        return active
            .into_iter()
            .filter(|set| set.metadata.uid != new.metadata.uid)
            .map(|set| Sized { set, replicas: 0 })
            .collect();
    }
    if targets.rolling && active.len() > 1 {
        return in_proportion(targets, active, status_replicas);
    }
    Vec::new()
}

fn in_proportion<'a>(targets: &Targets, mut active: Vec<&'a ReplicaSet>, status_replicas: i32) -> Vec<Sized<'a>> {
    let total: i32 = active.iter().map(|set| wanted(set)).sum();
    let allowed = if targets.replicas > 0 { targets.maximum() } else { 0 };
    let to_add = allowed - total;
    // The largest first; of equals the newest when growing, the oldest when shrinking.
    active.sort_by(|a, b| {
        wanted(b)
            .cmp(&wanted(a))
            .then_with(|| if to_add > 0 { created(b).cmp(&created(a)) } else { created(a).cmp(&created(b)) })
    });
    let mut added = 0;
    let mut sized: Vec<Sized<'a>> = active
        .into_iter()
        .map(|set| {
            let mut share = 0;
            if to_add != 0 && to_add != added {
                let fraction = fraction(targets, set, status_replicas);
                share = if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) };
            }
            added += share;
            Sized { set, replicas: (wanted(set) + share).max(0) }
        })
        .collect();
    if to_add != 0
        && let Some(largest) = sized.first_mut()
    {
        largest.replicas = (largest.replicas + to_add - added).max(0);
    }
    sized
}

/// By how much one ReplicaSet's share of the Deployment changes.
fn fraction(targets: &Targets, set: &ReplicaSet, status_replicas: i32) -> i32 {
    let size = wanted(set);
    if targets.replicas == 0 {
        return -size;
    }
    let before = number(set, MAXIMUM).filter(|maximum| *maximum > 0).unwrap_or(status_replicas);
    if before <= 0 {
        return 0;
    }
    let scaled = f64::from(size) * f64::from(targets.maximum()) / f64::from(before);
    // Sizes fit a 32-bit integer, and so does their ratio times a size in any real Deployment; the cast saturates.
    #[allow(clippy::cast_possible_truncation)]
    let rounded = scaled.round() as i32;
    rounded - size
}
