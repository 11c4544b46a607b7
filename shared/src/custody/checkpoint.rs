//! Signed checkpoints: how far the log has come, in a text that `ssh-keygen -Y verify` checks.
//!
//! ```text
//! penstock-custody 1
//! side high
//! name plant-7
//! entries 17
//! head <SHA-256 of line 17>
//! time 2026-11-25T03:00:00.000000000Z
//! ```
//!
//! The text and its signature stand in an entry of their own, and the newest also in two files beside
//! the log, for somebody to take away: with a checkpoint kept elsewhere a log can't be rewritten even
//! by who holds the key.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use super::{Action, CustodyEvent, Head};
use crate::bundle::BundleDigest;
use crate::clock::Nanos;
use crate::keys::{Side, SigningKey, StatementKind};

/// A statement about the log, and its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The text.
    pub statement: String,
    /// The armored signature.
    pub signature: String,
}

/// Whose log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The side.
    pub side: Side,
    /// The origin, or the low side's name.
    pub name: String,
}

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPolicy {
    /// After so many entries,
    pub entries: u64,
    /// or when the oldest entry that none covers is so old.
    pub interval: Duration,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        // What could be cut off unnoticed by who changes the database, too: a few minutes' work.
        Self { entries: 256, interval: Duration::from_mins(10) }
    }
}

impl CheckpointPolicy {
    /// Whether a log is to be signed of which so many entries were made, so many of them are signed, and
    /// the oldest of the others was made at `since`. Without a policy it is where any is unsigned.
    pub fn asks(policy: Option<&Self>, made: u64, signed: u64, since: Nanos, now: Nanos) -> bool {
        let unsigned = made.saturating_sub(signed);
        policy.map_or(unsigned > 0, |policy| policy.is_due(unsigned, since, now))
    }

    /// Whether a checkpoint is due: `unsigned` entries since the last, the oldest of them at `since`.
    pub fn is_due(&self, unsigned: u64, since: Nanos, now: Nanos) -> bool {
        unsigned >= self.entries || unsigned > 0 && now.since(since) >= self.interval
    }
}

impl Checkpoint {
    /// Reads a checkpoint that was taken away: the text, and its signature in `FILE.sig`. `None` where the
    /// text is none.
    ///
    /// # Errors
    /// The file that could not be read, and why.
    pub fn read(file: &Path) -> Result<Option<Self>, (PathBuf, io::Error)> {
        let mut signature = file.as_os_str().to_owned();
        signature.push(".sig");
        let read = |path: &Path| fs::read_to_string(path).map_err(|err| (path.to_owned(), err));
        let checkpoint = Self { statement: read(file)?, signature: read(Path::new(&signature))? };
        Ok(Some(checkpoint).filter(|checkpoint| checkpoint.head().is_some()))
    }

    /// Signs a log's head; gives the line of the entry and the head behind it.
    pub fn append(
        head: &Head,
        identity: &Identity,
        key: &SigningKey,
        now: Nanos,
    ) -> Result<(String, Head), ssh_key::Error> {
        let statement = format!(
            "{BEGIN}\nside {}\nname {}\nentries {}\nhead {}\ntime {now}\n",
            identity.side, identity.name, head.number, head.hash
        );
        let signature = key.sign_statement(StatementKind::Custody, statement.as_bytes())?;
        let event = CustodyEvent::new(now, Action::Checkpoint);
        Ok(head.append_with(event, Some(Self { statement, signature })))
    }

    /// The head that it states; `None` where the text is no such statement.
    pub fn head(&self) -> Option<Head> {
        let mut lines = self.statement.split_terminator('\n');
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        if field("penstock-custody")? != "1" {
            return None;
        }
        field("side")?;
        field("name")?;
        let number = field("entries")?.parse().ok()?;
        let hash: BundleDigest = field("head")?.parse().ok()?;
        field("time")?.parse::<Nanos>().ok()?;
        lines.next().is_none().then_some(Head { number, hash })
    }
}

/// The first line of a statement.
const BEGIN: &str = "penstock-custody 1";
