//! `archive`: what is kept, whether it is kept, and getting it back.

mod restore;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shared::bell::Bell;
use shared::bundle::BundleDigest;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::keys::StatementKind;
use shared::{durable, exit};

use super::{Failure, put, put_json};
use crate::archive::audit::{Asked, Audit, AuditError, Report, Verdict};
use crate::archive::config::ArchiveConfig;
use crate::archive::listing::{FoundBundle, each_bundle};
use crate::archive::{self, Archive, ArchiveError};
use crate::cli::ArchiveVerb;
use crate::config::Config;
use crate::folders::Folders;
use crate::ledger::{ARCHIVED_PAGE, ArchiveId, ArchivedBundle, Ledger, LedgerError};
use crate::replay::chain_text;
use crate::site;
use restore::{Which, restore, restore_without_ledger};

impl From<ArchiveError> for Failure {
    fn from(err: ArchiveError) -> Self {
        let code = match err {
            ArchiveError::Http(_) | ArchiveError::File { .. } => exit::IO,
            ArchiveError::Credential { .. } | ArchiveError::Tls(_) => exit::CONFIG,
            _ => exit::FAILED,
        };
        Self::new(code, chain_text(&err))
    }
}

impl From<AuditError> for Failure {
    fn from(err: AuditError) -> Self {
        match err {
            AuditError::Archive(err) => err.into(),
            AuditError::Ledger(err) => err.into(),
        }
    }
}

pub(super) fn run(config: &Config, verb: &ArchiveVerb) -> Result<(), Failure> {
    match verb {
        ArchiveVerb::List { archive, without_ledger: true, json } => {
            list_without_ledger(config, archive.as_deref(), *json)
        }
        ArchiveVerb::List { archive, json, .. } => list(config, archive.as_deref(), *json),
        ArchiveVerb::Verify { archive, full, no_probe, credentials, report, json } => {
            let asked = Asked { full: *full, probe: !*no_probe };
            let (credentials, report) = (credentials.as_deref(), report.as_deref());
            verify(config, archive.as_deref(), asked, credentials, report, *json)
        }
        ArchiveVerb::Restore { archive, without_ledger, from, to, bundle, dir } => {
            let archive = archive.as_deref();
            if *without_ledger {
                return restore_without_ledger(config, archive, bundle.as_deref(), dir);
            }
            let which = match (bundle, from) {
                (Some(bundle), _) => Which::Bundle(bundle),
                (None, Some(from)) => Which::Period(*from, to.unwrap_or_else(|| SystemClock.now())),
                (None, None) => Which::Period(Nanos(i64::MIN), to.unwrap_or(Nanos(i64::MAX))),
            };
            restore(config, archive, &which, dir)
        }
    }
}

/// The archive that is meant: the one that is named, or the only one.
fn configured<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a ArchiveConfig, Failure> {
    let usage = |text: String| Failure::new(exit::USAGE, text);
    let found = match (name, config.archives.as_slice()) {
        (Some(name), archives) => archives.iter().find(|archive| archive.name == name),
        (None, [only]) => Some(only),
        (None, []) => {
            let text = "there is no archive in the configuration\n  try: packaging/doc/archive.md";
            return Err(usage(text.to_owned()));
        }
        (None, _) => None,
    };
    found.ok_or_else(|| {
        let names: Vec<_> = config.archives.iter().map(|archive| archive.name.as_str()).collect();
        usage(format!("which archive?\n  try: --archive {}", names.join(" or ")))
    })
}

/// The same, and what the ledger calls it.
fn choose<'a>(
    config: &'a Config,
    ledger: &Ledger,
    name: Option<&str>,
) -> Result<(&'a ArchiveConfig, ArchiveId), Failure> {
    let found = configured(config, name)?;
    let Some(id) = ledger.archive_id(&found.name)? else {
        let text = format!(
            "the ledger knows no archive {}\n  try: start the agent with this configuration, or --without-ledger",
            found.name
        );
        return Err(Failure::new(exit::FAILED, text));
    };
    Ok((found, id))
}

/// Calls back with what an archive holds, page by page: the list may be long.
fn each(
    page: impl Fn((i64, u64)) -> Result<Vec<ArchivedBundle>, LedgerError>,
    mut use_it: impl FnMut(ArchivedBundle) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut place = (0, 0);
    loop {
        let found = page(place)?;
        let more = found.len() == ARCHIVED_PAGE;
        if let Some(last) = found.last() {
            place = (last.chain_id, last.number);
        }
        found.into_iter().try_for_each(&mut use_it)?;
        if !more {
            return Ok(());
        }
    }
}

fn list(config: &Config, name: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let ledger = Ledger::open_existing(&config.state_dir)?;
    let (_, id) = choose(config, &ledger, name)?;
    each(
        |place| ledger.archived(id, place),
        |one| {
            let object = &one.object;
            let until = object.retain_until.map(|time| time.to_string());
            if as_json {
                return put_json(&json!({
                    "chain": one.chain.to_string(),
                    "bundle": one.number,
                    "digest": one.digest.map(|digest| digest.to_string()),
                    "key": object.key,
                    "version": object.version,
                    "sha256": object.sha256.to_string(),
                    "bytes": object.bytes,
                    "retain-until": until,
                    "archived": one.at.to_string(),
                }));
            }
            let until = until.unwrap_or_else(|| "no lock".to_owned());
            let mut line = String::new();
            let _ = writeln!(
                line,
                "{}/{}  {}  {}  {}  {until}",
                one.chain, one.number, one.at, object.bytes, object.sha256
            );
            put(&line)
        },
    )
}

/// What the archive itself says, for a machine that has lost its ledger.
fn list_without_ledger(config: &Config, name: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let mut archive = open(configured(config, name)?);
    let mut hidden = 0_u64;
    let others = each_bundle(archive.as_mut(), |_, one| {
        let FoundBundle { name, key, versions, count, current } = &one;
        let Some(oldest) = versions.first() else { return Ok(()) };
        let chain = &name.chain;
        hidden += u64::from(!current);
        if as_json {
            return put_json(&json!({
                "chain": chain.to_string(),
                "bundle": name.number,
                "digest-begins": name.digest(),
                "key": key,
                "version": oldest.version,
                "bytes": oldest.bytes,
                "made": oldest.made.to_string(),
                "versions": count,
                "deleted": !current,
            }));
        }
        let mut line = format!("{chain}/{}  {}  {}", name.number, oldest.made, oldest.bytes);
        if *count > 1 {
            let _ = write!(line, "  {count} versions");
        }
        line.push_str(if *current { "\n" } else { "  deleted: only its versions are there\n" });
        put(&line)
    })?;
    if hidden > 0 {
        tell!(
            "{hidden} bundle(s) were deleted by somebody; what is locked is still there, and restored"
        );
    }
    if others > 0 {
        tell!("{others} other name(s), canaries of the lock's proof among them, are no bundles");
    }
    Ok(())
}

/// Opens an archive with the agent's own credentials.
fn open(settings: &ArchiveConfig) -> Box<dyn Archive> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    archive::make(settings, None, &clock, &Bell::default())
}

fn verify(
    config: &Config,
    name: Option<&str>,
    asked: Asked,
    credentials: Option<&Path>,
    report_file: Option<&Path>,
    as_json: bool,
) -> Result<(), Failure> {
    let mut ledger = Ledger::open_existing(&config.state_dir)?;
    let (settings, id) = choose(config, &ledger, name)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut archive = archive::make(settings, credentials, &clock, &Bell::default());
    let folders = Folders::of(&config.state_dir);
    let audit = Audit {
        archive: archive.as_mut(),
        name: &settings.name,
        id,
        ledger: &ledger,
        clock: clock.as_ref(),
        work: &folders.staging,
    };
    let by = site::name(&config.keys_dir);
    let shown = credentials.map(|path| path.display().to_string());
    let report = audit.run(asked, by, shown)?;
    let written = Written::of(config, &report)?;
    written.keep(&mut ledger, id, &report, &folders, clock.now())?;
    if let Some(path) = report_file {
        written.put(&report, path)?;
    }
    if as_json {
        put_json(&report)?;
    } else {
        put(&report.text())?;
    }
    match report.verdict {
        Verdict::Good => Ok(()),
        Verdict::Unproven => Err(Failure::new(exit::FAILED, report.unproven())),
        Verdict::Bad => Err(Failure::new(exit::FAILED, "the archive does not hold what it should")),
    }
}

/// A report as it is written: its JSON, and this side's signature over it, or why there is none.
struct Written {
    json: String,
    signature: Result<String, String>,
}

impl Written {
    fn of(config: &Config, report: &Report) -> Result<Self, Failure> {
        let json = serde_json::to_string_pretty(report)
            .map_err(|err| Failure::new(exit::FAILED, err))?
            + "\n";
        let signature =
            site::signing_key(&config.keys_dir).map_err(|err| err.to_string()).and_then(|key| {
                let kind = StatementKind::Archive;
                key.sign_statement(kind, json.as_bytes()).map_err(|err| err.to_string())
            });
        Ok(Self { json, signature })
    }

    /// Keeps it in the state folder, and notes it in the ledger: `report` quotes the newest.
    fn keep(
        &self,
        ledger: &mut Ledger,
        id: ArchiveId,
        report: &Report,
        folders: &Folders,
        now: Nanos,
    ) -> Result<(), Failure> {
        let dir = &folders.proofs;
        durable::create_dir(dir)
            .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", dir.display())))?;
        let file = format!("{}-{}.json", report.archive, now.0);
        let path = dir.join(&file);
        if let Ok(signature) = &self.signature {
            write(&beside(&path, ".sig"), signature, 0o600)?;
        }
        write(&path, &self.json, 0o600)?;
        let sha256 = BundleDigest::of(self.json.as_bytes());
        let run = report.run(file, sha256, now);
        ledger.note_proof(id, &report.archive, &run, self.json.len() as u64)?;
        Ok(())
    }

    /// Writes FILE (JSON), FILE.txt (the same for people) and FILE.sig (over FILE, by this side's key).
    fn put(&self, report: &Report, path: &Path) -> Result<(), Failure> {
        write(path, &self.json, 0o644)?;
        write(&beside(path, ".txt"), &report.text(), 0o644)?;
        match &self.signature {
            Ok(signature) => {
                write(&beside(path, ".sig"), signature, 0o644)?;
                tell!("wrote {0}, {0}.txt and {0}.sig", path.display());
            }
            Err(why) => tell!("wrote {0} and {0}.txt, NOT SIGNED: {why}", path.display()),
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    durable::write(path, text.as_bytes(), mode)
        .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", path.display())))
}

/// A path with something more at its end.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
