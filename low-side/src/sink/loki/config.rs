//! The configuration of a Loki sink.

use std::path::PathBuf;

use serde::Deserialize;
use shared::config::ByteSize;

use crate::http::HttpConfig;
use crate::sink::config::Section;

/// A Loki, and how it is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct LokiConfig {
    /// Where it is; the paths `/loki/api/v1/...` are added.
    pub http: HttpConfig,
    /// The tenant, sent as `X-Scope-OrgID`.
    pub tenant: Option<String>,
    /// The file with what the `Authorization` header says, as `Basic ...` or `Bearer ...`.
    pub authorization_file: Option<PathBuf>,
    /// How many values the label `batch` has.
    pub batch_labels: u64,
    /// The longest line that is taken there.
    pub line_bytes: usize,
    /// The size from which on a push is sent.
    pub body_bytes: usize,
    /// Whether pushes are compressed.
    pub gzip: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    tenant: Option<String>,
    authorization_file: Option<PathBuf>,
    #[serde(default = "batch_labels")]
    batch_labels: u64,
    #[serde(default = "line_bytes")]
    line_bytes: ByteSize,
    #[serde(default = "body_bytes")]
    body_bytes: ByteSize,
    #[serde(default)]
    gzip: bool,
}

// Bundles that may be delivered between one that is late and its place: a day of them at one an hour.
// One high side makes at most 5 streams x 2 lanes x 24 = 240 streams in Loki, of the 5,000 that a tenant
// has by itself (max_global_streams_per_user).
fn batch_labels() -> u64 {
    24
}
// max_line_size of Loki's limits_config.
fn line_bytes() -> ByteSize {
    ByteSize(262_144)
}
// A push larger than ingestion_burst_size_mb (6 MB) is never taken.
fn body_bytes() -> ByteSize {
    ByteSize::mib(1)
}
pub(in crate::sink) const BATCH_RECORDS: u64 = 10_000;
/// What is sent again where no answer came, at most.
pub(in crate::sink) const BATCH_BYTES: ByteSize = ByteSize(2 << 20);
const BATCH_LABELS_MAX: u64 = 1_000;

/// Reads a section.
pub(in crate::sink) fn read(section: &mut Section<'_>) -> Option<LokiConfig> {
    let http = section.http()?;
    let raw: Raw = section.rest()?;
    section.check_secret(http.url.tls, raw.authorization_file.as_deref(), "authorization-file");
    section.check(raw.line_bytes.0 > 0, "line-bytes", "must be more than nothing");
    section.check(raw.body_bytes.0 > 0, "body-bytes", "must be more than nothing");
    section.check(
        (1..=BATCH_LABELS_MAX).contains(&raw.batch_labels),
        "batch-labels",
        "is 1 to 1000: each is a stream more in Loki, for each stream of ours",
    );
    // https://grafana.com/docs/loki/latest/operations/multi-tenancy/
    section.check(
        raw.tenant.as_ref().is_none_or(|name| {
            (1..=150).contains(&name.len())
                && !matches!(name.as_str(), "." | "..")
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!-_.*'()".contains(&b))
        }),
        "tenant",
        "is 1 to 150 of a-z, A-Z, 0-9 and !-_.*'()",
    );
    let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    Some(LokiConfig {
        http,
        tenant: raw.tenant,
        authorization_file: raw.authorization_file,
        batch_labels: raw.batch_labels.max(1),
        line_bytes: bytes(raw.line_bytes),
        body_bytes: bytes(raw.body_bytes),
        gzip: raw.gzip,
    })
}
