//! The store's retention: files that nothing needs any more leave it, those that came first in front, and
//! only where the configuration asks for it.
//!
//! What may leave is decided in the ledger ([`crate::ledger::KeptFor`] names what keeps a bundle); how it
//! leaves stands there, too. This is the shell: the journal, the files, the alarms.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use shared::bell::Bell;
use shared::bundle::{BundleDigest, Limits, inspect};
use shared::clock::{Clock, Nanos};
use shared::config::{ByteSize, Span};
use shared::durable;

use crate::config::StoreConfig;
use crate::folders::{Folders, open_untrusted};
use crate::ledger::{ChainId, KeptFor, Ledger, LedgerError, RemovedRow, SinkId, StoredBundle};
use crate::replay::chain_text;
use crate::sink::dead_letters::{self, DeadLetters};

/// What has left the store, a line for each bundle: `FIRST-16-DIGITS-OF-SHA-256 JSON`. A ledger that is
/// rebuilt from the store reads it, so that nothing of it counts as missing or is admitted once more.
/// A line has about 1 KB; nothing shortens the file.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// That of a state folder; nothing is made yet.
    pub fn of(state_dir: &Path) -> Self {
        Self { path: state_dir.join("removed.jsonl") }
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds lines, which are durable when this returns. What a write that was cut short left at the end
    /// is cut off first.
    pub fn append(&self, rows: &[RemovedRow]) -> io::Result<()> {
        let mut text = Vec::new();
        for row in rows {
            let json = serde_json::to_string(row)?;
            writeln!(text, "{} {json}", sum(json.as_bytes()))?;
        }
        let existed = self.path.try_exists()?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&self.path)?;
        let length = file.metadata()?.len();
        let whole = durable::end_of_last_line(&file)?;
        if whole < length {
            file.set_len(whole)?;
        }
        file.write_all(&text)?;
        file.sync_data()?;
        match self.path.parent() {
            Some(dir) if !existed => durable::sync_dir(dir),
            _ => Ok(()),
        }
    }

    /// Reads the lines; those that are damaged are counted in `damaged`, and passed over.
    pub fn read<'a>(
        &self,
        damaged: &'a mut u64,
    ) -> io::Result<impl Iterator<Item = RemovedRow> + use<'a>> {
        let flags = OFlag::O_NOFOLLOW.bits();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        let mut reader = file.map(BufReader::new);
        Ok(std::iter::from_fn(move || {
            loop {
                let mut text = Vec::new();
                let line =
                    reader.as_mut()?.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
                match line {
                    Ok(0) => return None,
                    Ok(_) => match parse(&text) {
                        Some(row) => return Some(row),
                        None => *damaged += 1,
                    },
                    Err(_) => {
                        *damaged += 1;
                        return None;
                    }
                }
            }
        }))
    }
}

fn parse(line: &[u8]) -> Option<RemovedRow> {
    let line = line.strip_suffix(b"\n")?;
    let (told, json) = line.split_at_checked(SUM_DIGITS)?;
    let json = json.strip_prefix(b" ")?;
    (told == sum(json).as_bytes()).then(|| serde_json::from_slice(json).ok()).flatten()
}

fn sum(json: &[u8]) -> String {
    BundleDigest::of(json).to_string()[..SUM_DIGITS].to_owned()
}

/// Removes the file of a bundle that has left the store, if it is that bundle: false where something else
/// stands there, which stays.
pub fn unlink(
    store: &Path,
    file: &str,
    digest: &BundleDigest,
    bytes: u64,
    limits: &Limits,
) -> io::Result<bool> {
    let path = store.join(file);
    match looks_like(&path, digest, bytes, limits) {
        Ok(true) => durable::remove(&path).map(|()| true),
        Ok(false) => Ok(false),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(err) => Err(err),
    }
}

/// Whether a file is, by its kind, its length and its header, the bundle that was admitted.
fn looks_like(path: &Path, digest: &BundleDigest, bytes: u64, limits: &Limits) -> io::Result<bool> {
    let Some(file) = open_untrusted(path)? else { return Ok(false) };
    if file.metadata()?.len() != bytes {
        return Ok(false);
    }
    Ok(inspect(&file, limits).is_ok_and(|header| header.digest() == *digest))
}

/// A thread that looks at the store now and then.
pub struct Retention<C> {
    /// What is asked for.
    pub config: StoreConfig,
    /// The folders.
    pub folders: Folders,
    /// This thread's own connection.
    pub ledger: Ledger,
    /// The sinks of the configuration: name and identity.
    pub sinks: Vec<(String, SinkId)>,
    /// What a bundle may cost.
    pub limits: Limits,
    /// The time.
    pub clock: C,
    /// What is known of each sink's dead letters.
    pub letters: Letters,
}

impl<C> std::fmt::Debug for Retention<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retention").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<C: Clock> Retention<C> {
    /// Looks until the bell says stop.
    pub fn run(mut self, bell: &Bell) {
        while !bell.stopping() {
            let now = self.clock.now();
            let looked = self.look(bell, now);
            if let Err(error) = looked.and_then(|()| Ok(self.look_at_disk(now)?)) {
                let error = chain_text(&error);
                tracing::error!(error, "the store can't be tidied; it is tried again");
            }
            bell.rest(INTERVAL);
        }
    }

    /// Removes everything that may leave the store now.
    fn look(&mut self, bell: &Bell, now: Nanos) -> Result<(), RetentionError> {
        let StoreConfig { retain, retain_bytes, .. } = self.config;
        if retain.is_none() && retain_bytes.is_none() {
            return Ok(self.ledger.close_alarm(STORE_OVER, SUBJECT, now)?);
        }
        let ids: Vec<SinkId> = self.sinks.iter().map(|(_, id)| *id).collect();
        let letters = self.letters.look(&self.ledger, &self.folders.state, &self.sinks)?;
        let held = self.ledger.store_sum()?.bytes;
        let mut over = retain_bytes.map_or(0, |most| held.saturating_sub(most));
        let mut kept: BTreeMap<KeptFor, u64> = BTreeMap::new();
        let mut place = (Nanos(i64::MIN), 0, 0);
        let mut looked = 0;
        while !bell.stopping() && looked < LOOKED_MAX {
            let page = self.ledger.stored_behind(place, BATCH)?;
            let Some(last) = page.last() else { break };
            place = (last.stored, last.chain, last.number);
            let mut leaving = Vec::new();
            let mut done = false;
            for bundle in page {
                looked += 1;
                let expired = retain.is_some_and(|retain| bundle.stored.plus(retain) <= now);
                if !expired && over == 0 {
                    done = true;
                    break;
                }
                let needed = if letters.contains(&(bundle.chain, bundle.number)) {
                    Some(KeptFor::DeadLetters)
                } else {
                    self.ledger.needed(&bundle, &ids)?
                };
                match needed.map_or_else(|| self.fits(&bundle), Err) {
                    Ok(sha256) => {
                        over = over.saturating_sub(bundle.bytes);
                        leaving.push((bundle, sha256));
                    }
                    Err(reason) => *kept.entry(reason).or_default() += 1,
                }
            }
            self.remove(&leaving, &ids, now)?;
            if done {
                break;
            }
        }
        Ok(self.tell(over, &kept, now)?)
    }

    /// The SHA-256 of a stored file, if it is still the bundle that was admitted.
    fn fits(&self, bundle: &StoredBundle) -> Result<BundleDigest, KeptFor> {
        let path = self.folders.store.join(&bundle.file);
        match looks_like(&path, &bundle.digest, bundle.bytes, &self.limits) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(KeptFor::Damaged),
        }
        match bundle.sha256 {
            Some(sha256) => Ok(sha256),
            None => File::open(&path)
                .and_then(|file| crate::archive::worker::hash(&file))
                .map(|(_, sha256)| sha256)
                .map_err(|_| KeptFor::Damaged),
        }
    }

    fn remove(
        &mut self,
        leaving: &[(StoredBundle, BundleDigest)],
        sinks: &[SinkId],
        now: Nanos,
    ) -> Result<(), LedgerError> {
        if leaving.is_empty() {
            return Ok(());
        }
        let mut why = Vec::new();
        if let Some(retain) = self.config.retain {
            why.push(format!("retain {}", Span(retain)));
        }
        if let Some(most) = self.config.retain_bytes {
            why.push(format!("retain-bytes {}", ByteSize(most)));
        }
        let names: Vec<&str> = self.sinks.iter().map(|(name, _)| name.as_str()).collect();
        let why = format!("{}; sinks have it: {}", why.join(", "), names.join(", "));
        let journal = Journal::of(&self.folders.state);
        let gone = self
            .ledger
            .remove_from_store(leaving, sinks, &why, now, |rows| journal.append(rows))?;
        let bytes: u64 = gone.iter().map(|bundle| bundle.bytes).sum();
        let (store, limits) = (&self.folders.store, &self.limits);
        let of: BTreeMap<&str, &StoredBundle> =
            gone.iter().map(|bundle| (bundle.file.as_str(), bundle)).collect();
        self.ledger.unlink_removed(&gone, |file| match of.get(file) {
            Some(bundle) => unlink(store, file, &bundle.digest, bundle.bytes, limits).map(|_| ()),
            None => Ok(()),
        })?;
        if !gone.is_empty() {
            tracing::info!(bundles = gone.len(), bytes, "bundles left the store after their time");
        }
        Ok(())
    }

    /// An alarm where the store holds more than it may, and what keeps it from getting smaller.
    fn tell(
        &mut self,
        over: u64,
        kept: &BTreeMap<KeptFor, u64>,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let damaged = kept.get(&KeptFor::Damaged).copied().unwrap_or(0);
        if over == 0 && damaged == 0 {
            return self.ledger.close_alarm(STORE_OVER, SUBJECT, now);
        }
        let why: Vec<String> =
            kept.iter().map(|(why, count)| format!("{count}: {}", why.as_str())).collect();
        let much = if over > 0 {
            format!("{} more than retain-bytes", ByteSize(over))
        } else {
            "bundles whose time is over".to_owned()
        };
        let message = format!(
            "the store holds {much}, and these can't leave it: {}\n  try: penstock-low status, which says what waits",
            why.join("; ")
        );
        self.ledger.raise_once(STORE_OVER, SUBJECT, &message, now)
    }

    /// An alarm where the disk of the state folder is nearly full.
    fn look_at_disk(&mut self, now: Nanos) -> Result<(), LedgerError> {
        let least = self.config.free_alarm;
        match durable::free_bytes(&self.folders.state) {
            Ok(free) if free < least => {
                let message = format!(
                    "{} are free where the store and the ledger stand, less than {}; when nothing is, nothing more comes in\n  try: a larger disk, or [store] retain",
                    ByteSize(free),
                    ByteSize(least)
                );
                self.ledger.raise_once(DISK_LOW, SUBJECT, &message, now)
            }
            Ok(_) => self.ledger.close_alarm(DISK_LOW, SUBJECT, now),
            Err(error) => {
                tracing::warn!(%error, "the free space can't be asked for");
                Ok(())
            }
        }
    }
}

/// Which bundles hold records that are dead letters, by sink; read again when a file has changed.
#[derive(Debug, Default)]
pub struct Letters {
    known: BTreeMap<PathBuf, (Stamp, BTreeSet<(ChainId, u64)>)>,
}

type Stamp = (u64, u64, i64, i64);

impl Letters {
    /// The bundles of all sinks together. Letters of chains that the ledger does not know count for
    /// nothing.
    ///
    /// # Errors
    /// A file can't be read, or a line of it: what it names is not known, so that nothing may leave the
    /// store.
    fn look(
        &mut self,
        ledger: &Ledger,
        state_dir: &Path,
        sinks: &[(String, SinkId)],
    ) -> Result<BTreeSet<(ChainId, u64)>, RetentionError> {
        let mut all = BTreeSet::new();
        for (sink, _) in sinks {
            for path in DeadLetters::of(state_dir, sink).files() {
                let unreadable = |source| RetentionError::Letters { path: path.clone(), source };
                let found = match std::fs::metadata(&path) {
                    Err(err) if err.kind() == io::ErrorKind::NotFound => {
                        self.known.remove(&path);
                        continue;
                    }
                    found => found.map_err(unreadable)?,
                };
                let stamp = (found.ino(), found.len(), found.mtime(), found.mtime_nsec());
                if self.known.get(&path).is_none_or(|(known, _)| *known != stamp) {
                    let bundles = bundles_of(ledger, &path)?;
                    self.known.insert(path.clone(), (stamp, bundles));
                }
                all.extend(self.known.get(&path).into_iter().flat_map(|(_, bundles)| bundles));
            }
        }
        Ok(all)
    }
}

fn bundles_of(ledger: &Ledger, path: &Path) -> Result<BTreeSet<(ChainId, u64)>, RetentionError> {
    let unreadable = |source| RetentionError::Letters { path: path.to_owned(), source };
    let mut bundles = BTreeSet::new();
    for letter in dead_letters::read(path).map_err(unreadable)? {
        let letter = letter.map_err(unreadable)?;
        let Some(chain) = ledger.chain_id(&letter.chain)? else { continue };
        if let Some(number) = ledger.bundle_of_sequence(chain, letter.sequence)? {
            bundles.insert((chain, number));
        }
    }
    Ok(bundles)
}

/// Why the store could not be looked at.
#[derive(Debug, thiserror::Error)]
enum RetentionError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{path}: dead letters can't be read, so that nothing leaves the store")]
    Letters {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// How often the store is looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// So many bundles leave in one transaction.
const BATCH: u64 = 64;
/// At each look, no more bundles are asked about than this: those that must stay cost a look each time.
const LOOKED_MAX: u64 = 20_000;
const SUM_DIGITS: usize = 16;
/// Longer than any line that is written: a manifest has 1 MiB at most.
const LINE_BYTES_MAX: u64 = 4 << 20;
const STORE_OVER: &str = "store-over";
const DISK_LOW: &str = "disk-low";
const SUBJECT: &str = "store";

#[cfg(test)]
mod tests;
