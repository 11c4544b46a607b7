//! rsyslog's `omrelp`, as it is, with our agent or rsyslog itself killed in between.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use shared::record::Lane;
use tests::crossing::{Crossing, buffered, received};
use tests::load::{Plan, Pool, Target, send};
use tests::logs::assert_no_unlisted_errors;
use tests::opened::open_chain;
use tests::peers::{Authority, Rsyslog};
use tests::samples::{odd_messages, raw_of, samples_dir};
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

use crate::incoming::{NOTHING_REDACTED, finish, listener, start, tls_keys};

/// The high side alone, with one listener; its bundles stay in the outbox.
pub(crate) fn configure(crossing: &Crossing, listener: &str) {
    crossing.pair.high.configure(&format!("{}{listener}", Crossing::seal_soon(100_000)));
}

/// Waits until every id has arrived, then gives all in the order of their sequence numbers, which
/// have no hole.
pub(crate) fn wait_arrived(crossing: &Crossing, ids: impl Iterator<Item = u64>) -> Vec<u64> {
    let expected: BTreeSet<u64> = ids.collect();
    let high = &crossing.pair.high;
    let mut arrived = Vec::new();
    wait_until(LONG, &format!("{} messages", expected.len()), || {
        let status = high.status();
        let unfinished =
            ["planned", "sealed"].map(|state| status["bundles"][state]["count"].as_u64());
        if received(&status) < expected.len() as u64
            || buffered(&status) > 0
            || unfinished != [Some(0); 2]
        {
            return false;
        }
        arrived = open_chain(&high.outbox(), &crossing.pair.low, Lane::Flash).ids;
        arrived.iter().copied().collect::<BTreeSet<u64>>() == expected
    });
    arrived
}

fn into_relp(dir: &Path, front: SocketAddr, relp: SocketAddr, more: &str) -> Rsyslog {
    Rsyslog::new(dir).messages_up_to("64k").listen_tcp(front).forward_relp(
        relp,
        "RSYSLOG_SyslogProtocol23Format",
        more,
    )
}

#[test]
fn what_rsyslog_sends_arrives_byte_for_byte() {
    let Some(samples) = samples_dir() else {
        println!("NOT RUN: the samples are not beside the workspace");
        return;
    };
    let crossing = Crossing::new("relp-samples");
    let (front, relp) = (free_address(), free_address());
    let agents = start(&crossing, &(listener("relp", "relp", relp, "") + NOTHING_REDACTED));
    let written = crossing.sandbox.join("written");
    // rsyslog writes to a file what it sends; nothing else knows what it made of odd bytes.
    let rsyslog = Rsyslog::new(&crossing.sandbox.dir("rsyslog"))
        .messages_up_to("64k")
        .global("parser.escapeControlCharactersOnReceive=\"off\"")
        .listen_tcp(front)
        .with("template(name=\"asis\" type=\"string\" string=\"%rawmsg%\")")
        .with("template(name=\"asisline\" type=\"string\" string=\"%rawmsg%\\n\")")
        .with(&format!(
            "action(type=\"omfile\" file=\"{}\" template=\"asisline\" flushOnTXEnd=\"on\")",
            written.display()
        ))
        .forward_relp(relp, "asis", "");
    let _rsyslog = rsyslog.start();
    let mut sent = 0;
    let mut stream = Vec::new();
    for raw in odd_messages(&samples) {
        stream.extend([format!("{} ", raw.len()).as_bytes(), &raw].concat());
        sent += 1;
    }
    super::samples::write_all(front, &stream);
    // rsyslog drops messages that are empty once it has taken off their line feed.
    wait_until(PATIENCE, "all of what rsyslog has written", || {
        let lines = fs::read(&written).unwrap_or_default();
        let records = received(&crossing.pair.high.status());
        records > sent * 9 / 10 && !lines.is_empty() && settled(&crossing, records)
    });
    let records = received(&crossing.pair.high.status());
    let arrived = finish(&crossing, agents, records);
    let lines: Vec<u8> = arrived
        .events
        .values()
        .flat_map(|event| [raw_of(event), b"\n".to_vec()].concat())
        .collect();
    let written = fs::read(&written).unwrap();
    assert!(lines == written, "{} and {} bytes", lines.len(), written.len());
    println!("{sent} odd messages, {records} records, {} bytes", written.len());
}

/// Whether the count stays for a moment.
fn settled(crossing: &Crossing, records: u64) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        if received(&crossing.pair.high.status()) != records {
            return false;
        }
    }
    true
}

#[test]
fn rsyslog_comes_in_over_relp_inside_tls_and_its_subject_is_kept() {
    let crossing = Crossing::new("relp-tls");
    let authority = Authority::new(&crossing.sandbox.dir("ca"));
    let (front, relp) = (free_address(), free_address());
    let keys = tls_keys(&authority.server("penstock"), &authority);
    let agents = start(&crossing, &listener("relp", "relp", relp, &keys));
    let client = authority.client("edge-rsyslog");
    let tls = format!(
        "tls=\"on\" tls.caCert=\"{}\" tls.myCert=\"{}\" tls.myPrivKey=\"{}\" \
         tls.authMode=\"name\" tls.permittedPeer=[\"localhost\"]",
        authority.ca().display(),
        client.cert.display(),
        client.key.display()
    );
    let _rsyslog = into_relp(&crossing.sandbox.dir("rsyslog"), front, relp, &tls).start();
    send(&Plan::new(Target::Tcp(front), 500)).unwrap();
    let arrived = finish(&crossing, agents, 500);
    assert!(arrived.ids.iter().copied().eq(1..=500), "each once and in order");
    for event in arrived.events.values() {
        let subject = event["tls-subject"].as_str().unwrap_or_default();
        assert!(subject.contains("CN=edge-rsyslog"), "{event}");
    }
}

#[test]
fn the_agent_killed_and_started_again_loses_nothing_that_rsyslog_took() {
    let crossing = Crossing::new("relp-killed");
    let (front, relp) = (free_address(), free_address());
    configure(&crossing, &listener("relp", "relp", relp, ""));
    let high = &crossing.pair.high;
    let mut agent = high.start();
    let _rsyslog = into_relp(&crossing.sandbox.dir("rsyslog"), front, relp, "").start();
    let plan = Plan { rate: Some(3000), ..Plan::new(Target::Tcp(front), MESSAGES) };
    let agent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&plan).unwrap());
        for kill in 1..=KILLS {
            wait_until(LONG, "the moment to kill", || {
                received(&high.status()) >= MESSAGES * kill / (KILLS + 2)
            });
            agent.kill();
            agent = high.start();
        }
        sender.join().unwrap();
        agent
    });
    let arrived = wait_arrived(&crossing, 1..=MESSAGES);
    assert!(agent.stop(PATIENCE).success());
    assert_eq!(high.status()["adds-up"], true);
    assert_no_unlisted_errors(&high.log_path(), &[]);
    println!("{} records of {MESSAGES} messages", arrived.len());
    // Only what was under way at a kill comes twice: a window and what rsyslog had in its batch.
    assert!((arrived.len() as u64) < MESSAGES + KILLS * REPEATED_MAX, "{}", arrived.len());
}

#[test]
fn rsyslog_killed_and_started_again_sends_all_that_it_has_taken() {
    let crossing = Crossing::new("relp-rsyslog-killed");
    let relp = free_address();
    configure(&crossing, &listener("relp", "relp", relp, ""));
    let high = &crossing.pair.high;
    let agent = high.start();
    let lines = crossing.sandbox.join("audit.log");
    fs::write(&lines, "").unwrap();
    // Every line is in rsyslog's queue on disk before rsyslog notes that it has read it.
    let rsyslog = Rsyslog::new(&crossing.sandbox.dir("rsyslog"))
        .with(
            "main_queue(queue.type=\"Disk\" queue.filename=\"main\" queue.checkpointInterval=\"1\" \
             queue.syncQueueFiles=\"on\" queue.saveOnShutdown=\"on\")",
        )
        .with(&format!(
            "module(load=\"imfile\")\n\
             input(type=\"imfile\" file=\"{}\" tag=\"audit\" persistStateInterval=\"1\")",
            lines.display()
        ))
        .forward_relp(relp, "RSYSLOG_SyslogProtocol23Format", "");
    let mut running = rsyslog.start();
    let mut text = Vec::new();
    let pool = Pool::new(tests::load::Framing::Lf, None);
    for id in 1..=FEW {
        pool.append(id, &mut text);
    }
    fs::write(&lines, text).unwrap();
    for kill in 1..=KILLS {
        wait_until(LONG, "the moment to kill", || {
            received(&high.status()) >= FEW * kill / (KILLS + 2)
        });
        running.kill();
        running = rsyslog.start();
    }
    let arrived = wait_arrived(&crossing, 1..=FEW);
    assert!(running.stop(PATIENCE).success());
    assert!(agent.stop(PATIENCE).success());
    assert_no_unlisted_errors(&high.log_path(), &[]);
    println!("{} records of {FEW} messages", arrived.len());
}

/// Messages of a run, and of one through a queue that is synced for each.
const MESSAGES: u64 = 12_000;
const FEW: u64 = 3000;
const KILLS: u64 = 3;
/// What may be under way at once: librelp's window of 128, twice over.
const REPEATED_MAX: u64 = 256;
/// Other tests use the machine, too.
const LONG: Duration = Duration::from_mins(3);
