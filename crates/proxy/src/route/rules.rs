//! Finds the first rule of a host that matches, without looking at the others.

use std::collections::HashMap;
use std::sync::Arc;

use super::condition::Path;
use super::{Candidate, Rule};

/// Up to this many rules are simply tried one after the other.
const FEW: usize = 8;

/// The rules of one host in order of precedence.
pub(crate) struct Rules {
    all: Vec<Arc<Rule>>,
    /// Positions of rules by path, in rising order.
    exact: HashMap<Box<str>, Vec<usize>>,
    prefix: HashMap<Box<str>, Vec<usize>>,
    regex: Vec<usize>,
    /// How many segments the longest prefix has.
    depth: usize,
}

impl Rules {
    pub(super) fn new(all: Vec<Arc<Rule>>) -> Self {
        let mut rules = Self { all, exact: HashMap::new(), prefix: HashMap::new(), regex: Vec::new(), depth: 0 };
        for (position, rule) in rules.all.iter().enumerate() {
            match rule.condition.path() {
                Path::Exact(path) => rules.exact.entry(path.clone()).or_default().push(position),
                Path::Prefix(path) => {
                    rules.depth = rules.depth.max(path.matches('/').count());
                    rules.prefix.entry(path.clone()).or_default().push(position);
                }
                Path::Regex(_) => rules.regex.push(position),
            }
        }
        rules
    }

    /// The first rule that matches.
    pub(crate) fn find(&self, candidate: &Candidate<'_>) -> Option<&Arc<Rule>> {
        if self.all.len() <= FEW {
            return self.all.iter().find(|rule| rule.condition.holds(candidate));
        }
        let mut best = usize::MAX;
        let mut consider = |positions: &[usize]| {
            let better = positions.iter().take_while(|position| **position < best);
            // Not only the first of them: its other conditions may not hold.
            if let Some(found) = better.copied().find(|p| self.all[*p].condition.holds_beside_path(candidate)) {
                best = found;
            }
        };
        if let Some(positions) = self.exact.get(candidate.path) {
            consider(positions);
        }
        for prefix in prefixes(candidate.path, self.depth) {
            if let Some(positions) = self.prefix.get(prefix) {
                consider(positions);
            }
        }
        for position in &self.regex {
            if *position >= best {
                break;
            }
            if self.all[*position].condition.holds(candidate) {
                best = *position;
            }
        }
        self.all.get(best)
    }
}

/// The prefixes of a path by whole segments, with at most so many of them, and the empty one: `/a/b` has `/a/b`, `/a` and nothing.
fn prefixes(path: &str, depth: usize) -> impl Iterator<Item = &str> {
    let slashes = path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at);
    // The end of a segment is the next slash or the end of the path; the first slash begins the path.
    let ends = slashes.chain(std::iter::once(path.len()));
    ends.take(depth + 1).map(|end| &path[..end])
}
