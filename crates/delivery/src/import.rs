//! A live object becomes a member of a set, with a manifest that says exactly what is there.
//!
//! Invariants: importing changes nothing of the object but its label and its managers; the next plan with the manifest
//! is empty.

use crate::api::{Api, ApiError, ApplyMode, path_of};
use crate::applyset::{self, Contents, Foreign, PART_OF, Set};
use crate::export;
use crate::history::{self, HistoryError, Provenance, State};
use crate::object::{self, ObjectId};
use serde_json::Value;

/// Why an object cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The API refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The set's name is taken.
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// The history cannot be written.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The API has no such kind.
    #[error(transparent)]
    Kind(#[from] crate::kinds::UnknownKind),
    /// There is no such object.
    #[error("there is no {0}")]
    Missing(String),
    /// Another set has it.
    #[error("{object} belongs to another set ({set}); take it over by applying its manifest with --take-over")]
    Taken {
        /// The object.
        object: ObjectId,
        /// The other set's id.
        set: String,
    },
    /// A controller makes it.
    #[error("{0} is made by a controller for its owner; import the owner")]
    Made(ObjectId),
}

/// The manifest of a live object that may be imported into the set.
///
/// # Errors
/// See [`ImportError`].
pub async fn manifest(
    client: kube::Client,
    set: &Set,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Result<Value, ImportError> {
    let api = Api::over(client);
    let resource = api.kinds().await?.find(kind)?;
    let live = api.find(&resource.path(Some(namespace), Some(name))).await?;
    let live = live.ok_or_else(|| ImportError::Missing(format!("{}/{name} in {namespace}", resource.label())))?;
    let id = ObjectId::of(&live);
    if live["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.iter().any(|o| o["controller"] == true)) {
        return Err(ImportError::Made(id));
    }
    if let Some(other) = object::label(&live, PART_OF).filter(|other| *other != set.id()) {
        return Err(ImportError::Taken { object: id, set: other.to_owned() });
    }
    Ok(export::clean(&live))
}

/// Takes the object of a manifest (from [`manifest`]) into the set, under a field manager, and notes it in the history.
///
/// # Errors
/// See [`ImportError`].
pub async fn adopt(
    client: kube::Client,
    set: &Set,
    manifest: &Value,
    manager: &str,
    provenance: &Provenance,
) -> Result<(), ImportError> {
    let api = Api::over(client.clone());
    let kinds = api.kinds().await?;
    let id = ObjectId::of(manifest);
    let resource = kinds.of(object::api_version(manifest), &id.kind);
    let resource = resource.ok_or_else(|| ImportError::Missing(id.to_string()))?;
    let parent = api.find(&set.path()).await?;
    let before = parent.map(|parent| set.contents(&parent)).transpose()?.unwrap_or_default();
    let contents = before.union(&Contents::of(set, [&id]));
    let mode = ApplyMode { manager: applyset::MANAGER, force: true, dry_run: false };
    api.apply(&set.path(), &set.parent_object(&contents), mode).await?;
    let mut member = manifest.clone();
    object::metadata_map(&mut member, "labels").insert(PART_OF.to_owned(), set.id().into());
    // Every value is the live one, so that nothing is taken from anybody but shared.
    api.apply(&path_of(resource, &id), &member, ApplyMode { manager, force: true, dry_run: false }).await?;
    let all = history::list(client.clone(), set).await?;
    let mut desired = match all.iter().find(|revision| revision.state == State::Healthy) {
        Some(last) => history::load(client.clone(), set, last).await?,
        None => Vec::new(),
    };
    desired.retain(|object| ObjectId::of(object) != id);
    desired.push(member);
    crate::order::sort(&mut desired);
    let revision = history::begin(client.clone(), set, &desired, provenance, format!("import of {id}")).await?;
    history::finish(client, set, &revision, State::Healthy, "", history::KEPT).await?;
    Ok(())
}
