//! Which class a claim means, and which volume fits it: pure readings of objects.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::{Selector, SelectorExt};

use super::shelf::Shelf;
use super::{CLASS, PROVISIONED_BY, PROVISIONER};
use crate::env::milli;

/// As upstream; the first is older, and still what some manifests have.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The class that a claim names; `None` when it leaves that to the default.
pub(super) fn named_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
    annotated.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// The class of claims that name none: the newest default whose volumes are made here. A default that only another cluster
/// could serve is no use to anybody.
pub(super) fn default_class(classes: &Shelf<StorageClass>) -> &str {
    let marked = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        class.provisioner == PROVISIONER
            && DEFAULT_CLASS.iter().any(|key| annotations.and_then(|a| a.get(*key)).is_some_and(|v| v == "true"))
    };
    let age = |class: &&Arc<StorageClass>| class.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let newest = classes.iter().filter(marked).max_by_key(age);
    newest.and_then(|class| class.metadata.name.as_deref()).unwrap_or(CLASS)
}

/// How a volume stands to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    /// Nobody has it.
    Free,
    /// It is kept for a claim of this name.
    Kept,
    /// It is this claim's.
    Own,
    /// It is another's, or was.
    Other,
}

pub(super) fn tie(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Tie {
    let Some(holder) = holder(volume) else { return Tie::Free };
    let meta = &claim.metadata;
    match uid(holder) {
        None if holder.name == meta.name && holder.namespace == meta.namespace => Tie::Kept,
        Some(uid) if Some(uid) == meta.uid.as_deref() => Tie::Own,
        _ => Tie::Other,
    }
}

/// The claim that a volume refers to.
pub(super) fn holder(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The uid of the claim that is referred to; `None` when a person wrote only its name.
pub(super) fn uid(holder: &ObjectReference) -> Option<&str> {
    holder.uid.as_deref().filter(|uid| !uid.is_empty())
}

/// Whether a volume was made here, and so is to be removed here.
pub(super) fn provisioned(volume: &PersistentVolume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get(PROVISIONED_BY)).is_some_and(|by| by == PROVISIONER)
}

/// What a claim asks for.
pub(super) fn request(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// How much a volume has.
pub(super) fn capacity(volume: &PersistentVolume) -> Option<&Quantity> {
    volume.spec.as_ref()?.capacity.as_ref()?.get("storage")
}

/// Why a volume is not what a claim asks for; `class` is the claim's, where it matters.
pub(super) fn mismatch(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    class: Option<&str>,
) -> Option<&'static str> {
    let (Some(has), Some(asks)) = (&volume.spec, &claim.spec) else { return Some("it has no spec") };
    if volume.metadata.deletion_timestamp.is_some() {
        return Some("it is being deleted");
    }
    if class.is_some_and(|class| class != has.storage_class_name.as_deref().unwrap_or_default()) {
        return Some("storageClassName does not match");
    }
    let small = request(claim).is_some_and(|asked| match (milli(asked), capacity(volume).and_then(milli)) {
        (Some(asked), Some(size)) => size < asked,
        _ => true,
    });
    if small {
        return Some("requested PV is too small");
    }
    let modes = has.access_modes.as_deref().unwrap_or_default();
    if !asks.access_modes.iter().flatten().all(|mode| modes.contains(mode)) {
        return Some("incompatible accessMode");
    }
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    if mode(&has.volume_mode) != mode(&asks.volume_mode) {
        return Some("incompatible volumeMode");
    }
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    let selected = asks
        .selector
        .clone()
        .is_none_or(|wanted| Selector::try_from(wanted).is_ok_and(|wanted| wanted.matches(&labels)));
    if selected { None } else { Some("its labels do not match the selector") }
}

/// The smallest volume that fits, among those that nobody has.
pub(super) fn fitting<'a>(
    volumes: impl Iterator<Item = &'a Arc<PersistentVolume>>,
    claim: &PersistentVolumeClaim,
    class: &str,
) -> Option<&'a Arc<PersistentVolume>> {
    let fits = |volume: &&Arc<PersistentVolume>| {
        tie(volume, claim) == Tie::Free && mismatch(volume, claim, Some(class)).is_none()
    };
    volumes.filter(fits).min_by_key(|volume| (capacity(volume).and_then(milli), volume.metadata.name.clone()))
}
