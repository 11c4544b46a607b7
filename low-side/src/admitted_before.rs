//! What was admitted before this ledger began, as the signed custody log says.
//!
//! Keys come and go: a signer's time ends, a key is revoked. That speaks against what comes with such a
//! key now, and not against a bundle that was verified and admitted while the key was believed. The
//! ledger remembers that decision by the bundle's digest. Where the ledger is lost, the custody log has
//! the same digest in its entry `admitted`, written in the transaction that admitted it.
//!
//! Why its word is as good as the ledger's: the digest is the SHA-256 of the header's bytes, which the
//! signature is over, and the header holds the SHA-256 of the payload. So the file is the one that was
//! verified then, or SHA-256 is broken; who has stolen a key since can't make another one. And only
//! what a checkpoint covers counts, signed by a key of this low side: the ledger itself is not even signed.
//! Entries behind the last checkpoint (some minutes' at most) are not believed for this.
//!
//! A walk over the log reads all of it, and keeps only what is asked for: memory grows with the number of
//! files, never with the log.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::custody::{Action, CustodyBundle, CustodyFolder, Entry, verify_with};
use shared::keys::{KeyError, StatementSigners};

use crate::ledger::{ANEW, ChainName, StoreName};
use crate::site;

/// What the log says of one bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// When it was first admitted; `None` where the log only knows that it was admitted anew.
    pub at: Option<Nanos>,
}

/// Why the log could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file of it can't be read.
    #[error("the custody log can't be read")]
    Io(#[source] io::Error),
    /// Whose checkpoints count can't be read.
    #[error("the keys of the custody log's checkpoints can't be read")]
    Keys(#[source] KeyError),
}

/// The signed custody log of this low side, to be asked for admissions.
#[derive(Debug)]
pub struct AdmittedBefore {
    state_dir: PathBuf,
    keys_dir: PathBuf,
    /// The files that will be asked for, by the names that they have in the store.
    names: HashSet<String>,
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    admitted: HashMap<BundleDigest, Logged>,
    /// The log's last entry, and the last one that a checkpoint covers.
    covered: (u64, u64),
}

impl AdmittedBefore {
    /// The log of a state folder; its checkpoints are signed with keys of this folder.
    pub fn of(state_dir: &Path, keys_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            keys_dir: keys_dir.to_owned(),
            names: HashSet::new(),
            known: None,
        }
    }

    /// These files will be asked for: one walk over the log is then enough for all of them.
    pub fn will_ask(&mut self, names: impl IntoIterator<Item = String>) {
        self.names.extend(names);
        self.known = None;
    }

    /// Whether a bundle was admitted, as what is signed of the log says.
    ///
    /// # Errors
    /// The log, or the keys of its checkpoints, can't be read. Where something in it is wrong, what stands
    /// behind that is not believed.
    pub fn ask(
        &mut self,
        chain: &ChainName,
        number: u64,
        digest: &BundleDigest,
    ) -> Result<Option<Logged>, LogError> {
        let name = StoreName::new(chain, number, digest).to_string();
        if self.known.is_none() || !self.names.contains(&name) {
            self.names.insert(name);
            self.known = Some(self.walk()?);
        }
        Ok(self.known.as_ref().and_then(|known| known.admitted.get(digest).copied()))
    }

    /// Whether the log ends with entries that no checkpoint covers, where it was asked: for people.
    pub fn uncovered(&self) -> Option<String> {
        let (last, signed) = self.known.as_ref()?.covered;
        (signed < last).then(|| {
            format!(
                "checkpoints that hold cover the custody log up to entry {signed} of {last}: see penstock-low custody verify"
            )
        })
    }

    fn walk(&self) -> Result<Known, LogError> {
        let name = site::name(&self.keys_dir);
        let signers =
            StatementSigners::own(&self.keys_dir, "receipt", &name).map_err(LogError::Keys)?;
        let mut found: Vec<(u64, BundleDigest, Logged)> = Vec::new();
        let mut each = |entry: &Entry| {
            if let Some((digest, logged)) = self.admission(entry) {
                found.push((entry.number, digest, logged));
            }
        };
        let folder = CustodyFolder::at(&self.state_dir);
        let verdict = verify_with(&folder, None, &signers, &[], &mut each).map_err(LogError::Io)?;
        let mut admitted: HashMap<BundleDigest, Logged> = HashMap::new();
        for (_, digest, logged) in
            found.into_iter().filter(|(number, ..)| *number <= verdict.signed_through)
        {
            let first = admitted.entry(digest).or_insert(logged);
            first.at = first.at.or(logged.at);
        }
        Ok(Known { admitted, covered: (verdict.last, verdict.signed_through) })
    }

    /// What an entry says, where it tells of an admission that is asked for.
    fn admission(&self, entry: &Entry) -> Option<(BundleDigest, Logged)> {
        let event = &entry.event;
        let CustodyBundle { origin, epoch, lane, number, digest } = event.bundle.as_ref()?;
        let digest = (*digest)?;
        if event.action != Action::Admitted {
            return None;
        }
        let chain = ChainName { origin: origin.clone(), epoch: *epoch, lane: *lane };
        let name = StoreName::new(&chain, *number, &digest).to_string();
        let at = Some(event.at).filter(|_| !event.detail.starts_with(ANEW));
        self.names.contains(&name).then_some((digest, Logged { at }))
    }
}
