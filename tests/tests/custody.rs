//! Every bundle is accounted for in the custody logs of both sides, whatever was killed; tampering is
//! found; and a receipt brings back what was lost on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::keys::SigningKey;
use shared::receipt::{AdmittedRange, ChainReceipt, Receipt, resend_request};
use shared::record::{Epoch, Lane};
use tests::agents::{Site, bundles_in};
use tests::crossing::Crossing;
use tests::logs::assert_no_unlisted_errors;
use tests::wait::{PATIENCE, wait_until};

/// The segments of a site's custody log, in order.
fn segments(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.state_dir().join("custody")).expect("a custody log");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

/// Every entry of a site's custody log.
fn entries(site: &Site) -> Vec<Value> {
    let texts = segments(site)
        .into_iter()
        .map(|path| std::fs::read_to_string(path).expect("nothing fails here"));
    let lines: Vec<String> =
        texts.flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// How often each action was noted for each bundle, by the bundle's digest.
fn actions(site: &Site) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut found: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for entry in entries(site) {
        if let Some(digest) = entry["bundle"]["digest"].as_str() {
            let action = entry["action"].as_str().expect("an action").to_owned();
            *found.entry(digest.to_owned()).or_default().entry(action).or_default() += 1;
        }
    }
    found
}

fn verify(site: &Site) -> Value {
    let done = site.run(["custody", "verify", "--json"]);
    serde_json::from_str(&done.stdout).unwrap_or_else(|err| panic!("{err}: {done:?}"))
}

#[test]
fn every_bundle_is_accounted_for_on_both_sides_after_kills() {
    let crossing = Crossing::new("custody-kills");
    crossing.configure(25);
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let receipts = crossing.sandbox.dir("receipts");
    let timed =
        format!("[receipt]\nfolder = {:?}\ninterval = \"1s\"\n", receipts.display().to_string());
    low.configure(&format!("{}{}{timed}", Crossing::quick_inbox(), crossing.file_sink()));
    let (mut high_agent, mut low_agent) = (high.start(), low.start());
    let mut sent = 0;
    for round in 0..6 {
        crossing.send(sent + 1..sent + 101);
        sent += 100;
        crossing.wait_committed(sent);
        if round % 2 == 0 {
            high_agent.kill();
            high_agent = high.start();
        }
        if round % 3 != 1 {
            low_agent.kill();
            low_agent = low.start();
        }
    }
    let records = crossing.wait_drained();
    assert!(records >= sent, "{records}");
    // The agent writes receipts by itself.
    let receipt = receipts.join("low.receipt");
    wait_until(PATIENCE, "a receipt of what came", || {
        std::fs::read_to_string(&receipt).is_ok_and(|text| text.contains("\"digest\""))
    });
    assert!(high_agent.stop(PATIENCE).success());
    assert!(low_agent.stop(PATIENCE).success());

    for site in [high, low] {
        let verdict = verify(site);
        assert_eq!(verdict["found"], 0, "{verdict}");
        assert_eq!(verdict["signed_through"], verdict["last"], "signed to its end: {verdict}");
        assert_no_unlisted_errors(&site.log_path(), &[]);
    }
    let (on_high, on_low) = (actions(high), actions(low));
    let bundles = high.json(["bundles", "--json"]);
    let bundles = bundles["bundles"].as_array().expect("bundles");
    assert!(bundles.len() > 2, "{}", bundles.len());
    for bundle in bundles {
        let digest = bundle["digest"].as_str().expect("a digest");
        let (here, there) = (&on_high[digest], &on_low[digest]);
        for action in ["sealed", "ready", "handed-over"] {
            assert_eq!(here.get(action), Some(&1), "{action} of {bundle}: {here:?}");
        }
        assert_eq!(there.get("admitted"), Some(&1), "{bundle}: {there:?}");
        let replayed = u64::from(bundle["records"].as_u64() > Some(0));
        assert_eq!(there.get("replayed").copied().unwrap_or(0), replayed, "{bundle}: {there:?}");
    }
    assert_eq!(on_low.len(), bundles.len(), "nothing else arrived");

    shown_and_checked_by_hand(&crossing, &bundles[0]);
    tampering_is_found(low);
    latency_is_told(low);
    let taken = high.json(["receipt", "import", receipt.to_str().expect("a plain path"), "--json"]);
    assert!(taken["confirmed"].as_u64() > Some(0), "{taken}");
    assert_eq!(high.status()["receipts"][0]["name"], "low");
}

/// `custody show` by each of a bundle's names, and the walk of the handbook with stock tools.
fn shown_and_checked_by_hand(crossing: &Crossing, bundle: &Value) {
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let digest = bundle["digest"].as_str().expect("a text");
    let names = [
        format!("{}/{}", bundle["lane"].as_str().expect("a text"), bundle["number"]),
        digest[..12].to_owned(),
    ];
    for name in names.iter().map(String::as_str).chain(bundle["file"].as_str()) {
        for site in [high, low] {
            let life = site.json(["custody", "show", name, "--json"]);
            assert!(life["found"].as_u64() > Some(2), "{name}: {life}");
        }
    }
    let table = low.run(["custody", "show", &digest[..12]]).success();
    for word in
        ["received", "by the inbox", "admitted", "replayed", "to sink file", "agent", digest]
    {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert!(high.run(["custody", "show", "flash/99999"]).code != Some(0));

    // The newest checkpoint: its signature by ssh-keygen, and the head that it names by sha256sum.
    let folder = high.state_dir().join("custody");
    let key = SigningKey::load(&high.dir().join("keys/signing.key")).expect("nothing fails here");
    let signers = crossing.sandbox.join("signers");
    let line = format!("plant-7 {}\n", key.public_key().to_openssh().expect("nothing fails here"));
    std::fs::write(&signers, line).expect("nothing fails here");
    let statement = std::fs::read_to_string(folder.join("checkpoint")).expect("nothing fails here");
    let verified = Command::new("ssh-keygen")
        .args(["-Y", "verify", "-I", "plant-7", "-n", "penstock-custody@v1", "-f"])
        .arg(&signers)
        .arg("-s")
        .arg(folder.join("checkpoint.sig"))
        .stdin(Stdio::from(
            std::fs::File::open(folder.join("checkpoint")).expect("nothing fails here"),
        ))
        .output()
        .expect("ssh-keygen is installed");
    assert!(verified.status.success(), "{verified:?}");
    let field = |name: &str| {
        let line =
            statement.lines().find_map(|line| line.strip_prefix(name)).expect("nothing fails here");
        line.trim().to_owned()
    };
    let head = Command::new("sh")
        .arg("-c")
        .arg(format!("cat custody-*.log | sed -n {}p | sha256sum", field("entries")))
        .current_dir(&folder)
        .output()
        .expect("nothing fails here");
    let head = String::from_utf8(head.stdout).expect("nothing fails here");
    assert_eq!(head.split(' ').next(), Some(field("head").as_str()));
    let kept = folder.join("checkpoint");
    high.run(["custody", "verify", "--against", kept.to_str().expect("a plain path")]).success();
    let copy = folder.to_str().expect("a plain path");
    high.run([
        "custody",
        "verify",
        "--folder",
        copy,
        "--signers",
        signers.to_str().expect("a plain path"),
    ])
    .success();
}

/// One line changed, taken out, repeated, and the end cut off: each is found, and the line named.
fn tampering_is_found(site: &Site) {
    let path = segments(site).pop().expect("nothing fails here");
    let original = std::fs::read_to_string(&path).expect("nothing fails here");
    let lines: Vec<&str> = original.split_inclusive('\n').collect();
    let at = lines.len() / 2;
    let with = |changed: String, kind: &str, line: usize| {
        std::fs::write(&path, changed).expect("nothing fails here");
        let done = site.run(["custody", "verify", "--json"]);
        assert_eq!(done.code, Some(1), "{kind}");
        let verdict: Value = serde_json::from_str(&done.stdout).expect("nothing fails here");
        let finding = &verdict["findings"][0];
        assert_eq!(
            (finding["kind"].as_str(), &finding["line"]),
            (Some(kind), &json!(line)),
            "{verdict}"
        );
    };
    let mut changed = lines.clone();
    let forged = lines[at].replace("\"who\":\"agent\"", "\"who\":\"nobody\"");
    changed[at] = &forged;
    with(changed.concat(), "changed", at + 1);
    let mut changed = lines.clone();
    changed.remove(at);
    with(changed.concat(), "removed", at + 1);
    let mut changed = lines.clone();
    changed.insert(at, lines[at - 1]);
    with(changed.concat(), "moved", at + 1);
    with(lines[..lines.len() - 1].concat(), "cut-off", lines.len() - 1);
    std::fs::write(&path, original).expect("nothing fails here");
    assert_eq!(verify(site)["found"], 0);
}

fn latency_is_told(low: &Site) {
    let told = low.json(["latency", "--json"]);
    let rows = told["latency"].as_array().expect("rows");
    let received = rows.iter().find(|row| row["hop"] == "received-to-delivered").expect("a row");
    assert!(received["records"].as_u64() >= Some(600), "{told}");
    assert!(received["p50-ms"].as_u64() <= received["p99-ms"].as_u64(), "{told}");
    assert!(received["p99-ms"].as_u64() <= received["max-ms"].as_u64(), "{told}");
    assert_eq!((&received["over-budget"], &received["negative"]), (&json!(0), &json!(0)), "{told}");
    let clock = &told["clocks"][0];
    assert_eq!(clock["origin"], "plant-7");
    assert!(clock["shortest-ms"].as_i64() >= Some(0), "one clock for both: {told}");
    low.run(["latency"]).success();
}

/// Three bundles; the second is lost on the way.
fn lost_on_the_way(name: &str) -> (Crossing, [tests::process::Process; 2]) {
    let crossing = Crossing::new(name);
    crossing.configure(10);
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let high_agent = high.start();
    let mut came = Vec::new();
    for ids in [1..6, 6..11, 11..16] {
        crossing.send(ids);
        wait_until(PATIENCE, "one more bundle in the inbox", || {
            let now = bundles_in(&low.inbox());
            let more = now.len() > came.len();
            came = now;
            more
        });
    }
    assert_eq!(came.len(), 3, "{came:?}");
    wait_until(PATIENCE, "all handed over", || high.status()["bundles"]["ready"]["count"] == 0);
    std::fs::remove_file(&came[1]).expect("nothing fails here");
    std::fs::remove_file(came[1].with_extension("pstk.sha256")).expect("nothing fails here");
    let low_agent = low.start();
    wait_until(PATIENCE, "the others admitted", || low.status()["admitted"] == 2);
    (crossing, [high_agent, low_agent])
}

#[test]
fn a_receipt_brings_back_what_was_lost_on_the_way() {
    let (crossing, agents) = lost_on_the_way("custody-receipt");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let path = crossing.sandbox.join("soc.receipt");
    let receipt = path.to_str().expect("a plain path");
    low.run(["receipt", "--out", receipt]).success();
    assert_eq!(low.json(["gaps", "--json"]).as_array().map(Vec::len), Some(1));

    // Who changes a byte of it, or brings what nobody signed, is refused.
    let text = std::fs::read_to_string(&path).expect("nothing fails here");
    let changed = crossing.sandbox.join("changed.receipt");
    std::fs::write(&changed, text.replace("\"last\": 2", "\"last\": 3"))
        .expect("nothing fails here");
    let refused = high.run(["receipt", "import", changed.to_str().expect("a plain path")]);
    assert_eq!(refused.code, Some(78), "{refused:?}");

    let taken = high.json(["receipt", "import", receipt, "--json"]);
    assert_eq!(taken["confirmed"], 2, "{taken}");
    assert_eq!(taken["again"], json!([{"lane": "flash", "number": 2}]), "{taken}");
    assert_eq!(taken["gone"], json!([]), "{taken}");
    wait_until(PATIENCE, "the lost one admitted", || low.status()["admitted"] == 3);
    assert_eq!(low.json(["gaps", "--json"]), json!([]));
    crossing.wait_drained();

    let bundles = high.json(["bundles", "--json"]);
    let confirmed = |at: usize| !bundles["bundles"][at]["confirmed-by-receipt"].is_null();
    assert_eq!([confirmed(0), confirmed(1), confirmed(2)], [true, false, true], "{bundles}");
    assert_eq!(
        high.json(["receipt", "list", "--json"])["receipts"].as_array().map(Vec::len),
        Some(1)
    );

    // The next one confirms the rest, and asks for nothing.
    low.run(["receipt", "--out", receipt]).success();
    let taken = high.json(["receipt", "import", receipt, "--json"]);
    assert_eq!((&taken["confirmed"], &taken["again"]), (&json!(1), &json!([])), "{taken}");
    // An older one can't undo it.
    std::fs::write(&changed, &text).expect("nothing fails here");
    let old = high.run(["receipt", "import", changed.to_str().expect("a plain path")]);
    assert!(old.code != Some(0) && old.stderr.contains("is older"), "{old:?}");
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    let life: Vec<String> = entries(high)
        .iter()
        .filter(|entry| entry["bundle"]["number"] == 2)
        .map(|entry| entry["action"].as_str().expect("a text").to_owned())
        .collect();
    let expected =
        ["sealed", "ready", "handed-over", "requeued", "handed-over", "receipt-confirmed"];
    assert_eq!(life, expected);
    for site in [high, low] {
        assert_eq!(verify(site)["found"], 0);
        assert_no_unlisted_errors(&site.log_path(), &["alarm"]);
    }
}

#[test]
fn a_resend_request_is_taken_unsigned_when_told_and_a_fork_in_a_receipt_is_an_alarm() {
    let (crossing, agents) = lost_on_the_way("custody-request");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let status = high.status();
    let epoch = Epoch(status["epoch"].as_u64().expect("an epoch"));
    let origin: shared::record::OriginId = "plant-7".parse().expect("nothing fails here");
    let wanted = |first, last| shared::receipt::MissingRange {
        origin: origin.clone(),
        epoch,
        lane: Lane::Flash,
        first,
        last,
    };
    let file = |name: &str, text: &str| -> PathBuf {
        let path = crossing.sandbox.join(name);
        std::fs::write(&path, text).expect("nothing fails here");
        path
    };
    let import = |path: &Path, more: &[&'static str]| {
        let path = path.to_str().expect("a plain path").to_owned();
        high.run(["receipt", "import", &path].into_iter().chain(more.iter().copied()))
    };
    let request = file("wanted", &resend_request(&origin, &[wanted(2, 2), wanted(9, 40)]));
    assert_eq!(import(&request, &[]).code, Some(78));
    let taken: Value = serde_json::from_str(&import(&request, &["--unsigned", "--json"]).success())
        .expect("nothing fails here");
    assert_eq!(taken["again"], json!([{"lane": "flash", "number": 2}]), "{taken}");
    assert_eq!(taken["gone"], json!(["flash 9 to 40: not known here"]), "{taken}");
    wait_until(PATIENCE, "the lost one admitted", || low.status()["admitted"] == 3);

    let key = SigningKey::load(&low.dir().join("keys/receipt.key")).expect("nothing fails here");
    let forked = Receipt {
        name: "low".to_owned(),
        number: u64::MAX >> 2,
        time: Nanos(1),
        chains: vec![ChainReceipt {
            origin: origin.clone(),
            epoch,
            lane: Lane::Flash,
            admitted: vec![AdmittedRange {
                first: 1,
                last: 99,
                digest: BundleDigest::of(b"nobody sealed this"),
            }],
            records: 1,
            last_sequence: 1,
            sinks: Vec::new(),
        }],
        missing: Vec::new(),
        quarantined: 0,
        quarantined_files: Vec::new(),
    };
    let done = import(&file("forked", &forked.sign(&key).expect("nothing fails here")), &[]);
    assert!(done.code != Some(0) && done.stderr.contains("bundle 99"), "{done:?}");
    let alarms = high.status()["alarms"].to_string();
    assert!(alarms.contains("receipt-fork"), "{alarms}");
    high.run(["acknowledge"]).success();
    assert!(!high.status()["alarms"].to_string().contains("receipt-fork"));
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
}

/// The custody log's folder can't be written to: records cross all the same, an alarm says so, and the
/// entries are written once it can be.
#[test]
fn a_custody_log_that_can_not_be_written_holds_nothing_up() {
    let crossing = Crossing::new("custody-full");
    crossing.configure(10);
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let agents = [high.start(), low.start()];
    crossing.send(1..11);
    crossing.wait_committed(10);
    crossing.wait_drained();
    let away = |site: &Site| {
        let folder = site.state_dir().join("custody");
        let elsewhere = site.state_dir().join("custody-away");
        (folder, elsewhere)
    };
    for site in [high, low] {
        wait_until(PATIENCE, "nothing waits to be written", || verify(site)["found"] == 0);
        let (folder, elsewhere) = away(site);
        shared::durable::rename(&folder, &elsewhere).expect("nothing fails here");
        std::fs::write(&folder, b"in the way").expect("nothing fails here");
    }
    crossing.send(11..21);
    crossing.wait_committed(20);
    assert!(crossing.wait_drained() >= 20);
    for site in [high, low] {
        wait_until(PATIENCE, "an alarm", || {
            site.status()["alarms"].to_string().contains("custody-not-written")
        });
        let (folder, elsewhere) = away(site);
        std::fs::remove_file(&folder).expect("nothing fails here");
        shared::durable::rename(&elsewhere, &folder).expect("nothing fails here");
    }
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    for site in [high, low] {
        let verdict = verify(site);
        assert_eq!((&verdict["found"], &verdict["signed_through"]), (&json!(0), &verdict["last"]));
        // On the low side it is over by itself.
        site.run(["acknowledge"]).success();
        assert!(site.start().stop(PATIENCE).success());
        assert!(!site.status()["alarms"].to_string().contains("custody-not-written"));
    }
    let counts = actions(low);
    assert!(counts.values().all(|actions| actions.get("admitted") == Some(&1)), "{counts:?}");
    assert!(counts.len() >= 2, "{counts:?}");
}
