//! Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): which endpoint a key belongs to.
//!
//! Invariants: the same endpoints give the same table, in whatever order they come; each has nearly the same share; when one goes, few
//! keys of the others move.

use std::net::SocketAddr;

/// Sizes of tables, all prime; each is good for a hundredth as many endpoints.
const SIZES: [usize; 4] = [1_021, 4_093, 16_381, 65_537];

/// Positions of endpoints, by hash.
pub(super) struct Table(Vec<u16>);

impl Table {
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        let count = addresses.len().min(usize::from(u16::MAX));
        if count == 0 {
            return Self(Vec::new());
        }
        let size = SIZES.into_iter().find(|size| *size >= count * 100).unwrap_or(SIZES[3]);
        // Whose turn comes first must not depend on the order in which they are given.
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|position| addresses[*position]);
        let mut turns: Vec<Permutation> =
            order.iter().map(|position| Permutation::new(&addresses[*position].to_string(), size)).collect();
        let mut table = vec![u16::MAX; size];
        let mut filled = 0;
        while filled < size {
            for (turn, position) in turns.iter_mut().zip(&order) {
                let free = std::iter::repeat_with(|| turn.step(size)).find(|slot| table[*slot] == u16::MAX);
                let Some(slot) = free else { continue };
                table[slot] = u16::try_from(*position).unwrap_or(0);
                filled += 1;
                if filled == size {
                    break;
                }
            }
        }
        Self(table)
    }

    /// Whom a hash belongs to, and then to whom it would if that one were not there, and so on.
    pub(super) fn find(&self, hash: u64) -> impl Iterator<Item = usize> {
        let size = self.0.len();
        let start = if size == 0 { 0 } else { (hash % size as u64) as usize };
        (0..size).map(move |step| usize::from(self.0[(start + step) % size]))
    }
}

/// The order in which an endpoint wants the table's slots.
struct Permutation {
    next: usize,
    skip: usize,
}

impl Permutation {
    fn new(name: &str, size: usize) -> Self {
        let hash = hash(name.as_bytes());
        let offset = (hash % size as u64) as usize;
        let skip = (mix(hash ^ 0x9E37_79B9_7F4A_7C15) % (size as u64 - 1)) as usize + 1;
        Self { next: offset, skip }
    }

    fn step(&mut self, size: usize) -> usize {
        let slot = self.next;
        self.next = (slot + self.skip) % size;
        slot
    }
}

/// A hash that is the same in every process: FNV-1a, mixed.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(fnv)
}

/// Spreads what differs in few bits over all (the finaliser of SplitMix64).
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: impl IntoIterator<Item = u16>) -> Vec<SocketAddr> {
        ports.into_iter().map(|port| ([10, 0, 0, 1], port).into()).collect()
    }

    fn owner(table: &Table, addresses: &[SocketAddr], key: u64) -> SocketAddr {
        addresses[table.find(hash(&key.to_be_bytes())).next().expect("somebody")]
    }

    #[test]
    fn shares_are_nearly_equal() {
        for count in [1, 2, 3, 10, 100] {
            let all = addresses(1..=count);
            let table = Table::new(&all);
            let mut shares = vec![0_usize; usize::from(count)];
            table.0.iter().for_each(|position| shares[usize::from(*position)] += 1);
            let (least, most) = (shares.iter().min().expect("some"), shares.iter().max().expect("some"));
            assert!(most - least <= 1 + most / 50, "{count}: {least} to {most}");
        }
    }

    #[test]
    fn the_order_makes_no_difference() {
        let (one, other) = (addresses(1..=20), addresses((1..=20).rev()));
        let (first, second) = (Table::new(&one), Table::new(&other));
        for key in 0..1_000 {
            assert_eq!(owner(&first, &one, key), owner(&second, &other, key));
        }
    }

    #[test]
    fn few_keys_move_when_one_goes() {
        let (before, after) = (addresses(1..=20), addresses((1..=20).filter(|port| *port != 7)));
        let (one, other) = (Table::new(&before), Table::new(&after));
        let moved = (0..10_000).filter(|key| {
            let was = owner(&one, &before, *key);
            was.port() != 7 && was != owner(&other, &after, *key)
        });
        assert!(moved.count() < 400, "Maglev moves a few percent at most");
    }

    #[test]
    fn nobody_has_nothing() {
        assert_eq!(Table::new(&[]).find(1).count(), 0);
    }
}
