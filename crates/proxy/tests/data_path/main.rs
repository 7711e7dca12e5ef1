//! The proxy over real sockets: what clients and endpoints see.

mod access;
mod alike;
mod alike_policies;
mod backend_tls;
mod beside;
mod drain;
mod egress;
mod endpoints;
mod external;
mod floods;
mod harness;
mod hostile;
mod http1_alone;
mod http2;
mod limits;
mod names;
mod observed;
mod plain;
mod policies;
mod policies_admit;
mod protocols;
mod routing;
mod secure;
mod sessions;
mod snapshots;
mod tokens;
