//! One object: written, replaced, deleted, or released.

use super::{ApplyError, Event, Run, stale};
use crate::api::{ApplyMode, path_of};
use crate::applyset::PART_OF;
use crate::kinds::Resource;
use crate::object::{self, ObjectId};
use crate::plan::{Action, Change, Pin};
use crate::protect::{self, Confirmation};
use resources::names::MOVED_TO;
use serde_json::{Value, json};

/// How often a write is tried again when the object's status changed meanwhile.
const TRIES: usize = 8;

impl Run<'_> {
    /// Brings one object to what its manifest says; returns it as it is then.
    pub(super) async fn write(&self, change: &Change) -> Result<Value, ApplyError> {
        let id = &change.object;
        let resource = self.resource(&change.api_version, id)?;
        let path = path_of(&resource, id);
        let desired = change.desired.as_ref().ok_or_else(|| self.failed(id, "the plan has no manifest for it"))?;
        if change.action == Action::Replace {
            let uid = change.pin.as_ref().map_or("", |pin| pin.uid.as_str());
            self.delete(&path, id, uid).await?;
            self.gone(&resource, id, uid).await?;
        }
        let pin = change.pin.as_ref().filter(|_| change.action != Action::Replace);
        let object = self.put(&path, id, desired, pin).await?;
        if let Some(mark) = protect::mark(&object) {
            let mode = ApplyMode { manager: protect::MANAGER, force: true, dry_run: false };
            self.api.apply(&path, &mark, mode).await.map_err(|error| self.failed(id, error.to_string()))?;
        }
        (self.progress)(Event::Done { action: change.action, object: id.clone() });
        Ok(object)
    }

    /// Server-side apply over exactly the pinned state.
    async fn put(&self, path: &str, id: &ObjectId, desired: &Value, pin: Option<&Pin>) -> Result<Value, ApplyError> {
        let mode = ApplyMode { manager: &self.plan.manager, force: self.options.force_conflicts, dry_run: false };
        let Some(pin) = pin else {
            return self.api.apply(path, desired, mode).await.map_err(|error| self.failed(id, error.message));
        };
        let mut version = self.versions.get(id).unwrap_or(&pin.resource_version).clone();
        for _ in 0..TRIES {
            let mut claimed = desired.clone();
            claimed["metadata"]["uid"] = pin.uid.as_str().into();
            claimed["metadata"]["resourceVersion"] = version.as_str().into();
            let error = match self.api.apply(path, &claimed, mode).await {
                Ok(object) => return Ok(object),
                Err(error) if error.is_conflict() && !error.is_ownership_conflict() => error,
                Err(error) => return Err(self.failed(id, error.message)),
            };
            let live = self.api.find(path).await?;
            if let Some(how) = stale::compare(Some(pin), live.as_ref()) {
                let moved = stale::Moved { object: id.clone(), how };
                return Err(self.failed(id, format!("it changed while the plan was applied: {moved}")));
            }
            let newer = live.as_ref().map(object::resource_version).unwrap_or_default();
            if newer == version {
                return Err(self.failed(id, error.message));
            }
            newer.clone_into(&mut version);
        }
        Err(self.failed(id, format!("it changed {TRIES} times while it was written; apply again")))
    }

    async fn delete(&self, path: &str, id: &ObjectId, uid: &str) -> Result<(), ApplyError> {
        match self.api.delete(path, uid).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(self.failed(id, format!("it cannot be deleted: {}", error.message))),
        }
    }

    /// Deletes an object that nobody wants any more.
    pub(super) async fn remove(&self, change: &Change) -> Result<(), ApplyError> {
        let id = &change.object;
        // Its kind may have gone with its definition.
        let Some(resource) = self.kinds.of_group(&id.group, &id.kind) else { return Ok(()) };
        let path = path_of(resource, id);
        if change.protected.is_some() {
            let confirmed = self
                .plan
                .confirmed
                .iter()
                .map(|(object, reason)| Confirmation { object: object.clone(), reason: reason.clone() });
            let confirmed = confirmed.into_iter().find(|confirmation| confirmation.is_for(id));
            let confirmation =
                confirmed.ok_or_else(|| self.failed(id, "it is protected, and its deletion is not confirmed"))?;
            let patched = self.api.merge(&path, &confirmation.patch(&id.name), protect::MANAGER).await;
            match patched {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(self.failed(id, error.message)),
            }
        }
        self.delete(&path, id, change.pin.as_ref().map_or("", |pin| pin.uid.as_str())).await?;
        (self.progress)(Event::Done { action: Action::Delete, object: id.clone() });
        Ok(())
    }

    /// What becomes of the old object of a move: deleted, or released where it holds data.
    pub(super) async fn leave(&self, change: &Change) -> Result<(), ApplyError> {
        let (Some(old), Some(pin)) = (&change.moved_from, &change.from_pin) else { return Ok(()) };
        let resource: Resource = self.resource(&change.api_version, old)?;
        let path = path_of(&resource, old);
        let Some(why) = &change.protected else {
            return self.delete(&path, old, &pin.uid).await;
        };
        let patch = json!({ "metadata": {
            "labels": { PART_OF: null }, "annotations": { MOVED_TO: change.object.name },
        } });
        match self.api.merge(&path, &patch, protect::MANAGER).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(self.failed(old, error.message)),
        }
        let why = format!("{why}; it is no longer of the set, and stays until you delete it");
        (self.progress)(Event::Kept { object: old.clone(), why });
        Ok(())
    }
}
