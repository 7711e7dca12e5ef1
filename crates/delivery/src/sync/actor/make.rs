//! Has the programs of a commit made before anything of it is brought, beside the turns.
//!
//! Invariants: one commit at a time for an application, and a newer one ends the older; what fails is not tried again until somebody
//! asks, or something else is wanted.

use std::collections::BTreeSet;
use std::future;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::target::{Order, Rendered};
use super::{Actor, Shared};
use crate::sync::engine::decide::Content;
use crate::sync::programs::{self, Programs, Say};

/// How much of a failed build's last words is kept, in characters.
const LAST_WORDS: usize = 1500;

/// Programs that are being made.
pub(super) struct Making {
    pub(super) content: Content,
    images: String,
    digests: BTreeSet<String>,
    task: AbortOnDropHandle<Result<(), String>>,
}

/// How it ended; never where nothing is being made.
pub(super) async fn made(making: &mut Option<Making>) -> Result<(), String> {
    match making {
        Some(making) => (&mut making.task).await.unwrap_or_else(|error| Err(format!("the build broke: {error}"))),
        None => future::pending().await,
    }
}

impl Actor {
    /// Begins, unless that is being done already.
    pub(super) fn make(&mut self, content: Content, orders: Vec<Order>) {
        let going = self.making.as_ref().is_some_and(|making| making.content == content);
        let Some(programs) = self.shared.programs.clone().filter(|_| !going) else { return };
        let all: BTreeSet<&str> = orders.iter().flat_map(|order| order.images.iter().map(String::as_str)).collect();
        let images = all.into_iter().collect::<Vec<_>>().join(", ");
        let digests = orders.iter().filter_map(|order| programs.digests(&order.tree, &order.images).ok());
        let digests = digests.flat_map(std::collections::BTreeMap::into_values).collect();
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move {
            for order in orders {
                one(&shared, &*programs, order).await?;
            }
            tidy(&shared, &*programs).await;
            Ok(())
        });
        self.making = Some(Making { content, images, digests, task: AbortOnDropHandle::new(task) });
        self.hold_programs();
    }

    /// Says which programs are not to be let go of: those that what is rendered names, and those that are being made.
    pub(super) fn hold_programs(&self) {
        let named = [&self.rendered, &self.good].into_iter().flatten().flat_map(|one| &one.programs);
        let made = self.making.iter().flat_map(|making| &making.digests);
        let held: BTreeSet<String> = named.map(|(_, digest)| digest).chain(made).cloned().collect();
        self.shared.held.lock().insert(self.id.clone(), held);
    }

    /// Whether a program is gone that a rendering names, so that it has to be rendered again.
    pub(super) fn is_lost(&self, rendered: &Rendered) -> bool {
        let lost = |made: &Arc<dyn Programs>| rendered.programs.iter().any(|(image, digest)| !made.has(image, digest));
        self.shared.programs.as_ref().is_some_and(lost)
    }

    /// Says what is being made for this content, if it is.
    pub(super) fn making_of(&self, content: &Content) -> Option<String> {
        let making = self.making.as_ref().filter(|making| making.content == *content)?;
        Some(format!("building {} of {}", making.images, content.short()))
    }

    /// Lets go of what is made for nobody any more.
    pub(super) fn drop_stale_making(&mut self, target: &Content) {
        let good = self.report.memory.good.as_ref().map(|good| &good.content);
        let wanted =
            |content: &Content| content == target || Some(content) == good || Some(content) == self.asked.as_ref();
        if self.making.as_ref().is_some_and(|one| !wanted(&one.content)) {
            self.making = None;
        }
    }

    /// Takes in how it ended.
    pub(super) fn take_made(&mut self, outcome: Result<(), String>) {
        let Some(making) = self.making.take() else { return };
        if let Err(reason) = outcome {
            let reason = last_words(&reason);
            tracing::warn!(application = %self.id, revision = making.content.short(), reason, "a program could not be made");
            self.unmade = Some((making.content, reason));
        }
    }
}

/// The end counts most.
fn last_words(text: &str) -> String {
    let count = text.chars().count();
    if count <= LAST_WORDS {
        return text.to_owned();
    }
    let first = text.lines().next().unwrap_or_default();
    let first: String = first.chars().take(300).collect();
    let end: String = text.chars().skip(count - (LAST_WORDS - 300)).collect();
    format!("{first} … {end}")
}

async fn one(shared: &Shared, programs: &dyn Programs, order: Order) -> Result<(), String> {
    let digests = programs.digests(&order.tree, &order.images)?;
    let missing: BTreeSet<String> =
        digests.into_iter().filter(|(image, digest)| !programs.has(image, digest)).map(|(image, _)| image).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let directory = programs.room(&order.tree.commit);
    let written = order.repository.mirror.check_out(&order.tree.commit, &order.tree.manifests, &directory).await;
    let (said, url) = (shared.said.clone(), order.tree.repository.clone());
    let mut say: Say = Box::new(move |line| {
        // Nobody may be listening.
        let _ = said.send((url.clone(), line));
    });
    let export = match written {
        Ok(export) => export,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&directory);
            return Err(error.to_string());
        }
    };
    crate::fault::point("push.written");
    for left in export.left_out.iter().take(10) {
        say(format!("left out of the build: {}: {}", left.path, left.reason));
    }
    programs.make(order.tree, missing, directory, say).await?;
    crate::fault::point("push.made");
    Ok(())
}

/// Lets go of the programs that nothing uses.
async fn tidy(shared: &Shared, programs: &dyn Programs) {
    let mut used = BTreeSet::new();
    for (api_version, kind, path) in [
        ("v1", "Pod", "/api/v1/pods"),
        ("apps/v1", "Deployment", "/apis/apps/v1/deployments"),
        ("apps/v1", "ReplicaSet", "/apis/apps/v1/replicasets"),
        ("apps/v1", "StatefulSet", "/apis/apps/v1/statefulsets"),
        ("apps/v1", "DaemonSet", "/apis/apps/v1/daemonsets"),
        ("batch/v1", "Job", "/apis/batch/v1/jobs"),
        ("batch/v1", "CronJob", "/apis/batch/v1/cronjobs"),
    ] {
        let Ok(mut all) = shared.api.list(path, "").await else { return };
        // Those of earlier revisions wait for a way back that may never be taken.
        all.retain(|one| kind != "ReplicaSet" || one["spec"]["replicas"].as_u64().unwrap_or(1) > 0);
        for one in &mut all {
            one["apiVersion"] = Value::from(api_version);
            one["kind"] = Value::from(kind);
        }
        used.extend(programs::digests_in(&mut all));
    }
    used.extend(shared.held.lock().values().flatten().cloned());
    programs.keep(&used);
}
