//! `type = "folder"`: a folder that something else puts bundles into.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Problems, Span};
use shared::hook::Hook;

/// A folder that something else puts bundles into.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderConfig {
    /// The folder.
    pub path: PathBuf,
    /// From one look at the folder to the next.
    pub poll_interval: Duration,
    /// How many looks in a row must find a file unchanged.
    pub polls: u32,
    /// Names with these endings are not finished.
    pub ignore_suffixes: Vec<String>,
    /// What a `NAME.sha256` is worth.
    pub sidecar: SidecarUse,
    /// What says that a file is finished.
    pub done_marker: Marker,
    /// Whether only what a manifest lists is taken.
    pub manifest: bool,
    /// What is run.
    pub command: Option<Hook>,
    /// When it is run.
    pub command_when: CommandWhen,
    /// What becomes of a file that was taken.
    pub after: After,
    /// What has not become complete for so long is named; parts are given up.
    pub deadline: Duration,
    /// What may be kept of bundles that come in parts, in bytes.
    pub parts_bytes_max: u64,
}

/// What a `NAME.sha256` is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SidecarUse {
    /// It is not looked at.
    Ignored,
    /// Where it stands, the file is compared with it.
    Optional,
    /// No file is taken without it.
    Required,
}

/// What says that a file is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marker {
    /// One file of this name, for all that stand there.
    Directory(String),
    /// A file beside it, with this appended to its name.
    File(String),
    /// Nothing does.
    None,
}

/// When the command is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandWhen {
    /// After each file that was taken, before it is deleted or moved.
    AfterFile,
    /// Before each look at the folder.
    BeforePoll,
}

/// What becomes of a file that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// It is deleted.
    Delete,
    /// It stays where it is.
    Keep,
    /// It is moved into this folder.
    Move(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RawFolder {
    pub(super) name: String,
    path: PathBuf,
    #[serde(default = "poll_interval")]
    poll_interval: Span,
    #[serde(default = "polls")]
    polls: u32,
    #[serde(default = "ignore_suffixes")]
    ignore_suffixes: Vec<String>,
    #[serde(default = "sidecar")]
    sidecar: SidecarUse,
    #[serde(default = "done_marker")]
    done_marker: String,
    #[serde(default)]
    manifest: bool,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default = "command_when")]
    command_when: CommandWhen,
    #[serde(default = "command_timeout")]
    command_timeout: Span,
    #[serde(default)]
    after: RawAfter,
    move_to: Option<PathBuf>,
    #[serde(default = "incomplete_deadline")]
    incomplete_deadline: Span,
    #[serde(default = "parts_bytes_max")]
    parts_bytes_max: ByteSize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawAfter {
    #[default]
    Delete,
    Keep,
    Move,
}

fn poll_interval() -> Span {
    Span::secs(1)
}

/// Longer than a copying program pauses between two writes.
fn polls() -> u32 {
    3
}

fn ignore_suffixes() -> Vec<String> {
    [".partial", ".part", ".tmp", ".filepart", ".crdownload"].map(ToOwned::to_owned).to_vec()
}

fn sidecar() -> SidecarUse {
    SidecarUse::Optional
}

fn done_marker() -> String {
    "none".to_owned()
}

fn command_when() -> CommandWhen {
    CommandWhen::BeforePoll
}

fn command_timeout() -> Span {
    Span::secs(600)
}

/// One round of removable media.
fn incomplete_deadline() -> Span {
    Span::secs(24 * 3600)
}

fn parts_bytes_max() -> ByteSize {
    ByteSize::gib(16)
}

impl RawFolder {
    pub(super) fn check(self, key: &str, inbox: &Path, problems: &mut Problems) -> FolderConfig {
        let at = |name: &str| format!("{key}.{name}");
        problems.check(self.path.is_absolute(), &at("path"), "must be an absolute path");
        problems.check(
            self.path != inbox,
            &at("path"),
            "is the inbox itself, which is watched without a section",
        );
        for (name, span) in [
            ("poll-interval", self.poll_interval),
            ("command-timeout", self.command_timeout),
            ("incomplete-deadline", self.incomplete_deadline),
        ] {
            problems.check(!span.0.is_zero(), &at(name), "must be longer than nothing");
        }
        problems.check((1..=1000).contains(&self.polls), &at("polls"), "is 1 to 1000");
        for suffix in &self.ignore_suffixes {
            problems.check(!suffix.is_empty(), &at("ignore-suffixes"), "\"\" ignores every file");
        }
        let done_marker = match self.done_marker.strip_prefix("NAME") {
            _ if self.done_marker == "none" => Marker::None,
            Some(suffix) if !suffix.is_empty() => Marker::File(suffix.to_owned()),
            None if !self.done_marker.is_empty() && !self.done_marker.contains('/') => {
                Marker::Directory(self.done_marker.clone())
            }
            _ => {
                problems.add(
                    &at("done-marker"),
                    "is \"none\", \"NAME\" with an ending (\"NAME.done\"), or the name of one file for all (\"directory.done\")",
                );
                Marker::None
            }
        };
        problems.check(
            self.command.first().is_none_or(|program| !program.is_empty()),
            &at("command"),
            "begins with a program",
        );
        let after = match (self.after, self.move_to) {
            (RawAfter::Delete, None) => After::Delete,
            (RawAfter::Keep, None) => After::Keep,
            (RawAfter::Move, Some(to)) if to.is_absolute() && to != self.path && to != inbox => {
                After::Move(to)
            }
            (after, _) => {
                let problem = if after == RawAfter::Move {
                    "must be the absolute path of another folder on the file system of path"
                } else {
                    "is for after = \"move\" only"
                };
                problems.add(&at("move-to"), problem);
                After::Keep
            }
        };
        FolderConfig {
            path: self.path,
            poll_interval: self.poll_interval.0,
            polls: self.polls,
            ignore_suffixes: self.ignore_suffixes,
            sidecar: self.sidecar,
            done_marker,
            manifest: self.manifest,
            command: Hook::new(self.command, self.command_timeout.0),
            command_when: self.command_when,
            after,
            deadline: self.incomplete_deadline.0,
            parts_bytes_max: self.parts_bytes_max.0,
        }
    }
}
