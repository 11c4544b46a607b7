//! What a doctor says in the end: every finding by section, a line that sums it up, and what the other
//! side's doctor wants to know of this one.

use std::fmt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::certificate::read_small;
use super::{Examined, Finding, Level};
use crate::exit;
use crate::keys::PublicHalf;

/// One run of a doctor.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The form of this report; a later one may hold more.
    pub format: u32,
    /// `high` or `low`.
    pub side: &'static str,
    /// The program's version.
    pub version: &'static str,
    /// When, RFC 3339.
    pub time: String,
    /// What the other side's doctor compares: names and public keys, nothing secret.
    pub peer: Value,
    /// The worst verdict.
    pub verdict: Level,
    /// Everything that was found.
    pub sections: Vec<Examined>,
}

impl Report {
    /// Sums up.
    pub fn new(
        side: &'static str,
        version: &'static str,
        time: String,
        peer: Value,
        sections: Vec<Examined>,
    ) -> Self {
        let verdict = sections.iter().map(Examined::worst).max().unwrap_or(Level::Fine);
        Self { format: FORMAT, side, version, time, peer, verdict, sections }
    }

    /// How many findings have this verdict.
    fn count(&self, level: Level) -> usize {
        let findings = self.sections.iter().flat_map(|section| &section.findings);
        findings.filter(|finding| finding.level == level).count()
    }

    /// The exit code, by the worst verdict.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Level::Fine | Level::Note | Level::Skipped => exit::DONE,
            Level::Warning => exit::WARNED,
            Level::Fault => exit::FAILED,
        }
    }

    /// The line that stands at the end.
    pub fn summary(&self) -> String {
        let all: usize = self.sections.iter().map(|section| section.findings.len()).sum();
        let verdict = match self.verdict {
            Level::Fine | Level::Note | Level::Skipped => "in order",
            Level::Warning => "works, with warnings",
            Level::Fault => "does not work as it is",
        };
        format!(
            "penstock-{}: {verdict}; {all} findings: {} ok, {} notes, {} skipped, {} warnings, {} failures",
            self.side,
            self.count(Level::Fine),
            self.count(Level::Note),
            self.count(Level::Skipped),
            self.count(Level::Warning),
            self.count(Level::Fault)
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in self.sections.iter().filter(|section| !section.findings.is_empty()) {
            writeln!(f, "{section}")?;
        }
        writeln!(f, "{}", self.summary())
    }
}

/// Runs the checks of a section, for so long at most. A folder of a dead server or a name that nobody
/// answers for must not keep the other sections from being looked at.
pub fn bounded(
    title: impl Into<String>,
    limit: Duration,
    checks: impl FnOnce() -> Vec<Finding> + Send + 'static,
) -> Examined {
    start(title, limit, checks).wait()
}

/// A section that is being looked at.
#[derive(Debug)]
pub struct Running {
    title: String,
    limit: Duration,
    /// `None` where no thread could be started.
    findings: Option<mpsc::Receiver<Vec<Finding>>>,
}

/// Starts the checks of a section; several can be under way.
pub fn start(
    title: impl Into<String>,
    limit: Duration,
    checks: impl FnOnce() -> Vec<Finding> + Send + 'static,
) -> Running {
    let (give, take) = mpsc::sync_channel(1);
    let started = thread::Builder::new().name("doctor".to_owned()).spawn(move || {
        // Nobody waits any more for what comes too late.
        let _ = give.send(checks());
    });
    Running { title: title.into(), limit, findings: started.ok().map(|_| take) }
}

impl Running {
    /// Waits for its end, or for the time to be over.
    pub fn wait(self) -> Examined {
        let said = self.findings.map(|findings| findings.recv_timeout(self.limit));
        let unsaid = |level, what: String| vec![Finding::new(level, "unfinished", what)];
        let findings = match said {
            Some(Ok(findings)) => findings,
            Some(Err(mpsc::RecvTimeoutError::Timeout)) => {
                let limit = crate::config::Span(self.limit);
                let what = format!("this did not end within {limit}: something does not answer");
                let mut findings = unsaid(Level::Fault, what);
                let remedy = "is a folder on a dead mount, or a name server that is silent?";
                findings[0].remedies.push(remedy.to_owned());
                findings
            }
            Some(Err(mpsc::RecvTimeoutError::Disconnected)) => {
                unsaid(Level::Skipped, "this check failed of itself; please report it".to_owned())
            }
            None => unsaid(Level::Skipped, "no thread can be started for it".to_owned()),
        };
        Examined { link: self.title, findings }
    }
}

/// What is known of the other side: its public half at least.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its public halves; a low side may have several keys.
    pub halves: Vec<PublicHalf>,
    /// What its doctor said, where it did.
    pub report: Option<Value>,
}

impl Peer {
    /// Reads what `public` or `doctor --json` of the other side printed.
    ///
    /// # Errors
    /// Says in words why the file is neither.
    pub fn load(path: &Path) -> Result<Self, String> {
        let bytes = read_small(path, PEER_BYTES_MAX).map_err(|err| err.to_string())?;
        let text = std::str::from_utf8(&bytes).map_err(|_| "is no text".to_owned())?;
        let Ok(mut report) = serde_json::from_str::<Value>(text) else {
            let half = text.parse::<PublicHalf>().map_err(ToOwned::to_owned)?;
            return Ok(Self { halves: vec![half], report: None });
        };
        if report["format"].as_u64() != Some(u64::from(FORMAT)) {
            return Err("is JSON, but no doctor's report of a form that is known here".to_owned());
        }
        let version = report["version"].take();
        let mut peer = report["peer"].take();
        peer["version"] = version;
        let texts = peer["public"].as_array().ok_or("names no public half")?;
        let halves = texts
            .iter()
            .take(HALVES_MAX)
            .map(|text| text.as_str().unwrap_or_default().parse::<PublicHalf>())
            .collect::<Result<_, _>>()?;
        Ok(Self { halves, report: Some(peer) })
    }

    /// A list of texts of its report; `None` where there is no report, or it does not say.
    pub fn list(&self, field: &str) -> Option<Vec<&str>> {
        let list = self.report.as_ref()?[field].as_array()?;
        Some(list.iter().filter_map(Value::as_str).collect())
    }

    /// Whether both sides' programs get on.
    pub fn versions(&self, own: &str) -> Finding {
        let Some(other) = self.report.as_ref().and_then(|report| report["version"].as_str()) else {
            let what = "the other side's version is not in its public half";
            return Finding::new(Level::Skipped, "versions", what)
                .remedy("--peer with the report of the other side: doctor --json > FILE");
        };
        let line = |version: &str| {
            let mut parts = version.split('.');
            // Before 1.0 the second number stands for what does not fit together.
            (parts.next().map(ToOwned::to_owned), parts.next().map(ToOwned::to_owned))
        };
        if other == own {
            return Finding::new(Level::Fine, "versions", format!("both sides have version {own}"));
        }
        let what = format!("this side has version {own}, the other side {other}");
        if line(other) == line(own) {
            return Finding::new(Level::Note, "versions", what);
        }
        Finding::new(Level::Warning, "versions", what)
            .remedy("upgrade the low side first: it reads what every older high side writes")
    }
}

/// The form of a report.
const FORMAT: u32 = 1;
/// A report has some ten kilobytes.
const PEER_BYTES_MAX: u64 = 4 << 20;
/// As many as a bundle has recipients.
const HALVES_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    fn section(level: Level) -> Examined {
        let findings = vec![Finding::new(level, "x", "x")];
        Examined { link: "x".to_owned(), findings }
    }

    fn report(levels: &[Level]) -> Report {
        let sections = levels.iter().map(|level| section(*level)).collect();
        Report::new("high", "1.2.3", "now".to_owned(), Value::Null, sections)
    }

    #[test]
    fn the_worst_verdict_is_the_exit_code() {
        for (levels, code) in [
            (vec![], 0),
            (vec![Level::Fine, Level::Skipped, Level::Note], 0),
            (vec![Level::Fine, Level::Warning, Level::Note], 2),
            (vec![Level::Fault, Level::Warning], 1),
        ] {
            assert_eq!(report(&levels).exit_code(), code, "{levels:?}");
        }
        let text = report(&[Level::Fine, Level::Warning]).to_string();
        assert!(text.ends_with("1 ok, 0 notes, 0 skipped, 1 warnings, 0 failures\n"), "{text}");
    }

    #[test]
    fn a_check_that_hangs_or_dies_ends_with_a_finding() {
        let (keep, wait) = mpsc::sync_channel::<()>(1);
        let hangs = bounded("hangs", Duration::from_millis(20), move || {
            let _ = wait.recv();
            Vec::new()
        });
        drop(keep);
        assert_eq!(hangs.worst(), Level::Fault);
        let dies = bounded("dies", Duration::from_secs(20), || panic!("on purpose"));
        assert_eq!(dies.worst(), Level::Skipped);
    }

    #[test]
    fn a_file_that_is_neither_half_nor_report_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer");
        for text in ["", "{}", "[1]", "{\"format\":1}", "{\"format\":1,\"peer\":{\"public\":[7]}}"]
        {
            std::fs::write(&path, text).unwrap();
            assert!(Peer::load(&path).is_err(), "{text}");
        }
        std::fs::write(&path, vec![b'['; 5 << 20]).unwrap();
        assert!(Peer::load(&path).unwrap_err().contains("larger"));
        // A deep one is refused by the parser.
        std::fs::write(&path, vec![b'['; 1 << 20]).unwrap();
        assert!(Peer::load(&path).is_err());
    }

    #[test]
    fn versions_are_compared_as_far_as_they_matter() {
        let peer = |version: &str| Peer {
            halves: Vec::new(),
            report: Some(serde_json::json!({ "version": version })),
        };
        assert_eq!(peer("0.1.0").versions("0.1.0").level, Level::Fine);
        assert_eq!(peer("0.1.7").versions("0.1.0").level, Level::Note);
        assert_eq!(peer("0.2.0").versions("0.1.0").level, Level::Warning);
    }
}
