//! `setup`, `check`, `replay` and `dead-letters`: what an operator does with one sink.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::bell::Bell;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::exit;
use shared::record::{RecordId, Stream};

use super::{Failure, put};
use crate::config::Config;
use crate::ledger::{Again, Ledger};
use crate::replay::chain_text;
use crate::sink::config::{SinkConfig, SinkKind};
use crate::sink::dead_letters::{self, DeadLetters, Retried};
use crate::sink::marked::Marked;
use crate::sink::{self, SinkError};

impl From<SinkError> for Failure {
    fn from(err: SinkError) -> Self {
        let code = match err {
            SinkError::Tls(_) => exit::CONFIG,
            SinkError::File { .. } | SinkError::Ledger(_) => exit::IO,
            _ => exit::FAILED,
        };
        Self::new(code, chain_text(&err))
    }
}

/// A sink of the configuration.
fn named<'a>(config: &'a Config, name: &str) -> Result<&'a SinkConfig, Failure> {
    config.sinks.iter().find(|sink| sink.name == name).ok_or_else(|| {
        let known: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        let text = format!("no sink {name:?} is configured; there is: {}", known.join(", "));
        Failure::new(exit::CONFIG, text)
    })
}

pub(super) fn setup(config: &Config, name: &str, apply: bool) -> Result<(), Failure> {
    put(&sink::setup(named(config, name)?, apply)?)
}

pub(super) fn check(
    config: &Config,
    name: &str,
    stream: Stream,
    within: Duration,
) -> Result<(), Failure> {
    let settings = &sink::for_check(named(config, name)?);
    sink::check(settings)?;
    let marked = Marked::new(stream, SystemClock.now())?;
    if let SinkKind::File(file) = &settings.kind {
        let user = sink::prove_file(name, file, &marked)?;
        tell!(
            "{name}: the marked record {} was written to {}, synced and read back as the user {user}, and taken away again",
            marked.id,
            file.dir.display()
        );
        return Ok(());
    }
    let mut ledger = Ledger::open(&config.state_dir)?;
    let id = ledger.sink(name)?;
    let started = Instant::now();
    let mut sink = sink::make(settings, id, SystemClock, Bell::default());
    sink.begin(&mut ledger)?;
    marked.with(|item| sink.write(item))?;
    let confirmed = sink.confirm()?;
    if let Some(rejected) = confirmed.rejected.first() {
        let text = format!("{name} takes records, but refused the marked one: {}", rejected.reason);
        return Err(Failure::new(exit::FAILED, text));
    }
    tell!("{name} took the marked record {} in {:.1?}", marked.id, started.elapsed());
    loop {
        match sink::find(settings, &marked.id)? {
            None => {
                tell!("  it can't be asked from here; search there for {}", marked.id);
                if matches!(settings.kind, SinkKind::Elastic(_)) {
                    tell!("  and look whether it has event.ingested: detection rules go by it");
                }
                return Ok(());
            }
            Some(true) => {
                tell!("  it can be found there, {:.1?} after it was sent", started.elapsed());
                return check_stamp(settings, name, &marked.id);
            }
            Some(false) if started.elapsed() >= within => {
                let text = format!(
                    "{name} took the marked record {}, but it can't be found there after {}",
                    marked.id,
                    shared::config::Span(within)
                );
                return Err(Failure::new(exit::FAILED, text));
            }
            Some(false) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// Fails where a record is there, but no detection rule would see it.
fn check_stamp(settings: &SinkConfig, name: &str, id: &RecordId) -> Result<(), Failure> {
    match sink::stamped(settings, id)? {
        None => {}
        Some(true) => tell!("  event.ingested says when it came: detection rules see it"),
        Some(false) => {
            let text = format!(
                "{name} has the marked record {id}, but without event.ingested, by which detection rules go: they are blind\n  \
                 try: penstock-low setup {name}, with a credential that may; it installs the ingest pipeline that sets it"
            );
            return Err(Failure::new(exit::FAILED, text));
        }
    }
    Ok(())
}

pub(super) fn replay(
    config: &Config,
    name: &str,
    from: Nanos,
    to: Option<Nanos>,
) -> Result<(), Failure> {
    let settings = named(config, name)?;
    let now = SystemClock.now();
    let to = to.unwrap_or(now);
    if let Some(warning) = sink::replay_warning(settings, (from, to), now) {
        tell!("warning: {warning}");
    }
    let mut ledger = Ledger::open_existing(&config.state_dir)?;
    let id = ledger.sink(name)?;
    let (mut bundles, mut records, mut pending, mut gone) = (0_u64, 0_u64, 0_u64, 0_u64);
    for bundle in ledger.bundles_of_period(from, to)? {
        let range = (bundle.first, bundle.last);
        match ledger.deliver_again(id, bundle.chain, range, bundle.records)? {
            Again::Asked => {
                bundles += 1;
                records += bundle.records;
            }
            Again::Pending => pending += 1,
            Again::NotStored => gone += 1,
        }
    }
    tell!("{records} record(s) of {bundles} bundle(s) are sent to {name} once more");
    if pending > 0 {
        tell!("  {pending} bundle(s) were not delivered whole yet, and come anyway");
    }
    if bundles > 0 {
        tell!("  the agent sends them, as soon as it runs; see: penstock-low status");
    }
    if gone > 0 {
        let text = format!(
            "{gone} bundle(s) of the period have left the store after their time, and can't be sent from it\n  {}",
            restore_first(config, &format!("--from {from} --to {to}"))
        );
        return Err(Failure::new(exit::FAILED, text));
    }
    Ok(())
}

/// What to do first where bundles have left the store.
fn restore_first(config: &Config, which: &str) -> String {
    if config.archives.is_empty() {
        return "try: import the same bundles again, from wherever copies of them are kept"
            .to_owned();
    }
    format!(
        "try: penstock-low archive restore {which} DIR, then penstock-low import DIR, then penstock-low replay"
    )
}

pub(super) fn dead_letters(config: &Config, name: &str, as_json: bool) -> Result<(), Failure> {
    let letters = DeadLetters::of(&config.state_dir, name);
    let there: Vec<_> = letters.files().into_iter().filter(|path| path.exists()).collect();
    if there.is_empty() {
        // A sink that is gone from the configuration may have left some; a name that was never one has none.
        named(config, name)?;
        tell!("{name} has no dead letters");
        return Ok(());
    }
    let failed = |err: std::io::Error| Failure::new(exit::IO, err);
    let mut text = String::new();
    let each = there.iter().map(|path| dead_letters::read(path)).collect::<Result<Vec<_>, _>>();
    for letter in each.map_err(failed)?.into_iter().flatten() {
        let letter = letter.map_err(failed)?;
        let (chain, sequence) = (letter.chain.to_string(), letter.sequence);
        let _ = if as_json {
            let line = json!({
                "id": letter.id,
                "rejected": letter.rejected,
                "chain": chain,
                "sequence": sequence,
                "stream": letter.stream,
                "reason": letter.reason,
            });
            writeln!(text, "{line}")
        } else {
            let (id, at) = (&letter.id, &letter.rejected);
            writeln!(text, "{id}  {at}  {chain} {sequence}  {}  {}", letter.stream, letter.reason)
        };
        if text.len() >= TEXT_BYTES {
            put(&text)?;
            text.clear();
        }
    }
    put(&text)?;
    for path in &there {
        tell!("  the events: {}", path.display());
    }
    if there.contains(&letters.retrying()) {
        tell!("  a retry was interrupted, and goes on with --retry");
    }
    tell!("  once the receiver takes them: penstock-low dead-letters {name} --retry");
    Ok(())
}

pub(super) fn retry(config: &Config, name: &str) -> Result<(), Failure> {
    named(config, name)?;
    let letters = DeadLetters::of(&config.state_dir, name);
    let mut ledger = Ledger::open_existing(&config.state_dir)?;
    let id = ledger.sink(name)?;
    let retried = dead_letters::retry(&letters, &mut ledger, id, SystemClock.now());
    let Some(Retried { kept, before, asked, pending, gone }) =
        retried.map_err(|err| Failure::new(exit::IO, chain_text(&err)))?
    else {
        tell!("{name} has no dead letters");
        return Ok(());
    };
    tell!(
        "{asked} record(s) are sent to {name} once more; what was refused is kept in {}",
        kept.display()
    );
    if before > 0 {
        tell!("  {before} were asked for by a retry that was interrupted");
    }
    if pending > 0 {
        tell!("  {pending} were to be sent anyway");
    }
    if let Some((gone, example)) = gone {
        let text = format!(
            "{gone} record(s) are no longer in the store ({example}) and can't be sent from it; their events stand in {}\n  {}",
            kept.display(),
            restore_first(config, "BUNDLE")
        );
        return Err(Failure::new(exit::FAILED, text));
    }
    Ok(())
}

/// The pause between two looks for the marked record.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So much is gathered before it is printed.
const TEXT_BYTES: usize = 64 * 1024;
