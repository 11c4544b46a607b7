//! Verifying a whole log: every link, every number, every checkpoint, and its end.

use std::cmp::Ordering;
use std::io;

use serde::Serialize;

use super::{Checkpoint, CheckpointPolicy, CustodyFolder, DueLine, Entry, Head, LINE_BYTES_MAX};
use crate::bundle::BundleDigest;
use crate::clock::Nanos;
use crate::keys::{StatementKind, StatementProblem, StatementSigners};

/// So many findings are listed; a log with more is past listing.
const FINDINGS_MAX: usize = 1_000;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// An entry does not have the hash that the next one holds.
    Changed,
    /// A checkpoint's signature or its text does not fit.
    CheckpointBad,
    /// The files end before what the database, or a checkpoint kept elsewhere, knows.
    CutOff,
    /// A line is no entry.
    Malformed,
    /// An entry stands where it does not belong.
    Moved,
    /// Entries are missing.
    Removed,
    /// Entries that the database did not make.
    Unknown,
    /// No checkpoint for longer than checkpoints are made.
    Unsigned,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// The file.
    pub file: String,
    /// The line in it.
    pub line: u64,
    /// The entry's number, where the line has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// What it means.
    pub text: String,
}

/// What the database knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The last entry that was made.
    pub made: Head,
    /// The last one that was written.
    pub written: Head,
}

impl Known {
    /// What is known of a log whose last entry is `made`, and of whose lines `first` is the first that
    /// waits to be written.
    pub fn of(made: Head, first: Option<&DueLine>) -> Self {
        let written = first.map_or(made, |first| Head {
            number: first.number.saturating_sub(1),
            hash: Entry::parse(first.line.as_bytes())
                .map_or(BundleDigest::ZERO, |entry| entry.previous),
        });
        Self { made, written }
    }
}

/// What a walk found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Lines that are entries.
    pub entries: u64,
    /// The last entry's number.
    pub last: u64,
    /// Its hash.
    pub head: String,
    /// Checkpoints whose signature holds.
    pub checkpoints: u64,
    /// Everything up to this entry is covered by one.
    pub signed_through: u64,
    /// When the last of them was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<String>,
    /// The keys that made them.
    pub keys: Vec<String>,
    /// What is wrong, in the order of the files.
    pub findings: Vec<Finding>,
    /// How many there are, listed or not.
    pub found: u64,
    /// The file and the line of the last entry.
    #[serde(skip)]
    end: (String, u64),
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.found == 0
    }

    fn add(&mut self, kind: FindingKind, file: &str, line: u64, entry: Option<u64>, text: String) {
        self.found += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { kind, file: file.to_owned(), line, entry, text });
        }
    }

    fn add_at_end(&mut self, kind: FindingKind, text: String) {
        let (file, line) = self.end.clone();
        let entry = Some(self.last).filter(|last| *last > 0);
        self.add(kind, &file, line, entry, text);
    }

    /// Compares the end with the last entry that the database has made by now: it is asked after the
    /// walk, since an agent may have gone on meanwhile.
    pub fn compare_end(&mut self, made: Head) {
        if self.last > made.number {
            let text = format!(
                "the log goes on to entry {}, but the database has made {}: the rest was added by somebody else, or the database was restored from a backup",
                self.last, made.number
            );
            self.add_at_end(FindingKind::Unknown, text);
        }
    }
}

/// A line as the walk remembers it.
struct Before {
    head: Head,
    file: String,
    line: u64,
}

/// Walks the whole log.
///
/// `known` is what the database knew before the walk began, if there is one; `signers` whose
/// checkpoints count; `against` checkpoints that were kept elsewhere.
///
/// # Errors
/// A file can't be read. What is wrong with the log is no error but a finding.
pub fn verify(
    folder: &CustodyFolder,
    known: Option<Known>,
    signers: &StatementSigners,
    against: &[Checkpoint],
) -> io::Result<Verdict> {
    verify_with(folder, known, signers, against, &mut |_| {})
}

/// As [`verify`], and shows every entry. What an entry says holds only if its number is at most the verdict's
/// `signed_through`: a checkpoint covers it then, and every link up to that one was sound.
///
/// # Errors
/// A file can't be read.
pub fn verify_with(
    folder: &CustodyFolder,
    known: Option<Known>,
    signers: &StatementSigners,
    against: &[Checkpoint],
    each: &mut dyn FnMut(&Entry),
) -> io::Result<Verdict> {
    let mut walk = Walk {
        verdict: Verdict {
            entries: 0,
            last: 0,
            head: BundleDigest::ZERO.to_string(),
            checkpoints: 0,
            signed_through: 0,
            signed_at: None,
            keys: Vec::new(),
            findings: Vec::new(),
            found: 0,
            end: (String::new(), 0),
        },
        signers,
        before: None,
        expected: against.iter().filter_map(Checkpoint::head).collect(),
        oldest_unsigned: None,
        each,
    };
    walk.expected.extend(known.map(|known| known.written).filter(|head| head.number > 0));
    folder.for_each_line(|place, line| {
        walk.line(place.segment, place.line, place.first, line);
        Ok::<(), io::Error>(())
    })?;
    Ok(walk.end(known))
}

struct Walk<'a> {
    verdict: Verdict,
    signers: &'a StatementSigners,
    before: Option<Before>,
    /// Heads that the log must pass through.
    expected: Vec<Head>,
    /// When the oldest entry behind the last good checkpoint was made.
    oldest_unsigned: Option<Nanos>,
    each: &'a mut dyn FnMut(&Entry),
}

impl Walk<'_> {
    fn line(&mut self, file: &str, line: u64, first: u64, bytes: &[u8]) {
        let hash = BundleDigest::of(bytes);
        let before = self.before.take();
        let expected = before.as_ref().map_or(1, |before| before.head.number + 1);
        let whole = bytes.ends_with(b"\n") && bytes.len() <= LINE_BYTES_MAX;
        let parsed = if whole {
            Entry::parse(bytes).map_err(|problem| problem.0)
        } else {
            Err("has no end")
        };
        let number = match parsed {
            Err(problem) => {
                let text = format!(
                    "this line {problem}: entry {expected} was changed, or a crash left it unfinished"
                );
                self.verdict.add(FindingKind::Malformed, file, line, None, text);
                expected
            }
            Ok(entry) => {
                self.verdict.entries += 1;
                if line == 1 && entry.number != first {
                    let text = format!("the file's name says that it begins with entry {first}");
                    self.verdict.add(FindingKind::Moved, file, line, Some(entry.number), text);
                }
                self.link(file, line, before.as_ref(), expected, &entry);
                self.oldest_unsigned.get_or_insert(entry.event.at);
                (self.each)(&entry);
                if let Some(checkpoint) = &entry.checkpoint {
                    self.checkpoint(file, line, &entry, checkpoint);
                }
                entry.number
            }
        };
        let head = Head { number, hash };
        let mut differing = false;
        self.expected.retain(|expected| {
            differing |= expected.number == number && expected.hash != hash;
            expected.number != number
        });
        if differing {
            let text = format!(
                "entry {number} is not the one that was written: its hash differs from what is known of it elsewhere"
            );
            self.verdict.add(FindingKind::Changed, file, line, Some(number), text);
        }
        self.verdict.last = self.verdict.last.max(number);
        self.verdict.head = hash.to_string();
        self.verdict.end = (file.to_owned(), line);
        self.before = Some(Before { head, file: file.to_owned(), line });
    }

    /// Whether an entry follows from the line before it.
    fn link(
        &mut self,
        file: &str,
        line: u64,
        before: Option<&Before>,
        expected: u64,
        entry: &Entry,
    ) {
        let number = Some(entry.number);
        match entry.number.cmp(&expected) {
            Ordering::Greater => {
                let text = match entry.number - 1 {
                    last if last == expected => {
                        format!("entry {expected} is missing before this line")
                    }
                    last => format!("entries {expected} to {last} are missing before this line"),
                };
                self.verdict.add(FindingKind::Removed, file, line, number, text);
            }
            Ordering::Less => {
                let text = format!(
                    "entry {} stands behind entry {}: it was moved, repeated or inserted",
                    entry.number,
                    expected - 1
                );
                self.verdict.add(FindingKind::Moved, file, line, number, text);
            }
            Ordering::Equal => {
                let hash = before.map_or(BundleDigest::ZERO, |before| before.head.hash);
                if entry.previous == hash {
                    return;
                }
                let (file, line, entry) = match before {
                    Some(before) => (before.file.as_str(), before.line, expected - 1),
                    None => (file, line, expected),
                };
                let text = format!(
                    "entry {entry} does not have the hash that the entry behind it holds: it was changed, or the one behind it was"
                );
                self.verdict.add(FindingKind::Changed, file, line, Some(entry), text);
            }
        }
    }

    fn checkpoint(&mut self, file: &str, line: u64, entry: &Entry, checkpoint: &Checkpoint) {
        let states = Head { number: entry.number.saturating_sub(1), hash: entry.previous };
        let verified = if checkpoint.head() == Some(states) {
            let statement = checkpoint.statement.as_bytes();
            let signature = checkpoint.signature.as_bytes();
            self.signers
                .verify(StatementKind::Custody, statement, signature, entry.event.at)
                .map_err(|problem| problem.to_string())
        } else {
            Err("it does not state the entry before it".to_owned())
        };
        match verified {
            Ok(by) => {
                self.verdict.checkpoints += 1;
                // What an altered stretch holds is not covered by what is signed behind it.
                if self.verdict.found == 0 {
                    self.verdict.signed_through = entry.number;
                }
                self.verdict.signed_at = Some(entry.event.at.to_string());
                self.oldest_unsigned = None;
                if !self.verdict.keys.contains(&by.key) {
                    self.verdict.keys.push(by.key);
                }
            }
            Err(problem) => {
                let mut text = format!("the checkpoint does not hold: {problem}");
                if problem == StatementProblem::UnknownKey.to_string() {
                    text.push_str("; give the keys that signed it with --signers FILE");
                }
                self.verdict.add(FindingKind::CheckpointBad, file, line, Some(entry.number), text);
            }
        }
    }

    fn end(mut self, known: Option<Known>) -> Verdict {
        let last = self.verdict.last;
        let beyond = self.expected.iter().map(|head| head.number).max();
        if let Some(beyond) = beyond.filter(|beyond| *beyond > last) {
            let text = format!(
                "the log ends with entry {last}, but entry {beyond} had been written: its end was cut off"
            );
            self.verdict.add_at_end(FindingKind::CutOff, text);
        }
        // Where nobody has a key nothing is signed, and an alarm of the agent says so.
        let policy = CheckpointPolicy::default();
        if let (Some(oldest), false) = (self.oldest_unsigned, self.signers.is_empty()) {
            let unsigned = last.saturating_sub(self.verdict.signed_through);
            if known.is_some() && unsigned > UNSIGNED_FACTOR * policy.entries {
                let text = format!(
                    "the last {unsigned} entries, from {oldest} on, are behind the last checkpoint; one is due every {} entries",
                    policy.entries
                );
                self.verdict.add_at_end(FindingKind::Unsigned, text);
            }
        }
        self.verdict
    }
}

/// A stretch without a checkpoint is a finding when it is so many times as long as it should get.
const UNSIGNED_FACTOR: u64 = 4;
