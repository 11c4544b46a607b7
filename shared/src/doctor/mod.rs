//! What the doctors of both sides share: findings with exact remedies, the report that they make, and
//! what files, certificates, disk, clock, service manager and kernel tell.
//!
//! Judging what only one side has is left to that side.

pub mod certificate;
pub mod clock;
pub mod disk;
pub mod files;
pub mod kernel;
pub mod ports;
pub mod report;
pub mod secrets;
pub mod service;

use std::fmt;

use serde::Serialize;

/// How much a finding matters; the last is the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Level {
    /// As it should be.
    #[serde(rename = "ok")]
    Fine,
    /// Worth knowing; nothing to do.
    #[serde(rename = "note")]
    Note,
    /// It could not be looked at, or there is nothing to look at.
    #[serde(rename = "skipped")]
    Skipped,
    /// Works, with less reserve than it could have.
    #[serde(rename = "warn")]
    Warning,
    /// Records or bundles are late or missing, or will be.
    #[serde(rename = "fail")]
    Fault,
}

impl Level {
    /// The word that stands before a finding.
    pub fn mark(self) -> &'static str {
        match self {
            Level::Fine => "ok",
            Level::Note => "note",
            Level::Skipped => "skip",
            Level::Warning => "WARN",
            Level::Fault => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    #[serde(rename = "verdict")]
    pub level: Level,
    /// What it is about: a stable word for machines.
    #[serde(rename = "id")]
    pub about: &'static str,
    /// What was looked at: a file, an address, a name of the configuration. Empty where the section
    /// says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub at: String,
    /// What was found, with the figures.
    pub what: String,
    /// What to do: commands and settings, each ready to be copied.
    #[serde(rename = "try")]
    pub remedies: Vec<String>,
}

impl Finding {
    /// A finding with nothing to do about it.
    pub fn new(level: Level, about: &'static str, what: impl Into<String>) -> Self {
        Self { level, about, at: String::new(), what: what.into(), remedies: Vec::new() }
    }

    /// A finding of a text as checks of the configuration give it: what is wrong, and behind a line
    /// break what to try.
    pub fn of_problem(level: Level, about: &'static str, problem: &str) -> Self {
        let mut lines = problem.lines();
        let mut finding = Self::new(level, about, lines.next().unwrap_or_default());
        for line in lines.map(str::trim) {
            match line.strip_prefix("try: ") {
                Some(remedy) => finding.remedies.push(remedy.to_owned()),
                None => finding.what = format!("{}; {line}", finding.what),
            }
        }
        finding
    }

    /// The same, about this file, address or name.
    #[must_use]
    pub fn at(mut self, at: impl fmt::Display) -> Self {
        self.at = at.to_string();
        self
    }

    /// The same, with one more thing to try.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// The same, with a kernel setting to change now and for the next start.
    #[must_use]
    pub fn sysctl(self, name: &str, value: u64) -> Self {
        self.remedy(format!("sysctl -w {name}={value}"))
            .remedy(format!("echo '{name} = {value}' > /etc/sysctl.d/60-penstock.conf"))
    }
}

/// Everything that was found about one link, or in one section of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// The name of the carrier or receiver, as configured; or of the section.
    pub link: String,
    /// What was found, in the order in which it matters: for a link, as a datagram meets it.
    pub findings: Vec<Finding>,
}

impl Examined {
    /// The worst of it.
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Fine)
    }
}

impl fmt::Display for Examined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.link)?;
        for finding in &self.findings {
            write!(f, "  {:<4}  ", finding.level.mark())?;
            if !finding.at.is_empty() && !finding.what.contains(&finding.at) {
                write!(f, "{}: ", plain(&finding.at))?;
            }
            writeln!(f, "{}", plain(&finding.what))?;
            for remedy in &finding.remedies {
                writeln!(f, "        try: {}", plain(remedy))?;
            }
        }
        Ok(())
    }
}

/// A text for a terminal: names of files and what a server says may hold control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A number as people read it, thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_below_what_was_found() {
        let examined = Examined {
            link: "diode (udp-diode, 10.0.0.2:6000)".to_owned(),
            findings: vec![
                Finding::new(Level::Fine, "socket", "an agent listens"),
                Finding::new(Level::Fault, "rmem", "too small").sysctl("net.core.rmem_max", 7),
            ],
        };
        assert_eq!(examined.worst(), Level::Fault);
        assert_eq!(
            examined.to_string(),
            "diode (udp-diode, 10.0.0.2:6000)\n  ok    an agent listens\n  FAIL  too small\n        \
             try: sysctl -w net.core.rmem_max=7\n        \
             try: echo 'net.core.rmem_max = 7' > /etc/sysctl.d/60-penstock.conf\n"
        );
    }

    #[test]
    fn a_problem_of_the_configuration_brings_its_remedies_along() {
        let finding = Finding::of_problem(Level::Fault, "keys", "no recipient\n  try: pair it\n");
        assert_eq!((&*finding.what, &*finding.remedies[0]), ("no recipient", "pair it"));
    }

    #[test]
    fn nothing_that_is_printed_moves_the_cursor() {
        let finding = Finding::new(Level::Note, "name", "a\x1b[2Jb").at("x\ry");
        let shown = Examined { link: "names".to_owned(), findings: vec![finding] }.to_string();
        assert!(!shown.contains(['\x1b', '\r']), "{shown:?}");
    }

    #[test]
    fn thousands_stand_apart() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (4_194_304, "4,194,304")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
