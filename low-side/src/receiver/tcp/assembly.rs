//! Bundles that are put together from pieces, which may come in any order, more than once, from
//! several connections, and over several lives of this process.
//!
//! ```text
//! piece ──> DIGEST.part (at its place) ──> DIGEST.have (which ranges) ──whole──> SHA-256 ──> inbox
//!                                                                        └─differs─> thrown away
//! ```
//!
//! Nothing here is synced before the end. After a kill the ranges are right, since the kernel has
//! both files; after a power cut they may claim what the disk does not have, and then the SHA-256
//! differs, and the sender's next pass starts that bundle afresh.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::bundle::{BundleDigest, BundleName};
use shared::clock::Nanos;
use shared::durable;
use shared::stream::{Piece, Ranges};

use crate::receiver::delivered::Delivered;

/// What may be kept of bundles that are not whole.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "the names of the keys")]
pub(super) struct Limits {
    /// The largest bundle.
    pub(super) bundle_bytes_max: u64,
    /// All pieces together, in bytes.
    pub(super) bytes_max: u64,
    /// How long a bundle may wait for its next piece.
    pub(super) age_max: Duration,
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was there already, or its bundle was delivered.
    Known,
    /// It is kept.
    Kept,
    /// It is not taken, with a stable code.
    Refused(&'static str),
    /// The bundle is whole and is what was sent: it waits to be delivered.
    Whole(Whole),
    /// The bundle is whole and is not what was sent. It was thrown away.
    Wrong(BundleName),
}

/// A bundle that is whole, synced and verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// SHA-256 of the file.
    pub(super) bundle: BundleDigest,
    /// Its name.
    pub(super) name: BundleName,
    /// Where it stands.
    pub(super) path: PathBuf,
}

/// The bundles that are being put together.
#[derive(Debug)]
pub(super) struct Assembly {
    dir: PathBuf,
    limits: Limits,
    partial: HashMap<BundleDigest, Partial>,
    delivered: Delivered,
    bytes: u64,
    ranges: usize,
}

#[derive(Debug)]
struct Partial {
    name: BundleName,
    total: u64,
    ranges: Ranges,
    touched: Nanos,
    entries: u64,
    /// The data and the list of ranges, while they are written to.
    files: Option<(File, File)>,
}

/// A bundle that is not whole, for the status.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) name: BundleName,
    pub(super) have: u64,
    pub(super) total: u64,
}

impl Assembly {
    /// Goes on with what an earlier life left.
    pub(super) fn open(dir: &Path, limits: Limits, now: Nanos) -> io::Result<Self> {
        let mut assembly = Self {
            dir: dir.to_owned(),
            limits,
            partial: HashMap::new(),
            delivered: Delivered::open(dir, DELIVERED_MAX)?,
            bytes: 0,
            ranges: 0,
        };
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "have") {
                continue;
            }
            let bundle = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            let Some(bundle) = bundle else { continue };
            match read_have(&path, now)? {
                Some(partial) if assembly.data(&bundle).exists() => {
                    assembly.bytes += partial.ranges.bytes();
                    assembly.ranges += partial.ranges.count();
                    assembly.partial.insert(bundle, partial);
                }
                _ => assembly.remove_files(&bundle)?,
            }
        }
        Ok(assembly)
    }

    /// What an earlier life had whole and had not delivered.
    pub(super) fn whole(&mut self) -> io::Result<Vec<Taken>> {
        let whole: Vec<BundleDigest> = self
            .partial
            .iter()
            .filter(|(_, partial)| partial.ranges.is_whole(partial.total))
            .map(|(bundle, _)| *bundle)
            .collect();
        whole.into_iter().map(|bundle| self.verify(&bundle)).collect()
    }

    /// Takes a piece.
    pub(super) fn take(&mut self, piece: &Piece<'_>, now: Nanos) -> io::Result<Taken> {
        let of = &piece.of;
        if self.delivered.knows(&of.bundle) {
            return Ok(Taken::Known);
        }
        if of.total > self.limits.bundle_bytes_max {
            return Ok(Taken::Refused("bundle-too-large"));
        }
        let known = self.partial.get(&of.bundle);
        if known.is_some_and(|known| known.total != of.total || known.name != of.name) {
            // One file has one length and one name; the key's other holder is at fault.
            return Ok(Taken::Refused("bundle-contradicts"));
        }
        if known.is_none() {
            self.begin(piece, now)?;
        }
        let (data, have) = (self.data(&of.bundle), self.have(&of.bundle));
        if !self.make_room(&of.bundle, piece.bytes.len() as u64)? {
            return Ok(Taken::Refused("no-room"));
        }
        self.close_idle(&of.bundle);
        let Some(partial) = self.partial.get_mut(&of.bundle) else {
            return Ok(Taken::Refused("no-room"));
        };
        partial.touched = now;
        let (start, end) = (of.offset, of.offset + piece.bytes.len() as u64);
        let ranges = &mut partial.ranges;
        if ranges.covers(start, end) {
            return Ok(Taken::Known);
        }
        let scattered = self.ranges >= RANGES_MAX && !ranges.joins(start, end);
        if scattered || partial.entries >= ENTRIES_MAX {
            return Ok(Taken::Refused("too-many-pieces"));
        }
        let files = match &mut partial.files {
            Some(files) => files,
            none => none.insert((
                OpenOptions::new().write(true).read(true).open(&data)?,
                OpenOptions::new().append(true).open(&have)?,
            )),
        };
        files.0.write_all_at(piece.bytes, start)?;
        let mut entry = [0; ENTRY_BYTES];
        entry[..8].copy_from_slice(&start.to_le_bytes());
        entry[8..].copy_from_slice(&end.to_le_bytes());
        files.1.write_all(&entry)?;
        partial.entries += 1;
        let (bytes, count) = (ranges.bytes(), ranges.count());
        ranges.add(start, end);
        self.bytes += ranges.bytes() - bytes;
        self.ranges = (self.ranges + ranges.count()).saturating_sub(count);
        if ranges.is_whole(partial.total) {
            return self.verify(&of.bundle);
        }
        Ok(Taken::Kept)
    }

    /// The bundle was refused after it was delivered: it may come again.
    pub(super) fn refused(&mut self, bundle: &BundleDigest) -> io::Result<()> {
        self.delivered.forget(bundle)
    }

    /// The bundle was delivered; its data was moved away.
    pub(super) fn delivered(&mut self, bundle: &BundleDigest) -> io::Result<()> {
        self.delivered.add(*bundle)?;
        self.forget(bundle)
    }

    /// Throws away what has waited too long for its next piece, and says what that was.
    pub(super) fn expire(&mut self, now: Nanos) -> io::Result<Vec<Unfinished>> {
        let old: Vec<BundleDigest> = self
            .partial
            .iter()
            .filter(|(_, partial)| now.since(partial.touched) > self.limits.age_max)
            .map(|(bundle, _)| *bundle)
            .collect();
        let mut expired = Vec::new();
        for bundle in old {
            expired.extend(self.partial.get(&bundle).map(unfinished));
            self.forget(&bundle)?;
        }
        Ok(expired)
    }

    /// What is not whole, in the order of names, at most so many.
    pub(super) fn unfinished(&self, max: usize) -> Vec<Unfinished> {
        let mut all: Vec<Unfinished> = self.partial.values().map(unfinished).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.truncate(max);
        all
    }

    /// How many bundles are not whole, and how many bytes are kept of them.
    pub(super) fn sums(&self) -> (usize, u64) {
        (self.partial.len(), self.bytes)
    }

    fn begin(&mut self, piece: &Piece<'_>, now: Nanos) -> io::Result<()> {
        if self.partial.len() >= PARTIAL_MAX
            && let Some(oldest) = self.oldest_but(&piece.of.bundle)
        {
            self.give_up(&oldest)?;
        }
        durable::create(&self.data(&piece.of.bundle), 0o600)?;
        let mut have = durable::create(&self.have(&piece.of.bundle), 0o600)?;
        have.write_all(format!("{HAVE_MAGIC}{} {}\n", piece.of.total, piece.of.name).as_bytes())?;
        let partial = Partial {
            name: piece.of.name.clone(),
            total: piece.of.total,
            ranges: Ranges::default(),
            touched: now,
            entries: 0,
            files: None,
        };
        self.partial.insert(piece.of.bundle, partial);
        Ok(())
    }

    /// Gives up what was not touched for longest, until there is room.
    fn make_room(&mut self, keep: &BundleDigest, bytes: u64) -> io::Result<bool> {
        while self.bytes + bytes > self.limits.bytes_max {
            let Some(oldest) = self.oldest_but(keep) else { return Ok(false) };
            self.give_up(&oldest)?;
        }
        Ok(true)
    }

    fn oldest_but(&self, keep: &BundleDigest) -> Option<BundleDigest> {
        let others = self.partial.iter().filter(|(bundle, _)| *bundle != keep);
        others.min_by_key(|(_, partial)| partial.touched).map(|(bundle, _)| *bundle)
    }

    fn give_up(&mut self, bundle: &BundleDigest) -> io::Result<()> {
        if let Some(partial) = self.partial.get(bundle) {
            tracing::warn!(
                bundle = %partial.name, have = partial.ranges.bytes(), total = partial.total,
                "pieces of a bundle are given up for want of room; it has to be sent again"
            );
        }
        self.forget(bundle)
    }

    /// Compares the SHA-256 of a bundle that seems whole.
    fn verify(&mut self, bundle: &BundleDigest) -> io::Result<Taken> {
        let path = self.data(bundle);
        let Some(partial) = self.partial.get_mut(bundle) else { return Ok(Taken::Known) };
        partial.files = None;
        let name = partial.name.clone();
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.sync_all()?;
        if file.metadata()?.len() == partial.total
            && BundleDigest::of_reader(&file, |_| {})?.1 == *bundle
        {
            return Ok(Taken::Whole(Whole { bundle: *bundle, name, path }));
        }
        self.forget(bundle)?;
        Ok(Taken::Wrong(name))
    }

    /// Bundles that others write at are more than a few only where somebody plays with us.
    fn close_idle(&mut self, busy: &BundleDigest) {
        let open = self.partial.values().filter(|partial| partial.files.is_some()).count();
        if open >= OPEN_MAX {
            let idle = self.partial.iter_mut().filter(|(bundle, _)| *bundle != busy);
            idle.for_each(|(_, partial)| partial.files = None);
        }
    }

    fn forget(&mut self, bundle: &BundleDigest) -> io::Result<()> {
        if let Some(partial) = self.partial.remove(bundle) {
            self.bytes = self.bytes.saturating_sub(partial.ranges.bytes());
            self.ranges = self.ranges.saturating_sub(partial.ranges.count());
        }
        self.remove_files(bundle)
    }

    fn remove_files(&self, bundle: &BundleDigest) -> io::Result<()> {
        durable::remove(&self.have(bundle))?;
        durable::remove(&self.data(bundle))
    }

    fn data(&self, bundle: &BundleDigest) -> PathBuf {
        self.dir.join(format!("{bundle}.part"))
    }

    fn have(&self, bundle: &BundleDigest) -> PathBuf {
        self.dir.join(format!("{bundle}.have"))
    }
}

fn unfinished(partial: &Partial) -> Unfinished {
    Unfinished { name: partial.name.clone(), have: partial.ranges.bytes(), total: partial.total }
}

/// Reads the list of ranges; `None` where it says nothing that can be used.
fn read_have(path: &Path, now: Nanos) -> io::Result<Option<Partial>> {
    let bytes = std::fs::read(path)?;
    let parse = || {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&bytes[..end]).ok()?.strip_prefix(HAVE_MAGIC)?;
        let (total, name) = line.split_once(' ')?;
        let mut partial = Partial {
            name: name.parse().ok()?,
            total: total.parse().ok()?,
            ranges: Ranges::default(),
            touched: now,
            entries: 0,
            files: None,
        };
        // An entry that was cut off by a full disk is followed by nothing that can be believed.
        let entries = bytes[end + 1..].chunks_exact(ENTRY_BYTES);
        for entry in entries.take(ENTRIES_MAX as usize) {
            let number = |at: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&entry[at..at + 8]);
                u64::from_le_bytes(bytes)
            };
            let (start, to) = (number(0), number(8));
            if start < to && to <= partial.total {
                partial.ranges.add(start, to);
            }
            partial.entries += 1;
        }
        Some(partial)
    };
    Ok(parse())
}

const HAVE_MAGIC: &str = "penstock-pieces 1 ";
const ENTRY_BYTES: usize = 16;
/// Entries in the list of one bundle: 16 MiB of list, and more pieces than a bundle of 1 GiB has in
/// datagrams of 1 KiB.
const ENTRIES_MAX: u64 = 1 << 20;
/// Ranges in memory, of all bundles: 4 MiB.
const RANGES_MAX: usize = 1 << 18;
/// Bundles that are not whole.
const PARTIAL_MAX: usize = 4096;
/// Bundles whose files are open.
const OPEN_MAX: usize = 16;
/// Digests in each of two lists: 4 MiB in memory, and longer than any sender's repeats take.
const DELIVERED_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::stream::PieceOf;

    use super::*;

    const LIMITS: Limits =
        Limits { bundle_bytes_max: 10_000, bytes_max: 25_000, age_max: Duration::from_mins(1) };

    fn open(dir: &Path) -> Assembly {
        Assembly::open(dir, LIMITS, Nanos(0)).unwrap()
    }

    fn content(seed: u8) -> Vec<u8> {
        (0..9000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
    }

    fn of(bytes: &[u8], offset: u64) -> PieceOf {
        let digest = BundleDigest::of(bytes);
        let name = format!("plant-7-flash-0000000001-{}.pstk", &digest.to_string()[..16]);
        PieceOf { bundle: digest, name: name.parse().unwrap(), total: bytes.len() as u64, offset }
    }

    fn give(assembly: &mut Assembly, file: &[u8], from: usize, to: usize) -> Taken {
        let piece = Piece { of: of(file, from as u64), bytes: &file[from..to] };
        assembly.take(&piece, Nanos(0)).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        /// Pieces in any order, repeated, overlapping, with restarts between.
        #[test]
        fn a_bundle_is_whole_exactly_when_all_of_it_came(
            order in Just((0..18usize).collect::<Vec<_>>()).prop_shuffle(),
            restarts in prop::collection::vec(any::<bool>(), 18),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let file = content(1);
            let mut assembly = open(dir.path());
            for (at, piece) in order.iter().enumerate() {
                if restarts[at] {
                    assembly = open(dir.path());
                }
                let from = piece * 500;
                // The next piece's beginning comes along.
                let taken = give(&mut assembly, &file, from, (from + 620).min(9000));
                if at < 17 {
                    prop_assert!(matches!(taken, Taken::Kept | Taken::Known | Taken::Whole(_)));
                }
                if let Taken::Whole(whole) = taken {
                    prop_assert_eq!(std::fs::read(&whole.path).unwrap(), &file[..]);
                    assembly.delivered(&whole.bundle).unwrap();
                }
            }
            prop_assert_eq!(give(&mut assembly, &file, 0, 500), Taken::Known);
            prop_assert_eq!(assembly.sums(), (0, 0));
            let left = std::fs::read_dir(dir.path()).unwrap().count();
            prop_assert_eq!(left, 1, "only the list of what was delivered");
        }
    }

    #[test]
    fn whole_before_a_crash_is_delivered_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = content(2);
        assert!(matches!(give(&mut open(dir.path()), &file, 0, 9000), Taken::Whole(_)));
        let whole = open(dir.path()).whole().unwrap();
        assert!(matches!(&whole[..], [Taken::Whole(_)]), "{whole:?}");
    }

    #[test]
    fn what_the_disk_lost_is_thrown_away_and_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = content(3);
        assert_eq!(give(&mut open(dir.path()), &file, 0, 8000), Taken::Kept);
        let data = dir.path().join(format!("{}.part", BundleDigest::of(&file)));
        OpenOptions::new().write(true).open(data).unwrap().write_all_at(&[0; 99], 50).unwrap();
        let mut assembly = open(dir.path());
        let name = of(&file, 0).name;
        assert_eq!(give(&mut assembly, &file, 8000, 9000), Taken::Wrong(name));
        assert!(matches!(give(&mut assembly, &file, 0, 9000), Taken::Whole(_)));
    }

    #[test]
    fn limits_hold_and_the_longest_untouched_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let mut assembly = open(dir.path());
        let files: Vec<Vec<u8>> = (0..4).map(content).collect();
        for (at, file) in (0..).zip(&files) {
            let piece = Piece { of: of(file, 0), bytes: &file[..8000] };
            assert_eq!(assembly.take(&piece, Nanos(at)).unwrap(), Taken::Kept);
        }
        assert_eq!(assembly.sums(), (3, 24_000));
        assert_eq!(give(&mut assembly, &files[0], 8000, 9000), Taken::Kept, "it begins anew");
        assert_eq!(assembly.sums(), (4, 25_000));
        let large = PieceOf { total: 10_001, ..of(&files[0], 0) };
        let taken = assembly.take(&Piece { of: large, bytes: b"x" }, Nanos(0)).unwrap();
        assert_eq!(taken, Taken::Refused("bundle-too-large"));
        let other = PieceOf { total: 9001, ..of(&files[0], 0) };
        let taken = assembly.take(&Piece { of: other, bytes: b"x" }, Nanos(0)).unwrap();
        assert_eq!(taken, Taken::Refused("bundle-contradicts"));
        let late = Nanos(0).plus(LIMITS.age_max + Duration::from_secs(1));
        assert_eq!(assembly.expire(late).unwrap().len(), 4);
        assert_eq!(assembly.sums(), (0, 0));
    }

    #[test]
    fn a_list_of_ranges_that_says_nonsense_harms_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let file = content(5);
        assert_eq!(give(&mut open(dir.path()), &file, 0, 100), Taken::Kept);
        let have = dir.path().join(format!("{}.have", BundleDigest::of(&file)));
        let mut list = OpenOptions::new().append(true).open(&have).unwrap();
        list.write_all(&[0xff; 40]).unwrap();
        assert_eq!(open(dir.path()).sums(), (1, 100));
        std::fs::write(&have, b"something else").unwrap();
        assert_eq!(open(dir.path()).sums(), (0, 0));
        assert!(!have.exists());
    }
}
