//! The Forward protocol: the official client of Fluentd for Node, and a client that sends unanswered
//! chunks again as a whole, as Fluent Bit does; agent and client killed in between.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};
use tests::crossing::{Crossing, received};
use tests::load::{Framing, Pool};
use tests::logs::assert_no_unlisted_errors;
use tests::peers::{Authority, acknowledged, fluent_logger};
use tests::samples::raw_of;
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

use crate::incoming::{finish, listener, start};
use crate::relp::{configure, wait_arrived};

/// Real events of Kubernetes, one a line.
fn events() -> Vec<String> {
    let text = include_str!("../../samples/kube-audit.jsonl");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_mode_of_the_official_client_arrives_byte_for_byte() {
    let crossing = Crossing::new("fluent-modes");
    let authority = Authority::new(&crossing.sandbox.dir("ca"));
    let server = authority.server("penstock");
    let secret = |name: &str, text: &str| {
        let path = crossing.sandbox.join(name);
        shared::durable::write(&path, text.as_bytes(), 0o600).unwrap();
        format!("{:?}", path.display().to_string())
    };
    let (plain, tls) = (free_address(), free_address());
    let keys = format!(
        "certificate = {:?}\nkey = {:?}\nshared-key-file = {}\nusers-file = {}\n",
        server.cert.display().to_string(),
        server.key.display().to_string(),
        secret("forward.key", "a shared key\n"),
        secret("forward.users", "node:a password\n"),
    );
    let agents = start(
        &crossing,
        &(listener("plain", "fluent-forward", plain, "")
            + &listener("tls", "fluent-forward", tls, &keys)),
    );
    let lines = events();
    let modes = ["Message", "Forward", "PackedForward", "CompressedPackedForward"];
    let mut records = 0;
    for mode in modes {
        for (address, map) in [(plain, false), (tls, true)] {
            let mut options = json!({ "port": address.port(), "mode": mode, "map": map });
            if address == tls {
                options["key"] = json!("a shared key");
                options["user"] = json!("node");
                options["password"] = json!("a password");
                options["ca"] = json!(authority.ca());
            }
            let name = format!("{mode}-{map}");
            let mut client = fluent_logger(crossing.sandbox.path(), &name, &options, &lines);
            client.wait_for_log(PATIENCE, "all acknowledged");
            records += lines.len() as u64;
            // It was told so: all of it is durable.
            assert!(received(&crossing.pair.high.status()) >= records, "{name}");
        }
    }
    let mut wrong = fluent_logger(
        crossing.sandbox.path(),
        "wrong-key",
        &json!({ "port": tls.port(), "mode": "Message", "key": "another", "ca": authority.ca() }),
        &lines[..1],
    );
    wait_until(PATIENCE, "a refusal", || {
        let status = crossing.pair.high.status();
        let listeners = status["live"]["listeners"].as_array().cloned().unwrap_or_default();
        listeners
            .iter()
            .any(|found| found["counters"]["authentication-failures"].as_u64() > Some(0))
    });
    assert!(wrong.ended().is_none() || acknowledged(&wrong.log()).is_empty());
    wrong.kill();

    let arrived = finish(&crossing, agents, records);
    let of = |name: &str| -> Vec<&Value> {
        arrived.events.values().filter(|event| event["listener"] == name).collect()
    };
    for (run, chunk) in of("plain").chunks(lines.len()).enumerate() {
        for (event, line) in chunk.iter().zip(&lines) {
            assert_eq!(raw_of(event), line.as_bytes(), "{}", modes[run]);
            assert_eq!(event["stream"], "kube-audit", "{event}");
            assert_eq!(event["tag"], "penstock.events", "{event}");
        }
    }
    for (run, chunk) in of("tls").chunks(lines.len()).enumerate() {
        for (event, line) in chunk.iter().zip(&lines) {
            let mut record: Value = serde_json::from_slice(&raw_of(event)).unwrap();
            let date = record.as_object_mut().unwrap().remove("date");
            assert!(
                date.is_some_and(|date| date.as_str().unwrap().ends_with('Z')),
                "{}",
                modes[run]
            );
            assert_eq!(record, serde_json::from_str::<Value>(line).unwrap(), "{}", modes[run]);
        }
    }
}

#[test]
fn the_official_client_killed_has_lost_nothing_that_it_was_told_of() {
    let crossing = Crossing::new("fluent-client-killed");
    let address = free_address();
    configure(&crossing, &listener("fluent", "fluent-forward", address, ""));
    let agent = crossing.pair.high.start();
    let lines = texts(1..2001);
    let options =
        json!({ "port": address.port(), "mode": "PackedForward", "map": false, "rate": 1000 });
    let mut told = BTreeSet::new();
    for round in 0..3 {
        let mut client =
            fluent_logger(crossing.sandbox.path(), &format!("client-{round}"), &options, &lines);
        if round < 2 {
            wait_until(PATIENCE, "some acknowledgements", || {
                acknowledged(&client.log()).len() > 300 * (round + 1)
            });
            told.extend(acknowledged(&client.log()).iter().map(|number| *number as u64 + 1));
            client.kill();
        } else {
            client.wait_for_log(PATIENCE, "all acknowledged");
        }
    }
    assert!(told.len() > 600);
    let arrived: BTreeSet<u64> = wait_arrived(&crossing, 1..=2000).into_iter().collect();
    assert!(told.is_subset(&arrived));
    assert!(agent.stop(PATIENCE).success());
    assert_no_unlisted_errors(&crossing.pair.high.log_path(), &[]);
}

#[test]
fn the_agent_killed_and_started_again_loses_nothing_of_the_official_client() {
    let crossing = Crossing::new("fluent-official-killed");
    let address = free_address();
    configure(&crossing, &listener("fluent", "fluent-forward", address, ""));
    let mut agent = crossing.pair.high.start();
    let lines = texts(1..3001);
    let options = json!({
        "port": address.port(), "mode": "CompressedPackedForward", "map": false, "rate": 1500,
    });
    let mut client = fluent_logger(crossing.sandbox.path(), "client", &options, &lines);
    for kill in 1..=2 {
        wait_until(PATIENCE, "the moment to kill", || {
            acknowledged(&client.log()).len() >= 600 * kill
        });
        agent.kill();
        agent = crossing.pair.high.start();
    }
    client.wait_for_log(LONG, "all acknowledged");
    let arrived = wait_arrived(&crossing, 1..=3000);
    println!("{} records of 3000 messages", arrived.len());
    assert!(agent.stop(PATIENCE).success());
    assert_no_unlisted_errors(&crossing.pair.high.log_path(), &[]);
}

#[test]
fn the_agent_killed_and_started_again_loses_no_chunk() {
    let crossing = Crossing::new("fluent-agent-killed");
    let address = free_address();
    configure(&crossing, &listener("fluent", "fluent-forward", address, ""));
    let high = &crossing.pair.high;
    let mut agent = high.start();
    let texts = texts(1..MESSAGES + 1);
    let agent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut connection = None;
            for first in (1..=MESSAGES).step_by(CHUNK as usize) {
                let ids = first..(first + CHUNK).min(MESSAGES + 1);
                wait_until(PATIENCE, "an acknowledgement", || {
                    // What is not acknowledged is sent again, all of it, on a new connection.
                    let chunk = &texts[first as usize - 1..ids.end as usize - 1];
                    let sent = send_chunk(&mut connection, address, first, chunk);
                    if sent.is_err() {
                        connection = None;
                    }
                    sent.is_ok()
                });
            }
        });
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
    println!("{} records of {MESSAGES} messages", arrived.len());
    assert!((arrived.len() as u64) <= MESSAGES + KILLS * CHUNK, "only one chunk was under way");
    assert!(agent.stop(PATIENCE).success());
    assert_eq!(high.status()["adds-up"], true);
    assert_no_unlisted_errors(&high.log_path(), &[]);
}

/// Messages of the load generator, as text.
fn texts(ids: Range<u64>) -> Vec<String> {
    let pool = Pool::new(Framing::None, None);
    let text = |id| {
        let mut message = Vec::new();
        pool.append(id, &mut message);
        String::from_utf8(message).unwrap()
    };
    ids.map(text).collect()
}

/// Sends a chunk as Fluent Bit does, `[tag, bin, {size, chunk, fluent_signal}]`, and waits for exactly
/// its acknowledgement.
fn send_chunk(
    connection: &mut Option<TcpStream>,
    address: SocketAddr,
    first: u64,
    texts: &[String],
) -> io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(TcpStream::connect(address)?),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let string = |text: &str| {
        let length = u16::try_from(text.len()).unwrap();
        [&[0xda][..], &length.to_be_bytes(), text.as_bytes()].concat()
    };
    let mut entries = Vec::new();
    for text in texts {
        // [[EventTime, {}], {"log": text}], as Fluent Bit's own form of an event.
        entries.extend(b"\x92\x92\xd7\x00\x6a\x13\x88\xfb\x00\x00\x00\x01\x80\x81");
        entries.extend([string("log"), string(text)].concat());
    }
    let chunk = format!("chunk-{first}");
    let mut message = b"\x93".to_vec();
    message.extend(string("audit"));
    message.push(0xc6);
    message.extend(u32::try_from(entries.len()).unwrap().to_be_bytes());
    message.extend(entries);
    message.push(0x83);
    message.extend([string("size"), vec![0xcd, 0, 50], string("chunk"), string(&chunk)].concat());
    message.extend([string("fluent_signal"), vec![0]].concat());
    stream.write_all(&message)?;
    let mut expected = b"\x81\xa3ack".to_vec();
    expected.push(0xa0 | u8::try_from(chunk.len()).unwrap());
    expected.extend(chunk.as_bytes());
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, expected);
    Ok(())
}

const MESSAGES: u64 = 10_000;
const CHUNK: u64 = 50;
const KILLS: u64 = 4;
/// Other tests use the machine, too.
const LONG: Duration = Duration::from_mins(3);
