//! Git as the truth: what a repository says is brought into the cluster, kept there, and put back when it was bad.
//!
//! It must not know: how the API is served, how Pods run, or how traffic flows.

pub mod git;
