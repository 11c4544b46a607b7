//! `report`: the evidence of a period, for an auditor.

use std::path::{Path, PathBuf};

use shared::bundle::BundleDigest;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::custody::who;
use shared::durable;
use shared::exit;
use shared::keys::{KeyError, RECEIPT_KEY_FILE, ReleasePolicy, SigningKey, StatementKind};
use shared::process::host_name;

use super::{Failure, put};
use crate::config::Config;
use crate::import::Keys;
use crate::ledger::Ledger;
use crate::replay::chain_text;
use crate::report::page::{Files, page};
use crate::report::{Framework, Made, ReportError, Sources, gather};
use crate::site;

/// What was asked for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) config_file: &'a Path,
    pub(super) period: (Nanos, Nanos),
    pub(super) framework: Framework,
    pub(super) output: Option<&'a Path>,
    pub(super) as_json: bool,
}

impl From<ReportError> for Failure {
    fn from(err: ReportError) -> Self {
        match err {
            ReportError::Custody(_) => Self::new(exit::IO, chain_text(&err)),
            ReportError::Keys(err) => err.into(),
            ReportError::Ledger(err) => err.into(),
        }
    }
}

pub(super) fn report(config: &Config, asked: &Asked<'_>) -> Result<(), Failure> {
    let (from, to) = asked.period;
    if from >= to {
        let text =
            format!("the period from {from} to {to} holds nothing\n  try: --from before --to");
        return Err(Failure::new(exit::USAGE, text));
    }
    let site = site::name(&config.keys_dir);
    let outputs = match asked.output {
        None if asked.as_json => None,
        output => Some(Outputs::at(output.unwrap_or(Path::new(".")), &site, asked)?),
    };
    let key = signing_key(&config.keys_dir)?;
    let mut ledger = Ledger::open_read_only(&config.state_dir)?;
    // What is demanded of a bundle now may be more than what was when it came.
    let keys = Keys::load(&config.keys_dir, &ReleasePolicy::default())?;
    let now = SystemClock.now();
    let sources = Sources {
        config_file: asked.config_file,
        state_dir: &config.state_dir,
        keys_dir: &config.keys_dir,
        keys: &keys,
        limits: &config.limits,
        budgets: &config.latency,
        archives: &config.archives,
    };
    let made = Made {
        site: site.clone(),
        host: host_name(),
        program: format!("penstock-low {}", env!("CARGO_PKG_VERSION")),
        at: now.to_string(),
        by: who(),
        signed_by: key.as_ref().map(SigningKey::fingerprint),
        signature_namespace: StatementKind::Report.namespace(),
    };
    let report = gather(&mut ledger, &sources, made, asked.framework, asked.period, now)?;
    drop(ledger);
    let json = serde_json::to_string_pretty(&report)
        .map_err(|err| Failure::new(exit::FAILED, err))?
        + "\n";
    if let Some(outputs) = outputs {
        let sha256 = BundleDigest::of(json.as_bytes()).to_string();
        let files = Files { json: &outputs.name(".json"), json_sha256: &sha256 };
        outputs.write(json.as_bytes(), page(&report, files).as_bytes(), key.as_ref())?;
    }
    tell!("{}", report.verdict.text);
    if asked.as_json { put(&json) } else { Ok(()) }
}

/// The key that signs for this side, if there is one; none is made here.
fn signing_key(keys_dir: &Path) -> Result<Option<SigningKey>, KeyError> {
    let path = keys_dir.join(RECEIPT_KEY_FILE);
    if path.exists() { SigningKey::load(&path).map(Some) } else { Ok(None) }
}

/// The files of a report, which have one name and several endings.
struct Outputs {
    folder: PathBuf,
    stem: String,
}

/// The page comes last: where it stands, everything does.
const ENDINGS: [&str; 4] = [".json", ".json.sig", ".html.sig", ".html"];

impl Outputs {
    fn at(output: &Path, site: &str, asked: &Asked<'_>) -> Result<Self, Failure> {
        let outputs = if output.is_dir() {
            // A time as it may stand in a file's name.
            let plain = |time: Nanos| {
                let text: String = time.to_string().chars().take(16).collect();
                text.replace([':', '-'], "").replace('T', "-")
            };
            let (from, to) = asked.period;
            let framework = asked.framework.as_str();
            let stem =
                format!("penstock-report-{site}-{framework}-{}-to-{}", plain(from), plain(to));
            Self { folder: output.to_owned(), stem }
        } else {
            let name = output.file_name().and_then(|name| name.to_str());
            let stem = name.and_then(|name| name.strip_suffix(".html")).unwrap_or_default();
            if stem.is_empty() {
                let text = format!(
                    "{} is no folder, and no name that ends with .html\n  try: --output november.html",
                    output.display()
                );
                return Err(Failure::new(exit::USAGE, text));
            }
            let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
            Self { folder: folder.unwrap_or(Path::new(".")).to_owned(), stem: stem.to_owned() }
        };
        // Evidence is never replaced.
        for ending in ENDINGS {
            let path = outputs.path(ending);
            if path.symlink_metadata().is_ok() {
                let text = format!(
                    "{} is there already, and evidence is not replaced\n  try: --output with another name",
                    path.display()
                );
                return Err(Failure::new(exit::FAILED, text));
            }
        }
        Ok(outputs)
    }

    fn name(&self, ending: &str) -> String {
        format!("{}{ending}", self.stem)
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(self.name(ending))
    }

    fn write(&self, json: &[u8], html: &[u8], key: Option<&SigningKey>) -> Result<(), Failure> {
        let sign = |text: &[u8]| {
            let signature = key.map(|key| key.sign_statement(StatementKind::Report, text));
            signature.transpose().map_err(|err| Failure::new(exit::FAILED, err))
        };
        let (json_signature, html_signature) = (sign(json)?, sign(html)?);
        let files: [Option<&[u8]>; 4] = [
            Some(json),
            json_signature.as_deref().map(str::as_bytes),
            html_signature.as_deref().map(str::as_bytes),
            Some(html),
        ];
        for (ending, bytes) in ENDINGS.iter().zip(files) {
            let Some(bytes) = bytes else { continue };
            let path = self.path(ending);
            durable::write(&path, bytes, FILE_MODE)
                .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", path.display())))?;
            tell!("wrote {}", path.display());
        }
        if key.is_none() {
            tell!(
                "note: not signed: this side has no key\n  try: penstock-low public, which makes one"
            );
        }
        Ok(())
    }
}

/// Whoever may read the state folder may read what it comes to.
const FILE_MODE: u32 = 0o640;
