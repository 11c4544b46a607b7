//! What is to be written, given what the database knows and what the files hold. Pure.

use super::{Action, CustodyEvent, Entry, Head, Tail};
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
    // What the database knows to be written: everything before the first line that waits.
    let before = match due.first() {
        None => head,
        Some(first) => Head {
            number: first.number.saturating_sub(1),
            hash: Entry::parse(first.line.as_bytes())
                .map_or(BundleDigest::ZERO, |entry| entry.previous),
        },
    };
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
