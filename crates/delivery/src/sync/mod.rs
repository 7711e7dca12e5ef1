//! Git as the truth: what a repository says is brought into the cluster, kept there, and put back when it was bad.
//!
//! How it is put together: [`repository`] knows what each repository offers; one `actor` for each application resolves, renders
//! and compares, asks the pure [`engine::decide`], and runs one [`engine::operation`] at a time; [`report`] says how it stands in
//! the words of Argo CD and of Flux, whose kinds are two fronts over the same engine ([`front`]).
//!
//! Invariants:
//! - What a repository holds is not trusted ([`git`]), and what an application may write is bounded ([`guard`]).
//! - A revision that the rehearsal refuses changes nothing; one that does not become healthy is marked, not tried again, and the
//!   last good one is put back.
//! - A newer commit never waits for an older one. When the sync fails or ends, everything in the cluster stays as it is.
//!
//! It must not know: how the API is served, how Pods run, or how traffic flows.

mod account;
mod actor;
pub mod application;
pub mod break_glass;
mod commit_status;
mod credentials;
pub mod engine;
mod file_events;
pub mod front;
pub mod git;
mod guard;
mod here;
pub mod http;
mod install;
pub mod manifests;
pub mod programs;
mod receivers;
pub mod report;
pub mod repository;
mod service;
mod source_status;

pub use actor::{Stage, Standing};
pub use commit_status::Endpoint;
pub use http::is_repository_name;
pub use install::{InstallError, install};
pub use service::{Handle, RunError, Settings, Sync, build};
