//! What is told about a running system: metrics as text, and the process's own.
//!
//! Invariants: whatever is told, nobody who serves a request waits for it; what does not fit is dropped and counted.
//! This crate must not know who measures: it gets numbers and names.

pub mod exposition;
pub mod process;
