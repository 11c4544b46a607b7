//! Which shards of a block a pass sends.
//!
//! Each pass alone restores a block at the loss it was sized for, so that a late receiver needs no
//! earlier one; and each sends recovery shards that were not sent before, as far as there are any,
//! so that what was lost of one pass is made good by anything of the next.

/// How many recovery shards a pass sends, and how long an outage it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redundancy {
    /// Recovery shards for 100 source shards, in large blocks.
    pub percent: u16,
}

impl Redundancy {
    /// The recovery shards of a pass for a block of so many source shards.
    ///
    /// A small block needs more, because chance spares it less: 2.5 standard deviations more or less.
    pub fn recovery(self, source: u16, recovery_shards: u16) -> u16 {
        let source_wide = u32::from(source);
        let share = (source_wide * u32::from(self.percent)).div_ceil(100);
        let small = (4 + 2 * source_wide.isqrt() + u32::from(source < 64)).min(source_wide);
        let few = if source < 5 { source_wide + 1 } else { 0 };
        share.max(small).max(few).min(u32::from(recovery_shards)) as u16
    }

    /// The share of a pass that may be lost in one stretch while [`SPARE_LOSS_PERCENT`] of the rest
    /// are lost by chance, as (shards, of shards).
    pub fn outage_share(self, source: u16, recovery_shards: u16) -> (u16, u16) {
        let recovery = self.recovery(source, recovery_shards);
        let sent = source + recovery;
        // Three standard deviations above the mean, in thousandths of a shard.
        let (shards, percent) = (u64::from(sent), u64::from(SPARE_LOSS_PERCENT));
        let deviation = (shards * percent * (100 - percent) * 100).isqrt();
        let by_chance = (shards * percent * 10 + 3 * deviation).div_ceil(1000) as u16;
        (recovery.saturating_sub(by_chance).max(1), sent)
    }
}

/// The random loss that is made good beside an outage.
const SPARE_LOSS_PERCENT: u8 = 5;

/// The shards of one block in one pass, source shards first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassPlan {
    source: u16,
    source_from: u16,
    source_count: u16,
    recovery_shards: u16,
    recovery_from: u16,
    recovery_count: u16,
}

impl PassPlan {
    /// The plan of pass `pass` (from 0) for a block of `source` shards.
    pub fn new(source: u16, recovery_shards: u16, redundancy: Redundancy, pass: u32) -> Self {
        let first = redundancy.recovery(source, recovery_shards);
        if pass == 0 {
            return Self {
                source,
                source_from: 0,
                source_count: source,
                recovery_shards,
                recovery_from: 0,
                recovery_count: first,
            };
        }
        // What the first pass left, spread over two more; then round again.
        let fresh = ((recovery_shards - first) / 2).clamp(first, source + first);
        let repeated = source + first - fresh;
        let again = u64::from(pass - 1);
        let around = |from: u64, step: u16, of: u16| {
            ((from + again * u64::from(step)) % u64::from(of.max(1))) as u16
        };
        Self {
            source,
            source_from: around(0, repeated, source),
            source_count: repeated,
            recovery_shards,
            recovery_from: around(u64::from(first), fresh, recovery_shards),
            recovery_count: fresh.min(recovery_shards),
        }
    }

    /// How many shards it has.
    pub fn count(&self) -> u16 {
        self.source_count + self.recovery_count
    }

    /// How many of them are source shards; they come first.
    pub fn source_count(&self) -> u16 {
        self.source_count
    }

    /// How many of them are recovery shards.
    pub fn recovery_count(&self) -> u16 {
        self.recovery_count
    }

    /// The number of the recovery shard at a place among the recovery shards, from 0.
    pub fn recovery_at(&self, at: u16) -> u16 {
        ((u32::from(self.recovery_from) + u32::from(at)) % u32::from(self.recovery_shards)) as u16
    }

    /// The shard at a place of the plan: below the block's source shards one of these, else a
    /// recovery shard.
    pub fn shard_at(&self, at: u16) -> u32 {
        if at < self.source_count {
            (u32::from(self.source_from) + u32::from(at)) % u32::from(self.source)
        } else {
            u32::from(self.source) + u32::from(self.recovery_at(at - self.source_count))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DEFAULT: Redundancy = Redundancy { percent: 15 };

    #[test]
    fn every_pass_alone_is_enough_and_the_first_ones_are_fresh() {
        for source in 1..=1024_u16 {
            let recovery = (source.next_power_of_two() / 2).max(256);
            let mut recovered = BTreeSet::new();
            for pass in 0..6 {
                let plan = PassPlan::new(source, recovery, DEFAULT, pass);
                let shards: BTreeSet<u32> = (0..plan.count()).map(|at| plan.shard_at(at)).collect();
                assert_eq!(shards.len(), usize::from(plan.count()), "{source} {pass}");
                assert_eq!(plan.count(), source + DEFAULT.recovery(source, recovery));
                let fresh = shards.iter().filter(|shard| **shard >= u32::from(source));
                let new = fresh.filter(|shard| recovered.insert(**shard)).count();
                assert!(pass > 2 || new == usize::from(plan.recovery_count()), "{source} {pass}");
            }
        }
    }

    #[test]
    fn a_small_bundle_costs_at_most_twice_its_size() {
        assert_eq!(DEFAULT.recovery(15, 256), 11);
        assert_eq!(DEFAULT.recovery(1, 256), 2);
        assert_eq!(DEFAULT.recovery(1024, 512), 154);
        let (spare, sent) = DEFAULT.outage_share(1024, 512);
        assert!(spare > 60 && sent == 1178, "{spare} of {sent}");
    }
}
