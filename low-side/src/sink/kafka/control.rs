//! The control record: what one transaction delivered, written in that very transaction.
//!
//! The transaction and the ledger can't be committed as one. A process that dies between the two leaves
//! a batch that the cluster has and the ledger does not know of. The control record, which is there
//! exactly when the batch is, names the batch's number and every record in it; the ledger notes the
//! number together with the deliveries. Whoever starts next compares the two:
//!
//! | the control record's number is | the records that it names as `taken` |
//! |---|---|
//! | higher than the ledger's | are delivered, and the ledger does not know: they are not sent again |
//! | the ledger's | are noted: who asks for one of them once more gets it |
//! | lower | are noted: the cluster lost what came later |
//!
//! The next batch need not hold all of them: urgent records overtake, and limits may have been changed.
//! What is left is named again as `held` until the ledger knows it.
//!
//! ```json
//! {"format":1,"topic":"penstock-{stream}","batch":58,
//!  "taken":[{"origin":"plant-7","epoch":3,"lane":"flash","runs":[1001,3,1,2]}],"held":[]}
//! ```
//!
//! `runs` are lengths in turns: the first number, how many follow it without a hole (itself included), how
//! many are left out, how many follow, and so on. Above: 1001 to 1003, 1005 and 1006.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::record::{Epoch, Lane, OriginId};

use crate::ledger::ChainName;
use crate::ranges::RangeSet;

/// Records, by chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(BTreeMap<ChainName, RangeSet>);

impl Marks {
    pub(super) fn add(&mut self, chain: &ChainName, sequence: u64) {
        if let Some(ranges) = self.0.get_mut(chain) {
            ranges.insert(sequence, sequence);
        } else {
            let mut ranges = RangeSet::default();
            ranges.insert(sequence, sequence);
            self.0.insert(chain.clone(), ranges);
        }
    }

    pub(super) fn contain(&self, chain: &ChainName, sequence: u64) -> bool {
        self.0.get(chain).is_some_and(|ranges| ranges.next_outside(sequence) != sequence)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in one or the other.
    pub(super) fn and(mut self, other: &Marks) -> Marks {
        for (chain, ranges) in &other.0 {
            let both = self.0.entry(chain.clone()).or_default();
            for (first, last) in ranges.iter() {
                both.insert(first, last);
            }
        }
        self
    }

    /// What is not in the other.
    pub(super) fn without(&self, other: &Marks) -> Marks {
        let mut left = BTreeMap::new();
        for (chain, ranges) in &self.0 {
            let all: Vec<(u64, u64)> = ranges.iter().collect();
            let kept = other.0.get(chain).map_or(all.clone(), |other| other.outside(&all));
            if !kept.is_empty() {
                let mut ranges = RangeSet::default();
                for (first, last) in kept {
                    ranges.insert(first, last);
                }
                left.insert(chain.clone(), ranges);
            }
        }
        Marks(left)
    }
}

/// What one transaction delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    /// Where it went: elsewhere, nothing of it counts.
    pub(super) topic: String,
    /// Its number: higher than that of any batch before.
    pub(super) batch: u64,
    /// Every record that the batch accounts for.
    pub(super) taken: Marks,
    /// Records of an earlier transaction that the ledger does not know of, and that the batch did not
    /// come to.
    pub(super) held: Marks,
}

/// A control record that is not ours, or not of this version.
#[derive(Debug, thiserror::Error)]
#[error("it holds no control record of this version: {0}")]
pub(super) struct NoControl(String);

#[derive(Deserialize, Serialize)]
struct Raw {
    format: u64,
    topic: String,
    batch: u64,
    taken: Vec<RawMarks>,
    held: Vec<RawMarks>,
}

#[derive(Deserialize, Serialize)]
struct RawMarks {
    origin: String,
    epoch: u64,
    lane: Lane,
    runs: Vec<u64>,
}

impl Control {
    pub(super) fn encode(&self) -> Vec<u8> {
        let raw = Raw {
            format: FORMAT,
            topic: self.topic.clone(),
            batch: self.batch,
            taken: raw_marks(&self.taken),
            held: raw_marks(&self.held),
        };
        // Plain values into memory: there is nothing that could fail.
        serde_json::to_vec(&raw).unwrap_or_default()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NoControl> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|err| NoControl(err.to_string()))?;
        if raw.format != FORMAT {
            return Err(NoControl(format!("its format is {}", raw.format)));
        }
        let marks = |raw: &[RawMarks]| {
            let parsed: Option<_> = raw.iter().map(parsed_marks).collect();
            parsed.map(Marks).ok_or_else(|| NoControl("its numbers can't be".to_owned()))
        };
        let (taken, held) = (marks(&raw.taken)?, marks(&raw.held)?);
        Ok(Self { topic: raw.topic, batch: raw.batch, taken, held })
    }

    /// The records that are delivered without the ledger's knowing, where the last batch that it noted
    /// is `noted`.
    pub(super) fn in_doubt(&self, noted: u64) -> Marks {
        match self.batch.cmp(&noted) {
            std::cmp::Ordering::Greater => self.taken.clone().and(&self.held),
            std::cmp::Ordering::Equal => self.held.clone(),
            std::cmp::Ordering::Less => Marks::default(),
        }
    }
}

fn raw_marks(marks: &Marks) -> Vec<RawMarks> {
    let runs_of = |ranges: &RangeSet| {
        let (mut runs, mut end) = (Vec::new(), 0);
        for (first, last) in ranges.iter() {
            // The first number itself, and then what was left out.
            runs.push(if runs.is_empty() { first } else { first - end - 1 });
            runs.push(last - first + 1);
            end = last;
        }
        runs
    };
    let each = marks.0.iter().map(|(chain, ranges)| RawMarks {
        origin: chain.origin.to_string(),
        epoch: chain.epoch.0,
        lane: chain.lane,
        runs: runs_of(ranges),
    });
    each.collect()
}

fn parsed_marks(raw: &RawMarks) -> Option<(ChainName, RangeSet)> {
    let origin: OriginId = raw.origin.parse().ok()?;
    let chain = ChainName { origin, epoch: Epoch(raw.epoch), lane: raw.lane };
    let mut ranges = RangeSet::default();
    let mut next = 0_u64;
    for run in raw.runs.chunks(2) {
        let [out, count] = run else { return None };
        let first = next.checked_add(*out)?;
        next = first.checked_add(*count)?;
        // The number behind the last one has to be a number too.
        ranges.insert(first, next.checked_sub(1).filter(|last| *last >= first)?);
    }
    Some((chain, ranges))
}

const FORMAT: u64 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(lane: Lane) -> ChainName {
        ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(3), lane }
    }

    fn marks(lane: Lane, numbers: impl IntoIterator<Item = u64>) -> Marks {
        let mut marks = Marks::default();
        numbers.into_iter().for_each(|number| marks.add(&chain(lane), number));
        marks
    }

    fn control(batch: u64, taken: Marks, held: Marks) -> Control {
        Control { topic: "penstock-{stream}".to_owned(), batch, taken, held }
    }

    #[test]
    fn the_record_of_the_page_is_what_is_written() {
        let taken = marks(Lane::Flash, [1001, 1002, 1003, 1005, 1006]);
        let text = String::from_utf8(control(58, taken, Marks::default()).encode()).unwrap();
        let shown = "{\"format\":1,\"topic\":\"penstock-{stream}\",\"batch\":58,\"taken\":[{\"origin\":\"plant-7\",\"epoch\":3,\"lane\":\"flash\",\"runs\":[1001,3,1,2]}],\"held\":[]}";
        assert_eq!(text, shown);
        let page = include_str!("../../../../packaging/doc/sinks/kafka.md");
        assert!(page.contains(shown));
    }

    #[test]
    fn only_what_the_ledger_does_not_know_is_in_doubt() {
        let (taken, held) = (marks(Lane::Flash, 1..=3), marks(Lane::Routine, 7..=9));
        let control = control(58, taken.clone(), held.clone());
        assert_eq!(control.in_doubt(57), taken.and(&held));
        assert_eq!(control.in_doubt(58), held);
        assert_eq!(control.in_doubt(59), Marks::default());
    }

    #[test]
    fn other_records_are_refused() {
        for bad in [
            "",
            "{}",
            "{\"format\":2,\"topic\":\"t\",\"batch\":1,\"taken\":[],\"held\":[]}",
            "{\"format\":1,\"topic\":\"t\",\"batch\":1,\"taken\":[{\"origin\":\"a\",\"epoch\":1,\"lane\":\"flash\",\"runs\":[1]}],\"held\":[]}",
            "{\"format\":1,\"topic\":\"t\",\"batch\":1,\"taken\":[{\"origin\":\"a\",\"epoch\":1,\"lane\":\"flash\",\"runs\":[1,0]}],\"held\":[]}",
            "{\"format\":1,\"topic\":\"t\",\"batch\":1,\"taken\":[{\"origin\":\"a\",\"epoch\":1,\"lane\":\"flash\",\"runs\":[9,18446744073709551615]}],\"held\":[]}",
        ] {
            assert!(Control::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_worst_batch_stays_short() {
        // Every second record is left out by a filter.
        let count = super::super::config::BATCH_RECORDS_MAX;
        let first = 1_000_000_000;
        let taken = marks(Lane::Routine, (first..first + count).step_by(2));
        let length = control(1 << 40, taken, Marks::default()).encode().len();
        assert!(length < 128 << 10, "{length}");
    }

    proptest! {
        #[test]
        fn marks_are_sets_and_survive_the_way(
            a in proptest::collection::btree_set(1_u64..60, 0..30),
            b in proptest::collection::btree_set(1_u64..60, 0..30),
        ) {
            let (one, other) =
                (marks(Lane::Flash, a.iter().copied()), marks(Lane::Flash, b.iter().copied()));
            let left = marks(Lane::Flash, a.difference(&b).copied());
            prop_assert_eq!(one.without(&other), left);
            prop_assert_eq!(one.clone().and(&other), marks(Lane::Flash, a.union(&b).copied()));
            for number in 1..60 {
                prop_assert_eq!(one.contain(&chain(Lane::Flash), number), a.contains(&number));
                prop_assert!(!one.contain(&chain(Lane::Routine), number));
            }
            let sent = control(7, one, other);
            prop_assert_eq!(Control::parse(&sent.encode()).unwrap(), sent);
        }
    }
}
