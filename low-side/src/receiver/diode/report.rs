//! What is known of each bundle that the sender has: complete, partial, never seen, or expired.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::diode::CatalogueRange;
use shared::record::Lane;

use super::assembler::Partial;
use super::completed::Series;
use super::known::Known;
use crate::ranges::RangeSet;

/// The file with the state of a link, in the folder of its receiver.
pub(crate) const STATUS_FILE: &str = "status.json";

/// The state of one link.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LinkReport {
    /// The receiver's name.
    pub(crate) receiver: String,
    /// The link's id, 16 hex digits.
    pub(crate) link: String,
    /// When this was written, RFC 3339.
    pub(crate) time: String,
    /// Who sends, as the signed catalogue says; none was seen yet otherwise.
    pub(crate) origin: Option<String>,
    /// The newest catalogue.
    pub(crate) catalogue: CatalogueReport,
    /// What came, and what did not.
    pub(crate) counters: BTreeMap<String, u64>,
    /// What is wrong at present; empty where nothing is.
    pub(crate) trouble: String,
    /// Each lane of each epoch.
    pub(crate) lanes: Vec<LaneReport>,
}

/// The newest catalogue of a link.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CatalogueReport {
    /// Its number.
    pub(crate) number: u64,
    /// When it was made, by the sender's clock, RFC 3339.
    pub(crate) made: Option<String>,
    /// How long ago it came.
    pub(crate) age_ms: Option<u64>,
    /// Pages that were believed.
    pub(crate) pages: u64,
    /// Pages that were older than one that came before.
    pub(crate) old: u64,
    /// Pages that were not believed, and why the last one was not.
    pub(crate) refused: u64,
    /// Why the last one was not.
    pub(crate) refused_why: String,
}

/// The bundles of one lane of one epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LaneReport {
    /// The lane.
    pub(crate) lane: String,
    /// The epoch.
    pub(crate) epoch: u64,
    /// The lowest number that the sender still has.
    pub(crate) first: u64,
    /// The highest number that it sends.
    pub(crate) last: u64,
    /// The lowest number that it will still send without being asked.
    pub(crate) oldest_sending: u64,
    /// Numbers that came whole over this link.
    pub(crate) complete: Vec<(u64, u64)>,
    /// Numbers of which something came and which are still being sent.
    pub(crate) partial: Vec<PartialReport>,
    /// Numbers of which nothing came yet and which are still being sent.
    pub(crate) never_seen: Vec<(u64, u64)>,
    /// Numbers that are not whole and will not be sent unless somebody asks: for a resend request.
    pub(crate) expired: Vec<(u64, u64)>,
    /// How many numbers each of these has.
    pub(crate) counts: LaneCounts,
}

/// How many numbers of a lane are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LaneCounts {
    /// Came whole.
    pub(crate) complete: u64,
    /// Something came.
    pub(crate) partial: u64,
    /// Nothing came.
    pub(crate) never_seen: u64,
    /// Not whole, and not sent any more.
    pub(crate) expired: u64,
}

/// A bundle of which something came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PartialReport {
    /// Its number.
    pub(crate) number: u64,
    /// Its blocks that are whole.
    pub(crate) blocks_whole: u32,
    /// Its blocks.
    pub(crate) blocks: u32,
    /// Shards that are missing at least.
    pub(crate) shards_missing: u64,
    /// Its length.
    pub(crate) bytes: u64,
    /// Whether it is not sent any more.
    pub(crate) expired: bool,
}

/// Ranges listed of each kind; the counts say how many there are in all.
const LISTED_MAX: usize = 1000;

/// The lanes of a link, from what its sender has, what came whole, and what is under way. `links` are
/// those that carry the same bundles.
pub(super) fn lanes(
    links: &[u64],
    known: &Known,
    whole: &BTreeMap<Series, RangeSet>,
    partials: &[Partial],
) -> Vec<LaneReport> {
    let mut ranges: BTreeMap<(Lane, u64), CatalogueRange> = known.ranges.clone();
    for partial in partials.iter().filter(|partial| links.contains(&partial.info.link)) {
        let info = &partial.info;
        // What no catalogue told of yet is told of by itself.
        let range = ranges.entry((info.lane, info.epoch)).or_insert(CatalogueRange {
            lane: info.lane,
            epoch: info.epoch,
            first: info.number,
            last: info.number,
            oldest_sending: info.number,
        });
        if !known.ranges.contains_key(&(info.lane, info.epoch)) {
            range.first = range.first.min(info.number);
            range.last = range.last.max(info.number);
            // Nothing is said of the numbers between.
            range.oldest_sending = range.last + 1;
        }
    }
    let report = |range: &CatalogueRange| {
        let mut complete = RangeSet::default();
        for (series, numbers) in whole {
            if links.contains(&series.link)
                && (series.lane, series.epoch) == (range.lane, range.epoch)
            {
                numbers.iter().for_each(|(first, last)| complete.insert(first, last));
            }
        }
        let mut under_way: BTreeMap<u64, PartialReport> = BTreeMap::new();
        for partial in partials {
            let info = &partial.info;
            let here = links.contains(&info.link)
                && (info.lane, info.epoch) == (range.lane, range.epoch)
                && complete.next_outside(info.number) == info.number;
            if here {
                under_way.insert(info.number, told(partial, range));
            }
        }
        let mut told = lane(range, &complete, &under_way);
        if !known.ranges.contains_key(&(range.lane, range.epoch)) {
            told.expired.clear();
            told.counts.expired = 0;
            told.partial.iter_mut().for_each(|partial| partial.expired = false);
            told.counts.partial = told.partial.len() as u64;
        }
        told
    };
    ranges.values().map(report).collect()
}

fn told(partial: &Partial, range: &CatalogueRange) -> PartialReport {
    PartialReport {
        number: partial.info.number,
        blocks_whole: partial.blocks_whole,
        blocks: partial.blocks,
        shards_missing: partial.shards_missing,
        bytes: partial.info.key.geometry.length(),
        expired: partial.info.number < range.oldest_sending,
    }
}

fn lane(
    range: &CatalogueRange,
    complete: &RangeSet,
    under_way: &BTreeMap<u64, PartialReport>,
) -> LaneReport {
    let mut there = complete.clone();
    for number in under_way.keys() {
        there.insert(*number, *number);
    }
    let never_seen = there.outside(&[(range.oldest_sending.max(1), range.last)]);
    let lost_end = range.last.min(range.oldest_sending.saturating_sub(1));
    let expired = complete.outside(&[(1, lost_end)]);
    let inside: Vec<(u64, u64)> = complete
        .iter()
        .filter(|(first, _)| *first <= range.last)
        .map(|(first, last)| (first, last.min(range.last)))
        .collect();
    let partial: Vec<PartialReport> = under_way.values().cloned().collect();
    let counts = LaneCounts {
        complete: sum(&inside),
        partial: partial.iter().filter(|partial| !partial.expired).count() as u64,
        never_seen: sum(&never_seen),
        expired: sum(&expired),
    };
    let cut = |mut ranges: Vec<(u64, u64)>| {
        ranges.truncate(LISTED_MAX);
        ranges
    };
    LaneReport {
        lane: range.lane.to_string(),
        epoch: range.epoch,
        first: range.first,
        last: range.last,
        oldest_sending: range.oldest_sending,
        complete: cut(inside),
        partial: partial.into_iter().take(LISTED_MAX).collect(),
        never_seen: cut(never_seen),
        expired: cut(expired),
        counts,
    }
}

fn sum(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(first, last)| last - first + 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_one_state() {
        let range =
            CatalogueRange { lane: Lane::Flash, epoch: 1, first: 3, last: 20, oldest_sending: 10 };
        let mut complete = RangeSet::default();
        complete.insert(2, 5);
        complete.insert(12, 13);
        let partial = |number: u64| PartialReport {
            number,
            blocks_whole: 0,
            blocks: 1,
            shards_missing: 1,
            bytes: 1,
            expired: number < 10,
        };
        let under_way = [(7, partial(7)), (15, partial(15))].into();
        let told = lane(&range, &complete, &under_way);
        assert_eq!(told.complete, [(2, 5), (12, 13)]);
        assert_eq!(told.expired, [(1, 1), (6, 9)]);
        assert_eq!(told.never_seen, [(10, 11), (14, 14), (16, 20)]);
        assert_eq!(told.counts, LaneCounts { complete: 6, partial: 1, never_seen: 8, expired: 5 });
        let counts = told.counts;
        assert_eq!(counts.complete + counts.partial + counts.never_seen + counts.expired, 20);
    }
}
