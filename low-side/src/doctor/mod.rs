//! Everything that a newcomer gets wrong on the low side, looked at in one run.
//!
//! What needs judgement is plain code over values ([`diode`]); the rest asks files, kernel, the running
//! agent and the destinations. Nothing is changed, but for a file that measures the disk and is removed.

pub mod await_test;
pub mod diode;
mod keys;
mod machine;
mod sinks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::doctor::files::{Account, Need, reach};
use shared::doctor::report::{Peer, Report, Running, bounded};
use shared::doctor::{Examined, Finding, Level};

use crate::config::Config;
use crate::folders::Folders;
use crate::status::live;

/// What is asked of the doctor.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What `public` or `doctor --json` of the high side printed.
    pub peer: Option<PathBuf>,
    /// The agent's user, where it is another than the one that is found.
    pub user: Option<String>,
    /// Whether the locks of the archives are tried.
    pub archive: bool,
}

/// What all sections look at.
#[derive(Clone, Debug)]
struct Subject {
    path: PathBuf,
    config: Config,
    asked: Asked,
    account: Account,
    now: Nanos,
    /// What the running agent says of itself, and its process.
    live: Option<Value>,
    agent: Option<u32>,
    peer: Option<Peer>,
}

/// Looks at everything.
pub fn run(path: &Path, asked: Asked) -> Report {
    let now = SystemClock.now();
    let version = env!("CARGO_PKG_VERSION");
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(err) => {
            let finding = Finding::of_problem(Level::Fault, "load", &err.to_string())
                .remedy("penstock-low init makes one where there is none")
                .remedy("the sample with every key: /usr/share/doc/penstock-low/examples/low.toml.sample")
                .at(path.display());
            let section = Examined { link: "configuration".to_owned(), findings: vec![finding] };
            return Report::new("low", version, now.to_string(), Value::Null, vec![section]);
        }
    };
    let live = live(&Folders::of(&config.state_dir));
    let agent = live.as_ref().and_then(|live| u32::try_from(live["pid"].as_u64()?).ok());
    let mut unread = Vec::new();
    let peer = asked.peer.as_deref().and_then(|path| match Peer::load(path) {
        Ok(peer) => Some(peer),
        Err(why) => {
            unread.push(
                Finding::new(Level::Fault, "peer", format!("{} {why}", path.display()))
                    .remedy("on the high side: penstock-high public > FILE")
                    .remedy("or, which says more: penstock-high doctor --json > FILE"),
            );
            None
        }
    });
    let account = match asked.user.as_deref() {
        None => Account::of_agent(agent, &config.state_dir, SERVICE_USER),
        Some(name) => Account::named(name).unwrap_or_else(|| {
            let what = format!("there is no user {name:?}; looked at as whoever asks");
            unread.push(Finding::new(Level::Fault, "user", what));
            Account::own()
        }),
    };
    let path = path.to_owned();
    let subject = Arc::new(Subject { path, config, asked, account, now, live, agent, peer });
    // Destinations answer slowly or not at all: they are all asked while the rest is looked at.
    let asked: Vec<Running> = sinks::start(&subject);
    let look = |title: &str, checks: fn(&Subject) -> Vec<Finding>| {
        let subject = Arc::clone(&subject);
        bounded(title, SECTION_LIMIT, move || checks(&subject))
    };
    let mut sections = vec![
        look("configuration", configuration),
        look("keys", keys::examine),
        look("folders", machine::folders),
        look("disk", machine::disks),
        look("clock", machine::clock),
        look("receivers", machine::receivers),
        look("certificates", machine::certificates),
        look("bundles", machine::bundles),
        look("agent", machine::agent),
        look("service", machine::service),
    ];
    sections[0].findings.extend(unread);
    sections.extend(asked.into_iter().map(Running::wait));
    sections.extend(crate::cmd::doctor::links(&subject.config));
    let peer = keys::for_peer(&subject);
    Report::new("low", version, now.to_string(), peer, sections)
}

fn configuration(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let problems = crate::cmd::problems(config);
    let mut findings = vec![reach(&subject.path, &subject.account, Need::Read, "file")];
    let problem = |text: &String| Finding::of_problem(Level::Fault, "problem", text);
    findings.extend(problems.iter().map(problem));
    if problems.is_empty() {
        let what = format!("{} is in order", subject.path.display());
        findings.push(Finding::new(Level::Fine, "check", what));
    }
    if config.sinks.is_empty() {
        findings.push(
            Finding::new(Level::Fault, "no-sink", "records go nowhere: no sink is configured")
                .remedy("a section [[sink]]; packaging/doc/sinks has one for each SIEM"),
        );
    }
    let as_whom = format!("looked at for the agent's user, {}", subject.account);
    let finding = if subject.account.is_own() || Account::own().is_root() {
        Finding::new(Level::Note, "account", as_whom)
    } else {
        Finding::new(Level::Warning, "account", format!("{as_whom}, by another user than root"))
            .remedy("sudo penstock-low doctor: some things only root and the agent can see")
    };
    findings.push(finding);
    findings
}

/// The user that the package makes.
const SERVICE_USER: &str = "penstock-low";
/// The service's unit.
const UNIT: &str = "penstock-low.service";
/// Longer than any section takes that ends at all: the disk is measured for 2 s, programs are asked for 3.
const SECTION_LIMIT: Duration = Duration::from_secs(20);
