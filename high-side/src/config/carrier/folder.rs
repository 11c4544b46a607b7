//! `type = "folder"`: a folder from which something else takes the bundles.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Problems, Span};
use shared::hook::Hook;
use shared::parts::PART_HEADER_BYTES;
use shared::record::Lane;

use super::{Common, all_lanes};
use crate::carrier::Naming;

/// A folder from which something else takes the bundles.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderSettings {
    /// The folder.
    pub path: PathBuf,
    /// Whether it has to be a mount point.
    pub mount_point: bool,
    /// Where a file stands while it is written.
    pub temporary: Temporary,
    /// How files are named.
    pub naming: Naming,
    /// Which checksum stands beside a file.
    pub sidecar: SidecarOrder,
    /// Whether each batch has a manifest.
    pub manifest: bool,
    /// What says that all is there.
    pub done_marker: DoneMarker,
    /// The largest file; longer bundles are divided.
    pub part_bytes: Option<u64>,
    /// The most bytes per second that are written.
    pub rate: Option<u64>,
    /// The most files that may wait in the folder.
    pub files_max: usize,
    /// The most bytes that may wait in the folder.
    pub bytes_max: Option<u64>,
    /// What is run after each file.
    pub command: Option<Hook>,
}

/// Where a file stands while it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Temporary {
    /// In another folder of the same file system.
    Directory(PathBuf),
    /// In the folder, with this appended to its name.
    Suffix(String),
}

/// Which checksum stands beside a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SidecarOrder {
    /// None.
    None,
    /// `NAME.sha256`, after the file.
    Sha256,
    /// `NAME.sha256`, before the file.
    Sha256First,
}

/// What says that all is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DoneMarker {
    /// One file of this name after each batch.
    Directory(String),
    /// An empty file for each file, with this appended to its name.
    File(String),
    /// Nothing.
    None,
}

impl DoneMarker {
    /// Reads `none`, `NAME` with what is appended to it, or the name of one file for all.
    fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let named = !text.is_empty() && text.len() <= SUFFIX_BYTES_MAX && text.bytes().all(plain);
        match text.strip_prefix("NAME") {
            _ if !named => None,
            _ if text == "none" => Some(Self::None),
            Some("") => None,
            Some(suffix) => Some(Self::File(suffix.to_owned())),
            None => (!matches!(text, "." | "..")).then(|| Self::Directory(text.to_owned())),
        }
    }

    fn suffix_bytes(&self) -> usize {
        match self {
            Self::File(suffix) => suffix.len(),
            Self::Directory(_) | Self::None => 0,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::config) struct RawFolder {
    name: String,
    #[serde(default = "all_lanes")]
    lanes: Vec<Lane>,
    path: PathBuf,
    #[serde(default)]
    mount_point: bool,
    #[serde(default)]
    temporary: RawTemporary,
    temporary_suffix: Option<String>,
    temporary_directory: Option<PathBuf>,
    #[serde(default = "outbox_name")]
    name_style: String,
    #[serde(default = "name_max")]
    name_max: usize,
    #[serde(default = "sidecar")]
    sidecar: SidecarOrder,
    #[serde(default)]
    manifest: bool,
    #[serde(default = "done_marker")]
    done_marker: String,
    part_size: Option<ByteSize>,
    rate: Option<ByteSize>,
    #[serde(default = "files_max")]
    files_max: usize,
    bytes_max: Option<ByteSize>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default = "command_timeout")]
    command_timeout: Span,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawTemporary {
    Directory,
    #[default]
    Suffix,
}

fn outbox_name() -> String {
    "outbox".to_owned()
}

/// What every file system takes, and network shares with it.
fn name_max() -> usize {
    200
}

/// A receiver that knows it takes the file at once.
fn sidecar() -> SidecarOrder {
    SidecarOrder::Sha256First
}

fn done_marker() -> String {
    "none".to_owned()
}

/// As many as a low side keeps track of in one folder.
fn files_max() -> usize {
    65_536
}

/// A copy of a large bundle over a slow line.
fn command_timeout() -> Span {
    Span::secs(600)
}

impl RawFolder {
    pub(super) fn common(&self) -> Common<'_> {
        Common { name: &self.name, lanes: &self.lanes }
    }

    pub(super) fn check(self, key: &str, outbox: &Path, problems: &mut Problems) -> FolderSettings {
        let at = |name: &str| format!("{key}.{name}");
        problems.check(self.path.is_absolute(), &at("path"), "is an absolute path");
        problems.check(
            self.path != outbox,
            &at("path"),
            "is the outbox itself; give another folder, or leave the section out and take bundles from the outbox",
        );
        let temporary = self.temporary(&at, outbox, problems);
        let done_marker = DoneMarker::parse(&self.done_marker).unwrap_or_else(|| {
            problems.add(
                &at("done-marker"),
                "is \"none\", \"NAME\" with an ending of A-Z a-z 0-9 . _ - (\"NAME.done\"), or the name of one file for all (\"directory.done\")",
            );
            DoneMarker::None
        });
        let part_bytes = self.part_size.map(|size| size.0);
        problems.check(
            part_bytes.is_none_or(|bytes| bytes >= PART_BYTES_MIN),
            &at("part-size"),
            format!("is at least {}", ByteSize(PART_BYTES_MIN)),
        );
        for (name, size, min) in
            [("rate", self.rate, 1024), ("bytes-max", self.bytes_max, PART_BYTES_MIN)]
        {
            problems.check(
                size.is_none_or(|size| size.0 >= min),
                &at(name),
                format!("is at least {min} bytes"),
            );
        }
        problems.check(self.files_max > 0, &at("files-max"), "is 1 or more");
        problems.check(
            (1..=255).contains(&self.name_max),
            &at("name-max"),
            "is at most 255: no file system takes more",
        );
        let suffix = match &temporary {
            Temporary::Suffix(suffix) => suffix.len(),
            Temporary::Directory(_) => 0,
        };
        let sidecar = if self.sidecar == SidecarOrder::None { 0 } else { ".sha256".len() };
        // What is written in turns: a sidecar is written under a temporary name, too.
        let appended = sidecar.max(done_marker.suffix_bytes()) + suffix;
        let part = if part_bytes.is_some() { PART_SUFFIX_BYTES_MAX } else { 0 };
        let left = self.name_max.saturating_sub(appended + part);
        let naming = Naming::parse(&self.name_style, left);
        let naming = naming.map_err(|problem| problems.add(&at("name-style"), problem)).ok();
        problems.check(
            self.command.first().is_none_or(|program| !program.is_empty()),
            &at("command"),
            "begins with a program",
        );
        problems.check(
            !self.command_timeout.0.is_zero(),
            &at("command-timeout"),
            "must be more than nothing",
        );
        let timeout: Duration = self.command_timeout.0;
        FolderSettings {
            path: self.path,
            mount_point: self.mount_point,
            temporary,
            // A problem was noted where there is none.
            naming: naming.unwrap_or_default(),
            sidecar: self.sidecar,
            manifest: self.manifest,
            done_marker,
            part_bytes,
            rate: self.rate.map(|rate| rate.0),
            files_max: self.files_max,
            bytes_max: self.bytes_max.map(|bytes| bytes.0),
            command: Hook::new(self.command, timeout),
        }
    }

    fn temporary(
        &self,
        at: &dyn Fn(&str) -> String,
        outbox: &Path,
        problems: &mut Problems,
    ) -> Temporary {
        match (self.temporary, &self.temporary_suffix, &self.temporary_directory) {
            (RawTemporary::Suffix, suffix, None) => {
                let suffix = suffix.clone().unwrap_or_else(|| ".partial".to_owned());
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
                problems.check(
                    suffix.starts_with('.')
                        && (2..=SUFFIX_BYTES_MAX).contains(&suffix.len())
                        && suffix.bytes().all(plain),
                    &at("temporary-suffix"),
                    "is a dot and 1 to 31 of A-Z a-z 0-9 . _ -",
                );
                Temporary::Suffix(suffix)
            }
            (RawTemporary::Directory, None, Some(dir)) => {
                problems.check(
                    dir.is_absolute() && *dir != self.path && dir != outbox,
                    &at("temporary-directory"),
                    "is the absolute path of another folder on the file system of path",
                );
                Temporary::Directory(dir.clone())
            }
            _ => {
                problems.add(
                    &at("temporary"),
                    "is \"suffix\" (with temporary-suffix) or \"directory\" (with temporary-directory)",
                );
                Temporary::Suffix(".partial".to_owned())
            }
        }
    }
}

/// `.part-0001-of-4096`
const PART_SUFFIX_BYTES_MAX: usize = 18;
const SUFFIX_BYTES_MAX: usize = 32;
/// Smaller parts would be mostly headers and file system.
const PART_BYTES_MIN: u64 = 4096;
const _: () = assert!(PART_BYTES_MIN > PART_HEADER_BYTES as u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FolderSettings, String> {
        let raw: RawFolder =
            toml::from_str(&format!("name = \"x\"\n{text}")).map_err(|err| err.to_string())?;
        let mut problems = Problems::default();
        let settings = raw.check("carrier.x", Path::new("/outbox"), &mut problems);
        problems.into_result(Path::new("high.toml")).map_err(|err| err.to_string())?;
        Ok(settings)
    }

    #[test]
    fn without_further_keys_it_is_as_a_low_side_likes_it() {
        let settings = parse("path = \"/srv/out\"").unwrap();
        assert_eq!(settings.temporary, Temporary::Suffix(".partial".to_owned()));
        assert_eq!(settings.sidecar, SidecarOrder::Sha256First);
        assert_eq!(settings.done_marker, DoneMarker::None);
        assert_eq!((settings.command, settings.part_bytes), (None, None));
    }

    #[test]
    fn markers_are_for_each_file_or_for_all() {
        for (text, wanted) in [
            ("NAME.done", Some(DoneMarker::File(".done".to_owned()))),
            ("directory.done", Some(DoneMarker::Directory("directory.done".to_owned()))),
            ("none", Some(DoneMarker::None)),
            ("NAME", None),
            ("..", None),
            ("a/b", None),
            ("", None),
        ] {
            assert_eq!(DoneMarker::parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (text, named) in [
            ("path = \"out\"", "carrier.x.path"),
            ("path = \"/outbox\"", "carrier.x.path"),
            ("path = \"/o\"\ntemporary = \"directory\"", "carrier.x.temporary"),
            ("path = \"/o\"\ntemporary-directory = \"/t\"", "carrier.x.temporary"),
            ("path = \"/o\"\ntemporary-suffix = \"\"", "carrier.x.temporary-suffix"),
            ("path = \"/o\"\nname-style = \"{lane}\"", "carrier.x.name-style"),
            ("path = \"/o\"\nname-max = 40\npart-size = \"1MiB\"", "carrier.x.name-style"),
            ("path = \"/o\"\npart-size = \"1KiB\"", "carrier.x.part-size"),
            ("path = \"/o\"\nfiles-max = 0", "carrier.x.files-max"),
            ("path = \"/o\"\ncommand = [\"\"]", "carrier.x.command"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(named), "{text}: {problem}");
        }
    }
}
