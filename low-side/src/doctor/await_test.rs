//! A test record's way to its end: which bundle brought it, when each sink had it, and whether it can be
//! found there.
//!
//! The record is looked for by its marker in the bundles of the store, the latest first, each read once.
//! Nothing is changed.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use serde::Serialize;
use shared::bundle::{Refusal, reopen};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::config::Span;
use shared::record::{RecordId, RecordRef, Stream};

use crate::config::Config;
use crate::folders::Folders;
use crate::import::Keys;
use crate::ledger::{ArrivedBundle, Ledger, LedgerError};
use crate::replay::chain_text;
use crate::sink::config::{SinkConfig, SinkKind};
use crate::sink::dead_letters::{self, DeadLetters};
use crate::sink::find;

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The marker.
    pub marker: &'a str,
    /// How long.
    pub within: Duration,
    /// How far back bundles are looked through.
    pub since: Duration,
}

/// Where the record is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Arrived {
    /// The marker.
    pub marker: String,
    /// Its id in every SIEM.
    pub record_id: String,
    /// `ORIGIN/EPOCH/LANE`.
    pub chain: String,
    /// Its number.
    pub sequence: u64,
    /// Its stream.
    pub stream: Stream,
    /// When the high side received it, by its own clock, RFC 3339.
    pub received: String,
    /// When its bundle was sealed, by the same clock.
    pub sealed: String,
    /// The bundle's number.
    pub bundle: u64,
    /// The bundle's name in the store.
    pub file: String,
    /// When it was admitted, by this side's clock.
    pub admitted: String,
    /// From the reception to the admission, by both clocks.
    pub admitted_after_ms: u64,
    /// What became of it at each sink.
    pub sinks: Vec<AtSink>,
}

/// What became of the record at one sink.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AtSink {
    /// The sink.
    pub name: String,
    /// What is known.
    pub outcome: Outcome,
    /// From the reception to when it was seen to be delivered, by both clocks. At most that: it may have
    /// been there before anybody looked.
    pub delivered_within_ms: Option<u64>,
    /// Whether that was seen as it happened, within the interval of the looks.
    pub seen_live: bool,
    /// Whether it can be found at the destination; nothing where that can't be asked from here.
    pub found: Option<bool>,
    /// From the reception to when it was found.
    pub found_within_ms: Option<u64>,
    /// Why asking failed, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What is known of a record at a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The destination confirmed it.
    Delivered,
    /// The sink's filter leaves it out.
    Filtered,
    /// The destination refused it for good.
    Refused,
    /// It has not been delivered in the time.
    Waiting,
}

impl Arrived {
    /// Whether every sink that gets it has it, and shows it where it can be asked.
    pub fn is_everywhere(&self) -> bool {
        let taken = self.sinks.iter().filter(|sink| sink.outcome == Outcome::Delivered);
        let good = |sink: &AtSink| match sink.outcome {
            Outcome::Delivered => sink.found != Some(false) && sink.trouble.is_none(),
            Outcome::Filtered => true,
            Outcome::Refused | Outcome::Waiting => false,
        };
        taken.count() > 0 && self.sinks.iter().all(good)
    }
}

impl fmt::Display for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} arrived as record {}", self.marker, self.record_id)?;
        writeln!(f, "  received  {}  (the high side's clock)", self.received)?;
        writeln!(f, "  sealed    {}  bundle {} of {}", self.sealed, self.bundle, self.chain)?;
        let after = Span::millis(self.admitted_after_ms);
        writeln!(f, "  admitted  {}  {after} after it was received", self.admitted)?;
        for sink in &self.sinks {
            let within = |millis: Option<u64>| {
                millis.map_or("an unknown time".to_owned(), |ms| Span::millis(ms).to_string())
            };
            let text = match sink.outcome {
                Outcome::Delivered if sink.seen_live => {
                    format!("delivered {} after it was received", within(sink.delivered_within_ms))
                }
                Outcome::Delivered => "delivered before this looked".to_owned(),
                Outcome::Filtered => "left out by the sink's filter".to_owned(),
                Outcome::Refused => {
                    format!("refused for good: penstock-low dead-letters {}", sink.name)
                }
                Outcome::Waiting => "not delivered yet: penstock-low status".to_owned(),
            };
            write!(f, "  {:<9} {text}", sink.name)?;
            match (sink.outcome, sink.found) {
                (Outcome::Delivered, Some(true)) => {
                    let when = within(sink.found_within_ms);
                    write!(f, "; can be found there, {when} after it was received")?;
                }
                (Outcome::Delivered, Some(false)) => write!(f, "; can NOT be found there")?,
                (Outcome::Delivered, None) => {
                    write!(
                        f,
                        "; it can't be asked from here: search there for the id or the marker"
                    )?;
                }
                _ => {}
            }
            if let Some(trouble) = &sink.trouble {
                write!(f, "; asking failed: {trouble}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Waits for a record; the error is a text with what to try.
pub fn wait(config: &Config, asked: &Asked<'_>, tell: &dyn Fn(&str)) -> Result<Arrived, String> {
    let long_enough = asked.marker.len() >= MARKER_BYTES_MIN;
    if !long_enough || asked.marker.len() > MARKER_BYTES_MAX {
        return Err(format!(
            "{:?} is no marker: they are of {MARKER_BYTES_MIN} to {MARKER_BYTES_MAX} bytes\n  try: the one that penstock-high doctor --send-test printed",
            asked.marker
        ));
    }
    let deadline = Instant::now() + asked.within;
    let keys = Keys::load(&config.keys_dir, &config.releases).map_err(|err| err.to_string())?;
    let ledger = Ledger::open_read_only(&config.state_dir).map_err(|err| chain_text(&err))?;
    let search = Search { config, keys, marker: asked.marker };
    let mut found = search.arrival(&ledger, asked.since, deadline, tell)?;
    tell(&format!(
        "admitted in bundle {} of {}: record {}",
        found.bundle.number, found.bundle.chain_name, found.id
    ));
    let sinks = at_sinks(config, &ledger, &mut found, deadline, tell)?;
    Ok(Arrived {
        marker: asked.marker.to_owned(),
        record_id: found.id.to_string(),
        chain: found.bundle.chain_name.to_string(),
        sequence: found.sequence,
        stream: found.stream,
        received: found.received.to_string(),
        sealed: found.bundle.sealed.to_string(),
        bundle: found.bundle.number,
        file: found.bundle.file.clone(),
        admitted: found.bundle.admitted.to_string(),
        admitted_after_ms: millis(found.bundle.admitted.since(found.received)),
        sinks,
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The record, found in a bundle.
struct Found {
    bundle: ArrivedBundle,
    id: RecordId,
    sequence: u64,
    stream: Stream,
    received: Nanos,
    /// The sinks whose filter takes it, by place in the configuration.
    taken_by: Vec<bool>,
}

struct Search<'a> {
    config: &'a Config,
    keys: Keys,
    marker: &'a str,
}

impl Search<'_> {
    /// Waits for the bundle with the record.
    fn arrival(
        &self,
        ledger: &Ledger,
        since: Duration,
        deadline: Instant,
        tell: &dyn Fn(&str),
    ) -> Result<Found, String> {
        let now = SystemClock.now();
        let from = Nanos(now.0.saturating_sub(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)));
        let mut seen = BTreeSet::new();
        let mut told = Instant::now();
        loop {
            let arrived =
                ledger.arrived_since(from, BUNDLES_MAX).map_err(|err| chain_text(&err))?;
            for bundle in arrived {
                if seen.insert((bundle.chain, bundle.number))
                    && let Some(found) = self.look_into(bundle)
                {
                    return Ok(found);
                }
            }
            if Instant::now() >= deadline {
                return Err(self.not_come(ledger, seen.len()));
            }
            if told.elapsed() >= TELL_INTERVAL {
                told = Instant::now();
                tell(&format!("not come yet; {} bundles looked through", seen.len()));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Reads a bundle of the store. One that can't be read has an alarm of its own.
    fn look_into(&self, bundle: ArrivedBundle) -> Option<Found> {
        let store = Folders::of(&self.config.state_dir).store;
        let opened = File::open(store.join(&bundle.file)).map_err(Refusal::Io).and_then(|file| {
            reopen(&file, &bundle.digest, &self.keys.identities, &self.config.limits)
        });
        let mut records = opened.ok()?;
        let finder = memmem::Finder::new(self.marker);
        while let Ok(Some(record)) = records.next_record() {
            if finder.find(record.raw).is_some() {
                return Some(self.found(bundle, &record));
            }
        }
        None
    }

    fn found(&self, bundle: ArrivedBundle, record: &RecordRef<'_>) -> Found {
        let chain = &bundle.chain_name;
        let takes = |sink: &SinkConfig| sink.filter.takes(chain, record);
        Found {
            id: RecordId::new(&chain.origin, chain.epoch, chain.lane, record.sequence),
            sequence: record.sequence.0,
            stream: record.stream,
            received: record.received,
            taken_by: self.config.sinks.iter().map(takes).collect(),
            bundle,
        }
    }

    /// What may have kept it, as far as this side can tell.
    fn not_come(&self, ledger: &Ledger, looked: usize) -> String {
        let mut text = format!(
            "no bundle with {} came in time ({looked} bundles with records were looked through)\n  try: on the high side: penstock-high bundles; was its bundle carried?",
            self.marker
        );
        let codes = ledger.quarantine_codes().unwrap_or_default();
        if !codes.is_empty() {
            let codes: Vec<String> = codes.into_iter().map(|(code, _)| code).collect();
            text = format!("{text}\n  try: penstock-low quarantine list: {}", codes.join(", "));
        }
        if crate::status::live(&Folders::of(&self.config.state_dir)).is_none() {
            text = format!("{text}\n  try: start the agent: none runs that this user can see");
        }
        text
    }
}

/// Waits until every sink has dealt with the record, and shows it where it can be asked.
fn at_sinks(
    config: &Config,
    ledger: &Ledger,
    found: &mut Found,
    deadline: Instant,
    tell: &dyn Fn(&str),
) -> Result<Vec<AtSink>, String> {
    let mut sinks: Vec<AtSink> = config
        .sinks
        .iter()
        .zip(&found.taken_by)
        .map(|(sink, taken)| AtSink {
            name: sink.name.clone(),
            outcome: if *taken { Outcome::Waiting } else { Outcome::Filtered },
            delivered_within_ms: None,
            seen_live: false,
            found: None,
            found_within_ms: None,
            trouble: None,
        })
        .collect();
    let mut first = true;
    loop {
        let mut open = false;
        for (sink, settings) in sinks.iter_mut().zip(&config.sinks) {
            if sink.outcome == Outcome::Waiting {
                deliver(config, ledger, found, sink, first).map_err(|err| chain_text(&err))?;
                if sink.outcome != Outcome::Waiting {
                    tell(&format!("{}: {:?}", sink.name, sink.outcome).to_lowercase());
                }
            }
            if sink.outcome == Outcome::Delivered && sink.found != Some(true) {
                look_for(settings, found, sink);
                open |= sink.found == Some(false) || sink.trouble.is_some();
            }
            open |= sink.outcome == Outcome::Waiting;
        }
        if !open || Instant::now() >= deadline {
            return Ok(sinks);
        }
        first = false;
        thread::sleep(if sinks.iter().any(|sink| sink.outcome == Outcome::Waiting) {
            LOOK_INTERVAL
        } else {
            ASK_INTERVAL
        });
    }
}

fn deliver(
    config: &Config,
    ledger: &Ledger,
    found: &Found,
    sink: &mut AtSink,
    first: bool,
) -> Result<(), LedgerError> {
    let Some(id) = ledger.sink_named(&sink.name)? else { return Ok(()) };
    if !ledger.has_taken(id, found.bundle.chain, found.sequence)? {
        return Ok(());
    }
    let wanted = found.id.to_string();
    let refused = DeadLetters::of(&config.state_dir, &sink.name).files().iter().any(|letters| {
        dead_letters::read(letters)
            .is_ok_and(|mut letters| letters.any(|one| one.is_ok_and(|one| one.id == wanted)))
    });
    sink.outcome = if refused { Outcome::Refused } else { Outcome::Delivered };
    sink.delivered_within_ms = Some(millis(SystemClock.now().since(found.received)));
    sink.seen_live = !first;
    Ok(())
}

fn look_for(settings: &SinkConfig, found: &Found, sink: &mut AtSink) {
    let said = match &settings.kind {
        SinkKind::File(file) => {
            in_files(&file.dir, &found.id.to_string()).map_err(|err| err.to_string())
        }
        _ => find(settings, &found.id).map_err(|err| chain_text(&err)),
    };
    match said {
        Ok(asked) => {
            sink.found = asked;
            sink.trouble = None;
            if asked == Some(true) {
                sink.found_within_ms = Some(millis(SystemClock.now().since(found.received)));
            }
        }
        Err(why) => sink.trouble = Some(why),
    }
}

/// Whether an id stands near the end of one of a file sink's files. What an archiver took away, or what
/// lies far back, can't be told.
fn in_files(dir: &Path, id: &str) -> std::io::Result<Option<bool>> {
    let mut files: Vec<(std::time::SystemTime, PathBuf)> = fs::read_dir(dir)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let finder = memmem::Finder::new(id);
    let mut looked_back = false;
    for (_, path) in files.into_iter().rev().take(FILES_MAX) {
        let Ok(Some(mut file)) = crate::folders::open_untrusted(&path) else { continue };
        let bytes = file.metadata()?.len();
        let from = bytes.saturating_sub(TAIL_BYTES_MAX);
        looked_back |= from > 0;
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut tail)?;
        if finder.find(&tail).is_some() {
            return Ok(Some(true));
        }
    }
    Ok((!looked_back).then_some(false))
}

/// What a marker is at least, so that it marks one record.
const MARKER_BYTES_MIN: usize = 12;
const MARKER_BYTES_MAX: usize = 200;
/// So many of the latest bundles are looked through.
const BUNDLES_MAX: u32 = 10_000;
/// From one look at the ledger to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// From one question to a destination to the next.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// So often something is said while nothing happens.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// A file sink's current file, and some before it.
const FILES_MAX: usize = 4;
const TAIL_BYTES_MAX: u64 = 16 << 20;
