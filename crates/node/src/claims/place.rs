//! What Pods have to do with claims: which ones they use, and where on this machine a claim's data lies.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodSpec};
use kube::Api;
use kube::runtime::watcher::Event;

use super::choose::{Tie, holder, provisioned, tie, uid};
use super::directory;

/// The volumes of a Pod that are claims: the volume's name and the claim's.
pub(crate) fn used(pod: &Pod) -> impl Iterator<Item = (&str, &str)> {
    claims(pod.spec.as_ref())
}

fn claims(spec: Option<&PodSpec>) -> impl Iterator<Item = (&str, &str)> {
    let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|v| Some((v.name.as_str(), v.persistent_volume_claim.as_ref()?.claim_name.as_str())))
}

/// The claims, by namespace and name, that a Pod keeps from going away: all it uses, until it has ended.
pub(super) fn holds(pod: &Pod) -> Vec<(String, String)> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    used(pod).map(|(_, claim)| (namespace.to_owned(), claim.to_owned())).collect()
}

/// Whether what happened to Pods may matter to claims.
pub(crate) fn concerns(event: &Event<Pod>) -> bool {
    match event {
        Event::Apply(pod) | Event::Delete(pod) => used(pod).next().is_some(),
        Event::InitDone => true,
        Event::Init | Event::InitApply(_) => false,
    }
}

/// Why a Pod can't have a claim's data yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unready {
    /// It is about to be bound, as far as can be told.
    #[error("persistentvolumeclaim \"{0}\" is not bound yet")]
    Unbound(String),
    /// Something has to be done by somebody else.
    #[error("{0}")]
    Refused(String),
    /// The API can't be asked.
    #[error("can't look up persistentvolumeclaim \"{claim}\": {source}")]
    Api { claim: String, source: Box<kube::Error> },
}

/// Where a claim's data lies on this machine, and what has to be there, as a hostPath's `type` says it.
pub(crate) async fn locate(
    client: &kube::Client,
    root: &Path,
    namespace: &str,
    name: &str,
) -> Result<(PathBuf, String), Unready> {
    let failed = |source| Unready::Api { claim: name.to_owned(), source: Box::new(source) };
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get_opt(name).await.map_err(failed)?;
    let bound_to = claim.as_ref().and_then(|claim| claim.spec.as_ref()?.volume_name.clone()).unwrap_or_default();
    let volume = match bound_to.as_str() {
        "" => None,
        bound_to => Api::<PersistentVolume>::all(client.clone()).get_opt(bound_to).await.map_err(failed)?,
    };
    let place = place(name, claim.as_ref(), volume.as_ref(), root)?;
    if volume.is_some_and(|volume| provisioned(&volume)) {
        directory::make(&place.0).map_err(|error| Unready::Refused(format!("{}: {error}", place.0.display())))?;
    }
    Ok(place)
}

/// The pure part of [`locate`].
fn place(
    name: &str,
    claim: Option<&PersistentVolumeClaim>,
    volume: Option<&PersistentVolume>,
    root: &Path,
) -> Result<(PathBuf, String), Unready> {
    let refused = |why: String| Err(Unready::Refused(why));
    let Some(claim) = claim else { return refused(format!("persistentvolumeclaim \"{name}\" not found")) };
    if claim.metadata.deletion_timestamp.is_some() {
        return refused(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    match claim.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Bound") => {}
        Some("Lost") => {
            return refused(format!(
                "persistentvolumeclaim \"{name}\" has lost its PersistentVolume; delete the claim and make it again"
            ));
        }
        _ => return Err(Unready::Unbound(name.to_owned())),
    }
    let Some(volume) = volume.filter(|volume| tie(volume, claim) == Tie::Own) else {
        return refused(format!("the PersistentVolume of persistentvolumeclaim \"{name}\" is gone or another's"));
    };
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return refused(format!("persistentvolumeclaim \"{name}\" is a block device; this node has only directories"));
    }
    if let Some(host) = spec.host_path {
        let path = PathBuf::from(host.path);
        let own = holder(volume).and_then(uid).filter(|_| provisioned(volume));
        let path = own.and_then(|uid| directory::recorded(root, &path, uid)).unwrap_or(path);
        return Ok((path, host.type_.unwrap_or_default()));
    }
    match spec.local {
        Some(local) => Ok((PathBuf::from(local.path), "Directory".to_owned())),
        None => refused(format!(
            "the PersistentVolume of persistentvolumeclaim \"{name}\" is of a kind that this node can't mount; \
             use hostPath or local"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn placed(claim: Option<Value>, volume: Option<Value>) -> Result<(PathBuf, String), String> {
        let claim = claim.map(|claim| serde_json::from_value(claim).expect("a claim"));
        let volume = volume.map(|volume| serde_json::from_value(volume).expect("a volume"));
        place("data", claim.as_ref(), volume.as_ref(), Path::new("/d/volumes")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_claim_lies_where_its_volume_says() {
        let claim = json!({"metadata": {"namespace": "shop", "name": "data", "uid": "u"},
                           "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        let volume = |source: Value, uid: &str, by: Value| {
            let mut volume = json!({"metadata": {"name": "pv", "annotations": by}, "spec": source});
            volume["spec"]["claimRef"] = json!({"namespace": "shop", "name": "data", "uid": uid});
            Some(volume)
        };
        let host = json!({"hostPath": {"path": "/srv", "type": "Directory"}});
        let made = json!({"pv.kubernetes.io/provisioned-by": "coracle.dev/directory"});
        let with = |pointer: &str, value: Value| {
            let mut changed = claim.clone();
            *changed.pointer_mut(pointer).expect("there") = value;
            Some(changed)
        };
        let own = || Some(claim.clone());
        let ok = |path: &str, kind: &str| Ok((PathBuf::from(path), kind.to_owned()));
        for (claim, volume, expected) in [
            (None, None, Err("persistentvolumeclaim \"data\" not found")),
            (with("/status/phase", json!("Pending")), None, Err("persistentvolumeclaim \"data\" is not bound yet")),
            (with("/status/phase", json!("Lost")), None, Err("has lost")),
            (
                with("/metadata/uid", json!("u")).map(|mut c| {
                    c["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
                    c
                }),
                volume(host.clone(), "u", json!({})),
                Err("is being deleted"),
            ),
            (own(), None, Err("gone or another's")),
            (own(), volume(host.clone(), "x", json!({})), Err("gone or another's")),
            (own(), volume(host.clone(), "u", json!({})), ok("/srv", "Directory")),
            (own(), volume(json!({"local": {"path": "/disk"}}), "u", json!({})), ok("/disk", "Directory")),
            (own(), volume(json!({"nfs": {"path": "/x", "server": "s"}}), "u", json!({})), Err("can't mount")),
            // The data directory has been moved since.
            (
                own(),
                volume(json!({"hostPath": {"path": "/old/volumes/shop_data_u"}}), "u", made.clone()),
                ok("/d/volumes/shop_data_u", ""),
            ),
        ] {
            match (placed(claim, volume), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(got), Err(expected)) => assert!(got.contains(expected), "{got}"),
                (got, expected) => panic!("{got:?}, not {expected:?}"),
            }
        }
    }
}
