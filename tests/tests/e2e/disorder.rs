//! Bundles that are damaged, missing, repeated, or of another past.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use shared::clock::{Clock, SystemClock};
use tests::agents::{Site, bundles_in};
use tests::crossing::{Crossing, assert_sound, assert_unaltered, pending};
use tests::process::run;
use tests::wait::{PATIENCE, wait_until};

/// A high side that seals when it is told to, and a quick low side.
struct Way {
    crossing: Crossing,
    medium: PathBuf,
    next: u64,
}

impl Way {
    fn new(name: &str) -> Self {
        let crossing = Crossing::new(name);
        let only_when_told = "[seal]\nflash-budget = \"1h\"\nheartbeat = \"1d\"\n";
        crossing.pair.high.configure(&format!("{only_when_told}{}", crossing.listener()));
        // Half a file is waited for, a moment.
        let inbox = format!("{}copy-deadline = \"500ms\"\n", Crossing::quick_inbox());
        let low = format!("{inbox}{}", crossing.file_sink());
        crossing.pair.low.configure(&low);
        let medium = crossing.sandbox.dir("medium");
        Self { crossing, medium, next: 1 }
    }

    fn low(&self) -> &Site {
        &self.crossing.pair.low
    }

    /// Sends, seals and exports one bundle of so many records; gives the file on the medium.
    fn bundle(&mut self, records: u64) -> PathBuf {
        let high = &self.crossing.pair.high;
        let before = bundles_in(&self.medium);
        let agent = high.start();
        self.crossing.send(self.next..self.next + records);
        assert!(agent.stop(PATIENCE).success());
        self.next += records;
        high.run(["seal"]).success();
        let export = high.json(["export", "--json", self.medium.to_str().unwrap()]);
        assert_eq!(export["bundles"].as_array().map(Vec::len), Some(1), "{export}");
        let mut after = bundles_in(&self.medium);
        after.retain(|path| !before.contains(path));
        assert_eq!(after.len(), 1);
        after.remove(0)
    }

    /// Puts a bundle into the inbox as a careful courier does.
    fn bring(&self, bundle: &Path) {
        let to = self.low().inbox().join(bundle.file_name().unwrap());
        let part = to.with_extension("part");
        fs::copy(bundle, &part).unwrap();
        shared::durable::rename(&part, &to).unwrap();
    }

    fn wait_low(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        wait_until(PATIENCE, what, || condition(&self.low().status()));
    }

    fn ids(&self) -> Vec<u64> {
        let arrived = assert_sound(&self.crossing.events());
        assert_unaltered(&arrived);
        arrived.ids
    }
}

fn alarm<'a>(status: &'a Value, code: &str) -> Option<&'a Value> {
    status["alarms"].as_array()?.iter().find(|alarm| alarm["code"] == code)
}

fn all(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[test]
fn a_damaged_bundle_goes_to_quarantine_and_the_good_one_after_it_is_admitted() {
    let mut way = Way::new("damaged");
    let (first, second) = (way.bundle(20), way.bundle(20));
    let bytes = fs::read(&first).unwrap();
    let damaged = |name: &str, bytes: &[u8]| {
        let path = way.crossing.sandbox.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut flipped = bytes.clone();
    let middle = bytes.len() / 2;
    flipped[middle] ^= 1;
    let agent = way.low().start();
    for (name, content, code) in [
        ("cut.pstk", &bytes[..bytes.len() - 600], "container-malformed"),
        ("flipped.pstk", &flipped, "payload-digest-mismatch"),
        ("empty.pstk", &[], "container-malformed"),
    ] {
        way.bring(&damaged(name, content));
        way.wait_low(code, |low| low["quarantine-codes"][code].as_u64() > Some(0));
    }
    way.wait_low("three in quarantine", |low| low["quarantined"] == 3);
    let low = way.low().status();
    assert_eq!(low["quarantine-codes"]["container-malformed"], 2, "{low}");
    assert_eq!(low["quarantine-codes"]["payload-digest-mismatch"], 1, "{low}");
    assert!(alarm(&low, "quarantined").is_some(), "{low}");
    assert!(bundles_in(&way.low().inbox()).is_empty(), "it went to the quarantine");
    let list = way.low().json(["quarantine", "list", "--json"]);
    assert_eq!(list.as_array().map(Vec::len), Some(3), "{list}");

    way.bring(&first);
    way.bring(&second);
    way.wait_low("both delivered", |low| low["records"] == 40 && pending(low) == 0);
    // A sidecar that tells of other bytes: refused too, when nobody copies any more.
    let wrong = damaged("wrong.pstk", &bytes);
    fs::write(wrong.with_extension("pstk.sha256"), format!("{}  wrong.pstk\n", "0".repeat(64)))
        .unwrap();
    let done = way.low().run(["import", wrong.to_str().unwrap()]);
    assert_eq!(done.code, Some(65), "{done:?}");
    assert!(agent.stop(PATIENCE).success());
    let low = way.low().status();
    assert_eq!((&low["adds-up"], &low["admitted"]), (&Value::from(true), &Value::from(2)), "{low}");
    assert_eq!(way.ids(), all(40));
    // Nothing of the refused files was thrown away.
    let kept = way.low().state_dir().join("quarantine");
    let whole = fs::read_dir(kept)
        .unwrap()
        .flatten()
        .any(|entry| fs::read(entry.path()).unwrap() == flipped);
    assert!(whole, "the flipped bundle is not in the quarantine");
}

#[test]
fn a_missing_bundle_is_a_gap_that_holds_and_closes_when_it_comes() {
    let mut way = Way::new("gap");
    let bundles: Vec<PathBuf> = (0..4).map(|_| way.bundle(10)).collect();
    let agent = way.low().start();
    way.bring(&bundles[0]);
    way.wait_low("the first", |low| low["sinks"][0]["delivered"] == 10);
    way.bring(&bundles[2]);
    way.bring(&bundles[3]);
    way.wait_low("the gap", |low| low["held"] == 2 && low["admitted"] == 3);
    let low = way.low().status();
    assert_eq!(
        (&low["gaps"][0]["first"], &low["gaps"][0]["last"]),
        (&Value::from(2), &Value::from(2))
    );
    assert_eq!(low["adds-up"], true);
    assert!(alarm(&low, "gap").is_some_and(|alarm| alarm["closed"].is_null()), "{low}");
    assert_eq!(pending(&low), 20, "{low}");
    assert_eq!(way.ids(), all(10), "what is behind the gap waits");
    // It also waits over a restart.
    assert!(agent.stop(PATIENCE).success());
    let agent = way.low().start();
    way.wait_low("the agent", |low| !low["agent"].is_null());
    assert_eq!(way.ids(), all(10), "what is behind the gap waits");

    way.bring(&bundles[1]);
    way.wait_low("everything", |low| pending(low) == 0 && low["records"] == 40);
    let low = way.low().status();
    assert_eq!((&low["gaps"], &low["held"]), (&Value::Array(vec![]), &Value::from(0)), "{low}");
    assert!(alarm(&low, "gap").is_none_or(|alarm| !alarm["closed"].is_null()), "{low}");
    assert!(agent.stop(PATIENCE).success());
    assert_eq!(way.ids(), all(40));
}

#[test]
fn what_comes_twice_is_a_duplicate_by_either_way() {
    let mut way = Way::new("duplicate");
    let bundle = way.bundle(30);
    let text = bundle.to_str().unwrap();
    let first = way.low().json(["import", "--json", text]);
    assert_eq!((&first["admitted"], &first["records"]), (&Value::from(1), &Value::from(30)));
    let again = way.low().json(["import", "--json", text]);
    assert_eq!((&again["admitted"], &again["duplicate"]), (&Value::from(0), &Value::from(1)));
    assert!(bundle.exists(), "a medium is never changed");
    let agent = way.low().start();
    way.bring(&bundle);
    way.wait_low("another duplicate", |low| low["duplicate"] == 2 && pending(low) == 0);
    assert!(agent.stop(PATIENCE).success());
    assert_eq!(way.low().status()["adds-up"], true);
    assert_eq!(way.ids(), all(30));
}

#[test]
fn a_command_imports_beside_the_running_agent() {
    let mut way = Way::new("beside");
    let bundles: Vec<PathBuf> = (0..6).map(|_| way.bundle(10)).collect();
    let agent = way.low().start();
    // Both get all of them at the same time: each is admitted by one and a duplicate for the other.
    for bundle in &bundles {
        way.bring(bundle);
    }
    let done = way.low().json(["import", "--json", way.medium.to_str().unwrap()]);
    assert_eq!(done["failed"], 0, "{done}");
    way.wait_low("all of both", |low| low["received"] == 12 && pending(low) == 0);
    assert!(agent.stop(PATIENCE).success());
    let low = way.low().status();
    assert_eq!((&low["admitted"], &low["duplicate"]), (&Value::from(6), &Value::from(6)), "{low}");
    assert_eq!(low["adds-up"], true);
    assert_eq!(way.ids(), all(60));
}

/// Copies a folder with everything in it, as a backup does.
fn back_up(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    run(std::process::Command::new("cp").arg("-a").arg(from).arg(to)).success();
}

#[test]
fn a_high_side_put_back_to_an_old_state_is_found_out_as_a_fork() {
    let mut way = Way::new("fork");
    let first = way.bundle(10);
    let state = way.crossing.pair.high.state_dir();
    let backup = way.crossing.sandbox.join("backup");
    back_up(&state, &backup);
    let second = way.bundle(10);
    let third = way.bundle(10);
    // The backup is put back, and the high side goes on as if bundles 2 and 3 had never been.
    back_up(&backup, &state);
    way.next = 101;
    let other_second = way.bundle(10);
    assert_ne!(second, other_second);
    let other_third = way.bundle(10);

    let agent = way.low().start();
    for bundle in [&first, &second] {
        way.bring(bundle);
    }
    way.wait_low("the true ones", |low| low["sinks"][0]["delivered"] == 20);
    way.bring(&other_second);
    way.wait_low("the fork", |low| low["quarantine-codes"]["fork"] == 1);
    // Its number is free, but it follows the false one.
    way.bring(&other_third);
    way.wait_low("the fork's next", |low| low["quarantined"] == 2);
    way.bring(&third);
    way.wait_low("the true third", |low| low["records"] == 30 && pending(low) == 0);
    let low = way.low().status();
    assert_eq!(low["quarantine-codes"]["fork"], 2, "{low}");
    let told = alarm(&low, "fork").expect("an alarm")["id"].to_string();

    // What the page says: the restored buffer is set aside, and a new epoch crosses.
    let high = way.crossing.pair.high.clone();
    high.run(["recover", "--yes"]).success();
    for old in bundles_in(&high.outbox()) {
        fs::remove_file(old).unwrap();
    }
    way.next = 201;
    let new_epoch = way.bundle(10);
    way.bring(&new_epoch);
    way.wait_low("the new epoch", |low| low["records"] == 40 && pending(low) == 0);
    way.low().run(["acknowledge", &told]).success();
    assert!(agent.stop(PATIENCE).success());
    let low = way.low().status();
    assert!(alarm(&low, "fork").is_none(), "{low}");
    // Nothing of the false ones was delivered, and they are kept.
    assert_eq!(way.ids(), [all(30), (201..211).collect()].concat());
    assert_eq!(low["quarantined"], 2, "{low}");
}

/// An epoch is named by the second in which it begins, where nothing is left to tell the last.
fn wait_next_second() {
    let second = || SystemClock.now().0 / 1_000_000_000;
    let begun = second();
    wait_until(PATIENCE, "the next second", || second() > begun);
}

#[test]
fn an_older_epoch_is_a_rollback() {
    let mut way = Way::new("rollback");
    let first = way.bundle(10);
    let state = way.crossing.pair.high.state_dir();
    let old = way.crossing.sandbox.join("old");
    back_up(&state, &old);
    // A new buffer begins a new epoch; later somebody finds the old state and starts it again.
    fs::remove_dir_all(&state).unwrap();
    fs::remove_file(&first).unwrap();
    way.next = 1;
    wait_next_second();
    let new_epoch = way.bundle(10);
    back_up(&old, &state);
    way.next = 101;
    let from_the_past = way.bundle(10);

    let agent = way.low().start();
    way.bring(&new_epoch);
    way.wait_low("the new epoch", |low| low["sinks"][0]["delivered"] == 10);
    way.bring(&from_the_past);
    way.wait_low("the rollback", |low| low["quarantine-codes"]["rollback"] == 1);
    let told = alarm(&way.low().status(), "rollback").expect("an alarm")["id"].to_string();

    // As for a fork: the old buffer is set aside, and an epoch begins that is newer than both.
    wait_next_second();
    let high = way.crossing.pair.high.clone();
    high.run(["recover", "--yes"]).success();
    for old in bundles_in(&high.outbox()) {
        fs::remove_file(old).unwrap();
    }
    way.next = 201;
    let newest = way.bundle(10);
    way.bring(&newest);
    way.wait_low("the newest epoch", |low| low["records"] == 20 && pending(low) == 0);
    way.low().run(["acknowledge", &told]).success();
    assert!(agent.stop(PATIENCE).success());
    assert!(alarm(&way.low().status(), "rollback").is_none());
    assert_eq!(way.ids(), [all(10), (201..211).collect()].concat());
}

#[test]
fn after_a_restore_a_new_epoch_crosses_and_what_was_not_sealed_is_taken_in_once() {
    let mut way = Way::new("recover");
    let first = way.bundle(10);
    let high = way.crossing.pair.high.clone();
    // In the backup stand records that no bundle holds.
    let agent = high.start();
    way.crossing.send(11..31);
    way.crossing.wait_committed(30);
    agent.kill();
    let backup = way.crossing.sandbox.join("backup");
    back_up(&high.state_dir(), &backup);
    way.next = 101;
    let lost_with_the_machine = way.bundle(10);
    fs::remove_file(lost_with_the_machine).unwrap();
    back_up(&backup, &high.state_dir());

    let refused = high.run(["recover"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("20 record(s)"), "{refused:?}");
    let agent = high.start();
    let busy = high.run(["recover", "--yes"]);
    assert_ne!(busy.code, Some(0), "an agent runs: {busy:?}");
    assert!(agent.stop(PATIENCE).success());
    let old_epoch = high.status()["epoch"].clone();
    let said = high.run(["recover", "--yes"]).success();
    let aside = said.lines().find_map(|line| line.split_once(" is in ")).unwrap().1.to_owned();
    assert_ne!(high.status()["epoch"], old_epoch, "{said}");
    for expected in ["20 record(s) taken in", "0 record(s) taken in"] {
        let taken = high.run(["recover", "--from", &aside]).success();
        assert!(taken.contains(expected), "{taken}");
    }
    // Bundles of an earlier epoch would be carried again, since nobody remembers whether they were.
    for old in bundles_in(&high.outbox()) {
        fs::remove_file(old).unwrap();
    }
    way.next = 31;
    let new_epoch = way.bundle(10);
    let agent = way.low().start();
    way.bring(&first);
    way.wait_low("the old epoch", |low| low["sinks"][0]["delivered"] == 10);
    way.bring(&new_epoch);
    way.wait_low("the new epoch", |low| low["records"] == 40 && pending(low) == 0);
    assert!(agent.stop(PATIENCE).success());
    let low = way.low().status();
    assert_eq!(
        (&low["quarantined"], &low["gaps"]),
        (&Value::from(0), &Value::Array(vec![])),
        "{low}"
    );
    let mut ids = way.ids();
    ids.sort_unstable();
    assert_eq!(ids, all(40));
}

#[test]
fn of_two_high_sides_with_one_identity_the_second_is_named_a_fork() {
    let mut way = Way::new("twins");
    let first = way.bundle(10);
    let state = way.crossing.pair.high.state_dir();
    let twin = way.crossing.sandbox.join("twin");
    back_up(&state, &twin);
    let ours = way.bundle(10);
    // The copy of the machine seals the same numbers with other content.
    back_up(&twin, &state);
    way.next = 101;
    let theirs = way.bundle(10);
    let agent = way.low().start();
    for bundle in [&first, &ours, &theirs] {
        way.bring(bundle);
    }
    way.wait_low("the twin", |low| low["quarantine-codes"]["fork"] == 1 && pending(low) == 0);
    assert!(agent.stop(PATIENCE).success());
    let ids = way.ids();
    assert_eq!(ids.len(), 20, "one of both was admitted: {ids:?}");
}
