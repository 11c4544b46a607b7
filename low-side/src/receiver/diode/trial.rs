//! A receiver without socket, threads and clock, for seeded runs of many links in little time.
//!
//! It is the same code from the tag of a datagram to the file whose digest was verified; what is left
//! out is the way from there into the inbox.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use shared::bundle::BundleDigest;
use shared::diode::{LinkKey, Received, RunKeys, receive};

use super::assembler::{Assembler, AssemblyLimits, Work};
use super::link::{Follower, LinkCounters};
use super::object::Shard;
use super::socket::Batch;

/// A receiver of one link.
#[derive(Debug)]
pub struct Trial {
    keys: RunKeys,
    dir: PathBuf,
    limits: AssemblyLimits,
    counters: LinkCounters,
    follower: Follower,
    assembler: Assembler,
    batch: Batch,
    delivered: Vec<Delivered>,
}

/// A file that came whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The digest under which it would go into the inbox.
    pub sha256: BundleDigest,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// What a receiver has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Datagrams with the link's tag, each once.
    pub datagrams: u64,
    /// Datagrams without it.
    pub strange: u64,
    /// Objects that did not have their digest, and were thrown away.
    pub wrong: u64,
    /// Bytes kept on the disk.
    pub state_bytes: u64,
    /// Objects of which something is kept.
    pub under_way: u64,
}

impl Trial {
    /// A receiver that keeps what comes in a folder.
    pub fn open(dir: &Path, key: LinkKey, state_bytes_max: u64) -> io::Result<Self> {
        let limits = AssemblyLimits { state_bytes_max, object_bytes_max: state_bytes_max };
        Ok(Self {
            keys: RunKeys::new(key),
            dir: dir.to_owned(),
            limits,
            counters: LinkCounters::default(),
            follower: Follower::new(),
            assembler: Assembler::open(dir, limits, Instant::now())?,
            batch: Batch::new(),
            delivered: Vec::new(),
        })
    }

    /// Takes a datagram as it came.
    pub fn take(&mut self, datagram: &[u8]) {
        match receive(&mut self.keys, datagram) {
            Err(error) => self.counters.count_error(error),
            Ok((stamp, received)) => {
                if !self.follower.note(stamp, &self.counters) {
                    return;
                }
                self.counters.received.fetch_add(1, Ordering::Relaxed);
                if let Received::Shard(header, payload) = received {
                    let from = self.batch.bytes.len();
                    self.batch.bytes.extend_from_slice(payload);
                    let payload = from..self.batch.bytes.len();
                    self.batch.shards.push(Shard { header, payload });
                }
            }
        }
    }

    /// Does what is to be done with what came, as the thread behind the socket does.
    pub fn settle(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.assembler.feed(self.keys.id(), &self.batch.shards, &self.batch.bytes, now);
        self.batch.clear();
        loop {
            match self.assembler.work(now) {
                Work::Idle => return Ok(()),
                Work::Busy => {}
                Work::Whole(whole) => {
                    let bytes = std::fs::read(&whole.data)?;
                    self.delivered.push(Delivered { sha256: whole.sha256, bytes });
                    for path in whole.others.iter().chain([&whole.data]) {
                        match std::fs::remove_file(path) {
                            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                            _ => {}
                        }
                    }
                    self.assembler.delivered(&whole.info)?;
                }
            }
        }
    }

    /// Starts again as after `kill -9`: what was not written yet is gone.
    pub fn restart(&mut self) -> io::Result<()> {
        self.batch.clear();
        self.follower = Follower::new();
        self.assembler = Assembler::open(&self.dir, self.limits, Instant::now())?;
        Ok(())
    }

    /// Everything that came whole, in order.
    pub fn delivered(&self) -> &[Delivered] {
        &self.delivered
    }

    /// What it has counted; all but `wrong` since the start, that since the last restart.
    pub fn counted(&self) -> Counted {
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let link = &self.counters;
        Counted {
            datagrams: of(&link.received),
            strange: of(&link.foreign) + of(&link.forged) + of(&link.malformed),
            wrong: self.assembler.counters().wrong,
            state_bytes: self.assembler.bytes(),
            under_way: self.assembler.partials().len() as u64,
        }
    }
}
