//! The three ways to change a document by a patch: JSON Patch (RFC 6902), JSON merge patch (RFC 7386) and
//! Kubernetes' strategic merge patch, which merges lists by key as the schema says.
//!
//! Invariants: a patch either applies whole or gives an error; the given document is never changed in place.
//! Must not know: HTTP, stores, who sent the patch.

mod json;
mod strategic;

#[cfg(test)]
mod tests;

pub use json::{json_patch, merge_patch};
pub use strategic::strategic;

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of the form its content type says.
    #[error("error decoding patch: {0}")]
    Malformed(String),
    /// A JSON Patch operation could not be done, for instance a `test` that found another value.
    #[error("{0}")]
    Operation(String),
    /// A strategic merge patch names something the schema or the document has no place for.
    #[error("{0}")]
    Strategic(String),
}
