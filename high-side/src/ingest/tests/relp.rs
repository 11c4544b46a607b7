//! RELP: acknowledged when it is durable, in order, and not before.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use super::*;

/// The client's side of a session, after the specification.
struct Client {
    stream: BufReader<TcpStream>,
    txnr: u32,
}

impl Client {
    fn connect(rig: &Rig) -> Self {
        let stream = rig.connect();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream), txnr: 0 }
    }

    fn open(rig: &Rig) -> Self {
        let mut client = Self::connect(rig);
        client.send("open", b"relp_version=0\nrelp_software=librelp,1.11.0,http://librelp.adiscon.com\ncommands=syslog");
        let (txnr, command, data) = client.frame().unwrap();
        assert_eq!((txnr, &*command), (1, "rsp"));
        assert!(data.starts_with(b"200 OK\nrelp_version=0\n"), "{data:?}");
        client
    }

    fn send(&mut self, command: &str, data: &[u8]) -> u32 {
        self.txnr += 1;
        let mut out = format!("{} {command} {}", self.txnr, data.len()).into_bytes();
        if !data.is_empty() {
            out.push(b' ');
        }
        out.extend_from_slice(data);
        out.push(b'\n');
        self.raw(&out);
        self.txnr
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// The next frame, or `None` at the end of the connection.
    fn frame(&mut self) -> Option<(u32, String, Vec<u8>)> {
        let mut fields = Vec::new();
        for _ in 0..3 {
            let mut field = Vec::new();
            let last = fields.len() == 2;
            loop {
                let Ok([byte]) =
                    self.stream.fill_buf().map(|data| data.first().map_or([0], |byte| [*byte]))
                else {
                    return None;
                };
                if byte == 0 {
                    return None;
                }
                if byte == b'\n' && last {
                    break;
                }
                self.stream.consume(1);
                if byte == b' ' {
                    break;
                }
                field.push(byte);
            }
            fields.push(String::from_utf8(field).unwrap());
        }
        let mut data = vec![0; fields[2].parse().unwrap()];
        self.stream.read_exact(&mut data).unwrap();
        let mut end = [0];
        self.stream.read_exact(&mut end).unwrap();
        assert_eq!(&end, b"\n");
        Some((fields[0].parse().unwrap(), fields[1].clone(), data))
    }

    fn acknowledged(&mut self, txnr: u32) {
        let frame = self.frame();
        assert_eq!(frame, Some((txnr, "rsp".to_owned(), b"200 OK".to_vec())));
    }

    /// Nothing is said, now and for a moment.
    fn hears_nothing(&mut self) {
        self.stream.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let kind = self.stream.fill_buf().map(<[u8]>::len).map_err(|err| err.kind());
        assert_eq!(kind, Err(ErrorKind::WouldBlock));
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

fn start() -> Rig {
    Rig::start(Protocol::Relp(None), &Options::default())
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    let mut rig = start();
    let mut client = Client::open(&rig);
    for text in [&b"<13>one"[..], b"<13>t\nw\0o\n", b""] {
        client.send("syslog", text);
    }
    assert_eq!(rig.take_raw(2), [&b"<13>one"[..], b"<13>t\nw\0o\n"]);
    client.hears_nothing();
    // What comes after it is read on meanwhile.
    client.send("syslog", b"three");
    assert_eq!(rig.take_raw(1), [b"three"]);
    client.hears_nothing();
    rig.commit();
    for txnr in 2..=5 {
        client.acknowledged(txnr);
    }
    client.send("close", b"");
    assert_eq!(client.frame(), Some((6, "rsp".to_owned(), Vec::new())));
    assert_eq!(client.frame(), None);
    let counters = rig.wait_for(|now| now.connections_open == 0);
    assert_eq!((counters.messages, counters.empty_frames, counters.protocol_errors), (3, 1, 0));
    assert!(rig.stop().is_empty());
}

#[test]
fn what_is_never_durable_is_never_acknowledged() {
    let mut rig = start();
    let mut client = Client::open(&rig);
    client.send("syslog", b"lost");
    rig.take(1);
    rig.waiting.clear();
    assert_eq!(client.frame(), None);
}

#[test]
fn a_message_that_is_too_long_is_cut_and_acknowledged() {
    let mut rig = Rig::start(
        Protocol::Relp(None),
        &Options {
            limits: Limits { message_bytes_max: 1000, ..Limits::default() },
            ..Options::default()
        },
    );
    let mut client = Client::open(&rig);
    client.send("syslog", &vec![b'a'; 100_000]);
    client.send("syslog", &vec![b'b'; 1000]);
    let got = rig.take(2);
    assert_eq!(got[0].raw, vec![b'a'; 1000]);
    assert_eq!((got[0].cut_from, got[1].cut_from), (Some(100_000), None));
    assert_eq!(got[1].raw, vec![b'b'; 1000]);
    rig.commit();
    client.acknowledged(2);
    client.acknowledged(3);
    assert_eq!(rig.wait_for(|now| now.messages == 2).truncated, 1);
}

#[test]
fn who_breaks_the_rules_is_told_and_closed() {
    let cases: &[(&[u8], u32)] = &[
        (b"2 syslog 3 abcd\n", 0),
        (b"7 syslog 3 abc\n", 0),
        (b"GET / HTTP/1.1\r\n\r\n", 0),
        (b"2 open 1 a\n", 2),
        (b"2 starttls 0\n", 2),
        (b"0 syslog 1 a\n", 0),
        (b"2 syslog 999999999999 a", 0),
    ];
    let rig = start();
    for (at, (bytes, txnr)) in cases.iter().enumerate() {
        let mut client = Client::open(&rig);
        client.raw(bytes);
        let (number, command, data) = client.frame().unwrap();
        assert_eq!((number, &*command), (*txnr, "rsp"), "{bytes:?}");
        assert!(data.starts_with(b"500 "), "{data:?}");
        assert_eq!(client.frame(), None);
        drop(client);
        rig.wait_for(|now| now.protocol_errors == at as u64 + 1 && now.connections_open == 0);
    }
    for offers in [&b"relp_version=1"[..], b"commands=syslog", b"relp_version=x\ncommands=syslog"] {
        let mut client = Client::connect(&rig);
        client.send("open", offers);
        assert!(client.frame().unwrap().2.starts_with(b"500 "));
        assert_eq!(client.frame(), None);
    }
    let mut client = Client::connect(&rig);
    client.send("syslog", b"before open");
    assert!(client.frame().unwrap().2.starts_with(b"500 "));
    assert!(rig.stop().is_empty(), "nothing of that is a record");
}

#[test]
fn what_is_right_before_a_mistake_is_kept_and_acknowledged() {
    let mut rig = start();
    let mut client = Client::open(&rig);
    client.raw(b"2 syslog 4 good\n3 syslog 3 bad!");
    assert_eq!(rig.take_raw(1), [b"good"]);
    rig.commit();
    client.acknowledged(2);
    assert!(client.frame().unwrap().2.starts_with(b"500 "));
}

#[test]
fn a_frame_that_breaks_off_is_no_record() {
    let rig = start();
    let mut client = Client::open(&rig);
    client.raw(b"2 syslog 10 <13>tor");
    drop(client);
    rig.wait_for(|now| now.connections_open == 0);
    assert!(rig.stop().is_empty(), "it comes again");
}

#[test]
fn who_says_nothing_or_too_little_does_not_stay() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(50),
        message_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let rig = Rig::start(Protocol::Relp(None), &Options { limits, ..Options::default() });
    let mut silent = Client::connect(&rig);
    assert_eq!(silent.frame(), None);
    let mut slow = Client::open(&rig);
    slow.raw(b"2 syslog 10 <13>");
    assert_eq!(slow.frame(), None);
    rig.wait_for(|now| now.slow_closes == 2 && now.connections_open == 0);
}

#[test]
fn a_stopping_agent_answers_what_is_durable_and_says_goodbye() {
    let mut rig = start();
    let mut client = Client::open(&rig);
    client.send("syslog", b"last");
    assert_eq!(rig.take_raw(1), [b"last"]);
    rig.stop.send(true).unwrap();
    rig.commit();
    client.acknowledged(2);
    assert_eq!(client.frame(), Some((0, "serverclose".to_owned(), Vec::new())));
    drop(client);
    assert!(rig.stop().is_empty());
}

#[test]
fn a_client_that_takes_no_answers_is_read_no_further() {
    let limits = Limits { message_timeout: Duration::from_millis(500), ..Limits::default() };
    let rig = Rig::start(
        Protocol::Relp(None),
        &Options { limits, in_flight_bytes: 64 << 10, ..Options::default() },
    );
    let mut client = Client::open(&rig);
    client.stream.get_ref().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    // Nothing is taken out of the intake: sooner or later nothing more is read.
    let frame = |txnr: u32| format!("{txnr} syslog 1000 {}\n", "x".repeat(1000)).into_bytes();
    let blocked =
        (2..100_000).find(|txnr| client.stream.get_mut().write_all(&frame(*txnr)).is_err());
    assert!(blocked.is_some(), "100 MB were read and nothing was durable");
}
