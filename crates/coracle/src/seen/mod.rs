//! What is seen of the traffic: edges and their metrics, and the pages that tell of them.
//!
//! `edges` and `metrics` are pure: from the proxy's counters to numbers by who called whom. `pages` serves them through the API
//! server, which knows who asks. `records` hands what the proxy saw of a request to telemetry, by `settings`.

mod edges;
mod explain;
mod metrics;
mod pages;
mod records;
mod settings;

pub(crate) use edges::{Edge, Window, windows};
pub(crate) use pages::TrafficPages;
pub(crate) use records::Recorder;
pub(crate) use settings::{recording, telemetry};
