//! A folder that something else puts bundles into: a diode appliance, a share, a person.
//!
//! ```text
//! folder ──ready?──> private copy ──checksum, manifest──> inbox      then: delete, keep or move
//!            (watch)      └─ a part: kept until all are there ──rejoin──> inbox
//! ```
//!
//! Names, sizes and kinds of what is in the folder are not trusted, and nothing in it is followed,
//! waited for or believed: what is delivered is a private copy whose digest is known.

mod manifest;
mod parts;
mod take;
mod watch;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::bundle::BundleDigest;
use shared::clock::{Clock, SystemClock};
use shared::durable;
use shared::hook::{Hook, HookError};

use super::config::{After, CommandWhen, FolderConfig, Marker};
use super::delivered::Delivered;
use super::{ReceiveError, Receiver, Reception};
use crate::folders::shown;
use crate::inbox::Stamp;
use manifest::Listed;
use parts::Parts;
use take::{Expect, Take, take};
use watch::{Entry, Found, Outcome, Rules, SIDECAR_SUFFIX, Watch};

/// Takes bundles from a folder.
pub(super) struct FolderReceiver {
    config: FolderConfig,
    bundle_bytes_max: u64,
}

impl FolderReceiver {
    pub(super) fn new(config: &FolderConfig, bundle_bytes_max: u64) -> Self {
        Self { config: config.clone(), bundle_bytes_max }
    }
}

impl Receiver for FolderReceiver {
    fn run(&mut self, reception: &Reception) -> Result<(), ReceiveError> {
        let state = reception.state_folder()?;
        let failed = || ReceiveError::io(&state);
        let config = &self.config;
        let limits = parts::Limits {
            bytes_max: config.parts_bytes_max,
            whole_bytes_max: self.bundle_bytes_max,
            age_max: config.deadline,
        };
        let rules = Rules {
            polls: config.polls,
            ignore_suffixes: config.ignore_suffixes.clone(),
            sidecar: config.sidecar,
            marker: config.done_marker.clone(),
            manifest: config.manifest,
            deadline: config.deadline,
            tracked_max: TRACKED_MAX,
        };
        let mut taking = Taking {
            config,
            bundle_bytes_max: self.bundle_bytes_max,
            reception,
            watch: Watch::new(rules),
            parts: Parts::open(&state.join("parts"), limits, SystemClock.now()).map_err(failed())?,
            delivered: Delivered::open(&state, DELIVERED_MAX).map_err(failed())?,
            refused_seen: 0,
            listed: Listed::default(),
            counts: Counts::default(),
            hook_wait: None,
            trouble: None,
        };
        taking.settle_parts()?;
        while !reception.is_stopping() {
            taking.round()?;
            reception.rest(config.poll_interval);
        }
        Ok(())
    }
}

/// What is wrong with the folders.
pub(super) fn check(config: &FolderConfig) -> Vec<String> {
    let mut problems = Vec::new();
    if !config.path.is_dir() {
        problems.push(format!("{} is no folder", config.path.display()));
    }
    if let After::Move(to) = &config.after
        && !to.is_dir()
    {
        problems.push(format!("{} is no folder", to.display()));
    }
    problems
}

struct Taking<'a> {
    config: &'a FolderConfig,
    bundle_bytes_max: u64,
    reception: &'a Reception,
    watch: Watch,
    parts: Parts,
    /// What was taken from a folder in which files stay.
    delivered: Delivered,
    /// How many refused bundles were looked at.
    refused_seen: u64,
    listed: Listed,
    counts: Counts,
    /// After a command that failed: when it is run again, and the pause before that.
    hook_wait: Option<(Instant, Duration)>,
    /// What failed in this round, or goes on failing.
    trouble: Option<String>,
}

#[derive(Default)]
struct Counts {
    /// Files that differ from their checksum or manifest, or changed while they were read.
    unfit: u64,
    /// Files that never became ready.
    overdue: u64,
    commands_failed: u64,
}

impl Taking<'_> {
    fn round(&mut self) -> Result<(), ReceiveError> {
        self.trouble = None;
        for bundle in self.reception.refused_since(&mut self.refused_seen) {
            let state = self.reception.state_folder()?;
            self.delivered.forget(&bundle).map_err(ReceiveError::io(&state))?;
        }
        if self.config.command_when == CommandWhen::BeforePoll {
            self.run_command(&[]);
        }
        let path = &self.config.path;
        let entries = list(path).map_err(ReceiveError::io(path))?;
        if self.config.manifest {
            self.listed.read(path, &entries, Instant::now());
        }
        let listed = &self.listed;
        let found = self.watch.poll(entries, &|name| listed.knows(name), Instant::now());
        for name in &found.ready {
            if self.reception.is_stopping() {
                return Ok(());
            }
            let outcome = self.one(name)?;
            self.watch.done(name, outcome);
        }
        self.settle_parts()?;
        self.finish(&found);
        for name in &found.overdue {
            self.counts.overdue += 1;
            tracing::error!(
                file = %shown(name), folder = %path.display(),
                "a file did not become complete in time; it stays where it is, and its bundle has to be sent again"
            );
        }
        let (now, deadline) = (Instant::now(), self.config.deadline);
        for (manifest, files) in self.listed.missing(&self.delivered, deadline, now) {
            self.counts.overdue += files.len() as u64;
            let names: Vec<String> = files.iter().take(MISSING_SHOWN_MAX).map(shown).collect();
            tracing::error!(
                manifest = %shown(&manifest), count = files.len(), files = %names.join(" "),
                "files that a manifest lists did not come in time; their bundles have to be sent again"
            );
        }
        self.tell(&found);
        Ok(())
    }

    /// One file that is ready.
    fn one(&mut self, name: &OsStr) -> Result<Outcome, ReceiveError> {
        let path = self.config.path.join(name);
        let Some(stamp) = self.watch.stamp(name) else { return Ok(Outcome::NotYet) };
        let expect = Expect {
            stamp,
            listed: self.listed.of(name),
            sidecar: self.config.sidecar,
            bytes_max: self.bundle_bytes_max,
        };
        // Where files stay, one that was taken in an earlier life is not taken again.
        let keeps = self.config.after == After::Keep;
        let delivered = &self.delivered;
        let known = |sha256: &BundleDigest| keeps && delivered.knows(sha256);
        match take(&path, &expect, self.reception, &mut self.parts, &known)? {
            Take::Bundle(copy) => {
                self.reception.deliver(&copy.name, &copy.file, &copy.sha256)?;
                self.note(copy.sha256)?;
            }
            Take::Part(sha256) => self.note(sha256)?,
            Take::Known => return Ok(Outcome::Kept),
            Take::Gone => return Ok(Outcome::Taken),
            Take::Unfit(why) => {
                self.counts.unfit += 1;
                tracing::debug!(file = %shown(name), why, "a file is not taken yet");
                return Ok(Outcome::NotYet);
            }
        }
        if self.config.command_when == CommandWhen::AfterFile {
            let (file, name) = (path.display().to_string(), shown(name));
            self.run_command(&[("{file}", &file), ("{name}", &name)]);
        }
        Ok(self.put_away(name, stamp))
    }

    /// Remembers a file where its name alone does not tell that it was taken.
    fn note(&mut self, sha256: BundleDigest) -> Result<(), ReceiveError> {
        if self.config.after != After::Keep && !self.config.manifest {
            return Ok(());
        }
        let state = self.reception.state_folder()?;
        self.delivered.add(sha256).map_err(ReceiveError::io(&state))
    }

    /// What becomes of a file that was taken. The sender may have put another one in its place, which
    /// stays; or taken it away, which is no error.
    fn put_away(&mut self, name: &OsStr, stamp: Stamp) -> Outcome {
        if self.config.after == After::Keep {
            return Outcome::Kept;
        }
        if !is_unchanged(&self.config.path.join(name), Some(stamp)) {
            return Outcome::Taken;
        }
        // The file first: a companion without a file harms nobody.
        let mut names = vec![name.to_owned(), with(name, SIDECAR_SUFFIX)];
        if let Marker::File(suffix) = &self.config.done_marker {
            names.push(with(name, suffix));
        }
        for name in &names {
            let path = self.config.path.join(name);
            if !is_unchanged(&path, None) {
                continue;
            }
            if let Err(err) = self.put_one_away(name) {
                // It was delivered: it must not be delivered over and over.
                self.trouble = Some(format!(
                    "{} was taken and can't be put away: {err}\n  try: give this user the right to do so, or set after = \"keep\"",
                    path.display()
                ));
                return Outcome::Kept;
            }
        }
        Outcome::Taken
    }

    fn put_one_away(&self, name: &OsStr) -> std::io::Result<()> {
        let path = self.config.path.join(name);
        match &self.config.after {
            After::Delete => durable::remove(&path),
            After::Keep => Ok(()),
            After::Move(to) => durable::rename(&path, &to.join(name)),
        }
    }

    /// Delivers bundles of which all parts are there.
    fn settle_parts(&mut self) -> Result<(), ReceiveError> {
        let state = self.reception.state_folder()?;
        let settled = self.parts.settle(SystemClock.now()).map_err(ReceiveError::io(&state))?;
        for whole in settled.whole {
            self.reception.deliver_from(&whole.path, &whole.name, &whole.sha256)?;
            self.parts.delivered(&whole).map_err(ReceiveError::io(&state))?;
        }
        for (name, problem) in settled.wrong {
            self.reception.counters().wrong.fetch_add(1, Ordering::Relaxed);
            tracing::error!(bundle = %name, problem, "a bundle in parts can't be put together; it has to be sent again");
        }
        for name in settled.expired {
            self.counts.overdue += 1;
            tracing::error!(bundle = %name, "the other parts of a bundle did not come in time; those that came are thrown away");
        }
        Ok(())
    }

    /// Puts away the marker for all files, and manifests of which all files were taken.
    fn finish(&mut self, found: &Found) {
        let mut old = self.listed.finished(&self.delivered);
        // Where something did not fit yet, the marker has to stay for it.
        let all_taken = found
            .ready
            .iter()
            .all(|name| self.watch.stamp(name).is_none() || self.config.after == After::Keep);
        if let (Marker::Directory(name), Some(stamp)) = (&self.config.done_marker, found.marker)
            && all_taken
            && !self.holds_more()
        {
            old.push((OsString::from(name), stamp));
        }
        for (name, stamp) in old {
            let path = self.config.path.join(&name);
            if is_unchanged(&path, Some(stamp))
                && let Err(err) = self.put_one_away(&name)
            {
                self.trouble = Some(format!("{} can't be put away: {err}", path.display()));
            }
        }
    }

    /// Whether files stand in the folder, those that came since it was looked at among them. One that
    /// can't be looked at may hold some.
    fn holds_more(&self) -> bool {
        std::fs::read_dir(&self.config.path).map_or(true, |entries| {
            entries.flatten().any(|entry| self.watch.is_file(&entry.file_name()))
        })
    }

    /// Runs the command. One that fails is not run again for a while, longer and longer.
    fn run_command(&mut self, values: &[(&str, &str)]) {
        let Some(hook): Option<&Hook> = self.config.command.as_ref() else { return };
        let now = Instant::now();
        if self.hook_wait.is_some_and(|(at, _)| at > now) {
            self.trouble =
                Some(format!("the command {} failed; it is tried again", hook.program()));
            return;
        }
        match hook.run(values, &|| self.reception.is_stopping()) {
            Ok(()) => self.hook_wait = None,
            Err(HookError::Stopped { .. }) => {}
            Err(err) => {
                self.counts.commands_failed += 1;
                let pause = self.hook_wait.map_or(HOOK_RETRY_MIN, |(_, pause)| pause * 2);
                let pause = pause.min(HOOK_RETRY_MAX);
                self.hook_wait = Some((now + pause, pause));
                self.trouble = Some(err.to_string());
            }
        }
    }

    fn tell(&mut self, found: &Found) {
        if let Some((name, count)) = &found.foreign {
            self.trouble.get_or_insert_with(|| {
                format!(
                    "{count} entries of the folder are no regular files and are left alone: {}",
                    shown(name)
                )
            });
        }
        match &self.trouble {
            Some(trouble) => self.reception.trouble(trouble),
            None => self.reception.fine(),
        }
        let (sets, bytes) = self.parts.sums();
        self.reception.counters().set_details(json!({
            "waiting-files": found.waiting,
            "no-files": found.foreign.as_ref().map_or(0, |(_, count)| *count),
            "unfit-files": self.counts.unfit,
            "overdue": self.counts.overdue,
            "commands-failed": self.counts.commands_failed,
            "bundles-in-parts": sets,
            "bytes-in-parts": bytes,
        }));
    }
}

/// Lists the folder, within reason.
fn list(path: &Path) -> std::io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)?.take(LISTED_MAX) {
        let entry = entry?;
        // It never follows a link. An error: gone since it was listed.
        let Ok(found) = entry.metadata() else { continue };
        let stamp = found.is_file().then(|| Stamp::of(&found));
        if stamp.is_none()
            && found.is_dir()
            && entry.file_name().as_encoded_bytes().starts_with(b".")
        {
            continue;
        }
        entries.push(Entry { name: entry.file_name(), stamp });
    }
    Ok(entries)
}

fn is_unchanged(path: &Path, stamp: Option<Stamp>) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && stamp.is_none_or(|stamp| Stamp::of(&found) == stamp))
}

fn with(name: &OsStr, suffix: &str) -> OsString {
    let mut whole = name.to_owned();
    whole.push(suffix);
    whole
}

/// Files that are tracked; the rest has its turn later.
const TRACKED_MAX: usize = 65_536;
/// Entries that are looked at in one poll, files or not.
const LISTED_MAX: usize = 262_144;
/// Names of missing files in one line of the log.
const MISSING_SHOWN_MAX: usize = 32;
/// Digests in each of two lists.
const DELIVERED_MAX: usize = 65_536;
const HOOK_RETRY_MIN: Duration = Duration::from_secs(1);
const HOOK_RETRY_MAX: Duration = Duration::from_mins(5);
