//! Syslog over TCP, TLS and RELP, to rsyslog, to syslog-ng and to stand-ins that misbehave.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::crossing::{Crossing, assert_sound, pending};
use tests::logs::assert_no_unlisted_errors;
use tests::oracle::{Oracle, find_id, ids_of, lines_of};
use tests::peers::{Authority, Certificate, Rsyslog, syslog_ng};
use tests::process::Process;
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 2_000;
/// Messages under way in a RELP session.
const WINDOW: usize = 100;

pub(crate) fn sink(name: &str, address: SocketAddr, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\ntype = \"syslog\"\naddress = \"{address}\"\n\
         retry-min = \"20ms\"\nretry-max = \"100ms\"\n{more}"
    )
}

pub(crate) fn relp() -> String {
    format!("transport = \"relp\"\nwindow = {WINDOW}\n")
}

pub(crate) fn tls_keys(ca: &Path, client: &Certificate) -> String {
    format!(
        "ca-file = \"{}\"\ncert-file = \"{}\"\nkey-file = \"{}\"\nserver-name = \"localhost\"\n",
        ca.display(),
        client.cert.display(),
        client.key.display()
    )
}

/// Both sides with these sinks beside the file; and the records are on the low side.
pub(crate) fn cross(
    name: &str,
    sinks: &str,
    records: u64,
    bundle_records: u64,
) -> (Crossing, Process, Oracle) {
    let crossing = Crossing::new(name);
    let high = [Crossing::seal_soon(bundle_records), crossing.listener(), crossing.handoff()];
    crossing.pair.high.configure(&high.concat());
    let low = format!("{}{}{sinks}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
    let high = crossing.pair.high.start();
    let mut oracle = Oracle::new();
    let ids = oracle.issue(records);
    crossing.send(ids.clone());
    oracle.taken(ids);
    crossing.wait_committed(records);
    (crossing, high, oracle)
}

/// Waits until the receiver has all and the low side knows it.
pub(crate) fn wait_all(crossing: &Crossing, out: &Path, records: u64) {
    assert_eq!(crossing.wait_drained(), records);
    wait_until(PATIENCE, "the receiver to have all", || {
        let mut ids = ids_of(out);
        ids.sort_unstable();
        ids.dedup();
        ids.len() as u64 >= records
    });
    assert_eq!(pending(&crossing.pair.low.status()), 0);
}

#[test]
fn rsyslog_takes_every_record_once_by_relp_and_by_relp_over_mutual_tls() {
    let authority_dir = tests::sandbox::Sandbox::new("relp-ca");
    let authority = Authority::new(&authority_dir.dir("ca"));
    let (server, client) = (authority.server("siem"), authority.client("penstock-low"));
    let (plain, tls) = (free_address(), free_address());
    let out = |name: &str| authority_dir.join(format!("{name}.out"));
    let receiver = |name: &str| Rsyslog::new(&authority_dir.dir(name)).messages_up_to("128k");
    let _receivers = [
        receiver("plain").listen_relp(plain, None).write_message(&out("plain")).start(),
        receiver("tls")
            .listen_relp(tls, Some((authority.ca(), &server)))
            .write_raw(&out("tls"))
            .start(),
    ];
    let keys = tls_keys(authority.ca(), &client);
    let sinks = [
        sink("plain", plain, &relp()),
        sink("tls", tls, &format!("transport = \"relp-tls\"\n{keys}body = \"original\"\n")),
    ];
    let (crossing, high, oracle) = cross("relp-out", &sinks.concat(), RECORDS, 300);
    let low = crossing.pair.low.start();
    for name in ["plain", "tls"] {
        wait_all(&crossing, &out(name), RECORDS);
        oracle.judge(ids_of(&out(name))).assert_exactly_once();
    }
    oracle.judge(assert_sound(&crossing.events()).ids).assert_exactly_once();
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
    assert_no_unlisted_errors(&crossing.pair.low.log_path(), &[]);
}

#[test]
fn a_receiver_that_stalls_and_dies_costs_nothing_by_relp_but_a_window_sent_twice() {
    let away = tests::sandbox::Sandbox::new("relp-stall-siem");
    let address = free_address();
    let out = away.join("siem.out");
    let receiver = || {
        Rsyslog::new(&away.dir("siem"))
            .messages_up_to("128k")
            .listen_relp(address, None)
            .write_message(&out)
    };
    let sinks = sink("siem", address, &relp());
    let (crossing, high, oracle) = cross("relp-stall", &sinks, RECORDS, 300);
    let siem = receiver().start();
    let low = crossing.pair.low.start();
    wait_until(PATIENCE, "some to have arrived", || !ids_of(&out).is_empty());
    siem.signal(Signal::SIGSTOP);
    let stored = ids_of(&out).len();
    siem.kill();
    let _siem = receiver().start();
    wait_all(&crossing, &out, RECORDS);
    let ids = ids_of(&out);
    let verdict = oracle.judge(ids.iter().copied());
    assert!(verdict.lost.is_empty() && verdict.foreign.is_empty(), "{verdict}");
    let repeated = ids.len() - usize::try_from(RECORDS).unwrap();
    println!("{stored} stored before the end, {repeated} repeated");
    assert!(repeated <= WINDOW, "{repeated} repeated");
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
}

#[test]
fn an_agent_killed_in_mid_batch_repeats_what_its_ledger_had_not_and_loses_nothing() {
    let away = tests::sandbox::Sandbox::new("relp-kill-siem");
    let address = free_address();
    let out = away.join("siem.out");
    let _siem = Rsyslog::new(&away.dir("siem"))
        .messages_up_to("128k")
        .listen_relp(address, None)
        .write_message(&out)
        .start();
    let batch = 500;
    let sinks = sink("siem", address, &format!("{}batch-records = {batch}\n", relp()));
    let (crossing, high, oracle) = cross("relp-kill", &sinks, RECORDS, 300);
    let low = crossing.pair.low.start();
    wait_until(PATIENCE, "some to have arrived", || !ids_of(&out).is_empty());
    low.kill();
    let low = crossing.pair.low.start();
    wait_all(&crossing, &out, RECORDS);
    let ids = ids_of(&out);
    let verdict = oracle.judge(ids.iter().copied());
    assert!(verdict.lost.is_empty() && verdict.foreign.is_empty(), "{verdict}");
    let repeated = ids.len() - usize::try_from(RECORDS).unwrap();
    assert!(repeated <= batch, "{repeated} repeated");
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
}

/// Starts a receiver with these texts of its configuration replaced.
type Start<'a> = &'a dyn Fn(&[(&str, &str)]) -> Process;

#[test]
fn the_next_hops_of_the_handbook_take_every_record_once() {
    let away = tests::sandbox::Sandbox::new("next-hops");
    let authority = Authority::new(&away.dir("ca"));
    let (server, client) = (authority.server("siem"), authority.client("penstock-low"));
    let addresses = [free_address(), free_address(), free_address(), free_address()];
    let ports = addresses.map(|address| address.port().to_string());
    let out = |name: &str| away.join(format!("{name}.jsonl"));
    let path = |path: &Path| path.display().to_string();
    let (ca, cert, key) = (path(authority.ca()), path(&server.cert), path(&server.key));
    let hop = |name: &str, port: &str, tls: Option<&str>, start: Start<'_>| {
        let file = path(&out(name));
        let dir = tls.unwrap_or_default();
        let files = ["ca.pem", "server.pem", "server.key"].map(|file| format!("{dir}{file}"));
        let mut replaced = vec![("/var/log/penstock/events.jsonl", file.as_str())];
        let its_port = if name == "relp" {
            "2514"
        } else if name == "relp-tls" {
            "2515"
        } else {
            "6514"
        };
        replaced.push((its_port, port));
        if tls.is_some() {
            replaced.extend([
                (files[0].as_str(), ca.as_str()),
                (files[1].as_str(), cert.as_str()),
                (files[2].as_str(), key.as_str()),
            ]);
        }
        if name == "relp-tls" {
            replaced.push(("penstock-low.example", "localhost"));
        }
        start(&replaced)
    };
    let rsyslog = |name: &str| Rsyslog::new(&away.dir(name));
    let its = Some("/etc/rsyslog.d/penstock/");
    let _hops = [
        hop("relp", &ports[0], None, &|with| {
            rsyslog("relp").start_next_hop("rsyslog-relp.conf", with)
        }),
        hop("relp-tls", &ports[1], its, &|with| {
            rsyslog("relp-tls").start_next_hop("rsyslog-relp-tls.conf", with)
        }),
        hop("tls", &ports[2], its, &|with| rsyslog("tls").start_next_hop("rsyslog-tls.conf", with)),
        hop("syslog-ng", &ports[3], Some("/etc/syslog-ng/penstock/"), &|with| {
            syslog_ng(&away.dir("syslog-ng"), "syslog-ng.conf", with, addresses[3])
        }),
    ];
    let keys = tls_keys(authority.ca(), &client);
    let tls = format!("transport = \"tls\"\n{keys}");
    let sinks = [
        sink("relp", addresses[0], "transport = \"relp\"\n"),
        sink("relp-tls", addresses[1], &format!("transport = \"relp-tls\"\n{keys}")),
        sink("tls", addresses[2], &tls),
        sink("syslog-ng", addresses[3], &tls),
    ];
    let (crossing, high, oracle) = cross("next-hops-low", &sinks.concat(), RECORDS, 300);
    let low = crossing.pair.low.start();
    let ours: BTreeSet<String> = {
        for name in ["relp", "relp-tls", "tls", "syslog-ng"] {
            wait_all(&crossing, &out(name), RECORDS);
        }
        crossing.events().iter().map(ToString::to_string).collect()
    };
    for name in ["relp", "relp-tls", "tls", "syslog-ng"] {
        oracle.judge(ids_of(&out(name))).assert_exactly_once();
        let parsed = lines_of(&out(name));
        let theirs: BTreeSet<String> = parsed
            .iter()
            .map(|line| serde_json::from_slice::<Value>(line).unwrap().to_string())
            .collect();
        assert!(theirs == ours, "{name} changed events");
    }
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
    assert_no_unlisted_errors(&crossing.pair.low.log_path(), &[]);
}

#[test]
fn over_plain_tcp_the_resend_window_covers_a_receiver_that_stalls_and_dies() {
    let away = tests::sandbox::Sandbox::new("tcp-stall-siem");
    let address = free_address();
    let out = away.join("siem.out");
    let receiver = || {
        Rsyslog::new(&away.dir("siem"))
            .messages_up_to("128k")
            .listen_tcp(address)
            .write_message(&out)
    };
    let more =
        "transport = \"tcp\"\nconfirm = \"write\"\nresend-window = \"3s\"\nbatch-records = 200\n";
    let (crossing, high, oracle) = cross("tcp-stall", &sink("siem", address, more), RECORDS, 300);
    let siem = receiver().start();
    siem.signal(Signal::SIGSTOP);
    let low = crossing.pair.low.start();
    // It has not read a byte, and the kernel has taken some for it.
    wait_until(PATIENCE, "bytes that nobody has read", || unread(address) > 0);
    siem.kill();
    let _siem = receiver().start();
    wait_all(&crossing, &out, RECORDS);
    let verdict = oracle.judge(ids_of(&out));
    assert!(verdict.lost.is_empty() && verdict.foreign.is_empty(), "{verdict}");
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
}

/// The bytes that wait at a local port for their program, after `proc(5)`.
fn unread(address: SocketAddr) -> u64 {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let port = format!(":{:04X}", address.port());
    let waiting = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // A listener's queue counts connections: state 0A.
        let ours = fields.get(1)?.ends_with(&port) && *fields.get(3)? != "0A";
        let queue = fields.get(4)?.split(':').nth(1)?;
        ours.then(|| u64::from_str_radix(queue, 16).ok()).flatten()
    };
    table.lines().filter_map(waiting).sum()
}

/// A receiver like Wazuh's `remoted` on TCP (`syslogtcp.c`): LF ends a message, PRI is taken off, at most
/// 65,536 bytes, NUL ends a message too. This one is strict where that one cuts and says nothing.
fn wazuh(listener: &TcpListener, resets: usize) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut connections = 0;
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        connections += 1;
        if connections <= resets {
            // Accepted, and gone.
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger)
                .unwrap();
            continue;
        }
        let mut data = Vec::new();
        // Slowly: some bytes at a time.
        let mut buffer = [0; 3000];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            data.extend_from_slice(&buffer[..count]);
        }
        if data == b"end" {
            return messages;
        }
        if data.is_empty() {
            // A batch of which every record was too long.
            continue;
        }
        assert_eq!(data.last(), Some(&b'\n'));
        for message in data.split(|byte| *byte == b'\n').filter(|message| !message.is_empty()) {
            assert!(message.len() <= 65_536 && !message.contains(&0));
            let end = message.iter().position(|byte| *byte == b'>').unwrap();
            messages.push(message[end + 1..].to_vec());
        }
    }
    messages
}

/// No number that a reader with floating point would change.
fn assert_exact(value: &Value) {
    match value {
        Value::Number(number) => {
            assert!(number.as_i64().is_some_and(|n| n.unsigned_abs() <= 1 << 53), "{number}");
        }
        Value::Array(values) => values.iter().for_each(assert_exact),
        Value::Object(pairs) => pairs.values().for_each(assert_exact),
        _ => {}
    }
}

#[test]
fn wazuh_gets_lines_that_it_can_take_and_the_rest_is_dead_letters() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let more = "transport = \"tcp\"\nformat = \"rfc3164\"\nframing = \"lf\"\nmax-message-bytes = \"2450\"\nbatch-records = 100\n";
    let records = 500;
    let (crossing, high, oracle) = cross("wazuh", &sink("wazuh", address, more), records, 100);
    let receiving = thread::spawn(move || wazuh(&listener, 3));
    let low = crossing.pair.low.start();
    assert_eq!(crossing.wait_drained(), records);
    TcpStream::connect(address).unwrap().write_all(b"end").unwrap();
    let messages = receiving.join().unwrap();
    let mut arrived = Vec::new();
    for message in &messages {
        let text = std::str::from_utf8(message).unwrap();
        // `Nov 25 09:00:00 plant-7 portainer-activity: {...}`: the program's name is the stream's.
        let (header, json) = text.split_once(": ").unwrap();
        assert_eq!(header.split_whitespace().nth(3), Some("plant-7"));
        assert!(message.len() + "<110>".len() < 2450);
        let event: Value = serde_json::from_str(json).unwrap();
        assert_exact(&event);
        arrived.extend(find_id(event["raw"].as_str().unwrap().as_bytes()).map(|(id, _)| id));
    }
    let letters = crossing.pair.low.state_dir().join("dead-letters/wazuh.ndjson");
    let dead = ids_of(&letters);
    assert!(lines_of(&letters).iter().all(|line| {
        String::from_utf8_lossy(line).contains("bytes, and max-message-bytes is ")
    }));
    println!("{} arrived, {} dead letters", arrived.len(), dead.len());
    assert!(!dead.is_empty() && !arrived.is_empty());
    oracle.judge(arrived.into_iter().chain(dead)).assert_exactly_once();
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
}

/// A strict reader after the CEF implementation standard: seven header fields in which `\` and `|` are
/// escaped, then `key=value` pairs in which `\`, `=`, CR and LF are.
fn read_cef(text: &str) -> (Vec<String>, BTreeMap<String, String>) {
    let mut rest = text.strip_prefix("CEF:0|").unwrap();
    let mut header = Vec::new();
    for _ in 0..6 {
        let (mut field, mut characters) = (String::new(), rest.char_indices());
        let end = loop {
            match characters.next().unwrap() {
                (_, '\\') => {
                    let (_, escaped) = characters.next().unwrap();
                    assert!(matches!(escaped, '\\' | '|'), "{text}");
                    field.push(escaped);
                }
                (at, '|') => break at,
                (_, other) => field.push(other),
            }
        };
        header.push(field);
        rest = &rest[end + 1..];
    }
    let mut pairs = BTreeMap::new();
    let (mut key, mut value) = (String::new(), String::new());
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next().unwrap() {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                escaped => {
                    assert!(matches!(escaped, '\\' | '='), "{text}");
                    value.push(escaped);
                }
            },
            '=' => {
                // The last word of what was read is the next key.
                let begin = value.rfind(' ').map_or(0, |at| at + 1);
                let next = value.split_off(begin);
                assert!(next.chars().all(|c| c.is_ascii_alphanumeric()) && !next.is_empty());
                value.pop();
                if !key.is_empty() {
                    assert!(pairs.insert(key, std::mem::take(&mut value)).is_none(), "{text}");
                }
                (key, value) = (next, String::new());
            }
            other => {
                assert!(!other.is_control(), "{text}");
                value.push(other);
            }
        }
    }
    assert!(pairs.insert(key, value).is_none(), "{text}");
    (header, pairs)
}

#[test]
fn cef_arrives_so_that_a_strict_reader_reads_it() {
    let away = tests::sandbox::Sandbox::new("cef-siem");
    let address = free_address();
    let out = away.join("siem.out");
    let _siem = Rsyslog::new(&away.dir("siem"))
        .messages_up_to("128k")
        .listen_relp(address, None)
        .write_message(&out)
        .start();
    let more = "transport = \"relp\"\nformat = \"rfc3164\"\nbody = \"cef\"\n";
    let records = 300;
    let (crossing, high, _) = cross("cef", &sink("siem", address, more), records, 100);
    let low = crossing.pair.low.start();
    assert_eq!(crossing.wait_drained(), records);
    wait_until(PATIENCE, "the receiver to have all", || lines_of(&out).len() as u64 >= records);
    let mut ids = BTreeSet::new();
    for line in lines_of(&out) {
        let text = String::from_utf8(line).unwrap();
        let (header, pairs) = read_cef(text.trim_start());
        let severity: u8 = header[5].parse().unwrap();
        assert!(severity <= 10);
        assert!(pairs["externalId"].len() == 40 && pairs["rt"].len() == 13, "{pairs:?}");
        ids.insert(pairs["externalId"].clone());
    }
    let sent =
        crossing.events().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, sent);
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
}

#[test]
fn a_client_certificate_that_is_refused_after_the_handshake_is_told_and_costs_nothing() {
    let away = tests::sandbox::Sandbox::new("late-refusal");
    let authority = Authority::new(&away.dir("ca"));
    let stranger = Authority::new(&away.dir("other-ca")).client("penstock-low");
    let (server, client) = (authority.server("siem"), authority.client("penstock-low"));
    let addresses = [free_address(), free_address()];
    let out = |name: &str| away.join(format!("{name}.out"));
    let _receivers = [
        Rsyslog::new(&away.dir("tls"))
            .tls(authority.ca(), &server)
            .listen_tls(addresses[0], true)
            .write_message(&out("tls"))
            .start(),
        Rsyslog::new(&away.dir("relp"))
            .listen_relp(addresses[1], Some((authority.ca(), &server)))
            .write_message(&out("relp"))
            .start(),
    ];
    let sinks = |who: &Certificate| {
        let keys = tls_keys(authority.ca(), who);
        let stream = "confirm = \"write\"\nresend-window = \"500ms\"\n";
        let tls = sink("tls", addresses[0], &format!("transport = \"tls\"\n{keys}{stream}"));
        tls + &sink("relp", addresses[1], &format!("transport = \"relp-tls\"\n{keys}"))
    };
    let records = 300;
    let (crossing, high, oracle) = cross("late-refusal-low", &sinks(&stranger), records, 100);
    let low = crossing.pair.low.start();
    wait_until(PATIENCE, "both sinks to fail", || {
        let log = std::fs::read_to_string(crossing.pair.low.log_path()).unwrap_or_default();
        ["tls", "relp"].iter().all(|name| {
            log.lines().any(|line| {
                line.contains("a sink fails") && line.contains(&format!("sink=\"{name}\""))
            })
        })
    });
    assert!(low.stop(PATIENCE).success());
    assert!(ids_of(&out("tls")).is_empty() && ids_of(&out("relp")).is_empty());
    let ours = format!("{}{}{}", Crossing::quick_inbox(), crossing.file_sink(), sinks(&client));
    crossing.pair.low.configure(&ours);
    let low = crossing.pair.low.start();
    for name in ["tls", "relp"] {
        wait_all(&crossing, &out(name), records);
        oracle.judge(ids_of(&out(name))).assert_exactly_once();
    }
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
}
