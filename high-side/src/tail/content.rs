//! A content: what some program wrote, byte after byte, wherever it lies by now.
//!
//! A log's content outlives its file's name (rename), its file (a copy that is made before the file is
//! truncated) and its form (gzip). Positions belong to contents, and each is stored as a mark.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::glob::{Key, Modified, key, modified, shown};
use super::gzip::GzipReader;
use super::print::{HEAD_BYTES, Print, StoredPrint, TAIL_BYTES};

/// A content that is read, or was.
#[derive(Debug)]
pub(super) struct Content {
    /// Its path as last matched.
    pub(super) path: PathBuf,
    /// Where its bytes lie; `None` if that is not known at present.
    pub(super) place: Option<Place>,
    /// How far it was read: always the beginning of a line.
    pub(super) offset: u64,
    /// What is known of the bytes before the position.
    pub(super) print: Print,
    /// How far the line at the position was looked through for its end.
    pub(super) scanned: u64,
    /// Whether all of that was NUL bytes.
    pub(super) blank: bool,
    /// When its file last changed, as far as was noticed.
    pub(super) changed: Instant,
    /// Since when there have been bytes to read.
    pub(super) unread_since: Option<Instant>,
    /// Whether it is known that nobody writes to it any more: it has another name than at first, or
    /// the name of a rotated file.
    pub(super) rotated: bool,
    /// Why and since when it has no place.
    pub(super) gone: Option<Gone>,
    /// Whether nothing more is expected: rotated, and read to its end some time ago.
    pub(super) finished: bool,
    /// Places that turned out to hold something else.
    pub(super) rejected: Vec<Key>,
}

/// Where the bytes of a content lie.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) file: Option<Arc<File>>,
    pub(super) size: u64,
    pub(super) modified: Modified,
    /// Whether it was compared with the fingerprint since it last changed unwatched.
    pub(super) verified: bool,
    /// Whether it was looked at so soon after it was written that the same size and time may mean
    /// other bytes: times move in steps of milliseconds.
    pub(super) fresh: bool,
    /// Whether it stands in the listing.
    pub(super) listed: bool,
    /// If it is compressed: how far that is.
    pub(super) gzip: Option<Gzip>,
}

/// A compressed place.
#[derive(Debug)]
pub(super) struct Gzip {
    /// Whether it was read to its end.
    pub(super) done: bool,
    pub(super) reader: Option<Box<GzipReader>>,
    /// It ended too early, or is damaged; it is tried again when it changes.
    pub(super) stuck: bool,
}

/// Why a content has no place.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub(super) since: Instant,
    pub(super) how: Departure,
}

/// How a content went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Its file was read to the end while it was open.
    Finished,
    /// Its file is not there any more, and was not open.
    Missing,
    /// Its file holds something else now; so many bytes were seen and not read.
    Rewritten { unread: u64 },
}

/// A mark's value.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredContent {
    path: String,
    dev: u64,
    ino: u64,
    offset: u64,
    print: StoredPrint,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    rotated: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    finished: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gzip: Option<StoredGzip>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredGzip {
    done: bool,
    size: u64,
    modified: Modified,
}

impl Place {
    pub(super) fn new(key: Key, is_gzip: bool) -> Self {
        let gzip = is_gzip.then_some(Gzip { done: false, reader: None, stuck: false });
        let (size, modified) = (0, (0, 0));
        Self { key, file: None, size, modified, verified: false, fresh: false, listed: true, gzip }
    }
}

impl Content {
    pub(super) fn new(path: &Path, place: Option<Place>, now: Instant) -> Self {
        Self {
            path: path.to_owned(),
            place,
            offset: 0,
            print: Print::default(),
            scanned: 0,
            blank: false,
            changed: now,
            unread_since: None,
            rotated: false,
            gone: None,
            finished: false,
            rejected: Vec::new(),
        }
    }

    /// A content as it was when its mark was stored.
    pub(super) fn restore(text: &str, now: Instant) -> Result<Self, serde_json::Error> {
        let stored: StoredContent = serde_json::from_str(text)?;
        let mut place = Place::new(Key { dev: stored.dev, ino: stored.ino }, false);
        place.listed = false;
        if let Some(gzip) = stored.gzip {
            place.gzip = Some(Gzip { done: gzip.done, reader: None, stuck: false });
            (place.size, place.modified) = (gzip.size, gzip.modified);
        }
        let mut content = Self::new(Path::new(&stored.path), Some(place), now);
        content.offset = stored.offset;
        content.scanned = stored.offset;
        content.print = stored.print.into();
        content.rotated = stored.rotated;
        content.finished = stored.finished;
        Ok(content)
    }

    /// The value of its mark.
    pub(super) fn stored(&self) -> String {
        let key = self.place.as_ref().map_or(Key { dev: 0, ino: 0 }, |place| place.key);
        let gzip = self.place.as_ref().and_then(|place| {
            let gzip = place.gzip.as_ref()?;
            Some(StoredGzip { done: gzip.done, size: place.size, modified: place.modified })
        });
        let stored = StoredContent {
            path: shown(&self.path),
            dev: key.dev,
            ino: key.ino,
            offset: self.offset,
            print: self.print.stored(),
            rotated: self.rotated,
            finished: self.finished,
            gzip,
        };
        // Strings and numbers always have a JSON form.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Goes on over bytes of which all, or the first and the last, are at hand.
    pub(super) fn advance(&mut self, len: u64, first: &[u8], last: &[u8]) {
        self.print.advance(len, first, last);
        self.offset += len;
        self.scanned = self.offset;
        self.blank = false;
    }

    /// Goes on over NUL bytes.
    pub(super) fn advance_nul(&mut self, len: u64) {
        let some = &NUL[..NUL.len().min(usize::try_from(len).unwrap_or(NUL.len()))];
        self.advance(len, some, some);
    }

    /// Whether there is something to be read.
    pub(super) fn has_unread(&self) -> bool {
        self.place.as_ref().is_some_and(|place| match &place.gzip {
            Some(gzip) => !gzip.done && !gzip.stuck,
            None => place.size > self.offset.max(self.scanned),
        })
    }

    /// Bytes that were seen and not read.
    pub(super) fn backlog(&self) -> u64 {
        self.place.as_ref().map_or(0, |place| match &place.gzip {
            Some(gzip) if gzip.done => 0,
            Some(_) => place.size,
            None => place.size.saturating_sub(self.offset),
        })
    }

    /// Whether it is compressed and was read to its end.
    pub(super) fn place_is_done(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.gzip.as_ref().is_some_and(|gzip| gzip.done))
    }

    /// Whether its file has no name any more that a pattern matches, and is still open.
    pub(super) fn is_departed(&self) -> bool {
        self.place.as_ref().is_some_and(|place| !place.listed)
    }

    /// Whether its open file does not hold any more what was read of it. It is noticed, and told, when
    /// the file is read next; until then nothing may be decided by comparison with this content.
    pub(super) fn has_left(&self) -> bool {
        let file = self.place.as_ref().and_then(|place| place.file.as_deref());
        file.is_some_and(|file| !self.goes_on_in(file).unwrap_or(true))
    }

    pub(super) fn is_open(&self) -> bool {
        self.place.as_ref().is_some_and(|place| {
            place.file.is_some() || place.gzip.as_ref().is_some_and(|gzip| gzip.reader.is_some())
        })
    }

    /// Takes the place away.
    pub(super) fn lose_place(&mut self, how: Departure, now: Instant) {
        let how = if self.finished { Departure::Finished } else { how };
        self.place = None;
        self.scanned = self.offset;
        self.blank = false;
        self.gone = Some(Gone { since: now, how });
    }

    /// Gives it a place that was compared with it.
    pub(super) fn settle(&mut self, path: &Path, place: Place, now: Instant) {
        self.rotated |= self.path != path;
        path.clone_into(&mut self.path);
        self.place = Some(place);
        self.scanned = self.offset;
        self.blank = false;
        self.finished = false;
        self.gone = None;
        self.changed = now;
    }

    /// Compares a plain file with what was read of this content, and takes up the bytes.
    pub(super) fn is_in(&mut self, file: &File) -> io::Result<bool> {
        let Some((head, tail)) = self.compare(file)? else {
            return Ok(false);
        };
        self.print.learn(&head, &tail);
        Ok(true)
    }

    /// Whether a plain file goes on from this content's position.
    pub(super) fn goes_on_in(&self, file: &File) -> io::Result<bool> {
        Ok(self.compare(file)?.is_some())
    }

    fn compare(&self, file: &File) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        if file.metadata()?.len() < self.offset {
            return Ok(None);
        }
        let mut head = [0; HEAD_BYTES];
        let head = &mut head[..self.print.head_len()];
        let mut tail = [0; TAIL_BYTES];
        let tail = &mut tail[..self.print.tail_len()];
        let (at_head, at_tail) = (0, self.offset - tail.len() as u64);
        for (part, at) in [(&mut *head, at_head), (&mut *tail, at_tail)] {
            match file.read_exact_at(part, at) {
                Ok(()) => {}
                // It became shorter meanwhile.
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(err) => return Err(err),
            }
        }
        let same = self.print.begins(head) && self.print.ends(tail);
        Ok(same.then(|| (head.to_vec(), tail.to_vec())))
    }
}

/// Opens a regular file for reading, never waiting for a FIFO's writer. Gives what it is.
pub(super) fn open(path: &Path) -> io::Result<Option<(File, std::fs::Metadata)>> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let meta = file.metadata()?;
    Ok(meta.is_file().then_some((file, meta)))
}

impl Place {
    /// Notes the size and time of its file; tells whether they are new.
    pub(super) fn observe(&mut self, size: u64, modified: Modified) -> bool {
        let changed = (self.size, self.modified) != (size, modified);
        (self.size, self.modified) = (size, modified);
        changed
    }

    /// Opens its file again.
    pub(super) fn open(&mut self, path: &Path) -> io::Result<Opened> {
        let Some((file, meta)) = open(path)? else {
            return Ok(Opened::Another);
        };
        if key(&meta) != self.key {
            return Ok(Opened::Another);
        }
        self.observe(meta.len(), modified(&meta));
        self.file = Some(Arc::new(file));
        Ok(Opened::Same)
    }
}

/// What lies under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    Same,
    Another,
}

static NUL: [u8; HEAD_BYTES] = [0; HEAD_BYTES];
