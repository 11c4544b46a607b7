//! Reading: a piece of a file becomes lines, and lines become records.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::{memchr, memchr_iter, memrchr};
use nix::unistd::{Whence, lseek};
use shared::clock::Nanos;
use shared::record::SourceTag;

use crate::buffer::IntakeClosed;
use crate::ingest::{Batch, Gate, add_empty_frames};

use super::OPEN_FILES_MAX;
use super::content::{Content, Departure, Opened, open};
use super::glob::{Trouble, key, modified, shown};
use super::gzip::GzipReader;
use super::print::{HEAD_BYTES, TAIL_BYTES};
use super::scan::{add, trouble_text};
use super::tailer::Tailer;

impl Tailer {
    /// Looks whether a content has something to be read.
    pub(super) fn look(&mut self, id: u64, now: Instant) -> bool {
        let Some(content) = self.contents.get_mut(&id) else { return false };
        let (offset, idle) = (content.offset, self.settings.timing.rotated_idle);
        let wall = self.gate.clock.now();
        let Some(place) = &mut content.place else { return false };
        if place.gzip.is_some() {
            return self.look_at_gzip(id, now);
        }
        if let Some(file) = place.file.clone()
            && let Ok(meta) = file.metadata()
        {
            let seen = place.size;
            let is_changed = place.observe(meta.len(), modified(&meta));
            let was_fresh = place.fresh;
            place.fresh = is_fresh(&meta, wall);
            if is_changed {
                content.changed = now;
                content.finished = false;
                if content.blank {
                    // Something may have been written where nothing was before.
                    (content.scanned, content.blank) = (offset, false);
                }
            }
            // Of what nothing was read no fingerprint tells, but a program that appends shortens nothing.
            let is_shorter = meta.len() < offset || offset == 0 && meta.len() < seen;
            let may_differ = (is_changed || was_fresh) && meta.len() == seen;
            if is_shorter || may_differ && !content.holds_still(&file, offset) {
                let unread = seen.saturating_sub(offset);
                self.lose(id, Departure::Rewritten { unread }, now);
                return false;
            }
        }
        if content.has_unread() {
            content.unread_since.get_or_insert(now);
            return true;
        }
        if content.scanned == offset {
            content.unread_since = None;
        }
        let is_idle = now.saturating_duration_since(content.changed) >= idle;
        content.rotated && is_idle && !content.finished
    }

    /// Reads a piece of a content, or finishes it. Tells whether there was anything.
    pub(super) fn turn(&mut self, id: u64, now: Instant) -> Result<bool, IntakeClosed> {
        let is_gzip = self
            .contents
            .get(&id)
            .and_then(|content| content.place.as_ref())
            .is_some_and(|place| place.gzip.is_some());
        let mut chunk = std::mem::take(&mut self.chunk);
        let result = if is_gzip {
            self.read_gzip(id, &mut chunk, now)
        } else {
            self.read_plain(id, &mut chunk, now)
        };
        self.chunk = chunk;
        result
    }

    fn read_plain(
        &mut self,
        id: u64,
        chunk: &mut [u8],
        now: Instant,
    ) -> Result<bool, IntakeClosed> {
        let Some(file) = self.opened(id, now) else { return Ok(false) };
        let Some(content) = self.contents.get_mut(&id) else { return Ok(false) };
        if !content.has_unread() {
            return self.finish(id, &file, now);
        }
        // A line that is longer than a piece is looked through once; a shorter one is read again.
        let is_long = content.blank || content.scanned - content.offset >= CHUNK_BYTES as u64;
        let from = if is_long { content.scanned } else { content.offset };
        let count = match read_some(&file, chunk, from) {
            Ok(count) => count,
            Err(err) => {
                let path = content.path.clone();
                self.tell_once(path, &err);
                return Ok(false);
            }
        };
        let bytes = &chunk[..count];
        // The check comes behind the read: what was read before the file was written anew is right.
        if !content.still_holds(&file, from, bytes) {
            let unread = content.backlog();
            self.lose(id, Departure::Rewritten { unread }, now);
            return Ok(true);
        }
        if count == 0 {
            return Ok(false);
        }
        if content.blank {
            match bytes.iter().position(|&byte| byte != 0) {
                None => content.scanned = next_data(&file, from + count as u64),
                Some(at) => {
                    let passed = from + at as u64 - content.offset;
                    content.advance_nul(passed);
                    add(&self.counters.nul_bytes, passed);
                }
            }
            return Ok(true);
        }
        if from > content.offset {
            match memchr(b'\n', bytes) {
                None => content.scanned += count as u64,
                Some(at) => return self.push_long(id, &file, from + at as u64, 1, now),
            }
            return Ok(true);
        }
        match memrchr(b'\n', bytes) {
            Some(last) => self.push_lines(id, &bytes[..=last], now)?,
            None => match bytes.iter().position(|&byte| byte != 0) {
                None => {
                    content.blank = true;
                    content.scanned = next_data(&file, from + count as u64);
                }
                Some(0) => content.scanned = from + count as u64,
                Some(passed) => {
                    content.advance_nul(passed as u64);
                    add(&self.counters.nul_bytes, passed as u64);
                }
            },
        }
        Ok(true)
    }

    /// The file of a content; opened, and compared with it, if it is not open.
    fn opened(&mut self, id: u64, now: Instant) -> Option<Arc<File>> {
        let place = self.contents.get(&id)?.place.as_ref()?;
        if let Some(file) = &place.file {
            return Some(Arc::clone(file));
        }
        if self.open_files() >= OPEN_FILES_MAX && !self.close_one() {
            return None;
        }
        let content = self.contents.get_mut(&id)?;
        let path = content.path.clone();
        let place = content.place.as_mut()?;
        match place.open(&path) {
            Ok(Opened::Same) => {}
            Ok(Opened::Another) => {
                self.rescan = true;
                return None;
            }
            Err(err) => {
                if err.kind() != io::ErrorKind::NotFound {
                    self.tell_once(path, &err);
                }
                self.rescan = true;
                return None;
            }
        }
        let file = place.file.clone()?;
        place.verified = true;
        match content.is_in(&file) {
            Ok(true) => Some(file),
            Ok(false) => {
                let unread = content.backlog();
                self.lose(id, Departure::Rewritten { unread }, now);
                None
            }
            Err(err) => {
                if let Some(place) = &mut content.place {
                    place.file = None;
                }
                self.tell_once(path, &err);
                None
            }
        }
    }

    /// Tells what can't be read, and not again before the next scan.
    fn tell_once(&mut self, path: PathBuf, err: &io::Error) {
        let trouble = Trouble::of(err);
        let text = trouble_text(&path, trouble);
        if self.troubles.insert(path, trouble) != Some(trouble) {
            tracing::warn!(files = %self.settings.name, "{text}");
        }
    }

    /// Closes the file that has been idle longest. Tells whether there was one.
    fn close_one(&mut self) -> bool {
        let idle = self.contents.values_mut().filter(|content| {
            let is_open = |place: &super::content::Place| place.file.is_some() && place.listed;
            content.place.as_ref().is_some_and(is_open) && !content.has_unread()
        });
        let Some(content) = idle.min_by_key(|content| content.changed) else { return false };
        if let Some(place) = &mut content.place {
            place.file = None;
        }
        true
    }

    /// Takes the lines of a piece that ends with a line feed.
    fn push_lines(&mut self, id: u64, bytes: &[u8], now: Instant) -> Result<(), IntakeClosed> {
        let gate = Arc::clone(&self.gate);
        let Some(source) = self.source(id) else { return Ok(()) };
        let mut batch = Batch::new(&gate, source);
        batch.expect(bytes.len());
        let received = gate.clock.now();
        let limit = self.settings.message_bytes_max;
        let (mut start, mut handed) = (0, 0);
        for end in memchr_iter(b'\n', bytes) {
            let nul =
                push(&gate, &mut batch, &bytes[start..end], (end - start) as u64, limit, received);
            add(&self.counters.nul_bytes, nul);
            start = end + 1;
            if batch.is_full() {
                self.hand_over_to(id, &mut batch, &bytes[handed..start], now)?;
                handed = start;
            }
        }
        if handed < start {
            self.hand_over_to(id, &mut batch, &bytes[handed..start], now)?;
        }
        Ok(())
    }

    /// Goes on over these bytes and hands over what was made of them.
    fn hand_over_to(
        &mut self,
        id: u64,
        batch: &mut Batch<'_>,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), IntakeClosed> {
        if let Some(content) = self.contents.get_mut(&id) {
            content.advance(bytes.len() as u64, bytes, bytes);
            content.unread_since = Some(now);
        }
        self.hand_over_marked(id, batch)
    }

    fn hand_over_marked(&mut self, id: u64, batch: &mut Batch<'_>) -> Result<(), IntakeClosed> {
        batch.mark(self.mark(id));
        match batch.take() {
            Some(incoming) => self.hand_over(incoming),
            None => Ok(()),
        }
    }

    /// Takes a line that need not be in memory: from the position to `end`, and `feed` bytes more.
    fn push_long(
        &mut self,
        id: u64,
        file: &File,
        end: u64,
        feed: u64,
        now: Instant,
    ) -> Result<bool, IntakeClosed> {
        let Some(content) = self.contents.get(&id) else { return Ok(false) };
        let limit = self.settings.message_bytes_max;
        let (offset, len) = (content.offset, end - content.offset);
        let kept = len.min(limit.max(HEAD_BYTES) as u64) as usize;
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.resize(kept, 0);
        let mut last = vec![0; (len + feed).min(TAIL_BYTES as u64) as usize];
        let last_at = end + feed - last.len() as u64;
        let read = file
            .read_exact_at(&mut line, offset)
            .and_then(|()| file.read_exact_at(&mut last, last_at));
        if read.is_err() || !content.still_holds(file, offset, &line) {
            let unread = content.backlog();
            self.lose(id, Departure::Rewritten { unread }, now);
            return Ok(true);
        }
        let gate = Arc::clone(&self.gate);
        let Some(source) = self.source(id) else { return Ok(false) };
        let mut batch = Batch::new(&gate, source);
        let nul = push(&gate, &mut batch, &line, len, limit, gate.clock.now());
        add(&self.counters.nul_bytes, nul);
        if let Some(content) = self.contents.get_mut(&id) {
            content.advance(len + feed, &line, &last);
        }
        line.shrink_to(LINE_BYTES_KEPT);
        self.line = line;
        self.hand_over_marked(id, &mut batch)?;
        Ok(true)
    }

    /// A rotated file that did not change for a while: what stands behind its last line feed is its
    /// last line.
    fn finish(&mut self, id: u64, file: &File, now: Instant) -> Result<bool, IntakeClosed> {
        let Some(content) = self.contents.get_mut(&id) else { return Ok(false) };
        let Some(place) = &content.place else { return Ok(false) };
        let size = place.size;
        if size > content.offset && !content.blank {
            return self.push_long(id, file, size, 0, now);
        }
        content.finished = true;
        content.unread_since = None;
        self.changed.insert(id);
        if content.is_departed() {
            self.lose(id, Departure::Finished, now);
        } else if let Some(place) = &mut content.place {
            place.file = None;
        }
        Ok(true)
    }

    fn look_at_gzip(&mut self, id: u64, now: Instant) -> bool {
        let is_busy = self.contents.iter().any(|(other, content)| {
            let gzip = content.place.as_ref().and_then(|place| place.gzip.as_ref());
            *other != id && gzip.is_some_and(|gzip| gzip.reader.is_some() && !gzip.stuck)
        });
        let Some(content) = self.contents.get_mut(&id) else { return false };
        if content.has_unread() {
            content.unread_since.get_or_insert(now);
            return !is_busy;
        }
        let idle = now.saturating_duration_since(content.changed);
        let Some(gzip) = content.place.as_mut().and_then(|place| place.gzip.as_mut()) else {
            return false;
        };
        if gzip.stuck && !gzip.done && idle >= self.settings.timing.gzip_damaged {
            // It is read once more to its fault, and what stands there is taken.
            return true;
        }
        false
    }

    fn read_gzip(&mut self, id: u64, chunk: &mut [u8], now: Instant) -> Result<bool, IntakeClosed> {
        let Some(mut reader) = self.gzip_reader(id) else { return Ok(false) };
        let Some(content) = self.contents.get_mut(&id) else { return Ok(false) };
        // Past what was read before it was compressed.
        for _ in 0..GZIP_SKIP_CHUNKS {
            let behind = content.offset.saturating_sub(reader.position);
            let room = chunk.len().min(usize::try_from(behind).unwrap_or(usize::MAX));
            if behind == 0 {
                break;
            }
            match reader.fill(&mut chunk[..room]) {
                Ok(0) => return Ok(self.reject(id, now)),
                Ok(_) => {}
                Err(_) => return self.gzip_fault(id, reader, now),
            }
        }
        if reader.position < content.offset {
            return Ok(self.keep_reader(id, reader));
        }
        if !reader.verified {
            let tail =
                &reader.tail[reader.tail.len() - content.print.tail_len().min(reader.tail.len())..];
            if !content.print.begins(&reader.head) || !content.print.ends(tail) {
                return Ok(self.reject(id, now));
            }
            content.print.learn(&reader.head[..content.print.head_len()], tail);
            reader.verified = true;
        }
        let before = reader.tail.clone();
        match reader.fill(chunk) {
            Ok(0) => {
                self.push_gzip_rest(id, &mut reader)?;
                if let Some(content) = self.contents.get_mut(&id) {
                    content.finished = true;
                    content.unread_since = None;
                    if let Some(gzip) = content.place.as_mut().and_then(|p| p.gzip.as_mut()) {
                        gzip.done = true;
                    }
                    self.changed.insert(id);
                }
                Ok(true)
            }
            Ok(count) => {
                self.push_gzip_lines(id, &mut reader, &before, &chunk[..count])?;
                Ok(self.keep_reader(id, reader))
            }
            Err(_) => self.gzip_fault(id, reader, now),
        }
    }

    fn gzip_reader(&mut self, id: u64) -> Option<Box<GzipReader>> {
        let content = self.contents.get_mut(&id)?;
        let path = content.path.clone();
        let place = content.place.as_mut()?;
        if let Some(reader) = place.gzip.as_mut()?.reader.take() {
            return Some(reader);
        }
        match open(&path) {
            Ok(Some((file, meta))) if key(&meta) == place.key => {
                Some(Box::new(GzipReader::new(file)))
            }
            Ok(_) | Err(_) => {
                self.rescan = true;
                None
            }
        }
    }

    fn keep_reader(&mut self, id: u64, reader: Box<GzipReader>) -> bool {
        let place = self.contents.get_mut(&id).and_then(|content| content.place.as_mut());
        if let Some(gzip) = place.and_then(|place| place.gzip.as_mut()) {
            gzip.reader = Some(reader);
        }
        true
    }

    /// The compressed file is not what the content went on in.
    fn reject(&mut self, id: u64, now: Instant) -> bool {
        if let Some(content) = self.contents.get_mut(&id)
            && let Some(place) = &content.place
        {
            let key = place.key;
            content.rejected.push(key);
            content.finished = false;
            self.lose(id, Departure::Missing, now);
        }
        true
    }

    /// The compressed file ends too early: it is still being written, or damaged.
    fn gzip_fault(
        &mut self,
        id: u64,
        mut reader: Box<GzipReader>,
        now: Instant,
    ) -> Result<bool, IntakeClosed> {
        let Some(content) = self.contents.get_mut(&id) else { return Ok(false) };
        let is_old =
            now.saturating_duration_since(content.changed) >= self.settings.timing.gzip_damaged;
        let Some(gzip) = content.place.as_mut().and_then(|place| place.gzip.as_mut()) else {
            return Ok(false);
        };
        gzip.stuck = true;
        if !is_old {
            return Ok(false);
        }
        gzip.done = true;
        content.unread_since = None;
        self.changed.insert(id);
        self.push_gzip_rest(id, &mut reader)?;
        if let Some(content) = self.contents.get(&id) {
            let path = shown(&content.path);
            let offset = content.offset;
            add(&self.counters.unread_gone, 1);
            self.raise(&format!(
                "{path} is damaged: it was read up to byte {offset} of what it holds, and no further"
            ));
        }
        Ok(true)
    }

    fn push_gzip_lines(
        &mut self,
        id: u64,
        reader: &mut GzipReader,
        before: &[u8],
        bytes: &[u8],
    ) -> Result<(), IntakeClosed> {
        let gate = Arc::clone(&self.gate);
        let Some(source) = self.source(id) else { return Ok(()) };
        let mut batch = Batch::new(&gate, source);
        batch.expect(bytes.len());
        let received = gate.clock.now();
        let limit = self.settings.message_bytes_max;
        let at = reader.position - bytes.len() as u64;
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            let part = &bytes[start..end];
            let nul = if reader.carry_len == 0 {
                push(&gate, &mut batch, part, part.len() as u64, limit, received)
            } else {
                reader.carry_on(part, limit);
                let nul = push(&gate, &mut batch, &reader.carry, reader.carry_len, limit, received);
                (reader.carry_len, reader.carry) = (0, Vec::new());
                nul
            };
            add(&self.counters.nul_bytes, nul);
            start = end + 1;
            if batch.is_full() {
                self.learn(id, reader, before, &bytes[..start], at);
                self.hand_over_marked(id, &mut batch)?;
            }
        }
        if start > 0 {
            self.learn(id, reader, before, &bytes[..start], at);
            self.hand_over_marked(id, &mut batch)?;
        }
        reader.carry_on(&bytes[start..], limit);
        Ok(())
    }

    /// What stands behind the last line feed of a compressed file is its last line.
    fn push_gzip_rest(&mut self, id: u64, reader: &mut GzipReader) -> Result<(), IntakeClosed> {
        if reader.carry_len == 0 {
            return Ok(());
        }
        let gate = Arc::clone(&self.gate);
        let Some(source) = self.source(id) else { return Ok(()) };
        let mut batch = Batch::new(&gate, source);
        let limit = self.settings.message_bytes_max;
        let received = gate.clock.now();
        let nul = push(&gate, &mut batch, &reader.carry, reader.carry_len, limit, received);
        add(&self.counters.nul_bytes, nul);
        let tail = reader.tail.clone();
        self.learn(id, reader, &tail, &[], reader.position);
        self.hand_over_marked(id, &mut batch)
    }

    /// Puts a content's position behind bytes that begin at `at`, with `before` before them.
    fn learn(&mut self, id: u64, reader: &GzipReader, before: &[u8], bytes: &[u8], at: u64) {
        let Some(content) = self.contents.get_mut(&id) else { return };
        content.offset = at + bytes.len() as u64;
        content.scanned = content.offset;
        let whole = usize::try_from(content.offset).unwrap_or(usize::MAX);
        let mut tail = before.to_vec();
        tail.extend_from_slice(&bytes[bytes.len() - bytes.len().min(TAIL_BYTES)..]);
        let surplus = tail.len() - tail.len().min(TAIL_BYTES.min(whole));
        content.print.learn(&reader.head[..reader.head.len().min(whole)], &tail[surplus..]);
    }

    fn source(&self, id: u64) -> Option<Arc<SourceTag>> {
        let content = self.contents.get(&id)?;
        Some(Arc::new(SourceTag::new(&self.settings.name, &shown(&content.path), None)))
    }
}

impl Content {
    /// Whether a file that was read from `from` is still what it was: not shorter, and with the same
    /// beginning.
    fn still_holds(&self, file: &File, from: u64, bytes: &[u8]) -> bool {
        let is_whole = file.metadata().is_ok_and(|meta| meta.len() >= from + bytes.len() as u64);
        if self.offset > 0 || from > 0 {
            return is_whole && self.holds_still(file, self.offset);
        }
        let mut again = [0; HEAD_BYTES];
        let again = &mut again[..bytes.len().min(HEAD_BYTES)];
        is_whole && file.read_exact_at(again, 0).is_ok() && *again == bytes[..again.len()]
    }

    /// Whether a file still begins as this content.
    fn holds_still(&self, file: &File, offset: u64) -> bool {
        let mut head = [0; HEAD_BYTES];
        let head = &mut head[..self.print.head_len()];
        offset == 0 || file.read_exact_at(head, 0).is_ok() && self.print.begins(head)
    }
}

impl GzipReader {
    /// Keeps a piece of a line that goes on, up to the limit.
    fn carry_on(&mut self, part: &[u8], limit: usize) {
        self.carry_len += part.len() as u64;
        let room = limit.saturating_sub(self.carry.len());
        self.carry.extend_from_slice(&part[..part.len().min(room)]);
    }
}

/// Adds a line to the batch, of which `line` is all or the beginning and `len` the length. Gives how
/// many NUL bytes before it were passed over.
fn push(
    gate: &Gate,
    batch: &mut Batch<'_>,
    line: &[u8],
    len: u64,
    limit: usize,
    received: Nanos,
) -> u64 {
    let mut nul = 0;
    if line.first() == Some(&0) {
        nul = line.iter().take_while(|&&byte| byte == 0).count();
    }
    let (line, len) = (&line[nul..], len - nul as u64);
    if line.is_empty() {
        add_empty_frames(&gate.counters, 1);
        return nul as u64;
    }
    let kept = &line[..line.len().min(limit)];
    batch.push(kept, received, (len > kept.len() as u64).then_some(len));
    nul as u64
}

/// Whether a file was written to a moment ago.
fn is_fresh(meta: &std::fs::Metadata, wall: Nanos) -> bool {
    let (secs, nanos) = modified(meta);
    let written = Nanos(secs.saturating_mul(1_000_000_000).saturating_add(nanos));
    wall.since(written) < FRESH
}

fn read_some(file: &File, room: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < room.len() {
        match file.read_at(&mut room[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if filled > 0 => break,
            Err(err) => return Err(err),
        }
    }
    Ok(filled)
}

/// Where a sparse file goes on behind a hole; `from` if it does not say.
fn next_data(file: &File, from: u64) -> u64 {
    let size = file.metadata().map_or(from, |meta| meta.len());
    let Ok(at) = i64::try_from(from) else { return from };
    if from >= size {
        return from;
    }
    match lseek(file, at, Whence::SeekData) {
        Ok(data) => u64::try_from(data).unwrap_or(from).max(from),
        Err(nix::errno::Errno::ENXIO) => size,
        Err(_) => from,
    }
}

/// What is read of a file at one time, before it is another one's turn.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// How many pieces of a compressed file are passed over before it is another one's turn.
const GZIP_SKIP_CHUNKS: usize = 16;

/// A buffer for one long line gives back what is above this.
const LINE_BYTES_KEPT: usize = 1 << 20;

/// The coarsest step of a file's time on the file systems that logs lie on, and some more.
const FRESH: Duration = Duration::from_secs(2);
