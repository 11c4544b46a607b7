//! Every destination, asked at once: sinks and archives, each with a section of its own.

use std::sync::Arc;
use std::time::Duration;

use shared::bell::Bell;
use shared::clock::{Clock, SystemClock};
use shared::doctor::report::{Running, start as start_section};
use shared::doctor::{Finding, Level};

use super::{Subject, machine};
use crate::archive::audit::{Asked, Audit, Verdict};
use crate::archive::config::ArchiveConfig;
use crate::archive::{self, ArchiveError};
use crate::folders::Folders;
use crate::ledger::Ledger;
use crate::replay::chain_text;
use crate::sink::probe::probe;
use crate::site;

pub(super) fn start(subject: &Arc<Subject>) -> Vec<Running> {
    let config = &subject.config;
    let sinks = config.sinks.iter().cloned().map(|sink| {
        let health = machine::health(subject.live.as_ref(), &sink.name);
        start_section(format!("sink {}", sink.name), LIMIT, move || {
            let mut findings = probe(&sink);
            findings.extend(health);
            if findings.is_empty() {
                let what = format!("{} writes to a folder; see folders", sink.name);
                findings.push(Finding::new(Level::Fine, "reached", what));
            }
            findings
        })
    });
    let archives = config.archives.iter().cloned().map(|archive| {
        let subject = Arc::clone(subject);
        let limit = if subject.asked.archive { PROBE_LIMIT } else { LIMIT };
        start_section(format!("archive {}", archive.name), limit, move || {
            of_archive(&subject, &archive)
        })
    });
    sinks.chain(archives).collect()
}

fn of_archive(subject: &Subject, config: &ArchiveConfig) -> Vec<Finding> {
    let mut findings = vec![match reached(config) {
        Ok(true) => {
            let what = format!("{} is reached, and set up so that it locks", config.name);
            Finding::new(Level::Fine, "reached", what)
        }
        Ok(false) => {
            let what = format!("{} is reached; it is a folder, which can't lock", config.name);
            Finding::new(Level::Note, "reached", what)
                .remedy("an object store with a lock, where evidence has to be unchangeable")
        }
        Err(err) => Finding::of_problem(Level::Fault, "reached", &chain_text(&err))
            .remedy("the page archive.md has what each kind of store needs"),
    }];
    if subject.asked.archive {
        findings.push(
            proof(subject, config)
                .unwrap_or_else(|why| Finding::of_problem(Level::Skipped, "lock", &why)),
        );
    } else if findings[0].level == Level::Fine {
        findings.push(
            Finding::new(Level::Skipped, "lock", "whether the lock really holds was not tried")
                .remedy("penstock-low doctor --archive, which makes a canary that stays for a day"),
        );
    }
    if let Ok(ledger) = Ledger::open_read_only(&subject.config.state_dir)
        && let Ok(sums) = ledger.archive_sums()
        && let Some(sum) = sums.iter().find(|sum| sum.name == config.name)
    {
        let what = format!("it holds {} bundles, and {} wait for it", sum.archived, sum.waiting);
        let level = if sum.waiting > WAITING_MAX { Level::Warning } else { Level::Fine };
        findings.push(Finding::new(level, "lag", what));
    }
    findings
}

/// Asks the archive whether it is set up as it has to be; whether it can lock.
fn reached(config: &ArchiveConfig) -> Result<bool, ArchiveError> {
    archive::check(config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut archive = archive::make(config, None, &clock, &Bell::default());
    archive.check()?;
    Ok(archive.locks())
}

/// Tries to break its lock, as `archive verify` does.
fn proof(subject: &Subject, config: &ArchiveConfig) -> Result<Finding, String> {
    let said = |err: &dyn std::error::Error| chain_text(err);
    let ledger = Ledger::open_read_only(&subject.config.state_dir).map_err(|err| said(&err))?;
    let id = ledger.archive_id(&config.name).map_err(|err| said(&err))?;
    let id = id.ok_or("the agent has not used this archive yet")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut archive = archive::make(config, None, &clock, &Bell::default());
    let folders = Folders::of(&subject.config.state_dir);
    let audit = Audit {
        archive: archive.as_mut(),
        name: &config.name,
        id,
        ledger: &ledger,
        clock: clock.as_ref(),
        work: &folders.staging,
    };
    let asked = Asked { full: false, probe: true };
    let report =
        audit.run(asked, site::name(&subject.config.keys_dir), None).map_err(|err| said(&err))?;
    let more =
        format!("penstock-low archive verify --archive {} says it step by step", config.name);
    Ok(match report.verdict {
        Verdict::Good => Finding::new(Level::Fine, "lock", "the lock held, however it was tried"),
        Verdict::Unproven => Finding::new(
            Level::Warning,
            "lock",
            report.unproven().lines().next().unwrap_or_default().to_owned(),
        )
        .remedy(more),
        Verdict::Bad => {
            Finding::new(Level::Fault, "lock", "the archive does not hold what it should")
                .remedy(more)
        }
    })
}

/// A connection, a handshake and an answer, each with its own limit in the sink's section.
const LIMIT: Duration = Duration::from_secs(45);
const PROBE_LIMIT: Duration = Duration::from_mins(5);
/// What a store that is down for a while leaves.
const WAITING_MAX: u64 = 100;
