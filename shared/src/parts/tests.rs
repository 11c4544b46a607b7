//! Parts as whoever writes them, carries them, loses them and forges them meets them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::bundle::BundleDigest;

/// Bytes without a pattern that a wrong offset could hide in.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

struct Divided {
    dir: TempDir,
    whole: Vec<u8>,
    headers: Vec<PartHeader>,
}

impl Divided {
    fn new(whole: Vec<u8>, geometry: Geometry) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("whole");
        fs::write(&path, &whole).unwrap();
        let source = File::open(&path).unwrap();
        let name = "plant-7-routine-0000000042-00112233.pstk".parse().unwrap();
        let splitting = Splitting::new(name, BundleDigest::of(&whole), geometry);
        let mut headers = Vec::new();
        for index in 0..geometry.parts() {
            let mut out = File::create(dir.path().join(splitting.file_name(index))).unwrap();
            headers.push(splitting.write(&source, index, &mut out, &mut |_| {}).unwrap());
        }
        Self { dir, whole, headers }
    }

    fn coded(bytes: usize, data: u16, recovery: u16) -> Self {
        let geometry = Geometry::coded(bytes as u64, data, recovery).unwrap();
        Self::new(noise(bytes, 7), geometry)
    }

    fn path(&self, index: u16) -> PathBuf {
        self.dir.path().join(self.headers[usize::from(index)].file_name())
    }

    /// A set of the parts with these indexes, read from their files.
    fn set(&self, indexes: &[u16]) -> PartSet {
        let mut set = PartSet::new(self.headers[0].set());
        for index in indexes {
            let path = self.path(*index);
            let header = PartHeader::read(&path).unwrap();
            assert_eq!(set.add(&path, &header), Added::New);
        }
        set
    }

    fn rejoin(&self, set: &PartSet) -> Result<Rejoined, RejoinError> {
        let to = self.dir.path().join("rejoined");
        let result = set.rejoin(&to, &mut |_| {});
        assert!(!durable_partial(&to).exists(), "nothing half is left");
        match &result {
            Ok(_) => {
                assert!(fs::read(&to).unwrap() == self.whole, "the file is exact");
                fs::remove_file(&to).unwrap();
            }
            Err(_) => assert!(!to.exists(), "nothing stands under the name"),
        }
        result
    }

    /// Changes one byte of a part's file.
    fn flip(&self, index: u16, at: usize) {
        let path = self.path(index);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 0x40;
        fs::write(&path, bytes).unwrap();
    }
}

fn durable_partial(path: &Path) -> PathBuf {
    crate::durable::partial_path(path)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any K of K + R, in any order, make the exact file; K - 1 make nothing.
    #[test]
    fn any_k_parts_restore_the_file(
        bytes in 1_usize..60_000,
        data in 1_u16..9,
        recovery in 1_u16..6,
        order in proptest::collection::vec(any::<u16>(), 16),
    ) {
        let divided = Divided::coded(bytes, data, recovery);
        let mut indexes: Vec<u16> = (0..data + recovery).collect();
        indexes.sort_by_key(|index| order[usize::from(*index)]);
        indexes.truncate(usize::from(data));
        let lost = (0..data).filter(|index| !indexes.contains(index)).count();
        let rejoined = divided.rejoin(&divided.set(&indexes)).unwrap();
        prop_assert_eq!(usize::from(rejoined.recovered), lost);
        indexes.pop();
        prop_assert_eq!(divided.rejoin(&divided.set(&indexes)).unwrap_err().code(), "parts-missing");
    }

    /// Plain pieces are the file in order, none larger than was asked for.
    #[test]
    fn pieces_are_the_file_cut(bytes in 1_usize..50_000, max in 600_u64..9_000) {
        let geometry = Geometry::pieces(bytes as u64, max).unwrap();
        let divided = Divided::new(noise(bytes, 3), geometry);
        let mut joined = Vec::new();
        for index in 0..geometry.parts() {
            let piece = fs::read(divided.path(index)).unwrap();
            prop_assert!(piece.len() as u64 <= max);
            joined.extend_from_slice(&piece[PART_HEADER_BYTES..]);
        }
        prop_assert!(joined == divided.whole);
        let all: Vec<u16> = (0..geometry.parts()).rev().collect();
        divided.rejoin(&divided.set(&all)).unwrap();
    }

    /// A header that parses encodes to the same bytes; any other 512 bytes are no header.
    #[test]
    fn what_is_no_header_is_refused(
        bytes in proptest::collection::vec(any::<u8>(), PART_HEADER_BYTES),
        keep in 0_usize..PART_HEADER_BYTES,
    ) {
        let divided = Divided::coded(1000, 2, 1);
        let mut forged = divided.headers[0].encode();
        forged[keep..].copy_from_slice(&bytes[keep..]);
        if let Some(header) = PartHeader::decode(&forged) {
            prop_assert_eq!(header.encode(), forged);
        }
    }
}

#[test]
fn every_flipped_byte_of_a_header_is_refused() {
    let divided = Divided::coded(1000, 2, 1);
    let header = divided.headers[1].encode();
    assert_eq!(PartHeader::decode(&header).as_ref(), Some(&divided.headers[1]));
    for at in 0..header.len() {
        for bit in 0..8 {
            let mut flipped = header;
            flipped[at] ^= 1 << bit;
            assert_eq!(PartHeader::decode(&flipped), None, "byte {at} bit {bit}");
        }
    }
}

/// Who computes the header's own digest anew can claim anything: what no writer would have made is
/// refused by its values.
#[test]
fn claims_that_no_writer_makes_are_refused() {
    let divided = Divided::coded(1000, 2, 1);
    let claims: &[(&str, usize, &[u8])] = &[
        ("a huge file", 16, &u64::MAX.to_le_bytes()),
        ("an empty file", 16, &0_u64.to_le_bytes()),
        ("parts that don't fit the file", 24, &4096_u64.to_le_bytes()),
        ("a part length that overflows", 24, &u64::MAX.to_le_bytes()),
        ("no data parts", 32, &0_u16.to_le_bytes()),
        ("more data parts than allowed", 32, &60_000_u16.to_le_bytes()),
        ("more recovery parts than allowed", 34, &u16::MAX.to_le_bytes()),
        ("an index behind the last", 36, &3_u16.to_le_bytes()),
        ("a name longer than allowed", 38, &300_u16.to_le_bytes()),
        ("no name", 38, &0_u16.to_le_bytes()),
        ("a shorter name with a rest", 38, &5_u16.to_le_bytes()),
        ("a path", 104, b"../../"),
        ("a name with a control character", 104, b"\x1b[2J"),
        ("a hidden name", 104, b"."),
        ("another header length", 12, &1024_u32.to_le_bytes()),
        ("something in the space behind the name", 400, b"x"),
    ];
    for (what, at, field) in claims {
        let mut bytes = divided.headers[0].encode();
        bytes[*at..at + field.len()].copy_from_slice(field);
        let own = BundleDigest::of(&bytes[..480]);
        bytes[480..].copy_from_slice(own.as_bytes());
        assert_eq!(PartHeader::decode(&bytes), None, "{what}");
    }
}

#[test]
fn files_that_are_no_parts_are_refused_with_their_codes() {
    let divided = Divided::coded(1000, 2, 1);
    let path = divided.path(0);
    let good = fs::read(&path).unwrap();
    let code = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        PartHeader::read(&path).unwrap_err().code()
    };
    assert_eq!(code(b""), "part-header");
    assert_eq!(code(&good[..511]), "part-header");
    assert_eq!(code(&good[..good.len() - 1]), "part-length");
    assert_eq!(code(&[&good[..], b"x"].concat()), "part-length");
    assert_eq!(code(&[&good[..8], &2_u32.to_le_bytes(), &good[12..]].concat()), "part-version");
    assert_eq!(code(&vec![0; 4096]), "part-header");
    fs::remove_file(&path).unwrap();
    assert_eq!(PartHeader::read(&path).unwrap_err().code(), "part-unreadable");
    std::os::unix::fs::symlink(divided.path(1), &path).unwrap();
    assert_eq!(PartHeader::read(&path).unwrap_err().code(), "part-unreadable", "no links");
}

#[test]
fn damaged_parts_are_done_without_where_enough_others_are_there() {
    let divided = Divided::coded(10_000, 3, 2);
    divided.flip(0, 600);
    divided.flip(4, 700);
    let rejoined = divided.rejoin(&divided.set(&[0, 1, 2, 3, 4])).unwrap();
    assert_eq!(rejoined, Rejoined { recovered: 1, damaged: vec![divided.path(0)] });
    let error = divided.rejoin(&divided.set(&[0, 1, 2, 4])).unwrap_err();
    assert_eq!(error.code(), "part-damaged");
    assert!(error.to_string().contains("2 of the 3"), "{error}");
    assert!(error.to_string().contains("part-01-of-05"), "{error}");
}

#[test]
fn a_damaged_part_and_its_replacement_are_both_tried() {
    let divided = Divided::coded(5_000, 2, 1);
    let mut set = divided.set(&[1]);
    // The damage came before the header was made, as a forger would do it.
    let mut forged = divided.headers[0].clone();
    forged.content_sha256 = BundleDigest::of(b"something else");
    let place = divided.dir.path().join("forged");
    let content = vec![9; forged.geometry.content_bytes(0) as usize];
    fs::write(&place, [&forged.encode()[..], &content].concat()).unwrap();
    assert_eq!(set.add(&place, &PartHeader::read(&place).unwrap()), Added::New);
    let original = divided.path(0);
    let header = PartHeader::read(&original).unwrap();
    assert_eq!(set.add(&original, &header), Added::Rival);
    assert_eq!(set.add(&original, &header), Added::Again);
    assert_eq!(divided.rejoin(&set).unwrap().damaged, [place]);
    for claim in 0..8_u8 {
        forged.content_sha256 = BundleDigest::of(&[claim]);
        let added = set.add(Path::new("x"), &forged);
        assert_eq!(added, if claim < 2 { Added::Rival } else { Added::Refused });
    }
}

#[test]
fn a_forged_part_that_is_whole_by_its_own_words_is_done_without() {
    let divided = Divided::coded(50_000, 2, 1);
    let mut other = divided.whole.clone();
    let at = other.len() - 1;
    other[at] ^= 1;
    let source = divided.dir.path().join("other");
    fs::write(&source, other).unwrap();
    let name = "plant-7-routine-0000000042-00112233.pstk".parse().unwrap();
    let geometry = Geometry::coded(50_000, 2, 1).unwrap();
    let splitting = Splitting::new(name, BundleDigest::of(&divided.whole), geometry);
    let forged = divided.dir.path().join("forged");
    let mut out = File::create(&forged).unwrap();
    splitting.write(&File::open(&source).unwrap(), 1, &mut out, &mut |_| {}).unwrap();
    let header = PartHeader::read(&forged).unwrap();
    // It comes first; with the good one beside it, or with the recovery part alone.
    for good in [&[0, 1, 2][..], &[0, 1], &[0, 2]] {
        let mut set = PartSet::new(divided.headers[0].set());
        assert_eq!(set.add(&forged, &header), Added::New);
        for index in good {
            let path = divided.path(*index);
            set.add(&path, &PartHeader::read(&path).unwrap());
        }
        let rejoined = divided.rejoin(&set).unwrap();
        assert!(rejoined.damaged.contains(&forged), "{rejoined:?}");
    }
}

#[test]
fn sets_are_never_mixed() {
    let divided = Divided::coded(5_000, 2, 1);
    let others = [
        Divided::coded(5_000, 2, 2),
        Divided::coded(5_001, 2, 1),
        Divided::new(noise(5_000, 8), Geometry::coded(5_000, 2, 1).unwrap()),
        Divided::new(noise(5_000, 7), Geometry::pieces(5_000, 3_008).unwrap()),
    ];
    let mut set = divided.set(&[0]);
    for other in &others {
        assert_eq!(set.add(&other.path(1), &other.headers[1]), Added::Refused);
    }
    assert_eq!((set.wanted(), set.indexes()), (1, vec![0]));
}

/// Each part is what its header says, but the whole is not: the parts of two files under one claim.
#[test]
fn a_whole_with_another_digest_gets_no_name() {
    let (one, two) = (Divided::coded(5_000, 2, 1), noise(5_000, 99));
    let two = Divided::new(two, Geometry::coded(5_000, 2, 1).unwrap());
    let mut forged = two.headers[0].clone();
    forged.whole_sha256 = one.headers[0].whole_sha256;
    let content = fs::read(two.path(0)).unwrap();
    let place = one.dir.path().join("forged");
    fs::write(&place, [&forged.encode()[..], &content[PART_HEADER_BYTES..]].concat()).unwrap();
    for others in [&[1][..], &[2]] {
        let mut set = one.set(others);
        assert_eq!(set.add(&place, &PartHeader::read(&place).unwrap()), Added::New);
        assert_eq!(one.rejoin(&set).unwrap_err().code(), "parts-whole");
    }
}

/// A part that is exchanged between being found and being read is damaged, and nothing worse.
#[test]
fn a_part_that_is_exchanged_meanwhile_is_not_followed() {
    let divided = Divided::coded(5_000, 2, 1);
    let larger = Divided::coded(90_000, 2, 1);
    let set = divided.set(&[0, 1, 2]);
    fs::copy(larger.path(1), divided.path(1)).unwrap();
    assert_eq!(divided.rejoin(&set).unwrap().recovered, 1);
}

#[test]
fn geometries_have_limits() {
    assert_eq!(Geometry::pieces(0, 1000), Err(GeometryError::Empty));
    assert_eq!(Geometry::pieces(1, 512), Err(GeometryError::PartTooSmall { bytes: 512 }));
    assert!(Geometry::pieces(4096, 513).is_ok());
    assert_eq!(Geometry::pieces(4097, 513), Err(GeometryError::TooManyParts { parts: 4097 }));
    assert!(Geometry::pieces(WHOLE_BYTES_MAX + 1, u64::MAX).is_err());
    for (data, recovery) in [(0, 1), (1, 0), (255, 1), (u16::MAX, 1)] {
        assert!(Geometry::coded(1, data, recovery).is_err(), "{data}+{recovery}");
    }
    assert!(Geometry::coded(WHOLE_BYTES_MAX, 254, 1).is_ok());
    // A FAT file system's longest file holds a piece with its header.
    let fat = Geometry::pieces(5 << 30, u64::from(u32::MAX)).unwrap();
    assert_eq!((fat.parts(), fat.file_bytes(0)), (2, u64::from(u32::MAX)));
    let stripes: BTreeSet<usize> =
        (1..255).map(|data| Geometry::coded(1 << 30, data, 1).unwrap().stripe_bytes()).collect();
    assert!(stripes.iter().all(|bytes| bytes % 64 == 0 && *bytes <= 1 << 20));
}

#[test]
fn names_of_parts_are_plain() {
    let header = Divided::coded(1000, 3, 2).headers[2].clone();
    let name = header.file_name();
    assert_eq!(name, "plant-7-routine-0000000042-00112233.pstk.part-03-of-05");
    assert!(is_part_name(&name));
    for (name, is) in [
        ("a.pstk.part-0001-of-4096", true),
        ("a.pstk.part-001-of-4096", true),
        ("a.pstk", false),
        ("a.pstk.part-1-of-5", false),
        ("a.pstk.part-01-of-05.partial", false),
        (".part-01-of-05", false),
        ("\u{e9}.part-01-of-05", false),
    ] {
        assert_eq!(is_part_name(name), is, "{name}");
    }
    for bad in ["", ".hidden", "a/b", "a b", "a.partial", &"x".repeat(201)] {
        assert!(bad.parse::<PartName>().is_err(), "{bad:?}");
    }
}

/// The code is part of the format: other bytes from the same input would be another version.
#[test]
fn the_code_gives_the_bytes_that_it_always_gave() {
    let divided = Divided::coded(1000, 3, 2);
    let recovery: Vec<String> =
        divided.headers[3..].iter().map(|header| header.content_sha256.to_string()).collect();
    assert_eq!(recovery, GOLDEN);
    // A longer file than one stripe gives what one stripe of any length would give.
    let geometry = Geometry::coded(3 << 20, 2, 1).unwrap();
    let whole = noise(3 << 20, 5);
    let divided = Divided::new(whole.clone(), geometry);
    let (first, second) = whole.split_at(3 << 19);
    let at_once = reed_solomon_simd::encode(2, 1, [first, second]).unwrap();
    assert!(geometry.stripe_bytes() < 3 << 19);
    assert_eq!(divided.headers[2].content_sha256, BundleDigest::of(&at_once[0]));
}

/// The contents of parts 4 and 5 of `noise(1000, 7)` in 3+2 parts.
const GOLDEN: [&str; 2] = [
    "7e127be54f26bc14ccb2502ee154e5af04ae9485f88efe7ac85f27dddd9608e8",
    "7029ddcf152a26ab9dccca8d052b05779d03ca4ecb50108895509c254c0d5c1d",
];
