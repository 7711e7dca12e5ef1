//! The files of a volume that shows API objects, as data.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection};

use crate::env::{self, Lookups};

/// Path in the volume to content and mode.
pub(crate) type Files = BTreeMap<String, (Vec<u8>, u32)>;

const MODE: i32 = 0o644;

/// The files of a volume; `None` when it is of another kind.
pub(super) fn of(pod: &Pod, volume: &Volume, lookups: &Lookups) -> Result<Option<Files>, String> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(MODE);
        let optional = source.optional.unwrap_or(false);
        config_map(&source.name, optional, source.items.as_deref(), mode, lookups, &mut files)?;
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(name, source.optional.unwrap_or(false), source.items.as_deref(), mode, lookups, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        downward(pod, source.items.as_deref().unwrap_or_default(), source.default_mode.unwrap_or(MODE), &mut files)?;
    } else if let Some(source) = &volume.projected {
        for each in source.sources.iter().flatten() {
            projected(pod, each, source.default_mode.unwrap_or(MODE), lookups, &mut files)?;
        }
    } else {
        return Ok(None);
    }
    match files.keys().find(|path| !inside(path)) {
        Some(bad) => Err(format!("the path \"{bad}\" must be relative and without \"..\"")),
        None => Ok(Some(files)),
    }
}

fn inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| part != ".." && !part.is_empty())
}

fn projected(
    pod: &Pod,
    source: &VolumeProjection,
    mode: i32,
    lookups: &Lookups,
    files: &mut Files,
) -> Result<(), String> {
    if let Some(s) = &source.config_map {
        config_map(&s.name, s.optional.unwrap_or(false), s.items.as_deref(), mode, lookups, files)?;
    }
    if let Some(s) = &source.secret {
        secret(&s.name, s.optional.unwrap_or(false), s.items.as_deref(), mode, lookups, files)?;
    }
    if let Some(s) = &source.downward_api {
        downward(pod, s.items.as_deref().unwrap_or_default(), mode, files)?;
    }
    Ok(())
}

fn config_map(
    name: &str,
    optional: bool,
    items: Option<&[KeyToPath]>,
    mode: i32,
    lookups: &Lookups,
    files: &mut Files,
) -> Result<(), String> {
    match lookups.config_maps.get(name).and_then(Option::as_ref) {
        Some(map) => pick(&format!("configmap \"{name}\""), &map_data(map), items, optional, mode, files),
        None if optional => Ok(()),
        None => Err(format!("configmap \"{name}\" not found")),
    }
}

fn map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    text.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()))).collect()
}

fn secret(
    name: &str,
    optional: bool,
    items: Option<&[KeyToPath]>,
    mode: i32,
    lookups: &Lookups,
    files: &mut Files,
) -> Result<(), String> {
    let data = |s: &Secret| s.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
    match lookups.secrets.get(name).and_then(Option::as_ref) {
        Some(found) => pick(&format!("secret \"{name}\""), &data(found), items, optional, mode, files),
        None if optional => Ok(()),
        None => Err(format!("secret \"{name}\" not found")),
    }
}

fn pick(
    what: &str,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    files: &mut Files,
) -> Result<(), String> {
    match items.filter(|i| !i.is_empty()) {
        None => files.extend(data.iter().map(|(k, v)| (k.clone(), (v.clone(), bits(mode))))),
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(content) => {
                        files.insert(item.path.clone(), (content.clone(), bits(item.mode.unwrap_or(mode))));
                    }
                    None if optional => {}
                    None => return Err(format!("references non-existent key in {what}: {}", item.key)),
                }
            }
        }
    }
    Ok(())
}

fn downward(pod: &Pod, items: &[DownwardAPIVolumeFile], mode: i32, files: &mut Files) -> Result<(), String> {
    for item in items {
        let field = item.field_ref.as_ref().and_then(|f| env::field(pod, &f.field_path));
        let value = field.or_else(|| item.resource_field_ref.as_ref().and_then(|r| env::resource(pod, None, r)));
        let Some(value) = value else {
            return Err(format!("the downward API has nothing for the file \"{}\"", item.path));
        };
        files.insert(item.path.clone(), (value.into_bytes(), bits(item.mode.unwrap_or(mode))));
    }
    Ok(())
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}
