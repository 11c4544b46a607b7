//! S3: `SeaweedFS`, whose lock holds; moto, whose lock does not.

use std::collections::BTreeSet;

use tests::agents::Site;
use tests::crossing::{Crossing, assert_sound, pending};
use tests::logs::assert_no_unlisted_errors;
use tests::peers::stores::{ADMIN, READER, S3Store, WRITER, write_credentials};
use tests::peers::{peer, run_with_input, sha256sum};
use tests::wait::{PATIENCE, wait_until};

use super::lost::restores_without_a_ledger;
use super::{alarms, archive_of, configure, read, read_text, stored, wait_archived};

fn section(crossing: &Crossing, store: &S3Store, more: &str) -> String {
    let credentials = crossing.sandbox.join("credentials");
    format!(
        "[[archive]]\nname = \"worm\"\ntype = \"s3\"\nendpoint = \"{}\"\nbucket = \"audit\"\nprefix = \"evidence\"\n\
         credentials-file = \"{}\"\nretain = \"30d\"\nretry-min = \"50ms\"\nretry-max = \"200ms\"\n\
         timeout = \"10s\"\n{more}",
        store.endpoint(),
        credentials.display()
    )
}

/// What stands in the bucket under the prefix, without canaries: names without folders, and versions.
fn objects(store: &S3Store) -> Vec<(String, String)> {
    let mut found: Vec<_> = store
        .versions("audit")
        .into_iter()
        .filter(|(key, _)| key.starts_with("evidence/plant-7/"))
        .collect();
    found.sort();
    found
}

fn name(key: &str) -> String {
    key.rsplit('/').next().unwrap_or_default().to_owned()
}

#[test]
fn a_bundle_is_archived_as_it_came_before_its_records_go_on() {
    let crossing = Crossing::new("s3");
    let mut store = S3Store::seaweedfs(&crossing.sandbox.dir("store"));
    store.bucket("audit", true);
    write_credentials(&crossing.sandbox.join("credentials"), WRITER);
    configure(&crossing, &section(&crossing, &store, "lag-alarm = \"1s\"\n"));
    let low = &crossing.pair.low;
    let high = crossing.pair.high.start();
    let agent = low.start();
    crossing.send(1..201);
    crossing.wait_committed(200);
    assert_eq!(crossing.wait_drained(), 200);
    let archived = wait_archived(low);
    assert_eq!(objects(&store).len() as u64, archived);

    // The store is away: what comes is admitted and waits, and an alarm says so.
    store.stop();
    crossing.send(201..301);
    crossing.wait_committed(300);
    wait_until(PATIENCE, "bundles that wait", || {
        let status = low.status();
        status["records"] == 300
            && status["agent"]["archives"]["worm"]["state"] == "failing"
            && alarms(low).contains(&"archive-lag".to_owned())
    });
    let status = low.status();
    assert_eq!(pending(&status), 100, "{status}");
    assert_eq!(assert_sound(&crossing.events()).ids.len(), 200);

    // It comes back, and its writer has got another secret meanwhile.
    let rotated = ("writer-2", "another-secret");
    store.users(&[ADMIN, READER, rotated]);
    store.start();
    wait_until(PATIENCE, "a refusal", || {
        let error = low.status()["agent"]["archives"]["worm"]["error"].clone();
        error.as_str().is_some_and(|error| error.contains("403"))
    });
    assert_eq!(pending(&low.status()), 100);
    write_credentials(&crossing.sandbox.join("credentials"), rotated);
    assert_eq!(crossing.wait_drained(), 300);
    wait_until(PATIENCE, "the alarm to close", || !alarms(low).contains(&"archive-lag".to_owned()));

    // Every bundle of the store is there once, byte for byte.
    let archived = wait_archived(low);
    let there = objects(&store);
    let keys: BTreeSet<_> = there.iter().map(|(key, _)| name(key)).collect();
    assert_eq!((keys.len() as u64, there.len() as u64), (archived, archived), "{there:?}");
    let listed = low.run(["archive", "list"]).success();
    for path in stored(low) {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(keys.contains(&file), "{file} in {keys:?}");
        assert!(listed.contains(&sha256sum(&path)), "{listed}");
    }
    let custody = low.run(["custody", "show", "flash/1"]).success();
    assert!(custody.contains("archived") && custody.contains("s3://audit/evidence/"), "{custody}");
    low.run(["custody", "verify"]).success();
    for agent in [high, agent] {
        assert!(agent.stop(PATIENCE).success());
    }

    the_lock_is_proven(&crossing);
    a_fresh_low_side_gets_the_same_records(&crossing);
    a_rebuilt_ledger_adopts_what_is_there(&crossing, &store);
    what_was_overwritten_and_deleted_comes_back(&crossing, &store);
    assert_no_unlisted_errors(
        &low.log_path(),
        &["archive-lag", "ledger-rebuilt", "custody-changed"],
    );
}

/// `archive verify`, with a report that is signed.
fn the_lock_is_proven(crossing: &Crossing) {
    let low = &crossing.pair.low;
    let admin = crossing.sandbox.join("admin-credentials");
    write_credentials(&admin, ADMIN);
    let report = crossing.sandbox.join("report.json");
    let (admin, shown) = (admin.display().to_string(), report.display().to_string());
    let arguments =
        ["archive", "verify", "--full", "--credentials", &admin, "--report", &shown, "--json"];
    let done = low.run(arguments);
    let text = read_text(&crossing.sandbox.join("report.json.txt"));
    assert_eq!(done.code, Some(0), "{text}\n{}", done.stderr);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).expect("a report");
    assert_eq!((&report["verdict"], &report["lock"]["outcome"]), (&"good".into(), &"holds".into()));
    assert_eq!(report["objects"]["read"], report["ledger"]["archived"]);
    assert_eq!(report["ledger"]["unaccounted"], 0);
    assert!(text.contains("lock it for less time"), "{text}");

    // Anybody can check the signature with the public half.
    let public = read_text(&low.public_half());
    let key = public.split_whitespace().skip_while(|word| *word != "ssh-ed25519").nth(1);
    let key = key.expect("a signing key");
    let signers = crossing.sandbox.join("signers");
    std::fs::write(&signers, format!("low ssh-ed25519 {key}\n")).expect("a list of signers");
    let mut verify = peer("ssh-keygen");
    verify.args(["-Y", "verify", "-n", "penstock-archive@v1", "-I", "low"]);
    verify.arg("-f").arg(&signers).arg("-s").arg(crossing.sandbox.join("report.json.sig"));
    let json = read(&crossing.sandbox.join("report.json"));
    run_with_input(&mut verify, &json).success();

    // Who may do nothing can't prove that nobody may.
    let reader = crossing.sandbox.join("reader-credentials");
    write_credentials(&reader, READER);
    let reader = reader.display().to_string();
    let done = low.run(["archive", "verify", "--credentials", &reader]);
    assert!(done.code == Some(1) && done.stdout.contains("unproven"), "{done:?}");
    low.run(["archive", "verify", "--no-probe"]).success();
}

fn a_fresh_low_side_gets_the_same_records(crossing: &Crossing) {
    let low = &crossing.pair.low;
    let dir = crossing.sandbox.join("restored");
    let shown = dir.display().to_string();
    low.run(["archive", "restore", &shown]).success();
    let originals = stored(low);
    for path in &originals {
        let restored = dir.join(path.file_name().expect("a name"));
        assert_eq!(read(path), read(&restored));
    }
    let one = crossing.sandbox.join("one").display().to_string();
    low.run(["archive", "restore", "flash/1", &one]).success();
    assert_eq!(tests::agents::bundles_in(one.as_ref()).len(), 1);
    let none = low.run([
        "archive",
        "restore",
        "--from",
        "2001-01-01T00:00:00Z",
        "--to",
        "2001-01-02T00:00:00Z",
        &one,
    ]);
    assert_eq!(none.code, Some(1), "{none:?}");

    // The same keys on another machine.
    let fresh = low.clone().with_state_dir(crossing.sandbox.join("fresh-state"));
    let sink = crossing.sandbox.join("fresh-sink");
    fresh.configure(&format!(
        "[[sink]]\nname = \"file\"\ntype = \"file\"\npath = \"{}\"\n",
        sink.display()
    ));
    fresh.run(["import", &shown]).success();
    let agent = fresh.start();
    wait_until(PATIENCE, "all records", || {
        let status = fresh.status();
        status["records"] == 300 && pending(&status) == 0
    });
    assert!(agent.stop(PATIENCE).success());
    assert_eq!(assert_sound(&tests::oracle::events_of(&sink)).ids.len(), 300);
}

/// The ledger is gone: what stands in the archive is adopted, and nothing gets a second version.
fn a_rebuilt_ledger_adopts_what_is_there(crossing: &Crossing, store: &S3Store) {
    let low = &crossing.pair.low;
    let before = objects(store);
    configure(crossing, &section(crossing, store, "order = \"beside\"\n"));
    for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _ = std::fs::remove_file(low.state_dir().join(file));
    }
    let agent = low.start();
    assert_eq!(wait_archived(low) as usize, before.len());
    assert!(agent.stop(PATIENCE).success());
    assert_eq!(objects(store), before);
}

/// Ledger and store are gone, and somebody has put something else over one bundle and deleted another.
fn what_was_overwritten_and_deleted_comes_back(crossing: &Crossing, store: &S3Store) {
    let there = objects(store);
    let (over, gone) = (&there[0].0, &there[1].0);
    for (method, key) in [("PUT", over), ("DELETE", gone)] {
        let (status, text) = store.curl(ADMIN, method, &format!("/audit/{key}"), &[]);
        assert!((200..300).contains(&status), "{text}");
    }
    let (done, lost) = restores_without_a_ledger(crossing, &section(crossing, store, ""));
    assert_eq!(done.code, Some(0), "{done:?}");
    let listed = lost.run(["archive", "list", "--without-ledger"]);
    assert!(listed.stdout.contains("2 versions"), "{listed:?}");
    assert!(listed.stderr.contains("1 bundle(s) were deleted"), "{listed:?}");

    // A name of ours with something else in all of its versions is said, and others are restored.
    let forged = format!("evidence/plant-7/9/flash/{FORGED}");
    let (status, text) = store.curl(ADMIN, "PUT", &format!("/audit/{forged}"), &[]);
    assert_eq!(status, 200, "{text}");
    let dir = crossing.sandbox.join("lost-forged").display().to_string();
    let done = lost.run(["archive", "restore", "--without-ledger", &dir]);
    assert_ne!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("1 bundle(s) are not what their names say"), "{done:?}");
    assert_eq!(tests::agents::bundles_in(dir.as_ref()).len(), there.len());
}

/// The name of a bundle that never was.
const FORGED: &str = "plant-7-9-flash-0000009999-0123456789abcdef.pstk";

#[test]
fn a_kill_between_the_store_and_the_ledger_leaves_one_version() {
    let crossing = Crossing::new("s3-kill");
    let store = S3Store::seaweedfs(&crossing.sandbox.dir("store"));
    store.bucket("audit", true);
    write_credentials(&crossing.sandbox.join("credentials"), WRITER);
    configure(&crossing, &section(&crossing, &store, ""));
    let low = &crossing.pair.low;
    let _high = crossing.pair.high.start();
    let mut next = 1;
    for _ in 0..6 {
        // Killed as soon as the store has something more: it is in the ledger, or is not.
        let had = objects(&store).len();
        let agent = low.start();
        crossing.send(next..next + 100);
        next += 100;
        wait_until(PATIENCE, "another object", || objects(&store).len() > had);
        agent.kill();
    }
    let agent = low.start();
    crossing.wait_committed(next - 1);
    assert_eq!(crossing.wait_drained(), next - 1);
    let archived = wait_archived(low);
    let there = objects(&store);
    let keys: BTreeSet<_> = there.iter().map(|(key, _)| key).collect();
    assert_eq!((there.len() as u64, keys.len() as u64), (archived, archived), "{there:?}");
    assert_eq!(assert_sound(&crossing.events()).ids.len() as u64, next - 1);
    assert!(agent.stop(PATIENCE).success());
    low.run(["archive", "verify", "--full", "--no-probe"]).success();
}

/// What comes waits, because the archive is refused for this reason.
fn is_refused(crossing: &Crossing, why: &str) {
    let low = &crossing.pair.low;
    let _agents = [crossing.pair.high.start(), low.start()];
    crossing.send(1..51);
    crossing.wait_committed(50);
    wait_until(PATIENCE, "the alarm", || {
        let status = low.status();
        let error = status["agent"]["archives"]["worm"]["error"].as_str().unwrap_or_default();
        let alarmed = alarms(low).contains(&"archive-refused".to_owned());
        status["records"] == 50 && alarmed && error.contains(why)
    });
    let status = low.status();
    assert_eq!((pending(&status), archive_of(low)["archived"].as_u64()), (50, Some(0)), "{status}");
}

#[test]
fn a_bucket_without_a_lock_is_refused() {
    let crossing = Crossing::new("s3-plain");
    let store = S3Store::seaweedfs(&crossing.sandbox.dir("store"));
    store.bucket("audit", false);
    write_credentials(&crossing.sandbox.join("credentials"), ADMIN);
    configure(&crossing, &section(&crossing, &store, ""));
    is_refused(&crossing, "Object Lock is not enabled");
    assert!(objects(&store).is_empty());

    // It is made anew, with a lock.
    let (status, text) = store.curl(ADMIN, "DELETE", "/audit", &[]);
    assert!((200..300).contains(&status), "{status}: {text}");
    store.bucket("audit", true);
    let low = &crossing.pair.low;
    let _agents = [crossing.pair.high.start(), low.start()];
    assert_eq!(crossing.wait_drained(), 50);
    assert!(wait_archived(low) > 0);
    wait_until(PATIENCE, "its end", || !alarms(low).contains(&"archive-refused".to_owned()));
}

#[test]
fn a_store_that_only_pretends_is_found_out() {
    let crossing = Crossing::new("s3-moto");
    let store = S3Store::moto(&crossing.sandbox.dir("store"));
    store.bucket("audit", true);
    write_credentials(&crossing.sandbox.join("credentials"), ADMIN);
    configure(&crossing, &section(&crossing, &store, ""));
    let low: &Site = &crossing.pair.low;
    let agents = [crossing.pair.high.start(), low.start()];
    crossing.send(1..51);
    crossing.wait_committed(50);
    assert_eq!(crossing.wait_drained(), 50);
    wait_archived(low);
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    let done = low.run(["archive", "verify", "--full"]);
    assert_eq!(done.code, Some(1), "{}", done.stdout);
    let broken: Vec<_> = done.stdout.lines().filter(|line| line.contains("BROKEN")).collect();
    for what in ["suspend versioning", "lock it for less time", "GOVERNANCE"] {
        assert!(broken.iter().any(|line| line.contains(what)), "{what}:\n{}", done.stdout);
    }
    // It was no more than a try: the bucket is as it was.
    let (_, text) = store.curl(ADMIN, "GET", "/audit?versioning=", &[]);
    assert!(text.contains("Enabled"), "{text}");
}
