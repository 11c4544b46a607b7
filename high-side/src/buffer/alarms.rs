//! Alarms: what the operator must be told, shown until acknowledged.

use rusqlite::{Connection, params};
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
    let rows = statement.query_map(params![with_acknowledged, ALARMS_MAX], |row| {
        Ok(Alarm {
            id: row.get(0)?,
            raised: Nanos(row.get(1)?),
            kind: row.get(2)?,
            message: row.get(3)?,
            acknowledged: row.get::<_, Option<i64>>(4)?.map(Nanos),
        })
    })?;
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
