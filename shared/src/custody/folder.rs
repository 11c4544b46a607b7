//! The files of a custody log: append-only segments, one writer at a time, whole lines.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::{Checkpoint, DueLine, Entry, Head, LINE_BYTES_MAX};
use crate::bundle::BundleDigest;
use crate::durable;

/// The folder's name in the state folder.
pub const DIR_NAME: &str = "custody";

/// A segment that has reached this length is followed by a new one: some 30,000 entries, which an
/// editor still opens.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Whoever may read the state folder may read the log: there are no contents of records in it.
const FILE_MODE: u32 = 0o640;
/// The pause between two tries to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The folder of a custody log.
#[derive(Clone, Debug)]
pub struct CustodyFolder {
    dir: PathBuf,
    segment_bytes: u64,
}

/// The right to append, held by one process at a time.
#[derive(Debug)]
pub struct CustodyLock(#[expect(dead_code, reason = "released when it is dropped")] File);

/// The end of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The last entry; [`Head::BEGIN`] where there are no files, `None` where the last line is none.
    pub head: Option<Head>,
    /// Bytes of an unfinished line that were cut off.
    pub cut: u64,
}

impl CustodyFolder {
    /// The log of a state folder.
    pub fn at(state_dir: &Path) -> Self {
        Self { dir: state_dir.join(DIR_NAME), segment_bytes: SEGMENT_BYTES }
    }

    /// A log that stands anywhere, to be looked at.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), segment_bytes: SEGMENT_BYTES }
    }

    /// With segments of another length.
    #[cfg(test)]
    pub(super) fn with_segments_of(self, segment_bytes: u64) -> Self {
        Self { segment_bytes, ..self }
    }

    /// Where it stands.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the lock; `None` while another process holds it for longer than `patience`.
    pub fn lock(&self, patience: Duration) -> io::Result<Option<CustodyLock>> {
        durable::create_dir(&self.dir)?;
        let path = self.dir.join("lock");
        let file = match open(&path, OpenOptions::new().read(true).write(true)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => durable::create(&path, 0o600)?,
            opened => opened?,
        };
        let deadline = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(CustodyLock(file))),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Ok(None);
                }
                Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(std::fs::TryLockError::Error(err)) => return Err(err),
            }
        }
    }

    /// The segments in order, each with the number of its first entry as its name says.
    pub fn segments(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(err) => return Err(err),
        };
        let mut segments = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let digits = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
                segments.push((first, path));
            }
        }
        segments.sort();
        Ok(segments)
    }

    /// The last entry. What a crash left of an unfinished line is cut off: its row still waits in the
    /// database.
    pub fn tail(&self, _lock: &CustodyLock) -> io::Result<Tail> {
        let mut cut = 0;
        let segments = self.segments()?;
        for (_, path) in segments.iter().rev() {
            let mut file = open(path, OpenOptions::new().read(true).write(true))?;
            let (last, torn) = last_line(&mut file)?;
            if torn > 0 {
                let whole = file.metadata()?.len() - torn;
                file.set_len(whole)?;
                file.sync_all()?;
                cut += torn;
            }
            if let Some(line) = last {
                let entry = Entry::parse(&line).ok();
                let hash = BundleDigest::of(&line);
                let head = entry.map(|entry| Head { number: entry.number, hash });
                return Ok(Tail { head, cut });
            }
            // A segment that was begun and holds nothing yet.
        }
        Ok(Tail { head: Some(Head::BEGIN), cut })
    }

    /// Appends whole lines and syncs them, and what stands there already: whoever wrote that may have
    /// been killed before it was synced.
    pub fn append(&self, _lock: &CustodyLock, lines: &[DueLine]) -> io::Result<()> {
        let newest = self.segments()?.pop();
        let mut segment = match (newest, lines.first()) {
            (Some((_, path)), _) => Segment::open(&path)?,
            (None, Some(first)) => self.begin(first.number)?,
            (None, None) => return Ok(()),
        };
        for due in lines {
            if segment.bytes >= self.segment_bytes {
                segment.end()?;
                segment = self.begin(due.number)?;
            }
            segment.write(due.line.as_bytes())?;
        }
        segment.end()
    }

    /// Keeps the newest checkpoint beside the log, as text and signature.
    pub fn keep_checkpoint(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let text = checkpoint.statement.as_bytes();
        durable::write_volatile(&self.dir.join("checkpoint"), text, FILE_MODE)?;
        let signature = checkpoint.signature.as_bytes();
        durable::write_volatile(&self.dir.join("checkpoint.sig"), signature, FILE_MODE)
    }

    /// Calls `each` with every line, its file's name and its number there, up to the end of the files
    /// as they were when each was opened.
    pub fn for_each_line<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(&Place<'_>, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for (first, path) in self.segments()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let file = open(&path, OpenOptions::new().read(true))?;
            let length = file.metadata()?.len();
            let mut reader = BufReader::new(file.take(length));
            let mut line = Vec::new();
            let mut number = 0;
            loop {
                line.clear();
                // One more than a line may have, so that a longer one is seen to be too long.
                let limit = LINE_BYTES_MAX as u64 + 1;
                if (&mut reader).take(limit).read_until(b'\n', &mut line)? == 0 {
                    break;
                }
                number += 1;
                each(&Place { segment: &name, first, line: number }, &line)?;
            }
        }
        Ok(())
    }

    /// The segments as they were when the log ended with this entry: each with the length that it had.
    pub fn through(&self, number: u64) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut segments = self.segments()?;
        segments.retain(|(first, _)| *first <= number);
        let Some((_, last)) = segments.pop() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (_, path) in segments {
            let bytes = std::fs::metadata(&path)?.len();
            found.push((path, bytes));
        }
        let mut reader = BufReader::new(open(&last, OpenOptions::new().read(true))?);
        let (mut line, mut bytes) = (Vec::new(), 0);
        loop {
            line.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            let count = (&mut reader).take(limit).read_until(b'\n', &mut line)?;
            let beyond = Entry::parse(&line).is_ok_and(|entry| entry.number > number);
            if count == 0 || line.last() != Some(&b'\n') || beyond {
                break;
            }
            bytes += count as u64;
        }
        found.push((last, bytes));
        Ok(found)
    }

    fn begin(&self, first: u64) -> io::Result<Segment> {
        let path = self.dir.join(format!("{PREFIX}{first:012}{SUFFIX}"));
        let file = durable::create_new(&path, FILE_MODE)?;
        durable::sync_dir(&self.dir)?;
        Ok(Segment { file, begun: 0, bytes: 0 })
    }
}

/// Where a line stands.
#[derive(Debug)]
pub struct Place<'a> {
    /// The file's name.
    pub segment: &'a str,
    /// The number of its first entry, as the name says.
    pub first: u64,
    /// The number of the line in it.
    pub line: u64,
}

struct Segment {
    file: File,
    /// Its length before anything was appended.
    begun: u64,
    bytes: u64,
}

impl Segment {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = open(path, OpenOptions::new().append(true))?;
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, begun: bytes, bytes })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(line);
        self.bytes += line.len() as u64;
        self.or_undo(written)
    }

    fn end(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        self.or_undo(synced)
    }

    /// After a failed sync the kernel may claim what the disk does not hold, and a later sync of the
    /// same pages says nothing: the lines are taken back, to be written anew.
    fn or_undo(&mut self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            // Where even this fails, the next look at the end finds whole lines or cuts them.
            let _ = self.file.set_len(self.begun);
        }
        result
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)
}

/// The last whole line of a file, and the length of an unfinished one behind it.
fn last_line(file: &mut File) -> io::Result<(Option<Vec<u8>>, u64)> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(2 * LINE_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(length - start).read_to_end(&mut bytes)?;
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
    let torn = (bytes.len() - whole) as u64;
    let last = bytes[..whole].split_inclusive(|byte| *byte == b'\n').next_back();
    Ok((last.map(<[u8]>::to_vec), torn))
}

const PREFIX: &str = "custody-";
const SUFFIX: &str = ".log";
