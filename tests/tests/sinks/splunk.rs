//! Splunk's HTTP Event Collector, as a stand-in as strict as its documents has it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tests::crossing::{Arrived, Crossing, assert_sound, assert_unaltered};
use tests::oracle::{Oracle, id_text};
use tests::peers::hec::{Fault, Hec, SEARCH_AUTHORIZATION};
use tests::peers::{Authority, Certificate};
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 2_000;
const BATCH: u64 = 300;
const TOKEN: &str = "8E5E0000-0000-4000-8000-000000000000";

/// Both agents, a collector's certificate, and the files of the sink.
struct Site {
    crossing: Crossing,
    certificate: Certificate,
    ca: PathBuf,
}

impl Site {
    fn new(name: &str) -> Self {
        let crossing = Crossing::new(name);
        crossing.configure(500);
        let authority = Authority::new(&crossing.sandbox.dir("authority"));
        let (certificate, ca) = (authority.server("hec"), authority.ca().to_owned());
        let site = Self { crossing, certificate, ca };
        site.secret("token", TOKEN);
        site.secret("search", SEARCH_AUTHORIZATION);
        site
    }

    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.crossing.sandbox.join(name);
        write_secret(&path, text);
        path
    }

    fn collector(&self) -> Hec {
        Hec::start(([127, 0, 0, 1], 0).into(), &self.certificate, TOKEN)
    }

    /// The low side delivers to this collector; quick, with bodies of which some make up a batch.
    fn deliver_to(&self, url: &str, more: &str) {
        let (ca, dir) = (self.ca.display(), self.crossing.sandbox.path().display());
        let low = format!(
            "{}[[sink]]\nname = \"splunk\"\ntype = \"splunk-hec\"\nurl = \"{url}\"\nca-file = \"{ca}\"\ntoken-file = \"{dir}/token\"\n\
             search-url = \"{url}\"\nsearch-authorization-file = \"{dir}/search\"\n\
             batch-records = {BATCH}\nbody-bytes = \"100KiB\"\ngzip = true\ntimeout = \"1s\"\n\
             ack-poll = \"10ms\"\nretry-min = \"20ms\"\nretry-max = \"100ms\"\n{more}",
            Crossing::quick_inbox(),
        );
        self.crossing.pair.low.configure(&low);
    }
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("a secret can be written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// What was indexed, each once, and how often the record that came most often came. Whatever came
/// twice was the same.
fn once(collector: &Hec) -> (Vec<Value>, u64) {
    let mut found: BTreeMap<String, (Value, u64)> = BTreeMap::new();
    for object in &collector.state().indexed {
        let id = object["fields"]["record_id"].as_str().expect("an id").to_owned();
        assert_eq!(object["event"].get("record_id"), None);
        let (first, times) = found.entry(id).or_insert_with(|| (object.clone(), 0));
        assert_eq!(first, object);
        *times += 1;
    }
    let most = found.values().map(|(_, times)| *times).max().unwrap_or(0);
    (found.into_values().map(|(object, _)| native(&object)).collect(), most)
}

/// What an event says of its record, as our own JSON has it; its id stands in the envelope alone.
fn native(object: &Value) -> Value {
    let event = &object["event"];
    let number = |key: &str| -> u64 {
        event[key].as_str().and_then(|text| text.parse().ok()).expect("a number")
    };
    json!({
        "id": object["fields"]["record_id"],
        "origin": event["origin"],
        "epoch": number("epoch"),
        "lane": event["lane"],
        "sequence": number("seq"),
        "raw": event["raw"],
    })
}

fn repeated(collector: &Hec) -> u64 {
    let all = collector.state().indexed.len() as u64;
    all - once(collector).0.len() as u64
}

fn assert_ids(arrived: &Arrived, without: &[u64]) {
    let mut oracle = Oracle::new();
    let ids = oracle.issue(RECORDS);
    oracle.taken(ids.filter(|id| !without.contains(id)));
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
}

/// Everything that was sent is there at least once, and as it was. Gives how often at most.
fn assert_all(site: &Site, collector: &Hec) -> u64 {
    assert_eq!(site.crossing.wait_drained(), RECORDS);
    let (events, most) = once(collector);
    let arrived = assert_sound(&events);
    assert_unaltered(&arrived);
    assert_ids(&arrived, &[]);
    assert_eq!(site.crossing.pair.low.status()["adds-up"], true);
    most
}

#[test]
fn whatever_a_collector_answers_nothing_is_lost_and_what_was_not_taken_is_not_repeated() {
    let site = Site::new("sink-hec-codes");
    let collector = site.collector();
    // All that say nothing about a record.
    let codes = [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 14, 16, 17, 18, 19, 20, 21, 22, 23, 26, 27, 28];
    let proxies = [400, 401, 403, 404, 408, 429, 500, 502, 503, 504, 302];
    collector.state().faults = codes
        .map(Fault::Code)
        .into_iter()
        .chain(proxies.map(Fault::Proxy))
        .chain([Fault::Reset, Fault::Code(6), Fault::Proxy(413)])
        .collect();
    site.deliver_to(&collector.url(), "");
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    assert_eq!(assert_all(&site, &collector), 1);
    assert!(collector.state().faults.is_empty());
    let sink = site.crossing.pair.low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], &sink["rejected"]), (&RECORDS.into(), &0.into()));
}

#[test]
fn what_was_taken_unseen_or_lost_unseen_comes_again_with_the_same_id() {
    let site = Site::new("sink-hec-faults");
    let collector = site.collector();
    let faults = [
        Fault::TakenThenReset,
        Fault::Lost,
        Fault::TakenThenSilence,
        Fault::TakenThenEvicted,
        Fault::TakenThenTorn,
    ];
    // Some in the middle of a batch, a good body before each.
    collector.state().faults = faults
        .into_iter()
        .flat_map(|fault| [Fault::Good, fault])
        .chain([Fault::Good, Fault::Restarted])
        .collect();
    site.deliver_to(&collector.url(), "ack-timeout = \"700ms\"\n");
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    assert_all(&site, &collector);
    // No more than the batch that was under way, for each of them.
    let repeated = repeated(&collector);
    assert!(repeated > 0 && repeated <= 6 * BATCH, "{repeated}");
    // A batch that fails goes over another channel; two of the faults may meet in one batch.
    let state = collector.state();
    assert!(state.channels_seen.len() >= 4, "{:?}", state.channels_seen);
}

#[test]
fn a_long_outage_and_slow_acknowledgements_repeat_nothing() {
    let site = Site::new("sink-hec-outage");
    let address: SocketAddr = free_address();
    site.deliver_to(&format!("https://{address}"), "");
    let low = &site.crossing.pair.low;
    let _agents = [low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "tries that fail", || {
        low.status()["agent"]["sinks"]["splunk"]["failures"]
            .as_u64()
            .is_some_and(|tries| tries >= 5)
    });
    let collector = Hec::start(address, &site.certificate, TOKEN);
    collector.state().ack_delay = Some(Duration::from_millis(600));
    assert_eq!(assert_all(&site, &collector), 1);
}

#[test]
fn an_agent_that_is_killed_repeats_no_more_than_the_batch_under_way() {
    let site = Site::new("sink-hec-killed");
    let collector = site.collector();
    collector.state().ack_delay = None;
    site.deliver_to(&collector.url(), "");
    let low = site.crossing.pair.low.start();
    let _high = site.crossing.pair.high.start();
    site.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "a body that waits for its acknowledgement", || {
        !collector.state().indexed.is_empty()
    });
    low.kill();
    collector.state().ack_delay = Some(Duration::ZERO);
    let _low = site.crossing.pair.low.start();
    assert_eq!(assert_all(&site, &collector), 2);
    assert!(repeated(&collector) <= BATCH);
}

#[test]
fn records_that_are_refused_for_good_stop_nothing_and_come_after_the_fix() {
    // What stood before a refused record has no acknowledgement of its own: it comes once more, unless that
    // is turned off.
    refused_for_good("", 2);
    refused_for_good("repeat-unacknowledged = false\n", 1);
}

fn refused_for_good(setting: &str, times: u64) {
    let site = Site::new("sink-hec-poison");
    let collector = site.collector();
    let poison = [(77, 6), (78, 12), (555, 13), (1_200, 15), (1_777, 7)];
    collector.state().poison = poison.iter().map(|(id, code)| (id_text(*id), *code)).collect();
    site.deliver_to(&collector.url(), setting);
    let low = &site.crossing.pair.low;
    let _agents = [low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    assert_eq!(site.crossing.wait_drained(), RECORDS);
    let (events, most) = once(&collector);
    assert_eq!((events.len() as u64, most), (RECORDS - 5, times));
    let letters = low.run(["dead-letters", "splunk", "--json"]).success();
    let letters: Vec<Value> =
        letters.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let reasons: Vec<&str> =
        letters.iter().map(|one| one["reason"].as_str().expect("text")).collect();
    for (_, code) in poison {
        let said = format!("400: code {code}: ");
        assert_eq!(reasons.iter().filter(|one| one.starts_with(&said)).count(), 1, "{reasons:?}");
    }
    collector.state().poison.clear();
    low.run(["dead-letters", "splunk", "--retry"]).success();
    wait_until(PATIENCE, "the records that were refused", || {
        once(&collector).0.len() as u64 == RECORDS
    });
    assert_eq!(assert_all(&site, &collector), times);
}

#[test]
fn a_token_is_rotated_without_a_restart() {
    let site = Site::new("sink-hec-token");
    let collector = site.collector();
    collector.state().disabled.insert(TOKEN.to_owned());
    site.deliver_to(&collector.url(), "");
    let low = &site.crossing.pair.low;
    let _agents = [low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    let said = |what: &str| low.status()["agent"]["sinks"].to_string().contains(what);
    wait_until(PATIENCE, "what is wrong in the status", || said("code 1: Token disabled"));
    collector.state().tokens = ["another".to_owned()].into();
    collector.state().disabled.clear();
    wait_until(PATIENCE, "what is wrong in the status", || said("code 4: Invalid token"));
    site.secret("token", "another\n");
    assert_eq!(assert_all(&site, &collector), 1);
}

#[test]
fn a_collector_for_short_bodies_gets_them_halved_and_one_without_acknowledgements_is_believed() {
    let site = Site::new("sink-hec-short");
    let collector = site.collector();
    collector.state().body_max = 20_000;
    collector.state().use_ack = false;
    site.deliver_to(&collector.url(), "ack = false\n");
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    assert_eq!(assert_all(&site, &collector), 1);
}

#[test]
fn what_to_do_is_printed_and_a_marked_record_is_found() {
    let site = Site::new("sink-hec-check");
    let collector = site.collector();
    site.deliver_to(&collector.url(), "");
    let low = &site.crossing.pair.low;
    let text = low.run(["setup", "splunk", "--print"]).success();
    assert!(text.contains("useACK = 1") && text.contains("[portainer_audit]"), "{text}");
    let done = low.run(["check", "splunk"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("it can be found there"), "{done:?}");
    let marked = collector.state().indexed.pop().expect("a marked record");
    assert_eq!(marked["event"]["origin"], "penstock-check");
    // A token without acknowledgements is named before anything is sent.
    collector.state().use_ack = false;
    let done = low.run(["check", "splunk"]);
    assert_ne!(done.code, Some(0));
    assert!(done.stderr.contains("set ack = false"), "{done:?}");
    assert!(collector.state().indexed.is_empty());
}
