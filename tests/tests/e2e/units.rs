//! The units of systemd: how much each could do if it were taken over, by systemd's own measure.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tests::crossing::Crossing;
use tests::peers::peer;
use tests::process::run;
use tests::sandbox::Sandbox;
use tests::wait::PATIENCE;

/// A unit with its drop-ins, and the exposure that it may have, in tenths. What listens needs the
/// network; which part of it, only the site knows.
const UNITS: &[(&str, &[&str], u32)] = &[
    ("penstock-high.service", &[], 11),
    ("penstock-high.service", &["penstock-high-network.conf"], 10),
    ("penstock-low.service", &[], 11),
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
        let done = run(peer("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={threshold}"))
            .arg(&copy));
        assert_eq!(done.code, Some(0), "{name} is more exposed than {threshold}: {}", done.stdout);
    }
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
