//! Whether a build's inputs are as they were: a digest over path, length and time of change of every file among them.
//!
//! As `make` does, contents are not read. What can't be looked through within bounds has no fingerprint, and so is built
//! again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

/// More files than this are not looked through.
const FILE_LIMIT: usize = 50_000;
/// Directories that are results or history, never sources.
const SKIPPED: [&str; 4] = [".git", "target", "node_modules", ".coracle"];

/// The fingerprint of all files below `directory` that `inputs` (paths, directories, or globs with `*`, `?` and `**`) name.
pub(super) fn of(directory: &Path, inputs: &[String]) -> Option<String> {
    let mut files = BTreeSet::new();
    for input in inputs {
        let parts: Vec<&str> = input.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        let start = if input.starts_with('/') { PathBuf::from("/") } else { directory.to_owned() };
        gather(&start, &parts, &mut files)?;
    }
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.as_os_str().as_encoded_bytes());
        match std::fs::metadata(&file) {
            Ok(meta) => {
                let changed = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
                hash.update([0]);
                hash.update(meta.len().to_le_bytes());
                hash.update(changed.as_nanos().to_le_bytes());
            }
            Err(_) => hash.update([1]),
        }
    }
    Some(super::build::hex(&hash.finalize()))
}

fn gather(at: &Path, parts: &[&str], files: &mut BTreeSet<PathBuf>) -> Option<()> {
    if files.len() > FILE_LIMIT {
        return None;
    }
    let Some((first, rest)) = parts.split_first() else {
        if at.is_dir() {
            return entries(at).into_iter().try_for_each(|(_, path)| gather(&path, &["**"], files));
        }
        files.insert(at.to_owned());
        return Some(());
    };
    if *first == "**" {
        if !at.is_dir() {
            // `a/**` names the files below `a`; with more parts to come, a file has nothing below it.
            if rest.is_empty() {
                files.insert(at.to_owned());
            }
            return Some(());
        }
        if !rest.is_empty() {
            gather(at, rest, files)?;
        }
        return entries(at).into_iter().try_for_each(|(_, path)| gather(&path, parts, files));
    }
    if first.contains(['*', '?']) {
        return entries(at)
            .into_iter()
            .filter(|(name, _)| matches(first.as_bytes(), name.as_bytes()))
            .try_for_each(|(_, path)| gather(&path, rest, files));
    }
    gather(&at.join(first), rest, files)
}

fn entries(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(read) = std::fs::read_dir(directory) else { return Vec::new() };
    read.flatten()
        // Links to directories are not followed: they may lead in circles.
        .filter(|entry| !(entry.path().is_dir() && entry.file_type().is_ok_and(|t| t.is_symlink())))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| !SKIPPED.contains(&name.as_str()))
        .collect()
}

/// Matches one path segment against a pattern with `*` and `?`, in linear time but for the one backtrack point.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    p = at + 1;
                    n = taken + 1;
                    star = Some((at, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_match() {
        for (pattern, name, expected) in [
            ("*.rs", "main.rs", true),
            ("*.rs", "main.rc", false),
            ("a?c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("*", "", true),
            ("ab", "abc", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn changes_of_named_files_alone_change_the_fingerprint() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("src/a/main.rs", "1");
        write("src/notes.txt", "1");
        write("target/out", "1");
        let inputs = ["src/**/*.rs".to_owned()];
        let first = of(dir.path(), &inputs).expect("few files");
        write("src/notes.txt", "longer");
        write("target/out", "longer");
        assert_eq!(of(dir.path(), &inputs).as_ref(), Some(&first));
        write("src/a/main.rs", "longer");
        assert_ne!(of(dir.path(), &inputs), Some(first.clone()));
        let second = of(dir.path(), &inputs);
        write("src/b.rs", "new");
        assert_ne!(of(dir.path(), &inputs), second);
    }
}
