//! Looking for files, and finding out which content each of them goes on with.
//!
//! | a file is found that | then |
//! |---|---|
//! | is where a content is known to lie, and still holds it | it goes on; another name means that it was rotated |
//! | is where a content was, and holds something else | the content has lost its place, the file is new |
//! | holds all that was read of a content without a place | the content goes on there: copied, moved or compressed |
//! | holds what another file holds that is still there | it is a copy and not read, while that one is there |
//! | holds what another file holds, and more | it goes on from there as a content of its own |
//! | holds anything else | it is new |

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::content::{Content, Departure, Opened, Place, open};
use super::counters::FileCounters;
use super::glob::{FILES_MAX, Found, Key, Modified, Trouble, key, list, modified, shown};
use super::gzip::{Beginning, beginning};
use super::print::{HEAD_BYTES, Print, STRONG_BYTES, TAIL_BYTES};
use super::tailer::Tailer;
use super::{BeginAt, OPEN_FILES_MAX, rotation};

/// A file that was found and belongs to no content yet.
#[derive(Debug)]
pub(super) struct Stranger {
    changed: Instant,
    size: u64,
    modified: Modified,
    verdict: Verdict,
    listed: bool,
}

/// What is thought of a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Undecided,
    /// It holds what this content holds, which has another place.
    CopyOf(u64),
    /// It can't be read, and was told.
    Ignored,
}

/// What became of a file where a content is known to lie.
enum Known {
    /// The content goes on there.
    Same,
    /// It holds something else; so many bytes of the content were seen there and not read.
    Another(Departure),
    /// It can't be looked at now.
    Unreadable(io::Error),
}

/// A content that still has its place, and that a stranger begins as.
struct Likeness {
    id: u64,
    offset: u64,
    /// Whether the stranger holds everything that was read of it.
    is_whole: bool,
}

impl Tailer {
    /// Looks for files. Gives the folders whose changes matter.
    pub(super) fn scan(&mut self, now: Instant) -> BTreeSet<PathBuf> {
        self.rescan = false;
        let listing = list(&self.settings.paths, &self.settings.rotated);
        let mut troubles = listing.troubles;
        let mut by_key: HashMap<Key, Vec<u64>> = HashMap::new();
        for (id, content) in &mut self.contents {
            if let Some(place) = &mut content.place {
                place.listed = false;
                by_key.entry(place.key).or_default().push(*id);
            }
        }
        let mut strangers = Vec::new();
        for found in &listing.files {
            let mut ids = by_key.remove(&found.key).unwrap_or_default();
            // Of several contents that were in one file, the last one has the highest number.
            ids.reverse();
            let mut is_taken = false;
            for id in ids {
                let known = if is_taken {
                    Known::Another(Departure::Missing)
                } else {
                    self.meet_known(id, found, now)
                };
                match known {
                    Known::Same => is_taken = true,
                    Known::Another(how) => self.lose(id, how, now),
                    Known::Unreadable(err) => {
                        troubles.insert(found.path.clone(), Trouble::of(&err));
                        is_taken = true;
                    }
                }
            }
            if !is_taken {
                strangers.push(found);
            }
        }
        self.part_from_unlisted(now);
        let names: HashSet<&Path> = listing.files.iter().map(|found| &*found.path).collect();
        let mut refused = listing.left_out;
        for found in strangers {
            match self.meet_stranger(found, &names, now) {
                Ok(true) => {}
                Ok(false) => refused += 1,
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => _ = troubles.insert(found.path.clone(), Trouble::of(&err)),
            }
        }
        self.strangers.retain(|_, stranger| std::mem::replace(&mut stranger.listed, false));
        self.forget_gone(&names, now);
        self.tell(troubles, refused);
        listing.folders
    }

    /// A file is where a content is known to lie.
    fn meet_known(&mut self, id: u64, found: &Found, now: Instant) -> Known {
        let open_files = self.open_files();
        let Some(content) = self.contents.get_mut(&id) else {
            return Known::Another(Departure::Missing);
        };
        let offset = content.offset;
        let Some(place) = &mut content.place else {
            return Known::Another(Departure::Missing);
        };
        let seen = place.size;
        if place.gzip.is_some() != rotation::is_gzip(&found.path) && place.file.is_none() {
            // The number of a file that is gone was given to this one.
            return Known::Another(Departure::Missing);
        }
        if place.file.is_none() {
            if place.observe(found.size, found.modified) {
                // Nothing can be compared yet of a compressed file, or where nothing was read: the
                // number may have been given to another file, so it is looked at as a new one.
                if offset == 0 || place.gzip.is_some() {
                    return Known::Another(match &place.gzip {
                        Some(gzip) if gzip.done => Departure::Finished,
                        _ => Departure::Missing,
                    });
                }
                place.verified = false;
                content.changed = now;
                content.finished &= found.size == offset;
            }
            let place = content.place.as_mut();
            if let Some(place) = place.filter(|place| !place.verified && place.gzip.is_none()) {
                match place.open(&found.path) {
                    Err(err) => {
                        place.listed = true;
                        return Known::Unreadable(err);
                    }
                    // The listing is old already.
                    Ok(Opened::Another) => self.rescan = true,
                    Ok(Opened::Same) => {
                        let file = place.file.clone();
                        let holds = file.as_deref().map_or(Ok(false), |file| content.is_in(file));
                        match holds {
                            Ok(true) => {}
                            Ok(false) => {
                                let unread = seen.saturating_sub(offset);
                                return Known::Another(match seen {
                                    // Not looked at since the start.
                                    0 => Departure::Missing,
                                    _ => Departure::Rewritten { unread },
                                });
                            }
                            Err(err) => {
                                if let Some(place) = &mut content.place {
                                    (place.file, place.listed) = (None, true);
                                }
                                return Known::Unreadable(err);
                            }
                        }
                        let has_unread = content.has_unread();
                        if let Some(place) = &mut content.place {
                            place.verified = true;
                            if open_files >= OPEN_FILES_MAX || !has_unread && content.finished {
                                place.file = None;
                            }
                        }
                    }
                }
            }
        }
        if let Some(place) = &mut content.place {
            place.listed = true;
        }
        if content.path != found.path {
            content.path.clone_from(&found.path);
            content.rotated = true;
            self.changed.insert(id);
        }
        content.rotated |= found.rotated;
        Known::Same
    }

    /// Contents whose files have no name any more that a pattern matches.
    fn part_from_unlisted(&mut self, now: Instant) {
        let unlisted: Vec<u64> = self
            .contents
            .iter()
            .filter(|(_, content)| content.is_departed())
            .map(|(id, _)| *id)
            .collect();
        for id in unlisted {
            let Some(content) = self.contents.get_mut(&id) else { continue };
            let Some(place) = &mut content.place else { continue };
            let is_reading = place.gzip.as_ref().is_some_and(|gzip| gzip.reader.is_some());
            if place.file.is_some() || is_reading {
                // It is read to its end through the open file.
                content.rotated = true;
                continue;
            }
            let is_read = match &place.gzip {
                Some(gzip) => gzip.done,
                None => content.rotated && place.verified && place.size == content.offset,
            };
            let how = if is_read { Departure::Finished } else { Departure::Missing };
            self.lose(id, how, now);
        }
    }

    /// A file is found where no content is known to lie. Tells whether there was room for it.
    fn meet_stranger(
        &mut self,
        found: &Found,
        names: &HashSet<&Path>,
        now: Instant,
    ) -> io::Result<bool> {
        let (size, modified_then) = (found.size, found.modified);
        let stranger = self.strangers.entry(found.key).or_insert_with(|| Stranger {
            changed: now,
            size,
            modified: modified_then,
            verdict: Verdict::Undecided,
            listed: true,
        });
        stranger.listed = true;
        if (stranger.size, stranger.modified) != (size, modified_then) {
            (stranger.size, stranger.modified) = (size, modified_then);
            (stranger.changed, stranger.verdict) = (now, Verdict::Undecided);
        }
        let unchanged = now.saturating_duration_since(stranger.changed);
        match stranger.verdict {
            Verdict::Ignored => return Ok(true),
            Verdict::CopyOf(id) => {
                let holds_more = |content: &Content| size > content.offset;
                let other = self.contents.get(&id);
                // A file that was a copy may be written to from now on.
                if other.is_some_and(|other| other.place.is_some() && !holds_more(other)) {
                    return Ok(true);
                }
            }
            Verdict::Undecided => {}
        }
        if size == 0 {
            return Ok(true);
        }
        let Some((file, meta)) = open(&found.path)? else { return Ok(true) };
        if key(&meta) != found.key {
            self.rescan = true;
            return Ok(true);
        }
        let decided = if rotation::is_gzip(&found.path) {
            self.meet_gzip(found, file, names, unchanged)
        } else {
            self.meet_plain(found, file, unchanged, now)?
        };
        let (verdict, is_room) = match decided {
            Decided::New => (Verdict::Undecided, self.take_up(found, now)),
            Decided::GoesOn(id) => {
                self.settle(id, found, now);
                (Verdict::Undecided, true)
            }
            Decided::Forks(id) => (Verdict::Undecided, self.fork(id, found, now)?),
            Decided::Taken => (Verdict::Undecided, true),
            Decided::Waits => return Ok(true),
            Decided::Is(verdict) => (verdict, true),
        };
        if verdict == Verdict::Undecided && is_room {
            self.strangers.remove(&found.key);
        } else if let Some(stranger) = self.strangers.get_mut(&found.key) {
            stranger.verdict = verdict;
        }
        Ok(is_room)
    }

    fn meet_plain(
        &mut self,
        found: &Found,
        file: File,
        unchanged: std::time::Duration,
        now: Instant,
    ) -> io::Result<Decided> {
        let size = file.metadata()?.len();
        let first = first_bytes(&file)?;
        let goes_on = |content: &Content| {
            content.offset > 0
                && size >= content.offset
                && content.print.begins(&first)
                && content.goes_on_in(&file).unwrap_or(false)
        };
        // A content without a place goes on here.
        let homeless = self.contents.iter().filter(|(_, content)| {
            let is_sure =
                content.offset >= STRONG_BYTES || found.rotated && content.path != found.path;
            content.place.is_none() && is_sure && goes_on(content)
        });
        if let Some((id, _)) = homeless.max_by_key(|(_, content)| content.offset) {
            return Ok(Decided::GoesOn(*id));
        }
        // A copy that was made before the last of what was read was written.
        let is_settled = unchanged >= self.settings.timing.copy_grace;
        let is_strong = size >= STRONG_BYTES;
        let mut shorter = self.contents.iter().filter(|(_, content)| {
            let was_rewritten = content
                .gone
                .as_ref()
                .is_some_and(|gone| matches!(gone.how, Departure::Rewritten { .. }));
            content.place.is_none()
                && content.path != found.path
                && size < content.offset
                && (is_strong || was_rewritten && found.rotated)
                && content.print.overlaps(&first)
        });
        let shorter = shorter.next();
        if shorter.is_some() && !is_settled {
            return Ok(Decided::Waits);
        }
        if let Some((id, _)) = shorter {
            let id = *id;
            self.shorten(id, &file, size)?;
            drop(file);
            self.settle(id, found, now);
            return Ok(Decided::Taken);
        }
        let like = self.contents.iter().filter(|(_, content)| {
            content.place.is_some() && content.offset > 0 && content.path != found.path
        });
        let like = like.filter_map(|(id, content)| {
            let is_whole = goes_on(content);
            let is_like = is_whole || size < content.offset && content.print.overlaps(&first);
            is_like.then_some(Likeness { id: *id, offset: content.offset, is_whole })
        });
        let Some(like) = like.max_by_key(|like| (like.is_whole, like.offset)) else {
            // One of which nothing was read yet can be compared only as it lies there.
            let is_like_unread = !is_settled
                && self.contents.values().any(|content| {
                    let file = content.place.as_ref().and_then(|place| place.file.as_deref());
                    content.offset == 0 && file.is_some_and(|file| begins_alike(file, &first))
                });
            return Ok(if is_like_unread { Decided::Waits } else { Decided::New });
        };
        Ok(self.decide_likeness(&like, size, unchanged))
    }

    /// The file begins as another one that is still there.
    fn decide_likeness(
        &self,
        like: &Likeness,
        size: u64,
        unchanged: std::time::Duration,
    ) -> Decided {
        let Some(other) = self.contents.get(&like.id) else { return Decided::Waits };
        // It was truncated since it was looked at: the file may be all that is left of it.
        if other.has_left() {
            return Decided::Waits;
        }
        let is_settled = unchanged >= self.settings.timing.copy_grace;
        let is_strong = size.min(like.offset) >= STRONG_BYTES;
        if like.is_whole && size > like.offset {
            // The other one may hold as much, and will be read first.
            return match (other.has_unread(), is_settled, is_strong) {
                (true, ..) | (_, false, _) => Decided::Waits,
                (false, true, true) => Decided::Forks(like.id),
                (false, true, false) => Decided::New,
            };
        }
        match (is_strong, is_settled) {
            (true, _) => Decided::Is(Verdict::CopyOf(like.id)),
            (false, false) => Decided::Waits,
            (false, true) => Decided::New,
        }
    }

    fn meet_gzip(
        &mut self,
        found: &Found,
        file: File,
        names: &HashSet<&Path>,
        unchanged: std::time::Duration,
    ) -> Decided {
        // It is being made of a file that is still there.
        let before = rotation::before_gzip(&found.path);
        if before.as_deref().is_some_and(|before| names.contains(before)) {
            return Decided::Waits;
        }
        // What is made of may be deleted and open, and has to be read first. One of which nothing
        // was read could not even be recognised.
        let has_departed = self.contents.values().any(|content| {
            content.is_departed()
                && (content.offset == 0 || Some(&*content.path) == before.as_deref())
        });
        if has_departed {
            return Decided::Waits;
        }
        let timing = self.settings.timing;
        let first = match beginning(file) {
            Beginning::Bytes(first) => first,
            Beginning::Unfinished if unchanged < timing.gzip_damaged => return Decided::Waits,
            Beginning::Unfinished => {
                let path = shown(&found.path);
                self.raise(&format!("{path} is damaged: nothing of it can be decompressed"));
                return Decided::Is(Verdict::Ignored);
            }
            Beginning::Other => {
                tracing::warn!(files = %self.settings.name, path = %found.path.display(), "is called compressed and is no gzip file: it is not read");
                return Decided::Is(Verdict::Ignored);
            }
        };
        let alike = |content: &Content| {
            content.offset > 0
                && content.print.begins(&first)
                && !content.rejected.contains(&found.key)
        };
        let homeless = self.contents.iter().filter(|(_, c)| c.place.is_none() && alike(c));
        if let Some((id, _)) = homeless.max_by_key(|(_, content)| content.offset) {
            return Decided::GoesOn(*id);
        }
        let housed = self.contents.iter().filter(|(_, c)| c.place.is_some() && alike(c));
        if let Some((id, content)) = housed.max_by_key(|(_, content)| content.offset) {
            let is_strong = content.offset >= STRONG_BYTES;
            let is_early = !is_strong && unchanged < timing.copy_grace;
            if content.is_departed() || content.has_left() || is_early {
                return Decided::Waits;
            }
            if is_strong {
                return Decided::Is(Verdict::CopyOf(*id));
            }
        }
        let is_first_look = !self.is_known && self.settings.from == BeginAt::End;
        if unchanged < timing.gzip_settle && !is_first_look {
            return Decided::Waits;
        }
        Decided::New
    }

    /// A file that holds nothing known. Tells whether there is room for it.
    fn take_up(&mut self, found: &Found, now: Instant) -> bool {
        if self.contents.len() >= FILES_MAX {
            return false;
        }
        let mut content = Content::new(&found.path, Some(self.place(found)), now);
        content.rotated = found.rotated;
        let at_end = !self.is_known && self.settings.from == BeginAt::End;
        if at_end && let Some(place) = &mut content.place {
            match (&mut place.gzip, &place.file) {
                (Some(gzip), _) => gzip.done = true,
                (None, Some(file)) => {
                    if let Err(err) = begin_at_end(&Arc::clone(file), &mut content) {
                        tracing::warn!(path = %found.path.display(), %err, "its end can't be found: it is read from the beginning");
                    }
                }
                (None, None) => {}
            }
        }
        tracing::debug!(files = %self.settings.name, path = %found.path.display(), offset = content.offset, "a new file");
        let id = self.insert(content);
        self.changed.insert(id);
        true
    }

    /// A content without a place goes on in this file.
    fn settle(&mut self, id: u64, found: &Found, now: Instant) {
        let place = self.place(found);
        if let Some(content) = self.contents.get_mut(&id) {
            tracing::info!(files = %self.settings.name, path = %found.path.display(), was = %content.path.display(), offset = content.offset, "goes on here");
            content.settle(&found.path, place, now);
            if let Some(file) = content.place.as_ref().and_then(|place| place.file.clone())
                && !content.is_in(&file).unwrap_or(false)
            {
                content.lose_place(Departure::Missing, now);
                self.rescan = true;
            }
            self.changed.insert(id);
        }
    }

    /// A file that was a copy has grown by itself: a content of its own, read up to where the other
    /// one was.
    fn fork(&mut self, id: u64, found: &Found, now: Instant) -> io::Result<bool> {
        let Some(other) = self.contents.get(&id) else { return Ok(true) };
        if self.contents.len() >= FILES_MAX {
            return Ok(false);
        }
        let mut content = Content::new(&found.path, None, now);
        (content.offset, content.scanned) = (other.offset, other.offset);
        content.print = other.print.clone();
        let rotated = found.rotated;
        content.settle(&found.path, self.place(found), now);
        content.rotated = rotated;
        if let Some(file) = content.place.as_ref().and_then(|place| place.file.clone())
            && !content.is_in(&file)?
        {
            self.rescan = true;
            return Ok(true);
        }
        let id = self.insert(content);
        self.changed.insert(id);
        Ok(true)
    }

    /// A content is what a copy holds that was made before the last of what was read was written.
    fn shorten(&mut self, id: u64, file: &File, size: u64) -> io::Result<()> {
        let Some(content) = self.contents.get_mut(&id) else { return Ok(()) };
        let first = first_bytes(file)?;
        let mut last = vec![0; TAIL_BYTES.min(usize::try_from(size).unwrap_or(TAIL_BYTES))];
        let last_at = size - last.len() as u64;
        file.read_exact_at(&mut last, last_at)?;
        content.print = Print::default();
        content.print.learn(&first[..first.len().min(usize::try_from(size).unwrap_or(0))], &last);
        content.offset = size;
        Ok(())
    }

    /// The place of a file that is found; open, if there is room.
    fn place(&self, found: &Found) -> Place {
        let is_gzip = rotation::is_gzip(&found.path);
        let mut place = Place::new(found.key, is_gzip);
        place.observe(found.size, found.modified);
        if !is_gzip && self.open_files() < OPEN_FILES_MAX {
            // Where this fails it is opened, or complained about, when it is read.
            match place.open(&found.path) {
                Ok(Opened::Same) => place.verified = true,
                Ok(Opened::Another) | Err(_) => place.file = None,
            }
        }
        place
    }

    /// A content has no place any more.
    pub(super) fn lose(&mut self, id: u64, how: Departure, now: Instant) {
        let Some(content) = self.contents.get_mut(&id) else { return };
        if let Departure::Rewritten { .. } = how {
            add(&self.counters.rewritten, 1);
            tracing::debug!(files = %self.settings.name, path = %content.path.display(), offset = content.offset, "truncated or written anew");
        }
        content.lose_place(how, now);
        content.unread_since = None;
        self.rescan = true;
    }

    /// Contents that did not come back are forgotten, and what may have been lost with them is told.
    fn forget_gone(&mut self, names: &HashSet<&Path>, now: Instant) {
        let grace = self.settings.timing.gone_grace;
        let mut gone: Vec<(u64, Departure)> = Vec::new();
        for (id, content) in &self.contents {
            if let Some(why) = &content.gone
                && (now.saturating_duration_since(why.since) >= grace || content.offset == 0)
            {
                gone.push((*id, why.how));
            }
        }
        for (id, how) in gone {
            let Some(content) = self.contents.remove(&id) else { continue };
            self.removed.push(id);
            let (path, offset) = (shown(&content.path), content.offset);
            match how {
                Departure::Finished | Departure::Rewritten { unread: 0 } => {}
                // Of what nothing was read no copy can be recognised: any other file may be it.
                Departure::Rewritten { .. }
                    if offset == 0 && names.iter().any(|name| **name != *content.path) => {}
                Departure::Rewritten { unread } => {
                    add(&self.counters.unread_gone, 1);
                    add(&self.counters.unread_gone_bytes, unread);
                    self.raise(&format!(
                        "{path} was truncated or replaced, and no copy of it was found: {unread} bytes behind byte {offset} were not read"
                    ));
                }
                Departure::Missing => {
                    add(&self.counters.unread_gone, 1);
                    self.raise(&format!(
                        "{path} went away, or was truncated or replaced, while it was not looked at: if anything was written behind byte {offset}, it was not read"
                    ));
                }
            }
        }
    }

    /// Tells the operator, for as long as it is not acknowledged.
    pub(super) fn raise(&mut self, what: &str) {
        let text = format!("files {:?}: {what}", self.settings.name);
        tracing::warn!("{text}");
        (self.alarm)(&text);
    }

    /// Tells what can't be read, once, and counts it.
    fn tell(&mut self, troubles: std::collections::BTreeMap<PathBuf, Trouble>, refused: u64) {
        for (path, trouble) in &troubles {
            if self.troubles.get(path) != Some(trouble) {
                tracing::warn!(files = %self.settings.name, "{}", trouble_text(path, *trouble));
            }
        }
        let unreadable = troubles.values().filter(|trouble| **trouble != Trouble::NoFile).count();
        let FileCounters { unreadable: gauge, refused: left_out, .. } = &*self.counters;
        gauge.store(unreadable as u64, Ordering::Relaxed);
        left_out.store(refused, Ordering::Relaxed);
        self.troubles = troubles;
        if refused > 0 && !std::mem::replace(&mut self.told_left_out, true) {
            tracing::warn!(files = %self.settings.name, limit = FILES_MAX, "too many files: the others are not read; make the patterns narrower, or use several sections");
        }
        self.told_left_out &= refused > 0;
    }

    /// How many files are open.
    pub(super) fn open_files(&self) -> usize {
        self.contents.values().filter(|content| content.is_open()).count()
    }
}

/// What is to be done with a stranger.
enum Decided {
    New,
    GoesOn(u64),
    Forks(u64),
    /// It was dealt with.
    Taken,
    /// It can't be told yet.
    Waits,
    Is(Verdict),
}

/// Why a path is not read, and what to do about it.
pub(super) fn trouble_text(path: &Path, trouble: Trouble) -> String {
    let path = path.display();
    match trouble {
        Trouble::NoFile => format!("{path} is no regular file: it is not read"),
        Trouble::Error(io::ErrorKind::PermissionDenied, _) => {
            let uid = nix::unistd::geteuid();
            let user = nix::unistd::User::from_uid(uid).ok().flatten();
            let user = user.map_or_else(|| uid.to_string(), |user| user.name);
            format!(
                "{path} can't be read by user {user}: put the user into the group that may read it, or `setfacl -m u:{user}:rX` on it and each folder above"
            )
        }
        Trouble::Error(kind, code) => {
            let text = code.map_or_else(
                || kind.to_string(),
                |code| io::Error::from_raw_os_error(code).to_string(),
            );
            format!("{path} can't be read: {text}; it is tried again")
        }
    }
}

fn first_bytes(file: &File) -> io::Result<Vec<u8>> {
    let mut first = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while filled < first.len() {
        match file.read_at(&mut first[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    first.truncate(filled);
    Ok(first)
}

/// Whether a file begins with these bytes, or they with it.
fn begins_alike(file: &File, first: &[u8]) -> bool {
    first_bytes(file).is_ok_and(|own| {
        let common = own.len().min(first.len());
        common > 0 && own[..common] == first[..common]
    })
}

/// Begins behind the last line that is complete now.
fn begin_at_end(file: &File, content: &mut Content) -> io::Result<()> {
    let meta = file.metadata()?;
    let mut end = meta.len();
    let mut piece = vec![0; END_PIECE_BYTES];
    let line_end = loop {
        let from = end.saturating_sub(END_PIECE_BYTES as u64);
        let piece = &mut piece[..usize::try_from(end - from).unwrap_or(0)];
        file.read_exact_at(piece, from)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            break from + at as u64 + 1;
        }
        if from == 0 {
            break 0;
        }
        end = from;
    };
    let first = first_bytes(file)?;
    let first = &first[..first.len().min(usize::try_from(line_end).unwrap_or(usize::MAX))];
    let mut last = vec![0; TAIL_BYTES.min(usize::try_from(line_end).unwrap_or(TAIL_BYTES))];
    let last_at = line_end - last.len() as u64;
    file.read_exact_at(&mut last, last_at)?;
    content.print.learn(first, &last);
    (content.offset, content.scanned) = (line_end, line_end);
    if let Some(place) = &mut content.place {
        place.observe(meta.len(), modified(&meta));
    }
    Ok(())
}

pub(super) fn add(counter: &std::sync::atomic::AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// What is read at one time while the last line's end is looked for.
const END_PIECE_BYTES: usize = 64 * 1024;
