//! What a receiver refused for good: kept with the reason, counted, and sent again when asked.
//!
//! `STATE/dead-letters/SINK.ndjson`, one line for each:
//!
//! ```text
//! {"rejected":"2026-11-23T21:10:19.000000000Z","sink":"splunk","reason":"code 6: Invalid data format","event":{...}}
//! ```
//!
//! A line is durable before the ledger counts its record as dealt with. A process that is killed
//! between the two writes the line once more: `event.id` tells them apart. The record itself stays in
//! the store, so that a retry sends what crossed the gap, not what stands here.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Deserialize;
use shared::clock::Nanos;
use shared::durable;

use crate::event::CHAIN_BYTES_MAX;
use crate::ledger::ChainName;

/// The dead letters of one sink.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    dir: PathBuf,
    sink: String,
}

/// One dead letter, as it is listed.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// When it was rejected, RFC 3339.
    pub rejected: String,
    /// What the receiver said.
    pub reason: String,
    /// The record's id.
    pub id: String,
    /// Its chain.
    pub chain: ChainName,
    /// Its number.
    pub sequence: u64,
    /// Its stream.
    pub stream: String,
}

#[derive(Deserialize)]
struct Line {
    rejected: String,
    reason: String,
    event: Event,
}

#[derive(Deserialize)]
struct Event {
    id: String,
    origin: String,
    epoch: u64,
    lane: String,
    sequence: u64,
    stream: String,
}

impl DeadLetters {
    /// Those of a sink; nothing is made yet.
    pub fn of(state_dir: &Path, sink: &str) -> Self {
        Self { dir: state_dir.join(DIR_NAME), sink: sink.to_owned() }
    }

    /// The file that is written to.
    pub fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.ndjson", self.sink))
    }

    /// The files that letters wait in, whether or not these are there.
    pub fn files(&self) -> [PathBuf; 2] {
        [self.path(), self.retrying()]
    }

    /// The file while a retry works it off.
    fn retrying(&self) -> PathBuf {
        self.dir.join(format!("{}.retrying", self.sink))
    }

    /// Adds lines, which are durable when this returns. What a write that was cut short left at the
    /// end of the file is cut off first.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        durable::create_dir(&self.dir)?;
        let existed = self.path().try_exists()?;
        let mut file = loop {
            let file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(OFlag::O_NOFOLLOW.bits())
                .open(self.path())?;
            file.lock()?;
            // A retry may have set it aside before the lock was ours.
            let at_path = std::fs::symlink_metadata(self.path());
            if at_path
                .is_ok_and(|found| file.metadata().is_ok_and(|ours| ours.ino() == found.ino()))
            {
                break file;
            }
        };
        let length = file.metadata()?.len();
        let whole = durable::end_of_last_line(&file)?;
        if whole < length {
            file.set_len(whole)?;
        }
        file.write_all(lines)?;
        file.sync_data()?;
        if existed { Ok(()) } else { durable::sync_dir(&self.dir) }
    }

    /// Sets the letters aside for a retry; gives the file to read, where there are any. A retry that
    /// was interrupted goes on first.
    pub fn begin_retry(&self) -> io::Result<Option<PathBuf>> {
        let retrying = self.retrying();
        if retrying.try_exists()? {
            return Ok(Some(retrying));
        }
        let Ok(file) = File::open(self.path()) else { return Ok(None) };
        file.lock()?;
        durable::rename(&self.path(), &retrying)?;
        Ok(Some(retrying))
    }

    /// Keeps what was worked off under a name with the time.
    pub fn end_retry(&self, now: Nanos) -> io::Result<PathBuf> {
        let name = format!("{}-retried-{}.ndjson", self.sink, now.0);
        let to = self.dir.join(name);
        durable::rename(&self.retrying(), &to)?;
        Ok(to)
    }
}

/// One line: the reason around the rendered event.
pub fn line(out: &mut Vec<u8>, sink: &str, reason: &str, now: Nanos, event: &[u8]) {
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    // Strings into memory: nothing here can fail.
    let reason = serde_json::to_string(&reason).unwrap_or_default();
    let _ =
        write!(out, "{{\"rejected\":\"{now}\",\"sink\":\"{sink}\",\"reason\":{reason},\"event\":");
    out.extend_from_slice(event);
    out.extend_from_slice(b"}\n");
}

/// Reads the letters in a file, one after the other; a line that can't be read is an error that
/// names it.
pub fn read(path: &Path) -> io::Result<impl Iterator<Item = io::Result<DeadLetter>>> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    let path = path.to_owned();
    let mut reader = BufReader::new(file);
    let mut number = 0_u64;
    Ok(std::iter::from_fn(move || {
        number += 1;
        let mut text = Vec::new();
        match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text) {
            Ok(0) => None,
            Ok(_) => Some(parse(&text).map_err(|why| {
                io::Error::other(format!("{}, line {number}: {why}", path.display()))
            })),
            Err(err) => Some(Err(err)),
        }
    }))
}

fn parse(text: &[u8]) -> Result<DeadLetter, String> {
    let line: Line = serde_json::from_slice(text).map_err(|err| err.to_string())?;
    let chain = ChainName {
        origin: line.event.origin.parse().map_err(|err| format!("origin: {err}"))?,
        epoch: shared::record::Epoch(line.event.epoch),
        lane: line.event.lane.parse().map_err(|err| format!("lane: {err}"))?,
    };
    Ok(DeadLetter {
        rejected: line.rejected,
        reason: line.reason,
        id: line.event.id,
        chain,
        sequence: line.event.sequence,
        stream: line.event.stream,
    })
}

/// The folder in the state directory.
const DIR_NAME: &str = "dead-letters";
/// The longest reason that is kept.
const REASON_CHARS_MAX: usize = 1_000;
/// Longer than any line that is written: a record of the longest kind, escaped, and its event.
const LINE_BYTES_MAX: u64 = (64 << 20) + CHAIN_BYTES_MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_kept_read_and_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let letters = DeadLetters::of(dir.path(), "siem");
        assert!(letters.begin_retry().unwrap().is_none());
        let event = br#"{"id":"ab","origin":"plant-7","epoch":3,"lane":"flash","sequence":7,"stream":"other"}"#;
        let mut text = Vec::new();
        line(&mut text, "siem", "code 6: \"no\"\n", Nanos(0), event);
        letters.append(&text).unwrap();
        // A write that was cut short is no line, and the next one does not hang on it.
        let mut file = OpenOptions::new().append(true).open(letters.path()).unwrap();
        file.write_all(b"{\"rejected\":").unwrap();
        letters.append(&text).unwrap();
        let retrying = letters.begin_retry().unwrap().unwrap();
        let found: Vec<DeadLetter> = read(&retrying).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].sequence, found[0].reason.as_str()), (7, "code 6: \"no\"\n"));
        assert_eq!(found[1].chain.to_string(), "plant-7/3/flash");
        // What comes meanwhile is for the next retry.
        letters.append(&text).unwrap();
        assert_eq!(letters.begin_retry().unwrap().unwrap(), retrying);
        letters.end_retry(Nanos(1)).unwrap();
        let again = letters.begin_retry().unwrap().unwrap();
        assert_eq!(read(&again).unwrap().count(), 1);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "{}\n").unwrap();
        let error = read(&path).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
