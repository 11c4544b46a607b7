//! Ranges of sequence numbers, for each sink and chain, in tables of one form: what overlaps or touches
//! is one row.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{ChainId, LedgerError, SinkId, int, uint};
use crate::ranges::RangeSet;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spans {
    /// What a sink has dealt with.
    Delivered,
    /// Of this, what it never got: it had left the store.
    PassedOver,
    /// Of this, what was dealt with before it was counted bundle by bundle.
    Uncounted,
}

impl Spans {
    fn table(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::PassedOver => "passed_over",
            Self::Uncounted => "uncounted",
        }
    }
}

/// Everything of a chain.
pub(super) fn read(
    conn: &Connection,
    spans: Spans,
    sink: SinkId,
    chain: ChainId,
) -> Result<RangeSet, LedgerError> {
    let sql = format!("SELECT first, last FROM {} WHERE sink = ?1 AND chain = ?2", spans.table());
    let mut statement = conn.prepare_cached(&sql)?;
    let rows =
        statement.query_map([sink, chain], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
    let mut ranges = RangeSet::default();
    for row in rows {
        let (first, last) = row?;
        ranges.insert(first, last);
    }
    Ok(ranges)
}

/// Whether any of these numbers is there.
pub(super) fn overlap(
    conn: &Connection,
    spans: Spans,
    sink: SinkId,
    chain: ChainId,
    (first, last): (u64, u64),
) -> Result<bool, LedgerError> {
    // The last range that does not begin behind them ends last, too.
    let sql = format!(
        "SELECT last FROM {} WHERE sink = ?1 AND chain = ?2 AND first <= ?3 ORDER BY first DESC LIMIT 1",
        spans.table()
    );
    let found = conn
        .prepare_cached(&sql)?
        .query_row(params![sink, chain, int(last)], |row| row.get(0))
        .optional()?;
    Ok(found.is_some_and(|end| uint(end) >= first))
}

/// Adds a range, and gives what it became a part of. One that ends before it begins adds nothing.
pub(super) fn insert(
    tx: &Transaction<'_>,
    spans: Spans,
    sink: SinkId,
    chain: ChainId,
    (first, last): (u64, u64),
) -> Result<(u64, u64), LedgerError> {
    if first > last {
        return Ok((first, last));
    }
    let mut merged = RangeSet::default();
    merged.insert(first, last);
    for (start, end) in touching(tx, spans, sink, chain, (first.saturating_sub(1), last + 1))? {
        merged.insert(start, end);
        delete(tx, spans, sink, chain, start)?;
    }
    let (first, last) = merged.iter().next().unwrap_or((first, last));
    put(tx, spans, sink, chain, (first, last))?;
    Ok((first, last))
}

/// Takes a range out.
pub(super) fn cut(
    tx: &Transaction<'_>,
    spans: Spans,
    sink: SinkId,
    chain: ChainId,
    (first, last): (u64, u64),
) -> Result<(), LedgerError> {
    for (start, end) in touching(tx, spans, sink, chain, (first, last))? {
        delete(tx, spans, sink, chain, start)?;
        for (start, end) in [(start, first.saturating_sub(1).min(end)), (start.max(last + 1), end)]
        {
            if start <= end {
                put(tx, spans, sink, chain, (start, end))?;
            }
        }
    }
    Ok(())
}

/// The ranges that have a number in common with this one.
fn touching(
    tx: &Transaction<'_>,
    spans: Spans,
    sink: SinkId,
    chain: ChainId,
    (first, last): (u64, u64),
) -> Result<Vec<(u64, u64)>, LedgerError> {
    let sql = format!(
        "SELECT first, last FROM {} WHERE sink = ?1 AND chain = ?2 AND first <= ?3 ORDER BY first DESC",
        spans.table()
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![sink, chain, int(last)])?;
    let mut found = Vec::new();
    // They stand apart: behind the first that ends before ours, downwards, all do.
    while let Some(row) = rows.next()? {
        let (start, end) = (uint(row.get(0)?), uint(row.get(1)?));
        if end < first {
            break;
        }
        found.push((start, end));
    }
    Ok(found)
}

fn delete(
    tx: &Transaction<'_>,
    spans: Spans,
    sink: SinkId,
    chain: ChainId,
    first: u64,
) -> Result<(), LedgerError> {
    let sql =
        format!("DELETE FROM {} WHERE sink = ?1 AND chain = ?2 AND first = ?3", spans.table());
    tx.prepare_cached(&sql)?.execute(params![sink, chain, int(first)])?;
    Ok(())
}

fn put(
    tx: &Transaction<'_>,
    spans: Spans,
    sink: SinkId,
    chain: ChainId,
    (first, last): (u64, u64),
) -> Result<(), LedgerError> {
    let sql = format!("INSERT INTO {} VALUES (?1, ?2, ?3, ?4)", spans.table());
    tx.prepare_cached(&sql)?.execute(params![sink, chain, int(first), int(last)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::Ledger;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_table_of_ranges_is_a_set(
            steps in proptest::collection::vec((any::<bool>(), 1_u64..40, 0_u64..12), 1..40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut ledger = Ledger::open(dir.path()).unwrap();
            let tx = ledger.begin().unwrap();
            let mut model = std::collections::BTreeSet::new();
            for (add, first, more) in steps {
                let range = (first, first + more);
                if add {
                    let (start, end) = insert(&tx, Spans::PassedOver, 1, 1, range).unwrap();
                    prop_assert!(start <= range.0 && end >= range.1);
                    model.extend(range.0..=range.1);
                } else {
                    cut(&tx, Spans::PassedOver, 1, 1, range).unwrap();
                    model.retain(|number| !(range.0..=range.1).contains(number));
                }
                let found = read(&tx, Spans::PassedOver, 1, 1).unwrap();
                let rows: i64 = tx.query_row("SELECT count(*) FROM passed_over", [], |row| row.get(0)).unwrap();
                prop_assert_eq!(found.iter().count(), usize::try_from(rows).unwrap(), "they stand apart");
                let all: Vec<u64> = found.iter().flat_map(|(first, last)| first..=last).collect();
                prop_assert_eq!(all, model.iter().copied().collect::<Vec<u64>>());
                let hit = overlap(&tx, Spans::PassedOver, 1, 1, range).unwrap();
                prop_assert_eq!(hit, model.range(range.0..=range.1).next().is_some());
            }
        }
    }

    #[test]
    fn what_ends_before_it_begins_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let tx = ledger.begin().unwrap();
        assert_eq!(insert(&tx, Spans::Delivered, 1, 1, (5, 4)).unwrap(), (5, 4));
        assert_eq!(read(&tx, Spans::Delivered, 1, 1).unwrap(), RangeSet::default());
    }
}
