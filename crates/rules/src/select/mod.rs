//! Label selectors and field selectors.
//!
//! Invariants: parsing accepts what Kubernetes accepts; matching never fails.
//! Must not know: stores, requests.

mod fields;
mod labels;

pub use fields::FieldSelector;
pub use labels::{LabelSelector, Labels};

/// Why a selector could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The text is no label selector.
    #[error("unable to parse requirement: {0}")]
    Label(String),
    /// The object is no `LabelSelector`.
    #[error("{0}")]
    Object(String),
    /// The text is no field selector.
    #[error("{0}")]
    Field(String),
    /// The field can't be selected by for this kind.
    #[error("field label not supported: {0}")]
    Unsupported(String),
}
