//! Everything that the report says, read and judged; nothing of how it looks.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use shared::bundle::{BundleDigest, Limits};
use shared::clock::Nanos;
use shared::custody::{CustodyFolder, verify as verify_custody};
use shared::keys::{KeyError, StatementKind, StatementSigners};
use shared::record::OriginId;

use super::custody::{CustodyProof, tally};
use super::frameworks::{Framework, FrameworkText};
use super::stored::{self, StoredProof};
use super::words::{counted, short};
use super::{ArchiveProof, Listed, archive};
use crate::account::{self, Account, Period};
use crate::archive::config::ArchiveConfig;
use crate::folders::Folders;
use crate::import::Keys;
use crate::latency::{Budgets, ClockSum, LatencySum};
use crate::ledger::{
    AlarmSum, ChainProof, EpochBegun, GapProof, Heard, Ledger, LedgerError, LossProof, NotSeen,
    SignerSum, SinkDelivery, SinkTaken, WaitSum,
};
use crate::sink::dead_letters::DeadLetters;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The custody log can't be read.
    #[error("the custody log can't be read")]
    Custody(#[source] io::Error),
    /// The keys can't be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Where the report is read from.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The configuration file.
    pub config_file: &'a Path,
    /// The state folder, with store and custody log.
    pub state_dir: &'a Path,
    /// The key folder.
    pub keys_dir: &'a Path,
    /// Whom we believe and what we can decrypt, without a demand for releases: that may have changed.
    pub keys: &'a Keys,
    /// What a bundle may cost.
    pub limits: &'a Limits,
    /// The longest that a record may take.
    pub budgets: &'a Budgets,
    /// The archives of the configuration.
    pub archives: &'a [ArchiveConfig],
}

/// By whom, when and for what a report is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Made {
    /// The installation's name.
    pub site: String,
    /// The machine.
    pub host: String,
    /// Program and version.
    pub program: String,
    /// When, RFC 3339.
    pub at: String,
    /// Who ran the command, as the custody log names people.
    pub by: String,
    /// The fingerprint of the key that signs the report; absent where there is none.
    pub signed_by: Option<String>,
    /// The namespace of the signature.
    pub signature_namespace: &'static str,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The version of this form: 1.
    #[serde(rename = "penstock-report")]
    pub version: u32,
    /// What it comes to.
    pub verdict: Verdict,
    /// When and by whom it was made.
    pub made: Made,
    /// The period: from this time on, RFC 3339,
    pub from: String,
    /// and before this one.
    pub to: String,
    /// Every record of the period, exact to the record.
    pub account: Account,
    /// The proof by sequence numbers, of whole bundles.
    pub chains: Listed<ChainProof>,
    /// The same, of all chains.
    pub chain_sums: ChainSums,
    /// Bundles that have not come.
    pub gaps: Listed<GapProof>,
    /// What was declared lost.
    pub losses: Listed<LossProof>,
    /// Until when each lane was heard of.
    pub heard: Listed<Heard>,
    /// Buffers that began anew in the period.
    pub epochs_begun: Listed<EpochBegun>,
    /// For each sink how many numbers of the period it has not taken.
    pub not_taken: Listed<SinkTaken>,
    /// What became of the records at each sink, by stream; of whole bundles.
    pub delivery: Listed<SinkDelivery>,
    /// How long records took.
    pub latency: LatencyProof,
    /// When records were received.
    pub flow: Flow,
    /// The stored bundles, looked at again.
    pub stored: StoredProof,
    /// The custody log.
    pub custody: CustodyProof,
    /// Keys that signed bundles.
    pub signers: Listed<SignerSum>,
    /// Officers whose releases are believed, and those whose were.
    pub officers: Listed<OfficerKey>,
    /// Alarms that stood in the period.
    pub alarms: Listed<AlarmSum>,
    /// What each archive proves.
    pub archives: Listed<ArchiveProof>,
    /// What this side runs with, as it is now.
    pub configuration: Listed<FileDigest>,
    /// What each section serves as evidence for.
    pub framework: FrameworkText,
}

/// What the report comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verdict {
    /// Whether every record of the period is accounted for, none is lost, and every proof holds.
    pub complete: bool,
    /// `complete`, or `INCOMPLETE: ` and the reasons.
    pub text: String,
    /// Why it is not complete.
    pub reasons: Listed<String>,
    /// What the reader should know besides.
    pub notes: Listed<String>,
}

/// Sums over all chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChainSums {
    /// Sequence numbers that the high sides assigned.
    pub assigned: u64,
    /// Records that are here.
    pub arrived: u64,
    /// Numbers that rules suppressed.
    pub suppressed: u64,
    /// Numbers that were declared lost.
    pub lost: u64,
    /// Numbers in bundles that have not come.
    pub missing: u64,
    /// Bundles that are here.
    pub bundles: u64,
    /// Bundles that have not come.
    pub missing_bundles: u64,
    /// Links that were compared.
    pub links: u64,
    /// Links that do not hold.
    pub broken: u64,
    /// Stored files that were found damaged.
    pub damaged: u64,
    /// Chains that do not add up.
    pub wrong_chains: u64,
}

/// How long records took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LatencyProof {
    /// To a sink's confirmation, by sink, lane, stream and way.
    pub delivered: Listed<LatencyHistogram>,
    /// To the admission of the bundle: of the whole period, without those whose admission is not known.
    pub admitted: Listed<WaitSum>,
    /// Bundles whose admission the ledger did not see: their delivery is not among the counts.
    pub not_seen: NotSeen,
    /// When the oldest counts begin that are still kept, RFC 3339.
    pub counted_from: Option<String>,
    /// How far the clocks may lie apart.
    pub clocks: Listed<ClockSum>,
}

/// One way's times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LatencyHistogram {
    /// The percentiles.
    #[serde(flatten)]
    pub sum: LatencySum,
    /// How many records took no longer than this, in milliseconds, and longer than the one before. The
    /// last has no end.
    pub histogram: Vec<LatencyBar>,
}

/// One bar of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LatencyBar {
    /// The longest time, in milliseconds.
    pub up_to_ms: Option<u64>,
    /// How many records.
    pub records: u64,
}

/// When records were received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flow {
    /// The length of a part, in seconds.
    pub part_secs: u64,
    /// How many parts there are.
    pub parts: usize,
    /// By stream: arrived and suppressed in each part.
    pub streams: BTreeMap<String, FlowOfStream>,
}

/// One stream's flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FlowOfStream {
    /// Records that arrived.
    pub arrived: Vec<u64>,
    /// Records that rules suppressed.
    pub suppressed: Vec<u64>,
}

/// An officer's key as it is known now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OfficerKey {
    /// The name.
    pub name: String,
    /// The key's fingerprint.
    pub key: String,
    /// `believed`, `not-valid-now` or `revoked`.
    pub state: &'static str,
}

/// A file that this side runs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileDigest {
    /// What it is.
    pub what: &'static str,
    /// Where it stands.
    pub path: String,
    /// Its SHA-256; absent where there is none.
    pub sha256: Option<String>,
}

/// Makes the report of a period.
///
/// # Errors
/// Ledger, custody log or keys can't be read. What is wrong with the evidence is no error: the verdict
/// says it.
pub fn gather(
    ledger: &mut Ledger,
    sources: &Sources<'_>,
    made: Made,
    framework: Framework,
    (from, to): (Nanos, Nanos),
    now: Nanos,
) -> Result<Report, ReportError> {
    let custody = custody(ledger, sources, &made.site, (from, to))?;
    let store = sources.state_dir.join("store");
    let ledger = &*ledger;
    ledger.at_one_moment(|ledger| {
        let period = Period { from, to, origin: None };
        let identities = &sources.keys.identities;
        let account = account::account(ledger, &store, identities, sources.limits, period)?;
        let (mut chains, mut chain_sums) = (Listed::default(), ChainSums::default());
        let mut not_taken: BTreeMap<String, u64> = BTreeMap::new();
        let mut delivery: BTreeMap<(String, String), SinkDelivery> = BTreeMap::new();
        ledger.prove_chains(from, to, |chain| {
            chain_sums.add(&chain);
            for sink in &chain.not_taken {
                *not_taken.entry(sink.sink.clone()).or_default() += sink.numbers;
            }
            for part in &chain.delivery {
                let key = (part.sink.clone(), part.stream.clone());
                let (sink, stream) = key.clone();
                let empty = SinkDelivery { sink, stream, ..SinkDelivery::default() };
                delivery.entry(key).or_insert(empty).add(part);
            }
            chains.push(chain);
        })?;
        let mut report = Report {
            version: 1,
            verdict: Verdict {
                complete: false,
                text: String::new(),
                reasons: Listed::default(),
                notes: Listed::default(),
            },
            made,
            from: from.to_string(),
            to: to.to_string(),
            account,
            chains,
            chain_sums,
            gaps: Listed::default(),
            losses: Listed::default(),
            heard: listed(ledger.heard()?),
            epochs_begun: listed(ledger.epochs_begun(from, to)?),
            not_taken: listed(
                not_taken.into_iter().map(|(sink, numbers)| SinkTaken { sink, numbers }),
            ),
            delivery: listed(delivery.into_values()),
            latency: latency(ledger, sources.budgets, (from, to))?,
            flow: flow(ledger, from, to)?,
            stored: stored::look(ledger, &store, &sources.keys.trust, sources.limits, (from, to))?,
            custody,
            signers: Listed::default(),
            officers: officers(sources.keys, now),
            alarms: listed(ledger.alarms_between(from, to)?),
            archives: listed(archive::look(
                ledger,
                sources.archives,
                &Folders::of(sources.state_dir).proofs,
                framework,
                (from, to),
                now,
            )?),
            configuration: configuration(sources),
            framework: framework.text(),
        };
        ledger.prove_gaps(from, to, |gap| report.gaps.push(gap))?;
        ledger.prove_losses(from, to, |loss| report.losses.push(loss))?;
        ledger.signers(from, to, |signer| report.signers.push(signer))?;
        let trusted = sources.keys.trust.origins();
        report.verdict = judge(&report, &trusted, sources.state_dir, (from, to), now);
        // The account's remarks are among the reasons and notes, as many as are listed.
        report.account.remarks.truncate(super::listed::LISTED_MAX);
        Ok(report)
    })
}

fn listed<T>(items: impl IntoIterator<Item = T>) -> Listed<T> {
    let mut listed = Listed::default();
    listed.extend(items);
    listed
}

impl ChainSums {
    fn add(&mut self, chain: &ChainProof) {
        let sums = [
            (&mut self.assigned, chain.assigned),
            (&mut self.arrived, chain.arrived),
            (&mut self.suppressed, chain.suppressed),
            (&mut self.lost, chain.lost),
            (&mut self.missing, chain.missing),
            (&mut self.bundles, chain.bundles),
            (&mut self.missing_bundles, chain.missing_bundles),
            (&mut self.links, chain.links),
            (&mut self.broken, chain.broken()),
            (&mut self.damaged, chain.damaged),
            (&mut self.wrong_chains, u64::from(!chain.adds_up)),
        ];
        for (sum, part) in sums {
            *sum = sum.saturating_add(part);
        }
    }
}

fn custody(
    ledger: &mut Ledger,
    sources: &Sources<'_>,
    site: &str,
    (from, to): (Nanos, Nanos),
) -> Result<CustodyProof, ReportError> {
    let signers = StatementSigners::own(sources.keys_dir, "receipt", site)?;
    let folder = CustodyFolder::at(sources.state_dir);
    let known = ledger.custody_known()?;
    let mut verdict =
        verify_custody(&folder, Some(known), &signers, &[]).map_err(ReportError::Custody)?;
    verdict.compare_end(ledger.custody_known()?.made);
    let tally = tally(&folder, from, to).map_err(ReportError::Custody)?;
    Ok(CustodyProof { verified: verdict.is_good(), verdict: Some(verdict), tally })
}

fn latency(
    ledger: &Ledger,
    budgets: &Budgets,
    (from, to): (Nanos, Nanos),
) -> Result<LatencyProof, ReportError> {
    let (counted, oldest) = ledger.latencies_between(from, to)?;
    let delivered = counted.into_iter().map(|(key, counts)| {
        let sum = LatencySum::of(key, &counts, budgets);
        let histogram = bars(counts.counts(), sum.budget_ms);
        LatencyHistogram { sum, histogram }
    });
    Ok(LatencyProof {
        delivered: listed(delivered),
        admitted: listed(ledger.waits(from, to, budgets)?),
        not_seen: ledger.not_seen(from, to)?,
        counted_from: oldest.map(|oldest| oldest.to_string()),
        clocks: listed(ledger.clocks_between(from, to)?),
    })
}

/// Where the bars of a histogram end, in seconds; the budget is one more end.
const BAR_ENDS_SECS: [u64; 10] = [1, 5, 15, 60, 300, 900, 3_600, 21_600, 86_400, 604_800];

fn bars(counts: impl Iterator<Item = (u64, u64)>, budget_ms: u64) -> Vec<LatencyBar> {
    let mut ends: Vec<u64> = BAR_ENDS_SECS.map(|secs| secs * 1_000).into();
    ends.push(budget_ms);
    ends.sort_unstable();
    ends.dedup();
    let mut bars: Vec<LatencyBar> = ends
        .iter()
        .map(|end| LatencyBar { up_to_ms: Some(*end), records: 0 })
        .chain([LatencyBar { up_to_ms: None, records: 0 }])
        .collect();
    for (millis, records) in counts {
        // As the records over the budget are counted: those that certainly took longer.
        let at = ends.partition_point(|end| *end < millis);
        bars[at].records += records;
    }
    bars
}

/// A chart has at most about so many parts.
const PARTS_MAX: i64 = 100;
/// Lengths that people count in: an hour, six hours, a day, a week, 30 days.
const PART_SECS: [i64; 5] = [3_600, 21_600, 86_400, 604_800, 2_592_000];

fn flow(ledger: &Ledger, from: Nanos, to: Nanos) -> Result<Flow, ReportError> {
    let span = to.0.saturating_sub(from.0);
    let secs = span / 1_000_000_000 + 1;
    let longest = secs.div_euclid(PARTS_MAX) + 1;
    let part_secs = PART_SECS.into_iter().find(|part| secs <= part * PARTS_MAX).unwrap_or(longest);
    let part = Nanos(part_secs.saturating_mul(1_000_000_000));
    let parts = usize::try_from((span.max(1) - 1) / part.0 + 1).unwrap_or(1);
    let mut streams: BTreeMap<String, FlowOfStream> = BTreeMap::new();
    ledger.flow(from, to, part, |sum| {
        let stream = streams.entry(sum.stream).or_insert_with(|| FlowOfStream {
            arrived: vec![0; parts],
            suppressed: vec![0; parts],
        });
        let counts = if sum.suppressed { &mut stream.suppressed } else { &mut stream.arrived };
        if let Some(count) = counts.get_mut(sum.part) {
            *count += sum.records;
        }
    })?;
    Ok(Flow { part_secs: part_secs.unsigned_abs(), parts, streams })
}

fn officers(keys: &Keys, now: Nanos) -> Listed<OfficerKey> {
    let officers = keys.trust.officers(now).into_iter();
    listed(officers.map(|officer| OfficerKey {
        name: officer.name,
        key: officer.key,
        state: officer.state.as_str(),
    }))
}

fn configuration(sources: &Sources<'_>) -> Listed<FileDigest> {
    let key = |name: &str| sources.keys_dir.join(name);
    let files: [(&str, PathBuf); 4] = [
        ("configuration", sources.config_file.to_owned()),
        ("trusted signers and officers", key("allowed_signers")),
        ("revoked keys", key("revoked_keys")),
        ("program", PathBuf::from("/proc/self/exe")),
    ];
    listed(files.map(|(what, path)| {
        let sha256 = digest_of(&path).ok().flatten();
        let path = path.read_link().unwrap_or(path).display().to_string();
        FileDigest { what, path, sha256 }
    }))
}

/// The SHA-256 of a file, read in pieces; `None` where there is none.
fn digest_of(path: &Path) -> io::Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let (_, sha256) = BundleDigest::of_reader(file, |_| {})?;
    Ok(Some(sha256.to_string()))
}

/// Pure: what the evidence comes to.
fn judge(
    report: &Report,
    trusted: &[&OriginId],
    state_dir: &Path,
    (from, to): (Nanos, Nanos),
    now: Nanos,
) -> Verdict {
    let (mut reasons, mut notes) = (Listed::default(), Listed::default());
    judge_account(report, &mut reasons, &mut notes);
    judge_time(report, trusted, (from, to), now, &mut reasons, &mut notes);
    judge_proofs(report, &mut reasons, &mut notes);
    judge_delivery(report, state_dir, &mut notes);
    judge_latency(report, from, &mut notes);
    let complete = reasons.items.is_empty();
    let text = if complete {
        "complete".to_owned()
    } else {
        let mut shown: Vec<&str> =
            reasons.items.iter().take(REASONS_SHOWN).map(String::as_str).collect();
        let more = reasons.count().saturating_sub(REASONS_SHOWN as u64);
        let rest = format!("and {more} more reasons");
        if more > 0 {
            shown.push(&rest);
        }
        format!("INCOMPLETE: {}", shown.join("; "))
    };
    Verdict { complete, text, reasons, notes }
}

/// So many reasons stand in the one line of the verdict.
const REASONS_SHOWN: usize = 5;

fn judge_account(report: &Report, reasons: &mut Listed<String>, notes: &mut Listed<String>) {
    let (account, sums) = (&report.account, &report.chain_sums);
    if account.missing > 0 || !account.missing_bundles.is_empty() {
        let bundles: u64 = account.missing_bundles.values().sum();
        let records = counted(account.missing, "record");
        reasons.push(format!("{records} in {} have not come", counted(bundles, "bundle")));
    }
    for (reason, records) in &account.losses {
        reasons.push(format!("{} declared lost: {reason}", counted(*records, "record")));
    }
    if sums.wrong_chains > 0 {
        let chains = counted(sums.wrong_chains, "chain");
        reasons.push(format!("the sequence numbers of {chains} do not add up"));
    }
    for remark in &account.remarks {
        if remark.contains("some may have happened") {
            notes.push(remark.clone());
        } else {
            reasons.push(format!("the account is not exact: {remark}"));
        }
    }
}

fn judge_time(
    report: &Report,
    trusted: &[&OriginId],
    (from, to): (Nanos, Nanos),
    now: Nanos,
    reasons: &mut Listed<String>,
    notes: &mut Listed<String>,
) {
    if to > now {
        reasons.push("the period is not over: it ends behind the time of this report".to_owned());
    }
    for heard in &report.heard.items {
        let Heard { origin, lane, through, through_at } = heard;
        if *through_at >= to {
            continue;
        }
        let text = format!(
            "nothing proves what {origin} received in the lane {lane} after {}",
            short(through)
        );
        // Who was taken off the list before the period sends no more.
        if *through_at >= from || trusted.iter().any(|trusted| trusted.as_str() == origin) {
            reasons.push(text);
        } else {
            notes.push(format!("{text}; it is not trusted any more"));
        }
    }
    if report.heard.left_out > 0 {
        let lanes = counted(report.heard.left_out, "more lane");
        reasons
            .push(format!("{lanes} are not listed, and until when they are proven was not judged"));
    }
    let known = |origin: &OriginId| report.heard.items.iter().any(|h| h.origin == origin.as_str());
    for origin in trusted.iter().filter(|origin| !known(origin)) {
        reasons.push(format!("nothing was ever heard of {origin}, which is trusted"));
    }
    if report.heard.items.is_empty() && trusted.is_empty() {
        reasons.push("nothing was ever admitted, and no high side is trusted".to_owned());
    }
    for begun in &report.epochs_begun.items {
        let EpochBegun { origin, epoch, sealed } = begun;
        reasons.push(format!(
            "the buffer of {origin} was lost or restored, and epoch {epoch} began at {}: nothing proves what the earlier one held behind its last bundle",
            short(sealed)
        ));
    }
    let lanes: BTreeMap<&str, Vec<&str>> =
        report.heard.items.iter().fold(BTreeMap::new(), |mut lanes, heard| {
            lanes.entry(&heard.origin).or_insert_with(Vec::new).push(&heard.lane);
            lanes
        });
    for (origin, lanes) in lanes.iter().filter(|(_, lanes)| lanes.len() == 1) {
        notes.push(format!("of {origin} only the lane {} was ever heard of", lanes[0]));
    }
    if from.0 < 0 {
        notes.push("the period begins before 1970".to_owned());
    }
}

fn judge_proofs(report: &Report, reasons: &mut Listed<String>, notes: &mut Listed<String>) {
    let (sums, stored, custody) = (&report.chain_sums, &report.stored, &report.custody);
    if sums.broken > 0 {
        reasons.push(format!("{} from bundle to bundle do not hold", counted(sums.broken, "link")));
    }
    if sums.damaged > 0 {
        let files = counted(sums.damaged, "stored bundle");
        reasons.push(format!("{files} found damaged on the disk"));
    }
    if stored.wrong.count() > 0 {
        let files = counted(stored.wrong.count(), "stored bundle");
        reasons.push(format!("{files} missing, or not what the ledger says"));
    }
    let findings = custody.verdict.as_ref().map_or(0, |verdict| verdict.found);
    if !custody.verified {
        let findings = counted(findings, "finding");
        reasons.push(format!("the custody log does not verify: {findings}"));
    }
    if stored.not_looked_at > 0 {
        let bundles = counted(stored.not_looked_at, "stored bundle");
        notes.push(format!("the headers of {bundles} were not read again: too many"));
    }
    if stored.not_believed_now > 0 {
        notes.push(format!(
            "{} signed by keys that are not believed any more; they were when the bundles were admitted",
            counted(stored.not_believed_now, "bundle")
        ));
    }
    if stored.removed > 0 {
        notes.push(format!(
            "{} removed from the store after their time: their rows stand in the ledger, their signatures were not verified again",
            counted(stored.removed, "bundle")
        ));
    }
    if let Some(verdict) = &custody.verdict {
        let unsigned = verdict.last.saturating_sub(verdict.signed_through);
        if custody.verified && unsigned > 0 {
            notes.push(format!(
                "the last {} of the custody log lie behind its last signed checkpoint",
                counted(unsigned, "entry")
            ));
        }
    }
    for archive in &report.archives.items {
        for finding in &archive.findings {
            let text = format!("the archive {}: {}", archive.name, finding.text);
            if finding.bad { reasons.push(text) } else { notes.push(text) }
        }
    }
    if report.made.signed_by.is_none() {
        notes.push("this report is not signed: this side has no signing key".to_owned());
    }
}

/// That a sink did not get everything is for its operator to mend: what arrived here arrived.
fn judge_delivery(report: &Report, state_dir: &Path, notes: &mut Listed<String>) {
    let mut sinks: BTreeMap<&str, SinkDelivery> = BTreeMap::new();
    for part in &report.delivery.items {
        sinks.entry(&part.sink).or_default().add(part);
    }
    for (sink, sum) in &sinks {
        if sum.rejected > 0 {
            notes.push(format!(
                "the sink {sink} refused {} of the period for good, and has not got them: they are in {}; penstock-low dead-letters {sink} names the reason, and with --retry they are sent again once it is mended",
                counted(sum.rejected, "record"),
                DeadLetters::of(state_dir, sink).path().display()
            ));
        }
        if sum.filtered > 0 {
            let records = counted(sum.filtered, "record");
            notes.push(format!("the filter of the sink {sink} left out {records} of the period"));
        }
        if sum.removed > 0 {
            let records = counted(sum.removed, "record");
            notes.push(format!(
                "the sink {sink} never got {records} of the period: their bundles had left the store before it was there"
            ));
        }
        if sum.not_counted > 0 {
            let records = counted(sum.not_counted, "record");
            notes.push(format!(
                "of {records} of the period it is not known which the sink {sink} took, and which were filtered out or rejected: before an update that was counted in sums only, which penstock-low status has"
            ));
        }
    }
    for sink in report.not_taken.items.iter().filter(|sink| sink.numbers > 0) {
        notes.push(format!(
            "the sink {} has yet to take {} of the period",
            sink.sink,
            counted(sink.numbers, "sequence number")
        ));
    }
}

fn judge_latency(report: &Report, from: Nanos, notes: &mut Listed<String>) {
    let latency = &report.latency;
    for late in latency.delivered.items.iter().filter(|one| one.sum.over_budget > 0) {
        let LatencySum { sink, lane, stream, hop, over_budget, .. } = &late.sum;
        notes.push(format!(
            "{} over the budget of the lane {lane}: {stream} to {sink}, {hop}",
            counted(*over_budget, "record")
        ));
    }
    for late in latency.admitted.items.iter().filter(|wait| wait.bundles_over > 0) {
        notes.push(format!(
            "{} of {} admitted later than the budget of the lane {}",
            counted(late.bundles_over, "bundle"),
            late.origin,
            late.lane
        ));
    }
    let NotSeen { logged, unknown, from_backup } = latency.not_seen;
    for (bundles, what) in [
        (
            logged,
            "admitted anew when the ledger was rebuilt, at the time that the signed custody log has; a delivery after that is not counted as one that took long",
        ),
        (
            unknown,
            "admitted anew, and nothing here says when they were admitted first: how long they took is not known, and not counted",
        ),
        (
            from_backup,
            "known from a ledger that was restored from a backup; a delivery after that is not counted as one that took long",
        ),
    ] {
        if bundles > 0 {
            notes.push(format!("{} {what}", counted(bundles, "bundle")));
        }
    }
    let partly = latency.counted_from.as_ref().is_none_or(|at| *at > from.to_string());
    if partly {
        notes.push(format!(
            "how long single records took is counted for 7 days; of this period {}",
            match &latency.counted_from {
                Some(at) => format!("from {} on", short(at)),
                None => "nothing is left".to_owned(),
            }
        ));
    }
}

/// The namespace of a report's signature.
pub fn namespace() -> &'static str {
    StatementKind::Report.namespace()
}
