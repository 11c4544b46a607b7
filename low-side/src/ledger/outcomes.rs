//! What became of the records that a sink has dealt with: taken, left out by its filter, refused for
//! good, or never got.
//!
//! Kept is what is not the rule: what was left out by bundle and stream, what was refused record by
//! record. The rest of a bundle that a sink has whole was taken.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rusqlite::{OptionalExtension, Params, Transaction, params};
use serde::Serialize;

use super::delivery::Delivery;
use super::spans::{self, Spans};
use super::{ChainId, Ledger, LedgerError, SinkId, int, uint};
use crate::ranges::RangeSet;

/// What became of the records of one stream at one sink:
/// records = delivered + filtered + rejected + pending + removed + not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SinkDelivery {
    /// The sink.
    pub sink: String,
    /// The stream.
    pub stream: String,
    /// Records that arrived here.
    pub records: u64,
    /// Records that its receiver has taken.
    pub delivered: u64,
    /// Records that its filter left out.
    pub filtered: u64,
    /// Records that its receiver refused for good, and that were not asked for once more since: they are
    /// among its dead letters.
    pub rejected: u64,
    /// Other records of bundles that it has yet to take, or to take to their last record.
    pub pending: u64,
    /// Records that it never got: their bundle had left the store.
    pub removed: u64,
    /// Records that it dealt with before it was counted, bundle by bundle, how.
    pub not_counted: u64,
    /// Records that were refused for good, and sent once more since: they are among the others, too.
    pub sent_again: u64,
}

impl SinkDelivery {
    /// Adds what became of other records.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.records, other.records),
            (&mut self.delivered, other.delivered),
            (&mut self.filtered, other.filtered),
            (&mut self.rejected, other.rejected),
            (&mut self.pending, other.pending),
            (&mut self.removed, other.removed),
            (&mut self.not_counted, other.not_counted),
            (&mut self.sent_again, other.sent_again),
        ] {
            *sum = sum.saturating_add(part);
        }
    }
}

/// What became of a bundle that a sink has whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BundleOutcome {
    filtered: u64,
    rejected: u64,
    again: u64,
    counted: bool,
}

impl BundleOutcome {
    /// The same for the custody log.
    pub(super) fn text(self, records: u64) -> String {
        let Self { filtered, rejected, again, counted } = self;
        let delivered = records.saturating_sub(filtered + rejected);
        let mut text = format!(
            "{records} records: {delivered} delivered, {filtered} filtered out, {rejected} rejected"
        );
        if again > 0 {
            let _ = write!(text, "; {again} of them had been rejected, and were sent once more");
        }
        if !counted {
            text.push_str("; of those before an update it is not known");
        }
        text
    }
}

/// Notes what of a delivery was left out or refused.
pub(super) fn note(
    tx: &Transaction<'_>,
    sink: SinkId,
    delivery: &Delivery,
) -> Result<(), LedgerError> {
    let chain = delivery.chain;
    for (stream, records) in &delivery.filtered {
        tx.prepare_cached(
            "INSERT INTO left_out SELECT ?1, ?2, number, ?4, ?5 FROM bundle
             WHERE chain = ?2 AND last_sequence >= ?3 AND last_sequence >= first_sequence
             ORDER BY last_sequence LIMIT 1
             ON CONFLICT DO UPDATE SET records = records + ?5",
        )?
        .execute(params![
            sink,
            chain,
            int(delivery.first),
            stream.as_str(),
            int(*records)
        ])?;
    }
    for (sequence, stream) in &delivery.rejected {
        tx.prepare_cached(
            "INSERT INTO rejected VALUES (?1, ?2, ?3, ?4, 0) ON CONFLICT DO UPDATE SET again = 0",
        )?
        .execute(params![sink, chain, int(*sequence), stream.as_str()])?;
    }
    Ok(())
}

/// These records are asked for once more: what becomes of them is noted anew.
pub(super) fn forget(
    tx: &Transaction<'_>,
    sink: SinkId,
    chain: ChainId,
    (first, last): (u64, u64),
) -> Result<(), LedgerError> {
    let range = params![sink, chain, int(first), int(last)];
    tx.prepare_cached(
        "UPDATE rejected SET again = 1 WHERE sink = ?1 AND chain = ?2 AND sequence BETWEEN ?3 AND ?4",
    )?
    .execute(range)?;
    // What was left out is counted by bundle: of a part of one nobody can say how much it was.
    tx.prepare_cached(
        "DELETE FROM left_out WHERE sink = ?1 AND chain = ?2 AND number IN (SELECT number FROM bundle
             WHERE chain = ?2 AND last_sequence BETWEEN ?3 AND ?4 AND first_sequence >= ?3
                 AND last_sequence >= first_sequence)",
    )?
    .execute(range)?;
    Ok(())
}

/// What became of a bundle that a sink has whole.
pub(super) fn of_bundle(
    tx: &Transaction<'_>,
    sink: SinkId,
    chain: ChainId,
    number: u64,
    range: (u64, u64),
) -> Result<BundleOutcome, LedgerError> {
    let filtered: i64 = tx
        .prepare_cached(
            "SELECT coalesce(sum(records), 0) FROM left_out WHERE sink = ?1 AND chain = ?2 AND number = ?3",
        )?
        .query_row(params![sink, chain, int(number)], |row| row.get(0))?;
    let (rejected, again) = tx
        .prepare_cached(
            "SELECT coalesce(sum(again = 0), 0), coalesce(sum(again), 0) FROM rejected
             WHERE sink = ?1 AND chain = ?2 AND sequence BETWEEN ?3 AND ?4",
        )?
        .query_row(params![sink, chain, int(range.0), int(range.1)], |row| {
            Ok((uint(row.get(0)?), uint(row.get(1)?)))
        })?;
    let mut counted = true;
    for spans in [Spans::Uncounted, Spans::PassedOver] {
        counted &= !spans::overlap(tx, spans, sink, chain, range)?;
    }
    Ok(BundleOutcome { filtered: uint(filtered), rejected, again, counted })
}

/// Records by stream.
type ByStream = BTreeMap<String, u64>;

fn add(to: &mut ByStream, from: ByStream) {
    for (stream, records) in from {
        *to.entry(stream).or_default() += records;
    }
}

/// Bundles of a chain: their numbers, and the sequence numbers from the first of them to the last.
#[derive(Clone, Copy)]
struct Window {
    chain: ChainId,
    numbers: (u64, u64),
    sequences: (u64, u64),
}

impl Ledger {
    /// What became of the records of some bundles of a chain at every sink, by stream.
    pub(super) fn outcomes(
        &self,
        chain: ChainId,
        numbers: (u64, u64),
    ) -> Result<Vec<SinkDelivery>, LedgerError> {
        let Some(window) = self.window_of(chain, numbers)? else { return Ok(Vec::new()) };
        let records = self.tallied(window)?;
        let sinks: Vec<(SinkId, String)> = self
            .conn
            .prepare_cached("SELECT id, name FROM sink ORDER BY name")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut found = Vec::new();
        for (sink, name) in sinks {
            let pending = self.pending_numbers(sink, window)?;
            let removed = self.numbers_of(Spans::PassedOver, sink, window, &[&pending])?;
            let uncounted =
                self.numbers_of(Spans::Uncounted, sink, window, &[&pending, &removed])?;
            let filtered = self.filtered(sink, window)?;
            let rejected = self.refused(sink, window, false)?;
            let again = self.refused(sink, window, true)?;
            let [pending, removed, uncounted] = [
                self.rest(sink, chain, &pending)?,
                self.rest(sink, chain, &removed)?,
                self.rest(sink, chain, &uncounted)?,
            ];
            for (stream, &records) in &records {
                let mut left = records;
                // A record is one of these alone, whatever was asked for once more meanwhile.
                let mut part = |of: &ByStream| {
                    let part = of.get(stream).copied().unwrap_or(0).min(left);
                    left -= part;
                    part
                };
                found.push(SinkDelivery {
                    sink: name.clone(),
                    stream: stream.clone(),
                    records,
                    rejected: part(&rejected),
                    filtered: part(&filtered),
                    pending: part(&pending),
                    removed: part(&removed),
                    not_counted: part(&uncounted),
                    sent_again: again.get(stream).copied().unwrap_or(0),
                    delivered: left,
                });
            }
        }
        Ok(found)
    }

    /// The bundles of these numbers that hold sequence numbers; `None` where none does.
    fn window_of(
        &self,
        chain: ChainId,
        (first, last): (u64, u64),
    ) -> Result<Option<Window>, LedgerError> {
        let sequences: (Option<i64>, Option<i64>) = self
            .conn
            .prepare_cached(
                "SELECT min(first_sequence), max(last_sequence) FROM bundle
                 WHERE chain = ?1 AND number BETWEEN ?2 AND ?3 AND last_sequence >= first_sequence",
            )?
            .query_row(params![chain, int(first), int(last)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let (Some(low), Some(high)) = sequences else { return Ok(None) };
        let sequences = (uint(low), uint(high));
        Ok(Some(Window { chain, numbers: (first, last), sequences }))
    }

    /// The numbers of the bundles that a sink has not taken whole.
    fn pending_numbers(&self, sink: SinkId, window: Window) -> Result<RangeSet, LedgerError> {
        let taken = spans::read(&self.conn, Spans::Delivered, sink, window.chain)?;
        self.bundles_at(window, &taken.outside(&[window.sequences]))
    }

    /// The numbers of the bundles of which something lies in these spans, without those among `but`.
    fn numbers_of(
        &self,
        spans: Spans,
        sink: SinkId,
        window: Window,
        but: &[&RangeSet],
    ) -> Result<RangeSet, LedgerError> {
        let there = spans::read(&self.conn, spans, sink, window.chain)?;
        let there = self.bundles_at(window, &there.common(&[window.sequences]))?;
        let mut left: Vec<(u64, u64)> = there.iter().collect();
        for but in but {
            left = but.outside(&left);
        }
        let mut numbers = RangeSet::default();
        for (first, last) in left {
            numbers.insert(first, last);
        }
        Ok(numbers)
    }

    /// The numbers of the bundles that hold a number of these ranges.
    fn bundles_at(
        &self,
        Window { chain, numbers, .. }: Window,
        ranges: &[(u64, u64)],
    ) -> Result<RangeSet, LedgerError> {
        let mut behind = self.conn.prepare_cached(
            "SELECT number, first_sequence FROM bundle
             WHERE chain = ?1 AND last_sequence >= ?2 AND last_sequence >= first_sequence
             ORDER BY last_sequence LIMIT 1",
        )?;
        let mut at = |sequence: u64| {
            let row = behind.query_row(params![chain, int(sequence)], |row| {
                Ok((uint(row.get(0)?), uint(row.get(1)?)))
            });
            row.optional()
        };
        let mut found = RangeSet::default();
        for (first, last) in ranges {
            let Some((low, _)) = at(*first)? else { continue };
            let high = match at(*last)? {
                Some((number, begin)) if begin <= *last => number,
                // It is the next one behind them.
                Some((number, _)) => number.saturating_sub(1),
                None => numbers.1,
            };
            found.insert(low.max(numbers.0), high.min(numbers.1));
        }
        Ok(found)
    }

    /// What of these bundles was neither left out nor refused.
    fn rest(
        &self,
        sink: SinkId,
        chain: ChainId,
        numbers: &RangeSet,
    ) -> Result<ByStream, LedgerError> {
        let mut rest = ByStream::new();
        for range in numbers.iter() {
            let Some(window) = self.window_of(chain, range)? else { continue };
            let mut here = self.tallied(window)?;
            for gone in [self.filtered(sink, window)?, self.refused(sink, window, false)?] {
                for (stream, records) in gone {
                    if let Some(left) = here.get_mut(&stream) {
                        *left = left.saturating_sub(records);
                    }
                }
            }
            add(&mut rest, here);
        }
        Ok(rest)
    }

    fn tallied(&self, Window { chain, numbers, .. }: Window) -> Result<ByStream, LedgerError> {
        self.by_stream(
            "SELECT stream, sum(records) FROM tally
             WHERE chain = ?1 AND number BETWEEN ?2 AND ?3 AND rule = '' GROUP BY stream",
            params![chain, int(numbers.0), int(numbers.1)],
        )
    }

    fn filtered(
        &self,
        sink: SinkId,
        Window { chain, numbers, .. }: Window,
    ) -> Result<ByStream, LedgerError> {
        self.by_stream(
            "SELECT stream, sum(records) FROM left_out
             WHERE sink = ?1 AND chain = ?2 AND number BETWEEN ?3 AND ?4 GROUP BY stream",
            params![sink, chain, int(numbers.0), int(numbers.1)],
        )
    }

    fn refused(
        &self,
        sink: SinkId,
        Window { chain, sequences, .. }: Window,
        again: bool,
    ) -> Result<ByStream, LedgerError> {
        self.by_stream(
            "SELECT stream, count(*) FROM rejected
             WHERE sink = ?1 AND chain = ?2 AND sequence BETWEEN ?3 AND ?4 AND again = ?5 GROUP BY stream",
            params![sink, chain, int(sequences.0), int(sequences.1), again],
        )
    }

    fn by_stream(&self, sql: &str, params: impl Params) -> Result<ByStream, LedgerError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map(params, |row| Ok((row.get(0)?, uint(row.get(1)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use shared::clock::Nanos;
    use shared::record::{Lane, Stream};

    use super::*;
    use crate::import::Sidecar;
    use crate::testing::{Chain, Site};

    const NOW: Nanos = Nanos(1);

    /// A ledger with three bundles of 4 records each, of the stream that the site's messages have, and
    /// 2 suppressed numbers behind each.
    fn site() -> (Site, Ledger, ChainId) {
        let site = Site::new();
        let mut chain = Chain::new(1, Lane::Routine);
        let mut importer = site.importer();
        for _ in 0..3 {
            let messages: Vec<Vec<u8>> = (0..4_u8).map(|number| vec![b'a' + number]).collect();
            let path = site.seal_with(&mut chain, &messages, 2);
            importer.import(&path, Sidecar::Absent, |_| {}).unwrap();
        }
        let mut ledger = site.ledger();
        let sink = ledger.sink("siem").unwrap();
        let chain = ledger.pending_chains(sink).unwrap()[0].id;
        (site, ledger, chain)
    }

    fn deliver(
        ledger: &mut Ledger,
        range: (u64, u64),
        records: u64,
        filtered: u64,
        rejected: &[u64],
    ) {
        let sink = ledger.sink("siem").unwrap();
        let chain = 1;
        let mut delivery = Delivery::of(chain, range, records);
        if filtered > 0 {
            delivery.filtered.insert(Stream::Other, filtered);
        }
        delivery.rejected.extend(rejected.iter().map(|sequence| (*sequence, Stream::Other)));
        ledger.deliver(sink, &[delivery], None, &HashMap::new(), NOW).unwrap();
    }

    /// delivered, filtered, rejected, pending, removed, not counted, sent again
    fn parts(ledger: &Ledger, numbers: (u64, u64)) -> [u64; 7] {
        let found = ledger.outcomes(1, numbers).unwrap();
        let [part] = &found[..] else { panic!("{found:?}") };
        assert_eq!((part.sink.as_str(), part.stream.as_str()), ("siem", "other"));
        let SinkDelivery { delivered, filtered, rejected, pending, removed, not_counted, .. } =
            *part;
        assert_eq!(delivered + filtered + rejected + pending + removed + not_counted, part.records);
        [delivered, filtered, rejected, pending, removed, not_counted, part.sent_again]
    }

    fn replayed(ledger: &mut Ledger) -> Vec<String> {
        ledger.settle_custody(true, NOW).unwrap();
        let mut told = Vec::new();
        let each = ledger.custody_folder().for_each_line(|_, line| {
            let event = shared::custody::Entry::parse(line).unwrap().event;
            if event.action == shared::custody::Action::Replayed {
                told.push(event.detail);
            }
            Ok::<(), std::io::Error>(())
        });
        each.unwrap();
        told
    }

    #[test]
    fn every_record_is_one_of_them_through_refusals_and_what_is_sent_once_more() {
        let (_site, mut ledger, chain) = site();
        assert_eq!(chain, 1);
        assert_eq!(parts(&ledger, (1, 3)), [0, 0, 0, 12, 0, 0, 0]);
        // In two batches: what is refused is told of a bundle that is not whole yet.
        deliver(&mut ledger, (1, 3), 3, 0, &[2]);
        assert_eq!(parts(&ledger, (1, 3)), [0, 0, 1, 11, 0, 0, 0]);
        deliver(&mut ledger, (4, 6), 1, 1, &[]);
        assert_eq!(parts(&ledger, (1, 3)), [2, 1, 1, 8, 0, 0, 0]);
        assert_eq!(parts(&ledger, (2, 3)), [0, 0, 0, 8, 0, 0, 0]);
        deliver(&mut ledger, (7, 12), 4, 0, &[]);
        deliver(&mut ledger, (13, 18), 4, 4, &[]);
        assert_eq!(parts(&ledger, (1, 3)), [6, 5, 1, 0, 0, 0, 0]);
        let told = replayed(&mut ledger);
        let texts = [
            "4 records: 2 delivered, 1 filtered out, 1 rejected",
            "4 records: 4 delivered, 0 filtered out, 0 rejected",
            "4 records: 0 delivered, 4 filtered out, 0 rejected",
        ];
        assert_eq!(told, texts.map(|text| format!("to sink siem, {text}")));

        // The dead letter is asked for once more, is refused again, and then taken.
        let sink = ledger.sink("siem").unwrap();
        ledger.deliver_again(sink, chain, (2, 2), 1).unwrap();
        assert_eq!(parts(&ledger, (1, 1)), [0, 1, 0, 3, 0, 0, 1]);
        deliver(&mut ledger, (2, 2), 1, 0, &[2]);
        assert_eq!(parts(&ledger, (1, 1)), [2, 1, 1, 0, 0, 0, 0]);
        ledger.deliver_again(sink, chain, (2, 2), 1).unwrap();
        deliver(&mut ledger, (2, 2), 1, 0, &[]);
        assert_eq!(parts(&ledger, (1, 1)), [3, 1, 0, 0, 0, 0, 1]);
        let told = replayed(&mut ledger);
        assert_eq!(told[3], "to sink siem, 4 records: 2 delivered, 1 filtered out, 1 rejected");
        assert_eq!(
            told[4],
            "to sink siem, 4 records: 3 delivered, 1 filtered out, 0 rejected; 1 of them had been rejected, and were sent once more"
        );
        // A whole bundle is asked for once more, with a filter that leaves nothing out now.
        ledger.deliver_again(sink, chain, (13, 18), 4).unwrap();
        assert_eq!(parts(&ledger, (3, 3)), [0, 0, 0, 4, 0, 0, 0]);
        deliver(&mut ledger, (13, 18), 4, 0, &[]);
        assert_eq!(parts(&ledger, (3, 3)), [4, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_was_not_counted_or_never_got_is_not_called_delivered() {
        let (site, mut ledger, chain) = site();
        deliver(&mut ledger, (1, 6), 4, 0, &[2]);
        deliver(&mut ledger, (7, 12), 4, 0, &[]);
        // As an earlier version left it: sums, and ranges.
        let older = rusqlite::Connection::open(site.folders.state.join("ledger.db")).unwrap();
        older
            .execute_batch(
                "DELETE FROM rejected; INSERT INTO uncounted SELECT * FROM delivered;
                 INSERT INTO passed_over VALUES (1, 1, 13, 18); INSERT INTO delivered VALUES (1, 1, 13, 18)",
            )
            .unwrap();
        assert_eq!(parts(&ledger, (1, 3)), [0, 0, 0, 0, 4, 8, 0]);
        // A dead letter of then is sent again: the rest of its bundle stays unknown.
        let sink = ledger.sink("siem").unwrap();
        ledger.deliver_again(sink, chain, (2, 2), 1).unwrap();
        deliver(&mut ledger, (2, 2), 1, 0, &[2]);
        assert_eq!(parts(&ledger, (1, 3)), [0, 0, 1, 0, 4, 7, 0]);
        let told = replayed(&mut ledger);
        assert!(told.last().unwrap().ends_with("it is not known"), "{told:?}");
        // A bundle that is sent again whole is known from then on; so is one that came back.
        for range in [(7, 12), (13, 18)] {
            ledger.deliver_again(sink, chain, range, 4).unwrap();
            deliver(&mut ledger, range, 4, 1, &[]);
        }
        assert_eq!(parts(&ledger, (2, 3)), [6, 2, 0, 0, 0, 0, 0]);
    }
}
