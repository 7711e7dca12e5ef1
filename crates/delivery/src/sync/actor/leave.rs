//! An application that is being deleted: its objects go first, where it says so.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Actor;
use super::turn::Next;
use crate::kinds::Kinds;
use crate::object::{self, ObjectId};
use crate::sync::application::{Deletion, Front};
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

    /// The application is being deleted: its objects go first, where it says so.
    pub(super) async fn leave(&mut self, object: &Value) -> Next {
        self.running = None;
        let ours = match self.id.front {
            Front::Argo => |name: &str| name.starts_with(argo::FINALIZER),
            Front::Flux => |name: &str| name == flux::FINALIZER,
        };
        let (held, rest): (Vec<String>, Vec<String>) = finalizers(object).into_iter().partition(|name| ours(name));
        if held.is_empty() {
            return Next::At(None);
        }
        let orphan = self.application.as_ref().is_some_and(|one| one.policy.deletion == Deletion::Orphan);
        if !orphan {
            let Some(kinds) = self.kinds(&[]).await else { return Next::At(self.next_look) };
            self.follow(&kinds).await;
            let left = self.delete_all(&kinds).await;
            if !left.is_empty() {
                let reasons = left.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
                self.report.conditions.push(("DeletionError", format!("waiting for objects to be gone: {reasons}")));
                self.write(object, Timestamp::now()).await;
                self.look_later(AGAIN);
                return Next::At(self.next_look);
            }
        }
        if !orphan && let Err(error) = self.shared.api.delete(&self.set.path(), "").await {
            tracing::debug!(%error, "the inventory of a deleted application could not be deleted");
        }
        let patch = json!({ "metadata": { "finalizers": rest, "resourceVersion": object::resource_version(object) } });
        match self.shared.api.merge(&self.id.path(), &patch, compare::MANAGER).await {
            Err(error) if !error.is_not_found() => self.look_later(AGAIN),
            _ => {}
        }
        Next::At(self.next_look)
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

fn finalizers(object: &Value) -> Vec<String> {
    let all = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}
