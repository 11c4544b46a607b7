//! Bundles made without an agent: a chain of any length, sealed with a high side's keys.

use std::path::{Path, PathBuf};

use shared::bundle::{
    BundleDigest, Manifest, SealReason, SealedBundle, StreamCount, file_name, seal,
};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::durable;
use shared::keys::{Recipients, SIGNING_KEY_FILE, SigningKey};
use shared::record::{Epoch, Lane, OriginId, Sequence, SourceTag, Stream, encode};

use crate::agents::Site;
use crate::load::{Framing, Pool};
use crate::seed::Seed;

/// The next bundle of a chain, and all that it must know of the ones before.
#[derive(Debug)]
pub struct BundleChain {
    origin: OriginId,
    epoch: Epoch,
    signing: SigningKey,
    recipients: Recipients,
    number: u64,
    previous: BundleDigest,
    next_sequence: u64,
    pool: Pool,
}

impl BundleChain {
    /// A chain with the keys of a high side that is paired.
    ///
    /// # Panics
    /// When it is not.
    pub fn new(high: &Site, origin: &str) -> Self {
        let keys = high.dir().join("keys");
        Self::with_keys(
            origin,
            SigningKey::load(&keys.join(SIGNING_KEY_FILE)).expect("a signing key"),
            Recipients::load(&keys).expect("a paired low side"),
        )
    }

    /// A chain with these keys.
    pub fn with_keys(origin: &str, signing: SigningKey, recipients: Recipients) -> Self {
        Self {
            origin: origin.parse().expect("the name of an origin"),
            epoch: Epoch(1),
            signing,
            recipients,
            number: 1,
            previous: BundleDigest::ZERO,
            next_sequence: 1,
            pool: Pool::new(Framing::None, None),
        }
    }

    /// The encodings of the next records; the messages' ids are the sequence numbers.
    pub fn records(&self, count: u64) -> EncodedRecords {
        let source = SourceTag::new("bench", "127.0.0.1:5140", None);
        let mut message = Vec::new();
        let mut encoded =
            EncodedRecords { count, bytes: Vec::new(), raw_bytes: 0, received: SystemClock.now() };
        for sequence in self.next_sequence..self.next_sequence + count {
            message.clear();
            self.pool.append(sequence, &mut message);
            encoded.raw_bytes += message.len() as u64;
            let (sequence, stream) = (Sequence(sequence), Stream::PortainerActivity);
            encode(&mut encoded.bytes, sequence, encoded.received, stream, &source, None, &message);
        }
        encoded
    }

    /// Records of so many bytes together that do not compress, 64 KiB each.
    pub fn noise(&self, bytes: u64) -> EncodedRecords {
        let source = SourceTag::new("bench", "127.0.0.1:5140", None);
        let count = bytes.div_ceil(NOISE_BYTES as u64);
        let mut encoded =
            EncodedRecords { count, bytes: Vec::new(), raw_bytes: 0, received: SystemClock.now() };
        let mut seed = Seed::new(self.next_sequence);
        let mut message = vec![0; NOISE_BYTES];
        for sequence in self.next_sequence..self.next_sequence + count {
            for part in message.chunks_exact_mut(8) {
                part.copy_from_slice(&seed.next_u64().to_le_bytes());
            }
            encoded.raw_bytes += message.len() as u64;
            let (sequence, stream) = (Sequence(sequence), Stream::PortainerActivity);
            encode(&mut encoded.bytes, sequence, encoded.received, stream, &source, None, &message);
        }
        encoded
    }

    /// Seals records that [`BundleChain::records`] gave into the next bundle, and its sidecar, in a
    /// folder. Gives the file.
    pub fn seal(&mut self, dir: &Path, records: &EncodedRecords) -> (PathBuf, SealedBundle) {
        let (manifest, level) = (self.manifest(records), COMPRESSION_LEVEL);
        let partial = dir.join(format!("{}.partial", self.number));
        let file = durable::create(&partial, 0o644).expect("a file for a bundle");
        let sealed = seal(&manifest, &self.signing, &self.recipients, level, &file, |out| {
            out.write_all(&records.bytes)
        });
        let sealed = sealed.expect("a bundle can be sealed");
        let name = file_name(&self.origin, Lane::Routine, self.number, &sealed.digest);
        let path = dir.join(&name);
        let sidecar = format!("{}  {name}\n", sealed.file_sha256);
        std::fs::write(dir.join(format!("{name}.sha256")), sidecar)
            .expect("a sidecar can be written");
        durable::rename(&partial, &path).expect("a bundle can be renamed");
        self.number += 1;
        self.previous = sealed.digest;
        self.next_sequence += records.count;
        (path, sealed)
    }

    fn manifest(&self, records: &EncodedRecords) -> Manifest {
        let count = StreamCount {
            stream: Stream::PortainerActivity,
            records: records.count,
            bytes: records.raw_bytes,
        };
        let time = (records.count > 0).then_some(records.received);
        Manifest {
            origin: self.origin.clone(),
            epoch: self.epoch,
            lane: Lane::Routine,
            number: self.number,
            previous: self.previous,
            agent: "tests/0".to_owned(),
            sealed_at: records.received,
            reason: SealReason::Requested,
            records: records.count,
            first_sequence: Sequence(self.next_sequence),
            last_sequence: Sequence(self.next_sequence + records.count - 1),
            records_bytes: records.bytes.len() as u64,
            oldest: time,
            newest: time,
            chain_before: BundleDigest::ZERO,
            chain_head: BundleDigest::ZERO,
            streams: if records.count > 0 { vec![count] } else { Vec::new() },
            suppressed: Vec::new(),
            losses: Vec::new(),
        }
    }
}

/// Encoded records, and what a manifest says of them.
#[derive(Clone, Debug)]
pub struct EncodedRecords {
    /// How many.
    pub count: u64,
    /// Their encodings.
    pub bytes: Vec<u8>,
    raw_bytes: u64,
    received: Nanos,
}

const NOISE_BYTES: usize = 64 << 10;
/// The agents' default.
pub const COMPRESSION_LEVEL: i32 = 3;
