//! The units of systemd: how much each could do if it were taken over, by systemd's own measure.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tests::crossing::Crossing;
use tests::peers::peer;
use tests::process::run;
use tests::sandbox::Sandbox;
use tests::wait::PATIENCE;

/// A unit with its drop-ins, and the exposure that it may have, in tenths: the table of hardening.md.
const UNITS: &[(&str, &[&str], u32)] = &[
    ("penstock-high.service", &[], 10),
    ("penstock-high.service", &["penstock-high-privileged-ports.conf"], 13),
    ("penstock-high.service", &["penstock-high-tpm.conf"], 10),
    ("penstock-low.service", &[], 10),
    ("penstock-low.service", &["penstock-low-landing.conf"], 10),
    ("penstock-low.service", &["penstock-low-tpm.conf"], 10),
    ("penstock-low-import.service", &[], 3),
    ("media/penstock-export@.service", &[], 3),
    ("media/penstock-import@.service", &[], 3),
];

#[test]
fn no_unit_can_do_more_than_it_needs() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let sandbox = Sandbox::new("units");
    for (name, drop_ins, threshold) in UNITS {
        // A template is looked at as one of its instances.
        let file = Path::new(name).file_name().unwrap().to_str().unwrap().replace('@', "@sda1");
        let copy = sandbox.join(&file);
        let read = |name: &str| std::fs::read_to_string(units.join(name)).unwrap();
        let text: String = std::iter::once(name).chain(*drop_ins).map(|name| read(name)).collect();
        std::fs::write(&copy, text).unwrap();
        assert_exposed_at_most(&copy, *threshold);
    }
}

fn assert_exposed_at_most(unit: &Path, tenths: u32) {
    let done = run(peer("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={tenths}"))
        .arg(unit));
    assert_eq!(done.code, Some(0), "more exposed than {tenths}: {}", done.stdout);
}

/// What systemd says of a unit's text, whose programs are replaced by one that is there.
fn verified(unit: &Path) {
    let text = std::fs::read_to_string(unit).unwrap();
    let text = text.replace("/usr/bin/penstock-high", "/bin/true");
    std::fs::write(unit, text.replace("/usr/bin/penstock-low", "/bin/true")).unwrap();
    let done = run(peer("systemd-analyze").args(["verify", "--man=no"]).arg(unit));
    let ours = |line: &&str| line.contains("penstock");
    let said: Vec<&str> = done.stderr.lines().filter(ours).collect();
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn systemd_understands_every_unit() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let sandbox = Sandbox::new("verify");
    let mut seen = 0;
    for dir in [units.clone(), units.join("media")] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if ["service", "path", "timer"].contains(&kind.as_str()) {
                let name = path.file_name().unwrap().to_string_lossy().replace('@', "@sda1");
                std::fs::copy(&path, sandbox.join(&name)).unwrap();
                seen += 1;
            }
        }
    }
    assert!(seen >= 7, "{seen}");
    for entry in std::fs::read_dir(sandbox.path()).unwrap() {
        verified(&entry.unwrap().path());
    }
}

#[test]
fn a_drop_in_is_made_from_the_configuration_and_systemd_understands_it() {
    let crossing = Crossing::new("drop-in");
    crossing.configure(100);
    let out = crossing.sandbox.dir("a mount/out");
    let key = crossing.sandbox.join("token");
    shared::durable::write(&key, b"0123456789abcdef0123456789abcdef", 0o600).unwrap();
    crossing.pair.high.configure(&format!(
        "[[listener]]\nname = \"udp\"\nprotocol = \"udp\"\nbind = \"0.0.0.0:5514\"\n\
         [[carrier]]\nname = \"f\"\ntype = \"folder\"\npath = \"{}\"\n\
         [[carrier]]\nname = \"d\"\ntype = \"udp-diode\"\nto = \"192.0.2.2:7000\"\nlink-key-file = \"{}\"\n",
        out.display(),
        key.display(),
    ));
    crossing.pair.low.configure(&format!(
        "{}[[sink]]\nname = \"s\"\ntype = \"syslog\"\naddress = \"192.0.2.9:601\"\ntransport = \"tcp\"\n",
        crossing.file_sink()
    ));
    let arguments = ["setup", "systemd", "--sources", "10.20.0.0/24", "--credentials"];
    for (site, name, expected) in [
        (
            &crossing.pair.high,
            "penstock-high.service",
            &["IPAddressAllow=192.0.2.2", "SocketBindAllow=ipv4:udp:5514"][..],
        ),
        (
            &crossing.pair.low,
            "penstock-low.service",
            &["IPAddressAllow=192.0.2.9", "LoadCredential=receipt.key:"][..],
        ),
    ] {
        let text = site.run(arguments).success();
        for part in expected {
            assert!(text.contains(part), "{part} is missing from {text}");
        }
        let unit = tests::seccomp::unit(name);
        let copy = crossing.sandbox.join(name);
        std::fs::write(&copy, std::fs::read_to_string(unit).unwrap() + &text).unwrap();
        assert_exposed_at_most(&copy, 10);
        verified(&copy);
    }
    let done = crossing.pair.high.run(["setup", "systemd"]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("listener.udp") && done.stderr.contains("--sources"));
}

#[test]
fn agents_tell_the_service_manager_that_they_are_ready_and_then_that_they_live() {
    let crossing = Crossing::new("notify");
    crossing.configure(100);
    for site in [&crossing.pair.high, &crossing.pair.low] {
        let path = crossing.sandbox.join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let agent = site.start_as(site.command(["run"]).env("NOTIFY_SOCKET", &path));
        let mut heard = Vec::new();
        while heard.iter().filter(|word| *word == "WATCHDOG=1").count() < 2 {
            let mut text = [0; 256];
            let length = manager.recv(&mut text).expect("a word within the patience");
            heard.push(String::from_utf8_lossy(&text[..length]).trim().to_owned());
        }
        assert!(heard.iter().any(|word| word == "READY=1"), "{heard:?}");
        assert!(agent.stop(PATIENCE).success());
        std::fs::remove_file(&path).unwrap();
    }
}
