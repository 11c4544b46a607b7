//! Databases, logs and keys that are damaged or gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;
use tests::agents::Site;
use tests::crossing::{Crossing, assert_sound, buffered, pending};
use tests::process::Process;
use tests::wait::{PATIENCE, wait_until};

use super::{acknowledge, alarm, bound_by_permissions, wait_over, wait_raised};

/// Both sides; the high one seals when it is told to.
fn sealed_when_told(name: &str) -> Crossing {
    let crossing = Crossing::new(name);
    crossing.pair.high.configure(&format!(
        "[seal]\nflash-budget = \"1h\"\nheartbeat = \"1d\"\n{}{}",
        crossing.listener(),
        crossing.handoff()
    ));
    let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
    crossing
}

fn change(site: &Site, sql: &str) {
    let buffer = Connection::open(site.state_dir().join("buffer.db")).expect("the buffer");
    buffer.execute_batch(sql).expect("a change");
}

fn wait_delivered(low: &Site, records: u64) {
    wait_until(PATIENCE, &format!("{records} records delivered"), || {
        let status = low.status();
        status["records"] == records && pending(&status) == 0
    });
}

fn stop(agent: Process) {
    assert!(agent.stop(PATIENCE).success());
}

#[test]
fn a_broken_buffer_is_set_aside_and_what_it_held_is_taken_in() {
    let crossing = sealed_when_told("alarms-aside");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let (agent, _low) = (high.start(), low.start());
    crossing.send(1..11);
    crossing.wait_committed(10);
    high.run(["seal"]).success();
    wait_delivered(low, 10);
    crossing.send(11..31);
    crossing.wait_committed(30);
    agent.kill();
    change(high, "PRAGMA application_id = 1");
    let agent = high.start();
    let told = wait_raised(high, "buffer-set-aside");
    wait_raised(high, "epoch-began");
    stop(agent);
    // The folder stands in the alarm, as the page has it.
    let message = told["message"].as_str().unwrap();
    let from = message.find(high.state_dir().to_str().unwrap()).expect("the folder");
    let folder: String =
        message[from..].chars().take_while(|c| !matches!(c, ' ' | ':' | ',' | ';')).collect();
    assert!(Path::new(&folder).join("buffer.db").is_file(), "{message}");
    let taken = high.run(["recover", "--from", &folder]).success();
    assert!(taken.contains("20 record(s) taken in"), "{taken}");
    let _agent = high.start();
    high.run(["seal"]).success();
    wait_delivered(low, 30);
    assert_eq!(assert_sound(&crossing.events()).ids.len(), 30);
    // Asked by the low side, the high side knows why.
    let asked = wait_raised(low, "epoch-began");
    let epoch = high.status()["epoch"].to_string();
    assert!(asked["message"].as_str().unwrap().contains(&epoch), "{asked}");
    for code in ["buffer-set-aside", "epoch-began"] {
        acknowledge(high, code);
    }
    acknowledge(low, "epoch-began");
}

#[test]
fn records_that_the_disk_changed_are_declared_lost_on_both_sides() {
    let crossing = sealed_when_told("alarms-block");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let (agent, _low) = (high.start(), low.start());
    for first in [1, 11, 21] {
        crossing.send(first..first + 10);
        crossing.wait_committed(first + 9);
    }
    agent.kill();
    // The second of three groups.
    change(high, "DELETE FROM body WHERE id = (SELECT id FROM body ORDER BY id LIMIT 1 OFFSET 1)");
    let _agent = high.start();
    high.run(["seal"]).success();
    wait_raised(high, "block-damaged");
    wait_until(PATIENCE, "all of it sealed", || buffered(&high.status()) == 0);
    let told = wait_raised(low, "loss-declared");
    let lost = 30 - low.status()["records"].as_u64().unwrap();
    assert!(lost > 0 && lost < 30, "{lost}");
    assert!(told["message"].as_str().unwrap().contains(&lost.to_string()), "{told}");
    wait_delivered(low, 30 - lost);
    // Exactly these, and nothing is missing.
    let account = low.run(["account"]).success();
    let sums =
        format!("generated 30 = {} arrived + 0 suppressed + {lost} lost + 0 missing", 30 - lost);
    assert!(account.contains(&sums), "{account}");
    high.run(["check-buffer"]).success();
    acknowledge(high, "block-damaged");
    acknowledge(low, "loss-declared");
    crossing.send(31..41);
    crossing.wait_committed(40);
    high.run(["seal"]).success();
    wait_delivered(low, 40 - lost);
    assert!(alarm(high, "block-damaged").is_none() && alarm(low, "loss-declared").is_none());
}

#[test]
fn a_custody_log_that_was_cut_off_and_one_that_can_not_be_signed_are_told() {
    let crossing = Crossing::new("alarms-custody");
    crossing.configure(100);
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let agents = [high.start(), low.start_as(&mut bound_by_permissions(low))];
    crossing.send(1..11);
    crossing.wait_committed(10);
    crossing.wait_drained();
    // Without its key, and without the right to make one, the log is not signed when the agent stops.
    let may_write = |may: bool| {
        let mode = fs::Permissions::from_mode(if may { 0o700 } else { 0o500 });
        fs::set_permissions(low.dir().join("keys"), mode).unwrap();
    };
    let keys = [high.dir().join("keys/signing.key"), low.dir().join("keys/receipt.key")];
    let aside = keys.each_ref().map(|key| key.with_extension("aside"));
    for (key, aside) in keys.iter().zip(&aside) {
        shared::durable::rename(key, aside).unwrap();
    }
    may_write(false);
    agents.into_iter().for_each(stop);
    may_write(true);
    wait_raised(high, "custody-not-signed");
    wait_raised(low, "custody-not-signed");
    // The high side's comes back; of the low side's a new one is made.
    shared::durable::rename(&aside[0], &keys[0]).unwrap();
    low.run(["public"]).success();
    assert!(keys[1].is_file());
    [high.start(), low.start()].into_iter().for_each(stop);
    wait_over(low, "custody-not-signed");
    acknowledge(high, "custody-not-signed");

    // Somebody cuts the last lines off, and asks the way the page says.
    for site in [high, low] {
        let folder = site.state_dir().join("custody");
        let mut segments: Vec<_> =
            fs::read_dir(&folder).unwrap().flatten().map(|e| e.path()).collect();
        segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        segments.sort();
        let last = segments.last().unwrap();
        let text = fs::read_to_string(last).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        fs::write(last, lines[..lines.len() - 2].concat()).unwrap();
        let agent = site.start();
        wait_raised(site, "custody-changed");
        let done = site.run(["custody", "verify", "--json"]);
        assert_eq!(done.code, Some(1), "{done:?}");
        let said: Value = serde_json::from_str(&done.stdout).unwrap();
        assert!(said["found"].as_u64() > Some(0), "{said}");
        acknowledge(site, "custody-changed");
        stop(agent);
        // It is told once; the hole in the log stays for who verifies it.
        stop(site.start());
        assert!(alarm(site, "custody-changed").is_none());
        assert_eq!(site.run(["custody", "verify"]).code, Some(1));
    }
}
