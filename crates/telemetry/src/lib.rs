//! What is told about a running system: metrics as text, and a record of each request that is worth one.
//!
//! `exposition` and `process` make the text. Records come in by a [`Handle`], and go to the access log, to the most recent
//! ones in memory (from which a trace is shown) and to a collector by OTLP (`service.rs` owns the tasks).
//!
//! Invariants: whoever has something to tell never waits; every queue and every kept history has a limit, and what does not fit
//! is dropped and counted.
//! This crate must not know who measures and records: it gets numbers and names.

mod access_log;
mod config;
mod error;
mod export;
pub mod exposition;
mod handle;
mod otlp;
pub mod process;
mod recent;
mod record;
mod service;
pub mod tree;

pub use access_log::{AccessLog, Destination};
pub use config::{Otlp, Settings};
pub use error::SettingError;
pub use handle::{Counts, Handle};
pub use record::{Missed, Record, ToRecord};
pub use service::{Telemetry, build};
