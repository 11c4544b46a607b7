//! Real receivers: rsyslog over TCP and TLS, beside the file.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tests::crossing::{Crossing, assert_sound, assert_unaltered, pending};
use tests::logs::assert_no_unlisted_errors;
use tests::oracle::{Oracle, ids_of, lines_of};
use tests::peers::{Authority, Rsyslog};
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 400;

fn syslog_sink(name: &str, address: SocketAddr, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\ntype = \"syslog\"\naddress = \"{address}\"\nretry-min = \"50ms\"\nretry-max = \"200ms\"\n{more}"
    )
}

fn configure(crossing: &Crossing, sinks: &str) {
    let (seal, listener, handoff) =
        (Crossing::seal_soon(100), crossing.listener(), crossing.handoff());
    crossing.pair.high.configure(&format!("{seal}{listener}{handoff}"));
    let low = format!("{}{}{sinks}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
}

#[test]
fn rsyslog_gets_every_record_once_over_tcp_and_tls_as_json_and_as_it_was() {
    let crossing = Crossing::new("rsyslog-out");
    let authority = Authority::new(&crossing.sandbox.dir("ca"));
    let (server, client) = (authority.server("siem"), authority.client("penstock-low"));
    let receiver = |name: &str| Rsyslog::new(&crossing.sandbox.dir(name));
    let out = |name: &str| crossing.sandbox.join(format!("{name}.out"));
    let (tcp, tls, lf) = (free_address(), free_address(), free_address());
    let _receivers = [
        receiver("json").listen_tcp(tcp).write_message(&out("json")).start(),
        receiver("tls")
            .tls(authority.ca(), &server)
            .listen_tls(tls, true)
            .write_raw(&out("tls"))
            .start(),
        receiver("lf").listen_tcp(lf).write_raw(&out("lf")).start(),
    ];
    let tls_keys = format!(
        "transport = \"tls\"\nca-file = \"{}\"\ncert-file = \"{}\"\nkey-file = \"{}\"\nserver-name = \"localhost\"\nbody = \"original\"\n",
        authority.ca().display(),
        client.cert.display(),
        client.key.display()
    );
    let sinks = [
        syslog_sink("json", tcp, "transport = \"tcp\"\nbody = \"json\"\n"),
        syslog_sink("tls", tls, &tls_keys),
        syslog_sink("lf", lf, "transport = \"tcp\"\nbody = \"original\"\nframing = \"lf\"\n"),
    ];
    configure(&crossing, &sinks.concat());
    let agents = [crossing.pair.high.start(), crossing.pair.low.start()];
    let mut oracle = Oracle::new();
    let ids = oracle.issue(RECORDS);
    crossing.send(ids.clone());
    oracle.taken(ids);
    crossing.wait_committed(RECORDS);
    assert_eq!(crossing.wait_drained(), RECORDS);
    let arrived = assert_sound(&crossing.events());
    assert_unaltered(&arrived);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();

    for name in ["json", "tls", "lf"] {
        wait_until(PATIENCE, &format!("all in {name}"), || {
            ids_of(&out(name)).len() as u64 >= RECORDS
        });
        oracle.judge(ids_of(&out(name))).assert_exactly_once();
    }
    // The JSON event is the very one that stands in the file.
    let by_id: BTreeMap<&str, &Value> =
        arrived.events.values().map(|event| (event["id"].as_str().unwrap(), event)).collect();
    for line in lines_of(&out("json")) {
        // RFC 5424 separates the message from what is before it by a space, which rsyslog keeps.
        let event: Value = serde_json::from_slice(line.trim_ascii_start()).unwrap();
        assert_eq!(Some(&&event), by_id.get(event["id"].as_str().unwrap()));
    }
    for name in ["tls", "lf"] {
        for line in lines_of(&out(name)) {
            let line = String::from_utf8(line).unwrap();
            // The header has the record's id, and nothing else is changed.
            let (before, rest) = line.split_once("[penstock@32473 id=\"").expect("an id");
            let (record, behind) = rest.split_once("\"]").expect("the end of the element");
            let event = by_id.get(record).expect("a record of this id");
            // What rsyslog calls the raw message after the priority.
            let raw = event["raw"].as_str().unwrap();
            assert_eq!(format!("{before}-{behind}"), raw["<110>".len()..], "{name}");
        }
    }
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    assert_eq!(crossing.pair.low.status()["adds-up"], true);
    for site in [&crossing.pair.high, &crossing.pair.low] {
        assert_no_unlisted_errors(&site.log_path(), &[]);
    }
}

#[test]
fn a_receiver_that_is_away_gets_everything_later_and_holds_up_nobody() {
    let crossing = Crossing::new("away");
    let address = free_address();
    let out = crossing.sandbox.join("siem.out");
    let receiver =
        Rsyslog::new(&crossing.sandbox.dir("siem")).listen_tcp(address).write_message(&out);
    configure(
        &crossing,
        &syslog_sink("siem", address, "transport = \"tcp\"\nbatch-records = 50\n"),
    );
    let agents = [crossing.pair.high.start(), crossing.pair.low.start()];
    let mut oracle = Oracle::new();
    let mut send = |count| {
        let ids = oracle.issue(count);
        crossing.send(ids.clone());
        oracle.taken(ids);
    };
    send(RECORDS);
    wait_until(PATIENCE, "the file to have all", || crossing.events().len() as u64 >= RECORDS);
    let low = crossing.pair.low.status();
    assert_eq!(pending(&low), RECORDS, "{low}");

    let siem = receiver.start();
    wait_until(PATIENCE, "the receiver to have all", || ids_of(&out).len() as u64 >= RECORDS);
    wait_until(PATIENCE, "nothing pending", || pending(&crossing.pair.low.status()) == 0);
    // It goes away again, in the middle of nothing, and comes back.
    siem.kill();
    send(RECORDS);
    wait_until(PATIENCE, "the file to have all", || crossing.events().len() as u64 >= 2 * RECORDS);
    let _siem = receiver.start();
    assert_eq!(crossing.wait_drained(), 2 * RECORDS);
    wait_until(PATIENCE, "the receiver to have all", || ids_of(&out).len() as u64 >= 2 * RECORDS);
    let verdict = oracle.judge(ids_of(&out));
    assert!(verdict.lost.is_empty() && verdict.foreign.is_empty(), "{verdict}");
    oracle.judge(assert_sound(&crossing.events()).ids).assert_exactly_once();
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    assert_no_unlisted_errors(&crossing.pair.low.log_path(), &[]);
}
