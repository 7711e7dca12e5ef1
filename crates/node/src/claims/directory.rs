//! The directories that hold provisioned volumes' data.
//!
//! Invariant: nothing outside the directory of all volumes is ever touched, and no link is followed out of it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// So many bytes of a claim's name fit in a directory's name beside a namespace and a uid.
const NAME: usize = 150;

/// The directory of a claim.
pub(super) fn of(root: &Path, namespace: &str, claim: &str, uid: &str) -> PathBuf {
    let claim: String = claim.chars().take(NAME).collect();
    root.join(format!("{namespace}_{claim}_{uid}"))
}

/// The directory below `root` of a volume whose path was recorded as `recorded`, maybe while Coracle's data lay elsewhere;
/// `None` when it is not one that was made for the claim of this uid.
pub(super) fn recorded(root: &Path, recorded: &Path, uid: &str) -> Option<PathBuf> {
    let name = recorded.file_name()?.to_str()?;
    let inside = recorded.parent()?.file_name() == root.file_name();
    (inside && !uid.is_empty() && name.ends_with(&format!("_{uid}"))).then(|| root.join(name))
}

/// Makes a directory that every program may write to, whoever it runs as.
pub(super) fn make(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and is not a directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
}

/// Removes a directory and all in it. What is no directory, such as a link, is not ours and stays.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a directory any more")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the empty directories of claims that are gone: what an end between making a directory and its volume leaves.
/// Directories with anything in them stay.
pub(super) fn sweep(root: &Path, uids: &BTreeSet<String>) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let uid = name.to_str().and_then(|name| name.rsplit_once('_')).map(|(_, uid)| uid);
        if uid.is_some_and(|uid| !uids.contains(uid)) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_file_system_and_are_known_again() {
        let root = Path::new("/data/volumes");
        let uid = "8c6c6b1e-7d0a-4f0e-9d5c-3f0e8d1f4a11";
        let long = of(root, &"n".repeat(63), &"c".repeat(253), uid);
        assert!(long.file_name().is_some_and(|name| name.len() <= 255));
        let path = of(root, "shop", "data", "u1");
        assert_eq!(path, Path::new("/data/volumes/shop_data_u1"));
        for (at, uid, expected) in [
            ("/data/volumes/shop_data_u1", "u1", Some("/data/volumes/shop_data_u1")),
            ("/elsewhere/volumes/shop_data_u1", "u1", Some("/data/volumes/shop_data_u1")),
            ("/data/volumes/shop_data_u1", "u2", None),
            ("/data/volumes/shop_data_", "", None),
            ("/data/pods/shop_data_u1", "u1", None),
            ("/data/volumes/..", "u1", None),
            ("/", "u1", None),
        ] {
            assert_eq!(recorded(root, Path::new(at), uid).as_deref(), expected.map(Path::new), "{at} {uid}");
        }
    }

    #[test]
    fn removing_follows_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, outside) = (dir.path().join("volumes"), dir.path().join("outside"));
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("precious"), "x").expect("written");
        let own = root.join("a_b_1");
        make(&own).expect("made");
        make(&own).expect("made again");
        assert_eq!(std::fs::metadata(&own).expect("there").permissions().mode() & 0o777, 0o777);
        std::os::unix::fs::symlink(&outside, own.join("out")).expect("linked");
        let linked = root.join("a_b_2");
        std::os::unix::fs::symlink(&outside, &linked).expect("linked");
        remove(&own).expect("removed");
        remove(&own).expect("removed before");
        assert!(remove(&linked).is_err() && make(&linked).is_err());
        assert!(!own.exists() && outside.join("precious").exists());
    }

    #[test]
    fn only_empty_directories_of_claims_that_are_gone_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a_empty_1", "a_full_2", "a_known_3"] {
            make(&dir.path().join(name)).expect("made");
        }
        std::fs::write(dir.path().join("a_full_2/x"), "x").expect("written");
        sweep(dir.path(), &BTreeSet::from(["3".to_owned()]));
        let mut left: Vec<_> = std::fs::read_dir(dir.path()).expect("read").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["a_full_2", "a_known_3"]);
    }
}
