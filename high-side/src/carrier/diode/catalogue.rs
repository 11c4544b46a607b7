//! The catalogue's pages: the ranges of all lanes, the newest bundles, and the older ones in turn.

use shared::clock::Nanos;
use shared::diode::{Catalogue, CatalogueEntry, CatalogueRange};
use shared::keys::SigningKey;
use shared::record::{Lane, OriginId};

use crate::buffer::{BufferError, Store};

/// Makes pages.
#[derive(Debug)]
pub(super) struct Pages {
    carrier: String,
    lanes: Vec<Lane>,
    passes: u64,
    interval_ms: u32,
    payload_bytes: usize,
    number: u64,
    /// Numbers up to here are this run's: they are noted before they are used, so that a clock that goes
    /// back does not make old pages of new ones.
    reserved: u64,
    /// In each lane, the number below which older bundles are listed next.
    turns: Vec<(Lane, u64)>,
}

impl Pages {
    pub(super) fn new(
        carrier: &str,
        lanes: &[Lane],
        passes: u64,
        interval_ms: u32,
        payload_bytes: usize,
    ) -> Self {
        let turns = lanes.iter().map(|lane| (*lane, u64::MAX)).collect();
        Self {
            carrier: carrier.to_owned(),
            lanes: lanes.to_vec(),
            passes,
            interval_ms,
            payload_bytes,
            number: 0,
            reserved: 0,
            turns,
        }
    }

    /// The next pages, signed. Of so many pages the first has the newest bundles.
    pub(super) fn make(
        &mut self,
        store: &Store,
        origin: &OriginId,
        key: &SigningKey,
        count: usize,
        now: Nanos,
    ) -> Result<Vec<Vec<u8>>, BufferError> {
        self.reserve(store, count as u64, now)?;
        let epoch = store.epoch().0;
        let mut ranges = Vec::new();
        for lane in &self.lanes {
            if let Some(range) = store.carried_range(*lane, &self.carrier, self.passes)? {
                ranges.push(CatalogueRange {
                    lane: *lane,
                    epoch,
                    first: range.first,
                    last: range.last,
                    oldest_sending: range.oldest_sending,
                });
            }
        }
        let room = Catalogue::entries_that_fit(self.payload_bytes, origin, ranges.len());
        let mut pages = Vec::new();
        for at in 0..count.max(1) {
            let mut entries = Vec::new();
            for (place, lane) in self.lanes.iter().enumerate() {
                let share = room * (place + 1) / self.lanes.len() - entries.len();
                // Half of the first page is for the newest, everything else for each in its turn.
                let newest = if at == 0 { share.div_ceil(2) } else { 0 };
                for below in [(u64::MAX, newest), (self.turns[place].1, share - newest)] {
                    let found = store.carried(*lane, &self.carrier, below.0, below.1)?;
                    if below.0 == self.turns[place].1 && below.1 > 0 {
                        let lowest = found.last().map_or(u64::MAX, |(bundle, _)| bundle.number);
                        let full = found.len() == below.1;
                        self.turns[place].1 = if full { lowest } else { u64::MAX };
                    }
                    for (bundle, passes) in found {
                        entries.extend(self.entry(epoch, &bundle, passes));
                    }
                }
            }
            entries.truncate(room);
            // Rises over restarts, too, as the clock does.
            let by_time = u64::try_from(now.0 / 1000).unwrap_or(0);
            self.number = by_time.clamp(self.number + 1, self.reserved.max(self.number + 1));
            let page = Catalogue {
                origin: origin.clone(),
                number: self.number,
                time: now,
                interval_ms: self.interval_ms,
                ranges: ranges.clone(),
                entries,
            };
            match page.sign(key) {
                Ok(page) => pages.push(page),
                Err(err) => tracing::warn!(%err, "the catalogue can't be signed"),
            }
        }
        Ok(pages)
    }

    /// Sees to it that so many numbers, and those of the next minutes, are noted as used.
    fn reserve(&mut self, store: &Store, count: u64, now: Nanos) -> Result<(), BufferError> {
        let name = format!("catalogue/{}", self.carrier);
        if self.reserved == 0 {
            let kept = store.marks(&name)?.into_iter().find(|(mark, _)| *mark == name);
            self.number = kept.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        }
        let by_time = u64::try_from(now.0 / 1000).unwrap_or(0);
        let next = self.number.max(by_time).saturating_add(count);
        if next >= self.reserved {
            self.reserved = next + RESERVED_AHEAD;
            store.keep_mark(&name, &self.reserved.to_string())?;
        }
        Ok(())
    }

    fn entry(
        &self,
        epoch: u64,
        bundle: &crate::buffer::Bundle,
        passes: u64,
    ) -> Option<CatalogueEntry> {
        let file = bundle.file.as_ref()?;
        let mut name_digest = [0; 8];
        name_digest.copy_from_slice(&file.digest.as_bytes()[..8]);
        Some(CatalogueEntry {
            lane: bundle.lane,
            epoch,
            number: bundle.number,
            bytes: file.bytes,
            sha256: shared::bundle::BundleDigest::from_bytes(file.sha256),
            name_digest,
            passes: u16::try_from(passes).unwrap_or(u16::MAX),
            passes_of: u16::try_from(self.passes).unwrap_or(u16::MAX),
        })
    }
}

/// Ten minutes of numbers, which count microseconds: they are noted so often.
const RESERVED_AHEAD: u64 = 600_000_000;
