//! What is copied, to which medium, and the record of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shared::clock::Nanos;
use shared::device::Device;
use shared::durable;
use shared::keys::SigningKey;
use shared::process::{host_name, user_name};
use shared::transfer::{
    Divided, TransferRecord, TransferredBundle, TransferredFile, remove_half_written,
};

use super::copy::{self, MediumError, is_begun};
use super::files::Lot;
pub use super::set::Shares;
use crate::config::Config;
use crate::outbox::{Outbox, Waiting, present};
use crate::sealer::SealerError;

/// A medium that is plugged in and mounted.
#[derive(Clone, Debug)]
pub struct Stick {
    /// The folder on it.
    pub dir: PathBuf,
    /// What it is.
    pub device: Device,
    /// Which part of each bundle goes onto it, from 0; `None` where bundles go whole or in pieces.
    pub share: Option<u16>,
}

/// What one run put onto one medium.
#[derive(Debug, Default)]
pub struct Exported {
    /// The bundles all of whose files for this medium are there, read back and verified.
    pub bundles: Vec<TransferredBundle>,
    /// Which of the bundles given these are.
    pub complete: Vec<usize>,
    /// Which of the bundles given are damaged on our own disk.
    pub damaged: Vec<(usize, PathBuf)>,
    /// How many bytes were there already.
    pub kept_bytes: u64,
    /// What kept the rest from being copied.
    pub failure: Option<MediumError>,
}

impl Stick {
    /// Looks at a folder on a medium.
    pub fn at(dir: &Path) -> Result<Self, String> {
        let shown = dir.display();
        if !dir.is_dir() {
            return Err(format!(
                "{shown} is no folder\n  try: mount the medium first, and give a folder on it"
            ));
        }
        expect_mounted(dir)?;
        let device = Device::of(dir).map_err(|err| format!("{shown}: {err}"))?;
        if device.read_only {
            return Err(MediumError::ReadOnly { path: dir.to_owned() }.to_string());
        }
        Ok(Self { dir: dir.to_owned(), device, share: None })
    }

    /// The part of a set that lies here already, whole or half.
    pub fn found_share(&self, lots: &[Lot], shares: Shares, outstanding: &[u16]) -> Option<u16> {
        let is_here = |index: &u16| {
            lots.iter().any(|lot| {
                let name = lot.file_name(Some(*index));
                is_begun(&self.dir, &name) || present(&self.dir.join(&name)).unwrap_or(false)
            })
        };
        let here: Vec<u16> = (0..shares.total()).filter(is_here).collect();
        let open = here.iter().find(|index| outstanding.contains(index));
        open.or(here.first()).copied()
    }

    /// How many bytes the files of these bundles take here.
    pub fn needed_bytes(&self, lots: &[Lot]) -> u64 {
        let files = lots
            .iter()
            .flat_map(|lot| lot.indexes(self.share).into_iter().map(|index| lot.file_bytes(index)));
        files.sum()
    }

    /// Whether this and another folder lie on one device.
    pub fn shares_device(&self, other: &Stick) -> bool {
        let device = |dir: &Path| fs::metadata(dir).map(|meta| meta.dev()).ok();
        device(&self.dir).is_some_and(|ours| Some(ours) == device(&other.dir))
    }

    /// Copies bundles, in their order, until one fails. `progress` is told what is copied and bytes, of
    /// which there are twice the files' lengths.
    pub fn fill(
        &self,
        bundles: &[(Waiting, Lot)],
        progress: &mut dyn FnMut(&str, u64),
    ) -> Exported {
        let mut exported = Exported::default();
        for (at, (waiting, lot)) in bundles.iter().enumerate() {
            match self.copy(waiting, lot, &mut exported.kept_bytes, progress) {
                Ok(bundle) => {
                    exported.bundles.push(bundle);
                    exported.complete.push(at);
                }
                // One that rotted on our own disk must not keep the others here.
                Err(MediumError::Outbox(SealerError::Damaged { path })) => {
                    exported.damaged.push((at, path));
                }
                Err(failure) => {
                    exported.failure = Some(explain(failure));
                    break;
                }
            }
        }
        exported
    }

    fn copy(
        &self,
        waiting: &Waiting,
        lot: &Lot,
        kept_bytes: &mut u64,
        progress: &mut dyn FnMut(&str, u64),
    ) -> Result<TransferredBundle, MediumError> {
        lot.verify()?;
        let mut files = Vec::new();
        for index in lot.indexes(self.share) {
            let (name, bytes) = (lot.file_name(index), lot.file_bytes(index));
            self.expect_room(&name, bytes)?;
            let content = lot.content(index);
            let whole = index.is_none();
            let mut told = |bytes: u64| progress(&name, bytes);
            let placed = copy::place(&self.dir, &name, &*content, whole, &mut told)?;
            *kept_bytes += placed.kept_bytes;
            let (sha256, part) = (placed.sha256.to_string(), index.map(|index| index + 1));
            files.push(TransferredFile { name, bytes, sha256, part });
        }
        let bundle = waiting.bundle.as_ref();
        let divided = lot.geometry();
        Ok(TransferredBundle {
            name: waiting.name.clone(),
            bytes: waiting.bytes,
            sha256: waiting.sha256.to_string(),
            digest: bundle.and_then(|b| b.file.as_ref()).map(|file| file.digest.to_string()),
            epoch: None,
            lane: bundle.map(|bundle| bundle.lane),
            number: bundle.map(|bundle| bundle.number),
            parts: divided.map(|g| Divided { data: g.data(), recovery: g.recovery() }),
            files,
        })
    }

    /// A file that can't fit is not begun: gigabytes would be written in vain.
    fn expect_room(&self, name: &str, bytes: u64) -> Result<(), MediumError> {
        let path = self.dir.join(name);
        let free = durable::free_bytes(&self.dir).map_err(MediumError::of(&self.dir))?;
        let partial = durable::partial_path(&path);
        let begun = |path: &Path| path.symlink_metadata().map_or(0, |meta| meta.len());
        let there = begun(&path).max(begun(&partial));
        // A file system that tells of no size tells of no free space either.
        let knows = self.device.total_bytes > 0;
        if knows && bytes.saturating_sub(there) + RECORD_ROOM_BYTES > free && there < bytes {
            return Err(MediumError::Full { path });
        }
        Ok(())
    }
}

/// A medium that was writable and no longer is, failed: the kernel goes over to reading only.
fn explain(failure: MediumError) -> MediumError {
    match failure {
        MediumError::ReadOnly { path } => {
            let source = std::io::Error::other("it became read-only");
            MediumError::Gone { path, source }
        }
        other => other,
    }
}

/// A folder where media are mounted, with nothing mounted there, is on the system's own disk.
fn expect_mounted(dest: &Path) -> Result<(), String> {
    let problem = |err| format!("{}: {err}", dest.display());
    let real = dest.canonicalize().map_err(problem)?;
    let for_media = ["/media", "/mnt", "/run/media"].iter().any(|place| real.starts_with(place));
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).map_err(problem);
    if for_media && device(&real)? == device(Path::new("/"))? {
        let shown = dest.display();
        return Err(format!("nothing is mounted at {shown}\n  try: mount the medium first"));
    }
    Ok(())
}

/// How a run goes about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// K+R parts over several media.
    pub shares: Option<Shares>,
    /// The longest file, where it was given.
    pub file_bytes_max: Option<u64>,
}

/// What the records of a run have in common.
#[derive(Debug)]
pub struct Exporter<'a> {
    config: &'a Config,
    key: Option<SigningKey>,
    /// The record before this one; no two have one name.
    last: Option<Nanos>,
}

impl<'a> Exporter<'a> {
    /// Without a key, records are not signed.
    pub fn new(config: &'a Config, key: Option<SigningKey>) -> Self {
        Self { config, key, last: None }
    }

    /// How each bundle goes onto this medium.
    pub fn lots(
        outbox: &Outbox,
        waiting: Vec<Waiting>,
        device: &Device,
        options: Options,
    ) -> Result<Vec<(Waiting, Lot)>, String> {
        let max = match (options.file_bytes_max, device.file_bytes_max()) {
            (Some(given), Some(able)) => Some(given.min(able)),
            (given, able) => given.or(able),
        };
        let lot = |waiting: Waiting| {
            let lot = Lot::new(outbox.dir(), &waiting, options.shares, max)?;
            Ok((waiting, lot))
        };
        waiting.into_iter().map(lot).collect()
    }

    /// Writes the record of what is on a medium: for ourselves, and, where it still takes it, onto it.
    /// The latter's failure is given beside the record: our own copy is what counts.
    pub fn record(
        &mut self,
        stick: &Stick,
        mut bundles: Vec<TransferredBundle>,
        epoch: u64,
        now: Nanos,
    ) -> Result<(TransferRecord, Option<MediumError>), MediumError> {
        let after = self.last.map(|last| last.plus(std::time::Duration::from_millis(1)));
        let now = after.map_or(now, |after| now.max(after));
        self.last = Some(now);
        for bundle in &mut bundles {
            // A file of an earlier epoch has neither lane nor number here.
            bundle.epoch = bundle.number.map(|_| epoch);
        }
        let origin = self.config.origin.as_str();
        let record = TransferRecord {
            version: 1,
            record: TransferRecord::name_at(origin, now),
            origin: origin.to_owned(),
            time: now.to_string(),
            officer: user_name(),
            host: host_name(),
            program: concat!("penstock-high/", env!("CARGO_PKG_VERSION")).to_owned(),
            medium: Device::of(&stick.dir).unwrap_or_else(|_| stick.device.clone()),
            count: bundles.len() as u64,
            bytes: bundles.iter().map(|bundle| bundle.bytes).sum(),
            bundles,
        };
        let archive = self.config.state_dir.join("transfers");
        let kept = durable::create_dir(&archive);
        // What can't be removed on the medium will fail once more when the record is written.
        let _ = remove_half_written(&stick.dir);
        kept.and_then(|()| remove_half_written(&archive))
            .and_then(|_| record.write(&archive, self.key.as_ref()))
            .map_err(|source| MediumError::Outbox(SealerError::Io { path: archive, source }))?;
        let on_medium = record.write(&stick.dir, self.key.as_ref());
        Ok((record, on_medium.err().map(MediumError::of(&stick.dir))))
    }
}

/// Gives each medium its part of a set: the one that lies there already, else the next that is nowhere.
pub fn share_out(sticks: &mut [Stick], lots: &[Lot], shares: Shares, outstanding: &[u16]) {
    let mut taken = BTreeSet::new();
    for stick in &mut *sticks {
        let found = stick.found_share(lots, shares, outstanding);
        stick.share = found.filter(|index| taken.insert(*index));
    }
    let mut free = outstanding.iter().copied().filter(|index| !taken.contains(index));
    for stick in sticks.iter_mut().filter(|stick| stick.share.is_none()) {
        stick.share = free.next();
    }
}

/// Left free for the record and its signatures.
const RECORD_ROOM_BYTES: u64 = 64 * 1024;
