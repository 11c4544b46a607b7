//! Files as their writers leave them, and the far end of the intake.

mod cases;
mod compressed;
mod hostile;
mod live;
mod model;
mod samples;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use shared::clock::SystemClock;
use shared::record::Lane;
use tokio::sync::watch;

use crate::buffer::{Incoming, Intake, IntakeReceiver, RequestKind};

use super::*;

/// A set of files in a folder, and what a buffer would hold of it. Time is moved by hand.
struct Rig {
    dir: PathBuf,
    _temp: tempfile::TempDir,
    settings: FileSettings,
    agent: Option<Agent>,
    now: Instant,
    /// What is durable.
    marks: BTreeMap<String, String>,
    got: Vec<Got>,
    alarms: Arc<Mutex<Vec<String>>>,
    counters: Arc<FileCounters>,
    ingest: Arc<IngestCounters>,
}

struct Agent {
    tailer: Tailer,
    receiver: IntakeReceiver,
    _stop: watch::Sender<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    raw: Vec<u8>,
    cut_from: Option<u64>,
    source: String,
}

impl Rig {
    /// Reads the files that match the pattern.
    fn new(pattern: &str) -> Self {
        Self::with(&[pattern], |_| {})
    }

    fn with(patterns: &[&str], change: impl FnOnce(&mut FileSettings)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        let mut settings = settings(&dir, patterns);
        change(&mut settings);
        let mut rig = Self {
            dir,
            _temp: temp,
            settings,
            agent: None,
            now: Instant::now(),
            marks: BTreeMap::new(),
            got: Vec::new(),
            alarms: Arc::default(),
            counters: Arc::default(),
            ingest: Arc::default(),
        };
        rig.start();
        rig
    }

    fn start(&mut self) {
        assert!(self.agent.is_none());
        // More than any test has in flight: nobody else would drain it.
        let (intake, receiver) = Intake::new(1 << 29);
        let (stop, shutdown) = watch::channel(false);
        (self.counters, self.ingest) = Default::default();
        let gate = Gate {
            lane: Lane::Routine,
            stream: None,
            guard: Arc::default(),
            intake,
            clock: Arc::new(SystemClock),
            counters: Arc::clone(&self.ingest),
        };
        let alarms = Arc::clone(&self.alarms);
        let alarm: Alarm = Box::new(move |text| alarms.lock().unwrap().push(text.to_owned()));
        let marks: Vec<_> = self.marks.clone().into_iter().collect();
        let counters = Arc::clone(&self.counters);
        let tailer =
            Tailer::new(self.settings.clone(), &marks, gate, counters, alarm, shutdown, self.now);
        self.agent = Some(Agent { tailer, receiver, _stop: stop });
    }

    /// Looks for files and reads what there is; nothing becomes durable.
    fn read(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        for _ in 0..20 {
            agent.tailer.scan(self.now);
            while agent.tailer.round(self.now).unwrap() {}
            if !agent.tailer.wants_scan() {
                return;
            }
        }
    }

    /// The first `count` of what is in flight becomes durable.
    fn commit(&mut self, count: usize) {
        let Some(agent) = &self.agent else { return };
        for _ in 0..count {
            let Ok(request) = agent.receiver.recv(Some(Duration::ZERO)) else { return };
            let RequestKind::Batch(batch) = request.kind else { continue };
            unpack(&batch, &mut self.got);
            if let Some(mark) = batch.mark {
                match mark.value {
                    Some(value) => _ = self.marks.insert(mark.name, value),
                    None => _ = self.marks.remove(&mark.name),
                }
            }
        }
    }

    /// Reads, and all of it becomes durable.
    fn step(&mut self) {
        self.read();
        self.commit(usize::MAX);
    }

    /// Time goes by, and the agent looks now and then.
    fn pass(&mut self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(Duration::from_secs(4));
            self.now += step;
            left -= step;
            self.step();
        }
    }

    /// Ends the agent; of what is in flight, the first `count` becomes durable.
    fn kill(&mut self, count: usize) {
        self.commit(count);
        self.agent = None;
    }

    fn restart(&mut self) {
        self.kill(0);
        self.start();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let file = OpenOptions::new().append(true).create(true).open(self.path(name));
        file.unwrap().write_all(bytes.as_ref()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        rename(&self.path(from), &self.path(to));
    }

    fn copy_truncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        self.truncate(from, 0);
    }

    fn truncate(&self, name: &str, size: u64) {
        OpenOptions::new().write(true).open(self.path(name)).unwrap().set_len(size).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn gzip(&self, name: &str) {
        let bytes = gzip(&fs::read(self.path(name)).unwrap());
        fs::write(self.path(&format!("{name}.gz")), bytes).unwrap();
        self.remove(name);
    }

    /// What is durable and was not taken yet.
    fn take(&mut self) -> Vec<String> {
        let got = std::mem::take(&mut self.got);
        got.into_iter().map(|got| String::from_utf8_lossy(&got.raw).into_owned()).collect()
    }

    fn alarms(&self) -> Vec<String> {
        std::mem::take(&mut self.alarms.lock().unwrap())
    }
}

fn settings(dir: &Path, patterns: &[&str]) -> FileSettings {
    FileSettings {
        name: "test".to_owned(),
        paths: patterns
            .iter()
            .map(|pattern| dir.join(pattern).to_str().unwrap().parse().unwrap())
            .collect(),
        rotated: Rotated::Automatic,
        lane: Lane::Routine,
        stream: None,
        message_bytes_max: 1 << 20,
        from: BeginAt::Beginning,
        timing: Timing::default(),
        notifications: true,
    }
}

fn unpack(batch: &Incoming, got: &mut Vec<Got>) {
    let mut start = 0;
    for message in &batch.messages {
        got.push(Got {
            raw: batch.data[start..message.end].to_vec(),
            cut_from: message.cut_from,
            source: batch.source.as_str().to_owned(),
        });
        start = message.end;
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "as a rotating program does it, without a sync")]
fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

/// A line that is long enough to be sure of.
fn long(text: &str) -> String {
    format!("{text} {}\n", "x".repeat(600))
}

/// So many lines.
fn numbered(count: usize, line: impl Fn(usize) -> String) -> String {
    let lines: Vec<String> = (0..count).map(line).collect();
    lines.join("\n") + "\n"
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
