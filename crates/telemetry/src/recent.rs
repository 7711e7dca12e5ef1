//! The most recent records, in memory.
//!
//! Invariant: there are never more than the limit; the oldest go first.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;

use crate::record::Record;

pub(crate) struct Recent {
    limit: usize,
    records: Mutex<VecDeque<Record>>,
}

impl Recent {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, records: Mutex::default() }
    }

    pub(crate) fn keep(&self, records: impl IntoIterator<Item = Record>) {
        let mut kept = self.records.lock();
        for record in records {
            if kept.len() == self.limit {
                kept.pop_front();
            }
            kept.push_back(record);
        }
    }

    /// All records of the trace or request of that id, oldest first. Programs may pass on the one and not the other, so that
    /// what is found by either leads to more.
    pub(crate) fn find(&self, id: &str) -> Vec<Record> {
        let kept = self.records.lock();
        let mut ids: HashSet<&str> = HashSet::from([id]);
        loop {
            let known = ids.len();
            for record in kept.iter() {
                if ids.contains(record.request_id.as_str()) || ids.contains(record.trace_id.as_str()) {
                    ids.extend([record.request_id.as_str(), record.trace_id.as_str()]);
                }
            }
            if ids.len() == known {
                break;
            }
        }
        let found = kept
            .iter()
            .filter(|record| ids.contains(record.request_id.as_str()) || ids.contains(record.trace_id.as_str()));
        let mut found: Vec<Record> = found.cloned().collect();
        found.sort_by_key(|record| record.time);
        found
    }

    /// The last records, newest first.
    pub(crate) fn last(&self, most: usize) -> Vec<Record> {
        self.records.lock().iter().rev().take(most).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::hop;

    #[test]
    fn the_oldest_go_first() {
        let recent = Recent::new(2);
        recent.keep((1..=3).map(|span| hop(span, None, ["a", "b"], [span, span])));
        assert_eq!(recent.last(9).len(), 2);
        assert_eq!(recent.last(1)[0].span_id, format!("{:016x}", 3));
    }

    #[test]
    fn a_request_is_found_by_either_id_and_what_shares_one_with_it() {
        let recent = Recent::new(9);
        let with = |trace: &str, request: &str| Record {
            trace_id: trace.into(),
            request_id: request.into(),
            ..hop(1, None, ["a", "b"], [0, 1])
        };
        recent.keep([with("t1", "r1"), with("t2", "r1"), with("t2", "r2"), with("t3", "r3")]);
        for id in ["t1", "r1", "t2", "r2"] {
            assert_eq!(recent.find(id).len(), 3, "{id}");
        }
        assert_eq!(recent.find("r3").len(), 1);
        assert!(recent.find("none").is_empty());
    }
}
