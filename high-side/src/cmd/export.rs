//! `export`: copy what waits to a mounted medium, with proof.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::durable;

use super::Failure;
use crate::config::Config;
use crate::outbox::Waiting;
use crate::sealer::{Patience, Publisher, SealerError};

/// Names of transfer records begin so, on the medium and in the state folder.
const RECORD_PREFIX: &str = "penstock-transfer-";

pub(super) fn export(
    config: &Config,
    dest: &Path,
    all: bool,
    as_json: bool,
) -> Result<(), Failure> {
    if !dest.is_dir() {
        return Err(Failure::io(format!(
            "{} is no folder\n  try: mount the medium first, and give a folder on it",
            dest.display()
        )));
    }
    expect_mounted(dest)?;
    let clock = SystemClock;
    let mut publisher = Publisher::open(config, Patience::Wait, Arc::new(clock))?;
    publisher.publish_sealed()?;
    let (outbox, store) = publisher.outbox();
    let waiting = outbox.all(store, all, clock.now())?;
    let total: u64 = waiting.iter().map(|bundle| bundle.bytes).sum();
    check_room(dest, total)?;
    let bar = progress_bar(2 * total);
    let mut copied = Vec::new();
    let mut result = Ok(());
    for bundle in &waiting {
        bar.set_message(bundle.name.clone());
        match outbox.copy(bundle, dest, &mut |bytes| bar.inc(bytes)) {
            Ok(()) => copied.push(bundle),
            // One that rotted on our own disk must not keep the others here.
            Err(err @ SealerError::Damaged { .. }) => {
                outbox.damaged(store, bundle, clock.now())?;
                result = Err(err);
            }
            Err(err) => {
                result = Err(err);
                break;
            }
        }
    }
    bar.finish_and_clear();
    // What was copied and verified counts, even if the medium failed later.
    let now = clock.now();
    let record = TransferRecord { config, dest, now, bundles: &copied };
    if !copied.is_empty() {
        let stem = record.keep()?;
        let by = format!("export to {}", dest.display());
        for bundle in &copied {
            outbox.handed_over(store, bundle, &by, now)?;
        }
        tell!("transfer record: {}.txt", stem.display());
    }
    if as_json {
        say!("{}", record.to_json());
    } else {
        say!(
            "{} bundle(s), {} bytes copied to {}, read back and verified",
            copied.len(),
            copied.iter().map(|bundle| bundle.bytes).sum::<u64>(),
            dest.display()
        );
    }
    result.map_err(|err| {
        Failure::io(format!(
            "{}\n  {} of {} bundles are on the medium; nothing is lost: mend the cause and export again",
            super::chain(&err),
            copied.len(),
            waiting.len()
        ))
    })
}

/// A folder where media are mounted, with nothing mounted there, is on the system's own disk.
fn expect_mounted(dest: &Path) -> Result<(), Failure> {
    let real = dest.canonicalize().with_context(|| dest.display().to_string())?;
    let for_media = ["/media", "/mnt", "/run/media"].iter().any(|place| real.starts_with(place));
    let device = |path: &Path| {
        std::fs::metadata(path).map(|meta| meta.dev()).with_context(|| path.display().to_string())
    };
    if for_media && device(&real)? == device(Path::new("/"))? {
        return Err(Failure::io(format!(
            "nothing is mounted at {}\n  try: mount the medium first",
            dest.display()
        )));
    }
    Ok(())
}

fn check_room(dest: &Path, total: u64) -> Result<(), Failure> {
    let free = durable::free_bytes(dest).with_context(|| dest.display().to_string())?;
    if free >= total {
        return Ok(());
    }
    tell!(
        "warning: {} bytes wait and {} has {free} free; what fits is copied, the rest goes on waiting",
        total,
        dest.display()
    );
    Ok(())
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:30} {percent:>3}% {bytes_per_sec} {eta} left  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Who copied what, when and to where: readable by people and by machines.
struct TransferRecord<'a> {
    config: &'a Config,
    dest: &'a Path,
    now: Nanos,
    bundles: &'a [&'a Waiting],
}

impl TransferRecord<'_> {
    /// Writes text and JSON into the state folder and onto the medium; gives the latter's path
    /// without extension. The medium may have failed by now; our own copy is what counts.
    fn keep(&self) -> Result<PathBuf, Failure> {
        let time: String =
            self.now.to_string().chars().filter(char::is_ascii_digit).take(17).collect();
        let stem = format!("{RECORD_PREFIX}{}-{time}", self.config.origin);
        let archive = self.config.state_dir.join("transfers");
        durable::create_dir(&archive).with_context(|| archive.display().to_string())?;
        self.write(&archive.join(&stem))?;
        let stem = self.dest.join(stem);
        if let Err(failure) = self.write(&stem) {
            tell!("warning: the transfer record is not on the medium: {failure}");
        }
        Ok(stem)
    }

    fn write(&self, stem: &Path) -> Result<(), Failure> {
        for (extension, content) in
            [("txt", self.to_text()), ("json", format!("{}\n", self.to_json()))]
        {
            let path = stem.with_extension(extension);
            durable::write(&path, content.as_bytes(), 0o644)
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "Penstock transfer record\n\norigin   {}\ntime     {}\nuser     {}\nmedium   {}\nbundles  {}\nbytes    {}\n\n",
            self.config.origin,
            self.now,
            user_name(),
            self.dest.display(),
            self.bundles.len(),
            self.bundles.iter().map(|bundle| bundle.bytes).sum::<u64>(),
        );
        for bundle in self.bundles {
            let _ = writeln!(text, "{}  {:>12}  {}", bundle.sha256, bundle.bytes, bundle.name);
        }
        text
    }

    fn to_json(&self) -> Value {
        let bundles: Vec<Value> = self.bundles.iter().map(|bundle| json!({
            "name": bundle.name,
            "bytes": bundle.bytes,
            "sha256": bundle.sha256.to_string(),
            "digest": bundle.bundle.as_ref().and_then(|b| b.file.as_ref()).map(|f| f.digest.to_string()),
            "lane": bundle.bundle.as_ref().map(|b| b.lane),
            "number": bundle.bundle.as_ref().map(|b| b.number),
        })).collect();
        json!({
            "origin": self.config.origin,
            "time": self.now.to_string(),
            "user": user_name(),
            "medium": self.dest.display().to_string(),
            "bundles": bundles,
        })
    }
}

/// Who runs the command: the login name behind sudo, if there is one.
fn user_name() -> String {
    let uid = nix::unistd::getuid();
    let own = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let own = own.unwrap_or_else(|| uid.to_string());
    match std::env::var("SUDO_USER") {
        Ok(login) if uid.is_root() => format!("{login} (as {own})"),
        _ => own,
    }
}
