//! The outbox: where sealed bundles appear, complete, synced and with a sidecar, and wait to be
//! handed over. What was not handed over is never deleted.
//!
//! A file that is gone was taken by somebody, and that is how some sites carry bundles away. An
//! outbox that is gone is a disk that is not mounted: a mark in the folder tells the two apart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256};
use shared::bundle::{BundleDigest, FILE_EXTENSION};
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent};
use shared::durable;
use shared::record::{Epoch, Lane, OriginId};

use crate::buffer::{AlarmKind, BufferError, Bundle, BundleState, Store};
use crate::config;
use crate::sealer::SealerError;

/// The folder of sealed bundles.
#[derive(Clone, Debug)]
pub struct Outbox {
    dir: PathBuf,
    retain: Duration,
    retain_bytes: u64,
    waiting_bytes_max: u64,
    /// What the mark in the folder says.
    mark: String,
}

/// A bundle's file that can be handed over.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its name in the outbox.
    pub name: String,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: BundleDigest,
    /// The life of the buffer that it comes from.
    pub epoch: Epoch,
    /// Its lane.
    pub lane: Lane,
    /// Its number in the lane.
    pub number: u64,
    /// What the database knows of it; `None` for a file of an earlier epoch.
    pub bundle: Option<Bundle>,
}

impl Outbox {
    /// Opens the folder. It is made, and marked, only once in the life of a state folder.
    pub fn open(config: &config::Outbox, state_dir: &Path) -> Result<Self, SealerError> {
        let remembered = state_dir.join(MARK_MEMORY);
        let mut outbox = Self {
            dir: config.path.clone(),
            retain: config.retain,
            retain_bytes: config.retain_bytes,
            waiting_bytes_max: config.waiting_bytes_max,
            mark: outbox_mark(&config.path),
        };
        match fs::read_to_string(&remembered) {
            Ok(mark) if mark == outbox.mark => outbox.expect_mark()?,
            // The configuration names another folder than before.
            Ok(_) => outbox.set_up(&remembered)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => outbox.set_up(&remembered)?,
            Err(err) => return Err(SealerError::io(&remembered)(err)),
        }
        Ok(outbox)
    }

    fn set_up(&mut self, remembered: &Path) -> Result<(), SealerError> {
        durable::create_dir(&self.dir).map_err(SealerError::io(&self.dir))?;
        let mark = self.dir.join(MARK_FILE);
        durable::write(&mark, self.mark.as_bytes(), 0o644).map_err(SealerError::io(&mark))?;
        durable::write(remembered, self.mark.as_bytes(), 0o600).map_err(SealerError::io(remembered))
    }

    /// The folder that stands there is the one that bundles were put into.
    pub(crate) fn expect_mark(&self) -> Result<(), SealerError> {
        let mark = self.dir.join(MARK_FILE);
        if present(&mark)? {
            Ok(())
        } else {
            Err(SealerError::OutboxGone { dir: self.dir.clone() })
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file in which a bundle is written before it has a name.
    pub fn partial(&self, epoch: Epoch, lane: Lane, number: u64) -> PathBuf {
        partial_in(&self.dir, epoch, lane, number)
    }

    /// Gives a sealed bundle's file its name, after its sidecar. May be repeated. False only if
    /// the file is surely gone, or surely another.
    pub fn publish(&self, epoch: Epoch, bundle: &Bundle) -> Result<bool, SealerError> {
        let Some(file) = &bundle.file else {
            return Ok(false);
        };
        let path = self.dir.join(&file.name);
        if present(&path)? {
            return Ok(true);
        }
        let partial = self.partial(epoch, bundle.lane, bundle.number);
        if !present(&partial)? {
            self.expect_mark()?;
            return Ok(false);
        }
        let sha256 = BundleDigest::from_bytes(file.sha256);
        let source = open_regular(&partial).map_err(SealerError::io(&partial))?;
        if sha256_of(source, &mut |_| {}).map_err(SealerError::io(&partial))? != sha256 {
            return Ok(false);
        }
        write_sidecar(&path, &sha256).map_err(SealerError::io(&path))?;
        durable::rename(&partial, &path).map_err(SealerError::io(&path))?;
        Ok(true)
    }

    /// Fails while what waits to be handed over takes all the room it may take.
    pub fn expect_room(&self, store: &Store) -> Result<(), SealerError> {
        let mut bytes = 0;
        for state in [BundleState::Ready, BundleState::AwaitingRelease, BundleState::Released] {
            bytes += store.bundles_sum(state)?.1;
        }
        if bytes < self.waiting_bytes_max {
            return Ok(());
        }
        Err(SealerError::OutboxFull { dir: self.dir.clone(), bytes })
    }

    /// Looks for bundles whose files something else took away: they count as handed over.
    pub fn note_taken(&self, store: &mut Store, now: Nanos) -> Result<(), SealerError> {
        let bundles = store.bundles(Some(BundleState::Ready))?;
        self.present(store, bundles, now)?;
        Ok(())
    }

    /// Everything that can be handed over; with `all`, also what was handed over before and is
    /// still here.
    pub fn all(
        &self,
        store: &mut Store,
        all: bool,
        now: Nanos,
    ) -> Result<Vec<Waiting>, SealerError> {
        let mut bundles = store.bundles(Some(BundleState::Ready))?;
        if all {
            bundles.extend(store.bundles(Some(BundleState::HandedOver))?);
            bundles.sort_by_key(|bundle| (bundle.lane, bundle.number));
        }
        let mut found = self.strays(store)?;
        found.extend(self.present(store, bundles, now)?);
        Ok(found)
    }

    /// The first bundles that a carrier has yet to hand over, urgent lanes first, each lane in order.
    pub fn queue(
        &self,
        store: &mut Store,
        (carrier, lanes): (&str, &[Lane]),
        count: u32,
        now: Nanos,
    ) -> Result<Vec<Waiting>, SealerError> {
        let bundles = store.carrier_queue(carrier, lanes, count)?;
        for bundle in bundles.iter().filter(|bundle| bundle.state == BundleState::HandedOver) {
            // It was exported, and its file is gone since: nothing is left for this carrier.
            if self.waiting(store.epoch(), bundle)?.is_none() {
                store.end_carousel(bundle, carrier)?;
            }
        }
        self.present(store, bundles, now)
    }

    /// A bundle whose file stands here; `None` if it does not.
    pub fn waiting(&self, epoch: Epoch, bundle: &Bundle) -> Result<Option<Waiting>, SealerError> {
        let Some(file) = &bundle.file else { return Ok(None) };
        Ok(present(&self.dir.join(&file.name))?.then(|| Waiting {
            name: file.name.clone(),
            bytes: file.bytes,
            sha256: BundleDigest::from_bytes(file.sha256),
            epoch,
            lane: bundle.lane,
            number: bundle.number,
            bundle: Some(bundle.clone()),
        }))
    }

    fn present(
        &self,
        store: &mut Store,
        bundles: Vec<Bundle>,
        now: Nanos,
    ) -> Result<Vec<Waiting>, SealerError> {
        let mut found = Vec::new();
        for bundle in bundles {
            if let Some(waiting) = self.waiting(store.epoch(), &bundle)? {
                found.push(waiting);
            } else if bundle.state == BundleState::Ready && bundle.file.is_some() {
                self.expect_mark()?;
                // Something else carries bundles away: a diode appliance that empties the folder.
                tracing::info!(lane = %bundle.lane, number = bundle.number, "bundle was taken from the outbox");
                unless_done(store.mark_handed_over(&bundle, "taken from the outbox", now))?;
            }
        }
        Ok(found)
    }

    /// Our own bundles of an earlier life of the buffer: nobody remembers whether they were handed
    /// over. Reads the folder, and each such file. Whatever else lies there is not for carrying.
    pub fn strays(&self, store: &Store) -> Result<Vec<Waiting>, SealerError> {
        let mut strays = Vec::new();
        let mut known = None;
        for entry in fs::read_dir(&self.dir).map_err(SealerError::io(&self.dir))? {
            let name = entry.map_err(SealerError::io(&self.dir))?.file_name();
            let Some(name) = name.to_str().filter(|name| is_bundle_name(name)) else { continue };
            let known = match &mut known {
                Some(known) => known,
                none => none.insert(known_names(store)?),
            };
            if known.contains(name) {
                continue;
            }
            let path = self.dir.join(name);
            match stray(&path, name, store.origin()) {
                Ok(Some(stray)) => strays.push(stray),
                Ok(None) => {
                    tracing::warn!(file = %path.display(), "a file in the outbox is no bundle of ours; it stays");
                }
                Err(err) => {
                    tracing::warn!(file = %path.display(), %err, "a file in the outbox can't be read; it stays");
                }
            }
        }
        strays.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(strays)
    }

    /// Notes that a bundle was exported, and where to; those of `carriers`, of its lane, that have yet to
    /// send it still do.
    pub fn exported(
        &self,
        store: &mut Store,
        waiting: &Waiting,
        by: &str,
        carriers: &[String],
        now: Nanos,
    ) -> Result<(), SealerError> {
        match &waiting.bundle {
            Some(bundle) if bundle.state == BundleState::Ready => {
                unless_done(store.mark_exported(bundle, by, carriers, now))?;
            }
            // Its state stays; that it was sent once more is custody all the same.
            Some(bundle) => store.note_custody_of(bundle, Action::SentAgain, by)?,
            None => self.stray_handed_over(store, waiting, by, now)?,
        }
        Ok(())
    }

    /// Notes that a carrier has handed a bundle over; all `carriers` of its lane have to.
    pub fn carried(
        &self,
        store: &mut Store,
        waiting: &Waiting,
        carrier: &str,
        carriers: &[String],
        now: Nanos,
    ) -> Result<(), SealerError> {
        if let Some(bundle) = &waiting.bundle {
            return Ok(store.hand_over(bundle, carrier, carriers, now)?);
        }
        self.stray_handed_over(store, waiting, &format!("carrier {carrier}"), now)
    }

    /// A file that the database does not know is moved aside instead of marked.
    fn stray_handed_over(
        &self,
        store: &mut Store,
        waiting: &Waiting,
        by: &str,
        now: Nanos,
    ) -> Result<(), SealerError> {
        let detail = format!("{} of epoch {}, by {by}", waiting.name, waiting.epoch);
        store.note_custody(CustodyEvent::new(now, Action::HandedOver).detail(detail))?;
        self.move_aside(waiting)
    }

    fn move_aside(&self, waiting: &Waiting) -> Result<(), SealerError> {
        let aside = self.dir.join(EARLIER_DIR);
        durable::create_dir(&aside).map_err(SealerError::io(&aside))?;
        let (from, to) = (self.dir.join(&waiting.name), aside.join(&waiting.name));
        durable::rename(&from, &to).map_err(SealerError::io(&to))?;
        let sidecar = sidecar_path(&from);
        if present(&sidecar)? {
            let to = sidecar_path(&to);
            durable::rename(&sidecar, &to).map_err(SealerError::io(&to))?;
        }
        Ok(())
    }

    /// Raises an alarm for a file that was changed on the disk. It keeps its state and its place:
    /// the low side will miss it, and a person must know.
    pub fn damaged(&self, store: &Store, waiting: &Waiting, now: Nanos) -> Result<(), SealerError> {
        let message = format!(
            "{} was changed on the disk since it was sealed; the records in it can't cross",
            self.dir.join(&waiting.name).display()
        );
        tracing::error!(bundle = %waiting.name, "a sealed bundle's file was changed on the disk");
        Ok(store.raise_alarm(AlarmKind::OutboxDamaged, &message, now)?)
    }

    /// Deletes what was handed over long ago; and, where together it is too much or the disk has less
    /// free space than `floor`, the oldest of what is kept, what is urgent last: it is small, and its
    /// late passes are worth most.
    pub fn retain(&self, store: &mut Store, floor: u64, now: Nanos) -> Result<u64, SealerError> {
        let mut deleted = 0;
        let (_, mut bytes) = store.bundles_sum(BundleState::HandedOver)?;
        for lane in Lane::ALL.into_iter().rev() {
            loop {
                let kept = store.oldest_handed_over(lane, RETAIN_BATCH)?;
                let before = deleted;
                for bundle in &kept {
                    let handed_over = bundle.handed_over.as_ref().map_or(now, |(time, _)| *time);
                    let old = now.since(handed_over) >= self.retain;
                    let free =
                        durable::free_bytes(&self.dir).map_err(SealerError::io(&self.dir))?;
                    if !old && bytes <= self.retain_bytes && free >= floor {
                        break;
                    }
                    if let Some(file) = &bundle.file {
                        let path = self.dir.join(&file.name);
                        durable::remove(&path).map_err(SealerError::io(&path))?;
                        let sidecar = sidecar_path(&path);
                        durable::remove(&sidecar).map_err(SealerError::io(&sidecar))?;
                        bytes = bytes.saturating_sub(file.bytes);
                    }
                    store.mark_deleted(bundle, now)?;
                    deleted += 1;
                }
                if deleted == before {
                    break;
                }
            }
        }
        store.prune_deleted()?;
        Ok(deleted)
    }

    /// Deletes what a crash left of bundles that were being written in this epoch.
    pub fn remove_partials(&self, store: &Store) -> Result<(), SealerError> {
        let ours = format!(".{}-", store.epoch());
        let mut partials: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(SealerError::io(&self.dir))? {
            let path = entry.map_err(SealerError::io(&self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&ours) && name.ends_with(durable::PARTIAL_SUFFIX) {
                partials.push(path);
            }
        }
        // The files first, then the bundles: another lane is sealing meanwhile, and a file that was seen
        // belongs to a bundle that had been planned by then. The other way round, one that was planned
        // in between would be taken for a leftover.
        let mut needed: Vec<PathBuf> = Vec::new();
        for state in [BundleState::Planned, BundleState::Sealed, BundleState::Released] {
            let bundles = store.bundles(Some(state))?;
            needed.extend(bundles.iter().map(|b| self.partial(store.epoch(), b.lane, b.number)));
        }
        for path in partials.iter().filter(|path| !needed.contains(path)) {
            durable::remove(path).map_err(SealerError::io(path))?;
        }
        Ok(())
    }

    /// Copies one bundle into a folder: temporary name, sync, read back and compare, sidecar,
    /// rename. `progress` is told bytes, of which there are twice the file's length.
    pub fn copy(
        &self,
        waiting: &Waiting,
        dest: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), SealerError> {
        let from = self.dir.join(&waiting.name);
        let to = dest.join(&waiting.name);
        if present(&to)? {
            let same = open_regular(&to).and_then(|file| sha256_of(file, progress));
            if same.map_err(SealerError::io(&to))? == waiting.sha256 {
                progress(waiting.bytes);
                return Ok(());
            }
        }
        let partial = durable::partial_path(&to);
        let copied = copy_synced(&from, &partial, waiting, progress).and_then(|()| {
            write_sidecar(&to, &waiting.sha256).map_err(SealerError::io(&to))?;
            durable::rename(&partial, &to).map_err(SealerError::io(&to))
        });
        if copied.is_err() {
            // A medium that was pulled out can't be cleaned; the name says that it is no bundle.
            let _ = fs::remove_file(&partial);
        }
        copied
    }
}

/// Somebody else handed a bundle over at the same time: both copies are good.
fn unless_done(marked: Result<Bundle, BufferError>) -> Result<(), BufferError> {
    match marked {
        Ok(_) | Err(BufferError::NotInState { .. }) => Ok(()),
        Err(err) => Err(err),
    }
}

/// The names of all files that the database knows and that may be here.
fn known_names(store: &Store) -> Result<std::collections::HashSet<String>, BufferError> {
    let mut names = std::collections::HashSet::new();
    // Those that wait for officers stand elsewhere. One that was put here is no stray to be carried.
    for state in BundleState::ALL {
        if matches!(state, BundleState::Planned | BundleState::Deleted) {
            continue;
        }
        let bundles = store.bundles(Some(state))?;
        names.extend(bundles.into_iter().filter_map(|bundle| bundle.file.map(|file| file.name)));
    }
    Ok(names)
}

/// A file that is a bundle of ours: a regular file whose header names this origin and has the digest
/// that the file's name says.
fn stray(path: &Path, name: &str, origin: &OriginId) -> io::Result<Option<Waiting>> {
    let file = open_regular(path)?;
    let mut start = vec![0; STRAY_HEAD_BYTES];
    let got = file.read_at(&mut start, 0)?;
    start.truncate(got);
    // The header's length stands in its tar block as eleven octal digits (FORMAT.md section 2).
    let digits = start.get(124..135).and_then(|digits| std::str::from_utf8(digits).ok());
    let length = digits.and_then(|digits| usize::from_str_radix(digits, 8).ok());
    let header = length.and_then(|length| start.get(512..512_usize.checked_add(length)?));
    let Some(header) = header else { return Ok(None) };
    let digest = BundleDigest::of(header).to_string();
    let named = name.rsplit('-').next().and_then(|rest| rest.split('.').next());
    let Some((epoch, lane, number)) = place(header, origin) else { return Ok(None) };
    if named != Some(&digest[..16]) {
        return Ok(None);
    }
    let bytes = file.metadata()?.len();
    let sha256 = sha256_of(file, &mut |_| {})?;
    let name = name.to_owned();
    Ok(Some(Waiting { name, bytes, sha256, epoch, lane, number, bundle: None }))
}

/// Epoch, lane and number in a header of this origin (FORMAT.md section 3).
fn place(header: &[u8], origin: &OriginId) -> Option<(Epoch, Lane, u64)> {
    let rest = std::str::from_utf8(header).ok()?;
    let rest = rest.strip_prefix(&format!("penstock-bundle 1\norigin {origin}\n"))?;
    let mut lines = rest.lines();
    let epoch = lines.next()?.strip_prefix("epoch ")?.parse().ok()?;
    let lane = lines.next()?.strip_prefix("lane ")?.parse().ok()?;
    let number = lines.next()?.strip_prefix("number ")?.parse().ok()?;
    Some((Epoch(epoch), lane, number))
}

fn copy_synced(
    from: &Path,
    to: &Path,
    waiting: &Waiting,
    progress: &mut dyn FnMut(u64),
) -> Result<(), SealerError> {
    let mut source = open_regular(from).map_err(SealerError::io(from))?;
    let mut copy = durable::create(to, 0o644).map_err(SealerError::io(to))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let got = source.read(&mut buffer).map_err(SealerError::io(from))?;
        if got == 0 {
            break;
        }
        hash.update(&buffer[..got]);
        copy.write_all(&buffer[..got]).map_err(SealerError::io(to))?;
        progress(got as u64);
    }
    if BundleDigest::from_bytes(hash.finalize().into()) != waiting.sha256 {
        return Err(SealerError::Damaged { path: from.to_owned() });
    }
    let synced = copy.sync_all().and_then(|()| {
        // What is read back must come from the medium and not from memory.
        posix_fadvise(&copy, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    });
    synced.map_err(SealerError::io(to))?;
    drop(copy);
    let read_back = open_regular(to).and_then(|file| sha256_of(file, progress));
    if read_back.map_err(SealerError::io(to))? == waiting.sha256 {
        return Ok(());
    }
    let problem = "what was read back differs from what was written\n  try: another medium";
    Err(SealerError::io(to)(io::Error::new(io::ErrorKind::InvalidData, problem)))
}

/// Opens a regular file, never through a link and never waiting.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"))
}

/// Whether something stands under a name; an error that is no clear no is an error.
pub(crate) fn present(path: &Path) -> Result<bool, SealerError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(SealerError::io(path)(err)),
    }
}

pub(crate) fn sha256_of(file: File, progress: &mut dyn FnMut(u64)) -> io::Result<BundleDigest> {
    BundleDigest::of_reader(file, progress).map(|(_, sha256)| sha256)
}

/// `NAME.sha256`, as `sha256sum -c` reads it.
pub(crate) fn write_sidecar(path: &Path, sha256: &BundleDigest) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    durable::write(&sidecar_path(path), format!("{sha256}  {name}\n").as_bytes(), 0o644)
}

pub(crate) fn sidecar_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

fn is_bundle_name(name: &str) -> bool {
    !name.starts_with('.')
        && Path::new(name).extension().is_some_and(|extension| extension == FILE_EXTENSION)
}

fn outbox_mark(dir: &Path) -> String {
    format!("the outbox of a Penstock high side; keep this file\n{}\n", dir.display())
}

/// The file of an outbox in which a bundle is written before it has a name.
pub(crate) fn partial_in(dir: &Path, epoch: Epoch, lane: Lane, number: u64) -> PathBuf {
    dir.join(format!(".{epoch}-{lane}-{number:010}{}", durable::PARTIAL_SUFFIX))
}

/// Whether something in an outbox is of no use elsewhere: its mark, and what was handed over of earlier
/// epochs.
pub(crate) fn is_not_for_backup(name: &str) -> bool {
    name == MARK_FILE || name.starts_with(EARLIER_DIR)
}

/// Stands in the outbox, so that an empty folder is not taken for it.
const MARK_FILE: &str = ".penstock-outbox";
/// Stands in the state folder: the outbox was set up, and where.
const MARK_MEMORY: &str = "outbox-mark";
/// Where files of an earlier epoch go once they were handed over.
const EARLIER_DIR: &str = "earlier-epochs";
/// As much of a file as holds a bundle's header.
const STRAY_HEAD_BYTES: usize = 512 + 4096;
/// How many bundles are looked at together for deletion.
const RETAIN_BATCH: u32 = 256;
const COPY_BUFFER_BYTES: usize = 256 * 1024;
