//! The configuration of the archives.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shared::config::{ByteSize, Problems, Span};

use crate::http::{HttpConfig, Url};
use crate::tls::{RawTls, TlsConfig};

/// One archive.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchiveConfig {
    /// Its name: in the ledger, in logs, in the status.
    pub name: String,
    /// Whether records wait until it holds their bundle.
    pub before: bool,
    /// How long it must keep a bundle from the time at which it gets it. Nothing for a folder, which
    /// can't promise that.
    pub retain: Option<Duration>,
    /// A bundle that waits longer than this raises an alarm.
    pub lag_alarm: Duration,
    /// The shortest and the longest pause before another try.
    pub retry: (Duration, Duration),
    /// What it is.
    pub kind: ArchiveKind,
}

/// What an archive is.
#[derive(Clone, Debug, PartialEq)]
pub enum ArchiveKind {
    /// A container of Azure Blob Storage.
    Azure(AzureConfig),
    /// A folder.
    Directory(PathBuf),
    /// A bucket of Google Cloud Storage.
    Gcs(GcsConfig),
    /// A bucket of S3, or of what speaks its protocol.
    S3(S3Config),
}

impl ArchiveKind {
    /// Its type, as in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Azure(_) => "azure",
            Self::Directory(_) => "directory",
            Self::Gcs(_) => "gcs",
            Self::S3(_) => "s3",
        }
    }

    /// How it keeps what it has, in the vendor's own words.
    pub fn lock(&self) -> &'static str {
        match self {
            Self::Azure(_) => "version-level immutability, policy Locked",
            Self::Directory(_) => "none: root can remove what a folder keeps",
            Self::Gcs(_) => "object retention, mode Locked",
            Self::S3(_) => "Object Lock, mode COMPLIANCE",
        }
    }

    /// Where an object is, for people: nothing secret.
    pub fn place(&self, key: &str) -> String {
        match self {
            Self::Azure(azure) => azure.place(key),
            Self::Directory(path) => path.join(key).display().to_string(),
            Self::Gcs(gcs) => gcs.place(key),
            Self::S3(s3) => s3.place(key),
        }
    }
}

impl S3Config {
    pub(super) fn place(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }
}

impl AzureConfig {
    pub(super) fn place(&self, key: &str) -> String {
        format!("azure://{}/{}/{}{key}", self.account, self.container, self.prefix)
    }
}

impl GcsConfig {
    pub(super) fn place(&self, key: &str) -> String {
        format!("gs://{}/{}{key}", self.bucket, self.prefix)
    }
}

/// A bucket of S3.
#[derive(Clone, Debug, PartialEq)]
pub struct S3Config {
    /// Where it answers: with the bucket in the host's name, or in the base path.
    pub http: HttpConfig,
    /// The bucket.
    pub bucket: String,
    /// What stands before every object's name; empty, or with a slash at its end.
    pub prefix: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The credentials, in AWS's own form.
    pub credentials_file: PathBuf,
    /// Which of them.
    pub profile: String,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, PartialEq)]
pub struct AzureConfig {
    /// Where the account's blobs are.
    pub http: HttpConfig,
    /// The account.
    pub account: String,
    /// The container.
    pub container: String,
    /// What stands before every object's name.
    pub prefix: String,
    /// How requests are authorised.
    pub credential: AzureCredential,
}

/// How requests to Azure are authorised.
#[derive(Clone, Debug, PartialEq)]
pub enum AzureCredential {
    /// A shared access signature, in a file.
    Sas(PathBuf),
    /// The account's key, in a file.
    SharedKey(PathBuf),
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, PartialEq)]
pub struct GcsConfig {
    /// Where the JSON API is.
    pub http: HttpConfig,
    /// The bucket.
    pub bucket: String,
    /// What stands before every object's name.
    pub prefix: String,
    /// How requests are authorised.
    pub credential: GcsCredential,
}

/// How requests to Google are authorised.
#[derive(Clone, Debug, PartialEq)]
pub enum GcsCredential {
    /// A service account's key, in Google's own form.
    ServiceAccount(PathBuf),
    /// An access token, in a file that something else renews.
    Token(PathBuf),
}

/// The raw form of one archive: the keys that every archive has, and those of its type.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct RawArchive(toml::Table);

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct RawCommon {
    name: String,
    r#type: String,
    order: Order,
    retain: Option<Span>,
    retention: Presets,
    lag_alarm: Span,
    retry_min: Span,
    retry_max: Span,
}

impl Default for RawCommon {
    fn default() -> Self {
        Self {
            name: String::new(),
            r#type: String::new(),
            order: Order::Before,
            retain: None,
            retention: Presets::Several(Vec::new()),
            // A store that is down for less than this is looked after by those who look after it.
            lag_alarm: Span::secs(15 * 60),
            retry_min: Span::millis(500),
            retry_max: Span::secs(60),
        }
    }
}

const COMMON_KEYS: [&str; 8] =
    ["name", "type", "order", "retain", "retention", "lag-alarm", "retry-min", "retry-max"];
const TLS_KEYS: [&str; 4] = ["ca-file", "cert-file", "key-file", "server-name"];
const TIME_KEYS: [&str; 2] = ["timeout", "connect-timeout"];

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    Before,
    Beside,
}

/// What a framework asks for. Its own words decide, and the auditor's; these are the usual readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Preset {
    /// 12 months: the usual reading of Annex A 8.15 (12.4 before 2022), which names no time.
    Iso27001,
    /// 12 months, the last three of them at hand: requirement 10.5.1 of PCI DSS 4. At hand means in the
    /// store, from which `replay` and `verify` read without the archive.
    PciDss,
    /// Six years: 45 CFR 164.316(b)(2)(i).
    Hipaa,
}

impl Preset {
    fn retain(self) -> Duration {
        match self {
            // With a leap day in it: no twelve months are longer.
            Self::Iso27001 | Self::PciDss => TWELVE_MONTHS,
            // No six years hold more than two leap days.
            Self::Hipaa => SIX_YEARS,
        }
    }
}

/// No twelve months are longer.
pub const TWELVE_MONTHS: Duration = days(366);
/// No six years are longer.
pub const SIX_YEARS: Duration = days(6 * 365 + 2);

#[derive(Deserialize)]
#[serde(untagged)]
enum Presets {
    One(Preset),
    Several(Vec<Preset>),
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct RawTimes {
    timeout: Option<Span>,
    connect_timeout: Option<Span>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawDirectory {
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawS3 {
    bucket: String,
    #[serde(default)]
    prefix: String,
    #[serde(default = "region")]
    region: String,
    endpoint: Option<String>,
    addressing: Option<Addressing>,
    credentials_file: PathBuf,
    #[serde(default = "profile")]
    profile: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Addressing {
    Path,
    VirtualHost,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawAzure {
    account: String,
    container: String,
    #[serde(default)]
    prefix: String,
    endpoint: Option<String>,
    sas_file: Option<PathBuf>,
    shared_key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawGcs {
    bucket: String,
    #[serde(default)]
    prefix: String,
    endpoint: Option<String>,
    service_account_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

fn region() -> String {
    "us-east-1".to_owned()
}
fn profile() -> String {
    "default".to_owned()
}

/// One section while it is checked.
struct Section<'a> {
    position: usize,
    table: toml::Table,
    problems: &'a mut Problems,
    file_bytes_max: u64,
}

impl Section<'_> {
    fn check(&mut self, good: bool, name: &str, problem: impl std::fmt::Display) {
        let key = format!("archive[{}].{name}", self.position);
        self.problems.check(good, &key, problem);
    }

    fn take<T: DeserializeOwned>(&mut self, keys: &[&str]) -> Option<T> {
        let mut taken = toml::Table::new();
        for key in keys {
            if let Some((key, value)) = self.table.remove_entry(*key) {
                taken.insert(key, value);
            }
        }
        self.read(taken)
    }

    fn rest<T: DeserializeOwned>(&mut self) -> Option<T> {
        let rest = std::mem::take(&mut self.table);
        self.read(rest)
    }

    fn read<T: DeserializeOwned>(&mut self, table: toml::Table) -> Option<T> {
        match table.try_into() {
            Ok(read) => Some(read),
            Err(err) => {
                let err: toml::de::Error = err;
                let key = format!("archive[{}]", self.position);
                self.problems.add(&key, err.to_string().trim_end());
                None
            }
        }
    }

    fn http(&mut self, endpoint: &str, times: &RawTimes, tls: RawTls) -> Option<HttpConfig> {
        let url = match Url::parse(endpoint) {
            Ok(url) => url,
            Err(problem) => {
                self.check(false, "endpoint", problem);
                return None;
            }
        };
        // An answer says that a lock holds: without TLS, anybody on the way could say so.
        let near = ["localhost", "127.0.0.1", "::1"].contains(&url.host.as_str());
        self.check(url.tls || near, "endpoint", "begins with https:// unless it is this machine");
        let position = self.position;
        let tls: TlsConfig = tls
            .check(url.tls, &|name| format!("archive[{position}].{name}"), self.problems)
            .unwrap_or_default();
        let timeout = times.timeout.unwrap_or(TIMEOUT).0;
        let connect_timeout = times.connect_timeout.unwrap_or(CONNECT_TIMEOUT).0;
        self.check(!timeout.is_zero(), "timeout", "must not be zero");
        self.check(!connect_timeout.is_zero(), "connect-timeout", "must not be zero");
        Some(HttpConfig { url, tls, connect_timeout, timeout })
    }

    fn plain(&mut self, name: &str, text: &str) {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let holds = !text.is_empty() && text.len() <= 63 && text.chars().all(good);
        self.check(holds, name, "holds 1 to 63 letters, digits, dots, dashes and underscores");
    }

    fn file(&mut self, name: &str, path: &Path) {
        self.check(path.is_absolute(), name, "must be an absolute path");
    }

    /// What stands before names: it ends with a slash, where there is any.
    fn prefix(&mut self, text: &str) -> String {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let plain = text.len() <= 200 && text.chars().all(good);
        let parts = text.trim_end_matches('/').split('/');
        let whole = text.is_empty() || parts.clone().all(|part| !["", ".", ".."].contains(&part));
        self.check(
            plain && whole,
            "prefix",
            "is a path of letters, digits, dots, dashes and underscores, of 200 at most",
        );
        match text.trim_end_matches('/') {
            "" => String::new(),
            text => format!("{text}/"),
        }
    }

    fn whole_request(&mut self, max: ByteSize) {
        let problem = format!("takes files of up to {max}: lower limits.bundle-bytes-max");
        self.check(self.file_bytes_max <= max.0, "type", problem);
    }

    fn s3(&mut self, times: &RawTimes, tls: RawTls) -> Option<ArchiveKind> {
        let raw: RawS3 = self.rest()?;
        self.plain("bucket", &raw.bucket);
        self.plain("region", &raw.region);
        self.file("credentials-file", &raw.credentials_file);
        self.whole_request(S3_BYTES_MAX);
        let usual = format!("https://s3.{}.amazonaws.com", raw.region);
        let addressing = raw.addressing.unwrap_or(if raw.endpoint.is_some() {
            Addressing::Path
        } else {
            Addressing::VirtualHost
        });
        let mut http = self.http(raw.endpoint.as_deref().unwrap_or(&usual), times, tls)?;
        match addressing {
            Addressing::Path => http.url.base = format!("{}/{}", http.url.base, raw.bucket),
            Addressing::VirtualHost => http.url.host = format!("{}.{}", raw.bucket, http.url.host),
        }
        let prefix = self.prefix(&raw.prefix);
        let RawS3 { bucket, region, credentials_file, profile, .. } = raw;
        Some(ArchiveKind::S3(S3Config { http, bucket, prefix, region, credentials_file, profile }))
    }

    fn azure(&mut self, times: &RawTimes, tls: RawTls) -> Option<ArchiveKind> {
        let raw: RawAzure = self.rest()?;
        self.plain("account", &raw.account);
        self.plain("container", &raw.container);
        self.whole_request(AZURE_BYTES_MAX);
        let usual = format!("https://{}.blob.core.windows.net", raw.account);
        let http = self.http(raw.endpoint.as_deref().unwrap_or(&usual), times, tls)?;
        let prefix = self.prefix(&raw.prefix);
        let credential = match (raw.sas_file, raw.shared_key_file) {
            (Some(path), None) => {
                self.file("sas-file", &path);
                AzureCredential::Sas(path)
            }
            (None, Some(path)) => {
                self.file("shared-key-file", &path);
                AzureCredential::SharedKey(path)
            }
            _ => {
                self.check(false, "sas-file", "or shared-key-file is needed, and only one of them");
                return None;
            }
        };
        let RawAzure { account, container, .. } = raw;
        Some(ArchiveKind::Azure(AzureConfig { http, account, container, prefix, credential }))
    }

    fn gcs(&mut self, times: &RawTimes, tls: RawTls) -> Option<ArchiveKind> {
        let raw: RawGcs = self.rest()?;
        self.plain("bucket", &raw.bucket);
        let endpoint = raw.endpoint.as_deref().unwrap_or("https://storage.googleapis.com");
        let http = self.http(endpoint, times, tls)?;
        let prefix = self.prefix(&raw.prefix);
        let credential = match (raw.service_account_file, raw.token_file) {
            (Some(path), None) => {
                self.file("service-account-file", &path);
                GcsCredential::ServiceAccount(path)
            }
            (None, Some(path)) => {
                self.file("token-file", &path);
                GcsCredential::Token(path)
            }
            _ => {
                let problem = "or token-file is needed, and only one of them";
                self.check(false, "service-account-file", problem);
                return None;
            }
        };
        Some(ArchiveKind::Gcs(GcsConfig { http, bucket: raw.bucket, prefix, credential }))
    }
}

impl RawArchive {
    /// Checks one section; `file_bytes_max` is the largest bundle that may come.
    pub(crate) fn check(
        self,
        position: usize,
        file_bytes_max: u64,
        problems: &mut Problems,
    ) -> Option<ArchiveConfig> {
        let mut section = Section { position, table: self.0, problems, file_bytes_max };
        let common: RawCommon = section.take(&COMMON_KEYS)?;
        section.plain("name", &common.name);
        let (min, max) = (common.retry_min.0, common.retry_max.0);
        section.check(
            !min.is_zero() && min <= max,
            "retry-min",
            "is more than 0 and at most retry-max",
        );
        section.check(!common.lag_alarm.0.is_zero(), "lag-alarm", "must be longer than nothing");
        let directory = common.r#type == "directory";
        let presets = match common.retention {
            Presets::One(preset) => vec![preset],
            Presets::Several(presets) => presets,
        };
        // The longest of what is asked for.
        let asked = presets.into_iter().map(Preset::retain).chain(common.retain.map(|span| span.0));
        let retain = asked.max();
        if directory {
            section.check(
                retain.is_none(),
                "retain",
                "is a promise that a folder can't keep: take a store with locks, or leave it out",
            );
        } else {
            let problem = "or retention is needed: how long must a bundle stay?";
            section.check(retain.is_some(), "retain", problem);
            let long = retain.is_none_or(|span| span >= RETAIN_MIN && span <= RETAIN_MAX);
            section.check(long, "retain", "is from 1 day to 100 years");
        }
        let kind = match common.r#type.as_str() {
            "directory" => {
                let RawDirectory { path } = section.rest()?;
                section.file("path", &path);
                ArchiveKind::Directory(path)
            }
            "s3" | "azure" | "gcs" => {
                let times: RawTimes = section.take(&TIME_KEYS)?;
                let tls: RawTls = section.take(&TLS_KEYS)?;
                match common.r#type.as_str() {
                    "s3" => section.s3(&times, tls)?,
                    "azure" => section.azure(&times, tls)?,
                    _ => section.gcs(&times, tls)?,
                }
            }
            _ => {
                section.check(false, "type", "is s3, azure, gcs or directory");
                return None;
            }
        };
        Some(ArchiveConfig {
            name: common.name,
            before: common.order == Order::Before,
            retain,
            lag_alarm: common.lag_alarm.0,
            retry: (min, max),
            kind,
        })
    }
}

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 3600)
}

/// A small answer takes a moment; what is long gets its own time on top.
const TIMEOUT: Span = Span::secs(60);
const CONNECT_TIMEOUT: Span = Span::secs(10);
/// Less is a lock for tests of a lock.
const RETAIN_MIN: Duration = days(1);
/// What S3 and Azure take.
const RETAIN_MAX: Duration = days(36_500);
/// The largest object of one PUT: `AmazonS3/latest/userguide/upload-objects.html`.
const S3_BYTES_MAX: ByteSize = ByteSize(5 << 30);
/// The largest blob of one Put Blob, from version 2019-12-12 on: `rest/api/storageservices/put-blob`.
const AZURE_BYTES_MAX: ByteSize = ByteSize(5000 << 20);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Option<ArchiveConfig>, String) {
        let mut problems = Problems::default();
        let raw: RawArchive = toml::from_str(text).unwrap();
        let config = raw.check(0, 4 << 30, &mut problems);
        let told = problems.into_result(Path::new("low.toml")).err();
        (config, told.map(|err| err.to_string()).unwrap_or_default())
    }

    const S3: &str =
        "name = \"worm\"\ntype = \"s3\"\nbucket = \"audit\"\ncredentials-file = \"/c\"\n";

    #[test]
    fn the_longest_retention_counts() {
        for (keys, days) in [
            ("retain = \"30d\"", 30),
            ("retention = \"pci-dss\"", 366),
            ("retention = [\"pci-dss\", \"hipaa\"]", 2192),
            ("retention = \"iso27001\"\nretain = \"3650d\"", 3650),
        ] {
            let (config, problems) = check(&format!("{S3}{keys}\n"));
            assert_eq!(problems, "", "{keys}");
            let retain = config.unwrap().retain.unwrap();
            assert_eq!(retain, Duration::from_secs(days * 24 * 3600), "{keys}");
        }
    }

    #[test]
    fn where_a_bucket_is() {
        for (keys, url) in [
            ("region = \"eu-west-1\"", "https://audit.s3.eu-west-1.amazonaws.com:443"),
            ("endpoint = \"https://s3.plant:8333\"", "https://s3.plant:8333/audit"),
            (
                "endpoint = \"https://s3.plant\"\naddressing = \"virtual-host\"",
                "https://audit.s3.plant:443",
            ),
        ] {
            let (config, problems) = check(&format!("{S3}retain = \"30d\"\n{keys}\n"));
            assert_eq!(problems, "", "{keys}");
            let ArchiveKind::S3(s3) = config.unwrap().kind else { panic!("{keys}") };
            assert_eq!(s3.http.url.to_string(), url);
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, problem) in [
            (S3.to_owned(), "retain"),
            (format!("{S3}retain = \"1h\"\n"), "1 day"),
            (format!("{S3}retain = \"30d\"\nmode = \"GOVERNANCE\"\n"), "mode"),
            (format!("{S3}retain = \"30d\"\nendpoint = \"http://s3.plant\"\n"), "https"),
            (format!("{S3}retain = \"30d\"\nprefix = \"../x\"\n"), "prefix"),
            (
                "name = \"a\"\ntype = \"directory\"\npath = \"/a\"\nretain = \"30d\"\n".to_owned(),
                "promise",
            ),
            ("name = \"a\"\ntype = \"tape\"\nretain = \"30d\"\n".to_owned(), "type"),
            (
                "name = \"a\"\ntype = \"gcs\"\nbucket = \"b\"\nretain = \"30d\"\n".to_owned(),
                "token-file",
            ),
        ] {
            let (_, problems) = check(&text);
            assert!(problems.contains(problem), "{text}: {problems}");
        }
    }
}
