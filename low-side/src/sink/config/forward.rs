//! The configuration of a sink that speaks the Forward protocol.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::config::ByteSize;
use shared::record::Stream;

use super::{Endpoint, Section, Transport};

/// A receiver of the Forward protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardConfig {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The tag, in which `{stream}` stands for the record's stream.
    pub tag: String,
    /// The size from which on a chunk is sent.
    pub chunk_bytes: usize,
    /// Whether chunks are compressed.
    pub gzip: bool,
    /// The file with the key that both sides share.
    pub shared_key_file: Option<PathBuf>,
    /// A name, and the file with its password.
    pub user: Option<(String, PathBuf)>,
    /// What we call ourselves; Fluentd takes nobody who has its own name.
    pub hostname: String,
}

impl ForwardConfig {
    /// The tag of a stream's records.
    pub fn tag(&self, stream: Stream) -> String {
        self.tag.replace(STREAM, &stream.to_string())
    }
}

const STREAM: &str = "{stream}";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawForward {
    transport: Transport,
    #[serde(default = "forward_tag")]
    tag: String,
    #[serde(default = "body_bytes")]
    chunk_bytes: ByteSize,
    #[serde(default)]
    gzip: bool,
    shared_key_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    #[serde(default = "forward_hostname")]
    hostname: String,
}

// Every collector takes this much.
fn body_bytes() -> ByteSize {
    ByteSize::mib(1)
}
fn forward_tag() -> String {
    format!("penstock.{STREAM}")
}
fn forward_hostname() -> String {
    "penstock-low".to_owned()
}

pub(super) fn read(section: &mut Section<'_>) -> Option<ForwardConfig> {
    let transport = section.table.get("transport").and_then(|value| value.as_str());
    let with_tls = transport == Some("tls");
    let endpoint = section.endpoint(with_tls)?;
    let raw: RawForward = section.rest()?;
    let known = matches!(raw.transport, Transport::Tcp | Transport::Tls);
    section.check(known, "transport", "is \"tcp\" or \"tls\"");
    let bare = raw.tag.replace(STREAM, "");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = (1..=128).contains(&raw.tag.len()) && bare.chars().all(plain);
    section.check(good, "tag", "is 1 to 128 of a-z, A-Z, 0-9, '.', '_', '-', and {stream}");
    let size = (1 << 10)..=(32 << 20);
    section.check(size.contains(&raw.chunk_bytes.0), "chunk-bytes", "is 1KiB to 32MiB");
    for (name, path) in
        [("shared-key-file", &raw.shared_key_file), ("password-file", &raw.password_file)]
    {
        let absolute = path.as_deref().is_none_or(Path::is_absolute);
        section.check(absolute, name, "must be an absolute path");
    }
    section.check(
        raw.user.is_some() == raw.password_file.is_some(),
        "user",
        "and password-file go together",
    );
    section.check(
        raw.user.is_none() || raw.shared_key_file.is_some(),
        "user",
        "is asked for only together with a shared key: set shared-key-file",
    );
    let named = (1..=255).contains(&raw.hostname.len()) && raw.hostname.chars().all(plain);
    section.check(named, "hostname", "is a host's name");
    Some(ForwardConfig {
        endpoint,
        tag: raw.tag,
        chunk_bytes: usize::try_from(raw.chunk_bytes.0).unwrap_or(usize::MAX),
        gzip: raw.gzip,
        shared_key_file: raw.shared_key_file,
        user: raw.user.zip(raw.password_file),
        hostname: raw.hostname,
    })
}

/// Every batch is one connection: at this size, connecting does not show.
pub(super) const BATCH_RECORDS: u64 = 10_000;
/// What is sent again after a broken connection, at most.
pub(super) const BATCH_BYTES: ByteSize = ByteSize::mib(8);
