//! Power cuts: the agent's folder lies on a file system of its own, which is shut down in the middle
//! of the load, as a disk without power is. What it held in memory is gone.
//!
//! Needs root and a loop device. `PENSTOCK_POWER_SEED=N` repeats one cut.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use shared::record::Lane;
use tests::agents::Site;
use tests::crossing::{Crossing, last_durable};
use tests::load::{Framing, Pool};
use tests::logs::assert_no_unlisted_errors;
use tests::opened::open_chain;
use tests::peers::{find, peer};
use tests::process::{Process, run};
use tests::seed::{Seed, env_number};
use tests::wait::{PATIENCE, wait_until};

const CUTS: u64 = 20;
const RATE: u64 = 5_000;
/// The load runs at least this long before a cut, and at most twice as long.
const LOAD: Duration = Duration::from_millis(400);
/// What may be read and not durable yet, as the configuration below bounds it.
const IN_FLIGHT_BYTES: u64 = 1 << 20;
/// What a connection may have read beyond that.
const READ_AHEAD_BYTES: u64 = 256 << 10;
/// No message is shorter.
const MESSAGE_BYTES_MIN: u64 = 500;
/// However long a sync takes, no more than this was read and is not durable. How much it is as a
/// rule depends on the disk and on who else uses it, so it is printed and not judged.
const LOST_MAX: u64 = (IN_FLIGHT_BYTES + READ_AHEAD_BYTES) / MESSAGE_BYTES_MIN;

/// An ext4 file system in a file.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// Makes one, or says why it can't be had here.
    fn new(crossing: &Crossing) -> Result<Self, String> {
        for program in ["mkfs.ext4", "mount", "umount", "python3"] {
            find(program).ok_or_else(|| format!("{program} is missing"))?;
        }
        let image = crossing.sandbox.join("disk.ext4");
        let mount = crossing.pair.high.state_dir();
        let file = File::create(&image).and_then(|file| file.set_len(DISK_BYTES));
        file.map_err(|err| err.to_string())?;
        run(peer("mkfs.ext4").args(["-q", "-F"]).arg(&image)).success();
        let disk = Self { image, mount };
        disk.try_mount()?;
        Ok(disk)
    }

    fn try_mount(&self) -> Result<(), String> {
        let done = run(peer("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount));
        if done.code == Some(0) { Ok(()) } else { Err(done.stderr) }
    }

    fn unmount(&self) {
        wait_until(PATIENCE, "an unmounted disk", || {
            run(peer("umount").arg(&self.mount)).code == Some(0)
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing is mounted any more where all went well.
        let _ = run(peer("umount").arg("-l").arg(&self.mount));
    }
}

const DISK_BYTES: u64 = 256 << 20;

/// A program that waits with its finger on the switch: starting one takes longer than a commit.
struct Switch(Child);

impl Switch {
    fn new(mount: &Path) -> Self {
        // FS_IOC_SHUTDOWN without flushing the journal, as <linux/fs.h> and fs/ext4/ext4.h have it.
        let program = "import fcntl, os, struct, sys\n\
                       disk = os.open(sys.argv[1], os.O_RDONLY)\n\
                       print('ready', flush=True)\n\
                       sys.stdin.readline()\n\
                       fcntl.ioctl(disk, 0x8004587d, struct.pack('I', 2))\n\
                       print('off', flush=True)\n";
        let mut command = peer("python3");
        command.args(["-c", program]).arg(mount).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut switch = Self(command.spawn().expect("python3 can be started"));
        switch.read("ready");
        switch
    }

    fn read(&mut self, expected: &str) {
        let out = self.0.stdout.as_mut().expect("piped");
        let mut line = String::new();
        BufReader::with_capacity(1, out).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), expected);
    }

    fn turn_off(mut self) {
        let stdin = self.0.stdin.as_mut().expect("piped");
        stdin.write_all(b"\n").expect("it waits for a line");
        self.read("off");
        assert!(self.0.wait().expect("a child can be waited for").success());
    }
}

/// Sends messages at the rate until it is told to stop; counts bytes as the kernel takes them.
struct Load {
    written: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn run(&self, stream: &mut TcpStream, first_id: u64) {
        let pool = Pool::new(Framing::Octet, None);
        let (started, mut sent, mut chunk) = (Instant::now(), 0, Vec::new());
        while !self.stop.load(Ordering::Relaxed) {
            let due = started.elapsed().as_micros() as u64 * RATE / 1_000_000;
            chunk.clear();
            (sent..due).for_each(|at| pool.append(first_id + at, &mut chunk));
            sent = due;
            if stream.write_all(&chunk).is_err() {
                return;
            }
            self.written.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            thread::sleep(TICK); // ok: pacing
        }
    }
}

const TICK: Duration = Duration::from_micros(500);

/// The bytes of a connection that its reader has not read: in either socket's queue.
fn unread(client: SocketAddr, server: SocketAddr) -> u64 {
    let text = fs::read_to_string("/proc/net/tcp").expect("the kernel lists its connections");
    let (client, server) = (format!(":{:04X}", client.port()), format!(":{:04X}", server.port()));
    let queue = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    let mut bytes = 0;
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (sending, receiving) = words[4].split_once(':').expect("two queues");
        if words[1].ends_with(&client) && words[2].ends_with(&server) {
            bytes += queue(sending);
        } else if words[1].ends_with(&server) && words[2].ends_with(&client) {
            bytes += queue(receiving);
        }
    }
    bytes
}

/// How many of the messages from `first_id` on lie whole in so many bytes.
fn whole_messages(first_id: u64, bytes: u64) -> u64 {
    let pool = Pool::new(Framing::Octet, None);
    let (mut chunk, mut count, mut length) = (Vec::new(), 0, 0);
    loop {
        chunk.clear();
        pool.append(first_id + count, &mut chunk);
        length += chunk.len() as u64;
        if length > bytes {
            return count;
        }
        count += 1;
    }
}

/// What one cut did.
#[derive(Debug)]
struct Cut {
    /// Read when the power went.
    read: u64,
    /// Of these, what the database had acknowledged a moment before.
    acknowledged: u64,
    /// Of these, what was there afterwards.
    there: u64,
}

#[test]
fn a_power_cut_loses_nothing_committed_and_no_more_than_may_be_in_flight() {
    let crossing = Crossing::new("power");
    let high = &crossing.pair.high;
    high.configure(&format!(
        "[buffer]\nfree-disk-floor = \"16MiB\"\nin-flight = \"1MiB\"\n{}",
        crossing.listener()
    ));
    let disk = match Disk::new(&crossing) {
        Ok(disk) => disk,
        Err(why) => {
            println!("NOT RUN: no file system of its own can be had here: {}", why.trim());
            return;
        }
    };
    let begun = Instant::now();
    let only = env_number("PENSTOCK_POWER_SEED");
    let seeds = only.map_or(1..CUTS + 1, |seed| seed..seed + 1);
    let mut next_id = 1;
    let mut cuts = Vec::new();
    for seed in seeds {
        let cut = cut(seed, &crossing, &disk, &mut next_id);
        let Cut { read, acknowledged, there } = cut;
        assert!(there >= acknowledged, "seed {seed}: committed records are gone: {cut:?}");
        let lost = read.saturating_sub(there);
        assert!(lost <= LOST_MAX, "seed {seed}: {lost} records were read and lost: {cut:?}");
        cuts.push(lost);
    }
    println!("read and lost at each of {} cuts in {:?}: {cuts:?}", cuts.len(), begun.elapsed());
    let agent = high.start();
    assert!(agent.stop(PATIENCE).success());
    high.run(["check-buffer"]).success();
    high.run(["seal"]).success();
    let chain = open_chain(&high.outbox(), &crossing.pair.low, Lane::Flash);
    assert!(chain.ids.is_sorted_by(|one, other| one < other), "a message stands there twice");
    let status = high.status();
    assert_eq!(chain.ids.len() as u64, last_durable(&status));
    assert_eq!(status["adds-up"], true, "{status}");
    assert_no_unlisted_errors(&high.log_path(), LOST_DISK);
    println!("{} records, none committed was lost", chain.ids.len());
    disk.unmount();
}

/// What an agent may say when its disk goes. `SQLite` calls a page that could not be read a broken one.
const LOST_DISK: &[&str] = &[
    "could not be written",
    "writer stops",
    "met a broken page",
    "looks broken; it is opened again",
];

fn cut(seed: u64, crossing: &Crossing, disk: &Disk, next_id: &mut u64) -> Cut {
    let high = &crossing.pair.high;
    let mut chance = Seed::new(seed);
    let agent = high.start();
    let before = last_durable(&high.status());
    let switch = Switch::new(&disk.mount);
    let load = Load { written: AtomicU64::new(0), stop: AtomicBool::new(false) };
    let mut stream = TcpStream::connect(crossing.tcp).expect("the agent listens");
    let client = stream.local_addr().expect("a connection has an address");
    let first_id = *next_id;
    let length = LOAD + chance.time(LOAD);
    let (read_bytes, acknowledged) = thread::scope(|scope| {
        scope.spawn(|| load.run(&mut stream, first_id));
        let started = Instant::now();
        wait_until(PATIENCE, "the moment of the cut", || started.elapsed() >= length);
        let acknowledged = last_durable(&high.status()) - before;
        // A stopped agent shows exactly what it had read; one that runs is hit in the middle.
        let frozen = chance.below(2) == 0;
        if frozen {
            stop_now(&agent);
        }
        let sample = || {
            let written = load.written.load(Ordering::Relaxed);
            written.saturating_sub(unread(client, crossing.tcp))
        };
        let mut read = sample();
        switch.turn_off();
        load.stop.store(true, Ordering::Relaxed);
        if frozen {
            // What was written in between lies unread; the number can't have changed.
            read = read.max(sample());
        }
        agent.kill();
        (read, acknowledged)
    });
    *next_id += load.written.load(Ordering::Relaxed) / MESSAGE_BYTES_MIN;
    disk.unmount();
    disk.try_mount().expect("what was a disk is one again");
    Cut {
        read: whole_messages(first_id, read_bytes),
        acknowledged,
        there: durable_now(high) - before,
    }
}

/// Stops the process and waits until all of its threads stand still.
fn stop_now(agent: &Process) {
    agent.signal(Signal::SIGSTOP);
    wait_until(PATIENCE, "a stopped agent", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.id())).expect("it is there");
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    });
}

fn durable_now(high: &Site) -> u64 {
    last_durable(&high.status())
}
