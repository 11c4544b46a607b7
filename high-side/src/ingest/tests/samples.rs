//! Real input: the odd messages, each between two neighbours, and captures of real senders.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

/// The samples beside the workspace; they are not part of it.
fn samples() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples/syslog");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: no samples at {}", path.display());
    None
}

fn base64(text: &str) -> Vec<u8> {
    let value = |byte| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0_u32, |bits, &byte| bits << 6 | u32::from(value(byte)));
        let bits = bits << (6 * (4 - group.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}

fn odd_lines(samples: &Path) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(samples.join("odd-lines.jsonl")).unwrap();
    let raw = |line| base64(serde_json::from_str::<Value>(line).unwrap()["b64"].as_str().unwrap());
    text.lines().map(raw).filter(|raw| !raw.is_empty()).collect()
}

/// Every message with a neighbour on each side.
fn between_sentinels(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let sentinel = |at, side| format!("<34>1 - sentinel - - - - {at} {side}").into_bytes();
    let around = |(at, message): (usize, &Vec<u8>)| {
        [sentinel(at, "before"), message.clone(), sentinel(at, "after")]
    };
    messages.iter().enumerate().flat_map(around).collect()
}

fn counted(messages: &[Vec<u8>]) -> Vec<u8> {
    let frame = |raw: &Vec<u8>| [format!("{} ", raw.len()).as_bytes(), raw].concat();
    messages.iter().flat_map(frame).collect()
}

fn assert_same(got: &[Vec<u8>], sent: &[Vec<u8>]) {
    for (got, sent) in got.iter().zip(sent) {
        let show = String::from_utf8_lossy;
        assert_eq!(got, sent, "\n got {:?}\nsent {:?}", show(got), show(sent));
    }
    assert_eq!(got.len(), sent.len());
}

#[test]
fn every_odd_message_arrives_whole_when_counted() {
    let Some(samples) = samples() else { return };
    let sent = between_sentinels(&odd_lines(&samples));
    let mut rig = Rig::start(Protocol::Tcp, &Options::default());
    rig.send(counted(&sent));
    assert_same(&rig.take_raw(sent.len()), &sent);
}

#[test]
fn every_odd_message_of_one_line_arrives_whole_as_a_line() {
    let Some(samples) = samples() else { return };
    let looks_counted = |raw: &[u8]| {
        let digits = raw.iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0 && raw[digits..].starts_with(b" <")
    };
    let mut lines = odd_lines(&samples);
    lines.retain(|raw| !raw.contains(&b'\n') && !raw.contains(&0) && !looks_counted(raw));
    assert!(lines.len() > 350, "{}", lines.len());
    let sent = between_sentinels(&lines);
    for terminator in [b"\n", b"\0"] {
        let mut rig = Rig::start(Protocol::Tcp, &Options::default());
        rig.send(sent.iter().flat_map(|raw| [raw, &terminator[..]].concat()).collect());
        assert_same(&rig.take_raw(sent.len()), &sent);
    }
}

#[test]
fn every_odd_message_arrives_whole_as_a_datagram() {
    let Some(samples) = samples() else { return };
    let mut rig = Rig::start(Protocol::Udp, &Options::default());
    let client = rig.udp_client();
    for message in between_sentinels(&odd_lines(&samples)) {
        client.send(&message).unwrap();
        assert_same(&rig.take_raw(1), &[message]);
    }
}

#[test]
fn odd_bytes_without_any_care_for_framing_are_kept_and_harm_no_other_connection() {
    let Some(samples) = samples() else { return };
    let mut rig = Rig::start(Protocol::Tcp, &Options::default());
    for raw in odd_lines(&samples) {
        rig.send(raw.clone()).join().unwrap();
        rig.send(b"<34>1 - sentinel - - - -\n".to_vec()).join().unwrap();
        let mut out = Vec::new();
        let kept = |out: &[Got]| out.iter().map(|got| got.raw.len()).sum::<usize>();
        // Terminators and counts are no content; everything else has to come.
        let least = raw.iter().filter(|byte| !b"\n\0\r 0123456789".contains(byte)).count() + 20;
        rig.drain_while(&mut out, |out, _| {
            !out.iter().any(|got| got.raw == b"<34>1 - sentinel - - - -") || kept(out) < least
        });
    }
    let end = rig.wait_for(|now| now.connections_open == 0);
    assert_eq!((end.connections_refused, end.slow_closes), (0, 0));
}

#[test]
fn captures_of_real_senders_give_the_messages_that_were_sent() {
    let Some(samples) = samples() else { return };
    for name in ["rsyslog-octet-counted-rfc5424.bin", "logger-tcp-octet.bin"] {
        let bytes = std::fs::read(samples.join("captured-here").join(name)).unwrap();
        let mut sent = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let space = rest.iter().position(|&byte| byte == b' ').unwrap();
            let count: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().unwrap();
            let (message, after) = rest[space + 1..].split_at(count);
            sent.push(message.to_vec());
            rest = after;
        }
        let mut rig = Rig::start(Protocol::Tcp, &Options::default());
        rig.send(bytes);
        assert_same(&rig.take_raw(sent.len()), &sent);
    }
    for name in ["rsyslog-lf-rfc5424.bin", "logger-tcp-lf.bin"] {
        let bytes = std::fs::read(samples.join("captured-here").join(name)).unwrap();
        // Python's message ends with NUL and has a line feed inside.
        let (lines, python) = match bytes.strip_suffix(b"\0") {
            Some(rest) => {
                let at = rest.windows(6).rposition(|window| window == b"\n<163>").unwrap();
                (&rest[..at], Some(rest[at + 1..].to_vec()))
            }
            None => (&bytes[..], None),
        };
        let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let sent: Vec<_> = lines.map(<[u8]>::to_vec).chain(python).collect();
        let mut rig = Rig::start(Protocol::Tcp, &Options::default());
        rig.send(bytes);
        assert_same(&rig.take_raw(sent.len()), &sent);
    }
}
