//! The L7 and L4 data path: listeners, routes, balancing and connection pools, fed by whole [`Snapshot`]s.
//!
//! A request goes one way: accept, identify, match, change, pick an endpoint, send, stream back (`request.rs` has the
//! steps in order). A snapshot goes another: check and compile whole, bind, swap, retire (`service.rs`).
//!
//! Invariants: a snapshot is refused whole or serves whole; a swap drops no request; an endpoint that left the
//! snapshot gets no new request once [`Handle::apply`] has returned; everything that waits has a limit; every task
//! belongs to [`Proxy::run`], which ends them in order.
//!
//! It must not know Kubernetes: names are opaque here, and who makes snapshots is nobody's business.

pub mod access;
mod answer;
mod balance;
mod body;
mod certified;
mod config;
mod connection;
mod cors;
mod deadline;
mod downstream;
mod egress;
mod endpoint;
mod error;
mod explain;
mod filter;
mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
mod glance;
mod handle;
mod headers;
mod heads;
mod http2;
mod identity;
mod incoming;
mod keep;
mod known;
mod landing;
mod lines;
mod listen;
mod mirror;
mod names;
mod network;
mod observe;
mod parked;
mod passthrough;
mod patience;
mod peer;
pub mod policy;
mod prefixed;
mod rejection;
mod request;
mod route;
pub mod secured;
mod service;
mod session;
pub mod snapshot;
mod stats;
mod taken;
mod tls;
mod told;
mod traffic;
mod tunnel;
mod turn;
mod upstream;
mod whereabouts;
mod workers;

pub use config::Settings;
pub use error::{BindError, Refused, RunError};
pub use explain::{Explanation, Question, Refusal, Way};
pub use handle::{Applied, Bound, Handle};
pub use identity::{Callers, Credentials, Dependencies, Distrust, Identifying, Identity, Speaker};
pub use network::{Asked, Ground, Network};
pub use observe::{CLIENT_GONE, Exchange, Missed, Observer, Place, Recording};
pub use peer::believing;
pub use rejection::{End, Rejected, Rejection};
pub use service::{Proxy, build};
pub use session::Ending;
pub use snapshot::Snapshot;
pub use stats::{BUCKETS, Class, Series, Sessions, Stats};
pub use traffic::{PolicyEvent, PolicySeries};
pub use upstream::client_config;
