//! Bundles handed over through what stands at real gaps: folders that an appliance empties, TCP
//! proxies, syslog relays.

mod appliance;
mod folder;
mod proxy;
mod stream;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::crossing::{Crossing, assert_sound, assert_unaltered};
use tests::logs::assert_no_unlisted_errors;
use tests::oracle::Oracle;
use tests::process::Process;
use tests::wait::PATIENCE;

/// A key file as `openssl rand -hex 32` makes it.
fn link_key(dir: &Path) -> PathBuf {
    let path = dir.join("link.key");
    fs::write(&path, format!("{}\n", "5a".repeat(32))).expect("a key can be written");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path, mode).expect("a key can be private");
    path
}

/// Sends records, waits until all are delivered, and judges.
fn cross(crossing: &Crossing, oracle: &mut Oracle, records: u64) {
    let ids = oracle.issue(records);
    crossing.send(ids.clone());
    oracle.taken(ids.clone());
    crossing.wait_committed(ids.end - 1);
    crossing.wait_drained();
    let arrived = assert_sound(&crossing.events());
    assert_unaltered(&arrived);
    oracle.judge(arrived.ids).assert_exactly_once();
}

/// What the first carrier or receiver says of itself.
fn details(status: &Value, kind: &str) -> Value {
    live(status)[kind][0]["counters"]["details"].clone()
}

/// What the running agent says: the two sides put it into different places.
fn live(status: &Value) -> &Value {
    if status["live"].is_object() { &status["live"] } else { &status["agent"] }
}

/// What the first carrier or receiver fails of.
fn trouble(status: &Value, kind: &str) -> String {
    let trouble = &live(status)[kind][0]["counters"]["trouble"];
    trouble.as_str().unwrap_or_default().to_owned()
}

/// Ends both agents in order; neither has complained of anything but what is listed, and of a bundle
/// that came before an earlier one: ways across a gap do not promise an order.
fn finish(crossing: &Crossing, agents: [Process; 2], listed: &[&str]) {
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    assert_eq!(crossing.pair.low.status()["adds-up"], true);
    for site in [&crossing.pair.high, &crossing.pair.low] {
        let listed = [listed, &["code=\"gap\""]].concat();
        assert_no_unlisted_errors(&site.log_path(), &listed);
    }
}
