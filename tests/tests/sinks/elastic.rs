//! Elasticsearch and `OpenSearch`: real bulk servers behind a proxy that misbehaves.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::crossing::{Arrived, Crossing, assert_sound, assert_unaltered};
use tests::oracle::{Oracle, id_text};
use tests::peers::Authority;
use tests::peers::bulk::{BulkServer, Engine};
use tests::peers::bulk_proxy::{BulkProxy, Fault};
use tests::peers::client;
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 2_000;
const BATCH: u64 = 300;
const INDICES: &str = "portainer-audit-*,kube-audit-*,falco-alert-*,penstock-other-*";

/// Both agents, a server, and the proxy in front of it.
struct Site {
    // Dropped before the folder they write to.
    proxy: BulkProxy,
    server: BulkServer,
    crossing: Crossing,
    engine: Engine,
}

impl Site {
    /// Everything set up, the template of the indices installed by the agent's own verb.
    fn new(name: &str, engine: Engine) -> Self {
        let crossing = Crossing::new(name);
        crossing.configure(500);
        let server = BulkServer::start(engine, crossing.sandbox.path());
        let proxy = BulkProxy::start(free_address(), None, server.address);
        let site = Self { proxy, server, crossing, engine };
        site.deliver_to(&site.proxy.url(), "");
        site.crossing.pair.low.run(["setup", "siem"]).success();
        site
    }

    /// The low side delivers to this address: quick, with bulks of which some make up a batch.
    fn deliver_to(&self, url: &str, more: &str) {
        let kind = match self.engine {
            Engine::Noida => "elasticsearch",
            Engine::Osmem => "opensearch",
        };
        let timeout = if more.contains("timeout") { "" } else { "timeout = \"5s\"\n" };
        let low = format!(
            "{}[[sink]]\nname = \"siem\"\ntype = \"{kind}\"\nurl = \"{url}\"\n\
             batch-records = {BATCH}\nbody-bytes = \"200KiB\"\ngzip = true\n{timeout}\
             retry-min = \"20ms\"\nretry-max = \"100ms\"\n{more}",
            Crossing::quick_inbox(),
        );
        self.crossing.pair.low.configure(&low);
    }

    /// What the server holds, as the events that the documents were made from. Each stands there once:
    /// [`assert_sound`] fails on a second one in any index.
    fn arrived(&self) -> Arrived {
        let documents = self.server.documents(INDICES);
        let events: Vec<Value> = documents.iter().map(event).collect();
        let arrived = assert_sound(&events);
        assert_unaltered(&arrived);
        arrived
    }

    /// Everything that was sent is there once, and as it was.
    fn assert_all(&self) {
        assert_eq!(self.crossing.wait_drained(), RECORDS);
        let arrived = self.arrived();
        let mut oracle = Oracle::new();
        let ids = oracle.issue(RECORDS);
        oracle.taken(ids);
        oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
        let status = self.crossing.pair.low.status();
        assert_eq!(status["adds-up"], true);
        assert_eq!(status["sinks"][0]["delivered"], RECORDS);
    }

    fn says(&self, what: &str) -> bool {
        self.crossing.pair.low.status()["agent"]["sinks"].to_string().contains(what)
    }
}

/// The event that a document was made from, in our own names.
fn event(hit: &Value) -> Value {
    let (id, document) = (&hit["_id"], &hit["_source"]);
    assert_eq!(document["event"]["id"], *id);
    let penstock = &document["penstock"];
    let number = |field: &str| match &penstock[field] {
        Value::String(text) => text.parse::<u64>().expect("a number"),
        other => other.as_u64().expect("a number"),
    };
    json!({
        "id": id,
        "origin": penstock["origin"],
        "epoch": number("epoch"),
        "lane": penstock["lane"],
        "sequence": number("sequence"),
        "raw": document["event"]["original"],
    })
}

fn write_secret(path: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("a secret can be written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    path.to_owned()
}

/// Every fault, alone and in the middle of a batch.
fn whatever_happens(name: &str, engine: Engine) {
    let site = Site::new(name, engine);
    let faults = [
        Fault::TakenThenReset,
        Fault::Items(429),
        Fault::HalfOfItems(429),
        Fault::HalfOfItems(503),
        Fault::TakenThenTorn,
        Fault::Status(503),
        Fault::Reset,
        Fault::TakenThenTooFew,
        Fault::HalfOfItems(403),
        Fault::TakenThenSilence,
        Fault::Status(429),
        Fault::Status(401),
        Fault::Status(302),
    ];
    site.proxy.state().faults = faults
        .into_iter()
        .chain(faults.into_iter().flat_map(|fault| [Fault::Good, fault]))
        .collect();
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    site.assert_all();
    let state = site.proxy.state();
    assert!(state.faults.is_empty(), "{:?}", state.faults);
    // Much went there more than once.
    assert!(state.items > RECORDS, "{}", state.items);
}

#[test]
fn whatever_happens_elasticsearch_has_everything_once() {
    whatever_happens("sink-elastic-faults", Engine::Noida);
}

#[test]
fn whatever_happens_opensearch_has_everything_once() {
    whatever_happens("sink-opensearch-faults", Engine::Osmem);
}

#[test]
fn a_long_outage_and_an_agent_killed_in_the_middle_of_a_batch_cost_nothing() {
    let site = Site::new("sink-elastic-killed", Engine::Noida);
    site.proxy.state().always = Some(Fault::Status(503));
    let low = site.crossing.pair.low.start();
    let _high = site.crossing.pair.high.start();
    site.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "tries that fail", || {
        let status = site.crossing.pair.low.status();
        status["agent"]["sinks"]["siem"]["failures"].as_u64().is_some_and(|tries| tries >= 10)
    });
    // The first bulk of a batch is taken and answered; the second is taken, and the agent is killed
    // while it waits for the answer.
    {
        let mut state = site.proxy.state();
        state.faults = [Fault::Good, Fault::TakenThenSilence].into();
        state.always = None;
    }
    wait_until(PATIENCE, "a bulk that is not answered", || {
        let state = site.proxy.state();
        state.faults.is_empty() && state.items > 0
    });
    low.kill();
    let _low = site.crossing.pair.low.start();
    site.assert_all();
}

#[test]
fn a_document_that_is_refused_for_good_stops_nothing_and_comes_after_the_fix() {
    let site = Site::new("sink-elastic-poison", Engine::Osmem);
    site.proxy.state().poison = vec![id_text(77), id_text(1_234)];
    let low = &site.crossing.pair.low;
    let _agents = [low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    assert_eq!(site.crossing.wait_drained(), RECORDS);
    let sink = low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], &sink["rejected"]), (&(RECORDS - 2).into(), &2.into()));
    let letters = low.run(["dead-letters", "siem", "--json"]).success();
    assert_eq!(letters.lines().count(), 2);
    // What the server itself said: the proxy only made the document one that it does not take.
    assert!(letters.lines().all(|letter| letter.contains("\"reason\":\"400: ")), "{letters}");

    site.proxy.state().poison.clear();
    low.run(["dead-letters", "siem", "--retry"]).success();
    wait_until(PATIENCE, "the documents that were refused", || {
        site.server.documents(INDICES).len() as u64 == RECORDS
    });
    site.assert_all();
}

#[test]
fn a_month_that_is_closed_to_writers_holds_nothing_else_up_and_comes_once_it_is_opened() {
    let site = Site::new("sink-elastic-closed", Engine::Osmem);
    let closed: Vec<String> = (1..=RECORDS).filter(|id| id % 9 == 0).map(id_text).collect();
    let count = closed.len() as u64;
    // No answer is given up: each item is counted once.
    site.deliver_to(&site.proxy.url(), "timeout = \"2m\"\n");
    site.proxy.state().closed = closed;
    let low = &site.crossing.pair.low;
    let _agents = [low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    assert_eq!(site.crossing.wait_drained(), RECORDS);
    let sink = low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], &sink["rejected"]), (&(RECORDS - count).into(), &count.into()));
    // Each was sent once: nothing of what is good went along again.
    assert_eq!(site.proxy.state().items, RECORDS);
    let letters = low.run(["dead-letters", "siem", "--json"]).success();
    assert_eq!(letters.lines().count() as u64, count);
    assert!(letters.lines().all(|letter| letter.contains("FORBIDDEN/8")), "{letters}");

    // Whoever sends more of such a month is told, as far as the credential may ask.
    let replay = ["replay", "--sink", "siem", "--from", "2026-01-01T00:00:00Z"];
    let replay = || low.run(replay.into_iter().chain(["--to", "2026-01-02T00:00:00Z"]));
    let told = replay();
    assert!(told.stderr.contains("closed to writers") && told.code == Some(0), "{told:?}");
    site.proxy.state().blocks = Some(json!({
        "kube-audit-2026.01": {"settings": {"index.blocks.write": "true"}},
        "kube-audit-2026.05": {"settings": {"index.blocks.write": "true"}},
    }));
    let told = replay();
    assert!(told.stderr.contains("warning: kube-audit-2026.01 is closed"), "{told:?}");

    site.proxy.state().closed.clear();
    low.run(["dead-letters", "siem", "--retry"]).success();
    wait_until(PATIENCE, "the documents that were refused", || {
        site.server.documents(INDICES).len() as u64 == RECORDS
    });
    site.assert_all();
}

#[test]
fn a_key_that_expired_makes_the_batch_wait_until_another_is_there() {
    let mut site = Site::new("sink-elastic-key", Engine::Noida);
    let sandbox = &site.crossing.sandbox;
    let authority = Authority::new(&sandbox.dir("authority"));
    let certificate = authority.server("siem");
    site.proxy = BulkProxy::start(free_address(), Some(&certificate), site.server.address);
    site.proxy.state().authorizations = ["ApiKey aWQ6a2V5".to_owned()].into();
    let key = write_secret(&sandbox.join("key"), "id:key\n");
    let more = format!(
        "ca-file = \"{}\"\napi-key-file = \"{}\"\n",
        authority.ca().display(),
        key.display()
    );
    site.deliver_to(&site.proxy.url(), &more);
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS / 2 + 1);
    wait_until(PATIENCE, "the first half", || {
        site.crossing.pair.low.status()["sinks"][0]["delivered"] == RECORDS / 2
    });
    site.proxy.state().authorizations = ["ApiKey bmV3OmtleQ==".to_owned()].into();
    site.crossing.send(RECORDS / 2 + 1..RECORDS + 1);
    wait_until(PATIENCE, "what is wrong in the status", || site.says("answered 401"));
    write_secret(&key, "bmV3OmtleQ==");
    site.assert_all();
}

#[test]
fn a_cluster_for_short_bulks_gets_them_halved() {
    let site = Site::new("sink-elastic-short", Engine::Noida);
    site.proxy.state().body_max = Some(30_000);
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    site.assert_all();
}

#[test]
fn setting_up_may_be_repeated_and_a_marked_record_is_found() {
    for (name, engine, policy) in [
        ("sink-elastic-setup", Engine::Noida, "/_ilm/policy/penstock"),
        ("sink-opensearch-setup", Engine::Osmem, "/_plugins/_ism/policies/penstock"),
    ] {
        let site = Site::new(name, engine);
        let low = &site.crossing.pair.low;
        low.run(["setup", "siem"]).success();
        assert_eq!(site.proxy.state().policies[policy].0, 2);
        let printed = low.run(["setup", "siem", "--print"]).success();
        for part in [policy, "PUT /_ingest/pipeline/penstock", "index.final_pipeline"] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        if let Some((_, key)) = printed.split_once("POST /_security/api_key\n") {
            // As an administrator pastes it.
            let headers = "content-type: application/json\r\n";
            let (address, path) = (site.proxy.address(), "/_security/api_key");
            let answer = client::ask(address, "POST", path, headers, key.as_bytes(), PATIENCE);
            assert!(answer.expect("an answer").is_success(), "{key}");
            assert_eq!(site.proxy.state().keys.len(), 1);
        }
        let template = site.server.ask("GET", "/_index_template/penstock", "");
        assert!(template.to_string().contains("\"portainer-audit-*\""), "{template}");

        let done = low.run(["check", "siem"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(done.stderr.contains("it can be found there"), "{done:?}");
        assert!(done.stderr.contains("event.ingested says when it came"), "{done:?}");
        let marked = site.server.documents(INDICES).pop().expect("a marked record");
        assert_eq!(marked["_source"]["penstock"]["origin"], "penstock-check");
        assert!(marked["_source"]["event"]["ingested"].is_string(), "{marked}");
        let index = marked["_index"].as_str().expect("a name");
        let (year, month) =
            index.rsplit_once('-').expect("a month").1.split_once('.').expect("both");
        assert_eq!((year.len(), month.len()), (4, 2), "{index}");
    }
}

/// Detection rules go by `event.ingested`: whoever set the cluster up with a version that did not have it
/// set is told, and helped by setting up once more. A pipeline that is gone is no fault of the records.
#[test]
fn what_detection_rules_go_by_is_set_also_in_indices_that_were_there_before() {
    let site = Site::new("sink-elastic-ingested", Engine::Osmem);
    let low = &site.crossing.pair.low;
    let month = |index: &str| index.starts_with("penstock-other-");
    low.run(["check", "siem"]).success();
    for pipeline in site.proxy.state().pipelines.indices.values_mut() {
        *pipeline = None;
    }
    let done = low.run(["check", "siem"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("without event.ingested"), "{done:?}");
    assert!(done.stderr.contains("try: penstock-low setup siem"), "{done:?}");

    let done = low.run(["setup", "siem"]).success();
    assert!(done.contains("the pipeline, in the index penstock-other-"), "{done}");
    low.run(["check", "siem"]).success();
    // The site's own is not replaced.
    for pipeline in site.proxy.state().pipelines.indices.values_mut() {
        *pipeline = Some("of-the-site".to_owned());
    }
    let done = low.run(["setup", "siem"]).success();
    assert!(done.contains("has the final pipeline of-the-site"), "{done}");
    assert!(site.proxy.state().pipelines.indices.keys().all(|index| month(index)));

    // Nothing of that name is installed: records wait, and none becomes a dead letter.
    let _agents = [low.start(), site.crossing.pair.high.start()];
    site.proxy.state().pipelines.installed.clear();
    site.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "what is wrong in the status", || site.says("does not exist"));
    assert_eq!(low.status()["sinks"][0]["rejected"], 0);
    low.run(["setup", "siem"]).success();
    assert_eq!(site.crossing.wait_drained(), RECORDS);
    let documents = site.server.documents("portainer-audit-*,kube-audit-*,falco-alert-*");
    assert!(documents.iter().all(|hit| hit["_source"]["event"]["ingested"].is_string()));
}
