//! A file of JSON lines, each record exactly once, whatever kills us.
//!
//! The ledger knows how many bytes of the file are durable and delivered. What stands behind them
//! was written by a batch that was never noted: the next records are rendered again and compared
//! with it, byte by byte. What is equal stays; from the first difference on, it is cut off. Where
//! nothing was noted yet, a file whose first line differs is not ours: it is set aside whole.
//!
//! ```text
//! NAME.ndjson   |======== delivered ========|--- adopted ---|~~ cut off ~~|
//!               0                     ledger's offset   position
//! ```
//!
//! Rotation renames `NAME.ndjson` to `NAME-000001.ndjson` and so on, between two batches. The ledger
//! notes the new name before the rename, so that a start after a crash finishes it. It remembers the
//! highest number: none is used twice, also where rotated files are packed or moved away.

mod check;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use shared::clock::Clock;
use shared::durable;

use super::config::FileConfig;
use super::{Confirmed, Item, Rejected, Sink, SinkError};
use crate::event;
use crate::ledger::{ChainName, FilePosition, Ledger, SinkId};
use crate::mapping::Schema;

pub(super) use check::prove;

/// The file sink.
pub(super) struct FileSink<C> {
    name: String,
    id: SinkId,
    config: FileConfig,
    clock: C,
    open: Option<Open>,
    /// A sync failed: what the page cache shows is not what the disk holds.
    distrust: bool,
    /// Nothing is noted of the file, and it does not begin as ours would.
    foreign: bool,
    /// Rendered records on their way to the file.
    waiting: Vec<u8>,
    /// What is read back for the comparison.
    found: Vec<u8>,
    /// Records of this batch whose lines the reader would not take.
    rejected: Vec<Rejected>,
}

struct Open {
    file: File,
    /// The part that the ledger has noted.
    noted: FilePosition,
    /// The end of what this batch has written or adopted.
    position: u64,
    /// Bytes behind `position`, left by a batch that was never noted.
    tail: u64,
}

impl<C: Clock> FileSink<C> {
    /// A sink that writes `NAME.ndjson` in the configured folder.
    pub(super) fn new(name: &str, id: SinkId, config: FileConfig, clock: C) -> Self {
        Self {
            name: name.to_owned(),
            id,
            config,
            clock,
            open: None,
            distrust: false,
            foreign: false,
            waiting: Vec::new(),
            found: Vec::new(),
            rejected: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.config.dir.join(format!("{}.ndjson", self.name))
    }

    fn rotated_path(&self, number: u64) -> PathBuf {
        self.config.dir.join(format!("{}-{number:06}.ndjson", self.name))
    }

    fn io(&self, source: io::Error) -> SinkError {
        SinkError::File { path: self.path(), source }
    }

    /// Opens the file where the ledger left it.
    fn recover(&mut self, ledger: &mut Ledger) -> Result<(), SinkError> {
        durable::create_dir(&self.config.dir).map_err(|err| self.io(err))?;
        let mut noted = match ledger.file_position(self.id)? {
            Some(noted) => noted,
            // A new ledger: whatever stands there was delivered under another one, and stays.
            None if self.exists(&self.path())? => self.rotate(ledger, self.clock.now())?,
            None => self.begin_file(ledger)?,
        };
        if noted.rotating_to.is_some() {
            noted = self.finish_rotation(ledger, noted)?;
        }
        let (mut file, mut length) = self.open_file().map_err(|err| self.io(err))?;
        if self.foreign || !self.is_ours(&file, &noted, length).map_err(|err| self.io(err))? {
            let message = format!(
                "{} is shorter than what was written to it, or another file; delivery goes on in a new one",
                self.path().display()
            );
            ledger.raise("sink-file-changed", &self.name, &message, self.clock.now())?;
            noted = if length > 0 {
                drop(file);
                self.rotate(ledger, noted.opened)?
            } else {
                self.begin_file(ledger)?
            };
            (file, length) = self.open_file().map_err(|err| self.io(err))?;
            self.foreign = false;
        }
        if self.distrust {
            file.set_len(noted.offset).map_err(|err| self.io(err))?;
            length = noted.offset;
            self.distrust = false;
        }
        let tail = length - noted.offset;
        self.waiting.clear();
        self.open = Some(Open { file, position: noted.offset, noted, tail });
        Ok(())
    }

    fn open_file(&self) -> io::Result<(File, u64)> {
        let path = self.path();
        let existed = path.try_exists()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if !existed {
            durable::sync_dir(&self.config.dir)?;
        }
        Ok((file, found.len()))
    }

    /// Whether a file is there. What can't be looked at is not taken for absent.
    fn exists(&self, path: &Path) -> Result<bool, SinkError> {
        path.try_exists().map_err(|err| self.io(err))
    }

    /// Whether the file still holds the part that was noted: long enough, and a line ends there.
    /// Where nothing was noted, the first write finds out.
    #[expect(clippy::unused_self, reason = "reads as a question about the sink")]
    fn is_ours(&self, file: &File, noted: &FilePosition, length: u64) -> io::Result<bool> {
        if noted.offset == 0 {
            return Ok(true);
        }
        let mut last = [0];
        Ok(length >= noted.offset && {
            file.read_exact_at(&mut last, noted.offset - 1)?;
            last == *b"\n"
        })
    }

    fn begin_file(&self, ledger: &mut Ledger) -> Result<FilePosition, SinkError> {
        let noted = FilePosition { offset: 0, opened: self.clock.now(), rotating_to: None };
        ledger.set_file_position(self.id, &noted)?;
        Ok(noted)
    }

    /// Gives the current file the next free number. The intent is noted first.
    fn rotate(
        &self,
        ledger: &mut Ledger,
        opened: shared::clock::Nanos,
    ) -> Result<FilePosition, SinkError> {
        let number = self.next_number(ledger)?;
        let offset = ledger.file_position(self.id)?.map_or(0, |noted| noted.offset);
        let noted = FilePosition { offset, opened, rotating_to: Some(number) };
        ledger.set_file_position(self.id, &noted)?;
        self.finish_rotation(ledger, noted)
    }

    fn finish_rotation(
        &self,
        ledger: &mut Ledger,
        noted: FilePosition,
    ) -> Result<FilePosition, SinkError> {
        let Some(number) = noted.rotating_to else {
            return Ok(noted);
        };
        let mut to = self.rotated_path(number);
        if self.exists(&self.path())? {
            if self.exists(&to)? {
                // Somebody else's file took the number: neither is overwritten.
                let number = self.next_number(ledger)?;
                let noted = FilePosition { rotating_to: Some(number), ..noted };
                ledger.set_file_position(self.id, &noted)?;
                to = self.rotated_path(number);
            }
            durable::rename(&self.path(), &to).map_err(|err| self.io(err))?;
        }
        self.begin_file(ledger)
    }

    /// Higher than every number that the ledger or the folder knows.
    fn next_number(&self, ledger: &Ledger) -> Result<u64, SinkError> {
        let mut highest = ledger.last_rotated(self.id)?;
        for entry in std::fs::read_dir(&self.config.dir).map_err(|err| self.io(err))? {
            let name = entry.map_err(|err| self.io(err))?.file_name();
            let number = name.to_str().and_then(|name| self.rotated_number(name));
            highest = highest.max(number.unwrap_or(0));
        }
        Ok(highest + 1)
    }

    /// The number in the name of a rotated file, also a packed one: `NAME-000001.ndjson.gz`.
    fn rotated_number(&self, name: &str) -> Option<u64> {
        let rest = name.strip_prefix(&self.name)?.strip_prefix('-')?;
        let (number, suffix) = rest.split_once(".ndjson")?;
        let number = number.parse().ok()?;
        ((suffix.is_empty() || suffix.starts_with('.')) && number < NUMBER_MAX).then_some(number)
    }

    /// Moves the waiting bytes into the file: compares them with the tail first, then appends.
    fn flush(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Err(io::Error::other("the file is not open"));
        };
        let mut rest = &self.waiting[..];
        if open.position == 0 && open.tail > 0 && !rest.is_empty() {
            // `waiting` holds whole lines. A part of the first one is a write that was cut short.
            let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            let length = line.min(usize::try_from(open.tail).unwrap_or(usize::MAX));
            self.found.resize(length, 0);
            open.file.read_exact_at(&mut self.found, 0)?;
            if self.found != rest[..length] {
                self.foreign = true;
                return Err(io::Error::other("another file stands there; it is set aside"));
            }
        }
        while open.tail > 0 && !rest.is_empty() {
            let length = rest.len().min(usize::try_from(open.tail).unwrap_or(usize::MAX));
            self.found.resize(length, 0);
            open.file.read_exact_at(&mut self.found, open.position)?;
            let equal = self.found.iter().zip(rest).take_while(|(a, b)| a == b).count();
            open.position += equal as u64;
            open.tail -= equal as u64;
            rest = &rest[equal..];
            if equal < length {
                open.file.set_len(open.position)?;
                open.tail = 0;
            }
        }
        open.file.write_all_at(rest, open.position)?;
        open.position += rest.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Whether the path still leads to the file that is open.
    fn still_there(&self, open: &Open) -> bool {
        let (Ok(at_path), Ok(ours)) =
            (std::fs::symlink_metadata(self.path()), open.file.metadata())
        else {
            return false;
        };
        (at_path.dev(), at_path.ino()) == (ours.dev(), ours.ino()) && ours.len() >= open.position
    }
}

impl<C: Clock> Sink for FileSink<C> {
    fn begin(&mut self, ledger: &mut Ledger) -> Result<(), SinkError> {
        self.rejected.clear();
        // Before the first byte is ours, it is looked at again what stands there.
        let ready =
            self.open.as_ref().is_some_and(|open| open.position > 0 && self.still_there(open));
        if ready { Ok(()) } else { self.recover(ledger) }
    }

    fn unfinished(&mut self) -> Result<Option<ChainName>, SinkError> {
        if self.open.as_ref().is_none_or(|open| open.tail == 0) {
            return Ok(None);
        }
        self.flush().map_err(|err| self.io(err))?;
        let Some(open) = self.open.as_ref().filter(|open| open.tail > 0) else {
            return Ok(None);
        };
        let (position, tail) = (open.position, open.tail);
        let longest = match self.config.schema {
            Schema::Native => event::CHAIN_BYTES_MAX,
            // They stand behind the original there.
            Schema::Ecs | Schema::Ocsf => LINE_BYTES_MAX,
        };
        let mut line = vec![0; longest.min(usize::try_from(tail).unwrap_or(longest))];
        open.file.read_exact_at(&mut line, position).map_err(|err| self.io(err))?;
        let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
        Ok(self.config.schema.chain_of(&line[..end]))
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let before = self.waiting.len();
        let schema = self.config.schema;
        event::with_view(item.chain, item.record, |view| schema.render(&mut self.waiting, view));
        let length = self.waiting.len() - before;
        if let Some(longest) = self.config.line_bytes_max.filter(|longest| length > *longest) {
            self.waiting.truncate(before);
            self.rejected.push(Rejected {
                chain: item.chain.clone(),
                sequence: item.record.sequence.0,
                reason: format!("the line has {length} bytes, and line-bytes is {longest}"),
            });
            return Ok(0);
        }
        self.waiting.push(b'\n');
        let bytes = (self.waiting.len() - before) as u64;
        if self.waiting.len() >= WRITE_BYTES {
            self.flush().map_err(|err| self.io(err))?;
        }
        Ok(bytes)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        self.flush().map_err(|err| self.io(err))?;
        let Some(open) = &self.open else {
            return Ok(Confirmed::default());
        };
        let noted = FilePosition { offset: open.position, ..open.noted };
        if noted.offset > open.noted.offset
            && let Err(error) = open.file.sync_data()
        {
            // After a failed sync the kernel forgets what it could not write.
            self.distrust = true;
            return Err(self.io(error));
        }
        Ok(Confirmed { position: Some(noted), rejected: std::mem::take(&mut self.rejected) })
    }

    fn committed(&mut self, ledger: &mut Ledger) -> Result<(), SinkError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.noted.offset = open.position;
        let noted = open.noted;
        let old = self.clock.now().since(noted.opened) >= self.config.rotate_age;
        let full = noted.offset >= self.config.rotate_bytes;
        if noted.offset > 0 && open.tail == 0 && (old || full) {
            self.open = None;
            self.rotate(ledger, noted.opened)?;
        }
        Ok(())
    }

    /// Nothing is left to deliver, so nothing that stands behind the end can be ours to keep. A file
    /// that was never compared may be somebody else's, and stays.
    fn idle(&mut self) -> Result<(), SinkError> {
        if let Some(open) = self.open.as_mut().filter(|open| open.tail > 0 && open.position > 0) {
            open.tail = 0;
            let cut = open.file.set_len(open.position);
            cut.map_err(|err| self.io(err))?;
        }
        Ok(())
    }

    fn reset(&mut self, _error: &SinkError) {
        self.open = None;
        self.waiting.clear();
    }
}

/// So much is looked through for the chain of a line that a killed process left.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Large enough that system calls do not show, small enough to be no matter of memory.
const WRITE_BYTES: usize = 256 * 1024;
/// The file is read by the SIEM's own shipper, through its group.
const FILE_MODE: u32 = 0o640;
/// Larger numbers in file names are not ours: we count from 1.
const NUMBER_MAX: u64 = 1 << 53;

#[cfg(test)]
mod tests;
