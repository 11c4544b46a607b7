//! A block: up to 512 consecutive records of a lane, compressed, hashed, linked to the one before.

use std::io;

use sha2::{Digest, Sha256};
use shared::clock::Nanos;
use shared::record::{Epoch, Head, Lane, OriginId, Sequence, SourceTag, Suppressed};

use super::counts::Tally;
use super::intake::{Fate, IncomingMessage};

/// A SHA-256.
pub(super) type Hash = [u8; 32];

/// What stands before the first block of a lane in an epoch.
pub(super) const GENESIS: Hash = [0; 32];

/// The life of a buffer that its blocks belong to; part of every block's hash.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) origin: OriginId,
    pub(super) epoch: Epoch,
}

/// A block as it stands in its row.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) lane: Lane,
    pub(super) first: u64,
    pub(super) records: u64,
    pub(super) plain_bytes: u64,
    pub(super) oldest: Nanos,
    pub(super) newest: Nanos,
    pub(super) streams: Tally,
    pub(super) previous: Hash,
    pub(super) hash: Hash,
    /// One zstd frame of `records` encoded records.
    pub(super) body: Vec<u8>,
}

impl Block {
    /// The sequence behind its last record.
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(self.records)
    }

    /// The hash that a block with these contents has.
    pub(super) fn compute_hash(&self, life: &Life) -> Hash {
        let mut hash = Sha256::new();
        let head = format!(
            "penstock buffer block v1\n{}\n{}\n{}\n{} {} {} {} {}\n{}\n",
            life.origin,
            life.epoch,
            self.lane,
            self.first,
            self.records,
            self.plain_bytes,
            self.oldest.0,
            self.newest.0,
            self.streams.to_text(),
        );
        hash.update(head);
        hash.update(self.previous);
        hash.update(&self.body);
        hash.finalize().into()
    }

    /// Whether its contents are what was written.
    pub(super) fn is_intact(&self, life: &Life) -> bool {
        self.records > 0
            && self.streams.sum().records == self.records
            && self.compute_hash(life) == self.hash
    }
}

/// Packs records of one lane into blocks.
pub(super) struct Packer {
    life: Life,
    lane: Lane,
    next: u64,
    previous: Hash,
    plain: Vec<u8>,
    records: u64,
    oldest: Nanos,
    newest: Nanos,
    streams: Tally,
    compressor: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
}

impl Packer {
    /// A packer whose next record is `next` and whose next block follows the one with `previous`.
    pub(super) fn new(
        life: Life,
        lane: Lane,
        next: u64,
        previous: Hash,
        level: i32,
    ) -> io::Result<Self> {
        Ok(Self {
            life,
            lane,
            next,
            previous,
            plain: Vec::with_capacity(BLOCK_PLAIN_BYTES_MAX),
            records: 0,
            oldest: Nanos(i64::MAX),
            newest: Nanos(i64::MIN),
            streams: Tally::default(),
            compressor: zstd::bulk::Compressor::new(level)?,
            compressed: Vec::new(),
        })
    }

    /// Adds a message; full blocks go to `blocks`.
    pub(super) fn add(
        &mut self,
        source: &SourceTag,
        message: &IncomingMessage,
        raw: &[u8],
        blocks: &mut Vec<Block>,
    ) -> io::Result<()> {
        let room = self.plain.len() + HEAD_BYTES_TYPICAL + source.as_str().len() + raw.len();
        if self.records == BLOCK_RECORDS_MAX || room > BLOCK_PLAIN_BYTES_MAX {
            self.close(blocks)?;
        }
        let sequence = Sequence(self.next + self.records);
        let IncomingMessage { received, stream, cut_from, .. } = *message;
        let head = |redacted| Head { sequence, received, stream, source, cut_from, redacted };
        match &message.fate {
            Fate::Kept => head(None).encode(&mut self.plain, raw),
            Fate::Redacted(note) => head(Some(note)).encode(&mut self.plain, raw),
            Fate::Suppressed { rule, bytes } => {
                let length = *bytes;
                Suppressed { sequence, received, stream, length, rule }.encode(&mut self.plain);
            }
        }
        match &message.fate {
            Fate::Kept | Fate::Redacted(_) => self.streams.add_record(stream, raw.len() as u64),
            Fate::Suppressed { rule, bytes } => self.streams.add_suppressed(rule, stream, *bytes),
        }
        self.records += 1;
        // The encoding has no time before 1970.
        self.oldest = self.oldest.min(received.max(Nanos(0)));
        self.newest = self.newest.max(received.max(Nanos(0)));
        Ok(())
    }

    /// Ends the block that is being filled, if it has any record.
    pub(super) fn close(&mut self, blocks: &mut Vec<Block>) -> io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(self.plain.len()));
        self.compressor.compress_to_buffer(&self.plain, &mut self.compressed)?;
        let mut block = Block {
            lane: self.lane,
            first: self.next,
            records: self.records,
            plain_bytes: self.plain.len() as u64,
            oldest: self.oldest,
            newest: self.newest,
            streams: std::mem::take(&mut self.streams),
            previous: self.previous,
            hash: GENESIS,
            body: self.compressed.as_slice().into(),
        };
        block.hash = block.compute_hash(&self.life);
        self.previous = block.hash;
        self.next = block.end();
        self.records = 0;
        self.oldest = Nanos(i64::MAX);
        self.newest = Nanos(i64::MIN);
        self.plain.clear();
        // One huge record must not hold its memory for ever.
        self.plain.shrink_to(BLOCK_PLAIN_BYTES_MAX);
        self.compressed.shrink_to(2 * BLOCK_PLAIN_BYTES_MAX);
        blocks.push(block);
        Ok(())
    }
}

/// Unpacks intact blocks, reusing its memory.
pub(super) struct Unpacker {
    decompressor: zstd::bulk::Decompressor<'static>,
    plain: Vec<u8>,
}

impl Unpacker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { decompressor: zstd::bulk::Decompressor::new()?, plain: Vec::new() })
    }

    /// The plain bytes of a block, if it has exactly as many as it says.
    pub(super) fn unpack(&mut self, block: &Block) -> Option<&[u8]> {
        self.plain.clear();
        self.plain.reserve(usize::try_from(block.plain_bytes).ok()?);
        self.decompressor.decompress_to_buffer(&block.body, &mut self.plain).ok()?;
        (self.plain.len() as u64 == block.plain_bytes).then_some(&self.plain)
    }
}

/// Compression gains little from longer blocks, and a damaged one loses no more than this.
const BLOCK_RECORDS_MAX: u64 = 512;

/// A longer block is not begun; a single record longer than this makes a block of its own.
const BLOCK_PLAIN_BYTES_MAX: usize = 512 * 1024;

/// The head line of a record without its source.
const HEAD_BYTES_TYPICAL: usize = 80;
