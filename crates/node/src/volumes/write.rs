//! Writes a volume's files so that readers see all of the old or all of the new: into a fresh directory, to which the
//! link `..data` is swapped in one rename.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::Files;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

pub(super) fn atomically(place: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let data = place.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && same(&data, files) {
        return Ok(());
    }
    let fresh = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let directory = place.join(&fresh);
    fs::create_dir(&directory)?;
    for (path, (content, mode)) in files {
        let at = directory.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&at, content)?;
        fs::set_permissions(&at, Permissions::from_mode(*mode))?;
    }
    let _ = fs::remove_file(place.join(NEXT));
    symlink(&fresh, place.join(NEXT))?;
    fs::rename(place.join(NEXT), &data)?;
    let tops: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        if place.join(top).symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(top), place.join(top))?;
        }
    }
    for entry in fs::read_dir(place)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(name.as_ref()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    // Only what `..data` pointed to: other directories are none of ours to judge.
    old.map_or(Ok(()), |old| fs::remove_dir_all(place.join(old)))
}

/// Whether the directory holds these files and no others.
fn same(data: &Path, files: &Files) -> bool {
    let unchanged = files.iter().all(|(path, (content, mode))| {
        let at = data.join(path);
        fs::read(&at).is_ok_and(|c| c == *content)
            && fs::metadata(&at).is_ok_and(|m| m.permissions().mode() & 0o777 == *mode)
    });
    unchanged && count(data) == files.len()
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}
