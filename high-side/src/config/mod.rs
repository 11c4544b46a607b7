//! The configuration file: raw form, checked form, defaults.

mod carrier;
mod file;
mod guard;
mod http;
mod listener;
mod portainer_api;
mod release;

use std::path::{Path, PathBuf};
use std::time::Duration;

use page::{PageConfig, RawPage};
use serde::Deserialize;
use shared::config::{ByteSize, ConfigError, Problems, Span, load};
use shared::reach::{Hardening, RawHardening};
use shared::record::{Lane, OriginId};
use shared::telemetry::LogFormat;
use tracing::level_filters::LevelFilter;

use crate::guard::redact::RawRedactionRule;
use crate::guard::suppress::SuppressRule;
use crate::ingest::ListenerSettings;
use crate::policy::SealPolicy;
use crate::reconcile::PortainerApi;

use crate::tail::FileSettings;
use carrier::RawCarrier;
pub use carrier::{
    Around, BitRate, CarrierKind, CarrierSettings, DiodeSettings, DoneMarker, FolderSettings,
    SidecarOrder, TcpSettings, Temporary,
};
pub use guard::GuardConfig;
use guard::RawGuard;

use file::RawFile;
use listener::RawListener;
use portainer_api::RawPortainerApi;
use release::RawRelease;
pub use release::{Release, ReleaseMode};

/// Where the configuration is looked for without `--config`.
pub const DEFAULT_PATH: &str = "/etc/penstock/high.toml";

/// The packaged sample: every key with its default.
pub const SAMPLE: &str = include_str!("sample.toml");

/// Everything the agent needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// The name of this installation.
    pub origin: OriginId,
    /// Buffer, status, and the outbox by default.
    pub state_dir: PathBuf,
    /// Signing key and recipients.
    pub keys_dir: PathBuf,
    /// Log level.
    pub log_level: LevelFilter,
    /// Log format.
    pub log_format: LogFormat,
    /// The sockets.
    pub listeners: Vec<ListenerSettings>,
    /// What is privileged, what is noise, what must not leave.
    pub guard: GuardConfig,
    /// Portainers that are asked what syslog lost.
    pub portainer_apis: Vec<PortainerApi>,
    /// The files.
    pub files: Vec<FileSettings>,
    /// The buffer's limits.
    pub buffer: RawBuffer,
    /// When to seal.
    pub seal: RawSeal,
    /// Whether bundles wait for officers.
    pub release: Release,
    /// Where bundles appear.
    pub outbox: Outbox,
    /// What takes bundles across the gap.
    pub carriers: Vec<CarrierSettings>,
    /// Where the page is served.
    pub page: PageConfig,
    /// What the kernel keeps the agent to.
    pub hardening: Hardening,
}

/// The outbox, checked.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// The folder.
    pub path: PathBuf,
    /// How long a bundle is kept after it was handed over.
    pub retain: Duration,
    /// How much may be kept, in bytes.
    pub retain_bytes: u64,
    /// How much may wait to be handed over, in bytes.
    pub waiting_bytes_max: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    origin: String,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default = "default_keys_dir")]
    keys_dir: PathBuf,
    #[serde(default)]
    log: RawLog,
    #[serde(default)]
    listener: Vec<RawListener>,
    #[serde(default)]
    guard: RawGuard,
    #[serde(default)]
    suppress: Vec<SuppressRule>,
    #[serde(default)]
    redact: Vec<RawRedactionRule>,
    #[serde(default)]
    portainer_api: Vec<RawPortainerApi>,
    #[serde(default)]
    file: Vec<RawFile>,
    #[serde(default)]
    buffer: RawBuffer,
    #[serde(default)]
    seal: RawSeal,
    #[serde(default)]
    release: RawRelease,
    #[serde(default)]
    outbox: RawOutbox,
    #[serde(default)]
    carrier: Vec<RawCarrier>,
    #[serde(default)]
    page: RawPage,
    #[serde(default)]
    hardening: RawHardening,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawLog {
    level: String,
    format: String,
}

/// The section `[buffer]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawBuffer {
    /// What the buffer may take on disk.
    pub quota: ByteSize,
    /// What must stay free on the disk.
    pub free_disk_floor: ByteSize,
    /// A group is committed when it has so many records,
    pub commit_records: u64,
    /// or so many bytes,
    pub commit_bytes: ByteSize,
    /// or is so old.
    pub commit_interval: Span,
    /// What may be in memory and not committed.
    pub in_flight: ByteSize,
}

/// The section `[seal]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawSeal {
    /// The routine lane's budget.
    pub latency_budget: Span,
    /// The flash lane's budget.
    pub flash_budget: Span,
    /// The part kept for the transfer, in percent.
    pub transfer_share: u8,
    /// The most record bytes in one bundle.
    pub bundle_bytes_max: ByteSize,
    /// The most records in one bundle.
    pub bundle_records_max: u64,
    /// The longest silence.
    pub heartbeat: Span,
    /// zstd's level.
    pub compression_level: i32,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawOutbox {
    path: PathBuf,
    retain: Span,
    retain_bytes: ByteSize,
    waiting_bytes_max: ByteSize,
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/penstock-high")
}

fn default_keys_dir() -> PathBuf {
    PathBuf::from("/etc/penstock/high-keys")
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: "text".to_owned() }
    }
}

impl Default for RawBuffer {
    fn default() -> Self {
        Self {
            quota: ByteSize::gib(8),
            free_disk_floor: ByteSize::mib(512),
            commit_records: 4096,
            commit_bytes: ByteSize::mib(4),
            commit_interval: Span::millis(2),
            in_flight: ByteSize::mib(8),
        }
    }
}

impl Default for RawSeal {
    fn default() -> Self {
        Self {
            latency_budget: Span::secs(24 * 3600),
            flash_budget: Span::secs(1),
            transfer_share: 50,
            bundle_bytes_max: ByteSize::mib(256),
            bundle_records_max: 1_000_000,
            heartbeat: Span::secs(3600),
            compression_level: 3,
        }
    }
}

impl Default for RawOutbox {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            retain: Span::secs(7 * 24 * 3600),
            retain_bytes: ByteSize::gib(20),
            waiting_bytes_max: ByteSize::gib(100),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::check(load(path)?, path)
    }

    /// Checks a text that is to stand in a file.
    pub fn from_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::check(shared::config::parse(text, path)?, path)
    }

    /// The names of all carriers of a lane.
    pub fn carriers_of(&self, lane: Lane) -> Vec<String> {
        let carries = |carrier: &&CarrierSettings| carrier.lanes.contains(&lane);
        self.carriers.iter().filter(carries).map(|carrier| carrier.name.clone()).collect()
    }

    /// The rules for sealing in one lane.
    pub fn seal_policy(&self, lane: Lane) -> SealPolicy {
        let budget = match lane {
            Lane::Flash => self.seal.flash_budget,
            Lane::Routine => self.seal.latency_budget,
        };
        SealPolicy {
            latency_budget: budget.0,
            transfer_share_percent: self.seal.transfer_share,
            records_max: self.seal.bundle_records_max,
            plain_bytes_max: self.seal.bundle_bytes_max.0,
            heartbeat: self.seal.heartbeat.0,
        }
    }

    fn check(raw: RawConfig, path: &Path) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let origin = raw.origin.parse::<OriginId>().map_err(|err| problems.add("origin", err)).ok();
        let log_level = raw.log.level.parse().unwrap_or_else(|_| {
            problems.add("log.level", "is error, warn, info, debug or trace");
            LevelFilter::INFO
        });
        let log_format = match raw.log.format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => {
                problems.add("log.format", "is text or json");
                LogFormat::Text
            }
        };
        let listeners = listener::check_all(&raw.listener, &mut problems);
        let portainer_apis =
            portainer_api::check_all(&raw.portainer_api, &listeners, &mut problems);
        let reconciles = !portainer_apis.is_empty();
        let guard = guard::check(raw.guard, raw.suppress, &raw.redact, reconciles, &mut problems);
        let files = file::check_all(&raw.file, &listeners, &portainer_apis, &mut problems);
        for (key, path) in [("state-dir", &raw.state_dir), ("keys-dir", &raw.keys_dir)] {
            problems.check(
                path.is_absolute(),
                key,
                "is an absolute path: a service has its own folder",
            );
        }
        check_buffer(&raw.buffer, &mut problems);
        check_seal(&raw.seal, &mut problems);
        let release = release::check(&raw.release, &mut problems);
        let outbox_path = if raw.outbox.path.as_os_str().is_empty() {
            raw.state_dir.join("outbox")
        } else {
            raw.outbox.path
        };
        let carriers = carrier::check_all(raw.carrier, &outbox_path, &mut problems);
        let page = raw.page.check(&raw.state_dir, &mut problems);
        let hardening = raw.hardening.check(&mut problems);
        problems.into_result(path)?;
        Ok(Self {
            path: path.to_owned(),
            origin: origin.ok_or_else(|| unreachable_origin(path))?,
            state_dir: raw.state_dir,
            keys_dir: raw.keys_dir,
            log_level,
            log_format,
            listeners,
            guard,
            portainer_apis,
            files,
            buffer: raw.buffer,
            seal: raw.seal,
            release,
            outbox: Outbox {
                path: outbox_path,
                retain: raw.outbox.retain.0,
                retain_bytes: raw.outbox.retain_bytes.0,
                waiting_bytes_max: raw.outbox.waiting_bytes_max.0,
            },
            carriers,
            page,
            hardening,
        })
    }
}

/// The problems were reported already when there is no origin; this is never seen.
fn unreachable_origin(path: &Path) -> ConfigError {
    ConfigError::Values { path: path.to_owned(), problems: vec!["  origin: is missing".to_owned()] }
}

fn check_buffer(raw: &RawBuffer, problems: &mut Problems) {
    problems.check(
        raw.quota >= ByteSize::mib(8) && raw.quota.0 >= 2 * raw.commit_bytes.0,
        "buffer.quota",
        "is at least 8MiB, and twice commit-bytes: a group that can never fit waits for ever",
    );
    problems.check(raw.commit_records > 0, "buffer.commit-records", "must not be 0");
    problems.check(raw.commit_bytes.0 > 0, "buffer.commit-bytes", "must not be 0");
    problems.check(
        raw.commit_interval <= Span::secs(1),
        "buffer.commit-interval",
        "is at most 1s: so much can be lost in a power cut",
    );
    problems.check(
        raw.in_flight >= ByteSize::mib(1) && raw.in_flight <= ByteSize::gib(1),
        "buffer.in-flight",
        "is from 1MiB to 1GiB",
    );
}

fn check_seal(raw: &RawSeal, problems: &mut Problems) {
    problems.check(raw.latency_budget >= Span::secs(1), "seal.latency-budget", "is at least 1s");
    problems.check(raw.flash_budget >= Span::millis(100), "seal.flash-budget", "is at least 100ms");
    problems.check(
        raw.flash_budget <= raw.latency_budget,
        "seal.flash-budget",
        "is longer than latency-budget; the flash lane is the faster one",
    );
    problems.check(raw.transfer_share <= 95, "seal.transfer-share", "is 0 to 95 percent");
    problems.check(
        raw.bundle_bytes_max >= ByteSize::mib(1) && raw.bundle_bytes_max <= ByteSize::gib(3),
        "seal.bundle-bytes-max",
        "is from 1MiB to 3GiB: a low side takes files up to 4GiB",
    );
    problems.check(raw.bundle_records_max > 0, "seal.bundle-records-max", "must not be 0");
    problems.check(raw.heartbeat >= Span::secs(1), "seal.heartbeat", "is at least 1s");
    problems.check(
        (1..=19).contains(&raw.compression_level),
        "seal.compression-level",
        "is 1 to 19",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("high.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn the_sample_holds_every_default() {
        let sample = parse(SAMPLE).unwrap();
        let bare = parse("origin = \"my-site\"").unwrap();
        assert_eq!(sample.buffer, bare.buffer);
        assert_eq!(sample.seal, bare.seal);
        assert_eq!(sample.release, bare.release);
        assert_eq!(sample.hardening, bare.hardening);
        assert_eq!(sample.state_dir, bare.state_dir);
        assert_eq!(sample.keys_dir, bare.keys_dir);
        assert_eq!(format!("{:?}", sample.outbox), format!("{:?}", bare.outbox));
        assert_eq!(sample.log_level, bare.log_level);
        // What is commented out is right, too.
        let all: String = SAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let message = parse(&all).unwrap_err().to_string();
        let problems: Vec<&str> = message.lines().skip(1).collect();
        assert!(!problems.is_empty(), "{message}");
        for problem in problems {
            assert!(problem.ends_with("is no file that can be read"), "{problem}");
        }
    }

    #[test]
    fn all_problems_are_named_in_one_run() {
        let text = "origin = \"Bad Name\"\n[seal]\nlatency-budget = \"0s\"\ncompression-level = 40\n\
                    [[listener]]\nname = \"a\"\nprotocol = \"tls\"\nbind = \"nowhere\"\n\
                    [[listener]]\nname = \"b\"\nprotocol = \"sctp\"\nbind = \"127.0.0.1:1\"\n\
                    [[listener]]\nname = \"c\"\nprotocol = \"relp\"\nbind = \"127.0.0.1:2\"\nclient-auth = \"required\"\nusers-file = \"/none\"\n\
                    [[listener]]\nname = \"d\"\nprotocol = \"fluent-forward\"\nbind = \"127.0.0.1:3\"\nusers-file = \"/none\"\nchunk-bytes-max = \"2GiB\"\n";
        let message = parse(text).unwrap_err().to_string();
        for part in [
            "origin",
            "seal.latency-budget",
            "seal.compression-level",
            "listener.a.bind",
            "listener.a.certificate",
            "listener.a.key",
            "listener.b.protocol",
            "listener.c.certificate",
            "listener.c.client-ca",
            "listener.c.users-file",
            "listener.d.users-file",
            "listener.d.chunk-bytes-max",
        ] {
            assert!(message.contains(part), "{part} is missing from {message}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let message = parse("origin = \"a\"\n[seal]\nlatency = \"1h\"\n").unwrap_err().to_string();
        assert!(message.contains("line 3") && message.contains("latency"), "{message}");
    }
}
