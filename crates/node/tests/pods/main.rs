//! Pods from their declaration to their end: a real API server, a real node, real programs.

mod bench;
mod claims;
mod config;
mod ends;
mod health;
mod isolated;
mod restarts;
mod sessions;
mod starts;
