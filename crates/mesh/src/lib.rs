//! From Kubernetes' Services and Gateway API's objects to what the proxy serves, and back to their status.
//!
//! One way of information: watches -> [`compile`] (pure: a picture of the cluster to a [`proxy::Snapshot`] and to what is
//! to be said about every object) -> the proxy takes the snapshot -> statuses are written.
//!
//! Invariants: every change compiles and applies at once, with no timer between; a snapshot that the proxy refuses changes
//! nothing, and its culprit is named in a condition; a status is written only where it differs; no address that is
//! not ready ever reaches a snapshot.
//!
//! It opens no socket but the DNS server's ([`dns`]).
//!
//! It must not know: how requests are handled (it uses the proxy's snapshot types and handle only), how Pods run, or how the
//! API is served (`kube::Client` is all it has).

mod carrier;
mod class;
pub mod compile;
mod config;
mod crds;
pub mod dns;
mod error;
mod handle;
pub mod identity;
mod install;
mod own_service;
mod service;
mod status;
mod watch;
mod world;
mod writer;

pub use class::gateway_class;
pub use config::Settings;
pub use crds::{BUNDLE_VERSION, BUNDLE_VERSION_ANNOTATION, CHANNEL, CHANNEL_ANNOTATION, crds, foreign_crds, own_crds};
pub use error::{InstallError, RunError};
pub use handle::{GatewayListener, Handle, Published, destination, is_egress, is_gateway};
pub use install::install;
pub use service::{Mesh, build};
pub use world::{Rejected, World};
