//! Manifests: which files a sender says it put there, with length and SHA-256.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use shared::bundle::BundleDigest;

use super::watch::{Entry, MANIFEST_SUFFIX};
use crate::folders::open_untrusted;
use crate::inbox::Stamp;
use crate::receiver::delivered::Delivered;

/// What the manifests of a folder list.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// By name of the manifest.
    manifests: HashMap<OsString, Manifest>,
}

#[derive(Debug)]
struct Manifest {
    stamp: Stamp,
    since: Instant,
    told: bool,
    files: HashMap<OsString, (u64, BundleDigest)>,
}

impl Listed {
    /// Reads the manifests that are new or were changed; forgets those that are gone.
    pub(super) fn read(&mut self, dir: &Path, entries: &[Entry], now: Instant) {
        let mut manifests = HashMap::new();
        for entry in entries {
            let Some(stamp) = entry.stamp else { continue };
            if !entry.name.as_encoded_bytes().ends_with(MANIFEST_SUFFIX.as_bytes())
                || manifests.len() == MANIFESTS_MAX
            {
                continue;
            }
            let manifest = match self.manifests.remove(&entry.name) {
                Some(known) if known.stamp == stamp => known,
                _ => {
                    let files = read(&dir.join(&entry.name));
                    Manifest { stamp, since: now, told: false, files }
                }
            };
            manifests.insert(entry.name.clone(), manifest);
        }
        self.manifests = manifests;
    }

    pub(super) fn knows(&self, name: &OsStr) -> bool {
        self.of(name).is_some()
    }

    /// Length and SHA-256 that a file must have.
    pub(super) fn of(&self, name: &OsStr) -> Option<(u64, BundleDigest)> {
        self.manifests.values().find_map(|manifest| manifest.files.get(name)).copied()
    }

    /// The manifests of which every file was taken.
    pub(super) fn finished(&self, delivered: &Delivered) -> Vec<(OsString, Stamp)> {
        let finished = |(_, manifest): &(&OsString, &Manifest)| {
            !manifest.files.is_empty()
                && manifest.files.values().all(|(_, digest)| delivered.knows(digest))
        };
        let all = self.manifests.iter().filter(finished);
        all.map(|(name, manifest)| (name.clone(), manifest.stamp)).collect()
    }

    /// What a manifest lists and what did not come for too long: told once for each manifest.
    pub(super) fn missing(
        &mut self,
        delivered: &Delivered,
        deadline: Duration,
        now: Instant,
    ) -> Vec<(OsString, Vec<OsString>)> {
        let mut missing = Vec::new();
        for (name, manifest) in &mut self.manifests {
            if manifest.told || now.saturating_duration_since(manifest.since) < deadline {
                continue;
            }
            manifest.told = true;
            let absent = manifest.files.iter().filter(|(_, (_, digest))| !delivered.knows(digest));
            let mut absent: Vec<OsString> = absent.map(|(name, _)| name.clone()).collect();
            absent.sort();
            if !absent.is_empty() {
                missing.push((name.clone(), absent));
            }
        }
        missing
    }
}

/// Lines of digest, length and name. One that says something else is passed over: what a manifest
/// lists has to be whole, what it does not list is not taken.
fn read(path: &Path) -> HashMap<OsString, (u64, BundleDigest)> {
    let mut text = String::new();
    let read = open_untrusted(path)
        .ok()
        .flatten()
        .map(|file| file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text));
    if !matches!(read, Some(Ok(_))) {
        return HashMap::new();
    }
    let line = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        let digest = fields.next()?.parse().ok()?;
        let bytes = fields.next()?.parse().ok()?;
        Some((OsString::from(fields.next()?), (bytes, digest)))
    };
    text.lines().filter_map(line).collect()
}

const MANIFESTS_MAX: usize = 1024;
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
