use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::thread;

use shared::clock::FakeClock;
use shared::record::Lane;

use super::*;
use crate::import::{Outcome, Sidecar};
use crate::ledger::Again;
use crate::sink::config::{
    Body, Confirm, Endpoint, FileConfig, Framing, SinkConfig, SinkKind, SyslogConfig, SyslogFormat,
    Wire,
};
use crate::sink::make;
use crate::testing::{Chain, Site};

fn file_config(site: &Site) -> SinkKind {
    SinkKind::File(FileConfig {
        dir: site.dir.path().join("sinks"),
        schema: crate::mapping::Schema::Native,
        rotate_bytes: 1 << 30,
        rotate_age: Duration::from_secs(1 << 30),
        line_bytes_max: None,
    })
}

fn replayer(site: &Site, kind: SinkKind, records: u64) -> Replayer<FakeClock> {
    let mut ledger = site.ledger();
    let id = ledger.sink("out").unwrap();
    let batch = BatchLimits { records, bytes: 1 << 20, interval: Duration::from_hours(1) };
    let retry = (Duration::from_millis(1), Duration::from_millis(5));
    let config = SinkConfig {
        name: "out".to_owned(),
        batch,
        retry,
        lag_alarm: Duration::from_mins(15),
        records_per_second: 0,
        dead_letter_bytes: 1 << 30,
        filter: Filter::default(),
        kind,
    };
    let bell = Bell::default();
    Replayer {
        name: "out".to_owned(),
        id,
        sink: make(&config, id, site.clock.clone(), bell.clone()),
        batch,
        retry,
        records_per_second: 0,
        dead_letter_bytes: 1 << 30,
        filter: Filter::default(),
        dead_letters: DeadLetters::of(&site.folders.state, "out"),
        ledger,
        store: site.folders.store.clone(),
        keys: site.keys(),
        limits: Limits::default(),
        clock: site.clock.clone(),
        bell,
        health: HealthBoard::default(),
    }
}

fn import(site: &Site, path: &std::path::Path) {
    let outcome = site.importer().import(path, Sidecar::Absent, |_| {}).unwrap();
    assert!(matches!(outcome, Outcome::Admitted { .. }), "{outcome:?}");
}

fn drain(replayer: &mut Replayer<FakeClock>) {
    let mut progress = Progress::default();
    while replayer.deliver_batch(&mut progress).unwrap().is_some() {}
}

fn messages(site: &Site) -> Vec<String> {
    let text =
        std::fs::read_to_string(site.dir.path().join("sinks/out.ndjson")).unwrap_or_default();
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    text.lines().map(|line| event(line)["raw"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn records_go_in_order_and_the_flash_lane_first() {
    let site = Site::new();
    let (mut routine, mut flash) = (Chain::new(1, Lane::Routine), Chain::new(1, Lane::Flash));
    import(&site, &site.seal(&mut routine, &["r1", "r2", "r3"]));
    import(&site, &site.seal(&mut routine, &[]));
    import(&site, &site.seal(&mut routine, &["r4"]));
    let mut replayer = replayer(&site, file_config(&site), 2);
    let mut progress = Progress::default();
    assert_eq!(replayer.deliver_batch(&mut progress).unwrap(), Some(2));
    // An urgent bundle overtakes the half that is left.
    import(&site, &site.seal(&mut flash, &["f1"]));
    while replayer.deliver_batch(&mut progress).unwrap().is_some() {}
    assert_eq!(messages(&site), ["r1", "r2", "f1", "r3", "r4"]);
    let sums = site.ledger().sums().unwrap();
    assert_eq!((sums.sinks[0].delivered, sums.sinks[0].pending), (5, 0));
}

#[test]
fn a_gap_holds_until_it_is_filled_or_passed() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    let sealed: Vec<_> =
        ["1", "2", "3", "4", "5"].map(|text| site.seal(&mut chain, &[text])).into();
    let mut replayer = replayer(&site, file_config(&site), 100);
    import(&site, &sealed[0]);
    import(&site, &sealed[2]);
    drain(&mut replayer);
    assert_eq!(messages(&site), ["1"]);
    assert_eq!(site.ledger().sums().unwrap().held, 1);
    import(&site, &sealed[1]);
    drain(&mut replayer);
    assert_eq!(messages(&site), ["1", "2", "3"]);
    import(&site, &sealed[4]);
    let mut ledger = site.ledger();
    let now = site.clock.now();
    ledger.pass_gaps(crate::ledger::PassGaps::NoticedBefore(now), now).unwrap();
    drain(&mut replayer);
    assert_eq!(messages(&site), ["1", "2", "3", "5"]);
    import(&site, &sealed[3]);
    drain(&mut replayer);
    assert_eq!(messages(&site), ["1", "2", "3", "5", "4"]);
    assert!(ledger.gaps().unwrap().is_empty());
}

#[test]
fn a_process_killed_before_any_commit_delivers_each_record_once() {
    let site = Site::new();
    let (mut routine, mut flash) = (Chain::new(1, Lane::Routine), Chain::new(1, Lane::Flash));
    import(&site, &site.seal(&mut routine, &["r1", "r2", "r3"]));
    import(&site, &site.seal(&mut routine, &["r4", "r5"]));
    // What a process has written when it is killed just before the ledger's commit.
    let copy = Site::new();
    {
        let mut written = replayer(&site, file_config(&site), 100);
        written.sink.begin(&mut written.ledger).unwrap();
        let Chosen::Bundle(chain, bundle, from) =
            written.choose(&mut Progress::default(), None).unwrap()
        else {
            panic!("something is pending");
        };
        let mut batch = Batch::default();
        let mut progress = Progress::default();
        written
            .deliver_bundle(&mut progress, &chain, bundle, from, &mut batch, Instant::now())
            .unwrap();
        written.sink.confirm().unwrap();
    }
    drop(copy);
    // An urgent bundle comes before the next start: what stands in the file goes on all the same.
    import(&site, &site.seal(&mut flash, &["f1"]));
    let mut replayer = replayer(&site, file_config(&site), 2);
    drain(&mut replayer);
    assert_eq!(messages(&site), ["r1", "r2", "r3", "f1", "r4", "r5"]);
}

#[test]
fn a_damaged_store_file_stops_its_chain_alone_and_is_mended() {
    let site = Site::new();
    let (mut routine, mut flash) = (Chain::new(1, Lane::Routine), Chain::new(1, Lane::Flash));
    let sealed = site.seal(&mut flash, &["f1"]);
    import(&site, &sealed);
    import(&site, &site.seal(&mut routine, &["r1"]));
    let name = crate::testing::names(&site.folders.store).remove(0);
    let stored = site.folders.store.join(name);
    let mut bytes = std::fs::read(&stored).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&stored, bytes).unwrap();
    let mut replayer = replayer(&site, file_config(&site), 100);
    drain(&mut replayer);
    assert_eq!(messages(&site), ["r1"]);
    assert_eq!(site.ledger().alarms().unwrap()[0].code, "store-damaged");
    assert_blocked(&replayer, &stored);
    site.importer().import(&sealed, Sidecar::Absent, |_| {}).unwrap();
    drain(&mut replayer);
    assert_eq!(messages(&site), ["r1", "f1"]);
    assert!(site.ledger().alarms().unwrap()[0].closed.is_some());
    assert_eq!(replayer.health.read().state, "idle");
}

fn assert_blocked(replayer: &Replayer<FakeClock>, stored: &std::path::Path) {
    let health = replayer.health.read();
    assert_eq!(health.state, "blocked");
    let name = stored.file_name().unwrap().to_str().unwrap();
    assert!(health.error.unwrap().contains(name));
}

#[test]
fn a_disk_that_does_not_give_a_bundle_is_no_damage() {
    let site = Site::new();
    import(&site, &site.seal(&mut Chain::new(1, Lane::Routine), &["r1"]));
    let name = crate::testing::names(&site.folders.store).remove(0);
    let stored = site.folders.store.join(name);
    let whole = std::fs::read(&stored).unwrap();
    std::fs::remove_file(&stored).unwrap();
    // A folder opens, and reading it is an I/O error.
    std::fs::create_dir(&stored).unwrap();
    let mut replayer = replayer(&site, file_config(&site), 100);
    drain(&mut replayer);
    drain(&mut replayer);
    assert_blocked(&replayer, &stored);
    let alarms = site.ledger().alarms().unwrap();
    assert_eq!((alarms[0].code.as_str(), alarms[0].count), ("store-unreadable", 1));
    assert_eq!(alarms.len(), 1);
    std::fs::remove_dir(&stored).unwrap();
    std::fs::write(&stored, whole).unwrap();
    drain(&mut replayer);
    assert_eq!(messages(&site), ["r1"]);
    assert!(site.ledger().alarms().unwrap()[0].closed.is_some());
    assert_eq!(replayer.health.read().state, "idle");
}

fn syslog_config(listener: &TcpListener, confirm: Confirm) -> SinkKind {
    SinkKind::Syslog(SyslogConfig {
        endpoint: Endpoint {
            address: listener.local_addr().unwrap().to_string(),
            tls: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_millis(300),
        },
        format: SyslogFormat::Rfc5424,
        body: Body::Original,
        bom: false,
        message_bytes_max: 1 << 16,
        wire: Wire::Stream { framing: Framing::Lf, confirm },
    })
}

#[test]
fn a_syslog_batch_counts_only_when_the_receiver_read_it_all() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    import(&site, &site.seal(&mut chain, &["<34>one", "<34>two"]));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kind = syslog_config(&listener, Confirm::Close);
    let (done, finished) = sync_channel(8);
    let server = thread::spawn(move || {
        let behaviours: [fn(TcpStream) -> Vec<u8>; 5] = [
            // Closes at once: an end that was sent before our bytes were seen.
            |_| Vec::new(),
            // Dies with something unread.
            |mut stream| {
                let mut some = [0; 4];
                stream.read_exact(&mut some).unwrap();
                some.to_vec()
            },
            // Never answers.
            |stream| {
                // ok: hanging for longer than the confirm timeout is what this receiver is for.
                thread::sleep(Duration::from_millis(600));
                drop(stream);
                Vec::new()
            },
            // Reads all, and then resets.
            |mut stream| {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger)
                    .unwrap();
                all
            },
            // Reads all and closes in order.
            |mut stream| {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                // A receiver may say something; it does not matter.
                let _ = stream.write_all(b"noise");
                all
            },
        ];
        for behave in behaviours {
            let (stream, _) = listener.accept().unwrap();
            done.send(behave(stream)).unwrap();
        }
    });
    let mut replayer = replayer(&site, kind, 100);
    for attempt in 0..5 {
        let result = replayer.deliver_batch(&mut Progress::default());
        let received = finished.recv().unwrap();
        if attempt < 4 {
            assert!(result.is_err(), "{attempt}: {result:?}");
            replayer.sink.reset(&SinkError::Stopping);
            assert_eq!(site.ledger().sums().unwrap().sinks[0].delivered, 0, "{attempt}");
        } else {
            assert_eq!(result.unwrap(), Some(2));
            assert_eq!(received, b"<34>one\n<34>two\n");
        }
    }
    server.join().unwrap();
    assert_eq!(site.ledger().sums().unwrap().sinks[0].delivered, 2);
}

#[test]
fn what_was_sent_within_the_resend_window_is_sent_again_after_a_break() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    for message in ["<34>one", "<34>two", "<34>three"] {
        import(&site, &site.seal(&mut chain, &[message]));
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let window = Duration::from_hours(1);
    let kind = syslog_config(&listener, Confirm::Write { resend_window: window });
    let (told, tell) = sync_channel::<()>(1);
    let server = thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        let mut read = [0; 16];
        first.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"<34>one\n<34>two\n");
        tell.recv().unwrap();
        // It has read everything, and ends.
        drop(first);
        let (mut second, _) = listener.accept().unwrap();
        let mut read = [0; 26];
        second.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"<34>one\n<34>two\n<34>three\n");
        tell.recv().unwrap();
    });
    let mut replayer = replayer(&site, kind, 1);
    let mut progress = Progress::default();
    let delivered = || site.ledger().sums().unwrap().sinks[0].delivered;
    // One batch follows the other, though neither is noted yet.
    assert_eq!(replayer.deliver_batch(&mut progress).unwrap(), Some(1));
    assert_eq!(replayer.deliver_batch(&mut progress).unwrap(), Some(1));
    assert_eq!(delivered(), 0);
    told.send(()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while replayer.sink.stands().is_ok() {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    let error = replayer.deliver_batch(&mut progress).unwrap_err();
    assert!(matches!(error, ReplayError::Sink(SinkError::Network { .. })), "{error:?}");
    assert_eq!(delivered(), 0);
    replayer.sink.reset(&SinkError::Stopping);
    progress = Progress::default();
    for _ in 0..3 {
        assert_eq!(replayer.deliver_batch(&mut progress).unwrap(), Some(1));
    }
    assert_eq!(replayer.deliver_batch(&mut progress).unwrap(), None);
    assert_eq!(delivered(), 0);
    replayer.note_held(&mut progress, Instant::now() + window).unwrap();
    assert_eq!(delivered(), 3);
    assert_eq!(replayer.health.read().delivered, 3);
    // Nothing is held any more: an end is none of our concern.
    told.send(()).unwrap();
    server.join().unwrap();
    while replayer.deliver_batch(&mut progress).unwrap().is_some() {}
    assert_eq!(delivered(), 3);
}

#[test]
fn a_receiver_that_never_closes_is_told_of() {
    let site = Site::new();
    import(&site, &site.seal(&mut Chain::new(1, Lane::Routine), &["<34>one"]));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut replayer = replayer(&site, syslog_config(&listener, Confirm::Close), 100);
    // The kernel accepts the connection, and no program ever closes it.
    for _ in 0..3 {
        assert!(site.ledger().alarms().unwrap().is_empty());
        replayer.deliver_batch(&mut Progress::default()).unwrap_err();
        replayer.sink.reset(&SinkError::Stopping);
    }
    let server = thread::spawn(move || {
        for _ in 0..4 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    assert_eq!(replayer.deliver_batch(&mut Progress::default()).unwrap(), Some(1));
    server.join().unwrap();
    let alarms = site.ledger().alarms().unwrap();
    assert_eq!(alarms[0].code, "sink-not-confirming");
    assert!(alarms[0].message.contains("confirm = \"write\"") && alarms[0].closed.is_some());
}

#[test]
fn a_dead_sink_keeps_trying_and_stops_when_told() {
    let site = Site::new();
    import(&site, &site.seal(&mut Chain::new(1, Lane::Routine), &["<34>one"]));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kind = syslog_config(&listener, Confirm::Close);
    drop(listener);
    let replayer = replayer(&site, kind, 100);
    let (bell, health) = (replayer.bell.clone(), replayer.health.clone());
    let running = thread::spawn(move || replayer.run());
    let deadline = Instant::now() + Duration::from_secs(20);
    while health.read().failures < 3 {
        assert!(Instant::now() < deadline, "{:?}", health.read());
        thread::yield_now();
    }
    assert_eq!(health.read().state, "failing");
    bell.stop();
    running.join().unwrap();
}

/// Takes everything but what is named for good, and remembers what it was handed.
#[derive(Default)]
struct Picky {
    refused: Vec<&'static str>,
    taken: Arc<Mutex<Vec<String>>>,
    rejected: Vec<Rejected>,
}

impl Sink for Picky {
    fn begin(&mut self, _: &mut Ledger) -> Result<(), SinkError> {
        Ok(())
    }
    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let text = String::from_utf8_lossy(item.record.raw).into_owned();
        if self.refused.contains(&text.as_str()) {
            let (chain, sequence) = (item.chain.clone(), item.record.sequence.0);
            self.rejected.push(Rejected { chain, sequence, reason: "400: no".to_owned() });
        } else {
            self.taken.lock().unwrap().push(text);
        }
        Ok(1)
    }
    fn confirm(&mut self) -> Result<crate::sink::Confirmed, SinkError> {
        let rejected = std::mem::take(&mut self.rejected);
        Ok(crate::sink::Confirmed { position: None, rejected })
    }
    fn reset(&mut self, _: &SinkError) {}
}

#[test]
fn a_rejected_record_goes_to_the_dead_letters_and_comes_again_when_asked_for() {
    let site = Site::new();
    let (mut routine, mut flash) = (Chain::new(1, Lane::Routine), Chain::new(1, Lane::Flash));
    import(&site, &site.seal(&mut routine, &["r1", "bad", "r3"]));
    import(&site, &site.seal(&mut flash, &["f1"]));
    let taken = Arc::default();
    let picky = Picky { refused: vec!["bad"], taken: Arc::clone(&taken), rejected: Vec::new() };
    let mut replayer = replayer(&site, file_config(&site), 100);
    replayer.sink = Box::new(picky);
    drain(&mut replayer);
    let sums = |site: &Site| {
        let sum = site.ledger().sums().unwrap().sinks[0].clone();
        (sum.delivered, sum.filtered, sum.rejected, sum.again, sum.pending)
    };
    let measured = |site: &Site| -> u64 {
        let (last, budgets) = (Duration::from_hours(24), latency::Budgets::default());
        let sums = site.ledger().latencies(last, &budgets, site.clock.now()).unwrap();
        let received = |sum: &&latency::LatencySum| sum.hop == latency::Hop::Received.as_str();
        sums.iter().filter(received).map(|sum| sum.records).sum()
    };
    assert_eq!(sums(&site), (3, 0, 1, 0, 0));
    assert_eq!((measured(&site), replayer.health.read().delivered), (3, 3));
    assert_eq!(*taken.lock().unwrap(), ["f1", "r1", "r3"]);
    assert_eq!(site.ledger().alarms().unwrap()[0].code, "sink-rejects");
    let letters = DeadLetters::of(&site.folders.state, "out");
    let found: Vec<_> =
        dead_letters::read(&letters.path()).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!((found.len(), found[0].sequence, found[0].reason.as_str()), (1, 2, "400: no"));

    // Somebody mends the receiver and asks for it once more: it alone goes again.
    let chain = site.ledger().chain_id(&found[0].chain).unwrap().unwrap();
    let again = |range| site.ledger().deliver_again(replayer.id, chain, range, 1).unwrap();
    assert_eq!(again((2, 2)), Again::Asked);
    assert_eq!(sums(&site), (3, 0, 1, 1, 1));
    // Twice asked for is once sent, and what no bundle holds can't be sent.
    assert_eq!((again((2, 2)), again((9, 9))), (Again::Pending, Again::NotStored));
    replayer.sink = Box::new(Picky { taken: Arc::clone(&taken), ..Picky::default() });
    drain(&mut replayer);
    assert_eq!(*taken.lock().unwrap(), ["f1", "r1", "r3", "bad"]);
    assert_eq!(sums(&site), (4, 0, 1, 1, 0));
    assert_eq!((measured(&site), replayer.health.read().delivered), (4, 4));
    let delivered = site.ledger().delivered(replayer.id, chain).unwrap();
    assert_eq!(delivered.iter().collect::<Vec<_>>(), [(1, 3)]);
}

#[test]
fn with_too_many_dead_letters_the_stream_waits_and_nothing_is_sent_in_vain() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    import(&site, &site.seal(&mut chain, &["r1", "bad", "r3"]));
    let taken = Arc::default();
    let picky = Picky { refused: vec!["bad"], taken: Arc::clone(&taken), rejected: Vec::new() };
    let mut replayer = replayer(&site, file_config(&site), 100);
    replayer.sink = Box::new(picky);
    replayer.dead_letter_bytes = 10;
    drain(&mut replayer);
    import(&site, &site.seal(&mut chain, &["r4"]));
    let mut progress = Progress::default();
    let error = replayer.deliver_batch(&mut progress).unwrap_err().to_string();
    assert!(error.contains("dead-letter-bytes is 10"), "{error}");
    assert_eq!(*taken.lock().unwrap(), ["r1", "r3"]);
    // A retry works them off, and the stream goes on.
    let letters = DeadLetters::of(&site.folders.state, "out");
    let now = site.clock.now();
    dead_letters::retry(&letters, &mut site.ledger(), replayer.id, now).unwrap().unwrap();
    replayer.sink = Box::new(Picky { taken: Arc::clone(&taken), ..Picky::default() });
    drain(&mut replayer);
    assert_eq!(*taken.lock().unwrap(), ["r1", "r3", "bad", "r4"]);
}

#[test]
fn a_limited_rate_makes_no_bursts_and_lets_an_urgent_record_overtake() {
    let site = Site::new();
    let (mut routine, mut flash) = (Chain::new(1, Lane::Routine), Chain::new(1, Lane::Flash));
    import(&site, &site.seal(&mut routine, &["r1", "r2", "r3", "r4", "r5", "r6", "r7"]));
    let mut replayer = replayer(&site, file_config(&site), 1_000);
    replayer.records_per_second = 3;
    // Nobody waits for the pauses here.
    replayer.bell.stop();
    let mut progress = Progress::default();
    let mut next = |replayer: &mut Replayer<FakeClock>| {
        replayer.deliver_batch(&mut progress).unwrap();
        messages(&site).len()
    };
    assert_eq!(next(&mut replayer), 3);
    import(&site, &site.seal(&mut flash, &["f1"]));
    assert_eq!(next(&mut replayer), 4);
    assert_eq!(next(&mut replayer), 7);
    assert_eq!(messages(&site), ["r1", "r2", "r3", "f1", "r4", "r5", "r6"]);
}

#[test]
fn a_filter_leaves_out_and_counts() {
    let site = Site::new();
    let (mut routine, mut flash) = (Chain::new(1, Lane::Routine), Chain::new(1, Lane::Flash));
    import(&site, &site.seal(&mut routine, &["r1", "r2"]));
    import(&site, &site.seal(&mut flash, &["f1"]));
    let mut replayer = replayer(&site, file_config(&site), 100);
    replayer.filter = Filter { lanes: vec![Lane::Flash], ..Filter::default() };
    drain(&mut replayer);
    assert_eq!(messages(&site), ["f1"]);
    let sum = site.ledger().sums().unwrap().sinks[0].clone();
    assert_eq!((sum.delivered, sum.filtered, sum.pending), (1, 2, 0));
}

#[test]
fn a_receiver_that_asks_for_a_pause_gets_it_and_status_says_so() {
    struct Busy;
    impl Sink for Busy {
        fn begin(&mut self, _: &mut Ledger) -> Result<(), SinkError> {
            let retry_after = Some(Duration::from_hours(1));
            let (place, why) = ("siem".to_owned(), "busy".to_owned());
            Err(SinkError::Answer { place, status: 429, why, retry_after })
        }
        fn write(&mut self, _: Item<'_>) -> Result<u64, SinkError> {
            Ok(0)
        }
        fn confirm(&mut self) -> Result<crate::sink::Confirmed, SinkError> {
            Ok(crate::sink::Confirmed::default())
        }
        fn reset(&mut self, _: &SinkError) {}
    }
    let site = Site::new();
    import(&site, &site.seal(&mut Chain::new(1, Lane::Routine), &["r1"]));
    let mut replayer = replayer(&site, file_config(&site), 100);
    replayer.sink = Box::new(Busy);
    let (health, bell) = (replayer.health.clone(), replayer.bell.clone());
    let running = thread::spawn(move || replayer.run());
    while health.read().circuit != Circuit::Open {
        thread::yield_now();
    }
    assert!(health.read().error.unwrap().contains("siem answered 429: busy"));
    // Longer than the sink's own longest pause, and no longer than our bound.
    let wait = health.read().next_try.unwrap().parse::<Nanos>().unwrap().since(site.clock.now());
    assert_eq!(wait, RETRY_AFTER_MAX);
    bell.stop();
    running.join().unwrap();
}
