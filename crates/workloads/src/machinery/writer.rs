//! Writes to the API that the caches are told of.
//!
//! Invariants: every write names its manager (`fieldManager`); status and metadata are changed by JSON merge patches computed
//! from what was read, so that fields this program does not know survive; whoever depends on what he read puts its
//! `resourceVersion` into the patch.

use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::Request;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::cache::{Cache, Cached};
use super::key::Key;
use crate::error::WriteError;

/// Writes in the name of one controller.
#[derive(Clone)]
pub(crate) struct Writer {
    client: kube::Client,
    manager: &'static str,
}

fn named<K: Cached>(key: &Key) -> String {
    format!("{} {key}", K::kind(&()))
}

impl Writer {
    pub(crate) fn new(client: kube::Client, manager: &'static str) -> Writer {
        Writer { client, manager }
    }

    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Whether the object of that uid may take dependents on: asked of the API, because a cache of one kind may be ahead of
    /// the cache of another, and show an object let go by an owner that the other cache does not show as going yet.
    pub(crate) async fn may_adopt<K: Cached>(&self, owner: &K) -> Result<bool, WriteError> {
        let key = Key::of(owner.meta());
        let attempt = async {
            let request = Request::new(K::url_path(&(), key.scope()))
                .get(&key.name, &GetParams::default())
                .map_err(kube::Error::BuildRequest)?;
            self.client.request::<K>(request).await
        };
        match attempt.await.map_err(|error| WriteError::new("read", named::<K>(&key), error)) {
            Ok(now) => Ok(now.meta().uid == owner.meta().uid && now.meta().deletion_timestamp.is_none()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates an object; the answer has its name.
    pub(crate) async fn create<K: Cached + Serialize>(&self, cache: &Cache<K>, object: &K) -> Result<K, WriteError> {
        let mut key = Key::of(object.meta());
        if key.name.is_empty() {
            key.name = object.meta().generate_name.clone().unwrap_or_default();
        }
        let attempt = async {
            let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
            let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
            let request =
                Request::new(K::url_path(&(), key.scope())).create(&params, body).map_err(kube::Error::BuildRequest)?;
            self.client.request::<K>(request).await
        };
        let made = attempt.await.map_err(|error| WriteError::new("create", named::<K>(&key), error))?;
        cache.wrote(&made);
        Ok(made)
    }

    /// Changes an object by a JSON merge patch.
    pub(crate) async fn patch<K: Cached>(&self, cache: &Cache<K>, key: &Key, patch: &Value) -> Result<K, WriteError> {
        self.patch_part(cache, key, None, patch).await
    }

    /// Changes an object's status by a JSON merge patch of the whole object.
    pub(crate) async fn patch_status<K: Cached>(
        &self,
        cache: &Cache<K>,
        key: &Key,
        patch: &Value,
    ) -> Result<K, WriteError> {
        self.patch_part(cache, key, Some("status"), patch).await
    }

    async fn patch_part<K: Cached>(
        &self,
        cache: &Cache<K>,
        key: &Key,
        part: Option<&str>,
        patch: &Value,
    ) -> Result<K, WriteError> {
        let attempt = async {
            let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
            let base = Request::new(K::url_path(&(), key.scope()));
            let patch = Patch::Merge(patch);
            let request = match part {
                Some(part) => base.patch_subresource(part, &key.name, &params, &patch),
                None => base.patch(&key.name, &params, &patch),
            }
            .map_err(kube::Error::BuildRequest)?;
            self.client.request::<K>(request).await
        };
        let made = attempt.await.map_err(|error| WriteError::new("change", named::<K>(key), error))?;
        cache.wrote(&made);
        Ok(made)
    }

    /// Deletes the object of that uid. One that is gone already is a success.
    pub(crate) async fn delete<K: Cached>(
        &self,
        cache: &Cache<K>,
        key: &Key,
        uid: &str,
        propagation: PropagationPolicy,
    ) -> Result<(), WriteError> {
        let attempt = async {
            let params = DeleteParams {
                propagation_policy: Some(propagation),
                preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
                ..DeleteParams::default()
            };
            let request = Request::new(K::url_path(&(), key.scope()))
                .delete(&key.name, &params)
                .map_err(kube::Error::BuildRequest)?;
            self.client.request::<Value>(request).await
        };
        match attempt.await.map_err(|error| WriteError::new("delete", named::<K>(key), error)) {
            Ok(_) => {
                cache.deleted(key, uid);
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                cache.deleted(key, uid);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The JSON merge patch that turns `old` into `new`; an empty object when they are equal.
pub(crate) fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for (name, value) in new {
        match old.get(name) {
            Some(before) if before == value => {}
            Some(before @ Value::Object(_)) if value.is_object() => {
                patch.insert(name.clone(), difference(before, value));
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    for name in old.keys() {
        if !new.contains_key(name) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    Value::Object(patch)
}

/// The patch of a status, held to the revision that the new status was computed from. `None` when nothing changes.
pub(crate) fn status_patch<S: Serialize>(old: Option<&S>, new: &S, revision: Option<&str>) -> Option<Value> {
    let old = old.and_then(|old| serde_json::to_value(old).ok()).unwrap_or_else(|| json!({}));
    let new = serde_json::to_value(new).unwrap_or_else(|_| json!({}));
    let patch = difference(&old, &new);
    if patch.as_object().is_none_or(Map::is_empty) {
        return None;
    }
    Some(match revision {
        Some(revision) => json!({ "metadata": { "resourceVersion": revision }, "status": patch }),
        None => json!({ "status": patch }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_what_turns_one_into_the_other() {
        let table = [
            (json!({"a": 1}), json!({"a": 1}), json!({})),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), json!({"b": null})),
            (json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": 1}}), json!({"a": {"y": null}})),
            (json!({"a": [1, 2]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
            (json!({"a": 1}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
        ];
        for (old, new, patch) in table {
            assert_eq!(difference(&old, &new), patch, "{old} -> {new}");
        }
    }

    #[test]
    fn an_unchanged_status_is_no_patch() {
        assert_eq!(status_patch(Some(&json!({"a": 1})), &json!({"a": 1}), Some("7")), None);
        assert_eq!(
            status_patch(None, &json!({"a": 1}), Some("7")),
            Some(json!({"metadata": {"resourceVersion": "7"}, "status": {"a": 1}}))
        );
    }
}
