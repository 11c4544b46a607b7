//! Bundles as the buffer knows them: `planned -> sealed -> ready -> handed-over -> deleted`. Where
//! officers review them, `sealed -> awaiting-release -> released -> ready`, or `-> refused`.
//!
//! A plan freezes everything that goes into a bundle's plaintext, so that writing it again after a
//! crash gives the same bytes. The sealed state begins when the file is complete and synced; from
//! then on the blocks are no longer needed and the writer deletes them in small steps.

use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension, Params, Row, params_from_iter};
use shared::bundle::{BundleDigest, SealReason, StreamCount, SuppressedCount};
use shared::clock::Nanos;
use shared::record::{Lane, Sequence, Stream, UnknownName};

use super::block::Hash;
use super::checked::{hash, number, open_row, optional, seal_row, text, time};
use super::counts::{Count, Tally};
use super::error::BufferError;
use super::schema::{key, lane_of_key, number_of_key};

/// How far a bundle has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleState {
    /// Its content is frozen.
    Planned,
    /// Its file is complete and synced under its temporary name.
    Sealed,
    /// Its file stands where it waits for officers.
    AwaitingRelease,
    /// Its file, with the officers' release in it, is complete and synced under its temporary name.
    Released,
    /// An officer refused it: it never leaves.
    Refused,
    /// Its file stands in the outbox.
    Ready,
    /// It was handed over.
    HandedOver,
    /// Its file was deleted from the outbox.
    Deleted,
}

impl BundleState {
    /// Every state.
    pub const ALL: [BundleState; 8] = [
        BundleState::Planned,
        BundleState::Sealed,
        BundleState::AwaitingRelease,
        BundleState::Released,
        BundleState::Refused,
        BundleState::Ready,
        BundleState::HandedOver,
        BundleState::Deleted,
    ];

    /// The states of what has not been handed over, and will be.
    pub const ON_ITS_WAY: [BundleState; 5] = [
        BundleState::Planned,
        BundleState::Sealed,
        BundleState::AwaitingRelease,
        BundleState::Released,
        BundleState::Ready,
    ];

    /// The state's name.
    pub fn as_str(self) -> &'static str {
        match self {
            BundleState::Planned => "planned",
            BundleState::Sealed => "sealed",
            BundleState::AwaitingRelease => "awaiting-release",
            BundleState::Released => "released",
            BundleState::Refused => "refused",
            BundleState::Ready => "ready",
            BundleState::HandedOver => "handed-over",
            BundleState::Deleted => "deleted",
        }
    }
}

impl FromStr for BundleState {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        BundleState::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(UnknownName("bundle state"))
    }
}

/// The file of a sealed bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFile {
    /// The SHA-256 of the bundle's header.
    pub digest: BundleDigest,
    /// The file's name in the outbox.
    pub name: String,
    /// The file's length.
    pub bytes: u64,
    /// The file's SHA-256.
    pub sha256: [u8; 32],
}

/// One bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Its lane.
    pub lane: Lane,
    /// Its number in the lane.
    pub number: u64,
    /// How far it has come.
    pub state: BundleState,
    /// Why it was sealed.
    pub reason: SealReason,
    /// When its content was frozen.
    pub planned: Nanos,
    /// The first sequence number it accounts for.
    pub first_sequence: Sequence,
    /// The last one; one less than the first when it accounts for none.
    pub last_sequence: Sequence,
    /// The records it accounts for, in it or suppressed.
    pub records: u64,
    /// The length of their encodings.
    pub plain_bytes: u64,
    /// When its oldest record was received.
    pub oldest: Option<Nanos>,
    /// When its newest record was received.
    pub newest: Option<Nanos>,
    /// Its records and their raw bytes per stream, and what was suppressed.
    pub streams: Tally,
    /// The chain's hash before its first record.
    pub chain_before: BundleDigest,
    /// The chain's hash behind its last record.
    pub chain_head: BundleDigest,
    /// The digest of its predecessor.
    pub previous_digest: BundleDigest,
    /// Its file, once it is sealed.
    pub file: Option<SealedFile>,
    /// When it stood in the outbox.
    pub ready: Option<Nanos>,
    /// When and by what it was handed over.
    pub handed_over: Option<(Nanos, String)>,
    /// When its file was deleted.
    pub deleted: Option<Nanos>,
}

impl Bundle {
    /// The counts per stream, as a manifest lists them.
    pub fn stream_counts(&self) -> Vec<StreamCount> {
        let count = |(stream, Count { records, bytes })| StreamCount { stream, records, bytes };
        self.streams.kept.iter().map(count).collect()
    }

    /// The counts of what rules suppressed, as a manifest lists them.
    pub fn suppressed_counts(&self) -> Vec<SuppressedCount> {
        let count = |(rule, stream, Count { records, bytes }): (&str, Stream, Count)| {
            SuppressedCount { rule: rule.to_owned(), stream, records, bytes }
        };
        self.streams.suppressed().map(count).collect()
    }

    pub(super) fn load(
        conn: &Connection,
        lane: Lane,
        number: u64,
    ) -> Result<Option<Self>, BufferError> {
        conn.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?
            .query_row([key(lane, number)], |row| Ok(Self::from_row(row)))
            .optional()?
            .transpose()
    }

    /// Every bundle in a state, or in any, in the order of lanes and numbers.
    pub(super) fn list(
        conn: &Connection,
        state: Option<BundleState>,
    ) -> Result<Vec<Self>, BufferError> {
        let sql = match state {
            Some(_) => format!("{SELECT} WHERE state = ?1 ORDER BY id"),
            None => format!("{SELECT} WHERE ?1 IS NULL ORDER BY id"),
        };
        Self::all(conn, &sql, [state.map(BundleState::as_str)])
    }

    /// The bundles that a statement over [`SELECT`] gives.
    pub(super) fn all(
        conn: &Connection,
        sql: &str,
        params: impl Params,
    ) -> Result<Vec<Self>, BufferError> {
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let mut bundles = Vec::new();
        while let Some(row) = rows.next()? {
            bundles.push(Self::from_row(row)?);
        }
        Ok(bundles)
    }

    /// The bundles of a lane that were handed over first and whose files are kept.
    pub(super) fn oldest_handed_over(
        conn: &Connection,
        lane: Lane,
        count: u32,
    ) -> Result<Vec<Self>, BufferError> {
        let sql = format!(
            "{SELECT} WHERE state = 'handed-over' AND id BETWEEN ?1 AND ?2
             ORDER BY handed_over_ns, id LIMIT ?3"
        );
        let range = (key(lane, 0), key(lane, u64::MAX), count);
        Self::all(conn, &sql, range)
    }

    /// How many bundles are in a state, and the length of their files together.
    pub(super) fn sum(conn: &Connection, state: BundleState) -> Result<(u64, u64), BufferError> {
        let sql = "SELECT count(*), coalesce(sum(file_bytes), 0) FROM bundle WHERE state = ?1";
        let (count, bytes): (i64, i64) = conn
            .prepare_cached(sql)?
            .query_row([state.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((count.cast_unsigned(), bytes.cast_unsigned()))
    }

    /// When the oldest record of all bundles in a state was received.
    pub(super) fn oldest(
        conn: &Connection,
        lane: Lane,
        state: BundleState,
    ) -> Result<Option<Nanos>, BufferError> {
        let sql = "SELECT min(oldest_ns) FROM bundle
                   WHERE state = ?1 AND id BETWEEN ?2 AND ?3";
        let range = rusqlite::params![state.as_str(), key(lane, 0), key(lane, u64::MAX)];
        let oldest: Option<i64> = conn.prepare_cached(sql)?.query_row(range, |row| row.get(0))?;
        Ok(oldest.map(Nanos))
    }

    /// Forgets deleted bundles of a lane that lie far behind its newest one.
    pub(super) fn prune(conn: &Connection, lane: Lane, newest: u64) -> Result<usize, BufferError> {
        let last = newest.saturating_sub(DELETED_KEPT);
        Ok(conn.execute(
            "DELETE FROM bundle WHERE state = 'deleted' AND id BETWEEN ?1 AND ?2",
            rusqlite::params![key(lane, 0), key(lane, last)],
        )?)
    }

    pub(super) fn store(&self, conn: &Connection) -> Result<(), BufferError> {
        let chain = |digest: &BundleDigest| hash(digest.as_bytes());
        let file = self.file.as_ref();
        let handed_over = self.handed_over.as_ref();
        let values = seal_row(
            TABLE,
            vec![
                rusqlite::types::Value::Integer(key(self.lane, self.number)),
                text(self.state.as_str()),
                text(self.reason.as_str()),
                time(self.planned),
                number(self.first_sequence.0),
                number(self.last_sequence.0),
                number(self.records),
                number(self.plain_bytes),
                optional(self.oldest, time),
                optional(self.newest, time),
                text(self.streams.to_text()),
                chain(&self.chain_before),
                chain(&self.chain_head),
                chain(&self.previous_digest),
                optional(file, |file| chain(&file.digest)),
                optional(file, |file| text(file.name.as_str())),
                optional(file, |file| number(file.bytes)),
                optional(file, |file| hash(&file.sha256)),
                optional(self.ready, time),
                optional(handed_over, |(at, _)| time(*at)),
                optional(handed_over, |(_, by)| text(by.as_str())),
                optional(self.deleted, time),
            ],
        );
        conn.prepare_cached(
            "INSERT OR REPLACE INTO bundle VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
                ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)",
        )?
        .execute(params_from_iter(values))?;
        Ok(())
    }

    pub(super) fn from_row(row: &Row<'_>) -> Result<Self, BufferError> {
        let id: i64 = row.get(0)?;
        let broken = || BufferError::Broken("a bundle is of an unknown lane".to_owned());
        let digest = |hash: Hash| BundleDigest::from_bytes(hash);
        let mut fields = open_row(TABLE, row)?;
        fields.number()?;
        let mut bundle = Self {
            lane: lane_of_key(id).ok_or_else(broken)?,
            number: number_of_key(id),
            state: fields.parsed()?,
            reason: fields.parsed()?,
            planned: fields.time()?,
            first_sequence: Sequence(fields.number()?),
            last_sequence: Sequence(fields.number()?),
            records: fields.number()?,
            plain_bytes: fields.number()?,
            oldest: fields.optional_time()?,
            newest: fields.optional_time()?,
            streams: fields.counts()?,
            chain_before: digest(fields.hash()?),
            chain_head: digest(fields.hash()?),
            previous_digest: digest(fields.hash()?),
            file: None,
            ready: None,
            handed_over: None,
            deleted: None,
        };
        let file = (
            fields.optional_hash()?,
            fields.optional_text()?,
            fields.optional_number()?,
            fields.optional_hash()?,
        );
        if let (Some(header), Some(name), Some(bytes), Some(sha256)) = file {
            bundle.file = Some(SealedFile { digest: digest(header), name, bytes, sha256 });
        }
        bundle.ready = fields.optional_time()?;
        bundle.handed_over = fields.optional_time()?.zip(fields.optional_text()?);
        bundle.deleted = fields.optional_time()?;
        Ok(bundle)
    }
}

const TABLE: &str = "bundle";

/// So many deleted bundles of a lane are remembered; more would only make the database grow.
const DELETED_KEPT: u64 = 10_000;

pub(super) const SELECT: &str =
    "SELECT id, state, reason, planned_ns, first_sequence, last_sequence, records,
    plain_bytes, oldest_ns, newest_ns, streams, chain_before, chain_head, previous_digest, digest,
    file_name, file_bytes, file_sha256, ready_ns, handed_over_ns, handed_over_by, deleted_ns,
    \"check\" FROM bundle";
