//! The folder that bundles arrive in. Names, sizes and kinds of what is in it are not trusted.
//!
//! A file is ready when it has stood still for `settle`, or at once when a `NAME.sha256` stands
//! beside it. A copy that is still under way differs from it, or is no whole container: it is looked
//! at again when it goes on, and is given up once it has stood still for `copy-deadline`.
//! What is no regular file is left where it is, counted and alarmed; nothing here can block on it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use shared::bundle::BundleDigest;
use shared::durable;

use crate::config::{AfterImport, InboxConfig};
use crate::folders::open_untrusted;
use crate::import::{Outcome, Sidecar};

/// What is known of the folder from one look to the next.
#[derive(Debug)]
pub struct Inbox {
    config: InboxConfig,
    bytes_max: u64,
    seen: HashMap<OsString, Seen>,
    /// Entries that the last look left where they are.
    pub ignored: u64,
}

/// A file that may be read now.
#[derive(Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its name in the folder.
    pub name: OsString,
    /// What to compare it with.
    pub sidecar: Sidecar,
}

/// What a look at the folder found.
#[derive(Debug, Default)]
pub struct Look {
    /// What may be read now, in the order to read it in.
    pub ready: Vec<Ready>,
    /// When there will be more to do, if nothing changes.
    pub next: Option<Duration>,
    /// What was left where it is, with a stable code: one example of each.
    pub ignored: Vec<(&'static str, OsString)>,
}

/// Identity and age of a file's content, as far as the file system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    /// Since when the stamp stands still.
    since: Instant,
    /// Whether it was found incomplete before, with this stamp or an earlier one.
    copying: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// With this stamp and this sidecar, or none, it was incomplete.
    Incomplete(Option<BundleDigest>),
    /// Not before this time: importing failed for a reason of this machine.
    Later(Instant),
    /// Taken care of; it stays in the folder.
    Done,
    /// Taken care of, and it could not be removed: tried again at this time.
    Stays(Instant),
}

impl Inbox {
    /// Knows nothing of the folder yet.
    pub fn new(config: InboxConfig, bytes_max: u64) -> Self {
        Self { config, bytes_max, seen: HashMap::new(), ignored: 0 }
    }

    /// Looks at the folder.
    pub fn look(&mut self, now: Instant) -> io::Result<Look> {
        let mut look = Look::default();
        self.ignored = 0;
        let mut present = HashMap::with_capacity(self.seen.len());
        for entry in std::fs::read_dir(&self.config.path)? {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            if self.is_ignored_name(&name) {
                continue;
            }
            // Gone again since it was listed.
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let problem = if !found.is_file() {
                Some("not-a-file")
            } else if found.len() > self.bytes_max {
                Some("too-large")
            } else {
                None
            };
            if let Some(code) = problem {
                self.ignored += 1;
                if !look.ignored.iter().any(|(known, _)| *known == code) {
                    look.ignored.push((code, name));
                }
                continue;
            }
            if present.len() == TRACKED_MAX {
                // The rest has its turn when these are gone.
                break;
            }
            let stamp = Stamp::of(&found);
            let seen = match self.seen.remove(&name) {
                Some(seen) if seen.stamp == stamp => seen,
                earlier => Seen {
                    stamp,
                    since: now,
                    copying: earlier.is_some_and(|seen| seen.copying),
                    state: State::New,
                },
            };
            present.insert(name, seen);
        }
        self.seen = present;
        let mut next: Option<Duration> = None;
        for (name, seen) in &self.seen {
            match self.readiness(name, seen, now) {
                Readiness::Now(sidecar) => {
                    look.ready.push(Ready { name: name.clone(), sidecar });
                }
                Readiness::In(wait) => next = Some(next.map_or(wait, |next| next.min(wait))),
                Readiness::Never => {}
            }
        }
        // By name, so that a batch of bundles does not look like gaps that close again; the urgent
        // lane first. A name that lies about either costs nothing but this order.
        look.ready.sort_by_cached_key(|ready| turn(&ready.name));
        look.next = next;
        Ok(look)
    }

    /// The file's path.
    pub fn path(&self, name: &OsStr) -> PathBuf {
        self.config.path.join(name)
    }

    /// Notes what became of a file, and removes it where it is taken care of.
    pub fn done(&mut self, name: &OsStr, outcome: &Outcome) -> io::Result<()> {
        let path = self.path(name);
        let Some(seen) = self.seen.get_mut(name) else {
            return Ok(());
        };
        match outcome {
            Outcome::Incomplete => {
                seen.copying = true;
                seen.state = State::Incomplete(sidecar(&path).ok().flatten().flatten());
                return Ok(());
            }
            Outcome::Ignored { .. } => {
                seen.state = State::Done;
                return Ok(());
            }
            Outcome::Admitted { .. }
            | Outcome::Duplicate { .. }
            | Outcome::Quarantined { .. }
            | Outcome::Restored { .. } => {}
        }
        seen.state = State::Done;
        if self.config.after_import == AfterImport::Keep {
            return Ok(());
        }
        self.remove(name)
    }

    /// Removes a file that was taken care of, and its sidecar.
    fn remove(&mut self, name: &OsStr) -> io::Result<()> {
        let path = self.path(name);
        let Some(seen) = self.seen.get_mut(name) else {
            return Ok(());
        };
        seen.state = State::Done;
        // Somebody may have put another file in its place meanwhile: that one stays.
        let unchanged = std::fs::symlink_metadata(&path)
            .is_ok_and(|found| found.is_file() && Stamp::of(&found) == seen.stamp);
        if unchanged {
            durable::remove(&sidecar_path(&path))?;
            durable::remove(&path)?;
            self.seen.remove(name);
        }
        Ok(())
    }

    /// Notes that a file that was taken care of could not be removed: that is tried again later.
    pub fn stays(&mut self, name: &OsStr, now: Instant) {
        if let Some(seen) = self.seen.get_mut(name) {
            seen.state = State::Stays(now + RETRY_AFTER);
        }
    }

    /// Tries again to remove what was taken care of and stays. Tells whether nothing stays any more.
    pub fn remove_again(&mut self, now: Instant) -> bool {
        let is_due = |seen: &Seen| matches!(seen.state, State::Stays(at) if at <= now);
        let due = self.seen.iter().filter(|(_, seen)| is_due(seen));
        let due: Vec<OsString> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            if self.remove(&name).is_err() {
                self.stays(&name, now);
            }
        }
        !self.seen.values().any(|seen| matches!(seen.state, State::Stays(_)))
    }

    /// Notes that importing failed for a reason of this machine: the file is tried again later.
    pub fn failed(&mut self, name: &OsStr, now: Instant) {
        if let Some(seen) = self.seen.get_mut(name) {
            seen.state = State::Later(now + RETRY_AFTER);
        }
    }

    fn readiness(&self, name: &OsStr, seen: &Seen, now: Instant) -> Readiness {
        let settled = |span: Duration| match (seen.since + span).checked_duration_since(now) {
            Some(wait) if !wait.is_zero() => Some(wait),
            _ => None,
        };
        match seen.state {
            State::Later(at) | State::Stays(at) if at > now => return Readiness::In(at - now),
            // What stays is removed after this look.
            State::Done | State::Stays(_) => return Readiness::Never,
            State::New | State::Incomplete(_) | State::Later(_) => {}
        }
        let after = |wait, sidecar| match wait {
            Some(wait) => Readiness::In(wait),
            None => Readiness::Now(sidecar),
        };
        let settle = settled(self.config.settle);
        // Since the stamp last changed, not since the first look: a copier may be slow, or pause.
        let deadline = settled(self.config.copy_deadline);
        let incomplete = |with| seen.state == State::Incomplete(with);
        match sidecar(&self.path(name)) {
            Err(error) => after(settle, Sidecar::Unreadable(error.kind())),
            Ok(None) if deadline.is_none() => after(settle, Sidecar::Absent),
            // What was incomplete stays so for as long as neither file nor sidecar changes.
            Ok(None) if incomplete(None) => after(deadline, Sidecar::Absent),
            Ok(None) => after(settle, Sidecar::AbsentYet),
            Ok(Some(Some(digest))) if deadline.is_some() && !incomplete(Some(digest)) => {
                // A large copy under way is not read over and over: only when it pauses.
                after(settle.filter(|_| seen.copying), Sidecar::Expect(digest))
            }
            Ok(Some(expected)) => after(deadline, Sidecar::Insist(expected)),
        }
    }

    fn is_ignored_name(&self, name: &OsStr) -> bool {
        let name = name.as_encoded_bytes();
        self.config.ignore_suffixes.iter().any(|suffix| name.ends_with(suffix.as_bytes()))
    }
}

/// The order in which files are taken: the urgent lane first, then by name.
pub(crate) fn turn(name: &OsStr) -> (bool, OsString) {
    let flash = name.as_encoded_bytes().windows(7).any(|part| part == b"-flash-");
    (!flash, name.to_owned())
}

enum Readiness {
    Now(Sidecar),
    In(Duration),
    Never,
}

impl Stamp {
    /// That of a file of this length.
    #[cfg(test)]
    pub(crate) fn for_test(bytes: u64) -> Self {
        Self { device: 0, inode: 0, bytes, modified: (0, 0) }
    }

    pub(crate) fn of(found: &std::fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

/// `NAME.sha256`.
fn sidecar_path(path: &std::path::Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

/// What the sidecar of a file says, in the form of `sha256sum`: `Some(None)` where one stands there
/// that says nothing yet.
pub fn sidecar(path: &std::path::Path) -> io::Result<Option<Option<BundleDigest>>> {
    let mut file = match open_untrusted(&sidecar_path(path)) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        // None can stand there, where its name is too long.
        Err(err)
            if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) =>
        {
            return Ok(None);
        }
        Err(err) => return Err(err),
    };
    let mut text = [0; 64];
    match file.read_exact(&mut text) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(None)),
        Err(err) => return Err(err),
    }
    Ok(Some(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok())))
}

/// More files than this are looked at in turns, so that memory does not grow with the folder.
const TRACKED_MAX: usize = 65_536;
/// How long a file waits after importing or removing it failed: for space to be freed, say.
const RETRY_AFTER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);
    const DEADLINE: Duration = Duration::from_mins(10);

    fn inbox(dir: &std::path::Path) -> Inbox {
        let config = InboxConfig {
            path: dir.to_owned(),
            settle: SETTLE,
            rescan_interval: Duration::from_secs(10),
            copy_deadline: DEADLINE,
            ignore_suffixes: vec![".partial".to_owned(), ".sha256".to_owned()],
            after_import: AfterImport::Delete,
        };
        Inbox::new(config, 1000)
    }

    fn names(look: &Look) -> Vec<String> {
        look.ready.iter().map(|ready| crate::folders::shown(&ready.name)).collect()
    }

    #[test]
    fn a_file_is_ready_when_it_stands_still() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut inbox = inbox(dir.path());
        let start = Instant::now();
        std::fs::write(dir.path().join("a"), b"1")?;
        assert_eq!(inbox.look(start)?.next, Some(SETTLE));
        std::fs::write(dir.path().join("a"), b"12")?;
        assert!(inbox.look(start + SETTLE)?.ready.is_empty());
        assert_eq!(names(&inbox.look(start + 2 * SETTLE)?), ["a"]);
        Ok(())
    }

    #[test]
    fn a_sidecar_makes_it_ready_at_once_and_a_wrong_one_waits_for_the_deadline() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut inbox = inbox(dir.path());
        let start = Instant::now();
        std::fs::write(dir.path().join("a"), b"1")?;
        let digest = BundleDigest::of(b"12");
        std::fs::write(dir.path().join("a.sha256"), format!("{digest}  a\n"))?;
        let look = inbox.look(start)?;
        assert_eq!(look.ready[0].sidecar, Sidecar::Expect(digest));
        inbox.done(OsStr::new("a"), &Outcome::Incomplete)?;
        assert_eq!(inbox.look(start)?.next, Some(DEADLINE));
        assert!(dir.path().join("a").exists());
        // The copy goes on: it is looked at again once it pauses.
        std::fs::write(dir.path().join("a"), b"12")?;
        assert_eq!(inbox.look(start)?.next, Some(SETTLE));
        assert_eq!(inbox.look(start + SETTLE)?.ready[0].sidecar, Sidecar::Expect(digest));
        inbox.done(OsStr::new("a"), &Outcome::Incomplete)?;
        let late = inbox.look(start + DEADLINE)?;
        assert_eq!(late.ready[0].sidecar, Sidecar::Insist(Some(digest)));
        let duplicate = Outcome::Duplicate { bundle: String::new() };
        inbox.done(OsStr::new("a"), &duplicate)?;
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_copy_that_pauses_has_its_deadline_from_its_last_change() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut inbox = inbox(dir.path());
        let name = OsStr::new("a");
        let mut now = Instant::now();
        // Three times it goes on shortly before its deadline; in the end the sidecar comes.
        for part in ["1", "12", "123"] {
            std::fs::write(dir.path().join("a"), part)?;
            assert_eq!(inbox.look(now)?.next, Some(SETTLE));
            now += SETTLE;
            assert_eq!(inbox.look(now)?.ready[0].sidecar, Sidecar::AbsentYet);
            inbox.done(name, &Outcome::Incomplete)?;
            assert_eq!(inbox.look(now)?.next, Some(DEADLINE.saturating_sub(SETTLE)));
            now += DEADLINE.saturating_sub(2 * SETTLE);
            assert!(inbox.look(now)?.ready.is_empty());
        }
        assert!(dir.path().join("a").exists());
        assert_eq!(inbox.look(now + SETTLE)?.ready[0].sidecar, Sidecar::Absent);
        let digest = BundleDigest::of(b"123");
        std::fs::write(dir.path().join("a.sha256"), format!("{digest}  a\n"))?;
        assert_eq!(inbox.look(now)?.ready[0].sidecar, Sidecar::Expect(digest));
        Ok(())
    }

    #[test]
    fn only_a_sidecar_that_is_not_there_is_absent() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let at = dir.path().join("a");
        assert_eq!(sidecar(&at)?, None);
        assert_eq!(sidecar(&dir.path().join("x".repeat(252)))?, None);
        std::fs::write(sidecar_path(&at), b"0123")?;
        assert_eq!(sidecar(&at)?, Some(None));
        assert!(sidecar(&sidecar_path(&at).join("b")).is_err(), "its folder is none");
        Ok(())
    }

    #[test]
    fn a_file_that_took_its_place_stays() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut inbox = inbox(dir.path());
        std::fs::write(dir.path().join("a"), b"1")?;
        inbox.look(Instant::now())?;
        std::fs::write(dir.path().join("b"), b"another one")?;
        durable::rename(&dir.path().join("b"), &dir.path().join("a"))?;
        let duplicate = Outcome::Duplicate { bundle: String::new() };
        inbox.done(OsStr::new("a"), &duplicate)?;
        assert!(dir.path().join("a").exists());
        Ok(())
    }

    #[test]
    fn what_can_not_be_removed_is_tried_again_and_not_read_again() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut inbox = inbox(dir.path());
        let (name, start) = (OsStr::new("a"), Instant::now());
        std::fs::write(dir.path().join("a"), b"1")?;
        // No user can remove a folder as if it were a file.
        let in_the_way = dir.path().join("a.sha256");
        std::fs::create_dir(&in_the_way)?;
        inbox.look(start)?;
        assert_eq!(names(&inbox.look(start + SETTLE)?), ["a"]);
        let duplicate = Outcome::Duplicate { bundle: String::new() };
        assert!(inbox.done(name, &duplicate).is_err());
        inbox.stays(name, start);
        let look = inbox.look(start + SETTLE)?;
        assert_eq!((names(&look), look.next), (vec![], Some(RETRY_AFTER.saturating_sub(SETTLE))));
        assert!(!inbox.remove_again(start + RETRY_AFTER), "it is still in the way");
        std::fs::remove_dir(&in_the_way)?;
        assert!(!inbox.remove_again(start + RETRY_AFTER), "not again at once");
        assert!(inbox.remove_again(start + 2 * RETRY_AFTER));
        assert!(!dir.path().join("a").exists());
        Ok(())
    }

    #[test]
    fn nothing_hostile_blocks_or_is_read() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a.pstk"), b"1")?;
        std::fs::write(at("evil\x1b[2J\nname"), b"1")?;
        std::fs::write(at("a.partial"), b"1")?;
        std::fs::write(at("huge"), vec![0; 1001])?;
        std::fs::create_dir(at("dir"))?;
        symlink("/etc/passwd", at("link"))?;
        symlink("/dev/zero", at("a.pstk.sha256"))?;
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
        for number in 0..3000 {
            std::fs::write(at(&format!("x-flash-{number:010}")), b"1")?;
        }
        let mut inbox = inbox(dir.path());
        let start = Instant::now();
        inbox.look(start)?;
        let look = inbox.look(start + SETTLE)?;
        assert_eq!(look.ready.len(), 3002);
        assert_eq!(names(&look)[0], "x-flash-0000000000");
        assert_eq!(names(&look)[3000..], ["a.pstk", "evil\\x1b[2J\\nname"]);
        assert_eq!(inbox.ignored, 4);
        let mut codes: Vec<&str> = look.ignored.iter().map(|(code, _)| *code).collect();
        codes.sort_unstable();
        assert_eq!(codes, ["not-a-file", "too-large"]);
        Ok(())
    }
}
