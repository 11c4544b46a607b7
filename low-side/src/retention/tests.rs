use shared::record::Lane;

use super::*;
use crate::import::{Arrivals, Importer, Outcome, Sidecar, Source};
use crate::ledger::{Again, Delivery, Keeping, KeptObject};
use crate::testing::{Chain, START, Site, names};

fn retention(
    site: &Site,
    config: StoreConfig,
    sinks: &[&str],
) -> Retention<shared::clock::FakeClock> {
    let mut ledger = site.ledger();
    let sinks = sinks.iter().map(|name| ((*name).to_owned(), ledger.sink(name).unwrap())).collect();
    Retention {
        config,
        folders: site.folders.clone(),
        ledger,
        sinks,
        limits: Limits::default(),
        clock: site.clock.clone(),
        letters: Letters::default(),
    }
}

fn after(days: u64) -> StoreConfig {
    let retain = Some(Duration::from_hours(24 * days));
    StoreConfig { retain, retain_bytes: None, free_alarm: 0 }
}

fn bring(importer: &mut Importer<shared::clock::FakeClock>, path: &Path) -> Outcome {
    importer.import(path, Sidecar::Absent, |_| {}).unwrap()
}

/// Brings bundles of two records each; gives where they came from.
fn fill(site: &Site, chain: &mut Chain, count: usize) -> Vec<PathBuf> {
    let mut importer = site.importer();
    let mut paths = Vec::new();
    for _ in 0..count {
        let path = site.seal(chain, &["one", "two"]);
        assert!(matches!(bring(&mut importer, &path), Outcome::Admitted { .. }));
        paths.push(path);
    }
    paths
}

fn deliver(ledger: &mut Ledger, sink: &str, (first, last): (u64, u64)) {
    let id = ledger.sink(sink).unwrap();
    let chain = ledger.stored_behind((Nanos(0), 0, 0), 1).unwrap()[0].chain;
    let records = last - first + 1;
    let delivery = Delivery::of(chain, (first, last), records);
    ledger.deliver(id, &[delivery], None, &std::collections::HashMap::new(), START).unwrap();
}

fn look(retention: &mut Retention<shared::clock::FakeClock>) {
    let now = retention.clock.now();
    retention.look(&Bell::default(), now).unwrap();
}

fn adds_up(site: &Site) {
    let mut ledger = site.ledger();
    let status = crate::status::Status::gather(
        &mut ledger,
        &crate::latency::Budgets::default(),
        START,
        None,
    )
    .unwrap();
    assert!(status.adds_up, "{:?}", status.sums);
    let on_disk = names(&site.folders.store);
    let bytes: u64 =
        on_disk.iter().map(|name| site.folders.store.join(name).metadata().unwrap().len()).sum();
    let store = status.sums.store;
    assert_eq!((store.bundles, store.bytes), (on_disk.len() as u64, bytes));
}

#[test]
fn only_what_every_sink_and_archive_has_leaves_and_only_when_asked() {
    let site = Site::new();
    fill(&site, &mut Chain::new(1, Lane::Routine), 3);
    let never = StoreConfig { retain: None, retain_bytes: None, free_alarm: 0 };
    let mut ledger = site.ledger();
    for sink in ["siem", "copy"] {
        deliver(&mut ledger, sink, (1, 6));
    }
    site.clock.advance(Duration::from_hours(24 * 400));
    look(&mut retention(&site, never, &["siem", "copy"]));
    assert_eq!(names(&site.folders.store).len(), 3, "nobody asked for it");

    // Another sink has half of the second bundle; an archive has the first and the third.
    deliver(&mut ledger, "slow", (1, 3));
    let ids = ledger.set_archives(&[Keeping { name: "worm", before: false }], START).unwrap();
    for _ in 0..2 {
        let due = ledger.next_due(ids[0], &|_, number| number == 2).unwrap().unwrap();
        let object = KeptObject {
            key: format!("x/{}", due.bundle.file()),
            version: "v".to_owned(),
            sha256: due.sha256.unwrap(),
            bytes: 7,
            retain_until: None,
        };
        ledger.note_archived(ids[0], &due, &object, "there", START).unwrap();
    }
    let mut keeper = retention(&site, after(30), &["siem", "copy", "slow"]);
    look(&mut keeper);
    assert_eq!(names(&site.folders.store).len(), 2, "the first alone");
    deliver(&mut ledger, "slow", (4, 6));
    look(&mut keeper);
    let left = names(&site.folders.store);
    assert!(left.len() == 1 && left[0].contains("-0000000002-"), "{left:?}");
    adds_up(&site);
    // The custody log has a line for each, by whoever did it.
    let mut text = String::new();
    ledger.settle_custody(true, START).unwrap();
    for entry in std::fs::read_dir(site.folders.state.join("custody")).unwrap() {
        text += &std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
    }
    assert_eq!(text.matches("from the store: retain").count(), 2, "{text}");

    // Without any sink and archive nothing else would have it.
    ledger.set_archives(&[], START).unwrap();
    look(&mut retention(&site, after(30), &[]));
    assert_eq!(names(&site.folders.store).len(), 1);
}

#[test]
fn the_oldest_leave_first_until_the_store_is_small_enough() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    let mut bytes = Vec::new();
    for path in fill(&site, &mut chain, 4) {
        bytes.push(path.metadata().unwrap().len());
    }
    let mut ledger = site.ledger();
    deliver(&mut ledger, "siem", (1, 8));
    let most = bytes[2] + bytes[3];
    let config = StoreConfig { retain: None, retain_bytes: Some(most), free_alarm: 0 };
    look(&mut retention(&site, config, &["siem"]));
    let left = names(&site.folders.store);
    assert!(left.len() == 2 && left[0].contains("-0000000003-"), "{left:?}");
    adds_up(&site);
    // What may not leave is told.
    fill(&site, &mut chain, 1);
    let config = StoreConfig { retain_bytes: Some(1), ..config };
    look(&mut retention(&site, config, &["siem"]));
    let alarms = ledger.alarms().unwrap();
    let alarm = alarms.iter().find(|alarm| alarm.code == "store-over").unwrap();
    assert!(alarm.message.contains("1: a sink has yet to take them"), "{}", alarm.message);
    assert_eq!(names(&site.folders.store).len(), 1);
    deliver(&mut ledger, "siem", (9, 10));
    look(&mut retention(&site, config, &["siem"]));
    assert!(names(&site.folders.store).is_empty());
    assert!(ledger.alarms().unwrap().iter().all(|alarm| alarm.closed.is_some()));
}

#[test]
fn a_disk_that_gets_small_is_told_until_there_is_room() {
    let site = Site::new();
    let mut config = StoreConfig { retain: None, retain_bytes: None, free_alarm: u64::MAX };
    let told = |config| {
        let mut retention = retention(&site, config, &[]);
        let now = retention.clock.now();
        retention.look_at_disk(now).unwrap();
        let alarms = site.ledger().alarms().unwrap();
        let alarm = alarms.into_iter().find(|alarm| alarm.code == "disk-low");
        alarm.is_some_and(|alarm| alarm.closed.is_none())
    };
    assert!(told(config));
    config.free_alarm = 0;
    assert!(!told(config));
}

#[test]
fn files_that_are_not_ours_stay() {
    let site = Site::new();
    fill(&site, &mut Chain::new(1, Lane::Routine), 3);
    let mut ledger = site.ledger();
    deliver(&mut ledger, "siem", (1, 6));
    site.clock.advance(Duration::from_hours(24 * 31));
    let store = &site.folders.store;
    let ours = names(store);
    // A stranger's file; another bundle under the name of the first; a link in the place of the second.
    std::fs::write(store.join("stranger"), "x").unwrap();
    std::fs::copy(store.join(&ours[2]), store.join(&ours[0])).unwrap();
    let outside = site.dir.path().join("outside");
    shared::durable::rename(&store.join(&ours[1]), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, store.join(&ours[1])).unwrap();
    look(&mut retention(&site, after(30), &["siem"]));
    let left = names(store);
    assert_eq!(left, [ours[0].as_str(), ours[1].as_str(), "stranger"], "the third alone has left");
    assert!(outside.exists());
    let alarms = ledger.alarms().unwrap();
    let alarm = alarms.iter().find(|alarm| alarm.code == "store-over").unwrap();
    assert!(
        alarm.message.contains("2: their files are damaged or not theirs"),
        "{}",
        alarm.message
    );
}

#[test]
fn what_left_comes_back_by_an_operator_and_by_nobody_else() {
    let site = Site::new();
    let paths = fill(&site, &mut Chain::new(1, Lane::Routine), 2);
    let mut ledger = site.ledger();
    deliver(&mut ledger, "siem", (1, 4));
    site.clock.advance(Duration::from_hours(24 * 31));
    let mut keeper = retention(&site, after(30), &["siem"]);
    look(&mut keeper);
    assert!(names(&site.folders.store).is_empty());
    let (siem, chain) = (ledger.sink("siem").unwrap(), 1);
    assert_eq!(ledger.deliver_again(siem, chain, (1, 2), 2).unwrap(), Again::NotStored);
    // A sink that is new has nothing to wait for, and the sums say why.
    ledger.sink("new").unwrap();
    let sums = ledger.sums().unwrap();
    let new = sums.sinks.iter().find(|sink| sink.name == "new").unwrap();
    assert_eq!((new.removed, new.pending, new.delivered), (4, 0, 0));
    adds_up(&site);

    // A link sends it once more: a duplicate, and the store stays as it is.
    let mut importer = site.importer();
    importer.source = Source::Inbox(Arrivals::default());
    assert!(matches!(bring(&mut importer, &paths[0]), Outcome::Duplicate { .. }));
    assert!(names(&site.folders.store).is_empty());
    importer.source = Source::Command("import");
    assert!(matches!(bring(&mut importer, &paths[0]), Outcome::Restored { .. }));
    assert_eq!(names(&site.folders.store).len(), 1);
    adds_up(&site);
    // It stays for its time once more, and can be sent.
    assert_eq!(ledger.deliver_again(siem, chain, (1, 2), 2).unwrap(), Again::Asked);
    look(&mut keeper);
    site.clock.advance(Duration::from_hours(24 * 31));
    look(&mut keeper);
    assert_eq!(names(&site.folders.store).len(), 1, "it is to be sent");
    deliver(&mut ledger, "siem", (1, 2));
    look(&mut keeper);
    assert!(names(&site.folders.store).is_empty());
    adds_up(&site);
}

#[test]
fn dead_letters_and_gaps_keep_their_bundles() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    fill(&site, &mut chain, 2);
    let missing = site.seal(&mut chain, &["missing"]);
    let behind = site.seal(&mut chain, &[]);
    let mut importer = site.importer();
    bring(&mut importer, &behind);
    let mut ledger = site.ledger();
    deliver(&mut ledger, "siem", (1, 4));
    let letters = DeadLetters::of(&site.folders.state, "siem");
    let mut text = Vec::new();
    let event = br#"{"id":"ab","origin":"plant-7","epoch":1,"lane":"routine","sequence":3,"stream":"other"}"#;
    dead_letters::line(&mut text, "siem", "no", START, event);
    letters.append(&text).unwrap();
    site.clock.advance(Duration::from_hours(24 * 31));
    let mut keeper = retention(&site, after(30), &["siem"]);
    look(&mut keeper);
    let left = names(&site.folders.store);
    assert!(left.len() == 2 && left[0].contains("-0000000002-"), "{left:?}");
    // A damaged file of letters may name any of them: nothing leaves.
    let sound = std::fs::read(letters.path()).unwrap();
    std::fs::write(letters.path(), [b"{}\n", sound.as_slice()].concat()).unwrap();
    let now = keeper.clock.now();
    let refused = keeper.look(&Bell::default(), now).unwrap_err().to_string();
    assert!(refused.contains("siem.ndjson: dead letters can't be read"), "{refused}");
    std::fs::write(letters.path(), [sound.as_slice(), b"{\"rej"].concat()).unwrap();
    look(&mut keeper);
    assert_eq!(names(&site.folders.store).len(), 2);
    // While a retry works them off they count as well; then they don't.
    letters.begin_retry().unwrap();
    look(&mut keeper);
    assert_eq!(names(&site.folders.store).len(), 2);
    letters.end_retry(START).unwrap();
    look(&mut keeper);
    assert_eq!(names(&site.folders.store).len(), 1);
    bring(&mut importer, &missing);
    deliver(&mut ledger, "siem", (5, 5));
    look(&mut keeper);
    let left = names(&site.folders.store);
    assert!(left.len() == 1 && left[0].contains("-0000000003-"), "it came just now: {left:?}");
    adds_up(&site);
}

#[test]
fn the_journal_survives_what_a_kill_or_a_disk_does_to_it() {
    let site = Site::new();
    fill(&site, &mut Chain::new(1, Lane::Routine), 3);
    let mut ledger = site.ledger();
    deliver(&mut ledger, "siem", (1, 6));
    site.clock.advance(Duration::from_hours(24 * 31));
    // The journal can't be written: nothing leaves.
    let path = site.folders.state.join("removed.jsonl");
    std::fs::create_dir(&path).unwrap();
    let mut keeper = retention(&site, after(30), &["siem"]);
    let now = keeper.clock.now();
    assert!(keeper.look(&Bell::default(), now).is_err());
    assert_eq!(names(&site.folders.store).len(), 3);
    adds_up(&site);
    std::fs::remove_dir(&path).unwrap();
    look(&mut keeper);
    assert!(names(&site.folders.store).is_empty());
    let journal = Journal::of(&site.folders.state);
    let read = || {
        let mut damaged = 0;
        let rows: Vec<RemovedRow> = journal.read(&mut damaged).unwrap().collect();
        (rows, damaged)
    };
    let (rows, damaged) = read();
    assert_eq!(
        (rows.iter().map(|row| row.number).collect::<Vec<_>>(), damaged),
        (vec![1, 2, 3], 0)
    );
    // A line that was cut short is cut off by the next one; one that changed is passed over.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"0123456789abcdef {\"origin\"").unwrap();
    assert_eq!(read().1, 1);
    journal.append(&rows[..1]).unwrap();
    assert_eq!((read().0.len(), read().1), (4, 0));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"number\":2", "\"number\":9", 1)).unwrap();
    assert_eq!((read().0.len(), read().1), (3, 1));
}
