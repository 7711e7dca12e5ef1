//! Which addresses Pods get, and what must be set up for one. Pure.
//!
//! Every Pod with a namespace of its own has one address of the pod network. The first is the mesh's: where Pods send what they
//! send to Services, and where connections to them come from.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The first address that a Pod may have, counted from the network's.
const FIRST: u32 = 2;
/// How large a pod network may be. By the last two parts of an address a Pod's line is told from others'.
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=28;

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its first address.
    pub network: Ipv4Addr,
    /// How many leading bits they share.
    pub prefix: u8,
}

/// Why a text is no block of addresses for Pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBlock {
    /// It cannot be read.
    #[error("{0:?} is no block of IPv4 addresses; write one such as {PODS}")]
    Unreadable(String),
    /// It is too small or too large.
    #[error("a block of addresses for Pods has a prefix of 16 to 28 bits, such as {PODS}; {0} has not")]
    Size(Block),
    /// It does not begin where blocks of its size do.
    #[error("{0} is no whole block; the one of its size around it is {1}")]
    Beginning(Block, Block),
    /// Its addresses mean something else.
    #[error("{0} is loopback, link-local, multicast or reserved; take a private block, such as {PODS}")]
    Reserved(Block),
}

impl Block {
    /// The addresses of Pods where nothing else is said, as clusters commonly have them.
    pub const PODS: Self = Self { network: Ipv4Addr::new(10, 244, 0, 0), prefix: 16 };

    /// Reads a block that Pods can have their addresses of.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn of_pods(text: &str) -> Result<Self, BadBlock> {
        let unreadable = || BadBlock::Unreadable(text.to_owned());
        let (network, prefix) = text.split_once('/').ok_or_else(unreadable)?;
        let block = Self {
            network: network.parse().map_err(|_| unreadable())?,
            prefix: prefix.parse().map_err(|_| unreadable())?,
        };
        if !PREFIXES.contains(&block.prefix) {
            return Err(BadBlock::Size(block));
        }
        let whole = Self { network: Ipv4Addr::from(block.leading(block.network) << block.free_bits()), ..block };
        if whole != block {
            return Err(BadBlock::Beginning(block, whole));
        }
        let first = block.network.octets()[0];
        if matches!(first, 0 | 127 | 224..) || block.network.is_link_local() {
            return Err(BadBlock::Reserved(block));
        }
        Ok(block)
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.leading(address) == self.leading(self.network),
            IpAddr::V6(_) => false,
        }
    }

    /// The mesh's own address, where these are Pods'.
    pub(crate) fn mesh(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    fn free_bits(&self) -> u32 {
        32 - u32::from(self.prefix)
    }

    /// What all of them share of an address.
    fn leading(&self, address: Ipv4Addr) -> u32 {
        u32::from(address).checked_shr(self.free_bits()).unwrap_or_default()
    }

    /// The last address that a Pod may have, counted from the network's.
    fn last(&self) -> u32 {
        (1 << self.free_bits()) - 2
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// For messages.
const PODS: Block = Block::PODS;

/// The name of the mesh's end of the line to a Pod.
pub(crate) fn line(address: Ipv4Addr) -> String {
    let [_, _, third, last] = address.octets();
    format!("pod-{third}-{last}")
}

/// Which addresses are taken. One that was given back is not given out again before all others have been.
#[derive(Debug)]
pub(crate) struct Addresses {
    block: Block,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Addresses {
    /// All addresses of a pod network, none of them taken.
    pub(crate) fn of(block: Block) -> Self {
        Self { block, taken: BTreeSet::new(), next: FIRST }
    }

    fn place(&self, address: Ipv4Addr) -> u32 {
        u32::from(address).wrapping_sub(u32::from(self.block.network))
    }

    /// An address: the one a Pod had before, where that is free. None where all are taken.
    pub(crate) fn take(&mut self, before: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let last = self.block.last();
        let kept = before.map(|address| self.place(address));
        let kept = kept.filter(|place| (FIRST..=last).contains(place) && !self.taken.contains(place));
        let next = self.next.clamp(FIRST, last);
        let found = kept.or_else(|| (next..=last).chain(FIRST..next).find(|place| !self.taken.contains(place)))?;
        self.taken.insert(found);
        if kept.is_none() {
            self.next = if found == last { FIRST } else { found + 1 };
        }
        Some(Ipv4Addr::from(u32::from(self.block.network) + found))
    }

    /// Gives an address back.
    pub(crate) fn give(&mut self, address: Ipv4Addr) {
        let place = self.place(address);
        self.taken.remove(&place);
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
        let mut all = Addresses::of(Block::PODS);
        assert_eq!(all.take(None), Some(address("10.244.0.2")));
        assert_eq!(all.take(None), Some(address("10.244.0.3")));
        all.give(address("10.244.0.2"));
        assert_eq!(all.take(None), Some(address("10.244.0.4")));
        assert_eq!(all.take(Some(address("10.244.0.2"))), Some(address("10.244.0.2")), "its own is free");
        assert_eq!(all.take(Some(address("10.244.0.2"))), Some(address("10.244.0.5")), "it is taken");
        for foreign in ["10.244.0.0", "10.244.0.1", "10.244.255.255", "127.0.0.1", "10.243.0.9", "10.245.0.0"] {
            let got = all.take(Some(address(foreign))).expect("there are more");
            assert!(got != address(foreign) && Block::PODS.covers(got.into()), "{foreign}: {got}");
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
    }

    #[test]
    fn a_block_has_its_addresses_and_gives_them_all() {
        let block = Block::of_pods("192.168.7.16/28").expect("a block");
        for (text, expected) in [
            ("192.168.7.16", true),
            ("192.168.7.31", true),
            ("192.168.7.15", false),
            ("192.168.7.32", false),
            ("::1", false),
        ] {
            assert_eq!(block.covers(text.parse().expect("an address")), expected, "{text}");
        }
        assert!(Block::PODS.covers("10.244.255.254".parse().expect("an address")));
        assert_eq!(block.mesh(), address("192.168.7.17"));
        let mut all = Addresses::of(block);
        let given: Vec<_> = std::iter::from_fn(|| all.take(None)).collect();
        assert_eq!((given.len(), given[0], given[12]), (13, address("192.168.7.18"), address("192.168.7.30")));
    }

    #[test]
    fn a_block_that_pods_cannot_have_says_why() {
        assert_eq!(Block::of_pods("10.244.0.0/16"), Ok(Block::PODS));
        for (text, why) in [
            ("10.244.0.0", "such as 10.244.0.0/16"),
            ("fd00::/64", "no block of IPv4"),
            ("10.0.0.0/8", "16 to 28 bits"),
            ("10.1.2.0/29", "16 to 28 bits"),
            ("10.1.2.3/24", "around it is 10.1.2.0/24"),
            ("127.5.0.0/16", "loopback"),
            ("169.254.0.0/16", "link-local"),
            ("224.0.0.0/16", "multicast"),
            ("0.0.0.0/16", "reserved"),
        ] {
            let said = Block::of_pods(text).expect_err("refused").to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
