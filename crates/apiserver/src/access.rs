//! Who may do what at this moment: the index of roles and bindings, in step with the store.
//!
//! Invariants: a decision is made on everything that was stored before it was asked for, so a binding that is taken away
//! counts no more once its deletion was answered, whoever deleted it; there is no task that could fall behind. What can't be read
//! allows nothing.

use std::sync::Arc;

use parking_lot::{RwLock, RwLockWriteGuard};
use rules::rbac::{Attributes, Decision, GROUP, Index, Subject, Target, UNAUTHENTICATED};
use serde_json::Value;
use store::{Entry, Event, Store, Watch, WatchItem};

use crate::catalog::Resource;
use crate::identity::User;
use crate::status::{Answer, Failure};

/// The index, and how far it has read.
#[derive(Default)]
struct State {
    index: Index,
    watch: Option<Watch>,
    /// The revision of the store up to which the index has read.
    seen: u64,
    /// How often the index has changed.
    changes: u64,
}

/// Who may do what.
pub(crate) struct Access {
    store: Arc<dyn Store>,
    state: RwLock<State>,
}

impl Access {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, state: RwLock::default() }
    }

    /// Looks at the index as of now.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        self.look(|state| look(&state.index))
    }

    /// How often the index has changed up to now. While that is the same, so is every decision.
    pub(crate) fn changes(&self) -> u64 {
        self.look(|state| state.changes)
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let revision = self.store.revision();
        let state = self.state.read();
        if state.seen >= revision {
            return look(&state);
        }
        drop(state);
        let mut state = self.state.write();
        catch_up(&mut state, &*self.store);
        look(&RwLockWriteGuard::downgrade(state))
    }

    /// Whether a user may do something.
    pub(crate) fn allows(&self, user: &User, asked: &Attributes<'_>) -> bool {
        self.with(|index| index.allows(user.subject(), asked))
    }

    /// What is decided about a user, with the reason.
    pub(crate) fn decide(&self, subject: Subject<'_>, asked: &Attributes<'_>) -> Decision {
        self.with(|index| index.decide(subject, asked))
    }

    /// Refuses what a user may not do; a stranger is asked for a credential.
    pub(crate) fn require(&self, user: &User, asked: &Attributes<'_>) -> Answer<()> {
        if self.allows(user, asked) {
            return Ok(());
        }
        if user.groups.iter().any(|group| group == UNAUTHENTICATED) && !user.impersonated {
            return Err(Failure::unauthorized());
        }
        let mut message = asked.refusal(&user.name);
        if let Decision::Denied(missing) = self.decide(user.subject(), asked)
            && !missing.is_empty()
        {
            message += &format!(": RBAC: {}", missing.join(", "));
        }
        if user.part {
            tracing::warn!("a part of this program asks for more than its role allows: {message}");
        }
        let (group, resource, name) = match asked.target {
            Target::Resource { group, resource, name, .. } => (group, resource, name),
            Target::Path(_) => ("", "", ""),
        };
        Err(Failure::not_allowed(group, resource, name, &message))
    }

    /// Refuses what a user may not do to an object of a resource.
    pub(crate) fn require_on(
        &self,
        user: &User,
        verb: &str,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Answer<()> {
        let target = Target::Resource {
            group: &resource.group,
            resource: &resource.plural,
            subresource: "",
            namespace: namespace.unwrap_or_default(),
            name,
        };
        self.require(user, &Attributes { verb, target })
    }
}

/// Reads what has been written since.
fn catch_up(state: &mut State, store: &dyn Store) {
    // What is stored up to here is read below, as events are published together with the revision.
    let revision = store.revision();
    if revision <= state.seen {
        return;
    }
    let caught_up = state.watch.take().is_some_and(|mut watch| {
        loop {
            match watch.try_next() {
                Ok(Some(WatchItem::Event(event))) => {
                    follow(&mut state.index, &event);
                    state.changes += 1;
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    state.watch = Some(watch);
                    return true;
                }
                Err(_) => return false,
            }
        }
    });
    if caught_up || begin(state, store) {
        state.seen = revision;
    }
}

/// Reads everything.
fn begin(state: &mut State, store: &dyn Store) -> bool {
    let prefix = format!("/{GROUP}/");
    state.index = Index::default();
    state.changes += 1;
    let listing = match store.list(&prefix, None, 0, None) {
        Ok(listing) => listing,
        Err(error) => {
            tracing::error!(%error, "the roles and bindings can't be listed; only administrators are let in");
            return false;
        }
    };
    for Entry { key, value, .. } in &listing.entries {
        set(&mut state.index, key, Some(value));
    }
    state.watch = store.watch(&prefix, listing.revision).ok();
    state.watch.is_some()
}

fn follow(index: &mut Index, event: &Event) {
    match event.entry() {
        Some(entry) => set(index, &entry.key, Some(&entry.value)),
        None => set(index, &event.key, None),
    }
}

fn set(index: &mut Index, key: &str, value: Option<&[u8]>) {
    let Some((plural, place)) =
        key.strip_prefix('/').and_then(|key| key.strip_prefix(GROUP)?.strip_prefix('/')?.split_once('/'))
    else {
        return;
    };
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    let object = value.map(|bytes| {
        serde_json::from_slice(bytes).unwrap_or_else(|error| {
            tracing::error!(key, %error, "it can't be read and allows nothing");
            Value::Null
        })
    });
    index.set(plural, namespace, name, object.as_ref());
}
