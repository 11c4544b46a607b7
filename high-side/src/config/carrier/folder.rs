//! `type = "folder"`: a folder from which something else takes the bundles.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::config::Problems;
use shared::record::Lane;

use super::{Common, all_lanes};

/// A folder from which something else takes the bundles.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderSettings {
    /// The folder.
    pub path: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::config) struct RawFolder {
    name: String,
    #[serde(default = "all_lanes")]
    lanes: Vec<Lane>,
    path: PathBuf,
}

impl RawFolder {
    pub(super) fn common(&self) -> Common<'_> {
        Common { name: &self.name, lanes: &self.lanes }
    }

    pub(super) fn check(self, key: &str, outbox: &Path, problems: &mut Problems) -> FolderSettings {
        problems.check(self.path.is_absolute(), &format!("{key}.path"), "is an absolute path");
        problems.check(
            self.path != outbox,
            &format!("{key}.path"),
            "is the outbox itself; give another folder, or leave the section out and take bundles from the outbox",
        );
        FolderSettings { path: self.path }
    }
}
