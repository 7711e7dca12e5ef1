//! Which process of a Pod holds a socket.
//!
//! The kernel keeps no way from a socket to its process, so the open files of processes are looked through: first those
//! that were found last, at the place where they were found and right behind it (a client that connects again gets the same
//! descriptor, or the next ones), then all of these processes' files, then all processes of all Pods.
//!
//! Invariant: a process is believed to be a Pod's only after its start time has been compared.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::shim::{self, Process};

/// How many processes are remembered, and at how many of them is looked first.
const REMEMBERED: usize = 64;
const FIRST: usize = 8;
/// How many descriptors from the last one on are looked at first.
const NEAR: u32 = 4;

/// A process that has held a socket.
#[derive(Clone)]
struct Holder {
    process: Process,
    pod: Arc<Pod>,
    descriptor: u32,
}

/// The processes that were found last, the latest first.
#[derive(Default)]
pub(super) struct Holders {
    latest: Mutex<Vec<Holder>>,
}

impl Holders {
    /// Looks where sockets were found last. Some dozen short system calls at most.
    pub(super) fn recent(&self, inode: u64) -> Option<Arc<Pod>> {
        let latest: Vec<Holder> = self.latest.lock().iter().take(FIRST).cloned().collect();
        let name = name(inode);
        latest.into_iter().find_map(|holder| {
            let near = holder.descriptor..=holder.descriptor.saturating_add(NEAR);
            let descriptor = near.into_iter().find(|at| holds(holder.process.pid, *at, &name))?;
            self.believe(Holder { descriptor, ..holder })
        })
    }

    /// Looks everywhere. Blocks, until `deadline` at the longest.
    pub(super) fn search(
        &self,
        inode: u64,
        deadline: Instant,
        shims: impl FnOnce() -> Vec<(Process, Arc<Pod>)>,
    ) -> Option<Arc<Pod>> {
        let name = name(inode);
        let mut seen = HashSet::new();
        let known: Vec<Holder> = self.latest.lock().clone();
        let known = known.into_iter().map(|holder| (holder.process, holder.pod));
        // The second half is only made when the first was of no use.
        let all = std::iter::once_with(|| processes(shims())).flatten();
        for (process, pod) in known.chain(all) {
            if Instant::now() > deadline {
                return None;
            }
            if !seen.insert(process) {
                continue;
            }
            if let Some(descriptor) = descriptor(process.pid, &name) {
                return self.believe(Holder { process, pod, descriptor });
            }
        }
        None
    }

    /// Remembers who was found, if it is still the same process.
    fn believe(&self, holder: Holder) -> Option<Arc<Pod>> {
        let same = Process::of(holder.process.pid) == Some(holder.process);
        let mut latest = self.latest.lock();
        latest.retain(|other| other.process != holder.process);
        if !same {
            return None;
        }
        let pod = Arc::clone(&holder.pod);
        latest.insert(0, holder);
        latest.truncate(REMEMBERED);
        Some(pod)
    }
}

/// How a socket's link in `/proc` reads.
fn name(inode: u64) -> String {
    format!("socket:[{inode}]")
}

fn holds(pid: i32, descriptor: u32, name: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).is_ok_and(|link| link.as_os_str() == name)
}

/// Which descriptor of a process is the socket.
fn descriptor(pid: i32, name: &str) -> Option<u32> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|at| holds(pid, *at, name))
}

/// All processes below these shims.
fn processes(shims: Vec<(Process, Arc<Pod>)>) -> Vec<(Process, Arc<Pod>)> {
    let living: Vec<_> = shims.into_iter().filter(|(shim, _)| Process::of(shim.pid) == Some(*shim)).collect();
    let roots: Vec<i32> = living.iter().map(|(shim, _)| shim.pid).collect();
    let trees = shim::trees(&roots).into_iter().zip(living);
    trees.flat_map(|(tree, (_, pod))| tree.into_iter().map(move |process| (process, Arc::clone(&pod)))).collect()
}
