//! What one set of files counts, beside what every listener counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// The counters and gauges of one set of files, from its start.
#[derive(Debug, Default)]
pub struct FileCounters {
    pub(super) files: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) backlog_bytes: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) rewritten: AtomicU64,
    pub(super) nul_bytes: AtomicU64,
    pub(super) unread_gone: AtomicU64,
    pub(super) unread_gone_bytes: AtomicU64,
    pub(super) oldest: Mutex<Option<Oldest>>,
}

/// The file whose unread bytes have waited longest.
#[derive(Clone, Debug)]
pub(super) struct Oldest {
    pub(super) path: String,
    pub(super) since: Instant,
}

/// The counters of one set of files at one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileSnapshot {
    /// Files known now, finished ones that are still there among them.
    pub files: u64,
    /// Files open now.
    pub open: u64,
    /// Bytes that lie in files and were not read; compressed where the file is.
    pub backlog_bytes: u64,
    /// Files and folders that can't be read at present.
    pub unreadable: u64,
    /// Files that are not read since there are too many.
    pub refused: u64,
    /// How often a file was truncated or written anew in place.
    pub rewritten: u64,
    /// NUL bytes passed over at the beginning of lines.
    pub nul_bytes: u64,
    /// Files that went away with a rest that was not read, or may have had one.
    pub unread_gone: u64,
    /// The bytes of those rests, as far as they are known.
    pub unread_gone_bytes: u64,
    /// The file whose unread bytes have waited longest.
    pub oldest_unread: Option<String>,
    /// For how long, in seconds.
    pub oldest_unread_secs: f64,
}

impl FileCounters {
    /// The counters now. Each is exact; together they may be a moment apart.
    pub fn snapshot(&self) -> FileSnapshot {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let oldest = self.oldest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        FileSnapshot {
            files: of(&self.files),
            open: of(&self.open),
            backlog_bytes: of(&self.backlog_bytes),
            unreadable: of(&self.unreadable),
            refused: of(&self.refused),
            rewritten: of(&self.rewritten),
            nul_bytes: of(&self.nul_bytes),
            unread_gone: of(&self.unread_gone),
            unread_gone_bytes: of(&self.unread_gone_bytes),
            oldest_unread_secs: oldest
                .as_ref()
                .map_or(0.0, |oldest| oldest.since.elapsed().as_secs_f64()),
            oldest_unread: oldest.map(|oldest| oldest.path),
        }
    }

    pub(super) fn set_oldest(&self, oldest: Option<Oldest>) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }
}
