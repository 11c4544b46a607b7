//! Backups of both sides, restored on a new disk: no fork, no lost record, nothing half-done.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::agents::{Site, bundles_in};
use tests::crossing::{Crossing, assert_sound, assert_unaltered, pending};
use tests::logs::assert_no_unlisted_errors;
use tests::process::{Process, run};
use tests::wait::{PATIENCE, wait_until};

/// Both sides; bundles are sealed and carried when the test says so.
struct Sites {
    crossing: Crossing,
    carried: Vec<String>,
    key: String,
    recipient: String,
}

impl Sites {
    fn new(name: &str) -> Self {
        let crossing = Crossing::new(name);
        let only_when_told = "[seal]\nflash-budget = \"1h\"\nheartbeat = \"1d\"\n";
        crossing.pair.high.configure(&format!("{only_when_told}{}", crossing.listener()));
        let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
        crossing.pair.low.configure(&low);
        let vault = crossing.sandbox.dir("vault");
        let key = vault.join("backup.key");
        let recipient = vault.join("backup.txt");
        let line = crossing.pair.high.run(["backup-key", key.to_str().unwrap()]).success();
        fs::write(&recipient, line).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        Self { crossing, carried: Vec::new(), key: text(&key), recipient: text(&recipient) }
    }

    fn high(&self) -> &Site {
        &self.crossing.pair.high
    }

    fn low(&self) -> &Site {
        &self.crossing.pair.low
    }

    /// Sends messages and waits until `of_epoch` records are in the buffer's epoch.
    fn send(&self, ids: std::ops::Range<u64>, of_epoch: u64) {
        self.crossing.send(ids);
        self.crossing.wait_committed(of_epoch);
    }

    /// Seals what waits, and carries it; gives how many bundles.
    fn cross(&mut self) -> usize {
        self.high().run(["seal"]).success();
        let pair = &self.crossing.pair;
        pair.carry(&mut self.carried)
    }

    fn wait_delivered(&self, records: u64) {
        wait_until(PATIENCE, &format!("{records} delivered"), || {
            let low = self.low().status();
            low["records"] == records && pending(&low) == 0
        });
    }

    fn backup(&self, side: &Site, name: &str) -> String {
        let path = self.crossing.sandbox.join("vault").join(name);
        let path = path.to_str().unwrap();
        side.run(["backup", path, "--recipient", &self.recipient]).success();
        path.to_owned()
    }

    fn receipt(&self) -> String {
        let path = self.crossing.sandbox.join("receipt");
        self.low().run(["receipt", "--out", path.to_str().unwrap()]).success();
        path.to_str().unwrap().to_owned()
    }
}

/// The disk of a side is gone.
fn lose(site: &Site) {
    for folder in ["state", "keys"] {
        fs::remove_dir_all(site.dir().join(folder)).unwrap();
    }
    fs::remove_file(site.config()).unwrap();
}

fn alarms(site: &Site) -> Vec<String> {
    let status = site.status();
    let alarms = status["alarms"].as_array().unwrap().iter();
    let code =
        |alarm: &Value| alarm["code"].as_str().or(alarm["kind"].as_str()).unwrap().to_owned();
    let mut codes: Vec<String> = alarms.map(code).collect();
    codes.sort();
    codes.dedup();
    codes
}

fn stop(agent: Process) {
    assert!(agent.stop(PATIENCE).success());
}

fn all(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

/// Files of a folder that is not empty.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The high side's disk is lost some time after the backup; what was in the backup's buffer crossed
/// meanwhile, or did not.
fn high_side_lost(name: &str, crossed: bool) {
    let mut sites = Sites::new(name);
    let low = sites.low().start();
    let high = sites.high().start();
    sites.send(1..101, 100);
    assert_eq!(sites.cross(), 1);
    sites.wait_delivered(100);
    // In the buffer, and in no bundle, while the agent runs.
    sites.send(101..201, 200);
    let backup = sites.backup(sites.high(), "high.age");
    let mut delivered = 100;
    if crossed {
        assert_eq!(sites.cross(), 1);
        sites.send(201..301, 300);
        assert_eq!(sites.cross(), 1);
        delivered = 300;
        sites.wait_delivered(delivered);
    }
    high.kill();
    lose(sites.high());
    let receipt = sites.receipt();
    let restored = sites
        .high()
        .run(["restore", &backup, "--identity", &sites.key, "--receipt", &receipt])
        .success();
    let words =
        if crossed { "100 record(s) of lane flash arrived" } else { "100 record(s) taken in" };
    assert!(restored.contains(words), "{restored}");

    let high = sites.high().start();
    let own = if crossed { 0 } else { 100 };
    let next = delivered + own;
    sites.send(next + 1..next + 51, own + 50);
    assert_eq!(sites.cross(), 1);
    sites.wait_delivered(next + 50);
    stop(high);
    stop(low);
    let arrived = assert_sound(&sites.crossing.events());
    assert_unaltered(&arrived);
    assert_eq!(arrived.ids, all(next + 50), "each once, none left out");
    let status = sites.low().status();
    assert_eq!((&status["quarantined"], &status["adds-up"]), (&Value::from(0), &Value::from(true)));
    assert!(sites.low().json(["gaps", "--json"]).as_array().unwrap().is_empty());
    assert!(alarms(sites.low()).contains(&"epoch-began".to_owned()), "{status}");
    let expected = ["buffer-restored", "epoch-began"];
    assert_eq!(alarms(sites.high()), expected, "{}", sites.high().status());
    for site in [sites.high(), sites.low()] {
        site.run(["custody", "verify"]).success();
        site.run(["acknowledge"]).success();
    }
    // Known now, and not told again by another start.
    stop(sites.high().start());
    assert!(!alarms(sites.high()).contains(&"buffer-restored".to_owned()));
    let log = fs::read_dir(sites.high().state_dir().join("custody")).unwrap().flatten();
    let log: String = log.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
    assert!(log.contains("\"action\":\"restored\""), "{log}");
    assert_eq!(names(&sites.high().state_dir()).iter().filter(|n| n.ends_with("-work")).count(), 0);
}

#[test]
fn a_high_side_lost_after_its_buffer_crossed_is_restored_without_a_fork_or_a_repetition() {
    high_side_lost("backup-crossed", true);
}

#[test]
fn a_high_side_lost_before_its_buffer_crossed_loses_none_of_the_backup() {
    high_side_lost("backup-not-crossed", false);
}

#[test]
fn bundles_that_waited_when_the_disk_was_lost_cross_after_the_restore() {
    let mut sites = Sites::new("backup-waiting");
    let high = sites.high().start();
    let low = sites.low().start();
    sites.send(1..11, 10);
    assert_eq!(sites.cross(), 1);
    sites.wait_delivered(10);
    sites.send(11..21, 20);
    sites.high().run(["seal"]).success();
    let backup = sites.backup(sites.high(), "high.age");
    high.kill();
    lose(sites.high());
    sites.high().run(["restore", &backup, "--identity", &sites.key]).success();
    let high = sites.high().start();
    // The bundle of the old epoch stands in the outbox again, and belongs to a chain that is known.
    assert_eq!(sites.cross(), 1);
    sites.wait_delivered(20);
    sites.send(21..31, 10);
    assert_eq!(sites.cross(), 1);
    sites.wait_delivered(30);
    stop(high);
    stop(low);
    assert_eq!(assert_sound(&sites.crossing.events()).ids, all(30));
    assert_eq!(sites.low().status()["quarantined"], 0);
}

#[test]
fn a_low_side_that_lost_its_ledger_gets_it_back_and_admits_what_its_store_holds() {
    let mut sites = Sites::new("backup-ledger");
    let high = sites.high().start();
    let low = sites.low().start();
    sites.send(1..51, 50);
    sites.cross();
    sites.wait_delivered(50);
    let backup = sites.backup(sites.low(), "low.age");
    sites.send(51..101, 100);
    sites.cross();
    sites.wait_delivered(100);
    low.kill();
    let state = sites.low().state_dir();
    let refused = sites.low().run(["restore", &backup, "--identity", &sites.key]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--replace"), "{refused:?}");
    let arguments = ["restore", &backup, "--identity", &sites.key, "--replace"];
    let done = sites.low().run(arguments).success();
    let aside = done.lines().find_map(|line| line.split(" is in ").nth(1)).unwrap();
    assert!(Path::new(aside).join("ledger.db").is_file(), "{done}");

    let low = sites.low().start();
    sites.send(101..111, 110);
    sites.cross();
    sites.wait_delivered(110);
    stop(low);
    stop(high);
    let status = sites.low().status();
    assert_eq!(status["adds-up"], true, "{status}");
    assert!(sites.low().json(["gaps", "--json"]).as_array().unwrap().is_empty());
    // What was delivered behind the backup is delivered again, with the same ids: never lost.
    let mut ids: Vec<u64> = Vec::new();
    for event in sites.crossing.events() {
        ids.extend(
            tests::oracle::find_id(event["raw"].as_str().unwrap().as_bytes()).map(|id| id.0),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, all(110));
    // The log is longer than the backup's ledger knows: it stays whole, goes on, and says so.
    assert_eq!(alarms(sites.low()), ["custody-changed", "ledger-restored"], "{status}");
    sites.low().run(["custody", "verify"]).success();
    assert!(names(&state).iter().all(|name| !name.ends_with("-work") && name != "restoring"));
}

#[test]
fn a_low_side_on_a_new_disk_takes_from_the_high_side_what_it_lost() {
    let mut sites = Sites::new("backup-low-disk");
    let high = sites.high().start();
    let low = sites.low().start();
    for bundle in 0..3 {
        let first = bundle * 10 + 1;
        sites.send(first..first + 10, first + 9);
        sites.cross();
        sites.wait_delivered(first + 9);
        if bundle == 1 {
            sites.backup(sites.low(), "low.age");
        }
    }
    low.kill();
    lose(sites.low());
    fs::remove_dir_all(sites.crossing.sink_dir()).unwrap();
    let backup = sites.crossing.sandbox.join("vault/low.age");
    let done = sites.low().run(["restore", backup.to_str().unwrap(), "--identity", &sites.key]);
    assert!(done.stderr.contains("2 bundle(s) of the ledger have no file"), "{done:?}");
    done.success();
    let store = |what: &str| sites.low().status()["store"][what].as_u64();
    assert_eq!((store("bundles"), store("bytes"), store("absent")), (Some(0), Some(0), Some(2)));
    let text = sites.low().run(["status"]).success();
    assert!(
        text.contains("store        0 bundles") && text.contains("2 of the ledger ARE NOT THERE")
    );
    assert!(!text.contains("Everything adds up"), "{text}");
    let low = sites.low().start();
    assert_eq!((store("bundles"), store("absent")), (Some(0), Some(2)));
    let medium = sites.crossing.sandbox.dir("medium");
    let medium = medium.to_str().unwrap();
    sites.high().run(["export", "--all", medium]).success();
    let imported = sites.low().json(["import", "--json", medium]);
    sites.wait_delivered(30);
    stop(low);
    stop(high);
    let status = sites.low().status();
    assert_eq!((&status["adds-up"], &status["quarantined"]), (&Value::from(true), &Value::from(0)));
    assert_eq!((store("bundles"), store("absent")), (Some(3), Some(0)));
    // The sink had the first twenty; the third bundle's records come again, and the store is whole.
    assert_eq!(assert_arrived(&sites.crossing.events()), (21..=30).collect::<Vec<u64>>());
    assert_eq!(bundles_in(&sites.low().state_dir().join("store")).len(), 3, "{imported}");
    // The file sink's disk was the same one.
    assert_eq!(alarms(sites.low()), ["ledger-restored", "sink-file-changed"], "{status}");
    assert_no_unlisted_errors(&sites.low().log_path(), &["ledger-restored", "sink-file-changed"]);
    sites.low().run(["acknowledge"]).success();
    stop(sites.low().start());
    assert!(!alarms(sites.low()).contains(&"ledger-restored".to_owned()));
}

fn assert_arrived(events: &[Value]) -> Vec<u64> {
    let raw = |event: &Value| event["raw"].as_str().unwrap().as_bytes().to_vec();
    events.iter().filter_map(|event| tests::oracle::find_id(&raw(event)).map(|id| id.0)).collect()
}

/// A fork that was refused stays refused by a ledger that is older than what it contradicts.
#[test]
fn a_restored_ledger_admits_nothing_that_had_been_refused() {
    let mut sites = Sites::new("backup-fork");
    let medium = |name: &str| sites.crossing.sandbox.dir(name).to_str().unwrap().to_owned();
    let (true_way, false_way) = (medium("true"), medium("false"));
    let high = sites.high().start();
    sites.send(1..11, 10);
    sites.high().run(["seal"]).success();
    sites.high().run(["export", &true_way]).success();
    sites.low().run(["import", &true_way]).success();
    let backup = sites.backup(sites.low(), "low.age");
    stop(high);
    // Somebody copies the machine, and both go on.
    let state = sites.high().state_dir();
    let copy = sites.crossing.sandbox.join("copy");
    run(Command::new("cp").arg("-a").arg(&state).arg(&copy)).success();
    let second = |ids, to: &str| {
        let high = sites.high().start();
        sites.send(ids, 20);
        sites.high().run(["seal"]).success();
        sites.high().run(["export", to]).success();
        stop(high);
    };
    second(11..21, &true_way);
    fs::remove_dir_all(&state).unwrap();
    run(Command::new("cp").arg("-a").arg(&copy).arg(&state)).success();
    second(21..31, &false_way);
    sites.low().run(["import", &true_way]).success();
    assert_eq!(sites.low().run(["import", &false_way]).code, Some(65));
    assert_eq!(sites.low().status()["quarantine-codes"]["fork"], 1);

    // The ledger and the true bundle's file are lost.
    let low_state = sites.low().state_dir();
    let newest = bundles_in(&low_state.join("store")).pop().unwrap();
    fs::remove_file(newest).unwrap();
    let arguments = ["restore", &backup, "--identity", &sites.key, "--replace"];
    sites.low().run(arguments).success();
    let refused = sites.low().run(["import", &false_way]);
    assert_eq!(refused.code, Some(65), "{refused:?}");
    sites.low().run(["import", &true_way]).success();
    let low = sites.low().start();
    sites.wait_delivered(20);
    stop(low);
    assert_eq!(assert_sound(&sites.crossing.events()).ids, all(20));
    let status = sites.low().status();
    assert_eq!(status["adds-up"], true, "{status}");
    assert!(alarms(sites.low()).contains(&"ledger-restored".to_owned()), "{status}");
    sites.carried.clear();
}

#[test]
fn a_backup_opens_with_stock_tools_and_holds_no_key_unless_asked() {
    let sites = Sites::new("backup-stock");
    let high = sites.high().start();
    sites.send(1..11, 10);
    sites.high().run(["seal"]).success();
    let vault = sites.crossing.sandbox.join("vault");
    let at = |name: &str| vault.join(name).to_str().unwrap().to_owned();
    let open = run(&mut sites.high().command(["backup", &at("open")]));
    assert_eq!(open.code, Some(64), "{open:?}");
    assert!(open.stderr.contains("--recipient"), "{open:?}");
    // Whoever reads bundles must not get the key that signs them.
    let half = fs::read_to_string(sites.low().public_half()).unwrap();
    let key = half.lines().find_map(|line| line.strip_prefix("key ")).unwrap();
    fs::write(at("low.txt"), key).unwrap();
    let low = sites.high().run(["backup", &at("for-low"), "--recipient", &at("low.txt")]);
    assert_eq!(low.code, Some(78), "{low:?}");
    sites.high().run(["backup", &at("public.tar.zst"), "--without-keys"]).success();

    run(Command::new("age-keygen").args(["-o", &at("age.key")])).success();
    let recipient = run(Command::new("age-keygen").args(["-y", &at("age.key")])).success();
    fs::write(at("age.txt"), recipient).unwrap();
    let folder = sites.crossing.sandbox.dir("backups");
    let stale = folder.join("penstock-high-plant-7-20260101T000000Z.tar.zst.partial");
    fs::write(&stale, b"half").unwrap();
    let made = sites.high().json([
        "backup",
        "--json",
        folder.to_str().unwrap(),
        "--recipient",
        &at("age.txt"),
    ]);
    stop(high);
    assert_eq!(names(&folder).len(), 1, "what an earlier one left is gone: {:?}", names(&folder));
    let file = made["file"].as_str().unwrap();
    let sum = run(Command::new("sha256sum").arg(file)).success();
    assert!(sum.starts_with(made["sha256"].as_str().unwrap()), "{sum}");
    let script = "mkdir \"$2\" \"$3\"; age -d -i \"$1\" \"$4\" | zstd -dc | tar -x -C \"$2\"; \
                  cd \"$2\"; sha256sum --quiet -c SHA256SUMS; \
                  zstd -dc \"$5\" | tar -x -C \"$3\"; cd \"$3\"; sha256sum --quiet -c SHA256SUMS";
    let (with, without) = (at("with"), at("without"));
    let arguments = [&at("age.key"), &with, &without, file, &at("public.tar.zst")];
    run(Command::new("sh").args(["-euc", script, "sh"]).args(arguments)).success();
    let keys = |dir: &str| names(&Path::new(dir).join("keys"));
    assert!(keys(&with).contains(&"signing.key".to_owned()), "{:?}", keys(&with));
    assert_eq!(keys(&without), ["low_signers", "recipients"]);
    let secret = fs::read(sites.high().dir().join("keys/signing.key")).unwrap();
    assert_eq!(fs::read(Path::new(&with).join("keys/signing.key")).unwrap(), secret);
    for dir in [with, without] {
        for name in ["backup.json", "config/high.toml", "state/buffer.db"] {
            assert!(Path::new(&dir).join(name).exists(), "{name} in {dir}");
        }
    }
}

#[test]
fn what_is_no_backup_of_this_side_changes_nothing() {
    let sites = Sites::new("backup-refused");
    let high = sites.high().start();
    sites.send(1..11, 10);
    let backup = sites.backup(sites.high(), "high.age");
    stop(sites.low().start());
    let low_backup = sites.backup(sites.low(), "low.age");
    let restore =
        |file: &str| sites.high().run(["restore", file, "--identity", &sites.key, "--replace"]);
    let running = restore(&backup);
    assert_eq!(running.code, Some(1), "{running:?}");
    assert!(running.stderr.contains("an agent runs"), "{running:?}");
    stop(high);
    let before = contents(sites.high().dir());

    let vault = sites.crossing.sandbox.join("vault");
    let at = |name: &str| vault.join(name).to_str().unwrap().to_owned();
    let bytes = fs::read(&backup).unwrap();
    fs::write(at("cut"), &bytes[..bytes.len() - 1000]).unwrap();
    let mut flipped = bytes.clone();
    let middle = bytes.len() / 2;
    flipped[middle] ^= 1;
    fs::write(at("flipped"), &flipped).unwrap();
    fs::write(at("text"), b"no backup").unwrap();
    // What tar itself makes: a link that leads out, and a path that does.
    let script = "mkdir -p state; ln -s /etc/passwd state/buffer.db; echo x > state/a; \
                  tar -c state | zstd -q > link; tar -P -c --transform 's,^,../,' state/a | zstd -q > path";
    run(Command::new("sh").current_dir(&vault).args(["-euc", script])).success();
    let other = Site::high(&sites.crossing.sandbox, "plant-8");
    other.pair(sites.low());
    stop(other.start());
    let foreign = sites.backup(&other, "plant-8.age");
    let cases = [
        (at("cut"), "damaged"),
        (at("flipped"), "damaged"),
        (at("text"), "no backup"),
        (at("link"), "refused"),
        (at("path"), "refused"),
        (low_backup, "of a low side"),
        (foreign, "of origin plant-8"),
    ];
    for (file, words) in cases {
        let done = restore(&file);
        assert_eq!(done.code, Some(65), "{file}: {done:?}");
        assert!(done.stderr.contains(words), "{file}: {done:?}");
    }
    let wrong_key = at("other.key");
    sites.high().run(["backup-key", &wrong_key]).success();
    let done = sites.high().run(["restore", &backup, "--identity", &wrong_key, "--replace"]);
    assert_eq!(done.code, Some(78), "{done:?}");
    let here = sites.high().run(["restore", &backup, "--identity", &sites.key]);
    assert!(here.stderr.contains("--replace"), "{here:?}");
    let checked = sites.high().run(["restore", "--check", &backup, "--identity", &sites.key]);
    assert!(checked.success().contains("high plant-7, as of"));
    assert_eq!(contents(sites.high().dir()), before, "nothing was changed");
}

/// Names and contents of a folder's files, but for locks and logs, which hold nothing.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if ![".lock", ".log", "-wal", "-shm"].iter().any(|end| name.ends_with(end)) {
                found.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn killed_at_any_moment_a_backup_is_whole_or_absent_and_a_restore_is_done_again() {
    let sites = Sites::new("backup-killed");
    let high = sites.high().start();
    sites.send(1..3001, 3000);
    let vault = sites.crossing.sandbox.join("vault");
    let at = |name: &str| vault.join(name).to_str().unwrap().to_owned();
    let mut ended = [0, 0];
    let begun = Instant::now();
    sites.backup(sites.high(), "first");
    // The last ones are killed behind their end.
    let took = begun.elapsed() * 5 / 4;
    for step in 0..KILLS {
        let file = at(&format!("backup-{step}"));
        let mut command = sites.high().command(["backup", &file, "--recipient", &sites.recipient]);
        let child = Process::spawn(&mut command, "backup", &sites.crossing.sandbox.dir("logs"));
        ended[usize::from(kill_after(child, took * step / KILLS))] += 1;
        if Path::new(&file).exists() {
            let check = ["restore", "--check", &file, "--identity", &sites.key];
            sites.high().run(check).success();
        }
    }
    let backup = sites.backup(sites.high(), "last");
    stop(high);
    assert!(!sites.high().state_dir().join("backup-work").exists());
    assert!(ended[0] > 0, "none was killed");

    let mut outcomes = [0, 0];
    let arguments = ["restore", &backup, "--identity", &sites.key, "--take-in"];
    lose(sites.high());
    let begun = Instant::now();
    sites.high().run(arguments).success();
    let took = begun.elapsed() * 5 / 4;
    for step in 0..KILLS {
        lose(sites.high());
        let mut command = sites.high().command(arguments);
        let child = Process::spawn(&mut command, "restore", &sites.crossing.sandbox.dir("logs"));
        let done = kill_after(child, took * step / KILLS);
        let whole = sites.high().config().exists()
            && sites.high().state_dir().join("buffer.db").exists()
            && !sites.high().state_dir().join("restoring").exists();
        outcomes[usize::from(whole)] += 1;
        if !whole {
            assert!(!done, "it ended well, and is not whole");
            if sites.high().state_dir().join("restoring").exists() && sites.high().config().exists()
            {
                let status = sites.high().run(["status"]);
                assert_ne!(status.code, Some(0), "what is half-done looks whole");
            }
            sites.high().run(arguments).success();
        } else if !done {
            // Whole, and perhaps not all taken in: that can be asked for again.
            let aside = names(&sites.high().state_dir());
            let aside = aside.iter().find(|name| name.starts_with("set-aside-")).unwrap();
            let aside = sites.high().state_dir().join(aside);
            sites.high().run(["recover", "--from", aside.to_str().unwrap()]).success();
        }
        let status = sites.high().status();
        assert_eq!(tests::crossing::buffered(&status), 3000, "step {step}: {status}");
        assert_eq!(status["adds-up"], true, "{status}");
        sites.high().run(["custody", "verify"]).success();
    }
    println!("backups killed/done {ended:?}; restores interrupted/whole {outcomes:?}");
    assert!(outcomes[0] > 0 && outcomes[1] > 0, "{outcomes:?}");
}

const KILLS: u32 = 24;

/// Kills a child so long after its start; whether it had ended well before.
fn kill_after(mut child: Process, after: Duration) -> bool {
    let until = Instant::now() + after;
    let mut ended = None;
    wait_until(PATIENCE, "the moment to kill", || {
        ended = child.ended();
        ended.is_some() || Instant::now() >= until
    });
    child.kill();
    ended.is_some_and(|status| status.success())
}
