//! The verbs: each turns arguments into work and a result into words and an exit code.

/// Prints a line for the person at the terminal, who may have closed it.
macro_rules! tell {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

mod account;
mod archive;
mod backup;
mod bundles;
mod custody;
mod diode;
pub(crate) mod doctor;
mod drain;
mod import;
pub(crate) mod init;
mod medium;
mod officer;
mod quarantine;
mod receipt;
mod report;
mod restore;
mod sinks;
mod status;
pub(crate) mod systemd;

use std::fmt::Display;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use clap::CommandFactory;
use serde::Serialize;
use shared::backup::BackupError;
use shared::bundle::Refusal;
use shared::clock::{Clock, SystemClock};
use shared::config::ConfigError;
use shared::keys::KeyError;
use shared::reach::{AmbiguousCredential, ConfineError};
use shared::{exit, telemetry};

use crate::admitted_before::AdmittedBefore;
use crate::cli::{Cli, DiodeVerb, OfficerVerb, QuarantineVerb, Verb};
use crate::config::{Config, DEFAULT_PATH, SAMPLE};
use crate::folders::Folders;
use crate::import::{ImportError, Importer, KeyRing, Keys, Source};
use crate::ledger::{Ledger, LedgerError};
use crate::replay::chain_text;
use crate::{agent, receiver, release, sink};

/// A verb that failed: what it says, and the exit code.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(code: u8, message: impl Display) -> Self {
        Self { message: message.to_string(), code }
    }
}

impl From<ConfigError> for Failure {
    fn from(err: ConfigError) -> Self {
        Self::new(exit::CONFIG, err)
    }
}

impl From<KeyError> for Failure {
    fn from(err: KeyError) -> Self {
        Self::new(exit::CONFIG, err)
    }
}

impl From<LedgerError> for Failure {
    fn from(err: LedgerError) -> Self {
        let io = matches!(err, LedgerError::Place(_) | LedgerError::Unreadable(_));
        Self::new(if io { exit::IO } else { exit::FAILED }, chain_text(&err))
    }
}

impl From<BackupError> for Failure {
    fn from(err: BackupError) -> Self {
        let code = match &err {
            err if err.is_refusal() => exit::REFUSED,
            BackupError::Io { .. } | BackupError::Room { .. } => exit::IO,
            BackupError::Encrypted | BackupError::Identity | BackupError::Recipients(_) => {
                exit::CONFIG
            }
            _ => exit::FAILED,
        };
        Self::new(code, err)
    }
}

impl From<ImportError> for Failure {
    fn from(err: ImportError) -> Self {
        Self::new(exit::IO, chain_text(&err))
    }
}

impl From<Refusal> for Failure {
    fn from(err: Refusal) -> Self {
        let code = if err.is_io() { exit::IO } else { exit::REFUSED };
        Self::new(code, format!("refused ({}): {err}", err.code()))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(err: anyhow::Error) -> Self {
        let code = err.chain().find_map(|cause| {
            if cause.is::<KeyError>() || cause.is::<ConfigError>() || is_hardening(cause) {
                Some(exit::CONFIG)
            } else {
                cause.is::<std::io::Error>().then_some(exit::IO)
            }
        });
        Self::new(code.unwrap_or(exit::FAILED), chain_text(err.as_ref()))
    }
}

/// The section `[hardening]` asks for what can't be had.
fn is_hardening(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<ConfineError>() || cause.is::<AmbiguousCredential>()
}

/// Runs one verb and says how it ended.
pub fn run(cli: &Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(failure) => {
            // A report says already what is wrong.
            if !failure.message.is_empty() {
                tell!("penstock-low: {}", failure.message);
                if let Some(user) = shared::process::acts_as() {
                    tell!(
                        "  (done as {user}, to whom the state folder belongs: that user must be able to read what is named)"
                    );
                }
            }
            ExitCode::from(failure.code)
        }
    }
}

/// A configuration, for what is then done as the owner of the state folder: what root made there would be
/// out of the agent's reach, and what comes from outside is not for root to open.
fn load_as_owner(cli: &Cli) -> Result<Config, Failure> {
    let config = Config::load(&cli.config)?;
    shared::process::become_owner_of(&config.state_dir).map_err(|err| {
        let text = format!("can't act as the owner of {}: {err}", config.state_dir.display());
        Failure::new(exit::FAILED, text)
    })?;
    Ok(config)
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let load = || Config::load(&cli.config);
    match &cli.verb {
        Verb::Init { name, dir, post_quantum, sink, pair, start } => {
            let asked = init::Asked {
                name: name.as_deref(),
                dir: dir.as_deref(),
                hybrid: *post_quantum,
                sinks: sink,
                pair: pair.as_deref(),
                start: *start,
            };
            init::init(&cli.config, &asked)
        }
        Verb::Public => init::public(&load()?),
        Verb::Pair { file, start } => init::pair(&load()?, file, *start),
        Verb::CheckConfig => check_config(cli, &load()?),
        Verb::Doctor(args) => doctor::doctor(&cli.config, args),
        Verb::Run => {
            let config = load()?;
            telemetry::init(config.log.0, config.log.1);
            Ok(agent::run(&config, &cli.config)?)
        }
        Verb::Status { json } => status::status(&load()?, *json),
        Verb::Account { last, from, to, origin, json } => {
            account::account(&load()?, *last, (*from, *to), origin.as_deref(), *json)
        }
        Verb::Diode { verb: Some(DiodeVerb::Doctor { json }), .. } => {
            doctor::diode(&load()?, *json)
        }
        Verb::Diode { verb: None, json, resend } => {
            diode::diode(&load()?, *json, resend.as_deref())
        }
        Verb::Import { paths, drain: true, json, .. } => {
            drain::drain(&load_as_owner(cli)?, paths, *json)
        }
        Verb::Import { paths, wipe, yes, json, drain: false, admitted_before } => {
            let asked = import::Asked {
                paths,
                wipe: *wipe,
                yes: *yes,
                as_json: *json,
                admitted_before: admitted_before.as_deref(),
            };
            import::import(&load_as_owner(cli)?, &asked)
        }
        Verb::Verify { file, json } => bundles::verify(&load()?, file, *json),
        Verb::Inspect { file, json } => bundles::inspect(&cli.config, file, *json),
        Verb::Setup { sink, unit, .. } if sink == "systemd" => {
            systemd::setup(&load()?, &cli.config, unit)
        }
        Verb::Setup { sink, print, .. } => sinks::setup(&load()?, sink, !print),
        Verb::Check { sink, stream, within } => sinks::check(&load()?, sink, *stream, within.0),
        Verb::Replay { sink, from, to } => sinks::replay(&load_as_owner(cli)?, sink, *from, *to),
        Verb::DeadLetters { sink, retry: true, .. } => sinks::retry(&load_as_owner(cli)?, sink),
        Verb::DeadLetters { sink, json, .. } => sinks::dead_letters(&load()?, sink, *json),
        Verb::Gaps { pass, json } => status::gaps(&load_as_owner(cli)?, *pass, *json),
        Verb::Receipt { out } => receipt::receipt(&load()?, out),
        Verb::Latency { last, json } => receipt::latency(&load()?, *last, *json),
        Verb::Report { from, to, framework, output, json } => {
            let asked = report::Asked {
                config_file: &cli.config,
                period: (*from, *to),
                framework: *framework,
                output: output.as_deref(),
                as_json: *json,
            };
            report::report(&load()?, &asked)
        }
        Verb::Custody { verb } => custody::run(&load()?, verb),
        Verb::Archive { verb } => archive::run(&load()?, verb),
        Verb::Officer { verb } => match verb {
            OfficerVerb::Add { file } => officer::add(&load()?, file),
            OfficerVerb::List { json } => officer::list(&load()?, *json),
            OfficerVerb::Revoke { name } => officer::revoke(&load()?, name),
        },
        Verb::Quarantine { verb } => match verb {
            QuarantineVerb::List { json } => quarantine::list(&load()?, *json),
            QuarantineVerb::Show { sha256 } => quarantine::show(&load()?, sha256),
            QuarantineVerb::Retry { sha256, all: _, accept_jump, admitted_before, json } => {
                let word = admitted_before.as_deref();
                quarantine::retry(
                    &load_as_owner(cli)?,
                    sha256.as_deref(),
                    *accept_jump,
                    word,
                    *json,
                )
            }
        },
        Verb::Alarms { json } => status::alarms(&load()?, *json),
        Verb::Acknowledge { alarm } => status::acknowledge(&load_as_owner(cli)?, *alarm),
        Verb::Backup(given) => backup::backup(&cli.config, &load()?, given),
        Verb::BackupKey { file } => backup::key(file),
        Verb::Restore(given) => restore::restore(&cli.config, given),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "penstock-low", &mut script);
            put(&String::from_utf8_lossy(&script))
        }
        Verb::Manual { folder } => {
            shared::manual::write(Cli::command(), DEFAULT_PATH, SAMPLE, folder)
                .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", folder.display())))
        }
    }
}

/// Names everything that would keep the agent from doing its work.
fn check_config(cli: &Cli, config: &Config) -> Result<(), Failure> {
    for sink in &config.sinks {
        if let Some(warning) = sink::warning(sink) {
            tell!("warning: sink {}: {warning}", sink.name);
        }
    }
    let problems = problems(config);
    if problems.is_empty() {
        tell!("{} is in order", cli.config.display());
        return Ok(());
    }
    let text = format!("{} problem(s)\n  {}", problems.len(), problems.join("\n  "));
    Err(Failure::new(exit::CONFIG, text))
}

/// What `check-config` says, one text for each problem.
pub(crate) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    match Keys::load(&config.keys_dir, &config.releases) {
        Ok(keys) if keys.trust.origins().is_empty() => {
            problems
                .push("no high side is trusted\n    try: penstock-low pair HIGH.pub".to_owned());
        }
        Ok(keys) => {
            let officers = keys.trust.officers(SystemClock.now());
            problems.extend(release::unmet(&config.releases, &officers));
        }
        Err(err) => problems.push(chain_text(&err)),
    }
    if config.inbox.path.exists() && !config.inbox.path.is_dir() {
        problems.push(format!("inbox.path: {} is no folder", config.inbox.path.display()));
    }
    for receiver in &config.receivers {
        let wrong = receiver::check(receiver).into_iter();
        problems.extend(wrong.map(|problem| format!("receiver {}: {problem}", receiver.name)));
    }
    for sink in &config.sinks {
        if let Err(err) = sink::check(sink) {
            problems.push(format!("sink {}: {}", sink.name, chain_text(&err)));
        }
    }
    for archive in &config.archives {
        if let Err(err) = crate::archive::check(archive) {
            problems.push(format!("archive {}: {}", archive.name, chain_text(&err)));
        }
    }
    problems
}

/// Makes ready to import beside a running agent, or without one.
fn importer(config: &Config, verb: &'static str) -> Result<Importer<SystemClock>, Failure> {
    let folders = Folders::of(&config.state_dir);
    // Files made by root in the agent's folders would be out of its reach.
    if let Ok(found) = std::fs::metadata(&folders.state) {
        let ours = nix::unistd::geteuid().as_raw();
        if found.uid() != ours {
            let text = format!(
                "{} belongs to user {}, not to user {ours}\n  try: as root, which then acts as that user",
                folders.state.display(),
                found.uid()
            );
            return Err(Failure::new(exit::FAILED, text));
        }
    }
    folders
        .create()
        .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", folders.state.display())))?;
    Ok(Importer {
        ledger: Ledger::open(&folders.state)?,
        folders,
        keys: KeyRing::new(Keys::load(&config.keys_dir, &config.releases)?),
        limits: config.limits,
        admission: config.admission,
        clock: SystemClock,
        source: Source::Command(verb),
        log: Some(AdmittedBefore::of(&config.state_dir, &config.keys_dir)),
        rebuilding: false,
        word: None,
    })
}

/// Data for standard output. A reader that went away is no failure of ours.
fn put(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::IO, format!("standard output: {err}")))
        }
        _ => Ok(()),
    }
}

fn put_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|err| Failure::new(exit::FAILED, err))?;
    put(&(text + "\n"))
}
