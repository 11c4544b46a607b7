//! The evidence report: what it says is what was sent, and stock tools verify it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::clock::{Clock, SystemClock};
use tests::agents::{Site, bundles_in};
use tests::crossing::{Crossing, pending, received};
use tests::forge::hex;
use tests::peers::stores::{ADMIN, READER, S3Store, WRITER, write_credentials};
use tests::process::{Done, run};
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

/// The content of the one file of a report with this ending.
fn file(dir: &Path, ending: &str) -> PathBuf {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.display().to_string().ends_with(ending)).collect();
    assert_eq!(found.len(), 1, "{ending} in {found:?}");
    found.remove(0)
}

fn report(low: &Site, from: &str, to: &str, rest: &[&str]) -> Done {
    let words = ["report", "--from", from, "--to", to, "--framework", "soc2"];
    low.run(words.into_iter().chain(rest.iter().copied()))
}

fn now() -> String {
    SystemClock.now().to_string()
}

/// The reasons of a report as one text.
fn reasons(report: &Value) -> String {
    let reasons = report["verdict"]["reasons"]["items"].as_array().unwrap();
    reasons.iter().map(|reason| reason.as_str().unwrap().to_owned() + "\n").collect()
}

/// Sends datagrams to a listener whose process stands still: the kernel drops what its queue can't hold.
fn overflow(agent: &tests::process::Process, to: std::net::SocketAddr) {
    agent.signal(Signal::SIGSTOP);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..2_000 {
        let text = format!("<13>1 2026-11-25T00:00:00Z host app - - - flood {number} {:400}", "");
        socket.send_to(text.as_bytes(), to).unwrap();
    }
    agent.signal(Signal::SIGCONT);
}

#[test]
fn a_report_says_what_was_sent_lost_and_missing_and_stock_tools_verify_it() {
    let crossing = Crossing::new("report");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let udp = free_address();
    let medium = crossing.sandbox.dir("medium");
    high.configure(&format!(
        "[seal]\nflash-budget = \"1h\"\nheartbeat = \"1d\"\n{}[[listener]]\nname = \"udp\"\nprotocol = \"udp\"\nbind = \"{udp}\"\nlane = \"flash\"\nreceive-buffer = \"4KiB\"\n",
        crossing.listener()
    ));
    low.configure(&format!("{}{}", Crossing::quick_inbox(), crossing.file_sink()));
    let begin = now();
    // Three bundles; the second stays behind. While the third is filled, a socket overflows.
    let mut bundles: Vec<PathBuf> = Vec::new();
    let mut after_first = String::new();
    for round in 0..3 {
        let agent = high.start();
        crossing.send(round * 20 + 1..round * 20 + 21);
        if round == 2 {
            overflow(&agent, udp);
            wait_until(PATIENCE, "a declared loss", || {
                let status = high.status();
                let lanes = status["lanes"].as_array().unwrap();
                lanes.iter().any(|lane| lane["lost-before-receipt"].as_u64() > Some(0))
            });
        }
        assert!(agent.stop(PATIENCE).success());
        high.run(["seal"]).success();
        high.run(["export", medium.to_str().unwrap()]).success();
        let new: Vec<PathBuf> =
            bundles_in(&medium).into_iter().filter(|path| !bundles.contains(path)).collect();
        assert_eq!(new.len(), 1, "{new:?}");
        bundles.extend(new);
        if round == 0 {
            after_first = now();
        }
    }
    let all = received(&high.status());
    let in_second = 20;
    let end = now();
    // Something has to come behind the period, so that the period is proven to its end.
    let agent = high.start();
    crossing.send(101..102);
    assert!(agent.stop(PATIENCE).success());
    high.run(["seal"]).success();
    high.run(["export", medium.to_str().unwrap()]).success();
    let behind: Vec<PathBuf> =
        bundles_in(&medium).into_iter().filter(|path| !bundles.contains(path)).collect();

    let agent = low.start();
    for bundle in [&bundles[0], &bundles[2], &bundles[0], &behind[0]] {
        low.run(["import", bundle.to_str().unwrap()]).success();
    }
    low.run(["gaps", "--pass", low.json(["gaps", "--json"])[0]["id"].to_string().as_str()])
        .success();
    let here = all - in_second;
    wait_until(PATIENCE, "everything delivered", || {
        let status = low.status();
        status["records"] == here + 1 && pending(&status) == 0
    });

    // While the agent runs.
    let out = crossing.sandbox.dir("out");
    let end_now = now();
    let done = report(low, &begin, &end, &["--output", out.to_str().unwrap()]);
    assert!(done.stderr.contains("INCOMPLETE: 20 records in 1 bundle have not come"), "{done:?}");
    done.success();
    let bytes = fs::read(file(&out, ".json")).unwrap();
    let said: Value = serde_json::from_slice(&bytes).unwrap();
    let lost = low.status()["losses"][0]["records"].as_u64().unwrap();
    assert!(lost > 0);
    let account = &said["account"];
    assert_eq!(account["arrived"], here, "{account}");
    assert_eq!((&account["missing"], &account["lost"]), (&json!(in_second), &json!(lost)));
    assert_eq!(account["generated"], all + lost);
    let sums = &said["chain-sums"];
    assert_eq!(
        (&sums["assigned"], &sums["missing"], &sums["broken"]),
        (&json!(all), &json!(20), &json!(0))
    );
    assert_eq!(
        (&said["gaps"]["items"][0]["first"], &said["gaps"]["items"][0]["last"]),
        (&json!(2), &json!(2))
    );
    assert!(said["gaps"]["items"][0]["passed"].is_string(), "{}", said["gaps"]);
    assert_eq!(said["losses"]["items"][0]["records"], lost);
    assert_eq!(said["losses"]["items"][0]["listener"], "udp");
    assert_eq!(said["not-taken"]["items"], json!([{"sink": "file", "numbers": 0}]));
    assert_eq!(
        (&said["stored"]["verified"], &said["stored"]["unreleased"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(said["custody"]["verified"], true);
    let reasons_now = reasons(&said);
    assert!(reasons_now.contains("records declared lost: udp-receive-queue"), "{reasons_now}");
    assert_eq!(
        said["verdict"]["reasons"]["items"].as_array().map(Vec::len),
        Some(2),
        "{reasons_now}"
    );

    verified_by_stock_tools(&crossing, &out, &bytes);
    printed(&crossing, &file(&out, ".html"));

    // Nothing is replaced.
    let again = report(low, &begin, &end, &["--output", out.to_str().unwrap()]);
    assert!(again.code == Some(1) && again.stderr.contains("not replaced"), "{again:?}");

    // The missing one comes; what was done at the import is in the period of this report.
    low.run(["import", bundles[1].to_str().unwrap()]).success();
    wait_until(PATIENCE, "the missing one delivered", || pending(&low.status()) == 0);
    assert!(agent.stop(PATIENCE).success());
    let done = report(low, &begin, &end_now, &["--json"]);
    let said: Value = serde_json::from_str(&done.success()).unwrap();
    assert_eq!((&said["account"]["missing"], &said["gaps"]["items"]), (&json!(0), &json!([])));
    assert_eq!(said["custody"]["duplicates"], 1, "{}", said["custody"]);
    assert_eq!(said["custody"]["arrivals"]["by import"], 4, "{}", said["custody"]);
    let who = said["made"]["by"].as_str().unwrap();
    assert!(said["custody"]["people"][who]["gap-passed"] == 1, "{}", said["custody"]);
    assert!(reasons(&said).contains("nothing proves what plant-7 received"), "{}", reasons(&said));
    // Everything of the first bundle is here, and what came behind it proves that.
    let until = low.json([
        "report",
        "--from",
        &begin,
        "--to",
        &after_first,
        "--framework",
        "pci-dss",
        "--json",
    ]);
    assert_eq!(until["verdict"]["text"], "complete", "{until}");
    assert_eq!(
        (&until["account"]["generated"], &until["account"]["arrived"]),
        (&json!(20), &json!(20))
    );
}

/// What a report says of its archives, by name.
fn archive_of(report: &Value, name: &str) -> Value {
    let archives = report["archives"]["items"].as_array().unwrap();
    archives.iter().find(|archive| archive["name"] == name).unwrap().clone()
}

fn findings(archive: &Value) -> String {
    archive["findings"].to_string()
}

#[test]
fn a_report_quotes_the_proof_of_each_archive_and_names_what_is_not_proven() {
    let crossing = Crossing::new("report-archive");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let store = S3Store::seaweedfs(&crossing.sandbox.dir("store"));
    store.bucket("audit", true);
    let at = |name: &str| crossing.sandbox.join(name).display().to_string();
    for (file, user) in [("writer", WRITER), ("admin", ADMIN), ("reader", READER)] {
        write_credentials(&crossing.sandbox.join(file), user);
    }
    high.configure(&format!(
        "{}{}{}",
        Crossing::seal_soon(50),
        crossing.listener(),
        crossing.handoff()
    ));
    // The folder of the second one is not there: everything waits for it.
    low.configure(&format!(
        "{}{}[[archive]]\nname = \"worm\"\ntype = \"s3\"\nendpoint = \"{}\"\nbucket = \"audit\"\nretention = \"pci-dss\"\n\
         credentials-file = \"{}\"\n[[archive]]\nname = \"copy\"\ntype = \"directory\"\norder = \"beside\"\npath = \"{}\"\n",
        Crossing::quick_inbox(),
        crossing.file_sink(),
        store.endpoint(),
        at("writer"),
        at("copy")
    ));
    let begin = now();
    let agents = [high.start(), low.start()];
    crossing.send(1..101);
    crossing.wait_committed(100);
    assert_eq!(crossing.wait_drained(), 100);
    let bundles = low.status()["admitted"].as_u64().unwrap();
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    let end = now();
    let said = || -> Value {
        serde_json::from_str(&report(low, &begin, &end, &["--json"]).success()).unwrap()
    };

    // Nothing was proven yet.
    let before = said();
    let worm = archive_of(&before, "worm");
    assert_eq!((&worm["archived"], &worm["waiting"]), (&json!(bundles), &json!(0)), "{worm}");
    assert_eq!(worm["place"], "s3://audit/");
    assert_eq!(worm["lock"], "Object Lock, mode COMPLIANCE");
    assert_eq!(worm["retain-secs"], 366 * 86_400);
    assert!(worm["locked-until"].as_str().unwrap() > "2027", "{worm}");
    assert!(findings(&worm).contains("never verified") && worm["last-run"].is_null(), "{worm}");
    let copy = archive_of(&before, "copy");
    assert_eq!((&copy["archived"], &copy["waiting"]), (&json!(0), &json!(bundles)), "{copy}");
    assert!(findings(&copy).contains("a folder is no lock"), "{copy}");
    let notes = before["verdict"]["notes"].to_string();
    assert!(notes.contains("the archive worm: nothing proves that its lock holds"), "{notes}");
    assert!(!reasons(&before).contains("archive"), "{before}");

    // Not by the rights of somebody who may do nothing, but by an administrator's.
    let reader =
        low.run(["archive", "verify", "--archive", "worm", "--credentials", &at("reader")]);
    assert_eq!(reader.code, Some(1), "{reader:?}");
    let worm = archive_of(&said(), "worm");
    assert_eq!(worm["last-run"]["verdict"], "unproven", "{worm}");
    assert!(findings(&worm).contains("may not do what it forbids"), "{worm}");
    low.run([
        "archive",
        "verify",
        "--archive",
        "worm",
        "--full",
        "--credentials",
        &at("admin"),
        "--report",
        &at("proof.json"),
    ])
    .success();
    low.run(["archive", "verify", "--archive", "worm", "--no-probe"]).success();
    let out = crossing.sandbox.dir("out");
    report(low, &begin, &end, &["--output", out.to_str().unwrap()]).success();
    let proven: Value = serde_json::from_slice(&fs::read(file(&out, ".json")).unwrap()).unwrap();
    let worm = archive_of(&proven, "worm");
    assert_eq!((&worm["findings"], &worm["last-run"]["lock"]), (&json!([]), &Value::Null));
    let held = &worm["last-held"];
    assert_eq!((&held["verdict"], &held["lock"]), (&json!("good"), &json!("holds")), "{held}");
    assert_eq!((&held["full"], &held["looked-at"]), (&json!(true), &json!(bundles)), "{held}");
    // The digest is that of the signed report, wherever it was written to.
    let sha256 = hex(&Sha256::digest(fs::read(crossing.sandbox.join("proof.json")).unwrap()));
    assert_eq!(held["sha256"], sha256.as_str());
    let html = fs::read_to_string(file(&out, ".html")).unwrap();
    assert!(html.contains(&sha256) && html.contains("s3://audit/"), "the page says the same");
    let custody = low.run(["custody", "verify"]).success();
    assert!(!custody.is_empty());

    // A kept report that was changed is no proof.
    let kept = low.state_dir().join("archive-proofs").join(held["report"].as_str().unwrap());
    assert!(kept.with_extension("json.sig").exists());
    let text = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, text.replacen("\"good\"", "\"Good\"", 1)).unwrap();
    assert!(reasons(&said()).contains("is not what was written"), "{}", said()["verdict"]);
    fs::write(&kept, text).unwrap();
    assert!(!reasons(&said()).contains("archive"), "{}", said()["verdict"]);

    // The store is away.
    drop(store);
    assert_eq!(low.run(["archive", "verify", "--archive", "worm"]).code, Some(74));
    assert_eq!(archive_of(&said(), "worm")["findings"], json!([]), "no answer is no finding");
}

/// `sha256sum` and `ssh-keygen` alone say that the report is what was signed.
fn verified_by_stock_tools(crossing: &Crossing, out: &Path, json: &[u8]) {
    let html = fs::read_to_string(file(out, ".html")).unwrap();
    let sha256 = hex(&Sha256::digest(json));
    assert!(html.contains(&sha256), "the page names the SHA-256 of its data");
    let half = fs::read_to_string(crossing.pair.low.public_half()).unwrap();
    let key = half.lines().find_map(|line| line.strip_prefix("signer ")).unwrap();
    let signers = crossing.sandbox.join("signers");
    fs::write(&signers, format!("low {key}\n")).unwrap();
    let verify = |file: &Path, signature: &Path| {
        Command::new("ssh-keygen")
            .args(["-Y", "verify", "-I", "low", "-n", "penstock-report@v1", "-f"])
            .arg(&signers)
            .arg("-s")
            .arg(signature)
            .stdin(Stdio::from(fs::File::open(file).unwrap()))
            .output()
            .expect("ssh-keygen is installed")
    };
    for ending in [".json", ".html"] {
        let path = file(out, ending);
        let signature = file(out, &format!("{ending}.sig"));
        let verified = verify(&path, &signature);
        assert!(verified.status.success(), "{verified:?}");
        let changed = crossing.sandbox.join("changed");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&changed, text.replacen("20", "21", 1)).unwrap();
        assert!(!verify(&changed, &signature).status.success(), "{ending}");
    }
}

/// Where a browser is installed it prints the page, and finds nothing to fetch.
fn printed(crossing: &Crossing, html: &Path) {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let Some(browser) = names.into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|done| done.status.success())
    }) else {
        println!("no browser is installed: the page was not printed");
        return;
    };
    let pdf = crossing.sandbox.join("report.pdf");
    let profile = crossing.sandbox.dir("profile");
    let mut command = Command::new(browser);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--print-to-pdf={}", pdf.display()))
        .arg(format!("file://{}", html.display()));
    run(&mut command).success();
    let pdf = fs::read(pdf).unwrap();
    assert!(pdf.starts_with(b"%PDF-") && pdf.len() > 20_000, "{} bytes", pdf.len());
}
