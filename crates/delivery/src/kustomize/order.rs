//! The order of the result: as read, or by kind so that what others need comes first.
//!
//! Invariants: total; the same resources come in the same order. It must not know: what is in the resources.

use super::error::{Result, fail};
use super::id::{FIRST, Gvk, LAST};
use super::resource::Resource;
use super::settings::Sort;
use std::cmp::Ordering;
use std::collections::HashMap;

/// Puts resources in the order that the outermost kustomization asks for; by kind when it asks for none.
pub(super) fn sort(resources: &mut [Resource], wanted: Option<&Sort>) -> Result<()> {
    let builtin = || (FIRST.map(str::to_owned).to_vec(), LAST.map(str::to_owned).to_vec());
    let (first, last) = match wanted {
        None => builtin(),
        Some(Sort { order, legacy }) => match (order.as_str(), legacy) {
            ("legacy", None) => builtin(),
            ("legacy", Some(lists)) => lists.clone(),
            ("fifo", None) => return Ok(()),
            ("fifo", Some(_)) => {
                return fail("sortOptions.legacySortOptions is given, but the order is fifo; take one out");
            }
            (other, _) => return fail(format!("sortOptions.order: `{other}` is neither legacy nor fifo")),
        },
    };
    let length = i64::try_from(first.len()).unwrap_or(i64::MAX);
    let mut ranks: HashMap<&str, i64> = HashMap::new();
    ranks.extend((0..).zip(&first).map(|(at, kind)| (kind.as_str(), at - length)));
    ranks.extend((1..).zip(&last).map(|(at, kind)| (kind.as_str(), at)));
    resources.sort_by_cached_key(|resource| Key::of(resource, &ranks));
    Ok(())
}

#[derive(PartialEq, Eq)]
struct Key {
    rank: i64,
    gvk: Gvk,
    sort_text: String,
    rest: String,
}

impl Key {
    fn of(resource: &Resource, ranks: &HashMap<&str, i64>) -> Self {
        let gvk = resource.gvk();
        let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        let rest = format!("{}|{}|{}", gvk.dotted(), or(resource.namespace(), "~X"), or(resource.name(), "~N"));
        let rank = ranks.get(gvk.kind.as_str()).copied().unwrap_or(0);
        Self { rank, sort_text: gvk.sort_text(), gvk, rest }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.gvk == other.gvk {
            return self.rest.cmp(&other.rest);
        }
        // Namespaces of other groups come before the core group's.
        let namespaces = self.gvk.kind == "Namespace" && other.gvk.kind == "Namespace";
        let by_text = self.sort_text.cmp(&other.sort_text);
        let core = self.gvk.group.is_empty() || other.gvk.group.is_empty();
        self.rank.cmp(&other.rank).then(if namespaces && core { by_text.reverse() } else { by_text })
    }
}
