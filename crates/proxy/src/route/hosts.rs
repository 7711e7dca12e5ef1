//! Finds what belongs to a host name: an exact name before the longest suffix before any.

use std::collections::HashMap;
use std::sync::Arc;

use crate::snapshot::HostMatch;

/// Values by host.
pub(crate) struct HostTable<V> {
    exact: HashMap<Arc<str>, V>,
    suffix: HashMap<Arc<str>, V>,
    any: Option<V>,
}

impl<V> HostTable<V> {
    pub(crate) fn new() -> Self {
        Self { exact: HashMap::new(), suffix: HashMap::new(), any: None }
    }

    /// Adds a value; false where the host has one already.
    pub(crate) fn insert(&mut self, host: &HostMatch, value: V) -> bool {
        match host {
            HostMatch::Any => self.any.replace(value).is_none(),
            HostMatch::Exact(name) => self.exact.insert(name.to_ascii_lowercase().into(), value).is_none(),
            HostMatch::Suffix(name) => self.suffix.insert(name.to_ascii_lowercase().into(), value).is_none(),
        }
    }

    /// The value for a host in lower case.
    pub(crate) fn find(&self, host: &str) -> Option<&V> {
        if !self.exact.is_empty()
            && let Some(value) = self.exact.get(host)
        {
            return Some(value);
        }
        if !self.suffix.is_empty() {
            // From the longest suffix to the shortest. A name has at most 127 labels; what has more is no name.
            let mut rest = host;
            for _ in 0..127 {
                let Some((label, suffix)) = rest.split_once('.') else { break };
                if !label.is_empty()
                    && let Some(value) = self.suffix.get(suffix)
                {
                    return Some(value);
                }
                rest = suffix;
            }
        }
        self.any.as_ref()
    }
}
