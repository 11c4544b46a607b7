//! One run at one Portainer: what happened there is compared, stretch by stretch, with what came here.

use std::collections::HashMap;
use std::hash::RandomState;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shared::bundle::RECORD_BYTES_MAX;
use shared::clock::Clock;
use shared::json::Tape;
use shared::record::{SourceTag, Stream};

use crate::buffer::{AlarmKind, BufferError, Sighting, Store};
use crate::ingest::{Batch, Gate};

use super::answer::{Page, Unread};
use super::ask::{Pages, Step, Walk};
use super::client::Client;
use super::error::ReconcileError;
use super::matching::missing;
use super::report::{Report, second_text};
use super::state::{Beginning, State};
use super::{PORTAINER_KEEPS, PortainerApi};

/// What is wanted of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Look back so far; by default, to a little before the end of the last run.
    pub since: Option<Duration>,
}

/// One run at one Portainer.
pub struct Run<'a> {
    pub(super) api: &'a PortainerApi,
    pub(super) state_dir: &'a Path,
    pub(super) clock: Arc<dyn Clock>,
    /// The way into the buffer; without one, nothing is inserted and nothing remembered.
    pub(super) gate: Option<&'a Gate>,
    /// Is told how far it is.
    pub(super) progress: &'a (dyn Fn(&Report) + Send + Sync),
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("api", &self.api).finish_non_exhaustive()
    }
}

impl<'a> Run<'a> {
    /// A run that compares and changes nothing: it may run beside an agent.
    pub fn dry(
        api: &'a PortainerApi,
        state_dir: &'a Path,
        clock: Arc<dyn Clock>,
        progress: &'a (dyn Fn(&Report) + Send + Sync),
    ) -> Self {
        Self { api, state_dir, clock, gate: None, progress }
    }

    /// A run that inserts what is missing, through a gate.
    pub(crate) fn recovering(
        api: &'a PortainerApi,
        state_dir: &'a Path,
        clock: Arc<dyn Clock>,
        gate: &'a Gate,
        progress: &'a (dyn Fn(&Report) + Send + Sync),
    ) -> Self {
        Self { api, state_dir, clock, gate: Some(gate), progress }
    }

    /// Runs to its end, or until something is in the way: then the report says what.
    pub async fn run(&self, wanted: Wanted) -> Report {
        let mut report = Report::begin(self.api, self.gate.is_none(), self.clock.now());
        (self.progress)(&report);
        let result = self.compare(wanted, &mut report).await;
        if let Err(err) = result {
            report.error = err.to_string();
        }
        report.ended = self.clock.now().to_string();
        if self.gate.is_some()
            && let Err(err) = self.finish(&report).await
            && report.error.is_empty()
        {
            report.error = err.to_string();
        }
        (self.progress)(&report);
        report
    }

    async fn compare(&self, wanted: Wanted, report: &mut Report) -> Result<(), ReconcileError> {
        let name = self.api.name.clone();
        let (mut state, beginning) = with_store(self.state_dir, move |store| {
            Ok((State::load(store, &name)?, Beginning::load(store)?))
        })
        .await?;
        let mut portainer = Portainer {
            client: Client::new(self.api)?,
            tape: Tape::default(),
            prints: RandomState::new(),
            requests: 0,
            clock_ahead: None,
            now: Arc::clone(&self.clock),
        };
        // One record is enough to learn whether it answers us, and what its clock says.
        portainer.page(Stream::PortainerAuth, (1, i64::from(u32::MAX)), 0, 1).await?;
        report.clock_ahead_secs = portainer.clock_ahead.unwrap_or(0);
        if portainer.clock_ahead.is_none() {
            report
                .note("it does not say what its clock says; it is taken to go as ours".to_owned());
        }
        let times = self.times(wanted, &state, beginning, report);
        report.from = second_text(times.from);
        report.through = second_text(times.from - 1);
        let mut at = times.from;
        let mut length = STRETCH_SECS;
        while at <= times.to {
            let end = times.to.min(at + length - 1);
            let stretch = Stretch { from: at, to: end, is_last: end == times.to };
            match self.stretch(&stretch, &times, &mut portainer, &mut state, report).await {
                Ok(()) => {
                    at = end + 1;
                    length = STRETCH_SECS.min(length * 2);
                }
                Err(ReconcileError::Crowded { .. }) if end > at => length = (end - at + 1) / 2,
                Err(err) => return Err(err),
            }
            report.requests = portainer.requests;
            (self.progress)(report);
        }
        if report.asked() >= MOSTLY_MISSING_LEAST && report.missing * 10 >= report.asked() * 9 {
            report.note(
                "hardly anything that it has came by syslog: either syslog is not set up, or it comes in a shape that can't be compared, and then records are taken in twice".to_owned(),
            );
        }
        Ok(())
    }

    /// What is compared, in seconds of Portainer's clock.
    fn times(
        &self,
        wanted: Wanted,
        state: &State,
        beginning: Option<Beginning>,
        report: &mut Report,
    ) -> Times {
        let now = self.clock.now().as_secs() + report.clock_ahead_secs;
        let secs = |span: Duration| span.as_secs().cast_signed();
        let to = now - secs(self.api.settle);
        let kept_from = now - secs(PORTAINER_KEEPS);
        // What came before sightings were kept would be taken for missing.
        let known_from = match beginning {
            Some(Beginning::At(second)) => second + report.clock_ahead_secs,
            Some(Beginning::Always) => i64::MIN,
            None => now,
        };
        if report.clock_ahead_secs.abs() > secs(self.api.tolerance) {
            report.note(format!(
                "its clock and ours differ by {} s; its own is used for its records",
                report.clock_ahead_secs.abs()
            ));
        }
        let usual = state.through.map(|through| (through + 1 - secs(self.api.overlap)).min(to));
        if let Some(through) = state.through.filter(|through| *through < kept_from) {
            report.hole_after = Some(through);
            report.note(format!(
                "it was last asked up to {}, and keeps records for 7 days: what syslog lost before {} is gone, and nobody can say whether there was any",
                second_text(through),
                second_text(kept_from)
            ));
        }
        let asked = match wanted.since {
            Some(since) => now - secs(since),
            None => usual.unwrap_or(kept_from),
        };
        let from = asked.max(kept_from).max(known_from);
        if wanted.since.is_some() && from > asked {
            let why = if from == known_from {
                "before that, nobody noted what came by syslog"
            } else {
                "Portainer keeps no more than 7 days"
            };
            report.note(format!("it is compared from {} on: {why}", second_text(from)));
        }
        let usual = usual.unwrap_or(kept_from).max(kept_from).max(known_from);
        Times {
            now,
            from,
            to,
            moves_mark: from <= usual.max(state.through.map_or(i64::MIN, |t| t + 1)),
        }
    }

    /// Compares one stretch of time and takes what is missing.
    async fn stretch(
        &self,
        stretch: &Stretch,
        times: &Times,
        portainer: &mut Portainer,
        state: &mut State,
        report: &mut Report,
    ) -> Result<(), ReconcileError> {
        let tolerance = self.api.tolerance.as_secs().cast_signed();
        let margin = MARGIN_FACTOR * tolerance;
        let until = if stretch.is_last { times.now + AHEAD_SECS } else { stretch.to + margin };
        let mut found = Report::default();
        let mut entries: Vec<Entry> = Vec::new();
        for stream in STREAMS {
            let mut walk = Walk::new(stream, stretch.from - margin, until, self.api.page_size);
            while let Some(step) = walk.next(portainer).await? {
                Self::index(&step, stream, stretch, &mut entries, &mut found);
                if entries.len() > RECORDS_MAX {
                    let secs = stretch.to - stretch.from + 1;
                    let url = portainer.place();
                    return Err(ReconcileError::Crowded { url, most: RECORDS_MAX, secs });
                }
            }
            walk.notes.into_iter().for_each(|note| found.note(note));
        }
        let sightings = self.sightings(stretch.from - margin, until, tolerance).await?;
        let records: Vec<Sighting> = entries.iter().map(|entry| entry.sighting).collect();
        let mut wanted: Vec<&Entry> = Vec::new();
        for missing in missing(&records, &sightings, tolerance) {
            let entry = &entries[missing.index];
            if stretch.decides(entry.sighting.second) {
                found.ambiguous += u64::from(missing.ambiguous);
                wanted.push(entry);
            }
        }
        found.missing = wanted.len() as u64;
        found.matched = found.asked() - found.missing;
        report.add(found);
        if let Some(gate) = self.gate {
            if !wanted.is_empty() {
                self.take(gate, &wanted, portainer, state, report).await?;
            }
            if times.moves_mark {
                state.through = Some(state.through.unwrap_or(i64::MIN).max(stretch.to));
                let source = Arc::new(self.source());
                let mut batch = Batch::new(gate, source);
                batch.mark(state.mark(&self.api.name));
                batch.commit().await?;
            }
        }
        report.through = second_text(stretch.to);
        Ok(())
    }

    /// Notes what a page holds; its bytes are not kept.
    fn index(
        step: &Step,
        stream: Stream,
        stretch: &Stretch,
        entries: &mut Vec<Entry>,
        found: &mut Report,
    ) {
        for at in &step.fresh {
            let item = &step.page.items[*at];
            match item.sighting {
                Ok(sighting) => {
                    if stretch.decides(sighting.second) {
                        found.count_asked(stream);
                    } else if stretch.is_last && sighting.second > stretch.to {
                        found.too_young += 1;
                    }
                    entries.push(Entry { sighting, print: item.print, stream });
                }
                // Without a time it stands in every stretch; it is counted in the last one.
                Err(what) if stretch.is_last => found.note_malformed(|| {
                    format!("{} record with {} bytes: {what}", stream.as_str(), item.range.len())
                }),
                Err(_) => {}
            }
        }
    }

    async fn sightings(
        &self,
        from: i64,
        to: i64,
        tolerance: i64,
    ) -> Result<Vec<Sighting>, ReconcileError> {
        let (from, to) = (from - tolerance, to + tolerance);
        with_store(self.state_dir, move |store| {
            let mut found = Vec::new();
            store.sightings(from, |sighting| {
                if (from..=to).contains(&sighting.second) {
                    found.push(sighting);
                }
            })?;
            Ok(found)
        })
        .await
    }

    /// Asks once more for what is missing and hands it over, with its sightings.
    async fn take(
        &self,
        gate: &Gate,
        wanted: &[&Entry],
        portainer: &mut Portainer,
        state: &mut State,
        report: &mut Report,
    ) -> Result<(), ReconcileError> {
        let source = Arc::new(self.source());
        for stream in STREAMS {
            let of_stream = wanted.iter().filter(|entry| entry.stream == stream);
            let mut seconds: Vec<i64> = of_stream.clone().map(|e| e.sighting.second).collect();
            seconds.sort_unstable();
            let mut left: HashMap<u64, u64> = HashMap::new();
            of_stream.for_each(|entry| *left.entry(entry.print).or_default() += 1);
            for near in seconds.chunk_by(|a, b| b - a <= NEAR_SECS) {
                let (from, to) = (near[0], near[near.len() - 1]);
                let mut walk = Walk::new(stream, from, to, self.api.page_size);
                while let Some(step) = walk.next(portainer).await? {
                    let mut batch = Batch::new(gate, Arc::clone(&source));
                    let mut count = 0;
                    for at in &step.fresh {
                        let item = &step.page.items[*at];
                        let Some(more) = left.get_mut(&item.print).filter(|more| **more > 0) else {
                            continue;
                        };
                        *more -= 1;
                        let raw = &step.page.body[item.range.clone()];
                        let kept = raw.len().min(RECORD_BYTES_MAX as usize);
                        let cut_from = (kept < raw.len()).then_some(raw.len() as u64);
                        batch.push_as(&raw[..kept], self.clock.now(), cut_from, Some(stream));
                        count += 1;
                        if batch.is_full() {
                            self.commit(&mut batch, std::mem::take(&mut count), state, report)
                                .await?;
                        }
                    }
                    self.commit(&mut batch, count, state, report).await?;
                }
            }
            report.gone += left.values().sum::<u64>();
        }
        Ok(())
    }

    /// Makes a batch durable together with the count of what no alarm has told yet.
    async fn commit(
        &self,
        batch: &mut Batch<'_>,
        count: u64,
        state: &mut State,
        report: &mut Report,
    ) -> Result<(), ReconcileError> {
        if count == 0 {
            return Ok(());
        }
        state.untold += count;
        batch.mark(state.mark(&self.api.name));
        batch.commit().await?;
        report.recovered += count;
        (self.progress)(report);
        Ok(())
    }

    /// Raises the alarms that a run calls for, then remembers that, and how it went.
    async fn finish(&self, report: &Report) -> Result<(), ReconcileError> {
        let Some(gate) = self.gate else { return Ok(()) };
        let name = self.api.name.clone();
        let now = self.clock.now();
        let hole_after = report.hole_after;
        let mut state = with_store(self.state_dir, move |store| {
            let state = State::load(store, &name)?;
            if state.untold > 0 {
                let message = format!(
                    "{} record(s) that Portainer {name} has never came by syslog and were recovered: look for why they were lost (UDP, a restart, a full buffer)",
                    state.untold
                );
                store.raise_alarm(AlarmKind::RecordsRecovered, &message, now)?;
            }
            // Told once the mark has moved past it; until then the next run finds it again.
            if let Some(hole) = hole_after.filter(|hole| state.through > Some(*hole)) {
                let message = format!(
                    "Portainer {name} was not asked from {} on for longer than the 7 days for which it keeps records: what syslog lost at the beginning of that time is gone, and nobody can say whether there was any",
                    second_text(hole)
                );
                store.raise_alarm(AlarmKind::ReconcileOverdue, &message, now)?;
            }
            Ok(state)
        })
        .await?;
        let recovered = std::mem::take(&mut state.untold);
        if report.error.is_empty() {
            state.asked_ns = Some(now.0);
            state.last = Some(report.clone());
        } else if recovered == 0 {
            return Ok(());
        }
        let mut batch = Batch::new(gate, Arc::new(self.source()));
        batch.mark(state.mark(&self.api.name));
        batch.commit().await?;
        Ok(())
    }

    fn source(&self) -> SourceTag {
        SourceTag::new(&self.api.name, &self.api.url.authority(), None).recovered()
    }
}

/// Portainer's two lists, in the order in which they are asked for.
const STREAMS: [Stream; 2] = [Stream::PortainerAuth, Stream::PortainerActivity];

/// What is compared.
struct Times {
    /// What Portainer's clock says.
    now: i64,
    from: i64,
    to: i64,
    /// Whether nothing is left out between what was compared before and this.
    moves_mark: bool,
}

/// A part of it, short enough to be held in memory.
struct Stretch {
    from: i64,
    to: i64,
    is_last: bool,
}

impl Stretch {
    /// Whether a record is decided about here; others are only asked for so that a sighting that
    /// belongs to them is taken for nobody else's.
    fn decides(&self, second: i64) -> bool {
        (self.from..=self.to).contains(&second)
    }
}

struct Entry {
    sighting: Sighting,
    print: u64,
    stream: Stream,
}

/// The real Portainer.
struct Portainer {
    client: Client,
    tape: Tape,
    prints: RandomState,
    requests: u64,
    /// How many seconds its clock is ahead of ours, as the first answer that says so shows.
    clock_ahead: Option<i64>,
    now: Arc<dyn Clock>,
}

impl Pages for Portainer {
    async fn page(
        &mut self,
        stream: Stream,
        (from, to): (i64, i64),
        offset: u64,
        limit: u32,
    ) -> Result<Page, ReconcileError> {
        let list = match stream {
            Stream::PortainerAuth => "authlogs",
            _ => "logs",
        };
        // The names of columns are written as Portainer's documents write them.
        let path = format!(
            "/api/useractivity/{list}?offset={offset}&limit={limit}&after={from}&before={to}&sortBy=Timestamp&sortDesc=true"
        );
        let before = self.now.now();
        let said = self.client.get(&path).await?;
        self.requests += 1;
        if let (Some(date), None) = (said.date, self.clock_ahead) {
            let after = self.now.now();
            // It was written at some time between the two; whole seconds, rounded down.
            self.clock_ahead = Some(if date < before.as_secs() - 1 {
                date - before.as_secs()
            } else {
                (date - after.as_secs()).max(0)
            });
        }
        Page::read(said.body, &mut self.tape, &self.prints).map_err(|unread| {
            let url = format!("{}{path}", self.client.place());
            match unread {
                Unread::Malformed(why) => ReconcileError::Malformed { url, why },
                Unread::TooComplex => {
                    ReconcileError::TooLarge { url, most: super::client::ANSWER_BYTES_MAX }
                }
            }
        })
    }

    fn place(&self) -> String {
        self.client.place()
    }
}

/// Reads the buffer on a thread that may block.
pub(super) async fn with_store<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce(&mut Store) -> Result<T, BufferError> + Send + 'static,
) -> Result<T, ReconcileError> {
    let dir: PathBuf = dir.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&mut Store::open(&dir)?));
    Ok(done.await.map_err(|_| ReconcileError::Thread)??)
}

/// With so many records it says something if hardly any of them came.
const MOSTLY_MISSING_LEAST: u64 = 20;

/// How much time is compared at once.
const STRETCH_SECS: i64 = 6 * 3600;

/// The most records of one stretch; with more, it is made shorter. Their index takes 40 bytes each.
const RECORDS_MAX: usize = 500_000;

/// So many times the tolerance is looked at on both sides of a stretch, for what belongs to records
/// there.
const MARGIN_FACTOR: i64 = 8;

/// Records dated so far ahead of Portainer's own clock are seen, as too young.
const AHEAD_SECS: i64 = 24 * 3600;

/// Missing records closer than this are asked for together.
const NEAR_SECS: i64 = 600;
