//! Bundles that open.

use std::fmt::Write as _;

use shared::keys::PublicKey;
use tests::forge::{Gone, Layer, Rec, Recipe, hex, raw_frame};

use super::Cases;

pub(crate) fn add(cases: &mut Cases) {
    let base = cases.base();
    cases.add("valid-three-records", "ok", "3", "Three records of two streams.", base);

    let mut empty = cases.base();
    (empty.records, empty.span, empty.reason) = (Vec::new(), 0, "heartbeat");
    cases.add("valid-heartbeat", "ok", "5", "No record: the bundle says so.", empty);

    let mut first = cases.base();
    (first.number, first.previous, first.first, first.span) = (1, "0".repeat(64), 1, 1);
    first.records.truncate(1);
    first.records[0].sequence = 1;
    cases.add("valid-first-of-its-chain", "ok", "3", "Number 1 names no predecessor.", first);

    let mut flash = cases.base();
    flash.lane = "flash";
    cases.add("valid-flash", "ok", "1", "The urgent lane.", flash);

    let many = many(cases.base());
    cases.add(
        "valid-losses-and-cuts",
        "ok",
        "5",
        "Every stream, cut records, certificates, and losses with and without numbers: at the start, inside and at the end.",
        many,
    );

    let mut lost = cases.base();
    (lost.records, lost.losses) = (Vec::new(), vec!["buffer-damaged - 3 5 5 11 13".to_owned()]);
    cases.add("valid-all-lost", "ok", "5", "Every record was damaged in the buffer.", lost);

    cases.add("valid-suppressed", "ok", "6", "Suppressed records before, between and behind the others, of two rules.", suppressed(cases.base()));

    let mut all = suppressed(cases.base());
    all.records.clear();
    all.losses.clear();
    all.suppressed.retain(|gone| gone.sequence < 13);
    (all.first, all.span) = (11, 2);
    cases.add("valid-all-suppressed", "ok", "5", "No record is left: each has its line and its time.", all);

    let mut noted = cases.base();
    noted.records[0].tail = "relay 10.0.0.7:1 tls=x tag=kube.audit recovered cut=99 redacted=secret-keys:/a%20b";
    noted.records[1].tail = "portainer-api portainer.example recovered";
    noted.records[2].tail = "relay 10.0.0.7:1 tag=-";
    cases.add("valid-notes", "ok", "6", "A tag, what was asked for, and what was redacted.", noted);

    let mut odd = cases.base();
    odd.records[0].raw.clear();
    odd.records[1].raw = b"r 13 1 other 0 a b\n\n".to_vec();
    odd.records[2].raw = (0..=255).collect();
    (odd.records[1].tail, odd.records[2].tail) = ("- %2D", "caf%C3%A9 %25%20%0A");
    cases.add("valid-odd-bytes", "ok", "6", "An empty message, one that looks like a record, every byte, and odd tokens.", odd);

    let mut longest = cases.base();
    longest.epoch = u64::MAX;
    longest.number = u64::MAX;
    cases.add("valid-greatest-numbers", "ok", "3", "Epoch and number are the greatest there are.", longest);

    let mut hybrid = cases.base();
    hybrid.recipients = vec![cases.keys.recipient("identity-hybrid")];
    cases.add("valid-hybrid", "ok", "5", "For a hybrid post-quantum recipient.", hybrid);

    let mut two = cases.base();
    two.recipients.push(cases.keys.recipient("escrow"));
    cases.add("valid-two-recipients", "ok", "5", "For us and an escrow key.", two);

    let fifteen = with_recipients(cases.base(), 15);
    cases.add("valid-fifteen-recipients", "ok", "3", "As many recipients as there may be.", fifteen);

    let plain = without_grease(cases.base());
    cases.add("valid-without-grease", "ok", "5", "The grease stanza is optional.", plain);

    let mut raw = cases.base();
    raw.compress = |plain| raw_frame(&[&[0xC0, 13 << 3][..], &(plain.len() as u64).to_le_bytes()].concat(), plain);
    cases.add("valid-window-8-mib", "ok", "5", "The largest window, raw blocks, and a content size of eight bytes.", raw);
}

/// 11, 12, 14 and 18 suppressed; 13, 15 and 17 kept; 16 lost.
pub(crate) fn suppressed(mut recipe: Recipe) -> Recipe {
    let gone = |sequence, stream, rule| Gone { sequence, received: 1_795_468_000_000_000_000 + sequence, stream, length: 900 + sequence, rule };
    recipe.suppressed = vec![
        gone(11, "kube-audit", "leases"),
        gone(12, "kube-audit", "health-checks"),
        gone(14, "other", "leases"),
        gone(18, "kube-audit", "leases"),
    ];
    for (record, sequence) in recipe.records.iter_mut().zip([13, 15, 17]) {
        record.sequence = sequence;
    }
    recipe.losses = vec!["buffer-damaged - 1 1 1 16 16".to_owned()];
    recipe.span = 8;
    recipe
}

fn many(mut recipe: Recipe) -> Recipe {
    let streams = ["falco", "kube-audit", "other", "portainer-activity", "portainer-auth"];
    (recipe.first, recipe.span) = (1, 60);
    recipe.losses = vec![
        "udp-receive-queue udp 12 1795468219000000000 1795468220000000000".to_owned(),
        "buffer-damaged - 2 1795468219000000000 1795468219000000000 1 2".to_owned(),
        "buffer-damaged - 5 1795468219000000000 1795468219000000000 20 24".to_owned(),
        "buffer-damaged - 1 1795468219000000000 1795468219000000000 25 25".to_owned(),
        "udp-receive-queue - 1 0 0".to_owned(),
        "buffer-damaged - 1 1795468219000000000 1795468219000000000 60 60".to_owned(),
    ];
    let present = (3..20).chain(26..60);
    let record = |sequence: u64| {
        let mut raw = String::new();
        let _ = write!(raw, "<134>1 - edge-{} app - - - message {sequence}", sequence % 3);
        Rec {
            sequence,
            // Times may go backwards: order is by number.
            received: 1_795_468_219_000_000_000 + sequence * 7919 % 1000,
            stream: streams[sequence as usize % 5],
            tail: match sequence % 4 {
                0 => "tcp [2001:db8::7]:514",
                1 => "tls 10.0.0.7:1 tls=CN=edge%201",
                2 => "tls 10.0.0.7:2 tls=CN=edge%201 cut=1048577",
                _ => "udp 10.0.0.8:514 cut=70000",
            },
            raw: raw.into_bytes(),
        }
    };
    recipe.records = present.map(record).collect();
    recipe
}

/// Encrypts to this many keys, one of them ours, without a grease stanza.
pub(crate) fn with_recipients(mut recipe: Recipe, count: usize) -> Recipe {
    let fresh = || PublicKey::X25519(age::x25519::Identity::generate().to_public());
    recipe.recipients.resize_with(count, fresh);
    without_grease(recipe)
}

/// Drops the stanza that the age library adds at random.
pub(crate) fn without_grease(recipe: Recipe) -> Recipe {
    recipe.edit(Layer::AgeHeader, |head| {
        let text = String::from_utf8(head).expect("an age header is ASCII");
        let (grease, _) = text
            .match_indices("\n-> ")
            .find(|(at, _)| {
                let kind = text[at + 4..].split([' ', '\n']).next();
                kind.is_some_and(|kind| kind.ends_with("-grease"))
            })
            .expect("the age library adds grease");
        format!("{}\n---", &text[..grease]).into_bytes()
    })
}

/// A line that no key of ours made: 32 bytes of share and a sealed file key, in hexadecimal's digits.
pub(crate) fn stanza(kind: &str) -> String {
    let share = hex(&[7; 32]);
    format!("-> {kind} {}\n{}\n", &share[..43], &share[..43])
}
