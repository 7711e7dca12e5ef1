//! Reading and writing the server's own files: whole or not at all, and private where they hold secrets.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::BuildError;

/// The file's text, or `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, BuildError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BuildError::File { action: "read", path: path.into(), source }),
    }
}

/// Puts `content` in place of the file at once, readable by its owner alone.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), BuildError> {
    let fail = |source| BuildError::File { action: "write", path: path.into(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().map_err(fail)
}

/// Makes a folder that only its owner may enter.
pub(crate) fn private_folder(path: &Path) -> Result<(), BuildError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| BuildError::File {
        action: "create",
        path: path.into(),
        source,
    })
}
