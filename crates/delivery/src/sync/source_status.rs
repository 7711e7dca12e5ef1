//! The status of Flux's GitRepositories: what was last seen, and whether it could be.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::actor::Shared;
use super::engine::compare::MANAGER;
use super::report::stamp;
use super::repository::{Known, Repository};

type Followed = BTreeMap<(String, String), (Arc<Repository>, watch::Receiver<Arc<Known>>)>;

/// Follows every GitRepository and writes its status until stopped.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut flux = shared.flux.subscribe();
    // Held from one round to the next, so that what is followed goes on.
    let mut followed: Followed;
    let mut told: BTreeMap<(String, String), Value> = BTreeMap::new();
    loop {
        let all = flux.borrow_and_update().clone();
        let mut next = Followed::new();
        for (key, read) in &all {
            let Ok(repository) = read.as_ref().map_err(|_| ()) else { continue };
            if repository.suspended {
                continue;
            }
            let source = &repository.source;
            if let Ok(found) = shared.repositories.get(&source.url, source.secret.as_ref(), source.interval) {
                let known = found.subscribe();
                next.insert(key.clone(), (found, known));
            }
        }
        followed = next;
        told.retain(|key, _| all.contains_key(key));
        for (key, read) in &all {
            let known = followed.get_mut(key).map(|(_, known)| known.borrow_and_update().clone());
            let status = status(read, known.as_deref(), told.get(key));
            if told.get(key) != Some(&status) && write(&shared, key, &status).await {
                told.insert(key.clone(), status);
            }
        }
        let changed = async {
            if followed.is_empty() {
                return std::future::pending().await;
            }
            let waits = followed.values_mut().map(|(_, known)| Box::pin(known.changed()));
            let (ended, _, _) = futures::future::select_all(waits).await;
            if ended.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = flux.changed() => if changed.is_err() { return },
            () = changed => {}
        }
    }
}

fn status(
    read: &Result<super::front::flux::Repository, String>,
    known: Option<&Known>,
    before: Option<&Value>,
) -> Value {
    let said = match (read, known) {
        (Err(reason), _) => ("False", "InvalidSpec", reason.clone(), None),
        (Ok(repository), _) if repository.suspended => ("Unknown", "Suspended", "it is suspended".to_owned(), None),
        (Ok(repository), Some(known)) => match (&known.error, &known.refs) {
            (Some(error), _) => ("False", "GitOperationFailed", error.to_string(), None),
            (None, Some(refs)) => match refs.resolve(&repository.source.wanted) {
                Ok(resolved) => {
                    let revision = resolved.flux_revision();
                    ("True", "Succeeded", format!("stored artifact for revision '{revision}'"), Some(revision))
                }
                Err(reason) => ("False", "GitOperationFailed", reason, None),
            },
            (None, None) => ("Unknown", "Progressing", "looking at the repository".to_owned(), None),
        },
        (Ok(_), None) => ("Unknown", "Progressing", "looking at the repository".to_owned(), None),
    };
    let (ready, reason, message, revision) = said;
    let same = |before: &&Value| before["conditions"][0]["status"] == ready;
    let since = before.filter(same).map(|before| before["conditions"][0]["lastTransitionTime"].clone());
    let now = || Value::from(stamp(Timestamp::now()));
    let condition = json!({ "type": "Ready", "status": ready, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(now) });
    let mut status = json!({ "conditions": [condition] });
    if let Some(requested) = read.as_ref().ok().and_then(|repository| repository.requested.as_ref()) {
        status["lastHandledReconcileAt"] = requested.as_str().into();
    }
    match revision {
        Some(revision) => {
            let seen = before.filter(|before| before["artifact"]["revision"] == revision.as_str());
            let at = seen.map_or_else(now, |before| before["artifact"]["lastUpdateTime"].clone());
            status["artifact"] = json!({ "revision": revision, "lastUpdateTime": at, "path": "", "url": "" });
        }
        // What was seen last stays.
        None => {
            if let Some(artifact) = before.map(|before| &before["artifact"]).filter(|artifact| artifact.is_object()) {
                status["artifact"] = artifact.clone();
            }
        }
    }
    status
}

/// True where it is written, or there is nothing to write to.
async fn write(shared: &Shared, (namespace, name): &(String, String), status: &Value) -> bool {
    let path = format!("/apis/source.toolkit.fluxcd.io/v1/namespaces/{namespace}/gitrepositories/{name}/status");
    match shared.api.merge(&path, &json!({ "status": status }), MANAGER).await {
        Ok(_) => true,
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            tracing::warn!(namespace, name, %error, "the status of a GitRepository could not be written");
            false
        }
    }
}
