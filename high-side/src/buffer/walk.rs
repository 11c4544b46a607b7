//! Walks the chain of a lane and tells what is whole from what is damaged.
//!
//! A block is whole if its hash fits its contents and it links to the whole block before it.
//! Whatever lies in the range and is covered by no whole block is damaged: so a damaged range is
//! exact even where the damaged row can't say any more what it held, or can't be read at all.

use std::ops::ControlFlow;

use rusqlite::{Connection, Row, params};
use shared::clock::Nanos;
use shared::record::Lane;

use super::block::{Block, Hash, Life};
use super::counts::Tally;
use super::error::{BufferError, Fault, sqlite_fault};
use super::schema::{key, lane_of_key, number_of_key};

/// Where a walk begins and where it must end.
pub(super) struct Route<'a> {
    pub(super) life: &'a Life,
    pub(super) lane: Lane,
    /// The first sequence of the walk, and the chain's hash before it.
    pub(super) first: u64,
    pub(super) chain_before: Hash,
    /// The last sequence of the walk, and the chain's hash behind it.
    pub(super) last: u64,
    pub(super) chain_head: Hash,
}

/// What a walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// The last sequence that was walked over.
    pub(super) last: u64,
    /// The chain's hash behind it.
    pub(super) chain: Hash,
    /// The damaged ranges up to there, in order, apart from each other.
    pub(super) damaged: Vec<(u64, u64)>,
}

/// Walks a route and shows every whole block to `visit`. When that breaks, the walk ends before
/// the block it was shown last; damage before that block still belongs to the walk.
pub(super) fn walk<E: From<BufferError>>(
    conn: &Connection,
    route: &Route<'_>,
    mut visit: impl FnMut(&Block) -> Result<ControlFlow<()>, E>,
) -> Result<Walked, E> {
    let mut expected = route.first;
    let mut link = route.chain_before;
    let mut damaged = Vec::new();
    let mut chunk = Vec::new();
    let mut from = route.first;
    while from <= route.last {
        let more = read_chunk(conn, route, from, &mut chunk)?;
        for block in chunk.drain(..) {
            from = block.first + 1;
            // Behind a damaged block nobody knows what to link to.
            let links = block.first > expected || block.previous == link;
            // The last block must be the one that the lane's state names.
            let ends = block.end() <= route.last
                || block.end() == route.last + 1 && block.hash == route.chain_head;
            let in_place = block.first >= expected && ends && links;
            if !in_place || !block.is_intact(route.life) {
                continue;
            }
            let stop = visit(&block)?.is_break();
            if block.first > expected {
                damaged.push((expected, block.first - 1));
            }
            if stop {
                return Ok(Walked { last: block.first - 1, chain: block.previous, damaged });
            }
            expected = block.end();
            link = block.hash;
        }
        if !more {
            break;
        }
    }
    if expected <= route.last {
        damaged.push((expected, route.last));
    }
    Ok(Walked { last: route.last, chain: route.chain_head, damaged })
}

/// Reads some blocks that begin at `from` or later, and says whether there may be more. The
/// statement is finished before anybody works on the blocks: a reader that stays keeps the log
/// from being checkpointed. Rows that can't be read are passed over.
fn read_chunk(
    conn: &Connection,
    route: &Route<'_>,
    from: u64,
    chunk: &mut Vec<Block>,
) -> Result<bool, BufferError> {
    let mut from = from;
    loop {
        match read_rows_surely(conn, route.lane, from, route.last, chunk, CHUNK_ROWS) {
            Ok(more) => return Ok(more),
            Err(err) if err.fault() == Fault::Corrupt => {
                if !chunk.is_empty() {
                    return Ok(true);
                }
                match next_readable(conn, route.lane, from, route.last)? {
                    Some(next) => from = next,
                    None => return Ok(false),
                }
            }
            Err(err) => return Err(err),
        }
    }
}

/// `SQLite` calls a page that the disk did not give a damaged one. What is believed to be damaged is
/// declared lost, so that one verdict is not enough.
fn read_rows_surely(
    conn: &Connection,
    lane: Lane,
    from: u64,
    last: u64,
    chunk: &mut Vec<Block>,
    rows_max: i64,
) -> Result<bool, BufferError> {
    let begin = chunk.len();
    for _ in 1..VERDICTS {
        match read_rows(conn, lane, from, last, chunk, rows_max) {
            Err(err) if err.fault() == Fault::Corrupt => chunk.truncate(begin),
            result => return result,
        }
    }
    read_rows(conn, lane, from, last, chunk, rows_max)
}

fn read_rows(
    conn: &Connection,
    lane: Lane,
    from: u64,
    last: u64,
    chunk: &mut Vec<Block>,
    rows_max: i64,
) -> Result<bool, BufferError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, records, plain_bytes, oldest_ns, newest_ns, streams, previous, hash, body
         FROM block LEFT JOIN body USING (id)
         WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![key(lane, from), key(lane, last), rows_max])?;
    let mut bytes = 0;
    let mut taken = 0;
    while let Some(row) = rows.next()? {
        taken += 1;
        // A row with a value of the wrong kind is damaged; the walk will miss it.
        match from_row(row) {
            Ok(block) => {
                bytes += block.body.len();
                chunk.push(block);
            }
            Err(err) if sqlite_fault(&err) == Fault::Corrupt => {
                let first = number_of_key(row.get(0)?);
                chunk.push(Block { first, ..unreadable(lane) });
            }
            Err(err) => return Err(err.into()),
        }
        if bytes >= CHUNK_BYTES {
            return Ok(true);
        }
    }
    Ok(taken == rows_max)
}

/// The first sequence behind `from` at which a row can be read again, where reading at `from`
/// fails: doubling steps, then halving ones.
fn next_readable(
    conn: &Connection,
    lane: Lane,
    from: u64,
    last: u64,
) -> Result<Option<u64>, BufferError> {
    let readable = |at: u64| match read_rows_surely(conn, lane, at, last, &mut Vec::new(), 1) {
        Ok(_) => Ok(true),
        Err(err) if err.fault() == Fault::Corrupt => Ok(false),
        Err(err) => Err(err),
    };
    let (mut bad, mut step) = (from, 1);
    let mut good = loop {
        let at = bad.saturating_add(step);
        if at > last {
            break last + 1;
        }
        if readable(at)? {
            break at;
        }
        bad = at;
        step *= 2;
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if readable(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok((good <= last).then_some(good))
}

/// Reads the columns of a block in the order of [`read_rows`].
fn from_row(row: &Row<'_>) -> rusqlite::Result<Block> {
    let key: i64 = row.get(0)?;
    let number = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let streams = row.get_ref(5)?.as_str()?;
    let streams =
        Tally::from_text(streams).ok_or(rusqlite::Error::IntegralValueOutOfRange(5, 0))?;
    Ok(Block {
        lane: lane_of_key(key).ok_or(rusqlite::Error::IntegralValueOutOfRange(0, key))?,
        first: number_of_key(key),
        records: number(1)?,
        plain_bytes: number(2)?,
        oldest: Nanos(row.get(3)?),
        newest: Nanos(row.get(4)?),
        streams,
        previous: row.get(6)?,
        hash: row.get(7)?,
        body: row.get(8)?,
    })
}

/// A stand-in for a row that can't be read; it is never intact.
fn unreadable(lane: Lane) -> Block {
    Block {
        lane,
        first: 0,
        records: 0,
        plain_bytes: 0,
        oldest: Nanos(0),
        newest: Nanos(0),
        streams: Tally::default(),
        previous: [0; 32],
        hash: [0; 32],
        body: Vec::new(),
    }
}

/// How often a row must turn out damaged before that is believed.
const VERDICTS: u32 = 3;

/// Rows read by one statement.
const CHUNK_ROWS: i64 = 32;

/// Bytes of bodies read by one statement; bounds memory, and how long a reader is seen.
const CHUNK_BYTES: usize = 1024 * 1024;
