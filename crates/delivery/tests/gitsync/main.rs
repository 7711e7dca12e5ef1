//! The Git sync against a real API server, a real store and real repositories, in one process.

mod accounts;
mod applications;
mod bounds;
mod claims;
mod faults;
mod harness;
mod incidents;
mod kustomizations;
mod locks;
mod programs;
mod receivers;
mod remote;
mod settling;
mod sources;
mod windows;
