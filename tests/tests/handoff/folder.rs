//! The folder carrier and receiver, with an appliance between them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use tests::agents::bundles_in;
use tests::crossing::Crossing;
use tests::oracle::Oracle;
use tests::wait::{PATIENCE, wait_until};

use crate::appliance::{Appliance, Habits};
use crate::{cross, details, finish, trouble};

struct Gap {
    crossing: Crossing,
    put: PathBuf,
    got: PathBuf,
}

impl Gap {
    fn new(name: &str, carrier: &str, receiver: &str) -> Self {
        let crossing = Crossing::new(name);
        let (put, got) = (crossing.sandbox.dir("put"), crossing.sandbox.dir("got"));
        let gap = Self { crossing, put, got };
        gap.configure(carrier, receiver);
        gap
    }

    fn configure(&self, carrier: &str, receiver: &str) {
        let Self { crossing, put, got } = self;
        crossing.pair.high.configure(&format!(
            "{}{}[[carrier]]\nname = \"appliance\"\ntype = \"folder\"\npath = {:?}\n{carrier}\n",
            Crossing::seal_soon(100),
            crossing.listener(),
            put.display().to_string()
        ));
        crossing.pair.low.configure(&format!(
            "{}[[receiver]]\nname = \"appliance\"\ntype = \"folder\"\npath = {:?}\npoll-interval = \"50ms\"\n{receiver}\n{}",
            Crossing::quick_inbox(),
            got.display().to_string(),
            crossing.file_sink()
        ));
    }

    fn appliance(&self, habits: Habits) -> Appliance {
        Appliance::start(&self.put, &self.got, habits)
    }
}

#[test]
fn an_appliance_that_polls_and_deletes_sees_nothing_change_and_carries_all() {
    let gap = Gap::new("folder-plain", "", "");
    let appliance = gap.appliance(Habits::default());
    let agents = [gap.crossing.pair.high.start(), gap.crossing.pair.low.start()];
    cross(&gap.crossing, &mut Oracle::new(), 1000);
    let seen = appliance.end();
    assert!(seen.touched.is_empty(), "{seen:?}");
    finish(&gap.crossing, agents, &[]);
    assert_eq!(fs::read_dir(&gap.got).unwrap().count(), 0, "what was taken is deleted");
}

#[test]
fn files_named_by_their_digest_from_another_folder_in_parts_with_markers() {
    let carrier = |gap: &std::path::Path| {
        format!(
            "temporary = \"directory\"\ntemporary-directory = {:?}\nname-style = \"sha256\"\nsidecar = \"none\"\npart-size = \"6KiB\"\ndone-marker = \"NAME.done\"\nmanifest = true\n",
            gap.display().to_string()
        )
    };
    let gap = Gap::new("folder-kuma", "", "");
    let temporary = gap.crossing.sandbox.dir("temporary");
    gap.configure(&carrier(&temporary), "done-marker = \"NAME.done\"\nmanifest = true\n");
    let appliance = gap.appliance(Habits { writes: 100, ..Habits::default() });
    let agents = [gap.crossing.pair.high.start(), gap.crossing.pair.low.start()];
    cross(&gap.crossing, &mut Oracle::new(), 1000);
    let seen = appliance.end();
    assert!(seen.touched.is_empty(), "{seen:?}");
    let hex = |name: &String| name.bytes().take(64).all(|b| b.is_ascii_hexdigit());
    let parts = seen.took.iter().filter(|name| name.contains(".part-") && hex(name)).count();
    assert!(parts > 2, "{seen:?}");
    assert!(seen.took.iter().any(|name| name.ends_with(".manifest")), "{seen:?}");
    wait_until(PATIENCE, "manifests and markers to be put away", || {
        fs::read_dir(&gap.got).unwrap().count() == 0
    });
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    finish(&gap.crossing, agents, &[]);
}

#[test]
fn one_marker_for_all_a_required_checksum_and_another_place_afterwards() {
    let gap = Gap::new("folder-marker", "done-marker = \"all.done\"\nsidecar = \"sha256\"\n", "");
    let moved = gap.crossing.sandbox.dir("moved");
    gap.configure(
        "done-marker = \"all.done\"\nsidecar = \"sha256\"\n",
        &format!(
            "done-marker = \"all.done\"\nsidecar = \"required\"\nafter = \"move\"\nmove-to = {:?}\n",
            moved.display().to_string()
        ),
    );
    let appliance = gap.appliance(Habits::default());
    let agents = [gap.crossing.pair.high.start(), gap.crossing.pair.low.start()];
    cross(&gap.crossing, &mut Oracle::new(), 500);
    appliance.end();
    assert!(!bundles_in(&moved).is_empty());
    finish(&gap.crossing, agents, &[]);
}

#[test]
fn a_folder_that_nobody_empties_fills_no_further_and_says_so() {
    let gap = Gap::new("folder-full", "files-max = 4\n", "");
    let appliance = gap.appliance(Habits::default());
    appliance.pause(true);
    let agents = [gap.crossing.pair.high.start(), gap.crossing.pair.low.start()];
    let mut oracle = Oracle::new();
    let ids = oracle.issue(1000);
    gap.crossing.send(ids.clone());
    oracle.taken(ids);
    wait_until(PATIENCE, "a word about the full folder", || {
        trouble(&gap.crossing.pair.high.status(), "carriers").contains("nobody takes them away")
    });
    assert_eq!(fs::read_dir(&gap.put).unwrap().count(), 4, "two bundles and their checksums");
    appliance.pause(false);
    cross(&gap.crossing, &mut oracle, 1);
    appliance.end();
    finish(&gap.crossing, agents, &[]);
}

#[test]
fn a_command_is_run_for_each_file_until_it_succeeds_and_one_on_low_fetches() {
    let gap = Gap::new("folder-command", "", "");
    let site = gap.crossing.sandbox.path();
    let program = |name: &str, text: &str| {
        let path = site.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        path.display().to_string()
    };
    // Push: fails the first time with words, then carries the file to "the other machine".
    let spool = gap.crossing.sandbox.dir("spool");
    let state = site.join("failed-once");
    let push = program(
        "push",
        &format!(
            "if [ ! -e {0} ]; then touch {0}; echo 'no route to the diode' >&2; exit 7; fi\nmv \"$1\" {1}/\"$2\".tmp && mv {1}/\"$2\".tmp {1}/\"$2\"",
            state.display(),
            spool.display()
        ),
    );
    // Fetch: what is there is moved into the watched folder.
    let fetch = program(
        "fetch",
        &format!(
            "for f in {}/*.pstk; do [ ! -e \"$f\" ] || mv \"$f\" \"$1\"/; done",
            spool.display()
        ),
    );
    gap.configure(
        &format!("sidecar = \"none\"\ncommand = [{push:?}, \"{{file}}\", \"{{name}}\"]\ncommand-timeout = \"30s\"\n"),
        &format!("polls = 1\ncommand = [{fetch:?}, {:?}]\n", gap.got.display().to_string()),
    );
    let agents = [gap.crossing.pair.high.start(), gap.crossing.pair.low.start()];
    cross(&gap.crossing, &mut Oracle::new(), 300);
    wait_until(PATIENCE, "the failed command to be counted", || {
        details(&gap.crossing.pair.high.status(), "carriers")["commands-failed"] == 1
    });
    let log = fs::read_to_string(gap.crossing.pair.high.log_path()).unwrap();
    assert!(log.contains("exit code 7") && log.contains("no route to the diode"), "{log}");
    finish(&gap.crossing, agents, &[]);
}

#[test]
fn what_is_hostile_in_a_watched_folder_harms_nobody() {
    let gap = Gap::new("folder-hostile", "", "polls = 1\nincomplete-deadline = \"500ms\"\n");
    let got = |name: &str| gap.got.join(name);
    let secret = gap.crossing.sandbox.join("secret");
    fs::write(&secret, "what the low side must not read through a link").unwrap();
    symlink(&secret, got("link.pstk")).unwrap();
    symlink("/dev/zero", got("zero.pstk")).unwrap();
    nix::unistd::mkfifo(&got("fifo.pstk"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(got("folder.pstk")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(got("socket.pstk")).unwrap();
    fs::write(got("-rf; $(reboot) \u{1b}[2J\n.pstk"), "no bundle").unwrap();
    fs::write(got(&"x".repeat(255)), "no bundle").unwrap();
    fs::write(got("a.part-1-of-2"), "no part").unwrap();
    fs::write(got("never.pstk"), "differs from its checksum").unwrap();
    fs::write(got("never.pstk.sha256"), "00".repeat(32)).unwrap();
    for n in 0..2000 {
        fs::write(got(&format!("empty-{n}.partial")), "").unwrap();
    }
    let appliance = gap.appliance(Habits::default());
    let agents = [gap.crossing.pair.high.start(), gap.crossing.pair.low.start()];
    cross(&gap.crossing, &mut Oracle::new(), 300);
    wait_until(PATIENCE, "what is no file to be counted", || {
        details(&gap.crossing.pair.low.status(), "receivers")["no-files"] == 5
    });
    wait_until(PATIENCE, "the file that never becomes right to be named", || {
        let log = fs::read_to_string(gap.crossing.pair.low.log_path()).unwrap();
        log.contains("did not become complete in time") && log.contains("never.pstk")
    });
    assert!(got("never.pstk").exists(), "it stays");
    for entry in fs::read_dir(gap.crossing.pair.low.state_dir().join("quarantine")).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap_or_default();
        assert!(!content.starts_with(b"what the low side must not read"));
    }
    appliance.end();
    finish(&gap.crossing, agents, &["did not become complete in time", "quarantine", "refused"]);
}

#[test]
fn a_vanished_or_read_only_folder_is_told_and_holds_up_no_sealing() {
    let gap = Gap::new("folder-gone", "", "");
    let away = gap.crossing.sandbox.join("away");
    let agents = [gap.crossing.pair.high.start(), gap.crossing.pair.low.start()];
    shared::durable::rename(&gap.put, &away).unwrap();
    let mut oracle = Oracle::new();
    let ids = oracle.issue(300);
    gap.crossing.send(ids.clone());
    oracle.taken(ids);
    wait_until(PATIENCE, "a word about the folder", || {
        trouble(&gap.crossing.pair.high.status(), "carriers").contains("No such file")
    });
    wait_until(PATIENCE, "all to be sealed nevertheless", || {
        let high = gap.crossing.pair.high.status();
        tests::crossing::buffered(&high) == 0
            && high["bundles"]["ready"]["count"].as_u64() >= Some(3)
    });
    shared::durable::rename(&away, &gap.put).unwrap();
    let appliance = gap.appliance(Habits::default());
    cross(&gap.crossing, &mut oracle, 1);
    wait_until(PATIENCE, "the trouble to end", || {
        trouble(&gap.crossing.pair.high.status(), "carriers").is_empty()
    });
    appliance.end();
    finish(&gap.crossing, agents, &[]);
}
