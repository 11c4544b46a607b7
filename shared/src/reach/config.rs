//! The section `[hardening]` of either side.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::Problems;

/// Whether the kernel is asked to keep the agent to what its configuration names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LandlockMode {
    /// As far as this kernel can.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// A kernel that can't is no place to run on.
    Required,
}

/// The section, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardening {
    /// Whether Landlock is used.
    pub landlock: LandlockMode,
    /// Folders that may be read, beyond those that other sections name.
    pub read: Vec<PathBuf>,
    /// Folders that may be written to, beyond those.
    pub write: Vec<PathBuf>,
}

/// The section as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawHardening {
    landlock: LandlockMode,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

impl RawHardening {
    /// Checks the section.
    pub fn check(self, problems: &mut Problems) -> Hardening {
        for (key, paths) in [("hardening.read", &self.read), ("hardening.write", &self.write)] {
            let absolute = paths.iter().all(|path| path.is_absolute());
            problems.check(absolute, key, "lists absolute paths");
        }
        Hardening { landlock: self.landlock, read: self.read, write: self.write }
    }
}
