//! The TCP carrier and receiver: straight, through a proxy that fails, and as syslog through rsyslog.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use tests::agents::Site;
use tests::crossing::Crossing;
use tests::oracle::Oracle;
use tests::peers::Rsyslog;
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

use crate::proxy::{Faults, Proxy};
use crate::{cross, details, finish, link_key, trouble};

fn carrier(crossing: &Crossing, to: SocketAddr, more: &str) -> String {
    let key = link_key(crossing.sandbox.path());
    format!(
        "[[carrier]]\nname = \"proxy\"\ntype = \"tcp\"\nconnect = \"{to}\"\nkey-file = \"{}\"\nidle-close = \"300ms\"\n{more}\n",
        key.display()
    )
}

fn receiver(crossing: &Crossing, at: SocketAddr, more: &str) -> String {
    let key = link_key(crossing.sandbox.path());
    format!(
        "[[receiver]]\nname = \"proxy\"\ntype = \"tcp\"\nbind = \"{at}\"\nkey-file = \"{}\"\n{more}\n",
        key.display()
    )
}

fn configure(crossing: &Crossing, records_max: u64, carrier: &str, receiver: &str) {
    let high = format!("{}{}{carrier}", Crossing::seal_soon(records_max), crossing.listener());
    crossing.pair.high.configure(&high);
    let low = format!("{}{receiver}{}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
}

const QUICK: &str = "repeat-interval = \"100ms\"";

fn start(crossing: &Crossing) -> [tests::process::Process; 2] {
    [crossing.pair.high.start(), crossing.pair.low.start()]
}

fn number(site: &Site, field: &str) -> u64 {
    details(&site.status(), "receivers")[field].as_u64().unwrap_or(0)
}

#[test]
fn bundles_cross_a_tcp_stream_and_repeats_cost_nothing() {
    let crossing = Crossing::new("stream");
    let at = free_address();
    configure(&crossing, 100, &carrier(&crossing, at, QUICK), &receiver(&crossing, at, ""));
    let agents = start(&crossing);
    let mut oracle = Oracle::new();
    cross(&crossing, &mut oracle, 1000);
    cross(&crossing, &mut oracle, 10);
    wait_until(PATIENCE, "the second pass to be counted", || {
        number(&crossing.pair.low, "repeated-pieces") > 0
    });
    let low = crossing.pair.low.status();
    assert_eq!(low["duplicate"], 0, "{low:#}");
    finish(&crossing, agents, &[]);
}

#[test]
fn what_a_proxy_leaves_out_alters_and_breaks_comes_with_the_next_pass() {
    let crossing = Crossing::new("stream-lossy");
    let (front, back) = (free_address(), free_address());
    let faults = Faults {
        // Holes of whole frames and within frames, and one over the first frame's header.
        holes: vec![40..90, 70_000..140_000, 200_000..200_001, 300_000..310_000],
        altered: vec![150_000, 150_001, 250_000],
        breaks: vec![180_000, 320_000],
    };
    let proxy = Proxy::start(front, back, faults);
    // What a broken connection lost is sent again from the start.
    let carrier = carrier(&crossing, front, "repeat-interval = \"100ms\"\nrepeats = 3");
    configure(&crossing, 20_000, &carrier, &receiver(&crossing, back, ""));
    let agents = start(&crossing);
    cross(&crossing, &mut Oracle::new(), 8000);
    assert!(proxy.given() > 330_000, "all faults were met: {}", proxy.given());
    wait_until(PATIENCE, "the damage to be counted", || {
        let low = crossing.pair.low.status();
        let refused = &details(&low, "receivers")["refused"];
        refused["frame-damaged"].as_u64() > Some(0) && refused["no-frame"].as_u64() > Some(0)
    });
    assert_eq!(crossing.pair.low.status()["quarantined"], 0);
    finish(&crossing, agents, &[]);
}

#[test]
fn killed_in_the_middle_on_both_sides_it_goes_on_from_what_is_there() {
    let crossing = Crossing::new("stream-killed");
    let at = free_address();
    // Short connections, of which the bundle needs several.
    let more = "repeat-interval = \"100ms\"\nrate = \"200KiB\"\nconnection-bytes-max = \"256KiB\"";
    let carrier = carrier(&crossing, at, more);
    configure(&crossing, 20_000, &carrier, &receiver(&crossing, at, ""));
    let [high, low] = start(&crossing);
    let mut oracle = Oracle::new();
    let ids = oracle.issue(8000);
    crossing.send(ids.clone());
    oracle.taken(ids);
    let site = &crossing.pair.low;
    wait_until(PATIENCE, "a first part on disk", || number(site, "unfinished-bytes") > 100_000);
    low.kill();
    let low = site.start();
    wait_until(PATIENCE, "what was there to be there", || {
        number(site, "unfinished-bytes") > 100_000 || site.status()["received"] != 0
    });
    high.kill();
    let high = crossing.pair.high.start();
    cross(&crossing, &mut oracle, 1);
    let duplicates = site.status()["duplicate"].as_u64();
    assert!(duplicates <= Some(1), "{duplicates:?}");
    finish(&crossing, [high, low], &[]);
}

#[test]
fn strangers_and_replays_cost_nothing() {
    let crossing = Crossing::new("stream-hostile");
    let (front, back) = (free_address(), free_address());
    let proxy = Proxy::start(front, back, Faults::default());
    let receiver = receiver(&crossing, back, "connections-max = 4");
    configure(&crossing, 100, &carrier(&crossing, front, QUICK), &receiver);
    let agents = start(&crossing);
    let mut oracle = Oracle::new();
    cross(&crossing, &mut oracle, 300);
    let captured = proxy.kept.lock().expect("no panic holds it").clone();
    let stranger = || TcpStream::connect(back).expect("the receiver listens");
    // More connections than are allowed, all of them silent in the middle of a frame.
    let mut silent: Vec<TcpStream> = (0..20).map(|_| stranger()).collect();
    for stream in &mut silent {
        // The oldest ones were closed already.
        let _ = stream.write_all(&captured[..200]);
    }
    // Noise, beginnings of frames, and a header with bodies that are not its own.
    let mut noise: Vec<u8> =
        (0..2_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for at in (0..noise.len() - 100).step_by(64) {
        noise[at..at + 16].copy_from_slice(&captured[..16]);
    }
    let hello = captured.windows(8).skip(1).position(|bytes| bytes == &captured[..8]).unwrap() + 1;
    let header = &captured[hello..hello + 88];
    for at in (0..50_000).step_by(100) {
        noise[at..at + 88].copy_from_slice(header);
    }
    let mut stream = stranger();
    // It may be given up on the way.
    let _ = stream.write_all(&noise);
    drop(stream);
    // What came before comes again, word for word.
    stranger().write_all(&captured).expect("a replay is taken");
    wait_until(PATIENCE, "all of it to be counted", || {
        let low = crossing.pair.low.status();
        let details = details(&low, "receivers");
        let refused = |code: &str| details["refused"][code].as_u64() > Some(0);
        refused("no-frame") && refused("frame-damaged") && refused("header-not-authentic")
    });
    cross(&crossing, &mut oracle, 300);
    let low = crossing.pair.low.status();
    assert_eq!((&low["duplicate"], &low["quarantined"]), (&0.into(), &0.into()), "{low:#}");
    assert_eq!(details(&low, "receivers")["unfinished-bundles"], 0, "{low:#}");
    finish(&crossing, agents, &[]);
}

#[test]
fn a_key_that_is_another_is_told_on_the_low_side() {
    let crossing = Crossing::new("stream-key");
    let at = free_address();
    let other = crossing.sandbox.dir("other");
    let key = link_key(&other);
    std::fs::write(&key, "ab".repeat(32)).unwrap();
    let own = link_key(crossing.sandbox.path()).display().to_string();
    let receiver = receiver(&crossing, at, "").replace(&own, &key.display().to_string());
    configure(&crossing, 100, &carrier(&crossing, at, QUICK), &receiver);
    let agents = start(&crossing);
    let mut oracle = Oracle::new();
    let ids = oracle.issue(10);
    crossing.send(ids);
    wait_until(PATIENCE, "a word about the keys", || {
        trouble(&crossing.pair.low.status(), "receivers").contains("the keys differ")
    });
    drop(agents);
}

#[test]
fn a_proxy_that_is_away_or_takes_nothing_is_told_and_waited_for() {
    let crossing = Crossing::new("stream-away");
    let (front, back) = (free_address(), free_address());
    let carrier =
        carrier(&crossing, front, "repeat-interval = \"100ms\"\nstall-timeout = \"500ms\"");
    configure(&crossing, 20_000, &carrier, &receiver(&crossing, back, ""));
    let agents = start(&crossing);
    let mut oracle = Oracle::new();
    let ids = oracle.issue(8000);
    crossing.send(ids.clone());
    oracle.taken(ids);
    let told = |text: &str| {
        wait_until(PATIENCE, text, || {
            trouble(&crossing.pair.high.status(), "carriers").contains(text)
        });
    };
    told("can't connect");
    // It listens, and takes nothing.
    let stalled = std::net::TcpListener::bind(front).expect("the port is free");
    let held = stalled.accept().expect("the carrier connects");
    told("takes no bytes");
    drop(held);
    let _proxy = Proxy::over(stalled, back, Faults::default());
    cross(&crossing, &mut oracle, 1);
    finish(&crossing, agents, &[]);
}

/// A relay that passes messages on as they came, over TCP.
#[test]
fn as_syslog_over_tcp_through_rsyslog_as_it_came() {
    let crossing = Crossing::new("syslog-tcp");
    let (front, back) = (free_address(), free_address());
    let _relay = Rsyslog::new(&crossing.sandbox.dir("relay"))
        .listen_tcp(front)
        .with(&format!(
            "template(name=\"asis\" type=\"string\" string=\"%rawmsg%\")\n\
             action(type=\"omfwd\" target=\"{}\" port=\"{}\" protocol=\"tcp\" template=\"asis\" \
             tcp_framing=\"octet-counted\" action.resumeRetryCount=\"-1\" action.resumeInterval=\"1\")",
            back.ip(),
            back.port()
        ))
        .start();
    let syslog = "framing = \"syslog\"";
    let carrier = carrier(&crossing, front, &format!("{QUICK}\n{syslog}"));
    configure(&crossing, 100, &carrier, &receiver(&crossing, back, syslog));
    let agents = start(&crossing);
    cross(&crossing, &mut Oracle::new(), 1000);
    let low = crossing.pair.low.status();
    assert_eq!(low["quarantined"], 0, "{low:#}");
    finish(&crossing, agents, &[]);
}

/// A relay that writes headers of its own, over datagrams.
#[test]
fn as_syslog_over_udp_through_rsyslog_with_other_headers() {
    let crossing = Crossing::new("syslog-udp");
    let (front, back) = (free_address(), free_address());
    let _relay = Rsyslog::new(&crossing.sandbox.dir("relay"))
        .with(&format!(
            "module(load=\"imudp\")\ninput(type=\"imudp\" address=\"{}\" port=\"{}\")\n\
             action(type=\"omfwd\" target=\"{}\" port=\"{}\" protocol=\"udp\" \
             template=\"RSYSLOG_SyslogProtocol23Format\")",
            front.ip(),
            front.port(),
            back.ip(),
            back.port()
        ))
        .start();
    let syslog = "framing = \"syslog\"\ntransport = \"udp\"";
    let more = format!(
        "repeat-interval = \"200ms\"\nrepeats = 6\n{syslog}\nmessage-bytes-max = \"1400B\"\nrate = \"512KiB\""
    );
    configure(
        &crossing,
        100,
        &carrier(&crossing, front, &more),
        &receiver(&crossing, back, syslog),
    );
    let agents = start(&crossing);
    cross(&crossing, &mut Oracle::new(), 300);
    finish(&crossing, agents, &[]);
}
