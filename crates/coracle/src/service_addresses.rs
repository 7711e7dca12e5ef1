//! Which part of 127.96.0.0/12 this instance gives to its Services, and of 127.112.0.0/16 to Gateways of their own address.
//!
//! Loopback addresses belong to the whole machine, so two instances must not give out the same ones: a Pod would reach the other's
//! Service. Each data directory has a block of its own, chosen once and kept in it, because Services keep their addresses
//! over restarts. While an instance runs it holds its block by a UDP port of the block's first address, which the kernel
//! releases however the process ends.

use crate::exit;
use anyhow::Context;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

/// The first address of all, and the prefix of a block: 1,022 Services each, 1,024 blocks.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 96, 0, 0);
const PREFIX: u8 = 22;
const BLOCKS: u32 = 1 << (PREFIX - 12);

/// The first address of Gateways, and how many belong to a block.
const FIRST_GATEWAY: Ipv4Addr = Ipv4Addr::new(127, 112, 0, 0);
const GATEWAYS: u32 = 64;

/// The UDP port by which a block is held.
const HOLD: u16 = 10_096;

const FILE: &str = "service-cidr";

/// A block held by this process.
#[derive(Debug)]
pub(crate) struct Block {
    network: Ipv4Addr,
    /// None where the system has only one loopback address.
    _held: Option<UdpSocket>,
}

impl Block {
    /// The block of a data directory; chosen now where it has none yet.
    pub(crate) fn of(data: &Path) -> anyhow::Result<Self> {
        let file = data.join(FILE);
        match std::fs::read_to_string(&file) {
            Ok(text) => Self::kept(&text, data),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let block = Self::choose(data)?;
                std::fs::write(&file, format!("{}/{PREFIX}\n", block.network))
                    .with_context(|| format!("cannot write {}; is the disk full?", file.display()))?;
                Ok(block)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    pub(crate) fn cidr(&self) -> (Ipv4Addr, u8) {
        (self.network, PREFIX)
    }

    /// The tenth address, where clusters have their DNS server.
    pub(crate) fn nameserver(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 10)
    }

    /// Addresses for Gateways that cannot share one: as many for each block, beside those of Services.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        let place = (u32::from(self.network) - u32::from(FIRST)) >> (32 - PREFIX);
        let first = u32::from(FIRST_GATEWAY) + place * GATEWAYS;
        (1..GATEWAYS).map(|offset| IpAddr::from(Ipv4Addr::from(first + offset))).collect()
    }

    fn kept(text: &str, data: &Path) -> anyhow::Result<Self> {
        let address = text.trim().strip_suffix(&format!("/{PREFIX}")).and_then(|address| address.parse().ok());
        let network: Ipv4Addr = address.with_context(|| {
            format!(
                "{}: {:?} is no block of addresses; with `coracle down --purge` all starts anew",
                data.join(FILE).display(),
                text.trim()
            )
        })?;
        match hold(network) {
            Held::Ours(held) => Ok(Self { network, _held: held }),
            Held::Taken => Err(exit::bad_input(format!(
                "another Coracle on this machine uses {network}/{PREFIX}, where the Services of {} have their addresses; \
                 stop that one first, or choose another data directory with --data",
                data.display()
            ))),
        }
    }

    fn choose(data: &Path) -> anyhow::Result<Self> {
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        // The remainder fits: BLOCKS is small.
        let start = (hasher.finish() % u64::from(BLOCKS)) as u32;
        for place in 0..BLOCKS {
            let block = (start + place) % BLOCKS;
            let network = Ipv4Addr::from(u32::from(FIRST) + (block << (32 - PREFIX)));
            if let Held::Ours(held) = hold(network) {
                return Ok(Self { network, _held: held });
            }
        }
        anyhow::bail!("all {BLOCKS} blocks of {FIRST}/12 are held by other Coracles on this machine; stop one of them")
    }
}

enum Held {
    Ours(Option<UdpSocket>),
    Taken,
}

fn hold(network: Ipv4Addr) -> Held {
    match UdpSocket::bind((network, HOLD)) {
        Ok(socket) => Held::Ours(Some(socket)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Held::Taken,
        Err(_) => Held::Ours(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_keeps_its_block_and_no_two_share_one() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Block::of(one.path()).unwrap();
        let cidr = first.cidr();
        let second = Block::of(other.path()).unwrap();
        assert_ne!(second.cidr(), cidr);
        assert!(first.gateways().iter().all(|address| address.is_loopback() && !second.gateways().contains(address)));
        let refusal = Block::of(one.path()).unwrap_err().to_string();
        assert!(refusal.contains(&cidr.0.to_string()) && refusal.contains("--data"), "{refusal}");
        drop(first);
        assert_eq!(Block::of(one.path()).unwrap().cidr(), cidr);
        std::fs::write(one.path().join(FILE), "nonsense").unwrap();
        assert!(Block::of(one.path()).unwrap_err().to_string().contains("nonsense"));
    }
}
