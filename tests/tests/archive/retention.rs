//! Bundles leave the store after their time, and come back from the archive.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use serde_json::Value;
use tests::agents::Site;
use tests::crossing::{Crossing, assert_sound};
use tests::peers::stores::{S3Store, WRITER, write_credentials};
use tests::peers::under_strace;
use tests::process::{Process, run};
use tests::wait::{PATIENCE, wait_until};

use super::{configure, stored, wait_archived};

/// What the status says of the store.
fn store_of(low: &Site) -> (u64, u64) {
    let store = low.status()["store"].clone();
    (store["bundles"].as_u64().unwrap(), store["removed"].as_u64().unwrap())
}

/// Sends 100 records and waits until they are everywhere; gives how many bundles they came in.
fn fill(crossing: &Crossing) -> u64 {
    let low = &crossing.pair.low;
    let agents = [crossing.pair.high.start(), low.start()];
    crossing.send(1..101);
    crossing.wait_committed(100);
    assert_eq!(crossing.wait_drained(), 100);
    let bundles = low.status()["admitted"].as_u64().unwrap();
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    bundles
}

#[test]
fn what_left_the_store_is_accounted_for_and_comes_back_from_the_archive() {
    let crossing = Crossing::new("retention");
    let store = S3Store::seaweedfs(&crossing.sandbox.dir("store"));
    store.bucket("audit", true);
    let credentials = crossing.sandbox.join("credentials");
    write_credentials(&credentials, WRITER);
    let archive = format!(
        "[[archive]]\nname = \"worm\"\ntype = \"s3\"\nendpoint = \"{}\"\nbucket = \"audit\"\n\
         credentials-file = \"{}\"\nretain = \"30d\"\n",
        store.endpoint(),
        credentials.display()
    );
    configure(&crossing, &archive);
    let low = &crossing.pair.low;
    let bundles = fill(&crossing);
    let stranger = low.state_dir().join("store/stranger");
    let from = "2020-01-01T00:00:00Z";
    let report = |low: &Site| -> Value {
        let to = low.status()["time"].as_str().unwrap().to_owned();
        low.json(["report", "--from", from, "--to", &to, "--framework", "soc2", "--json"])
    };
    let before = report(low);

    configure(&crossing, &format!("[store]\nretain = \"1s\"\n{archive}"));
    let agent = low.start();
    fs::write(&stranger, "not of this store").unwrap();
    wait_until(PATIENCE, "an empty store", || store_of(low) == (0, bundles));
    // The ledger comes first, the files behind it.
    wait_until(PATIENCE, "no files", || stored(low).is_empty());
    assert!(stranger.exists());
    let metric = format!("store_removed_bundles_total {bundles}\n");
    wait_until(PATIENCE, "the metric", || {
        let metrics = fs::read_to_string(low.state_dir().join("metrics.prom"));
        metrics.unwrap_or_default().contains(&metric)
    });
    assert!(low.run(["status"]).success().contains("have left it after their time"));
    low.run(["custody", "verify"]).success();
    let custody = low.run(["custody", "show", "flash/1"]).success();
    assert!(
        custody.contains("deleted") && custody.contains("from the store: retain 1s"),
        "{custody}"
    );
    let after = report(low);
    assert_eq!(after["account"]["arrived"], before["account"]["arrived"]);
    assert_eq!(after["chain-sums"], before["chain-sums"]);
    assert_eq!(after["stored"]["removed"], bundles, "{}", after["stored"]);
    assert_eq!(after["stored"]["wrong"]["items"], before["stored"]["wrong"]["items"]);
    assert_eq!(after["archives"]["items"][0]["archived"], bundles);

    // Sent again: not from here, and it is said where from.
    let again = low.run(["replay", "--sink", "file", "--from", from]);
    let words = "archive restore --from 2020-01-01";
    assert!(again.code == Some(1) && again.stderr.contains(words), "{again:?}");
    assert!(agent.stop(PATIENCE).success());
    fs::remove_file(&stranger).unwrap();

    configure(&crossing, &format!("[store]\nretain = \"1h\"\n{archive}"));
    let dir = crossing.sandbox.join("restored").display().to_string();
    low.run(["archive", "restore", "--from", from, &dir]).success();
    let imported = low.json(["import", "--json", &dir]);
    assert_eq!((&imported["restored"], &imported["admitted"]), (&bundles.into(), &0.into()));
    assert_eq!(store_of(low), (bundles, 0));
    low.run(["replay", "--sink", "file", "--from", from]).success();
    let agent = low.start();
    wait_until(PATIENCE, "everything once more", || crossing.events().len() == 200);
    assert!(agent.stop(PATIENCE).success());
    let status = low.status();
    assert_eq!((&status["adds-up"], &status["records"]), (&true.into(), &100.into()), "{status}");
    let mut ids: Vec<String> =
        crossing.events().iter().map(|event| event["id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100, "the same ids");

    // The ledger is lost while the store is empty: what left is known, and nobody gets it again.
    configure(&crossing, &format!("[store]\nretain = \"1s\"\n{archive}"));
    let agent = low.start();
    wait_until(PATIENCE, "an empty store", || store_of(low) == (0, bundles));
    assert!(agent.stop(PATIENCE).success());
    for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(low.state_dir().join(file));
    }
    let agent = low.start();
    let status = low.status();
    assert_eq!((&status["records"], &status["gaps"]), (&100.into(), &Value::Array(Vec::new())));
    assert_eq!(store_of(low), (0, bundles));
    assert_eq!(wait_archived(low), bundles);
    assert!(agent.stop(PATIENCE).success());
    assert_eq!(crossing.events().len(), 200);
    let again = crossing.sandbox.join("again").display().to_string();
    low.run(["archive", "restore", "flash/1", &again]).success();
    assert_eq!(low.json(["import", "--json", &again])["restored"], 1);
}

#[test]
fn killed_before_a_file_is_removed_the_next_start_removes_it() {
    let crossing = Crossing::new("retention-kill");
    configure(&crossing, "");
    let low = &crossing.pair.low;
    let bundles = fill(&crossing);
    configure(&crossing, "[page]\nlisten = \"off\"\n[store]\nretain = \"1s\"\n");
    let trace = crossing.sandbox.join("trace");
    let fault = "unlink:signal=KILL:when=1";
    let can_trace = run(&mut under_strace(&std::process::Command::new("true"), fault, &trace));
    if can_trace.code != Some(0) {
        println!("NOT RUN: strace can't trace here: {}", can_trace.stderr.trim());
        return;
    }
    let mut command = under_strace(&low.command(["run"]), fault, &trace);
    let mut agent = Process::spawn(&mut command, "faulty", crossing.sandbox.path());
    wait_until(PATIENCE, "the kill", || agent.ended().is_some());
    // The ledger says that they have left; their files are there.
    assert_eq!(store_of(low), (0, bundles));
    assert_eq!(stored(low).len() as u64, bundles, "{}", agent.log());
    let agent = low.start();
    assert!(stored(low).is_empty(), "removed by the start");
    assert!(agent.stop(PATIENCE).success());
    let status = low.status();
    assert_eq!((&status["adds-up"], &status["duplicate"]), (&true.into(), &0.into()), "{status}");
    assert_eq!(assert_sound(&crossing.events()).ids.len(), 100);
    low.run(["custody", "verify"]).success();
}
