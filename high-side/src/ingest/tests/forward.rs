//! The Forward protocol: every mode, acknowledged when all of a chunk is durable; and hostile clients.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha512};

use super::*;

fn text(text: &str) -> Vec<u8> {
    let mut out = vec![0xda];
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
    out
}

fn bin(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0xc6];
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
    out
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0xdd];
    out.extend((items.len() as u32).to_be_bytes());
    out.extend(items.concat());
    out
}

fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0x80 | pairs.len() as u8];
    for (key, value) in pairs {
        out.extend(text(key));
        out.extend(value);
    }
    out
}

fn time() -> Vec<u8> {
    b"\xd7\x00\x00\x00\x00\x05\x00\x00\x00\x07".to_vec()
}

fn line(line: &str) -> Vec<u8> {
    array(&[time(), map(&[("log", text(line))])])
}

fn chunk(id: &str) -> Vec<u8> {
    map(&[("size", vec![1]), ("chunk", text(id))])
}

fn compressed(id: &str) -> Vec<u8> {
    map(&[("compressed", text("gzip")), ("chunk", text(id))])
}

fn packed(entries: &[Vec<u8>], option: Vec<u8>) -> Vec<u8> {
    array(&[text("app"), bin(&entries.concat()), option])
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn ack(id: &str) -> Vec<u8> {
    let mut out = b"\x81\xa3ack".to_vec();
    out.push(0xa0 | id.len() as u8);
    out.extend(id.as_bytes());
    out
}

fn settings() -> ForwardSettings {
    ForwardSettings { tls: None, shared_key: None, users: None, chunk_bytes_max: 1 << 20 }
}

fn start() -> Rig {
    start_with(settings(), &Options::default())
}

fn start_with(settings: ForwardSettings, options: &Options) -> Rig {
    Rig::start(Protocol::FluentForward(settings), options)
}

fn connect(rig: &Rig) -> TcpStream {
    let stream = rig.connect();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

fn hears_nothing(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(stream.read(&mut [0]).map_err(|err| err.kind()), Err(ErrorKind::WouldBlock));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// Waits until the other side has ended the connection, having said no more.
fn ended(stream: &mut TcpStream) {
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(err) if err.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_mode_is_taken_and_acknowledged_in_order() {
    let mut rig = start();
    let mut client = connect(&rig);
    let two = gzip(&[line("f"), line("g")].concat());
    let messages = [
        b"\xc0".to_vec(),
        array(&[text("app"), time(), map(&[("log", text("a"))])]),
        array(&[text("app"), vec![5], map(&[("k", text("b"))]), chunk("1")]),
        array(&[text("app"), array(&[line("c"), line("d")]), chunk("2")]),
        array(&[text("app"), array(&[])]),
        packed(&[line("e")], chunk("3")),
        array(&[text("other"), bin(&[&two[..], &gzip(&line("h"))].concat()), compressed("4")]),
        packed(&[], chunk("5")),
    ];
    client.write_all(&messages.concat()).unwrap();
    let got = rig.take(8);
    hears_nothing(&mut client);
    let expected = [
        "a",
        "{\"date\":\"1970-01-01T00:00:05.000000000Z\",\"k\":\"b\"}",
        "c",
        "d",
        "e",
        "f",
        "g",
        "h",
    ];
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(String::from_utf8_lossy(&got.raw), expected);
        let tag = if "fgh".contains(expected) { " tag=other" } else { " tag=app" };
        assert!(got.source.ends_with(tag), "{}", got.source);
    }
    rig.commit();
    expect(&mut client, &["1", "2", "3", "4", "5"].map(ack).concat());
    drop(client);
    assert!(rig.stop().is_empty());
}

#[test]
fn the_same_comes_out_however_it_is_cut_into_packets() {
    let mut rig = start();
    let payload = gzip(&[line("three"), line("four")].concat());
    let stream = [
        packed(&[line("one"), line("two")], chunk("a")),
        array(&[text("app"), bin(&payload), compressed("b")]),
        array(&[text("app"), time(), map(&[("log", text("five"))]), chunk("c")]),
    ]
    .concat();
    let mut client = connect(&rig);
    client.set_nodelay(true).unwrap();
    for byte in &stream {
        client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(rig.take_raw(5), [&b"one"[..], b"two", b"three", b"four", b"five"]);
    rig.commit();
    expect(&mut client, &["a", "b", "c"].map(ack).concat());
}

#[test]
fn a_chunk_of_many_batches_is_acknowledged_after_the_last() {
    let mut rig = start_with(
        ForwardSettings { chunk_bytes_max: 32 << 20, ..settings() },
        &Options { in_flight_bytes: 1 << 20, ..Options::default() },
    );
    let entries: Vec<_> = (0..12_000).map(|n| line(&format!("{n:0100}"))).collect();
    for message in [
        packed(&entries, chunk("big")),
        array(&[text("app"), bin(&gzip(&entries.concat())), compressed("big")]),
    ] {
        let mut client = connect(&rig);
        let mut writer = client.try_clone().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(&message).unwrap());
        let mut seen = 0;
        while seen < entries.len() {
            let mut got = Vec::new();
            rig.drain_while(&mut got, |got, _| got.is_empty());
            for (at, got) in got.iter().enumerate() {
                assert_eq!(got.raw, format!("{:0100}", seen + at).into_bytes());
            }
            seen += got.len();
            if seen < entries.len() {
                rig.commit();
            }
        }
        sender.join().unwrap();
        hears_nothing(&mut client);
        rig.commit();
        expect(&mut client, &ack("big"));
    }
}

#[test]
fn hostile_messages_end_their_connection_and_are_counted() {
    let bomb = gzip(&[&b"\xdb\x7f\xff\xff\xff"[..], &vec![0; 8 << 20]].concat());
    let truncated = gzip(&line("x").repeat(50));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no array", b"\x05".to_vec()),
        ("a reserved byte", b"\xc1".to_vec()),
        ("JSON", b"[\"tag\",5,{}]".to_vec()),
        ("too few elements", b"\x91\xa1t".to_vec()),
        ("too many elements", b"\x95\xa1t".to_vec()),
        ("a giant message", b"\xdd\xff\xff\xff\xff".to_vec()),
        ("a tag that is none", b"\x93\x05".to_vec()),
        ("a giant tag", b"\x93\xdb\xff\xff\xff\xff".to_vec()),
        ("a map of entries", b"\x92\xa1t\xdf\xff\xff\xff\xff".to_vec()),
        ("a giant payload", b"\x93\xa1t\xc6\xff\xff\xff\xff".to_vec()),
        ("deep nesting", [&b"\x93\xa1t\x92"[..], &[0x91; 100]].concat()),
        ("a torn entry", packed(&[line("x")[..20].to_vec()], chunk("1"))),
        ("options that are none", array(&[text("t"), array(&[]), vec![7]])),
        ("giant options", [&b"\x93\xa1t\x90\xdf\xff\xff\xff\xff"[..], &[0; 5000]].concat()),
        (
            "another compression",
            array(&[text("t"), bin(&[]), map(&[("compressed", text("zstd"))])]),
        ),
        ("a gzip bomb", array(&[text("t"), bin(&bomb), compressed("1")])),
        (
            "a torn gzip",
            array(&[text("t"), bin(&truncated[..truncated.len() - 3]), compressed("1")]),
        ),
        ("no gzip", array(&[text("t"), bin(b"\x1f\x8bxxxxxxxxxxxxxxxx"), compressed("1")])),
    ];
    let rig = start();
    for (at, (name, bytes)) in cases.iter().enumerate() {
        let mut client = connect(&rig);
        // It may be closed while it still writes.
        let _ = client.write_all(bytes);
        let counted = |now: &IngestSnapshot| now.protocol_errors == at as u64 + 1;
        let deadline = Instant::now() + PATIENCE;
        while !counted(&rig.listener.counters.snapshot()) {
            assert!(Instant::now() < deadline, "{name} was not refused");
            while let Ok(request) = rig.receiver.recv(Some(Duration::from_millis(1))) {
                drop(request);
            }
        }
        ended(&mut client);
    }
    rig.wait_for(|now| now.connections_open == 0);
}

#[test]
fn a_giant_array_that_does_not_come_costs_nothing() {
    let limits = Limits { message_timeout: Duration::from_millis(50), ..Limits::default() };
    let rig = start_with(settings(), &Options { limits, ..Options::default() });
    for start in [
        &b"\x92\xa1t\xdd\xff\xff\xff\xff"[..],
        b"\x92\xa1t\xdd\xff\xff\xff\xff\x92\x05\xdf\xff\xff\xff\xff",
    ] {
        let mut client = connect(&rig);
        client.write_all(start).unwrap();
        ended(&mut client);
    }
    assert_eq!(rig.wait_for(|now| now.connections_open == 0).slow_closes, 2);
}

#[test]
fn an_entry_that_is_too_long_is_cut_and_its_neighbours_stay_whole() {
    let limits = Limits { message_bytes_max: 1000, ..Limits::default() };
    let mut rig = start_with(settings(), &Options { limits, ..Options::default() });
    let long = "x".repeat(60_000);
    let json = array(&[time(), map(&[("a", text(&long)), ("b", vec![1])])]);
    let entries = [line("before"), line(&long), json, line("after")];
    for message in [
        packed(&entries, chunk("1")),
        array(&[text("app"), array(&entries), chunk("1")]),
        array(&[text("app"), bin(&gzip(&entries.concat())), compressed("1")]),
    ] {
        let mut client = connect(&rig);
        client.write_all(&message).unwrap();
        let got = rig.take(4);
        assert_eq!((&*got[0].raw, got[0].cut_from), (&b"before"[..], None));
        assert_eq!((got[1].raw.len(), got[1].cut_from), (1000, Some(60_000)));
        assert_eq!(got[2].raw.len(), 1000);
        assert!(got[2].cut_from.is_some_and(|length| length > 1000));
        assert_eq!((&*got[3].raw, got[3].cut_from), (&b"after"[..], None));
        rig.commit();
        expect(&mut client, &ack("1"));
    }
}

#[test]
fn little_memory_is_shared_and_nobody_waits_for_ever() {
    let options = Options { read_memory_bytes: 1 << 20, ..Options::default() };
    let mut rig = start_with(settings(), &options);
    let entries: Vec<_> = (0..500).map(|_| line(&"y".repeat(1000))).collect();
    let message = array(&[text("app"), bin(&gzip(&entries.concat())), compressed("1")]);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = connect(&rig);
            let message = message.clone();
            std::thread::spawn(move || {
                for _ in 0..3 {
                    client.write_all(&message).unwrap();
                    expect(&mut client, &ack("1"));
                }
            })
        })
        .collect();
    let mut left = 8 * 3 * entries.len();
    while left > 0 {
        let mut got = Vec::new();
        rig.drain_while(&mut got, |got, _| got.is_empty());
        left -= got.len();
        rig.commit();
    }
    for client in clients {
        client.join().unwrap();
    }
}

/// A listener that asks for a key, and for names if `users` has some.
fn guarded(users: &str) -> (tempfile::TempDir, Rig) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| -> PathBuf {
        let path = dir.path().join(name);
        shared::durable::write(&path, content.as_bytes(), 0o600).unwrap();
        path
    };
    let shared_key = Some(file("key", "the key\n"));
    let users = (!users.is_empty()).then(|| file("users", users));
    let rig = start_with(ForwardSettings { shared_key, users, ..settings() }, &Options::default());
    (dir, rig)
}

fn sha512(parts: &[&[u8]]) -> String {
    let mut out = String::new();
    for byte in Sha512::digest(parts.concat()) {
        write!(out, "{byte:02x}").unwrap();
    }
    out
}

/// Nonce and salt of a HELO.
fn helo(stream: &mut TcpStream, users: bool) -> (String, String) {
    let mut read = |bytes: &[u8], length: usize| {
        expect(stream, bytes);
        let mut value = vec![0; length];
        stream.read_exact(&mut value).unwrap();
        String::from_utf8(value).unwrap()
    };
    let nonce = read(b"\x92\xa4HELO\x83\xa5nonce\xd9\x20", 32);
    let auth = if users { read(b"\xa4auth\xd9\x20", 32) } else { read(b"\xa4auth\xa0", 0) };
    expect(stream, b"\xa9keepalive\xc3");
    (nonce, auth)
}

fn ping(nonce: &str, key: &str, auth: &str, user: &str, password: &str) -> Vec<u8> {
    let proof = sha512(&[b"salt", b"client", nonce.as_bytes(), key.as_bytes()]);
    let word = sha512(&[auth.as_bytes(), user.as_bytes(), password.as_bytes()]);
    array(&[text("PING"), text("client"), text("salt"), text(&proof), text(user), text(&word)])
}

fn pong(stream: &mut TcpStream, nonce: &str) {
    let proof = sha512(&[b"salt", b"penstock-test", nonce.as_bytes(), b"the key"]);
    let mut expected = b"\x95\xa4PONG\xc3\xa0\xadpenstock-test\xd9\x80".to_vec();
    expected.extend(proof.as_bytes());
    expect(stream, &expected);
}

fn refused(stream: &mut TcpStream, reason: &str) {
    let mut expected = b"\x95\xa4PONG\xc2".to_vec();
    expected.push(0xa0 | reason.len() as u8);
    expected.extend(reason.as_bytes());
    expected.extend(b"\xadpenstock-test\xa0");
    expect(stream, &expected);
    ended(stream);
}

#[test]
fn who_knows_the_key_is_let_in_and_nobody_else() {
    let (_dir, mut rig) = guarded("");
    let mut client = connect(&rig);
    let (nonce, _) = helo(&mut client, false);
    let good = ping(&nonce, "the key", "", "", "");
    // The first chunk may come right behind the PING.
    client.write_all(&[&good[..], &packed(&[line("in")], chunk("1"))].concat()).unwrap();
    pong(&mut client, &nonce);
    assert_eq!(rig.take_raw(1), [b"in"]);
    rig.commit();
    expect(&mut client, &ack("1"));

    let mut replayed = connect(&rig);
    let (other, _) = helo(&mut replayed, false);
    assert_ne!(nonce, other);
    replayed.write_all(&good).unwrap();
    refused(&mut replayed, "shared key mismatch");

    let mut wrong = connect(&rig);
    let (nonce, _) = helo(&mut wrong, false);
    let chunk = packed(&[line("out")], chunk("1"));
    wrong.write_all(&[ping(&nonce, "a key", "", "", ""), chunk.clone()].concat()).unwrap();
    refused(&mut wrong, "shared key mismatch");

    let mut rude = connect(&rig);
    helo(&mut rude, false);
    rude.write_all(&chunk).unwrap();
    ended(&mut rude);
    let counters = rig.wait_for(|now| now.connections_open == 1);
    assert_eq!((counters.authentication_failures, counters.protocol_errors), (2, 1));
    drop(client);
    assert!(rig.stop().is_empty());
}

#[test]
fn names_and_passwords_are_asked_for_where_there_are_some() {
    let (_dir, mut rig) = guarded("alice:secret\n");
    let mut client = connect(&rig);
    let (nonce, auth) = helo(&mut client, true);
    client.write_all(&ping(&nonce, "the key", &auth, "alice", "secret")).unwrap();
    pong(&mut client, &nonce);
    client.write_all(&packed(&[line("in")], chunk("1"))).unwrap();
    assert_eq!(rig.take_raw(1), [b"in"]);
    for (user, password) in [("alice", "wrong"), ("bob", "secret"), ("", "")] {
        let mut client = connect(&rig);
        let (nonce, auth) = helo(&mut client, true);
        client.write_all(&ping(&nonce, "the key", &auth, user, password)).unwrap();
        refused(&mut client, "username/password mismatch");
    }
    rig.wait_for(|now| now.authentication_failures == 3);
}

#[test]
fn a_stopping_agent_finishes_the_chunk_and_answers_it() {
    let mut rig = start();
    let mut client = connect(&rig);
    client.write_all(&packed(&[line("last")], chunk("1"))).unwrap();
    assert_eq!(rig.take_raw(1), [b"last"]);
    rig.stop.send(true).unwrap();
    rig.commit();
    expect(&mut client, &ack("1"));
    ended(&mut client);
    drop(client);
    assert!(rig.stop().is_empty());
}

#[test]
fn a_chunk_that_breaks_off_is_not_acknowledged() {
    let mut rig = start();
    let mut client = connect(&rig);
    let whole = packed(&[line("kept"), line("torn")], chunk("1"));
    client.write_all(&whole[..whole.len() - 25]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    rig.drain_while(&mut got, |got, _| got.is_empty());
    assert_eq!(got[0].raw, b"kept");
    rig.commit();
    ended(&mut client);
}
