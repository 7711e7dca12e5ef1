//! What is seen of the traffic: edges and their metrics, and the pages that tell of them.
//!
//! `edges` and `metrics` are pure: from the proxy's counters to numbers by who called whom. `pages` serves them through the API
//! server, which knows who asks.

mod edges;
mod metrics;
mod pages;

pub(crate) use edges::{Edge, Window, windows};
pub(crate) use pages::TrafficPages;
