//! What each sink has taken, and what it may take next.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{OptionalExtension, Transaction, params};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent};
use shared::record::Stream;

use super::admission::find_chain;
use super::custody::{self, bundle_of};
use super::spans::{self, Spans};
use super::{
    AdmittedBundle, ChainId, ChainName, Ledger, LedgerError, alarms, chain_name, int, latency,
    outcomes, removed, uint,
};
use crate::latency::{Histogram, Key};
use crate::ranges::RangeSet;

/// The identity of a sink inside one ledger.
pub type SinkId = i64;

/// A chain, as replay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainState {
    /// Its identity.
    pub id: ChainId,
    /// Its name.
    pub name: ChainName,
    /// The highest sequence number that an admitted bundle accounts for.
    pub last_sequence: u64,
    /// Bundles with this number or a higher one wait for a gap.
    pub held_from: Option<u64>,
}

/// What a sink took of one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The chain.
    pub chain: ChainId,
    /// The first sequence number accounted for.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// The number of records among them, however they were dealt with.
    pub records: u64,
    /// Of these, the records that the sink's filter left out.
    pub filtered: BTreeMap<Stream, u64>,
    /// Of these, the records that the receiver refused for good, by their numbers.
    pub rejected: BTreeMap<u64, Stream>,
}

impl Delivery {
    /// A delivery of which nothing was left out or refused.
    pub fn of(chain: ChainId, (first, last): (u64, u64), records: u64) -> Self {
        let (filtered, rejected) = (BTreeMap::new(), BTreeMap::new());
        Self { chain, first, last, records, filtered, rejected }
    }

    /// How many records the filter left out.
    pub fn filtered(&self) -> u64 {
        self.filtered.values().sum()
    }

    /// How many records the receiver refused for good.
    pub fn rejected(&self) -> u64 {
        self.rejected.len() as u64
    }

    /// How many records the receiver has taken.
    pub fn taken(&self) -> u64 {
        self.records.saturating_sub(self.filtered() + self.rejected())
    }
}

/// What became of a wish to have records sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// They are sent once more.
    Asked,
    /// The sink has not had all of them yet: they come anyway.
    Pending,
    /// Their bundle is not in the store: it has left it after its time, or never came.
    NotStored,
}

/// The numbers of one bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRange {
    /// Its chain.
    pub chain: ChainId,
    /// Its number.
    pub number: u64,
    /// Its first sequence number.
    pub first: u64,
    /// Its last one.
    pub last: u64,
    /// How many records it holds.
    pub records: u64,
}

/// How far the current file of a file sink is durable; for a Kafka sink, which batch was its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePosition {
    /// Bytes from the start of the file, or the number of the batch.
    pub offset: u64,
    /// When the file was begun, or the batch committed.
    pub opened: Nanos,
    /// The number that the file is being renamed to.
    pub rotating_to: Option<u64>,
}

impl Ledger {
    /// The identity of a sink; a new name gets a new one, and everything in the store is new to it.
    pub fn sink(&mut self, name: &str) -> Result<SinkId, LedgerError> {
        let find = "SELECT id FROM sink WHERE name = ?1";
        let known = self.conn.query_row(find, [name], |row| row.get(0)).optional()?;
        if let Some(id) = known {
            return Ok(id);
        }
        let tx = self.begin()?;
        if tx.execute("INSERT OR IGNORE INTO sink (name) VALUES (?1)", [name])? > 0 {
            removed::begin_sink(&tx, tx.last_insert_rowid())?;
        }
        let id = tx.query_row(find, [name], |row| row.get(0))?;
        tx.commit()?;
        Ok(id)
    }

    /// The chains that hold something which the sink has not taken, the flash lane first. A chain
    /// that waits for a gap is among them.
    pub fn pending_chains(&self, sink: SinkId) -> Result<Vec<ChainState>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT c.id, c.origin, c.epoch, c.lane, c.last_sequence,
                 (SELECT min(g.first) FROM gap g WHERE g.chain = c.id AND g.passed_ns IS NULL)
             FROM chain c
             LEFT JOIN delivered d ON d.sink = ?1 AND d.chain = c.id AND d.first = 1
             WHERE c.last_sequence > 0 AND (d.last IS NULL OR d.last < c.last_sequence)
             ORDER BY c.lane = 'flash' DESC, c.id",
        )?;
        let rows = statement.query_map([sink], |row| {
            Ok(ChainState {
                id: row.get(0)?,
                name: chain_name(row, 1)?,
                last_sequence: uint(row.get(4)?),
                held_from: row.get::<_, Option<i64>>(5)?.map(uint),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What a sink has taken of a chain.
    pub fn delivered(&self, sink: SinkId, chain: ChainId) -> Result<RangeSet, LedgerError> {
        spans::read(&self.conn, Spans::Delivered, sink, chain)
    }

    /// For each sink that has not taken everything, when the bundle was admitted that it has not taken
    /// altogether, whatever holds it back; of each chain the one that is next in the order of numbers counts.
    pub(super) fn sinks_wait(&self) -> Result<BTreeMap<String, Nanos>, LedgerError> {
        let sinks: Vec<(SinkId, String)> = self
            .conn
            .prepare_cached("SELECT id, name FROM sink")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut waits = BTreeMap::new();
        for (sink, name) in sinks {
            let mut oldest: Option<Nanos> = None;
            for chain in self.pending_chains(sink)? {
                let taken = self.delivered(sink, chain.id)?;
                oldest = oldest.into_iter().chain(self.waits_since(chain.id, &taken)?).min();
            }
            waits.extend(oldest.map(|since| (name, since)));
        }
        Ok(waits)
    }

    /// For each chain that has something for a sink, held by neither a gap nor an archive, when the
    /// bundle was admitted that is next.
    pub fn deliverable(&self, sink: &str) -> Result<Vec<(ChainId, Nanos)>, LedgerError> {
        let id: Option<SinkId> = self
            .conn
            .prepare_cached("SELECT id FROM sink WHERE name = ?1")?
            .query_row([sink], |row| row.get(0))
            .optional()?;
        let Some(sink) = id else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for chain in self.pending_chains(sink)? {
            let taken = self.delivered(sink, chain.id)?;
            if let Some((bundle, _)) = self.next_bundle(&chain, &taken)? {
                let admitted: i64 = self
                    .conn
                    .prepare_cached(
                        "SELECT imported_ns FROM bundle WHERE chain = ?1 AND number = ?2",
                    )?
                    .query_row(params![chain.id, int(bundle.number)], |row| row.get(0))?;
                found.push((chain.id, Nanos(admitted)));
            }
        }
        Ok(found)
    }

    fn waits_since(&self, chain: ChainId, taken: &RangeSet) -> Result<Option<Nanos>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT first_sequence, last_sequence,
                 CASE WHEN known_by IS NULL THEN imported_ns ELSE coalesce(stored_ns, imported_ns) END
             FROM bundle WHERE chain = ?1 AND last_sequence >= ?2 AND last_sequence >= first_sequence
             ORDER BY last_sequence LIMIT 1",
        )?;
        let mut from = taken.next_outside(1);
        loop {
            let found = statement.query_row(params![chain, int(from)], |row| {
                Ok((uint(row.get(0)?), uint(row.get(1)?), Nanos(row.get(2)?)))
            });
            let Some((first, last, admitted)) = found.optional()? else { return Ok(None) };
            from = taken.next_outside(from.max(first));
            if from <= last {
                return Ok(Some(admitted));
            }
        }
    }

    /// The first admitted bundle of the chain that holds a number outside `taken`, if neither a gap
    /// nor an archive that comes first holds it back; with the first such number.
    pub fn next_bundle(
        &self,
        chain: &ChainState,
        taken: &RangeSet,
    ) -> Result<Option<(AdmittedBundle, u64)>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT number, digest, first_sequence, last_sequence, file, known_by IS NOT NULL,
                 EXISTS (SELECT 1 FROM archive_due d JOIN archive a ON a.id = d.archive
                     WHERE d.chain = bundle.chain AND d.number = bundle.number AND a.before)
             FROM bundle
             WHERE chain = ?1 AND last_sequence >= ?2 AND last_sequence >= first_sequence
                 AND stored_ns IS NOT NULL
             ORDER BY last_sequence LIMIT 1",
        )?;
        let mut from = taken.next_outside(1);
        loop {
            let found = statement.query_row(params![chain.id, int(from)], |row| {
                let bundle = AdmittedBundle {
                    chain: chain.id,
                    number: uint(row.get(0)?),
                    digest: BundleDigest::from_bytes(row.get(1)?),
                    first_sequence: uint(row.get(2)?),
                    last_sequence: uint(row.get(3)?),
                    file: row.get(4)?,
                    anew: row.get(5)?,
                };
                Ok((bundle, row.get::<_, bool>(6)?))
            });
            let Some((bundle, unarchived)) = found.optional()? else {
                return Ok(None);
            };
            if chain.held_from.is_some_and(|held| bundle.number >= held) {
                return Ok(None);
            }
            from = taken.next_outside(from.max(bundle.first_sequence));
            if from <= bundle.last_sequence {
                // What an archive has yet to take holds what is behind it: the order stays.
                return Ok((!unarchived).then_some((bundle, from)));
            }
        }
    }

    /// Notes what a sink took and, for a file, how far it is durable: in one transaction.
    pub fn deliver(
        &mut self,
        sink: SinkId,
        deliveries: &[Delivery],
        position: Option<FilePosition>,
        took: &HashMap<Key, Histogram>,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        for delivery in deliveries {
            let range = (delivery.first, delivery.last);
            let merged = spans::insert(&tx, Spans::Delivered, sink, delivery.chain, range)?;
            outcomes::note(&tx, sink, delivery)?;
            note_replayed(&tx, sink, delivery, merged, now)?;
            tx.prepare_cached(
                "INSERT INTO delivered_records (sink, chain, records, filtered, rejected)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (sink, chain) DO UPDATE SET records = records + ?3,
                     filtered = filtered + ?4, rejected = rejected + ?5",
            )?
            .execute(params![
                sink,
                delivery.chain,
                int(delivery.records),
                int(delivery.filtered()),
                int(delivery.rejected())
            ])?;
        }
        if let Some(position) = position {
            save_position(&tx, sink, &position)?;
        }
        latency::add(&tx, sink, took, now)?;
        Ok(tx.commit()?)
    }

    /// The sink gets these records of a chain once more: the numbers `first` to `last` of one bundle,
    /// among which are `records` records.
    pub fn deliver_again(
        &mut self,
        sink: SinkId,
        chain: ChainId,
        (first, last): (u64, u64),
        records: u64,
    ) -> Result<Again, LedgerError> {
        let tx = self.begin()?;
        let again = once_more(&tx, sink, chain, (first, last), records)?;
        tx.commit()?;
        Ok(again)
    }

    /// How many letters of this file of dead letters, by its SHA-256, a sink was asked for once more.
    pub fn retried(&self, sink: SinkId, file: &[u8; 32]) -> Result<u64, LedgerError> {
        let mut statement =
            self.conn.prepare_cached("SELECT letters FROM retry WHERE sink = ?1 AND file = ?2")?;
        let found = statement.query_row(params![sink, file], |row| row.get(0)).optional()?;
        Ok(found.map_or(0, uint))
    }

    /// The sink gets these records once more, and it is noted that its file of dead letters was worked off
    /// through the letter with this number: in one transaction. Of each what became of it, in order.
    pub fn ask_again(
        &mut self,
        sink: SinkId,
        file: &[u8; 32],
        through: u64,
        records: &[(ChainName, u64)],
    ) -> Result<Vec<Again>, LedgerError> {
        let tx = self.begin()?;
        let mut found = Vec::with_capacity(records.len());
        for (name, sequence) in records {
            found.push(match find_chain(&tx, name)? {
                Some(chain) => once_more(&tx, sink, chain, (*sequence, *sequence), 1)?,
                None => Again::NotStored,
            });
        }
        tx.prepare_cached("INSERT OR REPLACE INTO retry VALUES (?1, ?2, ?3)")?.execute(params![
            sink,
            file,
            int(through)
        ])?;
        tx.commit()?;
        Ok(found)
    }

    /// The bundles whose records were received in a period: for sending them to a sink once more.
    pub fn bundles_of_period(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> Result<Vec<StoredRange>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT chain, number, first_sequence, last_sequence, records FROM bundle
             WHERE newest_ns >= ?1 AND oldest_ns < ?2 AND last_sequence >= first_sequence
             ORDER BY chain, number",
        )?;
        let rows = statement.query_map([from.0, to.0], |row| {
            Ok(StoredRange {
                chain: row.get(0)?,
                number: uint(row.get(1)?),
                first: uint(row.get(2)?),
                last: uint(row.get(3)?),
                records: uint(row.get(4)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The name of a chain.
    pub fn chain_name_of(&self, chain: ChainId) -> Result<ChainName, LedgerError> {
        let mut statement =
            self.conn.prepare_cached("SELECT origin, epoch, lane FROM chain WHERE id = ?1")?;
        Ok(statement.query_row([chain], |row| chain_name(row, 0))?)
    }

    /// The identity of a chain.
    pub fn chain_id(&self, name: &ChainName) -> Result<Option<ChainId>, LedgerError> {
        find_chain(&self.conn, name)
    }

    /// How far the current file of a file sink is durable.
    pub fn file_position(&self, sink: SinkId) -> Result<Option<FilePosition>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT offset, opened_ns, rotating_to FROM sink_file WHERE sink = ?1",
        )?;
        let found = statement.query_row([sink], |row| {
            Ok(FilePosition {
                offset: uint(row.get(0)?),
                opened: Nanos(row.get(1)?),
                rotating_to: row.get::<_, Option<i64>>(2)?.map(uint),
            })
        });
        Ok(found.optional()?)
    }

    /// Notes how far the current file of a file sink is durable.
    pub fn set_file_position(
        &mut self,
        sink: SinkId,
        position: &FilePosition,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        save_position(&tx, sink, position)?;
        Ok(tx.commit()?)
    }

    /// The highest number that a rotated file of the sink was given; 0 where there was none.
    pub fn last_rotated(&self, sink: SinkId) -> Result<u64, LedgerError> {
        let mut statement =
            self.conn.prepare_cached("SELECT last_rotated FROM sink_file WHERE sink = ?1")?;
        let found = statement.query_row([sink], |row| row.get(0)).optional()?;
        Ok(found.map_or(0, uint))
    }

    /// Notes that the stored file of a bundle is damaged. The same bundle, brought again, mends it.
    pub fn note_damaged(
        &mut self,
        bundle: &AdmittedBundle,
        message: &str,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        tx.execute(
            "UPDATE bundle SET damaged = 1 WHERE chain = ?1 AND number = ?2",
            params![bundle.chain, int(bundle.number)],
        )?;
        alarms::raise(&tx, STORE_DAMAGED, &bundle.file, message, now)?;
        Ok(tx.commit()?)
    }

    /// Tells, once, that the disk does not give the stored file of a bundle.
    pub fn note_unreadable(
        &mut self,
        bundle: &AdmittedBundle,
        message: &str,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        let told = tx
            .prepare_cached(
                "SELECT 1 FROM alarm WHERE code = ?1 AND subject = ?2
                     AND closed_ns IS NULL AND acknowledged_ns IS NULL",
            )?
            .exists(params![STORE_UNREADABLE, bundle.file])?;
        if !told {
            alarms::raise(&tx, STORE_UNREADABLE, &bundle.file, message, now)?;
        }
        Ok(tx.commit()?)
    }

    /// The stored file of a bundle was opened and verified: whatever was noted against it has ended.
    /// Does not touch the disk where nothing was.
    pub fn note_readable(
        &mut self,
        bundle: &AdmittedBundle,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let key = params![bundle.chain, int(bundle.number)];
        let damaged = self
            .conn
            .prepare_cached(
                "SELECT 1 FROM bundle WHERE chain = ?1 AND number = ?2 AND damaged = 1",
            )?
            .exists(key)?;
        if damaged {
            self.conn
                .execute("UPDATE bundle SET damaged = 0 WHERE chain = ?1 AND number = ?2", key)?;
        }
        self.close_alarm(STORE_DAMAGED, &bundle.file, now)?;
        self.close_alarm(STORE_UNREADABLE, &bundle.file, now)
    }
}

/// The records `first` to `last` of a chain count as not taken any more, where they were.
fn once_more(
    tx: &Transaction<'_>,
    sink: SinkId,
    chain: ChainId,
    (first, last): (u64, u64),
    records: u64,
) -> Result<Again, LedgerError> {
    let stored = tx
        .prepare_cached(
            "SELECT 1 FROM bundle WHERE chain = ?1 AND last_sequence >= ?3
                 AND last_sequence >= first_sequence AND first_sequence <= ?2
                 AND stored_ns IS NOT NULL",
        )?
        .exists(params![chain, int(first), int(last)])?;
    if !stored {
        return Ok(Again::NotStored);
    }
    let within = tx
        .prepare_cached(
            "SELECT 1 FROM delivered WHERE sink = ?1 AND chain = ?2 AND first <= ?3 AND last >= ?4",
        )?
        .exists(params![sink, chain, int(first), int(last)])?;
    if !within || first > last {
        return Ok(Again::Pending);
    }
    for spans in [Spans::Delivered, Spans::PassedOver, Spans::Uncounted] {
        spans::cut(tx, spans, sink, chain, (first, last))?;
    }
    outcomes::forget(tx, sink, chain, (first, last))?;
    tx.prepare_cached(
        "INSERT INTO delivered_records (sink, chain, records, again) VALUES (?1, ?2, 0, ?3)
         ON CONFLICT (sink, chain) DO UPDATE SET again = again + ?3",
    )?
    .execute(params![sink, chain, int(records)])?;
    Ok(Again::Asked)
}

/// Notes which bundles a sink has now taken whole, and what became of their records: of those that it
/// took something of just now. A bundle without records is never among them.
fn note_replayed(
    tx: &Transaction<'_>,
    sink: SinkId,
    delivery: &Delivery,
    (first, last): (u64, u64),
    now: Nanos,
) -> Result<(), LedgerError> {
    let mut statement = tx.prepare_cached(
        "SELECT c.origin, c.epoch, c.lane, b.number, b.digest, b.records, b.first_sequence, b.last_sequence
         FROM bundle b JOIN chain c ON c.id = b.chain
         WHERE b.chain = ?1 AND b.last_sequence >= ?2 AND b.last_sequence >= b.first_sequence
         ORDER BY b.last_sequence",
    )?;
    let mut rows = statement.query(params![delivery.chain, int(delivery.first)])?;
    while let Some(row) = rows.next()? {
        let range = (uint(row.get(6)?), uint(row.get(7)?));
        // Bundles of a chain stand apart, in the order of their numbers.
        if range.0 > delivery.last || range.1 > last {
            break;
        }
        if range.0 < first {
            continue;
        }
        let number = uint(row.get(3)?);
        let digest = BundleDigest::from_bytes(row.get(4)?);
        let name: String = tx
            .prepare_cached("SELECT name FROM sink WHERE id = ?1")?
            .query_row([sink], |row| row.get(0))?;
        let outcome = outcomes::of_bundle(tx, sink, delivery.chain, number, range)?;
        let event = CustodyEvent::new(now, Action::Replayed)
            .bundle(bundle_of(&chain_name(row, 0)?, number, digest))
            .detail(format!("to sink {name}, {}", outcome.text(uint(row.get(5)?))));
        custody::note(tx, event)?;
    }
    Ok(())
}

fn save_position(
    tx: &Transaction<'_>,
    sink: SinkId,
    position: &FilePosition,
) -> Result<(), LedgerError> {
    tx.prepare_cached(
        "INSERT INTO sink_file (sink, offset, opened_ns, rotating_to, last_rotated)
             VALUES (?1, ?2, ?3, ?4, coalesce(?4, 0))
         ON CONFLICT (sink) DO UPDATE SET offset = ?2, opened_ns = ?3, rotating_to = ?4,
             last_rotated = max(last_rotated, excluded.last_rotated)",
    )?
    .execute(params![
        sink,
        int(position.offset),
        position.opened.0,
        position.rotating_to.map(int)
    ])?;
    Ok(())
}

pub(super) const STORE_DAMAGED: &str = "store-damaged";
pub(super) const STORE_UNREADABLE: &str = "store-unreadable";
