//! The API server as its clients see it: a real server over a real store, in process and over TLS.

mod access;
mod client;
mod cut;
mod definitions;
mod lists;
mod objects;
mod patches;
mod policies;
mod ports;
mod streams;
mod subresources;
mod support;
mod trail;
mod watches;
mod wire;
