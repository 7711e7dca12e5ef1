//! What a custom schema demands of a value beyond its shape.
//!
//! Invariant: patterns are compiled once, with a bound on their compiled size.

use regex::Regex;
use serde_json::Value;

use super::NodeId;

/// The demands of one schema node; absent ones cost nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Constraints {
    pub(crate) allowed: Option<Vec<Value>>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) minimum: Option<Bound>,
    pub(crate) maximum: Option<Bound>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    /// Alternatives: value validations only, they add no structure.
    pub(crate) all_of: Vec<NodeId>,
    pub(crate) any_of: Vec<NodeId>,
    pub(crate) one_of: Vec<NodeId>,
    pub(crate) not: Option<NodeId>,
    /// Whether fields that are not named are an error (only `additionalProperties: false`).
    pub(crate) closed: bool,
}

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bound {
    pub(crate) limit: f64,
    pub(crate) exclusive: bool,
}
