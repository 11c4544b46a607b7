//! The log as two processes and a tamperer would treat it.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::bundle::BundleDigest;
use crate::clock::Nanos;
use crate::keys::{Side, SigningKey, StatementSigners, receipt_key};
use crate::record::{Epoch, Lane};

/// What a side keeps in its database.
#[derive(Clone)]
struct Database {
    head: Head,
    due: Vec<DueLine>,
}

struct Site {
    dir: tempfile::TempDir,
    key: SigningKey,
    folder: CustodyFolder,
    database: Database,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (key, _) = receipt_key(dir.path()).unwrap();
        let folder = CustodyFolder::at(dir.path()).with_segments_of(2_000);
        Self { dir, key, folder, database: Database { head: Head::BEGIN, due: Vec::new() } }
    }

    fn note(&mut self, number: u64, action: Action) {
        let event = CustodyEvent::new(Nanos(number.cast_signed()), action).bundle(CustodyBundle {
            origin: "plant-7".parse().unwrap(),
            epoch: Epoch(3),
            lane: Lane::Flash,
            number,
            digest: Some(BundleDigest::of(&number.to_le_bytes())),
        });
        let (line, head) = self.database.head.append(event);
        self.take(line, head);
    }

    fn take(&mut self, line: String, head: Head) {
        self.database.due.push(DueLine { number: head.number, line });
        self.database.head = head;
    }

    fn sign(&mut self) {
        let identity = Identity { side: Side::Low, name: "soc-1".to_owned() };
        let at = Nanos(self.database.head.number.cast_signed());
        let (line, head) =
            Checkpoint::append(&self.database.head, &identity, &self.key, at).unwrap();
        self.take(line, head);
    }

    /// As each side does it; `killed` dies between the write and the deletion of the rows.
    fn settle(&mut self, killed: bool) -> Vec<Surprise> {
        let mut surprises = Vec::new();
        let lock = self.folder.lock(Duration::from_secs(30)).unwrap().unwrap();
        loop {
            let Database { head, due } = &self.database;
            let tail = self.folder.tail(&lock).unwrap();
            match plan(*head, due, &tail, Nanos(0)) {
                Plan::Write { written, surprise } => {
                    self.folder.append(&lock, &due[written..]).unwrap();
                    surprises.extend(surprise);
                    if !killed {
                        self.database.due.clear();
                    }
                    return surprises;
                }
                Plan::Renumber { lines, head, surprise } => {
                    self.database = Database { head, due: lines };
                    surprises.push(surprise);
                }
            }
        }
    }

    fn verify(&self) -> Verdict {
        let signers = StatementSigners::own(self.dir.path(), "receipt", "soc-1").unwrap();
        let Database { head, due } = &self.database;
        let first = due.first();
        let written = first.map_or(*head, |first| Head {
            number: first.number - 1,
            hash: Entry::parse(first.line.as_bytes()).unwrap().previous,
        });
        let known = Known { made: *head, written };
        let mut verdict = verify(&self.folder, Some(known), &signers, &[]).unwrap();
        verdict.compare_end(*head);
        verdict
    }

    /// A log of two segments with 12 entries, two of them checkpoints.
    fn filled() -> Self {
        let mut site = Self::new();
        for number in 1..=10 {
            site.note(number, Action::Sealed);
            if number % 5 == 0 {
                site.sign();
            }
            site.settle(false);
        }
        site
    }
}

fn lines_of(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

#[test]
fn entries_read_back_and_only_in_their_one_form() {
    let event = CustodyEvent::new(Nanos(1), Action::Quarantined)
        .file(CustodyFile {
            name: "a \"b\"\n\u{e9}".to_owned(),
            sha256: BundleDigest::of(b"x"),
            bytes: 7,
        })
        .detail("x".repeat(5_000));
    let (line, head) = Head::BEGIN.append(event);
    assert!(line.len() < 4_000 && line.matches('\n').count() == 1);
    let entry = Entry::parse(line.as_bytes()).unwrap();
    assert_eq!((entry.encode(), head.number), (line.clone(), 1));
    for (from, to) in [
        ("{\"n\":1,", "{\"n\": 1,"),
        ("{\"n\":1,", "{\"n\":1,\"n\":1,"),
        ("{\"n\":1,", "{\"m\":1,\"n\":1,"),
        ("quarantined", "quarantine"),
        ("00.000000001Z", "00.000000001+00:00"),
        ("\"bytes\":7", "\"bytes\":7.0"),
    ] {
        assert!(line.contains(from), "{from}");
        assert!(Entry::parse(line.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn a_log_grows_through_segments_and_verifies() {
    let site = Site::filled();
    assert!(site.folder.segments().unwrap().len() > 1);
    let verdict = site.verify();
    assert!(verdict.is_good(), "{:?}", verdict.findings);
    assert_eq!((verdict.entries, verdict.checkpoints, verdict.signed_through), (12, 2, 12));
}

#[test]
fn a_kill_between_write_and_commit_neither_loses_nor_doubles_an_entry() {
    let mut site = Site::new();
    for number in 1..=6 {
        site.note(number, Action::Ready);
        site.settle(number % 2 == 0);
        // Killed again at the same place, and with a half-written line.
        if number == 4 {
            site.settle(true);
            site.note(99, Action::Deleted);
            let (_, newest) = site.folder.segments().unwrap().pop().unwrap();
            let mut torn = std::fs::read(&newest).unwrap();
            torn.extend(&site.database.due.last().unwrap().line.as_bytes()[..40]);
            std::fs::write(&newest, torn).unwrap();
        }
    }
    assert_eq!(site.settle(false), []);
    let verdict = site.verify();
    assert!(verdict.is_good(), "{:?}", verdict.findings);
    assert_eq!(verdict.entries, 7);
}

#[test]
fn a_torn_line_is_cut_and_counted() {
    let site = Site::filled();
    let (_, newest) = site.folder.segments().unwrap().pop().unwrap();
    let whole = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, [&whole[..], b"{\"n\":13,"].concat()).unwrap();
    let lock = site.folder.lock(Duration::from_secs(30)).unwrap().unwrap();
    assert_eq!(site.folder.tail(&lock).unwrap().cut, 8);
    assert_eq!(site.folder.tail(&lock).unwrap().cut, 0);
    assert_eq!(std::fs::read(&newest).unwrap(), whole);
    let second = site.folder.lock(Duration::ZERO).unwrap();
    assert!(second.is_none(), "one process at a time");
}

#[test]
fn a_database_from_a_backup_goes_on_behind_the_log_and_says_so() {
    let mut site = Site::new();
    site.note(1, Action::Sealed);
    site.settle(false);
    let backup = site.database.clone();
    site.note(2, Action::Sealed);
    site.note(3, Action::Sealed);
    site.settle(false);
    for restored in [backup, Database { head: Head::BEGIN, due: Vec::new() }] {
        site.database = restored;
        let known = site.database.head.number;
        site.note(4, Action::Sealed);
        let surprises = site.settle(false);
        assert!(matches!(surprises[..], [Surprise::Ahead { .. }]), "{known}: {surprises:?}");
        assert!(site.verify().is_good(), "{:?}", site.verify().findings);
    }
    let wanted = "flash/4".parse().unwrap();
    assert_eq!(life_of(&site.folder, &wanted).unwrap().entries.len(), 2);
}

#[test]
fn a_log_cut_behind_its_last_checkpoint_is_found_by_what_the_database_knows() {
    let mut site = Site::filled();
    let before = site.database.head;
    site.note(11, Action::Sealed);
    site.settle(false);
    let (_, newest) = site.folder.segments().unwrap().pop().unwrap();
    let lines = lines_of(&newest);
    std::fs::write(&newest, lines[..lines.len() - 1].concat()).unwrap();
    let verdict = site.verify();
    assert_eq!(verdict.findings[0].kind, FindingKind::CutOff);
    assert!(verdict.findings[0].text.contains("ends with entry 12, but entry 13"));
    // Grown again, it has the same length, and the last entry is another one.
    let mut other = site.database.clone();
    other.head = before;
    std::mem::swap(&mut other, &mut site.database);
    site.note(12, Action::Deleted);
    site.settle(false);
    site.database = other;
    assert_eq!(site.verify().findings[0].kind, FindingKind::Changed);
    // The agent notices, too, goes on, and the hole stays visible.
    std::fs::write(&newest, lines[..lines.len() - 1].concat()).unwrap();
    site.note(14, Action::Sealed);
    assert_eq!(site.settle(false), [Surprise::Cut { written: 13, found: 12 }]);
    let verdict = site.verify();
    let removed = verdict.findings.iter().find(|finding| finding.kind == FindingKind::Removed);
    assert_eq!(removed.and_then(|finding| finding.entry), Some(14), "{:?}", verdict.findings);
}

#[test]
fn without_a_database_a_kept_checkpoint_shows_what_was_rewritten() {
    let site = Site::filled();
    let signers = StatementSigners::own(site.dir.path(), "receipt", "soc-1").unwrap();
    let mut kept = None;
    site.folder
        .for_each_line(|_, line| {
            kept = Entry::parse(line).unwrap().checkpoint.or(kept.take());
            Ok::<(), std::io::Error>(())
        })
        .unwrap();
    let kept = kept.unwrap();
    let walk = |against: &[Checkpoint]| verify(&site.folder, None, &signers, against).unwrap();
    assert!(walk(std::slice::from_ref(&kept)).is_good());
    // Everything behind entry 9 is cut off.
    for (first, path) in site.folder.segments().unwrap() {
        let keep = usize::try_from(10_u64.saturating_sub(first)).unwrap();
        let lines = lines_of(&path);
        std::fs::write(&path, lines[..keep.min(lines.len())].concat()).unwrap();
    }
    assert!(walk(&[]).is_good(), "a cut behind a checkpoint can't be seen in the log itself");
    assert_eq!(walk(&[kept]).findings[0].kind, FindingKind::CutOff);
    let nobody = StatementSigners::default();
    let verdict = verify(&site.folder, None, &nobody, &[]).unwrap();
    assert_eq!(verdict.findings[0].kind, FindingKind::CheckpointBad);
}

/// Every line of a small log: changed at every third byte, deleted, swapped, doubled, and the log
/// cut behind it. Each is found, and the line that is named is the one or its neighbour.
#[test]
fn every_change_to_any_line_is_found() {
    let site = Site::filled();
    let segments = site.folder.segments().unwrap();
    let originals: Vec<Vec<Vec<u8>>> = segments.iter().map(|(_, path)| lines_of(path)).collect();
    for ((first, segment), lines) in segments.iter().zip(&originals) {
        let with = |changed: Vec<Vec<u8>>, what: &str, at: usize| {
            std::fs::write(segment, changed.concat()).unwrap();
            let verdict = site.verify();
            let entry = first + at as u64;
            let found = verdict.findings.first().unwrap_or_else(|| panic!("{what} at {entry}"));
            let near = found.entry.is_none_or(|named| named.abs_diff(entry) <= 1);
            assert!(near, "{what} at {entry}: {found:?}");
        };
        for at in 0..lines.len() {
            for byte in (0..lines[at].len()).step_by(3) {
                let mut changed = lines.clone();
                changed[at][byte] ^= 1;
                with(changed, "flip", at);
            }
            let mut changed = lines.clone();
            changed.remove(at);
            with(changed, "deletion", at);
            let mut changed = lines.clone();
            changed.insert(at, lines[at].clone());
            with(changed, "repetition", at);
            let mut changed = lines.clone();
            let entry = Entry::parse(&lines[at]).unwrap();
            let inserted = Entry { number: entry.number + 1, ..entry };
            changed.insert(at + 1, inserted.encode().into_bytes());
            with(changed, "insertion", at);
            if at + 1 < lines.len() {
                let mut changed = lines.clone();
                changed.swap(at, at + 1);
                with(changed, "swap", at);
            }
            std::fs::write(segment, lines[..at].concat()).unwrap();
            assert!(!site.verify().is_good(), "cut behind line {at}");
            // Changed and linked anew by somebody without the key: what follows gives it away.
            if at + 1 < lines.len() {
                let mut changed = lines.clone();
                let mut head = Head::BEGIN;
                for (index, line) in changed.iter_mut().enumerate().skip(at) {
                    let mut entry = Entry::parse(line).unwrap();
                    if index == at {
                        entry.event.detail = "forged".to_owned();
                    } else {
                        entry.previous = head.hash;
                    }
                    *line = entry.encode().into_bytes();
                    head = Head { number: entry.number, hash: BundleDigest::of(line) };
                }
                std::fs::write(segment, changed.concat()).unwrap();
                assert!(!site.verify().is_good(), "linked anew from {at}");
            }
        }
        std::fs::write(segment, lines.concat()).unwrap();
    }
    assert!(site.verify().is_good());
}

#[test]
fn a_bundle_s_life_is_found_by_number_name_and_digest() {
    let mut site = Site::new();
    let sha256 = BundleDigest::of(b"file");
    let file = CustodyFile { name: "x.pstk".to_owned(), sha256, bytes: 4 };
    let event = CustodyEvent::new(Nanos(1), Action::Received).file(file.clone());
    let (line, head) = site.database.head.append(event);
    site.take(line, head);
    site.note(1, Action::Sealed);
    let mut last = Entry::parse(site.database.due[1].line.as_bytes()).unwrap().event;
    last.file = Some(file);
    last.action = Action::Admitted;
    let (line, head) = site.database.head.append(last);
    site.take(line, head);
    site.note(2, Action::Sealed);
    site.settle(false);
    let digest = BundleDigest::of(&1_u64.to_le_bytes()).to_string();
    let tale = |wanted: &str| -> Vec<&str> {
        let found = life_of(&site.folder, &wanted.parse().unwrap()).unwrap();
        found.entries.iter().map(|entry| entry.event.action.as_str()).collect()
    };
    let all = ["received", "sealed", "admitted"];
    assert_eq!(tale("flash/1"), all);
    assert_eq!(tale("plant-7/3/flash/1"), all);
    assert_eq!(tale(&digest[..8]), all);
    assert_eq!(tale(&sha256.to_string()[..8]), all);
    assert_eq!(tale("x.pstk"), all);
    assert_eq!(tale("plant-7/4/flash/1"), [""; 0]);
    for bad in ["", "fast/1", "flash/x", "a/b/c/flash/1"] {
        assert!(bad.parse::<Wanted>().is_err(), "{bad}");
    }
}

#[test]
fn an_exported_period_has_no_holes_and_ends_with_a_checkpoint() {
    let site = Site::filled();
    let mut out = Vec::new();
    let range = export(&site.folder, Nanos(3), Nanos(5), &mut out).unwrap();
    assert_eq!(range, Some((3, 6)), "entry 6 is the checkpoint behind bundle 5");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("custody-000000000003.log"), out).unwrap();
    let signers = StatementSigners::own(site.dir.path(), "receipt", "soc-1").unwrap();
    let verdict = verify(&CustodyFolder::of(dir.path()), None, &signers, &[]).unwrap();
    assert_eq!((verdict.checkpoints, verdict.found), (1, 1), "{:?}", verdict.findings);
    assert_eq!(verdict.findings[0].text, "entries 1 to 2 are missing before this line");
    assert_eq!(export(&site.folder, Nanos(90), Nanos(99), &mut Vec::new()).unwrap(), None);
}
