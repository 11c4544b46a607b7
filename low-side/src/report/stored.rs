//! Stored bundles: whose signatures they carry, looked at again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use serde::Serialize;
use shared::bundle::{Limits, Refusal, verify_header};
use shared::clock::Nanos;
use shared::keys::Trust;

use super::Listed;
use super::listed::LISTED_MAX;
use crate::ledger::{BundleInStore, Ledger, LedgerError};

/// The headers of so many bundles are read: some 10 KB each.
pub const HEADERS_MAX: u64 = 20_000;

/// What the stored bundles of a period show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoredProof {
    /// Bundles of the period in the ledger.
    pub bundles: u64,
    /// Bundles whose container, signature and releases were verified again, and whose digest is the
    /// ledger's.
    pub verified: u64,
    /// Bundles whose file has left the store after its time.
    pub removed: u64,
    /// Bundles beyond the limit, which were not looked at.
    pub not_looked_at: u64,
    /// Bundles whose signer or officer is not believed any more; they were when they were admitted.
    pub not_believed_now: u64,
    /// Bundles that are missing in the store or are not what the ledger says.
    pub wrong: Listed<WrongBundle>,
    /// Who released how many bundles.
    pub releases: Listed<ReleaseSum>,
    /// Bundles that carry no release.
    pub unreleased: u64,
}

/// A stored bundle that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrongBundle {
    /// Its file in the store.
    pub file: String,
    /// The stable code of what is wrong.
    pub code: String,
    /// The same for people.
    pub problem: String,
}

/// One officer's releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReleaseSum {
    /// The officer's name, where the key was believed when the bundles came.
    pub officer: Option<String>,
    /// The key's fingerprint.
    pub key: String,
    /// How many bundles.
    pub bundles: u64,
    /// When the first of them was sealed, RFC 3339.
    pub first: String,
    /// When the last of them was sealed, RFC 3339.
    pub last: String,
}

#[derive(Default)]
struct Walk {
    proof: StoredProof,
    releases: BTreeMap<(Option<String>, String), (u64, Nanos, Nanos)>,
    /// Releases by keys beyond those that are listed.
    others: u64,
}

/// Looks at the stored bundles of a period, up to [`HEADERS_MAX`].
pub fn look(
    ledger: &Ledger,
    store: &Path,
    trust: &Trust,
    limits: &Limits,
    (from, to): (Nanos, Nanos),
) -> Result<StoredProof, LedgerError> {
    let mut walk = Walk::default();
    walk.proof.not_looked_at = ledger.bundles_in_store(from, to, HEADERS_MAX, |bundle| {
        walk.proof.bundles += 1;
        if !bundle.stored {
            walk.proof.removed += 1;
            return;
        }
        walk.bundle(bundle, store, trust, limits);
    })?;
    let Walk { mut proof, releases, others } = walk;
    proof.bundles += proof.not_looked_at;
    proof.releases.extend(releases.into_iter().map(|((officer, key), (bundles, first, last))| {
        ReleaseSum { officer, key, bundles, first: first.to_string(), last: last.to_string() }
    }));
    proof.releases.left_out += others;
    Ok(proof)
}

impl Walk {
    fn bundle(&mut self, bundle: &BundleInStore, store: &Path, trust: &Trust, limits: &Limits) {
        let wrong = |code: &str, problem: String| WrongBundle {
            file: bundle.file.clone(),
            code: code.to_owned(),
            problem,
        };
        // Whom we believed when it came: a key whose time is over since then signed well.
        let looked = File::open(store.join(&bundle.file))
            .map_err(Refusal::from)
            .and_then(|file| verify_header(&file, trust, limits, bundle.imported));
        match looked {
            Ok(signed) if signed.digest == bundle.digest => {
                self.proof.verified += 1;
                self.proof.unreleased += u64::from(signed.releases.is_empty());
                for by in signed.releases {
                    let key = (by.officer, by.key);
                    if !self.releases.contains_key(&key) && self.releases.len() >= LISTED_MAX {
                        self.others += 1;
                        continue;
                    }
                    let sealed = bundle.sealed;
                    let sum = self.releases.entry(key).or_insert((0, sealed, sealed));
                    *sum = (sum.0 + 1, sum.1.min(sealed), sum.2.max(sealed));
                }
            }
            Ok(_) => {
                let text = "another bundle stands under its name";
                self.proof.wrong.push(wrong("exchanged", text.to_owned()));
            }
            Err(Refusal::Signer(_)) => self.proof.not_believed_now += 1,
            Err(Refusal::Io(err))
                if err.kind() == std::io::ErrorKind::NotFound && left_just_now(store, bundle) =>
            {
                self.proof.removed += 1;
            }
            Err(refusal) => {
                self.proof.wrong.push(wrong(refusal.code(), refusal.to_string()));
            }
        }
    }
}

/// Whether a file has left the store since the moment that the report is made of.
fn left_just_now(store: &Path, bundle: &BundleInStore) -> bool {
    let now = store.parent().map(Ledger::open_read_only);
    matches!(now, Some(Ok(ledger)) if ledger.removed_file(&bundle.file).is_ok_and(|it| it.is_some()))
}
