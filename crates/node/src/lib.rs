//! Runs Pods as processes of this machine: plain ones, or with a network namespace for each Pod.
//!
//! The node watches the Pods that are bound to it, resolves each container's image to a recipe, starts the program under
//! a small supervising process (the [`shim`]), probes it, restarts it, keeps its logs and reports its status as a kubelet
//! would.
//!
//! Invariants:
//! - No process outlives Coracle, however Coracle dies: every program lives below a shim that ends when its control socket does.
//! - What to do is decided by pure functions over a snapshot of the Pod (`pod::plan`); IO only carries it out.
//! - Everything is bounded: logs on disk, lines in memory, Events, retries, waits.
//!
//! It must not know: the store, the API server's insides, routes or Services beyond their names and addresses. It talks to the
//! API through [`kube::Client`] and to the data plane through [`Traffic`] alone.

mod claims;
mod config;
mod container;
mod context;
mod env;
mod error;
mod events;
mod handle;
mod hosts;
mod leftovers;
mod logs;
mod machine;
mod network;
mod owners;
mod pod;
mod ports;
mod probe;
pub mod recipe;
mod resolver;
mod service;
pub mod shim;
mod view;
mod volumes;

pub use config::{Dependencies, Settings, Traffic};
pub use container::{Session, SessionError, SessionInput, SessionOutput, SessionQuery};
pub use error::{BuildError, Error, LogError};
pub use handle::{Handle, Lagged, Lines, LogLine, LogQuery, LogStream};
pub use machine::address_in;
pub use network::{BadBlock, Block, PodNetwork};
pub use owners::PodRef;
pub use service::{Node, build};
