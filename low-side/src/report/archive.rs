//! What the archives prove: what each holds of the period, until when, and what the newest runs of
//! `archive verify` found. A proof that is bad, old or missing is a finding.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use shared::bundle::BundleDigest;
use shared::clock::Nanos;

use super::Framework;
use super::words::{counted, short};
use crate::archive::config::ArchiveConfig;
use crate::ledger::{ArchiveInPeriod, KnownArchive, LastProof, Ledger, LedgerError, ProofRun};

/// What is known of one archive that keeps bundles where they can't be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveProof {
    /// Its name.
    pub name: String,
    /// `s3`, `azure`, `gcs`, `directory`, or `unknown` where it is not configured any more.
    pub kind: String,
    /// Where it is, without secrets.
    pub place: String,
    /// What keeps its objects from being changed, in the vendor's words.
    pub lock: String,
    /// How long it has to keep a bundle, in seconds; nothing where it can't promise that.
    pub retain_secs: Option<u64>,
    /// Whether records waited until it had their bundle.
    pub before: bool,
    /// Bundles of the period that it holds.
    pub archived: u64,
    /// When the first lock of these ends, RFC 3339.
    pub locked_until: Option<String>,
    /// Bundles of the period that it has yet to take.
    pub waiting: u64,
    /// Of these, bundles that it refused, or that could not be given to it.
    pub refused: u64,
    /// Bundles of the period that it neither holds nor is to take.
    pub neither: u64,
    /// The newest run of `archive verify`.
    pub last_run: Option<QuotedRun>,
    /// The newest run that found something wrong, which no later one that saw as much has refuted.
    pub last_found: Option<QuotedRun>,
    /// The newest run in which every try to break the lock was refused.
    pub last_held: Option<QuotedRun>,
    /// What is wrong, or not proven.
    pub findings: Vec<ArchiveFinding>,
}

/// A run of `archive verify`, quoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QuotedRun {
    /// When it ended, RFC 3339.
    pub at: String,
    /// `good`, `unproven` or `bad`.
    pub verdict: String,
    /// What the tries to break the lock came to: `holds`, `unknown` or `broken`; absent where none were
    /// made.
    pub lock: Option<String>,
    /// Whether every object was read back.
    pub full: bool,
    /// Objects that were looked at.
    pub looked_at: u64,
    /// How much was wrong.
    pub findings: u64,
    /// Objects that the archive did not show, however often it was asked.
    pub unanswered: u64,
    /// Objects that were gone after their lock had ended.
    pub gone_after_lock: u64,
    /// The name of its report among the kept ones.
    pub report: String,
    /// The SHA-256 of its report.
    pub sha256: String,
}

/// Something about an archive that an auditor has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArchiveFinding {
    /// Whether it shows that a proof fails, and not only that one is missing or old.
    pub bad: bool,
    /// What it is.
    pub text: String,
}

impl QuotedRun {
    fn of(run: &ProofRun) -> Self {
        Self {
            at: run.at.to_string(),
            verdict: run.verdict.clone(),
            lock: run.lock.clone(),
            full: run.whole,
            looked_at: run.looked_at,
            findings: run.findings,
            unanswered: run.unanswered,
            gone_after_lock: run.gone,
            report: run.file.clone(),
            sha256: run.sha256.to_string(),
        }
    }
}

/// What is known of every archive that is configured, and of those that were and hold something of the
/// period; by name.
pub(super) fn look(
    ledger: &Ledger,
    configs: &[ArchiveConfig],
    proofs: &Path,
    framework: Framework,
    period: (Nanos, Nanos),
    now: Nanos,
) -> Result<Vec<ArchiveProof>, LedgerError> {
    let known = ledger.known_archives()?;
    let mut found = Vec::new();
    for config in configs {
        let id = known.iter().find(|known| known.name == config.name);
        let mut facts = Facts { config: Some(config), ..Facts::default() };
        if let Some(id) = id {
            facts.ask(ledger, id, proofs, period)?;
        }
        found.push(prove(&config.name, &facts, framework, now));
    }
    for id in known.iter().filter(|id| configs.iter().all(|config| config.name != id.name)) {
        let mut facts = Facts::default();
        facts.ask(ledger, id, proofs, period)?;
        if facts.sums.archived > 0 {
            found.push(prove(&id.name, &facts, framework, now));
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Everything that is judged of one archive.
#[derive(Default)]
struct Facts<'a> {
    /// Its settings, where it has any.
    config: Option<&'a ArchiveConfig>,
    /// Whether the agent has it.
    active: bool,
    sums: ArchiveInPeriod,
    last: Option<ProofRun>,
    found: Option<ProofRun>,
    tried: Option<ProofRun>,
    held: Option<ProofRun>,
    /// Whether the agent found that it does not lock.
    lockless: bool,
    /// What is wrong with kept reports.
    reports: Vec<String>,
}

impl Facts<'_> {
    fn ask(
        &mut self,
        ledger: &Ledger,
        id: &KnownArchive,
        proofs: &Path,
        period: (Nanos, Nanos),
    ) -> Result<(), LedgerError> {
        self.active = id.active;
        self.sums = ledger.archive_in_period(id, period)?;
        self.last = ledger.last_proof(id.id, LastProof::Any)?;
        self.found = ledger.last_proof(id.id, LastProof::Found)?;
        self.tried = ledger.last_proof(id.id, LastProof::Tried)?;
        self.held = ledger.last_proof(id.id, LastProof::Held)?;
        self.lockless = ledger.alarm_stands("archive-refused", &id.name)?;
        let mut quoted: Vec<&ProofRun> =
            [&self.last, &self.found, &self.held].into_iter().flatten().collect();
        quoted.dedup();
        self.reports = quoted.into_iter().filter_map(|run| wrong_report(proofs, run)).collect();
        Ok(())
    }
}

/// What is wrong with the kept report of a run.
fn wrong_report(proofs: &Path, run: &ProofRun) -> Option<String> {
    let path = proofs.join(&run.file);
    match std::fs::read(&path) {
        Ok(bytes) if BundleDigest::of(&bytes) == run.sha256 => None,
        Ok(_) => Some(format!("the kept report {} is not what was written", run.file)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            Some(format!("the kept report {} is gone", run.file))
        }
        Err(err) => Some(format!("the kept report {} can't be read: {err}", run.file)),
    }
}

/// Pure: what the facts come to.
fn prove(name: &str, facts: &Facts<'_>, framework: Framework, now: Nanos) -> ArchiveProof {
    let Facts { config, sums, .. } = facts;
    let text = |of: fn(&ArchiveConfig) -> String| config.map_or("unknown".to_owned(), of);
    ArchiveProof {
        name: name.to_owned(),
        kind: text(|config| config.kind.as_str().to_owned()),
        place: text(|config| config.kind.place("")),
        lock: text(|config| config.kind.lock().to_owned()),
        retain_secs: config.and_then(|config| config.retain).map(|retain| retain.as_secs()),
        before: config.is_some_and(|config| config.before),
        archived: sums.archived,
        locked_until: sums.locked_until.map(|until| until.to_string()),
        waiting: sums.waiting,
        refused: sums.refused,
        neither: sums.neither,
        last_run: facts.last.as_ref().map(QuotedRun::of),
        last_found: facts.found.as_ref().map(QuotedRun::of),
        last_held: facts.held.as_ref().map(QuotedRun::of),
        findings: findings(facts, framework, now),
    }
}

fn findings(facts: &Facts<'_>, framework: Framework, now: Nanos) -> Vec<ArchiveFinding> {
    let Facts { config, sums, last, found: found_bad, tried, held, .. } = facts;
    let mut found = Vec::new();
    let mut find = |bad: bool, text: String| found.push(ArchiveFinding { bad, text });
    let locks = config.is_none_or(|config| config.retain.is_some());
    let ago = |at: Nanos| days(now.since(at));
    let old = |at: Nanos, most: Duration| now.since(at) > most;
    if config.is_none() {
        find(false, "it is not configured any more, and gets nothing".to_owned());
    } else if !facts.active {
        find(false, "the agent has not run with it yet".to_owned());
    }
    if facts.lockless {
        find(true, "it does not lock what it gets, as the agent found".to_owned());
    }
    if !locks {
        find(false, "a folder is no lock: root can remove what it keeps".to_owned());
    } else if sums.unlocked > 0 {
        let text = format!("{} of the period are in it without a lock", bundles(sums.unlocked));
        find(true, text);
    }
    if let Some(until) = sums.locked_until.filter(|until| *until <= now) {
        find(false, format!("locks of bundles of the period are over, the first since {until}"));
    }
    if let (Some(least), Some(retain)) =
        (framework.retain_least(), config.and_then(|config| config.retain))
        && retain < least
    {
        let text = format!(
            "it locks for {}, and {} is usually read as {}",
            days(retain),
            framework.as_str(),
            days(least)
        );
        find(false, text);
    }
    if sums.refused > 0 {
        find(false, format!("{} of the period can't be archived", bundles(sums.refused)));
    }
    let waiting = sums.waiting - sums.refused.min(sums.waiting);
    if waiting > 0 {
        find(false, format!("{} of the period wait to be archived", bundles(waiting)));
    }
    if sums.neither > 0 {
        let text =
            format!("{} of the period are neither in it nor to be archived", bundles(sums.neither));
        find(facts.active && locks, text);
    }
    if sums.removed > 0 {
        let text = format!(
            "{} of the period had left the store before they could go into it",
            bundles(sums.removed)
        );
        find(false, text);
    }
    if let Some(run) = found_bad {
        let what = counted(run.findings, "finding");
        let how = if run.whole { "read" } else { "looked at" };
        let text = format!(
            "archive verify found it bad at {}: {what}; no later run that {how} every object (archive verify --full) found it good",
            short_time(run.at)
        );
        find(true, text);
    }
    if let Some(run) = last {
        let at = short_time(run.at);
        if run.unanswered > 0 {
            let objects = counted(run.unanswered, "object");
            find(
                false,
                format!(
                    "it did not show {objects} to archive verify at {at}: of these nothing is proven"
                ),
            );
        }
        if run.gone > 0 {
            let objects = counted(run.gone, "object");
            find(false, format!("{objects} of it were gone at {at}, after their locks had ended"));
        }
    }
    match last {
        None => find(false, "it was never verified (penstock-low archive verify)".to_owned()),
        Some(run) if old(run.at, COMPARED_WITHIN) => {
            let text = format!(
                "it was last compared {} ago, at {}: a month is too long",
                ago(run.at),
                short_time(run.at)
            );
            find(false, text);
        }
        Some(_) => {}
    }
    if locks {
        match (tried, held) {
            (Some(run), _) if run.lock.as_deref() == Some("broken") => {
                let text =
                    format!("its lock did not hold when it was tried at {}", short_time(run.at));
                find(true, text);
            }
            (_, Some(run)) if old(run.at, PROVEN_WITHIN) => {
                let text = format!(
                    "its lock was last proven {} ago, at {}: a year is too long",
                    ago(run.at),
                    short_time(run.at)
                );
                find(false, text);
            }
            (_, Some(_)) => {}
            (Some(run), None) => {
                let text = format!(
                    "its lock is not proven: the credentials of the try at {} may not do what it forbids",
                    short_time(run.at)
                );
                find(false, text);
            }
            (None, None) => {
                find(false, "nothing proves that its lock holds: it was never tried".to_owned());
            }
        }
    }
    for problem in &facts.reports {
        find(true, problem.clone());
    }
    found
}

fn days(span: Duration) -> String {
    // Not counted(): it would make "daies" of it.
    match span.as_secs() / 86_400 {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

fn bundles(count: u64) -> String {
    counted(count, "bundle")
}

fn short_time(at: Nanos) -> String {
    short(&at.to_string())
}

/// A comparison that is older says little of the month that a report is made for.
const COMPARED_WITHIN: Duration = Duration::from_hours(31 * 24);
/// The lock is to be tried once a year, with an administrator's credentials.
const PROVEN_WITHIN: Duration = Duration::from_hours(366 * 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::config::ArchiveKind;

    const NOW: Nanos = Nanos(1_800_000_000_000_000_000);

    fn days_ago(days: u64) -> Nanos {
        Nanos(NOW.0 - i64::try_from(days * 86_400_000_000_000).unwrap())
    }

    fn run(days: u64, verdict: &str, lock: Option<&str>) -> ProofRun {
        ProofRun {
            at: days_ago(days),
            verdict: verdict.to_owned(),
            lock: lock.map(ToOwned::to_owned),
            whole: false,
            every: true,
            looked_at: 3,
            findings: u64::from(verdict == "bad"),
            unanswered: 0,
            gone: 0,
            file: "worm-1.json".to_owned(),
            sha256: BundleDigest::ZERO,
        }
    }

    type Change = fn(&mut Facts<'_>);

    #[test]
    fn proofs_that_are_bad_old_or_missing_are_findings() {
        let config = |retain| ArchiveConfig {
            name: "worm".to_owned(),
            before: true,
            retain,
            lag_alarm: Duration::from_secs(1),
            retry: (Duration::from_secs(1), Duration::from_secs(1)),
            kind: ArchiveKind::Directory("/srv/evidence".into()),
        };
        let (locked, folder) = (config(Some(Duration::from_hours(30 * 24))), config(None));
        let good = run(1, "good", Some("holds"));
        let base = || Facts {
            config: Some(&locked),
            active: true,
            last: Some(good.clone()),
            tried: Some(good.clone()),
            held: Some(good.clone()),
            ..Facts::default()
        };
        let told = |facts: &Facts<'_>, framework| -> Vec<(bool, String)> {
            findings(facts, framework, NOW).into_iter().map(|one| (one.bad, one.text)).collect()
        };
        assert_eq!(told(&base(), Framework::Soc2), []);
        let hipaa = told(&base(), Framework::Hipaa);
        assert!(hipaa.len() == 1 && hipaa[0].1.contains("locks for 30 days"), "{hipaa:?}");

        let cases: [(Change, bool, &str); 14] = [
            (|f| f.last = None, false, "never verified"),
            (|f| f.found = Some(run(1, "bad", None)), true, "found it bad"),
            (
                |f| f.last = Some(ProofRun { unanswered: 2, ..run(1, "unproven", None) }),
                false,
                "did not show 2 objects",
            ),
            (
                |f| f.last = Some(ProofRun { gone: 2, ..run(1, "good", None) }),
                false,
                "2 objects of it were gone",
            ),
            (|f| f.last = Some(run(40, "good", None)), false, "last compared 40 days ago"),
            (|f| f.held = Some(run(400, "good", Some("holds"))), false, "last proven 400 days ago"),
            (|f| f.tried = Some(run(1, "bad", Some("broken"))), true, "did not hold"),
            (
                |f| (f.tried, f.held) = (Some(run(1, "unproven", Some("unknown"))), None),
                false,
                "may not do what it forbids",
            ),
            (|f| (f.tried, f.held) = (None, None), false, "never tried"),
            (|f| f.lockless = true, true, "does not lock"),
            (|f| f.active = false, false, "has not run with it"),
            (|f| (f.sums.waiting, f.sums.refused) = (1, 1), false, "1 bundle of the period can't"),
            (|f| f.sums.unlocked = 2, true, "without a lock"),
            (|f| f.reports.push("gone".to_owned()), true, "gone"),
        ];
        for (change, bad, text) in cases {
            let mut facts = base();
            change(&mut facts);
            let found = told(&facts, Framework::Soc2);
            assert!(
                found.len() == 1 && found[0].0 == bad && found[0].1.contains(text),
                "{text}: {found:?}"
            );
        }
        // A folder needs no proof of a lock, and says that it has none.
        let facts = Facts { config: Some(&folder), tried: None, held: None, ..base() };
        let found = told(&facts, Framework::PciDss);
        assert!(found.len() == 1 && found[0].1.contains("no lock"), "{found:?}");
    }
}
