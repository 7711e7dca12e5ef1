//! Who owns what: the metadata of every object, and the edges between owners and dependents.
//!
//! Invariants:
//! - Holds metadata only; what an object says is never kept.
//! - An edge is known by the owner's uid, so it may be known before the owner is seen.
//! - Says which objects have to be looked at because of a change; decides nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use parking_lot::RwLock;
use serde::Deserialize;
use tokio::sync::watch;

use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::reflector::Revisioned;
use crate::machinery::synced::Syncs;

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// A kind of object as the API serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResourceKind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    pub(crate) deletes_collections: bool,
}

impl ResourceKind {
    /// The path of the collection.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let base = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{base}/namespaces/{namespace}/{}", self.plural),
            None => format!("{base}/{}", self.plural),
        }
    }

    /// `pods.` or `widgets.example.com`.
    pub(crate) fn qualified_name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// An object reduced to its metadata while it is read.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Meta {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
}

impl Revisioned for Meta {
    fn revision(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

/// One object.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) uid: Arc<str>,
    pub(crate) kind: Arc<ResourceKind>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) revision: String,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) going: bool,
}

impl Node {
    /// What is kept of an object; nothing of one without a uid.
    pub(crate) fn new(kind: &Arc<ResourceKind>, meta: ObjectMeta) -> Option<Node> {
        Some(Node {
            uid: meta.uid?.into(),
            kind: kind.clone(),
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            revision: meta.resource_version.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
            finalizers: meta.finalizers.unwrap_or_default(),
            going: meta.deletion_timestamp.is_some(),
        })
    }

    pub(crate) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }

    /// Waits for its dependents to be deleted first.
    pub(crate) fn is_foreground(&self) -> bool {
        self.going && self.has_finalizer(FOREGROUND)
    }

    /// Waits for its dependents to be let go.
    pub(crate) fn is_orphaning(&self) -> bool {
        self.going && self.has_finalizer(ORPHAN)
    }

    /// `kind namespace/name`, for messages.
    pub(crate) fn title(&self) -> String {
        if self.namespace.is_empty() {
            format!("{} {}", self.kind.kind, self.name)
        } else {
            format!("{} {}/{}", self.kind.kind, self.namespace, self.name)
        }
    }
}

/// The nodes and edges.
#[derive(Default)]
pub(crate) struct Nodes {
    nodes: HashMap<Arc<str>, Node>,
    dependents: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Nodes {
    pub(crate) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// Takes in an object. Returns the uids of the objects to look at.
    pub(crate) fn apply(&mut self, node: Node) -> BTreeSet<Arc<str>> {
        let uid = node.uid.clone();
        let before = self.nodes.insert(uid.clone(), node.clone());
        let known: Vec<OwnerReference> = before.map(|before| before.owners).unwrap_or_default();
        let mut wake = BTreeSet::new();
        if known != node.owners {
            for owner in known.iter().filter(|owner| !node.owners.iter().any(|new| new.uid == owner.uid)) {
                self.unlink(&owner.uid, &uid);
            }
            for owner in &node.owners {
                self.dependents.entry(owner.uid.as_str().into()).or_default().insert(uid.clone());
            }
            // An owner that waits for its dependents may have one less now.
            let waiting = |owner: &&OwnerReference| self.nodes.get(owner.uid.as_str()).is_some_and(Node::is_foreground);
            wake.extend(known.iter().filter(waiting).map(|owner| Arc::from(owner.uid.as_str())));
            let doubtful = node.owners.iter().any(|owner| match self.nodes.get(owner.uid.as_str()) {
                Some(owner_node) => owner_node.is_foreground() || !refers_to(&node, owner, owner_node),
                None => true,
            });
            if doubtful {
                wake.insert(uid.clone());
            }
        }
        if node.is_foreground() {
            wake.extend(self.dependents(&uid).map(|dependent| dependent.uid.clone()));
            wake.insert(uid);
        } else if node.is_orphaning() {
            wake.insert(uid);
        }
        wake
    }

    /// Takes out an object. Returns the uids of the objects to look at.
    pub(crate) fn remove(&mut self, uid: &str) -> BTreeSet<Arc<str>> {
        let mut wake: BTreeSet<Arc<str>> = self.dependents(uid).map(|dependent| dependent.uid.clone()).collect();
        let Some(node) = self.nodes.remove(uid) else { return wake };
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            if let Some(owner) = self.nodes.get(owner.uid.as_str())
                && owner.is_foreground()
            {
                wake.insert(owner.uid.clone());
            }
        }
        wake
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// Whether a reference's coordinates are those of the object with its uid.
pub(crate) fn refers_to(dependent: &Node, reference: &OwnerReference, owner: &Node) -> bool {
    reference.kind == owner.kind.kind
        && reference.name == owner.name
        && group(&reference.api_version) == owner.kind.group
        && (!owner.kind.namespaced || owner.namespace == dependent.namespace)
}

/// The group of an `apiVersion`.
pub(crate) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

type RemovedHandler = Box<dyn Fn(&str) + Send + Sync>;

/// The graph, shared by garbage collection and the namespace controller.
pub(crate) struct Graph {
    nodes: RwLock<Nodes>,
    kinds: RwLock<Vec<Arc<ResourceKind>>>,
    /// Objects whose owners are of a kind that isn't served, to be looked at when kinds change.
    puzzling: RwLock<BTreeSet<Arc<str>>>,
    handlers: RwLock<Vec<RemovedHandler>>,
    /// Keys are uids, as names without a namespace.
    pub(crate) queue: Arc<Queue<Key>>,
    synced: watch::Sender<bool>,
}

impl Graph {
    pub(crate) fn new() -> Arc<Graph> {
        Arc::new(Graph {
            nodes: RwLock::new(Nodes::default()),
            kinds: RwLock::new(Vec::new()),
            puzzling: RwLock::new(BTreeSet::new()),
            handlers: RwLock::new(Vec::new()),
            queue: Arc::new(Queue::new()),
            synced: watch::Sender::new(false),
        })
    }

    /// Calls `handler` with the namespace of each object that is gone.
    pub(crate) fn on_removed(&self, handler: impl Fn(&str) + Send + Sync + 'static) {
        self.handlers.write().push(Box::new(handler));
    }

    /// Looks at the nodes.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Nodes) -> T) -> T {
        look(&self.nodes.read())
    }

    /// Puts objects on the queue.
    pub(crate) fn wake(&self, uids: BTreeSet<Arc<str>>) {
        uids.into_iter().for_each(|uid| self.queue.add(Key::new("", &*uid)));
    }

    pub(crate) fn apply(&self, node: Node) {
        let wake = self.nodes.write().apply(node);
        self.wake(wake);
    }

    pub(crate) fn remove(&self, uid: &str, namespace: &str) {
        let wake = self.nodes.write().remove(uid);
        self.puzzling.write().remove(uid);
        self.wake(wake);
        if !namespace.is_empty() {
            self.handlers.read().iter().for_each(|handler| handler(namespace));
        }
    }

    /// The uids and namespaces of all objects of a kind.
    pub(crate) fn of_kind(&self, kind: &ResourceKind) -> Vec<(Arc<str>, String)> {
        let nodes = self.nodes.read();
        let of_kind = nodes.nodes.values().filter(|node| *node.kind == *kind);
        of_kind.map(|node| (node.uid.clone(), node.namespace.clone())).collect()
    }

    /// How many objects of each kind a namespace has, by qualified name.
    pub(crate) fn count_in(&self, namespace: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes.read().nodes.values().filter(|node| node.namespace == namespace) {
            *counts.entry(node.kind.qualified_name()).or_default() += 1;
        }
        counts
    }

    pub(crate) fn namespaced(&self) -> Vec<Arc<ResourceKind>> {
        self.kinds.read().iter().filter(|kind| kind.namespaced).cloned().collect()
    }

    /// The kind that a reference means.
    pub(crate) fn resolve(&self, api_version: &str, kind: &str) -> Option<Arc<ResourceKind>> {
        let group = group(api_version);
        self.kinds.read().iter().find(|known| known.group == group && known.kind == kind).cloned()
    }

    /// Another set of kinds is served: what was puzzling may be clear now.
    pub(crate) fn set_kinds(&self, kinds: Vec<Arc<ResourceKind>>) {
        *self.kinds.write() = kinds;
        let puzzling = std::mem::take(&mut *self.puzzling.write());
        self.wake(puzzling);
    }

    /// An object's owner is of a kind that isn't served.
    pub(crate) fn puzzled(&self, uid: &Arc<str>) {
        self.puzzling.write().insert(uid.clone());
    }

    pub(crate) fn set_synced(&self) {
        self.synced.send_replace(true);
    }
}

impl Syncs for Graph {
    fn synced(self: Arc<Self>) -> BoxFuture<'static, ()> {
        async move {
            let mut synced = self.synced.subscribe();
            // The sender lives in `self`, so waiting can't fail.
            let _ = synced.wait_for(|synced| *synced).await;
        }
        .boxed()
    }
}
