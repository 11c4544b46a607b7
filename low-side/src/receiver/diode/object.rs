//! One object under way: its files, and which shards of which block are there.
//!
//! Source shards go to their place in the data file at once, recovery shards into slots of a second
//! file. A block is restored as soon as any K of its shards are there.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256};
use shared::bundle::BundleDigest;
use shared::diode::{BlockDecoder, ShardHeader};

use super::journal::{self, Entry, ObjectInfo, checksum};

/// A shard that came, and where its payload stands in the batch.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    /// What it says of itself.
    pub(super) header: ShardHeader,
    /// Its payload, in the batch's bytes.
    pub(super) payload: Range<usize>,
}

/// What became of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) written: u64,
    /// There already, or of a block that is whole.
    pub(super) redundant: u64,
    /// Refused for want of room.
    pub(super) refused: u64,
}

/// A block that is not whole, or whose shards were not looked at since the start.
#[derive(Debug)]
struct Block {
    have: Box<[u64]>,
    source: u16,
    recovery: Vec<Slot>,
    /// Of source shards, where the journal and not the link told of them.
    unverified: Option<Box<[u32]>>,
    queued: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u16,
    place: u32,
    crc: u32,
}

#[derive(Debug)]
struct Files {
    data: File,
    recovery: File,
    journal: File,
}

/// One object under way.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) info: ObjectInfo,
    pub(super) last_fed: Instant,
    dir: PathBuf,
    files: Option<Files>,
    /// Blocks that are not whole or not verified, by number.
    blocks: HashMap<u32, Block>,
    whole: Box<[u64]>,
    whole_count: u32,
    slots_free: Vec<u32>,
    slots: u32,
    journal: Vec<u8>,
    journal_bytes: u64,
    hash: Sha256,
    hashed: u32,
    written_back: u64,
    /// What its assembler last counted of it: bytes on the disk, and blocks in memory.
    pub(super) accounted: (u64, usize),
}

/// What a step on an object came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is nothing to do until more shards come.
    Idle,
    /// Something was done, and there may be more.
    Busy,
    /// Every block is whole; this is the whole file's digest.
    Whole(BundleDigest),
}

/// Working space for restoring blocks.
#[derive(Debug, Default)]
pub(super) struct Bench {
    decoder: BlockDecoder,
    source: Vec<u8>,
    recovery: Vec<u8>,
}

impl Object {
    /// Begins an object: makes its files.
    pub(super) fn create(dir: &Path, info: ObjectInfo, now: Instant) -> io::Result<Self> {
        let mut object = Self::empty(dir, info, now);
        let path = object.path("journal");
        let journal = open(&path, true)?;
        journal.set_len(0)?;
        journal.write_all_at(&info.header(), 0)?;
        object.files()?.data.set_len(info.key.geometry.length())?;
        Ok(object)
    }

    /// Takes up an object from its files. Its shards are looked at when their block is restored.
    pub(super) fn resume(
        dir: &Path,
        journal_path: &Path,
        now: Instant,
    ) -> io::Result<Option<Self>> {
        let mut object: Option<Self> = None;
        let mut entries = 0_u64;
        let read = journal::read(journal_path, |info, entry| {
            entries += 1;
            object.get_or_insert_with(|| Self::empty(dir, *info, now)).remember(entry);
        })?;
        let Some(info) = read else { return Ok(None) };
        let mut object = object.unwrap_or_else(|| Self::empty(dir, info, now));
        object.journal_bytes = journal::HEADER_BYTES as u64 + entries * journal::ENTRY_BYTES as u64;
        let data = object.path("data");
        if journal_path != object.path("journal") || !data.is_file() {
            return Ok(None);
        }
        object.files()?.data.set_len(info.key.geometry.length())?;
        object.find_free_slots();
        object.close();
        Ok(Some(object))
    }

    fn empty(dir: &Path, info: ObjectInfo, now: Instant) -> Self {
        let blocks = info.key.geometry.blocks() as usize;
        Self {
            info,
            last_fed: now,
            dir: dir.to_owned(),
            files: None,
            blocks: HashMap::new(),
            whole: vec![0; blocks.div_ceil(64)].into(),
            whole_count: 0,
            slots_free: Vec::new(),
            slots: 0,
            journal: Vec::new(),
            journal_bytes: journal::HEADER_BYTES as u64,
            hash: Sha256::new(),
            hashed: 0,
            written_back: 0,
            accounted: (0, 0),
        }
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.info.key.stem()))
    }

    /// The file of the object's bytes.
    pub(super) fn data_path(&self) -> PathBuf {
        self.path("data")
    }

    /// What is of no more use once the object is delivered or given up, the journal last: without
    /// it nothing is resumed.
    pub(super) fn other_paths(&self) -> [PathBuf; 2] {
        [self.path("recovery"), self.path("journal")]
    }

    /// The bytes it may take on the disk.
    pub(super) fn reserved_bytes(&self) -> u64 {
        let cut = &self.info.key.geometry;
        cut.length() + u64::from(self.slots) * u64::from(cut.shard_bytes()) + self.journal_bytes
    }

    /// Blocks for which memory is held.
    pub(super) fn live_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Whole blocks, and blocks in all.
    pub(super) fn progress(&self) -> (u32, u32) {
        (self.whole_count, self.info.key.geometry.blocks())
    }

    /// How many shards are missing at least.
    pub(super) fn shards_missing(&self) -> u64 {
        let cut = &self.info.key.geometry;
        let there: u64 = self
            .blocks
            .iter()
            .filter(|(at, _)| !self.is_whole(**at))
            .map(|(at, block)| u64::from(block.count().min(cut.source_shards(*at))))
            .sum();
        let whole: u64 = (0..cut.blocks())
            .filter(|at| self.is_whole(*at))
            .map(|at| u64::from(cut.source_shards(at)))
            .sum();
        cut.shards() - there - whole
    }

    pub(super) fn is_open(&self) -> bool {
        self.files.is_some()
    }

    /// Closes its files; they are opened again when they are needed.
    pub(super) fn close(&mut self) {
        self.files = None;
    }

    fn files(&mut self) -> io::Result<&Files> {
        if self.files.is_none() {
            let files = Files {
                data: open(&self.path("data"), true)?,
                recovery: open(&self.path("recovery"), true)?,
                journal: open(&self.path("journal"), true)?,
            };
            self.files = Some(files);
        }
        self.files.as_ref().ok_or_else(|| io::Error::other("files are open"))
    }

    /// Writes shards of this object. Queues blocks that can be restored now.
    pub(super) fn take(
        &mut self,
        shards: &[Shard],
        bytes: &[u8],
        room: &mut Room,
        restorable: &mut Vec<u32>,
    ) -> io::Result<Taken> {
        let mut taken = Taken::default();
        let wide = u64::from(self.info.key.geometry.shard_bytes());
        let mut run = Run::default();
        for shard in shards {
            let at = shard.header.block;
            let source_count = self.info.key.geometry.source_shards(at);
            if self.is_whole(at) {
                taken.redundant += 1;
                continue;
            }
            if !self.blocks.contains_key(&at) {
                if room.blocks == 0 {
                    taken.refused += 1;
                    continue;
                }
                room.blocks -= 1;
                let block = self.new_block(source_count);
                self.blocks.insert(at, block);
            }
            let is_source = shard.header.shard < u32::from(source_count);
            let slot =
                if is_source { 0 } else { self.slots_free.last().copied().unwrap_or(self.slots) };
            let Some(block) = self.blocks.get_mut(&at) else { continue };
            if block.queued || block.has(shard.header.shard) {
                taken.redundant += 1;
                continue;
            }
            let payload = &bytes[shard.payload.clone()];
            let crc = checksum(at, shard.header.shard, payload);
            if is_source {
                block.source += 1;
                if let Some(crcs) = &mut block.unverified {
                    crcs[shard.header.shard as usize] = crc;
                }
            } else {
                if slot == self.slots && room.bytes < wide {
                    taken.refused += 1;
                    continue;
                }
                if self.slots_free.pop().is_none() {
                    self.slots += 1;
                    room.bytes -= wide;
                }
                let number = (shard.header.shard - u32::from(source_count)) as u16;
                block.recovery.push(Slot { number, place: slot, crc });
            }
            block.set(shard.header.shard);
            taken.written += 1;
            if block.count() >= source_count {
                block.queued = true;
                restorable.push(at);
            }
            Entry { block: at, shard: shard.header.shard, slot, crc }.write(&mut self.journal);
            let offset = if is_source {
                self.info.key.geometry.offset(at, shard.header.shard)
            } else {
                u64::from(slot) * wide
            };
            if !run.extend(is_source, offset, &shard.payload) {
                run.write(self.files()?, bytes)?;
                run = Run::begin(is_source, offset, shard.payload.clone());
            }
        }
        run.write(self.files()?, bytes)?;
        self.write_journal()?;
        Ok(taken)
    }

    /// Restores one block, if it can be. `Ok(false)` where damage on the disk took shards from it.
    pub(super) fn restore(&mut self, at: u32, bench: &mut Bench) -> io::Result<bool> {
        let cut = self.info.key.geometry;
        let Some(mut block) = self.blocks.remove(&at) else { return Ok(self.is_whole(at)) };
        let result = self.restore_block(at, &mut block, bench);
        if !matches!(result, Ok(true)) {
            block.queued = false;
            self.blocks.insert(at, block);
            return result;
        }
        self.slots_free.extend(block.recovery.iter().map(|slot| slot.place));
        self.mark_whole(at);
        if at == self.hashed {
            let length = cut.block_bytes(at);
            self.hash.update(&bench.source[..length]);
            self.hashed += 1;
            self.write_back();
        }
        result
    }

    fn restore_block(&mut self, at: u32, block: &mut Block, bench: &mut Bench) -> io::Result<bool> {
        let cut = self.info.key.geometry;
        let wide = usize::from(cut.shard_bytes());
        let count = cut.source_shards(at);
        let length = cut.block_bytes(at);
        bench.source.resize(usize::from(count) * wide, 0);
        let data = &self.files()?.data;
        data.read_exact_at(&mut bench.source[..length], cut.offset(at, 0))?;
        bench.source[length..].fill(0);
        block.verify(at, &bench.source[..length], wide);
        if block.source < count {
            self.read_recovery(at, block, bench)?;
            if block.count() < count {
                return Ok(false);
            }
            let recovery = block.recovery.iter().zip(bench.recovery.chunks_exact(wide));
            let missing = usize::from(count - block.source);
            let recovery =
                recovery.take(missing).map(|(slot, bytes)| (u32::from(slot.number), bytes));
            let have = |shard| block.has(shard);
            bench
                .decoder
                .restore(&cut, at, &mut bench.source, have, recovery)
                .map_err(io::Error::other)?;
            self.write_restored(at, block, &bench.source[..length])?;
        }
        Ok(true)
    }

    /// Reads as many recovery shards as source shards are missing; forgets those that are damaged.
    fn read_recovery(&mut self, at: u32, block: &mut Block, bench: &mut Bench) -> io::Result<()> {
        let cut = self.info.key.geometry;
        let wide = usize::from(cut.shard_bytes());
        let count = cut.source_shards(at);
        let missing = usize::from(count - block.source);
        block.recovery.sort_unstable_by_key(|slot| slot.place);
        bench.recovery.clear();
        let file = &self.files()?.recovery;
        let mut good = 0;
        while good < missing && good < block.recovery.len() {
            let slot = block.recovery[good];
            bench.recovery.resize((good + 1) * wide, 0);
            let place = &mut bench.recovery[good * wide..];
            let read = file.read_exact_at(place, u64::from(slot.place) * wide as u64);
            let shard = u32::from(count) + u32::from(slot.number);
            if read.is_ok() && checksum(at, shard, place) == slot.crc {
                good += 1;
            } else {
                block.clear(shard);
                block.recovery.remove(good);
            }
        }
        Ok(())
    }

    /// Writes the shards that were missing, and notes them.
    fn write_restored(&mut self, at: u32, block: &Block, source: &[u8]) -> io::Result<()> {
        let cut = self.info.key.geometry;
        let wide = usize::from(cut.shard_bytes());
        let base = cut.offset(at, 0);
        let mut pending: Option<Range<usize>> = None;
        let mut ranges = Vec::new();
        for (shard, payload) in source.chunks(wide).enumerate() {
            if block.has(shard as u32) {
                continue;
            }
            let crc = checksum(at, shard as u32, payload);
            Entry { block: at, shard: shard as u32, slot: 0, crc }.write(&mut self.journal);
            let range = shard * wide..shard * wide + payload.len();
            match &mut pending {
                Some(run) if run.end == range.start => run.end = range.end,
                _ => ranges.extend(pending.replace(range)),
            }
        }
        ranges.extend(pending);
        let data = &self.files()?.data;
        for range in ranges {
            data.write_all_at(&source[range.clone()], base + range.start as u64)?;
        }
        self.write_journal()
    }

    /// Hashes the next whole block, if its turn has come.
    pub(super) fn advance(&mut self, bench: &mut Bench) -> io::Result<Step> {
        let cut = self.info.key.geometry;
        if self.hashed == cut.blocks() {
            return Ok(Step::Whole(BundleDigest::from_bytes(self.hash.clone().finalize().into())));
        }
        let at = self.hashed;
        if !self.is_whole(at) {
            return Ok(Step::Idle);
        }
        let length = cut.block_bytes(at);
        bench.source.resize(length, 0);
        self.files()?.data.read_exact_at(&mut bench.source, cut.offset(at, 0))?;
        if let Some(mut block) = self.blocks.remove(&at) {
            // Whole by the journal: now it is looked at.
            block.verify(at, &bench.source, usize::from(cut.shard_bytes()));
            if block.source < cut.source_shards(at) {
                self.whole[at as usize / 64] &= !(1 << (at % 64));
                self.whole_count -= 1;
                self.blocks.insert(at, block);
                return Ok(Step::Busy);
            }
        }
        self.hash.update(&bench.source);
        self.hashed += 1;
        self.write_back();
        Ok(Step::Busy)
    }

    /// Blocks that have enough shards since the start, for the queue.
    pub(super) fn restorable(&mut self) -> Vec<u32> {
        let cut = self.info.key.geometry;
        let mut found = BTreeSet::new();
        for (at, block) in &mut self.blocks {
            let whole = self.whole[*at as usize / 64] >> (at % 64) & 1 == 1;
            if !whole && !block.queued && block.count() >= cut.source_shards(*at) {
                block.queued = true;
                found.insert(*at);
            }
        }
        found.into_iter().collect()
    }

    /// Begins to write what is hashed to the disk, so that the last sync is short.
    fn write_back(&mut self) {
        const STEP_BYTES: u64 = 8 << 20;
        let cut = self.info.key.geometry;
        let end =
            if self.hashed == cut.blocks() { cut.length() } else { cut.offset(self.hashed, 0) };
        let from = self.written_back;
        if end - from >= STEP_BYTES
            && let Some(files) = &self.files
        {
            let (from_off, length) = (from.cast_signed(), (end - from).cast_signed());
            // Advice that is not taken costs time only.
            let _ = posix_fadvise(
                &files.data,
                from_off,
                length,
                PosixFadviseAdvice::POSIX_FADV_DONTNEED,
            );
            self.written_back = end;
        }
    }

    fn write_journal(&mut self) -> io::Result<()> {
        if self.journal.is_empty() {
            return Ok(());
        }
        let (bytes, at) = (std::mem::take(&mut self.journal), self.journal_bytes);
        self.files()?.journal.write_all_at(&bytes, at)?;
        self.journal_bytes += bytes.len() as u64;
        self.journal = bytes;
        self.journal.clear();
        Ok(())
    }

    fn new_block(&self, source: u16) -> Block {
        let bits = usize::from(source) + usize::from(self.info.key.geometry.recovery_shards());
        Block {
            have: vec![0; bits.div_ceil(64)].into(),
            source: 0,
            recovery: Vec::new(),
            unverified: None,
            queued: false,
        }
    }

    fn is_whole(&self, at: u32) -> bool {
        self.whole[at as usize / 64] >> (at % 64) & 1 == 1
    }

    fn mark_whole(&mut self, at: u32) {
        self.whole[at as usize / 64] |= 1 << (at % 64);
        self.whole_count += 1;
    }

    /// Takes an entry of the journal for what it says.
    fn remember(&mut self, entry: Entry) {
        let cut = self.info.key.geometry;
        if cut.payload_bytes(entry.block, entry.shard).is_none() {
            return;
        }
        let source = cut.source_shards(entry.block);
        if !self.blocks.contains_key(&entry.block) {
            let mut block = self.new_block(source);
            block.unverified = Some(vec![0; usize::from(source)].into());
            self.blocks.insert(entry.block, block);
        }
        let Some(block) = self.blocks.get_mut(&entry.block) else { return };
        let new = !block.has(entry.shard);
        block.set(entry.shard);
        if entry.shard < u32::from(source) {
            block.source += u16::from(new);
            if let Some(crcs) = &mut block.unverified {
                crcs[entry.shard as usize] = entry.crc;
            }
            if new && block.source == source {
                self.mark_whole(entry.block);
            }
        } else {
            let number = (entry.shard - u32::from(source)) as u16;
            block.recovery.retain(|slot| slot.number != number);
            block.recovery.push(Slot { number, place: entry.slot, crc: entry.crc });
        }
    }

    /// Slots that no block has a use for. Where two claim one, the checksum tells which is right.
    fn find_free_slots(&mut self) {
        let wide = u64::from(self.info.key.geometry.shard_bytes());
        let length = std::fs::metadata(self.path("recovery")).map_or(0, |found| found.len());
        self.slots = u32::try_from(length.div_ceil(wide)).unwrap_or(u32::MAX);
        let mut used = vec![false; self.slots as usize];
        for (at, block) in &mut self.blocks {
            if self.whole[*at as usize / 64] >> (at % 64) & 1 == 1 {
                block.recovery = Vec::new();
            }
            for slot in &block.recovery {
                if let Some(place) = used.get_mut(slot.place as usize) {
                    *place = true;
                }
            }
        }
        self.slots_free = (0..self.slots).rev().filter(|slot| !used[*slot as usize]).collect();
    }
}

/// How much more may be taken, for all objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) blocks: usize,
    pub(super) bytes: u64,
}

/// Payloads that stand together in the batch and in the file.
#[derive(Debug, Default)]
struct Run {
    is_source: bool,
    offset: u64,
    bytes: Range<usize>,
}

impl Run {
    fn begin(is_source: bool, offset: u64, bytes: Range<usize>) -> Self {
        Self { is_source, offset, bytes }
    }

    fn extend(&mut self, is_source: bool, offset: u64, bytes: &Range<usize>) -> bool {
        let fits = self.is_source == is_source
            && self.bytes.end == bytes.start
            && self.offset + self.bytes.len() as u64 == offset
            && !self.bytes.is_empty();
        if fits {
            self.bytes.end = bytes.end;
        }
        fits
    }

    fn write(&self, files: &Files, bytes: &[u8]) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let file = if self.is_source { &files.data } else { &files.recovery };
        file.write_all_at(&bytes[self.bytes.clone()], self.offset)
    }
}

impl Block {
    fn has(&self, shard: u32) -> bool {
        self.have[shard as usize / 64] >> (shard % 64) & 1 == 1
    }

    fn set(&mut self, shard: u32) {
        self.have[shard as usize / 64] |= 1 << (shard % 64);
    }

    fn clear(&mut self, shard: u32) {
        self.have[shard as usize / 64] &= !(1 << (shard % 64));
    }

    fn count(&self) -> u16 {
        self.source + self.recovery.len() as u16
    }

    /// Looks at source shards that the journal told of; forgets those that are damaged.
    fn verify(&mut self, at: u32, source: &[u8], wide: usize) {
        let Some(crcs) = self.unverified.take() else { return };
        for (shard, payload) in source.chunks(wide).enumerate() {
            let number = shard as u32;
            if self.has(number) && checksum(at, number, payload) != crcs[shard] {
                self.clear(number);
                self.source -= 1;
            }
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}
