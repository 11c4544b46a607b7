//! Alarms: what the operator must be told, shown until acknowledged.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use shared::clock::Nanos;

use super::checked::time;
use super::error::BufferError;

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmKind {
    /// Records in the buffer can't be read any more.
    BlockDamaged,
    /// The buffer begins behind a backup that was restored.
    BufferRestored,
    /// A broken database was set aside.
    BufferSetAside,
    /// The custody log is not what was written, or its database is another one.
    CustodyChanged,
    /// Checkpoints of the custody log can't be signed.
    CustodyNotSigned,
    /// The custody log's files can't be written.
    CustodyNotWritten,
    /// A new epoch began although there had been one before.
    EpochBegan,
    /// Something in a file went away, or was damaged, before it was read.
    FileUnread,
    /// A bundle was not handed over within its lane's budget.
    HandOverOverdue,
    /// A sealed bundle's file is missing or changed.
    OutboxDamaged,
    /// A Portainer could not be asked for so long that what syslog lost may be gone.
    ReconcileOverdue,
    /// A receipt names bundles that were never sealed here.
    ReceiptFork,
    /// Records that never came by syslog were asked for and taken.
    RecordsRecovered,
    /// A bundle has waited for officers longer than its lane's budget.
    ReleaseOverdue,
    /// An officer refused a bundle.
    ReleaseRefused,
    /// Bundles of an earlier epoch wait for officers, and can't be released.
    ReleaseStranded,
}

impl AlarmKind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::BlockDamaged,
        Self::BufferRestored,
        Self::BufferSetAside,
        Self::CustodyChanged,
        Self::CustodyNotSigned,
        Self::CustodyNotWritten,
        Self::EpochBegan,
        Self::FileUnread,
        Self::HandOverOverdue,
        Self::OutboxDamaged,
        Self::ReconcileOverdue,
        Self::ReceiptFork,
        Self::RecordsRecovered,
        Self::ReleaseOverdue,
        Self::ReleaseRefused,
        Self::ReleaseStranded,
    ];

    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            AlarmKind::BlockDamaged => "block-damaged",
            AlarmKind::BufferRestored => "buffer-restored",
            AlarmKind::BufferSetAside => "buffer-set-aside",
            AlarmKind::CustodyChanged => "custody-changed",
            AlarmKind::CustodyNotSigned => "custody-not-signed",
            AlarmKind::CustodyNotWritten => "custody-not-written",
            AlarmKind::EpochBegan => "epoch-began",
            AlarmKind::FileUnread => "file-unread",
            AlarmKind::HandOverOverdue => "hand-over-overdue",
            AlarmKind::OutboxDamaged => "outbox-damaged",
            AlarmKind::ReconcileOverdue => "reconcile-overdue",
            AlarmKind::ReceiptFork => "receipt-fork",
            AlarmKind::RecordsRecovered => "records-recovered",
            AlarmKind::ReleaseOverdue => "release-overdue",
            AlarmKind::ReleaseRefused => "release-refused",
            AlarmKind::ReleaseStranded => "release-stranded",
        }
    }
}

/// One alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Its number, by which it is acknowledged.
    pub id: i64,
    /// When it was raised.
    pub raised: Nanos,
    /// The name of its [`AlarmKind`].
    pub kind: String,
    /// What happened, in words.
    pub message: String,
    /// When somebody acknowledged it.
    pub acknowledged: Option<Nanos>,
}

/// Whether an alarm about what lasts is to be raised, where `last` is the one that was raised about it
/// last. One stands until it is acknowledged. After that the same is told again when `again` has
/// passed, and at once where something came to it at `news`, after the last one was raised:
/// acknowledging means "I know", and neither "it is well" nor "tell me no more".
pub fn is_due(last: Option<&Alarm>, news: Option<Nanos>, again: Duration, now: Nanos) -> bool {
    let Some(last) = last else { return true };
    let Some(known) = last.acknowledged else { return false };
    news.is_some_and(|news| news > last.raised) || now.since(known) > again
}

/// The last alarm of a kind whose message holds `part`; one that nobody has acknowledged before all.
pub(super) fn last(
    conn: &Connection,
    kind: AlarmKind,
    part: &str,
) -> Result<Option<Alarm>, BufferError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, raised_ns, kind, message, acknowledged_ns FROM alarm
         WHERE kind = ?1 AND instr(message, ?2) > 0
         ORDER BY acknowledged_ns IS NULL DESC, id DESC LIMIT 1",
    )?;
    Ok(statement.query_row(params![kind.as_str(), part], alarm).optional()?)
}

fn alarm(row: &Row<'_>) -> rusqlite::Result<Alarm> {
    Ok(Alarm {
        id: row.get(0)?,
        raised: Nanos(row.get(1)?),
        kind: row.get(2)?,
        message: row.get(3)?,
        acknowledged: row.get::<_, Option<i64>>(4)?.map(Nanos),
    })
}

pub(super) fn raise(
    conn: &Connection,
    kind: AlarmKind,
    message: &str,
    now: Nanos,
) -> Result<(), BufferError> {
    conn.execute(
        "INSERT INTO alarm (raised_ns, kind, message) VALUES (?1, ?2, ?3)",
        params![time(now), kind.as_str(), message],
    )?;
    Ok(())
}

pub(super) fn list(conn: &Connection, with_acknowledged: bool) -> Result<Vec<Alarm>, BufferError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, raised_ns, kind, message, acknowledged_ns FROM alarm
         WHERE ?1 OR acknowledged_ns IS NULL ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![with_acknowledged, ALARMS_MAX], alarm)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Acknowledges one alarm, or all; returns how many that were.
pub(super) fn acknowledge(
    conn: &Connection,
    id: Option<i64>,
    now: Nanos,
) -> Result<usize, BufferError> {
    Ok(conn.execute(
        "UPDATE alarm SET acknowledged_ns = ?2
         WHERE acknowledged_ns IS NULL AND (?1 IS NULL OR id = ?1)",
        params![id, time(now)],
    )?)
}

/// More are not listed at once, the newest first.
const ALARMS_MAX: i64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_and_lasts_is_told_again() {
        let again = Duration::from_nanos(100);
        let alarm = |acknowledged: Option<i64>| Alarm {
            id: 1,
            raised: Nanos(1_000),
            kind: AlarmKind::HandOverOverdue.as_str().to_owned(),
            message: String::new(),
            acknowledged: acknowledged.map(Nanos),
        };
        let due = |acknowledged, news: Option<i64>, now| {
            is_due(Some(&alarm(acknowledged)), news.map(Nanos), again, Nanos(now))
        };
        assert!(is_due(None, None, again, Nanos(1)), "nothing was told yet");
        assert!(!due(None, Some(2_000), 9_000), "one stands");
        assert!(
            !due(Some(1_010), None, 1_110) && !due(Some(1_010), Some(900), 1_110),
            "it is known"
        );
        assert!(due(Some(1_010), None, 1_111), "it has lasted on");
        assert!(due(Some(1_010), Some(1_005), 1_011), "something came to it");
    }
}
