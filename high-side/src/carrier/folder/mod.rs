//! A folder from which something else takes the bundles: a diode appliance, a share.
//!
//! ```text
//! outbox ──verify──> temporary name ──sync, read back──> final name ──> marker, command, manifest
//!            (the bundle, or its parts)                     │
//!                                                           └─ the appliance may take, delay or rename it
//! ```
//!
//! What has its final name is never touched again, and that it is gone later is no error: that is
//! what the folder is for. While too much waits in the folder, nothing more is put there.

mod name;
mod put;
mod room;

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shared::bundle::BundleDigest;
use shared::hook::HookError;

use super::pace::Pace;
use super::{Carriage, Carrier, writable_folder};
use crate::config::{DoneMarker, FolderSettings, Temporary};
use crate::outbox::Waiting;
use crate::sealer::SealerError;
pub use name::Naming;
use put::{Content, Putting, Written};
use room::Room;

/// Puts bundles into a folder.
pub(super) struct FolderCarrier {
    settings: FolderSettings,
    pace: Pace,
    /// What was put into the folder and is not handed over yet: for want of a command's success or
    /// of a manifest. It is not put there again, wherever it went.
    put: HashMap<BundleDigest, Put>,
    hook_wait: Duration,
    commands_failed: u64,
}

#[derive(Default)]
struct Put {
    files: Vec<Written>,
    /// Whether its batch's manifest and marker stand there.
    finished: bool,
    /// The files for which the command has succeeded.
    told: HashSet<String>,
}

/// How far a batch came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Done,
    /// The agent stops, the folder is full, or a command failed: later.
    NotNow,
}

impl FolderCarrier {
    pub(super) fn new(settings: FolderSettings) -> Self {
        let pace = Pace::new(settings.rate);
        Self { settings, pace, put: HashMap::new(), hook_wait: HOOK_RETRY_MIN, commands_failed: 0 }
    }

    /// One manifest and one marker are for as many bundles as wait, within reason.
    fn batch_max(&self) -> u32 {
        let shared =
            self.settings.manifest || matches!(self.settings.done_marker, DoneMarker::Directory(_));
        if shared { BATCH_MAX } else { 1 }
    }

    fn carry(&mut self, carriage: &mut Carriage, batch: &[Waiting]) -> Result<Step, SealerError> {
        self.expect_folder()?;
        let mut carried = Vec::new();
        for waiting in batch {
            if !self.put.contains_key(&waiting.sha256) {
                if let Some(full) = self.full(waiting)? {
                    carriage.trouble(&full);
                    break;
                }
                match self.put(carriage, waiting) {
                    Ok(Some(put)) => _ = self.put.insert(waiting.sha256, put),
                    Ok(None) => return Ok(Step::NotNow),
                    Err(SealerError::Damaged { .. }) => {
                        carriage.damaged(waiting)?;
                        continue;
                    }
                    Err(err) => return Err(err),
                }
            }
            carried.push(waiting);
        }
        if carried.is_empty() {
            return Ok(Step::NotNow);
        }
        self.finish(carriage, &carried)?;
        let mut step = Step::Done;
        for waiting in carried {
            if self.tell(carriage, waiting) == Step::NotNow {
                step = Step::NotNow;
                continue;
            }
            carriage.handed_over(waiting)?;
            self.put.remove(&waiting.sha256);
        }
        Ok(step)
    }

    /// Writes a bundle's files; `None` if the agent stops.
    fn put(&mut self, carriage: &Carriage, waiting: &Waiting) -> Result<Option<Put>, SealerError> {
        let from = carriage.outbox().dir().join(&waiting.name);
        let name = self.settings.naming.name(waiting);
        let mut putting = Putting { settings: &self.settings, pace: &mut self.pace, carriage };
        let content = Content::of(&from, waiting, name, self.settings.part_bytes)?;
        let mut put = Put::default();
        for index in 0..content.count() {
            let Some(written) = putting.put(&content, index)? else { return Ok(None) };
            put.files.push(written);
        }
        Ok(Some(put))
    }

    /// What stands after all files of a batch.
    fn finish(&mut self, carriage: &Carriage, batch: &[&Waiting]) -> Result<(), SealerError> {
        let mut putting = Putting { settings: &self.settings, pace: &mut self.pace, carriage };
        // What an earlier try has listed is not listed again.
        let new =
            |waiting: &&&Waiting| self.put.get(&waiting.sha256).is_some_and(|put| !put.finished);
        let batch: Vec<&Waiting> = batch.iter().filter(new).copied().collect();
        if batch.is_empty() {
            return Ok(());
        }
        if self.settings.manifest {
            let mut text = String::from(MANIFEST_HEAD);
            let puts = batch.iter().filter_map(|waiting| self.put.get(&waiting.sha256));
            for file in puts.flat_map(|put| &put.files) {
                let _ = writeln!(text, "{} {} {}", file.sha256, file.bytes, file.name);
            }
            let digest = BundleDigest::of(text.as_bytes()).to_string();
            putting.small(&format!("batch-{}.manifest", &digest[..16]), text.as_bytes())?;
        }
        if let DoneMarker::Directory(name) = &self.settings.done_marker {
            putting.small(name, b"")?;
        }
        for waiting in batch {
            if let Some(put) = self.put.get_mut(&waiting.sha256) {
                put.finished = true;
            }
        }
        Ok(())
    }

    /// Runs the command for each file of a bundle. One that fails is run again later, and longer and
    /// longer after.
    fn tell(&mut self, carriage: &Carriage, waiting: &Waiting) -> Step {
        let Some(hook) = &self.settings.command else { return Step::Done };
        let Some(put) = self.put.get_mut(&waiting.sha256) else { return Step::Done };
        for file in &put.files {
            if put.told.contains(&file.name) {
                continue;
            }
            let path = self.settings.path.join(&file.name).display().to_string();
            let values = [("{file}", path.as_str()), ("{name}", file.name.as_str())];
            match hook.run(&values, &|| carriage.is_stopping()) {
                Ok(()) => _ = put.told.insert(file.name.clone()),
                Err(HookError::Stopped { .. }) => return Step::NotNow,
                Err(err) => {
                    self.commands_failed += 1;
                    carriage.trouble(&format!("{}: {err}", file.name));
                    carriage.rest(self.hook_wait);
                    self.hook_wait = (self.hook_wait * 2).min(HOOK_RETRY_MAX);
                    return Step::NotNow;
                }
            }
        }
        self.hook_wait = HOOK_RETRY_MIN;
        Step::Done
    }

    /// Whether the folder is the one that is meant. An empty folder in place of a share that is not
    /// mounted would take everything and hand on nothing.
    fn expect_folder(&self) -> Result<(), SealerError> {
        let path = &self.settings.path;
        let failed = |problem: &str| {
            SealerError::io(path)(io::Error::new(io::ErrorKind::NotFound, problem.to_owned()))
        };
        let folder = std::fs::metadata(path).map_err(SealerError::io(path))?;
        if !folder.is_dir() {
            return Err(failed("is no folder"));
        }
        let above = path.parent().and_then(|above| std::fs::metadata(above).ok());
        if self.settings.mount_point && above.is_some_and(|above| above.dev() == folder.dev()) {
            return Err(failed("is no mount point now\n  try: mount the appliance's share"));
        }
        if let Temporary::Directory(dir) = &self.settings.temporary {
            let temporary = std::fs::metadata(dir).map_err(SealerError::io(dir))?;
            if temporary.dev() != folder.dev() {
                return Err(failed(
                    "is on another file system than temporary-directory\n  try: a temporary folder beside it",
                ));
            }
        }
        Ok(())
    }

    /// What says that there is no room, if there is none.
    fn full(&self, waiting: &Waiting) -> Result<Option<String>, SealerError> {
        let path = &self.settings.path;
        let weigh = self.settings.bytes_max.is_some();
        let room = Room::of(path, self.settings.files_max, weigh);
        let room = room.map_err(SealerError::io(path))?;
        let bytes = room.bytes.saturating_add(waiting.bytes);
        let crowded = room.files >= self.settings.files_max
            || room.files > 0 && self.settings.bytes_max.is_some_and(|max| bytes > max);
        Ok(crowded.then(|| {
            let weight = if weigh { format!(" with {} bytes", room.bytes) } else { String::new() };
            format!(
                "{} files{weight} wait in {} and nobody takes them away; nothing more is put there\n  try: whether the appliance runs and reads this folder",
                room.files, path.display()
            )
        }))
    }
}

impl Carrier for FolderCarrier {
    fn run(&mut self, carriage: &mut Carriage) -> Result<(), SealerError> {
        while !carriage.is_stopping() {
            let batch = carriage.next(self.batch_max())?;
            if batch.is_empty() {
                // What something else took out of the outbox meanwhile is nobody's concern now.
                self.put.clear();
                carriage.fine();
                carriage.wait(IDLE);
                continue;
            }
            let step = self.carry(carriage, &batch)?;
            carriage.counters().set_details(json!({
                "put-and-not-handed-over": self.put.len(),
                "commands-failed": self.commands_failed,
            }));
            if step == Step::NotNow {
                carriage.rest(PAUSE);
            }
        }
        Ok(())
    }
}

/// What is wrong with the folders and the command.
pub(super) fn check(settings: &FolderSettings) -> Vec<String> {
    let mut problems: Vec<String> = writable_folder(&settings.path).into_iter().collect();
    if let Temporary::Directory(dir) = &settings.temporary {
        problems.extend(writable_folder(dir));
        let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
        if device(dir) != device(&settings.path) {
            problems.push(format!(
                "{} is on another file system than {}: a rename is not possible",
                dir.display(),
                settings.path.display()
            ));
        }
    }
    problems
}

const IDLE: Duration = Duration::from_secs(1);
/// How soon a folder that was full is looked at again.
const PAUSE: Duration = Duration::from_millis(200);
const HOOK_RETRY_MIN: Duration = Duration::from_secs(1);
const HOOK_RETRY_MAX: Duration = Duration::from_mins(5);
/// Bundles in one manifest.
const BATCH_MAX: u32 = 64;
const MANIFEST_HEAD: &str = "# penstock manifest 1: SHA-256, bytes, name\n";
