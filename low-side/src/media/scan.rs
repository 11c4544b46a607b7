//! What lies on a medium, by names: bundles, parts, records.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shared::bundle::FILE_EXTENSION;
use shared::parts::is_part_name;
use shared::transfer::is_record_name;

/// How deep folders on a medium are looked into.
const DEPTH_MAX: usize = 8;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Bundles, with their lengths. What was named by itself counts as one, whatever it is called.
    pub bundles: Vec<(PathBuf, u64)>,
    /// Parts of bundles.
    pub parts: Vec<PathBuf>,
    /// Transfer records: the JSON file of each.
    pub records: Vec<PathBuf>,
    /// The folders that were named.
    pub folders: Vec<PathBuf>,
}

/// Looks at files as named, and through folders. Links are not followed.
pub fn scan(paths: &[PathBuf]) -> Result<Found, (PathBuf, io::Error)> {
    let mut found = Found::default();
    for path in paths {
        found.look(path, DEPTH_MAX).map_err(|err| (path.clone(), err))?;
    }
    found.records.sort();
    found.parts.sort();
    Ok(found)
}

impl Found {
    fn look(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let there = fs::symlink_metadata(path)?;
        if !there.is_dir() {
            self.take(path, there.len());
            return Ok(());
        }
        if depth == DEPTH_MAX {
            self.folders.push(path.to_owned());
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = entry.path();
            let ours =
                is_bundle(&path) || named(&path, is_part_name) || named(&path, is_record_name);
            if kind.is_dir() {
                if depth > 0 {
                    self.look(&path, depth - 1)?;
                }
            } else if ours {
                self.take(&path, fs::symlink_metadata(&path)?.len());
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, bytes: u64) {
        if named(path, is_record_name) {
            self.records.push(path.to_owned());
        } else if named(path, is_part_name) {
            self.parts.push(path.to_owned());
        } else {
            self.bundles.push((path.to_owned(), bytes));
        }
    }

    /// The bundles and parts in one folder.
    pub fn in_folder<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a Path> {
        let bundles = self.bundles.iter().map(|(path, _)| path.as_path());
        let all = bundles.chain(self.parts.iter().map(PathBuf::as_path));
        all.filter(move |path| path.parent() == Some(folder))
    }
}

fn is_bundle(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == FILE_EXTENSION)
}

fn named(path: &Path, is: impl Fn(&str) -> bool) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(is)
}
