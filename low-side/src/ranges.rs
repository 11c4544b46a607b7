//! Sets of numbers, kept as ranges: a million delivered records are one pair.

use std::collections::BTreeMap;

/// A set of numbers from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Adds `first..=last`; does nothing where `first > last`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        // From the highest range that may touch ours downwards, until one does not.
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            first = first.min(start);
            last = last.max(end);
            self.0.remove(&start);
        }
        self.0.insert(first, last);
    }

    /// The lowest number that is not in the set and not below `from`.
    pub fn next_outside(&self, from: u64) -> u64 {
        match self.0.range(..=from).next_back() {
            Some((_, &end)) if end >= from => end.saturating_add(1),
            _ => from,
        }
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(inserts in proptest::collection::vec((1_u64..60, 0_u64..12), 0..40)) {
            let mut ranges = RangeSet::default();
            let mut model = BTreeSet::new();
            for (first, length) in inserts {
                ranges.insert(first, first + length - 1);
                model.extend(first..first + length);
                let listed: Vec<u64> = ranges.iter().flat_map(|(first, last)| first..=last).collect();
                prop_assert_eq!(&listed, &model.iter().copied().collect::<Vec<_>>());
                let apart = ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.1 + 1 < b.0);
                prop_assert!(apart);
                for from in 1..80 {
                    let next = (from..1000).find(|n| !model.contains(n));
                    prop_assert_eq!(Some(ranges.next_outside(from)), next);
                }
            }
        }
    }
}
