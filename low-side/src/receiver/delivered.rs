//! Which bundles were delivered lately, so that a sender's repeats cost nothing.
//!
//! Two files of digests, the older one dropped when the younger is full. A line that is lost in a
//! power cut costs a bundle that is put together once more; the inbox knows it then.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shared::bundle::BundleDigest;
use shared::durable;

#[derive(Debug)]
pub(crate) struct Delivered {
    dir: PathBuf,
    young: HashSet<BundleDigest>,
    old: HashSet<BundleDigest>,
    file: File,
    max: usize,
}

impl Delivered {
    pub(crate) fn open(dir: &Path, max: usize) -> io::Result<Self> {
        let (young, old) = (read(&dir.join(YOUNG), max)?, read(&dir.join(OLD), max)?);
        let file = append(&dir.join(YOUNG))?;
        Ok(Self { dir: dir.to_owned(), young, old, file, max })
    }

    pub(crate) fn knows(&self, bundle: &BundleDigest) -> bool {
        self.young.contains(bundle) || self.old.contains(bundle)
    }

    /// Takes a bundle off the list: it was refused, and may come again.
    pub(crate) fn forget(&mut self, bundle: &BundleDigest) -> io::Result<()> {
        let lists = [(OLD, &mut self.old), (YOUNG, &mut self.young)];
        for (name, list) in lists {
            if list.remove(bundle) {
                let lines: Vec<String> = list.iter().map(ToString::to_string).collect();
                let text = lines.join("\n") + "\n";
                durable::write(&self.dir.join(name), text.as_bytes(), 0o600)?;
            }
        }
        self.file = append(&self.dir.join(YOUNG))?;
        Ok(())
    }

    pub(crate) fn add(&mut self, bundle: BundleDigest) -> io::Result<()> {
        if self.young.len() >= self.max {
            self.file.sync_all()?;
            durable::rename(&self.dir.join(YOUNG), &self.dir.join(OLD))?;
            self.file = append(&self.dir.join(YOUNG))?;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(bundle);
        self.file.write_all(format!("{bundle}\n").as_bytes())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn read(path: &Path, max: usize) -> io::Result<HashSet<BundleDigest>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(err) => return Err(err),
    };
    // A torn line is no digest and is passed over.
    Ok(text.lines().filter_map(|line| line.parse().ok()).take(max).collect())
}

const YOUNG: &str = "delivered";
const OLD: &str = "delivered.old";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_is_known_after_a_restart_and_the_list_has_an_end() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let digests: Vec<BundleDigest> = (0..10u8).map(|n| BundleDigest::of(&[n])).collect();
        let mut delivered = Delivered::open(dir.path(), 4)?;
        for digest in &digests {
            assert!(!delivered.knows(digest));
            delivered.add(*digest)?;
            assert!(delivered.knows(digest));
        }
        let again = Delivered::open(dir.path(), 4)?;
        let known: Vec<bool> = digests.iter().map(|digest| again.knows(digest)).collect();
        assert_eq!(known, [vec![false; 4], vec![true; 6]].concat());
        for at in [4, 9] {
            delivered.forget(&digests[at])?;
        }
        delivered.add(digests[0])?;
        let again = Delivered::open(dir.path(), 4)?;
        let known: Vec<bool> = digests.iter().map(|digest| again.knows(digest)).collect();
        let expected = [1, 0, 0, 0, 0, 1, 1, 1, 1, 0].map(|known| known == 1);
        assert_eq!(known, expected);
        Ok(())
    }
}
