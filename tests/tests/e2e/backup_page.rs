//! The handbook's page about backups, followed from top to bottom by somebody who types what it says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::agents::{Site, program};
use tests::crossing::{Crossing, pending};
use tests::process::run;
use tests::wait::{PATIENCE, wait_until};

const PAGE: &str = include_str!("../../../packaging/doc/backup-and-upgrade.md");

/// The page's blocks of commands, in order.
fn blocks() -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in PAGE.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(String::new()),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

/// A desk with the programs as they are installed: `penstock-high`, `penstock-low`, `systemctl`.
struct Desk<'a> {
    crossing: &'a Crossing,
}

impl Desk<'_> {
    fn set_up(&self) {
        let (high, low) = (&self.crossing.pair.high, &self.crossing.pair.low);
        let bin = self.crossing.sandbox.dir("bin");
        for (name, site) in [("penstock-high", high), ("penstock-low", low)] {
            let config = site.config().display().to_string();
            let program = program(name).display().to_string();
            script(&bin.join(name), &format!("exec '{program}' --config '{config}' \"$@\"\n"));
        }
        let dirs = format!("high='{}'; low='{}'\n", high.dir().display(), low.dir().display());
        let systemctl = "unit=$2; dir=$low; [ $unit = penstock-high ] && dir=$high\n\
            case $1 in\n\
            stop) pid=$(cat \"$dir/pid\"); kill \"$pid\"; while kill -0 \"$pid\" 2>/dev/null; do sleep 0.05; done;;\n\
            start) : > \"$dir/$unit.log\"; setsid \"$unit\" run >> \"$dir/$unit.log\" 2>&1 < /dev/null & echo $! > \"$dir/pid\"\n\
              n=0; until grep -q ' ready' \"$dir/$unit.log\"; do sleep 0.05; n=$((n+1)); [ $n -lt 1200 ]; done;;\n\
            *) exit 64;;\nesac\n";
        script(&bin.join("systemctl"), &format!("set -e\n{dirs}{systemctl}"));
    }

    fn type_in(&self, commands: &str) {
        let sandbox = &self.crossing.sandbox;
        let path = std::env::var("PATH").unwrap_or_default();
        let done = run(Command::new("sh")
            .args(["-euc", commands])
            .current_dir(sandbox.dir("desk"))
            .env("PATH", format!("{}:{path}", sandbox.join("bin").display())));
        assert_eq!(done.code, Some(0), "{commands}\n{}{}", done.stdout, done.stderr);
    }

    /// What the page says, for the places of this test.
    fn follow(&self, block: &str) {
        let sandbox = &self.crossing.sandbox;
        let aside = fs::read_dir(self.crossing.pair.high.state_dir()).unwrap().flatten();
        let aside = aside
            .map(|entry| entry.path())
            .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("set-aside-"));
        let mut commands = block
            .replace("/var/backups/penstock", &sandbox.dir("backups").display().to_string())
            .replace("/media/stick", &sandbox.dir("stick").display().to_string());
        if let Some(aside) = aside {
            let named = "/var/lib/penstock-high/set-aside-20261125T081500Z";
            commands = commands.replace(named, &aside.display().to_string());
        }
        assert!(!commands.contains("/var/lib/"), "{commands}");
        self.type_in(&commands);
    }
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        for site in [&self.crossing.pair.high, &self.crossing.pair.low] {
            let pid = fs::read_to_string(site.dir().join("pid")).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse() {
                // One that has ended is fine.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_page_about_backups_can_be_followed_to_its_end() {
    let crossing = Crossing::new("backup-page");
    crossing.configure(50);
    let desk = Desk { crossing: &crossing };
    desk.set_up();
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    desk.type_in("systemctl start penstock-high; systemctl start penstock-low");
    let delivered = |records: u64| {
        wait_until(PATIENCE, &format!("{records} delivered"), || {
            let low = low.status();
            low["records"] == records && pending(&low) == 0
        });
    };
    crossing.send(1..101);
    delivered(100);
    let blocks = blocks();
    assert!(blocks.len() >= 10, "{blocks:?}");
    for (number, block) in blocks.iter().enumerate() {
        // The machine goes on between the backup and the day on which it is needed.
        if block.contains("low.receipt\n") && block.starts_with("penstock-low receipt") {
            crossing.send(101..201);
            delivered(200);
        }
        println!("block {number}: {}", block.lines().next().unwrap_or_default());
        desk.follow(block);
    }
    crossing.send(201..251);
    delivered(250);
    // The low side's ledger was put back once: its file sink got again what it had taken since.
    let status = low.status();
    assert_eq!((&status["adds-up"], &status["quarantined"]), (&true.into(), &0.into()), "{status}");
    assert!(low.json(["gaps", "--json"]).as_array().unwrap().is_empty());
    let events = crossing.events();
    let mut ids: Vec<String> =
        events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 250, "no record was lost, none came under two ids");
    verify(high);
    verify(low);
    drop(desk);
}

fn verify(site: &Site) {
    site.run(["custody", "verify"]).success();
}
