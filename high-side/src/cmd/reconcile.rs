//! `reconcile`: ask every Portainer now for what syslog lost, with or without a running agent.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shared::clock::{Clock, SystemClock};
use tokio::sync::watch;

use super::Failure;
use crate::agent::{buffer_settings, guard};
use crate::buffer::{Buffer, BufferError, is_agent_running};
use crate::config::Config;
use crate::ingest::{ReadMemory, Surroundings};
use crate::reconcile::{self, Answer, Order, Report, Run, Wanted, ask_agent, gate_for};

/// What was asked for on the command line.
pub(super) struct Options<'a> {
    pub(super) since: Option<&'a str>,
    pub(super) dry_run: bool,
    pub(super) as_json: bool,
}

pub(super) fn reconcile(config: &Config, options: &Options<'_>) -> Result<(), Failure> {
    if config.portainer_apis.is_empty() {
        return Err(Failure::config(format!(
            "{} has no section [[portainer-api]]: there is nobody to ask",
            config.path.display()
        )));
    }
    let since = options.since.map(parse_since).transpose()?;
    let reports = if options.dry_run {
        dry_run(config, since)?
    } else {
        through_agent_or_alone(config, since)?
    };
    tell(&reports, options.as_json);
    let failed: Vec<String> = reports
        .iter()
        .filter(|report| !report.error.is_empty())
        .map(|report| format!("{}: {}", report.name, report.error))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(failed.join("\n"))) }
}

fn parse_since(text: &str) -> Result<Duration, Failure> {
    text_to_span(text)
        .ok_or_else(|| Failure::usage(&"--since is a time to look back, as 36h or 7d"))
}

fn text_to_span(text: &str) -> Option<Duration> {
    serde_json::from_value::<shared::config::Span>(json!(text)).ok().map(|span| span.0)
}

/// The agent alone writes to the buffer while it runs.
fn through_agent_or_alone(
    config: &Config,
    since: Option<Duration>,
) -> Result<Vec<Report>, Failure> {
    if is_agent_running(&config.state_dir) {
        return through_agent(config, since);
    }
    match alone(config, since) {
        // One was started in this very moment.
        Err(Alone::Buffer(BufferError::Locked { .. })) => through_agent(config, since),
        Err(Alone::Buffer(err)) => Err(err.into()),
        Err(Alone::Failure(failure)) => Err(failure),
        Ok(reports) => Ok(reports),
    }
}

fn through_agent(config: &Config, since: Option<Duration>) -> Result<Vec<Report>, Failure> {
    let now = SystemClock.now().0.unsigned_abs();
    let id = now ^ (u64::from(std::process::id()) << ORDER_ID_PID_SHIFT);
    let order = Order { id, since_secs: since.map(|span| span.as_secs()) };
    let answer = ask_agent(&config.state_dir, &order, |answer: &Answer| {
        answer.reports.last().into_iter().for_each(tell_progress);
    });
    answer.map(|answer| answer.reports).map_err(Failure::new)
}

/// The process id stands above the nanoseconds that differ between two orders.
const ORDER_ID_PID_SHIFT: u32 = 40;

enum Alone {
    Buffer(BufferError),
    Failure(Failure),
}

impl From<BufferError> for Alone {
    fn from(err: BufferError) -> Self {
        Alone::Buffer(err)
    }
}

impl From<Failure> for Alone {
    fn from(failure: Failure) -> Self {
        Alone::Failure(failure)
    }
}

/// Opens the buffer as the agent does and inserts what is missing.
fn alone(config: &Config, since: Option<Duration>) -> Result<Vec<Report>, Alone> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (mut buffer, _) =
        Buffer::open(buffer_settings(config), &config.origin, Arc::clone(&clock))?;
    let (intake, writer) = buffer.start_writer()?;
    let (_stop, shutdown) = watch::channel(false);
    let surroundings = Surroundings {
        intake,
        guard: Arc::new(guard(config)?),
        clock: Arc::clone(&clock),
        memory: ReadMemory::new(0),
        shutdown,
    };
    let run = async {
        reconcile::begin(config, &surroundings.intake, clock.now()).await?;
        let mut reports = Vec::new();
        for api in &config.portainer_apis {
            let gate = gate_for(api, &surroundings);
            let run =
                Run::recovering(api, &config.state_dir, Arc::clone(&clock), &gate, &tell_progress);
            reports.push(run.run(Wanted { since }).await);
        }
        Ok::<_, Failure>(reports)
    };
    let reports = runtime()?.block_on(run);
    drop(surroundings);
    writer.join()?;
    drop(buffer);
    Ok(reports?)
}

fn dry_run(config: &Config, since: Option<Duration>) -> Result<Vec<Report>, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    runtime()?.block_on(async {
        let mut reports = Vec::new();
        for api in &config.portainer_apis {
            let run = Run::dry(api, &config.state_dir, Arc::clone(&clock), &tell_progress);
            reports.push(run.run(Wanted { since }).await);
        }
        Ok(reports)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("can't start the runtime: {err}")))
}

fn tell_progress(report: &Report) {
    if report.ended.is_empty() && report.requests > 0 {
        tell!("{}: {} records asked, up to {}", report.name, report.asked(), report.through);
    }
}

fn tell(reports: &[Report], as_json: bool) {
    if as_json {
        say!("{}", json!({ "portainers": reports }));
        return;
    }
    for report in reports {
        say!("{}", report.summary());
        for note in &report.notes {
            say!("  note: {note}");
        }
        for example in &report.malformed_examples {
            say!("  can't be compared: {example}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_to_look_back_is_a_duration() {
        assert_eq!(text_to_span("36h"), Some(Duration::from_hours(36)));
        for text in ["", "yesterday", "2026-11-23", "-1h"] {
            assert_eq!(text_to_span(text), None, "{text}");
        }
    }
}
