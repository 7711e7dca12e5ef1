//! What a batch of writes does, as a pure function: live entries and writes in, events and verdicts out.
//!
//! A write sees those before it in the same batch. A verdict that rests on one of them holds only if the batch is committed;
//! it is marked as such, so that a failed batch does not report conflicts with what never came to be.

use std::{collections::HashMap, sync::Arc};

use crate::{Entry, Event, Op, Precondition, state::State};

/// What a write comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the event of this revision.
    Commit(u64),
    /// Its precondition does not hold.
    Conflict {
        /// What the key holds.
        current: Option<Entry>,
        /// Whether that is so only once the batch is committed.
        staged: bool,
    },
}

/// What a batch comes to.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The events to commit, in order.
    pub(crate) events: Vec<Event>,
    /// One verdict for each write.
    pub(crate) verdicts: Vec<Verdict>,
}

/// Decides a batch.
pub(crate) fn plan<'a>(state: &State, ops: impl Iterator<Item = &'a Op>) -> Plan {
    let mut plan = Plan::default();
    let mut staged: HashMap<Arc<str>, Option<Entry>> = HashMap::new();
    let mut revision = state.revision();
    for op in ops {
        let (current, from_batch) = match staged.get(op.key()) {
            Some(entry) => (entry.clone(), true),
            None => (state.get(op.key()).cloned(), false),
        };
        if !holds(op, current.as_ref()) {
            plan.verdicts.push(Verdict::Conflict { current, staged: from_batch });
            continue;
        }
        revision += 1;
        let event = event(op, current, revision);
        staged.insert(Arc::clone(&event.key), event.entry());
        plan.events.push(event);
        plan.verdicts.push(Verdict::Commit(revision));
    }
    plan
}

/// Whether the precondition holds; a delete needs something to delete.
fn holds(op: &Op, current: Option<&Entry>) -> bool {
    let met = match op.when() {
        Precondition::Absent => current.is_none(),
        Precondition::Revision(revision) => current.is_some_and(|entry| entry.revision == revision),
        Precondition::Any => true,
    };
    met && (current.is_some() || matches!(op, Op::Put { .. }))
}

fn event(op: &Op, previous: Option<Entry>, revision: u64) -> Event {
    let key = match &previous {
        Some(entry) => Arc::clone(&entry.key),
        None => Arc::from(op.key()),
    };
    let value = match op {
        Op::Put { value, .. } => Some(value.clone()),
        Op::Delete { .. } => None,
    };
    Event { revision, key, value, previous }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ring::Ring;

    fn state() -> State {
        let mut state = State::new(Ring::new(1, 10, 1000));
        state.apply(event(&put("a", Precondition::Any), None, 2));
        state
    }

    fn put(key: &str, when: Precondition) -> Op {
        Op::Put { key: key.to_owned(), value: Bytes::from_static(b"v"), when }
    }

    fn delete(key: &str, when: Precondition) -> Op {
        Op::Delete { key: key.to_owned(), when }
    }

    #[test]
    fn preconditions() {
        use Precondition::{Absent, Any, Revision};
        for (op, goes) in [
            (put("a", Any), true),
            (put("a", Absent), false),
            (put("a", Revision(2)), true),
            (put("a", Revision(1)), false),
            (put("b", Any), true),
            (put("b", Absent), true),
            (put("b", Revision(2)), false),
            (delete("a", Any), true),
            (delete("a", Absent), false),
            (delete("a", Revision(2)), true),
            (delete("a", Revision(3)), false),
            (delete("b", Any), false),
            (delete("b", Absent), false),
            (delete("b", Revision(2)), false),
        ] {
            let plan = plan(&state(), [&op].into_iter());
            let committed = plan.verdicts == [Verdict::Commit(3)];
            assert_eq!(committed, goes, "{op:?}");
            assert_eq!(plan.events.len(), usize::from(goes), "{op:?}");
        }
    }

    #[test]
    fn later_writes_see_earlier_ones_and_conflicts_take_no_revision() {
        use Precondition::{Absent, Any, Revision};
        let ops = [
            put("b", Absent),
            put("b", Absent),
            put("a", Absent),
            put("b", Revision(3)),
            delete("b", Any),
            put("b", Absent),
        ];
        let plan = plan(&state(), ops.iter());
        let short: Vec<_> = plan
            .verdicts
            .iter()
            .map(|verdict| match verdict {
                Verdict::Commit(revision) => format!("commit {revision}"),
                Verdict::Conflict { current, staged } => {
                    format!("conflict with {:?}, staged: {staged}", current.as_ref().map(|entry| entry.revision))
                }
            })
            .collect();
        assert_eq!(
            short,
            [
                "commit 3",
                "conflict with Some(3), staged: true",
                "conflict with Some(2), staged: false",
                "commit 4",
                "commit 5",
                "commit 6",
            ]
        );
        let created: Vec<_> = plan.events.iter().map(Event::created).collect();
        assert_eq!(created, [3, 3, 3, 6]);
    }
}
