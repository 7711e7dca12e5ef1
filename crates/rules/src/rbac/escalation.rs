//! Nobody gives away what they do not have: what rules grant beyond those of who writes them.
//!
//! Invariants: the wording is upstream's; the work is bounded by [`MOST_ATOMS`] and [`MOST_STEPS`], and what is larger is refused. It looks at
//! [`Held`], not at the index, so that nobody waits for it.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::index::Held;
use super::question::Subject;
use super::rule::Rule;

/// The most combinations of groups, resources, names and verbs that a role may be made of by somebody who does not hold everything.
const MOST_ATOMS: usize = 100_000;
/// The most words that are compared for one role: each combination may be held against each rule of who writes it.
const MOST_STEPS: usize = 20_000_000;
/// The most objects, and the most verbs, of missing rights that are listed.
const MOST_SHOWN: usize = 100;

/// The pieces of `wanted` that no rule of `held` covers, those of the same object put together again; `None`: too many to look at.
pub fn missing(held: &[&Rule], wanted: &[Rule]) -> Option<Vec<Rule>> {
    let size = wanted.iter().fold(0usize, |sum, rule| sum.saturating_add(rule.size()));
    if size > MOST_ATOMS {
        return None;
    }
    let mut steps = 0usize;
    let mut missing: BTreeMap<Rule, Vec<Box<str>>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for atom in wanted.iter().flat_map(Rule::atoms) {
        let mut covered = false;
        for rule in held {
            steps = steps.saturating_add(rule.words());
            covered = rule.covers(&atom);
            if covered {
                break;
            }
        }
        if steps > MOST_STEPS {
            return None;
        }
        if covered || !seen.insert(atom.clone()) {
            continue;
        }
        let verbs = atom.verbs.clone();
        let object = Rule { verbs: Box::default(), ..atom };
        if missing.len() >= MOST_SHOWN && !missing.contains_key(&object) {
            break;
        }
        let known = missing.entry(object).or_default();
        if known.len() < MOST_SHOWN {
            known.extend(verbs);
        }
    }
    Some(missing.into_iter().map(|(object, verbs)| Rule { verbs: verbs.into(), ..object }).collect())
}

/// Refuses `wanted` where the subject, who holds `held`, does not hold it all.
///
/// # Errors
/// Upstream's sentence, with the rights that are missing.
pub fn confirm(held: &Held, subject: Subject<'_>, wanted: &[Rule]) -> Result<(), String> {
    let Some(missing) = missing(&held.rules(), wanted) else {
        return Err(format!(
            "the rules have more than {MOST_ATOMS} combinations of groups, resources, names and verbs, or would have to be compared with \
             too many of yours; write several roles, or use *"
        ));
    };
    if missing.is_empty() {
        return Ok(());
    }
    let mut shown: Vec<String> = missing.iter().map(ToString::to_string).collect();
    shown.sort();
    let groups: Vec<String> = subject.groups.iter().map(|group| format!("{group:?}")).collect();
    let mut message = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        subject.name,
        groups.join(" "),
        shown.join("\n")
    );
    if !held.errors.is_empty() {
        message += &format!("; resolution errors: [{}]", held.errors.join(", "));
    }
    Err(message)
}

/// What aggregation asks for, as it may come to grant anything.
pub fn everything() -> Vec<Rule> {
    vec![Rule::all_resources(), Rule::all_urls()]
}

/// Whether a ClusterRole is put together of others.
pub fn is_aggregated(role: &Value) -> bool {
    !role["aggregationRule"].is_null()
}
