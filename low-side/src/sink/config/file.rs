//! The configuration of a sink that writes files.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Span};

use super::Section;
use crate::mapping::Schema;

/// A file of JSON lines.
#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    /// The folder.
    pub dir: PathBuf,
    /// In whose words records stand in it.
    pub schema: Schema,
    /// The size at which the file is rotated.
    pub rotate_bytes: u64,
    /// The age at which the file is rotated.
    pub rotate_age: Duration,
    /// The longest line that its reader takes, without the line end: longer ones are dead letters.
    pub line_bytes_max: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawFile {
    path: PathBuf,
    #[serde(default)]
    schema: Schema,
    #[serde(default = "rotate_bytes")]
    rotate_bytes: ByteSize,
    #[serde(default = "rotate_age")]
    rotate_age: Span,
    line_bytes: Option<ByteSize>,
}

// One file a day at 3,000 records a second of 1 KiB, or a day.
fn rotate_bytes() -> ByteSize {
    ByteSize::mib(256)
}
fn rotate_age() -> Span {
    Span::secs(24 * 3600)
}

pub(super) fn read(section: &mut Section<'_>) -> Option<FileConfig> {
    let raw: RawFile = section.rest()?;
    section.check(raw.path.is_absolute(), "path", "must be an absolute path");
    section.check(raw.rotate_bytes.0 > 0, "rotate-bytes", "must be more than nothing");
    section.check(!raw.rotate_age.0.is_zero(), "rotate-age", "must not be zero");
    let size = raw.line_bytes.is_none_or(|size| size.0 >= 1 << 10);
    section.check(size, "line-bytes", "is 1KiB or more, or left out for no limit");
    Some(FileConfig {
        dir: raw.path,
        schema: raw.schema,
        rotate_bytes: raw.rotate_bytes.0,
        rotate_age: raw.rotate_age.0,
        line_bytes_max: raw.line_bytes.map(|size| usize::try_from(size.0).unwrap_or(usize::MAX)),
    })
}

/// A sync and a commit cost about 10 ms: at these sizes they cost a tenth of the work.
pub(super) const BATCH_RECORDS: u64 = 20_000;
/// What is compared again after a crash, at most. Larger batches sync less often, and no more memory
/// is used for them.
pub(super) const BATCH_BYTES: ByteSize = ByteSize::mib(32);
