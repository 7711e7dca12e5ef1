//! SPDY/3.1, the server's side, as far as `kubectl` and its kin use it: streams that a client opens, and bytes on them.
//!
//! [`frame`] and [`header`] read and write, purely; [`connection`] carries many streams over one connection; [`session`] and [`ports`] do
//! with them what was asked.

pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod header;
pub(super) mod ports;
pub(super) mod session;
