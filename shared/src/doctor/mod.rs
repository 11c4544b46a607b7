//! What `diode doctor` of both sides shares: findings with exact remedies, and what the kernel tells
//! about sockets, queues, neighbours and interfaces.
//!
//! Judging is left to each side, as plain code over the facts that [`kernel`] reads.

pub mod kernel;

use std::fmt;

use serde::Serialize;

/// How much a finding matters; the last is the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Worth knowing; nothing to do.
    Note,
    /// Works, with less reserve than it could have.
    Warning,
    /// Bundles are late or missing, or will be.
    Fault,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What it is about: a stable word for machines.
    pub about: &'static str,
    /// What was found, with the figures.
    pub what: String,
    /// What to do: commands and settings, each ready to be copied.
    #[serde(rename = "try")]
    pub remedies: Vec<String>,
}

impl Finding {
    /// A finding with nothing to do about it.
    pub fn new(level: Level, about: &'static str, what: impl Into<String>) -> Self {
        Self { level, about, what: what.into(), remedies: Vec::new() }
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

/// Everything that was found about one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// The name of the carrier or receiver, as configured.
    pub link: String,
    /// What was found, in the order in which a datagram meets it.
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
            let mark = match finding.level {
                Level::Fine => "fine",
                Level::Note => "note",
                Level::Warning => "WARN",
                Level::Fault => "FAULT",
            };
            writeln!(f, "  {mark:<5}  {}", finding.what)?;
            for remedy in &finding.remedies {
                writeln!(f, "         try: {remedy}")?;
            }
        }
        Ok(())
    }
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
            "diode (udp-diode, 10.0.0.2:6000)\n  fine   an agent listens\n  FAULT  too small\n         \
             try: sysctl -w net.core.rmem_max=7\n         \
             try: echo 'net.core.rmem_max = 7' > /etc/sysctl.d/60-penstock.conf\n"
        );
    }

    #[test]
    fn thousands_stand_apart() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (4_194_304, "4,194,304")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
