//! The thread itself: woken by the system, by the poll alone, and while the buffer takes no more.

use tokio::runtime::Runtime;

use super::*;
use crate::ingest::ReadMemory;

struct Live {
    runtime: Runtime,
    receiver: IntakeReceiver,
    running: RunningFiles,
    stop: watch::Sender<bool>,
    got: Vec<Got>,
}

impl Live {
    fn start(settings: FileSettings, in_flight_bytes: u64) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (intake, receiver) = Intake::new(in_flight_bytes);
        let (stop, shutdown) = watch::channel(false);
        let surroundings = Surroundings {
            intake,
            guard: Arc::default(),
            clock: Arc::new(SystemClock),
            memory: ReadMemory::new(1 << 20),
            shutdown,
        };
        let guard = runtime.enter();
        let running = spawn(settings, &[], Box::new(|_| {}), &surroundings).unwrap();
        drop(guard);
        Self { runtime, receiver, running, stop, got: Vec::new() }
    }

    fn take(&mut self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        while self.got.len() < count {
            assert!(Instant::now() < deadline, "got {} and no more", self.got.len());
            if let Ok(request) = self.receiver.recv(Some(Duration::from_millis(20)))
                && let RequestKind::Batch(batch) = request.kind
            {
                unpack(&batch, &mut self.got);
            }
        }
        assert_eq!(self.got.len(), count);
        let got = std::mem::take(&mut self.got);
        got.into_iter().map(|got| String::from_utf8_lossy(&got.raw).into_owned()).collect()
    }

    fn stop(self) {
        self.stop.send(true).unwrap();
        self.runtime.block_on(self.running.task).unwrap().unwrap();
    }
}

fn append(path: &Path, text: &str) {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn the_system_wakes_the_reader_long_before_the_poll() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    let mut settings = settings(&dir, &["sub/*.log"]);
    settings.timing.poll = Duration::from_hours(1);
    append(&dir.join("other"), "x");
    let mut live = Live::start(settings, 8 << 20);
    // A folder, a file, a line, a rotation: each is noticed though the poll is an hour away.
    let sub = dir.join("sub");
    fs::create_dir(&sub).unwrap();
    append(&sub.join("a.log"), "one\n");
    assert_eq!(live.take(1), ["one"]);
    append(&sub.join("a.log"), "two\n");
    assert_eq!(live.take(1), ["two"]);
    rename(&sub.join("a.log"), &sub.join("a.log.1"));
    append(&sub.join("a.log"), "three\n");
    assert_eq!(live.take(1), ["three"]);
    live.stop();
}

#[test]
fn the_poll_alone_is_enough() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    let mut settings = settings(&dir, &["sub/*.log"]);
    settings.timing.poll = Duration::from_millis(20);
    settings.notifications = false;
    let mut live = Live::start(settings, 8 << 20);
    fs::create_dir(dir.join("sub")).unwrap();
    append(&dir.join("sub/a.log"), "one\n");
    assert_eq!(live.take(1), ["one"]);
    append(&dir.join("sub/a.log"), "two\n");
    assert_eq!(live.take(1), ["two"]);
    live.stop();
}

#[test]
fn files_that_are_deleted_while_the_buffer_takes_no_more_are_read() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    let mut settings = settings(&dir, &["*.log"]);
    settings.timing.poll = Duration::from_millis(20);
    let text =
        |name: &str| -> String { numbered(20_000, |n| format!("{name} {n} {}", "x".repeat(80))) };
    append(&dir.join("a.log"), &text("a"));
    let mut live = Live::start(settings, 1);
    let until = |what: &dyn Fn(&Live) -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !what(&live) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    };
    until(&|live| live.running.counters.snapshot().waiting == 1);
    append(&dir.join("b.log"), &text("b"));
    until(&|live| live.running.files.snapshot().open == 2);
    fs::remove_file(dir.join("a.log")).unwrap();
    fs::remove_file(dir.join("b.log")).unwrap();
    let got = live.take(40_000);
    for name in ["a ", "b "] {
        let mine: Vec<_> = got.iter().filter(|line| line.starts_with(name)).collect();
        assert_eq!(mine.len(), 20_000);
        let number = |line: &str| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
        assert!(mine.iter().enumerate().all(|(n, line)| number(line) == n as u64), "order");
    }
    live.stop();
}

#[test]
fn a_reader_that_waits_for_the_buffer_ends_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    append(&dir.join("a.log"), &"line\n".repeat(200_000));
    let live = Live::start(settings(&dir, &["*.log"]), 1);
    let Live { runtime, receiver, running, .. } = live;
    drop(receiver);
    runtime.block_on(running.task).unwrap().unwrap();
}
