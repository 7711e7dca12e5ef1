//! A Pod's volumes: what each is on the host, what files it holds, and where a container sees it.
//!
//! [`plan`] is pure; [`make`] carries it out. Files of ConfigMaps and Secrets change as a whole, by one swap of a link.
//! It must not know mount namespaces: the shim makes volumes appear.

mod files;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

pub(crate) use files::Files;

use crate::env::{Lookups, expand};
use crate::shim::Mount;

/// A volume can't be had: what Kubernetes calls FailedMount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub(crate) struct VolumeError {
    pub volume: String,
    pub why: String,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A directory of the Pod's own.
    Empty,
    /// A place of the host's, with the check that its `type` asks for.
    Host(PathBuf, String),
    /// Files that follow API objects.
    Files(Files),
}

/// Where each volume lies on the host.
pub(crate) fn places(pod: &Pod, directory: &Path) -> BTreeMap<String, PathBuf> {
    let place = |v: &Volume| match &v.host_path {
        Some(host) => PathBuf::from(&host.path),
        None => directory.join("volumes").join(&v.name),
    };
    volumes(pod).map(|v| (v.name.clone(), place(v))).collect()
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

/// The names of the ConfigMaps and Secrets that volumes refer to.
pub(crate) fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in volumes(pod) {
        maps.extend(volume.config_map.as_ref().map(|m| m.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.as_ref().map(|m| m.name.clone()));
            secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    (maps, secrets)
}

/// Whether any volume shows what may change.
pub(crate) fn follow(pod: &Pod) -> bool {
    volumes(pod)
        .any(|v| v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some())
}

/// What each volume is, from the Pod and what it refers to; but for claims, which have their own way ([`crate::claims`]).
pub(crate) fn plan(pod: &Pod, lookups: &Lookups) -> Result<Vec<(String, Source)>, VolumeError> {
    let own = volumes(pod).filter(|v| v.persistent_volume_claim.is_none());
    own.map(|v| Ok((v.name.clone(), source(pod, v, lookups)?))).collect()
}

fn source(pod: &Pod, volume: &Volume, lookups: &Lookups) -> Result<Source, VolumeError> {
    let wrong = |why: String| VolumeError { volume: volume.name.clone(), why };
    if let Some(host) = &volume.host_path {
        return Ok(Source::Host(PathBuf::from(&host.path), host.type_.clone().unwrap_or_default()));
    }
    if volume.empty_dir.is_some() {
        return Ok(Source::Empty);
    }
    if let Some(files) = files::of(pod, volume, lookups).map_err(wrong)? {
        return Ok(Source::Files(files));
    }
    let kind = serde_json::to_value(volume).ok().and_then(|v| v.as_object()?.keys().find(|k| *k != "name").cloned());
    match kind {
        None => Ok(Source::Empty),
        Some(kind) => Err(wrong(format!(
            "this node has no volumes of kind {kind}; use emptyDir, hostPath, persistentVolumeClaim, configMap, secret, downwardAPI or projected"
        ))),
    }
}

/// Makes a volume be there. Files that are as they should be are left alone.
pub(crate) fn make(name: &str, source: &Source, place: &Path) -> Result<(), VolumeError> {
    let wrong = |e: io::Error| VolumeError { volume: name.to_owned(), why: format!("{}: {e}", place.display()) };
    match source {
        Source::Empty => {
            std::fs::create_dir_all(place).map_err(wrong)?;
            std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o777)).map_err(wrong)
        }
        Source::Files(files) => write::atomically(place, files).map_err(wrong),
        Source::Host(path, kind) => host(path, kind).map_err(|why| VolumeError { volume: name.to_owned(), why }),
    }
}

fn host(path: &Path, kind: &str) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let made = |e: io::Error| format!("hostPath {} can't be made: {e}", path.display());
    match kind {
        "DirectoryOrCreate" => return std::fs::create_dir_all(path).map_err(made),
        "FileOrCreate" => {
            return std::fs::OpenOptions::new().create(true).append(true).open(path).map(drop).map_err(made);
        }
        _ => {}
    }
    let meta = std::fs::metadata(path);
    let is = |check: &dyn Fn(&std::fs::FileType) -> bool| meta.as_ref().is_ok_and(|m| check(&m.file_type()));
    let right = match kind {
        "Directory" => is(&|t| t.is_dir()),
        "File" => is(&|t| t.is_file()),
        "Socket" => is(&|t| t.is_socket()),
        "CharDevice" => is(&|t| t.is_char_device()),
        "BlockDevice" => is(&|t| t.is_block_device()),
        // As upstream: an unnamed kind is not checked, and a missing directory is made.
        _ => return if meta.is_ok() { Ok(()) } else { std::fs::create_dir_all(path).map_err(made) },
    };
    if right { Ok(()) } else { Err(format!("hostPath type check failed: {} is not a {kind}", path.display())) }
}

/// What a container sees where. Directories that a `subPath` names are made, as upstream does.
pub(crate) fn mounts(
    pod: &Pod,
    container: &Container,
    places: &BTreeMap<String, PathBuf>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let wrong = |why: String| VolumeError { volume: wanted.name.clone(), why };
        let Some(place) = places.get(&wanted.name) else {
            return Err(wrong(format!("container {} mounts a volume that the Pod does not have", container.name)));
        };
        let sub = match &wanted.sub_path_expr {
            Some(expr) => Some(expand(expr, &|name| env.get(name).cloned())),
            None => wanted.sub_path.clone(),
        };
        let source = match sub.filter(|s| !s.is_empty()) {
            Some(sub) => below(place, &sub).map_err(wrong)?,
            None => place.clone(),
        };
        let fixed = volumes(pod).find(|v| v.name == wanted.name).is_some_and(|v| {
            let claim = v.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true));
            let files = v.config_map.is_some() || v.secret.is_some();
            claim || files || v.projected.is_some() || v.downward_api.is_some()
        });
        mounts.push(Mount {
            source,
            target: PathBuf::from(&wanted.mount_path),
            read_only: fixed || wanted.read_only.unwrap_or(false),
        });
    }
    Ok(mounts)
}

/// A place in a volume, which no link may lead out of.
fn below(place: &Path, sub: &str) -> Result<PathBuf, String> {
    let sub = Path::new(sub);
    if sub.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("subPath {} must be relative and without \"..\"", sub.display()));
    }
    let at = place.join(sub);
    if at.symlink_metadata().is_err() {
        std::fs::create_dir_all(&at).map_err(|e| format!("subPath {} can't be made: {e}", sub.display()))?;
    }
    let real = |p: &Path| p.canonicalize().map_err(|e| format!("subPath {}: {e}", sub.display()));
    let (at, place) = (real(&at)?, real(place)?);
    if at.starts_with(&place) { Ok(at) } else { Err(format!("subPath {} leads out of the volume", sub.display())) }
}

#[cfg(test)]
mod tests;
