//! The operator's page "Open a bundle by hand", run word for word.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use shared::bundle::{
    BundleDigest, Limits, Manifest, SealReason, StreamCount, VerifiedBundle, open, seal,
};
use shared::clock::Nanos;
use shared::keys::{
    Identities, PublicHalf, Recipients, SigningKey, Trust, Validity, generate_identity,
    generate_signing_key,
};
use shared::record::{self, Epoch, Lane, RecordId, Sequence, SourceTag, Stream};
use tests::forge::{Layer, Member, Recipe, archive};

use crate::site::{NOW, Site, keys};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/doc/open-by-hand.md");

/// Runs a stock tool, which must be there and succeed; gives what it printed.
pub(crate) fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|err| panic!("{program}: {err}; install it"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Seals two records into `bundle.pstk` of a key folder, and opens it.
pub(crate) fn seal_in(dir: &Path, key: &SigningKey, low: PublicHalf) -> VerifiedBundle {
    let source = SourceTag::new("tls", "10.0.0.7:41234", Some("CN=edge 1"));
    let raws: [&[u8]; 2] = [b"<13>hello\n\nr 2 1 other 0 a b", b"bytes \x00\xff\n"];
    let mut records = Vec::new();
    for (number, raw) in (1..).zip(raws) {
        let received = Nanos(1000).plus(std::time::Duration::from_nanos(number));
        record::encode(&mut records, Sequence(number), received, Stream::Other, &source, None, raw);
    }
    let manifest = Manifest {
        origin: "plant-7".parse().unwrap(),
        epoch: Epoch(1_795_468_219),
        lane: Lane::Routine,
        number: 1,
        previous: BundleDigest::ZERO,
        agent: "penstock-high/0.1.0".to_owned(),
        sealed_at: NOW,
        reason: SealReason::Requested,
        records: 2,
        first_sequence: Sequence(1),
        last_sequence: Sequence(2),
        records_bytes: records.len() as u64,
        oldest: Some(Nanos(1001)),
        newest: Some(Nanos(1002)),
        chain_before: BundleDigest::ZERO,
        chain_head: BundleDigest::of(b"head"),
        streams: vec![StreamCount {
            stream: Stream::Other,
            records: 2,
            bytes: raws.iter().map(|raw| raw.len() as u64).sum(),
        }],
        suppressed: Vec::new(),
        losses: Vec::new(),
    };
    let recipients = Recipients::new(vec![low]).unwrap();
    let file = shared::durable::create(&dir.join("bundle.pstk"), 0o600).unwrap();
    seal(&manifest, key, &recipients, 3, &file, |out| out.write_all(&records)).unwrap();
    fs::write(dir.join("expected-records"), &records).unwrap();
    fs::write(dir.join("expected-manifest"), manifest.encode()).unwrap();
    let trust = Trust::load_dir(dir).unwrap();
    let identities = Identities::load_dir(dir).unwrap();
    open(&file, &trust, &identities, &Limits::default(), NOW).unwrap()
}

/// The commands of the page, in order.
fn commands() -> String {
    let page = fs::read_to_string(PAGE).unwrap();
    let mut script = String::from("set -eu\nset -o pipefail\nexport LC_ALL=C\n");
    let mut inside = false;
    for line in page.lines() {
        if line == "```sh" || line == "```" {
            assert_ne!(line == "```sh", inside, "blocks of commands are not nested");
            inside = !inside;
        } else if inside {
            script.push_str(line);
            script.push('\n');
        }
    }
    script
}

fn by_hand(dir: &Path) -> Output {
    let shell = Command::new("bash").args(["-c", &commands()]).current_dir(dir).output();
    shell.expect("bash is there")
}

#[test]
fn the_page_opens_a_bundle_with_stock_tools() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let key = generate_signing_key(&at("signing.key")).unwrap();
    let low = generate_identity(&at("identity.key"), "soc-1", false).unwrap();
    Trust::add(dir.path(), &key.public_half("plant-7"), Validity::default()).unwrap();
    fs::write(at("revoked_keys"), "").unwrap();
    let verified = seal_in(dir.path(), &key, low);

    let output = by_hand(dir.path());
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}{errors}");
    for tool in ["tar", "ssh-keygen", "sha256sum", "age", "zstd"] {
        assert!(commands().contains(&format!("{tool} ")), "the page does not use {tool}");
    }
    assert_eq!(fs::read(at("records")).unwrap(), fs::read(at("expected-records")).unwrap());
    assert_eq!(fs::read(at("manifest")).unwrap(), fs::read(at("expected-manifest")).unwrap());
    let header = verified.header();
    let id = RecordId::new(&header.origin, header.epoch, header.lane, Sequence(1));
    for expected in [
        "payload.age: OK".to_owned(),
        format!("with ED25519 key {}", header.signer),
        format!("\n{id}\n"),
        format!("\n{}\n", verified.digest()),
        "<13>hello\n\nr 2 1 other 0 a b\n".to_owned(),
    ] {
        assert!(printed.contains(&expected), "no {expected:?} in:\n{printed}");
    }
}

#[test]
fn the_page_stops_at_what_was_changed() {
    let site = Site::new();
    let keys = keys();
    let from = crate::site::vectors_dir().join("keys");
    let dir = site.dir.path();
    for name in ["allowed_signers", "revoked_keys"] {
        fs::copy(from.join(name), dir.join(name)).unwrap();
    }
    let released = std::cell::Cell::new(0);
    let outcome = |bytes: &[u8]| {
        fs::write(dir.join("bundle.pstk"), bytes).unwrap();
        let output = by_hand(dir);
        let names = "header header.sig release release.sig release.sig.1 release.sig.2 payload.age \
                     payload.zst plain records manifest";
        for name in names.split_whitespace() {
            let _ = fs::remove_file(dir.join(name));
        }
        released.set(String::from_utf8_lossy(&output.stdout).matches("released by ").count());
        output.status.success()
    };
    let base = || Recipe::new(&keys);
    assert!(outcome(&base().forge()), "the valid one");
    let mut empty = base();
    (empty.records, empty.span, empty.reason) = (Vec::new(), 0, "heartbeat");
    assert!(outcome(&empty.forge()), "one without records");

    for (officers, expected) in [
        (&["officer-alice"][..], 1),
        (&["officer-alice", "officer-bob"], 2),
        (&["officer-alice", "officer-revoked"], 1),
        (&["stranger", "signing"], 0),
    ] {
        assert!(outcome(&base().released_by(&keys, officers).forge()), "{officers:?}");
        assert_eq!(released.get(), expected, "{officers:?}");
    }

    let mut foreign = base().released_by(&keys, &["officer-alice"]);
    foreign.release_namespace = "file";
    let other_release =
        base().released_by(&keys, &["officer-alice"]).edit(Layer::Release, |text| {
            let mut text = String::from_utf8_lossy(&text).into_owned();
            text.replace_range(26..90, &"ab".repeat(32));
            text.into_bytes()
        });
    let mut payload = base();
    payload.members = Some(|m| *m[2].content.last_mut().expect("a payload has bytes") ^= 1);
    let mut extra = base();
    extra.members = Some(|m| m.push(Member::new("note", b"x".to_vec())));
    let mut namespace = base();
    namespace.namespace = "file";
    let mut other = base();
    other.recipients = vec![keys.recipient("escrow")];
    let mut origin = base();
    origin.origin = "plant-8".to_owned();
    for (what, recipe) in [
        ("another payload", payload),
        ("an extra member", extra),
        ("a release for another purpose", foreign),
        ("a release of another bundle", other_release),
        ("another namespace", namespace),
        ("another recipient", other),
        ("another origin", origin),
        ("a revoked signer", base().signed_by(keys.signer("revoked"))),
        ("an expired signer", base().signed_by(keys.signer("expired"))),
        ("a stranger", base().signed_by(keys.signer("stranger"))),
    ] {
        assert!(!outcome(&recipe.forge()), "{what}");
    }
    assert!(!outcome(&archive(&[])), "an empty archive");
}
