//! What the receiver has answered for of a batch that is under way, kept across a failure, so that only
//! what it did not answer for is sent again. Pure.
//!
//! The ledger knows nothing of a batch until all of it is confirmed: after a break the replayer hands
//! over the whole batch once more. What stands here makes the sink pass over the part that arrived.
//!
//! Invariants: what is passed over was answered for by this receiver less than [`KEPT_FOR`] ago, and is
//! of a chain whose batch begins at the very record at which the broken one began. So a record that
//! somebody asked for once more is not passed over. Memory: one entry for each chain of a batch, one for
//! each run of records that were answered for, and one for each record that was refused for good. Refusals
//! that are in doubt ([`doubt`](super::doubt)) are not noted here.

use std::time::{Duration, Instant};

use super::Rejected;
use crate::ledger::ChainName;
use crate::ranges::RangeSet;

/// The state of one batch.
#[derive(Debug, Default)]
pub(super) struct Answered {
    chains: Vec<Chain>,
    /// Of the batch that broke off.
    kept: Vec<Chain>,
    broke: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Chain {
    name: ChainName,
    /// The first record that was handed over.
    first: u64,
    /// What is answered for.
    answered: RangeSet,
    rejected: Vec<(u64, String)>,
}

/// A chain of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(usize);

impl Answered {
    /// Where a record's answer is to be noted; `None` where it is answered for already. The records of a
    /// chain come in the order of their numbers.
    pub(super) fn slot(&mut self, name: &ChainName, sequence: u64, now: Instant) -> Option<Slot> {
        let found = self.chains.iter().rposition(|chain| chain.name == *name);
        let at = found.unwrap_or_else(|| {
            let kept = self.kept.iter().position(|chain| chain.name == *name);
            let kept = kept.map(|at| self.kept.swap_remove(at));
            let recent = self.broke.is_some_and(|broke| now - broke < KEPT_FOR);
            let fresh = || Chain {
                name: name.clone(),
                first: sequence,
                answered: RangeSet::default(),
                rejected: Vec::new(),
            };
            self.chains
                .push(kept.filter(|kept| recent && kept.first == sequence).unwrap_or_else(fresh));
            self.chains.len() - 1
        });
        (!self.chains[at].answered.contains(sequence)).then_some(Slot(at))
    }

    /// Notes that a record was taken.
    pub(super) fn taken(&mut self, slot: Slot, sequence: u64) {
        self.chains[slot.0].answered.insert(sequence, sequence);
    }

    /// Notes that a record is refused for good: it is answered for, too.
    pub(super) fn refused(&mut self, slot: Slot, sequence: u64, reason: String) {
        let chain = &mut self.chains[slot.0];
        chain.answered.insert(sequence, sequence);
        chain.rejected.push((sequence, reason));
    }

    /// All that was refused for good.
    pub(super) fn rejected(&self) -> Vec<Rejected> {
        let of = |chain: &Chain| {
            let name = chain.name.clone();
            let one = move |(sequence, reason): &(u64, String)| Rejected {
                chain: name.clone(),
                sequence: *sequence,
                reason: reason.clone(),
            };
            chain.rejected.iter().map(one).collect::<Vec<_>>()
        };
        self.chains.iter().flat_map(of).collect()
    }

    /// The ledger has it all.
    pub(super) fn committed(&mut self) {
        self.chains.clear();
    }

    /// The batch broke off: what is answered for is kept for the next try.
    pub(super) fn broke(&mut self, now: Instant) {
        for chain in self.chains.drain(..).filter(|chain| !chain.answered.is_empty()) {
            self.kept.retain(|kept| kept.name != chain.name);
            self.kept.push(chain);
            self.broke = Some(now);
        }
    }
}

/// Longer than the longest pause between two tries; short enough that nobody has rebuilt a receiver
/// from a backup in the meantime, which would need again what the old one had taken.
const KEPT_FOR: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use shared::record::{Epoch, Lane};

    use super::*;

    fn chain(epoch: u64) -> ChainName {
        ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(epoch), lane: Lane::Flash }
    }

    /// Hands over records and notes answers to those up to `answered`; gives those that were sent.
    fn run(
        state: &mut Answered,
        name: &ChainName,
        records: impl Iterator<Item = u64>,
        answered: u64,
    ) -> Vec<u64> {
        let mut sent = Vec::new();
        for sequence in records {
            if let Some(slot) = state.slot(name, sequence, Instant::now()) {
                sent.push(sequence);
                if sequence <= answered {
                    match sequence % 10 {
                        0 => state.refused(slot, sequence, "no".to_owned()),
                        _ => state.taken(slot, sequence),
                    }
                }
            }
        }
        sent
    }

    #[test]
    fn what_was_answered_for_is_not_sent_again() {
        let (mut state, name) = (Answered::default(), chain(1));
        assert_eq!(run(&mut state, &name, 5..30, 20).len(), 25);
        state.broke(Instant::now());
        // A try that does not get to send anything changes nothing.
        state.broke(Instant::now());
        let sent = run(&mut state, &name, 5..30, 25);
        assert_eq!(sent, (21..30).collect::<Vec<_>>());
        state.broke(Instant::now());
        // Another chain goes first, and is committed alone.
        assert_eq!(run(&mut state, &chain(2), 1..3, 3), [1, 2]);
        assert!(state.rejected().is_empty());
        state.committed();
        assert_eq!(run(&mut state, &name, 5..31, 30), (26..31).collect::<Vec<_>>());
        let rejected: Vec<u64> = state.rejected().iter().map(|one| one.sequence).collect();
        assert_eq!(rejected, [10, 20, 30]);
        state.committed();
        assert!(state.rejected().is_empty());
        assert_eq!(run(&mut state, &name, 31..33, 0), [31, 32]);
    }

    #[test]
    fn what_is_answered_for_out_of_order_is_passed_over() {
        let (mut state, name) = (Answered::default(), chain(1));
        let now = Instant::now();
        let slots: Vec<Slot> = (1..10).filter_map(|at| state.slot(&name, at, now)).collect();
        for taken in [7, 2, 4] {
            state.taken(slots[0], taken);
        }
        state.refused(slots[0], 5, "no".to_owned());
        state.broke(now);
        assert_eq!(run(&mut state, &name, 1..10, 0), [1, 3, 6, 8, 9]);
        let rejected: Vec<u64> = state.rejected().iter().map(|one| one.sequence).collect();
        assert_eq!(rejected, [5]);
    }

    #[test]
    fn what_somebody_asked_for_once_more_is_sent() {
        let (mut state, name) = (Answered::default(), chain(1));
        run(&mut state, &name, 5..30, 20);
        state.broke(Instant::now());
        assert_eq!(run(&mut state, &name, 1..30, 0).len(), 29);
        assert!(state.rejected().is_empty());
    }

    #[test]
    fn what_was_answered_for_long_ago_is_sent_again() {
        let (mut state, name) = (Answered::default(), chain(1));
        run(&mut state, &name, 5..30, 20);
        let now = Instant::now();
        state.broke(now);
        assert!(state.slot(&name, 5, now + KEPT_FOR).is_some());
    }
}
