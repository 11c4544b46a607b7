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
//!
//! What has no line end is no letter: a write that was cut short, whose record the ledger has not counted.
//!
//! A retry sets the file aside as `SINK.retrying`, reads it to its end, asks for its records in steps,
//! each of which the ledger notes together with how far it is ([`retry`]), and gives the file a name with
//! the time. A retry that was killed goes on at the step where it was.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use shared::clock::Nanos;
use shared::durable;

use crate::event::CHAIN_BYTES_MAX;
use crate::ledger::{Again, ChainName, Ledger, LedgerError, SinkId};
use crate::ranges::RangeSet;

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
    pub fn retrying(&self) -> PathBuf {
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
            if is_at(&file, &self.path()) {
                break file;
            }
        };
        cut_torn(&file)?;
        file.write_all(lines)?;
        file.sync_data()?;
        if existed { Ok(()) } else { durable::sync_dir(&self.dir) }
    }

    /// How many bytes wait in the files.
    pub fn bytes(&self) -> io::Result<u64> {
        let mut all = 0;
        for path in self.files() {
            match std::fs::symlink_metadata(path) {
                Ok(found) => all += found.len(),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
        Ok(all)
    }

    /// Sets the letters aside for a retry; nothing where there are none. A retry that was interrupted
    /// goes on first.
    pub(crate) fn begin_retry(&self) -> io::Result<Option<Retry>> {
        let lock = match File::open(&self.dir) {
            Ok(dir) => dir,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        lock.try_lock().map_err(|err| match err {
            std::fs::TryLockError::WouldBlock => {
                io::Error::other("a retry is under way already; wait until it has ended")
            }
            std::fs::TryLockError::Error(err) => err,
        })?;
        let (path, retrying) = (self.path(), self.retrying());
        if !retrying.try_exists()? {
            // Locked and cut first: a write may be under way, or have been cut short.
            let Some(_letters) = open_locked(&path)? else { return Ok(None) };
            durable::rename(&path, &retrying)?;
        }
        // Also one that another version set aside.
        Ok(open_locked(&retrying)?.map(|_| Retry { path: retrying, _lock: lock }))
    }

    /// Keeps what was worked off under a name with the time.
    pub(crate) fn end_retry(&self, now: Nanos) -> io::Result<PathBuf> {
        let name = format!("{}-retried-{}.ndjson", self.sink, now.0);
        let to = self.dir.join(name);
        durable::rename(&self.retrying(), &to)?;
        Ok(to)
    }
}

/// Letters that are set aside; nobody else retries meanwhile.
#[derive(Debug)]
pub(crate) struct Retry {
    path: PathBuf,
    _lock: File,
}

/// What a retry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// Where the letters are kept.
    pub kept: PathBuf,
    /// Letters that an earlier try, which was interrupted, had asked for.
    pub before: u64,
    /// Records that are sent once more.
    pub asked: u64,
    /// Letters whose records were to be sent anyway.
    pub pending: u64,
    /// Letters whose records are no longer in the store, and the chain of one of them.
    pub gone: Option<(u64, ChainName)>,
}

/// Why a retry ended.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// The letters can't be read or set aside.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Asks for all letters of a sink once more; nothing where there are none. May be killed at any point and
/// called again: each record is asked for once. Memory: a step, and for each chain the numbers of its
/// letters as ranges.
///
/// # Errors
///
/// A line can't be read: then nothing was asked for. Or the ledger fails: then it goes on where it was.
pub fn retry(
    letters: &DeadLetters,
    ledger: &mut Ledger,
    sink: SinkId,
    now: Nanos,
) -> Result<Option<Retried>, RetryError> {
    let Some(retry) = letters.begin_retry()? else { return Ok(None) };
    for letter in read(&retry.path)? {
        letter?;
    }
    let file = digest(&retry.path)?;
    let before = ledger.retried(sink, &file)?;
    let mut done = Retried { kept: PathBuf::new(), before, asked: 0, pending: 0, gone: None };
    let mut step = Vec::new();
    // A record may have two letters. The agent sends it between two steps.
    let mut seen: Vec<(ChainName, RangeSet)> = Vec::new();
    let mut number = 0;
    for letter in read(&retry.path)? {
        let DeadLetter { chain, sequence, .. } = letter?;
        number += 1;
        let known = seen.iter().position(|(name, _)| *name == chain).unwrap_or_else(|| {
            seen.push((chain.clone(), RangeSet::default()));
            seen.len() - 1
        });
        let again = seen[known].1.contains(sequence);
        seen[known].1.insert(sequence, sequence);
        if number <= before || again {
            continue;
        }
        step.push((chain, sequence));
        if step.len() == STEP_LETTERS {
            ask(ledger, sink, &file, number, &mut step, &mut done)?;
        }
    }
    ask(ledger, sink, &file, number, &mut step, &mut done)?;
    done.kept = letters.end_retry(now)?;
    Ok(Some(done))
}

/// Asks for one step; `number` is that of its last letter.
fn ask(
    ledger: &mut Ledger,
    sink: SinkId,
    file: &[u8; 32],
    number: u64,
    step: &mut Vec<(ChainName, u64)>,
    done: &mut Retried,
) -> Result<(), LedgerError> {
    for (again, (chain, _)) in ledger.ask_again(sink, file, number, step)?.into_iter().zip(&*step) {
        match again {
            Again::Asked => done.asked += 1,
            Again::Pending => done.pending += 1,
            Again::NotStored => {
                done.gone.get_or_insert_with(|| (0, chain.clone())).0 += 1;
            }
        }
    }
    step.clear();
    Ok(())
}

fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut reader = BufReader::new(File::open(path)?);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(hash.finalize().into());
        }
        hash.update(bytes);
        let length = bytes.len();
        reader.consume(length);
    }
}

/// Opens a file of letters and cuts off what is none at its end, so that it stands still as long as the
/// file is held; nothing where there is none.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    loop {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path);
        let file = match opened {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        file.lock()?;
        if is_at(&file, path) {
            cut_torn(&file)?;
            return Ok(Some(file));
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|found| file.metadata().is_ok_and(|ours| ours.ino() == found.ino()))
}

/// Cuts off what a write that was cut short has left at the end.
fn cut_torn(file: &File) -> io::Result<()> {
    let whole = durable::end_of_last_line(file)?;
    if whole < file.metadata()?.len() {
        file.set_len(whole)?;
        file.sync_data()?;
    }
    Ok(())
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
/// names it. What has no line end is none.
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
            Ok(length) if !text.ends_with(b"\n") && (length as u64) < LINE_BYTES_MAX => None,
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
/// Letters that are asked for in one transaction: a hundredth of a second for whoever waits for the ledger.
const STEP_LETTERS: usize = 500;
/// Longer than any line that is written: a record of the longest kind, escaped, and its event.
const LINE_BYTES_MAX: u64 = (64 << 20) + CHAIN_BYTES_MAX as u64;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use shared::record::{Lane, Stream};

    use super::*;
    use crate::import::Sidecar;
    use crate::ledger::Delivery;
    use crate::testing::{Chain, START, Site};

    fn written(letters: &DeadLetters, times: usize) {
        let event = br#"{"id":"ab","origin":"plant-7","epoch":3,"lane":"flash","sequence":7,"stream":"other"}"#;
        let mut text = Vec::new();
        for _ in 0..times {
            line(&mut text, "siem", "code 6: \"no\"\n", Nanos(0), event);
        }
        letters.append(&text).unwrap();
    }

    fn tear(path: &Path) {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"{\"rejected\":\"2026").unwrap();
    }

    fn listed(path: &Path) -> Vec<DeadLetter> {
        read(path).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn letters_are_kept_read_and_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let letters = DeadLetters::of(dir.path(), "siem");
        assert!(letters.begin_retry().unwrap().is_none());
        assert_eq!(letters.bytes().unwrap(), 0);
        written(&letters, 1);
        // A write that was cut short is no letter, and the next one does not hang on it.
        tear(&letters.path());
        assert_eq!(listed(&letters.path()).len(), 1);
        written(&letters, 1);
        tear(&letters.path());
        let retry = letters.begin_retry().unwrap().unwrap();
        let found = listed(&retry.path);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].sequence, found[0].reason.as_str()), (7, "code 6: \"no\"\n"));
        assert_eq!(found[1].chain.to_string(), "plant-7/3/flash");
        assert_eq!(letters.bytes().unwrap(), std::fs::metadata(&retry.path).unwrap().len());
        // What comes meanwhile is for the next retry, and there are no two retries at once.
        written(&letters, 1);
        let busy = letters.begin_retry().unwrap_err().to_string();
        assert!(busy.contains("under way"), "{busy}");
        drop(retry);
        // One that was interrupted, by a version that did not cut.
        tear(&letters.retrying());
        let retry = letters.begin_retry().unwrap().unwrap();
        assert_eq!(listed(&retry.path).len(), 2);
        letters.end_retry(Nanos(1)).unwrap();
        drop(retry);
        let again = letters.begin_retry().unwrap().unwrap();
        assert_eq!(listed(&again.path).len(), 1);
    }

    #[test]
    fn a_retry_that_was_killed_goes_on_and_asks_for_each_letter_once() {
        let site = Site::new();
        let mut chain = Chain::new(1, Lane::Routine);
        let texts: Vec<String> = (0..20).map(|number| format!("m{number}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let sealed = site.seal(&mut chain, &texts);
        site.importer().import(&sealed, Sidecar::Absent, |_| {}).unwrap();
        let mut ledger = site.ledger();
        let sink = ledger.sink("siem").unwrap();
        let [state] = &ledger.pending_chains(sink).unwrap()[..] else { panic!("one chain") };
        let (name, id) = (state.name.clone(), state.id);
        let take = |ledger: &mut Ledger, (first, last): (u64, u64), rejected: &[u64]| {
            let mut delivery = Delivery::of(id, (first, last), last - first + 1);
            delivery.rejected = rejected.iter().map(|one| (*one, Stream::Other)).collect();
            ledger.deliver(sink, &[delivery], None, &HashMap::new(), START).unwrap();
        };
        take(&mut ledger, (1, 20), &[1, 2, 5, 6, 7, 8]);
        let letters = DeadLetters::of(&site.folders.state, "siem");
        let mut text = Vec::new();
        // One of them stands there twice, as after a kill between letter and ledger.
        for sequence in [1, 2, 2, 5, 6, 7, 8, 2] {
            let event = format!(
                r#"{{"id":"ab","origin":"{}","epoch":{},"lane":"{}","sequence":{sequence},"stream":"other"}}"#,
                name.origin, name.epoch, name.lane
            );
            line(&mut text, "siem", "no", Nanos(0), event.as_bytes());
        }
        letters.append(&text).unwrap();
        let again = |site: &Site| site.ledger().sums().unwrap().sinks[0].again;
        // Killed behind the first step, in which three letters were asked for. The agent goes on meanwhile.
        let aside = letters.begin_retry().unwrap().unwrap();
        let file = digest(&aside.path).unwrap();
        let step: Vec<(ChainName, u64)> =
            [1, 2, 2].into_iter().map(|sequence| (name.clone(), sequence)).collect();
        let found = ledger.ask_again(sink, &file, 3, &step).unwrap();
        assert_eq!(found, [Again::Asked, Again::Asked, Again::Pending]);
        drop(aside);
        take(&mut ledger, (1, 2), &[]);
        assert_eq!(again(&site), 2);
        let retried = retry(&letters, &mut ledger, sink, Nanos(1)).unwrap().unwrap();
        assert_eq!((retried.before, retried.asked, retried.pending), (3, 4, 0));
        assert_eq!((again(&site), retried.gone), (6, None));
        // Killed when all was asked for, and the file had not got its name yet.
        take(&mut ledger, (5, 8), &[]);
        durable::rename(&retried.kept, &letters.retrying()).unwrap();
        let retried = retry(&letters, &mut ledger, sink, Nanos(2)).unwrap().unwrap();
        assert_eq!((retried.before, retried.asked, again(&site)), (8, 0, 6));
        assert_eq!(retry(&letters, &mut ledger, sink, Nanos(3)).unwrap(), None);
    }

    #[test]
    fn nothing_is_asked_for_where_a_line_can_not_be_read() {
        let site = Site::new();
        let mut ledger = site.ledger();
        let sink = ledger.sink("siem").unwrap();
        let letters = DeadLetters::of(&site.folders.state, "siem");
        written(&letters, 2);
        letters.append(b"{}\n").unwrap();
        written(&letters, 1);
        for _ in 0..2 {
            let error = retry(&letters, &mut ledger, sink, Nanos(1)).unwrap_err().to_string();
            assert!(error.contains("siem.retrying, line 3"), "{error}");
        }
        let file = digest(&letters.retrying()).unwrap();
        assert_eq!(ledger.retried(sink, &file).unwrap(), 0);
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
