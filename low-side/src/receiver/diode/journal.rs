//! The journal beside an object's data: which shards are there, and what they must look like.
//!
//! Nothing of it is synced. After `kill -9` everything written is still there; after a power cut it
//! may not be, and the checksum of each shard tells. What is torn is passed over.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use shared::diode::{Geometry, ObjectId};
use shared::record::Lane;

/// What is known of an object from its first datagram on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObjectInfo {
    pub(super) key: ObjectKey,
    /// The link it was first seen on.
    pub(super) link: u64,
    pub(super) lane: Lane,
    pub(super) epoch: u64,
    pub(super) number: u64,
}

/// An object and how it is cut: what the same file sends by another geometry has its own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ObjectKey {
    pub(super) id: ObjectId,
    pub(super) geometry: Geometry,
}

impl ObjectKey {
    /// The stem of its files' names.
    pub(super) fn stem(&self) -> String {
        let cut = &self.geometry;
        format!(
            "{}-{:x}-{}-{}-{}",
            self.id,
            cut.length(),
            cut.shard_bytes(),
            cut.block_shards(),
            cut.recovery_shards()
        )
    }
}

/// A shard that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) block: u32,
    pub(super) shard: u32,
    /// Where a recovery shard stands in its file; 0 for source shards.
    pub(super) slot: u32,
    /// Of block, shard and payload.
    pub(super) crc: u32,
}

pub(super) const HEADER_BYTES: usize = 80;
pub(super) const ENTRY_BYTES: usize = 16;
const MAGIC: [u8; 8] = *b"PSTDJRN1";

/// The checksum of a shard.
pub(super) fn checksum(block: u32, shard: u32, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&block.to_le_bytes());
    crc.update(&shard.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

impl Entry {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for number in [self.block, self.shard, self.slot, self.crc] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn read(bytes: [u8; ENTRY_BYTES]) -> Self {
        let at = |from: usize| {
            u32::from_le_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]])
        };
        Self { block: at(0), shard: at(4), slot: at(8), crc: at(12) }
    }
}

impl ObjectInfo {
    pub(super) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        let cut = &self.key.geometry;
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[u8::from(self.lane == Lane::Routine), 0, 0, 0, 0, 0, 0, 0]);
        for number in [self.epoch, self.number, self.link, cut.length()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.key.id.0);
        for number in [cut.shard_bytes(), cut.block_shards(), cut.recovery_shards(), 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header[..bytes.len()].copy_from_slice(&bytes);
        header
    }

    fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let number = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let short = |at: usize| bytes[at..at + 2].try_into().ok().map(u16::from_le_bytes);
        let crc = bytes[72..76].try_into().ok().map(u32::from_le_bytes)?;
        if bytes[..8] != MAGIC || crc32fast::hash(&bytes[..72]) != crc {
            return None;
        }
        let geometry = Geometry::new(number(40)?, short(64)?, short(66)?, short(68)?).ok()?;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[48..64]);
        Some(Self {
            key: ObjectKey { id: ObjectId(id), geometry },
            link: number(32)?,
            lane: if bytes[8] == 0 { Lane::Flash } else { Lane::Routine },
            epoch: number(16)?,
            number: number(24)?,
        })
    }
}

/// Reads a journal: the object, and each entry in turn. `None` where it is no journal.
pub(super) fn read(
    path: &Path,
    mut each: impl FnMut(&ObjectInfo, Entry),
) -> io::Result<Option<ObjectInfo>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut header = [0; HEADER_BYTES];
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(err) => return Err(err),
    }
    let Some(info) = ObjectInfo::parse(&header) else { return Ok(None) };
    let mut bytes = [0; ENTRY_BYTES];
    loop {
        match file.read_exact(&mut bytes) {
            Ok(()) => each(&info, Entry::read(bytes)),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(info)),
            Err(err) => return Err(err),
        }
    }
}
