//! Signers that are not believed, and signatures that are not theirs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tests::forge::{Layer, armor, fingerprint};

use super::Cases;

const CODE: &str = "signature-wrong";

pub(crate) fn add(cases: &mut Cases) {
    signers(cases);
    armors(cases);
    let layer = Layer::Signature;

    let mut recipe = cases.base();
    recipe.namespace = "file";
    cases.add("signature-namespace", CODE, "4", "A signature for files in general.", recipe);
    let mut recipe = cases.base();
    recipe.namespace = "penstock-bundle@v2";
    cases.add("signature-namespace-v2", CODE, "4", "A signature for another version.", recipe);
    let mut recipe = cases.base();
    recipe.hash = "sha256";
    cases.add("signature-sha256", CODE, "4", "The weaker hash.", recipe);
    for (name, version) in [("signature-version-0", 0), ("signature-version-2", 2)] {
        let mut recipe = cases.base();
        recipe.sshsig_version = version;
        cases.add(name, CODE, "4", "The version stands outside of what an SSHSIG signs.", recipe);
    }
    let mut recipe = cases.base();
    recipe.reserved = b"note".to_vec();
    cases.add("signature-reserved", CODE, "4", "Something stands in the field that is reserved, and is signed.", recipe);

    let mut recipe = cases.base();
    recipe.signer = cases.keys.signer("stranger");
    cases.add("signature-by-another-key", CODE, "4", "The signature carries another key than the header names.", recipe);
    let mut recipe = cases.base();
    recipe.signer = cases.keys.signer("stranger");
    let public = |key: &ssh_key::PrivateKey| key.public_key().to_bytes().expect("a key encodes");
    let (theirs, ours) = (public(&recipe.signer), public(&cases.keys.signer("signing")));
    let recipe = recipe.edit(layer, move |pem| {
        let mut blob = unarmor(&pem);
        let at = memchr::memmem::find(&blob, &theirs).expect("the key is in the signature");
        blob[at..at + ours.len()].copy_from_slice(&ours);
        armor(&blob, 70)
    });
    cases.add("signature-key-exchanged", CODE, "4", "The right key stands beside another key's signature.", recipe);
    let donor = {
        let mut donor = cases.base();
        donor.number = 3;
        let file = donor.forge();
        let begin = memchr::memmem::find(&file, b"-----BEGIN").expect("a signature begins");
        let end = memchr::memmem::find(&file, b"SIGNATURE-----\n\0").expect("a signature ends");
        file[begin..end + 15].to_vec()
    };
    let recipe = cases.base().edit(layer, move |_| donor.clone());
    cases.add("signature-of-another-bundle", CODE, "4", "The signature of another header.", recipe);
    let recipe = cases.base().edit(layer, |pem| {
        let mut blob = unarmor(&pem);
        let scalar = blob.len() - 32;
        add_group_order(&mut blob[scalar..]);
        armor(&blob, 70)
    });
    cases.add("signature-scalar-too-large", CODE, "4", "The second half of the Ed25519 signature is not reduced.", recipe);
    let recipe = cases.base().edit(layer, |pem| {
        let mut blob = unarmor(&pem);
        blob.push(0);
        armor(&blob, 70)
    });
    cases.add("signature-trailing-byte", CODE, "4", "A byte follows the signature inside the armor.", recipe);
}

fn signers(cases: &mut Cases) {
    let mut recipe = cases.base();
    recipe.origin = String::from("plant-9");
    cases.add("origin-unknown", "origin-unknown", "4", "Nobody is believed for this origin.", recipe);
    for (name, expect, comment, key) in [
        ("signer-unknown", "signer-unknown", "A key that nobody knows.", "stranger"),
        ("signer-of-another-origin", "signer-unknown", "A key that is believed for another origin.", "plant-8"),
        ("signer-expired", "signer-not-valid-now", "The key's time is over.", "expired"),
        ("signer-not-yet-valid", "signer-not-valid-now", "The key's time has not begun.", "future"),
        ("signer-revoked", "signer-revoked", "The key was revoked.", "revoked"),
    ] {
        let key = cases.keys.signer(key);
        let recipe = cases.base().signed_by(key);
        cases.add(name, expect, "4", comment, recipe);
    }
    let mut recipe = cases.base();
    recipe.signer_name = fingerprint(&cases.keys.signer("stranger"));
    cases.add("signer-name-unknown", "signer-unknown", "4", "The header names a key that nobody knows; the signature is a good key's.", recipe);
}

/// Forms of the armor that other readers take.
fn armors(cases: &mut Cases) {
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let table: [(&str, &str, Change); 12] = [
        ("armor-lines-of-64", "Lines have 64 characters.", |pem| armor(&unarmor(&pem), 64)),
        ("armor-lines-of-76", "Lines have 76 characters, as OpenSSH writes them for other things.", |pem| armor(&unarmor(&pem), 76)),
        ("armor-one-line", "Everything stands in one line.", |pem| armor(&unarmor(&pem), 1000)),
        ("armor-crlf", "Lines end with CR LF.", |pem| String::from_utf8_lossy(&pem).replace('\n', "\r\n").into_bytes()),
        ("armor-no-final-line-feed", "The last line does not end.", |mut pem| {
            pem.pop();
            pem
        }),
        ("armor-empty-line-before", "An empty line comes first.", |pem| [b"\n".to_vec(), pem].concat()),
        ("armor-empty-line-after", "An empty line follows.", |pem| [pem, b"\n".to_vec()].concat()),
        ("armor-text-before", "A line of text comes first.", |pem| [b"signed by me\n".to_vec(), pem].concat()),
        ("armor-text-after", "A line of text follows.", |pem| [pem, b"bye\n".to_vec()].concat()),
        ("armor-other-label", "The label is another.", |pem| String::from_utf8_lossy(&pem).replace("SSH SIGNATURE", "PGP SIGNATURE").into_bytes()),
        ("armor-not-base64", "The armor holds something else than base64.", |mut pem| {
            pem[40] = b'!';
            pem
        }),
        ("armor-binary", "The signature has no armor.", |pem| unarmor(&pem)),
    ];
    for (name, comment, change) in table {
        let recipe = cases.base().edit(Layer::Signature, change);
        cases.add(name, CODE, "4", comment, recipe);
    }
}

fn unarmor(pem: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(pem);
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).expect("the armor is base64")
}

/// Adds the order of Ed25519's group to a little-endian number (RFC 8032 section 5.1).
fn add_group_order(scalar: &mut [u8]) {
    let mut order = [0_u8; 32];
    order[..16].copy_from_slice(&[0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14]);
    order[31] = 0x10;
    let mut carry = 0;
    for (digit, add) in scalar.iter_mut().zip(order) {
        let sum = u16::from(*digit) + u16::from(add) + carry;
        *digit = sum as u8;
        carry = sum >> 8;
    }
}
