//! Decisions about Kubernetes objects as pure functions over `serde_json::Value`.
//!
//! What a kind is called and how it is shaped ([`kinds`], [`schema`]), how bytes become objects ([`decode`],
//! [`protobuf`]), how shapes are published ([`openapi`]) and added at run time ([`crd`]); and what may be done to an
//! object: patch, apply, default, validate, select and print.
//!
//! Invariants: no IO, no clock, no randomness (such values are passed in); the same input gives the same output; every
//! function accepts hostile input and answers with an error instead of a panic. The crate must not know how objects are
//! stored or served.

pub mod apply;
pub mod crd;
pub mod decode;
pub mod defaults;
pub mod expand;
pub mod field;
pub mod kinds;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod pods;
pub mod policy;
pub mod protobuf;
pub mod rbac;
pub mod schema;
pub mod select;
pub mod table;
pub mod validate;
