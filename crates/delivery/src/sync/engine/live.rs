//! What is in the cluster of one application: a watch for each kind, on the label of its set.
//!
//! Invariants: nothing polls; a watch that ends begins again; whoever waits is woken by every change.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::applyset;
use crate::kinds::Resource;
use crate::object::ObjectId;

/// The live members of one set. Dropping it ends its watches.
pub struct Live {
    client: kube::Client,
    selector: String,
    state: Arc<State>,
    kinds: BTreeMap<(String, String), watch::Receiver<bool>>,
    tasks: JoinSet<()>,
}

struct State {
    objects: Mutex<BTreeMap<ObjectId, Arc<Value>>>,
    changes: watch::Sender<u64>,
}

impl Live {
    /// Follows nothing yet.
    #[must_use]
    pub fn new(client: kube::Client, set_id: &str) -> Self {
        let state = State { objects: Mutex::default(), changes: watch::Sender::new(0) };
        let selector = format!("{}={set_id}", applyset::PART_OF);
        Self { client, selector, state: Arc::new(state), kinds: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Follows these kinds too, and waits until each has been listed once.
    pub async fn follow(&mut self, resources: impl IntoIterator<Item = &Resource>) {
        let mut listed = Vec::new();
        for resource in resources {
            let key = (resource.group.clone(), resource.kind.clone());
            if let Some(known) = self.kinds.get(&key) {
                if !*known.borrow() {
                    listed.push(known.clone());
                }
                continue;
            }
            let (sender, receiver) = watch::channel(false);
            let state = Arc::clone(&self.state);
            self.tasks.spawn(run(self.client.clone(), resource.clone(), self.selector.clone(), state, sender));
            self.kinds.insert(key, receiver.clone());
            listed.push(receiver);
        }
        for mut one in listed {
            // A watch that cannot begin must not hold up the rest; it goes on trying.
            let listed = one.wait_for(|listed| *listed);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(10), listed).await;
        }
    }

    /// Changes whenever a member does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.state.changes.subscribe()
    }

    /// A way to read the members without holding the watches.
    #[must_use]
    pub fn view(&self) -> View {
        View { state: Arc::clone(&self.state) }
    }
}

/// Reads the members of a [`Live`] set.
#[derive(Clone)]
pub struct View {
    state: Arc<State>,
}

impl View {
    /// A member as it is now.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<Arc<Value>> {
        self.state.objects.lock().get(id).cloned()
    }

    /// All members as they are now.
    #[must_use]
    pub fn all(&self) -> BTreeMap<ObjectId, Arc<Value>> {
        self.state.objects.lock().clone()
    }

    /// What was just written, so that nobody decides on what was before. A watch that already knows better is not overruled.
    pub fn wrote(&self, object: Value) {
        let id = ObjectId::of(&object);
        let mut objects = self.state.objects.lock();
        let newer = |known: &Arc<Value>| version(known) >= version(&object);
        if !objects.get(&id).is_some_and(newer) {
            objects.insert(id, Arc::new(object));
        }
    }

    /// Changes whenever a member does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.state.changes.subscribe()
    }
}

fn version(object: &Value) -> u64 {
    crate::object::resource_version(object).parse().unwrap_or(0)
}

async fn run(
    client: kube::Client,
    resource: Resource,
    selector: String,
    state: Arc<State>,
    listed: watch::Sender<bool>,
) {
    let api_resource = ApiResource {
        group: resource.group.clone(),
        version: resource.version.clone(),
        api_version: resource.api_version(),
        kind: resource.kind.clone(),
        plural: resource.plural.clone(),
    };
    let api: Api<DynamicObject> = Api::all_with(client, &api_resource);
    let mut events = watcher(api, watcher::Config::default().labels(&selector)).default_backoff().boxed();
    let mut fresh: BTreeMap<ObjectId, Arc<Value>> = BTreeMap::new();
    let read = |object: DynamicObject| {
        let mut value = serde_json::to_value(&object).unwrap_or_default();
        value["apiVersion"] = resource.api_version().into();
        value["kind"] = resource.kind.as_str().into();
        (ObjectId::of(&value), Arc::new(value))
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => fresh.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                let (id, value) = read(object);
                fresh.insert(id, value);
            }
            Ok(watcher::Event::InitDone) => {
                let mut objects = state.objects.lock();
                objects.retain(|id, _| id.kind != resource.kind || id.group != resource.group);
                objects.append(&mut fresh);
                drop(objects);
                listed.send_replace(true);
                state.changes.send_modify(|count| *count += 1);
            }
            Ok(watcher::Event::Apply(object)) => {
                let (id, value) = read(object);
                state.objects.lock().insert(id, value);
                state.changes.send_modify(|count| *count += 1);
            }
            Ok(watcher::Event::Delete(object)) => {
                let (id, _) = read(object);
                state.objects.lock().remove(&id);
                state.changes.send_modify(|count| *count += 1);
            }
            Err(error) => tracing::debug!(kind = resource.kind, %error, "a watch is begun again"),
        }
    }
}
