//! Plans and applies against a real API server on a real store, in this process.

mod drifting;
mod harness;
mod plans;
mod releases;
