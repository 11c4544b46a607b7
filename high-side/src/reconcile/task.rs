//! The part of the agent that reconciles: from time to time, and when told to. One task for all
//! Portainers, so that two runs never meet.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use shared::clock::Nanos;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::buffer::{AlarmKind, IntakeClosed, is_due};
use crate::ingest::{Batch, Gate, IngestCounters, Surroundings};

use super::report::Report;
use super::request::{self, Answer, Order};
use super::run::{Run, Wanted, with_store};
use super::state::State;
use super::{PortainerApi, ReconcileError, SIGHTINGS_KEPT};

/// What the running agent says of one Portainer.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SectionStatus {
    /// The section's name.
    pub name: String,
    /// Where it is asked.
    pub url: String,
    /// Whether it is being asked right now.
    pub running: bool,
    /// The run that runs, or the last one, whether it came to its end or not.
    pub last: Report,
    /// When a run last came to its end, in seconds since 1970; 0 if that never happened.
    pub succeeded_secs: i64,
    /// Runs that did not come to their end, one after the other, until now.
    pub failures_in_a_row: u32,
    /// Runs since the start.
    pub runs: u64,
    /// Those of them that did not come to their end.
    pub failures: u64,
    /// Records that Portainer gave, since the start.
    pub asked: u64,
    /// Those that had come before.
    pub matched: u64,
    /// Those that were taken.
    pub recovered: u64,
}

/// What the task tells; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Reconciling(Arc<Mutex<Vec<SectionStatus>>>);

impl Reconciling {
    /// Each Portainer, in the order of the configuration.
    pub fn sections(&self) -> Vec<SectionStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, at: usize, change: impl FnOnce(&mut SectionStatus)) {
        let mut sections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sections.get_mut(at).map(change);
    }
}

/// The running task.
#[derive(Debug)]
pub struct RunningReconciler {
    /// What it tells.
    pub status: Reconciling,
    /// Ends after shutdown.
    pub task: JoinHandle<()>,
}

/// Starts the task; call it inside a tokio runtime.
pub fn spawn(
    apis: Vec<PortainerApi>,
    state_dir: PathBuf,
    surroundings: &Surroundings,
) -> RunningReconciler {
    let section = |api: &PortainerApi| SectionStatus {
        name: api.name.clone(),
        url: api.url.to_string(),
        ..SectionStatus::default()
    };
    let status = Reconciling(Arc::new(Mutex::new(apis.iter().map(section).collect())));
    request::clean(&state_dir);
    let mut work = Work {
        sections: apis.into_iter().map(|api| Section::new(api, surroundings)).collect(),
        state_dir,
        surroundings: surroundings.clone(),
        status: status.clone(),
        orders: Vec::new(),
    };
    let mut shutdown = surroundings.shutdown.clone();
    let task = tokio::spawn(async move {
        tokio::select! {
            () = work.run() => {}
            // A run that is cut off is repeated; what it handed over stays.
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    });
    RunningReconciler { status, task }
}

/// The way of recovered records into the buffer.
pub(crate) fn gate_for(api: &PortainerApi, surroundings: &Surroundings) -> Gate {
    Gate {
        lane: api.lane,
        stream: None,
        guard: Arc::clone(&surroundings.guard),
        intake: surroundings.intake.clone(),
        clock: Arc::clone(&surroundings.clock),
        counters: Arc::new(IngestCounters::default()),
    }
}

struct Section {
    api: PortainerApi,
    gate: Gate,
    due: Instant,
    failures: u32,
}

impl Section {
    fn new(api: PortainerApi, surroundings: &Surroundings) -> Self {
        let gate = gate_for(&api, surroundings);
        Self { api, gate, due: Instant::now(), failures: 0 }
    }
}

struct Work {
    sections: Vec<Section>,
    state_dir: PathBuf,
    surroundings: Surroundings,
    status: Reconciling,
    /// Orders that were taken and not begun.
    orders: Vec<Order>,
}

impl Work {
    async fn run(&mut self) {
        loop {
            if let Some(order) = self.orders.pop() {
                self.carry_out(&order).await;
            } else if let Some(at) = self.due() {
                self.once(at, Wanted::default(), &|_| {}).await;
                self.forget().await;
            } else {
                tokio::time::sleep(ORDER_POLL).await;
                self.orders.extend(take_order(&self.state_dir));
            }
        }
    }

    fn due(&self) -> Option<usize> {
        let now = Instant::now();
        self.sections.iter().position(|section| section.due <= now)
    }

    /// Runs at every Portainer and tells in the answer how far it is.
    async fn carry_out(&mut self, order: &Order) {
        let answered = Mutex::new(Answer { id: order.id, ..Answer::default() });
        for at in 0..self.sections.len() {
            let state_dir = self.state_dir.clone();
            let tell = |report: &Report| {
                let mut answer = answered.lock().unwrap_or_else(PoisonError::into_inner);
                answer.reports.truncate(at);
                answer.reports.push(report.clone());
                request::answer(&state_dir, &answer);
            };
            self.once(at, order.wanted(), &tell).await;
        }
        let mut answer = answered.into_inner().unwrap_or_else(PoisonError::into_inner);
        answer.done = true;
        request::answer(&self.state_dir, &answer);
    }

    /// One run at one Portainer.
    async fn once(&mut self, at: usize, wanted: Wanted, tell: &(dyn Fn(&Report) + Send + Sync)) {
        self.status.change(at, |section| section.running = true);
        let status = self.status.clone();
        let progress = |report: &Report| {
            status.change(at, |section| section.last = report.clone());
            tell(report);
        };
        let section = &self.sections[at];
        if let Err(err) = self.note_beginning(section).await {
            tracing::warn!(portainer = %section.api.name, %err, "can't read what was remembered of reconciliation");
        }
        let run = Run {
            api: &section.api,
            state_dir: &self.state_dir,
            clock: Arc::clone(&self.surroundings.clock),
            gate: Some(&section.gate),
            progress: &progress,
        };
        let mut orders = Vec::new();
        let report = taking_orders(&self.state_dir, &mut orders, run.run(wanted)).await;
        self.orders.extend(orders);
        let section = &mut self.sections[at];
        let failed = !report.error.is_empty();
        section.failures = if failed { section.failures.saturating_add(1) } else { 0 };
        section.due = Instant::now() + pause(section.api.interval, section.failures);
        let (failures, now) = (section.failures, self.surroundings.clock.now());
        log(&report, failures);
        self.status.change(at, |section| {
            section.running = false;
            section.failures_in_a_row = failures;
            section.runs += 1;
            section.failures += u64::from(failed);
            section.asked += report.asked();
            section.matched += report.matched;
            section.recovered += report.recovered;
            if !failed {
                section.succeeded_secs = now.as_secs();
            }
        });
        if failed {
            self.tell_overdue(at, now).await;
        }
    }

    /// Notes when a Portainer was first to be asked: from then on its silence counts.
    async fn note_beginning(&self, section: &Section) -> Result<(), ReconcileError> {
        let name = section.api.name.clone();
        let mut state = with_store(&self.state_dir, move |store| State::load(store, &name)).await?;
        if state.waiting_since_ns == 0 {
            state.waiting_since_ns = self.surroundings.clock.now().0;
            store_state(section, &state).await?;
        }
        Ok(())
    }

    /// Raises an alarm when a Portainer was not asked for too long; once it was acknowledged, again after
    /// as long.
    async fn tell_overdue(&self, at: usize, now: Nanos) {
        let section = &self.sections[at];
        let (name, after) = (section.api.name.clone(), section.api.alarm_after);
        let told = with_store(&self.state_dir, move |store| {
            let state = State::load(store, &name)?;
            let since = Nanos(state.asked_ns.unwrap_or(state.waiting_since_ns));
            if now.since(since) <= after {
                return Ok(());
            }
            let message = format!(
                "Portainer {name} could not be asked since {since}: it keeps records for 7 days, then what syslog lost is gone; `penstock-high status` says why"
            );
            let kind = AlarmKind::ReconcileOverdue;
            let last = store.last_alarm(kind, &format!("Portainer {name} could not be asked"))?;
            if is_due(last.as_ref(), None, after, now) {
                store.raise_alarm(kind, &message, now)?;
            }
            Ok(())
        });
        if let Err(err) = told.await {
            tracing::warn!(%err, "can't raise the alarm that a Portainer was not asked for long");
        }
    }

    /// Forgets sightings of records so old that nobody keeps them.
    async fn forget(&self) {
        let before =
            self.surroundings.clock.now().as_secs() - SIGHTINGS_KEPT.as_secs().cast_signed();
        let forgotten = with_store(&self.state_dir, move |store| store.forget_sightings(before));
        if let Err(err) = forgotten.await {
            tracing::warn!(%err, "can't forget old sightings");
        }
    }
}

async fn store_state(section: &Section, state: &State) -> Result<(), IntakeClosed> {
    let source = shared::record::SourceTag::new(&section.api.name, "", None);
    let mut batch = Batch::new(&section.gate, Arc::new(source));
    batch.mark(state.mark(&section.api.name));
    batch.commit().await
}

/// Takes orders while something else runs, and says at once that they were seen.
async fn taking_orders<T>(
    state_dir: &std::path::Path,
    orders: &mut Vec<Order>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(ORDER_POLL) => orders.extend(take_order(state_dir)),
        }
    }
}

fn take_order(state_dir: &std::path::Path) -> Option<Order> {
    let order = request::take_order(state_dir)?;
    request::answer(state_dir, &Answer { id: order.id, ..Answer::default() });
    Some(order)
}

/// After a failure it is tried again sooner than usual, less and less often.
fn pause(interval: Duration, failures: u32) -> Duration {
    match failures {
        0 => interval,
        _ => interval.min(RETRY_FIRST.saturating_mul(1 << (failures - 1).min(RETRY_DOUBLINGS_MAX))),
    }
}

fn log(report: &Report, failures: u32) {
    let (asked, matched, recovered) = (report.asked(), report.matched, report.recovered);
    let portainer = &report.name;
    if !report.error.is_empty() {
        if failures <= 1 || recovered > 0 {
            tracing::warn!(%portainer, error = %report.error, recovered, "reconciliation did not come to its end; it is tried again");
        } else {
            tracing::debug!(%portainer, error = %report.error, failures, "reconciliation failed again");
        }
    } else if recovered > 0 || report.malformed > 0 || report.gone > 0 {
        tracing::warn!(
            %portainer, asked, matched, recovered, ambiguous = report.ambiguous,
            too_young = report.too_young, malformed = report.malformed, gone = report.gone,
            "reconciled: syslog had lost records"
        );
    } else {
        tracing::info!(%portainer, asked, matched, recovered, too_young = report.too_young, "reconciled");
    }
    for note in &report.notes {
        tracing::warn!(%portainer, %note, "reconciliation");
    }
    for example in &report.malformed_examples {
        tracing::warn!(%portainer, %example, "a record that can't be compared");
    }
}

/// How often orders are looked for: one look at the folder.
const ORDER_POLL: Duration = Duration::from_millis(200);

/// After the first failure.
const RETRY_FIRST: Duration = Duration::from_mins(1);

/// An hour between tries at the most, or the interval.
const RETRY_DOUBLINGS_MAX: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_soon_and_then_less_often() {
        let hour = Duration::from_hours(1);
        let minutes: Vec<u64> =
            (0..9).map(|failures| pause(hour, failures).as_secs() / 60).collect();
        assert_eq!(minutes, [60, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(Duration::from_secs(5), 3), Duration::from_secs(5));
    }
}
