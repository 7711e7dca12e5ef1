//! Plans and applies against a real API server on a real store, in this process.

mod anywhere;
mod drifting;
mod harness;
mod plans;
mod releases;
