//! Bundles that cost their maker little and want to cost their reader much.

use std::time::{Duration, Instant};

use tests::forge::{Layer, Recipe, bomb};

use crate::site::{Site, keys};

/// Far above what any refusal costs, and far below what the age library would take: 10 s for the
/// smallest of these headers.
const PATIENCE: Duration = Duration::from_secs(2);

fn timed(site: &Site, bytes: &[u8], expect: &str, what: &str) {
    site.put(bytes);
    let begin = Instant::now();
    let refusal = site.open().unwrap_err();
    let took = begin.elapsed();
    println!("{what}: {} bytes refused with {} in {took:?}", bytes.len(), refusal.code());
    assert_eq!(refusal.code(), expect, "{what}: {refusal}");
    assert!(took < PATIENCE, "{what}: {took:?}");
}

/// Age headers on which a careless reader spends seconds to minutes.
fn age_bombs() -> Vec<(&'static str, Vec<u8>)> {
    let stanza = format!("-> X25519 {}\n{}\n", "A".repeat(43), "A".repeat(43));
    let many = |count| format!("age-encryption.org/v1\n{}---", stanza.repeat(count)).into_bytes();
    let long = format!("age-encryption.org/v1\n-> X25519 {}\n\n---", "A".repeat(256 << 10));
    let body = format!(
        "age-encryption.org/v1\n-> X25519 A\n{}---",
        format!("{}\n", "A".repeat(64)).repeat(4096)
    );
    vec![
        ("1,000 stanzas", many(1000)),
        ("10,000 stanzas", many(10_000)),
        ("a line of 256 KiB", long.into_bytes()),
        ("a stanza of 256 KiB", body.into_bytes()),
        ("no line feed at all", vec![b'a'; 1 << 20]),
    ]
}

#[test]
fn an_age_header_bomb_is_refused_before_the_age_library_sees_it() {
    let (site, keys) = (Site::new(), keys());
    for (what, head) in age_bombs() {
        let bomb = Recipe::new(&keys).edit(Layer::AgeHeader, move |_| head.clone());
        timed(&site, &bomb.forge(), "age-header-malformed", &format!("signed, {what}"));
        let bomb = bomb.edit(Layer::Signature, |mut signature| {
            let last = signature.len() - 40;
            signature[last..last + 4].copy_from_slice(b"AAAA");
            signature
        });
        timed(&site, &bomb.forge(), "signature-wrong", &format!("not signed, {what}"));
    }
}

#[test]
fn a_zstd_bomb_stops_at_what_was_announced() {
    const GIB: u64 = 1 << 30;
    let (site, keys) = (Site::new(), keys());
    let mut hidden = Recipe::new(&keys);
    hidden.compress = |plain| bomb(plain, GIB, plain.len() as u64);
    let mut mismatch = Recipe::new(&keys);
    mismatch.compress = |plain| bomb(plain, GIB, plain.len() as u64 + GIB);
    let bytes = Recipe::new(&keys).records_section().len() as u64;
    let announced = Recipe::new(&keys).replace(
        Layer::Manifest,
        format!("records-bytes {bytes}"),
        format!("records-bytes {}", bytes + GIB),
    );
    let announced = Recipe { compress: mismatch.compress, ..announced };
    let endless = Recipe {
        compress: |_| bomb(b"penstock-manifest 1\n", GIB, 20 + GIB),
        ..Recipe::new(&keys)
    };
    let before = resident_peak_bytes();
    for (bundle, code, what) in [
        (hidden, "compression-malformed", "1 GiB behind the announced end"),
        (mismatch, "manifest-mismatch", "1 GiB that the manifest does not know"),
        (announced, "limit-exceeded", "1 GiB as one record's head line"),
        (endless, "limit-exceeded", "1 GiB of manifest"),
    ] {
        timed(&site, &bundle.forge(), code, what);
    }
    let grown = resident_peak_bytes().saturating_sub(before);
    println!("zstd bombs raised the peak of resident memory by {} KiB", grown >> 10);
    // The tests beside this one in the same process take some too.
    assert!(grown < 64 << 20, "{grown} bytes");
}

fn resident_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}
