//! The golden bundles: each opens, or is refused with exactly the code it names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use sha2::{Digest, Sha256};
use shared::bundle::{BundleDigest, Limits, reopen};
use shared::record::Entry;
use tests::forge::hex;

use crate::site::{Site, vectors_dir};

struct Vector {
    name: String,
    fields: BTreeMap<String, String>,
    bundle: Vec<u8>,
}

/// Every file of the folder: one that is new can't be forgotten, and one that is no vector fails.
fn vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for entry in fs::read_dir(vectors_dir()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if matches!(name.as_str(), "keys" | "README.md" | ".gitattributes") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let end = memchr::memmem::find(&bytes, b"\n---\n").unwrap_or_else(|| panic!("{name}"));
        let text = std::str::from_utf8(&bytes[..end]).unwrap();
        let fields = text.lines().map(|line| {
            let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{name}: {line}"));
            (key.to_owned(), value.to_owned())
        });
        vectors.push(Vector { fields: fields.collect(), bundle: bytes[end + 5..].to_vec(), name });
    }
    vectors.sort_by(|one, other| one.name.cmp(&other.name));
    vectors
}

#[test]
fn every_golden_bundle_opens_or_is_refused_as_it_says() {
    let site = Site::new();
    let mut wrong = Vec::new();
    for vector in vectors() {
        let expect = vector.fields["expect"].as_str();
        site.put(&vector.bundle);
        let demand = vector.fields.get("demand").map_or(0, |demand| demand.parse().unwrap());
        match site.open_demanding(demand) {
            Ok(_) if expect == "ok" => {}
            Ok(_) => wrong.push(format!("{}: opens, not {expect}", vector.name)),
            Err(refusal) if refusal.code() == expect => {}
            Err(refusal) => {
                let (name, code) = (&vector.name, refusal.code());
                wrong.push(format!("{name}: {code} ({refusal}), not {expect}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n", wrong.join("\n"));
}

#[test]
fn the_records_of_a_golden_bundle_are_those_that_were_written() {
    let site = Site::new();
    let mut opened = 0;
    for vector in vectors().iter().filter(|vector| vector.fields["expect"] == "ok") {
        let name = &vector.name;
        site.put(&vector.bundle);
        let verified = site.open().unwrap();
        let limits = Limits::default();
        let mut reader = reopen(&site.file, &verified.digest(), &site.identities, &limits).unwrap();
        let (mut count, mut again) = (0_u64, Vec::new());
        while let Some(entry) = reader.next_entry().unwrap() {
            count += u64::from(matches!(entry, Entry::Record(_)));
            entry.encode(&mut again);
        }
        assert_eq!(vector.fields["records"], count.to_string(), "{name}");
        assert_eq!(vector.fields["records-sha256"], hex(&Sha256::digest(&again)), "{name}");
        assert_eq!(verified.manifest().records, count, "{name}");
        assert_eq!(verified.file_bytes(), vector.bundle.len() as u64, "{name}");
        let end = 512 + verified.header().encode().len();
        assert_eq!(verified.digest(), BundleDigest::of(&vector.bundle[512..end]), "{name}");
        opened += 1;
    }
    assert!(opened >= 10, "only {opened} valid bundles");
}

#[test]
fn every_refusal_has_a_golden_bundle() {
    // `io` and `bundle-exchanged` are no properties of a file.
    let codes = "age-header-malformed compression-malformed container-malformed decryption-failed \
                 header-malformed limit-exceeded manifest-malformed manifest-mismatch ok origin-unknown \
                 payload-digest-mismatch recipient-unknown records-malformed release-malformed release-missing \
                 release-wrong signature-wrong \
                 signer-not-valid-now signer-revoked signer-unknown version-unknown";
    let codes: BTreeSet<&str> = codes.split_whitespace().collect();
    let vectors = vectors();
    let named: BTreeSet<&str> =
        vectors.iter().map(|vector| vector.fields["expect"].as_str()).collect();
    assert_eq!(named, codes);
}
