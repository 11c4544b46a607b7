//! `archive`: what is kept, whether it is kept, and getting it back.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shared::bell::Bell;
use shared::bundle::{BundleDigest, Limits, compare};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::custody::Wanted;
use shared::keys::StatementKind;
use shared::{durable, exit};

use super::{Failure, put, put_json};
use crate::archive::audit::{Asked, Audit, AuditError, Report, Verdict};
use crate::archive::config::ArchiveConfig;
use crate::archive::{self, Archive, ArchiveError};
use crate::cli::ArchiveVerb;
use crate::config::Config;
use crate::folders::Folders;
use crate::ledger::{ARCHIVED_PAGE, ArchiveId, ArchivedBundle, Ledger, LedgerError};
use crate::replay::chain_text;
use crate::site;

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
        ArchiveVerb::List { archive, json } => list(config, archive.as_deref(), *json),
        ArchiveVerb::Verify { archive, full, no_probe, credentials, report, json } => {
            let asked = Asked { full: *full, probe: !*no_probe };
            let (credentials, report) = (credentials.as_deref(), report.as_deref());
            verify(config, archive.as_deref(), asked, credentials, report, *json)
        }
        ArchiveVerb::Restore { archive, from, to, bundle, dir } => {
            let which = match (bundle, from) {
                (Some(bundle), _) => Which::Bundle(bundle),
                (None, Some(from)) => Which::Period(*from, to.unwrap_or_else(|| SystemClock.now())),
                (None, None) => Which::Period(Nanos(i64::MIN), to.unwrap_or(Nanos(i64::MAX))),
            };
            restore(config, archive.as_deref(), &which, dir)
        }
    }
}

/// The archive that is meant: the one that is named, or the only one.
fn choose<'a>(
    config: &'a Config,
    ledger: &Ledger,
    name: Option<&str>,
) -> Result<(&'a ArchiveConfig, ArchiveId), Failure> {
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
    let Some(found) = found else {
        let names: Vec<_> = config.archives.iter().map(|archive| archive.name.as_str()).collect();
        return Err(usage(format!("which archive?\n  try: --archive {}", names.join(" or "))));
    };
    let Some(id) = ledger.archive_id(&found.name)? else {
        let text = format!(
            "the ledger knows no archive {}\n  try: start the agent with this configuration",
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

/// What is fetched.
enum Which<'a> {
    Bundle(&'a str),
    Period(Nanos, Nanos),
}

fn restore(
    config: &Config,
    name: Option<&str>,
    which: &Which<'_>,
    dir: &Path,
) -> Result<(), Failure> {
    let ledger = Ledger::open_existing(&config.state_dir)?;
    let (settings, id) = choose(config, &ledger, name)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut archive = archive::make(settings, None, &clock, &Bell::default());
    std::fs::create_dir_all(dir)
        .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", dir.display())))?;
    let (mut restored, mut bytes) = (0_u64, 0_u64);
    let mut fetch = |one: &ArchivedBundle| {
        fetch(archive.as_mut(), one, dir, &config.limits)?;
        restored += 1;
        bytes += one.object.bytes;
        Ok::<_, Failure>(())
    };
    match which {
        Which::Period(from, to) => {
            each(|place| ledger.archived_of_period(id, (*from, *to), place), |one| fetch(&one))?;
        }
        Which::Bundle(text) => {
            let wanted: Wanted =
                text.parse().map_err(|problem| Failure::new(exit::USAGE, problem))?;
            each(
                |place| ledger.archived(id, place),
                |one| if is_wanted(&wanted, &one) { fetch(&one) } else { Ok(()) },
            )?;
        }
    }
    if restored == 0 {
        let text = "the archive holds no such bundle\n  try: penstock-low archive list";
        return Err(Failure::new(exit::FAILED, text));
    }
    tell!("{restored} bundle(s), {bytes} bytes, verified, in {}", dir.display());
    tell!("next: penstock-low import {} on the low side that is to have them", dir.display());
    Ok(())
}

fn is_wanted(wanted: &Wanted, one: &ArchivedBundle) -> bool {
    match wanted {
        Wanted::Digest(digits) => {
            let digests = [one.digest, Some(one.object.sha256)];
            digests.into_iter().flatten().any(|digest| digest.to_string().starts_with(digits))
        }
        Wanted::File(name) => one.file == *name,
        Wanted::Number(origin, epoch, lane, number) => {
            one.number == *number
                && one.chain.lane == *lane
                && origin.as_ref().is_none_or(|origin| *origin == one.chain.origin)
                && epoch.is_none_or(|epoch| epoch == one.chain.epoch)
        }
    }
}

/// Fetches one bundle by its version, and puts it into the folder under its name once it is, byte for
/// byte, what was archived.
fn fetch(
    archive: &mut dyn Archive,
    one: &ArchivedBundle,
    dir: &Path,
    limits: &Limits,
) -> Result<(), Failure> {
    let path = dir.join(&one.file);
    let partial = durable::partial_path(&path);
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |err: std::io::Error| Failure::new(exit::IO, format!("{path}: {err}"))
    };
    if path.symlink_metadata().is_ok() {
        return Err(io(&path)(std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut file: File = durable::create(&partial, 0o644).map_err(io(&partial))?;
    let object = &one.object;
    archive.read(&object.key, &object.version, object.bytes, &mut |piece| file.write_all(piece))?;
    file.sync_all().map_err(io(&partial))?;
    let (_, sha256) = archive::worker::hash(&file).map_err(io(&partial))?;
    let differs = |why: &str| {
        // What is wrong must not lie about under a name that looks right.
        let _ = std::fs::remove_file(&partial);
        Failure::new(exit::REFUSED, format!("{}: {why}", archive.place(&object.key)))
    };
    if sha256 != object.sha256 {
        return Err(differs(&format!("its SHA-256 is {sha256}, not {}", object.sha256)));
    }
    if let Some(digest) = one.digest
        && let Err(refusal) = compare(&file, &digest, limits)
    {
        return Err(differs(&refusal.to_string()));
    }
    durable::rename(&partial, &path).map_err(io(&path))
}
