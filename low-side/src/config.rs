//! The configuration: the raw form that serde fills, and the checked form that the agent uses.
//!
//! Every default stands in [`sample.toml`](SAMPLE) and in the `Default` impls below; a test keeps
//! the two equal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use page::{PageConfig, RawPage};
use serde::Deserialize;
use shared::bundle::Limits;
use shared::config::{ByteSize, ConfigError, Problems, Span, load};
use shared::keys::ReleasePolicy;
use shared::reach::{Hardening, RawHardening};
use shared::telemetry::LogFormat;
use tracing::level_filters::LevelFilter;

use crate::archive::config::{ArchiveConfig, RawArchive};
use crate::latency::Budgets;
use crate::receiver::config::{self as receiver, RawReceiver, ReceiverConfig};
use crate::release::{self, RawRelease};
use crate::sink::config::{RawSink, SinkConfig};

/// The sample configuration, with a comment for each key. It equals the defaults.
pub const SAMPLE: &str = include_str!("sample.toml");

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/penstock/low.toml";

/// The checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the ledger, the store, the staging folder and the quarantine stand.
    pub state_dir: PathBuf,
    /// Where the decryption keys and the trusted signers stand.
    pub keys_dir: PathBuf,
    /// How much is logged, and how.
    pub log: (LevelFilter, LogFormat),
    /// The folder that bundles arrive in.
    pub inbox: InboxConfig,
    /// What a bundle may cost.
    pub limits: Limits,
    /// What is done about gaps and silence.
    pub admission: AdmissionConfig,
    /// What bundles come by, beside the inbox itself.
    pub receivers: Vec<ReceiverConfig>,
    /// How many officers have to have released a bundle.
    pub releases: ReleasePolicy,
    /// The longest that a record may take, by lane.
    pub latency: Budgets,
    /// Where a receipt is written now and then, if it is.
    pub receipt: Option<ReceiptConfig>,
    /// How long bundles stay in the store.
    pub store: StoreConfig,
    /// What keeps the bundles themselves.
    pub archives: Vec<ArchiveConfig>,
    /// Where records go.
    pub sinks: Vec<SinkConfig>,
    /// Where the page is served.
    pub page: PageConfig,
    /// What the kernel keeps the agent to.
    pub hardening: Hardening,
}

/// The folder that bundles arrive in.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxConfig {
    /// The folder.
    pub path: PathBuf,
    /// How long size and time of a file must stand still before it is read.
    pub settle: Duration,
    /// How often the folder is listed, whether or not the system told of a change.
    pub rescan_interval: Duration,
    /// How long a file may differ from its `.sha256` before it is quarantined.
    pub copy_deadline: Duration,
    /// Names with these endings are not bundles.
    pub ignore_suffixes: Vec<String>,
    /// What becomes of a file after its bundle was admitted.
    pub after_import: AfterImport,
}

/// A receipt that is written again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceiptConfig {
    /// The folder.
    pub folder: PathBuf,
    /// How often.
    pub interval: Duration,
}

/// How long bundles stay in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// What was put there longer ago leaves it, once nothing needs it; `None` where all of it stays.
    pub retain: Option<Duration>,
    /// While it holds more bytes, what nothing needs leaves it, those that came first in front.
    pub retain_bytes: Option<u64>,
    /// Fewer free bytes on its disk raise an alarm.
    pub free_alarm: u64,
}

/// What becomes of a file after its bundle was admitted, found a duplicate, or quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterImport {
    /// It is removed: its content is in the store or in the quarantine.
    Delete,
    /// It stays, as on media that are not ours.
    Keep,
}

/// What is done about gaps and silence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdmissionConfig {
    /// What becomes of the bundles behind a gap.
    pub gap: GapPolicy,
    /// No bundle of an origin for longer than this raises an alarm.
    pub silence_alarm: Duration,
    /// The furthest that a bundle's number may lie ahead of the highest known one.
    pub number_jump_max: u64,
}

/// What becomes of the bundles behind a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapPolicy {
    /// They wait this long for the missing one; then they are delivered all the same, with an alarm.
    Hold(Duration),
    /// They are delivered at once; the missing one is delivered when it comes.
    Pass,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    state_dir: PathBuf,
    keys_dir: PathBuf,
    log: RawLog,
    inbox: RawInbox,
    limits: RawLimits,
    admission: RawAdmission,
    receiver: Vec<RawReceiver>,
    release: RawRelease,
    latency: RawLatency,
    receipt: RawReceipt,
    store: RawStore,
    archive: Vec<RawArchive>,
    sink: Vec<RawSink>,
    page: RawPage,
    hardening: RawHardening,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/penstock-low".into(),
            keys_dir: "/etc/penstock/low-keys".into(),
            log: RawLog::default(),
            inbox: RawInbox::default(),
            limits: RawLimits::default(),
            admission: RawAdmission::default(),
            receiver: Vec::new(),
            release: RawRelease::default(),
            latency: RawLatency::default(),
            receipt: RawReceipt::default(),
            store: RawStore::default(),
            archive: Vec::new(),
            sink: Vec::new(),
            page: RawPage::default(),
            hardening: RawHardening::default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct RawLog {
    level: String,
    format: String,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: "text".to_owned() }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct RawLatency {
    flash_budget: Span,
    routine_budget: Span,
}

impl Default for RawLatency {
    fn default() -> Self {
        let Budgets { flash, routine } = Budgets::default();
        Self { flash_budget: Span(flash), routine_budget: Span(routine) }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct RawReceipt {
    folder: Option<PathBuf>,
    interval: Span,
}

impl Default for RawReceipt {
    fn default() -> Self {
        // Somebody comes by about once a day.
        Self { folder: None, interval: Span::secs(3600) }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct RawStore {
    retain: Option<Span>,
    retain_bytes: Option<ByteSize>,
    free_alarm: ByteSize,
}

impl Default for RawStore {
    fn default() -> Self {
        // Evidence goes only where somebody asked for it. The ledger and a few bundles need this much.
        Self { retain: None, retain_bytes: None, free_alarm: ByteSize(1 << 30) }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct RawInbox {
    path: PathBuf,
    settle: Span,
    rescan_interval: Span,
    copy_deadline: Span,
    ignore_suffixes: Vec<String>,
    after_import: AfterImport,
}

impl Default for RawInbox {
    fn default() -> Self {
        Self {
            path: "/var/spool/penstock/inbox".into(),
            // Longer than a copying program pauses between two writes.
            settle: Span::secs(2),
            // Network file systems do not tell of changes.
            rescan_interval: Span::secs(10),
            // A slow stick carries a bundle of 256 MiB in this time.
            copy_deadline: Span::secs(600),
            ignore_suffixes: [".partial", ".part", ".tmp", ".sha256", ".crdownload", ".filepart"]
                .map(ToOwned::to_owned)
                .to_vec(),
            after_import: AfterImport::Delete,
        }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names of the keys")]
struct RawLimits {
    bundle_bytes_max: ByteSize,
    plain_bytes_max: ByteSize,
    record_bytes_max: ByteSize,
}

impl Default for RawLimits {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            bundle_bytes_max: ByteSize(limits.file_bytes_max),
            plain_bytes_max: ByteSize(limits.plain_bytes_max),
            record_bytes_max: ByteSize(limits.record_bytes_max),
        }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct RawAdmission {
    gap: RawGap,
    gap_hold: Span,
    silence_alarm: Span,
    number_jump_max: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawGap {
    Hold,
    Pass,
}

impl Default for RawAdmission {
    fn default() -> Self {
        Self {
            gap: RawGap::Hold,
            // One round of removable media.
            gap_hold: Span::secs(24 * 3600),
            // A day's round and two hours for the courier.
            silence_alarm: Span::secs(26 * 3600),
            // A heartbeat every minute for a week; more than that is no delay of a courier.
            number_jump_max: 10_000,
        }
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Names every problem of the file at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::check(load(path)?, path)
    }

    /// Checks a text that is to stand in a file.
    ///
    /// # Errors
    /// Names every problem of the text at once.
    pub fn from_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::check(shared::config::parse(text, path)?, path)
    }

    fn check(raw: RawConfig, path: &Path) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        for (key, dir) in [
            ("state-dir", &raw.state_dir),
            ("keys-dir", &raw.keys_dir),
            ("inbox.path", &raw.inbox.path),
        ] {
            problems.check(dir.is_absolute(), key, "must be an absolute path");
        }
        problems.check(
            !raw.inbox.path.starts_with(&raw.state_dir),
            "inbox.path",
            "must not lie inside state-dir: whoever brings bundles must not reach the ledger",
        );
        let level = raw.log.level.parse().unwrap_or_else(|_| {
            problems.add("log.level", "is one of off, error, warn, info, debug, trace");
            LevelFilter::INFO
        });
        let format = match raw.log.format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => {
                problems.add("log.format", "is text or json");
                LogFormat::Text
            }
        };
        for (key, span) in [
            ("inbox.rescan-interval", raw.inbox.rescan_interval),
            ("inbox.copy-deadline", raw.inbox.copy_deadline),
            ("admission.silence-alarm", raw.admission.silence_alarm),
            ("latency.flash-budget", raw.latency.flash_budget),
            ("latency.routine-budget", raw.latency.routine_budget),
            ("receipt.interval", raw.receipt.interval),
        ] {
            problems.check(!span.0.is_zero(), key, "must be longer than nothing");
        }
        for suffix in &raw.inbox.ignore_suffixes {
            problems.check(!suffix.is_empty(), "inbox.ignore-suffixes", "\"\" ignores every file");
        }
        problems.check(
            raw.store.retain.is_none_or(|retain| !retain.0.is_zero()),
            "store.retain",
            "must be longer than nothing; without it everything stays",
        );
        let record_bytes_max = shared::bundle::Limits::default().record_bytes_max;
        for (key, value, max) in [
            ("limits.bundle-bytes-max", raw.limits.bundle_bytes_max.0, u64::MAX >> 1),
            ("limits.plain-bytes-max", raw.limits.plain_bytes_max.0, u64::MAX >> 1),
            ("limits.record-bytes-max", raw.limits.record_bytes_max.0, record_bytes_max),
        ] {
            problems.check(value > 0, key, "must be more than nothing");
            problems.check(value <= max, key, format!("must be at most {}", ByteSize(max)));
        }
        problems.check(
            raw.admission.number_jump_max > 0,
            "admission.number-jump-max",
            "is 1 or more",
        );

        problems.check(
            raw.receipt.folder.as_ref().is_none_or(|folder| folder.is_absolute()),
            "receipt.folder",
            "must be an absolute path",
        );
        let receivers = receiver::check_all(raw.receiver, &raw.inbox.path, &mut problems);
        let releases = release::check(raw.release, &mut problems);
        let mut names = BTreeSet::new();
        let mut sinks = Vec::new();
        for (position, sink) in raw.sink.into_iter().enumerate() {
            let Some(sink) = sink.check(position, &mut problems) else { continue };
            let key = format!("sink[{position}].name");
            problems.check(names.insert(sink.name.clone()), &key, "is taken by another sink");
            sinks.push(sink);
        }
        let page = raw.page.check(&raw.state_dir, &mut problems);
        let hardening = raw.hardening.check(&mut problems);
        let mut names = BTreeSet::new();
        let mut archives = Vec::new();
        for (position, archive) in raw.archive.into_iter().enumerate() {
            let bytes_max = raw.limits.bundle_bytes_max.0;
            let Some(archive) = archive.check(position, bytes_max, &mut problems) else { continue };
            let key = format!("archive[{position}].name");
            problems.check(names.insert(archive.name.clone()), &key, "is taken by another archive");
            archives.push(archive);
        }
        problems.into_result(path)?;
        let gap = match raw.admission.gap {
            RawGap::Hold => GapPolicy::Hold(raw.admission.gap_hold.0),
            RawGap::Pass => GapPolicy::Pass,
        };
        Ok(Self {
            state_dir: raw.state_dir,
            keys_dir: raw.keys_dir,
            log: (level, format),
            inbox: InboxConfig {
                path: raw.inbox.path,
                settle: raw.inbox.settle.0,
                rescan_interval: raw.inbox.rescan_interval.0,
                copy_deadline: raw.inbox.copy_deadline.0,
                ignore_suffixes: raw.inbox.ignore_suffixes,
                after_import: raw.inbox.after_import,
            },
            limits: Limits {
                file_bytes_max: raw.limits.bundle_bytes_max.0,
                plain_bytes_max: raw.limits.plain_bytes_max.0,
                record_bytes_max: raw.limits.record_bytes_max.0,
            },
            admission: AdmissionConfig {
                gap,
                silence_alarm: raw.admission.silence_alarm.0,
                number_jump_max: raw.admission.number_jump_max,
            },
            receivers,
            latency: Budgets {
                flash: raw.latency.flash_budget.0,
                routine: raw.latency.routine_budget.0,
            },
            receipt: raw
                .receipt
                .folder
                .map(|folder| ReceiptConfig { folder, interval: raw.receipt.interval.0 }),
            releases,
            store: StoreConfig {
                retain: raw.store.retain.map(|retain| retain.0),
                retain_bytes: raw.store.retain_bytes.map(|bytes| bytes.0),
                free_alarm: raw.store.free_alarm.0,
            },
            archives,
            sinks,
            page,
            hardening,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::from_text(text, Path::new("low.toml"))
    }

    #[test]
    fn the_sample_equals_the_defaults() {
        let sample = parse(SAMPLE).unwrap();
        assert_eq!(sample, parse("").unwrap());
        // The sinks of the sample are commented out; with the comment signs removed they parse too.
        let open: String = SAMPLE
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n")
            .collect();
        assert_eq!(parse(&open).unwrap().sinks.len(), 2, "{open}");
        assert_eq!(parse(&open).unwrap().receivers.len(), 3, "{open}");
        assert_eq!(parse(&open).unwrap().archives.len(), 4, "{open}");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = r#"
            state-dir = "state"
            [log]
            level = "loud"
            [inbox]
            rescan-interval = "0s"
            [[sink]]
            name = "a b"
            type = "file"
            path = "/var/log/penstock"
            [[sink]]
            name = "siem"
            type = "syslog"
            address = "nowhere"
            transport = "tls"
        "#;
        let problems = parse(text).unwrap_err().to_string();
        for key in [
            "state-dir",
            "log.level",
            "inbox.rescan-interval",
            "sink[0].name",
            "sink[1].address",
            "sink[1].ca-file",
        ] {
            assert!(problems.contains(key), "{key} in {problems}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [
            "colour = 1",
            "[inbox]\nsetle = \"2s\"",
            "[[sink]]\nname=\"a\"\ntype=\"file\"\npath=\"/x\"\naddress=\"y\"",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
