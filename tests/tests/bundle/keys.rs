//! Keys made by the stock tools serve us, and the other way round.

use std::path::Path;
use std::process::Command;

use shared::keys::{
    BUNDLE_NAMESPACE, Identities, SigningKey, Trust, Validity, generate_identity,
    generate_signing_key,
};

use crate::stock_tools::{run, seal_in};

fn fails(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|err| panic!("{program}: {err}; install it"));
    assert!(!output.status.success(), "{program} {args:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn keys_of_ssh_keygen_and_age_keygen_seal_and_open() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(
        dir.path(),
        "ssh-keygen",
        &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "signing.key"],
    );
    run(dir.path(), "age-keygen", &["-o", "identity.key"]);
    let key = SigningKey::load(&at("signing.key")).unwrap();
    let listed = run(dir.path(), "ssh-keygen", &["-l", "-f", "signing.key"]);
    assert!(listed.contains(&key.fingerprint()), "{listed}");

    let identities = Identities::load(&[at("identity.key")]).unwrap();
    let low = identities.public_halves("soc-1", None).remove(0);
    let printed = run(dir.path(), "age-keygen", &["-y", "identity.key"]);
    assert_eq!(printed.trim(), low.key.to_string());

    Trust::add(dir.path(), &key.public_half("plant-7"), Validity::default()).unwrap();
    let verified = seal_in(dir.path(), &key, low);
    assert_eq!(verified.header().signer, key.fingerprint());
}

#[test]
fn keys_of_ours_are_read_by_ssh_keygen_and_age_keygen() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let key = generate_signing_key(&at("signing.key")).unwrap();
    let low = generate_identity(&at("identity.key"), "soc-1", false).unwrap();
    let listed = run(dir.path(), "ssh-keygen", &["-l", "-f", "signing.key"]);
    assert!(listed.contains(&key.fingerprint()), "{listed}");
    let public = run(dir.path(), "ssh-keygen", &["-y", "-f", "signing.key"]);
    assert_eq!(public.trim(), key.public_half("plant-7").key.to_string());
    let printed = run(dir.path(), "age-keygen", &["-y", "identity.key"]);
    assert_eq!(printed.trim(), low.key.to_string());
}

#[test]
fn keys_of_other_kinds_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(dir.path(), "ssh-keygen", &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", "rsa"]);
    run(dir.path(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "secret", "-f", "locked"]);
    run(dir.path(), "openssl", &["genpkey", "-algorithm", "ed25519", "-out", "openssl"]);
    for (name, reason) in [
        ("rsa", "is no"),
        ("locked", "is protected by a passphrase"),
        ("openssl", "is no OpenSSH private key"),
    ] {
        run(dir.path(), "chmod", &["600", name]);
        let message = SigningKey::load(&at(name)).unwrap_err().to_string();
        assert!(message.contains(reason), "{name}: {message}");
        let body = std::fs::read_to_string(at(name)).unwrap();
        let secret = body.lines().nth(1).unwrap();
        assert!(!message.contains(secret), "{name}: the message holds the key");
    }
}

/// One `allowed_signers`, believed alike by `ssh-keygen -Y verify` and by us.
#[test]
fn ssh_keygen_believes_the_signers_that_we_believe() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let key = generate_signing_key(&at("signing.key")).unwrap();
    let low = generate_identity(&at("identity.key"), "soc-1", false).unwrap();
    let day = |text: &str| {
        let seconds = run(dir.path(), "date", &["-u", "-d", text, "+%s"]);
        shared::clock::Nanos(seconds.trim().parse::<i64>().unwrap() * 1_000_000_000)
    };
    let validity = Validity { after: Some(day("2026-01-01")), before: Some(day("2036-01-01")) };
    Trust::add(dir.path(), &key.public_half("plant-7"), validity).unwrap();
    std::fs::write(at("revoked_keys"), "").unwrap();
    seal_in(dir.path(), &key, low);
    run(dir.path(), "tar", &["-xf", "bundle.pstk"]);

    let verify = |origin: &str, time: &str| {
        let time = format!("verify-time={time}");
        let mut command = Command::new("ssh-keygen");
        command.args([
            "-Y",
            "verify",
            "-f",
            "allowed_signers",
            "-n",
            BUNDLE_NAMESPACE,
            "-r",
            "revoked_keys",
        ]);
        command.args(["-s", "header.sig", "-I", origin, "-O", &time]).current_dir(dir.path());
        command.stdin(std::fs::File::open(at("header")).unwrap());
        command.output().unwrap().status.success()
    };
    let open = |time: &str| {
        let file = std::fs::File::open(at("bundle.pstk")).unwrap();
        let trust = Trust::load_dir(dir.path()).unwrap();
        let identities = Identities::load_dir(dir.path()).unwrap();
        let limits = shared::bundle::Limits::default();
        let now = day(time);
        shared::bundle::open(&file, &trust, &identities, &limits, now)
            .map_or_else(|refusal| refusal.code(), |_| "ok")
    };
    assert!(verify("plant-7", "20261123Z"));
    assert_eq!(open("2026-11-23"), "ok");
    assert!(!verify("plant-8", "20261123Z"));
    assert!(!verify("plant-7", "20251231Z"));
    assert_eq!(open("2025-12-31"), "signer-not-valid-now");
    assert!(!verify("plant-7", "20360102Z"));
    assert_eq!(open("2036-01-02"), "signer-not-valid-now");

    let public = key.public_half("plant-7").key.to_string();
    std::fs::write(at("revoked_keys"), format!("{public}\n")).unwrap();
    assert!(!verify("plant-7", "20261123Z"));
    assert_eq!(open("2026-11-23"), "signer-revoked");

    // A signature made by ssh-keygen itself over the same header serves us too, and is the same.
    let made = std::fs::read(at("header.sig")).unwrap();
    std::fs::remove_file(at("header.sig")).unwrap();
    run(
        dir.path(),
        "ssh-keygen",
        &["-q", "-Y", "sign", "-f", "signing.key", "-n", BUNDLE_NAMESPACE, "header"],
    );
    assert_eq!(made, std::fs::read(at("header.sig")).unwrap());
    let message = fails(dir.path(), "age", &["-d", "-i", "signing.key", "payload.age"]);
    assert!(!message.is_empty());
}
