//! Which records are missing: a comparison of two multisets whose times may differ a little. Pure.
//!
//! Records and sightings of one hash are put side by side in the order of their times, in clusters:
//! nothing in one cluster is within the tolerance of anything in another. In each, as many records as
//! possible find a sighting of their own. Where pairing equal seconds first finds as many, it is
//! preferred, since it names the right one among twins.

use crate::buffer::Sighting;

/// A record without a sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// Its place in the list of records.
    pub(super) index: usize,
    /// Whether it has a twin within the tolerance: which of them was lost can't be told.
    pub(super) ambiguous: bool,
}

/// The records that have no sighting, in the order of their places.
pub(super) fn missing(
    records: &[Sighting],
    sightings: &[Sighting],
    tolerance_secs: i64,
) -> Vec<Missing> {
    let mut records: Vec<(Sighting, usize)> = records.iter().copied().zip(0..).collect();
    records.sort_unstable_by_key(|(record, index)| (record.hash, record.second, *index));
    let mut sightings = sightings.to_vec();
    sightings.sort_unstable_by_key(|sighting| (sighting.hash, sighting.second));
    let mut missing = Vec::new();
    let mut rest = &sightings[..];
    for same in records.chunk_by(|a, b| a.0.hash == b.0.hash) {
        let hash = same[0].0.hash;
        rest = &rest[rest.partition_point(|sighting| sighting.hash < hash)..];
        let (seen, behind) = rest.split_at(rest.partition_point(|s| s.hash == hash));
        rest = behind;
        let seen: Vec<i64> = seen.iter().map(|sighting| sighting.second).collect();
        clusters(same, &seen, tolerance_secs, &mut missing);
    }
    missing.sort_unstable_by_key(|missing| missing.index);
    missing
}

/// Takes apart what has one hash, and compares each cluster.
fn clusters(
    mut records: &[(Sighting, usize)],
    mut seen: &[i64],
    tolerance: i64,
    missing: &mut Vec<Missing>,
) {
    while let Some((first, _)) = records.first() {
        // Sightings too early for any record left belong to nothing.
        seen = &seen[seen.partition_point(|s| s.saturating_add(tolerance) < first.second)..];
        let (mut count, mut seen_count) = (1, 0);
        let mut last = first.second;
        loop {
            let near = |second: i64| second.saturating_sub(last) <= tolerance;
            if seen.get(seen_count).is_some_and(|second| near(*second)) {
                last = last.max(seen[seen_count]);
                seen_count += 1;
            } else if records.get(count).is_some_and(|(record, _)| near(record.second)) {
                last = last.max(records[count].0.second);
                count += 1;
            } else {
                break;
            }
        }
        let (cluster, later) = records.split_at(count);
        let (cluster_seen, later_seen) = seen.split_at(seen_count);
        compare(cluster, cluster_seen, tolerance, missing);
        (records, seen) = (later, later_seen);
    }
}

fn compare(
    records: &[(Sighting, usize)],
    seen: &[i64],
    tolerance: i64,
    missing: &mut Vec<Missing>,
) {
    let exact = exact_first(records, seen, tolerance);
    let left = if exact.is_empty() { exact } else { shortest(records, seen, tolerance, exact) };
    let ambiguous = left.len() < records.len();
    missing.extend(left.into_iter().map(|index| Missing { index, ambiguous }));
}

/// The most pairs that there can be, by going along both lists; kept only if it leaves fewer over.
fn shortest(
    records: &[(Sighting, usize)],
    seen: &[i64],
    tolerance: i64,
    exact: Vec<usize>,
) -> Vec<usize> {
    let along = along(records.iter().map(|(r, index)| (r.second, *index)), seen, tolerance);
    if along.len() < exact.len() { along } else { exact }
}

/// Pairs equal seconds, then what is left along both lists.
fn exact_first(records: &[(Sighting, usize)], seen: &[i64], tolerance: i64) -> Vec<usize> {
    let mut left_seen = Vec::new();
    let mut left = Vec::new();
    let mut at = 0;
    for (record, index) in records {
        while seen.get(at).is_some_and(|second| *second < record.second) {
            left_seen.push(seen[at]);
            at += 1;
        }
        if seen.get(at) == Some(&record.second) {
            at += 1;
        } else {
            left.push((record.second, *index));
        }
    }
    left_seen.extend_from_slice(&seen[at..]);
    along(left.into_iter(), &left_seen, tolerance)
}

/// Pairs greedily along two lists in the order of time, which leaves as few as possible: with one
/// tolerance for all, the earliest record takes the earliest sighting that it can.
fn along(records: impl Iterator<Item = (i64, usize)>, seen: &[i64], tolerance: i64) -> Vec<usize> {
    let mut left = Vec::new();
    let mut at = 0;
    for (second, index) in records {
        while seen.get(at).is_some_and(|s| s.saturating_add(tolerance) < second) {
            at += 1;
        }
        if seen.get(at).is_some_and(|s| s.saturating_sub(tolerance) <= second) {
            at += 1;
        } else {
            left.push(index);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(seconds: &[i64]) -> Vec<Sighting> {
        seconds.iter().map(|&second| Sighting { second, hash: 7 }).collect()
    }

    #[test]
    fn each_record_needs_a_sighting_of_its_own() {
        for (records, seen, expected) in [
            (&[10][..], &[10][..], &[][..]),
            (&[10], &[], &[(0, false)]),
            (&[10], &[15], &[]),
            (&[10], &[5], &[]),
            (&[10], &[16], &[(0, false)]),
            (&[10], &[4], &[(0, false)]),
            // Three equal ones, two of them seen.
            (&[10, 10, 10], &[10, 10], &[(2, true)]),
            // The one whose second was seen is not the one that is missing.
            (&[10, 12], &[12], &[(0, true)]),
            (&[10, 12], &[11], &[(1, true)]),
            // Times of the other clock: all are there, though no second but one is equal.
            (&[0, 3], &[3, 8], &[]),
            (&[0, 3, 8], &[3, 8], &[(0, true)]),
            // Two clusters, one of them lost as a whole.
            (&[0, 100, 101], &[1], &[(1, false), (2, false)]),
            // A sighting too many hides nothing far away.
            (&[0, 100], &[0, 0, 0], &[(1, false)]),
        ] {
            let found: Vec<_> = missing(&of(records), &of(seen), 5)
                .into_iter()
                .map(|missing| (missing.index, missing.ambiguous))
                .collect();
            assert_eq!(found, expected, "{records:?} {seen:?}");
        }
    }

    #[test]
    fn another_hash_is_another_record() {
        let records = [Sighting { second: 1, hash: 1 }, Sighting { second: 1, hash: 2 }];
        let seen = [Sighting { second: 1, hash: 2 }, Sighting { second: 1, hash: 3 }];
        let found = missing(&records, &seen, 5);
        assert_eq!(found, [Missing { index: 0, ambiguous: false }]);
    }

    /// The most pairs, by trying everything.
    fn pairs_max(records: &[i64], seen: &[i64], tolerance: i64) -> usize {
        let Some((first, others)) = records.split_first() else { return 0 };
        let mut best = pairs_max(others, seen, tolerance);
        for (at, second) in seen.iter().enumerate() {
            if (first - second).abs() <= tolerance {
                let mut rest = seen.to_vec();
                rest.remove(at);
                best = best.max(1 + pairs_max(others, &rest, tolerance));
            }
        }
        best
    }

    proptest! {
        #[test]
        fn as_few_as_possible_are_missing(
            records in proptest::collection::vec(0..20_i64, 0..5),
            seen in proptest::collection::vec(0..20_i64, 0..5),
            tolerance in 0..6_i64,
        ) {
            let found = missing(&of(&records), &of(&seen), tolerance);
            prop_assert_eq!(found.len(), records.len() - pairs_max(&records, &seen, tolerance));
        }

        #[test]
        fn what_was_inserted_is_not_missing_again(
            records in proptest::collection::vec((0..40_i64, 0..3_u64), 0..20),
            seen in proptest::collection::vec((0..40_i64, 0..3_u64), 0..20),
        ) {
            let to = |list: &[(i64, u64)]| -> Vec<Sighting> {
                list.iter().map(|&(second, hash)| Sighting { second, hash }).collect()
            };
            let (records, mut seen) = (to(&records), to(&seen));
            let inserted: Vec<_> = missing(&records, &seen, 5).iter().map(|m| records[m.index]).collect();
            seen.extend(inserted);
            prop_assert_eq!(missing(&records, &seen, 5), []);
        }
    }
}
