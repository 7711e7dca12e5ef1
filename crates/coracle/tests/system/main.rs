//! The real binary as users drive it: one process a test, on free ports and in a directory of the test's own.
//!
//! Tests that need a program which a fresh machine may lack (kubectl, curl, python3) are `#[ignore]`d with the reason;
//! `.ci/run` installs those programs and runs them.

mod access;
mod across;
mod again;
mod backend_tls;
mod bad_input;
mod certificates;
mod clients;
mod consumer;
mod delivery;
mod drift;
mod egress;
mod faults;
mod federation;
mod first_light;
mod gitsync;
mod harness;
mod hooks;
mod incidents;
mod isolated;
mod kubectl;
mod load;
mod mtls;
mod names;
mod outside;
mod probes;
mod pushed_programs;
mod rbac;
mod redundant;
mod resilience;
mod rollouts;
mod seen;
mod sessions;
mod strict;
mod sync_and_sets;
mod two_instances;
