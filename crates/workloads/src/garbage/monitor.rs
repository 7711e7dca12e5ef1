//! Keeps the graph equal to the API: one metadata watch a kind, for every kind that can be watched and deleted.
//!
//! Invariants: kinds come and go with their definitions; the objects of a kind that is no longer served leave the graph. Events aren't in
//! the graph: they have no owners and there are many of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::graph::{Graph, Meta, Node, ResourceKind};
use crate::machinery::reflector::{Sink, Source, reflect};

const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often kinds are asked for again when a definition is not served yet.
const PATIENCE: u32 = 8;

/// Feeds one kind's objects into the graph.
struct Feed {
    graph: Arc<Graph>,
    kind: Arc<ResourceKind>,
    known: Mutex<HashSet<Arc<str>>>,
    listed: watch::Sender<bool>,
    /// Woken when a definition of kinds changes.
    definitions: Option<Arc<Notify>>,
}

impl Feed {
    fn changed(&self) {
        if let Some(definitions) = &self.definitions {
            definitions.notify_one();
        }
    }
}

impl Feed {
    /// Takes all objects of the kind out of the graph: nobody watches them any more.
    fn clear(&self) {
        for (uid, namespace) in self.graph.of_kind(&self.kind) {
            self.graph.remove(&uid, &namespace);
        }
    }
}

impl Sink<Meta> for Feed {
    fn replace(&self, items: Vec<Meta>, _: u64) {
        let namespaces: BTreeMap<Arc<str>, String> = self.graph.of_kind(&self.kind).into_iter().collect();
        let nodes: Vec<Node> = items.into_iter().filter_map(|item| Node::new(&self.kind, item.metadata)).collect();
        let fresh: HashSet<Arc<str>> = nodes.iter().map(|node| node.uid.clone()).collect();
        let before = std::mem::replace(&mut *self.known.lock(), fresh.clone());
        for uid in before.difference(&fresh) {
            self.graph.remove(uid, namespaces.get(uid).map_or("", String::as_str));
        }
        nodes.into_iter().for_each(|node| self.graph.apply(node));
        self.listed.send_replace(true);
        self.changed();
    }

    fn apply(&self, item: Meta) {
        if let Some(node) = Node::new(&self.kind, item.metadata) {
            self.known.lock().insert(node.uid.clone());
            self.graph.apply(node);
        }
        self.changed();
    }

    fn remove(&self, item: Meta) {
        if let Some(node) = Node::new(&self.kind, item.metadata) {
            self.known.lock().remove(&node.uid);
            self.graph.remove(&node.uid, &node.namespace);
        }
        self.changed();
    }

    fn progress(&self, _: u64) {}
}

struct Monitor {
    stop: CancellationToken,
    listed: watch::Receiver<bool>,
}

/// The watches under way, by kind.
struct Monitors {
    graph: Arc<Graph>,
    client: kube::Client,
    definitions: Arc<Notify>,
    running: BTreeMap<Arc<ResourceKind>, Monitor>,
    tasks: JoinSet<()>,
}

/// Keeps the graph until the token is cancelled.
pub(crate) async fn run(graph: Arc<Graph>, client: kube::Client, shutdown: CancellationToken) {
    let definitions = Arc::new(Notify::new());
    let mut monitors = Monitors {
        graph: graph.clone(),
        client: client.clone(),
        definitions: definitions.clone(),
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    let mut attempt = 0;
    loop {
        let kinds = tokio::select! {
            kinds = discover(&client) => kinds,
            () = shutdown.cancelled() => break,
        };
        // A definition is known a moment before its kind is served.
        let incomplete = attempt < PATIENCE && !all_defined(&graph, &kinds);
        monitors.follow(&kinds);
        graph.set_kinds(kinds);
        let changed = async {
            monitors.listed().await;
            graph.set_synced();
            definitions.notified().await;
        };
        tokio::select! {
            () = changed => attempt = 0,
            () = tokio::time::sleep(pause(attempt)), if incomplete => attempt += 1,
            () = shutdown.cancelled() => break,
        }
    }
    monitors.end().await;
}

fn pause(attempt: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << attempt.min(16)).min(LONGEST_PAUSE)
}

impl Monitors {
    /// Watches these kinds and no others.
    fn follow(&mut self, kinds: &[Arc<ResourceKind>]) {
        self.running.retain(|kind, monitor| {
            let served = kinds.contains(kind);
            if !served {
                monitor.stop.cancel();
            }
            served
        });
        for kind in kinds.iter().filter(|kind| is_watched(kind)) {
            if !self.running.contains_key(kind) {
                let monitor = self.start(kind);
                self.running.insert(kind.clone(), monitor);
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn start(&mut self, kind: &Arc<ResourceKind>) -> Monitor {
        let (listed, receiver) = watch::channel(false);
        let stop = CancellationToken::new();
        let defines = (kind.group.as_str(), kind.plural.as_str()) == DEFINITIONS;
        let feed = Feed {
            graph: self.graph.clone(),
            kind: kind.clone(),
            known: Mutex::new(HashSet::new()),
            listed,
            definitions: defines.then(|| self.definitions.clone()),
        };
        let source = Source { path: kind.path(None), fields: None, metadata_only: true };
        let (client, token) = (self.client.clone(), stop.clone());
        self.tasks.spawn(async move {
            reflect::<Meta, _>(&client, &source, &feed, &token).await;
            feed.clear();
        });
        Monitor { stop, listed: receiver }
    }

    /// Waits until every kind has been listed once.
    async fn listed(&self) {
        for monitor in self.running.values() {
            // A monitor that ended was stopped; it is not waited for.
            let _ = monitor.listed.clone().wait_for(|listed| *listed).await;
        }
    }

    async fn end(mut self) {
        self.running.values().for_each(|monitor| monitor.stop.cancel());
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Events are many, and nothing owns them.
fn is_watched(kind: &ResourceKind) -> bool {
    !(kind.plural == "events" && (kind.group.is_empty() || kind.group == "events.k8s.io"))
}

/// The kinds served, asked for until there is an answer.
async fn discover(client: &kube::Client) -> Vec<Arc<ResourceKind>> {
    let mut attempt = 0;
    loop {
        match list_kinds(client).await {
            Ok(kinds) => return kinds,
            Err(error) => tracing::warn!(%error, "could not ask which kinds are served, trying again"),
        }
        tokio::time::sleep(pause(attempt)).await;
        attempt += 1;
    }
}

/// Whether every definition in the graph has its kind among those served.
fn all_defined(graph: &Graph, kinds: &[Arc<ResourceKind>]) -> bool {
    let definitions = kinds.iter().find(|kind| (kind.group.as_str(), kind.plural.as_str()) == DEFINITIONS);
    let Some(definitions) = definitions else { return true };
    let names: Vec<String> = kinds.iter().map(|kind| kind.qualified_name()).collect();
    graph
        .of_kind(definitions)
        .iter()
        .all(|(uid, _)| graph.read(|nodes| nodes.get(uid).is_none_or(|node| node.going || names.contains(&node.name))))
}

async fn list_kinds(client: &kube::Client) -> Result<Vec<Arc<ResourceKind>>, kube::Error> {
    let mut kinds = Vec::new();
    collect(&mut kinds, &client.list_core_api_resources("v1").await?);
    for group in client.list_api_groups().await?.groups {
        let Some(version) = group.preferred_version.as_ref().or_else(|| group.versions.first()) else { continue };
        // A group may go between two requests; its definition's event brings us back.
        match client.list_api_group_resources(&version.group_version).await {
            Ok(list) => collect(&mut kinds, &list),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    kinds.sort();
    kinds.dedup();
    Ok(kinds)
}

fn collect(kinds: &mut Vec<Arc<ResourceKind>>, list: &APIResourceList) {
    let (group, version) = list.group_version.split_once('/').unwrap_or(("", list.group_version.as_str()));
    let can = |resource: &APIResource, verb: &str| resource.verbs.iter().any(|known| known == verb);
    for resource in &list.resources {
        let usable = ["list", "watch", "delete"].iter().all(|verb| can(resource, verb));
        if resource.name.contains('/') || !usable {
            continue;
        }
        kinds.push(Arc::new(ResourceKind {
            group: resource.group.clone().unwrap_or_else(|| group.to_owned()),
            version: resource.version.clone().unwrap_or_else(|| version.to_owned()),
            kind: resource.kind.clone(),
            plural: resource.name.clone(),
            namespaced: resource.namespaced,
            deletes_collections: can(resource, "deletecollection"),
        }));
    }
}
