//! Every bit, every length, and members moved about: nothing changed is ever taken.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use shared::keys::ReleasePolicy;
use tests::forge::{Member, Recipe, archive};

use crate::site::{Site, keys};

/// Bundles of several shapes, valid.
fn shapes() -> Vec<(&'static str, Recipe)> {
    let keys = keys();
    let base = || Recipe::new(&keys);
    let mut empty = base();
    (empty.records, empty.span, empty.reason) = (Vec::new(), 0, "heartbeat");
    let mut hybrid = base();
    hybrid.recipients = vec![keys.recipient("identity-hybrid")];
    let mut two = base();
    two.recipients.push(keys.recipient("escrow"));
    let mut lossy = base();
    (lossy.span, lossy.lane) = (5, "flash");
    lossy.losses = vec!["buffer-damaged - 2 1 2 14 15".to_owned()];
    vec![
        ("three records", base()),
        ("heartbeat", empty),
        ("hybrid", hybrid),
        ("two recipients", two),
        ("losses", lossy),
        ("released", base().released_by(&keys, &["officer-alice", "officer-bob"])),
    ]
}

/// How many cases were refused, by code.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Opens the bundle under test, which must be refused.
    fn refused(&mut self, site: &Site, what: impl FnOnce() -> String) {
        match site.open() {
            Ok(_) => panic!("accepted: {}", what()),
            Err(refusal) => *self.0.entry(refusal.code()).or_default() += 1,
        }
    }

    fn cases(&self) -> u64 {
        self.0.values().sum()
    }
}

#[test]
fn nothing_that_was_changed_is_taken() {
    let threads: Vec<_> =
        shapes().into_iter().map(|(name, recipe)| (name, recipe.forge())).collect();
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let run = |(name, bytes): &(&'static str, Vec<u8>)| tamper(name, bytes);
        let handles: Vec<_> = threads.iter().map(|shape| scope.spawn(move || run(shape))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let mut total = Tally::default();
    for (code, count) in tallies.iter().flat_map(|tally| &tally.0) {
        *total.0.entry(code).or_default() += count;
    }
    println!("{} cases, 0 accepted: {:?}", total.cases(), total.0);
    assert!(total.cases() >= 100_000, "only {} cases", total.cases());
    // What an outsider can do to a file is found before the age library sees a byte of it.
    let early = [
        "container-malformed",
        "header-malformed",
        "origin-unknown",
        "payload-digest-mismatch",
        "release-malformed",
        "release-missing",
        "release-wrong",
        "signature-wrong",
        "signer-unknown",
        "version-unknown",
    ];
    let late: Vec<_> = total.0.keys().filter(|code| !early.contains(code)).collect();
    assert!(late.is_empty(), "found only after decryption began: {late:?}");
}

fn tamper(name: &str, bytes: &[u8]) -> Tally {
    let (mut site, mut tally) = (Site::new(), Tally::default());
    if name == "released" {
        // Without its release the bundle is as good as before; who wants one has to demand it.
        let policy = ReleasePolicy { required: 2, rules: Vec::new() };
        site.trust = site.trust.clone().demanding(policy);
    }
    assert_eq!(site.code(bytes), "ok", "{name}");

    for at in 0..bytes.len() {
        for bit in 0..8 {
            site.file.write_all_at(&[bytes[at] ^ 1 << bit], at as u64).unwrap();
            tally.refused(&site, || format!("{name}: bit {bit} of byte {at} flipped"));
        }
        site.file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert_eq!(site.open().map(|_| ()).ok(), Some(()), "{name} as it was");

    for length in (0..bytes.len()).rev() {
        site.file.set_len(length as u64).unwrap();
        tally.refused(&site, || format!("{name}: cut to {length} bytes"));
    }
    for fill in [0, b'\n', b'x', 0xFF] {
        site.put(bytes);
        for more in 1..=1024 {
            site.file.write_all_at(&[fill], (bytes.len() + more - 1) as u64).unwrap();
            tally.refused(&site, || format!("{name}: {more} bytes of {fill} appended"));
        }
    }
    for (what, changed) in [
        ("itself", [bytes, bytes].concat()),
        (
            "a gzip member",
            [bytes, &[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
        ),
        ("a block before", [&[0; 512], bytes].concat()),
        ("another trailer", [bytes, &[0; 1024]].concat()),
    ] {
        site.put(&changed);
        tally.refused(&site, || format!("{name}: {what} added"));
    }
    moved_members(name, bytes, &site, &mut tally);
    tally
}

/// Members swapped, repeated, left out, added, and mixed with another bundle's.
fn moved_members(name: &str, bytes: &[u8], site: &Site, tally: &mut Tally) {
    let mut recipe = Recipe::new(&keys());
    recipe.number = 3;
    let (ours, theirs) = (members(bytes), members(&recipe.forge()));
    let extra = Member::new("note", b"x".to_vec());
    let all: Vec<&Member> = ours.iter().chain(&theirs).chain([&extra]).collect();
    let good: Vec<usize> = vec![0, 1, 2];
    let their_good = vec![3, 4, 5];
    for length in 0..=4_usize {
        for code in 0..all.len().pow(length as u32) {
            let order: Vec<usize> =
                (0..length as u32).map(|digit| code / all.len().pow(digit) % all.len()).collect();
            if order == good || order == their_good {
                continue;
            }
            let chosen: Vec<Member> = order.iter().map(|at| all[*at].clone()).collect();
            site.put(&archive(&chosen));
            tally.refused(site, || format!("{name}: members {order:?}"));
        }
    }
}

fn members(bytes: &[u8]) -> Vec<Member> {
    let (mut at, mut members) = (0, Vec::new());
    while bytes[at] != 0 {
        let digits = std::str::from_utf8(&bytes[at + 124..at + 135]).unwrap();
        let size = usize::from_str_radix(digits, 8).unwrap();
        members.push(Member {
            block: bytes[at..at + 512].to_vec(),
            content: bytes[at + 512..at + 512 + size].to_vec(),
        });
        at += 512 + size.next_multiple_of(512);
    }
    members
}
