//! Seal and open together.

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "helpers of tests")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;
use crate::clock::Nanos;
use crate::keys::{
    Identities, PublicHalf, Recipients, SigningKey, Trust, Validity, generate_identity,
    generate_signing_key,
};
use crate::record::{self, Epoch, Lane, Sequence, SourceTag, Stream};

struct Site {
    dir: tempfile::TempDir,
    key: SigningKey,
    recipients: Recipients,
    identities: Identities,
    trust: Trust,
}

fn site(hybrid: bool) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let key = generate_signing_key(&at("signing.key")).unwrap();
    let low: PublicHalf = generate_identity(&at("identity.key"), "soc-1", hybrid).unwrap();
    Trust::add(dir.path(), &key.public_half("plant-7"), Validity::default()).unwrap();
    Site {
        key: SigningKey::load(&at("signing.key")).unwrap(),
        recipients: Recipients::new(vec![low]).unwrap(),
        identities: Identities::load_dir(dir.path()).unwrap(),
        trust: Trust::load_dir(dir.path()).unwrap(),
        dir,
    }
}

fn records(count: u64) -> Vec<u8> {
    let source = SourceTag::new("tls", "10.0.0.7:4711", Some("CN=portainer"));
    let mut out = Vec::new();
    for number in 1..=count {
        let raw = format!("<13>1 - host app - - - message {number}");
        let received = Nanos(1000 + number as i64);
        record::encode(
            &mut out,
            Sequence(number),
            received,
            Stream::Other,
            &source,
            None,
            raw.as_bytes(),
        );
    }
    out
}

fn manifest(count: u64, encoded: &[u8]) -> Manifest {
    let raw: u64 = {
        let (mut at, mut sum) = (0, 0);
        while at < encoded.len() {
            let (record, length) = record::parse(&encoded[at..], 1 << 20).unwrap();
            sum += record.raw.len() as u64;
            at += length;
        }
        sum
    };
    Manifest {
        origin: "plant-7".parse().unwrap(),
        epoch: Epoch(1),
        lane: Lane::Routine,
        number: 1,
        previous: BundleDigest::ZERO,
        agent: "penstock-high/0.1.0".to_owned(),
        sealed_at: Nanos(9000),
        reason: SealReason::Count,
        records: count,
        first_sequence: Sequence(1),
        last_sequence: Sequence(count),
        records_bytes: encoded.len() as u64,
        oldest: (count > 0).then_some(Nanos(1001)),
        newest: (count > 0).then_some(Nanos(1000 + count as i64)),
        chain_before: BundleDigest::ZERO,
        chain_head: BundleDigest::of(b"head"),
        streams: (count > 0)
            .then_some(StreamCount { stream: Stream::Other, records: count, bytes: raw })
            .into_iter()
            .collect(),
        suppressed: Vec::new(),
        losses: Vec::new(),
    }
}

fn sealed(site: &Site, name: &str, count: u64) -> (File, SealedBundle, Vec<u8>) {
    let encoded = records(count);
    let file = crate::durable::create(&site.dir.path().join(name), 0o600).unwrap();
    let manifest = manifest(count, &encoded);
    let bundle =
        seal(&manifest, &site.key, &site.recipients, 3, &file, |out| out.write_all(&encoded));
    (file, bundle.unwrap(), encoded)
}

fn try_open(site: &Site, file: &File) -> Result<VerifiedBundle, Refusal> {
    open(file, &site.trust, &site.identities, &Limits::default(), Nanos(1))
}

#[test]
fn what_was_sealed_opens_to_the_same_records() {
    for hybrid in [false, true] {
        let site = site(hybrid);
        for count in [0, 1, 3, 5000] {
            let (file, bundle, encoded) = sealed(&site, &format!("{count}.pstk"), count);
            let verified = try_open(&site, &file).unwrap();
            assert_eq!(verified.digest(), bundle.digest);
            assert_eq!(verified.manifest().records, count);
            assert_eq!(verified.file_bytes(), file.metadata().unwrap().len());

            let limits = Limits::default();
            let mut reader = reopen(&file, &bundle.digest, &site.identities, &limits).unwrap();
            let mut at = 0;
            while let Some(record) = reader.next_record().unwrap() {
                let (expected, length) = record::parse(&encoded[at..], 1 << 20).unwrap();
                assert_eq!(record, expected);
                at += length;
            }
            assert_eq!(at, encoded.len());
            let other = BundleDigest::of(b"another");
            let exchanged = reopen(&file, &other, &site.identities, &limits).unwrap_err();
            assert_eq!(exchanged.code(), "bundle-exchanged");
        }
    }
}

#[test]
fn the_same_manifest_gives_the_same_header_but_for_the_payload() {
    let site = site(false);
    let (_, one, _) = sealed(&site, "one", 4);
    let (_, two, _) = sealed(&site, "two", 4);
    let mut header = two.header.clone();
    // age's own randomness: nonce, keys, and a grease stanza of random length.
    header.payload_sha256 = one.header.payload_sha256;
    header.payload_bytes = one.header.payload_bytes;
    assert_eq!(header, one.header);
}

#[test]
fn who_is_not_believed_and_who_is_not_addressed() {
    let (here, elsewhere) = (site(false), site(false));
    let (file, ..) = sealed(&here, "a", 2);
    let limits = Limits::default();
    let nobody = Trust::default();
    let open =
        |trust, identities| open(&file, trust, identities, &limits, Nanos(1)).unwrap_err().code();
    assert_eq!(open(&elsewhere.trust, &here.identities), "signer-unknown");
    assert_eq!(open(&nobody, &here.identities), "origin-unknown");
    assert_eq!(open(&here.trust, &elsewhere.identities), "recipient-unknown");
}

#[test]
fn a_records_section_that_breaks_its_promise_is_not_sealed() {
    let site = site(false);
    let encoded = records(3);
    let manifest = manifest(3, &encoded);
    let file = crate::durable::create(&site.dir.path().join("x"), 0o600).unwrap();
    let seal = |bytes: &[u8]| {
        let bytes = bytes.to_vec();
        seal(&manifest, &site.key, &site.recipients, 3, &file, move |out| out.write_all(&bytes))
    };
    assert!(matches!(seal(&encoded[1..]), Err(SealError::RecordsLength { .. })));
    assert!(seal(&[&encoded[..], b"x"].concat()).is_err());
}

#[test]
fn every_changed_byte_and_every_truncation_of_a_bundle_is_refused() {
    let site = site(false);
    let (file, bundle, _) = sealed(&site, "a", 3);
    let mut bytes = vec![0; bundle.file_bytes as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let copy = crate::durable::create(&site.dir.path().join("copy"), 0o600).unwrap();
    copy.write_all_at(&bytes, 0).unwrap();
    assert!(try_open(&site, &copy).is_ok());
    for at in 0..bytes.len() {
        copy.write_all_at(&[bytes[at] ^ 1 << (at % 8)], at as u64).unwrap();
        assert!(try_open(&site, &copy).is_err(), "byte {at}");
        copy.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    for length in (0..bytes.len()).rev() {
        copy.set_len(length as u64).unwrap();
        assert_eq!(try_open(&site, &copy).unwrap_err().code(), "container-malformed", "{length}");
    }
}

#[test]
fn ssh_keygen_and_the_file_agree_about_the_digest() {
    let site = site(false);
    let (_, bundle, _) = sealed(&site, "a", 1);
    let path: &Path = &site.dir.path().join("a");
    let whole = std::fs::read(path).unwrap();
    assert_eq!(BundleDigest::of(&whole), bundle.file_sha256);
    assert_eq!(bundle.header.digest(), bundle.digest);
}
