//! Whether an archive holds what the ledger says, under a lock that holds: the report for an auditor.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use shared::bundle::BundleDigest;
use shared::clock::{Clock, Nanos};

use super::proof::{Outcome, Proof};
use super::{Archive, ArchiveError, Lock, Object, hash_of};
use crate::ledger::{ARCHIVED_PAGE, ArchiveId, ArchivedBundle, Ledger, LedgerError, ProofRun};
use crate::replay::chain_text;

/// What is asked of a run.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Every object is read back, not some of them looked at.
    pub full: bool,
    /// The lock is tried on a canary.
    pub probe: bool,
}

/// What a run found. Its JSON is what is signed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The form of this report.
    pub format: &'static str,
    /// Who made it: the name of this low side.
    pub by: String,
    /// The program's version.
    pub version: &'static str,
    /// The archive.
    pub archive: String,
    /// Where it is.
    pub place: String,
    /// Whose rights were used: the file with the credentials, where others than the agent's were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// When the run began, RFC 3339.
    pub began: String,
    /// When it ended, RFC 3339.
    pub ended: String,
    /// Whether every object was read.
    pub full: bool,
    /// What the ledger says.
    pub ledger: LedgerPart,
    /// What the archive holds.
    pub objects: ObjectsPart,
    /// Whether its lock holds.
    pub lock: LockPart,
    /// What was wrong; at most 1,000 of them.
    pub findings: Vec<Finding>,
    /// How much was wrong.
    pub findings_total: u64,
    /// `good`, `unproven` (nothing is wrong, but the lock could not be proven) or `bad`.
    pub verdict: Verdict,
}

/// What the ledger says of an archive.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LedgerPart {
    /// Bundles it holds.
    pub archived: u64,
    /// Bundles it has yet to take.
    pub waiting: u64,
    /// Bundles of the ledger that are neither.
    pub unaccounted: u64,
    /// Each chain: what of it is archived.
    pub chains: Vec<ChainPart>,
}

/// What of a chain is archived.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChainPart {
    /// `ORIGIN/EPOCH/LANE`.
    pub chain: String,
    /// The first bundle.
    pub first: u64,
    /// The last bundle.
    pub last: u64,
    /// How many of them there are.
    pub bundles: u64,
    /// The digest of the last one: it names all before it.
    pub head: String,
}

/// What was looked at in the archive.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectsPart {
    /// Objects looked at: there, as long, locked for as long as was promised.
    pub looked_at: u64,
    /// Of these, those read back and compared with the digest in the ledger.
    pub read: u64,
    /// Their bytes.
    pub bytes_read: u64,
}

/// Whether the lock holds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LockPart {
    /// What the tries mean together; nothing where none were made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What an auditor has to know about it.
    pub note: String,
    /// The tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// With what.
    pub subject: String,
    /// How.
    pub problem: String,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Something is wrong.
    Bad,
    /// Everything is as it must be.
    Good,
    /// Nothing is wrong, but the lock could not be proven.
    Unproven,
}

impl Verdict {
    /// Its name, as in the report's JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Good => "good",
            Self::Unproven => "unproven",
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The archive can't be asked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The ledger can't be asked.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What a run looks at.
pub struct Audit<'a> {
    /// The archive.
    pub archive: &'a mut dyn Archive,
    /// Its name.
    pub name: &'a str,
    /// Its identity in the ledger.
    pub id: ArchiveId,
    /// The ledger.
    pub ledger: &'a Ledger,
    /// The time.
    pub clock: &'a dyn Clock,
    /// A folder for the canary's content.
    pub work: &'a Path,
}

impl std::fmt::Debug for Audit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Audit<'_> {
    /// Looks at everything that is asked for.
    pub fn run(
        self,
        asked: Asked,
        by: String,
        credentials: Option<String>,
    ) -> Result<Report, AuditError> {
        let Self { archive, name, id, ledger, clock, work } = self;
        let mut report = Report {
            format: FORMAT,
            by,
            version: env!("CARGO_PKG_VERSION"),
            archive: name.to_owned(),
            place: archive.place(""),
            credentials,
            began: clock.now().to_string(),
            ended: String::new(),
            full: asked.full,
            ledger: LedgerPart::default(),
            objects: ObjectsPart::default(),
            lock: LockPart { outcome: None, note: String::new(), proof: None },
            findings: Vec::new(),
            findings_total: 0,
            verdict: Verdict::Bad,
        };
        let sums = ledger.archive_sums()?;
        if let Some(sum) = sums.iter().find(|sum| sum.name == name) {
            report.ledger.archived = sum.archived;
            report.ledger.waiting = sum.waiting;
            report.ledger.unaccounted = ledger.archive_unaccounted(id)?;
            if report.ledger.unaccounted > 0 {
                let problem = format!(
                    "{} bundles of the ledger are neither archived nor due",
                    report.ledger.unaccounted
                );
                report.find(name, problem);
            }
        }
        // Every n-th, beginning anywhere.
        let every = if asked.full { 1 } else { report.ledger.archived.div_ceil(SAMPLE).max(1) };
        let mut turn = clock.now().0.unsigned_abs() % every;
        let mut place = (0, 0);
        let mut before: Option<ArchivedBundle> = None;
        loop {
            let page = ledger.archived(id, place)?;
            let Some(last) = page.last() else { break };
            place = (last.chain_id, last.number);
            let whole = page.len() == ARCHIVED_PAGE;
            for one in page {
                report.link(before.as_ref(), &one);
                if turn == 0 {
                    report.look(archive, &one, asked.full)?;
                    turn = every;
                }
                turn -= 1;
                before = Some(one);
            }
            if !whole {
                break;
            }
        }
        report.prove(archive, clock, work, asked.probe)?;
        report.ended = clock.now().to_string();
        report.verdict = match report.lock.outcome {
            _ if report.findings_total > 0 => Verdict::Bad,
            Some(Outcome::Broken) => Verdict::Bad,
            Some(Outcome::Unknown) => Verdict::Unproven,
            Some(Outcome::Holds) | None => Verdict::Good,
        };
        Ok(report)
    }
}

impl Report {
    /// What the ledger keeps of it; `file` is where its JSON, of this digest, is kept.
    pub fn run(&self, file: String, sha256: BundleDigest, at: Nanos) -> ProofRun {
        let lock = self.lock.outcome.map(|outcome| match outcome {
            Outcome::Holds => "holds",
            Outcome::Unknown => "unknown",
            Outcome::Broken => "broken",
        });
        ProofRun {
            at,
            verdict: self.verdict.as_str().to_owned(),
            lock: lock.map(ToOwned::to_owned),
            whole: self.full,
            looked_at: self.objects.looked_at,
            findings: self.findings_total,
            file,
            sha256,
        }
    }

    fn find(&mut self, subject: &str, problem: impl Into<String>) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            let (subject, problem) = (subject.to_owned(), problem.into());
            self.findings.push(Finding { subject, problem });
        }
    }

    /// The chain: each bundle names the one before it.
    fn link(&mut self, before: Option<&ArchivedBundle>, one: &ArchivedBundle) {
        let Some(digest) = one.digest else {
            self.find(&one.object.key, "the ledger does not know this bundle any more");
            return;
        };
        let before = before.filter(|before| before.chain_id == one.chain_id);
        if let Some(before) = before
            && before.number + 1 == one.number
            && before.digest.is_some_and(|digest| Some(digest) != one.previous)
        {
            self.find(&one.object.key, "it names another bundle as the one before it");
        }
        let chain = one.chain.to_string();
        match self.ledger.chains.last_mut().filter(|part| part.chain == chain) {
            Some(part) => {
                part.bundles += 1;
                part.last = one.number;
                part.head = digest.to_string();
            }
            None => self.ledger.chains.push(ChainPart {
                chain,
                first: one.number,
                last: one.number,
                bundles: 1,
                head: digest.to_string(),
            }),
        }
    }

    /// One object: what the archive says of it, and what it holds.
    fn look(
        &mut self,
        archive: &mut dyn Archive,
        one: &ArchivedBundle,
        read: bool,
    ) -> Result<(), AuditError> {
        let object = &one.object;
        let version = Some(object.version.as_str()).filter(|version| !version.is_empty());
        self.objects.looked_at += 1;
        let Some(held) = archive.look(&object.key, version)? else {
            self.find(&object.key, "it is gone");
            return Ok(());
        };
        if held.bytes != object.bytes {
            self.find(&object.key, format!("it has {} bytes, not {}", held.bytes, object.bytes));
        }
        match (held.lock, object.retain_until) {
            (Lock::Until(until), Some(promised)) if until < promised => {
                self.find(&object.key, format!("it is locked until {until}, not {promised}"));
            }
            (Lock::Weak(why), _) if archive.locks() => self.find(&object.key, why),
            _ => {}
        }
        let mut sha256 = held.sha256;
        if read {
            self.objects.read += 1;
            self.objects.bytes_read += object.bytes;
            match hash_of(archive, &object.key, &object.version, object.bytes) {
                Ok(found) => sha256 = Some(found),
                Err(error) => self.find(&object.key, chain_text(&error)),
            }
        }
        if let Some(found) = sha256.filter(|found| *found != object.sha256) {
            self.find(&object.key, format!("its SHA-256 is {found}, not {}", object.sha256));
        }
        Ok(())
    }

    fn prove(
        &mut self,
        archive: &mut dyn Archive,
        clock: &dyn Clock,
        work: &Path,
        probe: bool,
    ) -> Result<(), AuditError> {
        if !archive.locks() {
            "a folder is no lock: root can remove what it keeps, and so can whoever administers its server"
                .clone_into(&mut self.lock.note);
            return Ok(());
        }
        if !probe {
            "not tried in this run".clone_into(&mut self.lock.note);
            return Ok(());
        }
        let canary = canary(work, clock.now()).map_err(ArchiveError::file(work))?;
        let mut proof = Proof { canary: archive.place(&canary.key), steps: Vec::new() };
        if let Err(error) = archive.prove(&canary, &mut proof) {
            let outcome = match error {
                ArchiveError::NoLock { .. } | ArchiveError::Differs { .. } => Outcome::Broken,
                _ => Outcome::Unknown,
            };
            proof.note("go on", "possible", chain_text(&error), outcome);
        }
        self.lock.outcome = Some(proof.outcome());
        self.lock.note = match proof.outcome() {
            Outcome::Holds => format!("it held; the canary stays until {}", canary.until),
            Outcome::Unknown => "not proven: these credentials may not even do what the lock does not forbid; run this with --credentials of an administrator".to_owned(),
            Outcome::Broken => "IT DOES NOT HOLD: what this archive keeps can be removed or unlocked".to_owned(),
        };
        self.lock.proof = Some(proof);
        Ok(())
    }

    /// The report as text, for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let verdict = match self.verdict {
            Verdict::Bad => "BAD",
            other => other.as_str(),
        };
        let _ = writeln!(out, "archive      {} at {}", self.archive, self.place);
        let _ = writeln!(out, "made by      {}, penstock-low {}", self.by, self.version);
        if let Some(credentials) = &self.credentials {
            let _ = writeln!(out, "credentials  {credentials}");
        }
        let _ = writeln!(out, "time         {} to {}", self.began, self.ended);
        let LedgerPart { archived, waiting, unaccounted, chains } = &self.ledger;
        let _ = writeln!(
            out,
            "ledger       {archived} archived, {waiting} wait, {unaccounted} unaccounted for"
        );
        for ChainPart { chain, first, last, bundles, head } in chains {
            let _ = writeln!(
                out,
                "chain        {chain}: {bundles} bundles, {first} to {last}, head {head}"
            );
        }
        let ObjectsPart { looked_at, read, bytes_read } = &self.objects;
        let _ = writeln!(
            out,
            "objects      {looked_at} looked at, {read} of them read back ({bytes_read} bytes)"
        );
        let _ = writeln!(out, "lock         {}", self.lock.note);
        if let Some(proof) = &self.lock.proof {
            let _ = writeln!(out, "             canary {}", proof.canary);
            for (at, step) in proof.steps.iter().enumerate() {
                let _ = writeln!(
                    out,
                    "  {:>2} {:<8} {}\n              expected: {}\n              observed: {}",
                    at + 1,
                    step.outcome.as_str(),
                    step.what,
                    step.expected,
                    step.observed
                );
            }
        }
        for Finding { subject, problem } in &self.findings {
            let _ = writeln!(out, "FINDING      {subject}: {problem}");
        }
        let more = self.findings_total - self.findings.len() as u64;
        if more > 0 {
            let _ = writeln!(out, "             and {more} more");
        }
        let _ = writeln!(out, "verdict      {verdict}");
        out
    }
}

/// An object to try the lock on: a few words, locked for a day.
fn canary(work: &Path, now: Nanos) -> io::Result<Object> {
    let name = now.to_string().replace([':', '.'], "-");
    let text = format!(
        "penstock-low made this object at {now} to try its lock, and failed to remove it if all is well.\n"
    );
    let path = work.join(format!("canary-{}-{}", std::process::id(), now.0));
    std::fs::write(&path, &text)?;
    // It needs no name: what is gone when the process ends needs no cleaning.
    let file: io::Result<File> = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(&path);
    std::fs::remove_file(&path)?;
    Ok(Object {
        key: format!("penstock-canary/{name}"),
        file: Arc::new(file?),
        bytes: text.len() as u64,
        sha256: BundleDigest::of(text.as_bytes()),
        until: now.plus(CANARY_KEPT),
        until_least: now.plus(CANARY_KEPT),
    })
}

const FORMAT: &str = "penstock-archive-report-1";
/// As many objects are looked at where not all are.
const SAMPLE: u64 = 100;
/// As many findings are listed.
const FINDINGS_MAX: usize = 1000;
/// Long enough to be shortened, and short enough to cost nothing.
const CANARY_KEPT: Duration = Duration::from_hours(24);
