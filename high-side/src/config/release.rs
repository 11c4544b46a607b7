//! The section `[release]`: whether sealed bundles wait for officers.

use serde::Deserialize;
use shared::bundle::RELEASES_MAX;
use shared::config::Problems;
use shared::record::Lane;

/// Whether bundles leave by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseMode {
    /// What is sealed may leave at once.
    Automatic,
    /// What is sealed waits until officers have released it.
    Reviewed,
}

/// The section, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The routine lane.
    pub routine: ReleaseMode,
    /// The flash lane.
    pub flash: ReleaseMode,
    /// How many officers have to release a bundle.
    pub required: usize,
}

impl Release {
    /// Whether bundles of a lane wait for officers.
    pub fn is_reviewed(&self, lane: Lane) -> bool {
        let mode = match lane {
            Lane::Flash => self.flash,
            Lane::Routine => self.routine,
        };
        mode == ReleaseMode::Reviewed
    }

    /// Whether bundles of any lane do.
    pub fn any_reviewed(&self) -> bool {
        Lane::ALL.into_iter().any(|lane| self.is_reviewed(lane))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawRelease {
    mode: String,
    flash_mode: String,
    required: usize,
}

impl Default for RawRelease {
    fn default() -> Self {
        Self { mode: "automatic".to_owned(), flash_mode: "same".to_owned(), required: 1 }
    }
}

pub(super) fn check(raw: &RawRelease, problems: &mut Problems) -> Release {
    let routine = parse(&raw.mode).unwrap_or_else(|| {
        problems.add("release.mode", "is automatic or reviewed");
        ReleaseMode::Reviewed
    });
    let flash = match raw.flash_mode.as_str() {
        "same" => routine,
        other => parse(other).unwrap_or_else(|| {
            problems.add("release.flash-mode", "is same, automatic or reviewed");
            routine
        }),
    };
    problems.check(
        (1..=RELEASES_MAX).contains(&raw.required),
        "release.required",
        "is 1 to 8: a bundle carries no more signatures",
    );
    Release { routine, flash, required: raw.required }
}

fn parse(mode: &str) -> Option<ReleaseMode> {
    match mode {
        "automatic" => Some(ReleaseMode::Automatic),
        "reviewed" => Some(ReleaseMode::Reviewed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_can_differ_and_mistakes_are_named() {
        let of = |text: &str| {
            let raw: RawRelease = toml::from_str(text).unwrap();
            let mut problems = Problems::default();
            let release = check(&raw, &mut problems);
            problems.into_result(std::path::Path::new("high.toml")).map(|()| release)
        };
        let lanes = |text: &str| {
            let release = of(text).unwrap();
            Lane::ALL.map(|lane| release.is_reviewed(lane))
        };
        assert_eq!(lanes(""), [false, false]);
        assert_eq!(lanes("mode = \"reviewed\""), [true, true]);
        assert_eq!(lanes("mode = \"reviewed\"\nflash-mode = \"automatic\""), [false, true]);
        assert_eq!(lanes("flash-mode = \"reviewed\""), [true, false]);
        let text = "mode = \"manual\"\nflash-mode = \"none\"\nrequired = 9";
        let message = of(text).unwrap_err().to_string();
        for key in ["release.mode", "release.flash-mode", "release.required"] {
            assert!(message.contains(key), "{key} in {message}");
        }
        assert!(of("required = 0").is_err());
    }
}
