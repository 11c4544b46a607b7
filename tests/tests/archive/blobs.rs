//! Azure and Google: strict stand-ins that keep what a lock promises, the same when they pretend, and
//! fake-gcs-server and Azurite, which pretend always.

use std::path::Path;

use tests::crossing::{Crossing, pending};
use tests::peers::blobs::{Blobs, Vendor, write_secret};
use tests::peers::peer;
use tests::peers::stores::{AZURITE_ACCOUNT, AZURITE_KEY, azurite, azurite_put, fake_gcs};
use tests::process::run;
use tests::wait::{PATIENCE, wait_until};

use super::lost::restores_without_a_ledger;
use super::{alarms, configure, read, stored, wait_archived};

fn section(crossing: &Crossing, endpoint: &str, keys: &str) -> String {
    let _ = crossing;
    format!(
        "[[archive]]\nname = \"worm\"\nendpoint = \"{endpoint}\"\nprefix = \"p\"\nretention = \"hipaa\"\n\
         retry-min = \"50ms\"\nretry-max = \"200ms\"\n{keys}"
    )
}

fn azure(crossing: &Crossing, store: &Blobs) -> String {
    let sas = crossing.sandbox.join("sas");
    write_secret(&sas, "?sv=2021-12-02&sig=first-secret\n");
    let keys = format!(
        "type = \"azure\"\naccount = \"plant\"\ncontainer = \"evidence\"\nsas-file = \"{}\"\n",
        sas.display()
    );
    section(crossing, &store.endpoint(), &keys)
}

fn google(crossing: &Crossing, store: &Blobs) -> String {
    let keys = format!(
        "type = \"gcs\"\nbucket = \"evidence\"\nservice-account-file = \"{}\"\n",
        store.service_account().display()
    );
    section(crossing, &store.endpoint(), &keys)
}

/// Archived before anything goes on, with credentials that change in between; proven; restored.
fn keeps(crossing: &Crossing, store: &Blobs, section: &str, rotate: impl FnOnce()) {
    let low = &crossing.pair.low;
    let agents = [crossing.pair.high.start(), low.start()];
    crossing.send(1..101);
    crossing.wait_committed(100);
    assert_eq!(crossing.wait_drained(), 100);
    store.rotate("second-secret");
    crossing.send(101..151);
    crossing.wait_committed(150);
    rotate();
    assert_eq!(crossing.wait_drained(), 150);
    let archived = wait_archived(low);
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    let mut there: Vec<_> = store.objects().into_iter().map(|(_, bytes)| bytes).collect();
    let mut ours: Vec<_> = stored(low).iter().map(|path| read(path)).collect();
    there.sort();
    ours.sort();
    assert!(there == ours && ours.len() as u64 == archived, "{} objects", there.len());

    let done = low.run(["archive", "verify", "--full"]);
    assert_eq!(done.code, Some(0), "{}\n{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("it held"), "{}", done.stdout);
    let dir = crossing.sandbox.join("restored");
    low.run(["archive", "restore", &dir.display().to_string()]).success();
    assert_eq!(tests::agents::bundles_in(&dir).len() as u64, archived);

    store.pretend();
    let done = low.run(["archive", "verify"]);
    assert_eq!(done.code, Some(1), "{}", done.stdout);
    assert!(done.stdout.contains("BROKEN"), "{}", done.stdout);

    let keys: Vec<_> = store.objects().into_iter().map(|(key, _)| key).collect();
    store.overwrite(&keys[0], b"something else");
    store.hide(&keys[1]);
    let (done, _) = restores_without_a_ledger(crossing, section);
    assert_eq!(done.code, Some(0), "{done:?}");
    configure(crossing, section);
}

#[test]
fn azure_keeps_what_its_locked_policies_promise() {
    let crossing = Crossing::new("azure");
    let store = Blobs::new(Vendor::Azure, &crossing.sandbox.dir("store"));
    let section = azure(&crossing, &store);
    configure(&crossing, &section);
    let sas = crossing.sandbox.join("sas");
    let low = &crossing.pair.low;
    keeps(&crossing, &store, &section, || {
        wait_until(PATIENCE, "a refusal", || {
            let error = low.status()["agent"]["archives"]["worm"]["error"].clone();
            error.as_str().is_some_and(|error| error.contains("AuthenticationFailed"))
        });
        let status = low.status();
        assert!(pending(&status) > 0 && !status.to_string().contains("first-secret"), "{status}");
        write_secret(&sas, "sv=2021-12-02&sig=second-secret");
    });
}

#[test]
fn google_keeps_what_its_locked_retention_promises() {
    let crossing = Crossing::new("gcs");
    let store = Blobs::new(Vendor::Google, &crossing.sandbox.dir("store"));
    let section = google(&crossing, &store);
    configure(&crossing, &section);
    // A token that was taken back is asked for again.
    keeps(&crossing, &store, &section, || {
        wait_until(PATIENCE, "another token", || store.tokens() >= 2);
    });
    what_is_busy_is_not_bad(&crossing, &store);
}

/// A store that does not answer now is asked again; where it never does, nothing is proven, and nothing bad.
fn what_is_busy_is_not_bad(crossing: &Crossing, store: &Blobs) {
    let low = &crossing.pair.low;
    let verify = || low.run(["archive", "verify", "--full", "--no-probe"]);
    store.busy(3);
    let done = verify();
    assert_eq!(done.code, Some(0), "{}\n{}", done.stdout, done.stderr);
    store.busy(u32::MAX);
    let done = verify();
    assert_eq!(done.code, Some(1), "{}\n{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("unproven") && done.stdout.contains("503"), "{}", done.stdout);
    assert!(!done.stdout.contains("FINDING"), "{}", done.stdout);
    assert!(done.stderr.contains("it did not show"), "{}", done.stderr);
    store.busy(0);
    let to = low_time(crossing);
    let words = ["report", "--from", "2026-01-01T00:00:00Z", "--to", &to, "--framework", "soc2"];
    let said = low.json(words.into_iter().chain(["--json"]));
    let archive = &said["archives"]["items"][0];
    assert!(archive["last-found"].is_null(), "{archive}");
    let findings = archive["findings"].as_array().expect("a list");
    let of = |text: &str| {
        findings.iter().find(|one| one["text"].as_str().is_some_and(|said| said.contains(text)))
    };
    let shown = of("to archive verify at").expect("what was not shown");
    assert_eq!(shown["bad"], false, "{shown}");
    assert!(of("found it bad").is_none(), "{archive}");
    assert_eq!(verify().code, Some(0));
}

#[test]
fn containers_that_were_not_made_for_locks_are_refused() {
    for vendor in [Vendor::Azure, Vendor::Google] {
        let crossing = Crossing::new("unlockable");
        let store = Blobs::new(vendor, &crossing.sandbox.dir("store"));
        store.without_locks();
        let section = match vendor {
            Vendor::Azure => azure(&crossing, &store),
            Vendor::Google => google(&crossing, &store),
        };
        is_refused(&crossing, &section);
        assert!(store.objects().is_empty());
    }
}

fn is_refused(crossing: &Crossing, section: &str) {
    configure(crossing, section);
    let low = &crossing.pair.low;
    let agents = [crossing.pair.high.start(), low.start()];
    crossing.send(1..11);
    crossing.wait_committed(10);
    wait_until(PATIENCE, "the alarm", || {
        low.status()["records"] == 10 && alarms(low).contains(&"archive-refused".to_owned())
    });
    assert_eq!(pending(&low.status()), 10);
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    let done = low.run(["archive", "verify"]);
    assert_eq!(done.code, Some(1), "{}", done.stdout);
    assert!(done.stdout.contains("BROKEN"), "{}", done.stdout);
}

#[test]
fn fake_gcs_server_is_found_out() {
    let crossing = Crossing::new("fake-gcs");
    let (_server, endpoint) = fake_gcs(&crossing.sandbox.join("store"));
    let mut make = peer("curl");
    make.args(["--silent", "--fail", "--json", "{\"name\":\"evidence\"}"]);
    run(make.arg(format!("{endpoint}/storage/v1/b?project=tests"))).success();
    let token = crossing.sandbox.join("token");
    write_secret(&token, "anything");
    let keys =
        format!("type = \"gcs\"\nbucket = \"evidence\"\ntoken-file = \"{}\"\n", token.display());
    let section = section(&crossing, &endpoint, &keys);
    is_refused(&crossing, &section);

    // What somebody else has put there, as it is listed by a program that is not ours.
    for path in stored(&crossing.pair.low) {
        let mut put = peer("curl");
        put.args(["--silent", "--show-error", "--fail", "--request", "POST", "--data-binary"]);
        put.arg(format!("@{}", path.display()));
        let name = archived_as(&path).replace('/', "%2F");
        let query = format!("uploadType=media&name={name}");
        run(put.arg(format!("{endpoint}/upload/storage/v1/b/evidence/o?{query}"))).success();
    }
    let (done, _) = restores_without_a_ledger(&crossing, &section);
    assert_eq!(done.code, Some(0), "{done:?}");
}

/// The name under which a bundle of a store is archived.
fn archived_as(path: &Path) -> String {
    let name = path.file_name().expect("a file of the store").to_string_lossy().into_owned();
    // From the right, as an origin may hold hyphens: digest, number, lane, epoch.
    let parts: Vec<_> = name.rsplitn(5, '-').collect();
    format!("p/{}/{}/{}/{name}", parts[4], parts[3], parts[2])
}

/// It takes a policy's headers, and has no version-level immutability: nothing is entrusted to it, and
/// the proof says why.
#[test]
fn azurite_is_found_out() {
    let crossing = Crossing::new("azurite");
    let (_server, endpoint) = azurite(&crossing.sandbox.join("store"), "evidence");
    let key = crossing.sandbox.join("key");
    write_secret(&key, AZURITE_KEY);
    let keys = format!(
        "type = \"azure\"\naccount = \"{AZURITE_ACCOUNT}\"\ncontainer = \"evidence\"\nshared-key-file = \"{}\"\n",
        key.display()
    );
    let section = section(&crossing, &endpoint, &keys);
    is_refused(&crossing, &section);
    let done = crossing.pair.low.run(["archive", "verify"]);
    assert!(
        done.stdout.contains("the container has no version-level immutability"),
        "{}",
        done.stdout
    );
    let said = crossing.pair.low.json([
        "report",
        "--from",
        "2020-01-01T00:00:00Z",
        "--to",
        &low_time(&crossing),
        "--framework",
        "hipaa",
        "--json",
    ]);
    let reasons = said["verdict"]["reasons"].to_string();
    assert!(reasons.contains("the archive worm: its lock did not hold"), "{reasons}");
    assert!(reasons.contains("it does not lock what it gets"), "{reasons}");

    // What somebody else has put there, as it is listed by a program that is not ours.
    for path in stored(&crossing.pair.low) {
        azurite_put(&endpoint, &format!("evidence/{}", archived_as(&path)), &path);
    }
    let (done, _) = restores_without_a_ledger(&crossing, &section);
    assert_eq!(done.code, Some(0), "{done:?}");
}

/// The time of now, as the low side says it.
fn low_time(crossing: &Crossing) -> String {
    crossing.pair.low.status()["time"].as_str().unwrap_or_default().to_owned()
}
