//! Real senders: rsyslog, logger, openssl.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::crossing::{Arrived, Crossing, assert_sound, assert_unaltered};
use tests::load::{Plan, Pool, Target, TlsFiles, send};
use tests::logs::assert_no_unlisted_errors;
use tests::oracle::{Oracle, find_id};
use tests::peers::{Authority, Certificate, Rsyslog, logger, openssl_send};
use tests::process::Process;
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

/// A listener of any kind, in the quick lane.
pub(crate) fn listener(name: &str, protocol: &str, bind: SocketAddr, more: &str) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nbind = \"{bind}\"\nlane = \"flash\"\n{more}"
    )
}

/// The TLS keys of a listener that asks for client certificates.
pub(crate) fn tls_keys(server: &Certificate, authority: &Authority) -> String {
    format!(
        "certificate = \"{}\"\nkey = \"{}\"\nclient-auth = \"required\"\nclient-ca = \"{}\"\n",
        server.cert.display(),
        server.key.display(),
        authority.ca().display()
    )
}

/// For what must cross byte for byte whatever it says: odd messages have words in them that redaction
/// takes for secrets.
pub(crate) const NOTHING_REDACTED: &str = "[guard]\ndefault-redactions = false\n";

/// Both agents, with these listeners.
pub(crate) fn start(crossing: &Crossing, listeners: &str) -> [Process; 2] {
    let high = format!("{}{}{listeners}", Crossing::seal_soon(1000), crossing.handoff());
    crossing.pair.high.configure(&high);
    let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
    [crossing.pair.high.start(), crossing.pair.low.start()]
}

/// Waits until so many records were delivered, stops both agents, and checks what any run must
/// fulfil.
pub(crate) fn finish(crossing: &Crossing, agents: [Process; 2], records: u64) -> Arrived {
    wait_until(PATIENCE, &format!("{records} records delivered"), || {
        crossing.pair.low.status()["sinks"][0]["delivered"].as_u64() >= Some(records)
    });
    assert_eq!(crossing.wait_drained(), records);
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    for site in [&crossing.pair.high, &crossing.pair.low] {
        assert_eq!(site.status()["adds-up"], true, "{}", site.status());
        assert_no_unlisted_errors(&site.log_path(), &[]);
    }
    assert_sound(&crossing.events())
}

/// A counter of a listener, as its status says.
fn counter(crossing: &Crossing, listener: &str, counter: &str) -> u64 {
    let status = crossing.pair.high.status();
    let listeners = status["live"]["listeners"].as_array().cloned().unwrap_or_default();
    let found = listeners.iter().find(|found| found["name"] == listener);
    found.and_then(|found| found["counters"][counter].as_u64()).unwrap_or(0)
}

fn of_listener<'a>(arrived: &'a Arrived, name: &str) -> Vec<&'a Value> {
    arrived.events.values().filter(|event| event["listener"] == name).collect()
}

#[test]
fn rsyslog_comes_in_over_mutual_tls_and_its_subject_is_kept() {
    let crossing = Crossing::new("rsyslog-in");
    let authority = Authority::new(&crossing.sandbox.dir("ca"));
    let (address, front) = (free_address(), free_address());
    let keys = tls_keys(&authority.server("penstock"), &authority);
    let agents = start(&crossing, &listener("tls", "tls", address, &keys));
    let rsyslog = Rsyslog::new(&crossing.sandbox.dir("rsyslog"))
        .tls(authority.ca(), &authority.client("edge-rsyslog"))
        .listen_tcp(front)
        .forward_tls(address, "localhost");
    let _rsyslog = rsyslog.start();

    let mut oracle = Oracle::new();
    let ids = oracle.issue(500);
    send(&Plan::new(Target::Tcp(front), 500)).unwrap();
    oracle.taken(ids);
    let arrived = finish(&crossing, agents, 500);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    for event in of_listener(&arrived, "tls") {
        let subject = event["tls-subject"].as_str().unwrap_or_default();
        assert!(subject.contains("CN=edge-rsyslog"), "{event}");
        assert_eq!(event["stream"], "portainer-activity", "{event}");
    }
}

#[test]
fn logger_comes_in_over_udp_and_tcp_in_both_framings() {
    let crossing = Crossing::new("logger-in");
    let (udp, tcp) = (free_address(), free_address());
    let listeners = listener("udp", "udp", udp, "") + &listener("tcp", "tcp", tcp, "");
    let agents = start(&crossing, &listeners);
    let mut oracle = Oracle::new();
    for (address, options) in [
        (udp, &["--udp", "--rfc5424"][..]),
        (udp, &["--udp", "--rfc3164"]),
        (tcp, &["--tcp", "--rfc5424", "--octet-count"]),
        (tcp, &["--tcp", "--rfc3164", "--octet-count"]),
        (tcp, &["--tcp", "--rfc5424"]),
        (tcp, &["--tcp", "--rfc3164"]),
    ] {
        for id in oracle.issue(3) {
            let text = format!("{} from logger {options:?}", tests::oracle::id_text(id));
            logger(address, options, &text).success();
            oracle.taken([id]);
        }
    }
    let arrived = finish(&crossing, agents, 18);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    assert_eq!(of_listener(&arrived, "udp").len(), 6);
    for event in arrived.events.values() {
        let message = event["envelope"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("from logger"), "{event}");
        assert_eq!(event["stream"], "other");
    }
}

#[test]
fn openssl_comes_in_with_a_certificate_and_is_refused_without() {
    let crossing = Crossing::new("openssl-in");
    let authority = Authority::new(&crossing.sandbox.dir("ca"));
    let strangers = Authority::new(&crossing.sandbox.dir("strangers"));
    let address = free_address();
    let keys = tls_keys(&authority.server("penstock"), &authority);
    let agents = start(&crossing, &listener("tls", "tls", address, &keys));
    let client = authority.client("probe");
    let mut oracle = Oracle::new();
    for id in oracle.issue(5) {
        let line = [&Pool::message(id, None)[..], b"\n"].concat();
        openssl_send(address, authority.ca(), Some(&client), &line).success();
        oracle.taken([id]);
    }
    let stranger = strangers.client("probe");
    for (at, certificate) in [(1, None), (2, Some(&stranger))] {
        let id = oracle.issue(1).start;
        let line = [&Pool::message(id, None)[..], b"\n"].concat();
        // In TLS 1.3 a client believes itself connected before its certificate is judged.
        let _ = openssl_send(address, authority.ca(), certificate, &line);
        wait_until(PATIENCE, "a failed handshake", || {
            counter(&crossing, "tls", "handshake-failures") == at
        });
    }
    let arrived = finish(&crossing, agents, 5);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    assert_unaltered(&arrived);
    for event in arrived.events.values() {
        assert!(event["tls-subject"].as_str().is_some_and(|subject| subject.contains("CN=probe")));
    }
}

#[test]
fn a_new_certificate_is_taken_up_and_no_connection_dropped() {
    let crossing = Crossing::new("reload");
    let authority = Authority::new(&crossing.sandbox.dir("ca"));
    let address = free_address();
    let (old, new) = (authority.server("old"), authority.server("new"));
    let used = Certificate {
        cert: crossing.sandbox.join("used.pem"),
        key: crossing.sandbox.join("used.key"),
    };
    let put = |from: &Certificate| {
        fs::copy(&from.cert, &used.cert).unwrap();
        fs::copy(&from.key, &used.key).unwrap();
    };
    put(&old);
    let keys = tls_keys(&used, &authority);
    let [mut high, low] = start(&crossing, &listener("tls", "tls", address, &keys));
    let client = authority.client("portainer");
    let pair =
        |client: &Certificate| -> (PathBuf, PathBuf) { (client.cert.clone(), client.key.clone()) };
    let files = TlsFiles {
        ca: authority.ca().to_owned(),
        client: Some(pair(&client)),
        server_name: "localhost".to_owned(),
    };
    let plan = Plan { rate: Some(500), ..Plan::new(Target::Tls(address, files), 1000) };
    let report = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&plan).unwrap());
        wait_until(PATIENCE, "the first records", || counter(&crossing, "tls", "messages") > 0);
        let shown = |id| {
            let line = [&Pool::message(id, None)[..], b"\n"].concat();
            let done = openssl_send(address, authority.ca(), Some(&client), &line);
            assert_eq!(done.code, Some(0), "{done:?}");
            done.stderr
        };
        assert!(shown(2001).contains("old"));
        put(&new);
        high.signal(Signal::SIGHUP);
        high.wait_for_log(PATIENCE, "certificate loaded again");
        assert!(shown(2002).contains("new"));
        // A file that is no certificate changes nothing.
        fs::write(&used.cert, "no certificate").unwrap();
        high.signal(Signal::SIGHUP);
        high.wait_for_log(PATIENCE, "the old one stays");
        assert!(shown(2003).contains("new"));
        assert!(!sender.is_finished(), "too short to tell");
        sender.join().unwrap()
    });
    assert_eq!(report.segments.len(), 1, "{report:?}");
    assert_eq!(report.segments[0].broken, None);
    wait_until(PATIENCE, "all delivered", || {
        crossing.pair.low.status()["sinks"][0]["delivered"].as_u64() >= Some(1003)
    });
    crossing.wait_drained();
    assert!(high.stop(PATIENCE).success() && low.stop(PATIENCE).success());
    assert_no_unlisted_errors(&crossing.pair.high.log_path(), &["the old one stays"]);
    let arrived = assert_sound(&crossing.events());
    assert_eq!(arrived.ids.len(), 1003);
    assert_unaltered(&arrived);
}

#[test]
fn a_message_that_is_too_long_is_cut_and_marked_and_its_neighbours_stay_whole() {
    let crossing = Crossing::new("oversize");
    let address = free_address();
    let agents =
        start(&crossing, &listener("tcp", "tcp", address, "message-bytes-max = \"1KiB\"\n"));
    let before = Pool::message(1, Some(600));
    let long = Pool::message(2, Some(5000));
    let after = Pool::message(3, Some(700));
    let counted = |raw: &[u8]| [format!("{} ", raw.len()).as_bytes(), raw].concat();
    let line = |raw: &[u8]| [raw, b"\n"].concat();
    let mut stream = Vec::new();
    for raw in [&before, &long, &after] {
        stream.extend(counted(raw));
    }
    for raw in [&before, &long, &after] {
        stream.extend(line(raw));
    }
    super::samples::write_all(address, &stream);
    wait_until(PATIENCE, "6 records", || counter(&crossing, "tcp", "messages") == 6);
    assert_eq!(counter(&crossing, "tcp", "truncated"), 2);
    wait_until(PATIENCE, "6 records delivered", || {
        crossing.pair.low.status()["sinks"][0]["delivered"] == 6
    });
    drop(agents);
    let events = crossing.events();
    for (at, event) in events.iter().enumerate() {
        let raw = event["raw"].as_str().unwrap().as_bytes();
        let (whole, cut) = match at % 3 {
            0 => (&before, false),
            1 => (&long, true),
            _ => (&after, false),
        };
        assert_eq!(event["cut-from"].as_u64(), cut.then_some(5000), "{event}");
        let kept = if cut { &whole[..1024] } else { &whole[..] };
        assert!(raw == kept, "{event}");
        assert_eq!(find_id(raw).map(|(id, _)| id), Some(at as u64 % 3 + 1));
    }
    assert_eq!(events.len(), 6);
}
