//! An application that is being deleted: its objects go first, where it says so.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Actor;
use super::farewell::FINALIZERS;
use super::turn::Next;
use crate::kinds::Kinds;
use crate::lock;
use crate::object::{self, ObjectId};
use crate::sync::application::{Deletion, Front};
use crate::sync::engine::steps::Phase;
use crate::sync::engine::{cause, compare, steps};
use crate::sync::front::{argo, flux};

/// What could not be done is tried again after so many seconds.
const AGAIN: i64 = 5;

impl Actor {
    /// Flux's objects go with their Kustomization only if something holds it until they are gone.
    pub(super) async fn keep_finalizer(&mut self, object: &Value) {
        let wanted = self.id.front == Front::Flux
            && self.application.as_ref().is_some_and(|one| one.policy.deletion == Deletion::Delete);
        if !wanted || finalizers(object).iter().any(|one| one == flux::FINALIZER) {
            return;
        }
        let mut all = finalizers(object);
        all.push(flux::FINALIZER.to_owned());
        let patch = json!({ "metadata": { "finalizers": all, "resourceVersion": object::resource_version(object) } });
        if let Err(error) = self.shared.api.merge(&self.id.path(), &patch, compare::MANAGER).await {
            tracing::debug!(application = %self.id, %error, "the finalizer is added at the next look");
            self.look_later(1);
        }
    }

    /// The application is being deleted: its hooks and objects go first, where it says so.
    pub(super) async fn leave(&mut self, object: &Value) -> Next {
        if self.running.is_some() {
            self.end_work().await;
        }
        self.take_requests(object).await;
        let all = finalizers(object);
        let front = self.id.front;
        let ours = move |name: &str| match front {
            Front::Argo => name.starts_with(argo::FINALIZER),
            Front::Flux => name == flux::FINALIZER,
        };
        let of_hooks = |wanted: Phase| FINALIZERS.iter().find(|(_, phase)| *phase == wanted).map(|(name, _)| *name);
        let [before, after] = [Phase::PreDelete, Phase::PostDelete]
            .map(|phase| of_hooks(phase).filter(|name| all.iter().any(|one| one == name)));
        let objects = all.iter().any(|name| ours(name));
        if before.is_none() && after.is_none() && !objects {
            return Next::At(None);
        }
        let Some(kinds) = self.kinds(&[]).await else { return Next::At(self.next_look) };
        let (done, waiting) = if let Some(name) = before {
            (vec![name.to_owned()], self.hooks(Phase::PreDelete, &kinds).await)
        } else if objects {
            let done = all.iter().filter(|name| ours(name)).cloned().collect();
            (done, self.objects_gone(&kinds).await)
        } else {
            (after.map(str::to_owned).into_iter().collect(), self.hooks(Phase::PostDelete, &kinds).await)
        };
        if let Some(waiting) = waiting {
            self.report.conditions.retain(|(kind, _)| *kind != "ComparisonError");
            self.report.conditions.push(("DeletionError", waiting));
            self.write(object, Timestamp::now()).await;
            self.look_later(AGAIN);
            return Next::At(self.next_look);
        }
        let rest: Vec<&String> = all.iter().filter(|name| !done.contains(name)).collect();
        let more = rest.iter().any(|name| ours(name) || FINALIZERS.iter().any(|(hook, _)| hook == *name));
        if !more && let Err(error) = lock::forget(self.shared.client.clone(), &self.set).await {
            tracing::debug!(%error, "the lock of a deleted application could not be deleted");
        }
        let patch = json!({ "metadata": { "finalizers": rest, "resourceVersion": object::resource_version(object) } });
        match self.shared.api.merge(&self.id.path(), &patch, compare::MANAGER).await {
            Err(error) if !error.is_not_found() => self.look_later(AGAIN),
            _ => {}
        }
        Next::At(self.next_look)
    }

    /// Deletes the objects and their inventory. None once they are gone, else what is awaited.
    async fn objects_gone(&mut self, kinds: &Kinds) -> Option<String> {
        if self.application.as_ref().is_some_and(|one| one.policy.deletion == Deletion::Orphan) {
            return None;
        }
        self.follow(kinds).await;
        let left = self.delete_all(kinds).await;
        if !left.is_empty() {
            let reasons = left.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
            return Some(format!("waiting for objects to be gone: {reasons}"));
        }
        if let Err(error) = self.shared.api.delete(&self.set.path(), "").await {
            tracing::debug!(%error, "the inventory of a deleted application could not be deleted");
        }
        None
    }

    /// Deletes what may be deleted; what is left, and why.
    async fn delete_all(&mut self, kinds: &Kinds) -> Vec<String> {
        let options = self.application.as_ref().map(|one| one.policy.options.clone()).unwrap_or_default();
        let Ok(api) = self.guarded(kinds) else { return vec!["its project is gone".to_owned()] };
        let all: Vec<Value> = self.live.view().all().into_values().map(Arc::unwrap_or_clone).collect();
        let mut left = Vec::new();
        for one in steps::pruning_order(all) {
            if !options.for_object(&one).delete {
                continue;
            }
            let id = ObjectId::of(&one);
            let stuck = cause::of_deletion(&one);
            left.push(stuck.unwrap_or_else(|| format!("{} {}", id.group_kind(), id.name)));
            if !one["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            let Ok(resource) = compare::resource(kinds, &one) else { continue };
            if let Err(error) = api.delete(&crate::api::path_of(resource, &id), object::uid(&one)).await
                && !error.is_not_found()
            {
                left.push(cause::of_refusal(&id, &error));
            }
        }
        left
    }
}

pub(super) fn finalizers(object: &Value) -> Vec<String> {
    let all = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}
