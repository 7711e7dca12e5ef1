//! The identity's own files: whole or not at all, and for their owner's eyes only.
//!
//! Invariants: a file is replaced at once and is on the disk when writing returns; a file that is damaged is refused by name, and
//! never taken for an empty one.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::authority::Svid;
use super::bundle::{Bundle, Bundles};

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The system said no.
    #[error("cannot {attempt} {path}: {source}; make the data directory readable and writable, with room on its disk")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What is in it is not what was written.
    #[error("{path} is damaged: {reason}; restore it from a backup, or remove it to begin anew")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads a file; none where there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, CacheError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CacheError::File { attempt: "read", path: path.to_owned(), source }),
    };
    let damaged = |error: serde_json::Error| CacheError::Damaged { path: path.to_owned(), reason: error.to_string() };
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

/// Puts `content` in the place of a file at once.
pub(super) fn write(path: &Path, content: &impl Serialize) -> Result<(), CacheError> {
    let text = serde_json::to_vec_pretty(content)
        .map_err(|error| CacheError::Damaged { path: path.to_owned(), reason: error.to_string() })?;
    let fresh = path.with_extension("new");
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        // The new name is on the disk, too.
        path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
    };
    write().map_err(|source| CacheError::File { attempt: "write", path: path.to_owned(), source })
}

#[derive(Serialize, Deserialize)]
struct KeptSvid {
    chain: Vec<String>,
    key: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    svids: BTreeMap<String, KeptSvid>,
    /// Bundles by trust domain, as JWK Sets (PEM in older files), as they were last known.
    bundles: BTreeMap<String, String>,
}

/// Certificates and bundles as they were last in use.
pub struct Cache {
    path: PathBuf,
}

impl Cache {
    /// A cache in that file, which need not be there.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What was in use when the last one ended. A cache that is damaged is as good as none, as all in it can be had again; it
    /// is said in the log.
    #[must_use]
    pub fn load(&self) -> (Vec<Svid>, Bundles) {
        let kept: Kept = match read(&self.path) {
            Ok(kept) => kept.unwrap_or_default(),
            Err(error) => {
                tracing::warn!("{error}; new certificates are asked for");
                Kept::default()
            }
        };
        let svids = kept.svids.into_iter().filter_map(|(id, kept)| {
            let chain = kept.chain.iter().map(|text| decode(text).map(CertificateDer::from)).collect::<Option<_>>()?;
            Some(Svid { id: id.parse().ok()?, chain, key: decode(&kept.key)?.into() })
        });
        let bundles = kept.bundles.into_iter().filter_map(|(domain, pem)| {
            let domain = domain.parse().ok()?;
            Some((domain, Bundle::read(pem.as_bytes()).ok()?))
        });
        (svids.collect(), bundles.collect())
    }

    /// Keeps what is in use from now on.
    ///
    /// # Errors
    ///
    /// Where it could not be written; what was kept before is still there.
    pub fn store<'a>(&self, svids: impl Iterator<Item = &'a Svid>, bundles: &Bundles) -> Result<(), CacheError> {
        let svids = svids.map(|svid| {
            let chain = svid.chain.iter().map(|der| encode(der)).collect();
            (svid.id.to_string(), KeptSvid { chain, key: encode(&svid.key) })
        });
        let bundles = bundles.iter().map(|(domain, bundle)| (domain.to_string(), bundle.to_spiffe().to_string()));
        write(&self.path, &Kept { svids: svids.collect(), bundles: bundles.collect() })
    }
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
