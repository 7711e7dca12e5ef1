//! The hops of a request as a tree, and which of them took the time. Pure.
//!
//! A hop belongs below the one whose span it names as its parent. Where a program did not pass that on, it belongs below the
//! hop that led to the workload that called, at the time that it did.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::record::Record;

/// A hop and what it caused.
#[derive(Clone, Debug, PartialEq)]
pub struct Hop {
    /// The hop.
    pub record: Record,
    /// Whether its place is only likely, as nothing names it.
    pub inferred: bool,
    /// How long neither its answer had come nor any of its children were under way: the time spent in the program it led to.
    pub own: Duration,
    /// What it caused, in order of time.
    pub children: Vec<Hop>,
}

/// The hops as trees; more than one where some are missing.
#[must_use]
pub fn build(mut records: Vec<Record>) -> Vec<Hop> {
    records.sort_by_key(|record| record.time);
    let parents: Vec<Option<(usize, bool)>> = (0..records.len()).map(|hop| parent(&records, hop)).collect();
    let mut children: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
    for (hop, parent) in parents.iter().enumerate() {
        children.entry(parent.map(|(parent, _)| parent)).or_default().push(hop);
    }
    let roots = children.get(&None).cloned().unwrap_or_default();
    roots.into_iter().map(|root| grow(root, &records, &parents, &children)).collect()
}

/// The hop that caused another, and whether that is only likely. Parents are earlier than what they cause, so there is no circle.
fn parent(records: &[Record], hop: usize) -> Option<(usize, bool)> {
    let record = &records[hop];
    if let Some(span) = &record.parent_span_id
        && let Some(parent) = records.iter().position(|other| other.span_id == *span)
    {
        // Clocks of two machines may disagree; a parent that comes later is not taken for one.
        return (parent < hop).then_some((parent, false));
    }
    let likely = records[..hop].iter().enumerate().filter(|(_, other)| {
        other.destination == record.source && other.time <= record.time && other.end() >= record.end()
    });
    likely.min_by_key(|(_, other)| other.duration).map(|(parent, _)| (parent, true))
}

fn grow(
    hop: usize,
    records: &[Record],
    parents: &[Option<(usize, bool)>],
    children: &HashMap<Option<usize>, Vec<usize>>,
) -> Hop {
    let below = children.get(&Some(hop)).map_or(&[][..], Vec::as_slice);
    let busy = below.iter().map(|child| (records[*child].time, records[*child].end()));
    let record = records[hop].clone();
    let own = record.duration.saturating_sub(covered(busy.collect(), record.time, record.end()));
    let children = below.iter().map(|child| grow(*child, records, parents, children)).collect();
    Hop { record, inferred: parents[hop].is_some_and(|(_, inferred)| inferred), own, children }
}

/// How much of a time is covered by these, which are in order of their beginnings.
fn covered(spans: Vec<(SystemTime, SystemTime)>, from: SystemTime, to: SystemTime) -> Duration {
    let mut sum = Duration::ZERO;
    let mut reached = from;
    for (began, ended) in spans {
        let (began, ended) = (began.max(reached), ended.min(to));
        if let Ok(more) = ended.duration_since(began) {
            sum += more;
            reached = ended;
        }
    }
    sum
}

/// The hop that led to where most of the time was spent.
#[must_use]
pub fn slowest(roots: &[Hop]) -> Option<&Hop> {
    let mut slowest: Option<&Hop> = None;
    let mut left: Vec<&Hop> = roots.iter().collect();
    while let Some(hop) = left.pop() {
        if slowest.is_none_or(|slowest| hop.own > slowest.own) {
            slowest = Some(hop);
        }
        left.extend(&hop.children);
    }
    slowest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::hop;

    fn shown(hops: &[Hop]) -> String {
        let each = hops.iter().map(|hop| {
            let likely = if hop.inferred { "?" } else { "" };
            format!("{likely}{}={}({})", hop.record.destination, hop.own.as_millis(), shown(&hop.children))
        });
        each.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_slow_one_of_several_is_named() {
        let records = vec![
            hop(3, Some(2), ["web", "orders"], [10, 90]),
            hop(1, None, ["gateway", "web"], [0, 100]),
            hop(2, Some(1), ["web", "users"], [5, 8]),
            hop(4, Some(3), ["orders", "payments"], [15, 85]),
        ];
        // `orders` was called by a request that claims to be below `users`, which had ended: still its child by name.
        let tree = build(records);
        assert_eq!(shown(&tree), "web=97(users=3(orders=10(payments=70())))");
        assert_eq!(slowest(&tree).map(|hop| hop.record.destination.as_str()), Some("web"));
    }

    #[test]
    fn side_by_side_is_not_counted_twice() {
        let records = vec![
            hop(1, None, ["gateway", "web"], [0, 100]),
            hop(2, Some(1), ["web", "a"], [10, 80]),
            hop(3, Some(1), ["web", "b"], [20, 90]),
        ];
        let tree = build(records);
        assert_eq!(shown(&tree), "web=20(a=70() b=70())");
    }

    #[test]
    fn what_names_no_parent_belongs_to_who_called_at_the_time() {
        let records = vec![
            hop(1, None, ["gateway", "web"], [0, 100]),
            hop(2, None, ["web", "orders"], [10, 90]),
            hop(3, None, ["orders", "payments"], [20, 80]),
            hop(4, None, ["orders", "late"], [20, 95]),
            hop(5, Some(99), ["web", "lost"], [30, 40]),
        ];
        assert_eq!(shown(&build(records)), "web=20(?orders=20(?payments=60()) ?lost=10()) late=75()");
        assert!(build(Vec::new()).is_empty() && slowest(&[]).is_none());
    }

    #[test]
    fn a_parent_that_is_its_own_or_later_makes_no_circle() {
        let records = vec![
            hop(1, Some(1), ["a", "b"], [0, 9]),
            hop(2, Some(3), ["x", "y"], [1, 2]),
            hop(3, Some(2), ["y", "z"], [2, 3]),
        ];
        assert_eq!(shown(&build(records)), "b=9() y=1(z=1())");
    }
}
