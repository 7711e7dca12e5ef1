//! Deletes the oldest Pods that have ended, once there are too many.
//!
//! Invariants: Pods that run are never touched; as many as the bound stay.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PropagationPolicy;

use crate::controllers::{Caches, Context};
use crate::error::ReconcileError;
use crate::machinery::key::Key;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Reconcile};
use crate::machinery::synced::all_synced;
use crate::machinery::writer::Writer;
use crate::pods;

const NAME: &str = "pod-garbage-collector";
/// The most Pods deleted in one step.
const BURST: usize = 100;

struct PodCleanup {
    caches: Arc<Caches>,
    writer: Writer,
    bound: usize,
}

pub(crate) fn register(context: &Context<'_>) -> Controller {
    let queue = Arc::new(Queue::new());
    let caches = &context.caches;
    let own = queue.clone();
    caches.pods.on_change(move |change| {
        if change.after.is_some_and(|pod| pods::has_ended(pod)) {
            // There is one thing to do, whichever Pod it was.
            own.add(Key::new("", ""));
        }
    });
    let ready = all_synced([caches.pods.clone()]);
    let reconcile =
        PodCleanup { caches: caches.clone(), writer: context.writer(NAME), bound: context.settings.ended_pods };
    context.controller(NAME, queue, ready, reconcile)
}

/// The Pods that have to go, the oldest first.
pub(crate) fn plan<'a>(all: &[&'a Pod], bound: usize) -> Vec<&'a Pod> {
    let mut ended: Vec<&Pod> = all.iter().copied().filter(|pod| pods::has_ended(pod) && !pods::is_going(pod)).collect();
    let excess = ended.len().saturating_sub(bound);
    ended.sort_by_key(|pod| (pods::created_at(pod), pods::uid(pod)));
    ended.truncate(excess);
    ended
}

impl Reconcile for PodCleanup {
    fn reconcile<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Duration>, ReconcileError>> {
        async move {
            self.caches.pods.fresh().await?;
            let all = self.caches.pods.all();
            let all: Vec<&Pod> = all.iter().map(|pod| &**pod).collect();
            let excess = plan(&all, self.bound);
            for pod in excess.iter().take(BURST) {
                let key = Key::of(&pod.metadata);
                let background = PropagationPolicy::Background;
                self.writer.delete(&self.caches.pods, &key, pods::uid(pod), background).await?;
            }
            Ok((excess.len() > BURST).then_some(Duration::from_millis(1)))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;
    use kube::api::ObjectMeta;

    use super::*;
    use crate::machinery::clock::stamp;

    #[test]
    fn the_oldest_ended_go_first_and_running_ones_never() {
        let pod = |name: &str, phase: &str, second: i64| Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                uid: Some(name.into()),
                creation_timestamp: Some(stamp(jiff::Timestamp::from_second(second).expect("a time"))),
                ..ObjectMeta::default()
            },
            status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }),
            ..Pod::default()
        };
        let all = [
            pod("old-running", "Running", 1),
            pod("c", "Failed", 30),
            pod("a", "Succeeded", 10),
            pod("b", "Failed", 20),
        ];
        let all: Vec<&Pod> = all.iter().collect();
        let names = |bound| plan(&all, bound).into_iter().map(pods::name).collect::<Vec<_>>();
        assert_eq!(names(3), Vec::<&str>::new());
        assert_eq!(names(2), ["a"]);
        assert_eq!(names(0), ["a", "b", "c"]);
    }
}
