//! The outbox: where sealed bundles appear, complete, synced and with a sidecar, and wait to be
//! handed over. What was not handed over is never deleted.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256};
use shared::bundle::{BundleDigest, FILE_EXTENSION};
use shared::clock::Nanos;
use shared::durable;
use shared::record::Lane;

use crate::buffer::{BufferError, Bundle, BundleState, Store};
use crate::config;
use crate::sealer::SealerError;

/// The folder of sealed bundles.
#[derive(Clone, Debug)]
pub struct Outbox {
    dir: PathBuf,
    retain: Duration,
    retain_bytes: u64,
    waiting_bytes_max: u64,
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
    /// What the database knows of it; `None` for a file of an earlier epoch.
    pub bundle: Option<Bundle>,
}

impl Outbox {
    /// Opens the folder, or makes it.
    pub fn open(config: &config::Outbox) -> Result<Self, SealerError> {
        durable::create_dir(&config.path).map_err(SealerError::io(&config.path))?;
        Ok(Self {
            dir: config.path.clone(),
            retain: config.retain,
            retain_bytes: config.retain_bytes,
            waiting_bytes_max: config.waiting_bytes_max,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file in which a bundle is written before it has a name.
    pub fn partial(&self, lane: Lane, number: u64) -> PathBuf {
        self.dir.join(format!(".{lane}-{number:010}{}", durable::PARTIAL_SUFFIX))
    }

    /// Gives a sealed bundle's file its name, after its sidecar. May be repeated. False if the file
    /// is neither there under its name nor complete under its temporary one.
    pub fn publish(&self, bundle: &Bundle) -> Result<bool, SealerError> {
        let Some(file) = &bundle.file else {
            return Ok(false);
        };
        let path = self.dir.join(&file.name);
        let partial = self.partial(bundle.lane, bundle.number);
        let sha256 = BundleDigest::from_bytes(file.sha256);
        if !path.exists() {
            let whole = File::open(&partial).and_then(|file| sha256_of(file, &mut |_| {}));
            if !whole.is_ok_and(|found| found == sha256) {
                return Ok(false);
            }
            write_sidecar(&path, &sha256).map_err(SealerError::io(&path))?;
            durable::rename(&partial, &path).map_err(SealerError::io(&path))?;
        }
        Ok(true)
    }

    /// Whether what waits to be handed over takes all the room it may take.
    pub fn is_full(&self, store: &Store) -> Result<bool, BufferError> {
        let waiting = store.bundles(Some(BundleState::Ready))?;
        Ok(file_bytes(&waiting) >= self.waiting_bytes_max)
    }

    /// What can be handed over, urgent lanes first, each lane in order: cheap, it may be asked many
    /// times a second. What something else took away counts as handed over.
    pub fn ready(&self, store: &mut Store, now: Nanos) -> Result<Vec<Waiting>, SealerError> {
        let bundles = store.bundles(Some(BundleState::Ready))?;
        self.present(store, bundles, now)
    }

    /// What was handed over before and is still here.
    pub fn kept(&self, store: &mut Store, now: Nanos) -> Result<Vec<Waiting>, SealerError> {
        let bundles = store.bundles(Some(BundleState::HandedOver))?;
        self.present(store, bundles, now)
    }

    fn present(
        &self,
        store: &mut Store,
        mut bundles: Vec<Bundle>,
        now: Nanos,
    ) -> Result<Vec<Waiting>, SealerError> {
        let mut found = Vec::new();
        bundles.sort_by_key(|bundle| (bundle.lane, bundle.number));
        for bundle in bundles {
            let Some(file) = bundle.file.clone() else {
                continue;
            };
            if self.dir.join(&file.name).exists() {
                found.push(Waiting {
                    name: file.name,
                    bytes: file.bytes,
                    sha256: BundleDigest::from_bytes(file.sha256),
                    bundle: Some(bundle),
                });
            } else if bundle.state == BundleState::Ready {
                // Something else carries bundles away: a diode appliance that empties the folder.
                tracing::info!(lane = %bundle.lane, number = bundle.number, "bundle was taken from the outbox");
                mark_handed_over(store, &bundle, "taken from the outbox", now)?;
            }
        }
        Ok(found)
    }

    /// Files of an earlier life of the buffer: nobody remembers whether they were handed over.
    /// Reads the folder and each such file.
    pub fn strays(&self, store: &Store) -> Result<Vec<Waiting>, SealerError> {
        let mut strays = Vec::new();
        let entries = fs::read_dir(&self.dir).map_err(SealerError::io(&self.dir))?;
        let mut names: Vec<String> = Vec::new();
        for entry in entries {
            let entry = entry.map_err(SealerError::io(&self.dir))?;
            let name = entry.file_name();
            if let Some(name) = name.to_str().filter(|name| is_bundle_name(name)) {
                names.push(name.to_owned());
            }
        }
        if names.is_empty() {
            return Ok(strays);
        }
        let known: std::collections::HashSet<String> =
            [BundleState::Sealed, BundleState::Ready, BundleState::HandedOver]
                .into_iter()
                .map(|state| store.bundles(Some(state)))
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .filter_map(|bundle| bundle.file.map(|file| file.name))
                .collect();
        names.retain(|name| !known.contains(name));
        names.sort();
        for name in names {
            let path = self.dir.join(&name);
            let file = File::open(&path).map_err(SealerError::io(&path))?;
            let bytes = file.metadata().map_err(SealerError::io(&path))?.len();
            let sha256 = sha256_of(file, &mut |_| {}).map_err(SealerError::io(&path))?;
            strays.push(Waiting { name, bytes, sha256, bundle: None });
        }
        Ok(strays)
    }

    /// Notes that a bundle was handed over, and by what.
    pub fn handed_over(
        &self,
        store: &mut Store,
        waiting: &Waiting,
        by: &str,
        now: Nanos,
    ) -> Result<(), SealerError> {
        match &waiting.bundle {
            Some(bundle) if bundle.state == BundleState::Ready => {
                mark_handed_over(store, bundle, by, now)?;
            }
            Some(_) => {}
            None => {
                // A file that the database does not know is moved aside instead of marked.
                let aside = self.dir.join(EARLIER_DIR);
                durable::create_dir(&aside).map_err(SealerError::io(&aside))?;
                let (from, to) = (self.dir.join(&waiting.name), aside.join(&waiting.name));
                durable::rename(&from, &to).map_err(SealerError::io(&to))?;
                let sidecar = sidecar_path(&from);
                if sidecar.exists() {
                    let to = sidecar_path(&to);
                    durable::rename(&sidecar, &to).map_err(SealerError::io(&to))?;
                }
            }
        }
        Ok(())
    }

    /// Deletes what was handed over long ago, or what is the oldest of too much.
    pub fn retain(&self, store: &mut Store, now: Nanos) -> Result<u64, SealerError> {
        let mut kept = store.bundles(Some(BundleState::HandedOver))?;
        kept.sort_by_key(|bundle| bundle.handed_over.as_ref().map(|(time, _)| *time));
        let mut bytes = file_bytes(&kept);
        let mut deleted = 0;
        for bundle in &kept {
            let handed_over = bundle.handed_over.as_ref().map_or(now, |(time, _)| *time);
            let old = now.since(handed_over) >= self.retain;
            if !old && bytes <= self.retain_bytes {
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
        Ok(deleted)
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
        if to.exists() {
            let same = File::open(&to).and_then(|file| sha256_of(file, progress));
            if same.map_err(SealerError::io(&to))? == waiting.sha256 {
                progress(waiting.bytes);
                return Ok(());
            }
        }
        let partial = durable::partial_path(&to);
        let result = copy_synced(&from, &partial, waiting, progress);
        if let Err(source) = result {
            // A medium that was pulled out can't be cleaned; the name says that it is no bundle.
            let _ = fs::remove_file(&partial);
            return Err(SealerError::Io { path: partial, source });
        }
        write_sidecar(&to, &waiting.sha256).map_err(SealerError::io(&to))?;
        durable::rename(&partial, &to).map_err(SealerError::io(&to))
    }
}

/// Marks a bundle, unless somebody else handed it over at the same time: both copies are good.
fn mark_handed_over(
    store: &mut Store,
    bundle: &Bundle,
    by: &str,
    now: Nanos,
) -> Result<(), BufferError> {
    match store.mark_handed_over(bundle, by, now) {
        Ok(_) | Err(BufferError::NotInState { .. }) => Ok(()),
        Err(err) => Err(err),
    }
}

fn copy_synced(
    from: &Path,
    to: &Path,
    waiting: &Waiting,
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = durable::create(to, 0o644)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let got = source.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        copy.write_all(&buffer[..got])?;
        progress(got as u64);
    }
    copy.sync_all()?;
    // What is read back must come from the medium and not from memory.
    posix_fadvise(&copy, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    drop(copy);
    if sha256_of(File::open(to)?, progress)? == waiting.sha256 {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "what was read back differs from what was written\n  try: another medium",
        ))
    }
}

fn sha256_of(mut file: File, progress: &mut dyn FnMut(u64)) -> io::Result<BundleDigest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok(BundleDigest::from_bytes(hash.finalize().into()));
        }
        hash.update(&buffer[..got]);
        progress(got as u64);
    }
}

/// `NAME.sha256`, as `sha256sum -c` reads it.
fn write_sidecar(path: &Path, sha256: &BundleDigest) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    durable::write(&sidecar_path(path), format!("{sha256}  {name}\n").as_bytes(), 0o644)
}

fn sidecar_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

fn is_bundle_name(name: &str) -> bool {
    !name.starts_with('.')
        && Path::new(name).extension().is_some_and(|extension| extension == FILE_EXTENSION)
}

fn file_bytes(bundles: &[Bundle]) -> u64 {
    bundles.iter().filter_map(|bundle| bundle.file.as_ref()).map(|file| file.bytes).sum()
}

/// Where files of an earlier epoch go once they were handed over.
const EARLIER_DIR: &str = "earlier-epochs";

const COPY_BUFFER_BYTES: usize = 256 * 1024;
