//! Files: read line by line while others write, rename, copy, compress and delete them.
//!
//! ```text
//! patterns ─> listing ─> scan: which file goes on with which content ─> rounds: a piece of each ─> Intake
//!                ^                                                         │
//!                └── folder changed (inotify), or the poll interval ───────┘
//! ```
//!
//! - A **content** is what a program wrote, wherever its bytes lie by now; its position is stored as a
//!   mark in the transaction that makes the records durable which were read up to there. So whatever
//!   stops the agent, no line is read twice and none is left out.
//! - A content is known by device and inode while its file lives, and else by fingerprints of what was
//!   read of it: renamed, copied and compressed files go on where the original stopped.
//! - A line is a record without its line feed, to the byte. A line without one is no record until its
//!   line feed comes, or its file is known to be finished: rotated, and unchanged for a while.
//! - Where bytes may have been written that nobody can read any more, an alarm says so; how many is
//!   said only if it is known.
//! - Invariant: notifications only shorten the wait. Nothing depends on one that comes.
//! - Bounded: [`FILES_MAX`] files of a set, [`OPEN_FILES_MAX`] of them open, one compressed one read at
//!   a time, one piece and one line in memory.

mod content;
mod counters;
mod glob;
mod gzip;
mod print;
mod reading;
mod rotation;
mod scan;
mod tailer;
mod wake;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use shared::record::{Lane, Stream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::ingest::{Gate, IngestCounters, Surroundings};

use tailer::Tailer;
use wake::Wake;

pub use counters::{FileCounters, FileSnapshot};
pub use glob::{Pattern, PatternError, Rotated};

/// One set of files, as configured.
#[derive(Clone, Debug)]
pub struct FileSettings {
    /// Its name, kept with each record.
    pub name: String,
    /// Which files.
    pub paths: Vec<Pattern>,
    /// Which names count as those of rotated files.
    pub rotated: Rotated,
    /// The lane of its records.
    pub lane: Lane,
    /// The stream of its records; recognised from each record's bytes if none is given.
    pub stream: Option<Stream>,
    /// The longest line that is kept whole. A longer one is cut, marked and counted.
    pub message_bytes_max: usize,
    /// Where reading begins in the files that are there when the set is read for the first time.
    pub from: BeginAt,
    /// How long it waits for what.
    pub timing: Timing,
    /// Whether the system is asked to tell of changes.
    pub notifications: bool,
}

/// Where reading begins in a file that is there when its set is read for the first time. Whatever
/// appears later is read from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BeginAt {
    /// With the first line: evidence is not left out because the agent came late.
    #[default]
    Beginning,
    /// With the first line that ends after the agent came.
    End,
}

/// How long a set waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Files are looked for and looked at this often, whatever the system tells or does not tell.
    pub poll: Duration,
    /// A rotated file that did not change for so long is finished: a program that is told to open its
    /// log anew by a signal writes into the old one until then.
    pub rotated_idle: Duration,
    /// A content whose file is gone is remembered for so long, in case it comes back compressed.
    pub gone_grace: Duration,
    /// A file that begins as another one, too short to be sure, is a file of its own when neither
    /// changed for so long.
    pub copy_grace: Duration,
    /// A compressed file that belongs to nothing known is read once it did not change for so long.
    pub gzip_settle: Duration,
    /// A compressed file that can't be read to its end and did not change for so long is damaged.
    pub gzip_damaged: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            rotated_idle: Duration::from_secs(30),
            gone_grace: Duration::from_mins(10),
            copy_grace: Duration::from_secs(10),
            gzip_settle: Duration::from_secs(5),
            gzip_damaged: Duration::from_mins(2),
        }
    }
}

/// Tells the operator of something that stays to be acknowledged.
pub type Alarm = Box<dyn FnMut(&str) + Send>;

/// A set of files being read.
#[derive(Debug)]
pub struct RunningFiles {
    /// Its name.
    pub name: String,
    /// What it counts, as any listener.
    pub counters: Arc<IngestCounters>,
    /// What it counts of its files.
    pub files: Arc<FileCounters>,
    /// Ends after shutdown, when everything read is handed over; an earlier end is a fault.
    pub task: JoinHandle<Result<(), TailError>>,
}

/// Why a set of files can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// A thread can't be started, or died.
    #[error("files {0:?}: their thread can't run")]
    Thread(String),
}

/// What the names of all marks of a set begin with.
pub fn mark_prefix(name: &str) -> String {
    format!("file/{name}/")
}

/// Starts to read a set of files from where `marks` (of [`mark_prefix`]) say; call it inside a tokio
/// runtime.
pub fn spawn(
    settings: FileSettings,
    marks: &[(String, String)],
    alarm: Alarm,
    surroundings: &Surroundings,
) -> Result<RunningFiles, TailError> {
    let counters = Arc::new(IngestCounters::default());
    let files = Arc::new(FileCounters::default());
    let gate = Gate {
        lane: settings.lane,
        stream: settings.stream,
        guard: Arc::clone(&surroundings.guard),
        intake: surroundings.intake.clone(),
        clock: Arc::clone(&surroundings.clock),
        counters: Arc::clone(&counters),
    };
    let name = settings.name.clone();
    let shutdown = surroundings.shutdown.clone();
    let tailer =
        Tailer::new(settings, marks, gate, Arc::clone(&files), alarm, shutdown, Instant::now());
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name(format!("file-{name}"))
        .spawn(move || {
            run(tailer);
            // The receiver is gone only if nobody waits for this thread any more.
            let _ = done.send(());
        })
        .map_err(|_| TailError::Thread(name.clone()))?;
    let thread_name = name.clone();
    let task = tokio::spawn(async move { ended.await.map_err(|_| TailError::Thread(thread_name)) });
    Ok(RunningFiles { name, counters, files, task })
}

/// Reads until told to stop, or until the buffer takes nothing any more.
fn run(mut tailer: Tailer) {
    let timing = tailer.settings().timing;
    let mut wake = Wake::new(tailer.settings().notifications);
    let mut scanned: Option<Instant> = None;
    while !tailer.is_stopping() {
        let now = Instant::now();
        let due = scanned.is_none_or(|then| {
            let age = now.duration_since(then);
            age >= timing.poll
                || age >= SCAN_PAUSE && (wake.folder_changed() || tailer.wants_scan())
        });
        if due {
            let folders = tailer.scan(now);
            wake.watch(folders);
            if scanned.is_none() {
                let (name, known) = (&tailer.settings().name, tailer.known());
                tracing::info!(files = %name, known, "reading files");
            }
            scanned = Some(Instant::now());
        }
        match tailer.round(now) {
            Ok(true) => {}
            Ok(false) => wake.wait(timing.poll.min(STOP_CHECK)),
            Err(_closed) => return,
        }
    }
}

/// What `check-config` says of a set: nothing that matches can't be read.
pub fn check(settings: &FileSettings) -> Vec<String> {
    let listing = glob::list(&settings.paths, &settings.rotated);
    let mut problems: Vec<String> = listing
        .troubles
        .iter()
        .filter(|(_, trouble)| **trouble != glob::Trouble::NoFile)
        .map(|(path, trouble)| scan::trouble_text(path, *trouble))
        .collect();
    for found in &listing.files {
        if let Err(err) = content::open(&found.path) {
            problems.push(scan::trouble_text(&found.path, glob::Trouble::of(&err)));
        }
    }
    problems
}

impl fmt::Display for BeginAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BeginAt::Beginning => "beginning",
            BeginAt::End => "end",
        })
    }
}

/// The most files of one set that are open at one time. The service may open 65,536.
pub const OPEN_FILES_MAX: usize = 256;

/// The most files of one set.
pub const FILES_MAX: usize = glob::FILES_MAX;

/// Folders are listed no more often than this, however busy they are.
const SCAN_PAUSE: Duration = Duration::from_millis(100);

/// How long the thread waits before it looks whether to stop.
const STOP_CHECK: Duration = Duration::from_millis(200);
