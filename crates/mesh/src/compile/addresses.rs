//! The addresses that Gateways are served on (Gateway API, GatewaySpec.addresses).
//!
//! Gateways share one address, as long as their listeners can be told apart there by host name. One that cannot share it gets
//! an address of its own, as it would on a cluster; one that asks for addresses gets those and no other.
//!
//! Invariants: the same objects get the same addresses; no two Gateways have the same own address. Whether the machine has
//! an address is not known here: whoever binds it will say.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use resources::gateway::gateways::Gateway;

use super::index::key;
use super::verdict::{Fault, reason};
use crate::config::Settings;

/// Addresses for Gateways of their own, given out once each.
pub(super) struct Own<'s> {
    all: &'s [IpAddr],
    taken: HashSet<IpAddr>,
}

impl<'s> Own<'s> {
    /// Those that `settings` has, less those that Gateways ask for.
    pub(super) fn new(settings: &'s Settings, asked: impl Iterator<Item = IpAddr>) -> Self {
        Self { all: &settings.own_addresses, taken: asked.collect() }
    }

    /// The address of a Gateway; none where all are given out. By its name, so that it stays while others come and go.
    pub(super) fn take(&mut self, gateway: &Gateway) -> Option<IpAddr> {
        let mut hasher = DefaultHasher::new();
        key(&gateway.metadata).hash(&mut hasher);
        let many = u64::try_from(self.all.len()).ok().filter(|many| *many > 0)?;
        let first = usize::try_from(hasher.finish() % many).ok()?;
        let (before, after) = self.all.split_at(first);
        let found = after.iter().chain(before).copied().find(|address| !self.taken.contains(address))?;
        self.taken.insert(found);
        Some(found)
    }
}

/// The addresses that a Gateway asks for, each once; none where it leaves that open.
///
/// # Errors
///
/// What cannot be listened on.
pub(super) fn asked(gateway: &Gateway) -> Result<Vec<IpAddr>, Fault> {
    let mut addresses = Vec::new();
    for address in gateway.spec.addresses.iter().flatten() {
        let type_ = address.r#type.as_deref().unwrap_or("IPAddress");
        if type_ != "IPAddress" {
            let message = format!("spec.addresses has an address of type {type_}; only IPAddress is supported");
            return Err(Fault::new(reason::UNSUPPORTED_ADDRESS, message));
        }
        let value = address.value.as_deref().unwrap_or_default();
        if value.is_empty() {
            continue;
        }
        let parsed =
            value.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified() && !address.is_multicast());
        let parsed = parsed.ok_or_else(|| {
            let message = format!(
                "spec.addresses has {value:?}, which is no address that can be listened on; name one of this machine's"
            );
            Fault::new(reason::ADDRESS_NOT_USABLE, message)
        })?;
        if !addresses.contains(&parsed) {
            addresses.push(parsed);
        }
    }
    Ok(addresses)
}
