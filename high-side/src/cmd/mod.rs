//! The verbs: each turns arguments into work and a result into words and an exit code.

/// Prints a line of data. A reader that closed its end has seen enough, which is no fault of ours.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($part)*);
    }};
}

/// Prints a line for the person at the terminal, who may have closed it.
macro_rules! tell {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

mod backup;
mod bundles;
mod custody;
mod diode;
pub(crate) mod doctor;
mod export;
pub(crate) mod init;
pub(crate) mod mint;
mod officer;
mod receipt;
mod reconcile;
mod recover;
mod restore;
mod review;
pub(crate) mod seal;
pub(crate) mod setup;
pub(crate) mod status;
mod try_lines;

use std::fmt::Display;
use std::process::ExitCode;

use clap::CommandFactory;
use shared::backup::BackupError;
use shared::config::ConfigError;
use shared::exit;
use shared::keys::KeyError;

use crate::agent;
use crate::buffer::BufferError;
use crate::cli::{Cli, DiodeVerb, OfficerVerb, Verb};
use crate::config::{Config, DEFAULT_PATH, SAMPLE};
use crate::release::ReleaseError;
use crate::sealer::SealerError;

/// A verb that failed: what it says, and the exit code.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// A failure with its own words.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: exit::FAILED }
    }

    fn usage(message: &impl Display) -> Self {
        Self { message: message.to_string(), code: exit::USAGE }
    }

    /// A failure of the configuration or a key.
    pub(crate) fn config(message: impl Display) -> Self {
        Self { message: message.to_string(), code: exit::CONFIG }
    }

    fn refused(message: impl Display) -> Self {
        Self { message: message.to_string(), code: exit::REFUSED }
    }

    fn io(message: impl Display) -> Self {
        Self { message: message.to_string(), code: exit::IO }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for Failure {
    fn from(err: ConfigError) -> Self {
        Self::config(err)
    }
}

impl From<KeyError> for Failure {
    fn from(err: KeyError) -> Self {
        Self::config(err)
    }
}

impl From<BufferError> for Failure {
    fn from(err: BufferError) -> Self {
        Self::new(chain(&err))
    }
}

impl From<BackupError> for Failure {
    fn from(err: BackupError) -> Self {
        match err {
            err if err.is_refusal() => Self::refused(err),
            BackupError::Io { .. } | BackupError::Room { .. } => Self::io(err),
            BackupError::Encrypted | BackupError::Identity | BackupError::Recipients(_) => {
                Self::config(err)
            }
            err => Self::new(err),
        }
    }
}

impl From<SealerError> for Failure {
    fn from(err: SealerError) -> Self {
        Self::new(chain(&err))
    }
}

impl From<ReleaseError> for Failure {
    fn from(err: ReleaseError) -> Self {
        Self::new(chain(&err))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(err: anyhow::Error) -> Self {
        let io = err.chain().any(<dyn std::error::Error>::is::<std::io::Error>);
        let message = format!("{err:#}");
        if io { Self::io(message) } else { Self::new(message) }
    }
}

/// An error with its causes, once.
fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// Runs one verb and says how it ended.
pub fn run(cli: &Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(failure) => {
            // A report says already what is wrong.
            if !failure.message.is_empty() {
                tell!("penstock-high: {}", failure.message);
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

/// Root becomes the user to whom the state folder belongs: what it made there as root would be out of the
/// agent's reach.
fn act_as_owner(config: &Config) -> Result<(), Failure> {
    shared::process::become_owner_of(&config.state_dir).map_err(|err| {
        Failure::new(format!("can't act as the owner of {}: {err}", config.state_dir.display()))
    })
}

/// A configuration, for what is then done as the owner of the state folder.
fn load_as_owner(cli: &Cli) -> Result<Config, Failure> {
    let config = Config::load(&cli.config)?;
    act_as_owner(&config)?;
    Ok(config)
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    shared::process::forbid_core_dumps()
        .map_err(|err| Failure::new(format!("can't forbid core dumps: {err}")))?;
    let load = || Config::load(&cli.config);
    match &cli.verb {
        Verb::Init { origin, dir, listen, budget, pair, start } => {
            let asked = init::Asked {
                origin: origin.as_deref(),
                dir: dir.as_deref(),
                listen,
                budget: *budget,
                pair: pair.as_deref(),
                start: *start,
            };
            init::init(&cli.config, &asked)
        }
        Verb::Public => init::public(&load()?),
        Verb::Pair { file, start } => init::pair(&load()?, file, *start),
        Verb::CheckConfig => check_config(&load()?),
        Verb::Doctor(args) => doctor::doctor(&cli.config, args),
        Verb::Mint(args) => mint::mint(args),
        Verb::DiodeKey { file } => diode::key(file),
        Verb::Setup(args) => setup::setup(&load()?, args),
        Verb::Run => agent::run(load()?),
        Verb::Seal { lane, json } => seal::seal(&load_as_owner(cli)?, lane.as_deref(), *json),
        Verb::Export(given) => {
            let asked = export::Asked {
                dests: &given.dest,
                all: given.all,
                missing: given.missing.as_deref(),
                shares: given.parts,
                file_bytes_max: given.part_size.map(|size| size.0),
                new_set: given.new_set,
                as_json: given.json,
            };
            export::export(&load()?, &asked)
        }
        Verb::Reconcile { since, dry_run, json } => {
            let (since, dry_run, as_json) = (since.as_deref(), *dry_run, *json);
            reconcile::reconcile(
                &load_as_owner(cli)?,
                &reconcile::Options { since, dry_run, as_json },
            )
        }
        Verb::Diode { verb } => match verb {
            DiodeVerb::Doctor { json } => doctor::diode(&load()?, *json),
        },
        Verb::Officer { verb } => match verb {
            OfficerVerb::Init { name, dir, passphrase, passphrase_file } => {
                officer::init(name, dir, *passphrase, passphrase_file.as_deref())
            }
            OfficerVerb::Add { file } => officer::add(&load()?, file),
            OfficerVerb::List { json } => officer::list(&load()?, *json),
            OfficerVerb::Remove { name } => officer::remove(&load()?, name),
        },
        Verb::Review { bundles, all, key, passphrase_file, from, export, json } => {
            let asked = review::Asked {
                bundles,
                all: *all,
                key: key.as_deref(),
                passphrase_file: passphrase_file.as_deref(),
                as_json: *json,
            };
            match (from, export) {
                (Some(from), _) => review::review_folder(from, asked),
                (None, Some(to)) => review::export(&load()?, to, asked),
                (None, None) => review::review(&load()?, asked),
            }
        }
        Verb::Release(given) => {
            let asked = review::Asked {
                bundles: &given.bundles,
                all: given.all,
                key: given.key.as_deref(),
                passphrase_file: given.passphrase_file.as_deref(),
                as_json: given.json,
            };
            let decision = review::Decision {
                yes: given.yes,
                refuse: given.refuse,
                reason: given.reason.as_deref(),
            };
            match &given.from {
                _ if !given.signature.is_empty() => {
                    review::take_in(&load()?, &given.signature, asked)
                }
                Some(from) => review::release_folder(from, asked, decision),
                None => review::release(&load()?, asked, decision),
            }
        }
        Verb::Status { json } => status::status(&load()?, *json),
        Verb::Bundles { json } => bundles::bundles(&load()?, *json),
        Verb::CheckBuffer { json } => bundles::check_buffer(&load()?, *json),
        Verb::Try { file, stream, json, summary } => {
            let shown = try_lines::Shown { json: *json, summary: *summary };
            try_lines::try_lines(&load()?, file, *stream, shown)
        }
        Verb::Receipt { verb } => receipt::run(&load()?, verb),
        Verb::Custody { verb } => custody::run(&load()?, verb),
        Verb::Backup(given) => backup::backup(&load()?, given),
        Verb::BackupKey { file } => backup::key(file),
        Verb::Restore(given) => restore::restore(&cli.config, given),
        Verb::Recover { from, receipt, yes } => {
            recover::recover(&load()?, from.as_deref(), receipt.as_deref(), *yes)
        }
        Verb::Acknowledge { alarm } => bundles::acknowledge(&load_as_owner(cli)?, *alarm),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "penstock-high", &mut script);
            say!("{}", String::from_utf8_lossy(&script));
            Ok(())
        }
        Verb::Manual { folder } => {
            shared::manual::write(Cli::command(), DEFAULT_PATH, SAMPLE, folder)
                .map_err(|err| Failure::io(format!("{}: {err}", folder.display())))
        }
    }
}

fn check_config(config: &Config) -> Result<(), Failure> {
    let problems = agent::check(config);
    if problems.is_empty() {
        tell!("{} is in order", config.path.display());
        return Ok(());
    }
    let list = problems.join("\n  ");
    Err(Failure::config(format!("{} problem(s)\n  {list}", problems.len())))
}
