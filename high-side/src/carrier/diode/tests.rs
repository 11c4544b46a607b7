//! What a sender puts on the wire: looked at from the other end of a loopback socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::record::Epoch;

use super::*;
use crate::config::BitRate;

/// A supply in memory.
#[derive(Default)]
struct Desk {
    fresh: Vec<Waiting>,
    again: Vec<(Waiting, u64, Nanos)>,
    sent: Vec<(String, u32, Instant)>,
    damaged: Vec<String>,
}

#[derive(Clone)]
struct Handle {
    desk: Arc<Mutex<Desk>>,
    dir: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Supply for Handle {
    fn fresh(&mut self, count: u32) -> Result<Vec<Waiting>, SealerError> {
        let desk = self.desk.lock().unwrap();
        let mut fresh = desk.fresh.clone();
        fresh.sort_by_key(|waiting| (waiting.lane, waiting.number));
        fresh.truncate(count as usize);
        Ok(fresh)
    }

    fn again(&mut self, waits: &[Duration]) -> Result<Vec<(Waiting, u64)>, SealerError> {
        let again = self.desk.lock().unwrap().again.clone();
        let now = SystemClock.now();
        let due = |(_, done, last): &(Waiting, u64, Nanos)| {
            waits.get(*done as usize - 1).is_some_and(|wait| now >= last.plus(*wait))
        };
        Ok(again.into_iter().filter(due).map(|(waiting, done, _)| (waiting, done)).collect())
    }

    fn path(&self, waiting: &Waiting) -> PathBuf {
        self.dir.join(&waiting.name)
    }

    fn sent(&mut self, waiting: &Waiting, pass: u32) -> Result<(), SealerError> {
        let mut desk = self.desk.lock().unwrap();
        desk.fresh.retain(|other| other.name != waiting.name);
        desk.again.retain(|(other, _, _)| other.name != waiting.name);
        desk.again.push((waiting.clone(), u64::from(pass) + 1, SystemClock.now()));
        desk.sent.push((waiting.name.clone(), pass, Instant::now()));
        Ok(())
    }

    fn damaged(&mut self, waiting: &Waiting) -> Result<(), SealerError> {
        let mut desk = self.desk.lock().unwrap();
        desk.fresh.retain(|other| other.name != waiting.name);
        desk.damaged.push(waiting.name.clone());
        Ok(())
    }

    fn pages(&mut self, _: usize) -> Result<Vec<Vec<u8>>, SealerError> {
        Ok(vec![b"a page".to_vec()])
    }

    fn tell(&mut self, _: serde_json::Value, _: Option<&str>) {}

    fn wait(&mut self, time: Duration) {
        thread::park_timeout(time.min(Duration::from_millis(5)));
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

struct Bench {
    handle: Handle,
    _dir: tempfile::TempDir,
    socket: UdpSocket,
    settings: DiodeSettings,
    thread: Option<thread::JoinHandle<()>>,
}

const DEADLINE: Duration = Duration::from_mins(1);

impl Bench {
    fn new(bit_rate: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ =
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &(4 << 20));
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let settings = DiodeSettings {
            to: socket.local_addr().unwrap(),
            bind: None,
            link_key_file: PathBuf::new(),
            bit_rate: BitRate(bit_rate),
            mtu: 1500,
            redundancy: 15,
            outage: Duration::from_millis(50),
            passes: 3,
            pass_interval: Duration::from_millis(1),
            late_passes: Vec::new(),
            catalogue_interval: Duration::from_secs(2),
        };
        let handle =
            Handle { desk: Arc::default(), dir: dir.path().to_owned(), stop: Arc::default() };
        Self { handle, _dir: dir, socket, settings, thread: None }
    }

    fn add(&self, lane: Lane, number: u64, length: usize) -> Waiting {
        let file: Vec<u8> = (0..length).map(|at| (at * 7 + number as usize) as u8).collect();
        let name = format!("{lane}-{number}");
        std::fs::write(self.handle.dir.join(&name), &file).unwrap();
        let waiting = Waiting {
            name,
            bytes: length as u64,
            sha256: BundleDigest::of(&file),
            epoch: Epoch(1),
            lane,
            number,
            bundle: None,
        };
        self.handle.desk.lock().unwrap().fresh.push(waiting.clone());
        waiting
    }

    fn start(&mut self) {
        let plan = plan(&self.settings);
        let key = LinkKey::new(&[1; 32]);
        let rate = self.settings.bit_rate.0;
        let link = Link::open(self.settings.to, None, &key, rate, 1, Instant::now()).unwrap();
        let sender = Sender::new(plan, link, self.handle.clone());
        self.thread = Some(thread::spawn(move || sender.run().unwrap()));
    }

    /// What comes, until `done`: the field of kind, number, block and shard, pass, and the length.
    fn receive(&self, mut done: impl FnMut(&[Seen], &Desk) -> bool) -> Vec<Seen> {
        let deadline = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            assert!(Instant::now() < deadline, "not in time: {} datagrams came", seen.len());
            if let Ok(length) = self.socket.recv(&mut buffer) {
                seen.push(Seen::of(&buffer[..length]));
            } else if done(&seen, &self.handle.desk.lock().unwrap()) {
                return seen;
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.handle.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    kind: u8,
    lane: u8,
    sequence: u64,
    number: u64,
    shard: (u32, u32),
    pass: u16,
    length: usize,
}

impl Seen {
    fn of(datagram: &[u8]) -> Self {
        let wide = |at: usize| u64::from_le_bytes(datagram[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_le_bytes(datagram[at..at + 4].try_into().unwrap());
        Self {
            at: Instant::now(),
            kind: datagram[5],
            lane: datagram[6],
            sequence: wide(24),
            number: wide(64),
            shard: (word(72), word(76)),
            pass: u16::from_le_bytes(datagram[86..88].try_into().unwrap()),
            length: datagram.len(),
        }
    }
}

#[test]
fn a_bundle_goes_out_in_passes_of_fresh_shards_at_little_cost() {
    let mut bench = Bench::new(100_000_000);
    bench.add(Lane::Routine, 1, 20_480);
    bench.start();
    let seen = bench.receive(|_, desk| desk.sent.len() == 3);
    let numbers: Vec<u64> = seen.iter().map(|one| one.sequence).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    let mut shards: BTreeMap<u16, BTreeSet<(u32, u32)>> = BTreeMap::new();
    let mut bytes: BTreeMap<u16, usize> = BTreeMap::new();
    let of_bundle = || seen.iter().filter(|one| one.kind == 1);
    for one in of_bundle() {
        assert!(shards.entry(one.pass).or_default().insert(one.shard));
        *bytes.entry(one.pass).or_default() += one.length + 28;
    }
    assert_eq!(shards.len(), 3);
    assert!(bytes.values().all(|bytes| *bytes <= 2 * 20_480), "{bytes:?}");
    let source = |shard: &&(u32, u32)| shard.1 >= 15;
    let recovery: Vec<&(u32, u32)> = shards.values().flatten().filter(source).collect();
    let distinct: BTreeSet<&&(u32, u32)> = recovery.iter().collect();
    assert_eq!(distinct.len(), recovery.len(), "recovery shards are fresh in each pass");
    // No outage of 50 ms takes more of a pass than may be missing.
    let first: Vec<Instant> = of_bundle().filter(|one| one.pass == 0).map(|one| one.at).collect();
    assert!(first[first.len() - 1] - first[0] >= Duration::from_millis(100));
}

#[test]
fn an_urgent_bundle_does_not_wait_for_a_large_one() {
    let mut bench = Bench::new(40_000_000);
    bench.settings.passes = 1;
    bench.add(Lane::Routine, 1, 3_000_000);
    bench.start();
    bench.receive(|seen, _| seen.len() > 20 || seen.iter().any(|one| one.kind == 1));
    bench.add(Lane::Flash, 2, 5000);
    let seen = bench.receive(|_, desk| desk.sent.len() == 2);
    let last = |number| {
        seen.iter()
            .filter(|one| one.number == number && one.kind == 1)
            .map(|one| one.sequence)
            .max()
    };
    assert!(last(2) < last(1), "the urgent one overtakes");
    assert!(seen.iter().any(|one| one.lane == 0 && one.kind == 1));
}

#[test]
fn a_file_that_was_changed_is_told_and_never_handed_over() {
    let mut bench = Bench::new(100_000_000);
    let waiting = bench.add(Lane::Routine, 1, 30_000);
    std::fs::write(bench.handle.dir.join(&waiting.name), vec![0; 30_000]).unwrap();
    let short = bench.add(Lane::Routine, 2, 30_000);
    std::fs::write(bench.handle.dir.join(&short.name), vec![0; 20_000]).unwrap();
    bench.start();
    bench.receive(|_, desk| desk.damaged.len() == 2);
    assert!(bench.handle.desk.lock().unwrap().sent.is_empty());
}

#[test]
fn an_idle_link_costs_a_page_now_and_then() {
    let mut bench = Bench::new(100_000_000);
    bench.settings.catalogue_interval = Duration::from_millis(200);
    bench.start();
    let begin = Instant::now();
    let seen = bench.receive(|_, _| begin.elapsed() > Duration::from_secs(1));
    assert!(!seen.is_empty() && seen.len() <= 1 + begin.elapsed().as_millis() as usize / 200);
    assert!(seen.iter().all(|one| one.kind == 2));
}
