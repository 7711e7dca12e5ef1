//! Sets of completion indexes in Kubernetes' text form: `1,3-5,7`.
//!
//! Invariants: parsing what was formatted gives the same set; three or more in a row are written as a range; what lies outside
//! of the Job's indexes is dropped.

use std::collections::BTreeSet;

/// Reads a set, keeping what is below `completions`. What can't be read is left out.
pub(crate) fn parse(text: &str, completions: u32) -> BTreeSet<u32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else { continue };
        set.extend((first..=last.min(completions.saturating_sub(1))).take_while(|index| *index < completions));
    }
    set
}

/// Writes a set.
pub(crate) fn format(set: &BTreeSet<u32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = set.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.next_if_eq(&(last.wrapping_add(1))).is_some() {
            last += 1;
        }
        match last - first {
            0 => parts.push(first.to_string()),
            1 => parts.extend([first.to_string(), last.to_string()]),
            _ => parts.push(format!("{first}-{last}")),
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_upstream_writes_them() {
        let table: &[(&[u32], &str)] =
            &[(&[], ""), (&[0], "0"), (&[0, 1], "0,1"), (&[1, 3, 4, 5, 7], "1,3-5,7"), (&[0, 1, 2], "0-2")];
        for (numbers, text) in table {
            let set: BTreeSet<u32> = numbers.iter().copied().collect();
            assert_eq!(format(&set), *text);
            assert_eq!(parse(text, 100), set);
        }
        assert_eq!(parse("1,3-5,7", 5), BTreeSet::from([1, 3, 4]));
        assert_eq!(parse("x,2,-", 5), BTreeSet::from([2]));
        assert_eq!(parse("0-4294967295", 3), BTreeSet::from([0, 1, 2]));
        assert_eq!(parse("0-4294967295", 0), BTreeSet::new());
    }

    proptest! {
        #[test]
        fn there_and_back(set in proptest::collection::btree_set(0_u32..200, 0..60)) {
            prop_assert_eq!(parse(&format(&set), 200), set);
        }
    }
}
