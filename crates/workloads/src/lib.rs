//! The built-in controllers: Deployment, ReplicaSet, Job, EndpointSlice and Endpoints, Namespace, ServiceAccount, garbage
//! collection, the scheduler, and the clean-up of finished Pods and Jobs.
//!
//! How it is put together: one watch per kind feeds one shared cache (`machinery::cache`); a change of an object puts the
//! keys of the objects it concerns on the work queues of the controllers; a controller takes a key, makes a snapshot from the
//! caches, asks its pure `plan` what to do, and carries the answer out through `kube::Client`.
//!
//! Invariants:
//! - A controller never decides on a cache that is older than its own writes (`machinery::cache::Cache::fresh`), so a slow watch can't make
//!   it create a Pod twice.
//! - `plan` functions are synchronous and deterministic: a snapshot and the time in, actions out.
//! - Nothing polls. A key is looked at because something changed, because its last attempt failed, or because a time that the
//!   object itself names has come.
//! - Every task is owned by `Workloads::run`, which ends them in order.
//!
//! What it must not know: where the API is served from, how Pods are run, how traffic reaches them.

mod config;
mod controllers;
mod deployment;
mod endpoints;
mod error;
mod garbage;
mod job;
mod machinery;
mod namespace;
mod owners;
mod pod_cleanup;
mod pods;
mod replicaset;
mod root_ca;
mod scheduler;
mod service;
mod service_account;
mod ttl;

pub use config::Settings;
pub use error::Error;
pub use service::{Workloads, build};
