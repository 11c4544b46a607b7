//! Names of rotated files: what a name was before rotation, as far as the name tells.
//!
//! | who rotates | before | after |
//! |---|---|---|
//! | Kubernetes API server (lumberjack) | `audit.log` | `audit-2026-11-24T00-00-00.000.log`, then `.gz` |
//! | logrotate | `falco.log` | `falco.log.1`, `falco.log-20261124`, then `.gz` |
//! | kubelet | `0.log` | `0.log.20261124-000000`, then `.gz` |

use std::path::{Path, PathBuf};

/// The ending of a compressed file.
pub(super) const GZIP_SUFFIX: &str = ".gz";

/// Every name that this one may have had before it was rotated; none if it does not look rotated.
pub(super) fn names_before(name: &str) -> Vec<String> {
    let mut before = Vec::new();
    let plain = name.strip_suffix(GZIP_SUFFIX);
    if let Some(plain) = plain {
        before.push(plain.to_owned());
    }
    let name = plain.unwrap_or(name);
    // A stamp or number behind the whole name.
    for (at, _) in name.match_indices(['.', '-']) {
        if at > 0 && is_stamp(&name[at + 1..]) {
            before.push(name[..at].to_owned());
        }
    }
    // A stamp between the stem and its ending.
    if let Some((stem, ending)) = name.rsplit_once('.')
        && !ending.is_empty()
        && ending.bytes().all(|byte| byte.is_ascii_alphabetic())
    {
        for (at, _) in stem.match_indices('-') {
            if at > 0 && is_stamp(&stem[at + 1..]) {
                before.push(format!("{}.{ending}", &stem[..at]));
            }
        }
    }
    before
}

/// Whether a name looks like one that a rotation gave.
pub(super) fn looks_rotated(name: &str) -> bool {
    !names_before(name).is_empty()
}

/// Whether a path names a compressed file.
pub(super) fn is_gzip(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(GZIP_SUFFIX.as_bytes())
}

/// The path of the file that a compressed one was made of.
pub(super) fn before_gzip(path: &Path) -> Option<PathBuf> {
    Some(PathBuf::from(path.to_str()?.strip_suffix(GZIP_SUFFIX)?))
}

/// A number, a date or a time: `1`, `20261124`, `2026-11-24T00-00-00.000`.
fn is_stamp(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && text.bytes().all(|byte| byte.is_ascii_digit() || b"-._:TZ".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_usual_rotations_lead_back() {
        for (name, before) in [
            ("audit-2026-11-24T00-00-00.000.log", "audit.log"),
            ("audit-2026-11-24T00-00-00.000.log.gz", "audit.log"),
            ("falco.log.1", "falco.log"),
            ("falco.log.12.gz", "falco.log"),
            ("falco.log-20261124", "falco.log"),
            ("falco.log-20261124.gz", "falco.log"),
            ("0.log.20261124-000000", "0.log"),
            ("0.log.20261124-000000.gz", "0.log"),
            ("node-7-2026-11-24T00-00-00.000.log", "node-7.log"),
            ("audit.log.gz", "audit.log"),
        ] {
            assert!(names_before(name).iter().any(|found| found == before), "{name}");
        }
    }

    #[test]
    fn names_of_live_files_lead_nowhere() {
        for name in
            ["audit.log", "audit-other.log", "0.log", "events.json", ".1", "-1.log", "a.b-c"]
        {
            assert_eq!(names_before(name), Vec::<String>::new(), "{name}");
        }
    }
}
