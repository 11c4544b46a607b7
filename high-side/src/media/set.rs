//! A K+R set that is written to several media, one after the other: which bundles are in it, which
//! parts are done. Kept in the state folder until the last part is written.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use shared::device::Device;
use shared::durable;
use shared::parts::CODED_MAX;

/// K and R: how many parts restore a bundle, and how many may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// K.
    pub data: u16,
    /// R.
    pub recovery: u16,
}

impl Shares {
    /// K + R.
    pub fn total(self) -> u16 {
        self.data + self.recovery
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.recovery)
    }
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u16>().ok().filter(|n| (1..CODED_MAX).contains(n));
        let shares = text.split_once('+').and_then(|(data, recovery)| {
            Some(Self { data: number(data)?, recovery: number(recovery)? })
        });
        shares.filter(|shares| shares.total() <= CODED_MAX).ok_or_else(|| {
            format!("parts are written K+R, as 3+2: any K restore the set, R may be missing; together at most {CODED_MAX}")
        })
    }
}

/// A set that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OpenSet {
    #[serde(rename = "penstock-set")]
    version: u32,
    /// K and R.
    pub shares: Shares,
    /// When it was begun, RFC 3339.
    pub begun: String,
    /// The names of its bundles' files.
    pub bundles: BTreeSet<String>,
    /// The parts that are written and were read back.
    pub written: Vec<WrittenPart>,
}

/// A part that is on a medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WrittenPart {
    /// Its number, from 1.
    pub part: u16,
    /// When, RFC 3339.
    pub time: String,
    /// On which medium.
    pub medium: Device,
}

/// What is wrong with the set that was begun.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// It can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Its file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It has another shape.
    #[error(
        "a set of {begun} parts was begun and {written} of {total} parts are written\n  try: --parts {begun}, to complete it; or --new-set, to begin another one"
    )]
    Other {
        /// K and R of the one that was begun.
        begun: Shares,
        /// How many parts of it are written.
        written: usize,
        /// How many it has.
        total: u16,
    },
}

impl OpenSet {
    /// A set of which nothing is written yet.
    pub fn begin(shares: Shares, begun: String, bundles: BTreeSet<String>) -> Self {
        Self { version: 1, shares, begun, bundles, written: Vec::new() }
    }

    /// The set that was begun, if there is one.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, SetError> {
        let path = path(state_dir);
        let failed = |source| SetError::Io { path: path.clone(), source };
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|err| failed(err.into())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(failed(err)),
        }
    }

    /// Fails where another shape is asked for.
    pub fn expect(self, shares: Shares) -> Result<Self, SetError> {
        if self.shares == shares {
            return Ok(self);
        }
        let (written, total) = (self.written.len(), self.shares.total());
        Err(SetError::Other { begun: self.shares, written, total })
    }

    /// Makes it durable.
    pub fn save(&self, state_dir: &Path) -> Result<(), SetError> {
        let path = path(state_dir);
        let failed = |source| SetError::Io { path: path.clone(), source };
        let dir = path.parent().unwrap_or(state_dir);
        durable::create_dir(dir).map_err(failed)?;
        let text = serde_json::to_vec_pretty(self).map_err(|err| failed(err.into()))?;
        durable::write(&path, &text, 0o600).map_err(failed)
    }

    /// Forgets it.
    pub fn remove(state_dir: &Path) -> Result<(), SetError> {
        let path = path(state_dir);
        durable::remove(&path).map_err(|source| SetError::Io { path: path.clone(), source })
    }

    /// Notes that a part is on a medium.
    pub fn note(&mut self, index: u16, time: String, medium: Device) {
        let part = index + 1;
        self.written.retain(|written| written.part != part);
        self.written.push(WrittenPart { part, time, medium });
        self.written.sort_by_key(|written| written.part);
    }

    /// The parts that are not written yet, from 0.
    pub fn outstanding(&self) -> Vec<u16> {
        let written = |index: u16| self.written.iter().any(|written| written.part == index + 1);
        (0..self.shares.total()).filter(|index| !written(*index)).collect()
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("media").join("set.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_with_a_plus() {
        assert_eq!("3+2".parse(), Ok(Shares { data: 3, recovery: 2 }));
        assert!("254+1".parse::<Shares>().is_ok());
        for bad in ["", "3", "3+", "0+2", "3+0", "3-2", "255+1", "200+56", "3+2+1", "-1+2"] {
            assert!(bad.parse::<Shares>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_remembers_what_is_written_until_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(OpenSet::load(dir.path()).unwrap(), None);
        let shares = Shares { data: 1, recovery: 1 };
        let mut set = OpenSet::begin(shares, "now".to_owned(), ["a.pstk".to_owned()].into());
        set.note(1, "later".to_owned(), Device::default());
        set.note(1, "again".to_owned(), Device::default());
        set.save(dir.path()).unwrap();
        let set = OpenSet::load(dir.path()).unwrap().unwrap();
        assert_eq!((set.written.len(), set.outstanding()), (1, vec![0]));
        let other = set.expect(Shares { data: 2, recovery: 1 }).unwrap_err();
        assert!(other.to_string().contains("1 of 2 parts"), "{other}");
        OpenSet::remove(dir.path()).unwrap();
        assert_eq!(OpenSet::load(dir.path()).unwrap(), None);
    }
}
