//! What the tests of this crate share: a paired high side that seals bundles on demand.

use std::fs::File;
use std::path::{Path, PathBuf};

use shared::bundle::{
    BundleDigest, Limits, Loss, Manifest, SealReason, StreamCount, SuppressedCount, seal,
};
use shared::clock::{FakeClock, Nanos};
use shared::keys::{
    ALLOWED_SIGNERS_FILE, IDENTITY_FILE, Identities, REVOKED_KEYS_FILE, Recipients, SigningKey,
    Trust, Validity, generate_identity, generate_signing_key,
};
use shared::record::{Epoch, Lane, OriginId, Sequence, SourceTag, Stream, Suppressed, encode};

use crate::admitted_before::AdmittedBefore;
use crate::config::{AdmissionConfig, GapPolicy};
use crate::folders::Folders;
use crate::import::{Importer, KeyRing, Keys};
use crate::ledger::Ledger;

pub(crate) const START: Nanos = Nanos(1_795_468_219_000_000_000);

const HOUR: std::time::Duration = std::time::Duration::from_hours(1);

pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: FakeClock,
    pub(crate) folders: Folders,
    signer: SigningKey,
    recipients: Recipients,
}

/// One chain, as the high side would make it.
pub(crate) struct Chain {
    pub(crate) origin: OriginId,
    pub(crate) epoch: Epoch,
    pub(crate) lane: Lane,
    number: u64,
    previous: BundleDigest,
    sequence: u64,
    head: BundleDigest,
}

impl Chain {
    pub(crate) fn new(epoch: u64, lane: Lane) -> Self {
        Self {
            origin: "plant-7".parse().unwrap(),
            epoch: Epoch(epoch),
            lane,
            number: 0,
            previous: BundleDigest::ZERO,
            sequence: 0,
            head: BundleDigest::ZERO,
        }
    }
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        let signer = generate_signing_key(&dir.path().join("signing.key")).unwrap();
        let half = generate_identity(&keys.join(IDENTITY_FILE), "low", false).unwrap();
        Trust::add(&keys, &signer.public_half("plant-7"), Validity::default()).unwrap();
        let folders = Folders::of(&dir.path().join("state"));
        folders.create().unwrap();
        let recipients = Recipients::new(vec![half]).unwrap();
        Self { dir, clock: FakeClock::at(START), folders, signer, recipients }
    }

    pub(crate) fn keys(&self) -> KeyRing {
        let dir = self.dir.path().join("keys");
        let trust = Trust::load_dir(&dir).unwrap();
        KeyRing::new(Keys { trust, identities: Identities::load_dir(&dir).unwrap() })
    }

    /// From now on the high side's key is no more believed, in one of these ways.
    pub(crate) fn limit_signer(&self, how: &str) {
        let keys = self.dir.path().join("keys");
        let half = self.signer.public_half("plant-7");
        let validity = match how {
            // Sealed at START, which is in November 2026.
            "valid-before" => Validity { after: None, before: Some(START.plus(HOUR)) },
            "begins-later" => Validity { after: Some(START.plus(HOUR * 10_000)), before: None },
            "revoked" => {
                let key = self.signer.public_key().to_openssh().unwrap() + "\n";
                std::fs::write(keys.join(REVOKED_KEYS_FILE), key).unwrap();
                return;
            }
            _ => {
                std::fs::remove_file(keys.join(ALLOWED_SIGNERS_FILE)).unwrap();
                return;
            }
        };
        std::fs::remove_file(keys.join(ALLOWED_SIGNERS_FILE)).unwrap();
        Trust::add(&keys, &half, validity).unwrap();
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::open(&self.folders.state).unwrap()
    }

    pub(crate) fn importer(&self) -> Importer<FakeClock> {
        Importer {
            folders: self.folders.clone(),
            ledger: self.ledger(),
            keys: self.keys(),
            limits: Limits::default(),
            admission: AdmissionConfig {
                gap: GapPolicy::Hold(std::time::Duration::from_hours(1)),
                silence_alarm: std::time::Duration::from_hours(1),
                number_jump_max: 100,
            },
            clock: self.clock.clone(),
            source: crate::import::Source::Command("a test"),
            log: Some(AdmittedBefore::of(&self.folders.state, &self.dir.path().join("keys"))),
            rebuilding: false,
            word: None,
        }
    }

    /// Seals the next bundle of a chain, with these messages.
    pub(crate) fn seal(&self, chain: &mut Chain, messages: &[&str]) -> PathBuf {
        let raw: Vec<Vec<u8>> = messages.iter().map(|text| text.as_bytes().to_vec()).collect();
        self.seal_raw(chain, &raw)
    }

    pub(crate) fn seal_raw(&self, chain: &mut Chain, messages: &[Vec<u8>]) -> PathBuf {
        self.seal_with(chain, messages, 0)
    }

    /// As [`Site::seal_raw`], followed by so many records that rule `noise` suppressed.
    pub(crate) fn seal_with(
        &self,
        chain: &mut Chain,
        messages: &[Vec<u8>],
        suppressed: u64,
    ) -> PathBuf {
        self.seal_losing(chain, messages, suppressed, Vec::new())
    }

    /// As [`Site::seal_with`]; the bundle declares these losses.
    pub(crate) fn seal_losing(
        &self,
        chain: &mut Chain,
        messages: &[Vec<u8>],
        suppressed: u64,
        losses: Vec<Loss>,
    ) -> PathBuf {
        let source = SourceTag::new("syslog", "10.0.0.1:99", None);
        let first = chain.sequence + 1;
        let mut records = Vec::new();
        for raw in messages {
            chain.sequence += 1;
            let received = START.plus(std::time::Duration::from_nanos(chain.sequence));
            encode(
                &mut records,
                Sequence(chain.sequence),
                received,
                Stream::Other,
                &source,
                None,
                raw,
            );
        }
        for _ in 0..suppressed {
            chain.sequence += 1;
            let received = START.plus(std::time::Duration::from_nanos(chain.sequence));
            let (sequence, stream) = (Sequence(chain.sequence), Stream::KubeAudit);
            let gone = Suppressed { sequence, received, stream, length: 10, rule: "noise" };
            gone.encode(&mut records);
        }
        chain.number += 1;
        let before = chain.head;
        chain.head = BundleDigest::of(&records);
        let bytes = messages.iter().map(|raw| raw.len() as u64).sum();
        let count = messages.len() as u64;
        let time = |sequence: u64| {
            (count + suppressed > 0).then(|| START.plus(std::time::Duration::from_nanos(sequence)))
        };
        let streams = match count {
            0 => Vec::new(),
            _ => vec![StreamCount { stream: Stream::Other, records: count, bytes }],
        };
        let manifest = Manifest {
            origin: chain.origin.clone(),
            epoch: chain.epoch,
            lane: chain.lane,
            number: chain.number,
            previous: chain.previous,
            agent: "test/1".to_owned(),
            sealed_at: START,
            reason: SealReason::Requested,
            records: count,
            first_sequence: Sequence(first),
            last_sequence: Sequence(chain.sequence),
            records_bytes: records.len() as u64,
            oldest: time(first),
            newest: time(chain.sequence),
            chain_before: before,
            chain_head: chain.head,
            streams,
            suppressed: match suppressed {
                0 => Vec::new(),
                records => vec![SuppressedCount {
                    rule: "noise".to_owned(),
                    stream: Stream::KubeAudit,
                    records,
                    bytes: 10 * records,
                }],
            },
            losses,
        };
        let path = self
            .dir
            .path()
            .join(format!("{}-{}-{:010}.pstk", chain.epoch, chain.lane, chain.number));
        let file = File::create_new(&path).unwrap();
        let sealed = seal(&manifest, &self.signer, &self.recipients, 3, &file, |out| {
            out.write_all(&records)
        })
        .unwrap();
        chain.previous = sealed.digest;
        path
    }
}

/// The names in a folder.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
