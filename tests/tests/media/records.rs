//! Transfer records, countersignatures, wiping.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::agents::bundles_in;
use tests::peers::peer;
use tests::process::run;

use crate::site::{Way, names, record_in, word};

/// Verifies a file and its signature as the handbook says.
fn verify(signers: &Path, who: &str, file: &Path) -> bool {
    let sig = format!("{}.sig", file.display());
    let mut command = peer("ssh-keygen");
    command.args(["-Y", "verify", "-n", "penstock-transfer@v1", "-I", who, "-s", &sig, "-f"]);
    let script = format!("exec \"$@\" < '{}'", file.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    run(shell.arg(signers)).code == Some(0)
}

#[test]
fn records_and_countersignatures_verify_with_stock_tools() {
    let way = Way::new("media-stock");
    let bundles = way.fill(40, 21);
    let stick = way.stick("stick");
    way.export(&[word(&stick)]).success();
    let record = record_in(&stick);
    let public = fs::read_to_string(way.high().public_half()).unwrap();
    let key = public.lines().find_map(|line| line.strip_prefix("key ")).unwrap();
    let signers = way.crossing.sandbox.join("signers");
    fs::write(&signers, format!("plant-7 {key}\n")).unwrap();
    for extension in ["txt", "json"] {
        let file = record.with_extension(extension);
        assert!(verify(&signers, "plant-7", &file), "{extension}");
        let kept = way.high().state_dir().join("transfers").join(file.file_name().unwrap());
        assert_eq!(fs::read(&file).unwrap(), fs::read(kept).unwrap(), "both copies are one");
    }
    let text = fs::read_to_string(record.with_extension("txt")).unwrap();
    assert!(text.contains(&format!("bundles  {bundles}\n")), "{text}");
    for bundle in bundles_in(&stick) {
        let sum = run(peer("sha256sum").arg(&bundle)).success();
        assert!(text.contains(&sum[..64]), "{text}");
    }

    way.import(&[word(&stick)]).success();
    let received: Vec<String> =
        names(&stick).into_iter().filter(|name| name.contains(".received-")).collect();
    assert_eq!(received.len(), 4, "{received:?}");
    let low_signers = way.high().dir().join("keys/low_signers");
    let who = fs::read_to_string(&low_signers).unwrap();
    let who = who.split(' ').next().unwrap();
    for name in received.iter().filter(|name| !name.ends_with(".sig")) {
        assert!(verify(&low_signers, who, &stick.join(name)), "{name}");
        assert!(way.low().state_dir().join("transfers").join(name).is_file());
    }
    // One more import has nothing to add.
    way.import(&[word(&stick)]).success();
    assert_eq!(names(&stick).iter().filter(|name| name.contains(".received-")).count(), 4);
}

#[test]
fn what_is_not_as_the_record_says_is_named_first() {
    let way = Way::new("media-tampered");
    way.fill(120, 22);
    let stick = way.stick("stick");
    way.export(&[word(&stick)]).success();
    let bundles = bundles_in(&stick);
    assert!(bundles.len() >= 3);
    fs::remove_file(&bundles[0]).unwrap();
    let mut bytes = fs::read(&bundles[1]).unwrap();
    let last = bytes.len() - 2_000;
    bytes[last] ^= 1;
    fs::write(&bundles[1], bytes).unwrap();
    fs::copy(&bundles[2], stick.join("extra.pstk")).unwrap();
    let done = way.import(&[word(&stick)]);
    assert_eq!(done.code, Some(65), "{done:?}");
    let name = |at: usize| bundles[at].file_name().unwrap().to_str().unwrap();
    let at = |text: &str| done.stderr.find(text).unwrap_or_else(|| panic!("{text}: {done:?}"));
    let named = [
        at(&format!("missing: {}", name(0))),
        at(&format!("changed: {}", name(1))),
        at("extra.pstk is in no transfer record"),
    ];
    assert!(named.iter().max() < Some(&at("digest-sidecar")), "before anything else: {done:?}");
    let received = names(&stick).into_iter().find(|name| name.contains(".received-")).unwrap();
    let received = fs::read_to_string(stick.join(received)).unwrap();
    for text in [name(0), name(1), "extra.pstk", "quarantined"] {
        assert!(received.contains(text), "{text}: {received}");
    }
    let wipe = way.import(&["--wipe", "--yes", word(&stick)]);
    assert!(wipe.stderr.contains("nothing was wiped") || wipe.code == Some(65), "{wipe:?}");
    assert!(bundles[1].exists() && bundles[2].exists());
}

/// Nobody touched it; the key is not believed any more. That is another thing to say, and to do something about.
#[test]
fn an_untouched_record_of_a_revoked_key_is_not_called_changed() {
    let way = Way::new("media-revoked");
    way.fill(40, 27);
    let stick = way.stick("stick");
    way.export(&[word(&stick)]).success();
    let public = fs::read_to_string(way.high().public_half()).unwrap();
    let key = public.lines().find_map(|line| line.strip_prefix("key ")).unwrap();
    fs::write(way.low().dir().join("keys/revoked_keys"), format!("{key}\n")).unwrap();
    let done = way.import(&[word(&stick)]);
    assert_eq!(done.code, Some(65), "{done:?}");
    assert!(done.stderr.contains("NOT BELIEVED: the key that signed it was revoked"), "{done:?}");
    assert!(!done.stderr.contains("changed:"), "{done:?}");
    assert!(!names(&stick).iter().any(|name| name.contains(".received-")));
    // A text that somebody did change is still named.
    let text = record_in(&stick).with_extension("txt");
    let said = fs::read_to_string(&text).unwrap();
    fs::write(&text, said.replacen("bundles  ", "bundles  1", 1)).unwrap();
    let done = way.import(&[word(&stick)]);
    assert!(done.stderr.contains("changed:"), "{done:?}");
}

#[test]
fn a_forged_record_is_not_believed_and_never_countersigned() {
    let way = Way::new("media-forged");
    let bundles = way.fill(40, 23);
    let stick = way.stick("stick");
    way.export(&[word(&stick)]).success();
    let json = record_in(&stick).with_extension("json");
    let text = fs::read_to_string(&json).unwrap();
    fs::write(&json, text.replacen("\"officer\": \"", "\"officer\": \"x", 1)).unwrap();
    let done = way.import(&[word(&stick)]);
    assert_eq!(done.code, Some(65), "{done:?}");
    assert!(done.stderr.contains("NOT BELIEVED"), "{done:?}");
    assert!(!names(&stick).iter().any(|name| name.contains(".received-")));
    // The bundles prove themselves.
    way.assert_arrived(bundles);
    // What people read is looked at, too.
    fs::write(&json, &text).unwrap();
    let for_people = json.with_extension("txt");
    let said = fs::read_to_string(&for_people).unwrap();
    fs::write(&for_people, said.replacen("officer  ", "officer  x", 1)).unwrap();
    let done = way.import(&[word(&stick)]);
    assert_eq!(done.code, Some(65), "{done:?}");
    assert!(done.stderr.contains(".txt\n"), "{done:?}");
    fs::write(&for_people, said).unwrap();
    fs::write(&json, text.replacen("\"officer\": \"", "\"officer\": \"x", 1)).unwrap();
    let wipe = way.import(&["--wipe", "--yes", word(&stick)]);
    assert_ne!(wipe.code, Some(0), "{wipe:?}");
    assert_eq!(bundles_in(&stick).len() as u64, bundles);
    // Nonsense under a record's name, and a name that leads elsewhere.
    fs::write(&json, "{").unwrap();
    let done = way.import(&[word(&stick)]);
    assert!(done.stderr.contains("is no transfer record"), "{done:?}");
    fs::write(&json, text.replace("penstock-transfer-plant-7", "../penstock-transfer-plant-7"))
        .unwrap();
    assert_eq!(way.import(&[word(&stick)]).code, Some(65));
}

#[test]
fn wiping_takes_what_the_record_names_and_nothing_else() {
    let way = Way::new("media-wipe");
    way.fill(40, 24);
    let stick = way.stick("stick");
    way.export(&[word(&stick)]).success();
    fs::write(stick.join("holiday.jpg"), "not ours").unwrap();
    fs::write(stick.join("other.pstk.sha256"), "not ours").unwrap();
    let before = names(&stick);
    let dry = way.import(&["--wipe", word(&stick)]);
    assert!(dry.stdout.contains("would be wiped: "), "{dry:?}");
    dry.success();
    let kept = |name: &String| name.contains(".received-");
    assert_eq!(names(&stick).into_iter().filter(|name| !kept(name)).collect::<Vec<_>>(), before);
    way.import(&["--wipe", "--yes", word(&stick)]).success();
    let left: Vec<String> = names(&stick).into_iter().filter(|name| !kept(name)).collect();
    assert_eq!(left, ["holiday.jpg", "other.pstk.sha256"]);
    // The low side keeps what it signed for.
    let transfers = names(&way.low().state_dir().join("transfers"));
    assert_eq!(transfers.iter().filter(|name| !kept(name)).count(), 2, "{transfers:?}");
    // Nothing is there, and nobody knows what was: nothing is wiped.
    let nothing = way.import(&["--wipe", "--yes", word(&way.stick("empty"))]);
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
}
