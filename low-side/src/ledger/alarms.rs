//! What an operator must be told, until it is acknowledged.

use std::time::Duration;

use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;
use shared::clock::Nanos;

use super::{Ledger, LedgerError, uint};

/// The code of every alarm there is. The handbook has a line for each.
pub const ALARM_CODES: [&str; 34] = [
    "archive-conflict",
    "archive-lag",
    "archive-refused",
    "custody-changed",
    "custody-not-signed",
    "custody-not-written",
    "disk-low",
    "epoch-began",
    "fork",
    "gap",
    "gap-passed",
    "import-failed",
    "inbox-ignored",
    "inbox-not-writable",
    "inbox-unreadable",
    "ledger-rebuilt",
    "ledger-restored",
    "loss-declared",
    "quarantined",
    "receipt-not-written",
    "receiver-trouble",
    "receiver-wrong",
    "record-chain-broken",
    "rollback",
    "silence",
    "sink-file-changed",
    "sink-lag",
    "sink-not-confirming",
    "sink-rejects",
    "store-damaged",
    "store-journal-damaged",
    "store-not-admitted",
    "store-over",
    "store-unreadable",
];

/// One thing that an operator must be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Its id, for `acknowledge`.
    pub id: i64,
    /// Its stable code.
    pub code: String,
    /// Whom or what it is about.
    pub subject: String,
    /// The latest message.
    pub message: String,
    /// How often it was raised.
    pub count: u64,
    /// When it was first raised, RFC 3339.
    pub first: String,
    /// When it was last raised, RFC 3339.
    pub last: String,
    /// When the cause ended by itself, RFC 3339.
    pub closed: Option<String>,
}

impl Ledger {
    /// Raises an alarm. The same code and subject again counts up instead of adding a row.
    pub fn raise(
        &mut self,
        code: &str,
        subject: &str,
        message: &str,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let tx = self.begin()?;
        raise(&tx, code, subject, message, now)?;
        Ok(tx.commit()?)
    }

    /// Raises an alarm, unless it stands there already: for what is met again every second.
    pub fn raise_once(
        &mut self,
        code: &str,
        subject: &str,
        message: &str,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let open = self
            .conn
            .prepare_cached(
                "SELECT 1 FROM alarm WHERE code = ?1 AND subject = ?2 AND closed_ns IS NULL AND acknowledged_ns IS NULL",
            )?
            .exists(params![code, subject])?;
        if open { Ok(()) } else { self.raise(code, subject, message, now) }
    }

    /// Raises an alarm about what has lasted since `since` and is met again every second. One stands until
    /// it is acknowledged; that means "I know", and neither "it is well" nor "tell me no more": while the
    /// same lasts on, there is another one each time that `again` has passed.
    pub fn raise_lasting(
        &mut self,
        code: &str,
        subject: &str,
        message: &str,
        (since, again): (Nanos, Duration),
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let last: Option<(i64, Option<i64>)> = self
            .conn
            .prepare_cached(
                "SELECT last_ns, acknowledged_ns FROM alarm WHERE code = ?1 AND subject = ?2
                 ORDER BY acknowledged_ns IS NULL DESC, id DESC LIMIT 1",
            )?
            .query_row(params![code, subject], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let is_told = match last {
            None => false,
            Some((last, None)) => Nanos(last) >= since,
            Some((last, Some(known))) => Nanos(last) >= since && now.since(Nanos(known)) <= again,
        };
        if is_told { Ok(()) } else { self.raise(code, subject, message, now) }
    }

    /// Notes that the cause of an alarm has ended. Does not touch the disk where there is none.
    pub fn close_alarm(
        &mut self,
        code: &str,
        subject: &str,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let open = self
            .conn
            .prepare_cached(
                "SELECT 1 FROM alarm WHERE code = ?1 AND subject = ?2 AND closed_ns IS NULL AND acknowledged_ns IS NULL",
            )?
            .exists(params![code, subject])?;
        if open {
            let tx = self.begin()?;
            close(&tx, code, Some(subject), now)?;
            tx.commit()?;
        }
        Ok(())
    }

    /// The alarms that nobody has acknowledged, oldest first, at most 1,000.
    pub fn alarms(&self) -> Result<Vec<Alarm>, LedgerError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT id, code, subject, message, count, first_ns, last_ns, closed_ns FROM alarm
             WHERE acknowledged_ns IS NULL ORDER BY id LIMIT ?1",
        )?;
        let rows = statement.query_map([LISTED_MAX], |row| {
            Ok(Alarm {
                id: row.get(0)?,
                code: row.get(1)?,
                subject: row.get(2)?,
                message: row.get(3)?,
                count: uint(row.get(4)?),
                first: Nanos(row.get(5)?).to_string(),
                last: Nanos(row.get(6)?).to_string(),
                closed: row.get::<_, Option<i64>>(7)?.map(|ns| Nanos(ns).to_string()),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Acknowledges one alarm, or all; returns how many.
    pub fn acknowledge(&mut self, id: Option<i64>, now: Nanos) -> Result<usize, LedgerError> {
        Ok(self.conn.execute(
            "UPDATE alarm SET acknowledged_ns = ?2 WHERE acknowledged_ns IS NULL AND (?1 IS NULL OR id = ?1)",
            params![id, now.0],
        )?)
    }
}

/// As many alarms as are listed at once.
const LISTED_MAX: i64 = 1_000;

pub(super) fn raise(
    tx: &Transaction<'_>,
    code: &str,
    subject: &str,
    message: &str,
    now: Nanos,
) -> Result<(), LedgerError> {
    debug_assert!(ALARM_CODES.contains(&code), "{code} is not in the list");
    let again = tx
        .prepare_cached(
            "UPDATE alarm SET count = count + 1, last_ns = ?3, message = ?4, closed_ns = NULL
             WHERE code = ?1 AND subject = ?2 AND acknowledged_ns IS NULL",
        )?
        .execute(params![code, subject, now.0, message])?;
    if again == 0 {
        tx.prepare_cached(
            "INSERT INTO alarm (code, subject, message, count, first_ns, last_ns) VALUES (?1, ?2, ?4, 1, ?3, ?3)",
        )?
        .execute(params![code, subject, now.0, message])?;
    }
    tracing::error!(code, subject, message, "alarm");
    Ok(())
}

pub(super) fn close(
    tx: &Transaction<'_>,
    code: &str,
    subject: Option<&str>,
    now: Nanos,
) -> Result<(), LedgerError> {
    tx.prepare_cached(
        "UPDATE alarm SET closed_ns = ?3 WHERE code = ?1 AND (?2 IS NULL OR subject = ?2)
             AND closed_ns IS NULL AND acknowledged_ns IS NULL",
    )?
    .execute(params![code, subject, now.0])?;
    Ok(())
}
