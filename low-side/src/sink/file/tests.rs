use std::collections::HashMap;
use std::time::Duration;

use shared::clock::{FakeClock, Nanos};
use shared::record::{Epoch, Lane, Sequence, SourceTag, Stream, encode, parse};

use super::*;
use crate::ledger::Delivery;

const OLD: &[&str] = &["one", "two"];
const NEW: &[&str] = &["three", "a longer fourth", "five"];

struct Setup {
    dir: tempfile::TempDir,
    ledger: Ledger,
    id: SinkId,
    clock: FakeClock,
    config: FileConfig,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let id = ledger.sink("out").unwrap();
        let config = FileConfig {
            dir: dir.path().join("sinks"),
            schema: crate::mapping::Schema::Native,
            rotate_bytes: 1 << 30,
            rotate_age: Duration::from_hours(1),
            line_bytes_max: None,
        };
        Self { dir, ledger, id, clock: FakeClock::at(crate::testing::START), config }
    }

    fn sink(&self) -> FileSink<FakeClock> {
        FileSink::new("out", self.id, self.config.clone(), self.clock.clone())
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.config.dir.join(name)).unwrap()
    }

    /// Writes records; where `note`, tells the ledger.
    fn batch(&mut self, sink: &mut FileSink<FakeClock>, first: u64, messages: &[&str], note: bool) {
        sink.begin(&mut self.ledger).unwrap();
        self.batch_begun(sink, first, messages, note);
    }

    fn batch_begun(
        &mut self,
        sink: &mut FileSink<FakeClock>,
        first: u64,
        messages: &[&str],
        note: bool,
    ) {
        for (at, message) in messages.iter().enumerate() {
            write(sink, first + at as u64, message);
        }
        let confirmed = sink.confirm().unwrap();
        if note {
            let last = first + messages.len() as u64 - 1;
            let delivery = Delivery::of(1, (first, last), messages.len() as u64);
            self.ledger
                .deliver(self.id, &[delivery], confirmed.position, &HashMap::new(), Nanos(1))
                .unwrap();
            sink.committed(&mut self.ledger).unwrap();
        }
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).count()
}

fn chain() -> ChainName {
    ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(1), lane: Lane::Routine }
}

fn write(sink: &mut FileSink<FakeClock>, sequence: u64, message: &str) {
    let source = SourceTag::new("l", "p", None);
    let mut bytes = Vec::new();
    let time = crate::testing::START;
    encode(&mut bytes, Sequence(sequence), time, Stream::Other, &source, None, message.as_bytes());
    let record = parse(&bytes, 1000).unwrap().0;
    sink.write(Item { chain: &chain(), bundle: 1, record: &record }).unwrap();
}

#[test]
fn whatever_a_killed_process_left_each_record_stands_there_once() {
    // Every length of our own lines, which are the shortest; some of the others'.
    for (schema, step) in [(Schema::Native, 1), (Schema::Ecs, 97), (Schema::Ocsf, 97)] {
        each_record_stands_there_once(schema, step);
    }
}

fn each_record_stands_there_once(schema: Schema, step: usize) {
    let mut setup = Setup::new();
    setup.config.schema = schema;
    let mut sink = setup.sink();
    setup.batch(&mut sink, 1, OLD, true);
    let delivered = setup.read("out.ndjson").len();
    // Killed after the write, before the ledger knew.
    setup.batch(&mut sink, 3, NEW, false);
    drop(sink);
    let whole = setup.read("out.ndjson");
    assert_eq!(lines(&whole), 5);
    let path = setup.config.dir.join("out.ndjson");

    for length in (delivered..=whole.len()).step_by(step) {
        let mut damaged = whole[..length].to_vec();
        let mut garbage = damaged.clone();
        garbage.extend_from_slice(b"\0\0garbage\n{\"id\":\"");
        let mut flipped = whole.clone();
        if length < whole.len() {
            flipped[length] ^= 1;
        }
        // What a file system may leave after a power cut: the length without the data.
        damaged.resize(whole.len(), 0);
        for left in [&whole[..length], &garbage, &flipped, &damaged] {
            std::fs::write(&path, left).unwrap();
            let mut sink = setup.sink();
            setup.batch(&mut sink, 3, NEW, false);
            sink.idle().unwrap();
            assert!(setup.read("out.ndjson") == whole, "{length}");
        }
        // Another record comes first this time: nothing of the old ones may be left.
        std::fs::write(&path, &whole[..length]).unwrap();
        let mut sink = setup.sink();
        setup.batch(&mut sink, 9, &["nine"], false);
        let found = setup.read("out.ndjson");
        assert!(found.starts_with(&whole[..delivered]));
        assert_eq!(lines(&found), 3, "{length}");
    }
}

#[test]
fn a_line_that_its_reader_would_not_take_is_a_dead_letter_also_where_it_comes_again() {
    let mut setup = Setup::new();
    setup.config.line_bytes_max = Some(1000);
    let long = "x".repeat(900);
    let mut sink = setup.sink();
    sink.begin(&mut setup.ledger).unwrap();
    for (sequence, message) in [(1, "one"), (2, &long), (3, "three")] {
        write(&mut sink, sequence, message);
    }
    let confirmed = sink.confirm().unwrap();
    assert_eq!(confirmed.rejected.iter().map(|it| it.sequence).collect::<Vec<_>>(), [2]);
    assert!(confirmed.rejected[0].reason.ends_with("bytes, and line-bytes is 1000"));
    let whole = setup.read("out.ndjson");
    assert_eq!(lines(&whole), 2);
    assert_eq!(confirmed.position.unwrap().offset, whole.len() as u64);
    // A batch of nothing else still says so, and one that was killed names it once more.
    let mut sink = setup.sink();
    sink.begin(&mut setup.ledger).unwrap();
    write(&mut sink, 1, "one");
    write(&mut sink, 2, &long);
    assert_eq!(sink.confirm().unwrap().rejected.len(), 1);
    sink.begin(&mut setup.ledger).unwrap();
    write(&mut sink, 4, &long);
    assert_eq!(sink.confirm().unwrap().rejected[0].sequence, 4);
}

#[test]
fn the_tail_tells_its_chain() {
    let mut setup = Setup::new();
    let mut sink = setup.sink();
    setup.batch(&mut sink, 1, OLD, true);
    setup.batch(&mut sink, 3, NEW, false);
    let mut sink = setup.sink();
    sink.begin(&mut setup.ledger).unwrap();
    assert_eq!(sink.unfinished().unwrap(), Some(chain()));
    setup.batch_begun(&mut sink, 3, NEW, true);
    assert_eq!(sink.unfinished().unwrap(), None);
}

#[test]
fn rotation_finishes_wherever_it_was_killed() {
    for killed in ["before", "noted", "renamed", "not"] {
        let mut setup = Setup::new();
        let mut sink = setup.sink();
        setup.batch(&mut sink, 1, OLD, true);
        let old = setup.read("out.ndjson");
        drop(sink);
        let noted = setup.ledger.file_position(setup.id).unwrap().unwrap();
        if killed == "noted" || killed == "renamed" {
            let noted = FilePosition { rotating_to: Some(1), ..noted };
            setup.ledger.set_file_position(setup.id, &noted).unwrap();
        }
        let dir = setup.config.dir.clone();
        if killed == "renamed" {
            durable::rename(&dir.join("out.ndjson"), &dir.join("out-000001.ndjson")).unwrap();
        }
        if killed == "before" {
            setup.clock.advance(Duration::from_hours(2));
            let mut sink = setup.sink();
            setup.batch(&mut sink, 3, &NEW[..1], true);
        }
        let mut sink = setup.sink();
        setup.batch(&mut sink, 4, &NEW[1..], true);
        let found = crate::testing::names(&dir);
        if killed == "not" {
            assert_eq!(found, ["out.ndjson"]);
            continue;
        }
        assert_eq!(found, ["out-000001.ndjson", "out.ndjson"], "{killed}");
        assert!(setup.read("out-000001.ndjson").starts_with(&old));
        assert_eq!(lines(&setup.read("out.ndjson")), 2);
    }
}

#[test]
fn a_full_file_is_rotated_and_numbers_go_on() {
    let mut setup = Setup::new();
    setup.config.rotate_bytes = 1;
    let mut sink = setup.sink();
    for sequence in 1..=3 {
        setup.batch(&mut sink, sequence, &["x"], true);
    }
    let dir = setup.config.dir.clone();
    let names = crate::testing::names(&dir);
    assert_eq!(names, ["out-000001.ndjson", "out-000002.ndjson", "out-000003.ndjson"]);
}

#[test]
fn a_file_under_a_new_ledger_is_kept() {
    let mut setup = Setup::new();
    let mut sink = setup.sink();
    setup.batch(&mut sink, 1, OLD, true);
    let old = setup.read("out.ndjson");
    setup.ledger = Ledger::open(&{
        let fresh = setup.dir.path().join("fresh");
        std::fs::create_dir(&fresh).unwrap();
        fresh
    })
    .unwrap();
    setup.id = setup.ledger.sink("out").unwrap();
    let mut sink = setup.sink();
    setup.batch(&mut sink, 1, OLD, true);
    assert_eq!(setup.read("out-000001.ndjson"), old);
    assert_eq!(setup.read("out.ndjson"), old);
}

#[test]
fn a_file_that_others_changed_is_left_and_told() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 3] = [
        ("shortened", |path| std::fs::write(path, b"short").unwrap()),
        ("removed", |path| std::fs::remove_file(path).unwrap()),
        ("replaced", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, vec![b'x'; 9999]).unwrap();
        }),
    ];
    for (name, change) in changes {
        let mut setup = Setup::new();
        let mut sink = setup.sink();
        setup.batch(&mut sink, 1, OLD, true);
        change(&setup.config.dir.join("out.ndjson"));
        setup.batch(&mut sink, 3, NEW, true);
        let count = lines(&setup.read("out.ndjson"));
        assert_eq!(count, 3, "{name}");
        let alarms = setup.ledger.alarms().unwrap();
        assert_eq!(alarms[0].code, "sink-file-changed", "{name}");
    }
}

#[test]
fn a_foreign_file_is_never_cut_before_anything_was_noted() {
    let mut setup = Setup::new();
    let mut sink = setup.sink();
    // The row is there, with nothing noted, and then a file comes.
    sink.begin(&mut setup.ledger).unwrap();
    let live = setup.config.dir.join("out.ndjson");
    std::fs::write(&live, b"{\"precious\":1}\n").unwrap();
    sink.begin(&mut setup.ledger).unwrap();
    sink.confirm().unwrap();
    sink.idle().unwrap();
    assert_eq!(setup.read("out.ndjson"), b"{\"precious\":1}\n");
    write(&mut sink, 1, "one");
    let error = sink.confirm().unwrap_err();
    sink.reset(&error);
    setup.batch(&mut sink, 1, OLD, true);
    assert_eq!(setup.read("out-000001.ndjson"), b"{\"precious\":1}\n");
    assert_eq!(lines(&setup.read("out.ndjson")), 2);
    assert_eq!(setup.ledger.alarms().unwrap()[0].code, "sink-file-changed");
}

#[test]
fn the_first_write_goes_on_where_it_was_cut_short() {
    let mut setup = Setup::new();
    let mut sink = setup.sink();
    setup.batch(&mut sink, 1, OLD, false);
    drop(sink);
    let whole = setup.read("out.ndjson");
    let live = setup.config.dir.join("out.ndjson");
    for length in 0..=whole.len() {
        std::fs::write(&live, &whole[..length]).unwrap();
        let mut sink = setup.sink();
        setup.batch(&mut sink, 1, OLD, false);
        assert!(setup.read("out.ndjson") == whole, "{length}");
    }
    assert_eq!(crate::testing::names(&setup.config.dir), ["out.ndjson"]);
    assert!(setup.ledger.alarms().unwrap().is_empty());
}

#[test]
fn a_rotation_overwrites_neither_file() {
    let mut setup = Setup::new();
    let mut sink = setup.sink();
    setup.batch(&mut sink, 1, OLD, true);
    drop(sink);
    let old = setup.read("out.ndjson");
    let noted = setup.ledger.file_position(setup.id).unwrap().unwrap();
    let noted = FilePosition { rotating_to: Some(1), ..noted };
    setup.ledger.set_file_position(setup.id, &noted).unwrap();
    std::fs::write(setup.config.dir.join("out-000001.ndjson"), b"theirs").unwrap();
    let mut sink = setup.sink();
    setup.batch(&mut sink, 3, NEW, true);
    assert_eq!(setup.read("out-000001.ndjson"), b"theirs");
    assert_eq!(setup.read("out-000002.ndjson"), old);
    assert_eq!(lines(&setup.read("out.ndjson")), 3);
}

#[test]
fn a_number_is_not_used_again_once_its_file_was_moved_away() {
    let mut setup = Setup::new();
    setup.config.rotate_bytes = 1;
    let dir = setup.config.dir.clone();
    let mut sink = setup.sink();
    setup.batch(&mut sink, 1, &["x"], true);
    std::fs::remove_file(dir.join("out-000001.ndjson")).unwrap();
    setup.batch(&mut sink, 2, &["x"], true);
    assert_eq!(crate::testing::names(&dir), ["out-000002.ndjson"]);
    // Packed ones count too, for a ledger that was made again.
    durable::rename(&dir.join("out-000002.ndjson"), &dir.join("out-000007.ndjson.gz")).unwrap();
    std::fs::write(dir.join("out-18446744073709551615.ndjson"), b"").unwrap();
    setup.batch(&mut sink, 3, &["x"], true);
    assert!(dir.join("out-000008.ndjson").exists());
}
