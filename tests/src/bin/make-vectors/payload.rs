//! Payloads whose age file or zstd frame is not as it must be; digest and signature fit them.

use std::io::Write as _;

use tests::forge::{Layer, Recipe, bomb, frame, key_id, raw_frame};

use super::Cases;
use super::valid::{stanza, with_recipients};

const AGE: &str = "age-header-malformed";
const ZSTD: &str = "compression-malformed";

pub(crate) fn add(cases: &mut Cases) {
    age_headers(cases);
    age_bodies(cases);
    frame_headers(cases);
    frames(cases);
    bombs(cases);
}

fn age_headers(cases: &mut Cases) {
    let head = |recipe: Recipe, edit: fn(String) -> String| {
        recipe.edit(Layer::AgeHeader, move |bytes| edit(String::from_utf8(bytes).expect("an age header is ASCII")).into_bytes())
    };
    fn insert(text: &str, stanzas: &str) -> String {
        text.replacen("\n-> ", &format!("\n{stanzas}-> "), 1)
    }
    let table: [(&str, &str, fn(String) -> String); 15] = [
        ("age-version-2", "Another version of age.", |text| text.replace("/v1", "/v2")),
        ("age-crlf", "The first line ends with CR LF.", |text| text.replacen('\n', "\r\n", 1)),
        ("age-extra-recipient", "There is a stanza for a recipient that the header does not name.", |text| insert(&text, &stanza("X25519"))),
        ("age-no-stanza", "There is no stanza at all.", |_| "age-encryption.org/v1\n---".to_owned()),
        ("age-scrypt-stanza", "There is a stanza for a passphrase.", |text| insert(&text, &stanza("scrypt"))),
        ("age-scrypt-only", "The payload is for a passphrase.", |_| {
            "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 22\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n---".to_owned()
        }),
        ("age-ssh-stanza", "There is a stanza of a kind that no header can name.", |text| insert(&text, &stanza("ssh-ed25519"))),
        ("age-plugin-stanza", "There is a stanza for a plugin.", |text| insert(&text, &stanza("yubikey"))),
        ("age-hybrid-stanza", "There is a hybrid stanza that the header does not name.", |text| insert(&text, &stanza("mlkem768x25519"))),
        ("age-two-grease", "There are two grease stanzas.", |text| insert(&text, "-> x-grease\n\n")),
        ("age-seventeen-stanzas", "There are more than 16 stanzas.", |text| insert(&text, &"-> x-grease\n\n".repeat(15))),
        ("age-stanza-without-body", "The stanza has no body.", |text| {
            let lines: Vec<&str> = text.split('\n').collect();
            [&lines[..2], &lines[3..]].concat().join("\n")
        }),
        ("age-share-of-zeros", "The stanza's share is a point that contributes nothing.", |text| {
            let at = text.find("-> X25519 ").expect("there is a stanza") + 10;
            format!("{}{}{}", &text[..at], "A".repeat(43), &text[at + 43..])
        }),
        ("age-stanza-kind-case", "The stanza's kind is in lower case.", |text| text.replacen("-> X25519", "-> x25519", 1)),
        ("age-share-too-short", "The stanza's share is too short.", |text| {
            let at = text.find("-> X25519 ").expect("there is a stanza") + 10;
            format!("{}{}", &text[..at], &text[at + 1..])
        }),
    ];
    for (name, comment, edit) in table {
        let recipe = head(cases.base(), edit);
        cases.add(name, AGE, "5", comment, recipe);
    }

    let recipe = cases.base().edit(Layer::Age, |age| armored(&age));
    cases.add("age-armored", AGE, "5", "The age file is armored.", recipe);
    let recipe = cases.base().edit(Layer::Age, |_| b"no age file\n".to_vec());
    cases.add("age-no-age-file", AGE, "5", "The payload is no age file.", recipe);
    let recipe = cases.base().edit(Layer::Age, |mut age| {
        let dashes = memchr::memmem::find(&age, b"\n--- ").expect("an age header ends");
        age.truncate(dashes + 1);
        age
    });
    cases.add("age-header-cut", AGE, "5", "The payload ends inside the age header.", recipe);

    let escrow = key_id(&cases.keys.recipient("escrow"));
    let mut second = [key_id(&cases.keys.recipient("identity")), escrow];
    second.sort();
    let lines = second.map(|name| format!("recipient {name}\n")).concat();
    let one = format!("recipient {}\n", key_id(&cases.keys.recipient("identity")));
    let recipe = cases.base().replace(Layer::Header, &one, lines);
    cases.add("age-recipient-missing", AGE, "5", "The header names a recipient that has no stanza.", recipe);
    let recipe = cases.base().replace(Layer::Header, "x25519:", "mlkem768x25519:");
    cases.add("age-recipient-of-another-kind", AGE, "5", "The header names a hybrid recipient, the stanza is X25519.", recipe);
    for (name, comment, share) in [
        ("age-hybrid-share-of-zeros", "The hybrid stanza's X25519 share contributes nothing.", "A".repeat(44)),
        ("age-hybrid-share-too-short", "The hybrid stanza's share is too short.", "A".repeat(40)),
    ] {
        let mut recipe = cases.base();
        recipe.recipients = vec![cases.keys.recipient("identity-hybrid")];
        let recipe = recipe.edit(Layer::AgeHeader, move |bytes| {
            let text = String::from_utf8(bytes).expect("an age header is ASCII");
            let start = text.find("-> mlkem768x25519 ").expect("there is a stanza");
            let end = text[start..].find('\n').expect("its line ends") + start;
            format!("{}{share}{}", &text[..end - 44], &text[end..]).into_bytes()
        });
        cases.add(name, AGE, "5", comment, recipe);
    }
    let mut recipe = cases.base();
    recipe.recipients.push(cases.keys.recipient("identity-hybrid"));
    cases.add("age-kinds-mixed", AGE, "5", "Recipients of both kinds; a classic one undoes the hybrid ones.", recipe);
    let recipe = with_recipients(cases.base(), 15).edit(Layer::AgeHeader, |head| {
        let text = String::from_utf8(head).expect("an age header is ASCII");
        insert(&text, &stanza("X25519")).into_bytes()
    });
    cases.add("age-sixteen-recipients", AGE, "5", "Sixteen recipients, of which the header names fifteen.", recipe);

    let mut recipe = cases.base();
    recipe.recipients = vec![cases.keys.recipient("stranger-identity")];
    cases.add("recipient-unknown", "recipient-unknown", "5", "The bundle is for somebody else.", recipe);
    let mut recipe = cases.base();
    recipe.recipients = vec![cases.keys.recipient("escrow"), cases.keys.recipient("stranger-identity")];
    cases.add("recipients-unknown", "recipient-unknown", "5", "The bundle is for two others.", recipe);
}

fn age_bodies(cases: &mut Cases) {
    fn body(age: &[u8]) -> usize {
        let dashes = memchr::memmem::find(age, b"\n--- ").expect("an age header ends");
        dashes + 5 + 43 + 1
    }
    let table: [(&str, &str, fn(Vec<u8>) -> Vec<u8>); 8] = [
        ("age-mac-wrong", "The age header's MAC does not fit.", |mut age| {
            let at = body(&age) - 10;
            age[at] = if age[at] == b'A' { b'B' } else { b'A' };
            age
        }),
        ("age-body-missing", "Nothing follows the age header.", |mut age| {
            age.truncate(body(&age));
            age
        }),
        ("age-nonce-cut", "The payload ends inside the nonce.", |mut age| {
            age.truncate(body(&age) + 8);
            age
        }),
        ("age-chunks-missing", "Nothing follows the nonce.", |mut age| {
            age.truncate(body(&age) + 16);
            age
        }),
        ("age-chunk-cut", "The last chunk is not whole.", |mut age| {
            age.truncate(age.len() - 10);
            age
        }),
        ("age-chunk-changed", "A bit of the last chunk is another.", |mut age| {
            *age.last_mut().expect("a payload has bytes") ^= 1;
            age
        }),
        ("age-nonce-changed", "A bit of the nonce is another.", |mut age| {
            let at = body(&age);
            age[at] ^= 1;
            age
        }),
        ("age-trailing-byte", "A byte follows the last chunk.", |age| [age, vec![0]].concat()),
    ];
    for (name, comment, edit) in table {
        let recipe = cases.base().edit(Layer::Age, edit);
        cases.add(name, "decryption-failed", "5", comment, recipe);
    }
}

fn frame_headers(cases: &mut Cases) {
    fn with(descriptor: u8, rest: &[u8], plain: &[u8]) -> Vec<u8> {
        raw_frame(&[&[descriptor][..], rest].concat(), plain)
    }
    fn sized(plain: &[u8]) -> [u8; 8] {
        (plain.len() as u64).to_le_bytes()
    }
    type Compress = fn(&[u8]) -> Vec<u8>;
    let table: [(&str, &str, &str, Compress); 11] = [
        ("zstd-checksum", ZSTD, "The frame has a checksum, which age makes needless.", |plain| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("level 3 exists");
            encoder.include_checksum(true).expect("nothing was written yet");
            encoder.set_pledged_src_size(Some(plain.len() as u64)).expect("nothing was written yet");
            encoder.write_all(plain).expect("a vector takes it all");
            encoder.finish().expect("a vector takes it all")
        }),
        ("zstd-no-content-size", ZSTD, "The frame does not say how much it holds.", |plain| with(0, &[7 << 3], plain)),
        ("zstd-dictionary", ZSTD, "The frame needs a dictionary.", |plain| with(0xC1, &[&[7 << 3, 5][..], &sized(plain)].concat(), plain)),
        ("zstd-dictionary-zero", ZSTD, "The frame has a field for a dictionary, and says none.", |plain| {
            with(0xC3, &[&[7 << 3, 0, 0, 0, 0][..], &sized(plain)].concat(), plain)
        }),
        ("zstd-reserved-bit", ZSTD, "The reserved bit is set.", |plain| with(0xC8, &[&[7 << 3][..], &sized(plain)].concat(), plain)),
        ("zstd-unused-bit", ZSTD, "The unused bit is set, which other readers pass over.", |plain| with(0xD0, &[&[7 << 3][..], &sized(plain)].concat(), plain)),
        ("zstd-window-9-mib", "limit-exceeded", "The window is one step larger than 8 MiB.", |plain| with(0xC0, &[&[13 << 3 | 1][..], &sized(plain)].concat(), plain)),
        ("zstd-window-2-gib", "limit-exceeded", "The window is 2 GiB.", |plain| with(0xC0, &[&[21 << 3][..], &sized(plain)].concat(), plain)),
        ("zstd-window-largest", "limit-exceeded", "The window is the largest that can be said.", |plain| with(0xC0, &[&[0xFF][..], &sized(plain)].concat(), plain)),
        ("zstd-single-segment-too-large", "limit-exceeded", "A single segment of 8 MiB + 1, which is its window.", |plain| {
            with(0xA0, &((8 << 20) + 1_u32).to_le_bytes(), plain)
        }),
        ("zstd-header-cut", ZSTD, "The frame ends in its header.", |_| vec![0x28, 0xB5, 0x2F, 0xFD, 0xC0, 0x38, 1]),
    ];
    for (name, expect, comment, compress) in table {
        let mut recipe = cases.base();
        recipe.compress = compress;
        cases.add(name, expect, "5", comment, recipe);
    }
}

fn frames(cases: &mut Cases) {
    const SKIPPABLE: [u8; 12] = [0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, b'n', b'o', b't', b'e'];
    type Compress = fn(&[u8]) -> Vec<u8>;
    let table: [(&str, &str, &str, Compress); 15] = [
        ("zstd-two-frames", "manifest-mismatch", "The records are split over two frames; the first announces too little.", |plain| {
            let half = plain.len() - 10;
            [frame(&plain[..half]), frame(&plain[half..])].concat()
        }),
        ("zstd-second-frame", ZSTD, "A second frame follows.", |plain| [frame(plain), frame(b"more")].concat()),
        ("zstd-empty-frame-after", ZSTD, "A frame of nothing follows.", |plain| [frame(plain), frame(b"")].concat()),
        ("zstd-skippable-before", ZSTD, "A skippable frame comes first.", |plain| [SKIPPABLE.to_vec(), frame(plain)].concat()),
        ("zstd-skippable-after", ZSTD, "A skippable frame follows.", |plain| [frame(plain), SKIPPABLE.to_vec()].concat()),
        ("zstd-trailing-byte", ZSTD, "A byte follows the frame.", |plain| [frame(plain), vec![0]].concat()),
        ("zstd-cut", ZSTD, "The frame is not whole.", |plain| {
            let mut frame = raw_frame(&[&[0xC0, 7 << 3][..], &(plain.len() as u64).to_le_bytes()].concat(), plain);
            frame.truncate(frame.len() - 1);
            frame
        }),
        ("zstd-no-last-block", ZSTD, "No block says that it is the last.", |plain| {
            let mut frame = raw_frame(&[&[0xC0, 7 << 3][..], &(plain.len() as u64).to_le_bytes()].concat(), plain);
            frame[14] &= !1;
            frame
        }),
        ("zstd-block-reserved", ZSTD, "A block is of the reserved type.", |plain| {
            let mut frame = raw_frame(&[&[0xC0, 7 << 3][..], &(plain.len() as u64).to_le_bytes()].concat(), plain);
            frame[14] |= 3 << 1;
            frame
        }),
        ("zstd-nothing", ZSTD, "There is nothing inside the encryption.", |_| Vec::new()),
        ("zstd-not-compressed", ZSTD, "The plaintext is not compressed.", <[u8]>::to_vec),
        ("zstd-gzip", ZSTD, "The plaintext claims to be gzip.", |plain| [&[0x1F, 0x8B, 8, 0][..], plain].concat()),
        ("zstd-frame-of-nothing", "manifest-malformed", "The frame holds nothing.", |_| frame(b"")),
        ("zstd-announces-less", ZSTD, "The frame announces one byte less than it holds.", |plain| announced(plain, -1)),
        ("zstd-announces-more", ZSTD, "The frame announces one byte more than it holds.", |plain| announced(plain, 1)),
    ];
    for (name, expect, comment, compress) in table {
        let mut recipe = cases.base();
        recipe.compress = compress;
        cases.add(name, expect, "5", comment, recipe);
    }

    let mut recipe = grown(cases.base(), 9);
    recipe.compress = |plain| announced(plain, 9);
    cases.add("zstd-ends-early", ZSTD, "5", "Frame and manifest announce nine bytes that never come.", recipe);
    let mut recipe = cases.base();
    recipe.compress = |plain| {
        let more = [plain, &b"r 14 1795468000000000013 other 0 a b\n\n"[..]].concat();
        raw_frame(&[&[0xC0, 7 << 3][..], &(plain.len() as u64).to_le_bytes()].concat(), &more)
    };
    cases.add("zstd-hidden-record", ZSTD, "5", "One more record follows what frame and manifest announce.", recipe);
}

fn bombs(cases: &mut Cases) {
    const MIB_128: u64 = 128 << 20;
    type Compress = fn(&[u8]) -> Vec<u8>;
    let table: [(&str, &str, &str, Compress); 3] = [
        ("bomb-behind-the-records", ZSTD, "128 MiB of zeros follow what frame and manifest announce.", |plain| bomb(plain, MIB_128, plain.len() as u64)),
        ("bomb-announced-by-the-frame", "manifest-mismatch", "The frame announces 128 MiB of zeros that the manifest does not know.", |plain| {
            bomb(plain, MIB_128, plain.len() as u64 + MIB_128)
        }),
        ("bomb-announced-beyond-the-limit", "limit-exceeded", "The frame announces 2^62 bytes.", |plain| bomb(plain, 1 << 20, 1 << 62)),
    ];
    for (name, expect, comment, compress) in table {
        let mut recipe = cases.base();
        recipe.compress = compress;
        cases.add(name, expect, "5", comment, recipe);
    }
    let mut recipe = grown(cases.base(), MIB_128);
    recipe.compress = |plain| bomb(plain, MIB_128, plain.len() as u64 + MIB_128);
    cases.add("bomb-in-the-records", "limit-exceeded", "6", "128 MiB of zeros in place of a record's head line.", recipe);
    let recipe = cases.base().edit(Layer::Plain, |_| vec![b'a'; 4 << 20]);
    cases.add("bomb-in-the-manifest", "limit-exceeded", "5", "A manifest of 4 MiB that does not end.", recipe);
}

/// Lets the manifest announce more bytes of records.
fn grown(recipe: Recipe, more: u64) -> Recipe {
    let bytes = recipe.records_section().len() as u64;
    recipe.replace(Layer::Manifest, format!("records-bytes {bytes}"), format!("records-bytes {}", bytes + more))
}

fn announced(plain: &[u8], more: i64) -> Vec<u8> {
    let size = plain.len() as i64 + more;
    raw_frame(&[&[0xC0, 7 << 3][..], &size.to_le_bytes()].concat(), plain)
}

fn armored(age: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let mut out = b"-----BEGIN AGE ENCRYPTED FILE-----\n".to_vec();
    let text = base64::engine::general_purpose::STANDARD.encode(age);
    for line in text.as_bytes().chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----END AGE ENCRYPTED FILE-----\n");
    out
}
