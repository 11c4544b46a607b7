//! From datagrams to files: loss, order, damage, forgery, restarts. Never wrong bytes.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use shared::bell::Bell;
use shared::bundle::BundleDigest;
use shared::clock::Nanos;
use shared::diode::{
    BlockEncoder, Catalogue, CatalogueRange, Geometry, LinkKey, ObjectId, PassPlan, Received,
    Redundancy, RunKeys, ShardHeader, receive, write_catalogue, write_shard,
};
use shared::keys::{Validity, generate_signing_key};
use shared::record::Lane;

use super::assembler::{Assembler, AssemblyLimits, Whole, Work};
use super::config::DiodeConfig;
use super::object::Shard;
use super::report::LinkReport;
use super::{DiodeReceiver, STATUS_FILE};
use crate::import::{KeyRing, Keys};
use crate::receiver::{Reception, run};

const LIMITS: AssemblyLimits =
    AssemblyLimits { state_bytes_max: 64 << 20, object_bytes_max: 8 << 20 };
const DEADLINE: Duration = Duration::from_mins(1);

fn key() -> LinkKey {
    LinkKey::new(&[5; 32])
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// A file on its way: the datagrams of a pass, with the place of each.
struct Sent {
    file: Vec<u8>,
    lane: Lane,
    number: u64,
    geometry: Geometry,
    sequence: u64,
}

impl Sent {
    fn new(file: Vec<u8>, lane: Lane, number: u64, payload: u16) -> Self {
        let geometry = Geometry::cut(file.len() as u64, payload).unwrap();
        Self { file, lane, number, geometry, sequence: number << 32 }
    }

    fn sha256(&self) -> BundleDigest {
        BundleDigest::of(&self.file)
    }

    fn pass(&mut self, key: &LinkKey, pass: u32) -> Vec<((u32, u32), Vec<u8>)> {
        let id = ObjectId::of(&self.sha256());
        self.pass_as(key, pass, id)
    }

    fn pass_as(
        &mut self,
        key: &LinkKey,
        pass: u32,
        object: ObjectId,
    ) -> Vec<((u32, u32), Vec<u8>)> {
        let geometry = self.geometry;
        let wide = usize::from(geometry.shard_bytes());
        let mut encoder = BlockEncoder::default();
        let run = key.of_run(1);
        let mut datagrams = Vec::new();
        for block in 0..geometry.blocks() {
            let begin = geometry.offset(block, 0) as usize;
            let source = &self.file[begin..begin + geometry.block_bytes(block)];
            let count = geometry.source_shards(block);
            let redundancy = Redundancy { percent: 15 };
            let plan = PassPlan::new(count, geometry.recovery_shards(), redundancy, pass);
            let mut recovery = Vec::new();
            encoder.encode(&geometry, block, source, &plan, &mut recovery).unwrap();
            for at in 0..plan.count() {
                let shard = plan.shard_at(at);
                let payload = if at < plan.source_count() {
                    let from = shard as usize * wide;
                    &source[from..source.len().min(from + wide)]
                } else {
                    &recovery[usize::from(at - plan.source_count()) * wide..][..wide]
                };
                let header = ShardHeader {
                    lane: self.lane,
                    object,
                    epoch: 1,
                    number: self.number,
                    geometry,
                    block,
                    shard,
                    pass: pass as u16,
                };
                self.sequence += 1;
                let mut datagram = Vec::new();
                write_shard(&mut datagram, (key.id(), &run), self.sequence, &header, payload);
                datagrams.push(((block, shard), datagram));
            }
        }
        datagrams
    }
}

fn shuffled<T>(mut items: Vec<T>, seed: u64) -> Vec<T> {
    let chance = noise(items.len() * 2, seed);
    for at in (1..items.len()).rev() {
        let other = (usize::from(chance[at * 2]) << 8 | usize::from(chance[at * 2 + 1])) % (at + 1);
        items.swap(at, other);
    }
    items
}

fn feed(assembler: &mut Assembler, key: &LinkKey, datagrams: &[Vec<u8>], now: Instant) {
    let mut keys = RunKeys::new(key.clone());
    for some in datagrams.chunks(64) {
        let mut bytes = Vec::new();
        let mut shards = Vec::new();
        for datagram in some {
            if let Ok((_, Received::Shard(header, payload))) = receive(&mut keys, datagram) {
                let from = bytes.len();
                bytes.extend_from_slice(payload);
                shards.push(Shard { header, payload: from..bytes.len() });
            }
        }
        assembler.feed(7, &shards, &bytes, now);
    }
}

fn work(assembler: &mut Assembler, now: Instant) -> Vec<Whole> {
    let mut whole = Vec::new();
    loop {
        match assembler.work(now) {
            Work::Idle => return whole,
            Work::Busy => {}
            Work::Whole(object) => whole.push(*object),
        }
    }
}

fn datagrams(pass: Vec<((u32, u32), Vec<u8>)>) -> Vec<Vec<u8>> {
    pass.into_iter().map(|(_, datagram)| datagram).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_k_of_each_block_complete_a_file_and_nothing_else_does(
        length in 1_usize..160_000,
        payload in 64_u16..400,
        loss in 0_u8..140,
        seed: u64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut assembler = Assembler::open(dir.path(), LIMITS, now).unwrap();
        let mut sent = Sent::new(noise(length, seed), Lane::Routine, 1, payload);
        let geometry = sent.geometry;
        let mut came: HashMap<u32, HashSet<u32>> = HashMap::new();
        let mut whole = Vec::new();
        for pass in 0..3_u32 {
            let chance = noise(geometry.shards() as usize * 8 + 8192, seed ^ u64::from(pass) << 7);
            let mut some = Vec::new();
            for (at, ((block, shard), datagram)) in sent.pass(&key(), pass).into_iter().enumerate() {
                let roll = chance[at % chance.len()];
                if roll < loss {
                    continue;
                }
                came.entry(block).or_default().insert(shard);
                if roll % 16 == 3 {
                    // Damaged on the way, besides: refused by its tag.
                    let mut bad = datagram.clone();
                    let place = usize::from(chance[(at * 3) % chance.len()]) % bad.len();
                    bad[place] ^= 1 << (roll % 8);
                    some.push(bad);
                }
                if roll % 16 == 4 {
                    some.push(datagram.clone());
                }
                some.push(datagram);
            }
            feed(&mut assembler, &key(), &shuffled(some, seed ^ 3), now);
            whole.extend(work(&mut assembler, now));
            let enough = (0..geometry.blocks()).all(|block| {
                came.get(&block).map_or(0, HashSet::len) >= usize::from(geometry.source_shards(block))
            });
            prop_assert_eq!(whole.len(), usize::from(enough));
        }
        for object in &whole {
            prop_assert_eq!(object.sha256, sent.sha256());
            prop_assert_eq!(&std::fs::read(&object.data).unwrap(), &sent.file);
        }
        prop_assert_eq!(assembler.counters().wrong, 0);
    }
}

#[test]
fn a_restart_goes_on_from_what_came_and_finds_what_the_disk_lost() {
    let dir = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut sent = Sent::new(noise(300_000, 1), Lane::Routine, 1, 200);
    let mut assembler = Assembler::open(dir.path(), LIMITS, now).unwrap();
    let first = datagrams(sent.pass(&key(), 0));
    // Every third is lost: no block can be restored.
    let some: Vec<Vec<u8>> =
        first.iter().enumerate().filter(|(at, _)| at % 3 > 0).map(|(_, one)| one.clone()).collect();
    feed(&mut assembler, &key(), &some, now);
    assert!(work(&mut assembler, now).is_empty());
    let partial = assembler.partials();
    assert_eq!((partial.len(), partial[0].blocks_whole), (1, 0));
    let missing = partial[0].shards_missing;
    drop(assembler);

    // The disk lost some of it, as in a power cut: a stretch of data, and the end of the journal.
    let named = |end: &str| {
        dir.path().join(names(dir.path()).into_iter().find(|name| name.ends_with(end)).unwrap())
    };
    let mut data = std::fs::read(named(".data")).unwrap();
    data[40_000..60_000].fill(0);
    std::fs::write(named(".data"), &data).unwrap();
    let journal = std::fs::read(named(".journal")).unwrap();
    std::fs::write(named(".journal"), &journal[..journal.len() - 7]).unwrap();

    let mut assembler = Assembler::open(dir.path(), LIMITS, now).unwrap();
    assert_eq!(assembler.partials()[0].shards_missing, missing + 1);
    feed(&mut assembler, &key(), &datagrams(sent.pass(&key(), 1)), now);
    let mut whole = work(&mut assembler, now);
    if whole.is_empty() {
        // What the disk lost was found only when the block was restored.
        feed(&mut assembler, &key(), &datagrams(sent.pass(&key(), 2)), now);
        whole = work(&mut assembler, now);
    }
    assert_eq!(whole.len(), 1);
    assert_eq!(std::fs::read(&whole[0].data).unwrap(), sent.file);
}

#[test]
fn a_restart_at_any_point_ends_in_the_same_file() {
    let mut sent = Sent::new(noise(60_000, 9), Lane::Flash, 1, 300);
    let all = shuffled(datagrams(sent.pass(&key(), 0)), 5);
    let now = Instant::now();
    for step in [1, 17, 60, 119, 180] {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = Vec::new();
        for part in all.chunks(step) {
            let mut assembler = Assembler::open(dir.path(), LIMITS, now).unwrap();
            whole.extend(work(&mut assembler, now));
            feed(&mut assembler, &key(), part, now);
            // Killed before or after what could be done was done.
            if step % 2 == 0 {
                whole.extend(work(&mut assembler, now));
            }
            if !whole.is_empty() {
                break;
            }
        }
        let mut assembler = Assembler::open(dir.path(), LIMITS, now).unwrap();
        whole.extend(work(&mut assembler, now));
        // A whole object that was not delivered is whole again after a start.
        assert!(!whole.is_empty(), "{step}");
        for object in &whole {
            assert_eq!(std::fs::read(&object.data).unwrap(), sent.file);
        }
    }
}

#[test]
fn what_was_delivered_costs_nothing_when_it_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut assembler = Assembler::open(dir.path(), LIMITS, now).unwrap();
    let mut sent = Sent::new(noise(30_000, 2), Lane::Routine, 4, 500);
    let all = datagrams(sent.pass(&key(), 0));
    feed(&mut assembler, &key(), &all, now);
    let whole = work(&mut assembler, now).pop().unwrap();
    for path in whole.others.iter().chain([&whole.data]) {
        std::fs::remove_file(path).unwrap();
    }
    assembler.delivered(&whole.info).unwrap();
    let written = assembler.counters().written;
    feed(&mut assembler, &key(), &all, now);
    assert!(work(&mut assembler, now).is_empty());
    assert_eq!(assembler.counters().written, written);
    assert_eq!(names(dir.path()), ["completed"]);
    // Also by the next start.
    drop(assembler);
    assembler = Assembler::open(dir.path(), LIMITS, now).unwrap();
    assert_eq!(assembler.numbers().values().next().unwrap().iter().next(), Some((4, 4)));
    feed(&mut assembler, &key(), &all, now);
    assert_eq!(assembler.counters().written, 0);
    assert_eq!(names(dir.path()), ["completed"]);
}

#[test]
fn what_is_not_what_its_datagrams_say_is_thrown_away_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let mut assembler = Assembler::open(dir.path(), LIMITS, now).unwrap();
    let mut sent = Sent::new(noise(5000, 3), Lane::Routine, 1, 500);
    let lies = datagrams(sent.pass_as(&key(), 0, ObjectId([9; 16])));
    feed(&mut assembler, &key(), &lies, now);
    assert!(work(&mut assembler, now).is_empty());
    assert_eq!(assembler.counters().wrong, 1);
    assert!(assembler.take_wrong()[0].contains("routine/1"));
    assert_eq!(names(dir.path()), ["completed"]);
    assert_eq!(assembler.bytes(), 0);
}

#[test]
fn claims_by_the_key_are_bounded_and_what_is_old_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let limits = AssemblyLimits { state_bytes_max: 100_000, object_bytes_max: 80_000 };
    let mut assembler = Assembler::open(dir.path(), limits, now).unwrap();
    // Larger than any bundle; then two of which one has room.
    let mut huge = Sent::new(noise(90_000, 1), Lane::Routine, 1, 500);
    feed(&mut assembler, &key(), &datagrams(huge.pass(&key(), 0))[..20], now);
    assert_eq!((assembler.counters().written, assembler.counters().refused), (0, 20));
    let mut one = Sent::new(noise(70_000, 2), Lane::Routine, 2, 500);
    let mut two = Sent::new(noise(60_000, 3), Lane::Routine, 3, 500);
    feed(&mut assembler, &key(), &datagrams(one.pass(&key(), 0))[..20], now);
    feed(&mut assembler, &key(), &datagrams(two.pass(&key(), 0))[..20], now);
    assert_eq!((assembler.counters().written, assembler.counters().refused), (20, 40));
    // The first was not heard of for long.
    let later = now + Duration::from_mins(11);
    feed(&mut assembler, &key(), &datagrams(two.pass(&key(), 0)), later);
    let whole = work(&mut assembler, later);
    assert_eq!(std::fs::read(&whole[0].data).unwrap(), two.file);
    assert_eq!(assembler.counters().given_up, 1);
}

#[test]
fn a_disk_that_fails_is_told_and_what_comes_later_completes() {
    let above = tempfile::tempdir().unwrap();
    let (dir, aside) = (above.path().join("state"), above.path().join("aside"));
    let now = Instant::now();
    let mut assembler = Assembler::open(&dir, LIMITS, now).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a disk that goes away and comes back")]
    let rename = |from: &Path, to: &Path| std::fs::rename(from, to).unwrap();
    rename(&dir, &aside);
    let mut sent = Sent::new(noise(20_000, 3), Lane::Routine, 1, 500);
    let all = datagrams(sent.pass(&key(), 0));
    feed(&mut assembler, &key(), &all, now);
    assert!(work(&mut assembler, now).is_empty());
    assert!(assembler.trouble().is_some());
    assert_eq!(assembler.counters().written, 0);
    // Little is tried while it fails.
    assert_eq!(assembler.counters().failures, 1);
    rename(&aside, &dir);
    let later = now + Duration::from_secs(2);
    feed(&mut assembler, &key(), &all, later);
    let whole = work(&mut assembler, later);
    assert_eq!(std::fs::read(&whole[0].data).unwrap(), sent.file);
    assert!(assembler.trouble().is_none());
}

/// A receiver in a thread, and what it needs.
struct Running {
    dir: tempfile::TempDir,
    to: SocketAddr,
    socket: UdpSocket,
    bell: Bell,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(dir: tempfile::TempDir) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut running = Self { dir, to, socket, bell: Bell::default(), thread: None };
        running.begin();
        running
    }

    fn begin(&mut self) {
        let path = self.dir.path();
        let keys = path.join("keys");
        let (inbox, state) = (path.join("inbox"), path.join("state"));
        for folder in [&keys, &inbox, &state] {
            shared::durable::create_dir(folder).unwrap();
        }
        let link_key = path.join("link.key");
        if !link_key.exists() {
            shared::durable::write(&link_key, "05".repeat(32).as_bytes(), 0o600).unwrap();
            shared::keys::generate_identity(&keys.join(shared::keys::IDENTITY_FILE), "low", false)
                .unwrap();
            let signer = generate_signing_key(&path.join("signing.key")).unwrap();
            shared::keys::Trust::add(&keys, &signer.public_half("plant-7"), Validity::default())
                .unwrap();
        }
        let ring =
            KeyRing::new(Keys::load(&keys, &shared::keys::ReleasePolicy::default()).unwrap());
        let config = DiodeConfig {
            bind: self.to,
            link_key_file: link_key,
            receive_buffer: 4 << 20,
            state_bytes_max: 64 << 20,
        };
        self.bell = Bell::default();
        let reception = Reception::new("link", &inbox, &state, self.bell.clone());
        let receiver = Box::new(DiodeReceiver::new(&config, 8 << 20, ring));
        self.thread = Some(thread::spawn(move || run(receiver, &reception)));
        let status = self.status_path();
        wait("the receiver is bound", || status.exists());
    }

    fn stop(&mut self) {
        self.bell.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = std::fs::remove_file(self.status_path());
    }

    fn status_path(&self) -> std::path::PathBuf {
        self.dir.path().join("state/receivers/link").join(STATUS_FILE)
    }

    fn report(&self) -> Option<LinkReport> {
        serde_json::from_slice(&std::fs::read(self.status_path()).ok()?).ok()
    }

    /// Slowly enough for a busy machine: a test's datagrams are few.
    fn send(&self, datagrams: &[Vec<u8>]) {
        for some in datagrams.chunks(32) {
            for datagram in some {
                self.socket.send_to(datagram, self.to).unwrap();
            }
            thread::yield_now();
        }
    }

    fn inbox(&self) -> Vec<String> {
        names(&self.dir.path().join("inbox"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn over_a_socket_files_arrive_whole_among_forgeries_and_the_rest_is_told() {
    let mut running = Running::start(tempfile::tempdir().unwrap());
    let mut sent = Sent::new(noise(200_000, 4), Lane::Flash, 3, 1000);
    let other = LinkKey::new(&[6; 32]);
    let mut forged = datagrams(Sent::new(noise(9000, 4), Lane::Flash, 3, 1000).pass(&other, 0));
    for at in 0..200_u64 {
        forged.push(noise(at as usize * 7, at));
    }
    let genuine = datagrams(sent.pass(&key(), 0));
    // Ours with a bit changed, and cut short.
    for (at, datagram) in genuine.iter().enumerate() {
        let mut bad = datagram.clone();
        let place = at * 31 % bad.len();
        bad[place] ^= 0x10;
        forged.push(bad);
        forged.push(datagram[..datagram.len() - 1 - at].to_vec());
    }
    running.send(&forged);
    let signer = shared::keys::SigningKey::load(&running.dir.path().join("signing.key")).unwrap();
    let page = Catalogue {
        origin: "plant-7".parse().unwrap(),
        number: 1,
        time: Nanos(1),
        interval_ms: 60_000,
        ranges: vec![CatalogueRange {
            lane: Lane::Flash,
            epoch: 1,
            first: 1,
            last: 5,
            oldest_sending: 3,
        }],
        entries: Vec::new(),
    };
    let mut catalogue = Vec::new();
    let page = page.sign(&signer).unwrap();
    write_catalogue(&mut catalogue, (key().id(), &key().of_run(1)), 1, &page);
    running.send(&[catalogue]);
    wait("the catalogue and the forgeries", || {
        running.report().is_some_and(|report| {
            let forged = report.counters["datagrams-forged"] + report.counters["datagrams-foreign"];
            report.origin.is_some() && forged > 0
        })
    });
    // One in nine is lost; the receiver is stopped and started in the middle.
    let (half, some): (Vec<Vec<u8>>, Vec<Vec<u8>>) = {
        let some =
            genuine.iter().enumerate().filter(|(at, _)| at % 9 > 0).map(|(_, one)| one.clone());
        let some: Vec<Vec<u8>> = some.collect();
        (some[..some.len() / 2].to_vec(), some[some.len() / 2..].to_vec())
    };
    running.send(&half);
    wait("the first half", || {
        running
            .report()
            .is_some_and(|report| report.lanes.first().is_some_and(|lane| lane.counts.partial == 1))
    });
    let report = running.report().unwrap();
    assert_eq!(report.lanes[0].expired, [(1, 2)]);
    assert_eq!(report.lanes[0].never_seen, [(4, 5)]);
    running.stop();
    running.begin();
    running.send(&some);
    running.send(&forged);
    let named = |name: &String| {
        name.contains("-flash-") && !name.ends_with(".partial") && !name.ends_with(".sha256")
    };
    wait("the bundle", || {
        if !running.inbox().iter().any(named) {
            // A busy machine may have lost some: the next pass.
            let next = datagrams(sent.pass(&key(), 1));
            running.send(&next);
        }
        running.inbox().iter().any(named)
    });
    let inbox = running.inbox();
    let name = inbox.iter().find(|name| named(name)).unwrap();
    let path = running.dir.path().join("inbox").join(name);
    assert!(name.contains("-flash-"));
    assert_eq!(std::fs::read(&path).unwrap(), sent.file);
    let sidecar = std::fs::read_to_string(path.with_extension("pstk.sha256")).unwrap();
    assert!(sidecar.starts_with(&sent.sha256().to_string()));
    // Once more, all of it: the inbox keeps its one file, and no state is left.
    running.send(&genuine);
    wait("the state to be gone", || {
        names(&running.dir.path().join("state/diode")) == ["completed"]
    });
    assert_eq!(running.inbox().len(), 2);
}

#[test]
fn the_shards_of_two_links_count_for_one_bundle() {
    let running = Running::start(tempfile::tempdir().unwrap());
    let path = running.dir.path();
    let second_key = path.join("second.key");
    shared::durable::write(&second_key, "06".repeat(32).as_bytes(), 0o600).unwrap();
    let to = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = DiodeConfig {
        bind: to,
        link_key_file: second_key,
        receive_buffer: 4 << 20,
        state_bytes_max: 64 << 20,
    };
    let keys = Keys::load(&path.join("keys"), &shared::keys::ReleasePolicy::default()).unwrap();
    let bell = Bell::default();
    let (inbox, state) = (path.join("inbox"), path.join("state"));
    let reception = Reception::new("second", &inbox, &state, bell.clone());
    let receiver = Box::new(DiodeReceiver::new(&config, 8 << 20, KeyRing::new(keys)));
    let thread = thread::spawn(move || run(receiver, &reception));
    wait("the second receiver is bound", || {
        state.join("receivers/second").join(STATUS_FILE).exists()
    });

    // Neither link brings enough.
    let mut sent = Sent::new(noise(100_000, 7), Lane::Routine, 1, 1000);
    let over_one = datagrams(sent.pass(&key(), 0));
    let over_other = datagrams(sent.pass(&LinkKey::new(&[6; 32]), 0));
    let half = over_one.len() / 2;
    let named = |name: &String| name.ends_with(".sha256");
    wait("the bundle", || {
        // Again, where a busy machine lost some.
        running.send(&over_one[..half]);
        for datagram in &over_other[half..] {
            running.socket.send_to(datagram, to).unwrap();
        }
        running.inbox().iter().any(named)
    });
    wait("the state to be gone", || names(&path.join("state/diode")) == ["completed"]);
    assert_eq!(running.inbox().len(), 2);
    bell.stop();
    thread.join().unwrap();
}

#[test]
fn what_a_crash_left_on_its_way_into_the_inbox_is_delivered_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/diode");
    let inbox = dir.path().join("inbox");
    shared::durable::create_dir(&state).unwrap();
    shared::durable::create_dir(&inbox).unwrap();
    let now = Instant::now();
    let mut sent = Sent::new(noise(50_000, 8), Lane::Routine, 2, 900);
    let mut assembler = Assembler::open(&state, LIMITS, now).unwrap();
    feed(&mut assembler, &key(), &datagrams(sent.pass(&key(), 0)), now);
    let whole = work(&mut assembler, now).pop().unwrap();
    drop(assembler);
    // Killed between the two renames.
    let name = super::deliver::file_name(&whole.info);
    shared::durable::rename(&whole.data, &inbox.join(format!("{name}.partial"))).unwrap();
    let running = Running::start(dir);
    wait("the bundle", || running.inbox().contains(&name));
    assert_eq!(std::fs::read(running.dir.path().join("inbox").join(&name)).unwrap(), sent.file);
    wait("the state to be gone", || {
        names(&running.dir.path().join("state/diode")) == ["completed"]
    });
}
