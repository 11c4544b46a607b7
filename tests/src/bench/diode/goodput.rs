//! One large bundle over a virtual cable, without and with loss.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::ingest::MIB;
use super::super::table::{Row, Sample, Table};
use super::super::{Options, note, progress};
use super::backlog::{LONG_BYTES, fill, outbox_bytes};
use super::{fast_dir, lidi};
use crate::agents::{Site, bundles_in};
use crate::diode::Diode;
use crate::oneway::OneWay;
use crate::process::{Cost, Process, run as run_command};
use crate::sandbox::Sandbox;
use crate::wait::{wait_for, wait_until};

/// A way over the link, with what of 1,000 datagrams it loses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Lost of 1,000.
    pub(super) loss_per_mille: u32,
    /// Whether trains of datagrams cross it whole, as no cable lets them.
    pub(super) trains: bool,
}

impl Link {
    pub(super) fn apply(self, oneway: &OneWay) {
        oneway.lose(self.loss_per_mille);
        if !self.trains {
            oneway.cut_trains();
        }
    }

    pub(super) fn words(self) -> String {
        let loss = f64::from(self.loss_per_mille) / 10.0;
        let trains = if self.trains { ", trains whole" } else { "" };
        format!("{loss} % loss{trains}")
    }
}

/// What one transfer came to.
pub(super) struct Transfer {
    pub(super) mb_per_sec: f64,
    pub(super) cpu_per_gb: (f64, f64),
    pub(super) receiver_mib: f64,
}

/// The rows of one subject: goodput with the receiver's memory, and what each side's processor did.
pub(super) struct Rows {
    goodput: Row,
    sender: Row,
    receiver: Row,
}

impl Rows {
    pub(super) fn new(subject: &str, link: Link, note: &str) -> Self {
        let row = |what: &str, unit| {
            let mut row = Row::new("diode", format!("{subject}, {}{what}", link.words()), unit);
            note.clone_into(&mut row.note);
            row
        };
        Self {
            goodput: row("", "MB/s"),
            sender: row(", sender", "CPU s/GB"),
            receiver: row(", receiver", "CPU s/GB"),
        }
    }

    pub(super) fn add(&mut self, round: u64, transfer: &Transfer) {
        let sample = Sample {
            figure: transfer.mb_per_sec,
            memory_mib: Some(transfer.receiver_mib),
            ..Sample::default()
        };
        note(round, &mut self.goodput, sample);
        let cost = |figure| Sample { figure, ..Sample::default() };
        note(round, &mut self.sender, cost(transfer.cpu_per_gb.0));
        note(round, &mut self.receiver, cost(transfer.cpu_per_gb.1));
    }

    pub(super) fn failed(&mut self, round: u64, why: &str) {
        progress(&format!("round {round}: {}: FAILED: {why}", self.goodput.subject));
        let told = &mut self.goodput.note;
        *told = format!("{told}{}round {round}: {why}", if told.is_empty() { "" } else { "; " });
    }

    pub(super) fn finish(self, table: &mut Table) {
        table.rows.extend([self.goodput, self.sender, self.receiver]);
    }
}

/// Our own agents and, where it is there, lidi, round by round on the same links.
pub(super) fn run(options: &Options, table: &mut Table) {
    let mut sandbox = Sandbox::new("bench-diode");
    if let Some(dir) = fast_dir() {
        sandbox = Sandbox::within(&dir, "bench-diode");
    }
    let prepared = Prepared::new(&sandbox, options.diode_mib);
    let links = [
        Link { loss_per_mille: 0, trains: true },
        Link { loss_per_mille: 0, trains: false },
        Link { loss_per_mille: 50, trains: false },
    ];
    let rate = &options.diode_bit_rate;
    let subject = format!("penstock, {} MiB, {rate}, MTU 1500", options.diode_mib);
    let mut ours = links.map(|link| (link, Rows::new(&subject, link, "complete, synced, renamed")));
    let mut theirs = lidi::variants(&links[1..], options.diode_mib);
    for round in 1..=options.rounds {
        for (link, rows) in &mut ours {
            match prepared.measure(&sandbox, *link, rate) {
                Ok(transfer) => rows.add(round, &transfer),
                Err(why) => rows.failed(round, &why),
            }
        }
        for variant in &mut theirs {
            variant.measure(round, &sandbox, &prepared.bundle);
        }
    }
    for (_, rows) in ours {
        rows.finish(table);
    }
    for variant in theirs {
        variant.rows.finish(table);
    }
}

/// A high side in whose outbox one large bundle waits, to be copied for each round.
struct Prepared {
    diode: Diode,
    bundle: PathBuf,
    /// The state as it was before anything was sent.
    high_state: PathBuf,
}

impl Prepared {
    fn new(sandbox: &Sandbox, mib: u64) -> Self {
        progress(&format!("making a bundle of {mib} MiB"));
        let (to, bind) = (OneWay::low_address(PORT), OneWay::low_address(PORT));
        let diode = Diode::inside(Sandbox::within(sandbox.path(), "pair"), to, bind);
        let crossing = &diode.crossing;
        let high = &crossing.pair.high;
        high.configure(&format!("{}{ONE_BUNDLE}", crossing.listener()));
        let agent = high.start();
        let messages = fill(crossing.tcp, mib << 20, LONG_BYTES, 1).expect("the listener is there");
        crossing.wait_committed(messages);
        high.run(["seal"]).success();
        wait_until(DEADLINE, "bundle", || outbox_bytes(high) > 0);
        agent.stop(DEADLINE);
        let bundles = bundles_in(&high.outbox());
        assert_eq!(bundles.len(), 1, "one bundle was asked for");
        let high_state = high.state_dir();
        Self { bundle: bundles[0].clone(), high_state, diode }
    }

    fn measure(&self, sandbox: &Sandbox, link: Link, rate: &str) -> Result<Transfer, String> {
        let oneway = OneWay::new(sandbox)?;
        link.apply(&oneway);
        let copy = |site: &Site, name: &str| site.clone().with_state_dir(sandbox.join(name));
        let pair = &self.diode.crossing.pair;
        let (high, low) = (copy(&pair.high, "high-round"), copy(&pair.low, "low-round"));
        for site in [&high, &low] {
            let _ = fs::remove_dir_all(site.state_dir());
        }
        let _ = fs::remove_dir_all(low.inbox());
        run_command(Command::new("cp").arg("-a").arg(&self.high_state).arg(high.state_dir()))
            .success();
        let keys = format!("bit-rate = \"{rate}\"\npasses = 1\n");
        high.configure(&format!("{ONE_BUNDLE}{}", self.diode.carrier(&keys)));
        low.configure(&self.diode.receiver(""));
        let low_agent = low.start_as(&mut oneway.on_low(&low.command(["run"])));
        let cost_before = low_agent.cost();
        let log_before = low_agent.log().len();
        let high_log_before = fs::read(high.log_path()).map_or(0, |log| log.len());
        let high_agent = high.start_as(&mut oneway.on_high(&high.command(["run"])));
        let begun = wait_begun(&oneway);
        let mut sent = None;
        let (seconds, cost) = wait_for(DEADLINE, "bundle in the inbox", || {
            if low_agent.log()[log_before..].contains("a bundle has come") {
                return Some(Ok((begun.elapsed().as_secs_f64(), low_agent.cost())));
            }
            // There is one pass: what is not whole a while after its end never will be.
            if high_agent.log()[high_log_before..].contains("bundle handed over") {
                let sent = sent.get_or_insert_with(Instant::now);
                return (sent.elapsed() > SETTLE).then(|| Err(lost(&low)));
            }
            None
        })?;
        let transfer = Transfer::of(
            fs::metadata(&self.bundle).map_or(0, |found| found.len()),
            seconds,
            high_agent.cost(),
            Cost { cpu_secs: cost.cpu_secs - cost_before.cpu_secs, ..cost },
        );
        stop([high_agent, low_agent]);
        Ok(transfer)
    }
}

impl Transfer {
    pub(super) fn of(bytes: u64, seconds: f64, sender: Cost, receiver: Cost) -> Self {
        let gigabytes = bytes as f64 / 1e9;
        Self {
            mb_per_sec: gigabytes * 1e3 / seconds,
            cpu_per_gb: (sender.cpu_secs / gigabytes, receiver.cpu_secs / gigabytes),
            receiver_mib: receiver.memory_bytes_max as f64 / MIB,
        }
    }
}

/// Waits until more than a heartbeat has crossed the link, and gives the moment.
fn wait_begun(oneway: &OneWay) -> Instant {
    wait_until(DEADLINE, "first datagrams", || oneway.received_bytes() > BEGUN_BYTES);
    Instant::now()
}

/// Why a receiver has no whole bundle, by what it counted.
fn lost(low: &Site) -> String {
    let status = low.status();
    let receiver = &status["agent"]["receivers"][0]["counters"]["details"]["counters"];
    let count = |name: &str| receiver[name].as_u64().unwrap_or(0);
    format!(
        "one pass was not enough: {} of {} datagrams lost, {} of them by the socket",
        count("datagrams-lost"),
        count("datagrams") + count("datagrams-lost"),
        count("socket-drops")
    )
}

fn stop(agents: [Process; 2]) {
    for agent in agents {
        agent.kill();
    }
}

const PORT: u16 = 6000;
/// What is cut when it is asked for, and as large as it has become.
const ONE_BUNDLE: &str = "[seal]\nbundle-bytes-max = \"3GiB\"\nbundle-records-max = 1000000000\nheartbeat = \"1d\"\nlatency-budget = \"1d\"\nflash-budget = \"1d\"\n";
const DEADLINE: Duration = Duration::from_mins(5);
/// How long a receiver may work at what came in the end.
const SETTLE: Duration = Duration::from_secs(10);
/// More than catalogues alone.
const BEGUN_BYTES: u64 = 100_000;
