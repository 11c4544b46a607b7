//! Messages as odd as people have met, and captures of real senders: each stands byte for byte in
//! the file on the low side.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};

use tests::crossing::Crossing;
use tests::samples::{capture, counted_messages, odd_messages, raw_of, samples_dir};
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

use crate::incoming::{NOTHING_REDACTED, finish, listener, start};

/// Writes to a listener and waits until it has read everything.
pub(crate) fn write_all(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn every_odd_message_and_every_capture_arrives_byte_for_byte() {
    let Some(samples) = samples_dir() else {
        println!("NOT RUN: the samples are not beside the workspace");
        return;
    };
    let crossing = Crossing::new("odd");
    let names = ["counted", "lines", "captures-counted", "captures-lines"];
    let addresses = names.map(|name| (name, free_address()));
    let udp = free_address();
    let mut listeners =
        format!("[[listener]]\nname = \"udp\"\nprotocol = \"udp\"\nbind = \"{udp}\"\n");
    for (name, address) in addresses {
        listeners += &listener(name, "tcp", address, "");
    }
    listeners += NOTHING_REDACTED;
    // Datagrams go in the slow lane, which is sealed by the command below.
    let [high, low] = start(&crossing, &listeners);
    let odd = odd_messages(&samples);
    assert!(odd.len() >= 400, "{} odd messages", odd.len());
    let mut expected: Vec<(&str, Vec<Vec<u8>>)> = Vec::new();

    let counted: Vec<u8> =
        odd.iter().flat_map(|raw| [format!("{} ", raw.len()).as_bytes(), raw].concat()).collect();
    write_all(addresses[0].1, &counted);
    expected.push(("counted", odd.clone()));

    // As lines only those that are one line and don't look as if they were counted.
    let looks_counted = |raw: &[u8]| {
        let digits = raw.iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0 && raw[digits..].starts_with(b" <")
    };
    let mut lines = odd.clone();
    lines.retain(|raw| !raw.contains(&b'\n') && !raw.contains(&0) && !looks_counted(raw));
    let stream: Vec<u8> = lines.iter().flat_map(|raw| [raw, &b"\n"[..]].concat()).collect();
    write_all(addresses[1].1, &stream);
    expected.push(("lines", lines));

    let mut messages = Vec::new();
    for name in ["rsyslog-octet-counted-rfc5424.bin", "logger-tcp-octet.bin"] {
        let bytes = capture(&samples, name);
        messages.extend(counted_messages(&bytes));
        write_all(addresses[2].1, &bytes);
    }
    expected.push(("captures-counted", messages));

    let mut joined = Vec::new();
    for name in ["rsyslog-lf-rfc5424.bin", "logger-tcp-lf.bin"] {
        let bytes = capture(&samples, name);
        joined.extend_from_slice(bytes.strip_suffix(b"\0").unwrap_or(&bytes));
        if joined.last() != Some(&b'\n') {
            joined.push(b'\n');
        }
        write_all(addresses[3].1, &bytes);
    }

    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    for raw in &odd {
        socket.send_to(raw, udp).unwrap();
    }
    expected.push(("udp", odd));
    wait_until(PATIENCE, "every datagram", || {
        let status = crossing.pair.high.status();
        status["lanes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|lane| lane["lane"] == "routine" && lane["received"] == expected[3].1.len())
    });
    crossing.pair.high.run(["seal", "--lane", "routine"]).success();

    let in_lines = 2; // at least one from each capture; the exact bytes are compared below
    let known: usize = expected.iter().map(|(_, messages)| messages.len()).sum();
    wait_until(PATIENCE, "the lines of the captures", || {
        tests::crossing::received(&crossing.pair.high.status()) >= (known + in_lines) as u64
    });
    let records = crossing.wait_drained();
    let arrived = finish(&crossing, [high, low], records);
    let of = |name: &str| -> Vec<Vec<u8>> {
        let events = arrived.events.values().filter(|event| event["listener"] == name);
        events.map(raw_of).collect()
    };
    for (name, sent) in &expected {
        let got = of(name);
        for (got, sent) in got.iter().zip(sent) {
            let show = String::from_utf8_lossy;
            assert!(got == sent, "{name}:\n got {:?}\nsent {:?}", show(got), show(sent));
        }
        assert_eq!(got.len(), sent.len(), "{name}");
    }
    let lines: Vec<u8> =
        of("captures-lines").iter().flat_map(|raw| [raw, &b"\n"[..]].concat()).collect();
    assert_eq!(String::from_utf8_lossy(&lines), String::from_utf8_lossy(&joined));
}
