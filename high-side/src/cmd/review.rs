//! `review` and `release`: officers look at what waits, and let it leave or not.
//!
//! Where an officer may not, or should not, work on the agent's machine, both work on a folder of
//! files instead: `review --export` writes summaries into it, `release --from` writes signatures
//! beside them, `release --signature` takes these in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use shared::bundle::{BundleDigest, ReleaseSignature, ReleaseStatement, digest_of_sealed};
use shared::clock::{Clock, SystemClock};
use shared::durable;
use shared::keys::{OfficerKey, Officers};

use super::Failure;
use super::officer::load_key;
use crate::buffer::{Bundle, BundleState, Store};
use crate::config::Config;
use crate::outbox::open_regular;
use crate::release::{ReleaseError, ReviewFolder, SUMMARY_SUFFIX, Summary, shown};
use crate::sealer::{Patience, Publisher};

/// Names of files that hold an officer's release end so.
const RELEASE_SUFFIX: &str = ".release";

/// What the verb `review` was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) bundles: &'a [String],
    pub(super) all: bool,
    pub(super) key: Option<&'a Path>,
    pub(super) passphrase_file: Option<&'a Path>,
    pub(super) as_json: bool,
}

impl Asked<'_> {
    fn load_key(&self) -> Result<OfficerKey, Failure> {
        let dir = self.key.ok_or_else(|| {
            Failure::usage(
                &"whose keys?\n  try: --key FOLDER, as made by penstock-high officer init",
            )
        })?;
        load_key(dir, self.passphrase_file)
    }
}

/// Lists what waits or, with an officer's keys, shows what is inside.
pub(super) fn review(config: &Config, asked: Asked<'_>) -> Result<(), Failure> {
    let store = Store::open(&config.state_dir)?;
    if asked.key.is_none() {
        if !asked.bundles.is_empty() || asked.all {
            asked.load_key()?;
        }
        return list(config, &store, asked.as_json);
    }
    let waiting = select(&store, &asked)?;
    let key = asked.load_key()?;
    let folder = ReviewFolder::in_outbox(&config.outbox.path);
    let mut summaries = Vec::new();
    for bundle in &waiting {
        summaries.push(read_waiting(&folder, bundle, &key)?.0);
    }
    show(&summaries, asked.as_json);
    Ok(())
}

/// Shows the summaries of a folder.
pub(super) fn review_folder(from: &Path, asked: Asked<'_>) -> Result<(), Failure> {
    let key = asked.load_key()?;
    let mut summaries = Vec::new();
    for path in summaries_in(from, &asked)? {
        summaries.push(read(&path, &key)?.0);
    }
    show(&summaries, asked.as_json);
    Ok(())
}

/// Copies the summaries of what waits, encrypted as they are.
pub(super) fn export(config: &Config, to: &Path, asked: Asked<'_>) -> Result<(), Failure> {
    let store = Store::open(&config.state_dir)?;
    let folder = ReviewFolder::in_outbox(&config.outbox.path);
    let everything = asked.bundles.is_empty();
    let waiting = select(&store, &Asked { all: asked.all || everything, ..asked })?;
    for bundle in &waiting {
        let name = name_of(bundle);
        let from = folder.summary(name);
        let bytes =
            ReviewFolder::read_summary(&from).with_context(|| from.display().to_string())?;
        let path = to.join(format!("{name}{SUMMARY_SUFFIX}"));
        durable::write(&path, &bytes, 0o644).with_context(|| path.display().to_string())?;
    }
    say!("{} summar(ies) copied to {}", waiting.len(), to.display());
    tell!("next, the officer: penstock-high review --from FOLDER --key KEYS --all");
    Ok(())
}

fn show(summaries: &[Summary], as_json: bool) {
    if as_json {
        let list: Vec<&Summary> = summaries.iter().collect();
        say!("{}", crate::release::ascii_json(&json!({ "summaries": list }).to_string()));
        return;
    }
    for summary in summaries {
        say!("{}", summary.to_text());
    }
    tell!("next: penstock-high release BUNDLE --key KEYS --yes, or --refuse BUNDLE --reason TEXT");
}

fn list(config: &Config, store: &Store, as_json: bool) -> Result<(), Failure> {
    let waiting = store.bundles(Some(BundleState::AwaitingRelease))?;
    let now = SystemClock.now();
    let mut rows = Vec::new();
    for bundle in &waiting {
        let releases = store.releases(bundle.lane, bundle.number)?;
        let officers: Vec<String> = releases.into_iter().map(|release| release.officer).collect();
        rows.push((bundle, officers));
    }
    if as_json {
        let list: Vec<Value> = rows
            .iter()
            .map(|(bundle, officers)| {
                let mut value = super::bundles::to_json(bundle);
                value["released-by"] = json!(officers);
                value
            })
            .collect();
        say!("{}", json!({ "waiting": list, "required": config.release.required }));
        return Ok(());
    }
    for (bundle, officers) in rows {
        let age = now.since(bundle.oldest.unwrap_or(bundle.planned)).as_secs();
        say!(
            "{}  {} records, oldest {} s, released by {} of {}{}{}",
            name_of(bundle),
            bundle.streams.kept.sum().records,
            age,
            officers.len(),
            config.release.required,
            if officers.is_empty() { "" } else { ": " },
            officers.join(", ")
        );
    }
    tell!("{} bundle(s) wait for officers", waiting.len());
    if !waiting.is_empty() {
        tell!("next: penstock-high review --all --key KEYS");
    }
    Ok(())
}

/// What the verb `release` was told beyond [`Asked`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision<'a> {
    pub(super) yes: bool,
    pub(super) refuse: bool,
    pub(super) reason: Option<&'a str>,
}

/// Signs for bundles that wait, after their summaries were decrypted.
pub(super) fn release(
    config: &Config,
    asked: Asked<'_>,
    decision: Decision<'_>,
) -> Result<(), Failure> {
    let mut publisher = Publisher::open(config, Patience::Wait, Arc::new(SystemClock))?;
    publisher.publish_sealed()?;
    let officers = Officers::load(&config.keys_dir)?;
    let waiting = {
        let (_, store) = publisher.outbox();
        select(store, &asked)?
    };
    let key = asked.load_key()?;
    let known =
        officers.halves().iter().any(|half| half.to_string() == key.public_half().to_string());
    if !known {
        let err = ReleaseError::NotAnOfficer { key: key.public_half().key_fingerprint() };
        return Err(Failure::new(err));
    }
    let mut read = Vec::new();
    for bundle in &waiting {
        let (summary, statement) = read_waiting(publisher.reviews(), bundle, &key)?;
        tell!("{}", summary.to_short_text());
        read.push((bundle, statement));
    }
    expect_yes(decision)?;
    let mut results = Vec::new();
    for (bundle, statement) in read {
        if decision.refuse {
            let reason = decision.reason.unwrap_or_default();
            let refused = publisher.refuse(bundle, key.public_half().name(), reason)?;
            say_or_keep(&mut results, &asked, &refused, "refused", &[]);
            continue;
        }
        let signature = key.sign(&statement)?;
        let required = config.release.required;
        let done = publisher.release(&officers, required, bundle, &statement, &signature)?;
        let names: Vec<String> = done.officers.into_iter().collect();
        say_or_keep(&mut results, &asked, &done.bundle, done.bundle.state.as_str(), &names);
    }
    finish(&results, &asked);
    Ok(())
}

/// Signs for the summaries of a folder; the signatures are put beside them.
pub(super) fn release_folder(
    from: &Path,
    asked: Asked<'_>,
    decision: Decision<'_>,
) -> Result<(), Failure> {
    if decision.refuse {
        return Err(Failure::usage(
            &"a refusal is not signed, and is given on the high side itself\n  try: without --from; or just do not release it",
        ));
    }
    let key = asked.load_key()?;
    let mut read_all = Vec::new();
    for path in summaries_in(from, &asked)? {
        let (summary, statement) = read(&path, &key)?;
        tell!("{}", summary.to_short_text());
        read_all.push((path, statement));
    }
    expect_yes(decision)?;
    for (path, statement) in read_all {
        let signature = key.sign(&statement)?;
        let path = path.with_extension("");
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}{RELEASE_SUFFIX}", key.public_half().name()));
        let path = path.with_file_name(name);
        let text = format!("{}{}", statement.encode(), signature.armored());
        durable::write(&path, text.as_bytes(), 0o644)
            .with_context(|| path.display().to_string())?;
        say!("{}", path.display());
    }
    tell!("next, on the high side: penstock-high release --signature FILE...");
    Ok(())
}

/// Takes in releases that officers signed elsewhere.
pub(super) fn take_in(config: &Config, files: &[PathBuf], asked: Asked<'_>) -> Result<(), Failure> {
    let mut publisher = Publisher::open(config, Patience::Wait, Arc::new(SystemClock))?;
    publisher.publish_sealed()?;
    let officers = Officers::load(&config.keys_dir)?;
    let (mut results, mut failed) = (Vec::new(), Vec::new());
    for path in files {
        match take_in_one(config, &mut publisher, &officers, path) {
            Ok((bundle, names)) => {
                say_or_keep(&mut results, &asked, &bundle, bundle.state.as_str(), &names);
            }
            Err(failure) => failed.push(format!("{}: {failure}", path.display())),
        }
    }
    finish(&results, &asked);
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} release(s) not taken in\n  {}",
        failed.len(),
        failed.join("\n  ")
    )))
}

fn take_in_one(
    config: &Config,
    publisher: &mut Publisher,
    officers: &Officers,
    path: &Path,
) -> Result<(Bundle, Vec<String>), Failure> {
    let bytes = ReviewFolder::read_summary(path).map_err(Failure::io)?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::new("is no release"))?;
    let split = text.find("-----BEGIN").unwrap_or(text.len());
    let (statement, armored) = text.split_at(split);
    let statement = ReleaseStatement::parse(statement.as_bytes())
        .ok_or_else(|| Failure::new("is no release: it should begin with penstock-release 1"))?;
    let signature = ReleaseSignature::new(armored, &statement).map_err(Failure::new)?;
    let waiting = {
        let (_, store) = publisher.outbox();
        store.bundles(Some(BundleState::AwaitingRelease))?
    };
    let names_it =
        |bundle: &&Bundle| bundle.file.as_ref().is_some_and(|f| f.digest == statement.bundle);
    let bundle = waiting.iter().find(names_it).ok_or_else(|| {
        Failure::new(
            "no bundle that waits has this digest: it was released already, or is of another side",
        )
    })?;
    let required = config.release.required;
    let done = publisher.release(officers, required, bundle, &statement, &signature)?;
    Ok((done.bundle, done.officers.into_iter().collect()))
}

fn say_or_keep(
    results: &mut Vec<Value>,
    asked: &Asked<'_>,
    bundle: &Bundle,
    what: &str,
    officers: &[String],
) {
    if !asked.as_json {
        let by = if officers.is_empty() {
            String::new()
        } else {
            format!(" by {}", officers.join(", "))
        };
        let text = match bundle.state {
            BundleState::AwaitingRelease => format!("released{by}; waits for more officers"),
            BundleState::Ready => format!("released{by}; it may leave now"),
            _ => format!("{what}{by}"),
        };
        say!("{}: {text}", name_of(bundle));
    }
    let mut value = super::bundles::to_json(bundle);
    value["released-by"] = json!(officers);
    results.push(value);
}

fn finish(results: &[Value], asked: &Asked<'_>) {
    if asked.as_json {
        say!("{}", json!({ "bundles": results }));
    }
}

fn expect_yes(decision: Decision<'_>) -> Result<(), Failure> {
    if decision.yes {
        return Ok(());
    }
    let what = if decision.refuse { "refused" } else { "released" };
    Err(Failure::usage(&format!(
        "nothing was {what}: this is what it would have been\n  try: the same with --yes"
    )))
}

/// The bundles that were named; they have to wait for officers.
fn select(store: &Store, asked: &Asked<'_>) -> Result<Vec<Bundle>, Failure> {
    let waiting = store.bundles(Some(BundleState::AwaitingRelease))?;
    if asked.all {
        return Ok(waiting);
    }
    if asked.bundles.is_empty() {
        return Err(Failure::usage(&format!(
            "which bundle? {} wait\n  try: its name, LANE/NUMBER, or --all",
            waiting.len()
        )));
    }
    let find = |wanted: &String| {
        let is_it = |bundle: &&Bundle| {
            name_of(bundle) == wanted || format!("{}/{}", bundle.lane, bundle.number) == *wanted
        };
        waiting.iter().find(is_it).cloned().ok_or_else(|| {
            Failure::new(format!(
                "{wanted:?} is no bundle that waits for officers\n  try: penstock-high review"
            ))
        })
    };
    asked.bundles.iter().map(find).collect()
}

fn summaries_in(dir: &Path, asked: &Asked<'_>) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(bundle) = name.strip_suffix(SUMMARY_SUFFIX) else { continue };
        if asked.all || asked.bundles.iter().any(|wanted| wanted == bundle) {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::usage(&format!(
            "no summary that was asked for is in {}\n  try: --all, or the name of a bundle",
            dir.display()
        )));
    }
    Ok(paths)
}

/// Reads the summary of a bundle that waits here, and checks that it is of this very file.
fn read_waiting(
    folder: &ReviewFolder,
    bundle: &Bundle,
    key: &OfficerKey,
) -> Result<(Summary, ReleaseStatement), Failure> {
    let name = name_of(bundle);
    let (summary, statement) = read(&folder.summary(name), key)?;
    let path = folder.bundle(name);
    let file = open_regular(&path).with_context(|| path.display().to_string())?;
    let digest =
        digest_of_sealed(&file).map_err(|err| Failure::io(format!("{}: {err}", path.display())))?;
    if digest != statement.bundle {
        return Err(Failure::new(format!(
            "the summary of {} is of another bundle: do not release it",
            shown(name)
        )));
    }
    Ok((summary, statement))
}

/// Decrypts a summary; what it says is what its reader may sign.
fn read(path: &Path, key: &OfficerKey) -> Result<(Summary, ReleaseStatement), Failure> {
    let bytes = ReviewFolder::read_summary(path).with_context(|| path.display().to_string())?;
    let plain = key.decrypt(&bytes).ok_or_else(|| {
        Failure::new(format!(
            "{}: {} can't decrypt this summary, and so can't release the bundle\n  try: an officer who was known when the bundle was sealed",
            path.display(),
            key.public_half().name()
        ))
    })?;
    let problem = |what: &str| Failure::new(format!("{}: the summary {what}", path.display()));
    let summary = Summary::parse(&plain).map_err(|err| problem(&err))?;
    let bundle: BundleDigest = summary.bundle.parse().map_err(problem)?;
    let statement = ReleaseStatement { bundle, summary: BundleDigest::of(&plain) };
    Ok((summary, statement))
}

fn name_of(bundle: &Bundle) -> &str {
    bundle.file.as_ref().map_or("-", |file| file.name.as_str())
}
