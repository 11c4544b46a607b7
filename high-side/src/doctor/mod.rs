//! Everything that a newcomer gets wrong on the high side, looked at in one run.
//!
//! What needs judgement is plain code over values ([`budget`], [`diode`]); the rest asks files, kernel
//! and the running agent. Nothing is changed, but for a file that measures the disk and is removed.

pub mod budget;
pub mod diode;
mod keys;
mod machine;
pub mod test_record;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::doctor::files::{Account, Need, reach};
use shared::doctor::report::{Peer, Report, bounded};
use shared::doctor::{Examined, Finding, Level};

use crate::agent::{self, read_live};
use crate::buffer::is_agent_running;
use crate::config::Config;

/// What is asked of the doctor.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What `public` or `doctor --json` of the low side printed.
    pub peer: Option<PathBuf>,
    /// How often somebody carries bundles across.
    pub courier_every: Option<Duration>,
    /// The agent's user, where it is another than the one that is found.
    pub user: Option<String>,
}

/// What all sections look at.
#[derive(Clone, Debug)]
struct Subject {
    config: Config,
    asked: Asked,
    account: Account,
    now: Nanos,
    /// The running agent's own report, and its process.
    live: Option<Value>,
    agent: Option<u32>,
    running: bool,
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
                .remedy("penstock-high init --origin NAME makes one where there is none")
                .remedy("the sample with every key: /usr/share/doc/penstock-high/examples/high.toml.sample")
                .at(path.display());
            let section = Examined { link: "configuration".to_owned(), findings: vec![finding] };
            return Report::new("high", version, now.to_string(), Value::Null, vec![section]);
        }
    };
    let running = is_agent_running(&config.state_dir);
    // The last report of an agent stays for a while after its end.
    let live = read_live(&config.state_dir, now).filter(|_| running).map(|live| live.0);
    let agent = live.as_ref().and_then(|live| u32::try_from(live["pid"].as_u64()?).ok());
    let mut unread = Vec::new();
    let peer = asked.peer.as_deref().and_then(|path| match Peer::load(path) {
        Ok(peer) => Some(peer),
        Err(why) => {
            unread.push(
                Finding::new(Level::Fault, "peer", format!("{} {why}", path.display()))
                    .remedy("on the low side: penstock-low public > FILE")
                    .remedy("or, which says more: penstock-low doctor --json > FILE"),
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
    let subject = Arc::new(Subject { config, asked, account, now, live, agent, running, peer });
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
        look("listeners", machine::listeners),
        look("certificates", machine::certificates),
        look("budget", machine::budgets),
        look("carriers", machine::carriers),
        look("agent", machine::agent),
        look("service", machine::service),
    ];
    sections[0].findings.extend(unread);
    sections.extend(crate::cmd::doctor::links(&subject.config));
    let peer = keys::for_peer(&subject);
    Report::new("high", version, now.to_string(), peer, sections)
}

fn configuration(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let problems = agent::check(config);
    let mut findings = vec![reach(&config.path, &subject.account, Need::Read, "file")];
    let problem = |text: &String| Finding::of_problem(Level::Fault, "problem", text);
    findings.extend(problems.iter().map(problem));
    if problems.is_empty() {
        let what = format!("{} is in order", config.path.display());
        findings.push(Finding::new(Level::Fine, "check", what));
    }
    if config.listeners.is_empty() && config.files.is_empty() {
        findings.push(
            Finding::new(
                Level::Fault,
                "no-source",
                "nothing will be received: no listener, no file",
            )
            .remedy("a section [[listener]] or [[file]]; the sample has one of each kind"),
        );
    }
    let as_whom = format!("looked at for the agent's user, {}", subject.account);
    let finding = if subject.account.is_own() || Account::own().is_root() {
        Finding::new(Level::Note, "account", as_whom)
    } else {
        Finding::new(Level::Warning, "account", format!("{as_whom}, by another user than root"))
            .remedy("sudo penstock-high doctor: some things only root and the agent can see")
    };
    findings.push(finding);
    findings
}

impl Subject {
    /// What the running agent says of one of a kind, by name.
    fn live_of(&self, kind: &str, name: &str) -> Option<&Value> {
        let list = self.live.as_ref()?[kind].as_array()?;
        list.iter().find(|one| one["name"] == name)
    }
}

/// The user that the package makes.
const SERVICE_USER: &str = "penstock-high";
/// The service's unit.
const UNIT: &str = "penstock-high.service";
/// Longer than any section takes that ends at all: the disk is measured for 2 s, programs are asked for 3.
const SECTION_LIMIT: Duration = Duration::from_secs(20);

/// What the low side's doctor compares; nothing here is secret.
fn peer_facts(subject: &Subject, public: &[String], more: Value) -> Value {
    let mut facts = json!({
        "public": public,
        "origin": subject.config.origin.as_str(),
        "bundle-bytes-max": subject.config.seal.bundle_bytes_max.0,
        "latency-budget-ms": subject.config.seal.latency_budget.0.as_millis() as u64,
        "flash-budget-ms": subject.config.seal.flash_budget.0.as_millis() as u64,
    });
    if let (Some(facts), Value::Object(more)) = (facts.as_object_mut(), more) {
        facts.extend(more);
    }
    facts
}
