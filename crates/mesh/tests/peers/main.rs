//! Two proxies with real sockets and real certificates: who is believed, who is told, and what is survived.

mod federation;
mod harness;
mod outside;
mod trust;
mod workload;
