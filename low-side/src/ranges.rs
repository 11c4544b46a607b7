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

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.next_outside(number) != number
    }

    /// The lowest number that is not in the set and not below `from`.
    pub fn next_outside(&self, from: u64) -> u64 {
        match self.0.range(..=from).next_back() {
            Some((_, &end)) if end >= from => end.saturating_add(1),
            _ => from,
        }
    }

    /// What of these ranges is in the set.
    pub fn common(&self, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        // A lane of which nothing is sent any more gives a range that ends before it begins.
        for (first, last) in ranges.iter().filter(|(first, last)| first <= last) {
            let from = self.0.range(..=first).next_back().map_or(*first, |(start, _)| *start);
            for (begin, end) in self.0.range(from..=*last) {
                if end >= first {
                    found.push(((*begin).max(*first), (*end).min(*last)));
                }
            }
        }
        found
    }

    /// What of these ranges is not in the set.
    pub fn outside(&self, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        for (first, last) in ranges {
            let mut from = *first;
            for (begin, end) in self.common(&[(*first, *last)]) {
                if begin > from {
                    found.push((from, begin - 1));
                }
                from = end.saturating_add(1);
            }
            if from <= *last && from >= *first {
                found.push((from, *last));
            }
        }
        found
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
                    let wanted = [(from, from + 9)];
                    let each = |found: Vec<(u64, u64)>| -> Vec<u64> {
                        found.into_iter().flat_map(|(first, last)| first..=last).collect()
                    };
                    let inside: Vec<u64> = (from..from + 10).filter(|n| model.contains(n)).collect();
                    let other: Vec<u64> = (from..from + 10).filter(|n| !model.contains(n)).collect();
                    prop_assert_eq!(each(ranges.common(&wanted)), inside);
                    prop_assert_eq!(each(ranges.outside(&wanted)), other);
                }
            }
        }
    }

    #[test]
    fn a_range_that_ends_before_it_begins_has_nothing_in_common() {
        let mut set = RangeSet::default();
        set.insert(1, 9);
        assert_eq!(set.common(&[(8, 7), (9, 9)]), [(9, 9)]);
        assert_eq!(set.outside(&[(12, 11), (9, 10)]), [(10, 10)]);
    }
}
