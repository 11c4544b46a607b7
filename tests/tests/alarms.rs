//! Alarms as operators meet them: each code has its line in the handbook and a test that raises it; those of
//! a running agent are raised here, and what the handbook advises is done until they are over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use high_side::buffer::AlarmKind;
use low_side::ledger::ALARM_CODES;
use serde_json::Value;
use shared::durable;
use tests::agents::{Site, bundles_in};
use tests::crossing::Crossing;
use tests::wait::{PATIENCE, wait_until};

/// Each code of the low side, the file of a test that raises it, and that test.
const RAISED_LOW: &[(&str, &str, &str)] = &[
    (
        "archive-conflict",
        NONE,
        "the archive's own check of a foreign object is tested, not the alarm",
    ),
    ("archive-lag", "tests/archive/s3.rs", "archive-lag"),
    ("archive-refused", "tests/archive/s3.rs", "archive-refused"),
    ("custody-changed", "../low-side/src/ledger/custody_tests.rs", "custody-changed"),
    ("custody-not-signed", "../low-side/src/ledger/custody_tests.rs", "custody-not-signed"),
    ("custody-not-written", "../low-side/src/ledger/custody_tests.rs", "custody-not-written"),
    ("disk-low", "../low-side/src/retention/tests.rs", "disk-low"),
    ("epoch-began", "../low-side/src/ledger/tests.rs", "epoch-began"),
    ("fork", "tests/e2e/disorder.rs", "fork"),
    ("gap", "tests/e2e/disorder.rs", "gap"),
    ("gap-passed", "../low-side/src/ledger/tests.rs", "gap-passed"),
    ("import-failed", HERE, "import-failed"),
    ("inbox-ignored", HERE, "inbox-ignored"),
    ("inbox-not-writable", NONE, "root may delete from every folder, and tests run as root, too"),
    ("inbox-unreadable", HERE, "inbox-unreadable"),
    ("ledger-rebuilt", HERE, "ledger-rebuilt"),
    ("ledger-restored", "tests/e2e/backup.rs", "ledger-restored"),
    ("loss-declared", "../low-side/src/ledger/tests.rs", "loss-declared"),
    ("quarantined", "tests/e2e/disorder.rs", "quarantined"),
    ("receipt-not-written", HERE, "receipt-not-written"),
    ("receiver-trouble", HERE, "receiver-trouble"),
    ("receiver-wrong", "../low-side/src/agent/watch_receivers.rs", "receiver-wrong"),
    ("record-chain-broken", "../low-side/src/ledger/tests.rs", "record-chain-broken"),
    ("rollback", "tests/e2e/disorder.rs", "rollback"),
    ("silence", HERE, "silence"),
    ("sink-file-changed", "../low-side/src/sink/file/tests.rs", "sink-file-changed"),
    ("sink-lag", "tests/sinks/http.rs", "sink-lag"),
    ("sink-not-confirming", "../low-side/src/replay/tests.rs", "sink-not-confirming"),
    ("sink-rejects", "tests/sinks/http.rs", "sink-rejects"),
    ("store-damaged", "../low-side/src/replay/tests.rs", "store-damaged"),
    ("store-journal-damaged", "../low-side/src/agent/recover.rs", "store-journal-damaged"),
    ("store-not-admitted", HERE, "store-not-admitted"),
    ("store-over", "../low-side/src/retention/tests.rs", "store-over"),
    ("store-unreadable", "../low-side/src/replay/tests.rs", "store-unreadable"),
];

/// The same of the high side.
const RAISED_HIGH: &[(&str, &str, &str)] = &[
    ("block-damaged", "../high-side/src/buffer/tests/damage.rs", "block-damaged"),
    ("buffer-restored", "tests/e2e/backup.rs", "buffer-restored"),
    ("buffer-set-aside", "../high-side/src/buffer/tests/life.rs", "buffer-set-aside"),
    ("custody-changed", NONE, "as on the low side, where it is: both call shared::custody"),
    ("custody-not-signed", NONE, "as on the low side"),
    ("custody-not-written", "tests/custody.rs", "custody-not-written"),
    ("epoch-began", "../high-side/src/buffer/tests/life.rs", "epoch-began"),
    ("file-unread", NONE, "it comes after ten minutes, in which a copy of the file may turn up"),
    ("hand-over-overdue", HERE, "hand-over-overdue"),
    ("outbox-damaged", HERE, "outbox-damaged"),
    ("reconcile-overdue", "tests/e2e/reconcile.rs", "reconcile-overdue"),
    ("receipt-fork", "tests/custody.rs", "receipt-fork"),
    ("records-recovered", "tests/e2e/reconcile.rs", "records-recovered"),
    ("release-overdue", "tests/e2e/release.rs", "release-overdue"),
    ("release-refused", "tests/e2e/release.rs", "release-refused"),
    ("release-stranded", NONE, "it needs a new epoch while officers are waited for"),
];

const HERE: &str = "tests/alarms.rs";
/// No test raises it; the third word says why.
const NONE: &str = "";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The codes that the handbook's table has a line for, and for which side; of no side said: both.
fn advised() -> BTreeMap<String, BTreeSet<&'static str>> {
    let handbook = read("../packaging/doc/handbook.md");
    let (_, section) = handbook.split_once("\n## What each alarm means").expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let first = row.split(" | ").next().unwrap_or_default();
        let sides: &[&str] = match first.split_once('(').map(|(_, side)| side) {
            Some("high)") => &["high"],
            Some("low)") => &["low"],
            _ => &["high", "low"],
        };
        for code in first.split('`').step_by(2).filter(|code| !code.is_empty()) {
            found.entry(code.to_owned()).or_default().extend(sides);
        }
    }
    found
}

#[test]
fn every_alarm_has_its_line_in_the_handbook_and_a_test_that_raises_it() {
    let advised = advised();
    let high = AlarmKind::ALL.map(AlarmKind::as_str);
    for (side, codes, raised) in
        [("high", high.as_slice(), RAISED_HIGH), ("low", ALARM_CODES.as_slice(), RAISED_LOW)]
    {
        for code in codes {
            let line = advised.get(*code).is_some_and(|sides| sides.contains(side));
            assert!(line, "the handbook has no line for {code} of the {side} side");
        }
        let listed: Vec<&str> = raised.iter().map(|(code, ..)| *code).collect();
        assert_eq!(listed, codes, "the list of tests that raise the alarms of the {side} side");
        for (code, file, what) in raised.iter().filter(|(_, file, _)| *file != NONE) {
            assert_eq!(code, what);
            let text = read(file);
            let quoted = format!("\"{code}\"");
            // Its own list is no test.
            let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("(\""));
            assert!(lines.any(|line| line.contains(&quoted)), "{file} raises no {code}");
        }
    }
    for (code, sides) in &advised {
        let known = (sides.contains("high") && high.contains(&code.as_str()))
            || (sides.contains("low") && ALARM_CODES.contains(&code.as_str()));
        assert!(known, "the handbook has a line for {code}, which nothing raises");
    }
}

/// The alarm of a code, if nobody has acknowledged it.
fn alarm(site: &Site, code: &str) -> Option<Value> {
    let status = site.status();
    let of_code = |alarm: &&Value| alarm["code"] == code || alarm["kind"] == code;
    status["alarms"].as_array()?.iter().find(of_code).cloned()
}

fn wait_raised(site: &Site, code: &str) -> Value {
    let mut found = Value::Null;
    wait_until(PATIENCE, code, || {
        found = alarm(site, code).filter(|alarm| alarm["closed"].is_null()).unwrap_or_default();
        !found.is_null()
    });
    found
}

fn wait_over(site: &Site, code: &str) {
    wait_until(PATIENCE, &format!("{code} to be over"), || {
        alarm(site, code).is_some_and(|alarm| !alarm["closed"].is_null())
    });
}

#[test]
fn what_goes_wrong_around_a_low_side_is_told_and_is_over_when_it_was_mended() {
    let crossing = Crossing::new("alarms-low");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let (receipts, appliance) = (crossing.sandbox.join("receipts"), crossing.sandbox.join("out"));
    high.configure(&format!(
        "{}{}{}",
        Crossing::seal_soon(100),
        crossing.listener(),
        crossing.handoff()
    ));
    low.configure(&format!(
        "{}copy-deadline = \"300ms\"\n{}[admission]\nsilence-alarm = \"20s\"\n[receipt]\nfolder = {receipts:?}\ninterval = \"1s\"\n\
         [[receiver]]\nname = \"appliance\"\ntype = \"folder\"\npath = {appliance:?}\n",
        Crossing::quick_inbox(),
        crossing.file_sink()
    ));
    let agent = low.start();

    // The folder for receipts is not there: it is made.
    wait_raised(low, "receipt-not-written");
    fs::create_dir(&receipts).unwrap();
    wait_over(low, "receipt-not-written");

    // Something that is no bundle stays in the inbox: it is taken away, and the alarm acknowledged.
    let link = low.inbox().join("link.pstk");
    symlink("/etc/passwd", &link).unwrap();
    let told = wait_raised(low, "inbox-ignored");
    fs::remove_file(&link).unwrap();
    low.run(["acknowledge", &told["id"].to_string()]).success();
    assert!(alarm(low, "inbox-ignored").is_none());

    // The inbox is gone, as a share that is not mounted: it comes back.
    let away = low.inbox().with_extension("away");
    durable::rename(&low.inbox(), &away).unwrap();
    wait_raised(low, "inbox-unreadable");
    durable::rename(&away, &low.inbox()).unwrap();
    wait_over(low, "inbox-unreadable");

    // What comes can't be stored: that is mended, and it is tried again by itself.
    let staging = low.state_dir().join("staging");
    fs::remove_dir_all(&staging).unwrap();
    fs::write(&staging, "in the way").unwrap();
    fs::write(low.inbox().join("any.pstk"), "no bundle").unwrap();
    wait_raised(low, "import-failed");
    fs::remove_file(&staging).unwrap();
    fs::create_dir(&staging).unwrap();
    wait_over(low, "import-failed");

    // Nothing has come of the trusted origin, until it does.
    let told = wait_raised(low, "silence");
    assert_eq!(told["subject"], "plant-7", "{told}");
    let sender = high.start();
    crossing.send(1..11);
    wait_over(low, "silence");
    assert_eq!(crossing.wait_drained(), 10);
    drop(sender);

    // A receiver's folder is not there: half a minute later that is an alarm, and over when it is.
    wait_raised(low, "receiver-trouble");
    fs::create_dir_all(&appliance).unwrap();
    wait_over(low, "receiver-trouble");

    // The ledger is lost, and the signer is not believed any more: what the store holds waits for him.
    agent.kill();
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(low.state_dir().join(name));
    }
    let signers = low.dir().join("keys/allowed_signers");
    let believed = fs::read_to_string(&signers).unwrap();
    fs::write(&signers, "").unwrap();
    let agent = low.start();
    wait_raised(low, "ledger-rebuilt");
    wait_raised(low, "store-not-admitted");
    fs::write(&signers, believed).unwrap();
    agent.kill();
    let _agent = low.start();
    wait_over(low, "store-not-admitted");
    wait_until(PATIENCE, "the records once more", || low.status()["records"] == 10);
}

#[test]
fn what_goes_wrong_around_a_high_side_is_told_and_the_advice_helps() {
    let crossing = Crossing::new("alarms-high");
    let high = &crossing.pair.high;
    let medium = crossing.sandbox.dir("medium");
    let sections = format!("{}{}", Crossing::seal_soon(5), crossing.listener());
    high.configure(&sections);
    let agent = high.start();
    crossing.send(1..11);
    wait_until(PATIENCE, "a bundle", || !bundles_in(&high.outbox()).is_empty());

    // Nobody hands the bundles over; an export does, and the alarm is acknowledged.
    let told = wait_raised(high, "hand-over-overdue");
    assert!(told["message"].as_str().unwrap().contains("export"), "{told}");
    high.run(["export", medium.to_str().unwrap()]).success();
    high.run(["acknowledge", &told["id"].to_string()]).success();
    assert!(alarm(high, "hand-over-overdue").is_none());

    // A sealed bundle is changed on the disk; the others cross.
    for (ids, bundles) in [(11..21, 1), (21..31, 2)] {
        crossing.send(ids);
        wait_until(PATIENCE, "another bundle", || {
            high.status()["bundles"]["ready"]["count"].as_u64() >= Some(bundles)
        });
    }
    agent.kill();
    let sealed = bundles_in(&high.outbox());
    let changed = sealed.last().expect("a bundle");
    let mut bytes = fs::read(changed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(changed, bytes).unwrap();
    high.configure(&format!("{sections}{}", crossing.handoff()));
    let _agent = high.start();
    wait_raised(high, "outbox-damaged");
    wait_until(PATIENCE, "the others", || high.status()["bundles"]["ready"]["count"] == 1);
}
