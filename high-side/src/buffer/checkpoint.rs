//! A thread that copies the database's log into the database while the writer goes on writing.
//!
//! A checkpoint in the writer's own commit makes everybody wait for tens of milliseconds: the
//! pages of many commits are written and synced at once. A passive checkpoint from another
//! connection takes no lock that a writer needs. It can't begin the log anew while commits keep
//! coming; the writer does that, rarely, with little left to copy ([`LOG_FACTOR`]).

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::error::BufferError;
use super::schema;

/// The writer itself checkpoints when the log is so many times as large as what this thread is
/// called for.
pub(super) const LOG_FACTOR: u64 = 4;

/// The running thread; ends when dropped.
#[derive(Debug)]
pub(super) struct Checkpointer {
    calls: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Bytes committed since the last call.
    committed: u64,
    every: u64,
}

impl Checkpointer {
    /// Starts the thread for a database; it is called after every so many committed bytes.
    pub(super) fn start(database: PathBuf, every: u64) -> Result<Self, BufferError> {
        let (calls, inbox) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("buffer-checkpoint".to_owned())
            .spawn(move || run(&database, &inbox))
            .map_err(BufferError::Thread)?;
        Ok(Self { calls: Some(calls), thread: Some(thread), committed: 0, every })
    }

    /// Notes a commit, and calls the thread when it is time.
    pub(super) fn committed(&mut self, bytes: u64) {
        self.committed += bytes;
        if self.committed >= self.every {
            self.committed = 0;
            // A call that waits already will do for this one, too.
            if let Some(calls) = &self.calls {
                let _ = calls.try_send(());
            }
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(database: &std::path::Path, calls: &Receiver<()>) {
    let mut conn = None;
    for () in calls {
        let result = match conn.take() {
            Some(conn) => Ok(conn),
            None => schema::connect(database, false),
        };
        let result = result.and_then(|conn| {
            conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            Ok(conn)
        });
        match result {
            Ok(usable) => conn = Some(usable),
            // The writer's own checkpoint will meet whatever it is, and knows what to do.
            Err(err) => tracing::debug!(%err, "a checkpoint beside the writer failed"),
        }
    }
}
