//! Which files of a watched folder may be taken, given what a look at it finds. Pure.
//!
//! A file is ready when nothing about it has changed over a number of polls; or sooner, by whatever
//! convention the sender follows: a checksum, a marker or a manifest beside it. What a convention
//! asks for and does not come is named after a deadline, and stays where it is.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use crate::inbox::{Stamp, turn};
use crate::receiver::config::{Marker, SidecarUse};

/// The conventions.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) polls: u32,
    pub(super) ignore_suffixes: Vec<String>,
    pub(super) sidecar: SidecarUse,
    pub(super) marker: Marker,
    pub(super) manifest: bool,
    pub(super) deadline: Duration,
    pub(super) tracked_max: usize,
}

/// An entry of the folder.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: OsString,
    /// `None`: it is no regular file.
    pub(super) stamp: Option<Stamp>,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What may be taken, in the order to take it in.
    pub(super) ready: Vec<OsString>,
    /// What has not become ready for too long, told once.
    pub(super) overdue: Vec<OsString>,
    /// Entries that are no regular files: one example, and how many.
    pub(super) foreign: Option<(OsString, u64)>,
    /// How many files wait for something.
    pub(super) waiting: u64,
    /// The marker for all files, as it stood.
    pub(super) marker: Option<Stamp>,
}

/// What became of a file that was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken, and stays in the folder.
    Kept,
    /// It is not, or not yet, what it has to be: it is looked at again, later and later.
    NotYet,
    /// It was taken, and is gone from the folder.
    Taken,
}

/// What is known of a folder from one look to the next.
#[derive(Debug)]
pub(super) struct Watch {
    rules: Rules,
    seen: HashMap<OsString, Seen>,
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    /// Polls since it changed, or was tried in vain.
    unchanged: u32,
    since: Instant,
    tries: u32,
    kept: bool,
    told: bool,
}

impl Watch {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, seen: HashMap::new() }
    }

    /// One poll. `listed` says whether a manifest lists a file, where manifests are asked for.
    pub(super) fn poll(
        &mut self,
        entries: Vec<Entry>,
        listed: &dyn Fn(&OsStr) -> bool,
        now: Instant,
    ) -> Found {
        let mut found = Found::default();
        let names: HashSet<OsString> = entries.iter().map(|entry| entry.name.clone()).collect();
        let mut seen = HashMap::new();
        for Entry { name, stamp } in entries {
            let Some(stamp) = stamp else {
                let (_, count) = found.foreign.get_or_insert((name, 0));
                *count += 1;
                continue;
            };
            match self.rules.kind(&name) {
                // Manifests are read by whoever asks for them.
                Kind::Companion | Kind::Manifest => continue,
                Kind::DirectoryMarker => {
                    found.marker = Some(stamp);
                    continue;
                }
                Kind::File => {}
            }
            if seen.len() == self.rules.tracked_max {
                // The rest has its turn when these are gone.
                break;
            }
            let known = match self.seen.remove(&name) {
                Some(mut known) if known.stamp == stamp => {
                    known.unchanged = known.unchanged.saturating_add(1);
                    known
                }
                earlier => Seen {
                    stamp,
                    unchanged: 0,
                    // A file that goes on changing for ever is overdue some day, too.
                    since: earlier.map_or(now, |earlier| earlier.since),
                    tries: 0,
                    kept: false,
                    told: false,
                },
            };
            seen.insert(name, known);
        }
        self.seen = seen;
        for (name, seen) in &mut self.seen {
            if seen.kept {
                continue;
            }
            found.waiting += 1;
            if self.rules.is_ready(name, seen, &names, found.marker.is_some(), listed) {
                found.ready.push(name.clone());
            }
            if !seen.told && now.saturating_duration_since(seen.since) >= self.rules.deadline {
                seen.told = true;
                found.overdue.push(name.clone());
            }
        }
        found.ready.sort_by_cached_key(|name| turn(name));
        found.overdue.sort();
        found
    }

    /// Whether a name is one of a file to take, and not of something beside it.
    pub(super) fn is_file(&self, name: &OsStr) -> bool {
        matches!(self.rules.kind(name), Kind::File)
    }

    /// Whether the file still is what it was when it was found ready.
    pub(super) fn stamp(&self, name: &OsStr) -> Option<Stamp> {
        self.seen.get(name).map(|seen| seen.stamp)
    }

    /// Notes what became of a file.
    pub(super) fn done(&mut self, name: &OsStr, outcome: Outcome) {
        let Some(seen) = self.seen.get_mut(name) else { return };
        match outcome {
            Outcome::Kept => seen.kept = true,
            Outcome::NotYet => {
                seen.unchanged = 0;
                seen.tries = seen.tries.saturating_add(1);
            }
            Outcome::Taken => _ = self.seen.remove(name),
        }
    }
}

/// What a name says that a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A checksum, a marker, or something unfinished.
    Companion,
    DirectoryMarker,
    File,
    Manifest,
}

impl Rules {
    fn kind(&self, name: &OsStr) -> Kind {
        let bytes = name.as_encoded_bytes();
        let ends = |suffix: &str| bytes.ends_with(suffix.as_bytes());
        match &self.marker {
            Marker::Directory(marker) if bytes == marker.as_bytes() => {
                return Kind::DirectoryMarker;
            }
            Marker::File(suffix) if ends(suffix) => return Kind::Companion,
            _ => {}
        }
        let hidden = bytes.first() == Some(&b'.');
        if hidden || ends(SIDECAR_SUFFIX) || self.ignore_suffixes.iter().any(|suffix| ends(suffix))
        {
            return Kind::Companion;
        }
        if ends(MANIFEST_SUFFIX) { Kind::Manifest } else { Kind::File }
    }

    fn is_ready(
        &self,
        name: &OsStr,
        seen: &Seen,
        names: &HashSet<OsString>,
        marked: bool,
        listed: &dyn Fn(&OsStr) -> bool,
    ) -> bool {
        let beside = |suffix: &str| {
            let mut beside = name.to_owned();
            beside.push(suffix);
            names.contains(&beside)
        };
        let sidecar = self.sidecar != SidecarUse::Ignored && beside(SIDECAR_SUFFIX);
        if self.sidecar == SidecarUse::Required && !sidecar || self.manifest && !listed(name) {
            return false;
        }
        let told = match &self.marker {
            Marker::Directory(_) => marked,
            Marker::File(suffix) => beside(suffix),
            // A checksum says as much as a marker: where it fits, the file is whole.
            Marker::None => sidecar || self.manifest,
        };
        let asked = self.marker != Marker::None;
        if asked && !told {
            return false;
        }
        // After a try in vain it has to stand still, and for longer each time.
        let still = self.polls.saturating_mul(1 << seen.tries.min(TRIES_DOUBLED_MAX));
        told && seen.tries == 0 || seen.unchanged >= still
    }
}

pub(super) const SIDECAR_SUFFIX: &str = ".sha256";
pub(super) const MANIFEST_SUFFIX: &str = ".manifest";
/// A file that is never what it has to be is read once in 1,024 times `polls`.
const TRIES_DOUBLED_MAX: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            polls: 3,
            ignore_suffixes: vec![".part".to_owned(), ".partial".to_owned()],
            sidecar: SidecarUse::Optional,
            marker: Marker::None,
            manifest: false,
            deadline: Duration::from_mins(10),
            tracked_max: 100,
        }
    }

    /// A folder whose files have "sizes".
    fn entries(files: &[(&str, u64)]) -> Vec<Entry> {
        files
            .iter()
            .map(|&(name, bytes)| Entry { name: name.into(), stamp: Some(Stamp::for_test(bytes)) })
            .collect()
    }

    fn ready(found: &Found) -> Vec<&str> {
        found.ready.iter().map(|name| name.to_str().unwrap()).collect()
    }

    fn no(_: &OsStr) -> bool {
        false
    }

    #[test]
    fn a_file_is_ready_after_so_many_polls_without_a_change() {
        let (mut watch, now) = (Watch::new(rules()), Instant::now());
        for bytes in [1, 2, 2, 2] {
            assert!(watch.poll(entries(&[("a", bytes)]), &no, now).ready.is_empty());
        }
        assert_eq!(ready(&watch.poll(entries(&[("a", 2), ("b.part", 2)]), &no, now)), ["a"]);
        watch.done(OsStr::new("a"), Outcome::Kept);
        assert_eq!(watch.poll(entries(&[("a", 2)]), &no, now).waiting, 0);
        for _ in 0..3 {
            assert!(watch.poll(entries(&[("a", 3)]), &no, now).ready.is_empty(), "it is another");
        }
        assert_eq!(ready(&watch.poll(entries(&[("a", 3)]), &no, now)), ["a"]);
    }

    #[test]
    fn a_checksum_makes_it_ready_at_once_and_in_vain_less_and_less_often() {
        let (mut watch, now) = (Watch::new(rules()), Instant::now());
        let files = [("a", 1), ("a.sha256", 1)];
        assert_eq!(ready(&watch.poll(entries(&files), &no, now)), ["a"]);
        let mut polls = Vec::new();
        for poll in 0..100 {
            if poll == 0 || !watch.poll(entries(&files), &no, now).ready.is_empty() {
                watch.done(OsStr::new("a"), Outcome::NotYet);
                polls.push(poll);
            }
        }
        assert_eq!(polls, [0, 6, 18, 42, 90]);
    }

    #[test]
    fn where_a_marker_is_asked_for_only_the_marker_counts() {
        let now = Instant::now();
        let marker = Marker::File(".ok".to_owned());
        let mut watch = Watch::new(Rules { marker, ..rules() });
        for _ in 0..9 {
            assert!(watch.poll(entries(&[("a", 1), ("a.sha256", 1)]), &no, now).ready.is_empty());
        }
        assert_eq!(ready(&watch.poll(entries(&[("a", 1), ("a.ok", 0)]), &no, now)), ["a"]);

        let marker = Marker::Directory("all.done".to_owned());
        let mut watch = Watch::new(Rules { marker, ..rules() });
        assert!(watch.poll(entries(&[("a", 1)]), &no, now).ready.is_empty());
        let found = watch.poll(entries(&[("all.done", 0), ("b", 1), ("a-flash-1", 1)]), &no, now);
        assert_eq!(ready(&found), ["a-flash-1", "b"]);
        assert!(found.marker.is_some());
    }

    #[test]
    fn where_a_manifest_or_a_checksum_is_asked_for_nothing_goes_without() {
        let now = Instant::now();
        let mut watch = Watch::new(Rules { manifest: true, ..rules() });
        let found =
            watch.poll(entries(&[("a", 1), ("b", 1), ("x.manifest", 1)]), &|name| name == "a", now);
        assert_eq!(ready(&found), ["a"]);
        let mut watch = Watch::new(Rules { sidecar: SidecarUse::Required, ..rules() });
        for _ in 0..9 {
            assert!(watch.poll(entries(&[("a", 1)]), &no, now).ready.is_empty());
        }
    }

    #[test]
    fn what_never_becomes_ready_is_named_once_even_if_it_never_stands_still() {
        let (mut watch, start) = (Watch::new(rules()), Instant::now());
        let mut named = 0;
        for minute in 0..30 {
            let now = start + Duration::from_mins(minute);
            let found = watch.poll(entries(&[("a", minute)]), &no, now);
            assert!(found.ready.is_empty());
            named += found.overdue.len();
        }
        assert!(named >= 1, "{named}");
    }

    #[test]
    fn a_huge_folder_is_tracked_in_turns_and_what_is_no_file_is_counted() {
        let (mut watch, now) = (Watch::new(rules()), Instant::now());
        let names: Vec<String> = (0..250).map(|n| format!("f{n:03}")).collect();
        let mut list: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let mut taken = 0;
        for _ in 0..40 {
            let mut all = entries(&list);
            all.insert(0, Entry { name: "fifo".into(), stamp: None });
            all.insert(0, Entry { name: "link".into(), stamp: None });
            let found = watch.poll(all, &no, now);
            assert_eq!(found.foreign, Some(("link".into(), 2)));
            assert!(found.ready.len() <= 100);
            for name in found.ready {
                watch.done(&name, Outcome::Taken);
                list.retain(|(other, _)| *other != name);
                taken += 1;
            }
        }
        assert_eq!(taken, 250);
    }
}
