//! The Forward protocol, to the listener of another high side: shared key, password, TLS, gzip.

use std::collections::BTreeMap;

use serde_json::Value;
use tests::crossing::{Crossing, assert_sound, pending};
use tests::logs::assert_no_unlisted_errors;
use tests::peers::Authority;
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

use crate::syslog::{cross, tls_keys};

const RECORDS: u64 = 1_000;

#[test]
fn every_record_arrives_once_with_a_shared_key_over_mutual_tls() {
    // Another pair of agents is the receiver: its high side answers a chunk once it is durable.
    let next = Crossing::new("forward-next");
    let authority = Authority::new(&next.sandbox.dir("ca"));
    let (server, client) = (authority.server("next"), authority.client("penstock-low"));
    let secret = |name: &str, text: &str| {
        let path = next.sandbox.join(name);
        shared::durable::write(&path, text.as_bytes(), 0o600).unwrap();
        path.display().to_string()
    };
    let (key, users) = (secret("key", "a shared key\n"), secret("users", "low:a password\n"));
    let password = secret("password", "a password\n");
    let (tls, plain) = (free_address(), free_address());
    let listeners = format!(
        "[[listener]]\nname = \"tls\"\nprotocol = \"fluent-forward\"\nbind = \"{tls}\"\nlane = \"flash\"\n\
         shared-key-file = \"{key}\"\nusers-file = \"{users}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\
         client-auth = \"required\"\nclient-ca = \"{}\"\n\
         [[listener]]\nname = \"plain\"\nprotocol = \"fluent-forward\"\nbind = \"{plain}\"\nlane = \"flash\"\n",
        server.cert.display(),
        server.key.display(),
        authority.ca().display(),
    );
    let high = format!("{}{}{listeners}", Crossing::seal_soon(500), next.handoff());
    next.pair.high.configure(&high);
    next.pair.low.configure(&format!("{}{}", Crossing::quick_inbox(), next.file_sink()));
    let _next = [next.pair.high.start(), next.pair.low.start()];

    let sink = |name: &str, address: std::net::SocketAddr, more: &str| {
        format!(
            "[[sink]]\nname = \"{name}\"\ntype = \"forward\"\naddress = \"{address}\"\n\
             retry-min = \"20ms\"\nretry-max = \"100ms\"\nchunk-bytes = \"64KiB\"\n{more}"
        )
    };
    let keys = tls_keys(authority.ca(), &client);
    let sinks = [
        sink(
            "tls",
            tls,
            &format!(
                "transport = \"tls\"\n{keys}gzip = true\nshared-key-file = \"{key}\"\nuser = \"low\"\n\
                 password-file = \"{password}\"\ntag = \"audit.{{stream}}\"\n"
            ),
        ),
        sink("plain", plain, "transport = \"tcp\"\nprivileged-only = false\n"),
    ];
    let (crossing, high, oracle) = cross("forward", &sinks.concat(), RECORDS, 200);
    let low = crossing.pair.low.start();
    assert_eq!(crossing.wait_drained(), RECORDS);
    wait_until(PATIENCE, "nothing pending", || pending(&crossing.pair.low.status()) == 0);
    assert_eq!(next.wait_drained(), 2 * RECORDS);

    let sent = assert_sound(&crossing.events());
    oracle.judge(sent.ids.iter().copied()).assert_exactly_once();
    let mut by_listener: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in next.events() {
        let mut inner: Value = serde_json::from_str(event["raw"].as_str().unwrap()).unwrap();
        // The listener writes the time of the entry into the record.
        let date = inner.as_object_mut().unwrap().remove("date").unwrap();
        assert_eq!(date, inner["event"]["time"]);
        let id = inner["id"].as_str().unwrap().to_owned();
        let found = sent.events.values().find(|event| event["id"] == id.as_str());
        assert_eq!(Some(&inner), found);
        let listener = event["listener"].as_str().unwrap().to_owned();
        by_listener.entry(listener).or_default().push(id);
    }
    assert_eq!(by_listener.len(), 2, "{:?}", by_listener.keys());
    let mut expected: Vec<String> =
        sent.events.values().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    expected.sort_unstable();
    for ids in by_listener.values_mut() {
        ids.sort_unstable();
        assert_eq!(*ids, expected);
    }
    for agent in [low, high] {
        assert!(agent.stop(PATIENCE).success());
    }
    for site in [&crossing.pair.low, &next.pair.high] {
        assert_no_unlisted_errors(&site.log_path(), &[]);
    }
}
