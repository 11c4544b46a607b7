//! Writes the state of both sides, as the programs of this version leave it, to
//! `tests/fixtures/upgrade/VERSION/`: two backups, which hold buffer, ledger, custody logs, outbox,
//! store, quarantine, keys and bundles, and what a later version has to find in them.
//!
//! Run once for a release, after `cargo build --bins`. The fixtures of a version that was released are
//! never changed.

use std::fs;
use std::path::Path;

use serde_json::json;
use tests::agents::{Site, bundles_in};
use tests::crossing::{Crossing, pending};
use tests::wait::{PATIENCE, wait_until};

fn main() {
    let version = env!("CARGO_PKG_VERSION");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/upgrade").join(version);
    assert!(!dir.exists(), "{} exists: what was released is never changed", dir.display());
    let crossing = Crossing::new("upgrade-fixture");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let only_when_told = "[seal]\nflash-budget = \"1h\"\nheartbeat = \"1d\"\n";
    high.configure(&format!("{only_when_told}{}", crossing.listener()));
    low.configure(&format!("{}{}", Crossing::quick_inbox(), crossing.file_sink()));
    let medium = crossing.sandbox.dir("medium");
    let medium_text = medium.to_str().expect("a temporary folder has a plain name");

    // The first bundle is delivered and confirmed; the second one is admitted and not delivered; the
    // third one waits in the outbox; 30 records wait in the buffer.
    let agent = high.start();
    seal(&crossing, 1..21, 20);
    high.run(["export", medium_text]).success();
    let low_agent = low.start();
    low.run(["import", medium_text]).success();
    wait_until(PATIENCE, "the first bundle delivered", || {
        let status = low.status();
        status["records"] == 20 && pending(&status) == 0
    });
    // A file that is none is refused and kept.
    let none = crossing.sandbox.join("none.pstk");
    fs::write(&none, b"this is no bundle").expect("it can be written");
    let refused = low.run(["import", none.to_str().expect("a plain name")]);
    assert_eq!(refused.code, Some(65), "{refused:?}");
    assert!(low_agent.stop(PATIENCE).success());
    let receipt = crossing.sandbox.join("receipt");
    let receipt = receipt.to_str().expect("a temporary folder has a plain name");
    low.run(["receipt", "--out", receipt]).success();
    high.run(["receipt", "import", receipt]).success();
    seal(&crossing, 21..41, 40);
    high.run(["export", medium_text]).success();
    let second = bundles_in(&medium).pop().expect("it was exported");
    low.run(["import", second.to_str().expect("a plain name")]).success();
    seal(&crossing, 41..61, 60);
    crossing.send(61..91);
    crossing.wait_committed(90);
    assert!(agent.stop(PATIENCE).success());

    fs::create_dir_all(&dir).expect("the folder can be made");
    backup(high, &dir.join("high.tar.zst"), "--outbox=all");
    backup(low, &dir.join("low.tar.zst"), "--with-store");
    let expected = json!({
        "delivered": 20, "admitted": 40, "sealed": 60, "received": 90,
        "waiting-bundles": 1, "quarantined": 1, "confirmed-bundles": 1,
    });
    fs::write(dir.join("expected.json"), format!("{expected:#}\n")).expect("it can be written");
    println!("{}", dir.display());
}

fn seal(crossing: &Crossing, ids: std::ops::Range<u64>, committed: u64) {
    crossing.send(ids);
    crossing.wait_committed(committed);
    crossing.pair.high.run(["seal"]).success();
}

fn backup(site: &Site, to: &Path, more: &str) {
    let to = to.to_str().expect("a plain name");
    // Keys that are used for nothing else.
    site.run(["backup", to, "--keys-in-the-clear", more]).success();
}
