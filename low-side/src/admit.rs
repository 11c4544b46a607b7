//! What becomes of a verified bundle: a pure decision over what the ledger knows of its chain.
//!
//! A chain is the bundles of one (origin, epoch, lane), numbered from 1; each names the digest of
//! its predecessor, and their ranges of sequence numbers join without holes. Whoever holds the
//! high side's signing key, or an old backup of it, can still not make a bundle that is admitted
//! in place of one we know: it is named a fork, a rollback or a mismatch instead.

use shared::bundle::BundleDigest;
use shared::record::Epoch;

/// What the decision needs of the bundle at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number in the chain.
    pub number: u64,
    /// Its identity.
    pub digest: BundleDigest,
    /// The identity of its predecessor; zeros for number 1.
    pub previous: BundleDigest,
    /// The first sequence number it accounts for.
    pub first_sequence: u64,
    /// The last one; one less than the first when it accounts for none.
    pub last_sequence: u64,
}

/// What the ledger knows around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The latest epoch of the origin, in any lane.
    pub latest_epoch: Option<Epoch>,
    /// Numbers up to this one were admitted once, and their rows are no longer kept.
    pub pruned_through: u64,
    /// The bundle with the same number.
    pub same: Option<Member>,
    /// The nearest admitted bundle with a lower number.
    pub below: Option<Member>,
    /// The nearest admitted bundle with a higher number.
    pub above: Option<Member>,
}

/// An admitted bundle of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub number: u64,
    /// Its identity.
    pub digest: BundleDigest,
    /// The identity of its predecessor.
    pub previous: BundleDigest,
    /// The first sequence number it accounts for.
    pub first_sequence: u64,
    /// The last one.
    pub last_sequence: u64,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The next of its chain: admitted.
    Fresh,
    /// Admitted; the numbers `first..=last` before it have not come.
    Gap {
        /// The first missing number.
        first: u64,
        /// The last missing number.
        last: u64,
    },
    /// Admitted: it was missing until now.
    FillsGap,
    /// The very bundle was admitted before: nothing to do.
    Duplicate,
    /// Not admitted.
    Refused(Disorder),
}

/// Why an authentic bundle is not admitted; all of these are for a human to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disorder {
    /// Its number lies too far ahead to be a delay.
    #[error("its number lies too far ahead of the highest known one")]
    FastForward,
    /// Two bundles with one place in the chain: a high side restored from an old backup, or two of them.
    #[error("another bundle has its place in the chain, or its neighbour names another one")]
    Fork,
    /// An old epoch, or a number that was admitted and forgotten.
    #[error(
        "it belongs to the past: a later epoch of this origin has begun, or its number is pruned"
    )]
    Rollback,
    /// Its sequence numbers do not join its neighbours'.
    #[error("its sequence numbers do not join those of its neighbours")]
    SequenceMismatch,
}

impl Disorder {
    /// The stable code: in the quarantine, in metrics, in `--json`.
    pub fn code(self) -> &'static str {
        match self {
            Self::FastForward => "fast-forward",
            Self::Fork => "fork",
            Self::Rollback => "rollback",
            Self::SequenceMismatch => "sequence-mismatch",
        }
    }
}

impl Admission {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Gap { .. } => "gap",
            Self::FillsGap => "fills-gap",
            Self::Duplicate => "duplicate",
            Self::Refused(disorder) => disorder.code(),
        }
    }
}

/// Decides. `number_jump_max` is the furthest a number may lie ahead of the highest known one.
pub fn admit(bundle: &Candidate, known: &Known, number_jump_max: u64) -> Admission {
    use Admission::{Duplicate, FillsGap, Fresh, Gap, Refused};

    if let Some(same) = known.same {
        return if same.digest == bundle.digest { Duplicate } else { Refused(Disorder::Fork) };
    }
    // Each neighbour is asked about the other: its place may be wrong on either side.
    if (bundle.number == 1) != (bundle.previous == BundleDigest::ZERO)
        || known.below.is_some_and(|below| {
            !follows(below.number, &below.digest, bundle.number, &bundle.previous)
        })
        || known.above.is_some_and(|above| {
            !follows(bundle.number, &bundle.digest, above.number, &above.previous)
        })
    {
        return Refused(Disorder::Fork);
    }
    if bundle.number <= known.pruned_through {
        return Refused(Disorder::Rollback);
    }
    let highest = known.below.map_or(known.pruned_through, |below| below.number);
    let joins = bundle.number - 1 == highest;
    if known.above.is_none() {
        // After a later epoch began, an older one may only end: bundles of a chain that is known are
        // taken, for they were accepted and sealed, and their digests link them. Nothing new begins
        // there.
        let old = known.latest_epoch.is_some_and(|latest| bundle.epoch < latest);
        if old && known.below.is_none() {
            return Refused(Disorder::Rollback);
        }
        if bundle.number - highest > number_jump_max || !storable(bundle) {
            return Refused(Disorder::FastForward);
        }
    }
    if !sequences_join(bundle, known) {
        return Refused(Disorder::SequenceMismatch);
    }
    match (known.above, joins) {
        (Some(_), _) => FillsGap,
        (None, true) => Fresh,
        (None, false) => Gap { first: highest + 1, last: bundle.number - 1 },
    }
}

/// Whether the second may be in one chain with the first: a direct successor names its predecessor.
fn follows(first: u64, first_digest: &BundleDigest, second: u64, named: &BundleDigest) -> bool {
    first.checked_add(1) != Some(second) || first_digest == named
}

fn sequences_join(bundle: &Candidate, known: &Known) -> bool {
    let Some(next) = bundle.last_sequence.checked_add(1) else {
        return false;
    };
    let lower = known.below.map_or(1, |below| below.last_sequence + 1);
    let after_below = match known.below {
        Some(below) if below.number + 1 == bundle.number => bundle.first_sequence == lower,
        None if bundle.number == 1 => bundle.first_sequence == 1,
        _ => bundle.first_sequence >= lower,
    };
    let before_above = known.above.is_none_or(|above| {
        if bundle.number + 1 == above.number {
            above.first_sequence == next
        } else {
            above.first_sequence >= next
        }
    });
    after_below && before_above && bundle.first_sequence >= 1 && next >= bundle.first_sequence
}

/// The ledger's integers are signed; a chain that grew honestly never comes near.
fn storable(bundle: &Candidate) -> bool {
    [bundle.epoch.0, bundle.number, bundle.last_sequence].iter().all(|n| i64::try_from(*n).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUMP: u64 = 100;

    fn digest(name: &str) -> BundleDigest {
        if name == "0" { BundleDigest::ZERO } else { BundleDigest::of(name.as_bytes()) }
    }

    fn member(number: u64, own: &str, previous: &str, range: (u64, u64)) -> Member {
        Member {
            number,
            digest: digest(own),
            previous: digest(previous),
            first_sequence: range.0,
            last_sequence: range.1,
        }
    }

    fn candidate(number: u64, own: &str, previous: &str, range: (u64, u64)) -> Candidate {
        let Member { digest, previous, first_sequence, last_sequence, .. } =
            member(number, own, previous, range);
        Candidate { epoch: Epoch(2), number, digest, previous, first_sequence, last_sequence }
    }

    #[test]
    fn the_table() {
        use Admission::*;
        use Disorder::*;
        let nothing = Known::default();
        let two = Known {
            latest_epoch: Some(Epoch(2)),
            below: Some(member(2, "b", "a", (11, 20))),
            ..nothing
        };
        let hole = Known { above: Some(member(5, "e", "d", (41, 50))), ..two };
        let later = |known: Known| Known { latest_epoch: Some(Epoch(3)), ..known };
        let max = u64::MAX;
        let cases = [
            ("first", nothing, candidate(1, "a", "0", (1, 10)), Fresh),
            ("first, empty", nothing, candidate(1, "a", "0", (1, 0)), Fresh),
            ("first has a predecessor", nothing, candidate(1, "a", "x", (1, 10)), Refused(Fork)),
            ("second has none", two, candidate(3, "c", "0", (21, 30)), Refused(Fork)),
            (
                "first starts late",
                nothing,
                candidate(1, "a", "0", (2, 10)),
                Refused(SequenceMismatch),
            ),
            ("joined midway", nothing, candidate(4, "d", "c", (31, 40)), Gap { first: 1, last: 3 }),
            ("next", two, candidate(3, "c", "b", (21, 30)), Fresh),
            ("next, empty", two, candidate(3, "c", "b", (21, 20)), Fresh),
            (
                "same",
                Known { same: Some(member(3, "c", "b", (21, 30))), ..two },
                candidate(3, "c", "b", (21, 30)),
                Duplicate,
            ),
            (
                "same number",
                Known { same: Some(member(3, "c", "b", (21, 30))), ..two },
                candidate(3, "C", "b", (21, 30)),
                Refused(Fork),
            ),
            ("other predecessor", two, candidate(3, "c", "B", (21, 30)), Refused(Fork)),
            ("skips", two, candidate(5, "e", "d", (41, 50)), Gap { first: 3, last: 4 }),
            ("skips no records", two, candidate(5, "e", "d", (21, 50)), Gap { first: 3, last: 4 }),
            ("fills below", hole, candidate(3, "c", "b", (21, 30)), FillsGap),
            ("fills above", hole, candidate(4, "d", "c", (31, 40)), FillsGap),
            ("fills below, wrong", hole, candidate(3, "c", "x", (21, 30)), Refused(Fork)),
            ("fills above, wrong", hole, candidate(4, "D", "c", (31, 40)), Refused(Fork)),
            ("overlaps below", two, candidate(3, "c", "b", (20, 30)), Refused(SequenceMismatch)),
            ("leaves a hole", two, candidate(3, "c", "b", (22, 30)), Refused(SequenceMismatch)),
            (
                "overlaps below a gap",
                two,
                candidate(5, "e", "d", (20, 30)),
                Refused(SequenceMismatch),
            ),
            ("overlaps above", hole, candidate(4, "d", "c", (31, 41)), Refused(SequenceMismatch)),
            (
                "stops short of above",
                hole,
                candidate(4, "d", "c", (31, 39)),
                Refused(SequenceMismatch),
            ),
            (
                "old epoch, unknown",
                later(nothing),
                candidate(1, "a", "0", (1, 10)),
                Refused(Rollback),
            ),
            (
                "old epoch, ahead",
                later(two),
                candidate(4, "d", "c", (31, 40)),
                Gap { first: 3, last: 3 },
            ),
            ("old epoch, joins", later(two), candidate(3, "c", "b", (21, 30)), Fresh),
            ("old epoch, fills", later(hole), candidate(4, "d", "c", (31, 40)), FillsGap),
            (
                "pruned",
                Known { pruned_through: 9, ..nothing },
                candidate(9, "i", "h", (81, 90)),
                Refused(Rollback),
            ),
            (
                "after pruned",
                Known { pruned_through: 9, ..nothing },
                candidate(10, "j", "i", (91, 95)),
                Fresh,
            ),
            (
                "as far as may be",
                two,
                candidate(102, "x", "y", (41, 50)),
                Gap { first: 3, last: 101 },
            ),
            ("too far", two, candidate(103, "x", "y", (41, 50)), Refused(FastForward)),
            ("far too far", two, candidate(max, "x", "y", (41, 50)), Refused(FastForward)),
            ("endless", two, candidate(3, "c", "b", (21, max)), Refused(FastForward)),
        ];
        for (name, known, bundle, expected) in cases {
            assert_eq!(admit(&bundle, &known, JUMP), expected, "{name}");
        }
    }
}
