//! Which bytes of a file are there.

/// Ranges of a file, in order, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    ranges: Vec<(u64, u64)>,
    bytes: u64,
}

impl Ranges {
    /// Adds a range; false where everything in it was there already.
    pub fn add(&mut self, start: u64, end: u64) -> bool {
        if self.covers(start, end) {
            return false;
        }
        let (from, to) = self.touched(start, end);
        let merged = self.ranges[from..to]
            .iter()
            .fold((start, end), |(low, high), &(at, to)| (low.min(at), high.max(to)));
        let before: u64 = self.ranges[from..to].iter().map(|(start, end)| end - start).sum();
        self.bytes += merged.1 - merged.0 - before;
        self.ranges.splice(from..to, [merged]);
        true
    }

    /// Whether everything in a range is there. Of an empty one it is.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let (from, _) = self.touched(start, end);
        let around = |&(at, to): &(u64, u64)| at <= start && end <= to;
        start >= end || self.ranges.get(from).is_some_and(around)
    }

    /// Whether adding a range would join ranges that are there, and so make them no more than they are.
    pub fn joins(&self, start: u64, end: u64) -> bool {
        let (from, to) = self.touched(start, end);
        from < to
    }

    /// Those that overlap a range or stand next to it.
    fn touched(&self, start: u64, end: u64) -> (usize, usize) {
        let from = self.ranges.partition_point(|&(_, to)| to < start);
        (from, self.ranges.partition_point(|&(at, _)| at <= end).max(from))
    }

    /// How many pieces there are.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// How many bytes are there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all of a file of this length is there.
    pub fn is_whole(&self, total: u64) -> bool {
        self.ranges == [(0, total)]
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_a_list_of_bytes_is(adds in prop::collection::vec((0u64..60, 0u64..12), 0..40)) {
            let (mut ranges, mut model) = (Ranges::default(), [false; 80]);
            for (start, length) in adds {
                let new = (start..start + length).any(|at| !model[at as usize]);
                prop_assert_eq!(ranges.add(start, start + length), new);
                (start..start + length).for_each(|at| model[at as usize] = true);
                prop_assert_eq!(ranges.bytes(), model.iter().filter(|there| **there).count() as u64);
                let parts: Vec<_> = ranges.iter().collect();
                prop_assert!(parts.windows(2).all(|two| two[0].1 < two[1].0), "{parts:?}");
                for (at, there) in model.iter().enumerate() {
                    let found = parts.iter().any(|&(from, to)| (from..to).contains(&(at as u64)));
                    prop_assert_eq!(found, *there);
                }
            }
        }
    }

    #[test]
    fn whole_is_one_range_from_the_start() {
        let mut ranges = Ranges::default();
        assert!(ranges.add(5, 10) && !ranges.is_whole(10));
        assert!(ranges.add(0, 5) && ranges.is_whole(10) && !ranges.is_whole(11));
        assert_eq!(ranges.count(), 1);
    }
}
