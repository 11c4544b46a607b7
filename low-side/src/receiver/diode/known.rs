//! What the sender says it has: the newest catalogue of a link, and what it said of bundles.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::clock::Nanos;
use shared::diode::{Catalogue, CatalogueEntry, CatalogueRange};
use shared::record::{Lane, OriginId};

/// The catalogue of one link.
#[derive(Debug)]
pub(super) struct Known {
    started: Instant,
    pub(super) origin: Option<OriginId>,
    pub(super) number: u64,
    pub(super) time: Nanos,
    seen: Option<Instant>,
    interval: Duration,
    pub(super) ranges: BTreeMap<(Lane, u64), CatalogueRange>,
    pub(super) entries: BTreeMap<(Lane, u64, u64), CatalogueEntry>,
    pub(super) pages: u64,
    /// Pages that were older than one that came before: late, or replayed.
    pub(super) old: u64,
    /// Pages that were not believed.
    pub(super) refused: u64,
    pub(super) refused_why: String,
}

/// As many bundles are remembered by their entries; ranges tell of the others.
const ENTRIES_MAX: usize = 16_384;
/// As many lanes of epochs are remembered.
const RANGES_MAX: usize = 64;
/// A catalogue is missed when so many intervals have passed, and this much time.
const MISSED: u32 = 5;
const MISSED_MIN: Duration = Duration::from_secs(10);

impl Known {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            origin: None,
            number: 0,
            time: Nanos(0),
            seen: None,
            interval: Duration::from_secs(2),
            ranges: BTreeMap::new(),
            entries: BTreeMap::new(),
            pages: 0,
            old: 0,
            refused: 0,
            refused_why: String::new(),
        }
    }

    /// The same, after a life in which pages of an origin came up to a number: older ones are replayed.
    pub(super) fn after(last: Option<(OriginId, u64)>, now: Instant) -> Self {
        let mut known = Self::new(now);
        if let Some((origin, number)) = last {
            (known.origin, known.number) = (Some(origin), number);
        }
        known
    }

    /// Takes a page that was found authentic.
    pub(super) fn take(&mut self, page: Catalogue, now: Instant) {
        let same = self.origin.as_ref().is_none_or(|origin| *origin == page.origin);
        if same && page.number <= self.number {
            self.old += 1;
            return;
        }
        if !same {
            // Another high side has taken over the link's key.
            self.ranges.clear();
            self.entries.clear();
        }
        self.pages += 1;
        self.origin = Some(page.origin);
        self.number = page.number;
        self.time = page.time;
        self.seen = Some(now);
        self.interval = Duration::from_millis(u64::from(page.interval_ms));
        for range in page.ranges {
            self.ranges.insert((range.lane, range.epoch), range);
        }
        while self.ranges.len() > RANGES_MAX {
            // The oldest epoch of either lane.
            let Some(oldest) = self.ranges.keys().min_by_key(|(_, epoch)| *epoch).copied() else {
                break;
            };
            self.ranges.remove(&oldest);
        }
        for entry in page.entries {
            self.entries.insert((entry.lane, entry.epoch, entry.number), entry);
        }
        while self.entries.len() > ENTRIES_MAX {
            let Some(oldest) =
                self.entries.keys().min_by_key(|(_, epoch, at)| (*epoch, *at)).copied()
            else {
                break;
            };
            self.entries.remove(&oldest);
        }
    }

    pub(super) fn refuse(&mut self, why: String) {
        self.refused += 1;
        self.refused_why = why;
    }

    /// How old the newest page is, by our own clock.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.seen.map(|seen| now.duration_since(seen))
    }

    /// How long the catalogue has been missing for, where that is too long.
    pub(super) fn missing_for(&self, now: Instant) -> Option<Duration> {
        let since = self.seen.unwrap_or(self.started);
        let limit = (self.interval * MISSED).max(MISSED_MIN);
        Some(now.duration_since(since)).filter(|age| *age > limit)
    }
}
