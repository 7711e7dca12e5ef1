//! The Kubernetes API over HTTP: discovery, OpenAPI, reading, writing, watching, admission, authentication.
//!
//! One generic handler works on JSON values and a table of resources (built-in kinds and CustomResourceDefinitions);
//! there is no handler per kind. A request passes the steps that `server` names, in that order.
//!
//! Invariants:
//! - A 2xx for a write comes after the store has it on disk.
//! - A write that changes nothing does not change `resourceVersion`.
//! - What reaches the store is whole and valid; a refused request changes nothing.
//! - Requests in process go through the same steps as requests over TLS: nobody may do what no role allows.
//!
//! It must not know what controllers, the node or the proxy do. What it needs from them it asks through the traits it
//! owns ([`PodLogs`], [`PodSessions`], [`Pages`]).

mod access;
mod addresses;
mod admission;
mod aftermath;
mod audit;
mod authorize;
mod body;
mod bootstrap;
mod call;
mod catalog;
mod config;
mod credential;
mod definitions;
mod discovery;
mod encode;
mod error;
mod events;
mod expiry;
mod extra;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod grants;
mod handle;
mod identity;
mod impersonation;
mod intake;
mod kubeconfig;
mod lines;
mod list;
mod logs;
mod negotiate;
mod object;
mod openapi;
mod page;
mod pki;
mod policy;
mod protection;
mod query;
mod right;
mod roles;
mod route;
mod selection;
mod server;
mod service;
mod sessions;
mod shares;
mod splice;
mod status;
mod streaming;
mod subresource;
mod verb;
mod watch;

pub use body::{Body, BoxError};
pub use config::{Limits, Settings};
pub use error::{BuildError, RunError};
pub use extra::{Page, PageError, PageRequest, Pages};
pub use handle::{Handle, InProcess, Load};
pub use logs::{LogOptions, LogsError, PodLogs};
pub use service::{ApiServer, Dependencies, build};
pub use sessions::{Beginning, Connection, Input, Output, PodKey, PodSessions, Session, SessionError, SessionOptions};
