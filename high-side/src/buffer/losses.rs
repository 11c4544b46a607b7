//! Losses: what the buffer knows to be missing, and why.
//!
//! A loss waits in table `loss` until a bundle of its lane is planned, which then declares it.

use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use shared::bundle::Loss;
pub use shared::bundle::LossReason;
use shared::clock::Nanos;
use shared::record::{Lane, Sequence};

use super::checked::{number, open_row, optional, seal_row, text, time};
use super::error::BufferError;
use super::intake::LostBefore;
use super::schema::{lane_code, lane_of_code};

/// A row of table `loss`.
struct LossRow {
    id: Option<u64>,
    lane: Lane,
    bundle: Option<u64>,
    loss: Loss,
}

/// Notes a loss that has no sequence numbers. Losses of one listener that wait together become
/// one, so that their number does not grow with their frequency.
pub(super) fn declare(conn: &Connection, before: &LostBefore) -> Result<(), BufferError> {
    if before.count == 0 {
        return Ok(());
    }
    let known = conn
        .prepare_cached(&select(
            "lane = ?1 AND bundle IS NULL AND reason = ?2 AND listener = ?3
            AND first_sequence IS NULL LIMIT 1",
        ))?
        .query_row(
            params![number(lane_code(before.lane)), before.reason.as_str(), before.listener],
            |row| Ok(from_row(row)),
        )
        .optional()?
        .transpose()?;
    let mut row = known.unwrap_or_else(|| LossRow {
        id: None,
        lane: before.lane,
        bundle: None,
        loss: Loss {
            reason: before.reason,
            listener: before.listener.clone(),
            count: 0,
            from: before.from.max(Nanos(0)),
            to: before.to.max(Nanos(0)),
            range: None,
        },
    });
    let loss = &mut row.loss;
    loss.count = loss.count.saturating_add(before.count);
    loss.from = loss.from.min(before.from).max(Nanos(0));
    loss.to = loss.to.max(before.to).max(loss.from);
    store(conn, &row)
}

/// Notes that records which were in the buffer can't be read any more, for a bundle to declare.
pub(super) fn declare_damage(
    conn: &Connection,
    lane: Lane,
    bundle: u64,
    (first, last): (u64, u64),
    found: Nanos,
) -> Result<(), BufferError> {
    let found = found.max(Nanos(0));
    let loss = Loss {
        reason: LossReason::BufferDamaged,
        listener: String::new(),
        count: last - first + 1,
        from: found,
        to: found,
        range: Some((Sequence(first), Sequence(last))),
    };
    store(conn, &LossRow { id: None, lane, bundle: Some(bundle), loss })
}

/// Gives waiting losses to a bundle, which declares them.
pub(super) fn assign(conn: &Connection, lane: Lane, bundle: u64) -> Result<(), BufferError> {
    for mut row in rows(conn, lane, None)? {
        row.bundle = Some(bundle);
        store(conn, &row)?;
    }
    Ok(())
}

/// When the first loss happened that waits to be declared.
pub(super) fn oldest_waiting(conn: &Connection, lane: Lane) -> Result<Option<Nanos>, BufferError> {
    let oldest: Option<i64> = conn
        .prepare_cached("SELECT min(from_ns) FROM loss WHERE lane = ?1 AND bundle IS NULL")?
        .query_row([number(lane_code(lane))], |row| row.get(0))?;
    Ok(oldest.map(Nanos))
}

/// The losses that a bundle declares: those without sequence numbers first, the others in order.
pub(super) fn of_bundle(
    conn: &Connection,
    lane: Lane,
    bundle: u64,
) -> Result<Vec<Loss>, BufferError> {
    Ok(rows(conn, lane, Some(bundle))?.into_iter().map(|row| row.loss).collect())
}

/// Losses that wait to be declared.
pub(super) fn waiting(conn: &Connection, lane: Lane) -> Result<Vec<Loss>, BufferError> {
    Ok(rows(conn, lane, None)?.into_iter().map(|row| row.loss).collect())
}

/// Every record lost without a sequence number, by reason, since the epoch began.
pub(super) fn declared_total(conn: &Connection, lane: Lane) -> Result<u64, BufferError> {
    let sum: i64 = conn.query_row(
        "SELECT coalesce(sum(count), 0) FROM loss WHERE lane = ?1 AND first_sequence IS NULL",
        [number(lane_code(lane))],
        |row| row.get(0),
    )?;
    Ok(sum.cast_unsigned())
}

fn rows(conn: &Connection, lane: Lane, bundle: Option<u64>) -> Result<Vec<LossRow>, BufferError> {
    let mut statement = conn.prepare_cached(&select(
        "lane = ?1 AND bundle IS ?2 ORDER BY first_sequence NULLS FIRST, id LIMIT ?3",
    ))?;
    let bundle = optional(bundle, number);
    let mut rows = statement.query(params![number(lane_code(lane)), bundle, ROWS_MAX])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(from_row(row)?);
    }
    Ok(found)
}

fn select(condition: &str) -> String {
    format!(
        "SELECT id, lane, bundle, reason, listener, count, from_ns, to_ns, first_sequence, \
         last_sequence, \"check\" FROM loss WHERE {condition}"
    )
}

fn from_row(row: &Row<'_>) -> Result<LossRow, BufferError> {
    let mut fields = open_row(TABLE, row)?;
    let id = Some(fields.number()?);
    let broken = || BufferError::Broken("a loss is of an unknown lane".to_owned());
    let lane = lane_of_code(fields.number()?).ok_or_else(broken)?;
    let bundle = fields.optional_number()?;
    let mut loss = Loss {
        reason: fields.parsed()?,
        listener: fields.text()?,
        count: fields.number()?,
        from: fields.time()?,
        to: fields.time()?,
        range: None,
    };
    if let (Some(first), Some(last)) = (fields.optional_number()?, fields.optional_number()?) {
        loss.range = Some((Sequence(first), Sequence(last)));
    }
    Ok(LossRow { id, lane, bundle, loss })
}

fn store(conn: &Connection, row: &LossRow) -> Result<(), BufferError> {
    let id = match row.id {
        Some(id) => id,
        None => conn
            .prepare_cached("SELECT coalesce(max(id), 0) + 1 FROM loss")?
            .query_row([], |row| row.get::<_, i64>(0))?
            .cast_unsigned(),
    };
    let Loss { reason, listener, count, from, to, range } = &row.loss;
    let values = seal_row(
        TABLE,
        vec![
            number(id),
            number(lane_code(row.lane)),
            optional(row.bundle, number),
            text(reason.as_str()),
            text(listener.as_str()),
            number(*count),
            time(*from),
            time(*to),
            optional(*range, |(first, _)| number(first.0)),
            optional(*range, |(_, last)| number(last.0)),
        ],
    );
    conn.prepare_cached(
        "INSERT OR REPLACE INTO loss VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params_from_iter(values))?;
    Ok(())
}

const TABLE: &str = "loss";

/// A manifest holds about 10,000 losses; a bundle declares at most this many, the next one goes on.
pub(super) const ROWS_MAX: i64 = 4096;
