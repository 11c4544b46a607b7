//! Syslog over TCP, TLS and RELP, to rsyslog and to stand-ins that misbehave.

use std::net::SocketAddr;
use std::path::Path;

use nix::sys::signal::Signal;
use tests::crossing::{Crossing, assert_sound, pending};
use tests::logs::assert_no_unlisted_errors;
use tests::oracle::{Oracle, ids_of};
use tests::peers::{Authority, Certificate, Rsyslog};
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
