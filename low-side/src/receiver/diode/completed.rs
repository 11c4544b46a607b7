//! Which bundles came whole over links, so that their further passes cost nothing.
//!
//! A file of records of fixed length, appended and never synced: what a power cut takes from it is
//! received once more, and the inbox knows it for a duplicate. Ids are kept for the newest bundles,
//! numbers for all, as ranges.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shared::diode::ObjectId;
use shared::durable;
use shared::record::Lane;

use super::journal::ObjectInfo;
use crate::ranges::RangeSet;

/// The bundles of one lane of one epoch, as one link sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Series {
    pub(super) link: u64,
    pub(super) lane: Lane,
    pub(super) epoch: u64,
}

/// What came whole.
#[derive(Debug)]
pub(super) struct Completed {
    path: PathBuf,
    file: File,
    records: usize,
    ids: HashMap<ObjectId, u32>,
    order: VecDeque<ObjectId>,
    numbers: BTreeMap<Series, RangeSet>,
}

/// As many ids are kept: the passes of a day of a bundle each second.
const IDS_MAX: usize = 65_536;
const RECORD_BYTES: usize = 56;

impl Completed {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("completed");
        let file = open(&path)?;
        let mut completed = Self {
            path,
            file,
            records: 0,
            ids: HashMap::new(),
            order: VecDeque::new(),
            numbers: BTreeMap::new(),
        };
        let mut reader = BufReader::new(File::open(&completed.path)?);
        let mut record = [0; RECORD_BYTES];
        let mut torn = false;
        loop {
            match reader.read_exact(&mut record) {
                Ok(()) => torn |= !completed.take(&record),
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(err) => return Err(err),
            }
            completed.records += 1;
        }
        let length = std::fs::metadata(&completed.path)?.len();
        torn |= length != (completed.records * RECORD_BYTES) as u64;
        if torn || completed.records > 2 * IDS_MAX {
            completed.rewrite()?;
        }
        Ok(completed)
    }

    pub(super) fn contains(&self, id: ObjectId) -> bool {
        self.ids.contains_key(&id)
    }

    pub(super) fn numbers(&self) -> &BTreeMap<Series, RangeSet> {
        &self.numbers
    }

    /// Remembers a bundle that stands in the inbox, or did.
    pub(super) fn add(&mut self, info: &ObjectInfo) -> io::Result<()> {
        let series = Series { link: info.link, lane: info.lane, epoch: info.epoch };
        let record = record(series, info.key.id, info.number, info.number);
        self.take(&record);
        self.records += 1;
        if self.records > 2 * IDS_MAX {
            return self.rewrite();
        }
        self.file.write_all(&record).inspect_err(|_| {
            // Half a record would put everything behind it out of step.
            self.records -= 1;
            let _ = self.file.set_len((self.records * RECORD_BYTES) as u64);
        })
    }

    /// A bundle was refused after it stood in the inbox: when it is sent again, it is taken again.
    pub(super) fn forget(&mut self, id: ObjectId) -> io::Result<()> {
        if self.ids.remove(&id).is_none() {
            return Ok(());
        }
        self.order.retain(|other| *other != id);
        self.rewrite()
    }

    fn take(&mut self, record: &[u8; RECORD_BYTES]) -> bool {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&record[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let crc = crc32fast::hash(&record[..52]).to_le_bytes();
        if crc != record[52..] {
            return false;
        }
        let mut id = [0; 16];
        id.copy_from_slice(&record[..16]);
        let lane = if record[48] == 0 { Lane::Flash } else { Lane::Routine };
        let series = Series { link: number(16), lane, epoch: number(24) };
        self.numbers.entry(series).or_default().insert(number(32), number(40));
        if id != [0; 16] {
            let id = ObjectId(id);
            *self.ids.entry(id).or_default() += 1;
            self.order.push_back(id);
            while self.order.len() > IDS_MAX {
                if let Some(oldest) = self.order.pop_front()
                    && let Some(count) = self.ids.get_mut(&oldest)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.ids.remove(&oldest);
                    }
                }
            }
        }
        true
    }

    /// Writes the file anew: the ranges, and the ids that are kept.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let none = ObjectId([0; 16]);
        for (series, ranges) in &self.numbers {
            for (first, last) in ranges.iter() {
                bytes.extend_from_slice(&record(*series, none, first, last));
            }
        }
        for id in &self.order {
            // Its number is in the ranges; an empty range adds none.
            let series = Series { link: 0, lane: Lane::Flash, epoch: 0 };
            bytes.extend_from_slice(&record(series, *id, 1, 0));
        }
        durable::write(&self.path, &bytes, 0o600)?;
        self.records = bytes.len() / RECORD_BYTES;
        self.file = open(&self.path)?;
        Ok(())
    }
}

fn record(series: Series, id: ObjectId, first: u64, last: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..16].copy_from_slice(&id.0);
    for (at, number) in [(16, series.link), (24, series.epoch), (32, first), (40, last)] {
        record[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    record[48] = u8::from(series.lane == Lane::Routine);
    let crc = crc32fast::hash(&record[..52]);
    record[52..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
}
