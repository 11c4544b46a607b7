//! Which records were issued, and whether what came out is exactly that.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memchr::memmem;

/// The id of an issued record as it stands in its message: `evt-` and ten digits.
pub fn id_text(id: u64) -> String {
    format!("{ID_PREFIX}{id:0ID_DIGITS$}")
}

/// The first id in some bytes, with the offset behind it.
pub fn find_id(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut from = 0;
    while let Some(at) = memmem::find(&bytes[from..], ID_PREFIX.as_bytes()) {
        let start = from + at + ID_PREFIX.len();
        let digits = bytes.get(start..start + ID_DIGITS)?;
        if let Some(id) = parse_id(digits) {
            return Some((id, start + ID_DIGITS));
        }
        from = start;
    }
    None
}

fn parse_id(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |id: u64, digit| {
        digit.is_ascii_digit().then(|| id * 10 + u64::from(digit - b'0'))
    })
}

/// What stands before the number of an id.
pub const ID_PREFIX: &str = "evt-";
/// How many digits the number of an id has.
pub const ID_DIGITS: usize = 10;

/// Knows every record that was issued, by its unique id.
#[derive(Debug, Default)]
pub struct Oracle {
    next: u64,
    // What was certainly taken; a record that was issued but not taken may be lost.
    taken: BTreeSet<u64>,
}

impl Oracle {
    /// An oracle whose ids begin with 1.
    pub fn new() -> Self {
        Self { next: 1, taken: BTreeSet::new() }
    }

    /// Issues so many new ids; their records may arrive, but need not until [`Oracle::taken`].
    pub fn issue(&mut self, count: u64) -> Range<u64> {
        let first = self.next;
        self.next += count;
        first..self.next
    }

    /// Notes that these records were taken: from now on their loss is a loss.
    pub fn taken(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.taken.extend(ids);
    }

    /// Compares what was delivered with what was issued and taken.
    pub fn judge(&self, delivered: impl IntoIterator<Item = u64>) -> Verdict {
        let mut verdict = Verdict { taken: self.taken.len(), ..Verdict::default() };
        let mut seen = BTreeSet::new();
        for id in delivered {
            verdict.delivered += 1;
            if id == 0 || id >= self.next {
                verdict.foreign.push(id);
            } else if !seen.insert(id) {
                verdict.repeated.push(id);
            }
        }
        verdict.lost = self.taken.difference(&seen).copied().collect();
        verdict
    }
}

/// How a delivery differs from what was issued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many records were taken.
    pub taken: usize,
    /// How many were delivered, repetitions included.
    pub delivered: usize,
    /// Taken but not delivered.
    pub lost: Vec<u64>,
    /// Delivered again; an id stands here once for each repetition.
    pub repeated: Vec<u64>,
    /// Delivered but never issued.
    pub foreign: Vec<u64>,
}

impl Verdict {
    /// Nothing lost, nothing repeated, nothing foreign.
    ///
    /// # Panics
    /// Otherwise, with the ids.
    pub fn assert_exactly_once(&self) {
        let clean = self.lost.is_empty() && self.repeated.is_empty() && self.foreign.is_empty();
        assert!(clean, "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} taken, {} delivered", self.taken, self.delivered)?;
        let faults =
            [("lost", &self.lost), ("repeated", &self.repeated), ("foreign", &self.foreign)];
        for (name, ids) in faults {
            write!(f, "; {} {name}", ids.len())?;
            if !ids.is_empty() {
                write!(f, " ({})", ranges(ids))?;
            }
        }
        Ok(())
    }
}

/// Ids as ranges, the first few of them: `3-7, 12`.
fn ranges(ids: &[u64]) -> String {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs: Vec<String> = sorted
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [one] => one.to_string(),
            _ => format!("{}-{}", run[0], run[run.len() - 1]),
        })
        .collect();
    let shown = runs.iter().take(RANGES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if runs.len() > RANGES_SHOWN { format!("{shown}, ...") } else { shown }
}

const RANGES_SHOWN: usize = 8;

/// The lines of one file, or of all files of a folder in the order of their names.
pub fn lines_of(path: &Path) -> Vec<Vec<u8>> {
    files_of(path).iter().flat_map(|file| read_lines(file)).collect()
}

/// The ids in the lines of a file or folder, one for each line that has one, in order.
pub fn ids_of(path: &Path) -> Vec<u64> {
    lines_of(path).iter().filter_map(|line| find_id(line)).map(|(id, _)| id).collect()
}

/// The lines of a file or folder as JSON.
///
/// # Panics
/// When a line is no JSON.
pub fn events_of(path: &Path) -> Vec<serde_json::Value> {
    let parse = |line: Vec<u8>| {
        serde_json::from_slice(&line)
            .unwrap_or_else(|err| panic!("no JSON: {err}: {}", String::from_utf8_lossy(&line)))
    };
    lines_of(path).into_iter().map(parse).collect()
}

fn files_of(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).expect("the folder can be read");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.is_file());
    files.sort();
    files
}

/// The whole lines of a file; a last line without its line feed is not complete and not given.
fn read_lines(file: &Path) -> Vec<Vec<u8>> {
    let Ok(file) = File::open(file) else {
        return Vec::new();
    };
    let mut reader = BufReader::new(file);
    let mut lines = Vec::new();
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).expect("the file can be read") > 0 {
        if line.pop() == Some(b'\n') {
            lines.push(std::mem::take(&mut line));
        } else {
            break;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Sandbox;

    #[test]
    fn ids_are_found_behind_lookalikes() {
        assert_eq!(id_text(42), "evt-0000000042");
        assert_eq!(find_id(b"evt-x evt-0000000042,"), Some((42, 20)));
        assert_eq!(find_id(b"evt-000000004"), None);
    }

    #[test]
    fn every_difference_is_named() {
        let mut oracle = Oracle::new();
        let ids = oracle.issue(10);
        oracle.taken(ids.clone());
        let untaken = oracle.issue(2);
        oracle.judge(ids.chain(untaken)).assert_exactly_once();

        let verdict = oracle.judge([1, 2, 2, 6, 7, 8, 9, 10, 99]);
        assert_eq!((&*verdict.lost, &*verdict.repeated), (&[3, 4, 5][..], &[2][..]));
        assert_eq!(
            verdict.to_string(),
            "10 taken, 9 delivered; 3 lost (3-5); 1 repeated (2); 1 foreign (99)"
        );
    }

    #[test]
    fn a_torn_last_line_is_not_read() {
        let sandbox = Sandbox::new("lines");
        std::fs::write(sandbox.join("b"), "evt-0000000002 half").unwrap();
        std::fs::write(sandbox.join("a"), "{\"id\":\"evt-0000000001\"}\n").unwrap();
        assert_eq!(ids_of(sandbox.path()), [1]);
        assert_eq!(events_of(sandbox.path())[0]["id"], "evt-0000000001");
    }
}
