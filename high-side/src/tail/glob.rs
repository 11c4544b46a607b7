//! Which files there are: patterns, walked folder by folder.
//!
//! The walk is our own and `globset` only matches names: it matches bytes, so that no file is left out
//! for a name that is no UTF-8, while the crate `glob` walks by itself, without a bound on what it
//! lists, and silently passes over what it can't read. One `*` stands for one folder, so a link that
//! leads in a circle can't make the walk endless.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

use super::rotation;

/// An absolute path in which `*`, `?`, `[...]` and `{a,b}` stand for parts of one name each.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(OsString),
    Wild { matcher: GlobMatcher, hidden: bool },
}

impl Pattern {
    /// The folder above the first part that is a glob, or above the file.
    pub(crate) fn base(&self) -> PathBuf {
        let literal = |part: &Part| match part {
            Part::Literal(name) => Some(name.clone()),
            Part::Wild { .. } => None,
        };
        let above = &self.parts[..self.parts.len().saturating_sub(1)];
        let mut base = PathBuf::from("/");
        base.extend(above.iter().map_while(literal));
        base
    }
}

/// Why a pattern can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A service has its own folder.
    #[error("{0:?} is no absolute path of a file")]
    NotAbsolute(String),
    /// `**` has no bound.
    #[error("{0:?}: `**` is not taken; write one `*` for each folder")]
    Recursive(String),
    /// A part that is no glob.
    #[error("{0:?}: {1}")]
    Glob(String, String),
}

/// A device and an inode: which file it is, while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) dev: u64,
    pub(super) ino: u64,
}

/// A file that a pattern matches.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// As matched: links are not resolved.
    pub(super) path: PathBuf,
    pub(super) key: Key,
    pub(super) size: u64,
    pub(super) modified: Modified,
    /// Whether its name says that nobody writes to it any more.
    pub(super) rotated: bool,
}

/// When a file was last written to, to the nanosecond.
pub(super) type Modified = (i64, i64);

pub(super) fn modified(meta: &fs::Metadata) -> Modified {
    (meta.mtime(), meta.mtime_nsec())
}

pub(super) fn key(meta: &fs::Metadata) -> Key {
    Key { dev: meta.dev(), ino: meta.ino() }
}

/// Everything that the patterns of one set match at one time.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Each file once, however many names it has, the longest unchanged first: a log's rotated files
    /// come before the log.
    pub(super) files: Vec<Found>,
    /// The folders whose changes may change the listing.
    pub(super) folders: BTreeSet<PathBuf>,
    /// What could not be looked at, and why.
    pub(super) troubles: BTreeMap<PathBuf, Trouble>,
    /// Files that were left out since there are too many.
    pub(super) left_out: u64,
}

/// Why something that a pattern matches is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is a folder, a FIFO, a device or a socket.
    NoFile,
    /// The system does not let us.
    Error(io::ErrorKind, Option<i32>),
}

impl Trouble {
    pub(super) fn of(err: &io::Error) -> Self {
        Trouble::Error(err.kind(), err.raw_os_error())
    }
}

/// Which names count as those of rotated files.
#[derive(Clone, Debug, Default)]
pub enum Rotated {
    /// Names that the usual rotations give to the files of the patterns.
    #[default]
    Automatic,
    /// Names that match one of these.
    Patterns(Vec<Pattern>),
}

/// Lists what the patterns match, and the rotated files beside them.
pub(super) fn list(paths: &[Pattern], rotated: &Rotated) -> Listing {
    let mut walk = Walk { automatic: matches!(rotated, Rotated::Automatic), ..Walk::default() };
    for pattern in paths {
        walk.pattern(pattern, false);
    }
    if let Rotated::Patterns(patterns) = rotated {
        walk.automatic = false;
        for pattern in patterns {
            walk.pattern(pattern, true);
        }
    }
    let mut listing = walk.listing;
    listing.files.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
    listing
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let path = Path::new(text);
        if !path.is_absolute() || text.ends_with('/') {
            return Err(PatternError::NotAbsolute(text.to_owned()));
        }
        let mut parts = Vec::new();
        for component in path.components() {
            let name = match component {
                Component::RootDir => continue,
                Component::Normal(name) => name,
                _ => return Err(PatternError::NotAbsolute(text.to_owned())),
            };
            let name_text = name.to_str().unwrap_or_default();
            if name_text.contains("**") {
                return Err(PatternError::Recursive(text.to_owned()));
            }
            if !name_text.contains(['*', '?', '[', '{', '\\']) {
                parts.push(Part::Literal(name.to_owned()));
                continue;
            }
            let glob = GlobBuilder::new(name_text).literal_separator(true).build();
            let glob =
                glob.map_err(|err| PatternError::Glob(text.to_owned(), err.kind().to_string()))?;
            let hidden = name_text.starts_with('.');
            parts.push(Part::Wild { matcher: glob.compile_matcher(), hidden });
        }
        if parts.is_empty() {
            return Err(PatternError::NotAbsolute(text.to_owned()));
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Part {
    fn is(&self, name: &OsStr) -> bool {
        match self {
            Part::Literal(literal) => literal == name,
            // As in a shell: what an editor leaves under a hidden name is not meant by `*`.
            Part::Wild { matcher, hidden } => {
                (*hidden || !name.as_bytes().starts_with(b".")) && matcher.is_match(name)
            }
        }
    }

    fn is_before_rotation(&self, name: &OsStr) -> bool {
        let Some(name) = name.to_str() else { return false };
        rotation::names_before(name).iter().any(|before| self.is(OsStr::new(before)))
    }
}

/// A walk under way.
#[derive(Default)]
struct Walk {
    automatic: bool,
    listing: Listing,
    known: HashSet<Key>,
    names: HashMap<PathBuf, Vec<OsString>>,
    names_read: usize,
}

impl Walk {
    fn pattern(&mut self, pattern: &Pattern, rotated: bool) {
        self.descend(PathBuf::from("/"), &pattern.parts, rotated);
    }

    fn descend(&mut self, base: PathBuf, parts: &[Part], rotated: bool) {
        match parts {
            [] => {}
            [last] => self.last(&base, last, rotated),
            [Part::Literal(name), rest @ ..] => {
                let next = base.join(name);
                if next.is_dir() || fs::symlink_metadata(&next).is_ok() {
                    self.descend(next, rest, rotated);
                } else {
                    // It may appear later.
                    self.listing.folders.insert(base);
                }
            }
            [wild, rest @ ..] => {
                for name in self.names(&base) {
                    let next = base.join(&name);
                    if wild.is(&name) && next.is_dir() {
                        self.descend(next, rest, rotated);
                    }
                }
            }
        }
    }

    fn last(&mut self, base: &Path, part: &Part, rotated: bool) {
        self.listing.folders.insert(base.to_owned());
        if let (Part::Literal(name), false) = (part, self.automatic) {
            self.take(&base.join(name), rotated);
            return;
        }
        let (is_literal, mut met) = (matches!(part, Part::Literal(_)), false);
        for name in self.names(base) {
            if part.is(&name) {
                met = true;
                self.take(&base.join(&name), rotated);
            } else if self.automatic && part.is_before_rotation(&name) {
                self.take(&base.join(&name), true);
            }
        }
        // A folder that can be entered and not listed still gives the files that are named.
        if let (Part::Literal(name), true, false) = (part, is_literal, met) {
            self.take(&base.join(name), rotated);
        }
    }

    /// Takes a file up, and what lies beside it where it really is.
    fn take(&mut self, path: &Path, rotated: bool) {
        let is_link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        self.add(path, rotated);
        if !is_link {
            return;
        }
        let Ok(real) = fs::canonicalize(path) else { return };
        let (Some(folder), Some(name)) = (real.parent(), real.file_name()) else { return };
        self.listing.folders.insert(folder.to_owned());
        if !self.automatic {
            return;
        }
        let part = Part::Literal(name.to_owned());
        for beside in self.names(folder) {
            if part.is_before_rotation(&beside) {
                self.add(&folder.join(&beside), true);
            }
        }
    }

    fn add(&mut self, path: &Path, rotated: bool) {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return,
            Err(err) => {
                self.listing.troubles.insert(path.to_owned(), Trouble::of(&err));
                return;
            }
        };
        if !meta.is_file() {
            self.listing.troubles.insert(path.to_owned(), Trouble::NoFile);
            return;
        }
        if self.known.contains(&key(&meta)) {
            return;
        }
        if self.listing.files.len() >= FILES_MAX {
            self.listing.left_out += 1;
            return;
        }
        self.known.insert(key(&meta));
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let rotated = rotated || self.automatic && rotation::looks_rotated(name);
        self.listing.files.push(Found {
            path: path.to_owned(),
            key: key(&meta),
            size: meta.len(),
            modified: modified(&meta),
            rotated,
        });
    }

    /// The names in a folder, in their order.
    fn names(&mut self, folder: &Path) -> Vec<OsString> {
        if let Some(names) = self.names.get(folder) {
            return names.clone();
        }
        self.listing.folders.insert(folder.to_owned());
        let mut names = Vec::new();
        match fs::read_dir(folder) {
            Ok(entries) => {
                let room = NAMES_MAX.saturating_sub(self.names_read);
                names.extend(entries.flatten().take(room).map(|entry| entry.file_name()));
                if names.len() == room {
                    self.listing.left_out += 1;
                }
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => {
                self.listing.troubles.insert(folder.to_owned(), Trouble::of(&err));
            }
        }
        self.names_read += names.len();
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        self.names.insert(folder.to_owned(), names.clone());
        names
    }
}

/// The name of a path for people and for a record's source.
pub(super) fn shown(path: &Path) -> String {
    String::from_utf8_lossy(&path.as_os_str().to_owned().into_vec()).into_owned()
}

/// The most files of one set: each costs a mark in the buffer and a few KiB of memory.
pub(super) const FILES_MAX: usize = 10_000;

/// The most names that one walk reads; a folder of millions must not stop the reading of others.
const NAMES_MAX: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(dir: &Path, pattern: &str, rotated: &Rotated) -> Vec<String> {
        let pattern = dir.join(pattern).to_str().unwrap().parse().unwrap();
        let listing = list(&[pattern], rotated);
        let mut names: Vec<_> = listing
            .files
            .iter()
            .map(|found| shown(found.path.strip_prefix(dir).unwrap_or(&found.path)))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn patterns_match_name_by_name_and_rotated_files_come_along() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for name in [
            "audit.log",
            "audit-2026-11-24T00-00-00.000.log.gz",
            "audit-other.log",
            ".hidden.log",
            "falco.log.1",
            "a/x.log",
            "a/b/x.log",
            "b/x.log",
            "b/x.txt",
        ] {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), name).unwrap();
        }
        let auto = Rotated::Automatic;
        let gz = "audit-2026-11-24T00-00-00.000.log.gz";
        assert_eq!(names(&dir, "audit.log", &auto), [gz, "audit.log"]);
        assert_eq!(names(&dir, "audit.log", &Rotated::Patterns(vec![])), ["audit.log"]);
        assert_eq!(names(&dir, "falco.log", &auto), ["falco.log.1"]);
        assert_eq!(
            names(&dir, "*.log", &Rotated::Patterns(vec![])),
            ["audit-other.log", "audit.log"]
        );
        assert_eq!(names(&dir, "*/x.{log,txt}", &auto), ["a/x.log", "b/x.log", "b/x.txt"]);
        assert_eq!(names(&dir, "nowhere/*/x.log", &auto), Vec::<String>::new());
    }

    #[test]
    fn a_link_leads_to_the_file_and_to_what_was_rotated_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("pods/p/c")).unwrap();
        fs::create_dir_all(dir.join("containers")).unwrap();
        fs::write(dir.join("pods/p/c/0.log"), "x").unwrap();
        fs::write(dir.join("pods/p/c/0.log.20261124-000000.gz"), "x").unwrap();
        symlink(dir.join("pods/p/c/0.log"), dir.join("containers/p.log")).unwrap();
        let found = names(&dir, "containers/*.log", &Rotated::Automatic);
        assert_eq!(found, ["containers/p.log", "pods/p/c/0.log.20261124-000000.gz"]);
    }

    #[test]
    fn what_is_no_file_is_named_and_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        symlink("circle.log", dir.join("circle.log")).unwrap();
        symlink("/dev/zero", dir.join("zero.log")).unwrap();
        symlink(&dir, dir.join("again")).unwrap();
        fs::create_dir(dir.join("folder.log")).unwrap();
        let fifo = dir.join("fifo.log");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pattern = |text: &str| dir.join(text).to_str().unwrap().parse().unwrap();
        let listing = list(&[pattern("*.log"), pattern("*/*.log")], &Rotated::Automatic);
        assert!(listing.files.is_empty());
        for name in ["zero.log", "folder.log", "fifo.log"] {
            assert_eq!(listing.troubles[&dir.join(name)], Trouble::NoFile, "{name}");
        }
        assert!(matches!(listing.troubles[&dir.join("circle.log")], Trouble::Error(..)));
    }

    #[test]
    fn patterns_that_can_not_work_are_refused() {
        for text in ["audit.log", "/var/log/", "/var/**/x.log", "/var/../x", "/var/{a,/b}", "/"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
