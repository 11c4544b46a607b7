//! The buffer full: nothing is dropped, it shows, and it resumes by itself.

use shared::bundle::SealReason;
use shared::record::{Lane, Stream};

use super::*;

/// Several times what the quota of the test holds.
const RECORDS: u64 = 600;

fn noisy(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(4096)
    .collect()
}

#[test]
fn at_its_quota_the_buffer_waits_and_goes_on_when_a_bundle_was_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        BufferSettings { quota_bytes: 1 << 20, in_flight_bytes: 128 << 10, ..settings(dir.path()) };
    let (mut buffer, _) = Buffer::open(settings, &"plant-7".parse().unwrap(), clock()).unwrap();
    let (intake, writer) = buffer.start_writer().unwrap();
    let gauges = buffer.gauges();
    let producer = {
        let intake = intake.clone();
        std::thread::spawn(move || {
            for number in 1..=RECORDS {
                let raws = [noisy(number)];
                intake.submit_blocking(batch(Lane::Routine, Stream::Other, &raws)).unwrap();
            }
        })
    };
    let mut store = buffer.store().unwrap();
    let mut found = Vec::new();
    let mut waits = 0;
    loop {
        until("the quota is reached or all is in", || {
            gauges.state() == WriterState::QuotaReached || gauges.committed_records() == RECORDS
        });
        assert!(intake.in_flight_bytes() <= 128 << 10);
        let done = gauges.committed_records() == RECORDS;
        let planned = store.plan_bundle(Lane::Routine, NO_LIMITS, SealReason::Size, START).unwrap();
        let Some(planned) = planned else {
            if done {
                break;
            }
            // The writer has not looked again yet.
            continue;
        };
        waits += u64::from(!done);
        let number = planned.bundle().number;
        found.extend(read(&store, &planned));
        store.mark_sealed(planned, sealed_file(number)).unwrap();
        assert_adds_up(&store);
    }
    producer.join().unwrap();
    drop(intake);
    assert_eq!(writer.join().unwrap().records, RECORDS);
    assert!(waits >= 2, "{waits}");
    let expected: Vec<_> = (1..=RECORDS).map(|number| (number, noisy(number))).collect();
    assert!(found == expected);
    let size = std::fs::metadata(dir.path().join("buffer.db")).unwrap().len();
    assert!(size <= (1 << 20) + (128 << 10), "{size}");
}

#[test]
fn a_writer_that_can_not_commit_can_be_told_to_give_up_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = BufferSettings { free_disk_floor_bytes: u64::MAX, ..settings(dir.path()) };
    let (mut buffer, _) = Buffer::open(settings, &"plant-7".parse().unwrap(), clock()).unwrap();
    let (intake, writer) = buffer.start_writer().unwrap();
    let gauges = buffer.gauges();
    let (sender, committed) = tokio::sync::oneshot::channel();
    let mut batch = batch(Lane::Routine, Stream::Other, &[raw(1)]);
    batch.committed = Some(sender);
    intake.submit_blocking(batch).unwrap();
    until("the floor is reached", || gauges.state() == WriterState::FreeDiskFloor);
    writer.give_up();
    assert!(matches!(writer.join(), Err(BufferError::Abandoned { records: 1 })));
    assert!(committed.blocking_recv().is_err());
    assert_eq!(gauges.state(), WriterState::Stopped);
    let next = super::batch(Lane::Routine, Stream::Other, &[raw(2)]);
    assert_eq!(intake.submit_blocking(next), Err(IntakeClosed));
}
