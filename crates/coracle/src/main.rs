//! The `coracle` binary: command line, wiring of the roles, and the ordered end.
//!
//! This is the only crate that names two roles. Roles meet here through traits that their consumer owns (`adapters`).
//! Commands other than `up` and `serve` are ordinary API clients; none reaches into the store.

mod adapters;
mod cli;
mod colour;
mod commands;
mod connect;
mod data_dir;
mod descriptors;
mod earlier_life;
mod exit;
mod git_sync;
mod identities;
mod instances;
mod kinds;
mod manifests;
mod memory;
mod order;
mod platform;
mod proxied;
mod readiness;
mod seen;
mod service_addresses;
mod why;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The node runs every container under this same program; that path must not start a runtime or parse options.
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|first| first == node::shim::SUBCOMMAND) {
        return ExitCode::from(u8::try_from(node::shim::main(arguments)).unwrap_or(1));
    }
    memory::configure();
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
