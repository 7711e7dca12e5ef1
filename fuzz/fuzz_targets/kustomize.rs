//! A kustomization and the manifest that it names, out of thin air.

#![no_main]

use std::io;
use std::path::{Path, PathBuf};

use delivery::kustomize::{Files, Options, build_from, to_yaml};
use libfuzzer_sys::fuzz_target;

/// A tree of two files.
struct Two<'a> {
    kustomization: &'a [u8],
    manifest: &'a [u8],
}

impl Files for Two<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("/app/kustomization.yaml") => Ok(self.kustomization.to_vec()),
            Some("/app/manifest.yaml") => Ok(self.manifest.to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        matches!(path.to_str(), Some("/" | "/app"))
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        match path.to_str() {
            Some("/" | "/app" | "/app/kustomization.yaml" | "/app/manifest.yaml") => Ok(path.to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let cut = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (kustomization, rest) = data.split_at(cut);
    let files = Two { kustomization, manifest: rest.get(1..).unwrap_or_default() };
    if let Ok(objects) = build_from(&files, Path::new("/app"), &Options { offline: true }) {
        let _ = to_yaml(&objects);
    }
});
