//! lidi beside us, where its programs are: the same file over the same links.
//!
//! lidi does not pace itself and keeps nothing for a second try, so what fails here is told and not
//! repeated until it works.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::progress;
use super::goodput::{Link, Rows, Transfer};
use crate::oneway::OneWay;
use crate::peers::sha256sum;
use crate::process::{Cost, Process};
use crate::sandbox::Sandbox;

/// lidi with one setting on one link.
pub(super) struct Variant {
    pub(super) rows: Rows,
    programs: PathBuf,
    link: Link,
    repair_percent: u32,
}

/// lidi on each link, or nothing where `LIDI_DIR` is not set.
pub(super) fn variants(links: &[Link], mib: u64) -> Vec<Variant> {
    let Some(programs) = std::env::var_os("LIDI_DIR").map(PathBuf::from) else {
        progress("LIDI_DIR names no folder with lidi's programs; the table goes without it");
        return Vec::new();
    };
    let variant = |link: &Link| {
        // Its default stands less than one percent of loss.
        let repair_percent = if link.loss_per_mille == 0 { 2 } else { 20 };
        let subject = format!("lidi, {mib} MiB, not paced, repair {repair_percent} %, MTU 1500");
        let rows = Rows::new(&subject, *link, "");
        Variant { rows, programs: programs.clone(), link: *link, repair_percent }
    };
    links.iter().map(variant).collect()
}

impl Variant {
    pub(super) fn measure(&mut self, round: u64, sandbox: &Sandbox, file: &Path) {
        match self.transfer(sandbox, file) {
            Ok(transfer) => self.rows.add(round, &transfer),
            Err(why) => self.rows.failed(round, &why),
        }
    }

    fn transfer(&self, sandbox: &Sandbox, file: &Path) -> Result<Transfer, String> {
        let oneway = OneWay::new(sandbox)?;
        self.link.apply(&oneway);
        let dir = tempfile::tempdir_in(sandbox.path()).map_err(|err| err.to_string())?;
        let out_dir = dir.path().join("received");
        std::fs::create_dir(&out_dir).map_err(|err| err.to_string())?;
        // It keeps the name that was sent.
        let out = out_dir.join(file.file_name().unwrap_or_default());
        let program = |name: &str| Command::new(self.programs.join(name));
        let udp = OneWay::low_address(6000).to_string();
        let repair = self.repair_percent.to_string();
        let coding = ["--block", BLOCK_BYTES, "--repair", &repair];

        let mut receive_file = program("diode-receive-file");
        receive_file.args(["--from-tcp", TO_SINK]).arg(&out_dir);
        let mut receive = program("diode-receive");
        receive.args(["--from", &udp, "--to-tcp", TO_SINK, "--from-mtu", "1500"]);
        receive.args(coding).args(["--min-repair", "1"]);
        let mut send = program("diode-send");
        send.args(["--from-tcp", FROM_SOURCE, "--to", &udp, "--to-mtu", "1500"]).args(coding);
        let mut send_file = program("diode-send-file");
        send_file.args(["--to-tcp", FROM_SOURCE]).arg(file);

        let start = |command: &mut Command, name| Process::spawn(command, name, dir.path());
        let mut ends = [
            start(&mut oneway.on_low(&receive_file), "lidi-receive-file"),
            start(&mut oneway.on_low(&receive), "lidi-receive"),
            start(&mut oneway.on_high(&send), "lidi-send"),
        ];
        // Its first heartbeats say that it is there; they must not be lost.
        crate::wait::wait_until(START, "lidi's sender", || {
            listens(&ends[2], 5000) && listens(&ends[0], 7000)
        });
        let heartbeats = oneway.received_bytes();
        let mut file_sender = start(&mut oneway.on_high(&send_file), "lidi-send-file");
        let begun = wait_begun_after(&oneway, heartbeats);
        let length = file.metadata().map_err(|err| err.to_string())?.len();
        // It goes on to listen after a file, so the file's length tells that it is through.
        let arrived = || out.metadata().map_or(0, |found| found.len());
        let mut last = (arrived(), Instant::now());
        while arrived() < length {
            if arrived() != last.0 {
                last = (arrived(), Instant::now());
            }
            if last.1.elapsed() > STALL {
                return Err(format!("stood still at {} of {length} bytes", arrived()));
            }
            if let Some(status) = ends[0].ended().filter(|_| arrived() < length) {
                return Err(format!("ended ({status}) at {} of {length} bytes", arrived()));
            }
            std::thread::sleep(PAUSE); // ok: the pause between two polls
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cost = |processes: &[&Process]| {
            processes.iter().fold(Cost::default(), |sum, process| {
                let cost = process.cost();
                Cost {
                    cpu_secs: sum.cpu_secs + cost.cpu_secs,
                    memory_bytes_max: sum.memory_bytes_max + cost.memory_bytes_max,
                }
            })
        };
        let sender = cost(&[&ends[2], &file_sender]);
        let receiver = cost(&[&ends[0], &ends[1]]);
        let _ = file_sender.ended();
        if sha256sum(&out) != sha256sum(file) {
            return Err("delivered wrong bytes".to_owned());
        }
        Ok(Transfer::of(length, seconds, sender, receiver))
    }
}

/// Whether something in a process's namespace listens at a TCP port.
fn listens(process: &Process, port: u16) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", process.id()));
    let wanted = format!(":{port:04X}");
    table.is_ok_and(|table| {
        table.lines().skip(1).any(|row| {
            let mut words = row.split_ascii_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&wanted)) && words.nth(1) == Some("0A")
        })
    })
}

fn wait_begun_after(oneway: &OneWay, heartbeats: u64) -> Instant {
    crate::wait::wait_until(START, "lidi's datagrams", || oneway.received_bytes() > heartbeats);
    Instant::now()
}

/// Its default.
const BLOCK_BYTES: &str = "734928";
const FROM_SOURCE: &str = "127.0.0.1:5000";
const TO_SINK: &str = "127.0.0.1:7000";
const START: Duration = Duration::from_secs(30);
/// Nothing for so long is a stall.
const STALL: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(5);
