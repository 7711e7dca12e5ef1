//! The shim alone, so that this crate's tests can start containers without the `coracle` executable.

fn main() {
    // The first word is the subcommand's name, as it is for the real executable.
    std::process::exit(node::shim::main(std::env::args_os().skip(2)));
}
