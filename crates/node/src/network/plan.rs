//! Which addresses Pods get, and what must be set up for one. Pure.
//!
//! Every Pod with a namespace of its own has one address of 10.244.0.0/16. The first is the mesh's: where Pods send what they
//! send to Services, and where connections to them come from.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The addresses of Pods, as clusters commonly have them.
const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 0);
const PREFIX: u8 = 16;
/// The mesh's own address.
pub(crate) const MESH: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The first and the last address that a Pod may have, counted from the network's.
const FIRST: u32 = 2;
const LAST: u32 = (1 << (32 - PREFIX)) - 2;

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its first address.
    pub network: Ipv4Addr,
    /// How many leading bits they share.
    pub prefix: u8,
}

/// Whether an address is one of Pods with namespaces of their own.
pub(crate) fn is_pods(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => u32::from(address) >> (32 - PREFIX) == u32::from(NETWORK) >> (32 - PREFIX),
        IpAddr::V6(_) => false,
    }
}

/// The name of the mesh's end of the line to a Pod.
pub(crate) fn line(address: Ipv4Addr) -> String {
    let [_, _, third, last] = address.octets();
    format!("pod-{third}-{last}")
}

/// Which addresses are taken. One that was given back is not given out again before all others have been.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    taken: BTreeSet<u32>,
    next: u32,
}

impl Addresses {
    /// An address: the one a Pod had before, where that is free. None where all are taken.
    pub(crate) fn take(&mut self, before: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let place = |address: Ipv4Addr| u32::from(address).wrapping_sub(u32::from(NETWORK));
        let kept = before.map(place).filter(|place| (FIRST..=LAST).contains(place) && !self.taken.contains(place));
        let next = self.next.clamp(FIRST, LAST);
        let found = kept.or_else(|| (next..=LAST).chain(FIRST..next).find(|place| !self.taken.contains(place)))?;
        self.taken.insert(found);
        if kept.is_none() {
            self.next = if found == LAST { FIRST } else { found + 1 };
        }
        Some(Ipv4Addr::from(u32::from(NETWORK) + found))
    }

    /// Gives an address back.
    pub(crate) fn give(&mut self, address: Ipv4Addr) {
        self.taken.remove(&u32::from(address).wrapping_sub(u32::from(NETWORK)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_are_given_out_once_and_again_only_when_all_others_were() {
        let mut all = Addresses::default();
        assert_eq!(all.take(None), Some(address("10.244.0.2")));
        assert_eq!(all.take(None), Some(address("10.244.0.3")));
        all.give(address("10.244.0.2"));
        assert_eq!(all.take(None), Some(address("10.244.0.4")));
        assert_eq!(all.take(Some(address("10.244.0.2"))), Some(address("10.244.0.2")), "its own is free");
        assert_eq!(all.take(Some(address("10.244.0.2"))), Some(address("10.244.0.5")), "it is taken");
        for foreign in ["10.244.0.0", "10.244.0.1", "10.244.255.255", "127.0.0.1", "10.243.0.9", "10.245.0.0"] {
            let got = all.take(Some(address(foreign))).expect("there are more");
            assert!(got != address(foreign) && is_pods(got.into()), "{foreign}: {got}");
        }
        let rest = std::iter::from_fn(|| all.take(None)).count();
        assert_eq!(rest, 65_533 - 10, "all but the network's, the mesh's, the last and the ten of before");
        assert_eq!(all.take(None), None);
        all.give(address("10.244.7.7"));
        assert_eq!(all.take(None), Some(address("10.244.7.7")));
    }

    #[test]
    fn lines_are_told_apart_and_short_enough_for_the_kernel() {
        assert_eq!(line(address("10.244.0.2")), "pod-0-2");
        assert!(line(address("10.244.255.254")).len() < 16);
        assert!(is_pods("10.244.255.254".parse().expect("an address")));
        assert!(!is_pods("10.245.0.1".parse().expect("an address")) && !is_pods("::1".parse().expect("an address")));
    }
}
