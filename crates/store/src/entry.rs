//! The nouns of the store: what is kept, what is asked for, what happened. Plain data, no behaviour beyond accessors.

use std::sync::Arc;

use bytes::Bytes;

/// A key and its value as it was at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The value; opaque to the store.
    pub value: Bytes,
    /// The revision of the write that gave the key this value.
    pub revision: u64,
    /// The revision of the write that created the key (it was absent before).
    pub created: u64,
}

/// One page of entries, consistent at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries, in the order of their keys (byte-wise).
    pub entries: Vec<Entry>,
    /// The revision at which all of them were the truth.
    pub revision: u64,
    /// Whether entries follow after the last one of this page.
    pub more: bool,
    /// How many entries follow after this page, at that revision.
    pub remaining: u64,
}

/// One committed change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The revision of the change; each revision has exactly one event.
    pub revision: u64,
    /// The key that changed.
    pub key: Arc<str>,
    /// The new value; `None` when the key was deleted.
    pub value: Option<Bytes>,
    /// What the key held before; `None` when the key was absent.
    pub previous: Option<Entry>,
}

impl Event {
    /// The entry after this event; `None` when it was a deletion.
    pub fn entry(&self) -> Option<Entry> {
        self.value.as_ref().map(|value| Entry {
            key: Arc::clone(&self.key),
            value: value.clone(),
            revision: self.revision,
            created: self.created(),
        })
    }

    /// The revision at which the key this event is about was created.
    pub fn created(&self) -> u64 {
        self.previous.as_ref().map_or(self.revision, |previous| previous.created)
    }
}

/// What must be true of a key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The key must not exist.
    Absent,
    /// The key must exist and have been written last at this revision.
    Revision(u64),
    /// Anything goes for a put; a delete needs the key to exist.
    Any,
}

/// A write of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Give the key this value.
    Put {
        /// The key.
        key: String,
        /// The new value.
        value: Bytes,
        /// What must be true of the key.
        when: Precondition,
    },
    /// Remove the key. A key that does not exist cannot be deleted, whatever the precondition says.
    Delete {
        /// The key.
        key: String,
        /// What must be true of the key.
        when: Precondition,
    },
}

impl Op {
    /// The key that is written.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }

    /// What must be true of the key.
    pub fn when(&self) -> Precondition {
        match self {
            Op::Put { when, .. } | Op::Delete { when, .. } => *when,
        }
    }

    /// How many bytes the write brings: key and value.
    pub(crate) fn size(&self) -> usize {
        match self {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } => key.len(),
        }
    }
}
