//! The doctors of both sides: what a newcomer gets wrong, provoked, and its advice; and the test record
//! from a real listener to the sink.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tests::agents::{Pair, Site, bundles_in, program};
use tests::crossing::Crossing;
use tests::examined::{Said, doctor};
use tests::peers::{Authority, HttpServer, Reply};
use tests::process::run;
use tests::sandbox::{Sandbox, free_address};
use tests::wait::{PATIENCE, wait_until};

#[test]
fn a_new_pair_is_told_what_is_missing() {
    let sandbox = Sandbox::new("doctor-new");
    let high = Site::high(&sandbox, "plant-7");
    let said = doctor(&high, &[]);
    said.expect("keys", "recipient", "fail", "penstock-high pair");
    said.expect("configuration", "no-source", "fail", "[[listener]]");
    said.expect("budget", "budget", "fail", "seal.flash-budget");
    said.expect("budget", "budget", "warn", "--courier-every");
    said.expect("agent", "running", "warn", "systemctl start penstock-high");
    said.expect("keys", "paired-both-ways", "skipped", "penstock-low doctor --json");
    let low = Site::low(&sandbox, "soc");
    let said = doctor(&low, &[]);
    said.expect("keys", "signer", "fail", "penstock-low pair high.pub");
    said.expect("configuration", "no-sink", "fail", "[[sink]]");
    said.expect("agent", "running", "warn", "systemctl start penstock-low");
    // For people: each finding with what to try, and a line that sums up.
    let text = low.run(["doctor"]);
    assert_eq!(text.code, Some(1));
    assert!(text.stdout.contains("\n        try: penstock-low pair high.pub\n"), "{}", text.stdout);
    let last = text.stdout.lines().last().unwrap();
    assert!(last.starts_with("penstock-low: does not work as it is; "), "{last}");
    // A configuration that can't be read is a finding, too.
    fs::write(low.config(), "[inbox]\npaht = 1\n").unwrap();
    let said = doctor(&low, &[]);
    said.expect("configuration", "load", "fail", "paht");
    assert_eq!(said.report["sections"].as_array().unwrap().len(), 1);
}

fn write_report(site: &Site, path: &Path) -> String {
    let done = site.run(["doctor", "--json"]);
    fs::write(path, done.stdout).unwrap();
    path.display().to_string()
}

#[test]
fn both_sides_see_whether_they_are_paired_both_ways() {
    let sandbox = Sandbox::new("doctor-paired");
    let pair = Pair::new(&sandbox, "plant-7");
    let high = write_report(&pair.high, &sandbox.join("high.json"));
    let low = write_report(&pair.low, &sandbox.join("low.json"));
    let said = doctor(&pair.high, &["--peer", &low]);
    said.expect("keys", "paired-here", "ok", "");
    said.expect("keys", "paired-there", "ok", "");
    said.expect("keys", "versions", "ok", "");
    let said = doctor(&pair.low, &["--peer", &high]);
    said.expect("keys", "paired-here", "ok", "");
    said.expect("keys", "paired-there", "ok", "");
    // The public half alone says what it can.
    let half = pair.low.public_half().display().to_string();
    let said = doctor(&pair.high, &["--peer", &half]);
    said.expect("keys", "paired-here", "ok", "");
    said.expect("keys", "paired-there", "skipped", "penstock-low doctor --json");

    // A low side of another kind of key, that trusts nobody.
    let dir = sandbox.dir("post-quantum");
    let mut init = Command::new(program("penstock-low"));
    run(init.args(["init", "--post-quantum", "--dir"]).arg(&dir)).success();
    let mut ask = Command::new(program("penstock-low"));
    ask.arg("--config").arg(dir.join("low.toml")).args(["doctor", "--json"]);
    let other = sandbox.join("other.json");
    fs::write(&other, run(&mut ask).stdout).unwrap();
    let said = doctor(&pair.high, &["--peer", &other.display().to_string()]);
    said.expect("keys", "paired-here", "fail", "post-quantum");
    said.expect("keys", "paired-there", "fail", "penstock-low pair high.pub");
    // And seen from there: its high side encrypts to somebody else.
    ask.args(["--peer", &high]);
    let report = serde_json::from_str(&run(&mut ask).stdout).unwrap();
    let said = Said { code: Some(1), report };
    said.expect("keys", "paired-here", "fail", "penstock-low pair high.pub");
    said.expect("keys", "paired-there", "fail", "post-quantum");

    // What is no such file, or of the wrong side, is told.
    for (text, words) in [("nonsense", "penstock-low public"), ("{\"format\": 7}", "JSON")] {
        let path = sandbox.join("nonsense");
        fs::write(&path, text).unwrap();
        let said = doctor(&pair.high, &["--peer", &path.display().to_string()]);
        said.expect("configuration", "peer", "fail", words);
    }
    let said = doctor(&pair.high, &["--peer", &high]);
    said.expect("keys", "peer-side", "fail", "penstock-low");
}

#[test]
fn every_certificate_is_looked_at_before_a_client_does() {
    let sandbox = Sandbox::new("doctor-certificates");
    let high = Site::high(&sandbox, "plant-7");
    let authority = Authority::new(&sandbox.dir("ca"));
    let names = "subjectAltName = DNS:localhost,IP:127.0.0.1";
    let long = ("20200101000000Z", "20450101000000Z");
    let expired = authority.server_between("expired", (long.0, "20210101000000Z"), names);
    let early = authority.server_between("early", ("20440101000000Z", long.1), names);
    let nameless = authority.server_between("nameless", long, "");
    let usage = format!("{names}\nextendedKeyUsage = clientAuth");
    let client = authority.server_between("client-only", long, &usage);
    let good = authority.server_between("good", long, names);
    let soon = authority.server("soon");
    for pair in [&expired, &early, &nameless, &client, &good, &soon] {
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let garbage = sandbox.join("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    // Larger than any memory, and takes no room.
    let giant = sandbox.join("giant.key");
    fs::File::create(&giant).unwrap().set_len(1 << 40).unwrap();
    fs::set_permissions(&giant, fs::Permissions::from_mode(0o600)).unwrap();
    let link = sandbox.join("link.key");
    symlink(&good.key, &link).unwrap();
    let open = sandbox.join("open.key");
    fs::copy(&good.key, &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let pairs: [(&Path, &Path); 10] = [
        (&expired.cert, &expired.key),
        (&early.cert, &early.key),
        (&nameless.cert, &nameless.key),
        (&client.cert, &client.key),
        (&soon.cert, &soon.key),
        (&good.cert, &soon.key),
        (&garbage, &good.key),
        (&good.cert, &giant),
        (&good.cert, &link),
        (&good.cert, &open),
    ];
    let mut sections = String::new();
    for (at, (certificate, key)) in pairs.iter().enumerate() {
        let bind = free_address();
        writeln!(
            sections,
            "[[listener]]\nname = \"l{at}\"\nprotocol = \"tls\"\nbind = \"{bind}\"\ncertificate = {certificate:?}\nkey = {key:?}"
        )
        .unwrap();
    }
    high.configure(&sections);
    let said = doctor(&high, &[]);
    let expect = |id: &str, verdict: &str, words: &str| {
        said.expect("certificates", id, verdict, words);
    };
    expect("expired", "fail", "expired at 2021-01-01");
    expect("expired", "fail", "penstock-high mint");
    expect("not-yet-valid", "fail", "2044-01-01");
    expect("no-name", "fail", "subjectAltName");
    expect("usage", "fail", "1.3.6.1.5.5.7.3.1");
    expect("expires-soon", "warn", "expires in 29 days");
    expect("certificate", "ok", "good.pem");
    expect("certificate", "fail", "garbage.pem");
    said.expect("keys", "secret-mode", "fail", "symbolic link");
    said.expect("keys", "secret-mode", "fail", "chmod 640");
    // A key of another certificate, a giant one, and an open one are what TLS itself refuses.
    let problems = said.about("configuration", "problem");
    for (at, words) in [(5, "l5"), (7, "larger than"), (9, "readable by everybody")] {
        let told = problems.iter().any(|problem| problem["what"].as_str().unwrap().contains(words));
        assert!(told, "listener l{at}: {problems:#?}");
    }
}

#[test]
fn ports_folders_and_disk_are_looked_at_for_the_agents_user() {
    let sandbox = Sandbox::new("doctor-machine");
    let high = Site::high(&sandbox, "plant-7");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap();
    let missing = sandbox.join("missing");
    high.configure(&format!(
        "[[listener]]\nname = \"taken\"\nprotocol = \"tcp\"\nbind = \"{bind}\"\n\
         [[listener]]\nname = \"elsewhere\"\nprotocol = \"tcp\"\nbind = \"192.0.2.1:6514\"\n\
         [[listener]]\nname = \"greedy\"\nprotocol = \"udp\"\nbind = \"{}\"\nreceive-buffer = \"1GiB\"\n\
         [[carrier]]\nname = \"diode\"\ntype = \"folder\"\npath = {missing:?}\n\
         [buffer]\nquota = \"9000000GiB\"\n[seal]\ntransfer-share = 0\n",
        free_address()
    ));
    let said = doctor(&high, &[]);
    // Whoever has the port is named: this test.
    said.expect("listeners", "bind", "fail", &format!("process {}", std::process::id()));
    said.expect("listeners", "bind", "fail", "no address of this machine");
    said.expect("listeners", "receive-buffer", "warn", "net.core.rmem_max=1073741824");
    said.expect("folders", "carrier", "fail", "install -d -o");
    said.expect("disk", "room", "warn", "buffer.quota");
    said.expect("disk", "sync-speed", "ok", "commits a second");
    said.expect("budget", "budget", "fail", "seal.transfer-share = 50");
    // Another user can't come near what is this one's alone.
    fs::set_permissions(high.dir(), fs::Permissions::from_mode(0o700)).unwrap();
    let said = doctor(&high, &["--user", "nobody"]);
    said.expect("folders", "state", "fail", "chmod g+x");
    said.expect("configuration", "file", "fail", "nobody can't read");
    fs::set_permissions(high.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let said = doctor(&high, &["--user", "nobody"]);
    said.expect("folders", "state", "fail", "chown nobody");
    said.expect("keys", "signing-key-readable", "fail", "chgrp nobody");
    fs::set_permissions(high.dir().join("keys"), fs::Permissions::from_mode(0o755)).unwrap();
    let said = doctor(&high, &["--user", "nobody"]);
    said.expect("keys", "signing-key-readable", "fail", "chown nobody");
    // So is a secret that a section names; handed over as a credential it is in order.
    let secret = high.dir().join("link.key");
    fs::write(&secret, "ab".repeat(32)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    high.configure(&format!(
        "[[carrier]]\nname = \"proxy\"\ntype = \"tcp\"\nconnect = \"127.0.0.1:9\"\nkey-file = {secret:?}\n"
    ));
    let said = doctor(&high, &["--user", "nobody"]);
    said.expect("keys", "secret-readable", "fail", "chown nobody");
    doctor(&high, &[]).expect("keys", "secret-readable", "ok", "link.key");
    let said = doctor(&high, &["--user", "no-such-user"]);
    said.expect("configuration", "user", "fail", "no-such-user");
    // A floor that the disk is below of keeps the buffer from taking anything.
    high.configure("[buffer]\nfree-disk-floor = \"9000000GiB\"\n");
    doctor(&high, &[]).expect("disk", "room", "fail", "buffer.free-disk-floor");
    // Nothing is left behind by what was measured.
    let state = fs::read_dir(high.state_dir()).unwrap().flatten();
    let left: Vec<_> = state.filter(|entry| entry.path().extension().is_some()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn destinations_that_are_down_unknown_or_refuse_us_are_told_apart() {
    let sandbox = Sandbox::new("doctor-sinks");
    let low = Site::low(&sandbox, "soc");
    let authority = Authority::new(&sandbox.dir("ca"));
    let stranger = Authority::new(&sandbox.dir("stranger"));
    let nowhere = free_address();
    let token = sandbox.join("token");
    fs::write(&token, "not-the-one\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let hec = |server: &HttpServer, ca: &Path, name: &str| {
        format!(
            "[[sink]]\nname = {name:?}\ntype = \"splunk-hec\"\nurl = \"{}\"\ntoken-file = {token:?}\nca-file = {ca:?}\nindex = \"penstock\"\n",
            server.url()
        )
    };
    let certificate = authority.server("siem");
    let at = || ([127, 0, 0, 1], 0).into();
    let refusing = HttpServer::start_at(at(), Some(&certificate), |_| {
        Reply::status(403, "{\"text\":\"Invalid token\",\"code\":4}")
    });
    let letting = HttpServer::start_at(at(), Some(&certificate), |_| {
        Reply::status(400, "{\"text\":\"No data\",\"code\":5}")
    });
    low.configure(&format!(
        "[[sink]]\nname = \"down\"\ntype = \"syslog\"\naddress = \"{nowhere}\"\ntransport = \"tcp\"\n{}{}{}",
        hec(&refusing, authority.ca(), "refusing"),
        hec(&letting, authority.ca(), "letting"),
        hec(&letting, stranger.ca(), "stranger"),
    ));
    let said = doctor(&low, &[]);
    said.expect("sink down", "reached", "fail", "nc -vz");
    said.expect("sink refusing", "reached", "ok", "");
    said.expect("sink refusing", "credential", "fail", "Invalid token");
    said.expect("sink letting", "credential", "ok", "");
    said.expect("sink stranger", "reached", "fail", "openssl s_client");
}

#[test]
fn a_bundle_that_nobody_vouches_for_is_named_with_the_way_out() {
    let sandbox = Sandbox::new("doctor-quarantine");
    let high = Site::high(&sandbox, "plant-7");
    let low = Site::low(&sandbox, "soc");
    high.pair(&low);
    let crossing = Crossing { sandbox, pair: Pair { high, low }, tcp: free_address() };
    crossing.configure(10);
    let Pair { high, low } = &crossing.pair;
    let (_high, _low) = (high.start(), low.start());
    crossing.send(0..3);
    wait_until(PATIENCE, "a refused bundle", || {
        low.status()["quarantined"].as_u64().unwrap_or(0) > 0
    });
    let said = doctor(low, &[]);
    said.expect("bundles", "quarantine", "warn", "penstock-low quarantine retry --all");
    said.expect("keys", "signer", "fail", "penstock-low pair");
    said.expect("agent", "running", "ok", "");
    said.expect("agent", "page", "ok", "");
    doctor(high, &[]).expect("listeners", "bind", "ok", "the agent listens");
    assert!(bundles_in(&low.inbox()).is_empty());
}

#[test]
fn a_test_record_goes_through_every_kind_of_listener_to_the_sink() {
    let crossing = Crossing::new("doctor-test-record");
    let Pair { high, low } = &crossing.pair;
    let certificates = crossing.sandbox.join("minted");
    let mut mint = high.command(["mint", "--server-name", "localhost", "--client", "portainer"]);
    run(mint.arg("--dir").arg(&certificates)).success();
    let kinds = [
        "tcp",
        "udp",
        "relp",
        "fluent-forward",
        "fluent-http",
        "falco-http",
        "kube-webhook",
        "tls",
    ];
    let mut listeners = String::new();
    for kind in kinds {
        let bind = free_address();
        writeln!(
            listeners,
            "[[listener]]\nname = {kind:?}\nprotocol = {kind:?}\nbind = \"{bind}\""
        )
        .unwrap();
    }
    // The last one lets nobody in who shows no certificate: the one that was minted is found.
    writeln!(
        listeners,
        "certificate = {:?}\nkey = {:?}\nclient-auth = \"required\"\nclient-ca = {:?}",
        certificates.join("server.pem"),
        certificates.join("server.key"),
        certificates.join("ca.pem")
    )
    .unwrap();
    high.configure(&format!("{listeners}{}", crossing.handoff()));
    low.configure(&format!(
        "{}{}[[sink]]\nname = \"filtered\"\ntype = \"file\"\npath = {:?}\nprivileged-only = true\n",
        Crossing::quick_inbox(),
        crossing.file_sink(),
        crossing.sandbox.join("filtered")
    ));
    let (sender, receiver) = (high.start(), low.start());
    for kind in kinds {
        let sent = high.json(["doctor", "--send-test", "--listener", kind, "--json"]);
        let marker = sent["marker"].as_str().unwrap();
        assert_eq!(sent["protocol"], kind, "{sent}");
        assert!(sent["bundle"].as_u64().is_some(), "{sent}");
        let arrived = low.json(["doctor", "--await-test", marker, "--timeout", "60s", "--json"]);
        let at = |name: &str| {
            let sinks = arrived["sinks"].as_array().unwrap();
            sinks.iter().find(|sink| sink["name"] == name).unwrap().clone()
        };
        assert_eq!(at("file")["outcome"], "delivered", "{kind}: {arrived}");
        assert_eq!(at("file")["found"], true, "{kind}: {arrived}");
        assert_eq!(at("filtered")["outcome"], "filtered", "{kind}: {arrived}");
        assert_eq!(arrived["bundle"], sent["bundle"], "{kind}: {arrived}");
        // It can be recognised, and is what the report says.
        let id = arrived["record-id"].as_str().unwrap();
        let events = crossing.events();
        let event = events.iter().find(|event| event["id"] == id).unwrap();
        assert!(event["raw"].as_str().unwrap().contains(marker), "{kind}: {event}");
        assert!(event["raw"].as_str().unwrap().contains("nothing happened"), "{kind}: {event}");
    }
    // They were counted like any others.
    let (high_status, low_status) = (high.status(), low.status());
    assert_eq!(high_status["adds-up"], true);
    assert_eq!(low_status["adds-up"], true);
    assert_eq!(low_status["records"], kinds.len(), "{low_status}");
    // Both doctors find that all is well with what was just used.
    let said = doctor(low, &[]);
    said.expect("bundles", "heard", "ok", "plant-7");
    said.expect("keys", "signer-of-bundles", "ok", "");
    // One that never was sent is told, with what may be the reason.
    let done =
        low.run(["doctor", "--await-test", "penstock-test-0000000000000000", "--timeout", "0s"]);
    assert_eq!(done.code, Some(1));
    assert!(
        done.stderr.contains("try: on the high side: penstock-high bundles"),
        "{}",
        done.stderr
    );
    assert!(sender.stop(PATIENCE).success() && receiver.stop(PATIENCE).success());
    let done = high.run(["doctor", "--send-test"]);
    assert!(done.code != Some(0) && done.stderr.contains("no agent runs"), "{}", done.stderr);
}
