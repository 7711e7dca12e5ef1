//! The shop example.
fn main() {}
