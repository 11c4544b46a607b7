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
use crate::http::HttpError;
use crate::ledger::{
    ARCHIVED_PAGE, ArchiveId, ArchivedBundle, KeptObject, Ledger, LedgerError, ProofRun,
};
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
    /// Objects that the archive did not show, however often it was asked; at most 1,000 of them.
    pub unanswered: Vec<Finding>,
    /// `good`, `unproven` (nothing is wrong, but the lock could not be proven, or not everything was
    /// shown) or `bad`.
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
    /// Of those looked at, those that the archive did not show, or not whole, however often it was asked:
    /// nothing is known of them.
    pub unanswered: u64,
    /// Objects that were to be looked at, and were not since the archive had stopped answering.
    pub not_looked_at: u64,
    /// Objects that are gone, and whose lock had ended: they may go then.
    pub gone_after_lock: u64,
    /// When the first of these locks had ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone_lock_ended: Option<String>,
    /// Of those looked at, those that are there and whose lock has ended.
    pub lock_ended: u64,
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
    /// Nothing is wrong, but the lock could not be proven, or the archive did not show everything.
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
    /// Looks at everything that is asked for. An archive that does not answer now is asked again, for some
    /// minutes at most.
    pub fn run(
        self,
        asked: Asked,
        by: String,
        credentials: Option<String>,
    ) -> Result<Report, AuditError> {
        self.run_with(asked, by, credentials, &mut Patience::of(PAUSE_FIRST))
    }

    fn run_with(
        self,
        asked: Asked,
        by: String,
        credentials: Option<String>,
        patience: &mut Patience,
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
            unanswered: Vec::new(),
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
                    if patience.gave_up() {
                        report.objects.not_looked_at += 1;
                    } else {
                        report.look(archive, &one, asked.full, clock, patience)?;
                    }
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
            _ if report.objects.not_shown() > 0 => Verdict::Unproven,
            Some(Outcome::Holds) | None => Verdict::Good,
        };
        Ok(report)
    }
}

impl ObjectsPart {
    /// Objects of which the archive showed nothing, or not everything that was asked for.
    fn not_shown(&self) -> u64 {
        self.unanswered + self.not_looked_at
    }
}

/// How long a run waits for an archive that does not answer now.
#[derive(Debug)]
struct Patience {
    /// The first pause; each is twice as long as the one before.
    first: Duration,
    waited: Duration,
    /// Objects in a row that were not answered for.
    in_a_row: u32,
    /// Whether there was any answer, if only that it is busy.
    answered: bool,
}

impl Patience {
    fn of(first: Duration) -> Self {
        Self { first, waited: Duration::ZERO, in_a_row: 0, answered: false }
    }

    /// Whether asking has no sense any more: the archive is down.
    fn gave_up(&self) -> bool {
        self.in_a_row >= GIVE_UP_AFTER
    }

    /// Asks, and asks again after a pause where the answer says nothing of the object.
    fn ask<T>(
        &mut self,
        mut ask: impl FnMut() -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        let mut pause = self.first;
        let mut tries = 1;
        loop {
            let answer = ask();
            self.answered |= !matches!(answer, Err(ArchiveError::Http(_)));
            let Err(error) = answer else { return answer };
            let rest = pause.max(error.retry_after().unwrap_or_default().min(PAUSE_MAX));
            if !is_passing(&error) || tries == TRIES || self.waited + rest > WAIT_MAX {
                return Err(error);
            }
            std::thread::sleep(rest);
            self.waited += rest;
            pause *= 2;
            tries += 1;
        }
    }
}

/// Whether an error may well be another one, or none, in a moment.
fn is_passing(error: &ArchiveError) -> bool {
    match error {
        ArchiveError::Answer { status, .. } => matches!(status, 408 | 429 | 500..=599),
        ArchiveError::Http(error) => matches!(
            error,
            HttpError::Broken { .. } | HttpError::Connect { .. } | HttpError::Timeout { .. }
        ),
        _ => false,
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
            every: self.objects.looked_at >= self.ledger.archived
                && self.objects.not_looked_at == 0,
            looked_at: self.objects.looked_at,
            findings: self.findings_total,
            unanswered: self.objects.not_shown(),
            gone: self.objects.gone_after_lock,
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
        clock: &dyn Clock,
        patience: &mut Patience,
    ) -> Result<(), AuditError> {
        let object = &one.object;
        let version = Some(object.version.as_str()).filter(|version| !version.is_empty());
        self.objects.looked_at += 1;
        let held = match patience.ask(|| archive.look(&object.key, version)) {
            Ok(Some(held)) => held,
            Ok(None) => {
                patience.in_a_row = 0;
                self.gone(object, clock.now());
                return Ok(());
            }
            // It was never reached: there is nothing to report.
            Err(error @ ArchiveError::Http(_)) if !patience.answered => return Err(error.into()),
            Err(error) if is_passing(&error) => {
                patience.in_a_row += 1;
                self.not_shown(&object.key, &error);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        patience.in_a_row = 0;
        if held.bytes != object.bytes {
            self.find(&object.key, format!("it has {} bytes, not {}", held.bytes, object.bytes));
        }
        let ended = object.retain_until.is_some_and(|until| until <= clock.now());
        self.objects.lock_ended += u64::from(ended);
        match (held.lock, object.retain_until) {
            (Lock::Until(until), Some(promised)) if until < promised => {
                self.find(&object.key, format!("it is locked until {until}, not {promised}"));
            }
            (Lock::Weak(why), _) if archive.locks() && !ended => self.find(&object.key, why),
            _ => {}
        }
        let mut sha256 = held.sha256;
        if read {
            match patience.ask(|| hash_of(archive, &object.key, &object.version, object.bytes)) {
                Ok(found) => {
                    self.objects.read += 1;
                    self.objects.bytes_read += object.bytes;
                    sha256 = Some(found);
                }
                Err(ArchiveError::Answer { status: 404 | 410, .. }) => {
                    self.gone(object, clock.now());
                    return Ok(());
                }
                Err(
                    error @ (ArchiveError::Differs { .. }
                    | ArchiveError::NoLock { .. }
                    | ArchiveError::Http(HttpError::TooLarge { .. })),
                ) => self.find(&object.key, chain_text(&error)),
                Err(error @ (ArchiveError::Credential { .. } | ArchiveError::Tls(_))) => {
                    return Err(error.into());
                }
                // What is not given is not shown to be wrong.
                Err(error) => {
                    patience.in_a_row += u32::from(is_passing(&error));
                    self.not_shown(&object.key, &error);
                }
            }
        }
        if let Some(found) = sha256.filter(|found| *found != object.sha256) {
            self.find(&object.key, format!("its SHA-256 is {found}, not {}", object.sha256));
        }
        Ok(())
    }

    /// An object is not there. Once its lock has ended, it may be removed.
    fn gone(&mut self, object: &KeptObject, now: Nanos) {
        let Some(until) = object.retain_until.filter(|until| *until <= now) else {
            self.find(&object.key, "it is gone");
            return;
        };
        self.objects.gone_after_lock += 1;
        let until = until.to_string();
        let first = self.objects.gone_lock_ended.get_or_insert_with(|| until.clone());
        if until < *first {
            *first = until;
        }
    }

    /// The archive did not show an object, or did not give it.
    fn not_shown(&mut self, subject: &str, error: &ArchiveError) {
        self.objects.unanswered += 1;
        if self.unanswered.len() < FINDINGS_MAX {
            let (subject, problem) = (subject.to_owned(), chain_text(error));
            self.unanswered.push(Finding { subject, problem });
        }
    }

    /// Why nothing is wrong, and yet it is not good; and what to do.
    pub fn unproven(&self) -> String {
        let objects = self.objects.not_shown();
        if objects > 0 {
            return format!(
                "nothing is wrong with what the archive showed, but it did not show {objects} object(s)\n  try: the same once more, when it answers; with credentials that may read"
            );
        }
        "nothing is wrong, but the lock is not proven\n  try: --credentials FILE, of an administrator of the store".to_owned()
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

    /// What is known of the objects besides.
    fn objects_text(&self, out: &mut String) {
        let objects = &self.objects;
        if let Some(first) = &objects.gone_lock_ended {
            let _ = writeln!(
                out,
                "             {} are gone; their locks had ended, the first at {first}, and they may go then",
                objects.gone_after_lock
            );
        }
        if objects.lock_ended > 0 {
            let _ = writeln!(
                out,
                "             {} are there without a lock: theirs has ended",
                objects.lock_ended
            );
        }
        if objects.not_shown() > 0 {
            let _ = writeln!(
                out,
                "             {} were not shown, however often they were asked for; {} more were not asked for then",
                objects.unanswered, objects.not_looked_at
            );
        }
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
        let ObjectsPart { looked_at, read, bytes_read, .. } = &self.objects;
        let _ = writeln!(
            out,
            "objects      {looked_at} looked at, {read} of them read back ({bytes_read} bytes)"
        );
        self.objects_text(&mut out);
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
        for Finding { subject, problem } in &self.unanswered {
            let _ = writeln!(out, "not shown    {subject}: {problem}");
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
/// As often an object is asked for, where the archive does not answer now: 7.5 s, if it says nothing else.
const TRIES: u32 = 5;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause that an archive may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// All pauses of a run together: behind that, nothing is asked for twice.
const WAIT_MAX: Duration = Duration::from_mins(10);
/// So many objects in a row without an answer, and the archive is down.
const GIVE_UP_AFTER: u32 = 3;
/// Long enough to be shortened, and short enough to cost nothing.
const CANARY_KEPT: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests;
