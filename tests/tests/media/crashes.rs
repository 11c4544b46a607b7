//! Killed at any moment (kill -9 before the Nth sync or rename): a second run completes, on both sides.

use std::path::Path;
use std::process::Command;

use tests::agents::Site;
use tests::peers::under_strace;
use tests::process::run;

use crate::site::{Way, assert_nothing_half, names, word};

/// Runs a verb that is killed before its Nth call; false if it had fewer.
fn killed(site: &Site, words: &[&str], call: &str, at: u64, trace: &Path) -> bool {
    let fault = format!("{call}:signal=KILL:when={at}");
    let command = site.command(words.iter().copied());
    run(&mut under_strace(&command, &fault, trace)).code != Some(0)
}

fn can_trace(way: &Way) -> bool {
    let trace = way.crossing.sandbox.join("trace");
    let fault = "fsync:signal=KILL:when=1";
    let done = run(&mut under_strace(&Command::new("true"), fault, &trace));
    if done.code != Some(0) {
        println!("NOT RUN: strace can't trace here: {}", done.stderr.trim());
    }
    done.code == Some(0)
}

/// Kills at the first, second, third, fifth, eighth ... call, until there are fewer.
fn moments() -> impl Iterator<Item = u64> {
    std::iter::successors(Some((1, 2)), |(a, b)| Some((*b, a + b))).map(|(a, _)| a)
}

#[test]
fn a_set_survives_kills_in_export_and_import_and_wiping() {
    let way = Way::new("media-kill");
    if !can_trace(&way) {
        return;
    }
    let bundles = way.fill(40, 31);
    let trace = way.crossing.sandbox.join("trace");
    let sticks = ["one", "two", "three"].map(|name| way.stick(name));
    let mut kills = 0;
    for stick in &sticks {
        let words = ["export", "--parts", "2+1", word(stick)];
        for call in ["fsync", "rename"] {
            for at in moments().take_while(|at| *at < 30) {
                if !killed(way.high(), &words, call, at, &trace) {
                    break;
                }
                kills += 1;
                for name in names(stick).iter().filter(|name| name.contains(".part-")) {
                    let whole = shared::parts::PartHeader::read(&stick.join(name)).is_ok();
                    assert!(whole || name.ends_with(".partial"), "{name} is half");
                }
            }
        }
        way.export(&["--parts", "2+1", word(stick)]);
    }
    assert!(kills > 10, "{kills}");
    assert_eq!(way.state_count("ready"), 0, "the set is complete");
    let parts =
        |dir: &Path| names(dir).iter().filter(|name| name.contains(".part-")).count() as u64;
    assert!(sticks.iter().all(|stick| parts(stick) == bundles));

    for stick in &sticks[1..] {
        let words = ["import", word(stick)];
        for call in ["fsync", "rename", "unlink"] {
            for at in moments().take_while(|at| *at < 30) {
                if !killed(way.low(), &words, call, at, &trace) {
                    break;
                }
            }
        }
        way.import(&[word(stick)]).success();
    }
    way.assert_arrived(bundles);
    let words = ["import", "--wipe", "--yes", word(&sticks[1])];
    for at in moments().take_while(|at| *at < 20) {
        if !killed(way.low(), &words, "unlink", at, &trace) {
            break;
        }
    }
    // The last one that was killed may have been at its end.
    let done = way.import(&["--wipe", "--yes", word(&sticks[1])]);
    let over = done.stderr.contains("without a transfer record");
    assert!(done.code == Some(0) || over, "{done:?}");
    assert_eq!(parts(&sticks[1]), 0);
    let left = names(&sticks[1]);
    assert!(!left.iter().any(|name| name.contains(".pstk")), "{left:?}");
}

#[test]
fn a_set_survives_a_medium_that_fails_now_and_then() {
    let way = Way::new("media-errors");
    if !can_trace(&way) {
        return;
    }
    let bundles = way.fill(40, 33);
    let trace = way.crossing.sandbox.join("trace");
    let sticks = ["one", "two"].map(|name| way.stick(name));
    let mut failures = 0;
    for stick in &sticks {
        let words = ["export", "--parts", "1+1", word(stick)];
        for (call, error) in
            [("fsync", "EIO"), ("rename", "EIO"), ("write", "ENOSPC"), ("pwrite64", "EROFS")]
        {
            for at in moments().take_while(|at| *at < 40) {
                let fault = format!("{call}:error={error}:when={at}");
                let command = way.high().command(words);
                let done = run(&mut under_strace(&command, &fault, &trace));
                if done.code == Some(0) {
                    continue;
                }
                failures += 1;
                assert!(!done.stderr.contains("panicked"), "{fault}: {done:?}");
                for name in names(stick).iter().filter(|name| name.contains(".part-")) {
                    let whole = shared::parts::PartHeader::read(&stick.join(name)).is_ok();
                    assert!(whole || name.ends_with(".partial"), "{fault}: {name} is half");
                }
            }
        }
        way.export(&["--parts", "1+1", word(stick)]);
    }
    assert!(failures > 10, "{failures}");
    assert_eq!(way.state_count("ready"), 0, "the set is complete");
    assert_eq!(way.take_in(&[word(&sticks[1])])["admitted"].as_u64(), Some(bundles));
}

#[test]
fn bundles_survive_kills_in_the_middle_of_a_file() {
    let way = Way::new("media-kill-file");
    if !can_trace(&way) {
        return;
    }
    let bundles = way.fill(80, 32);
    let trace = way.crossing.sandbox.join("trace");
    let stick = way.stick("stick");
    for at in [1, 2, 4, 7] {
        killed(way.high(), &["export", word(&stick)], "write", at * 10, &trace);
        assert_nothing_half(&stick, way.low());
    }
    way.export(&["--all", word(&stick)]).success();
    assert!(!names(&stick).iter().any(|name| name.ends_with(".partial")), "none is left over");
    way.import(&[word(&stick)]).success();
    way.assert_arrived(bundles);
}
