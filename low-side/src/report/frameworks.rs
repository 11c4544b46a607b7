//! Which section of the report serves as evidence towards which control.
//!
//! The report shows how audit records were carried, kept and delivered. It shows nothing of what is
//! logged at the sources, of who reads it, or of how a finding is followed up, and it never says that
//! somebody complies.

use std::time::Duration;

use serde::Serialize;

use crate::archive::config::{SIX_YEARS, TWELVE_MONTHS};

/// A framework that auditors ask by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Framework {
    /// The Security Rule of HIPAA.
    Hipaa,
    /// ISO/IEC 27001:2022, Annex A.
    Iso27001,
    /// PCI DSS v4.0.1.
    PciDss,
    /// The Trust Services Criteria of SOC 2.
    Soc2,
}

/// A framework as it stands in the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FrameworkText {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name.
    pub title: &'static str,
    /// The document that the controls stand in.
    pub source: &'static str,
    /// What it says about keeping logs, and what is kept here does not prove.
    pub retention: &'static str,
    /// The controls.
    pub controls: &'static [Control],
}

/// One control, and which sections serve as evidence towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Control {
    /// Its number in the document.
    pub id: &'static str,
    /// What it is about, in short; the document has the words that count.
    pub about: &'static str,
    /// What the sections show.
    pub evidence: &'static str,
    /// The sections, by their names in the page.
    pub sections: &'static [&'static str],
}

/// The names of the sections that controls refer to.
pub mod section {
    /// The report itself.
    pub const ABOUT: &str = "about";
    /// The controls.
    pub const CONTROLS: &str = "controls";
    /// The account of every record.
    pub const COMPLETENESS: &str = "completeness";
    /// The proof by sequence numbers.
    pub const PROOF: &str = "proof";
    /// Missing, lost, refused.
    pub const EXCEPTIONS: &str = "exceptions";
    /// How long records took.
    pub const LATENCY: &str = "latency";
    /// When records were received.
    pub const FLOW: &str = "flow";
    /// Chains, stored bundles, custody log.
    pub const INTEGRITY: &str = "integrity";
    /// Releases, media, people.
    pub const CUSTODY: &str = "custody";
    /// Keys.
    pub const KEYS: &str = "keys";
    /// The archive.
    pub const ARCHIVE: &str = "archive";
    /// Alarms.
    pub const ALARMS: &str = "alarms";
    /// What this side runs with.
    pub const CONFIGURATION: &str = "configuration";

    /// The heading of a section.
    pub fn title(id: &str) -> &str {
        match id {
            ABOUT => "This report",
            ALARMS => "Alarms",
            ARCHIVE => "Archive",
            COMPLETENESS => "Completeness",
            CONFIGURATION => "Configuration",
            CONTROLS => "Controls",
            CUSTODY => "Who did what",
            EXCEPTIONS => "Missing, lost, refused",
            FLOW => "Flow over time",
            INTEGRITY => "Chains, store and custody log",
            KEYS => "Keys",
            LATENCY => "Latency against the budget",
            PROOF => "Proof by sequence numbers",
            other => other,
        }
    }
}

use section::{
    ALARMS, ARCHIVE, COMPLETENESS, CONFIGURATION, CUSTODY, EXCEPTIONS, FLOW, INTEGRITY, KEYS,
    LATENCY, PROOF,
};

impl Framework {
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hipaa => "hipaa",
            Self::Iso27001 => "iso27001",
            Self::PciDss => "pci-dss",
            Self::Soc2 => "soc2",
        }
    }

    /// How long it is usually read to ask audit logs to be kept; nothing where it names no time and
    /// none is usual.
    pub fn retain_least(self) -> Option<Duration> {
        match self {
            Self::Hipaa => Some(SIX_YEARS),
            Self::Iso27001 | Self::PciDss => Some(TWELVE_MONTHS),
            Self::Soc2 => None,
        }
    }

    /// What the report says of it.
    pub fn text(self) -> FrameworkText {
        let (title, source, retention, controls) = match self {
            Self::Hipaa => (
                "HIPAA Security Rule",
                "45 CFR Part 164, Subpart C (Security Standards for the Protection of Electronic Protected Health Information)",
                "The Security Rule sets no time for audit logs; 164.316(b)(2)(i) asks for six years of documentation, which many apply to them. Until when each archive has locked what is listed here stands under Archive.",
                HIPAA,
            ),
            Self::Iso27001 => (
                "ISO/IEC 27001:2022",
                "ISO/IEC 27001:2022, Annex A (guidance in ISO/IEC 27002:2022). The edition of 2013 had these controls in A.9, A.12.1, A.12.4, A.8.3 and A.13.2",
                "The standard sets no time; twelve months are commonly agreed with the certification body.",
                ISO27001,
            ),
            Self::PciDss => (
                "PCI DSS v4.0.1",
                "Payment Card Industry Data Security Standard, Requirements and Testing Procedures, version 4.0.1 (June 2024), Requirement 10",
                "Requirement 10.5.1 asks for twelve months of audit log history, three of them immediately available. This report is of its own period alone; until when each archive has locked that stands under Archive.",
                PCI_DSS,
            ),
            Self::Soc2 => (
                "SOC 2 (Trust Services Criteria)",
                "AICPA TSP Section 100, 2017 Trust Services Criteria (With Revised Points of Focus - 2022)",
                "The criteria set no time; a Type II examination needs evidence of its whole period, so join the reports of its months.",
                SOC2,
            ),
        };
        FrameworkText { name: self.as_str(), title, source, retention, controls }
    }
}

const fn control(
    id: &'static str,
    about: &'static str,
    evidence: &'static str,
    sections: &'static [&'static str],
) -> Control {
    Control { id, about, evidence, sections }
}

const SOC2: &[Control] = &[
    control(
        "CC6.1",
        "Logical access security over protected information assets",
        "Who may seal, read and release bundles is a list of keys; the report gives the lists' digests and the keys that were used. That the sources' own access events arrived is shown stream by stream.",
        &[KEYS, CONFIGURATION, COMPLETENESS],
    ),
    control(
        "CC6.2, CC6.3",
        "Users are registered and authorised; access is modified and removed",
        "Only that the sources' records of sign-ins and role changes arrived without a hole. The records themselves are in the SIEM.",
        &[COMPLETENESS, PROOF],
    ),
    control(
        "CC6.7",
        "Transmission, movement and removal of information are restricted and protected",
        "Every bundle is signed and encrypted; which officers released what, who read which medium, what was refused; what an archive keeps where nobody can remove it.",
        &[CUSTODY, INTEGRITY, EXCEPTIONS, ARCHIVE],
    ),
    control(
        "CC7.1, CC7.2",
        "Operations are monitored for changes, vulnerabilities and anomalies",
        "The records that monitoring works on came, how soon, and what is missing of them. That somebody looked at them is shown elsewhere.",
        &[COMPLETENESS, LATENCY, FLOW, EXCEPTIONS],
    ),
    control(
        "CC7.3, CC7.4",
        "Security events are evaluated and responded to",
        "Alarms of the transfer itself, and how many of them are acknowledged.",
        &[ALARMS, EXCEPTIONS],
    ),
    control(
        "CC8.1",
        "Changes are authorised, tested, approved and implemented",
        "That the deployment and activity records of the period arrived. Digests of this side's own configuration, to be compared with the approved ones.",
        &[COMPLETENESS, CONFIGURATION],
    ),
];

const ISO27001: &[Control] = &[
    control(
        "A.8.15",
        "Logging: logs are produced, stored, protected and analysed",
        "Of what the high side received, every record is accounted for; what was stored is linked and signed, so that a change shows; what an archive holds under a lock, and when that lock was last tried and held.",
        &[COMPLETENESS, PROOF, INTEGRITY, ARCHIVE],
    ),
    control(
        "A.8.16",
        "Monitoring activities",
        "When records were received, how soon the monitoring had them, and which alarms the transfer itself raised.",
        &[FLOW, LATENCY, ALARMS],
    ),
    control(
        "A.8.17",
        "Clock synchronization",
        "How far the clocks of both sides may lie apart. Not that either follows an approved time source.",
        &[LATENCY],
    ),
    control(
        "A.5.14",
        "Information transfer",
        "Each transfer is signed and encrypted, released by whom, taken in by whom, and compared by numbers that have no holes.",
        &[CUSTODY, PROOF, EXCEPTIONS],
    ),
    control(
        "A.7.10",
        "Storage media",
        "Media that were read, with the person and the transfer record.",
        &[CUSTODY],
    ),
    control(
        "A.5.28, A.5.33",
        "Collection of evidence; protection of records",
        "The chain of custody of each bundle, and its verification; where bundles are locked, and until when.",
        &[INTEGRITY, CUSTODY, ARCHIVE],
    ),
    control(
        "A.8.2, A.8.5",
        "Privileged access rights; secure authentication",
        "Only that the sources' records of both arrived without a hole.",
        &[COMPLETENESS],
    ),
    control(
        "A.8.9, A.8.32",
        "Configuration management; change management",
        "Digests of this side's configuration and key lists as they are now.",
        &[CONFIGURATION],
    ),
    control(
        "A.8.24",
        "Use of cryptography",
        "Which keys signed and released the bundles of the period.",
        &[KEYS, CUSTODY],
    ),
];

const PCI_DSS: &[Control] = &[
    control(
        "10.2.1 (and 10.2.1.1 to 10.2.1.7)",
        "Audit logs are enabled and active for all system components",
        "That what the sources sent to the high side arrived. Which components log, and what, is to be shown at the sources.",
        &[COMPLETENESS, FLOW],
    ),
    control(
        "10.3.1, 10.3.2",
        "Read access is limited to those with a need; log files are protected from modification",
        "Bundles can be read with this side's key alone; each is signed, and each names the one before. Access to the SIEM is not shown here.",
        &[INTEGRITY, KEYS],
    ),
    control(
        "10.3.3",
        "Log files are promptly backed up to a secure, central log server or media that is difficult to modify",
        "How soon records arrived and were delivered, and what each archive with a storage lock holds and has yet to take.",
        &[LATENCY, ARCHIVE, COMPLETENESS],
    ),
    control(
        "10.3.4",
        "File integrity monitoring or change detection on audit logs",
        "Links, signatures and the custody log, verified again when this report was made; what archive verify last found in each archive, with the digest of its signed report.",
        &[INTEGRITY, ARCHIVE],
    ),
    control(
        "10.4.1, 10.4.1.1",
        "Audit logs are reviewed, by automated mechanisms",
        "Only that the reviewing system had the records, and when.",
        &[LATENCY, COMPLETENESS],
    ),
    control(
        "10.5.1",
        "Audit log history is kept for twelve months",
        "What is there of the period of this report; until when each archive has locked it, and when that lock was last tried and held.",
        &[COMPLETENESS, ARCHIVE],
    ),
    control(
        "10.6.1 to 10.6.3",
        "Clocks are synchronised",
        "How far the clocks of both sides may lie apart. Not their time sources.",
        &[LATENCY],
    ),
    control(
        "10.7.2, 10.7.3",
        "Failures of critical security control systems are detected, alerted and addressed promptly",
        "Alarms of the transfer: silence, gaps, refused files, losses, and how many are acknowledged.",
        &[ALARMS, EXCEPTIONS],
    ),
];

const HIPAA: &[Control] = &[
    control(
        "164.312(b)",
        "Audit controls: record and examine activity in systems that contain or use ePHI",
        "Of what the high side received, every record is accounted for. Which systems record, and who examines, is shown elsewhere.",
        &[COMPLETENESS, PROOF, FLOW],
    ),
    control(
        "164.312(c)(1), (c)(2)",
        "Integrity: protection from improper alteration or destruction",
        "Where audit records hold ePHI: links, signatures and the custody log, verified again; each archive's lock, and when it was last tried and held.",
        &[INTEGRITY, ARCHIVE],
    ),
    control(
        "164.312(e)(1), (e)(2)",
        "Transmission security: integrity controls and encryption",
        "Every bundle is signed and encrypted; what did not verify was refused.",
        &[INTEGRITY, EXCEPTIONS, KEYS],
    ),
    control(
        "164.308(a)(1)(ii)(D)",
        "Information system activity review",
        "Only that the reviewing system had the records, and when.",
        &[LATENCY, COMPLETENESS],
    ),
    control(
        "164.308(a)(5)(ii)(C)",
        "Log-in monitoring",
        "Only that the sources' records of sign-ins arrived without a hole.",
        &[COMPLETENESS],
    ),
    control(
        "164.308(a)(6)(ii)",
        "Security incidents: response and reporting",
        "Alarms of the transfer itself, and how many are acknowledged.",
        &[ALARMS],
    ),
    control(
        "164.310(d)(1), (d)(2)(iii)",
        "Device and media controls: accountability",
        "Media that were read, with the person and the transfer record.",
        &[CUSTODY],
    ),
    control(
        "164.316(b)(1), (b)(2)(i)",
        "Documentation, kept for six years",
        "This report and its signature are such a document; keep all of its files together. Until when each archive has locked the bundles of the period, where the six years are applied to audit logs.",
        &[CONFIGURATION, ARCHIVE],
    ),
];

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn the_command_line_and_the_report_have_one_name_for_each() {
        for framework in Framework::value_variants() {
            let value = framework.to_possible_value().unwrap();
            assert_eq!(value.get_name(), framework.as_str());
        }
    }

    #[test]
    fn nothing_claims_compliance() {
        for framework in Framework::value_variants() {
            let text = serde_json::to_string(&framework.text()).unwrap().to_lowercase();
            for word in ["compliant", "compliance", "complies", "satisf", "fulfil", "guarantee"] {
                assert!(!text.contains(word), "{word} in {framework:?}");
            }
        }
    }
}
