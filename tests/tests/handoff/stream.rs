//! The TCP carrier and receiver.

use std::net::SocketAddr;

use tests::crossing::Crossing;
use tests::oracle::Oracle;
use tests::sandbox::free_address;

use crate::{cross, finish, link_key};

fn carrier(crossing: &Crossing, to: SocketAddr, more: &str) -> String {
    let key = link_key(crossing.sandbox.path());
    format!(
        "[[carrier]]\nname = \"proxy\"\ntype = \"tcp\"\nconnect = \"{to}\"\nkey-file = \"{}\"\nrepeat-interval = \"100ms\"\nidle-close = \"300ms\"\n{more}\n",
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

fn configure(crossing: &Crossing, carrier: &str, receiver: &str) {
    let high = format!("{}{}{carrier}", Crossing::seal_soon(100), crossing.listener());
    crossing.pair.high.configure(&high);
    let low = format!("{}{receiver}{}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
}

#[test]
fn bundles_cross_a_tcp_stream_and_repeats_cost_nothing() {
    let crossing = Crossing::new("stream");
    let at = free_address();
    configure(&crossing, &carrier(&crossing, at, "repeats = 2"), &receiver(&crossing, at, ""));
    let agents = [crossing.pair.high.start(), crossing.pair.low.start()];
    let mut oracle = Oracle::new();
    cross(&crossing, &mut oracle, 1000);
    cross(&crossing, &mut oracle, 10);
    let low = crossing.pair.low.status();
    let details = &low["agent"]["receivers"][0]["counters"]["details"];
    assert!(details["repeated-pieces"].as_u64() > Some(0), "{low:#}");
    assert_eq!(low["bundles"]["duplicate"].as_u64().unwrap_or(0), 0, "{low:#}");
    finish(&crossing, agents, &[]);
}
