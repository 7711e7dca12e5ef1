//! All objects of one kind, as the watch and this controller's own writes last told them.
//!
//! Invariant: an object never goes back to an older state, whichever of the two tells it later.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Resource;
use kube::runtime::watcher::Event;

type Key = (String, String);

/// Objects by namespace (empty where there is none) and name.
#[derive(Debug)]
pub(super) struct Shelf<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// What a listing that is under way has told so far.
    listing: BTreeMap<Key, Arc<K>>,
    ready: bool,
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Shelf { objects: BTreeMap::new(), listing: BTreeMap::new(), ready: false }
    }
}

impl<K: Resource> Shelf<K> {
    /// All objects have been told once.
    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// Takes in what a watch tells.
    pub(super) fn take(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                self.listing.insert(key(&object), Arc::new(object));
            }
            Event::InitDone => {
                let mut listed = std::mem::take(&mut self.listing);
                for (key, object) in &mut listed {
                    if let Some(known) = self.objects.get(key).filter(|known| revision(&***known) > revision(&**object))
                    {
                        *object = Arc::clone(known);
                    }
                }
                self.objects = listed;
                self.ready = true;
            }
            Event::Apply(object) => self.learn(object),
            Event::Delete(object) => {
                let key = key(&object);
                if self.objects.get(&key).is_some_and(|known| revision(&**known) <= revision(&object)) {
                    self.objects.remove(&key);
                }
            }
        }
    }

    /// Takes in an object's state, unless a newer one is known.
    pub(super) fn learn(&mut self, object: K) {
        let key = key(&object);
        if self.objects.get(&key).is_none_or(|known| revision(&**known) < revision(&object)) {
            self.objects.insert(key, Arc::new(object));
        }
    }
}

fn key<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Revisions of this API are numbers.
fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::storage::v1::StorageClass;
    use serde_json::json;

    use super::*;

    fn class(name: &str, revision: u64) -> StorageClass {
        let meta = json!({"name": name, "resourceVersion": revision.to_string()});
        serde_json::from_value(json!({"metadata": meta, "provisioner": "p"})).expect("a class")
    }

    fn at(shelf: &Shelf<StorageClass>, name: &str) -> Option<u64> {
        shelf.get("", name).map(|class| revision(&**class))
    }

    #[test]
    fn nothing_goes_back_to_an_older_state() {
        let mut shelf = Shelf::default();
        shelf.take(Event::Init);
        shelf.take(Event::InitApply(class("a", 5)));
        assert!(!shelf.ready() && at(&shelf, "a").is_none());
        shelf.take(Event::InitDone);
        assert!(shelf.ready());
        shelf.learn(class("a", 9));
        shelf.take(Event::Apply(class("a", 7)));
        assert_eq!(at(&shelf, "a"), Some(9), "an echo of an older write");
        shelf.take(Event::Delete(class("a", 8)));
        assert_eq!(at(&shelf, "a"), Some(9), "the end of its predecessor");
        shelf.take(Event::Delete(class("a", 9)));
        assert_eq!(at(&shelf, "a"), None);
    }

    #[test]
    fn a_listing_replaces_all_but_what_is_newer() {
        let mut shelf = Shelf::default();
        shelf.learn(class("gone", 3));
        shelf.learn(class("newer", 12));
        shelf.take(Event::Init);
        shelf.take(Event::InitApply(class("newer", 4)));
        shelf.take(Event::InitApply(class("other", 6)));
        assert_eq!(at(&shelf, "gone"), Some(3), "a listing that is under way hides nothing");
        shelf.take(Event::InitDone);
        assert_eq!([at(&shelf, "gone"), at(&shelf, "newer"), at(&shelf, "other")], [None, Some(12), Some(6)]);
    }
}
