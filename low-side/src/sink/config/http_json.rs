//! The configuration of a sink that sends JSON over HTTP.

use std::path::PathBuf;

use serde::Deserialize;
use shared::config::ByteSize;

use super::Section;
use crate::http::HttpConfig;
use crate::mapping::Schema;

/// A receiver of JSON over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpJsonConfig {
    /// Where it is.
    pub http: HttpConfig,
    /// In whose words records are sent.
    pub schema: Schema,
    /// How records stand in a request.
    pub shape: JsonShape,
    /// The size from which on a request is sent.
    pub body_bytes: usize,
    /// Whether requests are compressed.
    pub gzip: bool,
    /// The file with what the `Authorization` header says, as `Bearer TOKEN`.
    pub authorization_file: Option<PathBuf>,
}

/// How records stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JsonShape {
    /// One object a line.
    Lines,
    /// One array of objects.
    Array,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawHttpJson {
    #[serde(default)]
    schema: Schema,
    #[serde(default = "shape")]
    shape: JsonShape,
    #[serde(default = "body_bytes")]
    body_bytes: ByteSize,
    #[serde(default)]
    gzip: bool,
    authorization_file: Option<PathBuf>,
}

fn shape() -> JsonShape {
    JsonShape::Lines
}
// Every collector takes this much.
fn body_bytes() -> ByteSize {
    ByteSize::mib(1)
}

pub(super) fn read(section: &mut Section<'_>) -> Option<HttpJsonConfig> {
    let http = section.http()?;
    let raw: RawHttpJson = section.rest()?;
    section.check(raw.body_bytes.0 > 0, "body-bytes", "must be more than nothing");
    section.check_secret(http.url.tls, raw.authorization_file.as_deref(), "authorization-file");
    Some(HttpJsonConfig {
        http,
        schema: raw.schema,
        shape: raw.shape,
        body_bytes: usize::try_from(raw.body_bytes.0).unwrap_or(usize::MAX),
        gzip: raw.gzip,
        authorization_file: raw.authorization_file,
    })
}

pub(super) const BATCH_RECORDS: u64 = 10_000;
/// What is sent again where no answer came, at most.
pub(super) const BATCH_BYTES: ByteSize = ByteSize::mib(8);
