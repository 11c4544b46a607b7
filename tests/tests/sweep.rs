//! A fault at every system call that matters, over one whole small transfer: the process dies
//! before the Nth call, or the Nth call fails. Afterwards the same step is done again, without any
//! repair, and everything must be there once.
//!
//! strace counts calls for each thread, so that the verbs with one thread (`seal`, `export`,
//! `import`) are swept call by call, and the agents wherever any of their threads gets to N.
//! `make test` looks at some of the points; `PENSTOCK_SWEEP=full` looks at all.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::record::Lane;
use tests::agents::{Site, bundles_in};
use tests::crossing::{Crossing, assert_sound, assert_unaltered, last_durable, pending, received};
use tests::load::{Plan, Target, send};
use tests::opened::open_chain;
use tests::oracle::lines_of;
use tests::peers::under_strace;
use tests::process::{Done, Process, run};
use tests::wait::{PATIENCE, wait_until};

/// Enough for a few bundles.
const RECORDS: u64 = 90;
const RECORDS_IN_BUNDLE: u64 = 40;

/// What kills, and before which calls.
const KILLS: &[&str] = &[
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "rename",
    "unlink",
    "close",
    "openat",
    "ftruncate",
];
/// Calls that fail, and how.
const FAILURES: &[(&str, &str)] = &[
    ("pread64", "EIO"),
    ("write", "EIO"),
    ("write", "ENOSPC"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("fsync", "EIO"),
    ("fsync", "ENOSPC"),
    ("fdatasync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("rename", "EIO"),
    ("rename", "ENOSPC"),
];
/// How many points of one row are looked at unless all are: the first ones, then fewer and fewer.
const SAMPLED: u64 = 5;
/// The exit code of a panic.
const PANICKED: i32 = 101;
/// A row that never ends is a mistake of the test.
const ROW_MAX: u64 = 20_000;

/// One fault: which call, what happens at it, and the how-manieth it is.
struct Fault {
    call: &'static str,
    what: String,
    at: u64,
}

impl Fault {
    fn inject(&self) -> String {
        format!("{}:{}:when={}", self.call, self.what, self.at)
    }

    fn kills(&self) -> bool {
        self.what.starts_with("signal")
    }
}

/// Goes through all faults. `try_one` says whether the fault happened: where it did not, the step
/// has fewer such calls, and the row is at its end.
///
/// Agents are spared failures of `write`: it also rings the bells between their threads, which can't
/// fail. They keep nothing by it that the verbs don't.
fn sweep(step: &str, mut try_one: impl FnMut(&Fault) -> bool) {
    let agent = step.starts_with("run");
    let full = is_full();
    let begun = Instant::now();
    let kills = KILLS.iter().map(|call| (*call, "signal=KILL".to_owned()));
    let failures = FAILURES.iter().filter(|(call, _)| !agent || *call != "write");
    let failures = failures.map(|(call, error)| (*call, format!("error={error}")));
    let (mut points, mut rows) = (0_u64, Vec::new());
    for (call, what) in kills.chain(failures) {
        let (mut at, mut in_row, row_begun) = (1, 0, Instant::now());
        while at < ROW_MAX {
            let fault = Fault { call, what: what.clone(), at };
            if !try_one(&fault) {
                break;
            }
            in_row += 1;
            // Early calls are all different; later ones repeat themselves.
            at += if full || in_row < SAMPLED / 2 { 1 } else { 1 + at / 2 };
        }
        points += in_row;
        rows.push(format!("{call} {what}: {in_row} in {:.0?}", row_begun.elapsed()));
    }
    println!("{step}: {points} points in {:?} ({})", begun.elapsed(), rows.join(", "));
    assert!(points > 10, "{step}: strace injects nothing: {rows:?}");
}

fn is_full() -> bool {
    std::env::var("PENSTOCK_SWEEP").is_ok_and(|what| what == "full")
}

/// Whether strace can trace here; a container may forbid it.
fn can_trace() -> bool {
    let trace = Path::new("/dev/null");
    let fault = "fsync:signal=KILL:when=1";
    let done = run(&mut under_strace(&Command::new("true"), fault, trace));
    if done.code == Some(0) {
        return true;
    }
    println!("NOT RUN: strace can't trace here: {}", done.stderr.trim());
    false
}

/// A crossing whose sites can be put back to how they were.
struct Stage {
    crossing: Crossing,
    kept: PathBuf,
    trace: PathBuf,
    tries: Cell<u64>,
}

impl Stage {
    fn new(name: &str) -> Self {
        let crossing = Crossing::new(name);
        let seal = format!("[seal]\nbundle-records-max = {RECORDS_IN_BUNDLE}\n");
        crossing.pair.high.configure(&format!("{seal}{}", crossing.listener()));
        let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
        crossing.pair.low.configure(&low);
        let (kept, trace) = (crossing.sandbox.dir("kept"), crossing.sandbox.join("trace"));
        Self { crossing, kept, trace, tries: Cell::new(0) }
    }

    fn high(&self) -> &Site {
        &self.crossing.pair.high
    }

    fn low(&self) -> &Site {
        &self.crossing.pair.low
    }

    /// A high side whose buffer holds all records: too young to be sealed by themselves.
    fn fill(&self) {
        let agent = self.high().start();
        // A bundle ends where a group ends that was committed.
        for first in (1..=RECORDS).step_by(RECORDS_IN_BUNDLE as usize) {
            let end = RECORDS.min(first + RECORDS_IN_BUNDLE - 1);
            self.crossing.send(first..end + 1);
            self.crossing.wait_committed(end);
        }
        // Killed, so that the log of the database is there as after any crash.
        agent.kill();
    }

    fn medium(&self) -> PathBuf {
        self.crossing.sandbox.dir("medium")
    }

    fn export(&self) -> Done {
        self.high().run(["export", path(&self.medium())])
    }

    fn folders(&self) -> [PathBuf; 5] {
        let inbox = self.low().inbox();
        let states = [self.high().state_dir(), self.low().state_dir()];
        let [high, low] = states;
        [high, low, inbox, self.medium(), self.crossing.sink_dir()]
    }

    /// Remembers the present state.
    fn keep(&self) {
        for (at, folder) in self.folders().iter().enumerate() {
            copy_dir(folder, &self.kept.join(at.to_string()));
        }
    }

    /// Puts the remembered state back.
    fn restore(&self) {
        self.tries.set(self.tries.get() + 1);
        for (at, folder) in self.folders().iter().enumerate() {
            copy_dir(&self.kept.join(at.to_string()), folder);
        }
    }

    /// Runs a verb with a fault; says whether it happened.
    fn verb<'a>(
        &self,
        site: &Site,
        words: impl IntoIterator<Item = &'a str>,
        fault: &Fault,
    ) -> (Done, bool) {
        let mut command = under_strace(&site.command(words), &fault.inject(), &self.trace);
        let done = run(&mut command);
        let happened = self.happened(fault);
        // Who is killed says nothing; who is not must end in order. Of a `write` that fails, some go
        // to the standard streams, which are not under test here.
        let orderly = done.code.is_some_and(|code| code != PANICKED) || fault.kills();
        let mute = done.stderr.contains("failed printing to");
        assert!(orderly || mute, "{}: {done:?}", fault.inject());
        (done, happened)
    }

    fn happened(&self, fault: &Fault) -> bool {
        let trace = fs::read_to_string(&self.trace).unwrap_or_default();
        trace.contains(if fault.kills() { "+++ killed by SIGKILL" } else { "(INJECTED)" })
    }

    /// All records are in bundles in the outbox, once.
    fn check_outbox(&self, fault: &Fault) {
        let chain = open_chain(&self.high().outbox(), self.low(), Lane::Flash);
        assert!(chain.ids.iter().copied().eq(1..=RECORDS), "{}: {:?}", fault.inject(), chain.ids);
        let status = self.high().status();
        assert_eq!(status["adds-up"], true, "{}: {status}", fault.inject());
        assert_eq!(
            status["alarms"].as_array().map(Vec::len),
            Some(0),
            "{}: {status}",
            fault.inject()
        );
        self.high().run(["check-buffer"]).success();
    }

    /// Lets the low side deliver what it has, and looks at what came out.
    fn check_delivered(&self, fault: &Fault) {
        let agent = self.low().start();
        wait_until(PATIENCE, &format!("delivery after {}", fault.inject()), || {
            let status = self.low().status();
            status["records"] == RECORDS && pending(&status) == 0
        });
        assert!(agent.stop(PATIENCE).success(), "{}", fault.inject());
        let status = self.low().status();
        assert_eq!(status["adds-up"], true, "{}: {status}", fault.inject());
        assert_eq!(status["quarantined"], 0, "{}: {status}", fault.inject());
        let arrived = assert_sound(&self.crossing.events());
        assert!(
            arrived.ids.iter().copied().eq(1..=RECORDS),
            "{}: {:?}",
            fault.inject(),
            arrived.ids
        );
        assert_unaltered(&arrived);
    }

    /// Starts an agent with a fault. Unlike [`Site::start_as`] it may end before it is ready.
    fn agent(&self, site: &Site, fault: &Fault) -> Traced {
        let name = format!("faulty-{}", self.tries.get());
        let mut command = under_strace(&site.command(["run"]), &fault.inject(), &self.trace);
        Traced(Process::spawn(&mut command, &name, self.crossing.sandbox.path()))
    }
}

/// An agent under strace, which ends when the agent does, and not the other way round.
struct Traced(Process);

impl Traced {
    fn has_ended(&mut self) -> bool {
        self.0.ended().is_some()
    }

    /// Lets the agent stop in order.
    fn end(mut self) {
        if !self.has_ended() {
            self.signal(Signal::SIGTERM);
        }
        self.0.wait(PATIENCE);
    }

    fn signal(&self, signal: Signal) {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|id| id.parse().ok()) {
            // Gone already where the fault was just met.
            let _ = kill(Pid::from_raw(child), signal);
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the sandbox has a plain path")
}

fn copy_dir(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a folder can be made");
    let Ok(entries) = fs::read_dir(from) else {
        return;
    };
    for entry in entries.flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to);
        } else if entry.path().is_file() {
            // A killed agent leaves the socket of its page, too.
            fs::copy(entry.path(), &to).expect("a file can be copied");
        }
    }
    let mode = fs::metadata(from).expect("the folder is there").permissions();
    fs::set_permissions(to, mode).expect("a mode can be set");
}

#[test]
fn sealing() {
    if !can_trace() {
        return;
    }
    let stage = Stage::new("sweep-seal");
    stage.fill();
    stage.keep();
    sweep("seal", |fault| {
        stage.restore();
        let (_, happened) = stage.verb(stage.high(), ["seal"], fault);
        stage.high().run(["seal"]).success();
        stage.check_outbox(fault);
        happened
    });
}

/// A stage where one officer has to release what is sealed; gives the folder of the officer's keys.
fn reviewed(name: &str) -> (Stage, String) {
    let stage = Stage::new(name);
    let seal = format!("[seal]\nbundle-records-max = {RECORDS_IN_BUNDLE}\n");
    let release = "[release]\nmode = \"reviewed\"\n";
    stage.high().configure(&format!("{seal}{release}{}", stage.crossing.listener()));
    let keys = path(&stage.crossing.sandbox.join("alice")).to_owned();
    stage.high().run(["officer", "init", "--name", "alice", "--dir", &keys]).success();
    let half = format!("{keys}/officer.pub");
    for site in [stage.high(), stage.low()] {
        site.run(["officer", "add", &half]).success();
    }
    stage.fill();
    (stage, keys)
}

#[test]
fn sealing_for_review() {
    if !can_trace() {
        return;
    }
    let (stage, keys) = reviewed("sweep-review");
    stage.keep();
    sweep("seal for review", |fault| {
        stage.restore();
        let (_, happened) = stage.verb(stage.high(), ["seal"], fault);
        stage.high().run(["seal"]).success();
        assert_eq!(bundles_in(&stage.high().outbox()).len(), 0, "{}", fault.inject());
        // Every summary is there, of its own bundle, and can be read.
        stage.high().run(["release", "--all", "--key", &keys, "--yes"]).success();
        stage.check_outbox(fault);
        happened
    });
}

#[test]
fn releasing() {
    if !can_trace() {
        return;
    }
    let (stage, keys) = reviewed("sweep-release");
    stage.high().run(["seal"]).success();
    stage.keep();
    let words = ["release", "--all", "--key", &keys, "--yes"];
    sweep("release", |fault| {
        stage.restore();
        let (_, happened) = stage.verb(stage.high(), words, fault);
        // Whatever stands under a bundle's name is released, whole.
        for bundle in bundles_in(&stage.high().outbox()) {
            let verified = stage.low().json(["verify", path(&bundle), "--json"]);
            assert_eq!(verified["releases"][0]["officer"], "alice", "{}", fault.inject());
        }
        stage.high().run(words).success();
        stage.check_outbox(fault);
        let left = fs::read_dir(stage.high().outbox().join(".review"));
        let left = left.expect("the folder is there").count();
        // What a crash left behind goes at the agent's next start.
        assert!(left == 0 || happened, "{}: {left} files left", fault.inject());
        happened
    });
}

#[test]
fn exporting() {
    if !can_trace() {
        return;
    }
    let stage = Stage::new("sweep-export");
    stage.fill();
    stage.high().run(["seal"]).success();
    stage.keep();
    sweep("export", |fault| {
        stage.restore();
        let medium = stage.medium();
        let (done, happened) = stage.verb(stage.high(), ["export", path(&medium)], fault);
        // Whatever stands there under a bundle's name is that bundle, whole.
        let early = open_some(&medium, stage.low());
        stage.export().success();
        let chain = open_chain(&medium, stage.low(), Lane::Flash);
        let all = chain.ids.iter().copied().eq(1..=RECORDS);
        assert!(all, "{}: {done:?}, {early} early, {:?}", fault.inject(), chain.ids);
        stage.check_outbox(fault);
        happened
    });
}

/// How many bundles of a folder open; none may be half a bundle.
fn open_some(dir: &Path, low: &Site) -> usize {
    let bundles = bundles_in(dir);
    for bundle in &bundles {
        low.run(["verify", path(bundle)]).success();
    }
    bundles.len()
}

#[test]
fn importing() {
    if !can_trace() {
        return;
    }
    let stage = Stage::new("sweep-import");
    stage.fill();
    stage.high().run(["seal"]).success();
    stage.export().success();
    stage.keep();
    sweep("import", |fault| {
        stage.restore();
        let medium = stage.medium();
        let (_, happened) = stage.verb(stage.low(), ["import", path(&medium)], fault);
        stage.low().run(["import", path(&medium)]).success();
        stage.check_delivered(fault);
        assert_eq!(bundles_in(&medium).len() as u64, RECORDS.div_ceil(RECORDS_IN_BUNDLE));
        happened
    });
}

#[test]
fn receiving() {
    if !can_trace() {
        return;
    }
    let stage = Stage::new("sweep-run-high");
    stage.fill();
    stage.keep();
    sweep("run (high)", |fault| {
        stage.restore();
        let mut agent = stage.agent(stage.high(), fault);
        let more = Plan::new(Target::Tcp(stage.crossing.tcp), RECORDS);
        let plan = Plan { first_id: RECORDS + 1, ..more };
        // The agent may die before it listens, while it reads, or not at all.
        wait_until(PATIENCE, "a sender's end", || send(&plan).is_ok() || agent.has_ended());
        agent.end();
        let happened = stage.happened(fault);

        // What the database holds now is durable, and must come out.
        let durable = stage.high().run(["status", "--json"]);
        let durable =
            serde_json::from_str(&durable.stdout).map_or(0, |status| last_durable(&status));
        let agent = stage.high().start();
        assert!(agent.stop(PATIENCE).success());
        stage.high().run(["seal"]).success();
        let status = stage.high().status();
        assert_eq!(status["adds-up"], true, "{}: {status}", fault.inject());
        let chain = open_chain(&stage.high().outbox(), stage.low(), Lane::Flash);
        let count = chain.ids.len() as u64;
        assert_eq!(count, received(&status), "{}", fault.inject());
        assert!(count >= durable, "{}: {durable} durable, {count} came", fault.inject());
        assert!(chain.ids.iter().copied().eq(1..=count), "{}: {:?}", fault.inject(), chain.ids);
        if !fault.kills() {
            // One failed call is no reason to lose what was read.
            let all = count == 2 * RECORDS || count == RECORDS;
            assert!(all, "{}: {count} came", fault.inject());
        }
        assert!(count >= RECORDS, "{}: {count} came", fault.inject());
        // There is no carrier here: on a slow machine what was sealed waits for longer than its budget.
        let alarms = status["alarms"].as_array().expect("alarms").iter();
        let others = alarms.filter(|alarm| alarm["kind"] != "hand-over-overdue").count();
        assert_eq!(others, 0, "{}: {status}", fault.inject());
        happened
    });
}

#[test]
fn delivering() {
    if !can_trace() {
        return;
    }
    let stage = Stage::new("sweep-run-low");
    stage.fill();
    stage.high().run(["seal"]).success();
    stage.export().success();
    for bundle in bundles_in(&stage.medium()) {
        let name = bundle.file_name().expect("a bundle has a name");
        fs::copy(&bundle, stage.low().inbox().join(name)).expect("the inbox takes a bundle");
    }
    stage.keep();
    sweep("run (low)", |fault| {
        stage.restore();
        let mut agent = stage.agent(stage.low(), fault);
        wait_until(PATIENCE, "the agent's end, or all delivered", || {
            // The agent tries again by itself, after some seconds; that is waited for only where all
            // points are looked at.
            let later = !is_full() && agent.0.log().contains("it is tried again");
            let lines = lines_of(&stage.crossing.sink_dir()).len() as u64;
            agent.has_ended() || later || lines >= RECORDS
        });
        agent.end();
        let happened = stage.happened(fault);
        stage.check_delivered(fault);
        happened
    });
}
