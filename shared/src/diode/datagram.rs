//! The datagram: a header of fixed length, the payload, the tag (DIODE.md section 3).

#[cfg(feature = "open")]
use super::GeometryError;
#[cfg(feature = "open")]
use super::RunKeys;
use super::{Geometry, ObjectId, RunKey, TAG_BYTES};
use crate::record::Lane;

/// The length of the header.
pub const HEADER_BYTES: usize = 88;
/// What a datagram costs beside its payload.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

const MAGIC: [u8; 4] = *b"PSTD";
const VERSION: u8 = 1;

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A shard of an object.
    Shard,
    /// A page of the catalogue.
    Catalogue,
}

/// A datagram's place in what the sender sent; losses are counted by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStamp {
    /// When the sender started, in nanoseconds since 1970: another number for each start.
    pub run: u64,
    /// The datagram's number in the run, from 0.
    pub sequence: u64,
}

/// What a shard's datagram says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardHeader {
    /// The object's lane.
    pub lane: Lane,
    /// The object.
    pub object: ObjectId,
    /// The bundle's epoch.
    pub epoch: u64,
    /// The bundle's number in (epoch, lane).
    pub number: u64,
    /// How the object is cut.
    pub geometry: Geometry,
    /// The block.
    pub block: u32,
    /// The shard: below the block's source shards one of these, else a recovery shard.
    pub shard: u32,
    /// In which pass it was sent, from 0; only for those who look.
    pub pass: u16,
}

/// Appends a shard's datagram.
pub fn write_shard(
    out: &mut Vec<u8>,
    (link, key): (u64, &RunKey),
    sequence: u64,
    shard: &ShardHeader,
    payload: &[u8],
) {
    let begin = out.len();
    write_start(out, (link, key), sequence, 1, shard.lane);
    out.extend_from_slice(&shard.object.0);
    out.extend_from_slice(&shard.geometry.length().to_le_bytes());
    out.extend_from_slice(&shard.epoch.to_le_bytes());
    out.extend_from_slice(&shard.number.to_le_bytes());
    out.extend_from_slice(&shard.block.to_le_bytes());
    out.extend_from_slice(&shard.shard.to_le_bytes());
    out.extend_from_slice(&shard.geometry.shard_bytes().to_le_bytes());
    out.extend_from_slice(&shard.geometry.block_shards().to_le_bytes());
    out.extend_from_slice(&shard.geometry.recovery_shards().to_le_bytes());
    out.extend_from_slice(&shard.pass.to_le_bytes());
    out.extend_from_slice(payload);
    let tag = key.tag(sequence, &out[begin..]);
    out.extend_from_slice(&tag);
}

/// Appends a datagram with a page of the catalogue.
pub fn write_catalogue(out: &mut Vec<u8>, (link, key): (u64, &RunKey), sequence: u64, page: &[u8]) {
    let begin = out.len();
    write_start(out, (link, key), sequence, 2, Lane::Flash);
    out.resize(begin + HEADER_BYTES, 0);
    out.extend_from_slice(page);
    let tag = key.tag(sequence, &out[begin..]);
    out.extend_from_slice(&tag);
}

fn write_start(
    out: &mut Vec<u8>,
    (link, key): (u64, &RunKey),
    sequence: u64,
    kind: u8,
    lane: Lane,
) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind, lane_byte(lane), 0]);
    out.extend_from_slice(&link.to_le_bytes());
    out.extend_from_slice(&key.run().to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
}

/// A lane as one byte, on the link and in files beside it.
pub(super) fn lane_byte(lane: Lane) -> u8 {
    match lane {
        Lane::Flash => 0,
        Lane::Routine => 1,
    }
}

#[cfg(feature = "open")]
pub(super) fn lane_of(byte: u8) -> Option<Lane> {
    Lane::ALL.into_iter().find(|lane| lane_byte(*lane) == byte)
}

/// A datagram that carries the key's tag and is well formed.
#[cfg(feature = "open")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A shard.
    Shard(ShardHeader, &'a [u8]),
    /// A page of the catalogue; its signature was not looked at yet.
    Catalogue(&'a [u8]),
}

/// Why a datagram is not used. Nothing of it is kept.
#[cfg(feature = "open")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// It belongs to no link of ours.
    #[error("is no datagram of this link")]
    Foreign,
    /// Its tag is wrong: forged, or damaged on the way.
    #[error("does not carry the link's tag")]
    Forged,
    /// It carries the tag, and says what can't be.
    #[error("carries the tag, and says what can't be")]
    Malformed,
    /// Another version of the protocol.
    #[error("is of a version that this receiver does not know")]
    Version,
}

#[cfg(feature = "open")]
impl From<GeometryError> for DatagramError {
    fn from(_: GeometryError) -> Self {
        Self::Malformed
    }
}

/// Checks a datagram: its tag first, then what it says (DIODE.md section 3.2).
#[cfg(feature = "open")]
pub fn receive<'a>(
    keys: &mut RunKeys,
    datagram: &'a [u8],
) -> Result<(LinkStamp, Received<'a>), DatagramError> {
    let Some(tag_at) = datagram.len().checked_sub(TAG_BYTES).filter(|at| *at >= HEADER_BYTES)
    else {
        return Err(DatagramError::Foreign);
    };
    let (message, tag) = datagram.split_at(tag_at);
    let number64 = |at: usize| message.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let number32 = |at: usize| message.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let number16 = |at: usize| message.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
    if message[..4] != MAGIC || number64(8) != Some(keys.id()) {
        return Err(DatagramError::Foreign);
    }
    let (Some(run), Some(sequence)) = (number64(16), number64(24)) else {
        return Err(DatagramError::Foreign);
    };
    if !keys.is_tag(run, sequence, message, tag) {
        return Err(DatagramError::Forged);
    }
    if message[4] != VERSION {
        return Err(DatagramError::Version);
    }
    let malformed = DatagramError::Malformed;
    let stamp = LinkStamp { run, sequence };
    let payload = &message[HEADER_BYTES..];
    match message[5] {
        1 => {
            let geometry = Geometry::new(
                number64(48).ok_or(malformed)?,
                number16(80).ok_or(malformed)?,
                number16(82).ok_or(malformed)?,
                number16(84).ok_or(malformed)?,
            )?;
            let mut object = [0; 16];
            object.copy_from_slice(&message[32..48]);
            let header = ShardHeader {
                lane: lane_of(message[6]).ok_or(malformed)?,
                object: ObjectId(object),
                epoch: number64(56).ok_or(malformed)?,
                number: number64(64).ok_or(malformed)?,
                geometry,
                block: number32(72).ok_or(malformed)?,
                shard: number32(76).ok_or(malformed)?,
                pass: number16(86).ok_or(malformed)?,
            };
            let expected = geometry.payload_bytes(header.block, header.shard);
            if message[7] != 0 || header.number == 0 || expected != Some(payload.len()) {
                return Err(malformed);
            }
            Ok((stamp, Received::Shard(header, payload)))
        }
        2 => Ok((stamp, Received::Catalogue(payload))),
        _ => Err(malformed),
    }
}
