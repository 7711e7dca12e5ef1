//! The mesh against a real API server, a real store and the real proxy, in one process.

mod access;
mod bundles;
mod harness;
mod policies;
mod routing;
mod secure;
mod statuses;
