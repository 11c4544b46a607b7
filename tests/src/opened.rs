//! Bundles read by the library in this process: quicker than a low side, and as strict.

use std::fs::File;
use std::path::Path;

use shared::bundle::{BundleDigest, Limits, Manifest, open, reopen};
use shared::clock::{Clock, SystemClock};
use shared::keys::{Identities, Trust};
use shared::record::Lane;

use crate::agents::{Site, bundles_in};
use crate::oracle::find_id;

/// What stands in the bundles of one lane.
#[derive(Debug, Default)]
pub struct Chain {
    /// Their manifests, in the order of their numbers.
    pub manifests: Vec<Manifest>,
    /// The ids of all messages, in the order of their records.
    pub ids: Vec<u64>,
}

/// Opens every bundle of a folder with the low side's keys. The bundles of the lane must form a
/// chain from number 1 without holes, forks or repetitions, and so must their sequence numbers.
///
/// # Panics
/// When they don't.
pub fn open_chain(dir: &Path, low: &Site, lane: Lane) -> Chain {
    let keys = low.dir().join("keys");
    let trust = Trust::load_dir(&keys).expect("the trusted signers");
    let identities = Identities::load_dir(&keys).expect("the identities");
    let limits = Limits::default();
    let mut bundles: Vec<(Manifest, BundleDigest, Vec<u64>)> = Vec::new();
    for path in bundles_in(dir) {
        let name = path.display();
        let file = File::open(&path).unwrap_or_else(|err| panic!("{name}: {err}"));
        let verified = open(&file, &trust, &identities, &limits, SystemClock.now())
            .unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        if verified.header().lane != lane {
            continue;
        }
        let digest = verified.digest();
        let mut reader = reopen(&file, &digest, &identities, &limits).expect("opened before");
        let mut ids = Vec::new();
        while let Some(record) = reader.next_record().expect("verified before") {
            ids.extend(find_id(record.raw).map(|(id, _)| id));
        }
        bundles.push((verified.manifest().clone(), digest, ids));
    }
    bundles.sort_by_key(|(manifest, ..)| manifest.number);
    let mut chain = Chain::default();
    let (mut previous, mut sequence) = (BundleDigest::ZERO, 1);
    for (number, (manifest, digest, ids)) in (1..).zip(bundles) {
        assert_eq!(manifest.number, number, "numbers without holes");
        assert_eq!(manifest.previous, previous, "bundle {number} follows {previous}");
        assert_eq!(manifest.first_sequence.0, sequence, "bundle {number}");
        assert!(manifest.losses.is_empty(), "bundle {number} declares losses");
        sequence = manifest.last_sequence.0 + 1;
        previous = digest;
        chain.ids.extend(ids);
        chain.manifests.push(manifest);
    }
    chain
}
