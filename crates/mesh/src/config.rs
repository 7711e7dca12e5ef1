//! Where Gateways listen, and who workloads are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::identity::TrustDomain;

/// What the one who starts the mesh decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The address on which Gateways listen that ask for no other.
    pub gateway_address: IpAddr,
    /// Addresses for Gateways that cannot share that one with older Gateways; each is given to one.
    pub own_addresses: Vec<IpAddr>,
    /// Where other instances' proxies are listened for; nowhere by default.
    pub peers: Option<SocketAddr>,
    /// Replaces the port of the first HTTP listener (of the oldest Gateway that has one); 0 lets the system choose.
    pub first_gateway_port: Option<u16>,
    /// What workloads' identities are of: the short forms of policies mean callers of it, and of no other.
    pub trust_domain: TrustDomain,
    /// Whether every Service asks its callers for a certificate that does not say otherwise.
    pub certificates_always: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gateway_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            own_addresses: Vec::new(),
            peers: None,
            first_gateway_port: None,
            trust_domain: TrustDomain::default(),
            certificates_always: false,
        }
    }
}
