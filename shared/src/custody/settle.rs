//! What is to be written, given what the database knows and what the files hold ([`plan`], pure), and
//! the loop of both sides that writes it ([`settle`]).

use std::io;

use super::{Action, CustodyEvent, CustodyFolder, CustodyLock, Entry, Head, Known, Tail};
use crate::bundle::BundleDigest;
use crate::clock::Nanos;

/// A line that waits to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueLine {
    /// The entry's number.
    pub number: u64,
    /// The whole line, with its line feed.
    pub line: String,
}

/// What does not fit between the database and the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Surprise {
    /// The files end before what is known to have been written.
    Cut {
        /// The last entry that was written.
        written: u64,
        /// The last one found.
        found: u64,
    },
    /// The last line is not the one that was written.
    Changed {
        /// The entry's number.
        number: u64,
    },
    /// The files go on behind what the database knows: it is new, or was restored from a backup.
    Ahead {
        /// The last entry that the database knows.
        known: u64,
        /// The last one found.
        found: u64,
    },
    /// The last line is no entry.
    Unreadable,
}

impl std::fmt::Display for Surprise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cut { written, found } => write!(
                f,
                "the custody log ends at entry {found}, but {written} had been written: its end was cut off"
            ),
            Self::Changed { number } => {
                write!(f, "entry {number} of the custody log is not the one that was written")
            }
            Self::Ahead { known, found } => write!(
                f,
                "the database knows {known} entries of the custody log, which has {found}: the database is new or was restored, or entries were added by somebody else"
            ),
            Self::Unreadable => f.write_str("the last line of the custody log is no entry"),
        }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The lines from this index on are to be written; then all of them can be forgotten.
    Write {
        /// How many stand in the files already.
        written: usize,
        /// What the operator must know.
        surprise: Option<Surprise>,
    },
    /// The database must take these lines and this head in place of its own; then ask again.
    Renumber {
        /// The lines.
        lines: Vec<DueLine>,
        /// The head behind them.
        head: Head,
        /// What the operator must know.
        surprise: Surprise,
    },
}

/// Decides what to write: `head` is the last entry that the database made, `due` the lines that it
/// has not seen written, in order, and `tail` the end of the files.
pub fn plan(head: Head, due: &[DueLine], tail: &Tail, now: Nanos) -> Plan {
    let write = |written: usize, surprise| Plan::Write { written, surprise };
    let before = Known::of(head, due.first()).written;
    let Some(found) = tail.head else {
        return write(0, Some(Surprise::Unreadable));
    };
    if found.number > head.number {
        let surprise = Surprise::Ahead { known: head.number, found: found.number };
        return renumber(found, due, surprise, now);
    }
    if found.number < before.number {
        let surprise = Surprise::Cut { written: before.number, found: found.number };
        return write(0, Some(surprise));
    }
    if found.number == before.number {
        let surprise =
            (found.hash != before.hash).then_some(Surprise::Changed { number: found.number });
        return write(0, surprise);
    }
    let at = due.iter().position(|line| line.number == found.number);
    match at {
        Some(at) if BundleDigest::of(due[at].line.as_bytes()) == found.hash => write(at + 1, None),
        // Restored from a backup, the database has made other entries under the same numbers.
        _ => {
            let surprise = Surprise::Ahead { known: before.number, found: found.number };
            renumber(found, due, surprise, now)
        }
    }
}

/// The two tables in which a database keeps the log's end and what waits to be written.
pub trait CustodyRows {
    /// Why they could not be read or changed, or the files not be written.
    type Error: From<io::Error>;

    /// The last entry that was made, and the first `count` lines that wait, as of one moment.
    fn due(&mut self, count: u32) -> Result<(Head, Vec<DueLine>), Self::Error>;
    /// Notes an event.
    fn note(&mut self, event: CustodyEvent) -> Result<(), Self::Error>;
    /// Raises an alarm for what the operator must know, and notes the event, in one transaction.
    fn note_surprise(
        &mut self,
        surprise: &Surprise,
        event: CustodyEvent,
    ) -> Result<(), Self::Error>;
    /// Forgets the lines up to this number: they are written.
    fn forget(&mut self, through: u64) -> Result<(), Self::Error>;
    /// Asks [`plan`] once more about all lines that wait, those added since among them, and takes what it
    /// gives, where that is to renumber them, with an alarm: all in one transaction.
    fn renumber(&mut self, tail: &Tail) -> Result<(), Self::Error>;
}

/// Writes what waits to the log's files, whose lock is held.
pub fn settle<R: CustodyRows>(
    rows: &mut R,
    folder: &CustodyFolder,
    lock: &CustodyLock,
    now: Nanos,
) -> Result<(), R::Error> {
    let mut told = false;
    loop {
        let tail = folder.tail(lock)?;
        if tail.cut > 0 {
            let detail = format!("{} bytes of an unfinished line were cut off", tail.cut);
            tracing::warn!(detail, "the end of the custody log was mended");
            rows.note(CustodyEvent::new(now, Action::Repaired).detail(detail))?;
        }
        let (head, due) = rows.due(LINES_AT_ONCE)?;
        match plan(head, &due, &tail, now) {
            Plan::Write { surprise: Some(surprise), .. } if !told => {
                told = true;
                let event = CustodyEvent::new(now, Action::Continued).detail(surprise.to_string());
                rows.note_surprise(&surprise, event)?;
            }
            Plan::Write { written, .. } => {
                folder.append(lock, &due[written..])?;
                keep_checkpoint(folder, &due);
                let Some(last) = due.last() else { return Ok(()) };
                rows.forget(last.number)?;
                if last.number == head.number {
                    return Ok(());
                }
            }
            Plan::Renumber { .. } => rows.renumber(&tail)?,
        }
    }
}

/// The newest checkpoint stands beside the log, for somebody to take away. A copy: no loss where it
/// can't be written.
fn keep_checkpoint(folder: &CustodyFolder, lines: &[DueLine]) {
    let newest = lines.iter().rev().find_map(|line| {
        Entry::parse(line.line.as_bytes()).ok().and_then(|entry| entry.checkpoint)
    });
    if let Some(checkpoint) = newest
        && let Err(err) = folder.keep_checkpoint(&checkpoint)
    {
        tracing::warn!(%err, "the newest checkpoint can't be kept beside the custody log");
    }
}

/// So many lines are written with one sync.
const LINES_AT_ONCE: u32 = 4_096;

/// Links the lines behind another end. Checkpoints among them are left out: what they state does not
/// hold there.
fn renumber(found: Head, due: &[DueLine], surprise: Surprise, now: Nanos) -> Plan {
    let note = CustodyEvent::new(now, Action::Continued).detail(surprise.to_string());
    let entries = due.iter().filter_map(|due| Entry::parse(due.line.as_bytes()).ok());
    let events = entries.filter(|entry| entry.checkpoint.is_none()).map(|entry| entry.event);
    let (mut head, mut lines) = (found, Vec::new());
    for event in std::iter::once(note).chain(events) {
        let (line, next) = head.append(event);
        lines.push(DueLine { number: next.number, line });
        head = next;
    }
    Plan::Renumber { lines, head, surprise }
}
