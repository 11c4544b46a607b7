//! Tests of the buffer as a whole, and what they share.

mod damage;
mod handovers;
mod life;
mod migrate;
mod model;
mod pressure;
mod reviews;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::{FakeClock, Nanos};
use shared::record::{self, Lane, SourceTag, Stream};

use super::*;

/// When every test begins: 2026-11-23.
const START: Nanos = Nanos(1_795_468_219_000_000_000);

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(FakeClock::at(START))
}

/// Small pages and groups, so that little data makes many of them.
pub(super) fn settings(dir: &Path) -> BufferSettings {
    BufferSettings {
        free_disk_floor_bytes: 0,
        commit_records: 16,
        commit_interval: Duration::from_millis(1),
        checkpoint_bytes: 64 << 10,
        page_bytes: 4096,
        ..BufferSettings::new(dir)
    }
}

pub(super) fn open(dir: &Path) -> (Buffer, Recovery) {
    Buffer::open(settings(dir), &"plant-7".parse().unwrap(), clock()).unwrap()
}

pub(super) fn batch(lane: Lane, stream: Stream, raws: &[Vec<u8>]) -> Incoming {
    let mut data = Vec::new();
    let mut messages = Vec::new();
    for raw in raws {
        data.extend_from_slice(raw);
        messages.push(IncomingMessage {
            lane,
            end: data.len(),
            received: START,
            stream,
            cut_from: None,
            fate: Fate::Kept,
        });
    }
    let source = Arc::new(SourceTag::new("test", "192.0.2.1:1", None));
    Incoming { source, data, messages, mark: None, sightings: Vec::new(), committed: None }
}

/// Raw bytes that can be told apart and do not all compress to nothing.
pub(super) fn raw(number: u64) -> Vec<u8> {
    let noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("record {number} {noise:x} {:x}\0\n", noise.rotate_left(21)).into_bytes()
}

/// Appends records one batch at a time, each of which becomes durable before the next.
pub(super) fn append(buffer: &mut Buffer, lane: Lane, batches: &[Vec<Vec<u8>>]) {
    let (intake, writer) = buffer.start_writer().unwrap();
    for raws in batches {
        let (sender, committed) = tokio::sync::oneshot::channel();
        let mut batch = batch(lane, Stream::Other, raws);
        batch.committed = Some(sender);
        intake.submit_blocking(batch).unwrap();
        committed.blocking_recv().unwrap();
    }
    drop(intake);
    writer.join().unwrap();
}

pub(super) const NO_LIMITS: PlanLimits =
    PlanLimits { records_max: u64::MAX, plain_bytes_max: u64::MAX };

/// The records of a planned bundle: sequence and raw bytes.
pub(super) fn read(store: &Store, planned: &PlannedBundle) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    store
        .read_blocks::<BufferError>(planned, |mut plain| {
            while !plain.is_empty() {
                let (record, used) = record::parse(plain, 1 << 30).unwrap();
                records.push((record.sequence.0, record.raw.to_vec()));
                plain = &plain[used..];
            }
            Ok(())
        })
        .unwrap();
    records
}

pub(super) fn sealed_file(number: u64) -> SealedFile {
    let digest = shared::bundle::BundleDigest::of(&number.to_le_bytes());
    SealedFile { digest, name: format!("bundle-{number}"), bytes: 7, sha256: [7; 32] }
}

pub(super) fn assert_adds_up(store: &Store) {
    for totals in store.totals().unwrap() {
        assert!(totals.adds_up(), "{totals:?}");
    }
}

/// Asks again and again until it is so.
pub(super) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come true");
        std::thread::yield_now();
    }
}
