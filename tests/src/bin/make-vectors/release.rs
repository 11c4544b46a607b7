//! Releases: who let a bundle leave, and what is none.

use tests::forge::{Layer, Member, Recipe, armor};

use super::Cases;

const MALFORMED: &str = "release-malformed";
const WRONG: &str = "release-wrong";
const BOTH: &[&str] = &["officer-alice", "officer-bob"];

pub(crate) fn add(cases: &mut Cases) {
    valid(cases);
    members(cases);
    statements(cases);
    signatures(cases);
    demands(cases);
}

fn released(cases: &Cases, officers: &[&str]) -> Recipe {
    cases.base().released_by(&cases.keys, officers)
}

fn valid(cases: &mut Cases) {
    let one = released(cases, &["officer-alice"]);
    cases.add("valid-released-by-one", "ok", "4.1", "One officer let it leave.", one);
    let two = released(cases, BOTH);
    cases.add("valid-released-by-two", "ok", "4.1", "Two officers let it leave.", two);
    let mut enough = released(cases, BOTH);
    enough.demand = 2;
    cases.add("valid-released-as-demanded", "ok", "4.1", "As many officers as the reader demands.", enough);
    let strangers = released(cases, &["stranger", "expired"]);
    cases.add("valid-released-by-strangers", "ok", "4.1", "Signers whom the reader does not know do not count, and do no harm where no release is demanded.", strangers);
    let mut more = released(cases, &["officer-alice", "officer-revoked", "stranger"]);
    more.demand = 1;
    cases.add("valid-released-by-one-and-others", "ok", "4.1", "One officer counts beside one who was revoked and a stranger.", more);
    let mut most = released(cases, BOTH);
    most.officers.extend((2..8).map(|_| fresh()));
    cases.add("valid-released-by-eight", "ok", "4.1", "As many signatures as there may be.", most);
}

fn members(cases: &mut Cases) {
    type Change = fn(&mut Vec<Member>);
    let table: [(&str, &str, Change); 6] = [
        ("release-without-signatures", "There is a statement and no signature.", |m| drop(m.remove(3))),
        ("release-without-statement", "There are signatures and no statement.", |m| drop(m.remove(2))),
        ("release-members-swapped", "The signatures come before the statement.", |m| m.swap(2, 3)),
        ("release-behind-payload", "The release comes last.", |m| m.rotate_left(2)),
        ("release-empty", "The statement is empty.", |m| m[2] = Member::new("release", Vec::new())),
        ("release-signatures-empty", "There are no signatures in the member.", |m| m[3] = Member::new("release.sig", Vec::new())),
    ];
    for (name, comment, change) in table {
        let mut recipe = released(cases, BOTH);
        recipe.members = Some(change);
        cases.add(name, "container-malformed", "4.1", comment, recipe);
    }
    let long = released(cases, BOTH).edit(Layer::Release, |mut text| {
        text.resize(1025, b'\n');
        text
    });
    cases.add("release-longer-than-1-kib", "container-malformed", "2", "The statement has 1,025 bytes.", long);
    let long = released(cases, BOTH).edit(Layer::Releases, |mut text| {
        text.resize(4097, b'\n');
        text
    });
    cases.add("release-signatures-longer-than-4-kib", "container-malformed", "2", "The signatures have 4,097 bytes.", long);
}

/// Statements that are signed as they are, and are wrong.
fn statements(cases: &mut Cases) {
    for (name, comment, from, to) in [
        ("release-version-2", "A version that nobody knows.", "penstock-release 1", "penstock-release 2"),
        ("release-crlf", "Lines end with CR LF.", "1\n", "1\r\n"),
        ("release-two-spaces", "Two spaces behind a name.", "bundle ", "bundle  "),
        ("release-lines-renamed", "A line has another name.", "summary", "digest"),
    ] {
        let recipe = released(cases, BOTH).replace(Layer::Release, from, to);
        cases.add(name, MALFORMED, "4.1", comment, recipe);
    }
    let recipe = released(cases, BOTH).edit(Layer::Release, |text| [text, b"officer alice\n".to_vec()].concat());
    cases.add("release-line-more", MALFORMED, "4.1", "A line follows.", recipe);
    let recipe = released(cases, BOTH).edit(Layer::Release, |mut text| {
        text.pop();
        text
    });
    cases.add("release-no-final-line-feed", MALFORMED, "4.1", "The last line does not end.", recipe);
    let recipe = released(cases, BOTH).edit(Layer::Release, |text| String::from_utf8_lossy(&text).to_uppercase().into_bytes());
    cases.add("release-upper-case", MALFORMED, "4.1", "Everything is in upper case.", recipe);
    let recipe = released(cases, BOTH).edit(Layer::Release, |text| {
        let mut text = String::from_utf8_lossy(&text).into_owned();
        text.replace_range(26..90, &"ab".repeat(32));
        text.into_bytes()
    });
    cases.add("release-of-another-bundle", WRONG, "4.1", "Well signed, for another bundle.", recipe);
}

fn signatures(cases: &mut Cases) {
    let mut recipe = released(cases, BOTH);
    recipe.release_namespace = "penstock-bundle@v1";
    cases.add("release-namespace-of-bundles", WRONG, "4.1", "Signatures for bundles.", recipe);
    let mut recipe = released(cases, BOTH);
    recipe.release_namespace = "file";
    cases.add("release-namespace-file", WRONG, "4.1", "Signatures for files in general.", recipe);
    // What was signed is another summary than the statement names.
    let mut recipe = released(cases, BOTH);
    recipe.members = Some(|m| {
        let at = m[2].content.len() - 3;
        m[2].content[at] = if m[2].content[at] == b'0' { b'1' } else { b'0' };
    });
    cases.add("release-of-another-summary", WRONG, "4.1", "The officers signed for another summary.", recipe);
    let mut recipe = released(cases, BOTH);
    recipe.officers.extend((2..9).map(|_| fresh()));
    recipe.members = None;
    cases.add("release-nine-signatures", MALFORMED, "4.1", "More signatures than there may be.", recipe);
    let layer = Layer::Releases;
    let recipe = released(cases, &["officer-alice"]).edit(layer, |pem| pem.repeat(2));
    cases.add("release-signer-twice", MALFORMED, "4.1", "The same signature stands there twice.", recipe);
    let recipe = released(cases, BOTH).edit(layer, |pem| {
        let half = second(&pem);
        [&pem[half..], &pem[..half]].concat()
    });
    cases.add("release-signers-unsorted", MALFORMED, "4.1", "The signatures are not in order.", recipe);
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let table: [(&str, &str, Change); 8] = [
        ("release-armor-lines-of-76", "Lines have 76 characters.", |pem| armor(&unarmor(&pem), 76)),
        ("release-armor-one-line", "Everything stands in one line.", |pem| armor(&unarmor(&pem), 1000)),
        ("release-armor-crlf", "Lines end with CR LF.", |pem| String::from_utf8_lossy(&pem).replace('\n', "\r\n").into_bytes()),
        ("release-armor-text-before", "A line of text comes first.", |pem| [b"released by me\n".to_vec(), pem].concat()),
        ("release-armor-text-after", "A line of text follows.", |pem| [pem, b"bye\n".to_vec()].concat()),
        ("release-armor-empty-line-after", "An empty line follows.", |pem| [pem, b"\n".to_vec()].concat()),
        ("release-armor-cut", "The armor does not end.", |mut pem| {
            pem.truncate(pem.len() - 8);
            pem
        }),
        ("release-armor-trailing-byte", "A byte follows the signature inside the armor.", |pem| {
            let mut blob = unarmor(&pem);
            blob.push(0);
            armor(&blob, 70)
        }),
    ];
    for (name, comment, change) in table {
        let recipe = released(cases, &["officer-alice"]).edit(layer, change);
        cases.add(name, MALFORMED, "4.1", comment, recipe);
    }
    let recipe = released(cases, &["officer-alice"]).edit(layer, |pem| {
        let mut blob = unarmor(&pem);
        let at = blob.len() - 40;
        blob[at] ^= 1;
        armor(&blob, 70)
    });
    cases.add("release-signature-changed", WRONG, "4.1", "A bit of the signature was changed.", recipe);
}

fn demands(cases: &mut Cases) {
    for (name, comment, officers, demand) in [
        ("release-missing", "Nobody let it leave, and one officer is demanded.", &[][..], 1),
        ("release-by-too-few", "One officer let it leave, and two are demanded.", &["officer-alice"], 2),
        ("release-by-stranger", "Somebody whom the reader does not know let it leave.", &["stranger"], 1),
        ("release-by-revoked-officer", "The officer's key was revoked.", &["officer-revoked"], 1),
        ("release-by-agent", "The key that sealed it let it leave.", &["signing"], 1),
    ] {
        let mut recipe = released(cases, officers);
        recipe.demand = demand;
        cases.add(name, "release-missing", "4.1", comment, recipe);
    }
}

fn fresh() -> ssh_key::PrivateKey {
    let seed = age::x25519::Identity::generate().to_public().to_string();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&seed.as_bytes()[seed.len() - 32..]);
    ssh_key::private::Ed25519Keypair::from_seed(&bytes).into()
}

/// Where the second signature begins.
fn second(pem: &[u8]) -> usize {
    let end = b"-----END SSH SIGNATURE-----\n";
    memchr::memmem::find(pem, end).expect("a signature ends") + end.len()
}

fn unarmor(pem: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = String::from_utf8_lossy(pem);
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD.decode(body).expect("the armor is base64")
}
