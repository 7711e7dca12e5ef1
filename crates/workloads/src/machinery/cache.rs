//! All objects of one kind, kept equal to the API by a watch, and shared by the controllers.
//!
//! Invariants:
//! - [`Cache::fresh`] returns only when the cache holds every write that was noted with [`Cache::wrote`] or [`Cache::deleted`]
//!   before the call. A controller that waits for it never acts on a state that lacks its own doings.
//! - Handlers run in the order of changes, on the watching task, and only put keys on queues.
//! - `metadata.managedFields` is dropped: no controller reads it, and it is often the largest part of an object.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Resource;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::key::Key;
use super::reflector::{Sink, Source, number, reflect};
use super::synced::Syncs;
use crate::error::ReconcileError;

/// How long a controller waits for its own writes to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kinds that can be cached.
pub(crate) trait Cached:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}
impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Cached for K {}

/// A change: the object before and after; one of them may be missing.
pub(crate) struct Change<'a, K> {
    pub(crate) before: Option<&'a Arc<K>>,
    pub(crate) after: Option<&'a Arc<K>>,
}

impl<K: Resource> Change<'_, K> {
    /// The newest state known.
    pub(crate) fn latest(&self) -> Option<&K> {
        self.after.or(self.before).map(|object| &**object)
    }
}

type Handler<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// Everything up to this revision is in `objects`.
    seen: u64,
    synced: bool,
    /// The newest of our own writes.
    floor: u64,
    /// Our own deletions that the watch hasn't shown yet: the uid of the object deleted.
    going: HashMap<Key, String>,
}

/// See the module's header.
pub(crate) struct Cache<K> {
    state: RwLock<State<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    moved: watch::Sender<u64>,
    fields: Option<String>,
}

impl<K: Cached> Cache<K> {
    pub(crate) fn new() -> Arc<Cache<K>> {
        Cache::selected(None)
    }

    /// A cache of those objects that a field selector picks.
    pub(crate) fn selected(fields: Option<&str>) -> Arc<Cache<K>> {
        Arc::new(Cache {
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                seen: 0,
                synced: false,
                floor: 0,
                going: HashMap::new(),
            }),
            handlers: RwLock::new(Vec::new()),
            moved: watch::Sender::new(0),
            fields: fields.map(str::to_owned),
        })
    }

    /// Calls `handler` for each change from now on. Meant for the time before the watch starts.
    pub(crate) fn on_change(&self, handler: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.write().push(Box::new(handler));
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        state
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Notes a write of ours by the object that the API answered with.
    pub(crate) fn wrote(&self, object: &K) {
        let revision = number(object.meta().resource_version.as_deref().unwrap_or(""));
        let mut state = self.state.write();
        state.floor = state.floor.max(revision);
    }

    /// Notes a deletion of ours: the object of that uid is gone or going.
    pub(crate) fn deleted(&self, key: &Key, uid: &str) {
        let mut state = self.state.write();
        if stands(&state, key, uid) {
            state.going.insert(key.clone(), uid.to_owned());
        }
    }

    /// Waits until the cache holds all of our own writes so far.
    pub(crate) async fn fresh(&self) -> Result<(), ReconcileError> {
        let mut moved = self.moved.subscribe();
        let (floor, going) = {
            let state = self.state.read();
            if state.synced && state.seen >= state.floor && state.going.is_empty() {
                return Ok(());
            }
            (state.floor, state.going.clone())
        };
        let caught_up = async {
            loop {
                moved.borrow_and_update();
                {
                    let state = self.state.read();
                    let gone = going.iter().all(|(key, uid)| !stands(&state, key, uid));
                    if state.synced && state.seen >= floor && gone {
                        return;
                    }
                }
                if moved.changed().await.is_err() {
                    // The sender lives in this cache, so it is there as long as `self` is.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, caught_up)
            .await
            .map_err(|_| ReconcileError::Lagging { kind: K::plural(&()).into_owned(), waited: PATIENCE })
    }

    /// Keeps the cache equal to the API until the token is cancelled.
    pub(crate) async fn run(&self, client: kube::Client, shutdown: CancellationToken) {
        let source = Source { path: K::url_path(&(), None), fields: self.fields.clone(), metadata_only: false };
        reflect::<K, _>(&client, &source, self, &shutdown).await;
    }

    fn tell(&self, before: Option<&Arc<K>>, after: Option<&Arc<K>>) {
        for handler in self.handlers.read().iter() {
            handler(Change { before, after });
        }
    }

    fn advance(state: &mut State<K>, revision: u64) {
        state.seen = state.seen.max(revision);
    }

    fn announce(&self) {
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Whether the object of that uid is in the cache and not marked as being deleted.
fn stands<K: Resource>(state: &State<K>, key: &Key, uid: &str) -> bool {
    state.objects.get(key).is_some_and(|object| {
        let meta = object.meta();
        meta.uid.as_deref() == Some(uid) && meta.deletion_timestamp.is_none()
    })
}

fn trimmed<K: Resource>(mut object: K) -> Arc<K> {
    object.meta_mut().managed_fields = None;
    Arc::new(object)
}

impl<K: Cached> Syncs for Cache<K> {
    fn synced(self: Arc<Self>) -> BoxFuture<'static, ()> {
        async move {
            let mut moved = self.moved.subscribe();
            while !self.state.read().synced {
                if moved.changed().await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    }
}

impl<K: Cached> Sink<K> for Cache<K> {
    fn replace(&self, items: Vec<K>, revision: u64) {
        let fresh: BTreeMap<Key, Arc<K>> =
            items.into_iter().map(|item| (Key::of(item.meta()), trimmed(item))).collect();
        let before = {
            let mut state = self.state.write();
            state.synced = true;
            Self::advance(&mut state, revision);
            let before = std::mem::replace(&mut state.objects, fresh.clone());
            let mut going = std::mem::take(&mut state.going);
            going.retain(|key, uid| stands(&state, key, uid));
            state.going = going;
            before
        };
        for (key, old) in &before {
            if !fresh.contains_key(key) {
                self.tell(Some(old), None);
            }
        }
        for (key, new) in &fresh {
            let old = before.get(key);
            if old.is_none_or(|old| old.meta().resource_version != new.meta().resource_version) {
                self.tell(old, Some(new));
            }
        }
        self.announce();
    }

    fn apply(&self, item: K) {
        let key = Key::of(item.meta());
        let revision = number(item.meta().resource_version.as_deref().unwrap_or(""));
        let new = trimmed(item);
        let old = {
            let mut state = self.state.write();
            Self::advance(&mut state, revision);
            let old = state.objects.insert(key.clone(), new.clone());
            if let Some(uid) = state.going.get(&key).cloned()
                && !stands(&state, &key, &uid)
            {
                state.going.remove(&key);
            }
            old
        };
        self.tell(old.as_ref(), Some(&new));
        self.announce();
    }

    fn remove(&self, item: K) {
        let key = Key::of(item.meta());
        let revision = number(item.meta().resource_version.as_deref().unwrap_or(""));
        let last = trimmed(item);
        let old = {
            let mut state = self.state.write();
            Self::advance(&mut state, revision);
            state.going.remove(&key);
            state.objects.remove(&key)
        };
        self.tell(Some(old.as_ref().unwrap_or(&last)), None);
        self.announce();
    }

    fn progress(&self, revision: u64) {
        Self::advance(&mut self.state.write(), revision);
        self.announce();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str, revision: u64, uid: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(uid.into()),
                resource_version: Some(revision.to_string()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    async fn is_fresh(cache: &Cache<ConfigMap>) -> bool {
        tokio::time::timeout(Duration::from_millis(1), cache.fresh()).await.is_ok_and(|fresh| fresh.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fresh_only_when_it_holds_our_own_writes() {
        let cache = Cache::new();
        assert!(!is_fresh(&cache).await, "nothing was listed yet");
        cache.replace(vec![object("a", 5, "ua")], 7);
        assert!(is_fresh(&cache).await);

        cache.wrote(&object("b", 9, "ub"));
        assert!(!is_fresh(&cache).await);
        cache.apply(object("c", 8, "uc"));
        assert!(!is_fresh(&cache).await);
        cache.apply(object("b", 9, "ub"));
        assert!(is_fresh(&cache).await);

        cache.deleted(&Key::new("ns", "a"), "ua");
        assert!(!is_fresh(&cache).await);
        cache.progress(20);
        assert!(!is_fresh(&cache).await);
        cache.remove(object("a", 21, "ua"));
        assert!(is_fresh(&cache).await);

        cache.deleted(&Key::new("ns", "b"), "ub");
        assert!(!is_fresh(&cache).await);
        let mut going = object("b", 22, "ub");
        going.metadata.deletion_timestamp = Some(crate::machinery::clock::stamp(jiff::Timestamp::UNIX_EPOCH));
        cache.apply(going);
        assert!(is_fresh(&cache).await, "being deleted is as good as deleted");
        cache.deleted(&Key::new("ns", "zzz"), "unknown");
        assert!(is_fresh(&cache).await, "what isn't there needs no waiting");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_our_own_writes_is_bounded() {
        let cache: Arc<Cache<ConfigMap>> = Cache::new();
        let outcome = cache.fresh().await;
        assert!(matches!(outcome, Err(ReconcileError::Lagging { .. })), "{outcome:?}");
    }

    #[test]
    fn a_replacement_tells_only_what_changed() {
        let cache = Cache::new();
        let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let log = told.clone();
        cache.on_change(move |change: Change<'_, ConfigMap>| {
            let name = |object: Option<&Arc<ConfigMap>>| {
                object.map(|object| object.metadata.resource_version.clone().unwrap_or_default())
            };
            log.lock().push((name(change.before), name(change.after)));
        });
        cache.replace(vec![object("a", 1, "a"), object("b", 2, "b")], 2);
        cache.replace(vec![object("b", 2, "b"), object("c", 4, "c")], 4);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(*told.lock(), [(None, some("1")), (None, some("2")), (some("1"), None), (None, some("4"))]);
        assert_eq!(cache.in_namespace("ns").len(), 2);
        assert!(cache.in_namespace("n").is_empty());
    }
}
