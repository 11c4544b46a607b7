//! Media that are what they should be, and media that are full, read-only, slow, or pulled out.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tests::agents::{Site, bundles_in};
use tests::peers::under_strace;
use tests::process::{Process, run};
use tests::sandbox::Sandbox;
use tests::wait::{PATIENCE, wait_until};

use crate::disk::Disk;
use crate::site::{Way, assert_nothing_half, names, word};

const KINDS: [&str; 3] = ["vfat", "exfat", "ext4"];
const STICK_BYTES: u64 = 40 << 20;

#[test]
fn sticks_of_every_kind_carry_bundles_there_and_a_signature_back() {
    for kind in KINDS {
        let way = Way::new(&format!("media-{kind}"));
        let Some(mut disk) = Disk::new(&way.crossing.sandbox, "stick", kind, STICK_BYTES) else {
            continue;
        };
        let bundles = way.fill(60, 1);
        let done = way.export(&[word(disk.path())]);
        assert!(
            done.stderr.contains(&format!("{kind}, ")) || done.stderr.contains("fuse"),
            "{done:?}"
        );
        done.success();
        assert_eq!(way.state_count("ready"), 0);
        assert!(!names(disk.path()).iter().any(|name| name.ends_with(".partial")));

        // Read-only, as a careful receiver mounts it: nothing is missing but the signature on it.
        disk.unmount();
        disk.mount(true).unwrap();
        let done = way.import(&[word(disk.path())]);
        assert!(done.stderr.contains("countersignature is not on the medium"), "{done:?}");
        done.success();
        way.assert_arrived(bundles);

        disk.unmount();
        disk.mount(false).unwrap();
        let json = way.take_in(&["--wipe", "--yes", word(disk.path())]);
        assert_eq!(json["duplicate"].as_u64(), Some(bundles), "{json}");
        assert!(bundles_in(disk.path()).is_empty());
        disk.unmount();
    }
}

#[test]
fn a_full_stick_takes_what_fits_and_the_next_one_the_rest() {
    for kind in KINDS {
        full(kind);
    }
}

fn full(kind: &'static str) {
    let way = Way::new("media-full");
    let sandbox = &way.crossing.sandbox;
    let Some(first) = Disk::new(sandbox, "first", kind, STICK_BYTES) else { return };
    let second = Disk::new(sandbox, "second", kind, STICK_BYTES).unwrap();
    let bundles = way.fill(120, 2);
    assert!(bundles >= 3);
    first.leave_free(900 * 1024);

    let done = way.export(&[word(first.path())]);
    assert_eq!(done.code, Some(74), "{done:?}");
    assert!(done.stderr.contains("the medium is full"), "{done:?}");
    assert_nothing_half(first.path(), way.low());
    let here = bundles_in(first.path()).len() as u64;
    assert!((1..bundles).contains(&here), "{here} of {bundles}");
    assert_eq!(way.state_count("handed-over"), here, "what fitted counts, and nothing else");
    assert!(done.stderr.contains("transfer record:"), "{done:?}");

    way.export(&[word(second.path())]).success();
    assert_eq!(way.state_count("ready"), 0);
    way.take_in(&[word(first.path()), word(second.path())]);
    way.assert_arrived(bundles);
}

#[test]
fn a_write_protected_stick_changes_nothing() {
    let way = Way::new("media-ro");
    let bundles = way.fill(10, 3);
    for kind in KINDS {
        let Some(mut disk) = Disk::new(&way.crossing.sandbox, kind, kind, STICK_BYTES) else {
            continue;
        };
        disk.unmount();
        disk.mount(true).unwrap();
        let done = way.export(&[word(disk.path())]);
        assert_eq!(done.code, Some(74), "{done:?}");
        assert!(done.stderr.contains("read-only") && done.stderr.contains("try:"), "{done:?}");
        assert_eq!(way.state_count("ready"), bundles);
        disk.unmount();
    }
}

/// Starts a command whose every sync takes a while, as on a bad stick.
fn slowly(site: &Site, words: &[&str], sandbox: &Sandbox) -> Option<Process> {
    let trace = sandbox.join("trace");
    let fault = format!("fsync:delay_enter={}", SYNC_DELAY.as_micros());
    let traced = run(&mut under_strace(&Command::new("true"), &fault, &trace));
    if traced.code != Some(0) {
        println!("NOT RUN: strace can't trace here: {}", traced.stderr.trim());
        return None;
    }
    let mut command = under_strace(&site.command(words.iter().copied()), &fault, &trace);
    Some(Process::spawn(&mut command, "slow", sandbox.path()))
}

const SYNC_DELAY: Duration = Duration::from_millis(60);

#[test]
fn a_stick_pulled_out_in_the_middle_is_told_of_and_a_second_run_completes() {
    // A FUSE driver has its own words for a device that is gone, and lives on behind the unmount; the
    // kernel's are what an officer meets.
    let way = Way::new("media-yank");
    let sandbox = &way.crossing.sandbox;
    let Some(mut disk) = Disk::new(sandbox, "stick", "ext4", STICK_BYTES) else { return };
    let bundles = way.fill(200, 4);
    let stick = disk.path().to_owned();
    let Some(mut export) = slowly(way.high(), &["export", word(&stick)], sandbox) else { return };
    // In the middle: one bundle is there, and the next ones are on their way.
    wait_until(PATIENCE, "a first bundle on the stick", || {
        export.ended().is_some() || !bundles_in(&stick).is_empty()
    });
    disk.yank();
    let ended = export.wait(PATIENCE);
    let log = export.log();
    assert_eq!(ended.code(), Some(74), "{log}");
    assert!(log.contains("the medium does not answer"), "{log}");
    assert!(log.contains("mend the cause and export again"), "{log}");
    let handed_over = way.state_count("handed-over");
    assert_eq!(way.state_count("ready") + handed_over, bundles, "every bundle is accounted for");
    assert!(handed_over < bundles);
    disk.forget();

    // Half of it is gone for good; it is made anew, and everything goes onto it.
    disk.format(STICK_BYTES).unwrap();
    disk.mount(false).unwrap();
    way.export(&["--all", word(&stick)]).success();
    assert_eq!(way.state_count("ready"), 0);
    assert_nothing_half(&stick, way.low());

    // The other side pulls it out, too.
    way.import(&[word(&way.stick("empty"))]).success();
    let Some(mut import) = slowly(way.low(), &["import", word(&stick)], sandbox) else { return };
    wait_until(PATIENCE, "a first bundle on the low side", || {
        import.ended().is_some() || way.low().status()["admitted"].as_u64().unwrap_or(0) > 0
    });
    let image = fs::read(sandbox.join("stick.ext4")).unwrap();
    disk.yank();
    let ended = import.wait(PATIENCE);
    let log = import.log();
    // What was in memory by then could still be read.
    if ended.code() == Some(0) {
        println!("the import was over before the stick was out");
    } else {
        assert_eq!(ended.code(), Some(74), "{log}");
        assert!(log.contains("what is done is done"), "{log}");
    }
    disk.forget();
    fs::write(sandbox.join("stick.ext4"), image).unwrap();
    disk.mount(false).unwrap();
    way.take_in(&[word(&stick)]);
    way.assert_arrived(bundles);
    disk.unmount();
}

#[test]
fn a_full_disk_on_the_low_side_is_told_of_and_a_second_import_completes() {
    let way = Way::new("media-low-full");
    let sandbox = &way.crossing.sandbox;
    let Some(disk) = Disk::new(sandbox, "low-state", "ext4", STICK_BYTES) else { return };
    let bundles = way.fill(120, 5);
    let stick = way.stick("stick");
    way.export(&[word(&stick)]).success();
    let low = way.low().clone().with_state_dir(disk.path().join("state"));
    low.run(["import", word(&way.stick("empty"))]).success();
    let ballast = disk.leave_free(700 * 1024);
    let done = low.run(["import", word(&stick)]);
    assert_eq!(done.code, Some(74), "{done:?}");
    assert!(done.stderr.contains("try: the same command again"), "{done:?}");
    fs::remove_file(ballast).unwrap();
    let json = low.json(["import", "--json", word(&stick)]);
    let taken = |what: &str| json[what].as_u64().unwrap();
    assert_eq!(taken("admitted") + taken("duplicate"), bundles, "{json}");
    assert_eq!(low.status()["admitted"].as_u64(), Some(bundles));
}
