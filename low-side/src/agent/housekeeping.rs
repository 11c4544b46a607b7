//! Once a second: gaps that have held long enough, silence, sinks and archives that lag, and the status files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use page::metrics::Format;
use serde_json::json;
use shared::clock::{Clock, Nanos};
use shared::config::Span;
use shared::custody::CheckpointPolicy;
use shared::durable;

use super::watch_receivers::ReceiverWatch;
use super::watch_sinks::SinkWatch;
use super::{Boards, InboxBoard};
use crate::config::{AdmissionConfig, Config, GapPolicy, ReceiptConfig};
use crate::import::KeyRing;
use crate::ledger::{CustodyError, Ledger, LedgerError, PassGaps};
use crate::metrics::{Surroundings, numbers};
use crate::replay::{HealthBoard, chain_text};
use crate::site;
use crate::status::{Live, METRICS_FILE, STATUS_FILE, Status};
use shared::bell::Bell;

const RECEIPT_NOT_WRITTEN: &str = "receipt-not-written";
const ARCHIVE_LAG: &str = "archive-lag";
const INTERVAL: Duration = Duration::from_secs(1);
/// Everyone may read the numbers.
const FILE_MODE: u32 = 0o644;

pub(super) struct Keeper<C> {
    ledger: Ledger,
    state_dir: PathBuf,
    admission: AdmissionConfig,
    keys: KeyRing,
    inbox: InboxBoard,
    boards: Boards,
    bells: Vec<Bell>,
    clock: C,
    started: Nanos,
    /// What is silent, and since when; `None` of what was never heard.
    silent: BTreeMap<String, Option<Nanos>>,
    keys_dir: PathBuf,
    config: Config,
    receipt: Option<ReceiptConfig>,
    /// When the last receipt was written.
    receipt_last: Option<Nanos>,
    receivers: ReceiverWatch,
    sinks: SinkWatch,
    /// How long a bundle may wait for each archive.
    lags: Vec<(String, Duration)>,
}

impl<C: Clock> Keeper<C> {
    pub(super) fn new(
        config: &Config,
        ledger: Ledger,
        keys: KeyRing,
        inbox: InboxBoard,
        boards: Boards,
        bells: Vec<Bell>,
        clock: C,
    ) -> Self {
        Self {
            ledger,
            state_dir: config.state_dir.clone(),
            admission: config.admission,
            keys,
            inbox,
            boards,
            bells,
            started: clock.now(),
            clock,
            silent: BTreeMap::new(),
            keys_dir: config.keys_dir.clone(),
            config: config.clone(),
            receipt: config.receipt.clone(),
            receipt_last: None,
            receivers: ReceiverWatch::default(),
            sinks: SinkWatch::of(&config.sinks),
            lags: config
                .archives
                .iter()
                .map(|archive| (archive.name.clone(), archive.lag_alarm))
                .collect(),
        }
    }

    pub(super) fn run(mut self, bell: &Bell) {
        while !bell.stopping() {
            if let Err(error) = self.tick() {
                tracing::error!(
                    error = chain_text(&error),
                    "housekeeping failed; it is tried again"
                );
            }
            // The service manager may wait for a sign of life.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            bell.rest(INTERVAL);
        }
    }

    fn tick(&mut self) -> Result<(), LedgerError> {
        let now = self.clock.now();
        self.pass_gaps(now)?;
        self.look_for_silence(now)?;
        self.receivers.look(&self.boards.receivers, &mut self.ledger, now)?;
        self.sinks.look(&self.boards.sinks, &mut self.ledger, now)?;
        self.look_for_lag(now)?;
        let live = self.live();
        self.keep_custody(now)?;
        self.write_receipt(now);
        let status = Status::gather(&mut self.ledger, &self.config.latency, now, Some(live))?;
        let numbers = numbers(&status, &Surroundings::look(&self.config));
        let write = |name: &str, bytes: &[u8]| {
            durable::write_volatile(&self.state_dir.join(name), bytes, FILE_MODE)
        };
        let json = serde_json::to_vec(&status).unwrap_or_default();
        if let Err(error) = write(STATUS_FILE, &json)
            .and_then(|()| write(METRICS_FILE, numbers.text(Format::Text).as_bytes()))
        {
            tracing::warn!(%error, "the status files can't be written");
        }
        Ok(())
    }

    /// The custody log: what waits is written, and signed where that is due. Where it can't be, that is
    /// an alarm and no reason to stop.
    fn keep_custody(&mut self, now: Nanos) -> Result<(), LedgerError> {
        let policy = CheckpointPolicy::default();
        let kept = sign(&mut self.ledger, &self.keys_dir, Some(&policy), now)
            .and_then(|()| self.ledger.settle_custody(false, now));
        match kept {
            Ok(()) | Err(CustodyError::Busy) => {}
            Err(CustodyError::Ledger(error)) => return Err(error),
            // Told by an alarm.
            Err(error) => tracing::debug!(error = chain_text(&error), "the custody log waits"),
        }
        self.ledger.prune_latencies(now)
    }

    fn write_receipt(&mut self, now: Nanos) {
        let Some(ReceiptConfig { folder, interval }) = &self.receipt else { return };
        if self.receipt_last.is_some_and(|last| now.since(last) < *interval) {
            return;
        }
        self.receipt_last = Some(now);
        let name = site::name(&self.keys_dir);
        let path = folder.join(format!("{name}.receipt"));
        let written =
            site::signing_key(&self.keys_dir).map_err(|err| err.to_string()).and_then(|key| {
                let receipt =
                    self.ledger.make_receipt(&name, now).map_err(|err| chain_text(&err))?;
                let text = receipt.sign(&key).map_err(|err| err.to_string())?;
                durable::write(&path, text.as_bytes(), FILE_MODE)
                    .map_err(|err| format!("{}: {err}", path.display()))
            });
        let told = match written {
            Ok(()) => self.ledger.close_alarm(RECEIPT_NOT_WRITTEN, "receipt", now),
            Err(problem) => self.ledger.raise_once(RECEIPT_NOT_WRITTEN, "receipt", &problem, now),
        };
        if let Err(error) = told {
            tracing::error!(error = chain_text(&error), "an alarm about the receipt can't be kept");
        }
    }

    fn pass_gaps(&mut self, now: Nanos) -> Result<(), LedgerError> {
        let noticed_before = match self.admission.gap {
            GapPolicy::Hold(hold) => {
                Nanos(now.0.saturating_sub(i64::try_from(hold.as_nanos()).unwrap_or(i64::MAX)))
            }
            // Gaps noticed under another policy.
            GapPolicy::Pass => now,
        };
        if self.ledger.pass_gaps(PassGaps::NoticedBefore(noticed_before), now)? > 0 {
            self.bells.iter().for_each(Bell::ring);
        }
        Ok(())
    }

    /// Every trusted origin must be heard of, and of each of its lanes that was ever heard of there must
    /// be a heartbeat at least: silence is never success, and one lane's link may be down alone. Silence
    /// that was acknowledged and goes on is told again each time it has lasted as long once more.
    fn look_for_silence(&mut self, now: Nanos) -> Result<(), LedgerError> {
        let heard: BTreeMap<String, Nanos> = self.ledger.last_heard()?.into_iter().collect();
        let keys = self.keys.current();
        let trusted = keys.trust.origins().into_iter().map(ToString::to_string);
        let origins: BTreeSet<String> = trusted.chain(heard.keys().cloned()).collect();
        for origin in origins {
            let last = heard.get(&origin).copied();
            self.judge_silence(&origin, last, now)?;
        }
        for (origin, lane, last) in self.ledger.last_heard_by_lane()? {
            // One alarm for an origin that is silent altogether.
            let told = self.silent.contains_key(&origin);
            let last = if told { now } else { last };
            self.judge_silence(&format!("{origin}/{lane}"), Some(last), now)?;
        }
        Ok(())
    }

    fn judge_silence(
        &mut self,
        subject: &str,
        last: Option<Nanos>,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        // What was never heard of is given the time from our start on.
        let limit = self.admission.silence_alarm;
        if now.since(last.unwrap_or(self.started)) <= limit {
            self.silent.remove(subject);
            return Ok(());
        }
        self.silent.insert(subject.to_owned(), last);
        let since = last.map_or("ever".to_owned(), |last| format!("since {last}"));
        let message = format!(
            "no bundle of {subject} has come {since}, not even a heartbeat; the limit is {}",
            Span(limit)
        );
        let span = (last.unwrap_or(Nanos(i64::MIN)), limit);
        self.ledger.raise_lasting("silence", subject, &message, span, now)
    }

    /// What waits for an archive for too long: behind one that comes first, no sink gets it either.
    fn look_for_lag(&mut self, now: Nanos) -> Result<(), LedgerError> {
        if self.lags.is_empty() {
            return Ok(());
        }
        for sum in self.ledger.archive_sums()? {
            let Some((_, most)) = self.lags.iter().find(|(name, _)| *name == sum.name) else {
                continue;
            };
            let since: Option<Nanos> = sum.waiting_since.as_deref().and_then(|at| at.parse().ok());
            if since.is_some_and(|since| now.since(since) > *most) {
                let behind = if sum.before { "; their records wait, too" } else { "" };
                let message = format!(
                    "{} bundle(s) wait for the archive, the first since {}; the limit is {}{behind}",
                    sum.waiting,
                    sum.waiting_since.unwrap_or_default(),
                    Span(*most)
                );
                self.ledger.raise_once(ARCHIVE_LAG, &sum.name, &message, now)?;
            } else {
                self.ledger.close_alarm(ARCHIVE_LAG, &sum.name, now)?;
            }
        }
        Ok(())
    }

    fn live(&self) -> serde_json::Value {
        let health = |board: &HealthBoard| serde_json::to_value(board.read()).unwrap_or_default();
        let live = Live {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started.to_string(),
            confinement: shared::reach::confinement().map(ToString::to_string),
            inbox_waiting: self.inbox.waiting.load(Ordering::Relaxed),
            inbox_ignored: self.inbox.ignored.load(Ordering::Relaxed),
            silent: self
                .silent
                .iter()
                .map(|(subject, last)| (subject.clone(), last.map(|last| last.to_string())))
                .collect(),
            sinks: self
                .boards
                .sinks
                .iter()
                .map(|(name, board)| (name.clone(), health(board)))
                .collect(),
            archives: self
                .boards
                .archives
                .iter()
                .map(|(name, board)| {
                    (name.clone(), serde_json::to_value(board.read()).unwrap_or_default())
                })
                .collect(),
            receivers: self
                .boards
                .receivers
                .iter()
                .map(|(settings, counters)| {
                    json!({
                        "name": settings.name,
                        "type": settings.kind.as_str(),
                        "counters": counters.snapshot(),
                    })
                })
                .collect(),
        };
        serde_json::to_value(live).unwrap_or_default()
    }
}

/// Signs how far the custody log has come, where that is due; without a policy, where anything is
/// unsigned.
pub(super) fn sign(
    ledger: &mut Ledger,
    keys_dir: &Path,
    policy: Option<&CheckpointPolicy>,
    now: Nanos,
) -> Result<(), CustodyError> {
    let key = || Ok((site::identity(keys_dir), site::signing_key(keys_dir)?));
    ledger.sign_custody(key, policy, now).map(|_| ())
}
