//! Every API object as plain data.
//!
//! This crate re-exports the Kubernetes and Gateway API types that the whole workspace agrees on, and holds the names
//! (labels, annotations, well-known objects) that more than one crate must spell the same way.
//!
//! Invariants: no IO, no logic about objects (that is `rules`), one Kubernetes version everywhere.

pub use gateway_api as gateway;
pub use k8s_openapi as k8s;

pub mod access;
pub mod dapr;
pub mod delivery;
pub mod istio;
pub mod names;
pub mod traffic;
