//! From shards to files: what is under way, what can be restored, what is whole.
//!
//! Memory holds one bit for each shard of what is under way; the shards are on the disk. What does
//! not have its object's SHA-256 in the end is thrown away and named, and never delivered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shared::bundle::BundleDigest;
use shared::diode::ObjectId;
use shared::durable;
use shared::record::{Lane, OriginId};

use super::completed::{Completed, Series};
use super::journal::{ObjectInfo, ObjectKey};
use super::object::{Bench, Object, Room, Shard, Step};
use crate::ranges::RangeSet;

/// What is under way on all links of an agent.
#[derive(Debug)]
pub(super) struct Assembler {
    dir: PathBuf,
    limits: AssemblyLimits,
    objects: HashMap<ObjectKey, Object>,
    completed: Completed,
    /// Whole and verified, on its way into the inbox.
    delivering: HashSet<ObjectId>,
    /// Blocks that can be restored, urgent ones first.
    restorable: [VecDeque<(ObjectKey, u32)>; 2],
    /// Objects whose next block may be hashed, urgent ones first.
    advancing: [VecDeque<ObjectKey>; 2],
    bench: Bench,
    bytes: u64,
    live_blocks: usize,
    counters: AssemblyCounters,
    trouble: Option<(Instant, String)>,
    wrong: Vec<String>,
    /// Whose bundles each link carries, as its catalogue says.
    origins: HashMap<u64, OriginId>,
}

/// What may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AssemblyLimits {
    /// Bytes on the disk, of all objects.
    pub(super) state_bytes_max: u64,
    /// The largest object: no larger file is taken by the inbox.
    pub(super) object_bytes_max: u64,
}

/// What became of shards and objects since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AssemblyCounters {
    /// Shards that were written.
    pub(super) written: u64,
    /// Shards of which there was no need any more.
    pub(super) redundant: u64,
    /// Shards for which there was no room.
    pub(super) refused: u64,
    /// Blocks that were restored from recovery shards or found complete.
    pub(super) blocks: u64,
    /// Objects that were whole.
    pub(super) whole: u64,
    /// Objects that did not have their SHA-256.
    pub(super) wrong: u64,
    /// Objects that were given up to make room.
    pub(super) given_up: u64,
    /// Failures of the disk.
    pub(super) failures: u64,
}

/// An object that is whole and has its SHA-256.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) info: ObjectInfo,
    pub(super) sha256: BundleDigest,
    pub(super) data: PathBuf,
    pub(super) others: [PathBuf; 2],
}

/// What one step came to.
#[derive(Debug)]
pub(super) enum Work {
    Idle,
    Busy,
    Whole(Box<Whole>),
}

/// A bundle of which something has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) info: ObjectInfo,
    pub(super) blocks_whole: u32,
    pub(super) blocks: u32,
    pub(super) shards_missing: u64,
}

/// More objects than this are never under way at once: a carousel sends few at a time.
const OBJECTS_MAX: usize = 4096;
/// Blocks for which memory is held, about 1 KiB each, and 5 KiB after a restart.
const LIVE_BLOCKS_MAX: usize = 12_288;
/// Objects with open files, three each.
const OPEN_MAX: usize = 64;
/// What was not heard of for so long makes room for something new.
const EVICT_AFTER: Duration = Duration::from_mins(10);
/// What was not heard of for so long is given up in any case.
const FORGET_AFTER: Duration = Duration::from_hours(7 * 24);
/// After a failure of the disk nothing is written for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// Messages of objects that were thrown away, until somebody takes them.
const WRONG_MAX: usize = 64;

impl Assembler {
    /// Opens the folder, and takes up what was under way.
    pub(super) fn open(dir: &Path, limits: AssemblyLimits, now: Instant) -> io::Result<Self> {
        durable::create_dir(dir)?;
        let mut assembler = Self {
            dir: dir.to_owned(),
            limits,
            objects: HashMap::new(),
            completed: Completed::open(dir)?,
            delivering: HashSet::new(),
            restorable: [VecDeque::new(), VecDeque::new()],
            advancing: [VecDeque::new(), VecDeque::new()],
            bench: Bench::default(),
            bytes: 0,
            live_blocks: 0,
            counters: AssemblyCounters::default(),
            trouble: None,
            wrong: Vec::new(),
            origins: HashMap::new(),
        };
        assembler.resume_all(now)?;
        Ok(assembler)
    }

    fn resume_all(&mut self, now: Instant) -> io::Result<()> {
        let mut stems = HashSet::new();
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            match extension {
                Some("journal") => match self.resume(&path, now) {
                    Ok(true) => {
                        stems.extend(path.file_stem().map(ToOwned::to_owned));
                    }
                    Ok(false) => files.push(path),
                    Err(err) => {
                        tracing::warn!(file = %path.display(), %err, "what had come of a bundle can't be read; it is left");
                        stems.extend(path.file_stem().map(ToOwned::to_owned));
                    }
                },
                Some("data" | "recovery") => files.push(path),
                _ => {}
            }
        }
        // What belongs to nothing that is under way.
        for path in files {
            if path.file_stem().is_none_or(|stem| !stems.contains(stem)) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn resume(&mut self, path: &Path, now: Instant) -> io::Result<bool> {
        let Some(mut object) = Object::resume(&self.dir, path, now)? else { return Ok(false) };
        let key = object.info.key;
        if self.completed.contains(key.id)
            || key.geometry.length() > self.limits.object_bytes_max
            || self.objects.len() >= OBJECTS_MAX
        {
            return Ok(false);
        }
        let urgency = urgency(object.info.lane);
        let blocks = object.restorable();
        self.restorable[urgency].extend(blocks.into_iter().map(|block| (key, block)));
        self.advancing[urgency].push_back(key);
        self.objects.insert(key, object);
        self.account(key);
        Ok(true)
    }

    /// Takes verified shards of a link. `bytes` holds their payloads.
    pub(super) fn feed(&mut self, link: u64, shards: &[Shard], bytes: &[u8], now: Instant) {
        let mut from = 0;
        while let Some(first) = shards.get(from) {
            let (id, geometry) = (first.header.object, first.header.geometry);
            let same =
                |shard: &&Shard| shard.header.object == id && shard.header.geometry == geometry;
            let count = shards[from..].iter().take_while(same).count();
            let group = &shards[from..from + count];
            from += count;
            if self.completed.contains(id) || self.delivering.contains(&id) {
                self.counters.redundant += count as u64;
                continue;
            }
            if self.trouble.as_ref().is_some_and(|(since, _)| now.duration_since(*since) < PAUSE) {
                self.counters.refused += count as u64;
                continue;
            }
            let info = ObjectInfo {
                key: ObjectKey { id, geometry },
                link,
                lane: first.header.lane,
                epoch: first.header.epoch,
                number: first.header.number,
            };
            if let Err(err) = self.feed_object(info, group, bytes, now) {
                self.failed(info.key, &err, now);
            }
        }
    }

    fn feed_object(
        &mut self,
        info: ObjectInfo,
        shards: &[Shard],
        bytes: &[u8],
        now: Instant,
    ) -> io::Result<()> {
        let key = info.key;
        if !self.objects.contains_key(&key) && !self.begin(info, now)? {
            self.counters.refused += shards.len() as u64;
            return Ok(());
        }
        let Some(object) = self.objects.get_mut(&key) else { return Ok(()) };
        let was_open = object.is_open();
        let mut room = Room {
            blocks: LIVE_BLOCKS_MAX.saturating_sub(self.live_blocks),
            bytes: self.limits.state_bytes_max.saturating_sub(self.bytes),
        };
        let mut ready = Vec::new();
        object.last_fed = now;
        let taken = object.take(shards, bytes, &mut room, &mut ready);
        let urgency = urgency(object.info.lane);
        self.restorable[urgency].extend(ready.into_iter().map(|block| (key, block)));
        self.account(key);
        if !was_open {
            self.close_others(key);
        }
        let taken = taken?;
        self.trouble = None;
        self.counters.written += taken.written;
        self.counters.redundant += taken.redundant;
        self.counters.refused += taken.refused;
        Ok(())
    }

    /// Begins an object, if there is room.
    fn begin(&mut self, info: ObjectInfo, now: Instant) -> io::Result<bool> {
        let length = info.key.geometry.length();
        if length > self.limits.object_bytes_max {
            return Ok(false);
        }
        while self.objects.len() >= OBJECTS_MAX
            || self.live_blocks >= LIVE_BLOCKS_MAX
            || self.bytes.saturating_add(length) > self.limits.state_bytes_max
        {
            let oldest = self.objects.values().min_by_key(|object| object.last_fed);
            let idle = oldest.filter(|object| now.duration_since(object.last_fed) >= EVICT_AFTER);
            let Some(key) = idle.map(|object| object.info.key) else { return Ok(false) };
            self.give_up(key)?;
        }
        let object = Object::create(&self.dir, info, now)?;
        self.objects.insert(info.key, object);
        self.account(info.key);
        Ok(true)
    }

    /// One step of what remains to be done with what has come: urgent objects first.
    pub(super) fn work(&mut self, now: Instant) -> Work {
        // What the disk failed of is not tried over and over.
        if self.trouble.as_ref().is_some_and(|(since, _)| now.duration_since(*since) < PAUSE) {
            return Work::Idle;
        }
        for urgency in 0..2 {
            if let Some((key, block)) = self.next_restorable(urgency) {
                let Some(object) = self.objects.get_mut(&key) else { return Work::Busy };
                let was_open = object.is_open();
                let restored = object.restore(block, &mut self.bench);
                self.account(key);
                match restored {
                    Ok(restored) => self.counters.blocks += u64::from(restored),
                    Err(err) => self.failed(key, &err, now),
                }
                if !self.advancing[urgency].contains(&key) {
                    self.advancing[urgency].push_back(key);
                }
                if !was_open {
                    self.close_others(key);
                }
                return Work::Busy;
            }
            if let Some(key) = self.advancing[urgency].pop_front() {
                return self.advance(key, urgency, now);
            }
        }
        Work::Idle
    }

    /// Of the object that can be gone on with, the first block: what is restored in the order of the
    /// file is hashed as it is restored, and need not be read once more.
    fn next_restorable(&mut self, urgency: usize) -> Option<(ObjectKey, u32)> {
        let queue = &mut self.restorable[urgency];
        let (key, _) = *queue.front()?;
        let of_object = queue.iter().enumerate().filter(|(_, (other, _))| *other == key);
        let (at, _) = of_object.min_by_key(|(_, (_, block))| *block)?;
        queue.swap_remove_front(at)
    }

    /// Whether something urgent can be done.
    pub(super) fn is_urgent(&self) -> bool {
        !self.restorable[0].is_empty() || !self.advancing[0].is_empty()
    }

    fn advance(&mut self, key: ObjectKey, urgency: usize, now: Instant) -> Work {
        let Some(object) = self.objects.get_mut(&key) else { return Work::Busy };
        let step = object.advance(&mut self.bench);
        self.account(key);
        match step {
            Ok(Step::Idle) => Work::Busy,
            Ok(Step::Busy) => {
                self.advancing[urgency].push_front(key);
                Work::Busy
            }
            Ok(Step::Whole(sha256)) => self.whole(key, sha256, now),
            Err(err) => {
                self.failed(key, &err, now);
                Work::Busy
            }
        }
    }

    fn whole(&mut self, key: ObjectKey, sha256: BundleDigest, now: Instant) -> Work {
        if !key.id.is(&sha256) {
            self.counters.wrong += 1;
            if self.wrong.len() < WRONG_MAX
                && let Some(object) = self.objects.get(&key)
            {
                let info = object.info;
                self.wrong.push(format!(
                    "bundle {}/{} of epoch {} came whole and is not what its datagrams say ({}); it was thrown away",
                    info.lane, info.number, info.epoch, key.id
                ));
            }
            if let Err(err) = self.give_up(key) {
                self.failed(key, &err, now);
            }
            return Work::Busy;
        }
        self.counters.whole += 1;
        let Some(object) = self.forget(key) else { return Work::Busy };
        self.delivering.insert(key.id);
        Work::Whole(Box::new(Whole {
            info: object.info,
            sha256,
            data: object.data_path(),
            others: object.other_paths(),
        }))
    }

    /// An object stands in the inbox: its further passes are of no more use.
    pub(super) fn delivered(&mut self, info: &ObjectInfo) -> io::Result<()> {
        // The same file by another geometry.
        let others: Vec<ObjectKey> =
            self.objects.keys().filter(|key| key.id == info.key.id).copied().collect();
        for key in others {
            self.give_up(key)?;
        }
        let added = self.completed.add(info);
        self.delivering.remove(&info.key.id);
        added
    }

    /// A bundle was refused after it stood in the inbox.
    pub(super) fn refused(&mut self, sha256: &BundleDigest) -> io::Result<()> {
        self.completed.forget(ObjectId::of(sha256))
    }

    /// Gives up what was not heard of for a week.
    pub(super) fn tidy(&mut self, now: Instant) -> io::Result<()> {
        let old = |object: &&Object| now.duration_since(object.last_fed) >= FORGET_AFTER;
        let keys: Vec<ObjectKey> =
            self.objects.values().filter(old).map(|object| object.info.key).collect();
        keys.into_iter().try_for_each(|key| self.give_up(key))
    }

    /// What is under way.
    pub(super) fn partials(&self) -> Vec<Partial> {
        let partial = |object: &Object| {
            let (blocks_whole, blocks) = object.progress();
            Partial {
                info: object.info,
                blocks_whole,
                blocks,
                shards_missing: object.shards_missing(),
            }
        };
        self.objects.values().map(partial).collect()
    }

    /// The numbers of what came whole.
    pub(super) fn numbers(&self) -> &std::collections::BTreeMap<Series, RangeSet> {
        self.completed.numbers()
    }

    /// Notes whose bundles a link carries.
    pub(super) fn note_origin(&mut self, link: u64, origin: &OriginId) {
        if self.origins.get(&link) != Some(origin) {
            self.origins.insert(link, origin.clone());
        }
    }

    /// The link and the others that carry bundles of the same origin: what came over one of them
    /// came.
    pub(super) fn links_of_same_origin(&self, link: u64) -> Vec<u64> {
        let origin = self.origins.get(&link);
        let same = |(other, of): (&u64, &OriginId)| {
            (*other != link && Some(of) == origin).then_some(*other)
        };
        self.origins.iter().filter_map(same).chain([link]).collect()
    }

    pub(super) fn counters(&self) -> AssemblyCounters {
        self.counters
    }

    /// The bytes that are taken on the disk, or may be.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the disk failed of last, until it goes on.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|(_, what)| what.as_str())
    }

    /// What was thrown away since it was last asked for.
    pub(super) fn take_wrong(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wrong)
    }

    /// The disk failed: what is known of the object is taken from its files again, since it may not
    /// have all that memory says.
    fn failed(&mut self, key: ObjectKey, err: &io::Error, now: Instant) {
        self.counters.failures += 1;
        let told = format!("{}: {err}", self.dir.display());
        tracing::debug!(object = %key.id, %err, "a bundle's shards can't be kept");
        self.trouble = Some((now, told));
        if self.forget(key).is_some() {
            let journal = self.dir.join(format!("{}.journal", key.stem()));
            // Where even this fails, its next shards begin it anew: they are written over the old ones.
            let _ = self.resume(&journal, now);
        }
    }

    fn give_up(&mut self, key: ObjectKey) -> io::Result<()> {
        let Some(object) = self.forget(key) else { return Ok(()) };
        self.counters.given_up += 1;
        // The journal first: what has none is removed at the next start.
        let [recovery, journal] = object.other_paths();
        for path in [journal, recovery, object.data_path()] {
            match std::fs::remove_file(&path) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
        }
        Ok(())
    }

    fn forget(&mut self, key: ObjectKey) -> Option<Object> {
        let object = self.objects.remove(&key)?;
        self.bytes -= object.accounted.0;
        self.live_blocks -= object.accounted.1;
        Some(object)
    }

    /// Counts anew what an object takes.
    fn account(&mut self, key: ObjectKey) {
        if let Some(object) = self.objects.get_mut(&key) {
            let before = object.accounted;
            object.accounted = (object.reserved_bytes(), object.live_blocks());
            self.bytes = self.bytes - before.0 + object.accounted.0;
            self.live_blocks = self.live_blocks - before.1 + object.accounted.1;
        }
    }

    /// Keeps few files open: those that were fed last.
    fn close_others(&mut self, but: ObjectKey) {
        let open = self.objects.values().filter(|object| object.is_open()).count();
        if open <= OPEN_MAX {
            return;
        }
        let mut keys: Vec<(Instant, ObjectKey)> = self
            .objects
            .values()
            .filter(|object| object.is_open() && object.info.key != but)
            .map(|object| (object.last_fed, object.info.key))
            .collect();
        keys.sort_by_key(|(fed, _)| *fed);
        for (_, key) in keys.into_iter().take(open - OPEN_MAX / 2) {
            if let Some(object) = self.objects.get_mut(&key) {
                object.close();
            }
        }
    }
}

fn urgency(lane: Lane) -> usize {
    usize::from(lane == Lane::Routine)
}
