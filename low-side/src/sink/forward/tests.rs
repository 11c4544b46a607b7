use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha512};
use shared::record::{Epoch, Lane, Sequence, SourceTag, Stream, encode, parse};

use super::*;
use crate::ledger::ChainName;
use crate::sink::config::Endpoint;
use crate::testing::{START, Site};

/// A strict receiver for one connection.
#[derive(Clone, Copy)]
struct Manners {
    /// Hangs up instead of answering for more chunks than so many.
    answers_max: usize,
    /// What it answers with, where that is not what it was asked.
    says: &'static [u8],
    /// The key that it has.
    key: &'static str,
}

const GOOD: Manners = Manners { answers_max: usize::MAX, says: b"", key: "" };

/// A record as it arrived: tag, second, sequence.
type Arrived = (String, u32, u64);

fn value(stream: &mut TcpStream, data: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(length) = msgpack::end_of(data).unwrap() {
            return Some(data.drain(..length).collect());
        }
        let mut buffer = [0; 5000];
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => data.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

fn digest(parts: &[&str]) -> String {
    handshake::hex(&Sha512::digest(parts.concat()))
}

fn greet(stream: &mut TcpStream, data: &mut Vec<u8>, key: &str) -> bool {
    let mut helo = vec![0x92, 0xa4];
    helo.extend_from_slice(b"HELO\x83\xa5nonce\xc4\x03abc\xa4auth\xa3xyz\xa9keepalive\xc3");
    stream.write_all(&helo).unwrap();
    let Some(ping) = value(stream, data) else { return false };
    assert_eq!(ping[0], 0x96);
    let mut at = 1;
    let mut next = || text(&ping, &mut at).unwrap().to_owned();
    let [ping, host, salt, proof, user, password] = [(); 6].map(|()| next());
    assert_eq!((ping.as_str(), host.as_str(), salt.len()), ("PING", "penstock-low", 32));
    assert_eq!((user.as_str(), password), ("alice", digest(&["xyz", "alice", "secret"])));
    let known = proof == digest(&[&salt, &host, "abc", "the key"]);
    let mut answer = vec![0x95];
    push_text(&mut answer, "PONG");
    // One that does not know the key would say yes to everybody.
    answer.push(if known || key != "the key" { 0xc3 } else { 0xc2 });
    push_text(&mut answer, if known { "" } else { "shared key mismatch" });
    push_text(&mut answer, "fluentd");
    push_text(&mut answer, &digest(&[&salt, "fluentd", "abc", key]));
    stream.write_all(&answer).unwrap();
    true
}

fn serve(listener: &TcpListener, manners: Manners) -> Vec<Arrived> {
    let (mut stream, _) = listener.accept().unwrap();
    let (mut data, mut arrived, mut answers) = (Vec::new(), Vec::new(), 0);
    if !manners.key.is_empty() && !greet(&mut stream, &mut data, manners.key) {
        return arrived;
    }
    while let Some(message) = value(&mut stream, &mut data) {
        if answers == manners.answers_max {
            return arrived;
        }
        answers += 1;
        let (chunk, records) = unpack(&message);
        arrived.extend(records);
        let mut answer = vec![0x81];
        push_text(&mut answer, "ack");
        push_text(&mut answer, &chunk);
        let answer = if manners.says.is_empty() { answer.as_slice() } else { manners.says };
        let _ = stream.write_all(answer);
    }
    arrived
}

fn unpack(message: &[u8]) -> (String, Vec<Arrived>) {
    assert_eq!(message[0], 0x93);
    let mut at = 1;
    let tag = text(message, &mut at).unwrap().to_owned();
    let Ok(Some((Head::Bin(length), begin))) = head(&message[at..]) else { panic!() };
    at += begin;
    let packed = &message[at..at + length as usize];
    at += length as usize;
    let Ok(Some((Head::Map(pairs), begin))) = head(&message[at..]) else { panic!() };
    at += begin;
    let (mut chunk, mut size, mut compressed) = (String::new(), 0, false);
    for _ in 0..pairs {
        match text(message, &mut at).unwrap() {
            "chunk" => text(message, &mut at).unwrap().clone_into(&mut chunk),
            "compressed" => compressed = text(message, &mut at) == Some("gzip"),
            "size" => {
                let Ok(Some((Head::Unsigned(count), length))) = head(&message[at..]) else {
                    panic!()
                };
                (size, at) = (count, at + length);
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!((at, chunk.len()), (message.len(), 24), "{chunk}");
    let mut entries = Vec::new();
    if compressed {
        // ok: our own bytes, in a test.
        flate2::read::GzDecoder::new(packed).read_to_end(&mut entries).unwrap();
    } else {
        entries.extend_from_slice(packed);
    }
    let mut records = Vec::new();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let end = msgpack::end_of(rest).unwrap().unwrap();
        assert_eq!(&rest[..3], [0x92, 0xd7, 0]);
        let second = u32::from_be_bytes(rest[3..7].try_into().unwrap());
        let record = &rest[11..end];
        let key = b"\xa8sequence";
        let found = record.windows(key.len()).position(|part| part == key).unwrap();
        let Ok(Some((Head::Unsigned(sequence), _))) = head(&record[found + key.len()..]) else {
            panic!()
        };
        records.push((tag.clone(), second, sequence));
        rest = &rest[end..];
    }
    assert_eq!(records.len() as u64, size);
    (chunk, records)
}

struct Client {
    sink: ForwardSink,
    site: Site,
}

impl Client {
    fn new(listener: &TcpListener, gzip: bool, key: Option<&str>) -> Self {
        let site = Site::new();
        let secret = |name: &str, text: &str| {
            let path = site.dir.path().join(name);
            shared::durable::write(&path, text.as_bytes(), 0o600).unwrap();
            path
        };
        let config = ForwardConfig {
            endpoint: Endpoint {
                address: listener.local_addr().unwrap().to_string(),
                tls: None,
                connect_timeout: Duration::from_secs(5),
                timeout: Duration::from_secs(5),
            },
            tag: "audit.{stream}".to_owned(),
            chunk_bytes: 4096,
            gzip,
            shared_key_file: key.map(|key| secret("key", key)),
            user: key.map(|_| ("alice".to_owned(), secret("password", "secret\n"))),
            hostname: "penstock-low".to_owned(),
        };
        Self { sink: ForwardSink::new(config, Bell::default()), site }
    }

    fn deliver(&mut self, first: u64, last: u64) -> Result<(), String> {
        let origin = "plant-7".parse().unwrap();
        let chain = ChainName { origin, epoch: Epoch(1), lane: Lane::Routine };
        let mut ledger = self.site.ledger();
        let mut run = || -> Result<(), SinkError> {
            self.sink.begin(&mut ledger)?;
            for sequence in first..=last {
                let raw = format!("a message {sequence}");
                let source = SourceTag::new("udp", "p", None);
                let stream = if sequence % 3 == 0 { Stream::Falco } else { Stream::Other };
                let mut bytes = Vec::new();
                let number = Sequence(sequence);
                encode(&mut bytes, number, START, stream, &source, None, raw.as_bytes());
                let record = parse(&bytes, 1 << 20).unwrap().0;
                self.sink.write(Item { chain: &chain, bundle: 1, record: &record })?;
            }
            assert_eq!(self.sink.confirm()?, Confirmed::default());
            self.sink.committed(&mut ledger)
        };
        run().map_err(|error| {
            self.sink.reset(&error);
            crate::replay::chain_text(&error)
        })
    }
}

fn numbers(arrived: &[Arrived]) -> Vec<u64> {
    let second = u32::try_from(START.as_secs()).unwrap();
    for (tag, time, number) in arrived {
        let stream = if number % 3 == 0 { "audit.falco" } else { "audit.other" };
        assert_eq!((tag.as_str(), *time), (stream, second), "{number}");
    }
    let mut numbers: Vec<u64> = arrived.iter().map(|(_, _, number)| *number).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn every_record_stands_in_a_chunk_of_its_tag_that_is_answered_for() {
    for gzip in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Client::new(&listener, gzip, None);
        let serving = thread::spawn(move || serve(&listener, GOOD));
        client.deliver(1, 100).unwrap();
        client.deliver(101, 103).unwrap();
        drop(client);
        assert_eq!(numbers(&serving.join().unwrap()), (1..=103).collect::<Vec<_>>());
    }
}

#[test]
fn after_a_break_only_what_was_not_answered_for_goes_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Client::new(&listener, false, None);
    let serving = thread::spawn(move || {
        let short = Manners { answers_max: 6, ..GOOD };
        [serve(&listener, short), serve(&listener, GOOD)]
    });
    client.deliver(1, 100).unwrap_err();
    client.deliver(1, 100).unwrap();
    drop(client);
    let [first, second] = serving.join().unwrap();
    assert_eq!(numbers(&[first.clone(), second.clone()].concat()).first(), Some(&1));
    let mut all = numbers(&[first, second].concat());
    let sent = all.len();
    all.dedup();
    assert_eq!(all, (1..=100).collect::<Vec<_>>());
    // What stood in an answered chunk behind a record of an unanswered one is repeated, and no more.
    assert!(sent < 140, "{sent}");
}

#[test]
fn a_shared_key_is_proved_by_both_sides() {
    for (ours, theirs, named) in [
        ("the key", "the key", None),
        ("another", "the key", Some("shared key mismatch")),
        ("the key", "another", Some("does not know the shared key")),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Client::new(&listener, true, Some(ours));
        let serving = thread::spawn(move || serve(&listener, Manners { key: theirs, ..GOOD }));
        let done = client.deliver(1, 10);
        drop(client);
        let arrived = serving.join().unwrap();
        match named {
            None => assert_eq!((done, arrived.len()), (Ok(()), 10)),
            Some(named) => {
                let error = done.unwrap_err();
                assert!(error.contains(named), "{error}");
                assert!(arrived.is_empty());
            }
        }
    }
}

#[test]
fn who_speaks_something_else_is_named() {
    let helo = b"\x92\xa4HELO\x80";
    for (says, key, named) in [
        (&b"\x81\xa3ack\xa3xyz"[..], None, "not asked"),
        (b"\x81\xa3nak\xa3xyz", None, "not asked"),
        (b"\xc1", None, "0xc1 begins no value"),
        (helo, None, "set shared-key-file"),
        (&[0xda; 5000], None, "an answer is too long"),
        (b"HTTP/1.1 400", Some("k"), "sent no HELO"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Client::new(&listener, false, key);
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            if key.is_none() {
                let mut some = [0; 10];
                stream.read_exact(&mut some).unwrap();
            }
            stream.write_all(says).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = client.deliver(1, 1).unwrap_err();
        drop(client);
        serving.join().unwrap();
        assert!(error.contains(named), "{error}");
    }
}
