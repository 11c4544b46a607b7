//! Rendered records that go in one request, which record each of them is, and which of a batch were
//! refused.

use std::ops::Range;

use super::{Confirmed, Item, Rejected};
use crate::ledger::ChainName;

/// Rendered records, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Few: a batch seldom holds records of more than two chains.
    chains: Vec<ChainName>,
    /// Of the whole batch, which may be many requests.
    rejected: Vec<Rejected>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    chain: usize,
    sequence: u64,
    end: usize,
}

impl Bulk {
    /// Adds a record, as `render` appends it; gives the bytes it became.
    pub(super) fn push(&mut self, item: Item<'_>, render: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let before = self.bytes.len();
        render(&mut self.bytes);
        let known = self.chains.iter().rposition(|chain| chain == item.chain);
        let chain = known.unwrap_or_else(|| {
            self.chains.push(item.chain.clone());
            self.chains.len() - 1
        });
        let sequence = item.record.sequence.0;
        self.entries.push(Entry { chain, sequence, end: self.bytes.len() });
        (self.bytes.len() - before) as u64
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes they are.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of some of the records.
    pub(super) fn slice(&self, records: Range<usize>) -> &[u8] {
        let start = records.start.checked_sub(1).map_or(0, |at| self.entries[at].end);
        let end = records.end.checked_sub(1).map_or(0, |at| self.entries[at].end);
        &self.bytes[start.min(end)..end]
    }

    /// Notes that a record is refused for good.
    pub(super) fn reject(&mut self, at: usize, reason: impl Into<String>) {
        let Entry { chain, sequence, .. } = self.entries[at];
        let chain = self.chains[chain].clone();
        self.rejected.push(Rejected { chain, sequence, reason: reason.into() });
    }

    /// Forgets the first records, which were dealt with.
    pub(super) fn drop_first(&mut self, records: usize) {
        let cut = records.checked_sub(1).map_or(0, |at| self.entries[at].end);
        self.bytes.drain(..cut);
        self.entries.drain(..records);
        for entry in &mut self.entries {
            entry.end -= cut;
        }
    }

    /// Forgets the last record.
    pub(super) fn drop_last(&mut self) {
        self.entries.pop();
        self.bytes.truncate(self.entries.last().map_or(0, |entry| entry.end));
    }

    /// The batch is dealt with.
    pub(super) fn confirmed(&mut self) -> Confirmed {
        self.clear();
        Confirmed { position: None, rejected: std::mem::take(&mut self.rejected) }
    }

    /// Forgets the batch.
    pub(super) fn forget(&mut self) {
        self.clear();
        self.rejected.clear();
    }

    /// Forgets the records, which were dealt with; the memory is used again.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.chains.clear();
    }
}
