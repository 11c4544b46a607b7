//! Once a second: gaps that have held long enough, silence, and the status files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use shared::clock::{Clock, Nanos};
use shared::config::Span;
use shared::durable;

use super::{Boards, InboxBoard};
use crate::config::{AdmissionConfig, Config, GapPolicy};
use crate::import::KeyRing;
use crate::ledger::{Ledger, LedgerError, PassGaps};
use crate::replay::{HealthBoard, chain_text};
use crate::status::{Live, METRICS_FILE, STATUS_FILE, Status};
use shared::bell::Bell;

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
    silent: BTreeSet<String>,
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
            silent: BTreeSet::new(),
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
            bell.rest(INTERVAL);
        }
    }

    fn tick(&mut self) -> Result<(), LedgerError> {
        let now = self.clock.now();
        self.pass_gaps(now)?;
        self.look_for_silence(now)?;
        let live = self.live();
        let status = Status::gather(&mut self.ledger, now, Some(live))?;
        let write = |name: &str, bytes: &[u8]| {
            durable::write_volatile(&self.state_dir.join(name), bytes, FILE_MODE)
        };
        let json = serde_json::to_vec(&status).unwrap_or_default();
        if let Err(error) = write(STATUS_FILE, &json)
            .and_then(|()| write(METRICS_FILE, status.metrics().as_bytes()))
        {
            tracing::warn!(%error, "the status files can't be written");
        }
        Ok(())
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

    /// Every trusted origin must be heard of: silence is never success.
    fn look_for_silence(&mut self, now: Nanos) -> Result<(), LedgerError> {
        let heard: BTreeMap<String, Nanos> = self.ledger.last_heard()?.into_iter().collect();
        let keys = self.keys.current();
        let trusted = keys.trust.origins().into_iter().map(ToString::to_string);
        let origins: BTreeSet<String> = trusted.chain(heard.keys().cloned()).collect();
        for origin in origins {
            let last = heard.get(&origin).copied();
            // An origin that was never heard of is given the time from our start on.
            let silent = now.since(last.unwrap_or(self.started)) > self.admission.silence_alarm;
            if !silent {
                self.silent.remove(&origin);
            } else if self.silent.insert(origin.clone()) {
                let since = last.map_or("ever".to_owned(), |last| format!("since {last}"));
                let message = format!(
                    "no bundle of {origin} has come {since}; the limit is {}",
                    Span(self.admission.silence_alarm)
                );
                self.ledger.raise("silence", &origin, &message, now)?;
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
            inbox_waiting: self.inbox.waiting.load(Ordering::Relaxed),
            inbox_ignored: self.inbox.ignored.load(Ordering::Relaxed),
            sinks: self
                .boards
                .sinks
                .iter()
                .map(|(name, board)| (name.clone(), health(board)))
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
