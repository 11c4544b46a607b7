//! What happens at each limit.

use std::io::Read;

use super::*;

fn short(change: impl Fn(&mut Limits)) -> Options {
    let mut limits = Limits::default();
    change(&mut limits);
    Options { limits, ..Options::default() }
}

fn closed_by_peer(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A reset is as good as an end.
    !matches!(stream.read(&mut [0]), Ok(1..))
}

#[test]
fn a_full_buffer_stops_the_reading_and_nothing_is_lost() {
    let options = Options { in_flight_bytes: 16 << 10, ..Options::default() };
    let mut rig = Rig::start(Protocol::Tcp, &options);
    let line = |at: usize| format!("<34>1 - - - - - - {at:0>700}");
    let count = 20_000;
    let bytes = (0..count).flat_map(|at| format!("{}\n", line(at)).into_bytes()).collect();
    let sender = rig.send(bytes);
    rig.wait_for(|now| now.waiting == 1);
    // Fourteen megabytes do not fit the sockets: the sender waits too.
    assert!(!sender.is_finished());
    let got = rig.take_raw(count);
    assert!(got.iter().enumerate().all(|(at, raw)| raw == line(at).as_bytes()));
    sender.join().unwrap();
    let end = rig.wait_for(|now| now.waiting == 0);
    assert!(end.waited_secs > 0.0);
}

#[test]
fn long_messages_share_little_memory_and_stay_in_frame() {
    let options = Options { read_memory_bytes: 64 << 10, ..Options::default() };
    let mut rig = Rig::start(Protocol::Tcp, &options);
    let max = Limits::default().message_bytes_max;
    let long = vec![b'x'; max + 12_345];
    let mut senders = Vec::new();
    for counted in [true, false, true, false] {
        let mut bytes = Vec::new();
        for message in [&long[..], b"<34>between", &long[..max], b"<34>last"] {
            let message = [b"<1>", message].concat();
            if counted {
                bytes.extend_from_slice(format!("{} ", message.len()).as_bytes());
            }
            bytes.extend_from_slice(&message);
            if !counted {
                bytes.push(b'\n');
            }
        }
        senders.push(rig.send(bytes));
    }
    let mut got = rig.take(16);
    got.sort_by(|a, b| a.source.cmp(&b.source));
    for four in got.chunks(4) {
        let seen: Vec<_> = four.iter().map(|got| (got.raw.len(), got.cut_from)).collect();
        let cut = |length: usize| (max, Some(length as u64));
        assert_eq!(seen, [cut(max + 12_348), (14, None), cut(max + 3), (11, None)]);
    }
    assert_eq!(rig.listener.counters.snapshot().truncated, 8);
}

#[test]
fn a_message_that_does_not_end_is_kept_and_its_connection_closed() {
    let options = short(|limits| limits.message_timeout = Duration::from_millis(50));
    let mut rig = Rig::start(Protocol::Tcp, &options);
    let mut stream = rig.connect();
    stream.write_all(b"<34>whole\n<34>half").unwrap();
    assert_eq!(rig.take_raw(2), [b"<34>whole".to_vec(), b"<34>half".to_vec()]);
    assert!(closed_by_peer(&mut stream));
    rig.wait_for(|now| now.slow_closes == 1 && now.connections_open == 0);
}

#[test]
fn an_idle_connection_is_closed_and_counted() {
    let options = short(|limits| limits.idle_timeout = Duration::from_millis(50));
    let rig = Rig::start(Protocol::Tcp, &options);
    assert!(closed_by_peer(&mut rig.connect()));
    rig.wait_for(|now| now.idle_closes == 1 && now.connections_open == 0);
}

#[test]
fn one_connection_too_many_is_refused_and_the_others_go_on() {
    let options = short(|limits| limits.connections_max = 1);
    let mut rig = Rig::start(Protocol::Tcp, &options);
    let mut first = rig.connect();
    rig.wait_for(|now| now.connections_open == 1);
    assert!(closed_by_peer(&mut rig.connect()));
    first.write_all(b"<34>still here\n").unwrap();
    assert_eq!(rig.take_raw(1), [b"<34>still here"]);
    rig.wait_for(|now| now.connections_refused == 1);
}

#[test]
fn empty_lines_are_counted_and_not_stored() {
    let mut rig = Rig::start(Protocol::Tcp, &Options::default());
    rig.send(b"\n\n<34>a\n\0\n<34>b\n".to_vec());
    assert_eq!(rig.take_raw(2), [b"<34>a", b"<34>b"]);
    assert_eq!(rig.listener.counters.snapshot().empty_frames, 4);
}

#[test]
fn a_stopping_listener_hands_over_all_that_had_come() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let rig = Rig::start(protocol.clone(), &Options::default());
        let messages: Vec<_> = (0..100).map(|at| format!("<34>{at}").into_bytes()).collect();
        let mut stream = None;
        if matches!(protocol, Protocol::Udp) {
            let client = rig.udp_client();
            for message in &messages {
                client.send(message).unwrap();
            }
        } else {
            let mut open = rig.connect();
            rig.wait_for(|now| now.connections_open == 1);
            open.write_all(&messages.join(&b'\n')).unwrap();
            stream = Some(open);
        }
        assert_eq!(rig.stop(), messages);
        drop(stream);
    }
}

#[test]
fn datagrams_that_the_kernel_drops_are_declared() {
    let mut options = short(|limits| limits.receive_buffer_bytes = 16 << 10);
    options.in_flight_bytes = 4 << 10;
    let mut rig = Rig::start(Protocol::Udp, &options);
    let client = rig.udp_client();
    let count = 2000;
    let message = [b'x'; 700];
    for _ in 0..count {
        client.send(&message).unwrap();
    }
    let mut out = Vec::new();
    rig.drain_while(&mut out, |out, lost| out.len() as u64 + lost < count);
    assert!(rig.lost > 0);
    assert_eq!(out.len() as u64 + rig.lost, count);
    assert_eq!(rig.listener.counters.snapshot().datagrams_lost, rig.lost);
}

#[test]
fn a_datagram_over_the_limit_is_cut_and_an_empty_one_counted() {
    let options = short(|limits| limits.message_bytes_max = 10);
    let mut rig = Rig::start(Protocol::Udp, &options);
    let client = rig.udp_client();
    client.send(b"").unwrap();
    client.send(b"0123456789abc\n").unwrap();
    let got = rig.take(1);
    assert_eq!((&got[0].raw[..], got[0].cut_from), (&b"0123456789"[..], Some(14)));
    let peer = client.local_addr().unwrap();
    assert_eq!(got[0].source, format!("test {peer}"));
    rig.wait_for(|now| now.empty_frames == 1 && now.truncated == 1);
}
