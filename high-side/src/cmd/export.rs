//! `export`: copy what waits to a mounted medium, with proof.

use std::fmt::Write as _;
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
use crate::sealer::Sealer;

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
    let clock = SystemClock;
    let mut sealer = Sealer::open(config, Arc::new(clock))?;
    sealer.recover()?;
    let (outbox, store) = sealer.outbox();
    let mut waiting = outbox.strays(store)?;
    waiting.extend(outbox.ready(store, clock.now())?);
    if all {
        waiting.extend(outbox.kept(store, clock.now())?);
    }
    let total: u64 = waiting.iter().map(|bundle| bundle.bytes).sum();
    check_room(dest, total)?;
    let bar = progress_bar(2 * total);
    let mut copied = Vec::new();
    let mut result = Ok(());
    for bundle in &waiting {
        bar.set_message(bundle.name.clone());
        result = outbox.copy(bundle, dest, &mut |bytes| bar.inc(bytes));
        if result.is_err() {
            break;
        }
        copied.push(bundle);
    }
    bar.finish_and_clear();
    // What was copied and verified counts, even if the medium failed later.
    let now = clock.now();
    let record = TransferRecord { config, dest, now, bundles: &copied };
    if !copied.is_empty() {
        let stem = record.write()?;
        let by = format!("export to {}", dest.display());
        for bundle in &copied {
            outbox.handed_over(store, bundle, &by, now)?;
        }
        eprintln!("transfer record: {}.txt", stem.display());
    }
    if as_json {
        println!("{}", record.to_json());
    } else {
        println!(
            "{} bundle(s), {} bytes copied to {}, read back and verified",
            copied.len(),
            copied.iter().map(|bundle| bundle.bytes).sum::<u64>(),
            dest.display()
        );
    }
    result.map_err(|err| Failure::io(format!(
        "{}\n  {} of {} bundles are on the medium; nothing is lost: mend the medium and export again",
        super::chain(&err), copied.len(), waiting.len()
    )))
}

fn check_room(dest: &Path, total: u64) -> Result<(), Failure> {
    let free = durable::free_bytes(dest).with_context(|| dest.display().to_string())?;
    if free >= total {
        return Ok(());
    }
    eprintln!(
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
    /// Writes text and JSON to the medium and to the state folder; gives the path without extension.
    fn write(&self) -> Result<PathBuf, Failure> {
        let time: String =
            self.now.to_string().chars().filter(char::is_ascii_digit).take(17).collect();
        let stem = format!("{RECORD_PREFIX}{}-{time}", self.config.origin);
        let archive = self.config.state_dir.join("transfers");
        durable::create_dir(&archive).with_context(|| archive.display().to_string())?;
        for dir in [archive.as_path(), self.dest] {
            for (extension, content) in
                [("txt", self.to_text()), ("json", format!("{}\n", self.to_json()))]
            {
                let path = dir.join(format!("{stem}.{extension}"));
                durable::write(&path, content.as_bytes(), 0o644)
                    .with_context(|| path.display().to_string())?;
            }
        }
        Ok(self.dest.join(stem))
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
