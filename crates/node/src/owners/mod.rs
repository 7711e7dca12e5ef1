//! Whose a process or a socket of this machine is.
//!
//! Every process of a Pod descends from one of the shims that were started for it, and a shim adopts what loses its
//! parent, so the way up from a process ends at its Pod's shim or at none.
//!
//! Invariants: an answer comes from the kernel (`/proc`, socket diagnostics), never from what a program says of itself; a
//! process number that was given anew is not taken for its predecessor; a search ends at its deadline.
//! It must not know what an answer is used for.

mod holders;
mod listeners;
mod socket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{ObjectRef, Store};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::shim::{self, Process};
use holders::Holders;
use listeners::Listeners;

/// How long a question about a socket may take, the wait for its turn included. A connection waits for the answer, which takes some
/// milliseconds; where the machine is busy it takes longer, and who is not found by then is nobody.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many searches through processes run at once.
const SEARCHES: usize = 2;
/// How long a search for a listener may take, which runs beside them. Its turn is waited for.
const LISTENER: Duration = Duration::from_secs(2);
/// How many generations up a Pod's shim may be.
const GENERATIONS: usize = 1024;
/// What Kubernetes adds to a ReplicaSet's name and to its Pods' labels.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A Pod of this node, as far as others need it to tell who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    pub uid: String,
    /// Its service account's name.
    pub service_account: String,
    /// What it is one of: its Deployment where a ReplicaSet made it for one, else its controller, else itself.
    pub workload: String,
    /// Its labels, as they are now.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Its annotations, as they are now.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl PodRef {
    fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).filter(|a| !a.is_empty());
        PodRef {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            service_account: account.unwrap_or_else(|| "default".to_owned()),
            workload: workload(pod),
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
        }
    }
}

fn workload(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else { return meta.name.clone().unwrap_or_default() };
    let hash = meta.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    deployment.filter(|_| owner.kind == "ReplicaSet").unwrap_or(&owner.name).to_owned()
}

/// The shims of all Pods, and the processes that were last found to hold sockets.
#[derive(Clone)]
pub(crate) struct Owners {
    inner: Arc<Inner>,
}

struct Inner {
    shims: Mutex<HashMap<i32, (u64, Arc<Pod>)>>,
    holders: Holders,
    searches: Arc<Semaphore>,
    /// Apart from `searches`: whoever may forward ports must not keep the data plane from knowing its callers.
    listeners: Listeners,
    /// The Pods as the API last told them.
    pods: Store<Pod>,
}

/// Starts shims for one Pod.
#[derive(Clone)]
pub(crate) struct Launcher {
    /// The executable.
    pub shim: PathBuf,
    owners: Owners,
    pod: Arc<Pod>,
}

impl Launcher {
    /// The uid of the Pod.
    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Takes note of a shim that has just been started. It is forgotten when the result is dropped.
    pub(crate) fn own(&self, shim: Option<i32>) -> Option<Owned> {
        let process = shim.and_then(Process::of)?;
        self.owners.inner.shims.lock().insert(process.pid, (process.started, Arc::clone(&self.pod)));
        Some(Owned { owners: self.owners.clone(), shim: process })
    }
}

/// A shim whose descendants are known to be a Pod's, until this is dropped.
pub(crate) struct Owned {
    owners: Owners,
    shim: Process,
}

impl Drop for Owned {
    fn drop(&mut self) {
        let mut shims = self.owners.inner.shims.lock();
        // The number may be another's already.
        if shims.get(&self.shim.pid).is_some_and(|(started, _)| *started == self.shim.started) {
            shims.remove(&self.shim.pid);
        }
    }
}

impl Owners {
    pub(crate) fn new(pods: Store<Pod>) -> Self {
        let inner = Inner {
            shims: Mutex::default(),
            holders: Holders::default(),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            listeners: Listeners::default(),
            pods,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What starts the shims of a Pod.
    pub(crate) fn launcher(&self, shim: PathBuf, pod: &Arc<Pod>) -> Launcher {
        Launcher { shim, owners: self.clone(), pod: Arc::clone(pod) }
    }

    /// The Pod that a process is of. Reads `/proc`, a few files.
    pub(crate) fn of_process(&self, pid: i32) -> Option<PodRef> {
        let mut pid = pid;
        for _ in 0..GENERATIONS {
            if let Some(pod) = self.of_shim(pid) {
                return Some(self.as_told(&pod));
            }
            pid = shim::parent(pid).filter(|parent| *parent > 1)?;
        }
        None
    }

    fn of_shim(&self, pid: i32) -> Option<Arc<Pod>> {
        let (started, pod) = self.inner.shims.lock().get(&pid).cloned()?;
        (Process::of(pid)?.started == started).then_some(pod)
    }

    /// The Pod as the API last told it; as it was when it started, where it is not there any more.
    pub(crate) fn as_told(&self, pod: &Pod) -> PodRef {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let found = self.inner.pods.get(&ObjectRef::new(meta.name.as_deref().unwrap_or_default()).within(namespace));
        match found.filter(|found| found.metadata.uid == meta.uid) {
            Some(found) => PodRef::of(&found),
            None => PodRef::of(pod),
        }
    }

    /// The Pod whose socket is bound to `peer` and connected to `local`; none where there is no such socket, it is no Pod's,
    /// or it is not found in time.
    pub(crate) async fn of_socket(&self, peer: SocketAddr, local: SocketAddr) -> Option<PodRef> {
        let inode = socket::inode(peer, local)?;
        // Few and short system calls that wait for nothing: handing them to another thread would cost more than they do.
        if let Some(pod) = self.inner.holders.recent(inode) {
            return Some(self.as_told(&pod));
        }
        let search = async {
            let turn = Arc::clone(&self.inner.searches).acquire_owned().await.ok()?;
            self.search(inode, turn, PATIENCE).await.0
        };
        let pod = tokio::time::timeout(PATIENCE, search).await.ok().flatten()?;
        Some(self.as_told(&pod))
    }

    /// Whether the Pod of this uid listens on an address of this machine. No connection waits for the answer, so that its turn may take
    /// long: whoever asks has a limit.
    pub(crate) async fn listens(&self, uid: &str, at: SocketAddr) -> bool {
        // What nobody can be connected to is the listener's own. Where there is none, nobody's turn is taken.
        let Some(inode) = socket::inode(at, SocketAddr::new(at.ip(), 0)) else { return false };
        let known = || match self.inner.holders.recent(inode) {
            Some(pod) => Some(Some(pod)),
            None => self.inner.listeners.is_nobodys(inode, Instant::now()).then_some(None),
        };
        let pod = match known() {
            Some(pod) => pod,
            None => {
                let Some(turn) = self.inner.listeners.turn(uid).await else { return false };
                // Somebody who was before may have asked the same.
                match known() {
                    Some(pod) => pod,
                    None => self.search_listener(inode, turn).await,
                }
            }
        };
        pod.is_some_and(|pod| pod.metadata.uid.as_deref() == Some(uid))
    }

    async fn search_listener(&self, inode: u64, turn: listeners::Turn) -> Option<Arc<Pod>> {
        let (found, all) = self.search(inode, turn, LISTENER).await;
        if found.is_none() && all {
            self.inner.listeners.remember(inode, Instant::now());
        }
        found
    }

    /// Searches in `turn`. Whether everything was looked at that had to be.
    async fn search(&self, inode: u64, turn: impl Send + 'static, limit: Duration) -> (Option<Arc<Pod>>, bool) {
        let (owners, deadline) = (self.clone(), Instant::now() + limit);
        let searched = tokio::task::spawn_blocking(move || {
            let found = owners.inner.holders.search(inode, deadline, || owners.shims());
            drop(turn);
            (found, Instant::now() <= deadline)
        });
        searched.await.unwrap_or_default()
    }

    fn shims(&self) -> Vec<(Process, Arc<Pod>)> {
        let shims = self.inner.shims.lock();
        shims.iter().map(|(pid, (started, pod))| (Process { pid: *pid, started: *started }, Arc::clone(pod))).collect()
    }
}

#[cfg(test)]
mod tests;
