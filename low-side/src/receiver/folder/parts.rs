//! Bundles that come in parts: each part is kept, privately, until the others are there.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::durable;
use shared::parts::{Added, PartError, PartHeader, PartSet, RejoinError, SetId};

use super::take::final_name;

/// What may be kept of bundles that are not whole.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "the names of the keys")]
pub(super) struct Limits {
    pub(super) bytes_max: u64,
    pub(super) whole_bytes_max: u64,
    pub(super) age_max: Duration,
}

/// The parts that came.
#[derive(Debug)]
pub(super) struct Parts {
    dir: PathBuf,
    limits: Limits,
    sets: HashMap<SetId, Set>,
    bytes: u64,
}

#[derive(Debug)]
struct Set {
    parts: PartSet,
    bytes: u64,
    touched: Nanos,
    /// With these parts it could not be put together.
    tried: usize,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartTaken {
    Kept,
    NotAPart,
    Refused(&'static str),
}

/// A bundle that is whole.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) sha256: BundleDigest,
    id: SetId,
}

/// What came of the sets.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) whole: Vec<Whole>,
    /// All parts are there, and do not make the bundle.
    pub(super) wrong: Vec<(String, String)>,
    /// Parts were thrown away, since the others did not come.
    pub(super) expired: Vec<String>,
}

impl Parts {
    /// Goes on with what an earlier life kept.
    pub(super) fn open(dir: &Path, limits: Limits, now: Nanos) -> io::Result<Self> {
        durable::create_dir(dir)?;
        durable::remove_partials(dir)?;
        let mut parts = Self { dir: dir.to_owned(), limits, sets: HashMap::new(), bytes: 0 };
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            match PartHeader::read(&path) {
                Ok(header) => _ = parts.add(&path, &header, now)?,
                Err(PartError::Io { source, .. }) => return Err(source),
                // A bundle that was whole and not delivered, say: its parts are here still.
                Err(_) => durable::remove(&path)?,
            }
        }
        Ok(parts)
    }

    /// Where a part is copied to.
    pub(super) fn temporary(&self) -> PathBuf {
        self.dir.join(format!("copy{}", durable::PARTIAL_SUFFIX))
    }

    /// Takes a private and synced copy, if it is a part. Otherwise it stays where it is.
    pub(super) fn take(&mut self, copy: &Path) -> io::Result<PartTaken> {
        let header = match PartHeader::read(copy) {
            Ok(header) => header,
            Err(PartError::Header { .. }) => return Ok(PartTaken::NotAPart),
            Err(PartError::Io { source, .. }) => return Err(source),
            Err(err) => return Ok(PartTaken::Refused(err.code())),
        };
        if header.geometry.whole_bytes() > self.limits.whole_bytes_max {
            return Ok(PartTaken::Refused("too-large"));
        }
        let bytes = std::fs::metadata(copy)?.len();
        if self.bytes.saturating_add(bytes) > self.limits.bytes_max || self.sets.len() >= SETS_MAX {
            return Ok(PartTaken::Refused("no-room-for-parts"));
        }
        // By its content: whatever its name was, it meets no other.
        let name = format!("{}-{:05}", header.content_sha256, header.index);
        let path = self.dir.join(format!("{name}-{}", &header.whole_sha256.to_string()[..16]));
        durable::rename(copy, &path)?;
        let now = shared::clock::Clock::now(&shared::clock::SystemClock);
        match self.add(&path, &header, now)? {
            // Its source stays: others that say the same of themselves are here already.
            Added::Refused => Ok(PartTaken::Refused("too-many-rivals")),
            Added::New | Added::Rival | Added::Again => Ok(PartTaken::Kept),
        }
    }

    fn add(&mut self, path: &Path, header: &PartHeader, now: Nanos) -> io::Result<Added> {
        let id = header.set();
        let set = self.sets.entry(id.clone()).or_insert_with(|| Set {
            parts: PartSet::new(id),
            bytes: 0,
            touched: now,
            tried: 0,
        });
        let added = set.parts.add(path, header);
        match added {
            Added::New | Added::Rival => {
                let bytes = std::fs::metadata(path)?.len();
                set.bytes += bytes;
                set.touched = now;
                self.bytes += bytes;
            }
            Added::Again => {}
            Added::Refused => durable::remove(path)?,
        }
        Ok(added)
    }

    /// Puts together what can be, and throws away what is too old.
    pub(super) fn settle(&mut self, now: Nanos) -> io::Result<Settled> {
        let mut settled = Settled::default();
        let mut old = Vec::new();
        for (id, set) in &mut self.sets {
            let count = set.parts.paths().count();
            if set.parts.wanted() == 0 && set.tried != count {
                set.tried = count;
                let path = self.dir.join(format!("{}.whole", id.whole_sha256));
                match set.parts.rejoin(&path, &mut |_| {}) {
                    Ok(_) => settled.whole.push(Whole {
                        name: final_name(Some(id.name.as_str()), &id.whole_sha256),
                        path,
                        sha256: id.whole_sha256,
                        id: id.clone(),
                    }),
                    Err(err) if err.is_io() => {
                        set.tried = 0;
                        return Err(io::Error::other(err.to_string()));
                    }
                    Err(err) => {
                        let problem: &RejoinError = &err;
                        settled.wrong.push((id.name.as_str().to_owned(), problem.to_string()));
                    }
                }
            }
            if now.since(set.touched) > self.limits.age_max {
                old.push(id.clone());
            }
        }
        for id in old {
            if settled.whole.iter().any(|whole| whole.id == id) {
                continue;
            }
            self.forget(&id)?;
            settled.expired.push(id.name.as_str().to_owned());
        }
        Ok(settled)
    }

    /// A whole bundle was delivered: its parts are not needed any more.
    pub(super) fn delivered(&mut self, whole: &Whole) -> io::Result<()> {
        self.forget(&whole.id)
    }

    /// How many bundles are not whole, and how many bytes are kept of them.
    pub(super) fn sums(&self) -> (usize, u64) {
        (self.sets.len(), self.bytes)
    }

    fn forget(&mut self, id: &SetId) -> io::Result<()> {
        let Some(set) = self.sets.remove(id) else { return Ok(()) };
        self.bytes = self.bytes.saturating_sub(set.bytes);
        set.parts.paths().try_for_each(durable::remove)
    }
}

/// Bundles in parts at one time.
const SETS_MAX: usize = 4096;
