//! The objects and changes that are written, as data.

use std::path::Path;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::choose::{capacity, request};
use super::{CLAIM_FINALIZER, CLASS, PROVISIONED_BY, PROVISIONER, VOLUME_FINALIZER};

/// The class of directories on this machine.
pub(super) fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": CLASS, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
        // A directory has no size of its own to be changed.
        "allowVolumeExpansion": true,
    })
}

/// The name of the volume that is made for a claim: always the same, so that it is made once.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// A volume in a directory of this machine, bound to its claim from the start.
pub(super) fn volume(claim: &PersistentVolumeClaim, class: &str, reclaim: &str, directory: &Path) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": { PROVISIONED_BY: PROVISIONER },
            "finalizers": [VOLUME_FINALIZER],
        },
        "spec": {
            "capacity": { "storage": request(claim) },
            "accessModes": claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()),
            "hostPath": { "path": directory, "type": "DirectoryOrCreate" },
            "claimRef": reference(claim),
            "storageClassName": class,
            "persistentVolumeReclaimPolicy": reclaim,
            "volumeMode": "Filesystem",
        },
    })
}

/// How a volume refers to its claim.
pub(super) fn reference(claim: &PersistentVolumeClaim) -> Value {
    let meta = &claim.metadata;
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name,
        "uid": meta.uid, "resourceVersion": meta.resource_version,
    })
}

/// Gives a volume that was there before to a claim.
pub(super) fn reserve(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Value {
    let mut meta = json!({ "finalizers": with(&volume.metadata, VOLUME_FINALIZER) });
    if super::choose::holder(volume).is_none() {
        meta["annotations"] = json!({ "pv.kubernetes.io/bound-by-controller": "yes" });
    }
    json!({ "metadata": meta, "spec": { "claimRef": reference(claim) } })
}

/// Gives a claim its volume.
pub(super) fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Value {
    let spec = volume.spec.as_ref();
    let mut annotations = json!({ "pv.kubernetes.io/bind-completed": "yes" });
    let mut change = json!({});
    if claim.spec.as_ref().is_none_or(|spec| spec.volume_name.as_deref().unwrap_or_default().is_empty()) {
        annotations["pv.kubernetes.io/bound-by-controller"] = json!("yes");
        change["spec"]["volumeName"] = json!(volume.metadata.name);
    }
    if super::choose::provisioned(volume) {
        for key in ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"] {
            annotations[key] = json!(PROVISIONER);
        }
    }
    if super::choose::named_class(claim).is_none() {
        change["spec"]["storageClassName"] = json!(spec.and_then(|s| s.storage_class_name.as_deref()).unwrap_or(""));
    }
    change["metadata"] = json!({ "annotations": annotations, "finalizers": with(&claim.metadata, CLAIM_FINALIZER) });
    change
}

/// Whether [`bind`] has been done.
pub(super) fn is_bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    named == volume.metadata.name.as_deref()
        && annotations.is_some_and(|a| a.contains_key("pv.kubernetes.io/bind-completed"))
}

/// The status of a claim that has a volume.
pub(super) fn bound_status(volume: &PersistentVolume) -> Value {
    let spec = volume.spec.as_ref();
    json!({
        "phase": "Bound",
        "accessModes": spec.and_then(|s| s.access_modes.clone()).unwrap_or_default(),
        "capacity": { "storage": capacity(volume) },
    })
}

/// An object's finalizers and this one.
pub(super) fn with(meta: &ObjectMeta, finalizer: &str) -> Vec<String> {
    let mut all = meta.finalizers.clone().unwrap_or_default();
    if !all.iter().any(|one| one == finalizer) {
        all.push(finalizer.to_owned());
    }
    all
}

/// An object's finalizers without this one.
pub(super) fn without(meta: &ObjectMeta, finalizer: &str) -> Vec<String> {
    meta.finalizers.iter().flatten().filter(|one| *one != finalizer).cloned().collect()
}

/// Whether an object has this finalizer.
pub(super) fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|one| one == finalizer)
}
