//! Carries out what [`super::plan`] has decided: the only place here that writes objects, and that removes directories.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::choose::{Tie, holder, tie, uid};
use super::plan::Action;
use super::{VOLUME_FINALIZER, directory, make};

/// Longer than any single answer of the API takes.
const ANSWER: Duration = Duration::from_secs(30);

/// What a write has made of an object.
#[derive(Debug)]
pub(super) enum Fresh {
    Claim(Box<PersistentVolumeClaim>),
    Volume(Box<PersistentVolume>),
    /// A volume that was made for this claim.
    Provisioned(Box<PersistentVolume>, Arc<PersistentVolumeClaim>),
    Nothing,
}

/// Why an action came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// The object is not any more what the action was decided upon.
    Stale,
    /// The one who made the claim has to know.
    Claim {
        claim: Arc<PersistentVolumeClaim>,
        message: String,
    },
    Other(String),
}

/// Does things.
pub(super) struct Actor {
    pub client: kube::Client,
}

impl Actor {
    /// Makes the class of this machine's directories, unless it is there.
    pub(super) async fn make_class(&self) -> Result<(), kube::Error> {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        let class = serde_json::from_value(make::class()).map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams::default(), &class).await {
            Err(kube::Error::Api(answer)) if answer.reason == "AlreadyExists" => Ok(()),
            other => other.map(drop),
        }
    }

    /// Does one thing.
    pub(super) fn act(&self, action: Action) -> BoxFuture<'_, Result<Fresh, Failed>> {
        async move {
            match action {
                Action::Provision { claim, directory, volume } => self.provision(claim, directory, volume).await,
                Action::Claim { claim, change } => {
                    let changed = patch(&self.claims(&claim), &claim.metadata, change, false).await;
                    changed.map(|claim| Fresh::Claim(Box::new(claim)))
                }
                Action::ClaimStatus { claim, status } => {
                    let change = json!({ "status": status });
                    let changed = patch(&self.claims(&claim), &claim.metadata, change, true).await;
                    changed.map(|claim| Fresh::Claim(Box::new(claim)))
                }
                Action::Lose { claim, volume } => self.lose(&claim, &volume).await,
                Action::Volume { volume, change } => {
                    let changed = patch(&self.volumes(), &volume.metadata, change, false).await;
                    changed.map(|volume| Fresh::Volume(Box::new(volume)))
                }
                Action::VolumeStatus { volume, status } => {
                    let change = json!({ "status": status });
                    let changed = patch(&self.volumes(), &volume.metadata, change, true).await;
                    changed.map(|volume| Fresh::Volume(Box::new(volume)))
                }
                Action::Reclaim { volume, directory } => self.reclaim(&volume, &directory).await,
            }
        }
        .boxed()
    }

    fn claims(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), claim.metadata.namespace.as_deref().unwrap_or("default"))
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    async fn provision(
        &self,
        claim: Arc<PersistentVolumeClaim>,
        directory: PathBuf,
        volume: Value,
    ) -> Result<Fresh, Failed> {
        let refuse = |claim: Arc<PersistentVolumeClaim>, why: String| {
            let message = format!("failed to provision the volume of claim {}: {why}", title(&claim.metadata));
            Err(Failed::Claim { claim, message })
        };
        if let Err(error) = directory::make(&directory) {
            return refuse(claim, format!("can't make the directory {}: {error}", directory.display()));
        }
        let volume: PersistentVolume = match serde_json::from_value(volume) {
            Ok(volume) => volume,
            Err(error) => return refuse(claim, error.to_string()),
        };
        let name = volume.metadata.name.clone().unwrap_or_default();
        match answered(self.volumes().create(&PostParams::default(), &volume)).await {
            Ok(made) => Ok(Fresh::Provisioned(Box::new(made), claim)),
            Err(Answer::Api(error)) if error.reason == "AlreadyExists" => {
                let found =
                    answered(self.volumes().get(&name)).await.map_err(|error| other("look up", &name, error))?;
                if tie(&found, &claim) == Tie::Own {
                    return Ok(Fresh::Volume(Box::new(found)));
                }
                refuse(claim, format!("there is a PersistentVolume {name} already, for another claim; delete it"))
            }
            Err(error) => refuse(claim, error.to_string()),
        }
    }

    async fn lose(&self, claim: &PersistentVolumeClaim, volume: &str) -> Result<Fresh, Failed> {
        let found = answered(self.volumes().get_opt(volume)).await.map_err(|error| other("look up", volume, error))?;
        if found.is_some_and(|found| matches!(tie(&found, claim), Tie::Own | Tie::Free | Tie::Kept)) {
            return Err(Failed::Stale);
        }
        tracing::warn!(claim = title(&claim.metadata), volume, "a claim has lost its volume");
        let change = json!({ "status": { "phase": "Lost", "capacity": null, "accessModes": null } });
        let changed = patch(&self.claims(claim), &claim.metadata, change, true).await;
        changed.map(|claim| Fresh::Claim(Box::new(claim)))
    }

    async fn reclaim(&self, volume: &PersistentVolume, directory: &Path) -> Result<Fresh, Failed> {
        let name = volume.metadata.name.clone().unwrap_or_default();
        let Some((holder, uid)) = holder(volume).and_then(|holder| Some((holder, uid(holder)?))) else {
            return Err(Failed::Stale);
        };
        // The watch may be behind; data is not removed on its word.
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), holder.namespace.as_deref().unwrap_or("default"));
        let holder = holder.name.clone().unwrap_or_default();
        let found =
            answered(claims.get_opt(&holder)).await.map_err(|error| other("look up the claim of", &name, error))?;
        let current = answered(self.volumes().get_opt(&name)).await.map_err(|error| other("look up", &name, error))?;
        if found.is_some_and(|claim| claim.metadata.uid.as_deref() == Some(uid))
            || current.is_none_or(|current| current.metadata.resource_version != volume.metadata.resource_version)
        {
            return Err(Failed::Stale);
        }
        let path = directory.to_owned();
        let removed = tokio::task::spawn_blocking(move || directory::remove(&path)).await;
        if let Err(error) = removed.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            let why = format!("can't remove the directory {} of volume {name}: {error}", directory.display());
            let status = json!({ "status": { "phase": "Failed", "message": why } });
            // Saying so is all that is left; it is said again with the next try.
            let _ = patch(&self.volumes(), &volume.metadata, status, true).await;
            return Err(Failed::Other(why));
        }
        self.delete(volume, &name).await
    }

    /// Takes a volume away that protects itself until now.
    async fn delete(&self, volume: &PersistentVolume, name: &str) -> Result<Fresh, Failed> {
        let left = make::without(&volume.metadata, VOLUME_FINALIZER);
        if volume.metadata.deletion_timestamp.is_some() {
            let change = json!({ "metadata": { "finalizers": left } });
            return patch(&self.volumes(), &volume.metadata, change, false).await.map(|_| Fresh::Nothing);
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: volume.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match answered(self.volumes().delete(name, &params)).await {
            // It stays for its finalizer: the next plan takes that away.
            Ok(answer) => Ok(answer.left().map_or(Fresh::Nothing, |volume| Fresh::Volume(Box::new(volume)))),
            Err(Answer::Api(error)) if error.code == 404 => Ok(Fresh::Nothing),
            Err(Answer::Api(error)) if error.code == 409 => Err(Failed::Stale),
            Err(error) => Err(other("delete", name, error)),
        }
    }
}

/// Why the API gave no object.
#[derive(Debug, thiserror::Error)]
enum Answer {
    #[error("{0}")]
    Api(Box<kube::core::Status>),
    #[error("{0}")]
    Client(kube::Error),
    #[error("the API did not answer in {} s", ANSWER.as_secs())]
    Late,
}

async fn answered<T>(asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Answer> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(Answer::Api(status)),
        Ok(Err(error)) => Err(Answer::Client(error)),
        Err(_) => Err(Answer::Late),
    }
}

/// Changes an object that is still what it was when the change was decided.
async fn patch<K>(api: &Api<K>, meta: &ObjectMeta, mut change: Value, status: bool) -> Result<K, Failed>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    change["metadata"]["uid"] = json!(meta.uid);
    change["metadata"]["resourceVersion"] = json!(meta.resource_version);
    let name = meta.name.as_deref().unwrap_or_default();
    let (params, change) = (PatchParams::default(), Patch::Merge(&change));
    let answer = match status {
        true => answered(api.patch_status(name, &params, &change)).await,
        false => answered(api.patch(name, &params, &change)).await,
    };
    match answer {
        Ok(changed) => Ok(changed),
        Err(Answer::Api(error)) if error.code == 404 || error.code == 409 => Err(Failed::Stale),
        Err(error) => Err(other("change", &title(meta), error)),
    }
}

fn title(meta: &ObjectMeta) -> String {
    let name = meta.name.as_deref().unwrap_or_default();
    meta.namespace.as_ref().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

fn other(what: &str, name: &str, error: Answer) -> Failed {
    Failed::Other(format!("can't {what} {name}: {error}"))
}
