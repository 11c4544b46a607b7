//! What was lost comes back: by whom the commands are given, and what the two sides then say of it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::agents::{Site, program};
use tests::crossing::{Crossing, pending};
use tests::process::{Process, run};
use tests::sandbox::Sandbox;
use tests::wait::{PATIENCE, wait_until};

fn stop(agent: Process) {
    assert!(agent.stop(PATIENCE).success());
}

fn delivered(low: &Site, records: u64) {
    wait_until(PATIENCE, &format!("{records} delivered"), || {
        let status = low.status();
        status["records"] == records && pending(&status) == 0
    });
}

fn lose_ledger(low: &Site) {
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(low.state_dir().join(format!("ledger.db{end}")));
    }
}

fn alarm(site: &Site, code: &str) -> Option<String> {
    let status = site.status();
    let alarms = status["alarms"].as_array().unwrap().iter();
    let of_code = |alarm: &&Value| alarm["code"] == code || alarm["kind"] == code;
    let mut found = alarms.filter(of_code).filter(|alarm| alarm["closed"].is_null());
    found.next().map(|alarm| alarm["message"].as_str().unwrap().to_owned())
}

/// The crossing's bundles, delivered; both agents have ended.
fn two_bundles(crossing: &Crossing, low_sections: &str) {
    crossing.pair.high.configure(&format!(
        "[seal]\nflash-budget = \"1h\"\nheartbeat = \"1d\"\n{}",
        crossing.listener()
    ));
    let sections = format!("{}{}{low_sections}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&sections);
    let (high, low) = (crossing.pair.high.start(), crossing.pair.low.start());
    let mut carried = Vec::new();
    for bundle in 0..2 {
        crossing.send(bundle * 5 + 1..bundle * 5 + 6);
        crossing.wait_committed(bundle * 5 + 5);
        crossing.pair.high.run(["seal"]).success();
        crossing.pair.carry(&mut carried);
        delivered(&crossing.pair.low, bundle * 5 + 5);
    }
    stop(high);
    stop(low);
}

/// The handbook's ordinary rotation: the old key's time is over. A revoked one is no other for what came before.
#[test]
fn a_lost_ledger_comes_back_after_a_rotation_and_falsifies_no_latency() {
    for revoked in [false, true] {
        let crossing = Crossing::new("lost-ledger");
        two_bundles(&crossing, "[latency]\nflash-budget = \"1ms\"\nroutine-budget = \"1ms\"\n");
        let low = &crossing.pair.low;
        let before = low.json(["latency", "--json"]);
        assert!(before.to_string().contains("received-to-delivered"), "{before}");
        let keys = low.dir().join("keys");
        let signers = fs::read_to_string(keys.join("allowed_signers")).unwrap();
        if revoked {
            let public = fs::read_to_string(crossing.pair.high.public_half()).unwrap();
            let key = public.lines().find_map(|line| line.strip_prefix("key ")).unwrap();
            fs::write(keys.join("revoked_keys"), format!("{key}\n")).unwrap();
        } else {
            let ended = signers.replacen("v1\"", "v1\",valid-before=\"20200101Z\"", 1);
            assert_ne!(ended, signers);
            fs::write(keys.join("allowed_signers"), ended).unwrap();
        }
        let heard = low.status()["heard"].clone();
        let report = || {
            let period = ["--from", "2026-01-01T00:00:00Z", "--to", "2099-01-01T00:00:00Z"];
            let words = ["report", "--framework", "soc2", "--json"].into_iter().chain(period);
            low.run(words).stdout
        };
        let waits = |report: &str| {
            let report: Value = serde_json::from_str(report).unwrap();
            let waits = &report["latency"]["admitted"];
            assert!(waits.to_string().contains("max-ms"), "{report}");
            waits.clone()
        };
        let before = waits(&report());
        lose_ledger(low);
        let agent = low.start();
        delivered(low, 10);
        let status = low.status();
        assert_eq!(
            (&status["admitted"], &status["adds-up"]),
            (&2.into(), &true.into()),
            "{status}"
        );
        assert_eq!(status["store"]["not-admitted"], 0);
        // Nothing came: no latency, no clock, and no bundle that was heard of just now.
        assert_eq!(
            (&status["latency"], &status["clocks"]),
            (&Value::from(Vec::<Value>::new()), &Value::from(Vec::<Value>::new()))
        );
        let last = |heard: &Value| heard[0]["last"].as_str().unwrap()[..19].to_owned();
        assert_eq!(last(&status["heard"]), last(&heard), "{status}");
        let rebuilt = alarm(low, "ledger-rebuilt").unwrap();
        let expected = "of 2 files of the store 2 are admitted anew (2 at the time that the signed custody log has";
        assert!(rebuilt.contains(expected), "{rebuilt}");
        stop(agent);
        let told = report();
        assert!(told.contains("2 bundles admitted anew when the ledger was rebuilt"), "{told}");
        assert!(!told.contains("over the budget of the lane"), "{told}");
        assert_eq!(waits(&told), before, "each took as long to its admission as it did");
        low.run(["custody", "verify"]).success();

        // Without a log that says so they stay where they are, and nobody says that all is well.
        lose_ledger(low);
        fs::remove_dir_all(low.state_dir().join("custody")).unwrap();
        let agent = low.start();
        let rebuilt = alarm(low, "ledger-rebuilt").unwrap();
        assert!(
            rebuilt.contains("0 are admitted anew") && rebuilt.contains("2 are NOT admitted"),
            "{rebuilt}"
        );
        let text = low.run(["status"]).success();
        assert!(text.contains("2 files besides ARE NOT ADMITTED"), "{text}");
        assert!(!text.contains("Everything adds up"), "{text}");
        stop(agent);
        // An operator's word takes what was sealed in time; here it was not, and a revoked key's never is.
        let store = low.state_dir().join("store");
        let words =
            ["import", "--admitted-before", "the archive of last year", store.to_str().unwrap()];
        assert_eq!(low.run(words).code, Some(65));
        if !revoked {
            fs::write(
                keys.join("allowed_signers"),
                signers.replacen("v1\"", "v1\",valid-before=\"20990101Z\"", 1),
            )
            .unwrap();
            let done = low.json([
                "import",
                "--json",
                "--admitted-before",
                "the archive of last year",
                store.to_str().unwrap(),
            ]);
            assert_eq!(done["admitted"], 2, "{done}");
            assert!(!low.run(["status"]).success().contains("NOT ADMITTED"));
            assert_eq!(alarm(low, "store-not-admitted"), None);
            let log = fs::read_dir(low.state_dir().join("custody")).unwrap().flatten();
            let log: String =
                log.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
            assert!(log.contains("by the word of an operator: the archive of last year"), "{log}");
        }
    }
}

#[test]
fn what_came_after_the_backup_is_taken_in_from_the_buffer_that_was_replaced() {
    for with_receipt in [true, false] {
        let crossing = Crossing::new("lost-replaced");
        two_bundles(&crossing, "");
        let (high, low) = (&crossing.pair.high, &crossing.pair.low);
        let agent = high.start();
        let backups = crossing.sandbox.dir("backups");
        let backups = backups.to_str().unwrap();
        for _ in 0..2 {
            // Two backups: their names have the second in them.
            wait_until(PATIENCE, "a backup under a name of its own", || {
                high.run(["backup", backups, "--keys-in-the-clear"]).code == Some(0)
            });
        }
        crossing.send(11..14);
        crossing.wait_committed(13);
        stop(agent);
        let receipt = crossing.sandbox.join("receipt");
        let receipt = receipt.to_str().unwrap();
        low.run(["receipt", "--out", receipt]).success();
        let checked = high.run(["restore", "--check", backups]);
        let newest =
            fs::read_dir(backups).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
        assert!(
            checked.stderr.contains(&format!("the newest of 2 in {backups}: {}", newest.display())),
            "{checked:?}"
        );
        checked.success();
        let mut words = vec!["restore", backups, "--replace"];
        if with_receipt {
            words.extend(["--receipt", receipt]);
        }
        let done = high.run(words);
        let replaced = done
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("the buffer that stood here is in "));
        let replaced = replaced.and_then(|line| line.split_once(',')).unwrap().0.to_owned();
        let agent = high.start();
        let told = alarm(high, "buffer-restored").unwrap();
        assert!(told.contains(&format!("recover --from {replaced} --receipt")), "{told}");
        assert!(!told.contains("gone"), "{told}");
        stop(agent);
        if !with_receipt {
            // As the command and the alarm say.
            assert!(
                done.stderr.contains(&format!("recover --from {replaced} --receipt")),
                "{done:?}"
            );
            high.run(["recover", "--from", &replaced, "--receipt", receipt]).success();
        }
        // Once is enough, however often it is asked for, and from whichever folder.
        for folder in fs::read_dir(high.state_dir()).unwrap().flatten() {
            if folder.file_name().to_string_lossy().starts_with("set-aside-") {
                let folder = folder.path();
                high.run(["recover", "--from", folder.to_str().unwrap(), "--receipt", receipt])
                    .success();
            }
        }
        let (high_agent, low_agent) = (high.start(), low.start());
        high.run(["seal"]).success();
        crossing.pair.carry(&mut Vec::new());
        delivered(low, 13);
        stop(high_agent);
        stop(low_agent);
        let mut ids: Vec<u64> = crossing
            .events()
            .iter()
            .filter_map(|event| tests::oracle::find_id(event["raw"].as_str().unwrap().as_bytes()))
            .map(|id| id.0)
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=13).collect::<Vec<u64>>(), "each once");
    }
}

/// Any user but root; the name behind it is of no matter.
const SERVICE: u32 = 1;

fn give(dir: &Path) {
    let owner = format!("{SERVICE}:{SERVICE}");
    run(Command::new("chown").args(["-R", &owner]).arg(dir)).success();
}

fn all_are_the_service_s(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let meta = entry.path().symlink_metadata().unwrap();
        assert_eq!(meta.uid(), SERVICE, "{}", entry.path().display());
        if meta.is_dir() {
            all_are_the_service_s(&entry.path());
        }
    }
}

/// The pages print commands bare, and whoever follows them after a disaster is root.
#[test]
fn root_acts_as_the_owner_of_the_state_folder() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let crossing = Crossing::new("lost-root");
    run(Command::new("chmod").arg("755").arg(crossing.sandbox.path())).success();
    two_bundles(&crossing, "");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let stick = crossing.sandbox.dir("stick");
    let stick = stick.to_str().unwrap();
    high.run(["export", "--all", stick]).success();
    // Only root can read what root brings.
    let vault = crossing.sandbox.dir("vault");
    run(Command::new("chmod").arg("700").arg(&vault)).success();
    let backup = |site: &Site, name: &str| {
        let file = vault.join(name);
        let file = file.to_str().unwrap().to_owned();
        site.run(["backup", &file, "--keys-in-the-clear"]).success();
        file
    };
    let (high_backup, low_backup) = (backup(high, "high"), backup(low, "low"));
    let receipt = vault.join("receipt");
    low.run(["receipt", "--out", receipt.to_str().unwrap()]).success();
    let own = |site: &Site| [site.state_dir(), site.dir().join("keys")];
    for dir in own(high).iter().chain(&own(low)) {
        give(dir);
    }

    let imported = low.json(["import", "--json", stick]);
    assert_eq!(imported["duplicate"], 2, "{imported}");
    let refused = vault.join("secret.pstk");
    fs::write(&refused, "x").unwrap();
    let done = low.run(["import", vault.to_str().unwrap()]);
    assert_eq!(done.code, Some(74), "{done:?}");
    assert!(done.stderr.contains("that user must be able to read"), "{done:?}");
    low.run(["quarantine", "retry", "--all"]).success();
    low.run(["acknowledge"]).success();
    all_are_the_service_s(&low.state_dir());

    let words = ["restore", &high_backup, "--replace", "--receipt", receipt.to_str().unwrap()];
    high.run(words).success();
    fs::remove_file(low.config()).unwrap();
    low.run(["restore", &low_backup, "--replace"]).success();
    assert_eq!(low.config().metadata().unwrap().uid(), 0, "the configuration stays root's");
    high.run(["recover", "--yes"]).success();
    for dir in own(high).iter().chain(&own(low)) {
        all_are_the_service_s(dir);
    }
}

#[test]
fn a_new_key_of_a_low_side_is_of_the_kind_and_the_name_of_the_old_one() {
    let sandbox = Sandbox::new("lost-rotation");
    for (words, kind, name) in [
        (vec!["--post-quantum", "--name", "soc-7"], "age1pq1", "name soc-7"),
        (vec![], "age1", "name low"),
    ] {
        let dir = sandbox.dir(name);
        let init = |words: &[&str]| {
            let mut command = Command::new(program("penstock-low"));
            run(command.arg("init").args(words).arg("--dir").arg(&dir)).success()
        };
        let first = init(&words);
        let keys = dir.join("keys");
        run(Command::new("mv").arg(keys.join("identity.key")).arg(keys.join("identity-old.key")))
            .success();
        let second = init(&[]);
        let key = |text: &str| {
            text.lines().find_map(|line| line.strip_prefix("key ")).unwrap().to_owned()
        };
        assert_ne!(key(&first), key(&second));
        for text in [first, second] {
            assert!(text.contains(name), "{text}");
            assert_eq!(key(&text).starts_with("age1pq1"), kind == "age1pq1", "{text}");
        }
        assert!(Path::new(&keys).join("identity-old.key").exists());
    }
}
