//! What is to be in a cluster: built from files, compared with what is there, brought there, kept there.
//!
//! Invariants: decisions are pure functions over objects as JSON; whatever talks to the API does it through `kube::Client`
//! and nothing else, so that the same code serves our own API and any cluster.
//!
//! It must not know: how the API is served, how Pods run, or how traffic flows.

pub mod api;
pub mod apply;
pub mod applyset;
pub mod config;
pub mod diff;
pub mod drift;
pub mod export;
pub mod fault;
pub mod fields;
pub mod health;
pub mod history;
pub mod import;
pub mod kinds;
pub mod kustomize;
pub mod lock;
pub mod mask;
pub mod moves;
pub mod newest;
pub mod object;
pub mod order;
pub mod ownership;
pub mod plan;
pub mod protect;
pub mod release;
pub mod render;
pub mod sync;
pub mod wording;

pub use render::render;
