//! HTTP sources as their senders meet them, honest and hostile.

use std::io::{Read, Write};
use std::path::Path;
use std::thread::JoinHandle;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// An answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Rig {
    fn http(settings: HttpSettings) -> Self {
        Self::start(Protocol::Http(settings), &Options::default())
    }

    /// Posts a body in the background.
    fn post(&self, path: &str, headers: &str, body: &[u8]) -> JoinHandle<Reply> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.raw([head.as_bytes(), body].concat())
    }

    /// Sends bytes in the background and reads one answer.
    fn raw(&self, bytes: Vec<u8>) -> JoinHandle<Reply> {
        let mut stream = self.connect();
        std::thread::spawn(move || {
            let mut reading = stream.try_clone().unwrap();
            // A server that answers before the end may close: its answer counts.
            let writer = std::thread::spawn(move || stream.write_all(&bytes).is_ok());
            let reply = reply(&mut reading);
            drop(writer);
            reply
        })
    }

    /// Posts a body and takes nothing meanwhile: what answers at once.
    fn post_and_wait(&self, path: &str, headers: &str, body: &[u8]) -> Reply {
        self.post(path, headers, body).join().unwrap()
    }

    /// Posts a body, takes so many records, and gives both.
    fn exchange(&mut self, headers: &str, body: &[u8], records: usize) -> (Reply, Vec<Got>) {
        let posted = self.post("/", headers, body);
        let got = self.take(records);
        (posted.join().unwrap(), got)
    }
}

/// Reads one answer.
fn reply(stream: &mut TcpStream) -> Reply {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    let head = String::from_utf8(bytes).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 100 {
        return Reply { status, head, body: String::new() };
    }
    let lower = head.to_ascii_lowercase();
    let length = lower
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Reply { status, head, body: String::from_utf8(body).unwrap() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn chunked(head: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let mut bytes =
        format!("POST / HTTP/1.1\r\nHost: x\r\n{head}Transfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for chunk in chunks {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let start =
        b"{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[";
    [&start[..], &items.join(&b','), b"]}\n"].concat()
}

fn kube() -> HttpSettings {
    HttpSettings::new(HttpSender::KubeApiserver)
}

fn raws(got: &[Got]) -> Vec<&[u8]> {
    got.iter().map(|got| &got.raw[..]).collect()
}

#[test]
fn events_are_cut_out_and_answered_once_they_are_durable() {
    let mut rig = Rig::http(kube());
    let items: Vec<Vec<u8>> = (0..10_000)
        .map(|at| {
            format!("{{\"level\":\"Metadata\", \"auditID\":\"{at}\",\"s\":\"\\u003c\"}}")
                .into_bytes()
        })
        .collect();
    let posted = rig.post("/any/path?timeout=30s", "", &list(&items));
    // Two batches were handed over, and the third one waits for its commit.
    rig.wait_for(|now| now.messages == 10_000);
    assert!(!posted.is_finished());
    let got = rig.take(10_000);
    assert_eq!(posted.join().unwrap().status, 200);
    assert!(got.iter().zip(&items).all(|(got, item)| got.raw == *item));
    assert!(got.iter().all(|got| got.stream == Stream::KubeAudit && got.cut_from.is_none()));

    let (reply, got) = rig.exchange("", b" {\"kind\":\"Event\",\"auditID\":\"a\"}\n", 1);
    assert_eq!(
        (reply.status, raws(&got)),
        (200, vec![&b"{\"kind\":\"Event\",\"auditID\":\"a\"}"[..]])
    );
    // Nothing to keep is nothing to wait for.
    assert_eq!(rig.post_and_wait("/", "", &list(&[])).status, 200);
}

#[test]
fn one_long_or_deep_event_costs_its_neighbours_nothing() {
    let mut rig = Rig::http(kube());
    let max = Limits::default().message_bytes_max;
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(max)).into_bytes();
    let deep = [b"{\"a\":".repeat(5000), b"1".to_vec(), b"}".repeat(5000)].concat();
    let odd = b"{\"a\":\"\xff\xfe\x00\"}".to_vec();
    let plain = b"{}".to_vec();
    let items = [long.clone(), plain.clone(), deep, odd, plain];
    let (reply, got) = rig.exchange("", &list(&items), 5);
    assert_eq!(reply.status, 200);
    assert_eq!((&got[0].raw[..], got[0].cut_from), (&long[..max], Some(long.len() as u64)));
    assert!(got[1..].iter().zip(&items[1..]).all(|(got, item)| got.raw == *item));
}

#[test]
fn a_hundred_thousand_empty_items_are_as_many_records() {
    let mut rig = Rig::http(kube());
    let (reply, got) = rig.exchange("", &list(&vec![b"{}".to_vec(); 100_000]), 100_000);
    assert_eq!((reply.status, got.len()), (200, 100_000));
}

#[test]
fn what_is_no_list_of_events_is_kept_once_and_refused() {
    let mut rig = Rig::http(kube());
    let (reply, got) = rig.exchange("", b"{\"kind\":\"PodList\",\"items\":[]}", 1);
    assert_eq!((reply.status, got[0].stream), (400, Stream::Other));
    assert!(reply.body.contains("EventList") && reply.body.contains("kept"), "{}", reply.body);
    for _ in 0..4 {
        assert_eq!(rig.post_and_wait("/", "", b"{\"kind\":\"PodList\",\"items\":[]}").status, 400);
    }
    let (reply, got) = rig.exchange("", b"{\"items\":[{},{", 1);
    assert_eq!((reply.status, raws(&got)), (400, vec![&b"{\"items\":[{},{"[..]]));
    let now = rig.listener.counters.snapshot();
    assert_eq!((now.requests, now.requests_bad, now.messages), (6, 6, 2));
}

#[test]
fn gzip_is_undone_and_a_bomb_is_not() {
    // As an agent has it: both forms of the longest body, and what others read.
    let options = Options { read_memory_bytes: 48 << 20, ..Options::default() };
    let mut rig = Rig::start(Protocol::Http(kube()), &options);
    let body = list(&[b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()]);
    let (reply, got) = rig.exchange("Content-Encoding: gzip\r\n", &gzip(&body), 2);
    assert_eq!((reply.status, raws(&got)), (200, vec![&b"{\"a\":1}"[..], b"{\"b\":2}"]));
    let bomb = gzip(&vec![b' '; 200 << 20]);
    assert!(bomb.len() < 2 << 20);
    assert_eq!(rig.post_and_wait("/", "Content-Encoding: gzip\r\n", &bomb).status, 413);
    let broken = &gzip(&body)[..20];
    let (reply, got) = rig.exchange("Content-Encoding: gzip\r\n", broken, 1);
    assert_eq!((reply.status, &got[0].raw[..], got[0].stream), (400, broken, Stream::Other));
    let (reply, _) = rig.exchange("Content-Encoding: br\r\n", b"brotli", 1);
    assert_eq!(reply.status, 415);
}

#[test]
fn chunks_keep_alive_pipelining_and_asking_first_work() {
    let mut rig = Rig::http(kube());
    let body = list(&[b"{\"a\":1}".to_vec()]);
    let posted = rig.raw(chunked("", &[&body[..7], &body[7..]]));
    assert_eq!(
        (rig.take_raw(1), posted.join().unwrap().status),
        (vec![b"{\"a\":1}".to_vec()], 200)
    );

    let mut stream = rig.connect();
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    let request = [format!("{head}\r\n").as_bytes(), &body].concat();
    stream.write_all(&request.repeat(3)).unwrap();
    assert_eq!(rig.take_raw(3).len(), 3);
    (0..3).for_each(|_| assert_eq!(reply(&mut stream).status, 200));
    stream.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(reply(&mut stream).status, 100);
    stream.write_all(&body).unwrap();
    assert_eq!(rig.take_raw(1).len(), 1);
    assert_eq!(reply(&mut stream).status, 200);
    assert_eq!(rig.listener.counters.snapshot().connections_total, 2);
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_sent() {
    let rig = Rig::http(HttpSettings { body_bytes_max: 1000, ..kube() });
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(rig.raw(head.as_bytes().to_vec()).join().unwrap().status, 413);
    assert_eq!(rig.raw(chunked("", &[&[b' '; 600], &[b' '; 600]])).join().unwrap().status, 413);
    let reply = rig.post_and_wait("/", "", &[b' '; 1001]);
    assert_eq!(reply.status, 413);
    assert!(reply.body.contains("body-bytes-max"), "{}", reply.body);
    assert_eq!(rig.listener.counters.snapshot().requests_bad, 3);
}

#[test]
fn under_pressure_a_sender_that_tries_again_is_told_when() {
    for sender in [HttpSender::KubeApiserver, HttpSender::Fluent] {
        let answer_timeout = Duration::from_millis(50);
        let mut rig = Rig::http(HttpSettings { answer_timeout, ..HttpSettings::new(sender) });
        let body = list(&[b"{\"a\":1}".to_vec()]);
        // Nobody commits what is handed over.
        let reply = rig.post_and_wait("/", "", &body);
        assert_eq!(reply.status, 503);
        assert!(reply.head.to_ascii_lowercase().contains("retry-after: "), "{}", reply.head);
        let (again, got) = rig.exchange("", &body, 2);
        assert_eq!((again.status, got.len()), (200, 2));
        assert_eq!(rig.listener.counters.snapshot().requests_deferred, 1);
    }
}

#[test]
fn too_many_bodies_at_once_are_told_to_come_again() {
    for (sender, status) in [(HttpSender::KubeApiserver, 429), (HttpSender::Fluent, 503)] {
        let options = Options { read_memory_bytes: 20 << 10, ..Options::default() };
        let rig = Rig::start(Protocol::Http(HttpSettings::new(sender)), &options);
        let mut holder = rig.connect();
        holder.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n{").unwrap();
        rig.wait_for(|now| now.requests == 1);
        let reply = rig.post_and_wait("/", "", &[b' '; 16_000]);
        assert_eq!(reply.status, status);
        assert!(reply.head.to_ascii_lowercase().contains("retry-after: "), "{}", reply.head);
    }
}

#[test]
fn whatever_falco_sends_is_kept() {
    let mut rig = Rig::http(HttpSettings::new(HttpSender::Falco));
    let alert =
        br#"{"output":"x","priority":"Notice","rule":"r","time":"2026-04-06T13:23:31.588950000Z"}"#;
    for (body, stream) in [
        (&alert[..], Stream::Falco),
        (b"13:23:31.588950000: Notice something <NA>", Stream::Falco),
        (b"Falco initialized with configuration file\n", Stream::Other),
        (b"{\"half\":", Stream::Other),
        (b"\xff\xfe\x00", Stream::Other),
    ] {
        let (reply, got) = rig.exchange("Content-Type: text/plain\r\n", body, 1);
        assert_eq!((reply.status, &got[0].raw[..], got[0].stream), (200, body, stream));
    }
    let (reply, got) = rig.exchange("Content-Encoding: gzip\r\n", &gzip(alert), 1);
    assert_eq!((reply.status, &got[0].raw[..]), (200, &alert[..]));
    let (reply, got) = rig.exchange("Content-Encoding: gzip\r\n", b"no gzip", 1);
    assert_eq!((reply.status, &got[0].raw[..]), (200, &b"no gzip"[..]));
    assert_eq!(rig.post_and_wait("/", "", b"").status, 200);
    assert_eq!(rig.listener.counters.snapshot().empty_frames, 1);
}

#[test]
fn a_long_alert_is_cut_and_one_whose_sender_leaves_is_kept() {
    let mut options = Options::default();
    options.limits.message_bytes_max = 1000;
    let mut rig = Rig::start(Protocol::Http(HttpSettings::new(HttpSender::Falco)), &options);
    let (reply, got) = rig.exchange("", &vec![b'x'; 200_000], 1);
    assert_eq!((reply.status, got[0].raw.len(), got[0].cut_from), (200, 1000, Some(200_000)));
    let posted = rig.raw(chunked("", &[&[b'y'; 700], &[b'z'; 700]]));
    let got = rig.take(1);
    assert_eq!((got[0].raw.len(), got[0].cut_from), (1000, Some(1400)));
    assert_eq!(posted.join().unwrap().status, 200);

    let mut stream = rig.connect();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{\"rule\":")
        .unwrap();
    rig.wait_for(|now| now.requests == 3);
    drop(stream);
    let got = rig.take(1);
    assert_eq!((&got[0].raw[..], got[0].cut_from), (&b"{\"rule\":"[..], Some(30)));
}

#[test]
fn a_full_buffer_makes_falco_wait_and_its_leaving_loses_nothing() {
    let options = Options { in_flight_bytes: 2048, ..Options::default() };
    let mut rig = Rig::start(Protocol::Http(HttpSettings::new(HttpSender::Falco)), &options);
    let first = rig.post("/", "", b"one");
    rig.wait_for(|now| now.messages == 1);
    let second = rig.post("/", "", b"two");
    let mut third = rig.connect();
    third.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nthree").unwrap();
    rig.wait_for(|now| now.waiting == 3);
    drop(third);
    rig.wait_for(|now| now.connections_open == 2);
    assert!(!first.is_finished() && !second.is_finished());
    let mut got = rig.take_raw(3);
    got.sort();
    assert_eq!(got, [&b"one"[..], b"three", b"two"]);
    assert_eq!((first.join().unwrap().status, second.join().unwrap().status), (200, 200));
}

#[test]
fn what_a_relay_gathered_is_cut_into_records() {
    let mut rig = Rig::http(HttpSettings::new(HttpSender::Fluent));
    let (a, b) = (&b"{\"date\":1.5,\"log\":\"a\\n\"}"[..], &b"{\"date\":2,\"b\":[1]}"[..]);
    for body in [[b"[", a, b",", b, b"]"].concat(), [a, b"\n", b, b"\n"].concat(), [a, b].concat()]
    {
        let (reply, got) = rig.exchange("Content-Type: application/json\r\n", &body, 2);
        assert_eq!((reply.status, raws(&got)), (200, vec![a, b]));
        assert!(!got[0].source.contains("tag="), "{}", got[0].source);
    }
    let (_, got) = rig.exchange("FLUENT-TAG: kube.var.log x\r\n", a, 1);
    assert!(got[0].source.ends_with(" tag=kube.var.log%20x"), "{}", got[0].source);
    let posted = rig.post("/kube.audit", "Content-Type: application/x-ndjson\r\n", a);
    assert!(rig.take(1)[0].source.ends_with(" tag=kube.audit"));
    assert_eq!(posted.join().unwrap().status, 200);
    let (reply, got) = rig.exchange("Content-Type: application/msgpack\r\n", b"\x92\x01", 1);
    assert_eq!((reply.status, got[0].stream), (415, Stream::Other));
}

#[test]
fn a_line_that_a_relay_wrapped_is_unwrapped_where_that_is_wanted() {
    let unwrap = Some("log".to_owned());
    let mut rig = Rig::http(HttpSettings { unwrap, ..HttpSettings::new(HttpSender::Fluent) });
    let event = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","s":"\u003c"}"#;
    let wrapped = serde_json::json!([{ "date": 1.5, "log": event }, { "other": 1 }]).to_string();
    let (reply, got) = rig.exchange("", wrapped.as_bytes(), 2);
    assert_eq!((reply.status, got[0].stream), (200, Stream::KubeAudit));
    assert_eq!(raws(&got), [event.as_bytes(), b"{\"other\":1}"]);
}

#[test]
fn probes_and_wrong_doors_are_answered() {
    let path = Some("/audit".to_owned());
    let mut rig = Rig::http(HttpSettings { path, ..kube() });
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    assert_eq!(rig.raw(get("/healthz")).join().unwrap().status, 200);
    let reply = rig.raw(get("/audit")).join().unwrap();
    assert_eq!(reply.status, 405);
    assert!(reply.head.to_ascii_lowercase().contains("allow: post, put"), "{}", reply.head);
    let body = list(&[b"{}".to_vec()]);
    assert_eq!(rig.post_and_wait("/other", "", &body).status, 404);
    let posted = rig.post("/audit", "", &body);
    assert_eq!(rig.take_raw(1), [b"{}"]);
    assert_eq!(posted.join().unwrap().status, 200);
    assert_eq!(rig.listener.counters.snapshot().requests_bad, 2);
}

#[test]
fn slow_heads_and_bodies_end_and_idle_connections_stay() {
    let mut options = Options::default();
    options.limits.message_timeout = Duration::from_millis(60);
    let rig = Rig::start(Protocol::Http(kube()), &options);
    let idle = rig.connect();
    let mut head = rig.connect();
    head.write_all(b"POST / HTTP/1.1\r\nHost:").unwrap();
    head.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(!matches!(head.read(&mut [0]), Ok(1..)));
    let mut body = rig.connect();
    body.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{").unwrap();
    assert_eq!(reply(&mut body).status, 408);
    rig.wait_for(|now| now.slow_closes == 2 && now.connections_open == 1);
    drop(idle);
}

#[test]
fn what_is_not_http_or_too_much_of_it_ends_its_connection_alone() {
    let mut rig = Rig::http(kube());
    let many = "another: x\r\n".repeat(200);
    let body = list(&[b"{}".to_vec()]);
    for (bytes, status) in [
        (format!("POST / HTTP/1.1\r\nHost: x\r\n{many}\r\n").into_bytes(), Some(431)),
        (
            format!("POST / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes(),
            Some(431),
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00 a TLS client".to_vec(), Some(400)),
        (b"<34>1 - - - - - - a syslog sender\n\n".to_vec(), Some(400)),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            Some(400),
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"
                .to_vec(),
            Some(400),
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}".to_vec(), Some(400)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), None),
    ] {
        let mut stream = rig.connect();
        let mut sending = stream.try_clone().unwrap();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        std::thread::spawn(move || sending.write_all(&bytes));
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A reset may follow the answer, since not all was read.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        if let Some(status) = status {
            let said = answer.split(' ').nth(1).and_then(|said| said.parse().ok());
            // A reset can overtake an answer.
            assert!(said == Some(status) || answer.is_empty(), "{shown}: {answer}");
        }
    }
    rig.wait_for(|now| now.connections_open == 0 && now.requests_bad >= 7);
    assert_eq!(rig.exchange("", &body, 1).0.status, 200);
}

#[test]
fn a_length_that_lies_keeps_the_next_request_out() {
    let mut rig = Rig::http(kube());
    let body = list(&[b"{}".to_vec()]);
    // Shorter than the body: the rest is taken for a request, which it is not.
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len() - 3);
    let posted = rig.raw([head.as_bytes(), &body].concat());
    assert_eq!(rig.take(1)[0].stream, Stream::Other);
    assert_eq!(posted.join().unwrap().status, 400);
    // Longer: the sender leaves before all has come, and nothing is taken.
    let mut stream = rig.connect();
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len() + 3);
    stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    rig.wait_for(|now| now.requests >= 2);
    drop(stream);
    rig.wait_for(|now| now.connections_open == 0);
    assert_eq!(rig.listener.counters.snapshot().messages, 1);
}

#[test]
fn a_stopping_listener_answers_what_is_on_its_way() {
    let rig = Rig::http(kube());
    let idle = rig.connect();
    let posted = rig.post("/", "", &list(&[b"{}".to_vec()]));
    rig.wait_for(|now| now.messages == 1);
    rig.stop.send(true).unwrap();
    let Rig { runtime, receiver, listener, .. } = rig;
    let RequestKind::Batch(batch) = receiver.recv(Some(PATIENCE)).unwrap().kind else {
        panic!("a batch");
    };
    batch.committed.unwrap().send(()).unwrap();
    assert_eq!(posted.join().unwrap().status, 200);
    runtime.block_on(listener.task).unwrap().unwrap();
    drop(idle);
}

#[test]
fn all_samples_arrive_byte_by_byte() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    if !samples.is_dir() {
        eprintln!("skipped: no samples at {}", samples.display());
        return;
    }
    let lines = |folder: &str, keep: fn(&[u8]) -> bool| {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for kind in ["licensed", "no-licence"] {
            for entry in std::fs::read_dir(samples.join(folder).join(kind)).unwrap().flatten() {
                if entry.path().is_file() {
                    let text = std::fs::read(entry.path()).unwrap();
                    let found = text.split(|&byte| byte == b'\n').filter(|line| keep(line));
                    lines.extend(found.map(<[u8]>::to_vec));
                }
            }
        }
        lines
    };
    let is_json = |line: &[u8]| {
        serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|value| value.is_object())
    };
    let events = lines("k8s-audit", is_json);
    let mut rig = Rig::http(kube());
    for batch in events.chunks(400) {
        let (reply, got) = rig.exchange("", &list(batch), batch.len());
        assert_eq!(reply.status, 200);
        assert!(got.iter().zip(batch).all(|(got, sent)| got.raw == *sent));
    }
    let alerts = lines("falco", |line| !line.is_empty());
    let mut rig = Rig::http(HttpSettings::new(HttpSender::Falco));
    for alert in &alerts {
        let (reply, got) = rig.exchange("Content-Type: application/json\r\n", alert, 1);
        assert_eq!((reply.status, &got[0].raw), (200, alert));
    }
    let mut rig = Rig::http(HttpSettings::new(HttpSender::Fluent));
    let json: Vec<Vec<u8>> =
        events.into_iter().chain(alerts).filter(|line| is_json(line)).collect();
    for (at, batch) in json.chunks(500).enumerate() {
        let body = match at % 3 {
            0 => [&b"["[..], &batch.join(&b','), b"]"].concat(),
            1 => batch.join(&b'\n'),
            _ => batch.concat(),
        };
        let (reply, got) = rig.exchange("", &body, batch.len());
        assert_eq!(reply.status, 200);
        assert!(got.iter().zip(batch).all(|(got, sent)| got.raw.trim_ascii() == sent.trim_ascii()));
    }
    println!("{} events and alerts", json.len());
}
